//! The one place that spawns tasks.
//!
//! Every task belongs to a [`TaskScope`]. Drain closes the scope and waits until the exact set of its tasks has ended.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A set of tasks with one parent. Cloning gives another handle on the same set.
#[derive(Debug, Clone, Default)]
pub struct TaskScope(Arc<State>);

#[derive(Debug, Default)]
struct State {
    running: AtomicUsize,
    stopping: AtomicBool,
    stop: Notify,
    idle: Notify,
}

/// Counts a task until it ends, however it ends.
struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl TaskScope {
    /// An empty scope.
    #[must_use]
    pub fn new() -> TaskScope {
        TaskScope::default()
    }

    /// Runs `task` in the background until it ends. A panic in it ends it and nothing else.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(Arc::clone(&self.0));
        // On the heap once: a large future would be copied several times on its way into the runtime.
        let task = Box::pin(task);
        tokio::spawn(async move {
            let _running = running;
            task.await;
        })
        .abort_handle()
    }

    /// Asks every task to come to its end.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.stop.notify_waiters();
    }

    /// Whether [`stop`](TaskScope::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Ends when [`stop`](TaskScope::stop) is called, at once if it was. Cancel-safe.
    pub async fn stopped(&self) {
        loop {
            let notified = self.0.stop.notified();
            if self.is_stopping() {
                return;
            }
            notified.await;
        }
    }

    /// How many tasks run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// Ends when no task runs. Cancel-safe.
    pub async fn idle(&self) {
        loop {
            let notified = self.0.idle.notified();
            if self.running() == 0 {
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_the_exact_set_even_through_a_panic() {
        let scope = TaskScope::new();
        let inner = scope.clone();
        scope.spawn(async move { inner.stopped().await });
        scope.spawn(async { panic!("ends itself only") });
        scope.stop();
        scope.idle().await;
        assert_eq!(scope.running(), 0);
    }
}
