//! S06: three servers that keep everything three times; the leader is killed, again and again, and all three once.

use mesh_core::subject::{event_stream, work_stream};
use mesh_tests::campaign::{Run, Stage, StageSettings, cluster::TestCluster, stage::SENDER};

use crate::Played;

pub(crate) async fn kills(run: &mut Run) -> anyhow::Result<Played> {
    let settings = StageSettings::default();
    let cluster = TestCluster::start(&settings.limits).await?;
    let mut stage = Stage::around(cluster, run, settings).await?;
    let jetstream = stage.jetstream().await?;
    let _workers = [stage.worker(None).await?, stage.worker(None).await?];
    let publisher = stage.publisher(run).await?;
    publisher.more(20).await?;
    // In turn the leader of each stream that is written to.
    let streams = [("e-", event_stream(SENDER)), ("w-", work_stream("shop.payments.v1.Payments"))];
    let kills = run.sized(2, 10);
    for turn in 0..kills {
        let (start, stream) = &streams[turn % 2];
        let leader = stage.broker.leader_of(&jetstream, stream).await?;
        stage.broker.servers[leader].kill9().await?;
        publisher.more_of(start, 20).await?;
        stage.broker.servers[leader].restart().await?;
        publisher.caught_up().await?;
    }
    for (_, stream) in &streams {
        stage.broker.leader_of(&jetstream, stream).await?;
    }
    stage.broker.kill_all().await?;
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("leader-kills", kills);
    run.note("longest-gap-ms", sent.longest_gap_ms);
    Ok(Played::Account(stage.account(&sent).await?))
}
