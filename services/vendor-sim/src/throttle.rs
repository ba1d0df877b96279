//! The vendor's rate limit, and who broke its `Retry-After`. Pure: every function is told the time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::knobs::Knobs;

/// A caller needs this long to hear of a 429: calls under way meanwhile are no offence.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// Identities kept before those whose waiting is over are thrown out.
const SWEEP_AT: usize = 65_536;

/// A token bucket over one account.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled_at: Duration,
    /// The rate and burst that `tokens` stands for: a change of either fills the bucket anew.
    rule: (f64, u32),
}

impl Bucket {
    /// An empty rule, so that the first call fills the bucket to its burst.
    pub(crate) fn new() -> Self {
        Self { tokens: 0.0, filled_at: Duration::ZERO, rule: (0.0, 0) }
    }

    /// Takes one token. `false`: the call is over the rate. A refused call costs nothing.
    pub(crate) fn take(&mut self, now: Duration, knobs: &Knobs) -> bool {
        if knobs.rate_per_s == 0.0 {
            return true;
        }
        if self.rule != (knobs.rate_per_s, knobs.burst) {
            *self = Self { tokens: f64::from(knobs.burst), filled_at: now, rule: (knobs.rate_per_s, knobs.burst) };
        }
        let elapsed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed * knobs.rate_per_s).min(f64::from(knobs.burst));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// What was announced with each 429, and so who may not call yet.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    /// Announcements younger than [`GRACE`]: when made, until when they hold.
    fresh: VecDeque<(Duration, Duration)>,
    /// Until when the older ones hold.
    until: Duration,
    /// Until when each throttled key (or order, for calls without a key) has to wait.
    waiting: HashMap<Box<str>, Duration>,
    sweep_at: usize,
}

/// What is wrong with the moment of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Offence {
    /// The same work was told to wait, and the wait isn't over.
    pub(crate) early: bool,
    /// The account was told to wait more than [`GRACE`] ago, and the wait isn't over.
    pub(crate) while_throttled: bool,
}

impl Announced {
    /// A 429 was produced at `now` for `who`, telling it to wait.
    pub(crate) fn announce(&mut self, now: Duration, wait: Duration, who: Option<&str>) {
        if wait.is_zero() {
            return;
        }
        self.fresh.push_back((now, now + wait));
        let Some(who) = who else { return };
        if self.waiting.len() >= self.sweep_at.max(SWEEP_AT) {
            self.waiting.retain(|_, until| *until > now);
            self.sweep_at = self.waiting.len() * 2;
        }
        self.waiting.insert(who.into(), now + wait);
    }

    /// Judges the moment at which a call of `who` arrives.
    pub(crate) fn judge(&mut self, now: Duration, who: Option<&str>) -> Offence {
        while let Some((made, until)) = self.fresh.front().copied() {
            if made + GRACE >= now {
                break;
            }
            self.until = self.until.max(until);
            self.fresh.pop_front();
        }
        Offence { early: self.is_early(now, who), while_throttled: now < self.until }
    }

    fn is_early(&mut self, now: Duration, who: Option<&str>) -> bool {
        let Some(who) = who else { return false };
        match self.waiting.get(who) {
            Some(until) if now < *until => true,
            Some(_) => {
                self.waiting.remove(who);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_bucket_gives_its_burst_and_then_its_rate() {
        let knobs = Knobs { rate_per_s: 10.0, burst: 3, ..Knobs::default() };
        let mut bucket = Bucket::new();
        let at = |bucket: &mut Bucket, t: u64| bucket.take(ms(t), &knobs);
        assert_eq!(
            [at(&mut bucket, 0), at(&mut bucket, 0), at(&mut bucket, 0), at(&mut bucket, 0)],
            [true, true, true, false]
        );
        assert_eq!([at(&mut bucket, 99), at(&mut bucket, 100), at(&mut bucket, 101)], [false, true, false]);
        let given = (0..10_000).filter(|_| at(&mut bucket, 60_000)).count();
        assert_eq!(given, 3, "a rest fills it to the burst, no more");
    }

    #[test]
    fn rate_0_is_unlimited() {
        let mut bucket = Bucket::new();
        assert!((0..1000).all(|_| bucket.take(Duration::ZERO, &Knobs::default())));
    }

    #[test]
    fn a_key_is_early_until_its_own_wait_is_over() {
        let mut announced = Announced::default();
        announced.announce(ms(1000), ms(2000), Some("a"));
        assert!(announced.judge(ms(2999), Some("a")).early);
        assert!(!announced.judge(ms(2999), Some("b")).early);
        assert!(!announced.judge(ms(3000), Some("a")).early);
    }

    #[test]
    fn the_account_has_a_grace_and_then_must_be_quiet() {
        let mut announced = Announced::default();
        announced.announce(ms(1000), ms(2000), None);
        for (t, wrong) in [(1000, false), (1250, false), (1251, true), (2999, true), (3000, false)] {
            assert_eq!(announced.judge(ms(t), None).while_throttled, wrong, "at {t} ms");
        }
    }

    #[test]
    fn a_later_shorter_announcement_does_not_end_an_earlier_longer_one() {
        let mut announced = Announced::default();
        announced.announce(ms(0), ms(5000), None);
        announced.announce(ms(100), ms(500), None);
        assert!(announced.judge(ms(4000), None).while_throttled);
    }

    #[test]
    fn keys_that_never_come_back_are_forgotten() {
        let mut announced = Announced::default();
        for n in 0..=SWEEP_AT {
            announced.announce(ms(n as u64), ms(1), Some(&n.to_string()));
        }
        assert!(announced.waiting.len() < 10, "{}", announced.waiting.len());
    }
}
