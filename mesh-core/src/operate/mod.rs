//! What people and tools may ask and order: make streams and consumers, look at letters, replay and discard them, and count
//! what became of every message.

pub mod ledger;
pub mod letters;
pub mod topology;
