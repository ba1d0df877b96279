//! From the records of the job stream to jobs with a state: pure.

use std::collections::BTreeMap;

use mesh_proto::v1::{self, job_created::What, job_record::Record};
use prost::Message as _;

use super::Selection;
use crate::{
    envelope::Envelope,
    policy::replay::{AbortRule, Canary, Counts, Plan, Rate, Skips},
    subject::WIRE,
};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// No keeper has taken it up, or its time has not come.
    Waiting,
    /// Letters are sent.
    Running,
    /// Stopped by a person for now.
    Paused,
    /// Stopped by a person for good.
    Cancelled,
    /// Stopped by its own rule.
    Aborted,
    /// Everything was sent, and has ended.
    Done,
}

impl JobState {
    /// The word that people read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Cancelled => "cancelled",
            JobState::Aborted => "aborted",
            JobState::Done => "done",
        }
    }
}

/// Why a job sends nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// By a person.
    Cancelled,
    /// By its own rule: what it said.
    Aborted(String),
}

/// A job as its records tell it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub replay: v1::ReplayJob,
    /// Who asked for it, when and why.
    pub asked: v1::JobAct,
    /// The keeper's process that has it. Empty: none yet.
    pub runner: String,
    /// When it was first taken up, Unix milliseconds; 0: not yet.
    pub started_ms: i64,
    /// Whether a person stopped it for now.
    pub is_paused: bool,
    /// Why nothing more is sent.
    pub end: Option<End>,
    /// The newest account of its letters.
    pub checkpoint: v1::JobCheckpoint,
    /// When its last letter had ended, Unix milliseconds.
    pub finished_ms: Option<i64>,
    /// What people and keepers did, in order.
    pub history: Vec<Moment>,
    /// The sequence of its last record: the next one is written only after this one.
    pub last_sequence: u64,
}

/// Something that was done to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// The word that people read: asked, taken up, paused, resumed, cancelled, aborted.
    pub what: &'static str,
    /// Who, when and why.
    pub act: v1::JobAct,
}

impl Job {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> JobState {
        match &self.end {
            Some(End::Cancelled) => JobState::Cancelled,
            Some(End::Aborted(_)) => JobState::Aborted,
            None if self.finished_ms.is_some() => JobState::Done,
            None if self.is_paused => JobState::Paused,
            None if self.runner.is_empty() => JobState::Waiting,
            None => JobState::Running,
        }
    }

    /// Whether nothing more will happen: every letter that was sent has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished_ms.is_some()
    }

    /// What became of its letters, as of the newest account.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.checkpoint.counts.as_ref().map(counts).unwrap_or_default()
    }

    /// Which letters it is about.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection::from_wire(self.replay.selection.as_ref())
    }

    /// What its decisions need. Records of a newer or a foreign writer that can't be read err on the side of sending less.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let replay = &self.replay;
        let rule = |text: &str| text.parse::<AbortRule>().or_else(|_| "failed > 0".parse()).ok();
        Plan {
            selected: replay.selected,
            rate: (replay.rate_per_second != 0.0).then(|| Rate::per_second(replay.rate_per_second).unwrap_or_slow()),
            canary: Canary::new(replay.canary.clone()).or_else(|_| Canary::new(vec![1.0, 100.0])).unwrap_or_default(),
            abort_if: if replay.abort_if.is_empty() { None } else { rule(&replay.abort_if) },
            max_in_flight: replay.max_in_flight.max(1).into(),
        }
    }

    fn created(id: &str, sequence: u64, created: v1::JobCreated) -> Option<Job> {
        let What::Replay(replay) = created.what?;
        let asked = created.act.unwrap_or_default();
        Some(Job {
            id: id.to_owned(),
            replay,
            history: vec![Moment { what: "asked", act: asked.clone() }],
            asked,
            runner: String::new(),
            started_ms: 0,
            is_paused: false,
            end: None,
            checkpoint: v1::JobCheckpoint::default(),
            finished_ms: None,
            last_sequence: sequence,
        })
    }

    /// Takes the next record. One that does not follow from the state changes nothing.
    pub(super) fn follow(&mut self, sequence: u64, record: Record) {
        if self.is_finished() {
            return;
        }
        self.last_sequence = sequence;
        let goes_on = self.end.is_none();
        let moment = match record {
            Record::Started(act) => {
                self.runner.clone_from(&act.by);
                self.started_ms = if self.started_ms == 0 { act.at_ms } else { self.started_ms };
                Some(("taken up", act))
            }
            Record::Paused(act) if goes_on && !self.is_paused => {
                self.is_paused = true;
                Some(("paused", act))
            }
            Record::Resumed(act) if goes_on && self.is_paused => {
                self.is_paused = false;
                Some(("resumed", act))
            }
            Record::Cancelled(act) if goes_on => {
                self.end = Some(End::Cancelled);
                Some(("cancelled", act))
            }
            Record::Aborted(act) if goes_on => {
                self.end = Some(End::Aborted(act.why.clone()));
                Some(("aborted", act))
            }
            Record::Checkpoint(checkpoint) => {
                self.checkpoint = checkpoint;
                None
            }
            Record::Finished(finished) => {
                self.checkpoint.counts = finished.counts;
                self.checkpoint.at_ms = finished.at_ms;
                // An older keeper does not say it.
                self.checkpoint.copied_through = self.checkpoint.copied_through.max(finished.copied_through);
                self.checkpoint.waiting.clear();
                self.finished_ms = Some(finished.at_ms);
                None
            }
            _ => None,
        };
        self.history.extend(moment.map(|(what, act)| Moment { what, act }));
    }
}

trait OrSlow {
    fn unwrap_or_slow(self) -> Rate;
}

impl OrSlow for Option<Rate> {
    /// A rate that can't be is no rate at all: one letter a second harms nobody.
    fn unwrap_or_slow(self) -> Rate {
        self.unwrap_or(Rate::SLOW)
    }
}

/// All jobs that were read so far, by id.
#[derive(Debug, Default)]
pub struct Jobs(BTreeMap<String, Job>);

impl Jobs {
    /// Takes the next record of the stream; the job that it belongs to.
    pub fn apply(&mut self, envelope: &Envelope) -> Option<&Job> {
        let sequence = envelope.delivery.as_ref()?.sequence;
        let id = job_of(&envelope.subject)?;
        let Ok(record) = v1::JobRecord::decode(envelope.payload.clone()) else {
            tracing::warn!(subject = envelope.subject, "a record among the jobs can't be read");
            return None;
        };
        self.apply_record(id, sequence, record)
    }

    pub(super) fn apply_record(&mut self, id: &str, sequence: u64, record: v1::JobRecord) -> Option<&Job> {
        match (record.record?, self.0.get_mut(id)) {
            (Record::Created(created), None) => {
                self.0.insert(id.to_owned(), Job::created(id, sequence, created)?);
            }
            (record, Some(job)) => job.follow(sequence, record),
            (_, None) => return None,
        }
        self.0.get(id)
    }

    /// The jobs, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.0.values()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Job> {
        self.0.get(id)
    }

    /// Forgets one that has ended.
    pub(super) fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }
}

/// `mesh1.job.<region>.<id>`
fn job_of(subject: &str) -> Option<&str> {
    let rest = subject.strip_prefix(WIRE)?.strip_prefix(".job.")?;
    let (_region, id) = rest.split_once('.')?;
    (!id.is_empty() && !id.contains('.')).then_some(id)
}

fn counts(wire: &v1::JobCounts) -> Counts {
    Counts {
        dispatched: wire.dispatched,
        resolved: wire.resolved,
        failed: wire.failed,
        skipped: Skips {
            held: wire.held,
            discarded: wire.discarded,
            replayed_by_others: wire.replayed_by_others,
            without_consumer: wire.without_consumer,
            refused: wire.refused,
        },
    }
}

pub(super) fn to_wire(counts: &Counts) -> v1::JobCounts {
    v1::JobCounts {
        dispatched: counts.dispatched,
        resolved: counts.resolved,
        failed: counts.failed,
        held: counts.skipped.held,
        discarded: counts.skipped.discarded,
        replayed_by_others: counts.skipped.replayed_by_others,
        without_consumer: counts.skipped.without_consumer,
        refused: counts.skipped.refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn act() -> v1::JobAct {
        v1::JobAct { at_ms: 5, by: "ada".into(), why: "it is late".into() }
    }

    fn created() -> Record {
        let replay = v1::ReplayJob { selected: 3, ..Default::default() };
        Record::Created(v1::JobCreated { act: Some(act()), what: Some(What::Replay(replay)) })
    }

    fn fold(records: impl IntoIterator<Item = Record>) -> Option<Job> {
        let mut jobs = Jobs::default();
        for (sequence, record) in (1..).zip(records) {
            jobs.apply_record("j", sequence, v1::JobRecord { record: Some(record) });
        }
        jobs.get("j").cloned()
    }

    #[test]
    fn a_job_lives() {
        let state = |records: Vec<Record>| fold(records).map(|job| job.state());
        let started = || Record::Started(act());
        assert_eq!(state(vec![started()]), None, "nobody asked for it");
        assert_eq!(state(vec![created()]), Some(JobState::Waiting));
        assert_eq!(state(vec![created(), started()]), Some(JobState::Running));
        assert_eq!(state(vec![created(), started(), Record::Paused(act())]), Some(JobState::Paused));
        assert_eq!(state(vec![created(), Record::Paused(act()), Record::Resumed(act())]), Some(JobState::Waiting));
        let cancelled = vec![created(), Record::Cancelled(act()), Record::Aborted(act()), Record::Resumed(act())];
        assert_eq!(state(cancelled), Some(JobState::Cancelled));
        let done = fold([created(), started(), Record::Finished(v1::JobFinished::default())]).unwrap();
        assert_eq!((done.state(), done.is_finished()), (JobState::Done, true));
    }

    #[test]
    fn only_subjects_of_jobs_are_jobs() {
        assert_eq!(job_of("mesh1.job.local.0a1b"), Some("0a1b"));
        for other in ["mesh1.job.local", "mesh1.job.local.", "mesh1.job.local.a.b", "mesh1.dead.local.a.b.c"] {
            assert_eq!(job_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_cant_be_read_sends_less_not_more() {
        let mut job = fold([created()]).unwrap();
        job.replay.rate_per_second = -7.0;
        job.replay.canary = vec![50.0, 2.0];
        job.replay.abort_if = "errors > 9".into();
        let plan = job.plan();
        assert_eq!(plan.rate, Rate::per_second(1.0));
        assert_eq!(plan.canary.steps(), [1.0, 100.0]);
        assert_eq!(plan.abort_if, "failed > 0".parse().ok());
        assert_eq!(plan.max_in_flight, 1);
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            Just(created()),
            Just(Record::Started(act())),
            (0u64..9).prop_map(|copied_through| {
                Record::Checkpoint(v1::JobCheckpoint { copied_through, ..Default::default() })
            }),
            Just(Record::Paused(act())),
            Just(Record::Resumed(act())),
            Just(Record::Cancelled(act())),
            Just(Record::Aborted(act())),
            Just(Record::Finished(v1::JobFinished::default())),
        ]
    }

    proptest! {
        /// Whatever is written: what was asked for stays, an end stays, and after the last record nothing changes.
        #[test]
        fn no_order_of_records_brings_a_job_back(records in proptest::collection::vec(record(), 0..14)) {
            let mut before: Option<Job> = None;
            for count in 1..=records.len() {
                let now = fold(records[..count].to_vec());
                if let (Some(before), Some(now)) = (&before, &now) {
                    prop_assert_eq!(&before.replay, &now.replay);
                    prop_assert!(before.end.is_none() || before.end == now.end);
                    prop_assert!(!before.is_finished() || before == now);
                    prop_assert!(before.started_ms == 0 || before.started_ms == now.started_ms);
                }
                before = now;
            }
        }
    }
}
