//! A replay that the keeper does: as a job, at a rate, in steps, with a rule that stops it.

use std::collections::BTreeSet;

use clap::Args;
use mesh_core::{
    bus::Bus,
    clock::rfc3339,
    dead_letter::Letter,
    operate::{
        jobs::{self, Ask, MAX_IDS, Selection},
        letters,
    },
    policy::replay::{AbortRule, Canary, Rate},
    store::{Lease, LeaseSettings, Store},
    subject::KEEPER,
};
use serde_json::Value;

use super::{
    super::{Failure, contracts, place, text},
    GlobalArgs, Output, ReplayArgs, Status,
    attach::{self, Looking},
    preview::{self, Shown},
    replay,
    which::{Wanted, tell_unclear},
};

/// Open letters that are sent at once where nothing else is said; more become a job.
pub(super) const AT_ONCE: usize = 100;
/// What stops a canary for which nothing is said.
const CANARY_RULE: &str = "failed > 5%";

#[derive(Debug, Args)]
#[command(next_help_heading = "As a job of the keeper")]
pub(super) struct RolloutArgs {
    /// Only say what would go, and what was mended in it since it failed
    #[arg(long)]
    dry_run: bool,
    /// Show personal and payment fields too, in what was mended
    #[arg(long, requires = "dry_run")]
    reveal: bool,
    /// So many letters in a second, minute or hour: 50/s, 100/m
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// In steps, each a percentage of all: after each, wait until its letters have ended
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',')]
    canary: Vec<f64>,
    /// Give up when so many, or such a share of those that ended, failed again: 'failed > 5% or failed > 100'. With --canary,
    /// 'failed > 5%' where nothing is said
    #[arg(long, value_name = "RULE")]
    abort_if: Option<String>,
    /// Not before: 2026-11-27T02:30:00Z, or a time from now, 30m
    #[arg(long, value_name = "TIME", value_parser = text::when)]
    at: Option<text::When>,
    /// Letters that were sent and have not ended, at most [default: 10000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
}

impl RolloutArgs {
    pub(super) fn is_wanted(&self) -> bool {
        self.dry_run
            || self.rate.is_some()
            || !self.canary.is_empty()
            || self.abort_if.is_some()
            || self.at.is_some()
            || self.max_in_flight.is_some()
    }
}

pub(super) async fn run(
    args: ReplayArgs,
    bus: Bus,
    (global, output): (&GlobalArgs, &Output),
) -> anyhow::Result<Status> {
    let now_ms = bus.gate().clock().now_ms();
    // What is wrong with the words is said before anything is read.
    let (canary, abort_if) = (canary(&args.rollout)?, abort_if(&args.rollout)?);
    let at_ms = not_before(&args.rollout, now_ms)?;
    let catalog = contracts::catalog(global)?;
    let named = letters::find_each(&bus, &args.ids).await?;
    let selection = selection(&bus, &named, &args, global).await?;
    let preview = jobs::preview(&bus, &selection).await?;
    if args.rollout.dry_run {
        let stay = preview::that_stay(&named, bus.gate().identity().region());
        let mended = preview::mended(&bus, &preview.first_mended, (&catalog, args.rollout.reveal)).await;
        bus.close().await;
        preview::show(&Shown { preview: &preview, stay, mended: mended? }, output)?;
        return Ok(Status::Ok);
    }
    if preview.letters == 0 {
        return replay::nothing("no open letters: nothing to replay", Status::Ok, output);
    }
    let consumers: Vec<_> = preview.consumers.keys().map(String::as_str).collect();
    let question = format!("replay {} letters to {}?", preview.letters, consumers.join(", "));
    if !args.yes && !replay::agreed(&question)? {
        return replay::nothing("nothing was replayed", Status::Failed, output);
    }
    let ask = Ask {
        selection,
        cut_off: preview.cut_off,
        selected: preview.letters,
        rate: args.rollout.rate,
        canary,
        abort_if,
        at_ms,
        max_in_flight: args.rollout.max_in_flight.unwrap_or(0),
        by: place::person(),
        why: args.why,
    };
    let job = jobs::create(&bus, ask).await?;
    if keeper(&bus).await.is_none() {
        output.remark(&format!("no keeper is active: job {} waits for one", job.id));
    }
    if args.no_wait {
        attach::tell(&job, in_a_replay, output)?;
        bus.close().await;
        return Ok(Status::Ok);
    }
    attach::run(&bus, &job.id, &Looking { limit: args.timeout, shape: in_a_replay }, output).await
}

/// The job's own document, in that of a replay.
fn in_a_replay(job: Value) -> Value {
    replay::document(job, Vec::new())
}

/// Who is the active keeper. `None`: nobody, or that is not known.
async fn keeper(bus: &Bus) -> Option<String> {
    let store = Store::new(bus, bus.gate().identity().region().clone(), KEEPER.parse().ok()?);
    let lease = Lease::new(store, KEEPER, String::new(), LeaseSettings::default());
    let (holder, _) = lease.holder().await.ok()??;
    (!holder.is_empty()).then_some(holder)
}

/// What the keeper is asked for. A CEL condition is asked here, where the contracts are known: the job names the letters.
async fn selection(bus: &Bus, named: &[Letter], args: &ReplayArgs, global: &GlobalArgs) -> anyhow::Result<Selection> {
    let mut ids: BTreeSet<String> = named.iter().map(|letter| letter.letter.id.clone()).collect();
    let selector = args.filters.selector(Wanted::Open, global)?;
    if selector.selection().condition.is_some() {
        let listing = letters::list(bus, &selector).await?;
        tell_unclear(&listing);
        ids.extend(listing.letters.into_iter().map(|letter| letter.letter.id));
        if ids.is_empty() {
            return Ok(Selection::nothing());
        }
    }
    check_count(ids.len())?;
    Ok(Selection::new(ids, selector.selection()))
}

/// Whether one job can name so many letters.
fn check_count(count: usize) -> Result<(), Failure> {
    if count <= MAX_IDS {
        return Ok(());
    }
    let what = format!("{count} letters are meant one by one, and a job can name {MAX_IDS}");
    let help = "say it by filters without --where, which a job keeps as they are;\n\
                or narrow --where (--consumer, --since, --until) and ask for one job after the other";
    Err(Failure::input(what, help))
}

fn canary(args: &RolloutArgs) -> anyhow::Result<Canary> {
    Canary::new(args.canary.clone()).map_err(|error| Failure::input(format!("--canary: {error}"), "").into())
}

/// A moment that is over is a slip of whoever wrote it: the job would begin at once.
fn not_before(args: &RolloutArgs, now_ms: i64) -> Result<Option<i64>, Failure> {
    let at_ms = args.at.map(|at| at.ahead_ms(now_ms));
    let Some(over_ms) = at_ms.filter(|at_ms| *at_ms < now_ms) else { return Ok(at_ms) };
    let what = format!("--at: {} is over: it is now {}", rfc3339(over_ms), rfc3339(now_ms));
    Err(Failure::input(what, "name a moment to come, or leave --at out to begin at once"))
}

fn abort_if(args: &RolloutArgs) -> anyhow::Result<Option<AbortRule>> {
    let default = (!args.canary.is_empty()).then_some(CANARY_RULE);
    let Some(text) = args.abort_if.as_deref().or(default) else { return Ok(None) };
    let rule = text.parse::<AbortRule>().map_err(|error| {
        let caret = format!("{}^", " ".repeat(error.column - 1));
        Failure::input(
            format!("--abort-if: {error}\n{text}\n{caret}"),
            "conditions are `failed > 10` and `failed > 5%`, joined by `or`",
        )
    })?;
    Ok(Some(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_letters_than_a_job_can_name_are_refused_before_anything_is_asked() {
        assert!(check_count(MAX_IDS).is_ok());
        let said = check_count(MAX_IDS + 1).unwrap_err().to_string();
        assert!(said.contains("10001 letters") && said.contains("10000"), "{said}");
    }
}
