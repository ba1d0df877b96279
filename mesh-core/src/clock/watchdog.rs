//! A thread that ends the process when something in it holds a core and never yields.
//!
//! A task that spins can't be cancelled: the runtime only stops a task where it waits. Its process would go on renewing
//! leases, or with a runtime of one thread would fall silent, and nothing else on that core would move. So the process
//! ends, its supervisor starts it again, and the work that was in hand is delivered again to be looked at alone.

use std::time::{Duration, Instant};

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing is overdue.
    Fine,
    /// There is nothing to look after any more.
    Over,
    /// This is overdue: the process must end.
    Overdue(String),
}

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);
/// So many looks in a row must find the same thing overdue.
const LOOKS: u32 = 6;
/// Two looks further apart than this: the process itself stood still.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// It needs next to no stack.
const STACK_BYTES: usize = 128 * 1024;

/// Looks four times a second, from a thread of its own, until it is over; aborts the process when something is overdue.
///
/// # Errors
/// The system gives no thread.
#[expect(clippy::disallowed_methods, reason = "the thread is there to wait on its own, whatever the runtime does")]
pub fn watch(look: impl Fn() -> Look + Send + 'static) -> std::io::Result<()> {
    let watching = move || {
        let mut seen = Seen::default();
        loop {
            match look() {
                Look::Fine => seen = Seen::default(),
                Look::Over => return,
                Look::Overdue(what) => {
                    if seen.again(&what, Instant::now()) >= LOOKS {
                        end_process(&what);
                    }
                }
            }
            std::thread::sleep(EVERY);
        }
    };
    std::thread::Builder::new().name("watchdog".into()).stack_size(STACK_BYTES).spawn(watching).map(drop)
}

/// How often in a row the same thing was overdue.
#[derive(Default)]
struct Seen {
    what: String,
    times: u32,
    last: Option<Instant>,
}

impl Seen {
    /// A process that was stopped for a while (SIGSTOP, a machine that slept) finds its handlers overdue through no fault of
    /// theirs: after such a gap it is counted anew, so that they can end first.
    fn again(&mut self, what: &str, now: Instant) -> u32 {
        let stood_still = self.last.is_some_and(|last| now.duration_since(last) > STOOD_STILL);
        if self.what != what || stood_still {
            (self.what, self.times) = (what.to_owned(), 0);
        }
        (self.times, self.last) = (self.times + 1, Some(now));
        self.times
    }
}

fn end_process(what: &str) -> ! {
    tracing::error!(what, "a handler holds a core and never yields: the process ends, so that others can go on");
    // Nothing else in this process can be relied on to come to an end.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_overdue_again_and_again_counts_and_a_stop_begins_anew() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((seen.again("a", at(0)), seen.again("a", at(250)), seen.again("b", at(500))), (1, 2, 1));
        assert_eq!(seen.again("b", at(750)), 2);
        assert_eq!(seen.again("b", at(9_000)), 1, "the process was stopped in between");
    }
}
