//! The patience of what nobody waits for: a keeper's duty, a job.

use std::future::Future;

use crate::{clock::patient_delays, fault::Fault};

/// Tries until it is done: letters wait while the bus does not take them, and the log says so.
pub(super) async fn until_done<T, F, Fut>(what: &str, act: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, Fault>>,
{
    let mut delays = patient_delays();
    loop {
        match act().await {
            Ok(done) => return done,
            Err(fault) => tracing::warn!(%fault, "{what} can't be had, sent or written now: it is tried again"),
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}
