//! The desk of one vendor: what it decides about each call. Pure but for the seeded generator; told the time.

use std::sync::Arc;
use std::time::Duration;

use crate::book::{Book, Outcome, Rule, Wish};
use crate::knobs::Knobs;
use crate::ledger::Counts;
use crate::throttle::{Announced, Bucket};

/// What the vendors do differently at the desk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// Refuses a key that comes back with other parameters; else it answers as the first time.
    pub(crate) compares_params: bool,
    /// Remembers refusals under their key.
    pub(crate) stores_refusals: bool,
}

/// One call, read but not judged.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) authentic: bool,
    pub(crate) key: Option<&'a str>,
    /// Hash of what is asked.
    pub(crate) params: u64,
    pub(crate) wish: Result<Wish, Refused>,
    /// Unix seconds.
    pub(crate) now_s: u32,
}

/// A refusal, with the parameter's name where the rule itself can't know it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) rule: &'static Rule,
    pub(crate) param: Option<String>,
}

/// What the vendor says.
#[derive(Debug)]
pub(crate) enum Verdict {
    Unauthenticated,
    Unavailable,
    /// Seconds to wait; 0 = it doesn't say.
    Throttled(u64),
    Mismatch,
    InFlight,
    Refused(Refused),
    Ended {
        outcome: Outcome,
        effect: Option<u32>,
        replayed: bool,
    },
}

/// What the vendor says, when, and whether the connection lives to carry it.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) ready_at: Duration,
    pub(crate) cut: bool,
}

/// Whether a vendor's door is open at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posture {
    Open,
    Down,
    Hanging,
}

/// One vendor's state.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) knobs: Knobs,
    pub(crate) counts: Counts,
    pub(crate) book: Book,
    manners: Manners,
    seed: u64,
    random: fastrand::Rng,
    /// Which life of the book this is: ids of different lives differ.
    pub(crate) life: u32,
    bucket: Bucket,
    announced: Announced,
}

impl Desk {
    /// A desk with an empty book.
    pub(crate) fn new(knobs: Knobs, manners: Manners, seed: u64) -> Self {
        Self {
            knobs,
            counts: Counts::default(),
            book: Book::default(),
            manners,
            seed,
            random: fastrand::Rng::with_seed(seed),
            life: 0,
            bucket: Bucket::new(),
            announced: Announced::default(),
        }
    }

    /// Forgets everything but the knobs. The generator begins again at its seed.
    pub(crate) fn reset(&mut self) {
        let life = self.life.wrapping_add(1);
        *self = Self { life, ..Self::new(self.knobs.clone(), self.manners, self.seed) };
    }

    /// Looks at the door; a call that finds it shut is counted here.
    pub(crate) fn posture(&mut self) -> Posture {
        let posture = match (self.knobs.down, self.knobs.hang) {
            (true, _) => Posture::Down,
            (false, true) => Posture::Hanging,
            (false, false) => return Posture::Open,
        };
        self.counts.calls += 1;
        self.counts.dropped += 1;
        posture
    }

    /// Decides about a call that wants an effect.
    pub(crate) fn decide(&mut self, now: Duration, call: Call<'_>) -> Decision {
        let order = call.wish.as_ref().ok().and_then(|wish| wish.order.as_deref());
        if let Some(verdict) = self.stop_at_door(now, call.authentic, call.key.or(order)) {
            return Decision::at_once(now, verdict);
        }
        let ready_at = now + self.pause();
        match self.recall(now, &call) {
            Some(verdict @ Verdict::Ended { .. }) => return Decision { verdict, ready_at, cut: false },
            Some(verdict) => return Decision::at_once(now, verdict),
            None => {}
        }
        match call.wish {
            Ok(wish) => self.end(ready_at, wish, (call.key.map(Arc::from), call.params, call.now_s)),
            Err(refused) => {
                self.refuse(now, call.key, call.params, refused.rule);
                Decision::at_once(now, Verdict::Refused(refused))
            }
        }
    }

    /// Decides about a call that only reads: the verdict that stops it, or when it may be answered.
    pub(crate) fn decide_look_up(&mut self, now: Duration, authentic: bool) -> Result<Duration, Verdict> {
        self.counts.lookups += 1;
        match self.stop_at_door(now, authentic, None) {
            Some(verdict) => Err(verdict),
            None => Ok(now + self.pause()),
        }
    }

    /// What every call has to pass: key, luck, pace.
    fn stop_at_door(&mut self, now: Duration, authentic: bool, who: Option<&str>) -> Option<Verdict> {
        self.counts.calls += 1;
        if !authentic {
            self.counts.unauthenticated += 1;
            return Some(Verdict::Unauthenticated);
        }
        let offence = self.announced.judge(now, who);
        self.counts.early_retries += u64::from(offence.early);
        self.counts.calls_while_throttled += u64::from(offence.while_throttled);
        // The pace first: it counts every call.
        let within_pace = self.bucket.take(now, &self.knobs);
        if !within_pace || self.drawn(self.knobs.throttle_share) {
            self.counts.throttled += 1;
            let wait_s = self.knobs.retry_after_s;
            self.announced.announce(now, Duration::from_secs(wait_s), who);
            return Some(Verdict::Throttled(wait_s));
        }
        if self.drawn(self.knobs.fail_503_share) {
            self.counts.failed += 1;
            return Some(Verdict::Unavailable);
        }
        None
    }

    /// The answer from the idempotency store, if the key is known there.
    fn recall(&mut self, now: Duration, call: &Call<'_>) -> Option<Verdict> {
        if !self.knobs.honour_keys {
            return None;
        }
        let stored = self.book.stored(call.key?)?;
        if stored.params != call.params {
            self.counts.mismatched += 1;
            if self.manners.compares_params {
                return Some(Verdict::Mismatch);
            }
        }
        if stored.in_flight(now) {
            self.counts.conflicts += 1;
            return Some(Verdict::InFlight);
        }
        self.counts.replayed += 1;
        Some(Verdict::Ended { outcome: stored.outcome, effect: stored.effect, replayed: true })
    }

    /// Acts, declines or fails; the key remembers which.
    fn end(&mut self, ready_at: Duration, wish: Wish, about: (Option<Arc<str>>, u64, u32)) -> Decision {
        let (key, params, now_s) = about;
        let outcome = if wish.declined {
            self.counts.refused += 1;
            Outcome::Declined
        } else if self.drawn(self.knobs.fail_500_share) {
            self.counts.failed += 1;
            Outcome::Failed
        } else {
            Outcome::Done
        };
        let acts = outcome == Outcome::Done || (outcome == Outcome::Failed && self.knobs.fail_500_acts);
        let effect = acts.then(|| self.act(wish, key.as_ref(), now_s));
        if let Some(key) = &key {
            self.book.store(key, params, ready_at, (outcome, effect));
        }
        let cut = outcome == Outcome::Done && self.drawn(self.knobs.cut_after_acting_share);
        self.counts.cut += u64::from(cut);
        Decision { verdict: Verdict::Ended { outcome, effect, replayed: false }, ready_at, cut }
    }

    fn act(&mut self, wish: Wish, key: Option<&Arc<str>>, now_s: u32) -> u32 {
        let entry = self.book.act(wish, key, now_s);
        self.counts.effects += 1;
        self.counts.distinct_keys += u64::from(key.is_some() && !entry.repeats_key);
        self.counts.duplicates_by_key += u64::from(entry.repeats_key);
        self.counts.duplicates_by_order += u64::from(entry.repeats_order);
        self.counts.duplicates += u64::from(entry.repeats_key || entry.repeats_order);
        entry.index
    }

    fn refuse(&mut self, now: Duration, key: Option<&str>, params: u64, rule: &'static Rule) {
        self.counts.refused += 1;
        if let (true, Some(key)) = (self.manners.stores_refusals, key) {
            self.book.store(&key.into(), params, now, (Outcome::Refused(rule), None));
        }
    }

    fn pause(&mut self) -> Duration {
        let jitter = if self.knobs.jitter_ms == 0 { 0 } else { self.random.u64(0..=self.knobs.jitter_ms) };
        let slow = if self.drawn(self.knobs.slow_share) { self.knobs.slow_ms } else { 0 };
        Duration::from_millis(self.knobs.latency_ms + jitter + slow)
    }

    fn drawn(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.f64() < share
    }
}

impl Decision {
    fn at_once(now: Duration, verdict: Verdict) -> Self {
        Self { verdict, ready_at: now, cut: false }
    }
}
