//! The operator's commands against a real broker: what the program prints, and what it does.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh_core::{Context, Fault, proto::v1};
use mesh_tests::{Seen, TestBroker, eventually, mesh_binary};
use prost::Message as _;
use serde_json::Value;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsServer};
use tempfile::TempDir;

use crate::shop::{Bank, bank, consumer, declaration, order, orders, till};

/// A person at a terminal, connected to a broker.
pub(crate) struct Operator {
    pub(crate) home: TempDir,
    url: String,
    seed: String,
}

impl Operator {
    pub(crate) fn at(broker: &TestBroker, user: &str) -> Operator {
        let home = TempDir::new().unwrap();
        let seed = home.path().join("seed");
        std::fs::write(&seed, broker.seed(user).unwrap()).unwrap();
        Operator { seed: seed.display().to_string(), url: broker.server.client_url(), home }
    }

    /// The same by another way to the broker.
    pub(crate) fn through(self, url: String) -> Operator {
        Operator { url, ..self }
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(mesh_binary());
        command.env_clear().env("HOME", self.home.path()).env("USER", "ada");
        command.args(["--url", &self.url, "--seed-file", &self.seed]).args(words);
        command
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Output {
        let mut command = self.command(words);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// The document that a command prints; it must end with `status`.
    pub(crate) async fn json(&self, status: i32, words: &[&str]) -> Value {
        let ended = self.run(&[words, &["-o", "json"]].concat()).await;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(status), "{words:?}: {said}");
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {ended:?}"))
    }

    pub(crate) async fn letters(&self) -> Vec<Value> {
        let letters = self.json(0, &["dead-letter", "list", "--state", "all"]).await;
        letters.as_array().cloned().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_listed_shown_replayed_and_gone() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let refuse = Arc::new(AtomicBool::new(true));
    let mesh = broker.connect("a").await.unwrap();
    let refusing = Arc::clone(&refuse);
    let handler = move |_: Context, _: OrderPlaced| {
        let refuse = refusing.load(Ordering::SeqCst);
        async move { if refuse { Err(Fault::invalid("not today")) } else { Ok(()) } }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let sender = Operator::at(&broker, "orders");
    let message = r#"{"orderId":"17","customerId":"4","totalCents":"900"}"#;
    let publish = ["publish", "shop.orders.v1.OrderPlaced", "--id", "17", "--json", message];
    let receipt = sender.json(0, &publish).await;
    assert_eq!((&receipt["sequence"], &receipt["duplicate"]), (&1.into(), &false.into()));
    let receipt = sender.json(0, &publish).await;
    assert_eq!(receipt["duplicate"], true, "the same id is stored once");

    let operator = Operator::at(&broker, "operator");
    let listed = eventually("a letter", || async { operator.letters().await.pop() }).await;
    assert_eq!((&listed["consumer"], &listed["state"]), (&"work".into(), &"open".into()));
    let id = listed["id"].as_str().unwrap();
    let shown = operator.json(0, &["dlq", "show", &id[..6]]).await;
    assert_eq!(shown["payload"]["orderId"], "17");
    assert_eq!((&shown["fault"]["message"], &shown["fault"]["effect"]), (&"not today".into(), &"NONE".into()));
    let page = operator.run(&["dlq", "show", id]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    for part in [
        "not today",
        "nothing happened",
        "\"orderId\": \"17\"",
        "mesh1-event-orders, sequence 1",
        &format!("mesh dead-letter replay {}", &id[..8]),
    ] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }

    // Still refused: said so, with another status.
    let again = operator.json(1, &["dead-letter", "replay", id]).await;
    assert_eq!(
        (&again["letters"][0]["state"], &again["letters"][0]["generation"]),
        (&"failed again".into(), &1.into())
    );
    refuse.store(false, Ordering::SeqCst);
    let mended =
        operator.json(0, &["dead-letter", "replay", "--all", "--consumer", "a/work", "--yes", "--why", "mended"]).await;
    assert_eq!((&mended["letters"][0]["state"], &mended["letters"][0]["generation"]), (&"resolved".into(), &2.into()));
    let empty = operator.json(0, &["dead-letter", "list"]).await;
    assert_eq!(empty, Value::Array(Vec::new()), "gone from what waits");
    let shown = operator.json(0, &["dead-letter", "show", id]).await;
    assert_eq!(shown["history"][3]["by"], mesh_tests::person("ada"));

    // What has ended is not sent again.
    let ended = operator.run(&["dead-letter", "replay", id]).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("error[MESH-0024]"), "{ended:?}");
    let ended = operator.run(&["dead-letter", "show", "ffffff"]).await;
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("error[MESH-0025]"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_letters_is_told_so() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let service = Operator::at(&broker, "a");
    let started = std::time::Instant::now();
    let refused = service.run(&["dead-letter", "list", "-o", "json"]).await;
    assert!(
        started.elapsed() < std::time::Duration::from_secs(4),
        "known from the broker's word, not from a time limit"
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("one document ({error}): {said}"));
    assert_eq!((&said["error"]["reason"], &said["error"]["effect"]), (&"MESH-0012".into(), &"NONE".into()), "{said}");
    let message = said["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("denies") && message.contains("mesh1-dead-letter"), "{message}");
    let help = said["error"]["help"].as_str().unwrap_or_default();
    assert!(help.contains("the seed in ") && !help.contains("--as"), "which credential was used: {help}");
    assert!(!message.contains("operator"), "{message}");
    assert_eq!(refused.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_replayed_each_once_and_two_operators_do_not_double_them() {
    const MANY: usize = 60;
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let refuse = Arc::new(AtomicBool::new(true));
    let handled = Seen::default();
    let (refusing, into) = (Arc::clone(&refuse), Arc::clone(&handled));
    let handler = move |cx: Context, _: OrderPlaced| {
        let (refuse, into) = (refusing.load(Ordering::SeqCst), Arc::clone(&into));
        async move {
            if refuse {
                return Err(Fault::invalid("not today"));
            }
            into.lock().await.push(cx.local_id().to_owned());
            Ok(())
        }
    };
    broker.connect("a").await.unwrap().consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    for number in 0..MANY {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    let operator = Operator::at(&broker, "operator");
    eventually("all letters", || async { (operator.letters().await.len() == MANY).then_some(()) }).await;
    refuse.store(false, Ordering::SeqCst);
    let words = ["dead-letter", "replay", "--all", "--yes"];
    let (one, two) = tokio::join!(operator.run(&words), operator.run(&words));
    for ended in [&one, &two] {
        assert!(matches!(ended.status.code(), Some(0 | 1)), "{ended:?}");
    }
    eventually("the end of all", || async {
        let letters = operator.letters().await;
        letters.iter().all(|letter| letter["state"] == "resolved").then_some(())
    })
    .await;
    let mut ids = handled.lock().await.clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), handled.lock().await.len()), (MANY, MANY), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_a_crash_cut_off_is_ordered_again() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let refuse = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuse);
    let handler = move |_: Context, _: OrderPlaced| {
        let refuse = refusing.load(Ordering::SeqCst);
        async move { if refuse { Err(Fault::invalid("not today")) } else { Ok(()) } }
    };
    broker.connect("a").await.unwrap().consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let letter = eventually("a letter", || async { operator.letters().await.pop() }).await;
    let id = letter["id"].as_str().unwrap();
    refuse.store(false, Ordering::SeqCst);

    // What an operator leaves behind who is killed between the order and the copy.
    let act = v1::LetterAct { generation: 1, by: "gone".into(), ..Default::default() };
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Replaying(act)) };
    let foreign = async_nats::ConnectOptions::with_nkey(broker.seed("operator").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(broker.server.client_url())
        .await
        .unwrap();
    let subject = format!("mesh1.dead.local.a.work.{id}");
    async_nats::jetstream::new(foreign).publish(subject, record.encode_to_vec().into()).await.unwrap().await.unwrap();
    assert_eq!(operator.letters().await[0]["state"], "replaying");
    let refused = operator.run(&["dead-letter", "discard", id, "--why", "x"]).await;
    assert_eq!(refused.status.code(), Some(1), "its replay may be under way: {refused:?}");

    let again = operator.json(0, &["dead-letter", "replay", id]).await;
    assert_eq!((&again["letters"][0]["state"], &again["letters"][0]["generation"]), (&"resolved".into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_called_enqueued_refused_and_discarded() {
    let broker = TestBroker::start(&[till(), bank(), declaration("idle")]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let charge = |cents: &str| format!(r#"{{"orderId":"5","amountCents":"{cents}","currency":"usd"}}"#);
    let name = "shop.payments.v1.Payments/Charge";
    let nobody = operator.run(&["call", name, "--json", &charge("100")]).await;
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("error[MESH-0001]"), "{nobody:?}");

    let mesh = broker.connect("bank").await.unwrap();
    mesh.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let reply = operator.json(0, &["call", name, "--json", &charge("100")]).await;
    assert_eq!((&reply["chargeId"], &reply["status"]), (&"ch_5".into(), &"operator".into()));
    operator.json(0, &["enqueue", name, "--id", "5", "--json", &charge("0")]).await;
    let letter = eventually("a letter", || async { operator.letters().await.pop() }).await;
    let id = letter["id"].as_str().unwrap();
    let shown = operator.json(0, &["dead-letter", "show", id]).await;
    assert_eq!(shown["payload"]["orderId"], "5");
    let discarded = operator.json(0, &["dead-letter", "discard", id, "--why", "a test"]).await;
    assert_eq!(discarded[0]["state"], "discarded");
    assert_eq!(operator.letters().await[0]["state"], "discarded");

    // A service may not do what it does not declare: the broker says no.
    let idle = Operator::at(&broker, "idle");
    let denied = idle.run(&["enqueue", name, "--as", "idle", "--json", &charge("1")]).await;
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    assert!(String::from_utf8_lossy(&denied.stderr).contains("error[MESH-0012]"), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_shows_live_messages_and_masks_what_is_sensitive() {
    let broker = TestBroker::start(&[orders(), till(), bank()]).await.unwrap();
    let (operator, sender) = (Operator::at(&broker, "operator"), Operator::at(&broker, "orders"));
    let mut tap = operator.command(&["tap", "--count", "2", "-o", "json"]);
    let mut tap = tap.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    let reading = tokio::task::spawn_blocking(move || lines.map(|line| line.unwrap()).collect::<Vec<_>>());
    // A tap says nothing as JSON before the first message: both are sent until it has seen two.
    let charge = r#"{"orderId":"5","amountCents":"123456"}"#;
    while !reading.is_finished() {
        sender.json(0, &["publish", "shop.orders.v1.OrderPlaced", "--json", r#"{"orderId":"17"}"#]).await;
        operator.json(0, &["enqueue", "shop.payments.v1.Payments/Charge", "--json", charge]).await;
    }
    let lines = reading.await.unwrap();
    assert!(tap.wait().unwrap().success());
    let seen: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| seen.iter().find(|line| line["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {seen:?}"));
    assert_eq!((&of("event")["payload"]["orderId"], &of("event")["caller"]), (&"17".into(), &"orders".into()));
    assert_eq!(of("work")["payload"]["amountCents"], "[payment]");
    assert!(!lines.concat().contains("123456"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_says_that_the_bus_is_away_and_that_it_is_back() {
    let mut broker = TestBroker::start(&[orders()]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let mut tap = operator.command(&["tap"]);
    let mut tap = tap.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(tap.stderr.take().unwrap()).lines().map_while(Result::ok);
    // The runtime has other threads: this one may wait for what the tap says.
    let mut next = || tokio::task::block_in_place(|| told.next()).unwrap();
    assert!(next().starts_with("listening on"));
    broker.server.kill9().await.unwrap();
    assert_eq!(next(), "the bus is away; waiting for it: what moves meanwhile is not shown");
    broker.server.restart().await.unwrap();
    assert_eq!(next(), "the bus is back");
    tap.kill().unwrap();
    tap.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_file_is_applied_and_completions_are_printed() {
    let broker = TestBroker::start(&[]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let file = operator.home.path().join("mesh.yaml");
    std::fs::write(&file, "services:\n  orders: {publishes: [shop.orders.v1.OrderPlaced]}\n").unwrap();
    let made = operator.json(0, &["apply", "--as", "operator", "--config", file.to_str().unwrap()]).await;
    assert!(made["streams"].as_array().unwrap().contains(&"mesh1-event-orders".into()), "{made}");
    for shell in ["bash", "zsh", "fish"] {
        let printed = operator.run(&["completions", shell]).await;
        assert!(printed.status.success());
        assert!(String::from_utf8_lossy(&printed.stdout).contains("dead-letter"), "{shell}");
    }
    // A reader that goes away is no error.
    let mut command = operator.command(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}
