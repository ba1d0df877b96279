//! A vendor's quota: when it says "slow down", everything under that quota waits, not only the message that heard it.
//!
//! A pause is a value. Today each replica keeps its own; a pause shared by the whole fleet will be the same value in the
//! store, joined by the same rule: the later end wins.

use std::time::Duration;

/// The pause after "slow down" without a time, where none came before it.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pauses without a stated time double up to this one.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Until when nothing is sent under one quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pause {
    until_ms: i64,
    /// How many pauses without a stated time, or with one that says nothing, came in a row.
    unstated: u32,
}

impl Pause {
    /// The pause after the vendor asked, at `now_ms` (Unix milliseconds), to wait for `retry_after`. It never gets shorter:
    /// answers to calls that were under way together may come in any order. "At once" says nothing, be it a zero, a date gone by or
    /// a fraction of a second, and who says it may say it for ever: it is as if no time were stated.
    #[must_use]
    pub fn throttled(self, now_ms: i64, retry_after: Option<Duration>) -> Pause {
        match retry_after.filter(|wait| *wait >= FIRST_PAUSE) {
            Some(wait) => Pause { until_ms: self.until_ms.max(end(now_ms, wait)), unstated: self.unstated },
            // Several answers to calls of the same moment are one refusal, not several.
            None if self.rest(now_ms).is_some() => self,
            None => {
                let wait = FIRST_PAUSE.saturating_mul(1 << self.unstated.min(16)).min(LONGEST_PAUSE);
                Pause { until_ms: end(now_ms, wait), unstated: self.unstated.saturating_add(1) }
            }
        }
    }

    /// The same after the vendor took a call: the next pause without a stated time starts small again.
    #[must_use]
    pub fn accepted(self) -> Pause {
        Pause { unstated: 0, ..self }
    }

    /// How long nothing may be sent; `None`: go.
    #[must_use]
    pub fn rest(self, now_ms: i64) -> Option<Duration> {
        let left = self.until_ms.saturating_sub(now_ms);
        u64::try_from(left).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
    }
}

/// Rounds up, and a millisecond more because `now_ms` was rounded down: early by a moment is early.
fn end(now_ms: i64, wait: Duration) -> i64 {
    let ms = i64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
    now_ms.saturating_add(ms).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_later_end_wins() {
        let pause = Pause::default().throttled(NOW, Some(ms(2000))).throttled(NOW + 10, Some(ms(100)));
        assert_eq!(pause.rest(NOW + 10), Some(ms(1991)));
        assert_eq!(pause.rest(NOW + 2001), None);
    }

    #[test]
    fn pauses_without_a_time_double_and_are_counted_once_per_refusal() {
        let first = Pause::default().throttled(NOW, None);
        assert_eq!(first.rest(NOW), Some(ms(1001)));
        assert_eq!(first.throttled(NOW + 5, None), first, "calls that were under way together");
        let second = first.throttled(NOW + 1001, None);
        assert_eq!(second.rest(NOW + 1001), Some(ms(2001)));
        assert_eq!(second.accepted().throttled(NOW + 9999, None).rest(NOW + 9999), Some(ms(1001)));
        let many = (0..40).fold(Pause::default(), |pause, i| pause.throttled(NOW + i * 100_000, None));
        assert_eq!(many.rest(NOW + 39 * 100_000), Some(LONGEST_PAUSE + ms(1)));
    }

    #[test]
    fn who_says_at_once_again_and_again_is_asked_more_and_more_seldom() {
        for said in [ms(0), ms(1), ms(999)] {
            let (mut pause, mut now, mut rests) = (Pause::default(), NOW, Vec::new());
            for _ in 0..20 {
                pause = pause.throttled(now, Some(said));
                let rest = pause.rest(now).unwrap();
                now += i64::try_from(rest.as_millis()).unwrap();
                rests.push(rest.as_secs());
            }
            assert_eq!(rests[..7], [1, 2, 4, 8, 16, 32, 60], "{said:?}");
            assert!(rests[7..].iter().all(|rest| *rest == 60), "{rests:?}");
            assert_eq!(pause.accepted().throttled(now, Some(said)).rest(now), Some(ms(1001)));
        }
    }

    #[test]
    fn an_absurd_time_is_kept_without_overflow() {
        assert!(Pause::default().throttled(NOW, Some(Duration::MAX)).rest(NOW).is_some());
    }

    proptest! {
        #[test]
        fn is_never_over_early(now in 0i64..1 << 50, nanos in 0u64..1 << 50) {
            let wait = Duration::from_nanos(nanos);
            let pause = Pause::default().throttled(now, Some(wait));
            prop_assert!(pause.rest(now).unwrap() >= wait);
        }
    }
}
