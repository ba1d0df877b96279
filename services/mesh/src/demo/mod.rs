//! `mesh demo`: real orders become events, queued work and calls of two third-party HTTP APIs; the ledger at the end proves
//! that nothing was lost or done twice.
//!
//! Every part is a process of its own with a user of its own, joined to the others by the bus alone. None outlives this one.

mod memory;
mod process;
mod progress;
mod rush;
mod stage;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_core::config::Environment;
use mesh_core::contract::Contract as _;
use mesh_core::fault::Fault;
use shop_proto::shop::orders::v1::OrderPlaced;

use self::progress::Progress;
use self::rush::Rush;
use self::stage::{Plan, Stage};
use self::watch::{JOURNEYS, PRODUCER, Snapshot};
use crate::cli::{Output, mention};
use crate::cluster::Registry;
use crate::engine::Progress as News;
use crate::ledger::{self, Ended, Ids, Ledger, Run, read};
use crate::stop::Stop;

/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(300);
/// Nothing moved for so long: something is broken.
const STUCK_AFTER: Duration = Duration::from_secs(90);
/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Options of `mesh demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many orders of the file are published; all 69,659 where nothing is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub orders: Option<u32>,
    /// Leave everything running after the ledger, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// The broker's port on 127.0.0.1; any free one where nothing is said
    #[arg(long, default_value_t = 0, value_name = "PORT", hide_default_value = true)]
    pub port: u16,
}

/// Runs the demonstration. The exit status is 0 if all is well, 1 if not, 130 if it was stopped.
///
/// # Errors
/// It could not be started, or a part of it ended by itself.
pub async fn run(args: DemoArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let stop = Stop::listen()?;
    let registry = match Registry::of(&Environment::from_process()) {
        Ok(registry) => Some(registry),
        Err(fault) => {
            output.remark(&format!("other commands will not find this cluster by itself: {}", fault.message()));
            None
        }
    };
    let orders = wanted(args.orders);
    let plan = Plan { orders, port: args.port };
    let remarks = *output;
    let mut listener = move |news: News| {
        if !matches!(news, News::Received { .. }) {
            remarks.remark(&news.to_string());
        }
    };
    output.remark("starting nats-server, two vendors, three services, two adapters and the keeper");
    let mut stage = tokio::select! {
        () = stop.told() => {
            mention("stopped by you before the first order; nothing was published");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        stage = Box::pin(Stage::start(&plan, registry.as_ref(), &mut listener)) => stage?,
    };
    let scene = tokio::select! {
        biased;
        () = stop.told_again() => None,
        scene = Box::pin(scene(&mut stage, (orders, args.keep), &stop, output)) => Some(scene),
    };
    let Some(scene) = scene else {
        stage.kill().await?;
        mention("stopped by you, at once; what was queued was discarded with the temporary cluster");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let (ledger, is_shown) = match scene {
        Ok(played) => played,
        Err(error) => {
            // A part is broken: the others can't drain. Its own end is what is told.
            let _ = stage.kill().await;
            return Err(error);
        }
    };
    stage.end().await?;
    if is_shown {
        mention("stopped by you; nothing is left running");
    } else {
        show(&ledger, output)?;
    }
    Ok(status(&ledger))
}

/// How many orders there will be.
fn wanted(asked: Option<u32>) -> usize {
    let asked = asked.map_or(usize::MAX, |asked| usize::try_from(asked).unwrap_or(usize::MAX));
    shop::orders::orders().take(asked).count()
}

/// From the first order to the end of the last service: the ledger, and whether it was shown already.
async fn scene(
    stage: &mut Stage,
    (orders, keep): (usize, bool),
    stop: &Stop,
    output: &Output,
) -> anyhow::Result<(Ledger, bool)> {
    let ledger = perform(stage, orders, stop, output).await?;
    let keep = keep && ledger.run.ended != Ended::Stopped;
    if keep {
        show(&ledger, output)?;
        mention(&format!("\n{}", next_steps(stage)));
        tokio::select! {
            () = stop.told() => {}
            fault = stage.any_ended() => return Err(fault.into()),
        }
    }
    stage.drain().await;
    Ok((ledger, keep))
}

/// From the first order to the ledger.
async fn perform(stage: &mut Stage, orders: usize, stop: &Stop, output: &Output) -> anyhow::Result<Ledger> {
    let begun = Instant::now();
    let mut progress = Progress::new(orders, output.is_json());
    let ended = tokio::select! {
        () = stop.told() => Ok(Ended::Stopped),
        ended = watch(stage, orders, &mut progress) => ended,
    };
    progress.end();
    let ended = ended?;
    let run_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let pids = (stage.cluster.server_pid(), stage.vendor_sim.id());
    let memory_bytes = memory::peaks(&stage.mesh_ids(), pids.0, pids.1);
    if ended == Ended::Stopped {
        output.remark("stopping: what is under way comes to its end");
        stage.drain().await;
    }
    let run = Run { ended, run_ms, memory_bytes, calls_answered: stage.calls_answered };
    Ok(account(stage, orders, run).await?)
}

/// Looks until everything is worked off, or nothing moves any more.
async fn watch(stage: &mut Stage, orders: usize, progress: &mut Progress) -> Result<Ended, Fault> {
    let (mut all_published, mut last, mut moved) = (false, Snapshot::default(), Instant::now());
    let mut rush = Rush::new(orders);
    loop {
        tokio::select! {
            line = stage.orders.line(), if !all_published => {
                let line = line?;
                if let Some(fault) = line["fault"].as_str() {
                    mention(&format!("some orders were not published: {fault}"));
                }
                all_published = true;
            }
            () = tokio::time::sleep(TICK) => {}
        }
        stage.check_alive()?;
        let now = match stage.snapshot().await {
            Ok(now) => now,
            Err(fault) => return Err(stage.check_alive().err().unwrap_or(fault)),
        };
        progress.show(&now);
        rush.follow(&now, &stage.vendors).await?;
        if all_published && now.is_drained() {
            rush.end(&stage.vendors).await?;
            return Ok(Ended::Drained);
        }
        if now != last {
            (last, moved) = (now, Instant::now());
        } else if moved.elapsed() > STUCK_AFTER {
            return Ok(Ended::Stuck);
        }
    }
}

/// Reads the broker's and the vendors' side, and accounts for every order.
async fn account(stage: &Stage, orders: usize, run: Run) -> Result<Ledger, Fault> {
    let snapshot = stage.snapshot().await?;
    let events = read::events(&stage.bus, PRODUCER, OrderPlaced::FULL_NAME).await?;
    let letters = read::letters(&stage.bus).await?;
    let mut operations = Vec::new();
    for (journey, stand) in JOURNEYS.iter().zip(snapshot.stands) {
        let ids = read::letters_of(&letters, &[journey.asks, journey.does]);
        operations.push(ledger::operation(&ledger::Operation {
            name: journey.name,
            wanted: events.known.clone(),
            effects: stage.vendors.effects(journey.vendor).await?,
            letters: ids.dead,
            parked: ids.parked,
            queued: stand.left(),
            vendor: stand.vendor,
        }));
    }
    // An order's id is the number of its line.
    let wanted: Ids = (1..=orders as u64).collect();
    let published = ledger::published(&wanted.known, &events);
    let failures = ledger::verdict(&published, &operations, run.ended);
    Ok(Ledger { published, operations, run, failures })
}

fn show(ledger: &Ledger, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(ledger)?;
        mention(&ledger::last_line(ledger));
    } else {
        output.line(&ledger::text(ledger))?;
    }
    Ok(())
}

fn status(ledger: &Ledger) -> ExitCode {
    match (ledger.failures.is_empty(), ledger.run.ended) {
        (false, _) => ExitCode::FAILURE,
        (true, Ended::Stopped) => ExitCode::from(INTERRUPTED),
        (true, _) => ExitCode::SUCCESS,
    }
}

/// What to type next, in another terminal.
fn next_steps(stage: &Stage) -> String {
    let vendors = stage.vendors.url();
    let name = &stage.cluster.context().name;
    let adapter = stage.services.iter().find(|process| process.name() == JOURNEYS[0].does);
    let metrics = adapter.and_then(|process| process.metrics()).unwrap_or_default();
    let steps = [
        ("mesh dead-letter list".to_owned(), "the refused charges"),
        ("mesh dead-letter show ID".to_owned(), "one of them: what came, what the vendor said, every attempt"),
        (format!("curl -X PUT {vendors}/_control/stripe -d '{{\"min_amount\":0}}'"), "now the vendor takes 0.00 too"),
        ("mesh dead-letter replay ID".to_owned(), "to the consumer that failed, and to no other"),
        ("mesh ledger".to_owned(), "the broker's side: what became of every message"),
        (format!("curl {vendors}/_ledger"), "the vendor's side"),
        (format!("curl http://{metrics}/metrics"), "what the payments' adapter counts"),
    ];
    let width = steps.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    let lines = steps.iter().map(|(command, what)| format!("  {command:width$}   # {what}\n"));
    format!(
        "Everything runs on, as the cluster {name}. In another terminal (where several run, first: export MESH_CLUSTER={name}):\n{}Ctrl-C ends it.",
        lines.collect::<String>()
    )
}
