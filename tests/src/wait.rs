//! Waiting for a condition instead of a time.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// Asks until there is an answer, and gives up after 30 seconds with `what` was waited for.
///
/// # Panics
/// It does not come.
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        if Instant::now() >= limit {
            panic!("waited 30 s in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
