//! A service in Python, written from docs/wire.md alone, takes part: it publishes, consumes, calls,
//! answers, queues work, delays what it can't do yet, leaves letters and is discovered.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    Context, Fault,
    bus::Stop,
    dead_letter::LetterState,
    fault::{Code, Effect},
    gate::Unopened,
    operate::letters,
    policy::compile::Declaration,
    proto::v1,
};
use mesh_tests::{Seen, TestBroker, eventually, foreign};
use prost::Message as _;
use serde_json::{Value, json};
use shop_proto::shop::{
    notifications::v1::{Notifications, NotificationsClient, NotificationsServer, SendReply, SendRequest},
    orders::v1::OrderPlaced,
    payments::v1::PaymentsServer,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::shop::{Bank, PAYMENTS, bank, consumer, declaration, order, orders, till};

const NOTIFICATIONS: &str = "shop.notifications.v1.Notifications";

/// What the Python service declares: as `orders`, since it publishes the orders' event.
fn partner() -> Declaration {
    Declaration {
        publishes: orders().publishes,
        serves: BTreeSet::from([(NOTIFICATIONS.into(), "Send".into())]),
        calls: till().calls,
        enqueues: till().enqueues,
        ..consumer("orders", "watch")
    }
}

/// How long Python may take to fetch and unpack what the program needs.
const INSTALL: Duration = Duration::from_secs(300);

/// Python with what the program needs: made once beside the test's own build output, anew when the versions change.
async fn python() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let venv = target.ancestors().nth(3).unwrap().join("python-interop");
    let (python, complete) = (venv.join("bin/python"), venv.join("complete"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/requirements.txt");
    let requirements = std::fs::read_to_string(&file).unwrap();
    // Another test process may be making it.
    let lock = std::fs::File::create(venv.with_extension("lock")).unwrap();
    let locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    let _lock = tokio::time::timeout(INSTALL, locked).await.expect("nobody makes it for ever").unwrap().unwrap();
    if std::fs::read_to_string(&complete).is_ok_and(|made| made == requirements) {
        return python;
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).await;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(&python).args(pip).arg(&file)).await;
    std::fs::write(complete, requirements).unwrap();
    python
}

async fn run(command: &mut Command) {
    const NEEDED: &str = "this test needs Python 3.10 or newer with venv and pip, which reaches a package index";
    let output = tokio::time::timeout(INSTALL, command.kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|_| panic!("{NEEDED}: {command:?} did not end")).unwrap_or_else(|error| {
        panic!("{NEEDED}: {command:?}: {error}");
    });
    assert!(output.status.success(), "{NEEDED}: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The Python service, while it runs.
struct Snake {
    process: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Snake {
    async fn start(broker: &TestBroker, folder: &Path) -> Snake {
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("mesh.fds", mesh_core::proto::DESCRIPTORS);
        write("shop.fds", shop_proto::DESCRIPTORS);
        for user in ["orders", "operator"] {
            write(&format!("{user}.seed"), broker.seed(user).unwrap().as_bytes());
        }
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/interop.py");
        let mut process = Command::new(python().await)
            .arg(program)
            .arg(broker.server.client_url())
            .arg(folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
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

    async fn does(&mut self, command: &str) -> Value {
        self.tell(command).await;
        self.said().await
    }

    async fn ends(mut self) {
        assert_eq!(self.does("done").await["ended"], true);
        assert!(self.process.wait().await.unwrap().success());
    }

    async fn said(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
        let line = line.expect("the Python service says something in time").unwrap();
        serde_json::from_str(&line.expect("the Python service still runs; its stderr says why not")).unwrap()
    }
}

/// Everything that runs while the Python service does.
async fn start() -> (TestBroker, Snake, tempfile::TempDir) {
    let declared = [partner(), consumer("mail", "confirm"), bank(), notifier()];
    let broker = TestBroker::start(&declared).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let snake = Snake::start(&broker, folder.path()).await;
    (broker, snake, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_publishes_and_consumes() {
    let (broker, mut snake, _folder) = start().await;

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
    let published = snake.does("publish").await;
    assert_eq!(published["published"], "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.3", "{published}");
    assert_eq!(published["duplicates"], json!([false, true]));
    let expected = "orders/shop.orders.v1.OrderPlaced/snake-1 orders 1177".to_owned();
    eventually("the snake's order", || async { seen.lock().await.contains(&expected).then_some(()) }).await;

    // We publish, it consumes: first its own, then ours.
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(7)).id("7").await.unwrap();
    for id in ["snake-1", "7"] {
        let consumed = snake.does("consume").await;
        assert_eq!(consumed["consumed"], id);
        assert_eq!(consumed["id"], format!("orders/shop.orders.v1.OrderPlaced/{id}"));
    }
    nothing_left(&broker, "mesh1-event-orders").await;
    snake.ends().await;
}

/// Waits until the Python service's consumer has settled all that is in a stream.
async fn nothing_left(broker: &TestBroker, stream: &str) {
    let operator = broker.connect("operator").await.unwrap();
    eventually("every ack", || async {
        let state = operator.bus().consumer_state(stream, "orders_watch").await.unwrap().unwrap();
        (state.pending == 0 && state.in_flight == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_calls_and_answers_and_is_discovered() {
    let (broker, mut snake, _folder) = start().await;

    // It calls, we answer: a reply and a fault.
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let charged = snake.does("call").await;
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
    assert_eq!((fault.message(), fault.origin().service.as_str()), ("nobody to send it to", "orders"));

    // It asks who serves: we and it are seen alike.
    let found = snake.does("discover").await;
    let call = |service: &str, method: &str| format!("mesh1.call.local.{service}.{method}.*");
    let expected = json!({
        "bank": [["Charge", call(PAYMENTS, "Charge"), "mesh"]],
        "orders": [["Send", call(NOTIFICATIONS, "Send"), "mesh"]],
    });
    assert_eq!(found["found"], expected);
    snake.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_queues_work() {
    let (broker, mut snake, _folder) = start().await;
    let bank = broker.connect("bank").await.unwrap();
    let books = Bank::default();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();
    let enqueued = snake.does("enqueue").await;
    assert_eq!(enqueued["stream"], "mesh1-work-shop-payments-v1-Payments");
    let operator = broker.connect("operator").await.unwrap();
    let outcome = eventually("the outcome", || async {
        let mut outcome = None;
        let each = |message: Unopened| {
            outcome = v1::Outcome::decode(message.open().envelope.payload).ok();
            Stop::Yes
        };
        let of_snake = "mesh1.outcome.local.shop.payments.v1.Payments.Charge.orders";
        operator.bus().read("mesh1-outcome", of_snake, each).await.unwrap();
        outcome
    })
    .await;
    assert_eq!(enqueued["enqueued"], outcome.message_id);
    assert!(matches!(outcome.end, Some(v1::outcome::End::Reply(_))), "{outcome:?}");
    // The one that the header `mesh` carried, which with its blanks no third party takes.
    let key = mesh_core::subject::sha256(b"order 10; once");
    assert_eq!(*books.0.lock().await, [key]);
    snake.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_delays_fails_and_has_its_letter_replayed() {
    let (broker, mut snake, _folder) = start().await;
    let sender = broker.connect("orders").await.unwrap();
    let receipt = sender.publisher::<OrderPlaced>().publish(&order(7)).id("7").await.unwrap();
    let stumbled = snake.does("stumble").await;
    assert_eq!((stumbled["attempt"].as_i64(), stumbled["scheduled"].as_bool()), (Some(2), Some(true)));
    assert_eq!(stumbled["id"], receipt.message_id);

    // Our tools read its letter as one of ours.
    let operator = broker.connect("operator").await.unwrap();
    let id = stumbled["letter"].as_str().unwrap();
    let letter = letters::find(operator.bus(), id).await.unwrap();
    assert_eq!((letter.state, &letter.letter.payload[..]), (LetterState::Open, &order(7).encode_to_vec()[..]));
    let faults = letter.letter.attempts.iter().map(|attempt| attempt.fault.as_ref().unwrap().message.as_str());
    assert_eq!(faults.collect::<Vec<_>>(), ["not now", "not ever"], "both attempts");
    let order = letters::Order { by: "ada".into(), why: "try again".into(), again: false, job: String::new() };
    letters::replay(operator.bus(), &letter, &order).await.unwrap();

    let mended = snake.does("mend").await;
    assert_eq!((mended["mended"].as_str(), mended["generation"].as_i64()), (Some(id), Some(1)));
    assert_eq!((mended["attempt"].as_i64(), mended["id"].as_str()), (Some(1), Some(receipt.message_id.as_str())));
    assert_eq!(letters::find(operator.bus(), id).await.unwrap().state, LetterState::Resolved);
    nothing_left(&broker, "mesh1-event-orders").await;
    nothing_left(&broker, "mesh1-lane-orders").await;
    snake.ends().await;
}

fn notifier() -> Declaration {
    Declaration { calls: BTreeSet::from([(NOTIFICATIONS.into(), "Send".into())]), ..declaration("notifier") }
}

#[tokio::test(flavor = "multi_thread")]
async fn micro_clients_see_our_services() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let client = foreign::client(&broker, "operator").await;
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

/// Sends nothing, and says so.
struct Post;

impl Notifications for Post {
    async fn send(&self, _cx: Context, _request: SendRequest) -> Result<SendReply, Fault> {
        Ok(SendReply::default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_serves_two_services_is_seen_once_with_both() {
    let mut both = bank();
    both.serves.insert((NOTIFICATIONS.into(), "Send".into()));
    let broker = TestBroker::start(&[both]).await.unwrap();
    let mesh = broker.connect("bank").await.unwrap();
    mesh.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    mesh.serve(NotificationsServer::new(Post)).start().await.unwrap();
    let client = foreign::client(&broker, "operator").await;
    let answer = client.request("$SRV.INFO.bank", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    let names: BTreeSet<&str> =
        info["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["Charge", "Send"]));
}
