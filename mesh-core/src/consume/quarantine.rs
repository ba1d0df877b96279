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
    /// Those who want to be alone come one after the other, however many they are: waiting for each other is no crowd.
    turnstile: tokio::sync::Mutex<()>,
    crowded_until: Mutex<Option<Instant>>,
}

/// A place in it.
pub(super) enum Place<'a> {
    /// Among others.
    Beside(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>),
    /// With nobody else.
    Alone(Alone<'a>),
}

/// With nobody else, until it is opened or dropped.
pub(super) struct Alone<'a> {
    room: RwLockWriteGuard<'a, ()>,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl<'a> Alone<'a> {
    /// Lets others in; this one stays.
    pub(super) fn open(self) -> Place<'a> {
        Place::Beside(self.room.downgrade())
    }
}

impl Quarantine {
    /// A place among others.
    pub(super) async fn beside(&self) -> Place<'_> {
        Place::Beside(self.0.room.read().await)
    }

    /// A place with nobody else, or one among others if those take too long to end.
    pub(super) async fn alone(&self) -> Place<'_> {
        let turn = self.0.turnstile.lock().await;
        if self.is_crowded() {
            return self.beside().await;
        }
        match timeout(PATIENCE, self.0.room.write()).await {
            Ok(room) => Place::Alone(Alone { room, _turn: turn }),
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
    async fn many_who_want_to_be_alone_are_it_one_after_the_other_however_long_that_takes() {
        let quarantine = Quarantine::default();
        let each = |_: usize| async {
            let place = quarantine.alone().await;
            tokio::time::sleep(PATIENCE / 2).await;
            place.is_alone()
        };
        let all = futures_util::future::join_all((0..20).map(each)).await;
        assert!(all.into_iter().all(|alone| alone));
    }

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
