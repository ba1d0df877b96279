//! Places where a test may end the process, as a crash between two steps would.
//!
//! Nothing here reads the environment: a process that nobody has armed can't be ended by it, and [`crash_point`] is then one
//! load. Points stand only on ways that write to the broker anyway.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

/// Every point of a worker, in the order in which a delivery meets them.
pub const WORKER_POINTS: [&str; 9] = [
    "inbox.begun",
    "attempt.handled",
    "inbox.ended",
    "settle.outcome",
    "settle.resolved",
    "settle.delayed",
    "settle.captured",
    "settle.letter-outcome",
    "settle.acked",
];

/// The point between the bytes that lie apart and the letter or the copy that claims them: met only by messages of others that
/// are nearly as large as the broker's limit.
pub const CLAIM_POINT: &str = "claim.stored";

/// The point between a copy that waits for its target and the acknowledgement of its original: met only by a worker that keeps
/// targets apart.
pub const ASIDE_POINT: &str = "settle.aside";

/// Every point that only a worker meets which keeps the order of keys: a message lies behind the one that blocks its key; the
/// record of a key says that it is blocked, that those behind the first one are handled, that it is free; a copy's original is
/// acknowledged; the letter of a replay that came to a good end is told so.
pub const ORDER_POINTS: [&str; 6] =
    ["order.blocked", "order.followed", "order.drained", "order.freed", "order.acked", "order.resolved"];

/// Every point of an operator who replays a letter.
pub const OPERATOR_POINTS: [&str; 2] = ["replay.ordered", "replay.copied"];

/// Every point of the keeper that sees to a delivery that nobody settled.
pub const KEEPER_POINTS: [&str; 3] = ["rescue.captured", "rescue.announced", "rescue.settled"];

struct Armed {
    point: String,
    left: AtomicU32,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// From now on the process aborts when it meets `point` for the `hit`-th time (1: the first). Only the first order counts.
pub fn arm_crash_point(point: &str, hit: u32) {
    let _ = ARMED.set(Armed { point: point.to_owned(), left: AtomicU32::new(hit.max(1)) });
}

/// A place between two steps.
pub(crate) fn crash_point(point: &str) {
    if let Some(armed) = ARMED.get() {
        armed.meet(point);
    }
}

impl Armed {
    fn meet(&self, point: &str) {
        if self.is_last(point) {
            // No destructors, no flushing, nothing handed back: as a crash.
            std::process::abort();
        }
    }

    fn is_last(&self, point: &str) -> bool {
        self.point == point && self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hit_of_the_named_point_is_the_one() {
        let armed = Armed { point: "a".into(), left: AtomicU32::new(2) };
        assert!(!armed.is_last("b") && !armed.is_last("a") && !armed.is_last("b"));
        assert!(armed.is_last("a"));
        assert!(!armed.is_last("a"), "once");
    }
}
