//! How many retries may be begun: a share of the first attempts, so that retries can't multiply through layers.
//!
//! Finagle's and tower's idea: first attempts pay in, retries draw out, and a little comes in with time so that a quiet
//! consumer can retry at all. A retry that succeeds gives back what it drew: retries that help cost nothing, and what waited
//! through an outage comes back as fast as it succeeds. What is not granted waits; it is not given up and spends no attempt.

/// The limits of one consumer.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetRule {
    /// Retries for each first attempt: 0.2 lets one fifth more work reach a target that fails.
    pub share: f64,
    /// Retries a second that are granted without any first attempt.
    pub floor_per_s: f64,
    /// Retries that can be saved up.
    pub burst: f64,
}

impl Default for BudgetRule {
    /// One retry for five first attempts, ten a second at least, two hundred at once.
    fn default() -> BudgetRule {
        BudgetRule { share: 0.2, floor_per_s: 10.0, burst: 200.0 }
    }
}

/// What is left of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    left: f64,
    /// By a clock that never goes back: one that was ahead for a moment would take the floor away for as long.
    at_ms: i64,
}

impl Budget {
    /// A full one. `now_ms`: by a clock that never goes back, from wherever it counts.
    #[must_use]
    pub fn full(rule: &BudgetRule, now_ms: i64) -> Budget {
        Budget { left: rule.burst, at_ms: now_ms }
    }

    /// A first attempt is made.
    #[must_use]
    pub fn first_attempt(self, rule: &BudgetRule) -> Budget {
        self.first_attempts(rule, 1)
    }

    /// So many first attempts were made since a retry was last asked for.
    #[must_use]
    pub fn first_attempts(self, rule: &BudgetRule, count: u64) -> Budget {
        #[expect(clippy::cast_precision_loss, reason = "what is saved up is cut at the burst")]
        self.paid(rule, rule.share * count as f64)
    }

    /// A retry succeeded.
    #[must_use]
    pub fn succeeded(self, rule: &BudgetRule) -> Budget {
        self.paid(rule, 1.0)
    }

    /// Whether a retry may be begun now, and what is left then.
    #[must_use]
    pub fn draw(self, rule: &BudgetRule, now_ms: i64) -> (bool, Budget) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms).clamp(0, 3_600_000);
        #[expect(clippy::cast_precision_loss, reason = "at most an hour in milliseconds")]
        let with_time = self.paid(rule, rule.floor_per_s * elapsed_ms as f64 / 1000.0);
        let now = Budget { at_ms: now_ms.max(self.at_ms), ..with_time };
        if now.left < 1.0 {
            return (false, now);
        }
        (true, Budget { left: now.left - 1.0, ..now })
    }

    /// How long it takes until time alone pays for one retry more. `None`: it does not.
    #[must_use]
    pub fn pays_within(rule: &BudgetRule) -> Option<std::time::Duration> {
        std::time::Duration::try_from_secs_f64(1.0 / rule.floor_per_s).ok()
    }

    fn paid(self, rule: &BudgetRule, amount: f64) -> Budget {
        Budget { left: (self.left + amount).min(rule.burst), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn retries_that_fail_are_a_share_of_the_first_attempts() {
        let rule = BudgetRule { share: 0.2, floor_per_s: 0.0, burst: 10.0 };
        let mut budget = Budget::full(&rule, 0);
        let mut granted = 0;
        for _ in 0..1000 {
            budget = budget.first_attempt(&rule);
            let (may, left) = budget.draw(&rule, 0);
            granted += u32::from(may);
            budget = left;
        }
        assert!((200..=211).contains(&granted), "{granted}");
    }

    #[test]
    fn retries_that_succeed_are_never_held_back() {
        let rule = BudgetRule { share: 0.0, floor_per_s: 0.0, burst: 3.0 };
        let mut budget = Budget::full(&rule, 0);
        for _ in 0..1000 {
            let (may, left) = budget.draw(&rule, 0);
            assert!(may);
            budget = left.succeeded(&rule);
        }
    }

    #[test]
    fn many_first_attempts_at_once_pay_as_much_as_one_by_one() {
        let rule = BudgetRule { share: 0.25, floor_per_s: 0.0, burst: 10.0 };
        let (empty, at_once) =
            (Budget { left: 0.0, at_ms: 0 }, |count| Budget { left: 0.0, at_ms: 0 }.first_attempts(&rule, count));
        for count in [0, 1, 7, 40, 1000] {
            assert_eq!((0..count).fold(empty, |budget, _| budget.first_attempt(&rule)), at_once(count), "{count}");
        }
    }

    #[test]
    fn time_pays_at_the_floor_or_not_at_all() {
        let of = |floor_per_s| Budget::pays_within(&BudgetRule { floor_per_s, ..BudgetRule::default() });
        assert_eq!(of(10.0), Some(std::time::Duration::from_millis(100)));
        assert_eq!((of(0.0), of(-1.0)), (None, None));
    }

    proptest! {
        /// Whatever the clock does, no more is granted than was saved, paid in and due.
        #[test]
        fn the_floor_is_a_rate(steps in proptest::collection::vec(-50i64..500, 1..200)) {
            let rule = BudgetRule { share: 0.0, floor_per_s: 10.0, burst: 5.0 };
            let (mut budget, mut now, mut latest, mut granted) = (Budget::full(&rule, 0), 0i64, 0i64, 0.0f64);
            for step in steps {
                now += step;
                latest = latest.max(now);
                let (may, left) = budget.draw(&rule, now);
                granted += f64::from(u8::from(may));
                budget = left;
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let due = 5.0 + latest as f64 / 100.0;
            prop_assert!(granted <= due + 0.001, "{granted} of {due}");
        }
    }
}
