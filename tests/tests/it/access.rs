//! What the broker refuses a service: each escape is tried with a client that is not ours and knows no rules.

use std::time::Duration;

use mesh_core::{
    Context,
    fault::{Effect, Reason},
};
use mesh_tests::TestBroker;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::shop::{bank, consumer, declaration, order, orders, till};

/// A plain client with the credential of a service, and what the broker complains about.
async fn plain(broker: &TestBroker, service: &str) -> (async_nats::Client, tokio::sync::mpsc::Receiver<String>) {
    let (told, complaints) = tokio::sync::mpsc::channel(16);
    let client = async_nats::ConnectOptions::with_nkey(broker.seed(service).unwrap().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{service}"))
        .event_callback(move |event| {
            let told = told.clone();
            async move {
                if let async_nats::Event::ServerError(error) = event {
                    let _ = told.send(error.to_string()).await;
                }
            }
        })
        .connect(broker.server.client_url())
        .await
        .unwrap();
    (client, complaints)
}

async fn refused(complaints: &mut tokio::sync::mpsc::Receiver<String>, subject: &str) {
    let complaint = tokio::time::timeout(Duration::from_secs(10), complaints.recv()).await;
    let complaint = complaint.unwrap_or_else(|_| panic!("the broker let {subject} pass")).unwrap();
    assert!(complaint.contains("Permissions Violation") && complaint.contains(subject), "{subject}: {complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_can_do_what_it_declared_and_nothing_else() {
    let declared = [orders(), consumer("payments", "charge"), consumer("mail", "confirm"), till(), bank()];
    let broker = TestBroker::start(&declared).await.unwrap();
    let (client, mut complaints) = plain(&broker, "payments").await;
    let publishes = [
        // as another service
        "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.0",
        "mesh1.call.local.shop.payments.v1.Payments.Charge.till",
        "mesh1.work.local.shop.payments.v1.Payments.Charge.normal.0.till",
        "mesh1.outcome.local.shop.payments.v1.Payments.Charge.till",
        // what it did not declare, in its own name
        "mesh1.call.local.shop.payments.v1.Payments.Charge.payments",
        // another's letters, lane and deliveries
        "mesh1.dead.local.mail.confirm.0123",
        "mesh1.lane.local.mail.confirm.due.0.orders",
        "mesh1.lane.local.mail.confirm.hold.x",
        "$JS.API.CONSUMER.MSG.NEXT.mesh1-event-orders.mail_confirm",
        "$JS.ACK.mesh1-event-orders.mail_confirm.1.1.1.1.0",
        // the broker itself
        "$JS.API.CONSUMER.CREATE.mesh1-event-orders",
        "$JS.API.CONSUMER.CREATE.mesh1-event-orders.spy.mesh1.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.mesh1-event-orders.spy",
        "$JS.API.STREAM.CREATE.spy",
        "$JS.API.STREAM.DELETE.mesh1-event-orders",
        "$JS.API.STREAM.PURGE.mesh1-event-orders",
        "$JS.API.STREAM.MSG.GET.mesh1-event-orders",
        "$JS.API.DIRECT.GET.mesh1-event-orders",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.mail.x",
    ];
    for subject in publishes {
        client.publish(subject, "{}".into()).await.unwrap();
        refused(&mut complaints, subject).await;
    }
    let subscribes = [
        ">",
        "_INBOX.>",
        "_INBOX.mail.>",
        "_INBOX.*.>",
        "mesh1.>",
        "mesh1.call.local.shop.payments.v1.Payments.Charge.*",
        "$JS.API.>",
        "$SYS.>",
    ];
    for subject in subscribes {
        let _subscription = client.subscribe(subject).await.unwrap();
        refused(&mut complaints, subject).await;
        let _queued = client.queue_subscribe(subject, "q".to_owned()).await.unwrap();
        refused(&mut complaints, subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_cant_be_aimed_at_another_service() {
    let broker =
        TestBroker::start(&[orders(), consumer("payments", "charge"), consumer("mail", "confirm")]).await.unwrap();
    let (client, _complaints) = plain(&broker, "payments").await;
    let targets =
        ["mesh1.lane.local.mail.confirm.due.0.orders", "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.0"];
    for target in targets {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Schedule", "@at 2020-01-01T00:00:00Z");
        headers.insert("Nats-Schedule-Target", target);
        let own = "mesh1.lane.local.payments.charge.hold.x";
        let answer = client.request_with_headers(own, headers, "{}".into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["error"]["err_code"].is_number(), "{target}: {answer}");
    }
    let operator = broker.connect("operator").await.unwrap();
    for stream in ["mesh1-event-orders", "mesh1-lane-mail", "mesh1-lane-payments"] {
        let state = operator.bus().stream_state(stream).await.unwrap().unwrap();
        assert_eq!(state.messages, 0, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_says_at_once_what_the_broker_denies() {
    // `quiet` may publish nothing.
    let broker = TestBroker::start(&[orders(), declaration("quiet")]).await.unwrap();
    let quiet = broker.connect("quiet").await.unwrap();
    let fault = quiet.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None));
    let client = shop_proto::shop::payments::v1::PaymentsClient::new(&quiet);
    let started = std::time::Instant::now();
    let fault = client.charge().enqueue(&crate::shop::charge_of(1, 1)).id("1").await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None), "{fault:?}");
    let fault = client.charge().call(&crate::shop::charge_of(1, 1)).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None), "{fault:?}");
    let bus = quiet.bus();
    let fault = bus.stream_state("mesh1-dead-letter").await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None), "{fault:?}");
    let fault = bus.last_sequence_on("mesh1-dead-letter", "mesh1.dead.>").await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None), "{fault:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "known from the broker's word, not from a timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_gets_its_answer_in_its_own_inbox_only() {
    let broker = TestBroker::start(&[till(), bank(), consumer("mail", "confirm")]).await.unwrap();
    let bank = broker.connect("bank").await.unwrap();
    let server = shop_proto::shop::payments::v1::PaymentsServer::new(crate::shop::Bank::default());
    bank.serve(server).start().await.unwrap();
    let (victim, _) = plain(&broker, "mail").await;
    let mut victims_inbox = victim.subscribe("_INBOX.mail.>").await.unwrap();
    victim.flush().await.unwrap();
    let (client, _complaints) = plain(&broker, "till").await;
    let call = "mesh1.call.local.shop.payments.v1.Payments.Charge.till";
    client.publish_with_reply(call, "_INBOX.mail.x", "".into()).await.unwrap();
    // The one that asks properly afterwards is answered: so the other one was seen before.
    let answer = client.request(call, "".into()).await.unwrap();
    assert!(answer.headers.is_some_and(|h| h.get("Nats-Service-Error-Code").is_some()), "an amount of 0 is refused");
    bank.drain().await;
    let nothing = futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut victims_inbox));
    assert!(nothing.is_none(), "an answer went to somebody else's inbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_credential_is_refused_and_said_so() {
    let broker = TestBroker::start(&[orders(), declaration("mail")]).await.unwrap();
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    let fault = mesh_core::Mesh::builder("orders")
        .url(&broker.server.client_url())
        .credential(mesh_core::identity::Credential::Nkey(stranger.clone().into()))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(fault.reason(), Reason::BusUnavailable);
    assert!(fault.message().contains("does not accept"), "{fault}");
    assert!(!format!("{fault:?}").contains(&stranger), "a secret in an error");
    // A right credential under a wrong name has no inbox of that name.
    let mesh = mesh_core::Mesh::builder("orders")
        .url(&broker.server.client_url())
        .credential(broker.credential("mail"))
        .connect()
        .await;
    if let Ok(mesh) = mesh {
        let handler = |_cx: Context, _event: OrderPlaced| async { Ok(()) };
        assert!(mesh.consumer::<OrderPlaced>("x").start(handler).await.is_err());
        assert!(mesh.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.is_err());
    }
}
