//! Who runs beside whom: a message that may have ended its process before runs while nothing else does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Instant, timeout},
};

/// How long one waits to be alone, and how long others wait for one that is.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// After a wait in vain nobody tries again for so long: what runs takes its time.
const CROWDED: Duration = Duration::from_secs(60);

/// The room that the handlers of one process share. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Quarantine(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    room: RwLock<()>,
    crowded_until: Mutex<Option<Instant>>,
}

/// A place in it.
pub(super) enum Place<'a> {
    /// Among others.
    Beside(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>),
    /// With nobody else.
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Quarantine {
    /// A place among others.
    pub(super) async fn beside(&self) -> Place<'_> {
        Place::Beside(self.0.room.read().await)
    }

    /// A place with nobody else, or one among others if those take too long to end.
    pub(super) async fn alone(&self) -> Place<'_> {
        if self.is_crowded() {
            return self.beside().await;
        }
        match timeout(PATIENCE, self.0.room.write()).await {
            Ok(alone) => Place::Alone(alone),
            Err(_) => {
                *self.crowded_until() = Some(Instant::now() + CROWDED);
                self.beside().await
            }
        }
    }

    fn is_crowded(&self) -> bool {
        self.crowded_until().is_some_and(|until| Instant::now() < until)
    }

    fn crowded_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.crowded_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    pub(super) const fn is_alone(&self) -> bool {
        matches!(self, Place::Alone(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_alone_keeps_others_out_and_one_that_can_not_be_alone_goes_on() {
        let quarantine = Quarantine::default();
        let alone = quarantine.alone().await;
        assert!(alone.is_alone());
        assert!(quarantine.beside().now_or_never().is_none());
        drop(alone);
        let _long = quarantine.beside().await;
        let started = Instant::now();
        assert!(!quarantine.alone().await.is_alone(), "another takes its time");
        assert_eq!(started.elapsed(), PATIENCE);
        assert!(quarantine.alone().now_or_never().is_some_and(|place| !place.is_alone()), "and nobody waits again");
    }
}
