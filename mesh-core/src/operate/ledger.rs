//! The ledger: what became of every message, counted from the broker's own numbers, and what does not add up.
//!
//! Nothing of ours is asked: streams, consumers, lanes, letters and outcomes are read where they lie. For queued work the
//! outcomes are a record of their own, so every sequence of its stream must be found somewhere. An event that was handled
//! leaves no trace, so there *accepted* is what remains, and what can be checked is checked apart.
//!
//! What is read moves. [`read`] reads in an order in which nothing that is handed over can be missed, and a finding counts
//! only if it stands in two readings.

mod account;
mod finding;
mod picture;
mod ranges;
mod read;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::topology::Topology;
use crate::{bus::Bus, fault::Fault, subject};

pub use account::{Account, Line, Rules, account};
pub use finding::{Finding, Kind, Which};
pub use picture::{Copy, Letter, Outcomes, Picture, Seat, SeatNames};
pub use ranges::Ranges;

/// Between two readings: longer than a hand-over between two steps takes.
const BETWEEN: Duration = Duration::from_secs(1);

/// What is checked, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check<'a> {
    /// What is allowed.
    pub rules: Rules,
    /// What must exist.
    pub topology: Option<&'a Topology>,
    /// Read again until nothing moves between two readings, at most for so long.
    pub quiet_within: Option<Duration>,
}

/// A ledger, and whether it is one of a mesh at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The newest reading, with the findings that stand in the one before too.
    pub account: Account,
    /// How often the broker was read.
    pub readings: u32,
    /// Whether messages moved between the last two readings; `None` after one: it found nothing, and nobody waited.
    pub moving: Option<bool>,
}

/// Reads the broker and accounts for every message.
///
/// # Errors
/// The bus can't be reached, or this identity may not read the streams of the mesh.
pub async fn check(bus: &Bus, check: Check<'_>) -> Result<Checked, Fault> {
    let begun = Instant::now();
    let (mut before, mut account) = read_once(bus, &check).await?;
    // What stands in one reading is nothing yet; it may be a million letters, so it is kept once.
    let mut earlier = std::mem::take(&mut account.findings);
    let mut checked = Checked { account, readings: 1, moving: None };
    while checked.moving != Some(false) {
        let time_is_over = check.quiet_within.is_none_or(|limit| begun.elapsed() >= limit);
        let is_settled = earlier.is_empty() || checked.readings > 1;
        if time_is_over && is_settled {
            break;
        }
        sleep(BETWEEN).await;
        let (now, mut account) = read_once(bus, &check).await?;
        checked.moving = Some(now != before);
        let standing = account.findings.iter().filter_map(|finding| finding.standing(&earlier)).collect();
        earlier = std::mem::replace(&mut account.findings, standing);
        checked.account = account;
        checked.readings += 1;
        before = now;
    }
    Ok(checked)
}

/// Where everything stands: the last sequence and the messages of streams, what consumers got and settled. Stores hold no
/// messages, and a keeper writes its lease there every few seconds.
type Pulse = (Vec<(u64, u64)>, Vec<(u64, u64, u64)>);

async fn read_once(bus: &Bus, check: &Check<'_>) -> Result<(Pulse, Account), Fault> {
    let picture = Box::pin(read::picture(bus)).await?;
    let of_messages = picture.streams.iter().filter(|facts| !subject::is_store_stream(&facts.name));
    let streams = of_messages.map(|facts| (facts.last_sequence, facts.messages)).collect();
    let consumers = picture.consumers.iter().map(|c| (c.deliveries, c.waiting, c.in_flight)).collect();
    Ok(((streams, consumers), account(&picture, check.rules, check.topology)))
}
