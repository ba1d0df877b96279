//! Whether and when a call is made again, and how many repeats there may be.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::millis,
    contract::Operation,
    policy::{
        budget::{Budget, BudgetRule},
        retry::RetryRule,
    },
};

/// The limits of repeating calls, for one client.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRetry {
    /// Attempts and delays, all within the call's deadline.
    pub rule: RetryRule,
    /// How long one attempt may wait for its answer, where a repeat is safe and may still be made; the last attempt may take
    /// all that is left. `None`: so may each. Without it a request that was lost is noticed only at the deadline.
    pub attempt_timeout: Option<Duration>,
    /// How many repeats there may be, as a share of first attempts.
    pub budget: BudgetRule,
}

impl Default for CallRetry {
    /// Three attempts, with delays below 100 and 200 ms; one repeat for five calls, one a second at least, ten at once.
    fn default() -> CallRetry {
        CallRetry {
            rule: RetryRule {
                max_attempts: 3,
                base: Duration::from_millis(100),
                cap: Duration::from_secs(1),
                ..RetryRule::default()
            },
            attempt_timeout: None,
            budget: BudgetRule { share: 0.2, floor_per_s: 1.0, burst: 10.0 },
        }
    }
}

/// The repeats of one client: its limits, and what is left of its budget. Cloning gives another handle on the same budget.
#[derive(Clone)]
pub struct Retries(Arc<Inner>);

struct Inner {
    limits: CallRetry,
    /// First attempts since the budget was last looked at. An addition for each call; the lock is for those that failed.
    firsts: AtomicU64,
    budget: Mutex<Budget>,
    /// What its time counts from.
    born: Instant,
}

impl Retries {
    /// With a full budget.
    #[must_use]
    pub fn new(limits: CallRetry) -> Retries {
        let budget = Mutex::new(Budget::full(&limits.budget, 0));
        Retries(Arc::new(Inner { limits, firsts: AtomicU64::new(0), budget, born: Instant::now() }))
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &CallRetry {
        &self.0.limits
    }

    /// A first attempt is made.
    pub(super) fn first_attempt(&self) {
        self.0.firsts.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a repeat may be made now.
    pub(super) fn draw(&self) -> bool {
        let rule = &self.0.limits.budget;
        let mut budget = self.budget();
        let paid = budget.first_attempts(rule, self.0.firsts.swap(0, Ordering::Relaxed));
        let (may, left) = paid.draw(rule, millis(self.0.born.elapsed()));
        *budget = left;
        may
    }

    /// A repeat helped.
    pub(super) fn succeeded(&self) {
        let mut budget = self.budget();
        *budget = budget.succeeded(&self.0.limits.budget);
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A budget is a plain value: a panic elsewhere can't have left half of one.
        self.0.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retries").field(&self.0.limits).finish()
    }
}

/// One budget for each operation that a process calls, however many clients it makes for it.
#[derive(Debug, Default)]
pub struct RetriesByOperation(Mutex<HashMap<(&'static str, &'static str), Retries>>);

impl RetriesByOperation {
    /// That of `O`, with the default limits.
    #[must_use]
    pub fn of<O: Operation>(&self) -> Retries {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Retries::new(CallRetry::default());
        known.entry((O::SERVICE, O::METHOD)).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_that_fail_are_a_share_of_first_attempts() {
        let budget = BudgetRule { share: 0.1, floor_per_s: 0.0, burst: 5.0 };
        let retries = Retries::new(CallRetry { budget, ..CallRetry::default() });
        let drawn = (0..1000).filter(|_| {
            retries.first_attempt();
            retries.clone().draw()
        });
        assert!((100..=105).contains(&drawn.count()));
        (0..3).for_each(|_| retries.succeeded());
        assert_eq!((0..10).filter(|_| retries.draw()).count(), 3, "what helped is given back");
    }
}
