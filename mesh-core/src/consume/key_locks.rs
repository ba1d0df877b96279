//! One after the other, by key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// Keys that are kept though nobody holds them: whoever waited for one was dropped. With more than so many they are looked for.
const MANY: usize = 4096;

/// A lock for each key that somebody holds or waits for.
#[derive(Debug, Default)]
pub(super) struct KeyLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

/// The lock of one key, until it is dropped.
pub(super) struct KeyLock<'a> {
    locks: &'a KeyLocks,
    key: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyLocks {
    /// Waits until nobody holds the key. Cancel-safe.
    pub(super) async fn lock(&self, key: &str) -> KeyLock<'_> {
        let lock = self.of(key);
        KeyLock { locks: self, key: key.to_owned(), guard: Some(lock.lock_owned().await) }
    }

    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks();
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= MANY {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<String, Weak<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyLock<'_> {
    fn drop(&mut self) {
        // First the lock itself, so that only those who wait count.
        self.guard = None;
        let mut locks = self.locks.locks();
        if locks.get(&self.key).is_some_and(|lock| lock.strong_count() == 0) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_key_has_one_holder_at_a_time_and_nothing_is_left_of_it() {
        let locks = KeyLocks::default();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let mut second = Box::pin(locks.lock("a"));
        assert!((&mut second).now_or_never().is_none(), "the first holds it");
        drop(first);
        drop(second.await);
        assert_eq!(locks.locks().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test]
    async fn who_was_dropped_while_waiting_leaves_the_key_free() {
        let locks = KeyLocks::default();
        let first = locks.lock("a").await;
        let mut second = Box::pin(locks.lock("a"));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!(locks.lock("a").now_or_never().is_some());
        assert!(locks.locks().is_empty());
    }
}
