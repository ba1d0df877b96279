//! Leases: while a delivery is here, the broker hears a sign of life; when it is gone, silence.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    bus::{Ack, Bus},
    clock::TaskScope,
};

#[derive(Default)]
struct Held {
    next: AtomicU64,
    leases: Mutex<HashMap<u64, Held1>>,
}

struct Held1 {
    reply: Arc<str>,
    renewed: Instant,
}

/// The leases of one worker.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<Held>);

/// One delivery's lease. Dropping it ends the signs of life.
pub(super) struct Lease {
    leases: Leases,
    id: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.id);
    }
}

impl Leases {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Held1>> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the lease of a delivery that came just now.
    pub(super) fn hold(&self, reply: Arc<str>) -> Lease {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, Held1 { reply, renewed: Instant::now() });
        Lease { leases: self.clone(), id }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().len()
    }

    fn due(&self, after: Duration) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut leases = self.lock();
        let due = leases.values_mut().filter(|lease| now.duration_since(lease.renewed) >= after);
        due.map(|lease| {
            lease.renewed = now;
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
            for reply in self.due(ack_wait / 3) {
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
        assert!(leases.due(Duration::from_secs(10)).is_empty());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(leases.due(Duration::from_secs(10)).len(), 1);
        assert!(leases.due(Duration::from_secs(10)).is_empty(), "renewed just now");
        drop(lease);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((leases.due(Duration::from_secs(10)).len(), leases.held()), (0, 0));
    }
}
