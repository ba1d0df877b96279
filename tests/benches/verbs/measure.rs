//! One round: how many in what time, and how long each took.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_core::clock::TaskScope;

/// What one round of one side gave.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// Operations a second.
    pub(crate) rate: f64,
    /// How long each operation took, in ascending order; empty where one is not seen apart.
    pub(crate) latencies: Vec<Duration>,
}

/// Runs `count` operations, `callers` at once, each beginning its next when its last has ended. Each caller is a task of its
/// own, as the handlers of a service are: callers that share one task share one thread, whatever is measured.
pub(crate) async fn closed_loop<F, Fut>(callers: usize, count: usize, operation: F) -> Round
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (next, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::with_capacity(count))));
    let tasks = TaskScope::new();
    let started = Instant::now();
    for _ in 0..callers {
        let (next, all, operation) = (Arc::clone(&next), Arc::clone(&all), operation.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(count / callers + 1);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let began = Instant::now();
                operation(number).await;
                latencies.push(began.elapsed());
            }
            all.lock().unwrap().append(&mut latencies);
        });
    }
    tasks.idle().await;
    let rate = rate(count, started.elapsed());
    let mut latencies = std::mem::take(&mut *all.lock().unwrap());
    assert_eq!(latencies.len(), count, "a caller ended before its time");
    latencies.sort_unstable();
    Round { rate, latencies }
}

pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}
