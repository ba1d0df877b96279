//! S11, S12: messages that no handler survives. Each becomes one letter; their neighbours are done as if nothing were there.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mesh_core::bus::StreamLimits;
use mesh_tests::{
    TestBroker,
    campaign::{Run, Stage, StageSettings, process::Sent},
};

use crate::Played;

/// How a worker or the counter comes to grief, in equal parts.
const MIXED: [&str; 4] = ["panic", "hang", "garbled", "bad"];

/// Panics, hangs that yield, undecodable bytes and refusals, a tenth of all.
pub(crate) async fn mixed(run: &mut Run) -> anyhow::Result<Played> {
    let settings = || StageSettings {
        handler_limit: Duration::from_millis(500),
        // Room for those that hang: they wait, and cost nothing but a place.
        concurrency: 512,
        rest: Duration::from_secs(600),
        ..StageSettings::default()
    };
    let all = run.sized(400, 10_000);
    let poison = all / 10;
    let good: Vec<String> = (0..all - poison).map(|n| format!("e-good-{n}")).collect();
    let spoilt: Vec<String> = (0..poison).map(|n| format!("e-{}-{n}", MIXED[n % MIXED.len()])).collect();

    // The same healthy ones alone, to compare with.
    let stage = Stage::start(run, settings()).await?;
    let (alone, _) = play(&stage, &good, &[]).await?;
    drop(stage);
    let stage = Stage::start(run, settings()).await?;
    let (beside, sent) = play(&stage, &good, &spoilt).await?;
    let account = stage.account(&sent).await?;
    run.require(account.letters() == poison, format!("{} letters for {poison} spoilt messages", account.letters()));
    run.note("healthy-alone-ms", alone.as_millis());
    run.note("healthy-beside-ms", beside.as_millis());
    Ok(Played::Account(account))
}

/// Queues everything, then starts a worker: how long until every healthy one has taken effect.
async fn play(stage: &Stage<TestBroker>, good: &[String], spoilt: &[String]) -> anyhow::Result<(Duration, Sent)> {
    let mut rest = spoilt.iter();
    let every = good.len() / spoilt.len().max(1);
    let mut ids = Vec::with_capacity(good.len() + spoilt.len());
    for (index, id) in good.iter().enumerate() {
        ids.push(id);
        if index % every == 0 {
            ids.extend(rest.next());
        }
    }
    ids.extend(rest);
    let (garbled, sound): (Vec<&String>, Vec<&String>) = ids.into_iter().partition(|id| id.contains("-garbled-"));
    let mut sent = stage.send(sound, 0).await?;
    sent.add(stage.send_garbled(garbled).await?);
    let started = Instant::now();
    let _worker = stage.worker(None).await?;
    stage.effects_of("good", good.len()).await?;
    let took = started.elapsed();
    stage.at_rest().await?;
    Ok((took, sent))
}

/// Messages that abort the process and messages that hold a core: a watchdog ends the process, a supervisor starts it again.
pub(crate) async fn kills(run: &mut Run) -> anyhow::Result<Played> {
    let limits = StreamLimits { ack_wait: Duration::from_secs(1), ..StreamLimits::default() };
    let settings = StageSettings {
        limits,
        handler_limit: Duration::from_millis(400),
        rest: Duration::from_secs(1200),
        ..StageSettings::default()
    };
    let stage = Stage::start(run, settings).await?;
    let each = run.sized(1, 20);
    let ids: Vec<String> = (0..27 * each)
        .map(|n| match n % 27 {
            9 => format!("e-abort-{n}"),
            18 => format!("e-spin-{n}"),
            _ => format!("e-good-{n}"),
        })
        .collect();
    let sent = stage.send(&ids, 0).await?;
    let deaths = AtomicUsize::new(0);
    tokio::select! {
        ended = stage.supervised(&deaths) => ended?,
        rest = stage.at_rest() => rest?,
    }
    let account = stage.account(&sent).await?;
    run.require(account.letters() == 2 * each, format!("{} letters for {} that kill", account.letters(), 2 * each));
    run.note("deaths", deaths.load(Ordering::Relaxed));
    Ok(Played::Account(account))
}
