//! A replay that the keeper does: as a job, at a rate, in steps, with a rule that stops it.

use std::collections::BTreeSet;

use clap::Args;
use mesh_core::{
    bus::{Bus, Stop},
    dead_letter::Letter,
    operate::{
        jobs::{self, Ask, MAX_IDS, Selection},
        letters::{self, Selector},
    },
    policy::replay::{AbortRule, Canary, Rate},
};
use serde_json::Value;

use super::{
    super::{Failure, contracts, place, text},
    GlobalArgs, Output, ReplayArgs, Status, ask,
    attach::{self, Looking},
    indexed, instead,
    job_words::{self, Kept, kept},
    mention,
    preview::{self, Shown},
    replay,
    which::{Wanted, tell_unclear},
};

/// Open letters that are sent at once where nothing else is said; more become a job.
pub(super) const AT_ONCE: usize = 100;
/// What stops a canary for which nothing is said.
const CANARY_RULE: &str = "failed > 5%";

/// Before it a moment has passed, even where it was computed on another machine.
const PASSED_MS: i64 = -60_000;
/// Nobody means a replay in more than a year.
const FARTHEST_MS: i64 = 366 * 24 * 3_600_000;
/// The end of the year 9999.
const LAST_SHOWN_MS: i64 = 253_402_300_799_000;

#[derive(Debug, Args)]
#[command(next_help_heading = "As a job of the keeper")]
pub(super) struct RolloutArgs {
    /// Only say what would go, and what was mended in it since it failed
    #[arg(long, help_heading = None::<&'static str>)]
    dry_run: bool,
    /// Show personal and payment fields too, in what was mended
    #[arg(long, requires = "dry_run", help_heading = None::<&'static str>)]
    reveal: bool,
    /// So many letters in a second, minute or hour: 50/s, 100/m
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    rate: Option<Rate>,
    /// In steps, each a percentage of all: after each, wait until its letters have ended
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',', value_parser = percent, allow_hyphen_values = true)]
    canary: Vec<f64>,
    /// Give up when so many, or such a share of those that ended, failed again: 'failed > 5% or failed > 100'. With --canary,
    /// 'failed > 5%' where nothing is said
    #[arg(long, value_name = "RULE")]
    abort_if: Option<String>,
    /// Not before: 2026-11-27T02:30:00Z, or a time from now, 30m
    #[arg(long, value_name = "TIME", value_parser = text::coming, allow_hyphen_values = true)]
    at: Option<text::When>,
    /// Letters that were sent and have not ended, at most [default: 10000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
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

    /// What is wrong with them before anything is asked.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        canary(self)?;
        abort_if(self)?;
        Ok(())
    }
}

pub(super) async fn run(
    args: ReplayArgs,
    bus: Bus,
    (global, output): (&GlobalArgs, &Output),
) -> anyhow::Result<Status> {
    let now_ms = bus.gate().clock().now_ms();
    let (canary, abort_if) = (canary(&args.rollout)?, abort_if(&args.rollout)?);
    let at_ms = begin_ms(args.rollout.at, now_ms)?;
    let catalog = contracts::catalog(global)?;
    let named = indexed::find_each(&bus, &args.ids).await?;
    let selection = selection(&bus, &named, &args, (global, output)).await?;
    tell_beside(&bus, &selection).await;
    let preview = jobs::preview(&bus, &selection).await?;
    let stay = preview::that_stay(&named, bus.gate().identity().region());
    if args.rollout.dry_run {
        let mended = preview::mended(&bus, &preview.first_mended, (&catalog, args.rollout.reveal)).await;
        bus.close().await;
        preview::show(&Shown { preview: &preview, stay, mended: mended? }, output)?;
        return Ok(Status::Ok);
    }
    preview::tell_stay(&stay);
    // Who names a letter wants it to go.
    let status = if stay.is_empty() { Status::Ok } else { Status::Failed };
    if preview.letters == 0 {
        let asked = args.filters.selection(Wanted::Open);
        match args.ids.as_slice() {
            [] => instead::tell(replay::NOTHING, &bus, &asked, output).await,
            _ => output.remark(replay::NOTHING),
        }
        return replay::nothing("", status, output);
    }
    let consumers: Vec<_> = preview.consumers.keys().map(String::as_str).collect();
    if !args.yes && !ask::replay_agreed(preview.letters, &consumers)? {
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
    if kept(&bus).await != Kept::Active {
        output.remark(&format!("no keeper is active: job {} waits for one", job.id));
    }
    if args.no_wait {
        attach::tell(&job, in_a_replay, output)?;
        bus.close().await;
        return Ok(status);
    }
    let ended = attach::run(&bus, &job.id, &Looking { limit: args.timeout, shape: in_a_replay }, output).await?;
    Ok(if stay.is_empty() { ended } else { status })
}

/// Says which jobs may have the same letters: what is sent beside one does not keep its rate, and what it has sent is not open.
pub(super) async fn tell_beside(bus: &Bus, selection: &Selection) {
    let Ok(listed) = tokio::time::timeout(indexed::PATIENCE, jobs::list(bus)).await else {
        return mention("note: whether a job has the same letters is not known: nobody says which jobs there are");
    };
    match listed {
        Ok(jobs) => {
            let beside = jobs.iter().filter(|job| job_words::may_share(selection, &job.selection()));
            // For programs too: it is not among the data.
            beside.filter_map(job_words::beside).for_each(|said| mention(&said));
        }
        Err(fault) => mention(&format!("note: whether a job has the same letters is not known: {}", fault.message())),
    }
}

/// The job's own document, in that of a replay.
fn in_a_replay(job: Value) -> Value {
    replay::document(job, Vec::new())
}

/// What the keeper is asked for. A CEL condition is asked here, where the contracts are known: the job names the letters.
async fn selection(
    bus: &Bus,
    named: &[Letter],
    args: &ReplayArgs,
    (global, output): (&GlobalArgs, &Output),
) -> anyhow::Result<Selection> {
    let mut ids: BTreeSet<String> = named.iter().map(|letter| letter.letter.id.clone()).collect();
    check_count(ids.len(), "")?;
    let selector = args.filters.selector(Wanted::Open, global)?;
    if selector.selection().condition.is_some() {
        ids.extend(ids_where(bus, &selector, output).await?);
        if ids.is_empty() {
            return Ok(Selection::nothing());
        }
    }
    Ok(Selection::new(ids, selector.selection()))
}

/// The ids of the letters for which a condition holds. They are not read on where one job can't name them.
async fn ids_where(bus: &Bus, selector: &Selector, output: &Output) -> anyhow::Result<BTreeSet<String>> {
    let bar = ask::bar(None, output);
    let looked = letters::look(bus, selector, |ids: &mut BTreeSet<String>, found| {
        bar.inc(1);
        ids.insert(found.letter.letter.id);
        if ids.len() > MAX_IDS { Stop::Yes } else { Stop::No }
    });
    let looked = looked.await;
    bar.finish_and_clear();
    let (ids, left_out) = looked?;
    check_count(ids.len(), "at least ")?;
    tell_unclear(&left_out);
    Ok(ids)
}

/// Whether one job can name so many letters. `exactly`: what goes before the number.
fn check_count(count: usize, exactly: &str) -> Result<(), Failure> {
    if count <= MAX_IDS {
        return Ok(());
    }
    let what = format!("{exactly}{count} letters are meant one by one, and a job can name {MAX_IDS}");
    let help = "say it by filters without --where, which a job keeps as they are;\n\
                or narrow --where (--consumer, --since, --until) and ask for one job after the other";
    Err(Failure::input(what, help))
}

/// A step as people write it: `5`, `5%`, `0.1`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    number.parse().map_err(|_| format!("{text:?} is no percentage: write steps such as 1,5,20,100"))
}

/// When the job may begin. What has passed, or is far away, is a slip: it would begin at once, or never.
fn begin_ms(at: Option<text::When>, now_ms: i64) -> Result<Option<i64>, Failure> {
    let Some(at_ms) = at.map(|at| at.ahead_ms(now_ms)) else { return Ok(None) };
    let wrong = match at_ms.saturating_sub(now_ms) {
        ..PASSED_MS => "has passed",
        FARTHEST_MS.. => "is more than a year away",
        _ => return Ok(Some(at_ms)),
    };
    let named = at_ms.clamp(0, LAST_SHOWN_MS);
    let what = format!("--at: {} UTC {wrong}; now it is {} UTC", text::moment(named), text::moment(now_ms));
    Err(Failure::input(what, "leave out --at to begin at once, or name a moment to come: 2026-01-02T03:04:05Z, 30m"))
}

fn canary(args: &RolloutArgs) -> anyhow::Result<Canary> {
    Canary::new(args.canary.clone()).map_err(|error| Failure::input(format!("--canary: {error}"), "").into())
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
    fn a_moment_that_has_passed_or_is_far_away_is_refused() {
        let now_ms = 1_800_000_000_000;
        let at = |text: &str| begin_ms(Some(text::coming(text).unwrap()), now_ms);
        assert_eq!(begin_ms(None, now_ms).unwrap(), None);
        assert_eq!(at("30m").unwrap(), Some(now_ms + 1_800_000));
        assert_eq!(at("2027-01-15T08:00:00Z").unwrap(), Some(now_ms), "now");
        for (wrong, said) in [
            ("2027-01-15T07:58:00Z", "--at: 2027-01-15 07:58:00 UTC has passed; now it is 2027-01-15 08:00:00 UTC"),
            ("2020-01-01", "has passed"),
            ("400d", "more than a year away"),
            ("99999999999d", "more than a year away"),
        ] {
            let refused = at(wrong).unwrap_err().to_string();
            assert!(refused.contains(said), "{wrong}: {refused}");
        }
    }

    #[test]
    fn steps_are_read_as_people_write_them() {
        let read: Result<Vec<f64>, String> = ["1", " 5", "20%", "0.5 %"].into_iter().map(percent).collect();
        assert_eq!(read, Ok(vec![1.0, 5.0, 20.0, 0.5]));
        assert!(percent("a").unwrap_err().contains("1,5,20,100"));
    }

    #[test]
    fn more_letters_than_a_job_can_name_are_refused_before_anything_is_asked() {
        assert!(check_count(MAX_IDS, "").is_ok());
        let said = check_count(MAX_IDS + 1, "at least ").unwrap_err().to_string();
        assert!(said.contains("at least 10001 letters") && said.contains("10000"), "{said}");
    }
}
