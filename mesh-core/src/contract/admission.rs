//! May a consumer fetch now? Quota and breaker, on floors above the consumer, answer without being imported by it.

use std::time::Duration;

/// Asked by a consumer before it fetches.
pub trait Admission: Send + Sync + 'static {
    /// How long nothing should be fetched; `None`: go.
    fn closed_for(&self) -> Option<Duration>;
}

/// Always lets a consumer fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Open;

impl Admission for Open {
    fn closed_for(&self) -> Option<Duration> {
        None
    }
}
