//! What people and tools may ask and order: make streams and consumers, look at letters, replay and discard them.

pub mod keys;
pub mod letters;
pub mod topology;
