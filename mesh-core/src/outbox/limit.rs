//! How long the relay waits for its database.

use std::{io, time::Duration};

use crate::clock::TaskScope;

/// In a drain a step may still take so long.
const DRAIN_STEP: Duration = Duration::from_secs(3);

/// How long one step of the database may take: a lease, since a relay that waits longer has lost its own; in a drain less.
pub(super) struct Limit {
    lease: Duration,
    scope: TaskScope,
}

impl Limit {
    pub(super) fn new(lease: Duration, scope: &TaskScope) -> Limit {
        Limit { lease, scope: scope.clone() }
    }

    /// Runs a step until it ends or is given up. What became of one that was given up is unknown.
    pub(super) async fn hold<T>(&self, step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let draining = async {
            self.scope.stopped().await;
            tokio::time::sleep(DRAIN_STEP).await;
        };
        tokio::select! {
            biased;
            ended = step => ended,
            () = tokio::time::sleep(self.lease) => Err(given_up()),
            () = draining => Err(given_up()),
        }
    }
}

fn given_up() -> sqlx::Error {
    let why = "a step took too long and was given up; it may have been done all the same";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_is_given_up_after_the_lease_and_in_a_drain_before_it() {
        let (lease, scope) = (Duration::from_secs(60), TaskScope::new());
        let limit = Limit::new(lease, &scope);
        assert_eq!(limit.hold(ready(Ok(7))).await.unwrap(), 7);
        let began = Instant::now();
        let error = limit.hold(pending::<Result<(), _>>()).await.unwrap_err();
        assert!(error.to_string().contains("it may have been done all the same"), "{error}");
        assert_eq!(began.elapsed(), lease);
        let stop = async {
            tokio::time::sleep(lease / 2).await;
            scope.stop();
        };
        let (held, ()) = tokio::join!(limit.hold(pending::<Result<(), _>>()), stop);
        assert!(held.is_err());
        assert_eq!(began.elapsed(), lease + lease / 2 + DRAIN_STEP);
    }
}
