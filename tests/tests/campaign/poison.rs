//! S11, S12: messages that no handler survives. Each becomes one letter; their neighbours are done as if nothing were there.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mesh_core::bus::StreamLimits;
use mesh_tests::campaign::{Account, Run, Size, Stage, StageSettings, counter::Report, process::Sent};

use crate::{Played, target::median};

/// How a worker or the counter comes to grief, in equal parts.
const MIXED: [&str; 4] = ["panic", "hang", "garbled", "bad"];
/// Healthy messages that are offered in a second.
const PACE: u64 = 2000;

/// Panics, hangs that yield, undecodable bytes and refusals, a tenth of all.
///
/// First everything lies there before the worker starts: how long the healthy ones take alone, and beside the others. That
/// shows what poison costs the machine, which has nothing else to do. Then the same number of healthy ones comes in each
/// second, alone and beside, in turn: they must come through as if nothing else were there.
pub(crate) async fn mixed(run: &mut Run) -> anyhow::Result<Played> {
    let mix = Mix::of(run.sized(400, 10_000), run.sized(1, 3));
    let alone = mix.queued(run, false).await?;
    let beside = mix.queued(run, true).await?;
    run.note("queued-healthy-alone-ms", alone.as_millis());
    run.note("queued-healthy-beside-ms", beside.as_millis());

    let (mut quiet, mut disturbed) = (Vec::new(), Vec::new());
    let mut account = Account::default();
    for round in 0..mix.rounds {
        quiet.push(mix.offered(run, false, false).await?.0);
        let is_last = round + 1 == mix.rounds;
        let (rate, of_run) = mix.offered(run, true, is_last).await?;
        disturbed.push(rate);
        account = of_run;
    }
    let poison = mix.spoilt.len();
    run.require(account.letters() == poison, format!("{} letters for {poison} spoilt messages", account.letters()));
    let (quiet, disturbed) = (median(&mut quiet), median(&mut disturbed));
    run.note("offered-healthy-alone", format!("{quiet}/s"));
    run.note("offered-healthy-beside", format!("{disturbed}/s"));
    if run.size == Size::Long {
        let why = format!("beside poison {disturbed} healthy messages a second, alone {quiet}");
        run.require(disturbed * 100 >= quiet * 95, why);
    }
    Ok(Played::Account(account))
}

/// What is sent.
struct Mix {
    good: Vec<String>,
    spoilt: Vec<String>,
    rounds: usize,
}

impl Mix {
    fn of(all: usize, rounds: usize) -> Mix {
        let poison = all / 10;
        Mix {
            good: (0..all - poison).map(|n| format!("e-good-{n}")).collect(),
            spoilt: (0..poison).map(|n| format!("e-{}-{n}", MIXED[n % MIXED.len()])).collect(),
            rounds,
        }
    }

    fn settings() -> StageSettings {
        StageSettings {
            handler_limit: Duration::from_millis(500),
            // Room for those that hang: they wait, and cost nothing but a place.
            concurrency: 512,
            rest: Duration::from_secs(600),
            ..StageSettings::default()
        }
    }

    /// The ids, the spoilt ones evenly among the others; and apart those whose bytes are no message.
    fn ids(&self, poison: bool) -> (Vec<String>, Vec<String>) {
        let spoilt = if poison { &*self.spoilt } else { &[] };
        let every = self.good.len() / spoilt.len().max(1);
        let mut rest = spoilt.iter();
        let mut ids = Vec::with_capacity(self.good.len() + spoilt.len());
        for (index, id) in self.good.iter().enumerate() {
            ids.push(id);
            if index % every == 0 {
                ids.extend(rest.next());
            }
        }
        ids.extend(rest);
        ids.into_iter().cloned().partition(|id| !id.contains("-garbled-"))
    }

    /// Queues everything, then starts a worker: how long until every healthy one has taken effect.
    async fn queued(&self, run: &Run, poison: bool) -> anyhow::Result<Duration> {
        let stage = Stage::start(run, Mix::settings()).await?;
        let (sound, garbled) = self.ids(poison);
        stage.send(&sound, 0).await?;
        stage.send_garbled(&garbled, Duration::ZERO).await?;
        let started = Instant::now();
        let _worker = stage.worker(None).await?;
        stage.effects_of("good", self.good.len()).await?;
        Ok(started.elapsed())
    }

    /// Offers [`PACE`] healthy ones a second: how many took effect in one. With the account, where all is to come to rest.
    async fn offered(&self, run: &Run, poison: bool, to_rest: bool) -> anyhow::Result<(u64, Account)> {
        let (sound, garbled) = self.ids(poison);
        let healthy = self.good.len() as u64;
        let rate = PACE * sound.len() as u64 / healthy;
        let stage = Stage::start(run, StageSettings { rate, ..Mix::settings() }).await?;
        let _worker = stage.worker(None).await?;
        let between = Duration::from_micros(healthy * 1_000_000 / PACE / garbled.len().max(1) as u64);
        let (mut sent, spoilt) = tokio::try_join!(stage.offer(&sound), stage.send_garbled(&garbled, between))?;
        stage.effects_of("good", self.good.len()).await?;
        let rate = healthy_rate(&sent, &stage.counter.report().await?);
        if !to_rest {
            return Ok((rate, Account::default()));
        }
        sent.add(spoilt);
        Ok((rate, stage.account(&sent).await?))
    }
}

/// Healthy messages that took effect in a second, from the first that was sent to the last effect.
fn healthy_rate(sent: &Sent, report: &Report) -> u64 {
    let healthy = || sent.at_us.iter().filter(|(id, _)| id.contains("-good-"));
    let first = healthy().map(|(_, at_us)| *at_us).min().unwrap_or(0);
    let last = healthy().filter_map(|(id, _)| Some(report.get(id)?.first_us)).max().unwrap_or(u64::MAX);
    healthy().count() as u64 * 1_000_000 / last.saturating_sub(first).max(1)
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
