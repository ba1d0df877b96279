//! A consumer whose lane takes nothing: its letters wait, those of others go on, and the job says so.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    bus::StreamLimits,
    dead_letter::{ActKind, Letter, LetterState},
    operate::jobs::{self, Job, JobState, Selection},
};
use mesh_tests::{eventually, foreign, within};

use crate::{
    command_line::Operator,
    replay::{Office, Shelf, capture, work},
    shop::{consumer, orders},
};

/// Letters of the consumer that is away, and of the other one, which come after them.
const OF_A: usize = 1000;
const OF_B: usize = 50;
/// Orders that may stand without a copy, at 200 a second: those of the second in which nothing was heard of the first, and what a
/// busy machine adds.
const MOST: usize = 400;
/// The bus gives a copy up after 15 s.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// A job for all letters that was paused after some, and that goes on with the lane of `a` gone, until all of `b` are sent.
struct HeldUp {
    office: Office,
    job: Job,
    a: Shelf,
    b: Shelf,
    /// Letters of `a` that went before.
    before: usize,
}

impl HeldUp {
    async fn new() -> HeldUp {
        let office = Office::open(&["a", "b"]).await;
        let (a, b) = (Shelf::default(), Shelf::default());
        let a_at_work = work(&office.broker, "a", &a).await;
        capture(office.bus(), "a", 0..OF_A).await;
        capture(office.bus(), "b", 0..OF_B).await;
        let all = |ask: &mut jobs::Ask| {
            (ask.selection, ask.selected) =
                (Selection::new(BTreeSet::new(), &Default::default()), (OF_A + OF_B) as u64);
            ask.rate = "200/s".parse().ok();
        };
        let job = office.ask("b", all).await;
        office.keep("one");
        eventually("some letters", || async { (a.handled().await >= 5).then_some(()) }).await;
        jobs::pause(office.bus(), &office.job(&job).await, "eve", "wait").await.unwrap();
        let quiet = || async {
            let job = Some(office.job(&job).await).filter(|job| job.is_paused && job.counts().in_flight() == 0)?;
            (job.counts().dispatched == a.handled().await as u64).then_some(job)
        };
        let job = eventually("a quiet job", quiet).await;
        a_at_work.drain().await;
        let before = a.handled().await;
        let jetstream = async_nats::jetstream::new(foreign::client(&office.broker, "operator").await);
        jetstream.delete_stream("mesh1-lane-a").await.unwrap();
        jobs::resume(office.bus(), &job, "eve", "go").await.unwrap();
        HeldUp { office, job, a, b, before }.all_of_b().await
    }

    async fn all_of_b(self) -> HeldUp {
        let _at_work = work(&self.office.broker, "b", &self.b).await;
        eventually("the letters of the other one", || async { (self.b.handled().await == OF_B).then_some(()) }).await;
        self
    }

    /// Letters of `a` that were ordered while its lane was gone.
    async fn ordered(&self) -> usize {
        ordered(&self.office.letters().await) - self.before
    }

    async fn lane_is_back(&self) -> Job {
        let declared = [orders(), consumer("a", "work"), consumer("b", "work")];
        self.office.broker.apply(&declared, &StreamLimits::default()).await.unwrap();
        let _at_work = work(&self.office.broker, "a", &self.a).await;
        let finished = || async { Some(self.office.job(&self.job).await).filter(Job::is_finished) };
        within(GIVEN_UP, "the end of the job", finished).await
    }
}

fn ordered(letters: &[Letter]) -> usize {
    let of_a = letters.iter().filter(|letter| letter.letter.service == "a");
    of_a.filter(|letter| letter.history.iter().any(|act| act.kind == ActKind::Replayed)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letters_of_others_go_on_and_those_that_wait_follow_when_their_lane_is_back() {
    let held_up = HeldUp::new().await;
    let office = &held_up.office;
    let told = || async { Some(office.job(&held_up.job).await).filter(|job| !job.checkpoint.waiting.is_empty()) };
    let job = within(GIVEN_UP, "the job to say what waits", told).await;
    let [waiting] = job.checkpoint.waiting.as_slice() else { panic!("{job:?}") };
    assert!(waiting.consumer == "a/work" && waiting.why.contains("no stream takes"), "{waiting:?}");
    let count = held_up.ordered().await;
    assert!((1..=MOST).contains(&count), "{count} letters are ordered for a lane that is gone");
    let shown = Operator::at(&office.broker, "operator").json(0, &["dead-letter", "jobs", "show", &job.id]).await;
    assert_eq!(shown["waiting"][0]["consumer"], "a/work", "{shown}");

    let ended = held_up.lane_is_back().await;
    assert_eq!((ended.state(), ended.counts().resolved), (JobState::Done, (OF_A + OF_B) as u64));
    assert!(ended.checkpoint.waiting.is_empty());
    assert_eq!((held_up.a.handled().await, held_up.b.handled().await), (OF_A, OF_B));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_meanwhile_ends_with_what_it_had_ordered() {
    let held_up = HeldUp::new().await;
    let office = &held_up.office;
    jobs::cancel(office.bus(), &office.job(&held_up.job).await, "eve", "enough").await.unwrap();
    let ended = held_up.lane_is_back().await;
    let sent = held_up.before + held_up.ordered().await;
    assert_eq!((ended.state(), ended.counts().dispatched), (JobState::Cancelled, (sent + OF_B) as u64));
    assert!(sent - held_up.before <= MOST && held_up.a.handled().await == sent, "{sent}");
    assert!(office.letters().await.iter().all(|letter| letter.state != LetterState::Replaying));
}
