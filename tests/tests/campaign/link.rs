//! S09: acknowledgements that get lost on their way, messages that are sent again inside and after the dedupe window, and
//! messages that are too large.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mesh_core::subject::{event_stream, work_stream};
use mesh_tests::{
    TestBroker,
    campaign::{Account, Run, Stage, StageSettings, account::is_bad, process::Sent, proxy::Proxy, stage::SENDER},
};

use crate::Played;

/// The largest ballast that still goes: 1 MiB less 64 KiB for the copies' headers, less what is around it here.
const LARGEST: usize = (1 << 20) - (64 << 10) - 1024;

pub(crate) async fn lost(run: &mut Run) -> anyhow::Result<Played> {
    let mut stage = Stage::start(run, StageSettings::default()).await?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], stage.broker.server.port()))).await?;
    stage.through = Some(proxy.url());
    let _worker = stage.worker(None).await?;
    let publisher = stage.publisher(run).await?;
    let cuts = run.sized(4, 40);
    for _ in 0..cuts {
        publisher.more(run.random.usize(10..50)).await?;
        // What clients say goes through: it is stored, and they don't hear of it.
        proxy.lose_answers();
        tokio::time::sleep(run.some_ms(20, 300)).await;
        proxy.cut();
    }
    publisher.more(20).await?;
    let mut sent = publisher.finish().await?;
    run.require(proxy.lost_bytes() > 0, "nothing was lost on the way");
    run.require(sent.repeats > 0, "no acknowledgement was lost: nothing was sent twice");
    run.note("cuts", cuts);
    run.note("found-stored-already", sent.repeats);
    again(run, &stage, &sent).await?;
    sent.add(too_large(run, &stage).await?);
    let mut books = stage.books(&sent).await?;
    // What was sent again after the window lies there again.
    books.events = None;
    Ok(Played::Account(Account::of(&books)))
}

/// Everything is sent once more within the window, and what was handled once more after it.
async fn again(run: &mut Run, stage: &Stage<TestBroker>, sent: &Sent) -> anyhow::Result<()> {
    let within = stage.send(&sent.acknowledged, 0).await?;
    let count = sent.acknowledged.len();
    run.require(within.repeats == count, format!("{} of {count} were recognised within the window", within.repeats));
    for stream in [event_stream(SENDER), work_stream("shop.payments.v1.Payments")] {
        // Twice: the broker looks at once, now and then still with the old window, and then not again for that long.
        for window in [300, 200].map(Duration::from_millis) {
            stage.change_stream(&stream, |config| config.duplicate_window = window).await?;
        }
    }
    // A refused message that is sent again after the window is a new one, with a letter of its own: the wire says so.
    let mut left: BTreeSet<String> = sent.acknowledged.iter().filter(|id| !is_bad(id)).cloned().collect();
    let handled = left.len();
    let limit = Instant::now() + Duration::from_secs(30);
    // The broker forgets at its own pace: what it still knew is sent again, until it has stored each once more.
    while !left.is_empty() && Instant::now() < limit {
        let after = stage.send(&left, 0).await?;
        left.retain(|id| !after.stored.contains(id));
    }
    run.require(left.is_empty(), format!("{} were not stored again after the window", left.len()));
    run.note("sent-again", count + handled);
    Ok(())
}

/// The largest messages go all the way, to the lane and to the letters; larger ones are refused before they are sent.
async fn too_large(run: &mut Run, stage: &Stage<TestBroker>) -> anyhow::Result<Sent> {
    let name = |side: &str, kind: &str| format!("{side}-{kind}-large");
    let ids: Vec<String> =
        ["e", "w"].iter().flat_map(|side| ["good", "bad", "busy"].map(|kind| name(side, kind))).collect();
    let mut sent = stage.send(&ids, LARGEST).await?;
    let larger = [name("e", "good") + "r", name("w", "good") + "r"];
    let refused = stage.send(&larger, LARGEST + 4096).await?;
    run.require(
        refused.given_up.len() == 2 && refused.acknowledged.is_empty(),
        format!("too large, and not refused: {refused:?}"),
    );
    sent.asked.extend(refused.asked);
    Ok(sent)
}
