//! What is not begun now (its target is down, its time is over) is held against what is remembered of it first.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    clock::{Clock, Deadline},
    consume::ConsumerSettings,
    contract::Repeat,
    dead_letter::Letter,
    delayed,
    envelope::header,
    fault::{Effect, Reason},
    policy::{isolation::IsolationRule, retry::RetryRule},
    proto::v1::Attempts,
    subject,
};
use mesh_tests::{
    Seen, TestBroker,
    campaign::{Run, Size, Stage, StageSettings, stage::SENDER},
    charges::Charges,
    eventually, foreign,
    letters::{in_hand, lane},
};
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsClient};
use tokio::sync::Notify;

use crate::{
    inbox::{BANKS_WORK, Doomed, left_in_the_middle, letters},
    shop::{bank, charge_of, consumer, order, orders, till},
};

/// Long enough that a target is known to be down before what its dead process held comes again.
const ACK_WAIT: Duration = Duration::from_secs(3);

fn limits() -> StreamLimits {
    StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() }
}

/// One failure, and the target is down for a while.
fn settings(pause: Duration) -> ConsumerSettings {
    let isolation = IsolationRule { failures: 1, pause, max_pause: pause, ..IsolationRule::default() };
    ConsumerSettings { ack_wait: ACK_WAIT, isolation: Some(isolation), ..ConsumerSettings::default() }
}

/// Charges at one target: the first and the fifth never end, the second finds the target down once, the others are done.
pub(crate) fn charges(repeat: Repeat, seen: &Seen, begun: &Arc<Notify>) -> Charges {
    let begun = Arc::clone(begun);
    let end = move |cx: Context| {
        begun.notify_one();
        async move {
            match cx.local_id() {
                "1" | "5" => std::future::pending().await,
                "2" if cx.attempt() == 1 => Err(Fault::unavailable("the vendor is down")),
                _ => Ok(()),
            }
        }
    };
    Charges::new(repeat, seen, end).at("the vendor")
}

/// A bank whose first charge is in hand when its process ends.
struct Scene {
    broker: TestBroker,
    till: Mesh,
    seen: Seen,
    begun: Arc<Notify>,
    repeat: Repeat,
}

impl Scene {
    async fn new(repeat: Repeat, deadline: Option<Duration>) -> Scene {
        let broker = TestBroker::with(&[till(), bank()], true, &limits()).await.unwrap();
        let till = broker.connect("till").await.unwrap();
        let scene = Scene { till, broker, seen: Seen::default(), begun: Arc::default(), repeat };
        let doomed = Doomed::new(&scene.broker, "bank");
        let charges = scene.charges();
        let serve = |mesh: Mesh| async move {
            mesh.serve(charges).settings(settings(ACK_WAIT)).calls(false).start().await.unwrap();
        };
        doomed.run("bank", serve).await;
        let mut first = PaymentsClient::new(&scene.till).charge().enqueue(&charge_of(1, 100)).id("1");
        if let Some(after) = deadline {
            first = first.deadline(Deadline::after(&Clock::system(), after));
        }
        first.await.unwrap();
        scene.begun.notified().await;
        doomed.end();
        scene
    }

    fn charges(&self) -> Charges {
        charges(self.repeat, &self.seen, &self.begun)
    }

    /// The next process.
    async fn serve(&self, pause: Duration, clock: Clock) -> Mesh {
        let mesh = Mesh::builder("bank").region(mesh_tests::broker::REGION).url(&self.broker.server.client_url());
        let mesh = mesh.credential(self.broker.credential("bank")).clock(clock).connect().await.unwrap();
        mesh.serve(self.charges()).settings(settings(pause)).calls(false).start().await.unwrap();
        mesh
    }

    /// The next process, whose target goes down at once.
    async fn goes_on(&self, pause: Duration) -> Mesh {
        let mesh = self.serve(pause, Clock::system()).await;
        PaymentsClient::new(&self.till).charge().enqueue(&charge_of(2, 100)).id("2").await.unwrap();
        eventually("the target is down", || async { self.seen.lock().await.contains(&"2".into()).then_some(()) }).await;
        mesh
    }

    async fn letter_of_the_first(&self) -> Letter {
        eventually("its letter", || async {
            let is_first = |letter: &Letter| letter.letter.source.as_ref().is_some_and(|source| source.sequence == 1);
            letters(&self.broker).await.into_iter().find(is_first)
        })
        .await
    }

    async fn times_begun(&self) -> usize {
        self.seen.lock().await.iter().filter(|id| *id == "1").count()
    }
}

/// So late that the other side may have forgotten every key of now.
fn later() -> SystemTime {
    SystemTime::now() + RetryRule::default().max_age + Duration::from_secs(60)
}

fn fault_of(letter: Letter) -> Fault {
    letter.letter.fault.unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_and_may_not_be_repeated_is_parked_though_its_target_is_down() {
    let scene = Scene::new(Repeat::Once, None).await;
    let _mesh = scene.goes_on(Duration::from_secs(12)).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(scene.times_begun().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_with_an_inbox_is_put_aside_and_done_when_its_target_is_up() {
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let horizon = Duration::from_secs(3600);
    let sender = left_in_the_middle(&broker, settings(ACK_WAIT), Some(horizon)).await;
    let publisher = sender.publisher::<OrderPlaced>();

    let (seen, done) = (Seen::default(), Seen::default());
    let (into, all) = (Arc::clone(&done), Arc::clone(&seen));
    let handler = move |cx: Context, event: OrderPlaced| {
        let (into, all) = (Arc::clone(&into), Arc::clone(&all));
        async move {
            all.lock().await.push(event.order_id.clone());
            if event.order_id == "2" && cx.attempt() == 1 {
                return Err(Fault::unavailable("the target is down"));
            }
            into.lock().await.push(event.order_id);
            Ok(())
        }
    };
    let mesh = broker.connect("mail").await.unwrap();
    let confirm = mesh.consumer::<OrderPlaced>("confirm").settings(settings(Duration::from_secs(12)));
    let confirm = confirm.inbox(horizon).isolate_by(|_: &OrderPlaced| "everybody".to_owned());
    confirm.start(handler).await.unwrap();
    publisher.publish(&order(2)).id("2").await.unwrap();
    eventually("the target is down", || async { seen.lock().await.contains(&"2".into()).then_some(()) }).await;
    eventually("both are done", || async { (done.lock().await.len() == 2).then_some(()) }).await;
    mesh.drain().await;
    assert!(letters(&broker).await.is_empty());
    let mut done = done.lock().await.clone();
    done.sort();
    assert_eq!(done, ["1", "2"], "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_before_its_deadline_is_parked_and_not_said_to_be_without_effect() {
    let scene = Scene::new(Repeat::Once, Some(Duration::from_secs(2))).await;
    let _mesh = scene.serve(ACK_WAIT, Clock::system()).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(scene.times_begun().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_and_was_begun_before_its_deadline_may_have_had_an_effect() {
    let scene = Scene::new(Repeat::Idempotent, Some(Duration::from_secs(2))).await;
    let _mesh = scene.serve(ACK_WAIT, Clock::system()).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::DeadlineExpired, Effect::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_before_its_deadline_is_no_letter_though_its_process_ended_before_it_could_say_so() {
    let run = Run::new("deadline", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
    let stage = Stage::start(&run, StageSettings { inbox: true, ..StageSettings::default() }).await.unwrap();
    let sender = stage.connect(SENDER).await.unwrap();
    let (clock, deadline) = (Clock::system(), Deadline::after(&Clock::system(), Duration::from_secs(3)));
    let charge = PaymentsClient::new(&sender).charge().enqueue(&charge_of(1, 100)).id("w-1").deadline(deadline);
    charge.await.unwrap();
    stage.worker(Some(("inbox.ended", 1))).await.unwrap().crashed().await.unwrap();
    assert!(stage.counter.report().await.unwrap().contains_key("w-1"), "it was done");
    eventually("its deadline", || async { deadline.is_over(&clock).then_some(()) }).await;
    let _worker = stage.worker(None).await.unwrap();
    stage.at_rest().await.unwrap();
    assert!(letters(&stage.broker).await.is_empty());
}

/// A key makes a repeat harmless only while the other side remembers it: what was begun, came again and was put aside then is
/// not begun anew once that time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_start_without_a_word_that_was_put_aside_is_parked_when_its_key_may_be_forgotten() {
    let scene = Scene::new(Repeat::Keyed, None).await;
    let mesh = scene.goes_on(Duration::from_secs(8)).await;
    let operator = scene.broker.connect("operator").await.unwrap();
    eventually("it is put aside", || async {
        let state = operator.bus().consumer_state(BANKS_WORK.0, BANKS_WORK.1).await.ok()??;
        (state.pending == 0 && state.in_flight == 0).then_some(())
    })
    .await;
    mesh.drain().await;
    let _mesh = scene.serve(Duration::from_secs(1), Clock::from_fn(later)).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(scene.times_begun().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_start_that_a_drain_cut_off_is_parked_when_its_key_may_be_forgotten() {
    let broker = TestBroker::with(&[till(), bank()], true, &limits()).await.unwrap();
    let till = broker.connect("till").await.unwrap();
    let scene = Scene { till, broker, seen: Seen::default(), begun: Arc::default(), repeat: Repeat::Keyed };
    let first = scene.serve(ACK_WAIT, Clock::system()).await;
    PaymentsClient::new(&scene.till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    scene.begun.notified().await;
    first.drain().await;
    let _mesh = scene.serve(ACK_WAIT, Clock::from_fn(later)).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(scene.times_begun().await, 1);
}

/// A drain hands back what waits for its turn, and says so. That acquits it of nothing that was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_start_without_a_word_is_parked_though_another_process_handed_it_back_before_its_turn() {
    let scene = Scene::new(Repeat::Keyed, None).await;
    let mesh = scene.broker.connect("bank").await.unwrap();
    let one_place = ConsumerSettings { concurrency: 1, ack_wait: ACK_WAIT, ..ConsumerSettings::default() };
    mesh.serve(scene.charges()).settings(one_place).calls(false).start().await.unwrap();
    PaymentsClient::new(&scene.till).charge().enqueue(&charge_of(5, 100)).id("5").await.unwrap();
    let operator = scene.broker.connect("operator").await.unwrap();
    eventually("it waits for its turn", || async {
        let state = operator.bus().consumer_state(BANKS_WORK.0, BANKS_WORK.1).await.ok()??;
        (state.deliveries == 3 && state.in_flight == 2).then_some(())
    })
    .await;
    mesh.drain().await;
    let _mesh = scene.serve(ACK_WAIT, Clock::from_fn(later)).await;
    let fault = fault_of(scene.letter_of_the_first().await);
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(scene.times_begun().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_says_that_an_earlier_start_left_no_word_though_the_last_one_did_nothing() {
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let _sender = left_in_the_middle(&broker, settings(ACK_WAIT), None).await;

    let mesh = broker.connect("mail").await.unwrap();
    let retry = RetryRule { max_attempts: 1, ..RetryRule::default() };
    let once = ConsumerSettings { ack_wait: ACK_WAIT, retry, ..ConsumerSettings::default() };
    let fails = |_cx: Context, _event: OrderPlaced| async { Err::<(), _>(Fault::unavailable("the target is down")) };
    mesh.consumer::<OrderPlaced>("confirm").settings(once).start(fails).await.unwrap();
    let letter = eventually("its letter", || async { letters(&broker).await.pop() }).await;
    let reasons: Vec<_> = letter.letter.attempts.iter().map(|it| it.fault.clone().unwrap().reason).collect();
    assert_eq!(reasons[0], Reason::OutcomeUnknown.code(), "{reasons:?}");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert_eq!(fault_of(letter).effect(), Effect::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_waits_is_not_replaced_by_one_that_was_not_begun() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, lane) = (operator.bus(), lane("a"));
    let (due_ms, none) = (bus.gate().clock().now_ms() + 60_000, Attempts::default());
    let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    let stream = jetstream.get_stream(lane.stream()).await.unwrap();
    let waiting = async |number: u64| {
        let delivery = in_hand(number, bytes::Bytes::new());
        let hold = subject::lane_hold(&lane.region, &lane.service, &lane.consumer, &delayed::unique(&delivery));
        let message = stream.get_last_raw_message_by_subject(&hold).await.unwrap();
        message.headers.get(header::MESSAGE_ID).unwrap().as_str().split('/').next().unwrap().to_owned()
    };
    let put_aside = async |number: u64| {
        // Twice: a crash before the ack.
        for _ in 0..2 {
            let delivery = in_hand(number, bytes::Bytes::new());
            delayed::put_aside(bus, &lane, &delivery, (due_ms + 1000, "", None), (&none, None)).await.unwrap();
        }
    };
    let delay = async |number: u64| {
        delayed::delay(bus, &lane, &in_hand(number, bytes::Bytes::new()), (2, due_ms), &none).await.unwrap();
    };
    delay(1).await;
    put_aside(1).await;
    assert_eq!(waiting(1).await, "delay", "its attempt and what the target asked for are kept");
    put_aside(2).await;
    assert_eq!(waiting(2).await, "aside");
    delay(2).await;
    assert_eq!(waiting(2).await, "delay", "what came of it takes the place");
}
