//! The fault campaign, one line for each scenario. `docs/campaign.md` says how to run it and how to add a scenario.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

mod callers;
mod cluster;
mod contested;
mod contracts;
mod full;
mod keepers;
mod kills;
mod link;
mod many;
mod options;
mod ordered;
mod ordered_kills;
mod poison;
mod power;
mod replays;
mod rollout;
mod target;
mod workers;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use futures_util::{StreamExt as _, future::BoxFuture};
use mesh_tests::campaign::{Account, Run, Size};

use tokio::signal;

use options::Options;

type Scenario = for<'a> fn(&'a mut Run) -> BoxFuture<'a, anyhow::Result<Played>>;

/// How a scenario came to its end.
enum Played {
    /// With an account.
    Account(Account),
    /// It can't be played on this machine, and why.
    Skipped(String),
}

/// Every scenario, in the order in which they are begun: the one that waits longest first.
const SCENARIOS: [(&str, Scenario); 25] = [
    ("S24 ordered-kills", |run| Box::pin(ordered_kills::worker(run))),
    ("S06 three-servers", |run| Box::pin(cluster::kills(run))),
    ("S16 keepers-r3", |run| Box::pin(keepers::killed(run))),
    ("S18 replay-crashes", |run| Box::pin(replays::crashes(run))),
    ("S17 long-handler", |run| Box::pin(workers::long_handler(run))),
    ("S25 rollout", |run| Box::pin(rollout::at_a_rate(run))),
    ("S19 ordered-keys", |run| Box::pin(ordered::keys(run))),
    ("S01 power-cut", |run| Box::pin(power::cuts(run))),
    ("S02 server-kill9", |run| Box::pin(kills::server(run))),
    ("S03 worker-kill9", |run| Box::pin(kills::worker(run))),
    ("S04 both-kill9", |run| Box::pin(kills::both(run))),
    ("S05 worker-frozen", |run| Box::pin(workers::frozen(run))),
    ("S07 letters-full", |run| Box::pin(full::letters(run))),
    ("S08 disk-full", |run| Box::pin(full::disk(run))),
    ("S09 lost-answers", |run| Box::pin(link::lost(run))),
    ("S10 rolling-restarts", |run| Box::pin(workers::rolling(run))),
    ("S11 poison", |run| Box::pin(poison::mixed(run))),
    ("S12 poison-kills", |run| Box::pin(poison::kills(run))),
    ("S13 target-refuses", |run| Box::pin(target::refuses(run))),
    ("S14 target-hangs", |run| Box::pin(target::hangs(run))),
    ("S15 forgotten-id", |run| Box::pin(kills::forgotten(run))),
    ("S20 contracts", |run| Box::pin(contracts::both_ways(run))),
    ("S21 million-letters", |run| Box::pin(many::letters(run))),
    ("S22 callers", |run| Box::pin(callers::callers(run))),
    ("S23 contested", |run| Box::pin(contested::operators(run))),
];

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::read();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_campaign-worker"));
    // Most of a scenario is waiting; the long form measures gaps, and plays one at a time.
    let at_once = if options.size == Size::Quick { 3 } else { 1 };
    if !SCENARIOS.iter().any(|(name, _)| options.wants(name)) {
        eprintln!("no scenario has such a name; they are {}", SCENARIOS.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    }
    let wanted = SCENARIOS.into_iter().filter(|(name, _)| options.wants(name));
    let all = futures_util::stream::iter(wanted)
        .map(|(name, scenario)| play(Run::new(name, options.seed, options.size, program.clone()), scenario))
        .buffer_unordered(at_once)
        .collect::<Vec<End>>();
    let ends = tokio::select! {
        ends = all => ends,
        // Dropping what is played ends its processes and takes its disks away.
        () = told_to_stop() => vec![End::Failed],
    };
    let count = |end: End| ends.iter().filter(|other| **other == end).count();
    let (passed, failed, skipped) = (count(End::Passed), count(End::Failed), count(End::Skipped));
    // The long form is there to show things: what it did not play it did not show.
    let is_ok = failed == 0 && (skipped == 0 || options.size == Size::Quick);
    let result = if is_ok { "ok" } else { "FAILED" };
    // As cargo's own tests say it, for whoever counts.
    println!("\ntest result: {result}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured");
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends with Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let Ok(mut terminate) = signal::unix::signal(signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped,
}

/// Plays one scenario and prints its line.
async fn play(mut run: Run, scenario: Scenario) -> End {
    let started = Instant::now();
    let played = scenario(&mut run).await;
    run.note("seconds", started.elapsed().as_secs());
    told(&run, played)
}

/// Prints the line.
fn told(run: &Run, played: anyhow::Result<Played>) -> End {
    match played {
        Ok(Played::Account(account)) => {
            let (line, wrong) = run.line(&account);
            println!("{line}");
            wrong.iter().for_each(|why| println!("    {why}"));
            if wrong.is_empty() { End::Passed } else { End::Failed }
        }
        Ok(Played::Skipped(why)) => {
            println!("{} seed={} SKIPPED: {why}", run.name, run.seed);
            End::Skipped
        }
        Err(error) => {
            println!("{} seed={} FAIL\n    {error:#}", run.name, run.seed);
            End::Failed
        }
    }
}
