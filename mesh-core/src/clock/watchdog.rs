//! A thread that ends the process when something in it holds a core and never yields.
//!
//! A task that spins can't be cancelled: the runtime only stops a task where it waits. Its process would go on renewing
//! leases, or with a runtime of one thread would fall silent, and nothing else on that core would move. So the process
//! ends, its supervisor starts it again, and the work that was in hand is delivered again to be looked at alone.

use std::time::Duration;

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
/// It needs next to no stack.
const STACK_BYTES: usize = 128 * 1024;

/// Looks four times a second, from a thread of its own, until it is over; aborts the process when something is overdue.
///
/// # Errors
/// The system gives no thread.
#[expect(clippy::disallowed_methods, reason = "the thread is there to wait on its own, whatever the runtime does")]
pub fn watch(look: impl Fn() -> Look + Send + 'static) -> std::io::Result<()> {
    let watching = move || {
        loop {
            match look() {
                Look::Fine => std::thread::sleep(EVERY),
                Look::Over => return,
                Look::Overdue(what) => end_process(&what),
            }
        }
    };
    std::thread::Builder::new().name("watchdog".into()).stack_size(STACK_BYTES).spawn(watching).map(drop)
}

fn end_process(what: &str) -> ! {
    tracing::error!(what, "a handler holds a core and never yields: the process ends, so that others can go on");
    // Nothing else in this process can be relied on to come to an end.
    std::process::abort()
}
