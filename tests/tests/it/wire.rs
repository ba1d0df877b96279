//! docs/wire.md against what goes over the wire: its tables, and its examples byte for byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault,
    envelope::header,
    fault::{Code, Effect, Reason},
    policy::{
        compile::{Declaration, compile, worker_name},
        retry::RetryRule,
    },
    subject::{self, Class, Name},
};
use mesh_tests::TestBroker;
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsClient, PaymentsServer},
};

use crate::shop::{Bank, bank, charge_of, consumer, orders, till};

const SPECIFICATION: &str = include_str!("../../../docs/wire.md");

/// The rows of the table whose first heading is `heading`, cells without their code marks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let mut lines = SPECIFICATION.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    assert!(lines.next().is_some(), "docs/wire.md has no table that begins with {heading:?}");
    // A bar within a cell is written `\|`.
    let cells = |line: &str| {
        let line = line.trim_matches('|').replace("\\|", "\u{1}");
        line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect::<Vec<_>>()
    };
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lines of the fenced example called `name`.
fn example(name: &str) -> Vec<String> {
    let (_, rest) =
        SPECIFICATION.split_once(&format!("```wire {name}\n")).unwrap_or_else(|| panic!("no example {name}"));
    rest.split("```").next().unwrap().lines().map(of_the_moment).collect()
}

/// A placeholder of the specification with the name that the tests use for it.
fn filled(pattern: &str) -> String {
    let names = [
        ("<region>", "here"),
        ("<producer>", "maker"),
        ("<message>", "a.v1.Made"),
        ("<partition>", "3"),
        ("<rpc service, . as ->", "a-v1-S"),
        ("<rpc service>", "a.v1.S"),
        ("<Method>", "Do"),
        ("<caller>", "asker"),
        ("<class>", "normal"),
        ("<service>", "maker"),
        ("<consumer>", "reader"),
        ("<unique>", "s-1"),
        ("<letter>", "0123"),
        ("<job>", "0123"),
        ("<hash>", "0af"),
        ("<part>", "0-2"),
        ("<key>", "lease.x"),
        ("<stream>", "s"),
        ("<durable>", "maker_reader"),
    ];
    names.iter().fold(pattern.to_owned(), |text, (placeholder, name)| text.replace(placeholder, name))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn the_subjects_are_those_that_are_built() {
    let (here, maker, reader, asker) = (name("here"), name("maker"), name("reader"), name("asker"));
    let work = subject::work(&here, ("a.v1.S", "Do"), Class::Normal, 3, &asker);
    let original = subject::Place::parse(&work).unwrap();
    let built = BTreeSet::from([
        subject::event(&here, "maker", "a.v1.Made", 3),
        subject::call(&here, "a.v1.S", "Do", &asker),
        work.clone(),
        subject::outcome(&here, "a.v1.S", "Do", "asker"),
        subject::lane_due(&here, &maker, &reader, &original),
        subject::lane_hold(&here, &maker, &reader, "s-1"),
        subject::dead_letter(&here, &maker, &reader, "0123"),
        format!("{}.0-2", subject::claim((&here, &maker, &reader), "0123", "0af")),
        subject::store(&here, &maker, "lease.x"),
        subject::job(&here, "0123"),
        format!("{}.>", subject::inbox_prefix(&maker)),
    ]);
    let stated = table("subject").iter().map(|row| filled(&quoted(&row[0])[0])).collect();
    assert_eq!(built, stated);
}

#[test]
fn the_partitions_are_those_of_the_hash() {
    let rows = table("ordering key");
    assert!(rows.len() >= 4);
    for row in rows {
        let key = quoted(&row[0]).pop().unwrap_or_default();
        assert_eq!(subject::partition(key.as_bytes()).to_string(), row[1], "{key}");
    }
    let classes: Vec<String> = [Class::Urgent, Class::Normal, Class::Bulk].map(|c| format!("`{}`", c.token())).into();
    assert!(SPECIFICATION.contains(&format!("`<class>` is {}, {} or {}", classes[0], classes[1], classes[2])));
    assert!(SPECIFICATION.contains(&format!("modulo {}", subject::PARTITIONS)));
    assert_eq!(worker_name("shop.payments.v1.Payments").as_str(), "shop-payments-v1-payments");
}

#[test]
fn the_headers_are_those_that_are_written() {
    let stated: BTreeSet<String> = table("header").iter().flat_map(|row| quoted(&row[0])).collect();
    let ours = [
        header::MESSAGE_ID,
        header::TRACEPARENT,
        header::MESH,
        header::ATTEMPTS,
        header::HOLDER,
        header::ERROR,
        header::ERROR_CODE,
        header::SCHEDULER,
        header::FROM,
    ];
    let brokers = ["Nats-Schedule", "Nats-Schedule-Target", "Nats-Expected-Last-Subject-Sequence", "Nats-TTL"];
    assert_eq!(stated, ours.iter().chain(&brokers).map(|&name| name.to_owned()).collect());
}

#[test]
fn the_allow_list_is_the_compiled_one() {
    let operation = || BTreeSet::from([("a.v1.S".to_owned(), "Do".to_owned())]);
    let empty = || Declaration::new(name("maker"));
    let consumes = mesh_core::policy::compile::Consumes {
        consumer: name("reader"),
        producer: "other".into(),
        event: "a.v1.Made".into(),
        ordered: false,
    };
    let declared = BTreeMap::from([
        ("anything", empty()),
        ("publishes", Declaration { publishes: BTreeSet::from(["a.v1.Made".into()]), ..empty() }),
        ("consumes", Declaration { consumes: BTreeSet::from([consumes]), ..empty() }),
        ("calls", Declaration { calls: operation(), ..empty() }),
        ("enqueues", Declaration { enqueues: operation(), ..empty() }),
        ("serves", Declaration { serves: operation(), ..empty() }),
    ]);
    let stated = table("declared");
    assert_eq!(stated.len(), declared.len());
    let list = |cell: &str| -> BTreeSet<String> { quoted(cell).iter().map(|pattern| filled(pattern)).collect() };
    let always = stated.iter().find(|row| row[0] == "anything").unwrap();
    let pulls = quoted(&table("for each of its consumers")[0][0]);
    for row in &stated {
        let declaration = &declared[row[0].as_str()];
        let (mut publish, mut subscribe) = (list(&row[1]), list(&row[2]));
        publish.extend(list(&always[1]));
        subscribe.extend(list(&always[2]));
        let consumer = if row[0] == "serves" { "a-v1-s" } else { "reader" };
        for spec in declaration.consumers(&name("here")) {
            for pattern in &pulls {
                let pattern = pattern.replace("<stream>", &spec.stream).replace("<durable>", &spec.durable);
                publish.insert(filled(&pattern.replace("<consumer>", consumer)));
            }
        }
        let compiled = compile(declaration, &name("here"));
        // A service that calls is the caller.
        let as_caller = |text: String| text.replace("asker", "maker");
        assert_eq!(compiled.publish.into_iter().collect::<BTreeSet<_>>(), publish.into_iter().map(as_caller).collect());
        assert_eq!(compiled.subscribe.into_iter().collect::<BTreeSet<_>>(), subscribe, "{}", row[0]);
        assert_eq!(compiled.may_answer, row[1].contains("one answer"), "{}", row[0]);
    }
}

/// A client that is not ours, as one of the broker's users.
async fn plain(broker: &TestBroker, user: &str) -> async_nats::Client {
    async_nats::ConnectOptions::with_nkey(broker.seed(user).unwrap().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{user}"))
        .connect(broker.server.client_url())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_and_consumers_are_those_that_are_made() {
    use async_nats::jetstream::{consumer::pull::Config, stream};
    let declared = [orders(), consumer("mail", "confirm"), till(), bank()];
    let broker = TestBroker::start(&declared).await.unwrap();
    let jetstream = async_nats::jetstream::new(plain(&broker, "operator").await);
    let names = ["mesh1-event-orders", "mesh1-work-shop-payments-v1-Payments", "mesh1-lane-mail"];
    let own = [subject::JOB_STREAM, subject::CLAIM_STREAM, subject::ADVISORY_STREAM];
    let names =
        names.into_iter().chain([subject::OUTCOME_STREAM, subject::DEAD_LETTER_STREAM, "mesh1-store-mail"]).chain(own);
    let rows = table("stream");
    assert_eq!(rows.len(), 9);
    for (stream, row) in names.zip(rows) {
        let row: Vec<String> = row
            .iter()
            .map(|cell| cell.replace("<rpc service, . as ->", "shop-payments-v1-Payments"))
            .map(|cell| cell.replace("<rpc service>", "shop.payments.v1.Payments").replace("<service>", "mail"))
            .map(|cell| cell.replace("<producer>", "orders"))
            .collect();
        let config = jetstream.get_stream(stream).await.unwrap().cached_info().config.clone();
        assert_eq!((format!("`{}`", config.name), config.subjects.clone()), (row[0].clone(), quoted(&row[1])));
        let retention = match config.retention {
            stream::RetentionPolicy::WorkQueue => "work queue",
            _ => "limits",
        };
        let discard = if config.discard == stream::DiscardPolicy::Old { "old" } else { "new" };
        let age = match config.max_age.as_secs() / 86_400 {
            0 => "–".to_owned(),
            days => format!("{days} days"),
        };
        assert_eq!([retention, discard, age.as_str()], [&row[2], &row[3], &row[4]].map(String::as_str), "{stream}");
        let schedules = config.allow_message_schedules;
        assert_eq!((schedules, config.deny_delete), (row[5].contains("schedules"), row[5].contains("deleted")));
        let (newest, ttl) = (row[5].contains("newest"), row[5].contains("Nats-TTL"));
        assert_eq!((config.max_messages_per_subject == 1, config.allow_message_ttl), (newest, ttl), "{stream}");
        assert_eq!((config.max_bytes, config.max_messages), (-1, -1), "{stream}");
        assert!(config.allow_atomic_publish && config.storage == stream::StorageType::File);
        assert_eq!(config.duplicate_window, Duration::from_secs(120));
    }
    for stream in ["mesh1-event-orders", "mesh1-lane-mail"] {
        let mut consumer = jetstream.get_consumer_from_stream::<Config, _, _>("mail_confirm", stream).await.unwrap();
        let config = &consumer.info().await.unwrap().config;
        assert_eq!(
            (config.ack_wait, config.max_ack_pending, config.max_deliver),
            (Duration::from_secs(30), 4096, 1000)
        );
    }
    for number in ["dedupe window 120 s", "`ack_wait` 30 s", "`max_ack_pending` 4096", "`max_deliver` 1000"] {
        assert!(SPECIFICATION.contains(number), "{number}");
    }
}

/// Refuses with the code that the amount names.
struct Refuser;

impl Payments for Refuser {
    async fn charge(&self, _cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
        let code = Code::try_from(i32::try_from(request.amount_cents).unwrap()).unwrap();
        Err(Fault::new(code, Effect::None, Reason::HandlerRefused, "no"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_faults_are_those_of_the_answers() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    broker.connect("bank").await.unwrap().serve(PaymentsServer::new(Refuser)).start().await.unwrap();
    let client = plain(&broker, "till").await;
    let rows = table("number");
    let mut codes = 0;
    for row in rows {
        for code in quoted(&row[1]) {
            let code = Code::from_str_name(&format!("CODE_{code}")).unwrap();
            let payload = charge_of(1, i64::from(i32::from(code))).encode_to_vec();
            let call = "mesh1.call.local.shop.payments.v1.Payments.Charge.till";
            let answer = client.request(call, payload.into()).await.unwrap();
            assert_eq!(answer.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), row[0], "{code:?}");
            codes += 1;
        }
    }
    assert_eq!(codes, 16, "every code but OK");
}

/// A message as the examples show it.
fn shown(message: &Message) -> Vec<String> {
    let mut lines = vec![format!("subject {}", message.subject)];
    lines.extend(message.reply.iter().map(|reply| format!("reply   {reply}")));
    let headers = message.headers.clone().unwrap_or_default();
    let pairs = |headers: &HeaderMap| {
        let pairs = headers.iter().flat_map(|(n, values)| values.iter().map(move |v| format!("{n}: {}", v.as_str())));
        pairs.collect::<BTreeSet<_>>()
    };
    lines.extend(pairs(&headers).into_iter().map(|pair| format!("header  {pair}")));
    let bytes: Vec<String> = message.payload.iter().map(|byte| format!("{byte:02x}")).collect();
    lines.extend(bytes.chunks(24).map(|bytes| format!("payload {}", bytes.join(" "))));
    lines.into_iter().map(|line| of_the_moment(&line)).collect()
}

/// Takes out what is another each time: times, spans, inboxes, and records that hold them.
fn of_the_moment(line: &str) -> String {
    let cut = |line: &str, after: &str, keep: fn(char) -> bool| match line.split_once(after) {
        Some((before, rest)) => format!("{before}{after}…{}", rest.trim_start_matches(keep)),
        None => line.to_owned(),
    };
    let line = cut(line, "traceparent: 00-", |c| c.is_ascii_hexdigit() || c == '-');
    let line = cut(&line, "mesh: d=", |c| c.is_ascii_digit());
    let line = cut(&line, ";t=", |c| c.is_ascii_digit());
    let line = cut(&line, "mesh1-event-orders-1-", |c| c.is_ascii_digit());
    let line = cut(&line, "mesh1.dead.local.mail.confirm.", |c| c.is_ascii_hexdigit());
    let line = cut(&line, "Nats-Schedule: @at ", |_| true);
    let line = cut(&line, "mesh-attempts: ", |_| true);
    ["orders", "mail", "till", "bank"].iter().fold(line, |line, who| cut(&line, &format!("_INBOX.{who}."), |_| true))
}

async fn next(messages: &mut Subscriber, kind: &str) -> Vec<String> {
    shown(&next_of(messages, kind).await)
}

async fn next_of(messages: &mut Subscriber, kind: &str) -> Message {
    let found = async {
        loop {
            let message = messages.next().await.unwrap();
            if message.subject.starts_with(kind) {
                return message;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("no {kind}"))
}

/// What section 12 says of the id of the letter whose copy had this `mesh` header: `t` in it is the moment.
fn letter_of(note: &str) -> String {
    let (_, rest) = note.split_once(";t=").expect("a copy says when its original was stored");
    let stored_at_ms: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let id = "orders/shop.orders.v1.OrderPlaced/17";
    subject::sha256(format!("mail_confirm\nmesh1-event-orders\n1\n{stored_at_ms}\n{id}").as_bytes())[..32].to_owned()
}

#[test]
fn the_letter_of_the_examples_has_the_id_that_follows_from_its_copy() {
    let copy = SPECIFICATION.lines().find(|line| line.starts_with("header  mesh: a=2;s=")).unwrap();
    assert!(SPECIFICATION.contains(&format!("mesh1.dead.local.mail.confirm.{}\n", letter_of(copy))));
}

/// Compares with an example; where that has no bytes, because they hold a time, only subject and headers.
fn same(seen: Vec<String>, name: &str) {
    let stated = example(name);
    let bytes = |line: &String| line.starts_with("payload");
    let in_words = stated.iter().any(|line| line.starts_with("payload ("));
    let kept = |lines: Vec<String>| lines.into_iter().filter(|line| !in_words || !bytes(line)).collect::<Vec<_>>();
    let (seen, stated) = (kept(seen).join("\n"), kept(stated).join("\n"));
    assert!(seen == stated, "the example {name} is\n{stated}\n\nover the wire goes\n{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_what_goes_over_the_wire() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "confirm"), till(), bank()]).await.unwrap();
    let operator = plain(&broker, "operator").await;
    let mut messages = operator.subscribe("mesh1.>").await.unwrap();
    operator.flush().await.unwrap();

    // The event, its delayed copy and its letter.
    let mail = broker.connect("mail").await.unwrap();
    let tries = AtomicU32::new(0);
    let handler = move |_cx: Context, _event: OrderPlaced| {
        let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
        async move { Err(if first { Fault::unavailable("no line") } else { Fault::invalid("no address") }) }
    };
    let retry = RetryRule { base: Duration::from_millis(20), ..RetryRule::default() };
    mail.consumer::<OrderPlaced>("confirm").retry(retry).start(handler).await.unwrap();
    let event = OrderPlaced {
        order_id: "17".into(),
        customer_id: "00001".into(),
        total_cents: 1177,
        currency: "USD".into(),
        ..OrderPlaced::default()
    };
    let orders = broker.connect("orders").await.unwrap();
    orders.publisher::<OrderPlaced>().publish(&event).id("17").await.unwrap();
    same(next(&mut messages, "mesh1.event.").await, "event");
    let copy = next_of(&mut messages, "mesh1.lane.").await;
    same(shown(&copy), "lane");
    let letter = next_of(&mut messages, "mesh1.dead.").await;
    same(shown(&letter), "letter");
    let note = copy.headers.as_ref().and_then(|headers| headers.get("mesh")).unwrap();
    assert!(letter.subject.ends_with(&letter_of(note.as_str())), "{} {note}", letter.subject);

    // Work and its outcome.
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(17, 1177)).id("17").await.unwrap();
    same(next(&mut messages, "mesh1.work.").await, "work");
    same(next(&mut messages, "mesh1.outcome.").await, "outcome");

    // A call, its reply, and a fault.
    PaymentsClient::new(&till).charge().call(&charge_of(17, 1177)).id("17").await.unwrap();
    same(next(&mut messages, "mesh1.call.").await, "call");
    let client = plain(&broker, "till").await;
    for (cents, name) in [(1177, "reply"), (0, "fault")] {
        let call = "mesh1.call.local.shop.payments.v1.Payments.Charge.till";
        let payload = charge_of(17, cents).encode_to_vec();
        same(shown(&client.request(call, payload.into()).await.unwrap()), name);
    }
}
