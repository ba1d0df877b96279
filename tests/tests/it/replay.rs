//! Replay as a rollout: a job that the keeper runs, whatever crashes meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use mesh_core::{
    Context, Fault, Mesh,
    bus::{Bus, Stop, StreamLimits},
    clock::TaskScope,
    dead_letter::{ActKind, Letter, LetterState},
    fault::Reason,
    operate::{
        jobs::{self, Ask, End, Job, JobState, Selection},
        letters::{self, Order, Selector},
    },
    policy::replay::Canary,
    proto::v1::{self, letter_record::Record},
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{Seen, TestBroker, eventually};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::task::AbortHandle;

use crate::{
    command_line::Operator,
    shop::{consumer, order, orders},
};

/// Letters of `service/work` of the orders with these numbers.
pub(crate) async fn capture(bus: &Bus, service: &str, numbers: std::ops::Range<usize>) {
    mesh_tests::letters::capture(bus, service, numbers.map(|number| (number as u64, order(number)))).await;
}

/// What a consumer does with what it gets.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    seen: Seen,
    refuse: Arc<AtomicBool>,
    /// From so many on it refuses. 0: never.
    refuse_from: Arc<AtomicUsize>,
}

impl Shelf {
    /// One that takes nothing.
    pub(crate) fn refusing() -> Shelf {
        Shelf { refuse: Arc::new(AtomicBool::new(true)), ..Shelf::default() }
    }

    /// How many letters came by, none of them twice.
    pub(crate) async fn handled(&self) -> usize {
        each_once(&self.seen.lock().await)
    }

    /// Whether the order of this number came by.
    pub(crate) async fn saw(&self, number: usize) -> bool {
        self.seen.lock().await.iter().any(|id| id.ends_with(&format!("/{number}")))
    }
}

pub(crate) async fn work(broker: &TestBroker, service: &str, shelf: &Shelf) -> Mesh {
    let mesh = broker.connect(service).await.unwrap();
    let shelf = shelf.clone();
    let handler = move |cx: Context, _: OrderPlaced| {
        let shelf = shelf.clone();
        async move {
            let mut seen = shelf.seen.lock().await;
            seen.push(cx.message_id().to_owned());
            let from = shelf.refuse_from.load(Ordering::SeqCst);
            let refuse = shelf.refuse.load(Ordering::SeqCst) || (from > 0 && seen.len() > from);
            if refuse { Err(Fault::invalid("not today")) } else { Ok(()) }
        }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    mesh
}

fn each_once(seen: &[String]) -> usize {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    seen.iter().for_each(|id| *count.entry(id).or_default() += 1);
    let doubled: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "handled more than once: {doubled:?}");
    count.len()
}

/// An operator and a keeper at one broker.
pub(crate) struct Office {
    pub(crate) broker: TestBroker,
    operator: Mesh,
    keeper: Mesh,
}

impl Office {
    pub(crate) async fn open(services: &[&str]) -> Office {
        Office::with(services, &StreamLimits::default()).await
    }

    async fn with(services: &[&str], limits: &StreamLimits) -> Office {
        let declared: Vec<_> =
            std::iter::once(orders()).chain(services.iter().map(|service| consumer(service, "work"))).collect();
        let broker = TestBroker::with(&declared, true, limits).await.unwrap();
        let (operator, keeper) = (broker.connect("operator").await.unwrap(), broker.connect("keeper").await.unwrap());
        Office { broker, operator, keeper }
    }

    pub(crate) fn bus(&self) -> &Bus {
        self.operator.bus()
    }

    /// Asks for a job about what is open at one consumer now.
    pub(crate) async fn ask(&self, service: &str, change: impl FnOnce(&mut Ask)) -> Job {
        let filter = letters::Selection { service: Some(service.parse().unwrap()), ..Default::default() };
        let selection = Selection::new(Default::default(), &filter);
        let preview = jobs::preview(self.bus(), &selection).await.unwrap();
        let mut ask = Ask {
            selection,
            cut_off: preview.cut_off,
            selected: preview.letters,
            rate: None,
            canary: Canary::default(),
            abort_if: None,
            at_ms: None,
            max_in_flight: 0,
            by: "ada".into(),
            why: "mended".into(),
        };
        change(&mut ask);
        jobs::create(self.bus(), ask).await.unwrap()
    }

    /// Keeps, until the task is aborted.
    pub(crate) fn keep(&self, me: &str) -> AbortHandle {
        let (bus, me) = (self.keeper.bus().clone(), me.to_owned());
        TaskScope::new().spawn(async move { jobs::run(&bus, &me).await })
    }

    pub(crate) async fn job(&self, job: &Job) -> Job {
        jobs::find(self.bus(), &job.id).await.unwrap()
    }

    pub(crate) async fn finished(&self, job: &Job) -> Job {
        let finished = || async { Some(self.job(job).await).filter(Job::is_finished) };
        eventually("the end of the job", finished).await
    }

    pub(crate) async fn letters(&self) -> Vec<Letter> {
        letters::list(self.bus(), &Selector::default()).await.unwrap().letters
    }

    /// When each order of a job was stored, in order.
    pub(crate) async fn orders_of(&self, job: &Job) -> Vec<i64> {
        self.orders(job).await.into_iter().map(|(stored_ms, _)| stored_ms).collect()
    }

    /// When each order of a job was stored, and when it was given.
    pub(crate) async fn orders(&self, job: &Job) -> Vec<(i64, i64)> {
        let mut orders = Vec::new();
        let each = |message: mesh_core::gate::Unopened| {
            let envelope = message.open().envelope;
            let record = v1::LetterRecord::decode(envelope.payload).unwrap().record;
            match record {
                Some(Record::Replaying(act)) if act.job == job.id => {
                    orders.push((envelope.delivery.unwrap().stored_at_ms, act.at_ms));
                }
                _ => {}
            }
            Stop::No
        };
        self.bus().read(DEAD_LETTER_STREAM, "mesh1.dead.>", each).await.unwrap();
        orders
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_replays_for_one_of_three_consumers_and_the_others_see_nothing() {
    let office = Office::open(&["a", "b", "c"]).await;
    let (a, b, c) = (Shelf::default(), Shelf::default(), Shelf::default());
    let _at_work =
        (work(&office.broker, "a", &a).await, work(&office.broker, "b", &b).await, work(&office.broker, "c", &c).await);
    for service in ["a", "b", "c"] {
        capture(office.bus(), service, 0..40).await;
    }
    // One that was mended and one that is held: the job sees what stands there now.
    let of_b = office.letters().await.into_iter().filter(|letter| letter.letter.service == "b").collect::<Vec<_>>();
    let act = |job: &str| v1::LetterAct { by: "ada".into(), job: job.into(), ..v1::LetterAct::default() };
    let edit = v1::LetterEdit { act: Some(act("")), payload: order(77).encode_to_vec().into(), claim: None };
    append(office.bus(), &of_b[3], Record::Edited(edit)).await;
    append(office.bus(), &of_b[4], Record::Held(act(""))).await;
    let job = office.ask("b", |_| {}).await;
    assert_eq!((job.state(), job.replay.selected), (JobState::Waiting, 39));
    let keeping = office.keep("one");
    let job = office.finished(&job).await;
    assert_eq!(job.state(), JobState::Done);
    let counts = job.counts();
    assert_eq!((counts.dispatched, counts.resolved, counts.failed, counts.skipped.total()), (39, 39, 0, 0));
    assert_eq!(each_once(&b.seen.lock().await), 39);
    assert_eq!((a.seen.lock().await.len(), c.seen.lock().await.len()), (0, 0), "nobody else was disturbed");
    let letters = office.letters().await;
    let resolved: Vec<_> = letters.iter().filter(|letter| letter.state == LetterState::Resolved).collect();
    assert_eq!(resolved.len(), 39);
    for letter in resolved {
        let ordered = letter.history.iter().find(|act| act.kind == ActKind::Replayed).unwrap();
        assert_eq!((ordered.job.as_str(), ordered.by.as_str(), ordered.why.as_str()), (&*job.id, "ada", "mended"));
    }
    keeping.abort();
}

/// Writes into a letter's history, as the operator's commands do.
pub(crate) async fn append(bus: &Bus, letter: &Letter, record: Record) {
    let subject = format!("mesh1.dead.local.{}.{}.{}", letter.letter.service, letter.letter.consumer, letter.letter.id);
    let headers = vec![("Nats-Expected-Last-Subject-Sequence".into(), letter.last_sequence.to_string())];
    let record = v1::LetterRecord { record: Some(record) };
    let sealed = bus.gate().seal_own(subject, headers, record.encode_to_vec().into());
    bus.publish(DEAD_LETTER_STREAM, sealed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_and_two_jobs_never_send_a_letter_twice_and_all_of_it_is_in_the_history() {
    const LETTERS: usize = 300;
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let letters = office.letters().await;
    let second = office.broker.connect("operator").await.unwrap();
    let jobs = [office.ask("a", |_| {}).await, office.ask("a", |_| {}).await];
    let keeping = office.keep("one");
    let operator = |bus: Bus, by: &'static str, discards: bool| {
        let letters = &letters;
        let order = Order { by: by.into(), why: "mine".into(), ..Order::default() };
        async move {
            let orders = letters.iter().rev().enumerate().map(|(index, letter)| {
                let (bus, order) = (&bus, &order);
                async move {
                    let done = if discards && index % 3 == 0 {
                        letters::discard(bus, letter, order).await
                    } else {
                        letters::replay(bus, letter, order).await.map(drop)
                    };
                    match done {
                        Ok(()) => 1,
                        Err(fault) => {
                            assert_eq!(fault.reason(), Reason::LetterChanged, "{fault}");
                            0
                        }
                    }
                }
            });
            stream::iter(orders).buffer_unordered(16).fold(0, |sum, one| async move { sum + one }).await
        }
    };
    let (ada, eve) =
        tokio::join!(operator(office.bus().clone(), "ada", true), operator(second.bus().clone(), "eve", false));
    let jobs = [office.finished(&jobs[0]).await, office.finished(&jobs[1]).await];
    let letters = eventually("the end of all letters", || async {
        let letters = office.letters().await;
        letters.iter().all(|letter| letter.state.is_ended()).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), LETTERS);
    let acts = |kind| letters.iter().flat_map(|letter| &letter.history).filter(|act| act.kind == kind).count();
    let (replayed, discarded) = (acts(ActKind::Replayed), acts(ActKind::Discarded));
    assert_eq!(replayed + discarded, LETTERS, "each letter had one act");
    assert_eq!(each_once(&shelf.seen.lock().await), replayed);
    let of = |job: &Job| usize::try_from(job.counts().dispatched).unwrap();
    assert_eq!(ada + eve + of(&jobs[0]) + of(&jobs[1]), LETTERS, "whoever was told yes stands in a history");
    for job in &jobs {
        let counts = job.counts();
        assert_eq!(counts.dispatched + counts.skipped.total(), LETTERS as u64, "all that was selected is counted");
    }
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_dies_again_and_again_sends_each_letter_once() {
    const LETTERS: usize = 2000;
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let job = office.ask("a", |ask| ask.rate = "4000/s".parse().ok()).await;
    let mut deaths = 0;
    for turn in 0..25u64 {
        let bus = office.keeper.bus().clone();
        // From before it has read its jobs to the middle of its work.
        let life = Duration::from_millis(15 + 37 * (turn * 7 % 11));
        let me = format!("keeper-{turn}");
        if tokio::time::timeout(life, jobs::run(&bus, &me)).await.is_err() {
            deaths += usize::from(!office.job(&job).await.is_finished());
        }
    }
    assert!(deaths >= 3, "{deaths}");
    let keeping = office.keep("the last");
    office.finished(&job).await;
    keeping.abort();
    let job = office.job(&job).await;
    let counts = job.counts();
    assert_eq!((counts.dispatched, counts.resolved, counts.failed), (LETTERS as u64, LETTERS as u64, 0));
    assert_eq!(each_once(&shelf.seen.lock().await), LETTERS);
    assert_eq!(office.orders_of(&job).await.len(), LETTERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keepers_at_once_do_no_harm() {
    const LETTERS: usize = 600;
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let job = office.ask("a", |_| {}).await;
    let other = office.broker.connect("keeper").await.unwrap();
    let (one, two) = (office.keep("one"), jobs::run(other.bus(), "two"));
    tokio::select! {
        () = two => panic!("it runs until it is dropped"),
        job = office.finished(&job) => assert_eq!(job.counts().resolved, LETTERS as u64),
    }
    assert_eq!(each_once(&shelf.seen.lock().await), LETTERS);
    one.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_the_broker() {
    const LETTERS: usize = 1500;
    // What was under way when the broker went is delivered again soon.
    let limits = StreamLimits { ack_wait: Duration::from_secs(3), ..StreamLimits::default() };
    let mut office = Office::with(&["a"], &limits).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let job = office.ask("a", |ask| ask.rate = "1000/s".parse().ok()).await;
    let keeping = office.keep("one");
    for wanted in [200, 700] {
        eventually("some letters", || async { (shelf.seen.lock().await.len() > wanted).then_some(()) }).await;
        office.broker.server.kill9().await.unwrap();
        office.broker.server.restart().await.unwrap();
    }
    let job = office.finished(&job).await;
    assert_eq!((job.counts().dispatched, job.counts().resolved), (LETTERS as u64, LETTERS as u64));
    assert_eq!(office.orders_of(&job).await.len(), LETTERS);
    let handled: std::collections::BTreeSet<_> = shelf.seen.lock().await.iter().cloned().collect();
    assert_eq!(handled.len(), LETTERS);
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_stops_at_the_step_that_fails() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..100).await;
    let keeping = office.keep("one");
    let rollout = |ask: &mut Ask| {
        ask.canary = Canary::new(vec![1.0, 5.0, 20.0, 100.0]).unwrap();
        // So high that it is exceeded only when all five have ended.
        ask.abort_if = "failed > 79%".parse().ok();
    };
    // The first step is good, the second is not.
    shelf.refuse_from.store(1, Ordering::SeqCst);
    let job = office.ask("a", rollout).await;
    let job = office.finished(&job).await;
    assert_eq!(job.state(), JobState::Aborted);
    let counts = job.counts();
    assert_eq!((counts.dispatched, counts.resolved, counts.failed), (5, 1, 4));
    assert!(matches!(&job.end, Some(End::Aborted(why)) if why == "failed > 79%: 4 of 5 that ended failed again"));
    let open = office.letters().await.iter().filter(|letter| letter.state == LetterState::Open).count();
    assert_eq!(open, 99, "what was not sent and what failed again");

    // Mended: every step holds. What failed again is open, and is meant by a job that is asked for now.
    shelf.refuse_from.store(0, Ordering::SeqCst);
    let job = office.ask("a", rollout).await;
    let job = office.finished(&job).await;
    assert_eq!((job.state(), job.counts().resolved, job.replay.selected), (JobState::Done, 99, 99));
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_stops_a_job_within_two_seconds() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    // More than a consumer that gets no turn for seconds could let through.
    capture(office.bus(), "a", 0..8000).await;
    shelf.refuse_from.store(300, Ordering::SeqCst);
    let keeping = office.keep("one");
    let change = |ask: &mut Ask| (ask.rate, ask.abort_if) = ("400/s".parse().ok(), "failed > 20".parse().ok());
    let job = office.ask("a", change).await;
    let job = office.finished(&job).await;
    assert_eq!(job.state(), JobState::Aborted);
    let orders = office.orders_of(&job).await;
    let mut failed: Vec<i64> = office.letters().await.iter().filter(|it| it.letter.generation == 1).map(at).collect();
    failed.sort_unstable();
    let late_ms = orders.last().unwrap() - failed[20];
    assert!(late_ms < 2000, "{late_ms} ms after the threshold a letter was still sent");
    assert_eq!(job.counts().dispatched, orders.len() as u64);
    assert!(orders.len() < 4000, "{}", orders.len());
    assert_eq!(job.counts().in_flight(), 0, "all that was sent is counted");
    keeping.abort();
}

fn at(letter: &Letter) -> i64 {
    letter.letter.captured_at_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_within_two_per_cent() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..201).await;
    let keeping = office.keep("one");
    let job = office.ask("a", |ask| ask.rate = "50/s".parse().ok()).await;
    let job = office.finished(&job).await;
    let orders = office.orders_of(&job).await;
    assert_eq!(orders.len(), 201);
    let took_ms = orders.last().unwrap() - orders.first().unwrap();
    assert!((3920..=4080).contains(&took_ms), "200 letters after the first took {took_ms} ms instead of 4000");
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_pauses_resumes_and_cancels() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..2000).await;
    let keeping = office.keep("one");
    let job = office.ask("a", |ask| ask.rate = "200/s".parse().ok()).await;
    let sent = || async { office.orders_of(&job).await.len() };
    eventually("some letters", || async { (sent().await > 20).then_some(()) }).await;
    jobs::pause(office.bus(), &office.job(&job).await, "eve", "wait").await.unwrap();
    let fault = jobs::pause(office.bus(), &office.job(&job).await, "eve", "wait").await.unwrap_err();
    assert_eq!(fault.reason(), Reason::JobChanged);
    // What was under way ends, and is said.
    let paused = eventually("a quiet job", || async {
        let job = office.job(&job).await;
        let counts = job.counts();
        (job.is_paused && counts.dispatched > 0 && counts.in_flight() == 0).then_some(counts.dispatched)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sent().await as u64, paused, "nothing is sent while it is paused");
    jobs::resume(office.bus(), &office.job(&job).await, "eve", "go").await.unwrap();
    let on = usize::try_from(paused).unwrap() + 20;
    eventually("more letters", || async { (sent().await > on).then_some(()) }).await;
    jobs::cancel(office.bus(), &office.job(&job).await, "eve", "enough").await.unwrap();
    let ended = office.finished(&job).await;
    assert_eq!((ended.state(), ended.counts().in_flight()), (JobState::Cancelled, 0));
    assert_eq!(ended.counts().dispatched, sent().await as u64);
    assert!(sent().await < 2000);
    let said: Vec<_> = ended.history.iter().map(|moment| (moment.what, moment.act.by.as_str())).collect();
    let expected = [("asked", "ada"), ("taken up", "one"), ("paused", "eve"), ("resumed", "eve"), ("cancelled", "eve")];
    assert_eq!(said, expected);
    assert!(jobs::cancel(office.bus(), &ended, "eve", "again").await.is_err());
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_captured_after_asking_is_not_touched_and_nothing_is_sent_before_its_hour() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..20).await;
    let at_ms = office.bus().gate().clock().now_ms() + 1500;
    let job = office.ask("a", |ask| ask.at_ms = Some(at_ms)).await;
    capture(office.bus(), "a", 20..30).await;
    let keeping = office.keep("one");
    let job = office.finished(&job).await;
    assert!(job.started_ms >= at_ms);
    assert!(*office.orders_of(&job).await.first().unwrap() >= at_ms);
    assert_eq!((job.counts().resolved, job.replay.selected), (20, 20));
    assert_eq!(each_once(&shelf.seen.lock().await), 20);
    let open = office.letters().await.iter().filter(|letter| letter.state == LetterState::Open).count();
    assert_eq!(open, 10);
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_asked_for_watched_and_looked_at_from_the_command_line() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..30).await;
    let person = Operator::at(&office.broker, "operator");
    let replay = |more: &[&'static str]| [&["dead-letter", "replay", "--all"], more].concat();

    let dry = person.json(0, &replay(&["--dry-run"])).await;
    assert_eq!((&dry["letters"], &dry["consumers"]["a/work"]), (&30.into(), &30.into()));
    assert_eq!(dry["first"].as_array().unwrap().len(), 10);
    // Said before anybody is asked: nobody listens there.
    let nowhere = Operator::at(&office.broker, "operator").through("nats://127.0.0.1:1".into());
    for (words, said) in [(["--abort-if", "failed < 5"], "column 8"), (["--canary", "5,1"], "5 comes before 1")] {
        let wrong = nowhere.run(&replay(&words)).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&wrong.stderr).contains(said), "{wrong:?}");
    }
    let over = person.run(&replay(&["--at", "2026-01-02T02:30:00Z", "--yes", "--no-wait"])).await;
    let said = String::from_utf8_lossy(&over.stderr);
    assert!(
        over.status.code() == Some(2) && said.contains("2026-01-02 02:30:00 UTC has passed; now it is 20"),
        "{said}"
    );
    assert!(person.json(0, &["dead-letter", "jobs", "list"]).await.as_array().unwrap().is_empty());

    // Nobody keeps: it waits, and says so.
    let words = replay(&["--rate", "200/s", "--canary", "10,100", "--why", "mended", "--yes", "--no-wait"]);
    let asked = person.run(&words).await;
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("no keeper is active"), "{asked:?}");
    let listed = person.json(0, &["dead-letter", "jobs", "list"]).await;
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!((&listed[0]["state"], &listed[0]["abortIf"]), (&"waiting".into(), &"failed > 5%".into()));
    let paused = person.json(0, &["dead-letter", "jobs", "pause", &id[..4], "--why", "wait"]).await;
    assert_eq!(paused["state"], "paused");
    person.json(0, &["dead-letter", "jobs", "resume", id]).await;
    let keeping = office.keep("one");
    let ended = person.json(0, &["dead-letter", "jobs", "watch", id]).await;
    assert_eq!((&ended["state"], &ended["resolved"], &ended["finished"]), (&"done".into(), &30.into(), &true.into()));
    assert_eq!(each_once(&shelf.seen.lock().await), 30);
    let late = person.run(&["dead-letter", "jobs", "cancel", id]).await;
    assert_eq!(late.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&late.stderr).contains("error[MESH-0030]"), "{late:?}");
    let none = person.run(&["dead-letter", "jobs", "show", "zz"]).await;
    assert_eq!(none.status.code(), Some(2));
    keeping.abort();
}
