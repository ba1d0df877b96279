//! The vendor's side of the account: what it saw and did, counted.

use serde::Serialize;

/// One vendor's counts since its start or the last reset.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that arrived, whatever became of them, look-ups too.
    pub(crate) calls: u64,
    /// Charges made, messages accepted.
    pub(crate) effects: u64,
    /// Idempotency keys with at least one effect.
    pub(crate) distinct_keys: u64,
    /// Effects that repeat a key or an order; each counts once here.
    pub(crate) duplicates: u64,
    /// Effects under a key that had one already.
    pub(crate) duplicates_by_key: u64,
    /// Effects under an order that had one already.
    pub(crate) duplicates_by_order: u64,
    /// Calls refused for what they ask: 400, 402, 413. Replays of a refusal are not counted again.
    pub(crate) refused: u64,
    /// 429 given.
    pub(crate) throttled: u64,
    /// Calls for the same key (or order, without a key) before their own `Retry-After` was over.
    pub(crate) early_retries: u64,
    /// Calls during a `Retry-After` that was announced to the account more than 250 ms before.
    pub(crate) calls_while_throttled: u64,
    /// 401 given.
    pub(crate) unauthenticated: u64,
    /// Connections cut after the effect.
    pub(crate) cut: u64,
    /// Calls closed or left hanging without effect, by `down` and `hang`.
    pub(crate) dropped: u64,
    /// Calls answered from the idempotency store.
    pub(crate) replayed: u64,
    /// Calls with a known key and other parameters.
    pub(crate) mismatched: u64,
    /// 409 given: the key's first call was still in flight.
    pub(crate) conflicts: u64,
    /// 500 and 503 given. Replays of a 500 are not counted again.
    pub(crate) failed: u64,
    /// Calls that only read.
    pub(crate) lookups: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_every_count() {
        let counts = serde_json::to_value(Counts::default()).unwrap();
        for name in counts.as_object().unwrap().keys() {
            assert!(include_str!("../README.md").contains(&format!("| `{name}` |")), "README.md lacks {name}");
        }
    }
}
