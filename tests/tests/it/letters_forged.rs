//! A letter is whose subject it lies on, whatever its records say of themselves.

use std::process::Output;

use async_nats::jetstream::Context;
use mesh_core::{
    dead_letter::LetterState,
    operate::{
        keeper::{KeeperSettings, ask},
        letters,
    },
    proto::v1::{self, letter_record::Record},
};
use mesh_tests::{TestBroker, eventually, foreign, keeper::Running};
use prost::Message as _;

use crate::{
    command_line::Operator,
    letters_cli::{WORKER, some_letters},
    shop::{bank, charge_of, consumer, orders, till},
};

/// What user `mail` writes under its own name, which is all that the broker lets it.
async fn write(mail: &Context, id: &str, record: Record) {
    let record = v1::LetterRecord { record: Some(record) }.encode_to_vec();
    let subject = format!("mesh1.dead.local.mail.confirm.{id}");
    mail.publish(subject, record.into()).await.unwrap().await.unwrap();
}

fn ordered() -> Record {
    Record::Replaying(v1::LetterAct { generation: 1, by: "ada".into(), ..Default::default() })
}

/// A capture that says it is the bank's, of work that nobody queued.
fn forged(id: &str) -> Record {
    let source = v1::Source {
        stream: "mesh1-work-shop-payments-v1-Payments".into(),
        sequence: 7,
        subject: "mesh1.work.local.shop.payments.v1.Payments.Charge.normal.1.till".into(),
        message_id: "till/shop.payments.v1.Payments.Charge/forged".into(),
        ..Default::default()
    };
    Record::Captured(v1::DeadLetter {
        id: id.into(),
        service: "bank".into(),
        consumer: WORKER.into(),
        source: Some(source),
        message_type: "shop.payments.v1.Payments/Charge".into(),
        payload: charge_of(666, 100_000).encode_to_vec().into(),
        ..Default::default()
    })
}

struct Scene {
    broker: TestBroker,
    operator: Operator,
    /// Letters of the bank's own.
    ids: Vec<String>,
    mail: Context,
}

impl Scene {
    async fn new() -> Scene {
        let broker = TestBroker::start(&[till(), bank(), orders(), consumer("mail", "confirm")]).await.unwrap();
        let ids = some_letters(&broker).await;
        let mail = async_nats::jetstream::new(foreign::client(&broker, "mail").await);
        Scene { operator: Operator::at(&broker, "operator"), broker, ids, mail }
    }

    async fn on_the_banks_lane(&self) -> u64 {
        let jetstream = async_nats::jetstream::new(foreign::client(&self.broker, "operator").await);
        jetstream.get_stream("mesh1-lane-bank").await.unwrap().cached_info().state.messages
    }
}

fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_service_writes_is_not_sent_to_the_consumer_of_another() {
    let scene = Scene::new().await;
    let operator = &scene.operator;
    let (open, replaying) = ("e".repeat(32), "f".repeat(32));
    write(&scene.mail, &open, forged(&open)).await;
    write(&scene.mail, &replaying, forged(&replaying)).await;
    write(&scene.mail, &replaying, ordered()).await;
    for id in [&open, &replaying, &open[..6].to_owned()] {
        let ended = operator.run(&["dead-letter", "replay", id, "--no-wait"]).await;
        assert!(!ended.status.success() && said(&ended).contains("can't be read"), "{ended:?}");
    }
    assert_eq!(scene.on_the_banks_lane().await, 0, "nothing was forged");
    let dry = operator.json(0, &["dead-letter", "replay", "--all", "--dry-run"]).await;
    assert_eq!(dry["letters"], 5, "{dry}");
    // They are named, and in nobody's way.
    let listed = operator.run(&["dead-letter", "list", "-o", "json"]).await;
    assert!(listed.status.success() && said(&listed).contains("note: 2 letters may stand otherwise"), "{listed:?}");
    let exported = operator.run(&["dead-letter", "export"]).await;
    assert!(exported.status.success() && said(&exported).contains(&format!("the first: {open}")), "{exported:?}");
    assert!(said(&exported).contains("note: 2 letters left out and left alone"), "{exported:?}");
    assert_eq!(String::from_utf8_lossy(&exported.stdout).lines().count(), 5);
    // The keeper's index knows them no better.
    let mesh = scene.broker.connect("operator").await.unwrap();
    let keeper = Running::start(&scene.broker, KeeperSettings::default()).await.unwrap();
    let count = || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() };
    assert_eq!(eventually("an answer", count).await.total, 5);
    let listed = operator.run(&["dead-letter", "list", "-o", "json"]).await;
    assert!(listed.status.success() && said(&listed).contains("note: 2 letters may stand otherwise"), "{listed:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_service_writes_of_anothers_letter_is_not_believed() {
    let scene = Scene::new().await;
    let (operator, id) = (&scene.operator, &scene.ids[0]);
    let payload = charge_of(666, 100_000).encode_to_vec();
    let edit = v1::LetterEdit { act: Some(v1::LetterAct::default()), payload: payload.clone().into(), claim: None };
    write(&scene.mail, id, Record::Edited(edit)).await;
    write(&scene.mail, id, ordered()).await;
    let mesh = scene.broker.connect("operator").await.unwrap();
    let letter = letters::find(mesh.bus(), id).await.unwrap();
    assert_eq!(letter.state, LetterState::Open);
    assert_ne!(letter.letter.payload, payload);
    // Nor does what it writes of it keep the bank's operators from it.
    operator.json(0, &["dead-letter", "hold", id, "--why", "x"]).await;
    operator.json(0, &["dead-letter", "release", id, "--why", "x"]).await;
    operator.json(0, &["dead-letter", "replay", id, "--no-wait"]).await;
    assert_eq!(scene.on_the_banks_lane().await, 1);
    let exported = operator.run(&["dead-letter", "export"]).await;
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(String::from_utf8_lossy(&exported.stdout).lines().count(), 5);
}
