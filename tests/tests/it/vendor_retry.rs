//! What a vendor file says of retries is what happens: the adapter is a real process, the vendor answers real HTTP.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_core::{
    Context, Fault, Mesh,
    clock::{Clock, TaskScope},
    consume::ConsumerSettings,
    fault::{Code, Effect, Reason},
    operate::letters::{self, Selector},
    policy::{budget::BudgetRule, retry::RetryRule},
    proto::v1,
};
use mesh_tests::{TestBroker, eventually, mesh_binary, within};
use shop_proto::shop::payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsClient, PaymentsServer};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::shop::{bank, charge_of, till};

const TOO_OLD: &str = "it is older than the rule allows to try again";

/// A vendor that answers 503 to some customers, or to all, and counts the calls of each order and of each customer. The
/// customer `recovers` gets 503 for the first call of an order. The customer `throttled` gets 429, and is told to come back at once.
#[derive(Clone, Default)]
struct Vendor {
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
    /// The idempotency keys, in their order.
    keys: Arc<Mutex<Vec<String>>>,
    healthy: &'static [&'static str],
}

impl Vendor {
    async fn start(healthy: &'static [&'static str], tasks: &TaskScope) -> (String, Vendor) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let vendor = Vendor { healthy, ..Vendor::default() };
        let (serving, each) = (vendor.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let vendor = serving.clone();
                let service = service_fn(move |request| vendor.clone().answer(request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                each.spawn(async move { drop(connection.await) });
            }
        });
        (url, vendor)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        self.keys.lock().unwrap().push(key.to_owned());
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let form = String::from_utf8_lossy(&body).into_owned();
        let of = |name: &str| form.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or_default().to_owned();
        let (order, customer) = (of("metadata[order]="), of("metadata[customer]="));
        let mut calls = self.calls.lock().unwrap();
        let came_before = customer == "recovers" && calls.contains_key(&format!("order {order}"));
        let is_healthy = came_before || self.healthy.contains(&customer.as_str());
        for name in [format!("order {order}"), format!("customer {customer}"), "all".to_owned()] {
            *calls.entry(name).or_default() += 1;
        }
        let response = match (is_healthy, customer.as_str()) {
            (true, _) => Response::builder().status(200),
            (_, "throttled") => Response::builder().status(429).header("retry-after", "0"),
            _ => Response::builder().status(503),
        };
        let text = if is_healthy { r#"{"id":"ch_1","status":"succeeded"}"# } else { "{}" };
        Ok(response.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap())
    }

    fn calls(&self, what: &str) -> usize {
        self.calls.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

/// The shop's own file with `retry` at the top and with lines of its one operation.
fn file(folder: &Path, top: &str, operation: &str) -> String {
    let (_, text) = shop::vendor_files().into_iter().find(|(name, _)| *name == "stripe.yaml").unwrap();
    let text = text.replacen("operations:\n", &format!("{top}\noperations:\n"), 1);
    let text = text.replacen("    request:\n", &format!("{operation}\n    request:\n"), 1);
    let path = folder.join("stripe.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// `mesh adapter` as the service `bank`, ready. It ends when this is dropped.
async fn adapter(broker: &TestBroker, folder: &Path, file: &str, url: &str) -> Child {
    let seed = folder.join("bank.seed");
    std::fs::write(&seed, broker.seed("bank").unwrap()).unwrap();
    let mut child = Command::new(mesh_binary())
        .args(["adapter", "--name", "bank", "--vendor", file])
        .env("MESH_NATS_URL", broker.server.client_url())
        .env("MESH_NATS_SEED_FILE", seed)
        .env("STRIPE_BASE_URL", url)
        .env("STRIPE_API_KEY", "sk_test_1")
        .env_remove("MESH_CLUSTER")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
    assert!(line.unwrap().contains("\"ready\":\"bank\""));
    child
}

/// A charge of order `number` for a customer, queued.
async fn charge(till: &Mesh, number: usize, customer: &str) {
    let request = ChargeRequest { customer_id: customer.to_owned(), ..charge_of(number, 100) };
    PaymentsClient::new(till).charge().enqueue(&request).id(number.to_string()).await.unwrap();
}

async fn letters_of(operator: &Mesh, count: usize) -> Vec<v1::DeadLetter> {
    eventually("the letters", || async {
        let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
        assert!(letters.len() <= count);
        (letters.len() == count).then(|| letters.into_iter().map(|letter| letter.letter).collect())
    })
    .await
}

/// What every test here needs.
struct Shop {
    broker: TestBroker,
    folder: tempfile::TempDir,
    tasks: TaskScope,
    till: Mesh,
    operator: Mesh,
}

impl Shop {
    async fn open() -> Shop {
        let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
        let (till, operator) = (broker.connect("till").await.unwrap(), broker.connect("operator").await.unwrap());
        Shop { broker, folder: tempfile::tempdir().unwrap(), tasks: TaskScope::new(), till, operator }
    }

    async fn adapter(&self, top: &str, operation: &str, url: &str) -> Child {
        let file = file(self.folder.path(), top, operation);
        adapter(&self.broker, self.folder.path(), &file, url).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_attempts_are_made_and_then_it_is_a_letter() {
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&[], &shop.tasks).await;
    let top = "retry: {attempts: 9, first_delay: 20ms, longest_delay: 50ms}";
    let _adapter = shop.adapter(top, "    retry: {attempts: 2}", &url).await;
    charge(&shop.till, 1, "a").await;
    let letter = letters_of(&shop.operator, 1).await.remove(0);
    assert_eq!(letter.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
    let fault = letter.fault.unwrap();
    assert!(fault.detail.starts_with("every attempt was used up"), "{}", fault.detail);
    assert_eq!(
        vendor.calls("order 1"),
        2,
        "the vendor's count: the operation's attempts, not the vendor's nine or five"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_file_allows_is_not_tried_again() {
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&[], &shop.tasks).await;
    let top = "retry: {attempts: 1000, first_delay: 50ms, longest_delay: 200ms, max_age: 3s}";
    let _adapter = shop.adapter(top, "", &url).await;
    let begun = Instant::now();
    charge(&shop.till, 1, "a").await;
    let letter = letters_of(&shop.operator, 1).await.remove(0);
    assert!(begun.elapsed() > Duration::from_secs(2), "it was tried until it was too old: {:?}", begun.elapsed());
    let fault = letter.fault.unwrap();
    assert!(fault.detail.starts_with(TOO_OLD), "{}", fault.detail);
    let tried = vendor.calls("order 1");
    assert!((3..200).contains(&tried), "{tried} attempts in three seconds");
    let last = letter.attempts.last().unwrap();
    let age_ms = last.started_at_ms - letter.source.unwrap().stored_at_ms;
    assert!(
        age_ms < 3500,
        "no attempt was begun later, but for the moment between the look and the beginning: {age_ms}"
    );
    assert_eq!(usize::try_from(last.number).unwrap(), tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_budget_bounds_the_retries_of_all_its_work() {
    const COUNT: usize = 40;
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&[], &shop.tasks).await;
    let budget = "budget: {share: 0.1, per_second: 0, burst: 2}";
    let top = format!("retry: {{attempts: 50, first_delay: 1ms, longest_delay: 100ms, max_age: 3s, {budget}}}");
    let _adapter = shop.adapter(&top, "", &url).await;
    for number in 1..=COUNT {
        charge(&shop.till, number, "a").await;
    }
    letters_of(&shop.operator, COUNT).await;
    let calls = vendor.calls("all");
    // Two that were saved up and a tenth of the first attempts.
    assert!((COUNT..=COUNT + 2 + COUNT / 10).contains(&calls), "{calls} calls for {COUNT} charges");
    assert!(calls > COUNT, "some were granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_the_file_that_is_down_delays_no_other() {
    const EACH: usize = 150;
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&["well"], &shop.tasks).await;
    let top = "retry: {attempts: 1000, first_delay: 50ms, longest_delay: 400ms, max_age: 20s}";
    let _adapter = shop.adapter(top, "    isolate_by: request.customer_id", &url).await;
    for number in 1..=EACH {
        charge(&shop.till, 2 * number, "down").await;
        charge(&shop.till, 2 * number + 1, "well").await;
    }
    eventually("every healthy one", || async { (vendor.calls("customer well") == EACH).then_some(()) }).await;
    let tried = vendor.calls("customer down");
    assert!(tried < EACH / 2, "after some failures it is probed instead of tried: {tried} calls for {EACH} charges");
    let letters = letters::list(shop.operator.bus(), &Selector::default()).await.unwrap().letters;
    assert!(letters.is_empty(), "what waits for its target is no letter");
}

/// No attempt is counted and no budget asked for what is throttled: only the pause keeps it from being a hot loop.
#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_is_busy_and_says_come_at_once_is_asked_more_and_more_seldom() {
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&[], &shop.tasks).await;
    let _adapter = shop.adapter("", "", &url).await;
    let begun = Instant::now();
    charge(&shop.till, 1, "throttled").await;
    eventually("four calls", || async { (vendor.calls("order 1") >= 4).then_some(()) }).await;
    // After one, two and four seconds.
    assert!(begun.elapsed() >= Duration::from_secs(7), "four calls in {:?}", begun.elapsed());
    assert!(letters::list(shop.operator.bus(), &Selector::default()).await.unwrap().letters.is_empty());
}

/// The file's rule is for queued work; a call is its caller's to repeat, and the key is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_vendors_operation_is_repeated_by_its_caller_with_its_key() {
    let shop = Shop::open().await;
    let (url, vendor) = Vendor::start(&[], &shop.tasks).await;
    let _adapter = shop.adapter("retry: {attempts: 1}", "", &url).await;
    let request = ChargeRequest { customer_id: "recovers".into(), ..charge_of(7, 100) };
    let reply = PaymentsClient::new(&shop.till).charge().call(&request).id("7").await.unwrap();
    assert_eq!(reply.charge_id, "ch_1");
    assert_eq!(*vendor.keys.lock().unwrap(), ["till/shop.payments.v1.Payments.Charge/7"; 2]);
}

/// Refuses every attempt and counts.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicUsize>);

impl Payments for Failing {
    async fn charge(&self, _cx: Context, _request: ChargeRequest) -> Result<ChargeReply, Fault> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Fault::unavailable("not now"))
    }
}

/// Says to every charge, until it is mended, that there are too many, and that they may come again at once.
#[derive(Clone, Default)]
struct Busy {
    /// Their numbers.
    begun: Arc<Mutex<Vec<u32>>>,
    charged: Arc<AtomicUsize>,
    is_mended: Arc<AtomicBool>,
}

impl Payments for Busy {
    async fn charge(&self, cx: Context, _request: ChargeRequest) -> Result<ChargeReply, Fault> {
        self.begun.lock().unwrap().push(cx.attempt());
        if self.is_mended.load(Ordering::SeqCst) {
            self.charged.fetch_add(1, Ordering::SeqCst);
            return Ok(ChargeReply::default());
        }
        let fault = Fault::new(Code::ResourceExhausted, Effect::None, Reason::Overloaded, "too many");
        Err(fault.with_retry_after(Duration::ZERO))
    }
}

impl Busy {
    async fn serve(&self, shop: &Shop, settings: ConsumerSettings) -> Mesh {
        let mesh = shop.broker.connect("bank").await.unwrap();
        mesh.serve(PaymentsServer::new(self.clone())).settings(settings).start().await.unwrap();
        mesh
    }

    fn times(&self) -> usize {
        self.begun.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_says_come_at_once_is_begun_more_and_more_seldom() {
    let (shop, busy) = (Shop::open().await, Busy::default());
    let mesh = busy.serve(&shop, ConsumerSettings::default()).await;
    let begun = Instant::now();
    charge(&shop.till, 1, "a").await;
    eventually("five times", || async { (busy.times() >= 5).then_some(()) }).await;
    // At least half of 0.5, 1, 2 and 4 seconds.
    assert!(begun.elapsed() >= Duration::from_millis(3750), "five times in {:?}", begun.elapsed());
    mesh.drain().await;
    assert!(busy.begun.lock().unwrap().iter().all(|attempt| *attempt == 1), "it cost no attempt");
}

/// How many copies wait on the bank's lane that were put aside and not begun.
async fn put_aside(operator: &Mesh) -> usize {
    let (mut count, mut next) = (0, 1);
    while let Some(copy) = operator.bus().next_on("mesh1-lane-bank", "mesh1.lane.*.bank.*.hold.*", next).await.unwrap()
    {
        let copy = copy.open().envelope;
        count += usize::from(copy.message_id.starts_with("aside/"));
        next = copy.delivery.unwrap().sequence + 1;
    }
    count
}

/// What comes back again and again without an attempt counted draws from the budget, and becomes no letter where there is none.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_wait_again_and_again_asks_the_budget_and_is_not_given_up() {
    const COUNT: usize = 12;
    const SAVED: usize = 3;
    let (shop, busy) = (Shop::open().await, Busy::default());
    let retry = RetryRule { base: Duration::from_millis(20), cap: Duration::from_secs(16), ..RetryRule::default() };
    let retry_budget = BudgetRule { share: 0.0, floor_per_s: 0.1, burst: 3.0 };
    let begun = Instant::now();
    let mesh = busy.serve(&shop, ConsumerSettings { retry, retry_budget, ..ConsumerSettings::default() }).await;
    for number in 1..=COUNT {
        charge(&shop.till, number, "a").await;
    }
    // Each was begun, and came back once without asking. Then there is budget for three, and for one more in ten seconds.
    let all_wait = || async {
        let is_all = put_aside(&shop.operator).await == COUNT;
        let (times, paid) =
            (busy.times(), 2 * COUNT + SAVED + usize::try_from(begun.elapsed().as_secs() / 10).unwrap());
        assert!(times <= paid, "begun {times} times, {paid} were paid for");
        is_all.then_some(times)
    };
    let times = eventually("all wait for budget", all_wait).await;
    assert!(times >= 2 * COUNT + SAVED, "what was saved up was given: begun {times} times");
    // The next that is granted is done, and so pays for the next.
    busy.is_mended.store(true, Ordering::SeqCst);
    let done = || async { (busy.charged.load(Ordering::SeqCst) == COUNT).then_some(()) };
    within(Duration::from_secs(60), "all are charged", done).await;
    mesh.drain().await;
    assert!(letters::list(shop.operator.bus(), &Selector::default()).await.unwrap().letters.is_empty());
}

/// Nobody was there when a retry was due, and the key is forgotten when somebody is.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_retry_that_comes_too_late_is_not_made() {
    let shop = Shop::open().await;
    let retry = RetryRule { base: Duration::from_secs(1), max_age: Duration::from_secs(3600), ..RetryRule::default() };
    let settings = ConsumerSettings { retry, ..ConsumerSettings::default() };
    let ahead_ms = Arc::new(AtomicI64::new(0));
    let serve = async |attempts: Failing| {
        let ahead_ms = Arc::clone(&ahead_ms);
        let later = move || SystemTime::now() + Duration::from_millis(ahead_ms.load(Ordering::SeqCst).unsigned_abs());
        let mesh = Mesh::builder("bank")
            .region(mesh_tests::broker::REGION)
            .url(&shop.broker.server.client_url())
            .credential(shop.broker.credential("bank"))
            .clock(Clock::from_fn(later));
        let mesh = mesh.connect().await.unwrap();
        mesh.serve(PaymentsServer::new(attempts)).settings(settings.clone()).start().await.unwrap();
        mesh
    };
    let (before, after) = (Failing::default(), Failing::default());
    let first = serve(before.clone()).await;
    charge(&shop.till, 1, "a").await;
    let lane = "mesh1-lane-bank";
    eventually("the delayed copy", || async {
        let stored = shop.operator.bus().stream_state(lane).await.unwrap().unwrap().last_sequence;
        (stored > 0).then_some(())
    })
    .await;
    first.drain().await;
    let tried = before.0.load(Ordering::SeqCst);
    ahead_ms.store(2 * 3_600_000, Ordering::SeqCst);
    let second = serve(after.clone()).await;
    let letter = letters_of(&shop.operator, 1).await.remove(0);
    let fault = letter.fault.unwrap();
    assert_eq!((fault.message.as_str(), fault.detail.as_str()), ("not now", TOO_OLD), "as the last attempt left it");
    assert_eq!((tried >= 1, after.0.load(Ordering::SeqCst)), (true, 0), "two hours later nothing is begun");
    second.drain().await;
}
