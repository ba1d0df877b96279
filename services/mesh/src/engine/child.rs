//! A child process under the guard: started, heard, stopped in peace or by force, never left behind.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::error::EngineError;
use super::guard::GUARD_WORDS;
use super::{log, spawner};

/// The program that stands guard: `mesh` itself.
#[derive(Debug, Clone)]
pub struct Guard {
    exe: PathBuf,
    words: Vec<OsString>,
    stay: bool,
}

impl Guard {
    /// The guard is this program, which must be `mesh`: it is run as `<exe> internal guard …`.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self { exe: exe.into(), words: GUARD_WORDS.map(OsString::from).to_vec(), stay: !cfg!(target_os = "linux") }
    }

    /// The guard is the running program, which must be `mesh`.
    ///
    /// # Errors
    /// If the system does not tell where the running program lies.
    pub fn of_this_program() -> Result<Self, EngineError> {
        let unknown = |source| EngineError::Process { doing: "find the program that shall guard", source };
        std::env::current_exe().map(Self::new).map_err(unknown)
    }

    /// A guard whose program wants other words first, and that stays as it does where there is no parent-death signal.
    #[cfg(test)]
    pub(super) fn for_test(exe: PathBuf, words: &[&str], stay: bool) -> Self {
        Self { exe, words: words.iter().map(OsString::from).collect(), stay }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(&self.words).arg("--parent").arg(std::process::id().to_string());
        if self.stay {
            command.arg("--stay");
        }
        command.arg("--").arg(program);
        command
    }
}

/// Where a child's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// To the log, with standard error.
    #[default]
    Log,
    /// To the parent, by [`Child::take_stdout`].
    Piped,
    /// To the parent's own standard output.
    Inherited,
}

/// What is to be started: a builder.
///
/// Do not put secrets among the arguments, where every user of the machine can read them: put them in the environment or in a file.
pub struct GuardedCommand {
    command: Command,
    program: PathBuf,
    stay: bool,
    log: Option<PathBuf>,
    output: Output,
}

impl fmt::Debug for GuardedCommand {
    /// Shows the program only: arguments and environment may hold what is nobody's business.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GuardedCommand").field("program", &self.program).finish_non_exhaustive()
    }
}

impl GuardedCommand {
    /// Starts this program under this guard.
    #[must_use]
    pub fn new(guard: &Guard, program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let command = guard.command(&program);
        Self { command, program, stay: guard.stay, log: None, output: Output::Log }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable in the child's environment, which begins as the parent's.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable out of the child's environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Lets the child begin in this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Appends standard error, and standard output unless it goes elsewhere, to this file. Without a log both are thrown away.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Says where standard output goes.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Starts the child, in a process group of its own: Ctrl-C reaches the parent alone, which then stops its children in order.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::File`] if the log can't be opened, [`EngineError::Spawn`] if the guard can't be started. That the *program*
    /// can't be started shows in the log and by exit status 127.
    pub async fn spawn(mut self) -> Result<Child, EngineError> {
        let (to_log, errors) = self.log_ends()?;
        self.command.stdout(match self.output {
            Output::Log => to_log,
            Output::Piped => Stdio::piped(),
            Output::Inherited => Stdio::inherit(),
        });
        self.command.stderr(errors).stdin(if self.stay { Stdio::piped() } else { Stdio::null() });
        self.command.process_group(0).kill_on_drop(true);
        let failed = |source| EngineError::Spawn { program: self.program.clone(), source };
        let mut inner = spawner::spawn(self.command).await.map_err(failed)?;
        let lifeline = inner.stdin.take();
        Ok(Child { inner, _lifeline: lifeline, log: self.log })
    }

    fn log_ends(&self) -> Result<(Stdio, Stdio), EngineError> {
        let Some(path) = &self.log else { return Ok((Stdio::null(), Stdio::null())) };
        let open = || {
            let file = File::options().create(true).append(true).open(path)?;
            Ok((file.try_clone()?.into(), file.into()))
        };
        open().map_err(EngineError::file("write the log", path))
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    inner: tokio::process::Child,
    /// Where the guard stays: the pipe whose closing tells it that the parent has gone.
    _lifeline: Option<ChildStdin>,
    log: Option<PathBuf>,
}

impl Child {
    /// The process id; `None` once it has ended and been awaited.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.inner.id()
    }

    /// The child's standard output, once, if it was [`Output::Piped`].
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// Waits until it ends. May be dropped and called again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.inner.wait().await
    }

    /// Sends a signal. A child that has ended is no error.
    ///
    /// # Errors
    /// What the system says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // By force the whole group goes: where the guard stays, killing it alone would leave the program behind.
        let sent = if signal == Signal::SIGKILL { killpg(pid, signal) } else { kill(pid, signal) };
        match sent {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks it to end, waits for `grace`, then ends it by force. Returns how it ended.
    ///
    /// # Errors
    /// What the system says.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match tokio::time::timeout(grace, self.inner.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Ends it by force, with all that it has started, and waits for the end.
    ///
    /// # Errors
    /// What the system says.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.inner.wait().await
    }

    /// The last lines of its log, for a person who asks why it ended. Empty without a log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.log.as_deref().map(|path| log::tail(path, lines)).unwrap_or_default()
    }

    fn pid(&self) -> Option<Pid> {
        self.inner.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nothing can be said from here, and a child that is already gone is what is wanted.
        let _ = self.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

    use super::*;
    use crate::engine::testing::{guard, role_command};

    const LONG: Duration = Duration::from_secs(20);

    async fn within<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.unwrap()
    }

    #[tokio::test]
    async fn runs_with_arguments_environment_and_log() {
        let folder = tempfile::tempdir().unwrap();
        for stay in [false, true] {
            let log = folder.path().join(format!("{stay}.log"));
            let script = "echo \"$1 $COLOUR\"; pwd; echo trouble >&2; exit 3";
            let mut child = GuardedCommand::new(&guard(stay), "/bin/sh")
                .args(["-c", script, "sh", "one two"])
                .env("COLOUR", "green")
                .current_dir(folder.path())
                .log(&log)
                .spawn()
                .await
                .unwrap();
            assert_eq!(within(child.wait()).await.unwrap().code(), Some(3));
            let text = child.log_tail(10);
            let here = folder.path().file_name().unwrap().to_str().unwrap();
            for part in ["one two green", "trouble", here] {
                assert!(text.contains(part), "stay {stay}: {part}: {text}");
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_shows_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let command = GuardedCommand::new(&guard(false), "/nowhere/program").log(folder.path().join("log"));
        let mut child = command.spawn().await.unwrap();
        within(child.wait()).await.unwrap();
        assert!(child.log_tail(5).contains("can't start /nowhere/program"), "{}", child.log_tail(5));
    }

    #[tokio::test]
    async fn stops_in_peace_and_by_force() {
        for stay in [false, true] {
            let (mut polite, mut output) =
                waiting(stay, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done").await;
            assert!(within(polite.stop(LONG)).await.unwrap().success(), "stay {stay}");
            assert_eq!(within(rest(&mut output)).await, "bye\n");
            let (mut stubborn, mut output) =
                waiting(stay, "trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
            assert!(!within(stubborn.stop(Duration::from_millis(50))).await.unwrap().success(), "stay {stay}");
            assert_eq!(within(rest(&mut output)).await, "");
        }
    }

    #[tokio::test]
    async fn dropping_it_ends_it() {
        for stay in [false, true] {
            let (child, mut output) = waiting(stay, "echo ready; exec sleep 600").await;
            drop(child);
            assert_eq!(within(rest(&mut output)).await, "", "stay {stay}");
        }
    }

    /// The parent is killed with no chance to clean up; its child holds the pipe that we read, so the pipe's end is the child's.
    #[tokio::test]
    async fn a_child_does_not_outlive_a_killed_parent() {
        for stay in [false, true] {
            let mut parent = role_command(if stay { "parent-staying" } else { "parent" }).spawn().unwrap();
            let mut output = BufReader::new(parent.stdout.take().unwrap());
            let line = within(ready_line(&mut output)).await;
            let pid: i32 = line.trim().strip_prefix("ready ").unwrap().parse().unwrap();
            assert_eq!(kill(Pid::from_raw(pid), None), Ok(()), "the child must live before its parent is killed");
            parent.kill().await.unwrap();
            assert_eq!(within(rest(&mut output)).await, "", "stay {stay}");
        }
    }

    /// The kernel watches the thread that started a child. One that started it directly would take it along here.
    #[tokio::test]
    async fn a_child_outlives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let command = GuardedCommand::new(&guard(false), "/bin/sh").args(["-c", script]).log(&log);
        let seen = log.clone();
        let asking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let child = command.spawn().await.unwrap();
                // The guard has made its request by then; a thread that ended earlier would not be missed.
                within(told(&seen, "ready")).await;
                child
            })
        });
        let child = tokio::task::spawn_blocking(|| asking.join().unwrap()).await.unwrap();
        child.signal(Signal::SIGTERM).unwrap();
        within(told(&log, "bye")).await;
    }

    async fn told(log: &Path, word: &str) {
        while !log::tail(log, 9).contains(word) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn waiting(stay: bool, script: &str) -> (Child, BufReader<ChildStdout>) {
        let command = GuardedCommand::new(&guard(stay), "/bin/sh").args(["-c", script]).output(Output::Piped);
        let mut child = command.spawn().await.unwrap();
        let mut output = BufReader::new(child.take_stdout().unwrap());
        within(ready_line(&mut output)).await;
        (child, output)
    }

    /// The test program that plays the guard says a few things of its own first.
    async fn ready_line(output: &mut BufReader<ChildStdout>) -> String {
        let mut line = String::new();
        while !line.starts_with("ready") {
            line.clear();
            assert!(output.read_line(&mut line).await.unwrap() > 0, "the output ended before the child was ready");
            if let Some(at) = line.find("ready") {
                line.drain(..at);
            }
        }
        line
    }

    async fn rest(output: &mut BufReader<ChildStdout>) -> String {
        let mut text = String::new();
        output.read_to_string(&mut text).await.unwrap();
        text
    }
}
