//! Real processes under guard: they end with the campaign, however it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use mesh::engine::{Child, Guard, GuardedCommand, Output};
use mesh_core::clock::TaskScope;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
};

use super::roles::CRASH;
use crate::mesh_binary;

/// How long a process may take until it says that it is ready, or until it has ended after it was told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts `campaign-worker` in its roles.
#[derive(Debug, Clone)]
pub struct Starter {
    guard: Guard,
    program: PathBuf,
    /// Where the logs go.
    folder: PathBuf,
}

impl Starter {
    /// Starts `program`; logs go into `folder`.
    #[must_use]
    pub fn new(program: &Path, folder: &Path) -> Starter {
        Starter { guard: Guard::new(mesh_binary()), program: program.to_owned(), folder: folder.to_owned() }
    }

    /// Starts one process and waits until it is ready. `crash` names a crash point and the hit that ends it: such a process
    /// is not waited for.
    ///
    /// # Errors
    /// It does not start, or ends before it is ready.
    pub async fn start(
        &self,
        role: &str,
        arguments: Vec<OsString>,
        crash: Option<(&str, u32)>,
    ) -> anyhow::Result<Process> {
        let mut command = GuardedCommand::new(&self.guard, &self.program).arg(role).args(arguments);
        // Printing one takes longer than handling thirty messages, and of a panic that was ordered it tells nothing.
        command = command.env("RUST_BACKTRACE", "0");
        if let Some((point, hit)) = crash {
            command = command.env(CRASH, format!("{point}:{hit}"));
        }
        let process = self.spawn(command, role).await?;
        if crash.is_some() {
            // It may meet its point before it can say anything.
            return Ok(process);
        }
        let ready = process.line("ready").await;
        ready.with_context(|| format!("{role} did not become ready:\n{}", process.child.log_tail(20)))?;
        Ok(process)
    }

    /// Starts the program `mesh` as a person does at a terminal. What it says on stderr goes into the log `name`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn person(&self, name: &str, arguments: Vec<OsString>) -> anyhow::Result<Process> {
        let command = GuardedCommand::new(&self.guard, mesh_binary()).args(arguments);
        self.spawn(command.env("HOME", &self.folder).env("USER", name), name).await
    }

    async fn spawn(&self, command: GuardedCommand, name: &str) -> anyhow::Result<Process> {
        let command = command.output(Output::Piped).log(self.folder.join(format!("{name}.log")));
        let mut child = command.spawn().await?;
        let output = child.take_stdout().context("its output is piped")?;
        Ok(Process::hear(child, output))
    }
}

#[derive(Debug, Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
}

/// A running process and all that it said. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    heard: Arc<Heard>,
    news: watch::Receiver<usize>,
    /// Reads what it says; ends with it.
    _reader: TaskScope,
}

impl Process {
    fn hear(child: Child, output: tokio::process::ChildStdout) -> Process {
        let heard = Arc::new(Heard::default());
        let (told, news) = watch::channel(0);
        let reader = TaskScope::new();
        let into = Arc::clone(&heard);
        reader.spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                into.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                told.send_modify(|count| *count += 1);
            }
        });
        Process { child, heard, news, _reader: reader }
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.heard.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines so far.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.news.borrow()
    }

    /// Waits for a line that begins with `word`; what follows it.
    ///
    /// # Errors
    /// It ends first, or takes too long.
    pub async fn line(&self, word: &str) -> anyhow::Result<String> {
        let mut news = self.news.clone();
        let found = || {
            let lines = self.heard.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()))
        };
        let waiting = async {
            loop {
                if let Some(rest) = found() {
                    return Ok(rest);
                }
                if news.changed().await.is_err() {
                    // It may have been the last line.
                    return found().with_context(|| format!("it ended without saying {word:?}"));
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("it did not say {word:?} in time"))?
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// What the system says; it had ended before.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let status = self.child.kill().await?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("it was to be killed, and had ended with {status}:\n{}", self.child.log_tail(20));
        }
        Ok(())
    }

    /// Stops it where it stands (SIGSTOP): it holds its connections and does nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(self.child.signal(Signal::SIGSTOP)?)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// What the system says.
    pub fn thaw(&self) -> anyhow::Result<()> {
        Ok(self.child.signal(Signal::SIGCONT)?)
    }

    /// Tells it to stop in peace, and waits until it has.
    ///
    /// # Errors
    /// It ends badly or not at all.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.child.stop(PATIENCE).await?;
        if !status.success() {
            bail!("it ended with {status}:\n{}", self.child.log_tail(20));
        }
        Ok(())
    }

    /// Waits until the crash point that it was started with has ended it.
    ///
    /// # Errors
    /// It lives on, or ended otherwise.
    pub async fn crashed(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.context("it did not meet the crash point")??;
        if status.signal() != Some(Signal::SIGABRT as i32) {
            bail!("it was to end at its crash point, and ended with {status}:\n{}", self.child.log_tail(20));
        }
        Ok(())
    }

    /// Waits until it ends by itself, however long that takes; whether it ended well.
    ///
    /// # Errors
    /// What the system says.
    pub async fn until_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.wait().await?.success())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.child.log_tail(20)
    }

    /// Waits until it ends by itself; whether it ended well.
    ///
    /// # Errors
    /// It does not end.
    pub async fn ended(&mut self) -> anyhow::Result<bool> {
        tokio::time::timeout(PATIENCE, self.until_ended()).await.context("it does not end")?
    }
}

/// A process that handles.
pub type Worker = Process;

/// A process that publishes.
#[derive(Debug)]
pub struct Publisher {
    /// The process, to be hurt.
    pub process: Process,
    /// How many of its lines were read, and what they said.
    read: Mutex<(usize, Sent)>,
}

/// What was sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Every id.
    pub asked: BTreeSet<String>,
    /// Those that the broker acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// Those of which the broker said that it stored them just then.
    pub stored: BTreeSet<String>,
    /// Acknowledgements that said: it was there already.
    pub repeats: usize,
    /// Sends that failed for now, and why: the distinct words.
    pub said: BTreeSet<String>,
    /// The longest time without an acknowledgement, in milliseconds: known once the publisher has ended.
    pub longest_gap_ms: u64,
    /// What was given up or refused.
    pub given_up: BTreeSet<String>,
    /// When each was sent, Unix microseconds: known of a paced load.
    pub at_us: BTreeMap<String, u64>,
}

impl Sent {
    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (id, why) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "try" => {
                self.asked.insert(id.to_owned());
            }
            "ack" => {
                self.stored.insert(id.to_owned());
                self.acknowledged.insert(id.to_owned());
            }
            "dup" => {
                self.repeats += 1;
                self.acknowledged.insert(id.to_owned());
            }
            "not" => {
                self.said.insert(why.to_owned());
            }
            "gave-up" | "refused" => {
                self.given_up.insert(id.to_owned());
            }
            "at" => {
                if let Some((at_us, id)) = rest.split_once(' ') {
                    self.at_us.insert(id.to_owned(), at_us.parse().unwrap_or(0));
                }
            }
            "gap" => self.longest_gap_ms = id.parse().unwrap_or(u64::MAX),
            _ => {}
        }
    }

    /// With what was sent apart from it.
    pub fn add(&mut self, other: Sent) {
        self.asked.extend(other.asked);
        self.acknowledged.extend(other.acknowledged);
        self.stored.extend(other.stored);
        self.repeats += other.repeats;
        self.said.extend(other.said);
        self.given_up.extend(other.given_up);
    }
}

impl Publisher {
    /// The publisher that runs as `process`.
    #[must_use]
    pub fn new(process: Process) -> Publisher {
        Publisher { process, read: Mutex::default() }
    }

    /// What was sent so far.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.look(Sent::clone)
    }

    fn look<T>(&self, look: impl FnOnce(&Sent) -> T) -> T {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, sent) = &mut *read;
        let lines = self.process.heard.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(*count).for_each(|line| sent.hear(line));
        *count = lines.len();
        look(sent)
    }

    /// Waits until so many more messages were acknowledged.
    ///
    /// # Errors
    /// They were not, in time.
    pub async fn more(&self, count: usize) -> anyhow::Result<()> {
        self.more_of("", count).await
    }

    /// Waits until so many more messages whose ids begin with `start` were acknowledged.
    ///
    /// # Errors
    /// They were not, in time.
    pub async fn more_of(&self, start: &str, count: usize) -> anyhow::Result<()> {
        let count_of = |sent: &Sent| sent.acknowledged.iter().filter(|id| id.starts_with(start)).count();
        let acknowledged = || self.look(count_of);
        let target = acknowledged() + count;
        let mut news = self.process.news.clone();
        let waiting = async {
            while acknowledged() < target {
                if news.changed().await.is_err() {
                    bail!("the publisher has ended");
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("nothing is acknowledged any more")?
    }

    /// Waits until everything that was sent before this moment is acknowledged.
    ///
    /// # Errors
    /// It is not, in time.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        let asked = self.sent().asked;
        let mut news = self.process.news.clone();
        let waiting = async {
            while !self.look(|sent| asked.is_subset(&sent.acknowledged)) {
                if news.changed().await.is_err() {
                    bail!("the publisher has ended");
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("what was sent is not acknowledged")?
    }

    /// Tells it to stop, waits for the last acknowledgements, and gives what was sent.
    ///
    /// # Errors
    /// It ends badly.
    pub async fn finish(mut self) -> anyhow::Result<Sent> {
        self.process.stop().await?;
        self.process.line("end").await?;
        Ok(self.sent())
    }
}
