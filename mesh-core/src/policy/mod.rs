//! Pure decisions: a function of (rule, state, now), without I/O, `async`, hidden clock or randomness.
//!
//! So every decision is a table test, and a tool that explains a decision calls the very function that enforces it.

pub mod budget;
pub mod compile;
pub mod inbox;
#[cfg(test)]
mod inbox_world;
pub mod isolation;
pub mod order;
pub mod quota;
pub mod reconcile;
pub mod replay;
pub mod retry;
