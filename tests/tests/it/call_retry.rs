//! Calls that failed are made again where the contract and the fault allow it, within their deadline and their budget.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    future::{Future, pending},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use mesh_core::{
    Context, Fault, Mesh, OperationClient,
    contract::{BoxFuture, Operation, OperationInfo, Repeat, Service},
    fault::{Code, Effect, Reason},
    policy::{budget::BudgetRule, compile::Declaration, retry::RetryRule},
    request::CallRetry,
    subject::sha256,
};
use mesh_tests::{TestBroker, eventually};
use shop_proto::shop::payments::v1::{ChargeReply, ChargeRequest};

use crate::shop::{charge_of, declaration};

/// One operation for each thing that a contract can say of a repeat.
const REPEATS: [(&str, Repeat); 5] = [
    ("Read", Repeat::NoSideEffects),
    ("Set", Repeat::Idempotent),
    ("Charge", Repeat::Keyed),
    ("Ask", Repeat::LookUp),
    ("Ship", Repeat::Once),
];

/// `OF` is an index into [`REPEATS`], `BACK` whether it is the service behind the first one.
#[derive(Debug, Clone, Copy)]
struct Does<const OF: usize, const BACK: bool = false>;

impl<const OF: usize, const BACK: bool> Operation for Does<OF, BACK> {
    type Request = ChargeRequest;
    type Reply = ChargeReply;
    const SERVICE: &'static str = if BACK { "test.v1.Back" } else { "test.v1.Front" };
    const METHOD: &'static str = REPEATS[OF].0;
    const REPEAT: Repeat = REPEATS[OF].1;

    fn key(_request: &ChargeRequest) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
}

type Read = Does<0>;
type Set = Does<1>;
type Charge = Does<2>;
type Ask = Does<3>;
type Ship = Does<4>;
type ReadBehind = Does<0, true>;

/// What a responder saw of one call.
#[derive(Debug, Clone)]
struct Saw {
    attempt: u32,
    key: String,
    at: Instant,
}

/// A service that answers by a function of how often it was called before, and remembers each call.
#[derive(Clone)]
struct Scripted {
    name: &'static str,
    saw: Arc<Mutex<Vec<Saw>>>,
    answer: Arc<Answer>,
}

/// What is answered to the n-th call.
type Answer = dyn Fn(usize, Context) -> BoxFuture<'static, Result<Bytes, Fault>> + Send + Sync;

impl Scripted {
    fn new<F, Fut>(name: &'static str, answer: F) -> Scripted
    where
        F: Fn(usize, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Fault>> + Send + 'static,
    {
        Scripted { name, saw: Arc::default(), answer: Arc::new(move |number, cx| Box::pin(answer(number, cx))) }
    }

    /// The first `failures` calls end with a fault, the others are done.
    fn fails(failures: usize, fault: impl Fn() -> Fault + Send + Sync + 'static) -> Scripted {
        Scripted::new("test.v1.Front", move |number, _cx| {
            std::future::ready(if number < failures { Err(fault()) } else { Ok(Bytes::new()) })
        })
    }

    fn saw(&self) -> Vec<Saw> {
        self.saw.lock().unwrap().clone()
    }

    fn calls(&self) -> usize {
        self.saw.lock().unwrap().len()
    }

    fn attempts(&self) -> Vec<u32> {
        self.saw().iter().map(|saw| saw.attempt).collect()
    }
}

impl Service for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn operations(&self) -> Vec<OperationInfo> {
        let info = |(method, repeat): &(&'static str, Repeat)| OperationInfo {
            service: Cow::Borrowed(self.name),
            method: Cow::Borrowed(method),
            repeat: *repeat,
            ..Read::info()
        };
        REPEATS.iter().map(info).collect()
    }

    fn dispatch<'a>(&'a self, _method: &'a str, cx: Context, _payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>> {
        let mut saw = self.saw.lock().unwrap();
        let number = saw.len();
        saw.push(Saw { attempt: cx.attempt(), key: cx.idempotency_key().to_owned(), at: Instant::now() });
        (self.answer)(number, cx)
    }
}

fn all_of(service: &str) -> BTreeSet<(String, String)> {
    REPEATS.iter().map(|(method, _)| (service.to_owned(), (*method).to_owned())).collect()
}

/// A broker with a caller, a service that it calls, and one behind that.
async fn broker() -> TestBroker {
    let (front, back) = (all_of("test.v1.Front"), all_of("test.v1.Back"));
    let caller = Declaration { calls: front.clone(), enqueues: front.clone(), ..declaration("caller") };
    let front = Declaration { serves: front, calls: back.clone(), ..declaration("front") };
    TestBroker::start(&[caller, front, Declaration { serves: back, ..declaration("back") }]).await.unwrap()
}

async fn serve(broker: &TestBroker, name: &str, service: &Scripted) -> Mesh {
    let mesh = broker.connect(name).await.unwrap();
    mesh.serve(service.clone()).work(false).start().await.unwrap();
    mesh
}

fn quick(max_attempts: u32) -> CallRetry {
    let rule = RetryRule {
        max_attempts,
        base: Duration::from_millis(5),
        cap: Duration::from_millis(20),
        ..RetryRule::default()
    };
    // Enough for a test of other things.
    let budget = BudgetRule { burst: 10_000.0, ..BudgetRule::default() };
    CallRetry { rule, budget, ..CallRetry::default() }
}

async fn ask<O: Operation<Request = ChargeRequest>>(client: &OperationClient<O>) -> Result<(), Fault> {
    client.call(&charge_of(1, 100)).await.map(drop)
}

fn maybe() -> Fault {
    Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerRefused, "half way")
}

/// Calls one operation of a service whose first calls fail, and gives what came back and what the service saw.
async fn played<O: Operation<Request = ChargeRequest>>(
    broker: &TestBroker,
    (failures, fault): (usize, fn() -> Fault),
) -> (Result<(), Fault>, Vec<Saw>, String) {
    let service = Scripted::fails(failures, fault);
    let (front, caller) = (serve(broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let result = ask(&caller.operation::<O>().retry(quick(3))).await;
    let metrics = caller.metrics().encode();
    front.drain().await;
    caller.drain().await;
    (result, service.saw(), metrics)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_fault_is_followed_by_success_where_nothing_happened_and_where_a_repeat_is_safe() {
    let broker = broker().await;
    let away: (usize, fn() -> Fault) = (2, || Fault::unavailable("not yet"));
    for (result, saw, metrics) in [
        played::<Read>(&broker, away).await,
        played::<Set>(&broker, away).await,
        played::<Charge>(&broker, away).await,
        played::<Ask>(&broker, away).await,
        played::<Ship>(&broker, away).await,
        played::<Read>(&broker, (2, maybe)).await,
        played::<Set>(&broker, (2, maybe)).await,
        played::<Charge>(&broker, (2, maybe)).await,
    ] {
        result.unwrap();
        assert_eq!(saw.iter().map(|saw| saw.attempt).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(metrics.contains("mesh_call_retries_total{operation=\"test.v1.Front/"), "{metrics}");
        assert!(metrics.contains("what=\"made\"} 2\n"), "{metrics}");
        assert!(metrics.contains("code=\"OK\"} 1\n"), "one call, however many attempts: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_acted_is_called_exactly_once_where_the_contract_forbids_a_blind_repeat() {
    let broker = broker().await;
    for (result, saw, _) in [played::<Ship>(&broker, (1, maybe)).await, played::<Ask>(&broker, (1, maybe)).await] {
        let fault = result.unwrap_err();
        assert_eq!((fault.effect(), fault.message()), (Effect::Unknown, "half way"));
        assert!(fault.detail().contains("does not allow to repeat it blindly"), "{}", fault.detail());
        assert_eq!(saw.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_failure_and_a_wrong_request_stays_wrong() {
    let broker = broker().await;
    for fault in [|| Fault::declined("no"), || Fault::invalid("what?")] as [fn() -> Fault; 2] {
        let (result, saw, metrics) = played::<Read>(&broker, (9, fault)).await;
        assert_eq!((result.unwrap_err(), saw.len()), (fault().raised(), 1));
        assert!(!metrics.contains("what=\"made\""), "{metrics}");
    }
}

/// The fault as the service signs it.
trait Raised {
    fn raised(self) -> Fault;
}

impl Raised for Fault {
    fn raised(self) -> Fault {
        let origin = mesh_core::fault::Origin { operation: "test.v1.Front/Read".into(), ..Default::default() };
        self.with_origin(origin).raised_by("front")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_call_is_repeated_with_its_key_and_a_caller_can_state_it() {
    let broker = broker().await;
    let (_, saw, _) = played::<Charge>(&broker, (2, maybe)).await;
    let keys: BTreeSet<&str> = saw.iter().map(|saw| saw.key.as_str()).collect();
    let prefix = "caller/test.v1.Front.Charge/";
    assert!(keys.len() == 1 && keys.iter().all(|key| key.len() > prefix.len() && key.starts_with(prefix)), "{keys:?}");

    let service = Scripted::fails(0, maybe);
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let client = caller.operation::<Charge>();
    for id in ["17", "17", "18"] {
        client.call(&charge_of(1, 100)).id(id).await.unwrap();
    }
    ask(&client).await.unwrap();
    ask(&caller.operation::<Read>()).await.unwrap();
    let keys: Vec<String> = service.saw().into_iter().map(|saw| saw.key).collect();
    assert_eq!(keys[..3], [format!("{prefix}17"), format!("{prefix}17"), format!("{prefix}18")]);
    assert!(keys[3].starts_with(prefix) && !keys[..3].contains(&keys[3]), "each call without an id has a new key");
    assert_eq!(keys[4], "", "what needs no key has none");
    let fault = client.call(&charge_of(1, 100)).id("a b").await.unwrap_err();
    assert!(fault.message().contains("1 to 128 visible ASCII characters"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_attempt_failed_the_fault_says_how_many_there_were() {
    let broker = broker().await;
    let (result, saw, _) = played::<Read>(&broker, (9, || Fault::unavailable("closed"))).await;
    let fault = result.unwrap_err();
    assert_eq!((fault.message(), saw.len()), ("closed; 3 attempts were made", 3));
    assert_eq!(fault.detail(), "every attempt was used up");

    let service = Scripted::fails(9, || Fault::unavailable("closed"));
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let client = caller.operation::<Read>();
    assert_eq!(ask(&client.clone().without_retry()).await.unwrap_err().message(), "closed");
    assert_eq!(client.call(&charge_of(1, 100)).without_retry().await.unwrap_err().message(), "closed");
    assert_eq!(service.calls(), 2, "made once where that is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_may_have_done_is_not_forgotten() {
    let broker = broker().await;
    let service = Scripted::new("test.v1.Front", |number, _cx| {
        std::future::ready(Err(if number == 0 { maybe() } else { Fault::unavailable("closed") }))
    });
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let fault = ask(&caller.operation::<Charge>().retry(quick(3))).await.unwrap_err();
    assert_eq!((fault.effect(), fault.message()), (Effect::Unknown, "closed; 3 attempts were made"));
    assert_eq!(fault.detail(), "every attempt was used up; an earlier attempt may have acted");
}

/// Two hundred calls at a time, each by a client of its own, as a service makes them that does not keep its client.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_held_to_the_stated_share() {
    const CALLS: usize = 200;
    let broker = broker().await;
    let service = Scripted::fails(usize::MAX, || Fault::unavailable("dead"));
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let begun = Instant::now();
    let results = join_all((0..CALLS).map(|_| async { ask(&caller.operation::<Read>()).await })).await;
    assert!(results.iter().all(Result::is_err));
    // The default: one for five, ten saved up, one a second.
    let limit = CALLS + CALLS / 5 + 10 + usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!((CALLS + 10..=limit).contains(&service.calls()), "{} calls reached it, at most {limit}", service.calls());
    let spent = results.iter().filter(|result| result.as_ref().unwrap_err().detail().contains("budget")).count();
    assert!(spent > CALLS / 2, "the others say why they were not repeated: {spent}");
    assert!(caller.metrics().encode().contains("what=\"budget_spent\"}"));

    // The stated share and nothing else.
    let before = service.calls();
    let budget = BudgetRule { share: 0.1, floor_per_s: 0.0, burst: 5.0 };
    let client = caller.operation::<Read>().retry(CallRetry { budget, ..quick(3) });
    for _ in 0..CALLS {
        ask(&client.clone()).await.unwrap_err();
    }
    let more = service.calls() - before - CALLS;
    assert!((20..=25).contains(&more), "a tenth of {CALLS} and the 5 that were saved up: {more}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_repeated_within_its_deadline_and_no_longer() {
    let broker = broker().await;
    let service = Scripted::fails(usize::MAX, || Fault::unavailable("closed"));
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let client = caller.operation::<Ship>().retry(quick(10_000));
    let timeout = Duration::from_millis(700);
    let begun = Instant::now();
    let fault = client.call(&charge_of(1, 100)).timeout(timeout).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took <= timeout + Duration::from_millis(500), "{took:?}");
    // On a busy machine the last attempt may take longer than the one before it, and meets the deadline itself: here, or where
    // it is served.
    let is_late =
        fault.detail() == "its deadline comes before the next attempt" && fault.message().starts_with("closed; ");
    let is_met = [Reason::CallTimedOut, Reason::DeadlineExpired].contains(&fault.reason());
    assert!(is_late || is_met, "{fault} {}", fault.detail());
    assert!(fault.message().ends_with(" attempts were made"), "{fault}");
    assert!(service.calls() > 10, "{}", service.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stated_time_is_kept_and_one_beyond_the_deadline_is_not_waited_for() {
    const WAIT: Duration = Duration::from_millis(400);
    let broker = broker().await;
    let busy =
        |wait| Fault::new(Code::ResourceExhausted, Effect::None, Reason::Overloaded, "full").with_retry_after(wait);
    let service = Scripted::fails(1, move || busy(WAIT));
    let front = serve(&broker, "front", &service).await;
    let caller = broker.connect("caller").await.unwrap();
    let client = caller.operation::<Ship>().retry(quick(3));
    ask(&client).await.unwrap();
    let saw = service.saw();
    assert!(saw[1].at - saw[0].at >= WAIT, "{:?}", saw[1].at - saw[0].at);
    front.drain().await;

    let service = Scripted::fails(9, move || busy(Duration::from_secs(60)));
    let _front = serve(&broker, "front", &service).await;
    let begun = Instant::now();
    let fault = client.call(&charge_of(1, 100)).timeout(Duration::from_secs(30)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "the fault is returned at once: {:?}", begun.elapsed());
    assert_eq!((fault.message(), fault.retry_after()), ("full", Some(Duration::from_secs(60))));
    assert_eq!((fault.detail(), service.calls()), ("its deadline comes before the next attempt", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_at_first_and_then_somebody_does() {
    let broker = broker().await;
    let caller = broker.connect("caller").await.unwrap();
    let client = caller.operation::<Ship>().retry(quick(100_000));
    let call = client.call(&charge_of(1, 100)).timeout(Duration::from_secs(30)).into_future();
    let service = Scripted::fails(0, maybe);
    let starting = async {
        eventually("a first repeat", || async { caller.metrics().encode().contains("what=\"made\"}").then_some(()) })
            .await;
        serve(&broker, "front", &service).await
    };
    let (result, _front) = tokio::join!(call, starting);
    result.unwrap();
    let saw = service.saw();
    assert_eq!(saw.len(), 1, "an operation that must not be repeated blindly was done once");
    assert!(saw[0].attempt > 1, "and it knows that it was not the first try");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_dropped_stops() {
    let broker = broker().await;
    let service = Scripted::fails(usize::MAX, || Fault::unavailable("closed"));
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let client = caller.operation::<Read>().retry(quick(100_000));
    let call = client.call(&charge_of(1, 100)).timeout(Duration::from_secs(60)).into_future();
    let some = eventually("some attempts", || async { (service.calls() >= 5).then_some(()) });
    tokio::select! {
        result = call => panic!("it goes on for a minute: {result:?}"),
        () = some => {}
    }
    // What was under way when it was dropped has arrived once a later call was answered; a repeat would come within 20 ms.
    ask(&client.clone().without_retry()).await.unwrap_err();
    let (before, since) = (service.calls(), Instant::now());
    let mut own = 0;
    while since.elapsed() < Duration::from_millis(300) {
        ask(&client.clone().without_retry()).await.unwrap_err();
        own += 1;
    }
    assert_eq!(service.calls() - before, own, "nobody else called");
}

/// A front that asks the service behind it, and passes on what caused it.
async fn front_of(broker: &TestBroker) -> (Scripted, Mesh) {
    let mesh = broker.connect("front").await.unwrap();
    let behind = mesh.operation::<ReadBehind>().retry(quick(3));
    let front = Scripted::new("test.v1.Front", move |_, cx| {
        let behind = behind.clone();
        async move { behind.call(&charge_of(1, 100)).caused_by(&cx).await.map(|_| Bytes::new()) }
    });
    (front, mesh)
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_do_not_multiply_through_layers() {
    let broker = broker().await;
    let back = Scripted::new("test.v1.Back", |_, _cx| std::future::ready(Err(Fault::unavailable("dead"))));
    let _back = serve(&broker, "back", &back).await;
    let (front, mesh) = front_of(&broker).await;
    mesh.serve(front.clone()).work(false).start().await.unwrap();
    let caller = broker.connect("caller").await.unwrap();
    let fault = ask(&caller.operation::<Read>().retry(quick(3))).await.unwrap_err();
    assert_eq!(front.attempts(), [1, 2, 3]);
    // Three for the first attempt, one for each that was a retry itself: not three times three.
    assert_eq!(back.attempts(), [1, 2, 3, 2, 3]);
    assert!(fault.detail().contains("it was called for what is a retry itself"), "{}", fault.detail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_a_retry_repeats_no_call() {
    let broker = broker().await;
    let back = Scripted::new("test.v1.Back", |_, _cx| std::future::ready(Err(Fault::unavailable("dead"))));
    let _back = serve(&broker, "back", &back).await;
    let (front, mesh) = front_of(&broker).await;
    let rule = quick(3).rule;
    mesh.serve(front.clone()).calls(false).retry(rule).start().await.unwrap();
    let caller = broker.connect("caller").await.unwrap();
    caller.operation::<Read>().enqueue(&charge_of(1, 100)).await.unwrap();
    eventually("three deliveries and their calls", || async { (back.calls() >= 5).then_some(()) }).await;
    mesh.drain().await;
    assert_eq!((front.attempts(), back.attempts()), (vec![1, 2, 3], vec![1, 2, 3, 2, 3]));
}

/// What a handler does again when its delivery comes again is the same to whom it calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_comes_again_calls_with_the_same_key() {
    let broker = broker().await;
    let back = Scripted::new("test.v1.Back", |number, _cx| {
        std::future::ready(if number == 0 { Err(maybe()) } else { Ok(Bytes::new()) })
    });
    let _back = serve(&broker, "back", &back).await;
    let mesh = broker.connect("front").await.unwrap();
    let behind = mesh.operation::<Does<2, true>>().without_retry();
    let front = Scripted::new("test.v1.Front", move |_, cx| {
        let behind = behind.clone();
        async move { behind.call(&charge_of(1, 100)).caused_by(&cx).await.map(|_| Bytes::new()) }
    });
    mesh.serve(front.clone()).calls(false).retry(quick(3).rule).start().await.unwrap();
    let caller = broker.connect("caller").await.unwrap();
    caller.operation::<Charge>().enqueue(&charge_of(1, 100)).id("17").await.unwrap();
    eventually("the second delivery's call", || async { (back.calls() == 2).then_some(()) }).await;
    mesh.drain().await;
    assert_eq!(front.attempts(), [1, 2]);
    let keys: Vec<String> = back.saw().into_iter().map(|saw| saw.key).collect();
    // It follows from the whole id of the delivery: another caller's work with the same local id has another key.
    let own = &sha256(b"caller/test.v1.Front.Charge/17")[..32];
    assert_eq!(keys, [format!("front/test.v1.Back.Charge/{own}"), format!("front/test.v1.Back.Charge/{own}")]);
}

/// The first request is taken and never answered, as by a process that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_not_answered_is_given_up_only_where_a_repeat_is_safe() {
    let broker = broker().await;
    let hanging = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hanging);
    let service = Scripted::new("test.v1.Front", move |number, _cx| {
        let is_first = number.is_multiple_of(2);
        counted.fetch_add(usize::from(is_first), Ordering::SeqCst);
        async move { if is_first { pending().await } else { Ok(Bytes::new()) } }
    });
    let (_front, caller) = (serve(&broker, "front", &service).await, broker.connect("caller").await.unwrap());
    let limits = CallRetry { attempt_timeout: Some(Duration::from_millis(200)), ..quick(3) };
    let begun = Instant::now();
    let safe = caller.operation::<Set>().retry(limits.clone());
    safe.call(&charge_of(1, 100)).timeout(Duration::from_secs(30)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "not at the deadline: {:?}", begun.elapsed());
    assert_eq!(service.attempts(), [1, 2]);

    let once = caller.operation::<Ship>().retry(limits);
    let fault = once.call(&charge_of(1, 100)).timeout(Duration::from_millis(600)).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::CallTimedOut, Effect::Unknown));
    assert_eq!((service.calls(), hanging.load(Ordering::SeqCst)), (3, 2), "it had all the time, and was made once");
}
