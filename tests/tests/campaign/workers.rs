//! S05, S10: workers that stand still, and workers that are replaced in peace.

use std::time::Duration;

use mesh_core::bus::StreamLimits;
use mesh_tests::campaign::{Run, Stage, StageSettings, counter::Rule};

use crate::Played;

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
    let settings = StageSettings { bad: 0, troubled: 0, ..StageSettings::default() };
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
    let account = stage.account(&sent).await?;
    let report = stage.counter.report().await?;
    let attempt = report.values().map(|entry| entry.attempt).max().unwrap_or_default();
    let twice = report.values().filter(|entry| entry.calls > 1).count();
    run.require(account.letters() == 0, "a restart made a letter");
    run.require(attempt == 1, format!("a restart spent an attempt: one message came as attempt {attempt}"));
    run.require(twice == 0, format!("{twice} messages were handled by both of two workers"));
    run.note("restarts", count);
    run.note("highest-attempt", attempt);
    Ok(Played::Account(account))
}
