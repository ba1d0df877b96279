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
//! The answers may go to other processes: who hears neither an answer nor a failure calls more each second. Where the process
//! that would call ends without a word, another one does so in its place. Returns are spaced, so that a long queue of one target
//! can't crowd the consumer either.

use std::time::Duration;

/// The limits of one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationRule {
    /// Places that a target may have for each place that is free: 4 lets one target alone have four fifths.
    pub share: usize,
    /// A target whose oldest attempt runs for so long is slow: what finds no place waits on the lane, not here. Where no attempt
    /// of it ends, the sooner the fewer the places are that are left to wait, down to a tenth of it.
    pub slow_after: Duration,
    /// Failures in a row after which only probes are made.
    pub failures: u32,
    /// The pause before the first probe; each probe that fails doubles it.
    pub pause: Duration,
    /// No pause is longer.
    pub max_pause: Duration,
    /// How many deliveries of one target may come back from the lane in a second.
    pub returns_per_s: u32,
    /// After so long a first attempt comes back that nobody called.
    pub aside: Duration,
    /// The same where others don't know of this process, and would not call back what it put aside should it end.
    pub aside_unknown: Duration,
    /// A process that says nothing for so long is gone: another one calls back what it put aside.
    pub silent: Duration,
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
            aside: Duration::from_secs(900),
            aside_unknown: Duration::from_secs(120),
            silent: Duration::from_secs(30),
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
    /// When the last one ended with an answer or a failure (Unix milliseconds).
    ended_ms: i64,
    failures: u32,
    /// Failed probes in a row.
    probes: u32,
    probe_at_ms: i64,
    /// The last return that was given out of those that come soon, and are not called: retries.
    soon_ms: i64,
    /// The last one of those that wait to be called.
    late_ms: i64,
    /// The last one of those of which nobody else knows that they wait to be called.
    unknown_ms: i64,
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
    /// When a target is slow of which nothing ends, in milliseconds. What waits for it here takes the room of what others are
    /// sent: so that one that begins to hang does not first fill it all, the time is as much shorter as there is less room left.
    fn silent_after_ms(&self, rule: &IsolationRule) -> i64 {
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
    /// Others know of this process, and call back what it put aside should it end.
    pub is_known: bool,
}

/// For how long something is put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// It comes back by itself as soon as there may be a place.
    Soon,
    /// It waits to be called.
    Long,
    /// It waits to be called by a process of which nobody knows.
    Unknown,
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
            (self.late_ms, self.unknown_ms) = (0, 0);
        }
        let long = if asking.is_known { Wait::Long } else { Wait::Unknown };
        let is_probed = self.is_probed(rule, now_ms);
        if self.is_down(rule) && (now_ms < self.probe_at_ms || is_probed) {
            // One comes back for the next probe. Retries have been begun, and know best when they are too late.
            let is_awaited = is_probed || self.soon_ms.max(self.called_ms) >= self.probe_at_ms;
            let wait = if asking.may_wait && is_awaited { long } else { Wait::Soon };
            let aside = self.aside(rule, (true, wait), (now_ms.max(self.probe_at_ms), now_ms));
            // While a probe hangs they come back in vain: the longer it hangs, the more seldom.
            let hangs_ms = if wait == Wait::Soon && is_probed { self.probed_for_ms(rule, now_ms) } else { 0 };
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
        // One that is only busy ends some all the time.
        let silent_ms = oldest_ms.min(now_ms.saturating_sub(self.ended_ms));
        if oldest_ms >= millis(rule.slow_after) || silent_ms >= room.silent_after_ms(rule) {
            let wait = if asking.may_wait { long } else { Wait::Soon };
            return Admit::PutAside(self.aside(rule, (false, wait), (now_ms, now_ms)));
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
        if end.came != Came::Nothing {
            self.ended_ms = now_ms;
        }
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

    /// Whether nothing is remembered that would matter later: nothing runs, waits (`aside`) or returns, and failures are long past.
    #[must_use]
    pub fn is_idle(&self, rule: &IsolationRule, aside: usize, now_ms: i64) -> bool {
        let over = self.probe_at_ms.saturating_add(millis(rule.max_pause)) < now_ms;
        self.running.is_empty()
            && aside == 0
            && (self.failures == 0 || over)
            && self.soon_ms.max(self.called_ms) <= now_ms
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

    /// How long the last probe runs, up to the longest pause: nobody calls back what waits for that.
    fn probed_for_ms(&self, rule: &IsolationRule, now_ms: i64) -> i64 {
        let last = self.running.last();
        last.map_or(0, |began_ms| now_ms.saturating_sub(*began_ms).clamp(0, millis(rule.max_pause)))
    }

    /// A clock that was set back must not keep a target shut for as long as it was set back.
    fn forget_the_future(&mut self, rule: &IsolationRule, now_ms: i64) {
        self.probe_at_ms = self.probe_at_ms.min(now_ms.saturating_add(millis(rule.max_pause)));
        self.ended_ms = self.ended_ms.min(now_ms);
        self.soon_ms = self.soon_ms.min(now_ms.saturating_add(LONGEST_QUEUE_MS));
        let longest_ms = |wait| now_ms.saturating_add(LONGEST_QUEUE_MS).saturating_add(millis(wait));
        self.late_ms = self.late_ms.min(longest_ms(rule.aside));
        self.unknown_ms = self.unknown_ms.min(longest_ms(rule.aside_unknown));
        let longest_call_ms = millis(rule.max_pause).saturating_add(2 * CALLED_AHEAD_MS);
        self.called_ms = self.called_ms.min(now_ms.saturating_add(longest_call_ms));
    }

    fn aside(&mut self, rule: &IsolationRule, (is_down, wait): (bool, Wait), (from_ms, now_ms): (i64, i64)) -> Aside {
        self.unasked = 0;
        let earliest_ms = from_ms.saturating_add(millis(rule.slow_after));
        let after_ms = |aside| now_ms.saturating_add(millis(aside)).max(earliest_ms);
        let (last, from_ms) = match wait {
            Wait::Soon => (&mut self.soon_ms, earliest_ms),
            Wait::Long => (&mut self.late_ms, after_ms(rule.aside)),
            Wait::Unknown => (&mut self.unknown_ms, after_ms(rule.aside_unknown)),
        };
        let due_ms = next(rule, last, from_ms);
        Aside { is_down, earliest_ms, due_ms, waits_for_call: wait != Wait::Soon }
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
mod tests;
