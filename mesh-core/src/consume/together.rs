//! What is put aside goes to the broker in groups.
//!
//! A broker that syncs always does so for each message that comes alone, and whatever else it is to sync waits meanwhile: five
//! hundred a second of one target that is down are felt by all others. A group is synced once. What is put aside can wait for
//! one: its next turn is far away.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{feed::InHand, worker::Worker};

/// How often a group goes.
const EVERY: Duration = Duration::from_millis(100);

/// The groups of one consumer.
pub(super) struct Together {
    /// So many are in one, at most.
    most: usize,
    begun: Instant,
    gathered: AtomicUsize,
    full: Notify,
}

/// One that waits for its group to go, until it is dropped.
struct Gathered<'a>(&'a Together);

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        self.0.gathered.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Together {
    pub(super) fn new(most: usize) -> Together {
        Together { most: most.max(1), begun: Instant::now(), gathered: AtomicUsize::new(0), full: Notify::new() }
    }

    /// Waits until the group goes: at the next of the moments at which all go, or when there are enough.
    async fn gather(&self) {
        let full = self.full.notified();
        let before = self.gathered.fetch_add(1, Ordering::AcqRel);
        let _gathered = Gathered(self);
        if before + 1 >= self.most {
            self.full.notify_waiters();
            return;
        }
        let _ = tokio::time::timeout(self.left(), full).await;
    }

    fn left(&self) -> Duration {
        let gone = self.begun.elapsed().as_nanos() % EVERY.as_nanos();
        EVERY.saturating_sub(Duration::from_nanos(u64::try_from(gone).unwrap_or(0)))
    }
}

impl Worker {
    /// Waits until the group goes in which this delivery is put aside, or until the service drains. Meanwhile it takes no room of
    /// what the consumer may have here: as many as there are places wait so, at most.
    pub(super) async fn gather(&self, here: InHand) -> InHand {
        let Some(together) = &self.together else { return here };
        let away = here.away();
        tokio::select! {
            biased;
            () = self.scope.stopped() => {}
            () = together.gather() => {}
        }
        away.back()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn is_over(gathering: Pin<&mut impl Future<Output = ()>>) -> bool {
        gathering.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_come_go_at_one_moment() {
        let together = Together::new(64);
        tokio::time::advance(EVERY / 4).await;
        let (mut first, mut second) = (pin!(together.gather()), pin!(together.gather()));
        assert!(!is_over(first.as_mut()));
        tokio::time::advance(EVERY / 2).await;
        assert!(!is_over(first.as_mut()) && !is_over(second.as_mut()));
        tokio::time::advance(EVERY / 4).await;
        assert!(is_over(first) && is_over(second));
        assert_eq!(together.gathered.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_group_goes_at_once_and_who_goes_away_is_not_counted() {
        let together = Together::new(3);
        let mut first = pin!(together.gather());
        assert!(!is_over(first.as_mut()));
        {
            let mut goes_away = pin!(together.gather());
            assert!(!is_over(goes_away.as_mut()));
        }
        let mut second = pin!(together.gather());
        assert!(!is_over(second.as_mut()), "two are here");
        assert!(is_over(pin!(together.gather())), "the third makes it full");
        assert!(is_over(first) && is_over(second));
        assert!(!is_over(pin!(together.gather())), "the next group");
    }
}
