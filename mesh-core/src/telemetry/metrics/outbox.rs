//! What the relay of an outbox counts.

use std::{fmt, sync::Arc};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::family::{Cases, Family};

/// What became of a row that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// The broker stored it.
    Confirmed,
    /// The broker had it already.
    Duplicate,
    /// The broker, or the gate, will not take it as it is.
    Refused,
    /// Its place takes nothing now.
    Postponed,
    /// It may have been stored before, longer ago than the broker remembers.
    Doubtful,
}

impl Relayed {
    /// The word for it, as metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Relayed::Confirmed => "confirmed",
            Relayed::Duplicate => "duplicate",
            Relayed::Refused => "refused",
            Relayed::Postponed => "postponed",
            Relayed::Doubtful => "doubtful",
        }
    }
}

/// The outbox of this process.
#[derive(Clone)]
pub struct OutboxMetrics(Arc<Inner>);

struct Inner {
    relayed: Family<1, Counter>,
    cases: Cases,
    refused_rows: Gauge,
    paused_places: Gauge,
}

impl OutboxMetrics {
    pub(super) fn new(families: &super::Families) -> OutboxMetrics {
        OutboxMetrics(Arc::new(Inner {
            relayed: families.relayed.clone(),
            cases: Cases::new(Relayed::Doubtful as usize + 1),
            refused_rows: families.outbox_stuck.get(["refused_rows"]),
            paused_places: families.outbox_stuck.get(["paused_places"]),
        }))
    }

    /// Counts one row that was sent.
    pub fn relayed(&self, how: Relayed) {
        self.0.cases.add(how as usize, || self.0.relayed.get([how.as_str()]));
    }

    /// States how many rows are refused now.
    pub fn refused_rows(&self, count: i64) {
        self.0.refused_rows.set(count);
    }

    /// States how many places are paused now.
    pub fn paused(&self, count: usize) {
        self.0.paused_places.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl fmt::Debug for OutboxMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutboxMetrics")
    }
}
