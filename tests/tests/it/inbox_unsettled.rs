//! A process ends when it is written down what came of a message, or when its letter is stored, and before it is settled.

use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use mesh_core::{
    Fault, Mesh,
    bus::StreamLimits,
    clock::Clock,
    consume::ConsumerSettings,
    contract::Repeat,
    dead_letter::LetterState,
    fault::{Effect, Reason},
    policy::{compile::Declaration, retry::RetryRule},
    proto::v1::{InboxRecord, inbox_record::State},
    store::Store,
    subject::{self, OUTCOME_STREAM},
};
use mesh_tests::{
    Seen, TestBroker,
    campaign::{Run, Size, Stage, StageSettings, counter::Rule},
    charges::Charges,
    eventually, foreign,
};
use prost::Message as _;
use shop_proto::shop::payments::v1::PaymentsClient;

use crate::{
    inbox::{BANKS_WORK, Doomed, letters, settled},
    shop::{bank, charge_of, till},
};

const ACK_WAIT: Duration = Duration::from_secs(1);
/// What a consumer asked to remember: shorter than its broker may be away.
const HORIZON: Duration = Duration::from_secs(1);

fn declared() -> [Declaration; 2] {
    [till(), bank()]
}

fn limits() -> StreamLimits {
    StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() }
}

/// A bank whose process has ended while the outcome of its only charge waited for a stream that was gone. It is there again.
struct Scene {
    broker: TestBroker,
    seen: Seen,
    repeat: Repeat,
    inbox: Option<Duration>,
    /// The bank's own.
    store: Store,
    _bank: Mesh,
}

impl Scene {
    /// `end`: how the charge ends in the process that does not come to its settlement. `unsaid`: what is there by then.
    async fn new(
        (repeat, inbox): (Repeat, Option<Duration>),
        end: Result<(), Fault>,
        unsaid: impl AsyncFn(&Scene) -> bool,
    ) -> Scene {
        let broker = TestBroker::with(&declared(), true, &limits()).await.unwrap();
        let bank = broker.connect("bank").await.unwrap();
        let scene = Scene { store: Store::own(bank.bus()), broker, seen: Seen::default(), repeat, inbox, _bank: bank };
        scene.admin().await.delete_stream(OUTCOME_STREAM).await.unwrap();
        let doomed = Doomed::new(&scene.broker, "bank");
        let (charges, settings) = (scene.charges(end), scene.settings());
        let serve = |mesh: Mesh| async move {
            mesh.serve(charges).settings(settings).calls(false).start().await.unwrap();
        };
        doomed.run("bank", serve).await;
        let till = scene.broker.connect("till").await.unwrap();
        PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
        eventually("it has ended and is not settled", || async { unsaid(&scene).await.then_some(()) }).await;
        doomed.end();
        scene.broker.apply(&declared(), &limits()).await.unwrap();
        scene
    }

    async fn admin(&self) -> jetstream::Context {
        jetstream::new(foreign::client(&self.broker, "operator").await)
    }

    fn charges(&self, end: Result<(), Fault>) -> Charges {
        Charges::new(self.repeat, &self.seen, move |_| std::future::ready(end.clone()))
    }

    /// One attempt, so that what fails is a letter.
    fn settings(&self) -> ConsumerSettings {
        let retry = RetryRule { max_attempts: 1, ..RetryRule::default() };
        ConsumerSettings { ack_wait: ACK_WAIT, inbox: self.inbox, retry, ..ConsumerSettings::default() }
    }

    /// Whether it is written down what came of the charge.
    async fn is_remembered(&self) -> bool {
        let records = self.store.list("inbox.>").await.unwrap();
        let ended = |value| InboxRecord::decode(value).unwrap().state() == State::Ended;
        records.into_iter().any(|(_, entry)| ended(entry.value))
    }

    /// The broker's own clock says when so much time has passed.
    async fn passes(&self, time: Duration) {
        self.store.put("test.passes", "x".into(), 0, Some(time)).await.unwrap();
        let gone = || async { self.store.get("test.passes").await.unwrap().is_none().then_some(()) };
        eventually("so much time", gone).await;
    }

    /// The next process, in which the charge would be done.
    async fn goes_on(&self, clock: Clock) -> Mesh {
        let mesh = Mesh::builder("bank").region(mesh_tests::broker::REGION).url(&self.broker.server.client_url());
        let mesh = mesh.credential(self.broker.credential("bank")).clock(clock).connect().await.unwrap();
        mesh.serve(self.charges(Ok(()))).settings(self.settings()).calls(false).start().await.unwrap();
        settled(&self.broker, BANKS_WORK).await;
        mesh
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_done_once_is_remembered_longer_than_the_horizon_that_was_asked_for() {
    let scene = Scene::new((Repeat::Once, Some(HORIZON)), Ok(()), Scene::is_remembered).await;
    scene.passes(3 * HORIZON).await;
    let _mesh = scene.goes_on(Clock::system()).await;
    assert_eq!(*scene.seen.lock().await, ["1"], "charged once");
    assert!(letters(&scene.broker).await.is_empty(), "and its outcome is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_done_once_is_parked_when_its_end_may_be_forgotten() {
    let scene = Scene::new((Repeat::Once, Some(HORIZON)), Ok(()), Scene::is_remembered).await;
    // What its time does to the record.
    let store = scene.admin().await.get_stream(subject::store_stream("bank")).await.unwrap();
    store.purge().await.unwrap();
    let later = || SystemTime::now() + Duration::from_secs(25 * 3600);
    let _mesh = scene.goes_on(Clock::from_fn(later)).await;
    assert_eq!(*scene.seen.lock().await, ["1"], "charged once");
    let letter = letters(&scene.broker).await.pop().unwrap();
    let fault: Fault = letter.letter.fault.unwrap().into();
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_letter_is_stored_is_not_begun_again() {
    let has_letter = async |scene: &Scene| letters(&scene.broker).await.len() == 1;
    let scene = Scene::new((Repeat::Idempotent, None), Err(Fault::unavailable("down")), has_letter).await;
    let _mesh = scene.goes_on(Clock::system()).await;
    assert_eq!(*scene.seen.lock().await, ["1"], "not again in the second process");
    let letters = letters(&scene.broker).await;
    assert!(matches!(&letters[..], [letter] if letter.state == LetterState::Open), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_letter_is_stored_is_not_begun_again() {
    for ordered in [false, true] {
        let run = Run::new("captured", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
        let stage = Stage::start(&run, StageSettings { ordered, ..StageSettings::default() }).await.unwrap();
        let id = "e-bad-1".to_owned();
        stage.send([&id], 0).await.unwrap();
        stage.worker(Some(("settle.captured", 1))).await.unwrap().crashed().await.unwrap();
        stage.counter.rule("bad", Rule::Accept).await.unwrap();
        let _worker = stage.worker(None).await.unwrap();
        stage.at_rest().await.unwrap();
        assert_eq!(stage.counter.count("bad").await.unwrap(), 0, "its handler ran again; ordered: {ordered}");
        let letters = letters(&stage.broker).await;
        assert!(matches!(&letters[..], [letter] if letter.state == LetterState::Open), "{letters:?}");
    }
}
