//! S02–S04: the broker, the worker, and both at once are killed, at random moments and between any two steps.

use std::time::Duration;

use mesh_core::fault::{ASIDE_POINT, OPERATOR_POINTS, WORKER_POINTS};
use mesh_tests::{
    TestBroker,
    campaign::{Run, Stage, StageSettings, Worker, counter::Rule, process::Sent},
};

use crate::Played;

/// 20 × `kill -9` of nats-server under publish and consume.
///
/// Between two kills every sender learns what became of its message: two kills within one publish are S11.
pub(crate) async fn server(run: &mut Run) -> anyhow::Result<Played> {
    let mut stage = Stage::start(run, StageSettings::default()).await?;
    let _worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let kills = run.sized(4, 20);
    for _ in 0..kills {
        publisher.more(run.random.usize(10..80)).await?;
        tokio::time::sleep(run.some_ms(0, 100)).await;
        stage.broker.server.kill9().await?;
        stage.broker.server.restart().await?;
        publisher.caught_up().await?;
    }
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("kills", kills);
    Ok(Played::Account(stage.account_kept(run, &sent).await?))
}

/// `kill -9` of the worker at random moments, then at every crash point, the first and the second time that it is met.
pub(crate) async fn worker(run: &mut Run) -> anyhow::Result<Played> {
    let stage = Stage::start(run, StageSettings::default()).await?;
    let publisher = stage.publisher(run).await?;
    let kills = run.sized(3, 25);
    for _ in 0..kills {
        let mut worker = stage.worker(None).await?;
        publisher.more(run.random.usize(5..60)).await?;
        tokio::time::sleep(run.some_ms(0, 200)).await;
        worker.kill9().await?;
    }
    // Ways that the load takes by itself; the end of a letter needs a replay.
    let hits = run.sized(1..=1, 1..=2);
    let mut points = 0;
    for point in WORKER_POINTS.into_iter().filter(|point| *point != "settle.resolved") {
        for hit in hits.clone() {
            // What an earlier end left comes to its end in peace: two ends of one message, alone, rightly make a letter of it.
            if point.starts_with("inbox.") || point == "attempt.handled" {
                let mut calm = stage.worker(None).await?;
                publisher.more(MORE_THAN_A_LEASE).await?;
                calm.stop().await?;
            }
            if point.starts_with("inbox.") {
                leave_suspects(&stage, hit).await?;
            }
            let mut worker = stage.worker(Some((point, hit))).await?;
            worker.crashed().await.map_err(|error| error.context(format!("{point}:{hit}")))?;
            points += 1;
        }
    }
    let worker = stage.worker(None).await?;
    let sent = publisher.finish().await?;
    // Everything has come to rest, and what was refused lies among the letters: now it is mended and sent again.
    let before = stage.account(&sent).await?;
    run.require(before.wrong().is_empty(), format!("before the replay: {:?}", before.wrong()));
    run.note("letters-before", before.letters());
    points += replay(run, &stage, worker).await?;
    points += aside(run).await?;
    run.note("kills", kills);
    run.note("points", points);
    Ok(Played::Account(stage.account(&sent).await?))
}

/// So many are published in longer than the broker waits for a sign of life (200 a second, two seconds).
const MORE_THAN_A_LEASE: usize = 600;

/// Leaves messages that were delivered and not settled. Only such a one is written down before it is tried again, and a worker
/// that is killed at a random moment may have had nothing in hand.
async fn leave_suspects(stage: &Stage<TestBroker>, count: u32) -> anyhow::Result<()> {
    for _ in 0..count {
        stage.worker(Some(("attempt.handled", 1))).await?.crashed().await?;
    }
    Ok(())
}

/// Sends all letters again, with an operator and a worker that crash between their steps. Each must take effect once.
async fn replay(run: &mut Run, stage: &Stage<TestBroker>, mut worker: Worker) -> anyhow::Result<usize> {
    stage.counter.rule("bad", Rule::Accept).await?;
    worker.kill9().await?;
    let mut points = 0;
    for hit in run.sized(1..=1, 1..=2) {
        for point in OPERATOR_POINTS {
            stage.replayer(Some((point, hit))).await?.crashed().await?;
            points += 1;
        }
        let mut worker = stage.worker(Some(("settle.resolved", hit))).await?;
        worker.crashed().await?;
        points += 1;
    }
    let _worker = stage.worker(None).await?;
    let done = stage.replayer(None).await?.ended().await?;
    run.require(done, "the last replay failed");
    stage.at_rest().await?;
    Ok(points)
}

/// A worker that keeps targets apart ends between the copy of what waits for its target and the acknowledgement of the original.
/// Nothing that its target refuses fails for good: when the target is mended all has taken effect, and none twice.
async fn aside(run: &mut Run) -> anyhow::Result<usize> {
    // It ends before others can know of it.
    let aside_unknown = Duration::from_secs(3);
    let settings = StageSettings { isolate: true, aside_unknown, attempts: 1_000_000, ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    stage.counter.rule("target", Rule::Busy(u32::MAX)).await?;
    let mut sent = Sent::default();
    let mut points = 0;
    for hit in run.sized(1..=1, 1..=2) {
        let ids: Vec<String> =
            (0..200).flat_map(|n| ["good", "target"].map(|kind| format!("e-{kind}-{hit}x{n}"))).collect();
        let mut worker = stage.worker(Some((ASIDE_POINT, hit))).await?;
        sent.add(stage.send(&ids, 0).await?);
        worker.crashed().await.map_err(|error| error.context(format!("{ASIDE_POINT}:{hit}")))?;
        points += 1;
    }
    let _worker = stage.worker(None).await?;
    stage.effects_of("good", 200 * points).await?;
    stage.counter.rule("target", Rule::Accept).await?;
    let account = stage.account(&sent).await?;
    run.require(account.wrong().is_empty(), format!("at {ASIDE_POINT}: {:?}", account.wrong()));
    Ok(points)
}

/// Both at once.
pub(crate) async fn both(run: &mut Run) -> anyhow::Result<Played> {
    let mut stage = Stage::start(run, StageSettings::default()).await?;
    let publisher = stage.publisher(run).await?;
    let kills = run.sized(3, 20);
    for _ in 0..kills {
        let mut worker = stage.worker(None).await?;
        publisher.more(run.random.usize(10..60)).await?;
        tokio::time::sleep(run.some_ms(0, 100)).await;
        let (server, worker) = tokio::join!(stage.broker.server.kill9(), worker.kill9());
        server?;
        worker?;
        stage.broker.server.restart().await?;
        publisher.caught_up().await?;
    }
    let _worker = stage.worker(None).await?;
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("kills", kills);
    Ok(Played::Account(stage.account_kept(run, &sent).await?))
}

/// Work is sent again with the same id after it was done and the broker was killed. The broker forgets, with a restart, the
/// ids of what a work queue has deleted: it stores the work once more, whatever the dedupe window.
pub(crate) async fn forgotten(run: &mut Run) -> anyhow::Result<Played> {
    let mut stage = Stage::start(run, StageSettings { inbox: true, ..StageSettings::default() }).await?;
    let _worker = stage.worker(None).await?;
    let ids = ["w-bad-1", "w-good-2", "e-bad-3", "e-good-4"].map(str::to_owned);
    let mut sent = stage.send(&ids, 0).await?;
    stage.at_rest().await?;
    stage.broker.server.kill9().await?;
    stage.broker.server.restart().await?;
    sent.add(stage.send(&ids, 0).await?);
    let account = stage.account(&sent).await?;
    let calls = stage.counter.report().await?.values().map(|entry| entry.calls).sum::<u32>();
    run.require(calls == 4, format!("{calls} calls for 4 messages: done work was done again"));
    Ok(Played::Account(account))
}
