//! S19: messages of one key one after the other, while messages fail and workers come and go; and what that costs.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    dead_letter::LetterState,
    operate::{
        keys::{self, Head},
        letters::{self, Order, Selector},
    },
};
use mesh_tests::{
    Growing, TestBroker,
    campaign::{Account, Run, Size, Stage, StageSettings, Worker, counter::Rule, order},
};

use crate::Played;

/// So long a letter waits until it is released.
const RELEASED_AFTER: Duration = Duration::from_secs(5);
/// So many workers, until so many of a hundred messages have taken effect.
const SCALES: [(usize, usize); 3] = [(2, 20), (8, 60), (3, 100)];
/// So many of a hundred messages fail once.
const TRANSIENT: usize = 4;
/// So many of a hundred fail until they are mended.
const FINAL: usize = 1;
/// How often somebody looks.
const LOOK: Duration = Duration::from_millis(100);

/// The order under failures and scaling; a control in which nobody keeps it; then the rate with and without it.
pub(crate) async fn keys(run: &mut Run) -> anyhow::Result<Played> {
    let shape = run.sized((200, 3), (10_000, 5));
    let failing = ids(&mut run.random, shape, FINAL);
    let few = ids(&mut run.random, (50, 4), FINAL);
    // A letter holds up its key on purpose: final failures say nothing of the rate.
    let passing = ids(&mut run.random, shape, 0);
    let (scaled, unkept, rates) = if run.size == Size::Quick {
        // So few messages measure nothing: they need not be alone.
        tokio::try_join!(Box::pin(scaled(run, &failing)), Box::pin(unkept(run, &few)), Box::pin(rates(run, &passing)))?
    } else {
        let scaled = Box::pin(scaled(run, &failing)).await?;
        (scaled, Box::pin(unkept(run, &few)).await?, Box::pin(rates(run, &passing)).await?)
    };
    let finals = failing.iter().filter(|id| id.contains("-bad-")).count();
    judge(run, &scaled, finals);
    run.note("control-violations", unkept);
    run.require(unkept > 0, "without order nothing was out of order: the check shows nothing");
    compare(run, rates);
    Ok(Played::Account(scaled.account))
}

/// So many messages of each of so many keys, each key once in a round. Of a hundred, `finals` fail until somebody mends them, and
/// four fail once.
fn ids(random: &mut fastrand::Rng, (keys, each): (usize, usize), finals: usize) -> Vec<String> {
    let count = keys * each;
    let mut words = vec!["bad"; count * finals / 100];
    words.resize(words.len() + count * TRANSIENT / 100, "busy");
    words.resize(count, "good");
    random.shuffle(&mut words);
    (0..).zip(words).map(|(n, word)| order::id(word, n % keys, n / keys + 1)).collect()
}

/// What the run under failures showed.
struct Scaled {
    account: Account,
    violations: Vec<String>,
    released: Released,
    still_blocked: usize,
}

fn judge(run: &mut Run, scaled: &Scaled, finals: usize) {
    let Scaled { account, violations, released, still_blocked } = scaled;
    run.note("workers", "2-8-3");
    run.note("violations", violations.len());
    run.note("blocked", released.blocked.len());
    run.note("released", released.count);
    let some: Vec<_> = violations.iter().take(5).collect();
    run.require(violations.is_empty(), format!("{} out of order: {some:?}", violations.len()));
    run.require(released.count == finals, format!("{} letters of {finals} final failures", released.count));
    run.require(released.unblocked.is_empty(), format!("letters that block nothing: {:?}", released.unblocked));
    run.require(account.letters() == 0, format!("{} letters are left", account.letters()));
    run.require(*still_blocked == 0, format!("{still_blocked} keys are blocked at the end"));
}

/// 2, then 8, then 3 workers, while messages come, fail and are released.
async fn scaled(run: &Run, ids: &[String]) -> anyhow::Result<Scaled> {
    let settings = StageSettings {
        ordered: true,
        rate: run.sized(120, 2000),
        rest: Duration::from_secs(300),
        ..StageSettings::default()
    };
    let stage = Stage::start(run, settings).await?;
    // In the long form two workers are too few for the rate, eight are enough: a queue grows and is worked off.
    stage.counter.rule("good", Rule::Slow(20)).await?;
    stage.counter.rule("busy", Rule::Busy(1)).await?;
    let finals = ids.iter().filter(|id| id.contains("-bad-")).count();
    let (sent, _workers, released) =
        tokio::try_join!(stage.offer(ids), scale(&stage, ids.len()), release(&stage, finals))?;
    let account = stage.account(&sent).await?;
    let operator = stage.operator().await?;
    let still_blocked = keys::blocked(operator.bus(), None, None).await?.len();
    operator.drain().await;
    let violations = order::violations(&stage.counter.report().await?);
    Ok(Scaled { account, violations, released, still_blocked })
}

/// Starts and stops workers until everything has taken effect; those that are left.
async fn scale(stage: &Stage<TestBroker>, all: usize) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for (count, percent) in SCALES {
        while workers.len() < count {
            workers.push(stage.worker(None).await?);
        }
        // The oldest go, in peace.
        let too_many = workers.len() - count;
        for mut worker in workers.drain(..too_many) {
            worker.stop().await?;
        }
        effects(stage, all * percent / 100).await?;
    }
    Ok(workers)
}

/// Ends when so many messages have taken effect.
pub(crate) async fn effects(stage: &Stage<TestBroker>, count: usize) -> anyhow::Result<()> {
    let mut growing = Growing::new("messages that took effect");
    loop {
        let now = stage.counter.count("").await?;
        if now >= count {
            return Ok(());
        }
        growing.look(now as u64)?;
        tokio::time::sleep(LOOK).await;
    }
}

/// The letters that were released.
#[derive(Default)]
struct Released {
    count: usize,
    /// Their keys.
    blocked: BTreeSet<String>,
    /// Letters whose key was not blocked by them when they were released.
    unblocked: Vec<String>,
}

/// Mends the message of each letter and replays it, some time after it was captured, until it was done to so many.
async fn release(stage: &Stage<TestBroker>, count: usize) -> anyhow::Result<Released> {
    let operator = stage.operator().await?;
    let order = Order { by: "campaign".into(), why: "mended".into(), again: false, job: String::new() };
    let mut released = Released::default();
    let mut growing = Growing::new("letters that were released");
    while released.count < count {
        let due_ms = operator.bus().gate().clock().now_ms() - i64::try_from(RELEASED_AFTER.as_millis())?;
        let mut due = letters::list(operator.bus(), &Selector::default()).await?.letters;
        due.retain(|letter| letter.state == LetterState::Open && letter.letter.captured_at_ms <= due_ms);
        let blocked = if due.is_empty() { Vec::new() } else { keys::blocked(operator.bus(), None, None).await? };
        for letter in due {
            let (id, key) = (&letter.letter.id, &letter.letter.key);
            let message_id = letter.letter.source.as_ref().map(|source| source.message_id.as_str()).unwrap_or_default();
            if !blocked.iter().any(|it| it.key == *key && it.by == Head::Letter(id.clone())) {
                released.unblocked.push(message_id.to_owned());
            }
            released.blocked.insert(key.clone());
            stage.counter.rule(message_id.rsplit('/').next().unwrap_or_default(), Rule::Accept).await?;
            letters::replay(operator.bus(), &letter, &order).await?;
            released.count += 1;
        }
        growing.look(released.count as u64)?;
        tokio::time::sleep(LOOK).await;
    }
    operator.drain().await;
    Ok(released)
}

/// How many went past one ahead of them where nobody keeps the order.
async fn unkept(run: &Run, ids: &[String]) -> anyhow::Result<usize> {
    let stage = Stage::start(run, StageSettings::default()).await?;
    let _worker = stage.worker(None).await?;
    stage.send(ids, 0).await?;
    effects(&stage, ids.iter().filter(|id| !id.contains("-bad-")).count()).await?;
    Ok(order::violations(&stage.counter.report().await?).len())
}

/// Messages a second, where four of a hundred fail once.
#[derive(Debug, Clone, Copy)]
struct Pair {
    ordered: u64,
    unordered: u64,
}

impl Pair {
    fn percent(self) -> u64 {
        self.ordered * 100 / self.unordered.max(1)
    }
}

/// Prints the pair in the middle; the rule of the long form.
fn compare(run: &mut Run, mut pairs: Vec<Pair>) {
    pairs.sort_by_key(|pair| pair.percent());
    let pair = pairs[pairs.len() / 2];
    let percent = pair.percent();
    run.note("ordered", format!("{}/s", pair.ordered));
    run.note("unordered", format!("{}/s", pair.unordered));
    run.note("ratio", format!("{}.{:02}", percent / 100, percent % 100));
    if run.size == Size::Long {
        run.require(percent >= 80, format!("with order {percent} % of the rate without: {pairs:?}"));
    }
}

/// Pairs of the rate with and without order, each first in turn.
async fn rates(run: &Run, ids: &[String]) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for number in 0..run.sized(1, 3) {
        let first = rate(run, ids, number % 2 == 0).await?;
        let second = rate(run, ids, number % 2 == 1).await?;
        let (ordered, unordered) = if number % 2 == 0 { (first, second) } else { (second, first) };
        pairs.push(Pair { ordered, unordered });
    }
    Ok(pairs)
}

/// Messages a second of one worker, of what lies in the stream already: from a tenth to nine tenths, by the counter's clock.
async fn rate(run: &Run, ids: &[String], ordered: bool) -> anyhow::Result<u64> {
    let settings = StageSettings { ordered, concurrency: 256, ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    stage.counter.rule("busy", Rule::Busy(1)).await?;
    stage.send(ids, 0).await?;
    // One: with two, partitions would change hands while the clock runs.
    let _worker = stage.worker(None).await?;
    effects(&stage, ids.len()).await?;
    let report = stage.counter.report().await?;
    let violations = order::violations(&report);
    anyhow::ensure!(!ordered || violations.is_empty(), "out of order at full speed: {violations:?}");
    let mut at_us: Vec<u64> = report.values().map(|entry| entry.first_us).collect();
    at_us.sort_unstable();
    let (from, to) = (at_us.len() / 10, at_us.len() * 9 / 10);
    Ok((to - from) as u64 * 1_000_000 / (at_us[to] - at_us[from]).max(1))
}
