//! Many letters, replayed by a job: how fast, and that each is sent once, whatever dies meanwhile.
//!
//! `cargo bench -p mesh-tests --bench replay -- --letters 100000 --deaths 4`. Prints one line.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails says where, and prints what it found"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Parser as _;
use mesh_core::{
    Context, Fault,
    bus::{Bus, StreamLimits},
    operate::jobs::{self, Ask, Job, Selection},
    policy::replay::Counts,
};
use mesh_tests::{
    Growing, TestBroker,
    letters::{capture, declarations},
};
use shop_proto::shop::orders::v1::OrderPlaced;

/// How often it is looked how far the jobs are.
const LOOK: Duration = Duration::from_millis(50);

#[derive(clap::Parser)]
struct Args {
    /// Letters.
    #[arg(long, default_value_t = 100_000)]
    letters: usize,
    /// How often the keeper dies while it sends.
    #[arg(long, default_value_t = 0)]
    deaths: u32,
    /// How many operators more ask for the same while it is under way, and crash.
    #[arg(long, default_value_t = 0)]
    operators: u32,
    /// A broker that does not sync always.
    #[arg(long)]
    default_sync: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let broker =
        TestBroker::with(&declarations("a").unwrap(), !args.default_sync, &StreamLimits::default()).await.unwrap();
    let (operator, keeper) = (broker.connect("operator").await.unwrap(), broker.connect("keeper").await.unwrap());

    let started = Instant::now();
    capture(operator.bus(), "a", (0..args.letters as u64).map(order)).await;
    let captured = rate(args.letters, started.elapsed());

    // Nobody handles them yet: this is the keeper's own pace.
    let mut asked = 1;
    ask(&broker, args.letters).await;
    let started = Instant::now();
    let mut deaths = 0;
    let sent = loop {
        let life =
            if deaths < args.deaths { Duration::from_millis(700 + 150 * u64::from(deaths)) } else { Duration::MAX };
        let me = format!("keeper-{deaths}");
        tokio::select! {
            () = jobs::run(keeper.bus(), &me) => unreachable!("it runs until it is dropped"),
            sent = all_sent(operator.bus(), args.letters) => break sent,
            () = ask(&broker, args.letters), if asked <= args.operators => asked += 1,
            () = tokio::time::sleep(life) => deaths += 1,
        }
    };
    let dispatched = rate(sent, started.elapsed());
    let on_lane = operator.bus().stream_state("mesh1-lane-a").await.unwrap().unwrap().messages;

    let seen: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let into = Arc::clone(&seen);
    let worker = broker.connect("a").await.unwrap();
    let handler = move |cx: Context, _: OrderPlaced| {
        *into.lock().unwrap().entry(cx.message_id().to_owned()).or_default() += 1;
        async { Ok::<(), Fault>(()) }
    };
    worker.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let started = Instant::now();
    let all = tokio::select! {
        () = jobs::run(keeper.bus(), "the last") => unreachable!("it runs until it is dropped"),
        all = finished(operator.bus()) => all,
    };
    let resolved = rate(args.letters, started.elapsed());
    let seen = seen.lock().unwrap();
    let (doubled, lost) = (seen.values().filter(|count| **count > 1).count(), args.letters - seen.len());
    let sum = |count: fn(&Counts) -> u64| all.iter().map(|job| count(&job.counts())).sum::<u64>();
    let total = args.letters as u64;
    let each_once = (sum(|it| it.dispatched), sum(|it| it.resolved)) == (total, total);
    let is_right = doubled == 0 && lost == 0 && each_once && all.len() == asked as usize;
    println!(
        "replay letters={} deaths={deaths} jobs={asked} captured={captured}/s dispatched={dispatched}/s on_lane={on_lane} handled={resolved}/s \
         doubled={doubled} lost={lost} {}",
        args.letters,
        if is_right { "PASS" } else { "FAIL" }
    );
    assert!(is_right);
}

fn rate(count: usize, took: Duration) -> u128 {
    count as u128 * 1000 / took.as_millis().max(1)
}

/// An order as large as they are.
fn order(number: u64) -> (u64, OrderPlaced) {
    let (order_id, customer_id) = (number.to_string(), "x".repeat(200));
    (number, OrderPlaced { order_id, customer_id, ..OrderPlaced::default() })
}

/// An operator asks for all letters, and is gone before anybody can tell them what came of it.
async fn ask(broker: &TestBroker, letters: usize) {
    let operator = broker.connect("operator").await.unwrap();
    let preview = jobs::preview(operator.bus(), &Selection::default()).await.unwrap();
    let ask = Ask {
        selection: Selection::default(),
        cut_off: preview.cut_off,
        selected: preview.letters,
        rate: None,
        canary: Default::default(),
        abort_if: None,
        at_ms: None,
        max_in_flight: u32::try_from(letters).unwrap(),
        by: "bench".into(),
        why: String::new(),
    };
    jobs::create(operator.bus(), ask).await.unwrap();
}

/// Ends when the jobs say that all are sent; how many.
async fn all_sent(bus: &Bus, letters: usize) -> usize {
    let mut growing = Growing::new("letters that the jobs have sent");
    loop {
        let sent: u64 = jobs::list(bus).await.unwrap().iter().map(|job| job.counts().dispatched).sum();
        if sent >= letters as u64 {
            return usize::try_from(sent).unwrap();
        }
        growing.look(sent).unwrap();
        tokio::time::sleep(LOOK).await;
    }
}

async fn finished(bus: &Bus) -> Vec<Job> {
    let mut growing = Growing::new("letters whose end the jobs know");
    loop {
        let all = jobs::list(bus).await.unwrap();
        if all.iter().all(Job::is_finished) {
            return all;
        }
        growing.look(all.iter().map(|job| job.counts().resolved + job.counts().failed).sum()).unwrap();
        tokio::time::sleep(LOOK).await;
    }
}
