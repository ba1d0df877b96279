//! The job as a state machine, every order of events tried: two operators, a consumer, and two keepers that may run at once and
//! die between any two steps.
//!
//! The decisions are the real ones: the account is [`Progress`] over the records read so far, the job is the fold of its log,
//! and what is done next is what `policy::replay::next` says.

use mesh_proto::v1::{self, job_record::Record as JobRecord, letter_record::Record};
use stateright::{Checker as _, Model, Property};

use super::{
    fold::{Jobs, to_wire},
    progress::{Key, Progress},
    since::{Others, Since},
};
use crate::policy::replay::{Next, View, next};

/// Letters, each captured at its own sequence; the cut-off is the last of them.
const LETTERS: u64 = 1;
const JOB: &str = "j";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    Ordered { by_job: bool },
    Resolved,
    CapturedAgain,
    Discarded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Logged {
    Started(usize),
    Checkpoint(u64),
    Cancelled,
    Finished { dispatched: u64, ended: u64 },
}

/// What a keeper has under way for a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Order,
    Copy,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Runner {
    /// Records that it has read.
    read: usize,
    log_read: usize,
    is_caught_up: bool,
    under_way: Vec<(u64, Step)>,
    /// Letters that were begun: they count as starting until the order is read back.
    begun: Vec<u64>,
    copied: Vec<u64>,
    skipped: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// The dead-letter stream after the captures: letter and event; the sequence is the place, after the captures.
    letters: Vec<(u64, Event)>,
    log: Vec<Logged>,
    /// Copies on the lane: letter and the sequence of the order.
    lane: Vec<(u64, u64)>,
    /// Copies that the broker's dedupe window knows.
    window: Vec<u64>,
    /// Orders whose copy was handled: one entry for each handling.
    effects: Vec<u64>,
    runners: [Option<Runner>; 2],
    deaths: u8,
    forgets: u8,
    sent_after_stop: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Act {
    /// The second operator, who saw only the captures.
    Person(Event),
    Cancel,
    TakeUp(usize),
    Die(usize),
    Read(usize),
    ReadLog(usize),
    Begin(usize, u64),
    /// It was heard that somebody else ordered it.
    Skip(usize, u64),
    Go(usize, u64),
    /// Its order is not taken now: it is left as if it had not been begun.
    NotNow(usize, u64),
    Repair(usize, u64),
    Checkpoint(usize),
    Finish(usize),
    Handle {
        at: u64,
        fails: bool,
    },
    /// The dedupe window is over.
    Forget,
}

impl World {
    fn sequence(&self, index: usize) -> u64 {
        LETTERS + 1 + index as u64
    }

    /// The sequence of a letter's last record, and whether it is open or replaying.
    fn stand(&self, letter: u64) -> (u64, Option<Event>) {
        let last = self.letters.iter().enumerate().rev().find(|(_, (other, _))| *other == letter);
        last.map_or((letter, None), |(index, (_, event))| (self.sequence(index), Some(*event)))
    }

    fn progress(&self, runner: &Runner) -> Progress {
        self.account(runner).0
    }

    /// What the job ordered, and what others did to the rest.
    fn account(&self, runner: &Runner) -> (Progress, Others) {
        let (mut progress, mut others) = (Progress::new(JOB, LETTERS), Others::default());
        for (index, (letter, event)) in self.letters.iter().take(runner.read).enumerate() {
            let record = match event {
                Event::Ordered { by_job } => {
                    let job = if *by_job { JOB } else { "" };
                    Record::Replaying(v1::LetterAct { generation: 1, job: job.into(), ..Default::default() })
                }
                Event::Resolved => Record::Resolved(v1::LetterAct { generation: 1, ..Default::default() }),
                Event::CapturedAgain => Record::Captured(v1::DeadLetter { generation: 1, ..Default::default() }),
                Event::Discarded => Record::Discarded(v1::LetterAct::default()),
            };
            let record = v1::LetterRecord { record: Some(record) };
            progress.apply(key(*letter), (self.sequence(index), &letter.to_string()), &record);
            if !progress.is_ours(key(*letter)) {
                let was_there = self.letters.iter().take(index).all(|(other, _)| other != letter);
                others.hear(key(*letter), &record, Some(was_there));
            }
        }
        runner.copied.iter().for_each(|at| progress.copied(*at));
        (progress, others)
    }

    fn job(&self, read: usize) -> super::Job {
        let mut jobs = Jobs::default();
        let replay = v1::ReplayJob { cut_off: LETTERS, selected: LETTERS, max_in_flight: 10, ..Default::default() };
        let created = v1::JobCreated { act: None, what: Some(v1::job_created::What::Replay(replay)) };
        let logged = self.log.iter().take(read).map(|logged| match logged {
            Logged::Started(by) => JobRecord::Started(v1::JobAct { by: by.to_string(), ..Default::default() }),
            Logged::Checkpoint(copied_through) => {
                JobRecord::Checkpoint(v1::JobCheckpoint { copied_through: *copied_through, ..Default::default() })
            }
            Logged::Cancelled => JobRecord::Cancelled(v1::JobAct::default()),
            Logged::Finished { .. } => JobRecord::Finished(v1::JobFinished::default()),
        });
        for (sequence, record) in (1..).zip(std::iter::once(JobRecord::Created(created)).chain(logged)) {
            jobs.apply_record(JOB, sequence, v1::JobRecord { record: Some(record) });
        }
        jobs.get(JOB).cloned().unwrap()
    }

    fn view(&self, runner: &Runner) -> View {
        let progress = self.progress(runner);
        let is_starting = |letter: &&u64| !progress.is_ours(key(**letter)) && !runner.skipped.contains(letter);
        let starting = runner.begun.iter().filter(is_starting).count() as u64;
        let begun = |letter: u64| progress.is_ours(key(letter)) || runner.begun.contains(&letter);
        View {
            counts: progress.counts(),
            starting,
            step: 0,
            is_paused: false,
            is_stopped: self.job(runner.log_read).end.is_some(),
            is_walked: (1..=LETTERS).all(begun),
        }
    }

    fn next(&self, runner: &Runner) -> Next {
        next(&self.job(runner.log_read).plan(), &self.view(runner))
    }

    fn put_on_lane(&mut self, letter: u64) -> Option<u64> {
        let (at, last) = self.stand(letter);
        if last != Some(Event::Ordered { by_job: true }) {
            return None;
        }
        if !self.window.contains(&at) {
            self.window.push(at);
            self.lane.push((letter, at));
        }
        Some(at)
    }

    fn runner_acts(&self, me: usize, acts: &mut Vec<Act>) {
        let Some(runner) = &self.runners[me] else {
            if !self.job(self.log.len()).is_finished()
                && self.log.iter().filter(|l| matches!(l, Logged::Started(_))).count() < 3
            {
                acts.push(Act::TakeUp(me));
            }
            return;
        };
        let job = self.job(runner.log_read);
        if self.deaths < 2 {
            acts.push(Act::Die(me));
        }
        if runner.read < self.letters.len() || !runner.is_caught_up {
            acts.push(Act::Read(me));
        }
        if runner.log_read < self.log.len() {
            acts.push(Act::ReadLog(me));
        }
        acts.extend(runner.under_way.iter().map(|(letter, _)| Act::Go(me, *letter)));
        let orders = runner.under_way.iter().filter(|(_, step)| *step == Step::Order);
        acts.extend(orders.map(|(letter, _)| Act::NotNow(me, *letter)));
        if !runner.is_caught_up || job.is_finished() {
            return;
        }
        let (progress, others) = self.account(runner);
        for (_, letter) in progress.uncopied_after(job.checkpoint.copied_through) {
            let letter = letter.parse().unwrap();
            if !runner.under_way.iter().any(|(other, _)| *other == letter) {
                acts.push(Act::Repair(me, letter));
            }
        }
        match self.next(runner) {
            Next::Dispatch => {
                let is_begun = |letter: &u64| progress.is_ours(key(*letter)) || runner.begun.contains(letter);
                let turn = |letter| match others.of(key(letter)) {
                    Some(Since::Taken { .. }) => Act::Skip(me, letter),
                    _ => Act::Begin(me, letter),
                };
                acts.extend((1..=LETTERS).filter(|letter| !is_begun(letter)).map(turn));
            }
            Next::Finish if runner.under_way.is_empty() => acts.push(Act::Finish(me)),
            _ => {}
        }
        if progress.copied_through() > job.checkpoint.copied_through.max(LETTERS)
            && !self.log.iter().any(|logged| matches!(logged, Logged::Checkpoint(_)))
        {
            acts.push(Act::Checkpoint(me));
        }
    }

    /// A record of a runner, if it has read the whole log.
    fn write(&mut self, me: usize, logged: Logged) -> bool {
        let Some(runner) = &mut self.runners[me] else { return false };
        let is_last = runner.log_read == self.log.len();
        if is_last {
            self.log.push(logged);
            runner.log_read += 1;
        }
        is_last
    }

    fn go(&mut self, me: usize, letter: u64) {
        let Some(mut runner) = self.runners[me].take() else { return };
        let at = runner.under_way.iter().position(|(other, _)| *other == letter).unwrap();
        let (sequence, last) = self.stand(letter);
        match (runner.under_way[at].1, last) {
            // Nobody wrote since the capture.
            (Step::Order, None) => {
                debug_assert_eq!(sequence, letter);
                self.letters.push((letter, Event::Ordered { by_job: true }));
                runner.under_way[at].1 = Step::Copy;
            }
            // A conflict: its history says whose it is.
            (Step::Order, Some(Event::Ordered { by_job: true })) => runner.under_way[at].1 = Step::Copy,
            (Step::Order, Some(_)) => {
                runner.under_way.remove(at);
                runner.skipped.push(letter);
            }
            (Step::Copy, _) => {
                runner.under_way.remove(at);
                runner.copied.extend(self.put_on_lane(letter));
            }
        }
        self.runners[me] = Some(runner);
    }
}

fn key(letter: u64) -> Key {
    Key::of(&format!("mesh1.dead.local.a.work.{letter:032x}")).unwrap()
}

struct Replay;

impl Model for Replay {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            letters: Vec::new(),
            log: Vec::new(),
            lane: Vec::new(),
            window: Vec::new(),
            effects: Vec::new(),
            runners: [None, None],
            deaths: 0,
            forgets: 0,
            sent_after_stop: false,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.stand(1).1.is_none() {
            acts.push(Act::Person(Event::Discarded));
            acts.push(Act::Person(Event::Ordered { by_job: false }));
        }
        if world.job(world.log.len()).end.is_none() && !world.job(world.log.len()).is_finished() {
            acts.push(Act::Cancel);
        }
        (0..2).for_each(|me| world.runner_acts(me, acts));
        for (_, at) in &world.lane {
            acts.push(Act::Handle { at: *at, fails: false });
            acts.push(Act::Handle { at: *at, fails: true });
        }
        if !world.window.is_empty() && world.forgets == 0 {
            acts.push(Act::Forget);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut world = world.clone();
        match act {
            Act::Person(event) => world.letters.push((1, event)),
            Act::Cancel => world.log.push(Logged::Cancelled),
            Act::TakeUp(me) => {
                world.log.push(Logged::Started(me));
                world.runners[me] = Some(Runner { log_read: world.log.len(), ..Runner::default() });
            }
            Act::Die(me) => {
                world.runners[me] = None;
                world.deaths += 1;
            }
            Act::Read(me) => {
                let all = world.letters.len();
                world.runners[me].iter_mut().for_each(|runner| (runner.read, runner.is_caught_up) = (all, true));
            }
            Act::ReadLog(me) => {
                let all = world.log.len();
                world.runners[me].iter_mut().for_each(|runner| runner.log_read = all);
                // Somebody else took it up: it stops, whatever it had under way.
                if world.job(all).runner != me.to_string() {
                    world.runners[me] = None;
                }
            }
            Act::Begin(me, letter) => {
                let is_stopped = world.runners[me].as_ref().is_some_and(|it| world.job(it.log_read).end.is_some());
                world.sent_after_stop |= is_stopped;
                world.runners[me].iter_mut().for_each(|runner| {
                    runner.under_way.push((letter, Step::Order));
                    runner.begun.push(letter);
                });
            }
            Act::Skip(me, letter) => world.runners[me].iter_mut().for_each(|runner| {
                runner.skipped.push(letter);
                runner.begun.push(letter);
            }),
            Act::Go(me, letter) => world.go(me, letter),
            Act::NotNow(me, letter) => world.runners[me].iter_mut().for_each(|runner| {
                runner.under_way.retain(|(other, _)| *other != letter);
                runner.begun.retain(|other| *other != letter);
            }),
            Act::Repair(me, letter) => {
                let at = world.progress(world.runners[me].as_ref()?).uncopied_after(0);
                let at = at.iter().find(|(_, other)| *other == letter.to_string())?.0;
                world.put_on_lane(letter);
                world.runners[me].iter_mut().for_each(|runner| runner.copied.push(at));
            }
            Act::Checkpoint(me) => {
                let through = world.progress(world.runners[me].as_ref()?).copied_through();
                if !world.write(me, Logged::Checkpoint(through)) {
                    return None;
                }
            }
            Act::Finish(me) => {
                let counts = to_wire(&world.progress(world.runners[me].as_ref()?).counts());
                let (dispatched, ended) = (counts.dispatched, counts.resolved + counts.failed);
                if !world.write(me, Logged::Finished { dispatched, ended }) {
                    return None;
                }
            }
            Act::Handle { at, fails } => {
                let index = world.lane.iter().position(|(_, other)| *other == at)?;
                let (letter, _) = world.lane.remove(index);
                // The consumer's inbox: what was handled before is not handled again.
                if !world.effects.contains(&at) {
                    world.effects.push(at);
                    let event = if fails { Event::CapturedAgain } else { Event::Resolved };
                    world.letters.push((letter, event));
                }
            }
            Act::Forget => {
                world.window.clear();
                world.forgets += 1;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each letter is ordered once per generation", |_, world: &World| {
                (1..=LETTERS).all(|letter| {
                    let is_order = |it: &&(u64, Event)| it.0 == letter && matches!(it.1, Event::Ordered { .. });
                    world.letters.iter().filter(is_order).count() <= 1
                })
            }),
            Property::always("each order has one effect at most", |_, world: &World| {
                let mut effects = world.effects.clone();
                effects.sort_unstable();
                effects.dedup();
                effects.len() == world.effects.len()
            }),
            Property::always("whoever knows that it is stopped begins nothing", |_, world: &World| {
                !world.sent_after_stop
            }),
            Property::always("who finishes has counted every order to its end", |_, world: &World| {
                world.log.iter().all(|logged| match logged {
                    Logged::Finished { dispatched, ended } => dispatched == ended,
                    _ => true,
                })
            }),
            Property::always("without a stop, a finished job leaves no letter behind", |_, world: &World| {
                let is_finished = world.log.iter().any(|logged| matches!(logged, Logged::Finished { .. }));
                let is_stopped = world.log.contains(&Logged::Cancelled);
                let is_ended = |letter| !matches!(world.stand(letter).1, None | Some(Event::Ordered { by_job: true }));
                !is_finished || is_stopped || (1..=LETTERS).all(is_ended)
            }),
            Property::sometimes("who heard that somebody else ordered it does not try", |_, world: &World| {
                let skips = |runner: &Runner| runner.under_way.is_empty() && runner.skipped == [1];
                world.letters.first() == Some(&(1, Event::Ordered { by_job: false }))
                    && world.runners.iter().flatten().any(skips)
            }),
            Property::sometimes("a job ends after two deaths and with a failure", |_, world: &World| {
                let is_finished = world.log.iter().any(|logged| matches!(logged, Logged::Finished { .. }));
                is_finished && world.deaths == 2 && world.letters.iter().any(|it| it.1 == Event::CapturedAgain)
            }),
        ]
    }
}

#[test]
fn whatever_happens_in_whatever_order_each_letter_is_sent_once_and_counted() {
    let checked = Replay.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    let states = checked.unique_state_count();
    println!("replay job: {states} states, depth {}, no property is violated", checked.max_depth());
    assert!(states > 10_000, "{states}");
}
