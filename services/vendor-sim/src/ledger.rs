//! The vendor's side of the account: what it saw and did, counted.

use serde::Serialize;

/// One vendor's counts since its start or the last reset.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "a private module: each count is described once, in the README's table")]
pub struct Counts {
    pub calls: u64,
    pub effects: u64,
    pub distinct_keys: u64,
    pub duplicates: u64,
    pub duplicates_by_key: u64,
    pub duplicates_by_order: u64,
    pub refused: u64,
    pub throttled: u64,
    pub early_retries: u64,
    pub calls_while_throttled: u64,
    pub unauthenticated: u64,
    pub cut: u64,
    pub dropped: u64,
    pub replayed: u64,
    pub mismatched: u64,
    pub conflicts: u64,
    pub failed: u64,
    pub lookups: u64,
}
