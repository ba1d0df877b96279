//! The order of keys: what one process may begin, what must wait where, and which partitions it should have.
//!
//! One process at a time owns a partition. What it has in hand stands in its [`Book`], which says what to begin, what to put
//! aside and what to write down before a message is settled. [`share`] spreads the partitions over the processes.

mod book;
mod lane;
#[cfg(test)]
mod model;
mod share;
mod words;

pub use book::Book;
pub use share::{Share, share};
pub use words::{Arrival, Arrived, At, Begin, Came, Ending, Loaded, Plan, Slot};
