//! Work on many letters that outlives the terminal which ordered it: replay as a rollout.
//!
//! A job is a subject of its own in the job stream, and its log is folded as letters are ([`fold`]). The log holds what was
//! asked for and what people ordered since. What became of the letters is *not* counted there: every order that a job gives
//! stands in its letter's history with the job's id, so the dead-letter stream itself is the account ([`progress`]). Whoever
//! takes a job up after a crash reads it again from the cut-off and knows all: nothing is counted twice or forgotten.
//!
//! One letter takes two steps: its order (a record, written only if the letter is as it was seen), then its copy on the lane
//! of the consumer that failed. Between the two a crash leaves a letter that is *replaying* without a copy; the next runner
//! finds it by its order and sends the copy again, with the same message id. Within the broker's dedupe window the second
//! copy is not stored; after it, the consumer's inbox knows that letter and generation were handled.

mod account;
mod ask;
mod dispatch;
mod fold;
mod follow;
mod intake;
mod lanes;
mod late;
mod log;
#[cfg(test)]
mod model_tests;
mod progress;
mod queue;
mod run;
mod runner;
mod selection;
mod share;
mod since;
mod walk;

pub use ask::{Ask, cancel, create, find, list, pause, resume, watch};
pub use fold::{End, Job, JobState, Jobs, Moment};
pub use run::run;
pub use selection::{MAX_IDS, Preview, Selection, preview};
