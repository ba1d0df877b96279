//! The fault campaign: real brokers, real workers and a counter of effects, each a process of its own, and things that go
//! wrong. Every scenario prints one line, and the account is kept as sets of ids, so that one loss can't hide one double.
//!
//! How to run it and how to add a scenario stands in `docs/campaign.md`. The scenarios lie in `tests/tests/campaign`.

pub mod account;
pub mod client;
pub mod cluster;
pub mod counter;
pub mod disk;
pub mod ledger;
pub mod leftover;
pub mod order;
pub mod process;
pub mod proxy;
pub mod roles;
pub mod stage;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use account::{Account, Books};
pub use process::{Publisher, Worker};
pub use stage::{Stage, StageSettings};

/// The time of day in Unix microseconds: what takes one millisecond can't be measured in milliseconds.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A few faults of each kind: runs with the other tests.
    Quick,
    /// As many as the promise names.
    Long,
}

/// One run of one scenario.
pub struct Run {
    /// What it is called: `S02 server-kill9`.
    pub name: &'static str,
    /// What its randomness begins with.
    pub seed: u64,
    /// How much is done.
    pub size: Size,
    /// Randomness that is the same for the same seed.
    pub random: fastrand::Rng,
    /// The program `campaign-worker`, which plays every role.
    pub program: PathBuf,
    extras: Vec<(&'static str, String)>,
    troubles: Vec<String>,
}

impl Run {
    /// A run of the scenario `name`.
    #[must_use]
    pub fn new(name: &'static str, seed: u64, size: Size, program: PathBuf) -> Run {
        let random = fastrand::Rng::with_seed(seed);
        Run { name, seed, size, random, program, extras: Vec::new(), troubles: Vec::new() }
    }

    /// `quick` or `long`, by the size of this run.
    #[must_use]
    pub fn sized<T>(&self, quick: T, long: T) -> T {
        if self.size == Size::Quick { quick } else { long }
    }

    /// A moment between `from` and `to` milliseconds.
    pub fn some_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.u64(from..=to))
    }

    /// A figure for the printed line.
    pub fn note(&mut self, name: &'static str, figure: impl ToString) {
        self.extras.push((name, figure.to_string()));
    }

    /// Something that must hold in this scenario beside the account: `why` is printed when it does not.
    pub fn require(&mut self, holds: bool, why: impl Into<String>) {
        if !holds {
            self.troubles.push(why.into());
        }
    }

    /// The line, what is wrong (nothing: it passed).
    #[must_use]
    pub fn line(&self, account: &Account) -> (String, Vec<String>) {
        let mut wrong = account.wrong();
        wrong.extend(self.troubles.iter().cloned());
        let extras: String = self.extras.iter().map(|(name, figure)| format!(" {name}={figure}")).collect();
        let verdict = if wrong.is_empty() { "PASS" } else { "FAIL" };
        (format!("{} seed={} {}{extras} {verdict}", self.name, self.seed, account.figures()), wrong)
    }
}
