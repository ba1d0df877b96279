//! Messages of others that are so large that neither their letter nor their copy on the lane fits into one message: their bytes
//! lie apart, and nothing waits for ever, is lost or stays behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use mesh_core::{
    Context, Fault, Mesh,
    dead_letter::{Letter, LetterState},
    fault::Reason,
    operate::{
        keeper::KeeperSettings,
        letters::{self, Order, Selector},
    },
    policy::retry::RetryRule,
    subject::CLAIM_STREAM,
};
use mesh_tests::{TestBroker, eventually, keeper::Running};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::Mutex;

use crate::shop::{consumer, order, orders};

/// What the broker takes in one message, by default.
pub(crate) const MAX_PAYLOAD: usize = 1024 * 1024;
const SUBJECT: &str = "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.1";

/// An order whose encoding has so many bytes.
pub(crate) fn order_of(bytes: usize) -> OrderPlaced {
    let mut large = OrderPlaced { placed_on: "x".repeat(bytes), ..order(1) };
    let surplus = large.encoded_len() - bytes;
    large.placed_on.truncate(bytes - surplus);
    assert_eq!(large.encoded_len(), bytes);
    large
}

/// The broker's own interface.
pub(crate) async fn foreign(broker: &TestBroker, service: &str) -> async_nats::jetstream::Context {
    let client = async_nats::ConnectOptions::with_nkey(broker.seed(service).unwrap().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{service}"))
        .connect(broker.server.client_url())
        .await
        .unwrap();
    assert_eq!(client.server_info().max_payload, MAX_PAYLOAD);
    async_nats::jetstream::new(client)
}

/// A service in another language: it knows nothing of what the mesh leaves room for.
pub(crate) async fn publish(broker: &TestBroker, local_id: &str, event: &OrderPlaced) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("orders/shop.orders.v1.OrderPlaced/{local_id}"));
    headers.insert("tenant", "blue");
    publish_with(broker, headers, event).await;
}

async fn publish_with(broker: &TestBroker, headers: HeaderMap, event: &OrderPlaced) {
    let jetstream = foreign(broker, "orders").await;
    jetstream.publish_with_headers(SUBJECT, headers, event.encode_to_vec().into()).await.unwrap().await.unwrap();
}

/// What a handler saw.
pub(crate) type Seen = Arc<Mutex<Vec<(u32, OrderPlaced)>>>;

/// A consumer whose first attempts fail as `fail` says: of so many.
pub(crate) async fn consume(broker: &TestBroker, failures: usize, fail: fn() -> Fault) -> (Mesh, Seen) {
    let mesh = broker.connect("a").await.unwrap();
    let (seen, left) = (Seen::default(), Arc::new(AtomicUsize::new(failures)));
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let (into, left) = (Arc::clone(&into), Arc::clone(&left));
        async move {
            into.lock().await.push((cx.attempt(), event));
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => Err(fail()),
                Err(_) => Ok(()),
            }
        }
    };
    let retry = RetryRule { max_attempts: 5, base: Duration::from_millis(50), ..RetryRule::default() };
    mesh.consumer::<OrderPlaced>("work").retry(retry).start(handler).await.unwrap();
    (mesh, seen)
}

pub(crate) async fn letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    operator.drain().await;
    letters
}

pub(crate) async fn one_letter(broker: &TestBroker, state: LetterState) -> Letter {
    all_letters(broker, state, 1).await.remove(0)
}

/// So many letters, once all are in this state.
pub(crate) async fn all_letters(broker: &TestBroker, state: LetterState, count: usize) -> Vec<Letter> {
    eventually("the letters", || async {
        let letters = letters(broker).await;
        assert!(letters.len() <= count, "one letter for each failure");
        (letters.len() == count && letters.iter().all(|letter| letter.state == state)).then_some(letters)
    })
    .await
}

pub(crate) async fn messages(broker: &TestBroker, stream: &str) -> u64 {
    let operator = broker.connect("operator").await.unwrap();
    let state = operator.bus().stream_state(stream).await.unwrap().unwrap();
    operator.drain().await;
    state.messages
}

pub(crate) fn by_ada() -> Order {
    Order { by: "ada".into(), why: "mended".into(), again: false, job: String::new() }
}

/// A keeper that takes away what nothing points to, without delay.
pub(crate) async fn start_keeper(broker: &TestBroker) -> Running {
    let settings = KeeperSettings {
        sweep_every: Duration::from_millis(100),
        claims_rest: Duration::ZERO,
        ..KeeperSettings::default()
    };
    Running::start(broker, settings).await.unwrap()
}

pub(crate) async fn nothing_lies_apart(broker: &TestBroker) {
    eventually("nothing to lie apart any more", || async { (messages(broker, CLAIM_STREAM).await == 0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_nearly_the_brokers_limit_becomes_one_letter_and_its_replay_has_the_same_bytes() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, seen) = consume(&broker, 1, || Fault::invalid("not today")).await;
    let event = order_of(MAX_PAYLOAD - 200);
    publish(&broker, "1", &event).await;
    let letter = one_letter(&broker, LetterState::Open).await;
    assert_eq!(letter.letter.fault.as_ref().unwrap().reason, Reason::HandlerRefused.code());
    assert!(messages(&broker, CLAIM_STREAM).await > 0, "its bytes lie apart");

    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    let seen = seen.lock().await;
    assert_eq!(seen.len(), 2, "handled once more");
    assert!(seen.iter().all(|(attempt, what)| (*attempt, what) == (1, &event)), "the same bytes");
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_from_the_lane_with_the_same_bytes_after_a_passing_fault() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, seen) = consume(&broker, 2, || Fault::unavailable("the shelf is locked")).await;
    let event = order_of(MAX_PAYLOAD - 200);
    publish(&broker, "1", &event).await;
    eventually("the third attempt", || async { (seen.lock().await.len() == 3).then_some(()) }).await;
    let seen = seen.lock().await;
    assert!(seen.iter().zip(1..).all(|((attempt, what), number)| (*attempt, what) == (number, &event)));
    nothing_lies_apart(&broker).await;
    assert_eq!(messages(&broker, "mesh1-lane-a").await, 0);
    assert!(letters(&broker).await.is_empty());
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_gone_are_a_letter_that_says_so_and_no_endless_wait() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let (_a, seen) = consume(&broker, 1, || Fault::invalid("not today")).await;
    publish(&broker, "1", &order_of(MAX_PAYLOAD - 200)).await;
    let letter = one_letter(&broker, LetterState::Open).await;
    foreign(&broker, "operator").await.get_stream(CLAIM_STREAM).await.unwrap().purge().await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    let again = eventually("the next generation", || async {
        letters(&broker).await.into_iter().find(|letter| letter.letter.generation == 1)
    })
    .await;
    assert_eq!((again.state, &again.letter.id), (LetterState::Open, &letter.letter.id));
    assert_eq!(again.letter.fault.as_ref().unwrap().reason, Reason::ClaimMissing.code());
    assert_eq!(again.letter.claim, letter.letter.claim, "where they lay is not forgotten");
    assert_eq!(seen.lock().await.len(), 1, "its handler was not called");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_for_its_headers_keeps_every_one_of_them() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let (_a, seen) = consume(&broker, 1, || Fault::invalid("not today")).await;
    let mut headers = HeaderMap::new();
    let blob = "b".repeat(50 * 1024);
    headers.insert("tenant", "blue");
    headers.insert("blob", blob.as_str());
    let event = order_of(MAX_PAYLOAD - blob.len() - 300);
    publish_with(&broker, headers, &event).await;
    let letter = one_letter(&broker, LetterState::Open).await;
    let names = |letter: &Letter| letter.letter.headers.iter().map(|header| header.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&letter), ["tenant"], "what is small stays in the letter");
    let operator = broker.connect("operator").await.unwrap();
    let whole = letters::bring(operator.bus(), &letter).await.unwrap();
    assert!(whole.letter.headers.iter().any(|header| header.name == "blob" && header.value == blob));
    assert_eq!(whole.letter.payload, event.encode_to_vec());

    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    assert_eq!(seen.lock().await.iter().filter(|(_, seen)| *seen == event).count(), 2);
    let keeper = start_keeper(&broker).await;
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_near_the_brokers_limit_do_not_keep_a_small_message_from_its_lane() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, seen) = consume(&broker, 2, || Fault::unavailable("the shelf is locked")).await;
    let mut headers = HeaderMap::new();
    headers.insert("blob", "b".repeat(65_000).as_str());
    publish_with(&broker, headers, &order(1)).await;
    eventually("the third attempt", || async { (seen.lock().await.len() == 3).then_some(()) }).await;
    assert!(seen.lock().await.iter().all(|(_, event)| *event == order(1)));
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_fit_a_letter_and_no_copy_lie_apart_for_its_replay() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, seen) = consume(&broker, 2, || Fault::invalid("not today")).await;
    let mut headers = HeaderMap::new();
    headers.insert("blob", "b".repeat(65_400).as_str());
    publish_with(&broker, headers, &order(1)).await;
    let letter = one_letter(&broker, LetterState::Open).await;
    assert!(letter.letter.claim.is_none());
    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    let again = eventually("the next generation", || async {
        letters(&broker).await.into_iter().find(|letter| letter.letter.generation == 1)
    })
    .await;
    let whole = letters::bring(operator.bus(), &again).await.unwrap();
    assert!(whole.letter.headers.iter().any(|header| header.name == "blob" && header.value.len() == 65_400));
    letters::replay(operator.bus(), &again, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    let seen = seen.lock().await;
    assert!(seen.len() == 3 && seen.iter().all(|(_, event)| *event == order(1)), "the same bytes");
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_takes_away_what_a_letter_claims_only_once_it_has_ended() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, _seen) = consume(&broker, usize::MAX, || Fault::invalid("never")).await;
    publish(&broker, "1", &order_of(MAX_PAYLOAD - 200)).await;
    let kept = one_letter(&broker, LetterState::Open).await;
    publish(&broker, "2", &order_of(MAX_PAYLOAD - 201)).await;
    let given_up = eventually("the second", || async {
        letters(&broker).await.into_iter().find(|letter| letter.letter.id != kept.letter.id)
    })
    .await;
    let before = messages(&broker, CLAIM_STREAM).await;
    let operator = broker.connect("operator").await.unwrap();
    letters::discard(operator.bus(), &given_up, &by_ada()).await.unwrap();
    eventually("one to be left", || async { (messages(&broker, CLAIM_STREAM).await == before / 2).then_some(()) })
        .await;
    assert_eq!(letters::bring(operator.bus(), &kept).await.unwrap().letter.payload.len(), MAX_PAYLOAD - 200);
    let ended = letters::find(operator.bus(), &given_up.letter.id).await.unwrap();
    assert!(
        letters::bring(operator.bus(), &ended).await.unwrap().letter.payload.is_empty(),
        "an ended letter can be read"
    );
    keeper.stop().await;
}
