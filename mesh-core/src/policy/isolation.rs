//! One target that is down delays nobody else on the same consumer.
//!
//! A target (a vendor's endpoint, a tenant, a warehouse) that *hangs* would take every place of its consumer, one that
//! *refuses* would fill it with attempts in vain. So a target has at most a share of the places that leaves some free
//! whatever it does (the dynamic threshold of shared switch buffers: a share of what is still free), and after some
//! failures in a row nothing is sent to it but one probe at a time. What it may not have now is put aside on the lane,
//! spending no attempt; returns are spaced, so that a long queue of it can't crowd the consumer either.

use std::time::Duration;

/// The limits of one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationRule {
    /// Places that a target may have for each place that is free: 4 lets one target alone have four fifths.
    pub share: usize,
    /// A target whose oldest attempt runs for so long is slow: what finds no place waits on the lane, not here.
    pub slow_after: Duration,
    /// Failures in a row after which only probes are made.
    pub failures: u32,
    /// The pause before the first probe; each probe that fails doubles it.
    pub pause: Duration,
    /// No pause is longer.
    pub max_pause: Duration,
    /// How many deliveries of one target may come back from the lane in a second.
    pub returns_per_s: u32,
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
        }
    }
}

/// Returns of one target are spaced over so long, at most.
const LONGEST_QUEUE_MS: i64 = 3_600_000;

/// One place of so many, and at least one, is kept for targets of which nothing runs.
const RESERVE: usize = 16;

/// What is known of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Attempts that run, by the moment that they began (Unix milliseconds), the oldest first.
    running: Vec<i64>,
    failures: u32,
    /// Failed probes in a row.
    probes: u32,
    probe_at_ms: i64,
    /// The last return that was given out.
    last_return_ms: i64,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It is begun.
    Begin,
    /// It waits here: places of this target become free soon.
    Wait,
    /// It waits on the lane until then (Unix milliseconds).
    PutAside(i64),
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

impl Target {
    /// Decides about one more delivery, with `free` of the consumer's `places` free now.
    #[must_use]
    pub fn admit(&mut self, rule: &IsolationRule, (free, places): (usize, usize), now_ms: i64) -> Admit {
        self.forget_the_future(rule, now_ms);
        if self.failures >= rule.failures && (now_ms < self.probe_at_ms || !self.running.is_empty()) {
            return Admit::PutAside(self.next_return(rule, now_ms.max(self.probe_at_ms)));
        }
        // The last places are for targets that have none yet.
        let reserve = if places > 1 { (places / RESERVE).max(1) } else { 0 };
        let may = match self.running.len() {
            0 => free > 0,
            running => running < rule.share.saturating_mul(free.saturating_sub(reserve)),
        };
        if may {
            self.running.push(now_ms);
            return Admit::Begin;
        }
        let oldest_ms = self.running.first().map_or(0, |began| now_ms.saturating_sub(*began));
        if oldest_ms >= millis(rule.slow_after) {
            return Admit::PutAside(self.next_return(rule, now_ms));
        }
        Admit::Wait
    }

    /// An attempt that began at `began_ms` has ended. `jitter` is a random number from 0 up to 1.
    pub fn ended(&mut self, rule: &IsolationRule, began_ms: i64, came: Came, (now_ms, jitter): (i64, f64)) {
        if let Some(at) = self.running.iter().position(|began| *began == began_ms) {
            self.running.remove(at);
        }
        match came {
            Came::Answered => (self.failures, self.probes) = (0, 0),
            Came::Nothing => {}
            Came::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= rule.failures {
                    let doubled = rule.pause.saturating_mul(1 << self.probes.min(16)).min(rule.max_pause);
                    self.probe_at_ms = now_ms.saturating_add(millis(doubled.mul_f64(0.5 + jitter / 2.0)));
                    self.probes = self.probes.saturating_add(1);
                }
            }
        }
    }

    /// Whether nothing is remembered that would matter later: nothing runs or returns, and failures are long past.
    #[must_use]
    pub fn is_idle(&self, rule: &IsolationRule, now_ms: i64) -> bool {
        let over = self.probe_at_ms.saturating_add(millis(rule.max_pause)) < now_ms;
        self.running.is_empty() && (self.failures == 0 || over) && self.last_return_ms <= now_ms
    }

    /// A clock that was set back must not keep a target shut for as long as it was set back.
    fn forget_the_future(&mut self, rule: &IsolationRule, now_ms: i64) {
        self.probe_at_ms = self.probe_at_ms.min(now_ms.saturating_add(millis(rule.max_pause)));
        self.last_return_ms = self.last_return_ms.min(now_ms.saturating_add(LONGEST_QUEUE_MS));
    }

    /// The next free moment to come back, at least a moment from now.
    fn next_return(&mut self, rule: &IsolationRule, earliest_ms: i64) -> i64 {
        let spacing_ms = i64::from((1000 / rule.returns_per_s.max(1)).max(1));
        let earliest_ms = earliest_ms.saturating_add(millis(rule.slow_after));
        let due_ms = self.last_return_ms.saturating_add(spacing_ms).max(earliest_ms);
        self.last_return_ms = due_ms;
        due_ms
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACES: usize = 64;

    /// Deliveries of one target until none more is begun; how many run then.
    fn fill(target: &mut Target, rule: &IsolationRule, mut free: usize, now_ms: i64) -> usize {
        let mut begun = 0;
        while free > 0 && target.admit(rule, (free, PLACES), now_ms) == Admit::Begin {
            begun += 1;
            free -= 1;
        }
        begun
    }

    #[test]
    fn one_target_that_hangs_leaves_places_free_and_its_queue_goes_to_the_lane() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        let begun = fill(&mut target, &rule, PLACES, 0);
        assert!((44..=52).contains(&begun), "{begun} of {PLACES}");
        assert_eq!(target.admit(&rule, (PLACES - begun, PLACES), 100), Admit::Wait, "it may only be busy");
        let Admit::PutAside(due_ms) = target.admit(&rule, (PLACES - begun, PLACES), 300) else { panic!("it is slow") };
        assert!(due_ms > 300);
        let mut other = Target::default();
        assert_eq!(other.admit(&rule, (PLACES - begun, PLACES), 300), Admit::Begin, "another target finds a place");
    }

    #[test]
    fn one_that_refuses_is_probed_one_at_a_time_and_comes_back_with_its_first_answer() {
        let (rule, mut target) = (IsolationRule::default(), Target::default());
        for _ in 0..rule.failures {
            assert_eq!(target.admit(&rule, (PLACES, PLACES), 0), Admit::Begin);
            target.ended(&rule, 0, Came::Failed, (0, 1.0));
        }
        assert!(matches!(target.admit(&rule, (PLACES, PLACES), 500), Admit::PutAside(due) if due >= 1000));
        assert_eq!(target.admit(&rule, (PLACES, PLACES), 1000), Admit::Begin, "a probe");
        assert!(matches!(target.admit(&rule, (PLACES, PLACES), 1000), Admit::PutAside(_)), "one at a time");
        target.ended(&rule, 1000, Came::Failed, (1000, 1.0));
        assert!(matches!(target.admit(&rule, (PLACES, PLACES), 2500), Admit::PutAside(_)), "the pause has doubled");
        assert_eq!(target.admit(&rule, (PLACES, PLACES), 3000), Admit::Begin);
        target.ended(&rule, 3000, Came::Answered, (3000, 1.0));
        assert!(fill(&mut target, &rule, PLACES, 3001) > 40, "all at once");
    }

    #[test]
    fn returns_from_the_lane_are_spaced() {
        let rule = IsolationRule { returns_per_s: 100, ..IsolationRule::default() };
        let mut target = Target { failures: 5, probe_at_ms: 10_000, ..Target::default() };
        let dues: Vec<_> = (0..50)
            .map(|_| match target.admit(&rule, (PLACES, PLACES), 0) {
                Admit::PutAside(due) => due,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(dues.windows(2).all(|pair| pair[1] - pair[0] == 10), "{dues:?}");
        assert!(dues[0] >= 10_000);
    }

    #[test]
    fn even_with_few_places_a_target_that_hangs_leaves_one_and_a_failure_long_ago_is_forgotten() {
        let rule = IsolationRule::default();
        let mut target = Target::default();
        let mut free = 3;
        while free > 0 && target.admit(&rule, (free, 3), 0) == Admit::Begin {
            free -= 1;
        }
        assert!(free >= 1);
        let mut once = Target::default();
        assert_eq!(once.admit(&rule, (3, 3), 0), Admit::Begin);
        once.ended(&rule, 0, Came::Failed, (0, 1.0));
        assert!(once.is_idle(&rule, 40_000));
        assert_eq!(Target::default().admit(&rule, (0, 3), 0), Admit::Wait, "no place at all");
    }

    proptest! {
        /// Whatever three targets do that never end, one that is healthy finds a place.
        #[test]
        fn somebody_who_is_healthy_finds_a_place(order in proptest::collection::vec(0usize..3, 0..400)) {
            let rule = IsolationRule::default();
            let mut targets: Vec<Target> = (0..3).map(|_| Target::default()).collect();
            let mut free = PLACES;
            for which in order {
                if free > 0 && targets[which].admit(&rule, (free, PLACES), 0) == Admit::Begin {
                    free -= 1;
                }
            }
            prop_assert!(free >= 1, "no place is left");
        }
    }
}
