//! S07, S08: no room. Work waits and says so; nothing that was acknowledged is lost.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use mesh::engine::JetStream;
use mesh_core::subject::DEAD_LETTER_STREAM;
use mesh_tests::{
    campaign::{Run, Stage, StageSettings, disk::Disk},
    eventually,
};

use crate::Played;

fn says(log: &Path, words: &str) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains(words))
}

/// The dead-letter stream is full for a while, then enlarged.
pub(crate) async fn letters(run: &mut Run) -> anyhow::Result<Played> {
    let stage = Stage::start(run, StageSettings { bad: 100, ..StageSettings::default() }).await?;
    stage.change_stream(DEAD_LETTER_STREAM, |config| config.max_messages = 5).await?;
    let _worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let log = stage.log("worker");
    eventually("a worker that says that it waits", || async {
        says(&log, "the bus does not take it: the work waits").then_some(())
    })
    .await;
    let full = Duration::from_secs(run.sized(3, 60));
    tokio::time::sleep(full).await;
    // The publisher goes on: it does not depend on the letters.
    publisher.more(20).await?;
    let info = stage.jetstream().await?.get_stream(DEAD_LETTER_STREAM).await?.cached_info().clone();
    run.require(info.state.messages == 5, format!("the full stream holds {} of 5", info.state.messages));
    for words in ["there is no room: raise the stream's limit", "every place of this consumer waits for the bus"] {
        run.require(says(&log, words), format!("the worker does not say {words:?}"));
    }
    stage.change_stream(DEAD_LETTER_STREAM, |config| config.max_messages = -1).await?;
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("full-seconds", full.as_secs());
    Ok(Played::Account(stage.account(&sent).await?))
}

/// With less than this no block of messages can be begun any more.
const NO_ROOM: u64 = 1 << 20;

/// The disk under the broker is full, then enlarged, and the broker restarted, as an operator would.
pub(crate) async fn disk(run: &mut Run) -> anyhow::Result<Played> {
    let disk = match Disk::small(24) {
        Ok(disk) => disk,
        Err(why) => return Ok(Played::Skipped(format!("no disk of our own can be mounted here: {why:#}"))),
    };
    let jetstream = JetStream { store_dir: Some(disk.path().join("store")), ..JetStream::default() };
    let mut stage =
        Stage::start(run, StageSettings { jetstream, ballast: 32 * 1024, ..StageSettings::default() }).await?;
    let _worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    publisher.more(20).await?;
    let silent = async {
        while tokio::time::timeout(Duration::from_secs(2), publisher.more(1)).await.is_ok_and(|more| more.is_ok()) {}
    };
    tokio::time::timeout(Duration::from_secs(60), silent).await.context("the disk does not get full")?;
    let before = publisher.sent().acknowledged.len();
    let free = disk.free()?;
    run.require(free < NO_ROOM, format!("the publisher was not heard, and {free} bytes of the disk were free"));
    tokio::time::sleep(Duration::from_secs(run.sized(1, 20))).await;
    disk.enlarge(512)?;
    stage.broker.server.restart().await?;
    publisher.more(20).await?;
    let sent = publisher.finish().await?;
    run.note("acknowledged-before-full", before);
    // A full disk also keeps the broker from deleting.
    let account = stage.account_kept(run, &sent).await?;
    drop(stage);
    Ok(Played::Account(account))
}
