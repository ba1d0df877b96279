//! A small world for [`super::inbox`]: one message, its copies, what is remembered of it, and processes that end anywhere.
//!
//! Whatever is put aside, over its limits, handed back or killed: the message comes to an end that is announced, and what may not
//! be repeated is not begun after a start without a word. While every process leaves a word and the broker
//! forgets nothing, nobody is suspected.

use std::time::Duration;

use mesh_proto::v1::{
    Effect, Fault, InboxRecord,
    inbox_record::{Again, End, State},
};
use proptest::prelude::*;

use super::inbox::{Back, Begin, InboxRule, Now, Start, begin, hand_back};

/// Where the message lies: its original first, then its copies on the lane.
#[derive(Debug, Clone)]
struct Place {
    attempt: u32,
    deliveries: u64,
    is_settled: bool,
    /// The copy of it that waits on the lane since it was put aside.
    aside: Option<usize>,
    /// Whether a copy of what came of it was made: that is made once.
    again: bool,
    /// Whether it has lain there for longer than an end is remembered.
    is_old: bool,
}

/// What is to come of a delivery, if nothing that is remembered says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    Done,
    Again,
    /// The same attempt again: its target asked for time.
    Throttled,
    PutAside,
    Late,
    /// The process drains before it is its turn.
    HandBack,
    /// The process drains while its handler runs, which is cut off.
    CutOff,
}

/// One delivery: of which place, what it is for, and after which of its steps the process ends.
#[derive(Debug, Clone, Copy)]
struct Step {
    place: usize,
    plan: Plan,
    ends_after: u32,
    /// The broker forgot what it delivered, and that this place was settled.
    is_forgotten: bool,
    /// The process had it for so long that somebody else may have settled it meanwhile.
    is_stale: bool,
}

#[derive(Debug)]
struct World {
    safe: bool,
    places: Vec<Place>,
    record: Option<InboxRecord>,
    /// A handler was started and its process ended before what came of it was written down.
    in_doubt: bool,
    /// It acted, and that was written down.
    done: u32,
    /// A process ended without a word of what it had in hand, or the broker forgot.
    is_silent: bool,
    announced: bool,
    steps_left: u32,
    trouble: Option<&'static str>,
}

/// The process ended.
struct Gone;

impl World {
    fn new(safe: bool) -> World {
        let original = Place { attempt: 1, deliveries: 0, is_settled: false, aside: None, again: false, is_old: false };
        let (record, trouble) = (None, None);
        World {
            safe,
            places: vec![original],
            record,
            in_doubt: false,
            done: 0,
            is_silent: false,
            announced: false,
            steps_left: 0,
            trouble,
        }
    }

    fn stream(at: usize) -> &'static str {
        if at == 0 { "mesh1-work-shop" } else { "mesh1-lane-bank" }
    }

    /// Between two steps.
    fn goes_on(&mut self) -> Result<(), Gone> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Gone)?;
        Ok(())
    }

    fn deliver(&mut self, step: Step) {
        let at = step.place % self.places.len();
        let Some(place) = self.places.get_mut(at) else { return };
        // Only a stream of events keeps what was acknowledged.
        place.is_settled &= !(step.is_forgotten && at == 0);
        if place.is_settled && !step.is_stale {
            return;
        }
        if !place.is_settled {
            place.deliveries = if step.is_forgotten { 1 } else { place.deliveries + 1 };
        }
        // It gave no sign of life. Whoever hands back in peace what it had for too long does no harm all the same.
        self.is_silent |= step.is_stale && step.plan != Plan::HandBack;
        self.steps_left = step.ends_after;
        let ended = self.attempt(at, step.plan);
        self.is_silent |= ended.is_err() || step.is_forgotten;
    }

    fn attempt(&mut self, at: usize, plan: Plan) -> Result<(), Gone> {
        let Some(place) = self.places.get(at).cloned() else { return Ok(()) };
        let now = Now {
            attempt: place.attempt,
            stream: World::stream(at),
            sequence: at as u64,
            deliveries: place.deliveries,
            safe_to_repeat: self.safe,
            exact: true,
            may_be_forgotten: place.is_old,
            at_ms: 0,
            lease: Duration::ZERO,
            longest: Duration::ZERO,
            waited: Duration::ZERO,
            original: None,
            goes_on: false,
        };
        if plan == Plan::HandBack {
            self.goes_on()?;
            self.back(&now);
            return Ok(());
        }
        let rule = InboxRule { max_ended_alone: 1000, max_ended_beside: 1000 };
        let verdict = begin(&rule, self.record.as_ref(), &now);
        let is_suspect = matches!(verdict, Begin::Start(Start { suspect: true, .. }));
        self.check(self.is_silent || !is_suspect, "suspected, though everybody left a word");
        let end = match verdict {
            Begin::Start(start) if plan == Plan::PutAside => {
                self.goes_on()?;
                self.write(&now, State::HandedBack, start, None);
                return self.carry_out(at, None);
            }
            Begin::Start(start) if plan == Plan::Late => {
                let effect = if start.begun { Effect::Unknown } else { Effect::None };
                self.check(!self.in_doubt || start.begun, "a letter says that nothing happened");
                self.written(&now, start, End::DeadLetter(Fault { effect: effect.into(), ..Fault::default() }))?
            }
            Begin::Start(start) => {
                self.goes_on()?;
                self.write(&now, State::Begun, start, None);
                self.goes_on()?;
                self.check(self.safe || !self.in_doubt, "begun after a start without a word");
                self.check(self.done == 0, "done, and begun again");
                self.in_doubt = true;
                self.goes_on()?;
                if plan == Plan::CutOff {
                    // What may not be repeated stays begun.
                    if self.safe {
                        self.write(&now, State::HandedBack, Start { begun: true, ..start }, None);
                    }
                    self.is_silent = true;
                    return Ok(());
                }
                let end = match plan {
                    Plan::Again => End::Again(Again { attempt: place.attempt + 1, due_ms: 0 }),
                    Plan::Throttled => End::Again(Again { attempt: place.attempt, due_ms: 0 }),
                    _ => End::Reply(Default::default()),
                };
                let end = self.written(&now, start, end)?;
                self.done += u32::from(matches!(end, Some(End::Reply(_))));
                self.in_doubt = false;
                end
            }
            Begin::Ended => self.record.as_ref().and_then(|record| record.end.clone()),
            Begin::Park => {
                let start = Start { suspect: false, alone: false, begun: false, ended_alone: 0, ended_beside: 0 };
                self.written(&now, start, End::DeadLetter(Fault::default()))?
            }
            Begin::Overtaken => {
                self.settle(at);
                return Ok(());
            }
            verdict @ (Begin::Wait | Begin::TooOften { .. }) => {
                self.check(matches!(verdict, Begin::Overtaken), "nobody else is at work");
                return Ok(());
            }
        };
        self.carry_out(at, end)
    }

    fn back(&mut self, now: &Now<'_>) {
        match hand_back(self.record.as_ref(), now, false) {
            Some(Back::Itself(start)) => {
                let noted = self.record.take().and_then(|record| record.handed_back);
                self.write(now, State::HandedBack, start, None);
                if let Some(record) = &mut self.record {
                    record.handed_back = noted;
                }
            }
            Some(Back::Beside(record)) => self.record = Some(*record),
            None => {}
        }
    }

    fn written(&mut self, now: &Now<'_>, start: Start, end: End) -> Result<Option<End>, Gone> {
        self.goes_on()?;
        self.write(now, State::Ended, start, Some(end.clone()));
        Ok(Some(end))
    }

    fn write(&mut self, now: &Now<'_>, state: State, start: Start, end: Option<End>) {
        self.record = Some(InboxRecord {
            state: state.into(),
            attempt: now.attempt,
            stream: now.stream.to_owned(),
            sequence: now.sequence,
            deliveries: now.deliveries,
            ended_alone: start.ended_alone,
            ended_beside: start.ended_beside,
            begun: start.begun && state != State::Ended,
            end,
            ..InboxRecord::default()
        });
    }

    /// Its successor, then its ack. Without an end: put aside.
    fn carry_out(&mut self, at: usize, end: Option<End>) -> Result<(), Gone> {
        self.goes_on()?;
        match end {
            Some(End::Again(Again { attempt, .. })) => self.copy(at, attempt, false),
            Some(_) => self.announced = true,
            None => {
                let attempt = self.places.get(at).map_or(1, |place| place.attempt);
                self.copy(at, attempt, true);
            }
        }
        self.goes_on()?;
        self.settle(at);
        Ok(())
    }

    fn copy(&mut self, at: usize, attempt: u32, is_aside: bool) {
        let (next, Some(place)) = (self.places.len(), self.places.get(at).cloned()) else { return };
        let still_waits = |copy: usize| self.places.get(copy).is_some_and(|copy| copy.deliveries == 0);
        if if is_aside { place.aside.is_some_and(still_waits) } else { place.again } {
            return;
        }
        if let Some(place) = self.places.get_mut(at) {
            place.again |= !is_aside;
            place.aside = if is_aside { Some(next) } else { place.aside };
        }
        self.places.push(Place { attempt, deliveries: 0, is_settled: false, aside: None, again: false, is_old: false });
    }

    /// More time than an end is remembered. A start is remembered until it is known what came of it.
    fn time_passes(&mut self) {
        self.record.take_if(|record| record.state() != State::Begun && !record.begun);
        self.places.iter_mut().for_each(|place| place.is_old = true);
    }

    fn settle(&mut self, at: usize) {
        if let Some(place) = self.places.get_mut(at) {
            place.is_settled = true;
        }
    }

    fn check(&mut self, holds: bool, trouble: &'static str) {
        if !holds {
            self.trouble.get_or_insert(trouble);
        }
    }

    /// No process ends any more, and every target is up.
    fn comes_to_rest(&mut self) {
        for _ in 0..100 {
            let Some(place) = self.places.iter().position(|place| !place.is_settled) else { return };
            self.deliver(Step { place, plan: Plan::Done, ends_after: u32::MAX, is_forgotten: false, is_stale: false });
        }
        self.check(false, "it does not come to rest");
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let plans =
        [Plan::Done, Plan::Again, Plan::Throttled, Plan::PutAside, Plan::Late, Plan::HandBack, Plan::CutOff].to_vec();
    let plan = prop::sample::select(plans);
    (0usize..6, plan, 0u32..9, 0u32..8, 0u32..4).prop_map(|(place, plan, ends_after, forgotten, stale)| Step {
        place,
        plan,
        ends_after,
        is_forgotten: forgotten == 0,
        is_stale: stale == 0,
    })
}

fn step(place: usize, plan: Plan, ends_after: u32, is_stale: bool) -> Step {
    Step { place, plan, ends_after, is_forgotten: false, is_stale }
}

/// A message that was put aside by a process that ended before its ack. Its copy was settled by somebody who saw the message in
/// hand: it is still where it was put aside.
fn copy_was_dropped(safe: bool) -> World {
    let mut world = World::new(safe);
    world.deliver(step(0, Plan::PutAside, 2, false));
    world.settle(1);
    let is_settled: Vec<_> = world.places.iter().map(|place| place.is_settled).collect();
    assert_eq!(is_settled, [false, true], "{world:?}");
    world
}

/// Whoever had the copy for long hands it back.
#[test]
fn a_copy_that_another_one_settled_is_handed_back_and_the_message_is_not_lost() {
    let mut world = copy_was_dropped(true);
    world.deliver(step(1, Plan::HandBack, u32::MAX, true));
    world.comes_to_rest();
    assert!(world.announced && world.done == 1 && world.trouble.is_none(), "{world:?}");
}

/// How a late start may go, and where its process may end.
fn late_starts() -> impl Iterator<Item = (bool, Plan, u32)> {
    let plans = [Plan::Done, Plan::Again, Plan::Throttled, Plan::PutAside, Plan::Late, Plan::CutOff];
    let of = |safe| plans.into_iter().flat_map(move |plan| (0..9).map(move |ends_after| (safe, plan, ends_after)));
    of(true).chain(of(false))
}

/// Whoever had the copy for long begins it, and is cut off by a drain or ends anywhere: the message is not where that one says.
#[test]
fn a_copy_that_another_one_settled_is_begun_and_the_message_is_not_lost() {
    for (safe, plan, ends_after) in late_starts() {
        let mut world = copy_was_dropped(safe);
        world.deliver(step(1, plan, ends_after, true));
        world.comes_to_rest();
        assert!(world.announced && world.trouble.is_none(), "{plan:?} {ends_after}: {world:?}");
    }
}

/// The same the other way round: another one put the message aside and settled it, so it is where its copy waits.
#[test]
fn a_message_that_another_one_put_aside_is_begun_and_its_copy_is_not_dropped() {
    for (safe, plan, ends_after) in late_starts() {
        let mut world = World::new(safe);
        world.deliver(step(0, Plan::PutAside, u32::MAX, false));
        world.deliver(step(0, plan, ends_after, true));
        world.comes_to_rest();
        assert!(world.announced && world.trouble.is_none(), "{plan:?} {ends_after}: {world:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Overtaken is one only where somebody else carries the message.
    #[test]
    fn whatever_ends_and_whenever_the_message_is_not_lost(steps in prop::collection::vec(any_step(), 1..14), safe: bool) {
        let mut world = World::new(safe);
        for step in &steps {
            world.deliver(*step);
        }
        world.comes_to_rest();
        prop_assert!(world.trouble.is_none(), "{:?}: {:?}", world.trouble, world);
        prop_assert!(world.announced, "lost: {world:?}");
    }

    /// What may not be repeated and was done is not done again, though that was forgotten before it was settled.
    #[test]
    fn what_was_done_and_not_settled_is_not_done_again_though_it_is_forgotten(steps in prop::collection::vec((any_step(), any::<bool>()), 1..14)) {
        let mut world = World::new(false);
        for (step, is_late) in steps {
            // One place: what waits on the lane for so long is a first delivery when it comes.
            let plan = if matches!(step.plan, Plan::HandBack | Plan::CutOff | Plan::Late) { step.plan } else { Plan::Done };
            world.deliver(Step { plan, is_forgotten: false, is_stale: false, ..step });
            if is_late {
                world.time_passes();
            }
        }
        world.comes_to_rest();
        prop_assert!(world.trouble.is_none(), "{:?}: {:?}", world.trouble, world);
        prop_assert!(world.announced, "lost: {world:?}");
    }

    /// What is handed back in peace runs beside others, however often it was put aside or tried before.
    #[test]
    fn nobody_is_suspected_while_every_process_leaves_a_word(steps in prop::collection::vec(any_step(), 1..14), safe: bool) {
        let mut world = World::new(safe);
        for step in &steps {
            // Each has what it has in hand for no longer than its lease, or hands it back.
            let is_stale = step.plan == Plan::HandBack;
            world.deliver(Step { ends_after: u32::MAX, is_forgotten: false, is_stale, ..*step });
        }
        world.comes_to_rest();
        prop_assert!(world.trouble.is_none(), "{:?}: {:?}", world.trouble, world);
        prop_assert!(world.announced, "lost: {world:?}");
    }
}
