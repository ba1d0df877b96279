//! S01: the power goes. What the broker acknowledged was on the disk.

use mesh::engine::JetStream;
use mesh_core::subject::{event_stream, work_stream};
use mesh_tests::{
    TestBroker,
    campaign::{Run, Stage, StageSettings, disk::Disk, stage::SENDER},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Played;

async fn stage_on(run: &Run, disk: &Disk, sync_always: bool) -> anyhow::Result<Stage<TestBroker>> {
    let store_dir = Some(disk.path().join("store"));
    let jetstream = JetStream { sync_always, store_dir, ..JetStream::default() };
    Stage::start(run, StageSettings { jetstream, ..StageSettings::default() }).await
}

/// The server is stopped where it stands, the disk loses its power, and both come back.
async fn cut(stage: &mut Stage<TestBroker>, disk: &Disk) -> anyhow::Result<()> {
    let server = &mut stage.broker.server;
    let pid = server.pid().and_then(|pid| i32::try_from(pid).ok());
    let pid = Pid::from_raw(pid.ok_or_else(|| anyhow::anyhow!("the server does not run"))?);
    kill(pid, Signal::SIGSTOP)?;
    disk.cut()?;
    server.kill9().await?;
    disk.power_on()?;
    server.restart().await?;
    Ok(())
}

pub(crate) async fn cuts(run: &mut Run) -> anyhow::Result<Played> {
    let disk = match Disk::with_power(256) {
        Ok(disk) => disk,
        Err(why) => return Ok(Played::Skipped(format!("no disk of our own can be mounted here: {why:#}"))),
    };
    let lost = control(run).await?;
    run.require(lost > 0, "a broker that syncs now and then lost nothing: this test would not see a loss");
    run.note("control-lost", lost);

    let mut stage = stage_on(run, &disk, true).await?;
    let _worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let count = run.sized(3, 20);
    for _ in 0..count {
        publisher.more(run.random.usize(10..80)).await?;
        tokio::time::sleep(run.some_ms(0, 200)).await;
        cut(&mut stage, &disk).await?;
        publisher.caught_up().await?;
    }
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("cuts", count);
    // The broker syncs what a consumer has acknowledged, and not that it deleted it.
    let account = stage.account_kept(run, &sent).await?;
    drop(stage);
    Ok(Played::Account(account))
}

/// The same cut with JetStream's own default, a sync every two minutes: how many acknowledged messages are gone.
async fn control(run: &mut Run) -> anyhow::Result<usize> {
    let disk = Disk::with_power(256)?;
    let mut stage = stage_on(run, &disk, false).await?;
    let mut publisher = stage.publisher(run).await?;
    publisher.more(100).await?;
    publisher.process.kill9().await?;
    let acknowledged = publisher.sent().acknowledged.len();
    cut(&mut stage, &disk).await?;
    let jetstream = stage.jetstream().await?;
    let mut stored = 0;
    for stream in [event_stream(SENDER), work_stream("shop.payments.v1.Payments")] {
        // A stream that is gone holds nothing.
        if let Ok(stream) = jetstream.get_stream(&stream).await {
            stored += usize::try_from(stream.cached_info().state.messages)?;
        }
    }
    Ok(acknowledged.saturating_sub(stored))
}
