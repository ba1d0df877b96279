//! S05, S10, S17: workers that stand still, workers that are replaced in peace, and workers that take their time.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{bus::StreamLimits, consume::ConsumerSettings};
use mesh_tests::campaign::{
    Run, Stage, StageSettings,
    counter::{Report, Rule},
    process::Sent,
};

use crate::Played;

/// How many are worked on at once for long.
const LONG_ONES: u64 = 8;
/// Quick ones that are offered in a second meanwhile.
const QUICK_ONES: u64 = 50;

/// One of two workers stands still (SIGSTOP) for longer than the ack wait, then goes on with what it had in hand.
pub(crate) async fn frozen(run: &mut Run) -> anyhow::Result<Played> {
    let ack_wait = Duration::from_secs(1);
    let limits = StreamLimits { ack_wait, ..StreamLimits::default() };
    let stage = Stage::start(run, StageSettings { limits, ..StageSettings::default() }).await?;
    // Slow enough that a worker always has something in hand.
    stage.counter.rule("good", Rule::Slow(60)).await?;
    let workers = [stage.worker(None).await?, stage.worker(None).await?];
    let publisher = stage.publisher(run).await?;
    let count = run.sized(2, 20);
    for turn in 0..count {
        publisher.more(run.random.usize(20..60)).await?;
        let worker = &workers[turn % 2];
        worker.freeze()?;
        tokio::time::sleep(ack_wait.mul_f64(1.5) + run.some_ms(0, 500)).await;
        worker.thaw()?;
    }
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("freezes", count);
    Ok(Played::Account(stage.account(&sent).await?))
}

/// Rolling restarts: the next worker starts, the one before stops in peace. No letter, no attempt, no call twice.
pub(crate) async fn rolling(run: &mut Run) -> anyhow::Result<Played> {
    // The limits that hold where nothing is said: a machine that stands still for a moment takes no lease away.
    let settings = StageSettings { bad: 0, troubled: 0, limits: StreamLimits::default(), ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    stage.counter.rule("good", Rule::Slow(30)).await?;
    let mut worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let count = run.sized(6, 100);
    for _ in 0..count {
        publisher.more(run.random.usize(5..25)).await?;
        let next = stage.worker(None).await?;
        worker.stop().await?;
        worker = next;
    }
    let sent = publisher.finish().await?;
    let begun = std::time::Instant::now();
    let account = stage.account(&sent).await?;
    let rested = begun.elapsed();
    let report = stage.counter.report().await?;
    let attempt = report.values().map(|entry| entry.attempt).max().unwrap_or_default();
    let twice = report.values().filter(|entry| entry.calls > 1).count();
    run.require(account.letters() == 0, "a restart made a letter");
    run.require(attempt == 1, format!("a restart spent an attempt: one message came as attempt {attempt}"));
    run.require(twice == 0, format!("{twice} messages were handled by both of two workers"));
    run.note("restarts", count);
    // What is handed back comes to the next worker at once; what was lost on its way, when its lease has run out.
    run.require(rested < StreamLimits::default().ack_wait, format!("one came {rested:?} late: it was not handed back"));
    run.note("rested-ms", rested.as_millis());
    run.note("highest-attempt", attempt);
    Ok(Played::Account(account))
}

/// Messages that are worked on for several times the ack wait, among quick ones: each is begun once and called for once.
pub(crate) async fn long_handler(run: &mut Run) -> anyhow::Result<Played> {
    let (long, ack_wait) = run.sized((9, 3), (300, 30));
    let (long, ack_wait) = (Duration::from_secs(long), Duration::from_secs(ack_wait));
    let settings = StageSettings {
        limits: StreamLimits { ack_wait, ..StreamLimits::default() },
        rate: QUICK_ONES,
        // What holds where nothing is said must be enough.
        handler_limit: ConsumerSettings::default().handler_limit,
        long,
        ..StageSettings::default()
    };
    let stage = Stage::start(run, settings).await?;
    let worker = stage.worker(None).await?;
    let all_long: Vec<String> = numbered("long", LONG_ONES).collect();
    let ids: Vec<String> = all_long.iter().cloned().chain(numbered("good", QUICK_ONES * long.as_secs())).collect();
    let sent = stage.offer(&ids).await?;
    let account = stage.account(&sent).await?;

    let mut begun: Vec<String> =
        worker.lines().iter().filter_map(|line| Some(line.strip_prefix("begun ")?.to_owned())).collect();
    begun.sort_unstable();
    run.require(begun.iter().eq(BTreeSet::from_iter(&all_long)), format!("begun: {begun:?}"));
    let report = stage.counter.report().await?;
    let again: Vec<_> = report.iter().filter(|(_, entry)| (entry.calls, entry.attempt) != (1, 1)).collect();
    let first = &again[..again.len().min(5)];
    run.require(again.is_empty(), format!("not called once, by the first attempt: {} {first:?}", again.len()));
    let (of_long, of_quick) = (took(&sent, &report, "long"), took(&sent, &report, "good"));
    run.require(of_long.first().is_some_and(|took| *took >= long), "one did not take its time: nothing was shown");
    let slowest = of_quick.last().copied().unwrap_or(Duration::MAX);
    run.require(slowest < long, format!("a quick one took {slowest:?}: it waited for a long one"));
    run.note("long-ones", of_long.len());
    run.note("long-ms", long.as_millis());
    run.note("ack-wait-ms", ack_wait.as_millis());
    run.note("slowest-quick-ms", slowest.as_millis());
    Ok(Played::Account(account))
}

/// Events and queued work by turns, with the word in their ids.
fn numbered(word: &str, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{}-{word}-{n}", if n % 2 == 0 { "e" } else { "w" }))
}

/// How long each that holds the word took from being sent to its effect, in order.
fn took(sent: &Sent, report: &Report, word: &str) -> Vec<Duration> {
    let of_word = report.iter().filter(|(id, _)| id.split('-').any(|it| it == word));
    let took_us = of_word.filter_map(|(id, entry)| Some(entry.first_us.saturating_sub(*sent.at_us.get(id)?)));
    let mut took: Vec<Duration> = took_us.map(Duration::from_micros).collect();
    took.sort_unstable();
    took
}
