//! S25: letters of one of three consumers of the same events are replayed at a rate, and a replay that fails again is stopped.

use std::time::Duration;

use anyhow::Context as _;
use mesh_core::{
    operate::jobs::{self, Job, JobState},
    subject::lane_stream,
};
use mesh_tests::{
    TestBroker,
    campaign::{
        Run, Size, Stage, StageSettings,
        counter::{Report, Rule},
        process::Sent,
        stage::{BYSTANDERS, WORKER},
    },
};

use crate::{Played, keepers::until};

/// Letters a second.
const RATE: u32 = 50;
/// Of the rate, so many thousandths more or less are allowed.
const ALLOWED: f64 = 20.0;
/// The job of the second part gives up with more than so many.
const FAILED: usize = 20;
/// Nothing is sent so long after that.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// All three refuse each event. Then all three are mended, and the letters of the first one are replayed.
pub(crate) async fn at_a_rate(run: &mut Run) -> anyhow::Result<Played> {
    let settings = StageSettings { watched: true, rest: Duration::from_secs(300), ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    let _worker = stage.worker(None).await?;
    let [first, second] = BYSTANDERS;
    let beside = [stage.bystander(first).await?, stage.bystander(second).await?];
    let (_keeper, _) = stage.keeper(&stage.broker.server.client_url()).await?;

    let count = run.sized(100, 3_000);
    let ids: Vec<String> = (0..count).map(|n| format!("e-bad-{n}")).collect();
    let mut sent = stage.send(&ids, 0).await?;
    stage.at_rest().await?;
    for counter in [&stage.counter].into_iter().chain(beside.iter().map(|beside| &beside.counter)) {
        counter.rule("bad", Rule::Accept).await?;
    }
    let job = replayed(&stage, &["--rate", &format!("{RATE}/s")]).await?;
    run.require(job.state() == JobState::Done, format!("the job ended as {:?}", job.state()));
    let rate = rate(&stage.counter.report().await?);
    run.note("rate", format!("{rate:.2}/s"));
    let is_kept = (rate - f64::from(RATE)).abs() * 1000.0 <= f64::from(RATE) * ALLOWED;
    // In the quick form others run beside it, and its few letters take two seconds.
    run.require(run.size == Size::Quick || is_kept, format!("{rate:.2} a second instead of {RATE}"));

    sent.add(stopped(run, &stage).await?);
    let mut disturbed = 0;
    for bystander in &beside {
        let report = bystander.counter.report().await?;
        run.require(report.len() == sent.asked.len(), format!("a bystander heard of {} events", report.len()));
        disturbed += report.values().filter(|entry| entry.calls != 1).count();
    }
    run.note("others-disturbed", disturbed);
    run.require(disturbed == 0, format!("{disturbed} events came again to consumers that were not replayed to"));
    Ok(Played::Account(stage.account(&sent).await?))
}

/// A job with what a person says at a terminal, once it has finished.
async fn replayed(stage: &Stage<TestBroker>, more: &[&str]) -> anyhow::Result<Job> {
    let consumer = format!("{WORKER}/{}", mesh_tests::campaign::stage::CONSUMER);
    let ask = ["dead-letter", "replay", "--all", "--consumer", &consumer, "--yes", "--no-wait", "--why", "mended"];
    let mut person = stage.at_terminal("person", &[&ask[..], more].concat()).await?;
    anyhow::ensure!(person.ended().await?, "the order was not taken: {}", person.log_tail());
    let operator = stage.operator().await?;
    let newest = || async {
        let all = jobs::list(operator.bus()).await.ok()?;
        all.iter().all(Job::is_finished).then_some(all)
    };
    let all = until("the end of the job", newest).await?;
    operator.drain().await;
    all.into_iter().max_by_key(|job| job.replay.cut_off).context("no job")
}

/// How many a second took effect, from the first to the last.
fn rate(report: &Report) -> f64 {
    let mut at_us: Vec<u64> = report.values().map(|entry| entry.first_us).filter(|us| *us > 0).collect();
    at_us.sort_unstable();
    let took_us = at_us.last().unwrap_or(&0) - at_us.first().unwrap_or(&0);
    let (took, count) = (Duration::from_micros(took_us.max(1)), at_us.len().saturating_sub(1));
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// Others become letters, and what they failed for is still there: the job gives up.
async fn stopped(run: &mut Run, stage: &Stage<TestBroker>) -> anyhow::Result<Sent> {
    let count = run.sized(2_000, 8_000);
    stage.counter.rule("worse", Rule::Refuse).await?;
    let ids: Vec<String> = (0..count).map(|n| format!("e-worse-bad-{n}")).collect();
    let sent = stage.send(&ids, 0).await?;
    stage.at_rest().await?;
    let before = copies(stage).await?;
    let job = replayed(stage, &["--rate", "400/s", "--abort-if", &format!("failed > {FAILED}")]).await?;
    run.require(job.state() == JobState::Aborted, format!("the second job ended as {:?}", job.state()));
    let sent_again = copies(stage).await? - before;
    // Called once before and, of those that were sent again, once more.
    let report = stage.counter.report().await?;
    let mut again_us: Vec<u64> = report
        .iter()
        .filter(|(id, entry)| id.contains("worse") && entry.calls == 2)
        .map(|(_, entry)| entry.last_us)
        .collect();
    again_us.sort_unstable();
    let from_us = again_us.get(FAILED).copied().context("the second job sent too few to be stopped")?;
    let late = Duration::from_micros(again_us.last().unwrap_or(&from_us) - from_us);
    run.note("sent-until-stopped", again_us.len());
    run.note("stopped-after-ms", late.as_millis());
    run.require(
        run.size == Size::Quick || late < STOPS_WITHIN,
        format!("something was called {} ms after it was to be stopped", late.as_millis()),
    );
    run.require(again_us.len() as u64 == sent_again, format!("{sent_again} copies, {} calls", again_us.len()));
    run.require(again_us.len() < count, "all were sent before it was stopped: nothing was shown");
    Ok(sent)
}

/// Copies that were ever put on the lane.
async fn copies(stage: &Stage<TestBroker>) -> anyhow::Result<u64> {
    let operator = stage.operator().await?;
    let state = operator.bus().stream_state(&lane_stream(WORKER)).await?;
    operator.drain().await;
    Ok(state.context("the lane is gone")?.last_sequence)
}
