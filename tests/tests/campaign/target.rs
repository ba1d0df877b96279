//! S13, S14: one target is down for the whole run, and the others on the same consumer do not notice.

use std::time::Duration;

use mesh_core::bus::StreamLimits;
use mesh_tests::campaign::{
    Account, Run, Stage, StageSettings,
    counter::{Report, Rule},
    process::Sent,
};

use crate::Played;

/// The target refuses every call.
pub(crate) async fn refuses(run: &mut Run) -> anyhow::Result<Played> {
    is_down(run, Rule::Busy(u32::MAX)).await
}

/// The target takes every call and never answers.
pub(crate) async fn hangs(run: &mut Run) -> anyhow::Result<Played> {
    is_down(run, Rule::Hang(u32::MAX)).await
}

/// Runs in turn: healthy messages alone, and the same beside as many for a target that is down.
async fn is_down(run: &mut Run, rule: Rule) -> anyhow::Result<Played> {
    let count = run.sized(600, 50_000);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut account = Account::default();
    for _ in 0..run.sized(1, 3) {
        alone.push(p99(run, count, None).await?.0);
        let (p99_ms, of_run) = p99(run, count, Some(rule)).await?;
        beside.push(p99_ms);
        account = of_run;
        if !account.wrong().is_empty() {
            break;
        }
    }
    let (quiet, disturbed) = (median(&mut alone), median(&mut beside));
    let spread = (alone[alone.len() - 1] - alone[0]).max(beside[beside.len() - 1] - beside[0]);
    run.note("p99-alone-ms", format!("{quiet}{alone:?}"));
    run.note("p99-beside-ms", format!("{disturbed}{beside:?}"));
    if run.size == mesh_tests::campaign::Size::Long {
        let differs = disturbed.saturating_sub(quiet);
        run.require(differs <= spread, format!("p99 differs by {differs} ms, and the spread is {spread} ms"));
    }
    Ok(Played::Account(account))
}

/// The healthy ones' p99, from sending to effect, with half of the load for a target that is down or without that half.
async fn p99(run: &Run, count: usize, down: Option<Rule>) -> anyhow::Result<(u64, Account)> {
    let settings = StageSettings {
        limits: StreamLimits { max_ack_pending: 1000, ..StreamLimits::default() },
        rate: if down.is_some() { 1000 } else { 500 },
        attempts: 1_000_000,
        isolate: true,
        concurrency: 64,
        rest: Duration::from_secs(900),
        ..StageSettings::default()
    };
    let stage = Stage::start(run, settings).await?;
    stage.counter.rule("down", down.unwrap_or(Rule::Accept)).await?;
    let ids: Vec<String> =
        (0..count).flat_map(|n| [Some(format!("e-good-{n}")), down.map(|_| format!("e-down-{n}"))]).flatten().collect();
    let _worker = stage.worker(None).await?;
    let sent = stage.offer(&ids).await?;
    stage.effects_of("good", count).await?;
    let p99_ms = of_hundred(99, &sent, &stage.counter.report().await?);
    // In the end the target is mended, and nothing of it is lost.
    stage.counter.rule("down", Rule::Accept).await?;
    Ok((p99_ms, stage.account(&sent).await?))
}

fn of_hundred(percent: usize, sent: &Sent, report: &Report) -> u64 {
    let healthy = sent.at_ms.iter().filter(|(id, _)| id.contains("-good-"));
    let mut took: Vec<u64> =
        healthy.filter_map(|(id, at_ms)| Some(report.get(id)?.first_ms.saturating_sub(*at_ms))).collect();
    took.sort_unstable();
    took.get(took.len() * percent / 100).copied().unwrap_or(u64::MAX)
}

/// Sorts them, too.
pub(crate) fn median(figures: &mut [u64]) -> u64 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}
