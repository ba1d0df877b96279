//! Refused work: captured with everything that a person needs, and sent again to the consumer that failed.
//!
//! A letter is a subject of its own in the dead-letter stream. Its history is appended there, record by record
//! (`mesh.v1.LetterRecord`), and its state is the fold of them. Each record is written only if the one before is the last
//! that its writer knew, so a failure is captured once, and of two operators one wins.

mod capture;
mod facts;
mod fingerprint;
mod fold;
mod life;
#[cfg(test)]
mod life_model;
#[cfg(test)]
mod life_tests;
mod record;

pub use crate::delayed::letter_id;
pub use capture::{Captured, capture, resolve, source};
pub(crate) use capture::{append, sealed_whole, stated};
pub use facts::Facts;
pub use fingerprint::{Fingerprint, InvalidFingerprint, normalised};
pub use fold::{Act, Letter, LetterKey, Letters, Mended, kind};
pub use life::{ActKind, LetterState};
pub use record::record_of;
