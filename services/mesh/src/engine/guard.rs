//! The guard: a child that can't outlive its parent.
//!
//! `mesh internal guard --parent <pid> -- <program> <arguments…>` stands between a parent and its child.
//! - On Linux it asks the kernel to be killed when its parent ends, sees that the parent is still there, and *becomes* the
//!   program: the request survives the exec, and no process is added. The kernel watches the *thread* that started the child:
//!   [`super::spawner`] keeps one for as long as the process lives.
//! - Elsewhere it stays: it holds the end of a pipe whose other end the parent holds, passes signals on to the program, and kills
//!   it when the pipe closes.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// The words that lead to [`guard_main`] on the command line of `mesh`.
pub const GUARD_WORDS: [&str; 2] = ["internal", "guard"];

/// The exit status when the parent had ended before the program was started.
const PARENT_GONE: u8 = 125;
/// The exit status when the guard could not do its work.
const NOT_STARTED: u8 = 127;

/// Runs the guard with the arguments that follow `internal guard`. On Linux it returns only if the program can't be started;
/// elsewhere it returns the program's exit status. `main` must return this at once, before it starts a runtime.
pub fn guard_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = Order::parse(arguments).and_then(|order| if order.stay { stay::run(order) } else { exec::run(order) });
    let (code, message) = match done {
        Ok(code) => return ExitCode::from(code),
        Err(Refusal::ParentGone) => (PARENT_GONE, "the parent has ended".to_owned()),
        Err(Refusal::Failed(message)) => (NOT_STARTED, message),
    };
    // Standard error is the program's log: there the parent finds the reason.
    let _ = writeln!(std::io::stderr(), "mesh internal guard: {message}");
    ExitCode::from(code)
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    ParentGone,
    Failed(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Order {
    parent: u32,
    stay: bool,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Order {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        let usage = || Refusal::Failed("usage: --parent <pid> [--stay] -- <program> [arguments]".to_owned());
        let mut arguments = arguments.into_iter();
        let (mut parent, mut stay) = (None, false);
        loop {
            let word = arguments.next().ok_or_else(usage)?;
            match word.to_str() {
                Some("--parent") => {
                    let pid = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
                    parent = Some(pid.ok_or_else(usage)?);
                }
                Some("--stay") => stay = true,
                Some("--") => break,
                _ => return Err(usage()),
            }
        }
        let (parent, program) = (parent.ok_or_else(usage)?, arguments.next().ok_or_else(usage)?);
        Ok(Self { parent, stay, program, arguments: arguments.collect() })
    }

    fn parent_is_there(&self) -> Result<(), Refusal> {
        if std::os::unix::process::parent_id() == self.parent { Ok(()) } else { Err(Refusal::ParentGone) }
    }

    fn failed(&self, error: &std::io::Error) -> Refusal {
        Refusal::Failed(format!("can't start {}: {error}", self.program.display()))
    }
}

mod exec {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::{Order, Refusal};

    pub(super) fn run(order: Order) -> Result<u8, Refusal> {
        die_with_parent()?;
        // In this order: a parent that ended before the request was made would never be noticed by the kernel.
        order.parent_is_there()?;
        let error = Command::new(&order.program).args(&order.arguments).exec();
        Err(order.failed(&error))
    }

    #[cfg(target_os = "linux")]
    fn die_with_parent() -> Result<(), Refusal> {
        use rustix::process::{Signal, set_parent_process_death_signal};
        let failed = |error| Refusal::Failed(format!("can't ask to end with the parent: {error}"));
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)
    }

    #[cfg(not(target_os = "linux"))]
    fn die_with_parent() -> Result<(), Refusal> {
        Err(Refusal::Failed("this system has no parent-death signal: use --stay".to_owned()))
    }
}

mod stay {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitStatus, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::io::AsyncReadExt as _;
    use tokio::process::{Child, Command};
    use tokio::signal::unix::{SignalKind, signal};

    use super::{Order, Refusal};

    pub(super) fn run(order: Order) -> Result<u8, Refusal> {
        let failed = |error| Refusal::Failed(format!("can't start the runtime: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let done = runtime.block_on(watch(order));
        // The thread that reads the pipe can't be stopped; it must not hold the guard.
        runtime.shutdown_background();
        done
    }

    async fn watch(order: Order) -> Result<u8, Refusal> {
        let listen = |kind| signal(kind).map_err(|error| order.failed(&error));
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        order.parent_is_there()?;
        let mut command = Command::new(&order.program);
        command.args(&order.arguments).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| order.failed(&error))?;
        let mut parent = Box::pin(pipe_closes());
        loop {
            let passed_on = tokio::select! {
                status = child.wait() => return status.map(code).map_err(|error| order.failed(&error)),
                () = &mut parent => Signal::SIGKILL,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = interrupt.recv() => Signal::SIGINT,
                _ = hang_up.recv() => Signal::SIGHUP,
            };
            send(&child, passed_on);
            if passed_on == Signal::SIGKILL {
                return child.wait().await.map(code).map_err(|error| order.failed(&error));
            }
        }
    }

    /// Ends when the parent's end of the pipe closes. The parent writes nothing.
    async fn pipe_closes() {
        let mut buffer = [0; 64];
        let mut pipe = tokio::io::stdin();
        while pipe.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }

    fn send(child: &Child, signal: Signal) {
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // The program may have ended by itself in this moment: `wait` tells then.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn code(status: ExitStatus) -> u8 {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Order, Refusal> {
        Order::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn reads_its_order() {
        let order = parse(&["--parent", "7", "--", "nats-server", "-c", "--stay"]).unwrap();
        assert_eq!((order.parent, order.stay), (7, false));
        assert_eq!((order.program, order.arguments), ("nats-server".into(), vec!["-c".into(), "--stay".into()]));
        assert!(parse(&["--stay", "--parent", "7", "--", "x"]).unwrap().stay);
    }

    #[test]
    fn refuses_an_order_that_is_not_whole() {
        for words in
            [&[][..], &["--parent"], &["--parent", "x", "--", "a"], &["--", "a"], &["--parent", "7", "--"], &["a"]]
        {
            assert!(matches!(parse(words), Err(Refusal::Failed(_))), "{words:?}");
        }
    }

    #[test]
    fn does_not_start_a_program_whose_parent_has_gone() {
        let order = parse(&["--parent", "1", "--", "true"]).unwrap();
        let own =
            Order { parent: std::os::unix::process::parent_id(), ..parse(&["--parent", "0", "--", "true"]).unwrap() };
        assert_eq!(own.parent_is_there(), Ok(()));
        let other = Order { parent: own.parent + 1, ..order };
        assert_eq!(other.parent_is_there(), Err(Refusal::ParentGone));
    }
}
