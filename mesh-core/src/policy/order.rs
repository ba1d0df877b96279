//! The order of keys: what one process may begin, what must wait where, and which partitions it should have.
//!
//! One process at a time owns a partition. What it has in hand stands in its [`Book`], which says what to begin, what to put
//! aside and what to write down before a message is settled. [`share`] spreads the partitions over the processes.

mod book;
#[cfg(test)]
mod model;
mod share;

pub use book::{Arrival, Arrived, At, Begin, Book, Came, Ending, Loaded, Plan, Slot};
pub use share::{Share, share};
