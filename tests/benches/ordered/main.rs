//! The order of keys at length: ten thousand keys, failures, letters released after a while, processes that come and go; and
//! how its throughput compares with that of a consumer without order, on the same machine with the same failures.
//!
//! `cargo bench -p mesh-tests --bench ordered` prints one line and ends with 1 if a promise is broken.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    consume::{ConsumerSettings, OrderSettings},
    dead_letter::LetterState,
    operate::letters::{self, Order, Selector},
    policy::{
        compile::{Consumes, Declaration},
        retry::RetryRule,
    },
};
use mesh_tests::{Growing, TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;

const EVENT: &str = "shop.orders.v1.OrderPlaced";

/// What is run.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Keys.
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// Messages of each key.
    #[arg(long, default_value_t = 5)]
    each: usize,
    /// How long a letter waits until it is released, seconds.
    #[arg(long, default_value_t = 5)]
    release_after: u64,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Seen {
    /// The newest message of each key that was done.
    done: Mutex<HashMap<String, usize>>,
    mended: Mutex<BTreeSet<usize>>,
    count: AtomicUsize,
    violations: AtomicUsize,
    counted: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn declarations(ordered: bool) -> anyhow::Result<[Declaration; 2]> {
    let mut orders = Declaration::new("orders".parse()?);
    orders.publishes.insert(EVENT.into());
    let mut mail = Declaration::new("mail".parse()?);
    let consumes = Consumes { consumer: "work".parse()?, producer: "orders".into(), event: EVENT.into(), ordered };
    mail.consumes.insert(consumes);
    Ok([orders, mail])
}

/// The message `number` of `keys`: 4 % fail once, 1 % until they are released.
fn judge(seen: &Seen, number: usize, attempt: u32) -> Result<(), Fault> {
    match number.wrapping_mul(7919) % 100 {
        0..4 if attempt == 1 => Err(Fault::unavailable("a moment, please")),
        4 if !locked(&seen.mended).contains(&number) => Err(Fault::invalid("broken")),
        _ => Ok(()),
    }
}

async fn worker(broker: &TestBroker, seen: &Arc<Seen>, keys: usize, ordered: bool) -> anyhow::Result<Mesh> {
    let mesh = broker.connect("mail").await?;
    let seen = Arc::clone(seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let seen = Arc::clone(&seen);
        async move {
            let number: usize = event.order_id.parse().map_err(|_| Fault::invalid("no number"))?;
            tokio::task::yield_now().await;
            judge(&seen, number, cx.attempt())?;
            let before = locked(&seen.done).insert(event.customer_id, number);
            // The one before it of the same key must have been the last one.
            let expected = number.checked_sub(keys).filter(|number| *number > 0);
            if before != expected && before != Some(number) {
                seen.violations.fetch_add(1, Ordering::Relaxed);
            }
            if before != Some(number) {
                seen.count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    let retry = RetryRule { base: Duration::from_millis(500), ..RetryRule::default() };
    let order = ordered.then(OrderSettings::default);
    let settings = ConsumerSettings { concurrency: 256, prefetch: 256, retry, order, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await?;
    Ok(mesh)
}

async fn publish(broker: &TestBroker, args: &Args) -> anyhow::Result<()> {
    let mesh = broker.connect("orders").await?;
    let publisher = mesh.publisher::<OrderPlaced>();
    // Each round has each key once, so that the numbers of a key are stored in order.
    for round in 0..args.each {
        let numbers = (round * args.keys + 1)..=((round + 1) * args.keys);
        let event = |number: usize| OrderPlaced {
            order_id: number.to_string(),
            customer_id: format!("c{}", number % args.keys),
            ..OrderPlaced::default()
        };
        let events = futures_util::stream::iter(numbers.map(|number| (number.to_string(), event(number))));
        let results: Vec<_> = publisher.publish_all(events, 1000).collect().await;
        for (_, result) in results {
            result?;
        }
    }
    mesh.drain().await;
    Ok(())
}

/// Replays each letter some time after it was captured, until there is nothing left to do.
async fn release(broker: &TestBroker, seen: &Seen, after: Duration) -> anyhow::Result<usize> {
    let operator = broker.connect("operator").await?;
    let mut released = 0;
    let order = Order { by: "bench".into(), why: "released".into(), again: false, job: String::new() };
    while !seen.counted.load(Ordering::Relaxed) {
        let now_ms = operator.bus().gate().clock().now_ms();
        let letters = letters::list(operator.bus(), &Selector::default()).await?.letters;
        for letter in letters.into_iter().filter(|letter| letter.state == LetterState::Open) {
            let age_ms = now_ms.saturating_sub(letter.letter.captured_at_ms);
            if u128::try_from(age_ms).unwrap_or(0) < after.as_millis() {
                continue;
            }
            let id = letter.letter.source.clone().unwrap_or_default().message_id;
            locked(&seen.mended).extend(id.rsplit('/').next().and_then(|id| id.parse::<usize>().ok()));
            letters::replay(operator.bus(), &letter, &order).await?;
            released += 1;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    operator.drain().await;
    Ok(released)
}

/// Ends when so many messages are handled.
async fn handled(seen: &Seen, count: usize) -> anyhow::Result<()> {
    let mut growing = Growing::new("messages that were handled");
    loop {
        let now = seen.count.load(Ordering::Relaxed);
        if now >= count {
            return Ok(());
        }
        growing.look(now as u64)?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Messages a second of one worker, of what lies in the stream already, with failures and without letters.
async fn rate(args: &Args, ordered: bool) -> anyhow::Result<f64> {
    let broker = TestBroker::start(&declarations(ordered)?).await?;
    publish(&broker, args).await?;
    let seen = Arc::new(Seen::default());
    let total = args.keys * args.each;
    // Final failures wait for nobody here: they are mended from the beginning, as a letter waits on purpose.
    locked(&seen.mended).extend(1..=total);
    // One, for both: with two, partitions would change hands while the clock runs.
    let worker = worker(&broker, &seen, args.keys, ordered).await?;
    handled(&seen, total / 10).await?;
    let started = Instant::now();
    // The last ones are retries that wait for their time, with and without order.
    handled(&seen, total * 9 / 10).await?;
    let rate = f64::from(u32::try_from(total * 8 / 10)?) / started.elapsed().as_secs_f64();
    worker.drain().await;
    Ok(rate)
}

/// 2, then 8, then 3 workers, while messages come and letters are released.
async fn scaled(args: &Args) -> anyhow::Result<(usize, usize)> {
    let broker = TestBroker::start(&declarations(true)?).await?;
    let seen = Arc::new(Seen::default());
    let total = args.keys * args.each;
    let scaling = async {
        let mut workers = Vec::new();
        let reached = |share: usize| handled(&seen, total * share / 100);
        for _ in 0..2 {
            workers.push(worker(&broker, &seen, args.keys, true).await?);
        }
        reached(20).await?;
        for _ in 0..6 {
            workers.push(worker(&broker, &seen, args.keys, true).await?);
        }
        reached(60).await?;
        for worker in workers.drain(..5) {
            worker.drain().await;
        }
        reached(100).await?;
        seen.counted.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.drain().await;
        }
        anyhow::Ok(())
    };
    let releasing = release(&broker, &seen, Duration::from_secs(args.release_after));
    let ((), (), released) = tokio::try_join!(publish(&broker, args), scaling, releasing)?;
    let operator = broker.connect("operator").await?;
    eventually("an empty lane", || async {
        let lane = operator.bus().stream_state("mesh1-lane-mail").await.ok()??;
        (lane.messages == 0).then_some(())
    })
    .await;
    operator.drain().await;
    Ok((seen.violations.load(Ordering::Relaxed), released))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let started = Instant::now();
    let (violations, letters) = Box::pin(scaled(&args)).await?;
    let took = started.elapsed().as_secs_f32();
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let (unordered, ordered) = (Box::pin(rate(&args, false)).await?, Box::pin(rate(&args, true)).await?);
        writeln!(std::io::stderr(), "ordered {ordered:.0}/s, unordered {unordered:.0}/s")?;
        pairs.push((unordered, ordered));
    }
    pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (unordered, ordered) = pairs.get(1).copied().unwrap_or_default();
    let ratio = ordered / unordered;
    let pass = violations == 0 && ratio >= 0.8;
    writeln!(
        std::io::stdout(),
        "ordered keys={} published={} letters={letters} workers=2-8-3 took={took:.0}s violations={violations} ordered={ordered:.0}/s unordered={unordered:.0}/s ratio={ratio:.2} {}",
        args.keys,
        args.keys * args.each,
        if pass { "PASS" } else { "FAIL" }
    )?;
    anyhow::ensure!(pass, "a promise is broken");
    Ok(())
}
