//! One round: how many in what time, and how long each took.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

/// What one round of one side gave.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// Operations a second.
    pub(crate) rate: f64,
    /// How long each operation took, in ascending order; empty where one is not seen apart.
    pub(crate) latencies: Vec<Duration>,
}

/// Runs `count` operations, `callers` at once, each beginning its next when its last has ended.
pub(crate) async fn closed_loop(callers: usize, count: usize, operation: impl AsyncFn(usize)) -> Round {
    let started = Instant::now();
    let timed = |number| {
        let operation = &operation;
        async move {
            let began = Instant::now();
            operation(number).await;
            began.elapsed()
        }
    };
    let mut latencies: Vec<Duration> = stream::iter(0..count).map(timed).buffer_unordered(callers).collect().await;
    let rate = rate(count, started.elapsed());
    latencies.sort_unstable();
    Round { rate, latencies }
}

pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}
