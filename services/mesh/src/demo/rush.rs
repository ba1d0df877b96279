//! Rush hour: for some seconds a vendor takes far fewer calls than it is asked for, whatever the speed of this machine.
//!
//! That shows what throttling does: the vendor answers 429 with Retry-After, its whole quota waits, nothing is tried early,
//! no attempt is spent, and the other vendor's work goes on.

use std::time::{Duration, Instant};

use mesh_core::fault::Fault;
use serde_json::{Value, json};

use super::stage::{BURST, RATE_PER_S};
use super::watch::{JOURNEYS, Snapshot};
use crate::ledger::read::Vendors;

/// How long it lasts.
const LASTS: Duration = Duration::from_secs(4);
/// Calls per second that a vendor takes then, and how many at once.
const NARROW: (u64, u64) = (100, 50);
/// When the first vendor's begins, in percent of its effects; each following one's begins so much later.
const BEGINS_PERCENT: u64 = 25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ahead,
    Since(Instant),
    Over,
}

/// One vendor's rush hour.
#[derive(Debug)]
struct Hour {
    vendor: &'static str,
    /// It begins when so much has taken effect.
    begins_at: u64,
    state: State,
}

/// The rush hours of all vendors.
#[derive(Debug)]
pub(super) struct Rush(Vec<Hour>);

impl Rush {
    /// Those of a run of `orders` orders.
    pub(super) fn new(orders: usize) -> Rush {
        let hours = JOURNEYS.iter().zip(1..).map(|(journey, turn)| Hour {
            vendor: journey.vendor,
            begins_at: orders as u64 * BEGINS_PERCENT * turn / 100,
            state: State::Ahead,
        });
        Rush(hours.collect())
    }

    /// Lets those begin and end whose time has come.
    pub(super) async fn follow(&mut self, snapshot: &Snapshot, vendors: &Vendors) -> Result<(), Fault> {
        for (hour, stand) in self.0.iter_mut().zip(&snapshot.stands) {
            if let Some(knobs) = hour.step(stand.vendor.effects, Instant::now()) {
                vendors.set(hour.vendor, &knobs).await?;
            }
        }
        Ok(())
    }

    /// Ends those that have begun: the vendors are as before.
    pub(super) async fn end(&mut self, vendors: &Vendors) -> Result<(), Fault> {
        for hour in self.0.iter().filter(|hour| matches!(hour.state, State::Since(_))) {
            vendors.set(hour.vendor, &knobs(RATE_PER_S, BURST)).await?;
        }
        Ok(())
    }
}

impl Hour {
    /// What the vendor is to be told now.
    fn step(&mut self, effects: u64, now: Instant) -> Option<Value> {
        match self.state {
            State::Ahead if effects >= self.begins_at => {
                self.state = State::Since(now);
                Some(knobs(NARROW.0, NARROW.1))
            }
            State::Since(since) if now.duration_since(since) >= LASTS => {
                self.state = State::Over;
                Some(knobs(RATE_PER_S, BURST))
            }
            State::Ahead | State::Since(_) | State::Over => None,
        }
    }
}

fn knobs(rate_per_s: u64, burst: u64) -> Value {
    json!({ "rate_per_s": rate_per_s, "burst": burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_and_ends_once() {
        let mut hour = Rush::new(1000).0.remove(0);
        let now = Instant::now();
        assert_eq!(hour.step(249, now), None);
        assert_eq!(hour.step(250, now), Some(knobs(100, 50)));
        assert_eq!(hour.step(300, now + LASTS / 2), None);
        assert_eq!(hour.step(301, now + LASTS), Some(knobs(RATE_PER_S, BURST)));
        assert_eq!(hour.step(1000, now + LASTS * 3), None);
    }
}
