//! A service in Python, written from docs/wire.md alone, takes part: it publishes, consumes, calls and answers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    Context, Fault,
    fault::{Code, Effect},
    policy::compile::Declaration,
};
use mesh_tests::{TestBroker, eventually};
use serde_json::Value;
use shop_proto::shop::{
    notifications::v1::{NotificationsClient, SendRequest},
    orders::v1::OrderPlaced,
    payments::v1::PaymentsServer,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::shop::{Bank, Seen, bank, consumer, declaration, order, orders, till};

const NOTIFICATIONS: &str = "shop.notifications.v1.Notifications";

/// What the Python service declares: as `orders`, since it publishes the orders' event.
fn partner() -> Declaration {
    Declaration {
        publishes: orders().publishes,
        serves: BTreeSet::from([(NOTIFICATIONS.into(), "Send".into())]),
        calls: till().calls,
        ..consumer("orders", "watch")
    }
}

/// Python with what the program needs, made once beside the test's own build output.
async fn python() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::current_exe().unwrap();
    let venv = target.ancestors().nth(3).unwrap().join("python-interop");
    let python = venv.join("bin/python");
    let requirements = tests.join("python/requirements.txt");
    if !venv.join("complete").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).await;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        run(pip.arg(&requirements)).await;
        std::fs::write(venv.join("complete"), "").unwrap();
    }
    python
}

async fn run(command: &mut Command) {
    let output = command.output().await.expect("Python 3 with venv and pip is needed for this test");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The Python service, while it runs.
struct Snake {
    process: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Snake {
    async fn start(broker: &TestBroker, folder: &Path) -> Snake {
        let sets = [("mesh", mesh_core::proto::DESCRIPTORS), ("shop", shop_proto::DESCRIPTORS)];
        let sets = sets.map(|(name, bytes)| {
            let path = folder.join(format!("{name}.fds"));
            std::fs::write(&path, bytes).unwrap();
            path
        });
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/interop.py");
        let mut process = Command::new(python().await)
            .arg(program)
            .args([&broker.server.client_url(), broker.seed("orders").unwrap()])
            .args(sets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut snake = Snake { process, commands, lines };
        assert_eq!(snake.said().await["ready"], true);
        snake
    }

    async fn tell(&mut self, command: &str) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn said(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
        let line = line.expect("the Python service says something in time").unwrap();
        serde_json::from_str(&line.expect("the Python service still runs; its stderr says why not")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_takes_part() {
    let broker = TestBroker::start(&[partner(), consumer("mail", "confirm"), bank(), notifier()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut snake = Snake::start(&broker, folder.path()).await;

    // It publishes, we consume.
    let mail = broker.connect("mail").await.unwrap();
    let seen = Seen::default();
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            into.lock().await.push(format!("{} {} {}", cx.message_id(), cx.caller(), event.total_cents));
            Ok(())
        }
    };
    mail.consumer::<OrderPlaced>("confirm").start(handler).await.unwrap();
    snake.tell("publish").await;
    let published = snake.said().await;
    assert_eq!(published["subject"], "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.3", "{published}");
    let expected = "orders/shop.orders.v1.OrderPlaced/snake-1 orders 1177".to_owned();
    eventually("the snake's order", || async { seen.lock().await.contains(&expected).then_some(()) }).await;

    // We publish, it consumes: first its own, then ours.
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(7)).id("7").await.unwrap();
    for (id, local) in [("snake-1", "snake-1"), ("7", "7")] {
        snake.tell("consume").await;
        let consumed = snake.said().await;
        assert_eq!(consumed["consumed"], id);
        assert_eq!(consumed["id"], format!("orders/shop.orders.v1.OrderPlaced/{local}"));
    }
    let operator = broker.connect("operator").await.unwrap();
    eventually("both acks", || async {
        let state = operator.bus().consumer_state("mesh1-event-orders", "orders_watch").await.unwrap().unwrap();
        (state.pending == 0 && state.in_flight == 0).then_some(())
    })
    .await;

    // It calls, we answer: a reply and a fault.
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    snake.tell("call").await;
    let charged = snake.said().await;
    assert_eq!((charged["charged"].as_str(), charged["status"].as_str()), (Some("ch_9"), Some("orders")));
    let fault = snake.said().await;
    assert_eq!((fault["fault"].as_str(), fault["effect"].as_i64()), (Some("MESH-0007"), Some(1)), "{fault}");
    assert_eq!(fault["code"], "400");

    // We call, it answers: a reply and a fault.
    let notifier = broker.connect("notifier").await.unwrap();
    let client = NotificationsClient::new(&notifier).send();
    let request = SendRequest { order_id: "1".into(), to: "ada@example.org".into(), ..SendRequest::default() };
    assert_eq!(client.call(&request).await.unwrap().request_id, "notifier:ada@example.org");
    let fault: Fault = client.call(&SendRequest::default()).await.unwrap_err();
    assert_eq!((fault.code(), fault.effect()), (Code::InvalidArgument, Effect::None));
    assert_eq!(fault.message(), "nobody to send it to");

    snake.tell("done").await;
    assert_eq!(snake.said().await["ended"], true);
    assert!(snake.process.wait().await.unwrap().success());
}

fn notifier() -> Declaration {
    Declaration { calls: BTreeSet::from([(NOTIFICATIONS.into(), "Send".into())]), ..declaration("notifier") }
}

#[tokio::test(flavor = "multi_thread")]
async fn micro_clients_see_our_services() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let client = async_nats::ConnectOptions::with_nkey(broker.seed("operator").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(broker.server.client_url())
        .await
        .unwrap();
    let ask = async |verb: &str| -> Value {
        let answer = client.request(format!("$SRV.{verb}.bank"), "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let ping = ask("PING").await;
    assert_eq!((ping["type"].as_str(), ping["name"].as_str()), (Some("io.nats.micro.v1.ping_response"), Some("bank")));
    let info = ask("INFO").await;
    assert_eq!(info["endpoints"][0]["subject"], "mesh1.call.local.shop.payments.v1.Payments.Charge.*");
    assert_eq!(info["endpoints"][0]["queue_group"], "mesh");
    let stats = ask("STATS").await;
    assert_eq!((stats["endpoints"][0]["num_requests"].as_i64(), &stats["id"]), (Some(0), &ping["id"]));
}
