//! S01: the power goes. What the broker acknowledged was on the disk: of a load that is handled at once, and of 512 at a time, which
//! are stored together, before anybody handles one of them.

use mesh::engine::JetStream;
use mesh_core::subject::{event_stream, work_stream};
use mesh_tests::{
    TestBroker,
    campaign::{Run, Stage, StageSettings, disk::Disk, process::Sent, stage::SENDER},
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
    let mut worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let count = run.sized(3, 20);
    for _ in 0..count {
        publisher.more(run.random.usize(10..80)).await?;
        tokio::time::sleep(run.some_ms(0, 200)).await;
        cut(&mut stage, &disk).await?;
        publisher.caught_up().await?;
    }
    publisher.more(20).await?;
    let mut sent = publisher.finish().await?;
    run.note("cuts", count);
    worker.stop().await?;
    sent.add(bursts(run, &mut stage, &disk).await?);
    let _worker = stage.worker(None).await?;
    // The broker syncs what a consumer has acknowledged, and not that it deleted it.
    let account = stage.account_kept(run, &sent).await?;
    drop(stage);
    Ok(Played::Account(account))
}

/// Nobody handles what is acknowledged before the power goes: only the disk has it. The publisher has 512 on their way, which the
/// broker gets in groups; what is not acknowledged is sent again.
async fn bursts(run: &mut Run, stage: &mut Stage<TestBroker>, disk: &Disk) -> anyhow::Result<Sent> {
    let (cuts, count) = run.sized((2, 4_000), (10, 8_000));
    let (mut sent, mut cut_off) = (Sent::default(), Vec::new());
    for burst in 0..cuts {
        let ids: Vec<String> = (0..count).map(|n| format!("e-good-{burst}x{n}")).collect();
        let publisher = stage.sending(&ids, 0).await?;
        publisher.more(run.random.usize(100..count / 2)).await?;
        cut(stage, disk).await?;
        let at_cut = publisher.sent();
        cut_off.push(at_cut.asked.len() - at_cut.acknowledged.len());
        sent.add(Stage::<TestBroker>::sent_by(publisher).await?);
    }
    run.note("burst-cuts", cuts);
    run.note("cut-off", format!("{cut_off:?}").replace(' ', ""));
    run.require(
        cut_off.iter().all(|count| *count > GROUP),
        "few were on their way when the power went: no group was cut off",
    );
    Ok(sent)
}

/// With more than these on their way the library publishes them in groups.
const GROUP: usize = 12;

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
