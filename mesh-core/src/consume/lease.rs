//! Leases: while a delivery is here, the broker hears a sign of life; when it is gone, silence.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The time that passes whatever the runtime does: it is what a watchdog goes by.
type WallInstant = std::time::Instant;

use tokio::time::Instant;

use crate::{
    bus::{Ack, Bus},
    clock::{
        TaskScope,
        watchdog::{self, Look},
    },
};

#[derive(Default)]
struct Held {
    next: AtomicU64,
    leases: Mutex<HashMap<u64, Held1>>,
}

struct Held1 {
    reply: Arc<str>,
    /// When the broker was last told of it, as far as this process can know: over a link that is up.
    renewed: Instant,
    /// When it was last to be told.
    told: Instant,
    /// Whether it was not told for as long as it waits: it may have given the delivery to somebody else.
    has_lapsed: bool,
    /// When its handler must have ended or yielded; `None`: no handler runs.
    overdue: Option<WallInstant>,
}

/// A handler at work under a lease, until it is dropped.
pub(super) struct AtWork<'a>(&'a Lease);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.set_overdue(None);
    }
}

/// The leases of one worker.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<Held>);

/// One delivery's lease. Dropping it ends the signs of life.
pub(super) struct Lease {
    leases: Leases,
    id: u64,
    has_begun: AtomicBool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.id);
    }
}

impl Lease {
    /// Says that the handler begins, which yields or ends within `limit`.
    pub(super) fn begin(&self, limit: Duration) -> AtWork<'_> {
        self.has_begun.store(true, Ordering::Relaxed);
        // A limit beyond all clocks is none.
        let after = limit.checked_add(grace(limit));
        self.set_overdue(after.and_then(|after| WallInstant::now().checked_add(after)));
        AtWork(self)
    }

    /// Whether the broker may have given the delivery to somebody else meanwhile: it was silent for longer than `ack_wait`, at
    /// some time or until now. Whoever has it now is not to be disturbed: the broker does not ask who hands a delivery back.
    pub(super) fn has_lapsed(&self, ack_wait: Duration) -> bool {
        let leases = self.leases.lock();
        leases.get(&self.id).is_none_or(|held| held.has_lapsed || held.renewed.elapsed() >= ack_wait)
    }

    /// Whether a handler was begun under it.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    fn set_overdue(&self, overdue: Option<WallInstant>) {
        if let Some(held) = self.leases.lock().get_mut(&self.id) {
            held.overdue = overdue;
        }
    }
}

/// A handler that yields is cancelled at its limit. So much later one that has not ended is known to hold a core.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// How much later than at its limit a handler that holds a core is known to do so.
fn grace(limit: Duration) -> Duration {
    (limit / 4).max(LEAST_GRACE)
}

/// How long a handler with this limit may be at work, at most, until its process is ended; the watchdog looks each second.
pub(super) fn longest(limit: Duration) -> Duration {
    limit.saturating_add(grace(limit)).saturating_add(Duration::from_secs(2))
}

impl Leases {
    /// Ends the process when a handler holds a core past its limit, from a thread of its own.
    pub(super) fn watch_over(&self) {
        let leases = Arc::downgrade(&self.0);
        let look = move || match leases.upgrade() {
            Some(held) => Leases(held).overdue(),
            None => Look::Over,
        };
        if let Err(error) = watchdog::watch(look) {
            tracing::error!(%error, "no thread for the watchdog: a handler that never yields will not be noticed");
        }
    }

    fn overdue(&self) -> Look {
        let now = WallInstant::now();
        let leases = self.lock();
        let late = leases.values().filter(|held| held.overdue.is_some_and(|overdue| overdue < now));
        // The one that is late for longest: on a runtime of one thread others can't end because of it.
        let overdue = late.min_by_key(|held| held.overdue);
        // Its ack's subject names stream, consumer and sequence.
        overdue.map_or(Look::Fine, |held| Look::Overdue(held.reply.to_string()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Held1>> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the lease of a delivery that came just now.
    pub(super) fn hold(&self, reply: Arc<str>) -> Lease {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.lock().insert(id, Held1 { reply, renewed: now, told: now, has_lapsed: false, overdue: None });
        Lease { leases: self.clone(), id, has_begun: AtomicBool::new(false) }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().len()
    }

    /// Those that are to be renewed now, each after a third of `ack_wait`. `is_linked`: what is said now reaches the broker.
    fn due(&self, ack_wait: Duration, is_linked: bool) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut leases = self.lock();
        let due = leases.values_mut().filter(|lease| now.duration_since(lease.told) >= ack_wait / 3);
        due.map(|lease| {
            lease.has_lapsed |= now.duration_since(lease.renewed) >= ack_wait;
            lease.told = now;
            if is_linked {
                lease.renewed = now;
            }
            Arc::clone(&lease.reply)
        })
        .collect()
    }

    /// Renews what is held, each after a third of `ack_wait`, until `ended` does.
    pub(super) async fn renew(self, bus: Bus, ack_wait: Duration, ended: TaskScope) {
        let mut tick = tokio::time::interval(ack_wait / 12);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = ended.stopped() => return,
            }
            for reply in self.due(ack_wait, bus.link_state().is_connected) {
                // The link is away: the broker will deliver it again, and the attempt goes on here.
                if let Err(error) = bus.ack(&reply, Ack::Extend).await {
                    tracing::debug!(%error, "a lease was not renewed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_due_after_its_time_and_gone_when_dropped() {
        let leases = Leases::default();
        let lease = leases.hold("a".into());
        assert!(leases.due(ACK_WAIT, true).is_empty());
        tokio::time::advance(ACK_WAIT / 3).await;
        assert_eq!(leases.due(ACK_WAIT, true).len(), 1);
        assert!(leases.due(ACK_WAIT, true).is_empty(), "renewed just now");
        drop(lease);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((leases.due(ACK_WAIT, true).len(), leases.held()), (0, 0));
    }

    const ACK_WAIT: Duration = Duration::from_secs(30);

    /// As long as each third of the time passes with a sign of life.
    async fn renewed(leases: &Leases, times: usize, is_linked: bool) {
        for _ in 0..times {
            tokio::time::advance(ACK_WAIT / 3).await;
            assert_eq!(leases.due(ACK_WAIT, is_linked).len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_has_lapsed_when_the_broker_heard_nothing_for_so_long_whatever_was_said_afterwards() {
        let leases = Leases::default();
        let lease = leases.hold("kept".into());
        renewed(&leases, 10, true).await;
        renewed(&leases, 2, false).await;
        assert!(!lease.has_lapsed(ACK_WAIT), "the link was away for less");
        renewed(&leases, 1, true).await;
        assert!(lease.has_lapsed(ACK_WAIT), "a whole time without a word: it came too late");
        renewed(&leases, 3, true).await;
        assert!(lease.has_lapsed(ACK_WAIT), "that is not undone");
        drop(lease);

        let frozen = leases.hold("frozen".into());
        renewed(&leases, 1, true).await;
        tokio::time::advance(ACK_WAIT).await;
        assert!(frozen.has_lapsed(ACK_WAIT), "nobody looked since");
    }
}
