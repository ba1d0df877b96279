//! What people and tools may ask and order: make streams and consumers, look at letters, replay and discard them, count what
//! became of every message; and the keeper, which sees to it that nothing is lost while nobody looks.

pub mod jobs;
pub mod keeper;
pub mod keys;
pub mod ledger;
pub mod letters;
mod position;
pub mod regions;
mod served;
pub mod topology;
mod until_done;
