//! (being written)

pub mod engine;
