//! One target that is down delays nobody else on the same consumer.
//!
//! A target (a vendor's endpoint, a tenant, a warehouse) that *hangs* would take every place of its consumer, one that
//! *refuses* would fill it with attempts in vain. So a target has at most a share of the places that leaves some free
//! whatever it does (the dynamic threshold of shared switch buffers: a share of what is still free), and after some
//! failures in a row nothing is sent to it but one probe at a time, or two where one hangs. What it may not have now is put aside
//! on the lane, spending no attempt.
//!
//! What is put aside must not come back in vain: each return costs the broker two writes, and those delay the healthy. So a
//! first attempt is put aside for long, and *called back* early: by each answer of its target two (so a target that is mended
//! gets its work back faster and faster, and no faster than it answers), by each probe that failed one, for the next probe.
//! The answers may go to other processes: who hears neither an answer nor a failure calls more each second. Returns are spaced,
//! so that a long queue of one target can't crowd the consumer either.

use std::time::Duration;

/// The limits of one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationRule {
    /// Places that a target may have for each place that is free: 4 lets one target alone have four fifths.
    pub share: usize,
    /// A target whose oldest attempt runs for so long is slow: what finds no place waits on the lane, not here. The fewer the
    /// places that are left to wait, the sooner, down to a tenth of it.
    pub slow_after: Duration,
    /// Failures in a row after which only probes are made.
    pub failures: u32,
    /// The pause before the first probe; each probe that fails doubles it.
    pub pause: Duration,
    /// No pause is longer.
    pub max_pause: Duration,
    /// How many deliveries of one target may come back from the lane in a second.
    pub returns_per_s: u32,
    /// After so long a first attempt comes back that nobody called: the process that put it aside is gone.
    pub aside: Duration,
}

impl Default for IsolationRule {
    fn default() -> IsolationRule {
        IsolationRule {
            share: 4,
            slow_after: Duration::from_millis(250),
            failures: 5,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(30),
            returns_per_s: 500,
            aside: Duration::from_secs(120),
        }
    }
}

/// Returns of one target are spaced over so long, at most.
const LONGEST_QUEUE_MS: i64 = 3_600_000;

/// One place of so many, and at least one, is kept for targets of which nothing runs.
const RESERVE: usize = 16;

/// How many are called back by an answer.
const CALLED_BY_ANSWER: usize = 2;

/// What was called back is on its way for so long, at most: then no more is called.
const CALLED_AHEAD_MS: i64 = 1000;

/// Where something waits for a target that is down and nothing came back for so long, one is called.
const REMINDED_AFTER_MS: i64 = 5000;

/// What is known of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Attempts that run, by the moment that they began (Unix milliseconds), the oldest first.
    running: Vec<i64>,
    failures: u32,
    /// Failed probes in a row.
    probes: u32,
    probe_at_ms: i64,
    /// The last return that was given out of those that come soon, and are not called: retries.
    soon_ms: i64,
    /// The last one of those that wait to be called.
    late_ms: i64,
    /// The last one that was called.
    called_ms: i64,
    /// How many were called at the last look without an answer.
    unasked: usize,
}

/// The room of one consumer.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// How many it may handle at once.
    pub places: usize,
    /// How many more it may begin now.
    pub free: usize,
    /// How many it may have here, handled or waiting.
    pub hand: usize,
    /// How many it has here.
    pub in_hand: usize,
}

impl Room {
    /// When a target is slow, in milliseconds. What waits for it here takes the room of what others are sent: so that one that
    /// begins to hang does not first fill it all, the time is as much shorter as there is less room left.
    fn slow_after_ms(&self, rule: &IsolationRule) -> i64 {
        let (full_ms, hand) = (millis(rule.slow_after), as_i64(self.hand.max(1)));
        let left = as_i64(self.hand.saturating_sub(self.in_hand));
        full_ms.saturating_mul(left).checked_div(hand).unwrap_or(full_ms).clamp(full_ms / 10, full_ms)
    }
}

/// A delivery that asks for a place.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// It was never begun, and can be called back.
    pub may_wait: bool,
    /// How many of its target wait to be called back.
    pub aside: usize,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It is begun.
    Begin,
    /// It waits here: places of this target become free soon.
    Wait,
    /// It waits on the lane.
    PutAside(Aside),
}

/// A delivery that is put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    /// Why: the target is down, and not only slow.
    pub is_down: bool,
    /// It can't begin before (Unix milliseconds).
    pub earliest_ms: i64,
    /// When it comes back by itself (Unix milliseconds).
    pub due_ms: i64,
    /// Whether it may be called back before.
    pub waits_for_call: bool,
}

/// What came of an attempt, for its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It answered, be it with no.
    Answered,
    /// It did not answer, or said that it can't.
    Failed,
    /// Nothing is known: it was handed back.
    Nothing,
}

/// An attempt that has ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// When it began (Unix milliseconds).
    pub began_ms: i64,
    /// What came of it.
    pub came: Came,
    /// How many of its target wait to be called back.
    pub aside: usize,
}

impl Target {
    /// Decides about one more delivery.
    #[must_use]
    pub fn admit(&mut self, rule: &IsolationRule, room: Room, asking: Asking, now_ms: i64) -> Admit {
        self.forget_the_future(rule, now_ms);
        if asking.aside == 0 {
            self.late_ms = 0;
        }
        let is_probed = self.is_probed(rule, now_ms);
        if self.is_down(rule) && (now_ms < self.probe_at_ms || is_probed) {
            // One comes back for the next probe. Retries have been begun, and know best when they are too late.
            let is_awaited = is_probed || self.soon_ms.max(self.called_ms) >= self.probe_at_ms;
            let is_soon = !asking.may_wait || !is_awaited;
            let aside = self.aside(rule, (true, is_soon), (now_ms.max(self.probe_at_ms), now_ms));
            // While a probe hangs they come back in vain: the longer it hangs, the more seldom.
            let hangs_ms = if is_soon && is_probed { self.probed_for_ms(now_ms) } else { 0 };
            return Admit::PutAside(Aside { due_ms: aside.due_ms.saturating_add(hangs_ms), ..aside });
        }
        // The last places are for targets that have none yet.
        let reserve = if room.places > 1 { (room.places / RESERVE).max(1) } else { 0 };
        let may = match self.running.len() {
            0 => room.free > 0,
            running => running < rule.share.saturating_mul(room.free.saturating_sub(reserve)),
        };
        if may {
            self.running.push(now_ms);
            return Admit::Begin;
        }
        let oldest_ms = self.running.first().map_or(0, |began| now_ms.saturating_sub(*began));
        if oldest_ms >= room.slow_after_ms(rule) {
            return Admit::PutAside(self.aside(rule, (false, !asking.may_wait), (now_ms, now_ms)));
        }
        Admit::Wait
    }

    /// An attempt has ended: what was put aside is to be called back, one for each moment (Unix milliseconds). `jitter` is a random
    /// number from 0 up to 1.
    pub fn ended(&mut self, rule: &IsolationRule, end: End, (now_ms, jitter): (i64, f64)) -> Vec<i64> {
        if let Some(at) = self.running.iter().position(|began| *began == end.began_ms) {
            self.running.remove(at);
        }
        self.forget_the_future(rule, now_ms);
        match end.came {
            Came::Answered => {
                (self.failures, self.probes) = (0, 0);
                self.call(rule, CALLED_BY_ANSWER.min(end.aside), (now_ms, now_ms))
            }
            Came::Failed => {
                let was_down = self.is_down(rule);
                self.failures = self.failures.saturating_add(1);
                self.unasked = 0;
                // What had begun before the pause is no probe: one blip under many attempts is one pause.
                if self.is_down(rule) && (!was_down || end.began_ms >= self.probe_at_ms) {
                    self.pause(rule, (now_ms, jitter));
                }
                self.go_on(rule, end.aside, now_ms)
            }
            Came::Nothing => self.go_on(rule, end.aside, now_ms),
        }
    }

    /// Nothing is sent to it for a while, longer each time.
    fn pause(&mut self, rule: &IsolationRule, (now_ms, jitter): (i64, f64)) {
        let doubled = rule.pause.saturating_mul(1 << self.probes.min(16)).min(rule.max_pause);
        self.probe_at_ms = now_ms.saturating_add(millis(doubled.mul_f64(0.5 + jitter / 2.0)));
        self.probes = self.probes.saturating_add(1);
    }

    /// An attempt that was no answer calls one for the next, if nothing else comes back by then.
    fn go_on(&mut self, rule: &IsolationRule, aside: usize, now_ms: i64) -> Vec<i64> {
        let from_ms = if self.is_down(rule) { now_ms.max(self.probe_at_ms) } else { now_ms };
        if self.soon_ms.max(self.called_ms) >= from_ms {
            return Vec::new();
        }
        self.call(rule, aside.min(1), (from_ms, from_ms))
    }

    /// To be asked each second, with how many wait: calls some where no answer does. Of a target that is down one now and then, of
    /// another one twice as many as the last time, until this process hears that they are too many.
    pub fn remind(&mut self, rule: &IsolationRule, aside: usize, now_ms: i64) -> Vec<i64> {
        self.forget_the_future(rule, now_ms);
        if self.is_down(rule) {
            let is_silent = self.soon_ms.max(self.called_ms).saturating_add(REMINDED_AFTER_MS) <= now_ms;
            return if is_silent { self.go_on(rule, aside, now_ms) } else { Vec::new() };
        }
        let most = usize::try_from(rule.returns_per_s).unwrap_or(usize::MAX).max(1);
        self.unasked = self.unasked.saturating_mul(2).clamp(1, most);
        self.call(rule, self.unasked.min(aside), (now_ms, now_ms))
    }

    /// Whether nothing is remembered that would matter later: nothing runs or returns, and failures are long past.
    #[must_use]
    pub fn is_idle(&self, rule: &IsolationRule, now_ms: i64) -> bool {
        let over = self.probe_at_ms.saturating_add(millis(rule.max_pause)) < now_ms;
        self.running.is_empty()
            && (self.failures == 0 || over)
            && self.soon_ms.max(self.late_ms).max(self.called_ms) <= now_ms
    }

    /// Whether only probes are made.
    #[must_use]
    pub fn is_down(&self, rule: &IsolationRule) -> bool {
        self.failures >= rule.failures
    }

    /// Whether a probe runs. What began before the pause is none, and one that hangs keeps one other away for no longer than a
    /// pause: a target that hangs holds few places.
    fn is_probed(&self, rule: &IsolationRule, now_ms: i64) -> bool {
        let mut probes = self.running.iter().filter(|began_ms| **began_ms >= self.probe_at_ms);
        match (probes.next(), probes.next()) {
            (None, _) => false,
            (Some(began_ms), None) => now_ms.saturating_sub(*began_ms) < millis(rule.max_pause),
            (Some(_), Some(_)) => true,
        }
    }

    /// How long the last probe runs.
    fn probed_for_ms(&self, now_ms: i64) -> i64 {
        self.running.last().map_or(0, |began_ms| now_ms.saturating_sub(*began_ms).max(0))
    }

    /// A clock that was set back must not keep a target shut for as long as it was set back.
    fn forget_the_future(&mut self, rule: &IsolationRule, now_ms: i64) {
        self.probe_at_ms = self.probe_at_ms.min(now_ms.saturating_add(millis(rule.max_pause)));
        self.soon_ms = self.soon_ms.min(now_ms.saturating_add(LONGEST_QUEUE_MS));
        self.late_ms = self.late_ms.min(now_ms.saturating_add(LONGEST_QUEUE_MS));
        let longest_call_ms = millis(rule.max_pause).saturating_add(2 * CALLED_AHEAD_MS);
        self.called_ms = self.called_ms.min(now_ms.saturating_add(longest_call_ms));
    }

    fn aside(
        &mut self,
        rule: &IsolationRule,
        (is_down, is_soon): (bool, bool),
        (from_ms, now_ms): (i64, i64),
    ) -> Aside {
        self.unasked = 0;
        let earliest_ms = from_ms.saturating_add(millis(rule.slow_after));
        let late_ms = now_ms.saturating_add(millis(rule.aside)).max(earliest_ms);
        let (last, from_ms) = match is_soon {
            true => (&mut self.soon_ms, earliest_ms),
            false => (&mut self.late_ms, late_ms),
        };
        let due_ms = next(rule, last, from_ms);
        Aside { is_down, earliest_ms, due_ms, waits_for_call: !is_soon }
    }

    /// Calls back so many, from then on, unless enough are on their way.
    fn call(&mut self, rule: &IsolationRule, count: usize, (from_ms, now_ms): (i64, i64)) -> Vec<i64> {
        let most_ms = now_ms.saturating_add(CALLED_AHEAD_MS);
        let mut called = Vec::new();
        while called.len() < count && self.called_ms < most_ms {
            called.push(next(rule, &mut self.called_ms, from_ms));
        }
        called
    }
}

/// The next free moment to come back, not before `from_ms`.
fn next(rule: &IsolationRule, last_ms: &mut i64, from_ms: i64) -> i64 {
    let spacing_ms = i64::from((1000 / rule.returns_per_s.max(1)).max(1));
    *last_ms = last_ms.saturating_add(spacing_ms).max(from_ms);
    *last_ms
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACES: usize = 64;
    const FREE: Room = Room { places: PLACES, free: PLACES, hand: 2 * PLACES, in_hand: 0 };
    const FIRST: Asking = Asking { may_wait: true, aside: 100 };
    const RETRY: Asking = Asking { may_wait: false, aside: 100 };

    /// With so many places free, and nothing that waits.
    fn room(free: usize) -> Room {
        Room { free, in_hand: PLACES - free, ..FREE }
    }

    /// First deliveries of one target until none more is begun; how many run then.
    fn fill(target: &mut Target, mut free: usize, now_ms: i64) -> usize {
        let mut begun = 0;
        while free > 0 && target.admit(&IsolationRule::default(), room(free), FIRST, now_ms) == Admit::Begin {
            begun += 1;
            free -= 1;
        }
        begun
    }

    fn end(target: &mut Target, began_ms: i64, came: Came, now_ms: i64) -> Vec<i64> {
        target.ended(&IsolationRule::default(), End { began_ms, came, aside: 100 }, (now_ms, 1.0))
    }

    fn aside_of(admit: Admit) -> Aside {
        match admit {
            Admit::PutAside(aside) => aside,
            other => panic!("{other:?}"),
        }
    }

    /// One that failed as often as it takes, at `now_ms`.
    fn down(now_ms: i64) -> Target {
        let mut target = Target::default();
        for _ in 0..IsolationRule::default().failures {
            assert_eq!(target.admit(&IsolationRule::default(), FREE, FIRST, now_ms), Admit::Begin);
            let nothing_aside = End { began_ms: now_ms, came: Came::Failed, aside: 0 };
            target.ended(&IsolationRule::default(), nothing_aside, (now_ms, 1.0));
        }
        target
    }

    #[test]
    fn one_target_that_hangs_leaves_places_free_and_its_queue_goes_to_the_lane() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        let begun = fill(&mut target, PLACES, 0);
        assert!((44..=52).contains(&begun), "{begun} of {PLACES}");
        let left = room(PLACES - begun);
        assert_eq!(target.admit(&rule, left, FIRST, 100), Admit::Wait, "it may only be busy");
        let slow = aside_of(target.admit(&rule, left, FIRST, 300));
        assert!(slow.due_ms > 300 && !slow.is_down && slow.waits_for_call);
        assert_eq!(Target::default().admit(&rule, left, FIRST, 300), Admit::Begin, "another target finds a place");
    }

    #[test]
    fn one_that_refuses_is_probed_one_at_a_time_and_comes_back_with_its_first_answer() {
        let (rule, mut target) = (IsolationRule::default(), down(0));
        assert!(aside_of(target.admit(&rule, FREE, FIRST, 500)).due_ms >= 1000);
        assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin, "a probe");
        assert!(aside_of(target.admit(&rule, FREE, FIRST, 1000)).is_down, "one at a time");
        end(&mut target, 1000, Came::Failed, 1000);
        aside_of(target.admit(&rule, FREE, FIRST, 2500)); // The pause has doubled.
        assert_eq!(target.admit(&rule, FREE, FIRST, 3000), Admit::Begin);
        end(&mut target, 3000, Came::Answered, 3000);
        assert!(fill(&mut target, PLACES, 3001) > 40, "all at once");
    }

    #[test]
    fn a_blip_under_many_attempts_is_one_pause() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        for _ in 0..fill(&mut target, PLACES, 0) {
            end(&mut target, 0, Came::Failed, 10);
        }
        assert_eq!(target.admit(&rule, FREE, FIRST, 1010), Admit::Begin, "a second later");
        end(&mut target, 1010, Came::Failed, 1010);
        aside_of(target.admit(&rule, FREE, FIRST, 3000));
        assert_eq!(target.admit(&rule, FREE, FIRST, 3010), Admit::Begin, "only a probe that fails doubles the pause");
    }

    #[test]
    fn what_began_before_the_pause_and_hangs_keeps_no_probe_away_and_a_probe_that_hangs_only_for_a_while() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        assert_eq!(target.admit(&rule, FREE, FIRST, 0), Admit::Begin, "it hangs");
        for _ in 0..rule.failures {
            assert_eq!(target.admit(&rule, FREE, FIRST, 1), Admit::Begin);
            end(&mut target, 1, Came::Failed, 2);
        }
        assert_eq!(target.admit(&rule, FREE, FIRST, 1500), Admit::Begin, "a probe, which hangs too");
        assert!(aside_of(target.admit(&rule, FREE, FIRST, 20_000)).waits_for_call, "none is to come back meanwhile");
        assert_eq!(target.admit(&rule, FREE, FIRST, 31_501), Admit::Begin, "it hangs for long");
        aside_of(target.admit(&rule, FREE, FIRST, 90_000)); // Two are enough.
    }

    #[test]
    fn while_a_probe_hangs_retries_come_back_more_and_more_seldom() {
        let (rule, mut target) = (IsolationRule::default(), down(0));
        assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin, "the probe, which hangs");
        let (mut now_ms, mut returns) = (1000, 0);
        while now_ms < 11_000 {
            now_ms = aside_of(target.admit(&rule, FREE, RETRY, now_ms)).due_ms;
            returns += 1;
        }
        assert!((4..=7).contains(&returns), "{returns} returns in ten seconds");
    }

    #[test]
    fn one_that_hangs_is_found_slow_before_what_waits_for_it_fills_the_hand() {
        let rule = IsolationRule::default();
        let mut hangs = Target::default();
        let (mut free, mut waiting, mut aside_at_ms) = (PLACES, 0, None);
        // Something of it comes every other millisecond.
        for now_ms in (0..400).step_by(2) {
            let room = Room { in_hand: PLACES - free + waiting, ..room(free) };
            match hangs.admit(&rule, room, FIRST, now_ms) {
                Admit::Begin => free -= 1,
                Admit::Wait => waiting += 1,
                Admit::PutAside(_) => {
                    aside_at_ms = Some(now_ms);
                    break;
                }
            }
        }
        assert!(
            aside_at_ms.unwrap() < 200 && PLACES - free + waiting < FREE.hand / 2 + 8,
            "{aside_at_ms:?}, {waiting}"
        );
        let mut quick = Target::default();
        let begun = fill(&mut quick, PLACES, 0);
        let full = Room { in_hand: FREE.hand, ..room(PLACES - begun) };
        assert_eq!(quick.admit(&rule, full, FIRST, 24), Admit::Wait, "one that answers within some milliseconds");
    }

    #[test]
    fn one_comes_back_for_the_probe_and_the_others_wait_to_be_called() {
        let (rule, mut target) = (IsolationRule::default(), down(0));
        let asides: Vec<_> = (0..50).map(|_| aside_of(target.admit(&rule, FREE, FIRST, 0))).collect();
        let soon: Vec<_> = asides.iter().filter(|aside| !aside.waits_for_call).map(|aside| aside.due_ms).collect();
        assert_eq!(soon.len(), 1, "{asides:?}");
        assert!((1000..2000).contains(&soon[0]));
        let late: Vec<_> = asides.iter().filter(|aside| aside.waits_for_call).map(|aside| aside.due_ms).collect();
        assert!(late.windows(2).all(|pair| pair[1] - pair[0] == 2), "spaced: {late:?}");
        assert!(late[0] >= millis(rule.aside));
        let retry = aside_of(target.admit(&rule, FREE, RETRY, 0));
        assert!(!retry.waits_for_call && retry.due_ms < 2000, "a retry comes back soon");
    }

    #[test]
    fn a_failed_probe_calls_one_for_the_next_and_each_answer_calls_two() {
        let (rule, mut target) = (IsolationRule::default(), down(0));
        assert_eq!(target.admit(&rule, FREE, FIRST, 1000), Admit::Begin);
        assert_eq!(end(&mut target, 1000, Came::Failed, 1000), [3000], "when it may be probed again");
        assert_eq!(target.admit(&rule, FREE, FIRST, 3000), Admit::Begin);
        assert_eq!(end(&mut target, 3000, Came::Answered, 3100), [3100, 3102]);
        let mut none = down(0);
        none.ended(&rule, End { began_ms: 0, came: Came::Answered, aside: 0 }, (5000, 0.5));
        assert_eq!(none.called_ms, 0, "what is not there is not counted");
    }

    #[test]
    fn where_the_answers_go_elsewhere_more_is_called_each_second_until_it_is_too_much() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        let mut aside = 1000;
        let seconds = (1..60).find(|second| {
            aside -= target.remind(&rule, aside, second * 1000).len();
            aside == 0
        });
        assert!(seconds.unwrap() < 12, "{aside} are left");
        let mut hangs = Target::default();
        let begun = fill(&mut hangs, PLACES, 0);
        for second in 1..10 {
            aside_of(hangs.admit(&rule, room(PLACES - begun), FIRST, second * 1000));
            assert_eq!(hangs.remind(&rule, 100, second * 1000).len(), 1);
        }
        let mut down = down(60_000);
        assert_eq!(down.remind(&rule, 3, 60_000), [61_000], "for the probe");
        assert!(down.remind(&rule, 3, 65_000).is_empty());
        assert_eq!(down.remind(&rule, 3, 66_000), [66_000]);
        assert!(down.remind(&rule, 0, 90_000).is_empty(), "nothing waits");
    }

    #[test]
    fn every_end_that_is_no_answer_calls_one_if_nothing_else_comes() {
        for came in [Came::Failed, Came::Nothing] {
            let mut target = Target::default();
            assert_eq!(end(&mut target, 0, came, 5000), [5000]);
            assert!(end(&mut target, 0, came, 5000).is_empty(), "it is on its way");
        }
        let mut down = down(0);
        assert_eq!(end(&mut down, 0, Came::Nothing, 500), [1000], "for the probe");
    }

    #[test]
    fn no_more_is_called_than_may_come_back_in_a_second() {
        let (rule, mut target) = (IsolationRule { returns_per_s: 10, ..IsolationRule::default() }, Target::default());
        let ended = End { began_ms: 0, came: Came::Answered, aside: 1000 };
        let called: usize = (0..100).map(|_| target.ended(&rule, ended, (0, 0.0)).len()).sum();
        assert_eq!(called, 10);
    }

    #[test]
    fn even_with_few_places_a_target_that_hangs_leaves_one_and_a_failure_long_ago_is_forgotten() {
        let rule = IsolationRule::default();
        let of_three = |free| Room { places: 3, free, hand: 6, in_hand: 3 - free };
        let mut target = Target::default();
        let mut free = 3;
        while free > 0 && target.admit(&rule, of_three(free), FIRST, 0) == Admit::Begin {
            free -= 1;
        }
        assert!(free >= 1);
        let mut once = Target::default();
        assert_eq!(once.admit(&rule, of_three(3), FIRST, 0), Admit::Begin);
        end(&mut once, 0, Came::Failed, 0);
        assert!(once.is_idle(&rule, 40_000));
        assert_eq!(Target::default().admit(&rule, of_three(0), FIRST, 0), Admit::Wait, "no place at all");
    }

    proptest! {
        /// Whatever three targets do that never end, one that is healthy finds a place.
        #[test]
        fn somebody_who_is_healthy_finds_a_place(order in proptest::collection::vec(0usize..3, 0..400)) {
            let rule = IsolationRule::default();
            let mut targets: Vec<Target> = (0..3).map(|_| Target::default()).collect();
            let mut free = PLACES;
            for which in order {
                if free > 0 && targets[which].admit(&rule, room(free), FIRST, 0) == Admit::Begin {
                    free -= 1;
                }
            }
            prop_assert!(free >= 1, "no place is left");
        }

        /// Whatever a target does: where something of it waits to be called, something of it is to come back, or came back a
        /// moment ago. What is called may vanish: somebody else settled it, or it ended in another process.
        #[test]
        fn a_target_with_something_aside_is_always_asked_again(
            steps in proptest::collection::vec((0i64..1000, 0u8..6, any::<bool>()), 1..300),
        ) {
            let rule = IsolationRule::default();
            let (mut target, mut now_ms, mut shelf, mut running) = (Target::default(), 0, 0usize, Vec::new());
            for (passed_ms, what, may_wait) in steps {
                let second = now_ms / 1000;
                now_ms += passed_ms;
                let mut called = Vec::new();
                if now_ms / 1000 > second {
                    called.extend(target.remind(&rule, shelf, now_ms));
                    shelf -= called.len();
                }
                let came = [Came::Answered, Came::Failed, Came::Failed, Came::Nothing].get(usize::from(what));
                if let (Some(came), Some(began_ms)) = (came, running.pop()) {
                    called = target.ended(&rule, End { began_ms, came: *came, aside: shelf }, (now_ms, 0.5));
                    prop_assert!(called.len() <= shelf);
                    shelf -= called.len();
                }
                let free = PLACES - running.len();
                match target.admit(&rule, room(free), Asking { may_wait, aside: shelf }, now_ms) {
                    Admit::Begin => running.push(now_ms),
                    Admit::PutAside(aside) => shelf += usize::from(aside.waits_for_call),
                    Admit::Wait => {}
                }
                let back_ms = target.soon_ms.max(target.called_ms);
                let begun_ms = running.last().copied().unwrap_or(0);
                let longest_ms = REMINDED_AFTER_MS + 1000;
                prop_assert!(shelf == 0 || back_ms.max(begun_ms).max(target.probe_at_ms) + longest_ms >= now_ms);
            }
        }
    }
}
