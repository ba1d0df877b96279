//! S18: many letters are replayed by jobs of the keeper, for operators at terminals of their own. Terminals and keeper are killed
//! meanwhile: each letter is sent once and handled once.

use std::time::Duration;

use anyhow::Context as _;
use mesh_core::{
    Mesh,
    bus::StreamLimits,
    operate::{
        jobs::{self, Job},
        letters::{self, Selector},
    },
    policy::replay::Counts,
    subject::lane_stream,
};
use mesh_tests::{
    TestBroker,
    campaign::{
        Run, Size, Stage, StageSettings,
        counter::{Report, Rule},
        process::Process,
        stage::WORKER,
    },
};
use tokio::time::Instant;

use crate::{
    Played,
    keepers::{each_once, until},
};

/// How long everything may take to come to rest, and the last job to end.
const REST: Duration = Duration::from_secs(600);
/// What an operator asks for: everything that is open.
const ALL: [&str; 6] = ["dead-letter", "replay", "--all", "--yes", "--why", "mended"];
/// The quick form's few letters are to be under way while three terminals come and go.
const SLOWLY: [&str; 2] = ["--rate", "30/s"];

/// Three terminals and the keeper are killed while letters are sent; a fourth operator asks again and waits for the end.
pub(crate) async fn crashes(run: &mut Run) -> anyhow::Result<Played> {
    let count = run.sized(300, 100_000);
    // Nobody is killed who handles: what is in hand is not to come again.
    let limits = StreamLimits::default();
    let settings = StageSettings { limits, concurrency: 128, rest: REST, ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    let _worker = stage.worker(None).await?;
    let ids: Vec<String> = (0..count).map(|n| format!("{}-bad-{n}", ["e", "w"][n % 2])).collect();
    let begun = Instant::now();
    let sent = stage.send(&ids, 0).await?;
    stage.at_rest().await?;
    run.note("captured", rate(count, begun));
    called(run, &stage.counter.report().await?, (count, 1));

    stage.counter.rule("bad", Rule::Accept).await?;
    let play = Play { stage: &stage, operator: stage.operator().await?, count: u64::try_from(count)? };
    let begun = Instant::now();
    let all = play.replay(run).await?;
    run.note("replayed", rate(count, begun));
    let sum = |count: fn(&Counts) -> u64| all.iter().map(|job| count(&job.counts())).sum::<u64>();
    let (dispatched, resolved, copies) = (sum(|it| it.dispatched), sum(|it| it.resolved), play.copies().await?);
    run.note("jobs", all.len());
    run.note("dispatched", dispatched);
    run.note("copies", copies);
    let counts: Vec<Counts> = all.iter().map(Job::counts).collect();
    run.require([dispatched, resolved, copies] == [play.count; 3], format!("{copies} copies, {counts:?}"));
    let letters = letters::list(play.operator.bus(), &Selector::default()).await?.letters;
    run.require(letters.len() == count, format!("{} letters for {count} refused messages", letters.len()));
    each_once(run, &letters);
    let account = stage.account(&sent).await?;
    called(run, &stage.counter.report().await?, (count, 2));
    Ok(Played::Account(account))
}

fn rate(count: usize, begun: Instant) -> String {
    format!("{}/s", count as u128 * 1000 / begun.elapsed().as_millis().max(1))
}

/// The counter has heard of so many, and of each so often.
fn called(run: &mut Run, report: &Report, (count, times): (usize, u32)) {
    run.require(report.len() == count, format!("the counter has heard of {} of {count}", report.len()));
    let others: Vec<&String> = report.iter().filter(|(_, entry)| entry.calls != times).map(|(id, _)| id).collect();
    let first = &others[..others.len().min(5)];
    run.require(others.is_empty(), format!("not called {times} times: {} {first:?}", others.len()));
}

/// Letters that are replayed, seen from outside.
struct Play<'s> {
    stage: &'s Stage<TestBroker>,
    operator: Mesh,
    count: u64,
}

impl Play<'_> {
    /// All jobs, once they have finished.
    async fn replay(&self, run: &mut Run) -> anyhow::Result<Vec<Job>> {
        let url = self.stage.broker.server.client_url();
        let (mut keeper, _) = self.stage.keeper(&url).await?;
        let ask = if run.size == Size::Quick { [&ALL[..], &SLOWLY].concat() } else { ALL.to_vec() };

        let mut first = self.stage.at_terminal("first", &ask).await?;
        let job = self.asked(1, &first).await?.swap_remove(0);
        self.under_way(run, 1).await?;
        first.kill9().await?;

        let mut second = self.stage.at_terminal("second", &["dead-letter", "jobs", "watch", &job.id]).await?;
        until("the second operator to see the job", || async { second.log_tail().contains(" sent").then_some(()) })
            .await
            .with_context(|| second.log_tail())?;
        self.under_way(run, 2).await?;
        second.kill9().await?;

        let mut third = self.stage.at_terminal("third", &ask).await?;
        self.asked(2, &third).await?;
        self.under_way(run, 3).await?;
        let (operator, keeper) = tokio::join!(third.kill9(), keeper.kill9());
        operator?;
        keeper?;
        let sent = self.copies().await?;
        run.note("sent-when-killed", sent);
        run.require(sent < self.count, "the keeper was killed when all were sent: nothing was shown");

        let mut fourth = self.stage.at_terminal("fourth", &ALL).await?;
        let (_keeper, _) = self.stage.keeper(&url).await?;
        self.asked(3, &fourth).await?;
        let ended_well =
            tokio::time::timeout(REST, fourth.until_ended()).await.context("the last job does not end")??;
        run.require(ended_well, format!("the fourth operator was told of a failure: {}", fourth.log_tail()));
        let finished = || async {
            let all = jobs::list(self.operator.bus()).await.ok()?;
            all.iter().all(Job::is_finished).then_some(all)
        };
        until("the end of all jobs", finished).await
    }

    /// The jobs, once there are so many: `last` asked for the last one.
    async fn asked(&self, count: usize, last: &Process) -> anyhow::Result<Vec<Job>> {
        let asked = || async { jobs::list(self.operator.bus()).await.ok().filter(|all| all.len() == count) };
        until(&format!("job {count}"), asked).await.with_context(|| last.log_tail())
    }

    /// Copies that were ever put on the lane.
    async fn copies(&self) -> anyhow::Result<u64> {
        let state = self.operator.bus().stream_state(&lane_stream(WORKER)).await?;
        Ok(state.context("the lane is gone")?.last_sequence)
    }

    /// Waits until a share of the letters was sent, and a moment.
    async fn under_way(&self, run: &mut Run, turn: u64) -> anyhow::Result<()> {
        let wanted = self.count * run.sized(5, 20) * turn / 100;
        let is_sent = || async { self.copies().await.ok().filter(|copies| *copies >= wanted) };
        until(&format!("{wanted} copies"), is_sent).await?;
        tokio::time::sleep(run.some_ms(0, 100)).await;
        Ok(())
    }
}
