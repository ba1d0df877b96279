//! What a job is, in words: where it stands, which letters it is about, how fast and until when it goes.

use mesh_core::{
    bus::Bus,
    clock::Clock,
    operate::{
        jobs::{self, Job, JobState},
        letters::Selection,
    },
    policy::replay::Rate,
    proto::v1,
    store::{Lease, LeaseSettings, Store},
    subject::{KEEPER, Name},
};

use super::{super::text, counted, words};
use crate::ledger::grouped;

/// Whether there is a keeper that does jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// One is active.
    Active,
    /// None is.
    Missing,
    /// Nobody asked, or there was no answer.
    Unknown,
}

/// Whether a keeper is active.
pub(super) async fn kept(bus: &Bus) -> Kept {
    let Ok(keeper) = KEEPER.parse() else { return Kept::Unknown };
    let store = Store::new(bus, bus.gate().identity().region().clone(), keeper);
    match Lease::new(store, KEEPER, String::new(), LeaseSettings::default()).holder().await {
        Ok(Some((holder, _))) if !holder.is_empty() => Kept::Active,
        Ok(_) => Kept::Missing,
        Err(_) => Kept::Unknown,
    }
}

/// Where a job stands; of one that waits, what for.
pub(super) fn standing(job: &Job, kept: Kept) -> String {
    standing_at(job, kept, Clock::system().now_ms())
}

fn standing_at(job: &Job, kept: Kept, now_ms: i64) -> String {
    match (job.state(), kept) {
        (JobState::Waiting, _) if job.replay.at_ms > now_ms => {
            format!("waits until {} UTC", text::moment(job.replay.at_ms))
        }
        (JobState::Waiting, Kept::Missing) => "waits for a keeper".to_owned(),
        (JobState::Waiting, Kept::Active) => "waits for the keeper to take it up".to_owned(),
        (state, _) => state.word().to_owned(),
    }
}

/// What was asked for, in one line.
pub(super) fn plan(job: &Job) -> String {
    let parts = facts(job).into_iter().filter(|(name, _)| *name != MOST);
    parts.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("; ")
}

const MOST: &str = "under way";

/// What was asked for, by name.
pub(super) fn facts(job: &Job) -> Vec<(&'static str, String)> {
    let replay = &job.replay;
    let mut facts = vec![("letters", letters(job)), ("rate", rate(replay.rate_per_second))];
    if !replay.canary.is_empty() {
        let steps: Vec<_> = replay.canary.iter().map(|percent| format!("{percent}%")).collect();
        facts.push(("steps", steps.join(", ")));
    }
    if !replay.abort_if.is_empty() {
        facts.push(("aborts if", replay.abort_if.clone()));
    }
    if replay.at_ms > 0 {
        facts.push(("not before", format!("{} UTC", text::moment(replay.at_ms))));
    }
    facts.push((MOST, format!("{} at most", grouped(replay.max_in_flight.into()))));
    facts
}

fn rate(per_second: f64) -> String {
    if per_second == 0.0 {
        return "as fast as it goes".to_owned();
    }
    Rate::per_second(per_second).map_or_else(|| format!("{per_second}/s"), |rate| rate.to_string())
}

/// Which letters are meant.
fn letters(job: &Job) -> String {
    let selection = job.selection();
    let mut which = words::filters(&selection.filter);
    if selection.filter.parked {
        which.insert(0, "--state parked".to_owned());
    }
    if !selection.ids.is_empty() {
        which.insert(0, format!("{} by id", grouped(selection.ids.len() as u64)));
    }
    let which = if which.is_empty() { "all".to_owned() } else { which.join(" ") };
    format!("{which} ({} open when asked)", counted(job.replay.selected, "letter"))
}

/// What waits because a consumer's lane is away: one line for each.
pub(super) fn waiting(job: &Job) -> Vec<String> {
    let line = |it: &v1::JobWaiting| {
        let (letters, copies) = (counted(it.letters + it.copies, "letter"), grouped(it.copies));
        let sent = if it.copies > 0 { format!(", {copies} of them ordered and not there yet") } else { String::new() };
        format!("{letters} of {} until its lane takes them{sent}: {}", it.consumer, it.why)
    };
    job.checkpoint.waiting.iter().map(line).collect()
}

/// Whether two jobs, or a job and what is about to be replayed, may mean the same letters.
pub(super) fn may_share(one: &jobs::Selection, other: &jobs::Selection) -> bool {
    let (of, with) = (&one.filter, &other.filter);
    let differ =
        |one: &Option<Name>, other: &Option<Name>| matches!((one, other), (Some(one), Some(other)) if one != other);
    let names_others = !one.ids.is_empty() && !other.ids.is_empty() && one.ids.is_disjoint(&other.ids);
    !names_others && !differ(&of.service, &with.service) && !differ(&of.consumer, &with.consumer)
}

/// What is to be said of a job that may mean the same letters as a replay that is asked for. `None`: it has nothing left to send,
/// and nothing that has not ended.
pub(super) fn beside(job: &Job) -> Option<String> {
    let (counts, id) = (job.counts(), &job.id);
    let left = job.replay.selected.saturating_sub(counts.dispatched + counts.skipped.total());
    let left = if job.end.is_none() { left } else { 0 };
    if job.is_finished() || left + counts.in_flight() == 0 {
        return None;
    }
    let (by, rate) = (&job.asked.by, rate(job.replay.rate_per_second));
    let (left, sent) = (counted(left, "letter"), counted(counts.in_flight(), "letter"));
    let state = job.state().word();
    Some(format!(
        "note: job {id} of {by} ({state}, {rate}) has {left} to send and {sent} sent and not ended, perhaps of these; what is sent now \
         does not keep its rate; see mesh dead-letter jobs show {id}"
    ))
}

/// The command that lists what failed again, where something did. Since it began, others may have failed beside.
pub(super) fn next(job: &Job) -> Option<String> {
    if job.counts().failed == 0 {
        return None;
    }
    let since_ms = if job.started_ms > 0 { job.started_ms } else { job.asked.at_ms };
    let filter = Selection { since_ms: Some(since_ms), until_ms: None, ..job.selection().filter };
    let state = if filter.parked { "parked" } else { "open" };
    Some(format!("mesh dead-letter list --state {state} {}", words::filters(&filter).join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let selection =
            v1::LetterSelection { ids: Vec::new(), filter: r#"{"service":"payments","consumer":"charge"}"#.into() };
        let replay = v1::ReplayJob {
            selection: Some(selection),
            selected: 111,
            rate_per_second: 50.0,
            canary: vec![1.0, 5.0, 100.0],
            abort_if: "failed > 5%".into(),
            at_ms: 1_767_323_045_000,
            max_in_flight: 10_000,
            ..Default::default()
        };
        Job {
            id: "4de4".into(),
            replay,
            asked: v1::JobAct { at_ms: 1_767_323_000_000, ..Default::default() },
            runner: String::new(),
            started_ms: 0,
            is_paused: false,
            end: None,
            checkpoint: v1::JobCheckpoint::default(),
            finished_ms: None,
            history: Vec::new(),
            last_sequence: 1,
        }
    }

    #[test]
    fn a_job_says_what_was_asked_for() {
        assert_eq!(
            plan(&job()),
            "letters --consumer payments/charge (111 letters open when asked); rate 50/s; steps 1%, 5%, 100%; \
             aborts if failed > 5%; not before 2026-01-02 03:04:05 UTC"
        );
    }

    #[test]
    fn a_job_that_waits_says_what_for() {
        let mut job = job();
        let at = |job: &Job, kept, after| standing_at(job, kept, job.replay.at_ms + after);
        assert_eq!(at(&job, Kept::Missing, -1), "waits until 2026-01-02 03:04:05 UTC");
        assert_eq!(at(&job, Kept::Missing, 0), "waits for a keeper");
        assert_eq!(at(&job, Kept::Active, 0), "waits for the keeper to take it up");
        assert_eq!(at(&job, Kept::Unknown, 0), "waiting");
        job.is_paused = true;
        assert_eq!(at(&job, Kept::Missing, 0), "paused");
    }

    #[test]
    fn a_job_says_which_consumer_holds_it_up() {
        let mut job = job();
        assert!(waiting(&job).is_empty());
        let away =
            v1::JobWaiting { consumer: "payments/charge".into(), letters: 1200, copies: 1, why: "no room".into() };
        job.checkpoint.waiting = vec![away];
        let said =
            "1,201 letters of payments/charge until its lane takes them, 1 of them ordered and not there yet: no room";
        assert_eq!(waiting(&job), [said]);
    }

    #[test]
    fn a_job_is_told_beside_a_replay_while_it_has_letters() {
        let mut job = job();
        job.asked.by = "eve".into();
        job.checkpoint.counts = Some(v1::JobCounts { dispatched: 11, resolved: 8, held: 10, ..Default::default() });
        let said = beside(&job).unwrap();
        assert!(
            said.contains("job 4de4 of eve (waiting, 50/s) has 90 letters to send and 3 letters sent and not ended"),
            "{said}"
        );
        assert!(said.contains("jobs show 4de4"), "{said}");
        job.end = Some(jobs::End::Cancelled);
        assert!(beside(&job).unwrap().contains("0 letters to send and 3 letters sent"));
        job.finished_ms = Some(1);
        assert_eq!(beside(&job), None);
    }

    #[test]
    fn jobs_of_different_consumers_or_letters_share_nothing() {
        let of = |service: &str, consumer: &str| {
            let name = |text: &str| (!text.is_empty()).then(|| text.parse::<Name>().unwrap());
            let filter = Selection { service: name(service), consumer: name(consumer), ..Default::default() };
            jobs::Selection::new(Default::default(), &filter)
        };
        let all = jobs::Selection::default();
        assert!(may_share(&all, &of("a", "work")) && may_share(&of("", "work"), &of("a", "work")));
        assert!(!may_share(&of("a", "work"), &of("b", "work")) && !may_share(&of("a", "work"), &of("a", "other")));
        let ids = |id: &str| jobs::Selection { ids: [id.to_owned()].into(), ..jobs::Selection::default() };
        assert!(may_share(&ids("ab"), &all) && may_share(&ids("ab"), &ids("ab")) && !may_share(&ids("ab"), &ids("cd")));
    }

    #[test]
    fn where_letters_failed_again_the_command_that_shows_them_is_told() {
        let mut job = job();
        assert_eq!(next(&job), None);
        let counts = v1::JobCounts { dispatched: 2, failed: 1, ..Default::default() };
        job.checkpoint.counts = Some(counts);
        job.started_ms = job.replay.at_ms;
        assert_eq!(
            next(&job).unwrap(),
            "mesh dead-letter list --state open --consumer payments/charge --since 2026-01-02T03:04:05.000Z"
        );
    }
}
