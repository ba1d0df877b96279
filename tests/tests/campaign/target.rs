//! S13, S14: one target is down for the whole run, and the others on the same consumer do not notice.

use std::time::Duration;

use mesh_core::bus::StreamLimits;
use mesh_tests::campaign::{
    Account, Run, Size, Stage, StageSettings,
    counter::{Report, Rule},
    process::Sent,
};

use crate::Played;

/// Messages that are offered in a second, whatever becomes of them. A machine of two cores has three quarters of its time left:
/// the p99 is to say what the target does to others, not how a busy machine works off what had to wait for a core.
const PACE: u64 = 500;
/// The largest p99 of three runs without the smallest understates how far runs differ: where nothing differs at all, and each run
/// by itself and as runs normally do, one comparison of eleven would fail by chance. Of five it is one of seventy.
const LONG_PAIRS: usize = 5;

/// The target refuses every call.
pub(crate) async fn refuses(run: &mut Run) -> anyhow::Result<Played> {
    is_down(run, Rule::Busy(u32::MAX)).await
}

/// The target takes every call and never answers.
pub(crate) async fn hangs(run: &mut Run) -> anyhow::Result<Played> {
    is_down(run, Rule::Hang(u32::MAX)).await
}

/// Pairs of runs with the same messages at the same rate: the target is up in the one and down in the other. Each goes first
/// in turn, so that what drifts on the machine does not count for one side.
async fn is_down(run: &mut Run, down: Rule) -> anyhow::Result<Played> {
    let count = run.sized(600, 50_000);
    let (mut up, mut disturbed) = (Side::default(), Side::default());
    let mut account = Account::default();
    for pair in 0..run.sized(1, LONG_PAIRS) {
        let first_down = pair % 2 == 1;
        for is_down in [first_down, !first_down] {
            let (took, of_run) = played(run, count, if is_down { down } else { Rule::Accept }).await?;
            if is_down { &mut disturbed } else { &mut up }.add(took);
            let is_wrong = !of_run.wrong().is_empty();
            // What is printed is the account of a run with the target down, unless another one is wrong.
            if is_down || is_wrong {
                account = of_run;
            }
            if is_wrong {
                return Ok(Played::Account(account));
            }
        }
    }
    compare(run, &up, &disturbed);
    Ok(Played::Account(account))
}

/// Prints what was measured; the rule of the long form.
fn compare(run: &mut Run, up: &Side, down: &Side) {
    for (name, figures) in [
        ("p50-up-us", &up.p50_us),
        ("p50-down-us", &down.p50_us),
        ("p99-up-us", &up.p99_us),
        ("p99-down-us", &down.p99_us),
    ] {
        run.note(name, format!("{figures:?}").replace(' ', ""));
    }
    if run.size == Size::Long {
        let mut differences: Vec<i64> = up.p99_us.iter().zip(&down.p99_us).map(|(up, down)| down - up).collect();
        let (differs_us, spread_us) = (median(&mut differences), up.spread_us());
        run.note("p99-differs-us", differs_us);
        run.note("spread-us", spread_us);
        let why = format!("the p99 with the target down differs by {differs_us} µs, and the spread is {spread_us} µs");
        run.require(differs_us <= spread_us, why);
    }
}

/// How long the healthy ones of one run took, from sending to effect, in microseconds.
struct Took {
    p50_us: i64,
    p99_us: i64,
}

/// The runs with the target up, or those with it down, in the order of the pairs.
#[derive(Default)]
struct Side {
    p50_us: Vec<i64>,
    p99_us: Vec<i64>,
}

impl Side {
    fn add(&mut self, took: Took) {
        self.p50_us.push(took.p50_us);
        self.p99_us.push(took.p99_us);
    }

    /// The largest p99 without the smallest. One that is more than three times the middle one does not count: it would excuse
    /// everything.
    fn spread_us(&self) -> i64 {
        let most = 3 * median(&mut self.p99_us.clone());
        let largest = self.p99_us.iter().filter(|p99_us| **p99_us <= most).max().copied().unwrap_or(0);
        largest - self.p99_us.iter().min().copied().unwrap_or(0)
    }
}

/// Offers `count` healthy messages and as many for the target, which follows `rule`: how long the healthy ones took, and the
/// account.
async fn played(run: &Run, count: usize, rule: Rule) -> anyhow::Result<(Took, Account)> {
    let settings = StageSettings {
        limits: StreamLimits { max_ack_pending: 1000, ..StreamLimits::default() },
        rate: PACE,
        attempts: 1_000_000,
        isolate: true,
        concurrency: 64,
        rest: Duration::from_secs(900),
        ..StageSettings::default()
    };
    let stage = Stage::start(run, settings).await?;
    stage.counter.rule("target", rule).await?;
    let ids: Vec<String> = (0..count).flat_map(|n| [format!("e-good-{n}"), format!("e-target-{n}")]).collect();
    let _worker = stage.worker(None).await?;
    let sent = stage.offer(&ids).await?;
    stage.effects_of("good", count).await?;
    let took = of_healthy(&sent, &stage.counter.report().await?);
    // In the end the target is mended, and nothing of it is lost.
    stage.counter.rule("target", Rule::Accept).await?;
    Ok((took, stage.account(&sent).await?))
}

fn of_healthy(sent: &Sent, report: &Report) -> Took {
    let healthy = sent.at_us.iter().filter(|(id, _)| id.contains("-good-"));
    let mut took: Vec<u64> =
        healthy.filter_map(|(id, at_us)| Some(report.get(id)?.first_us.saturating_sub(*at_us))).collect();
    took.sort_unstable();
    let of_hundred = |percent: usize| {
        let figure = took.get(took.len() * percent / 100).copied();
        figure.and_then(|us| i64::try_from(us).ok()).unwrap_or(i64::MAX)
    };
    Took { p50_us: of_hundred(50), p99_us: of_hundred(99) }
}

/// Sorts them, too.
pub(crate) fn median<T: Ord + Copy>(figures: &mut [T]) -> T {
    figures.sort_unstable();
    figures[figures.len() / 2]
}
