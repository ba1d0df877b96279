//! One process of the demonstration: this program again, under the guard.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::FutureExt as _;
use mesh_core::fault::{Code, Effect, Fault, Reason};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::ChildStdout;

use crate::cluster::trouble;
use crate::cluster::{ClusterContext, fault};
use crate::engine::{Child, Guard, GuardedCommand, Output};

/// How long a process may take until it works.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a process may take to drain.
const STOP_GRACE: Duration = Duration::from_secs(40);
/// How many lines of its log an error shows.
const TAIL_LINES: usize = 8;

/// What is to be started.
pub(super) struct Launch<'a> {
    /// Its name: also that of its user and of its log.
    pub(super) name: &'static str,
    /// The words after `mesh`.
    pub(super) words: Vec<String>,
    /// Variables beside those that every service gets.
    pub(super) variables: &'a [(&'static str, String)],
}

/// A running process.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    metrics: Option<String>,
}

impl Process {
    /// Starts a service of the cluster: it knows the broker's address and its own seed, and no other's.
    pub(super) async fn service(context: &ClusterContext, launch: Launch<'_>) -> Result<Process, Fault> {
        let seed = context.seeds.get(launch.name).map(|path| path.display().to_string()).unwrap_or_default();
        let variables = [
            ("MESH_NATS_URL", context.url.clone()),
            ("MESH_NATS_SEED_FILE", seed),
            ("MESH_REGION", context.region.clone()),
            // Each shows its figures on a free port: one that the user named would be taken by the first.
            ("MESH_METRICS_ADDR", "127.0.0.1:0".to_owned()),
            // glibc gives each thread an arena of its own, which a small process never fills.
            ("MALLOC_ARENA_MAX", "2".to_owned()),
        ];
        let all: Vec<_> = variables.into_iter().chain(launch.variables.iter().cloned()).collect();
        Process::start(&context.folder, Launch { variables: &all, ..launch }).await
    }

    /// Starts any other process.
    pub(super) async fn start(folder: &Path, launch: Launch<'_>) -> Result<Process, Fault> {
        let guard = Guard::of_this_program().map_err(fault)?;
        let exe = std::env::current_exe().map_err(|error| trouble(format!("this program: {error}")))?;
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).map_err(|error| trouble(format!("{}: {error}", logs.display())))?;
        let mut command = GuardedCommand::new(&guard, exe).args(&launch.words).output(Output::Piped);
        for (name, value) in launch.variables {
            command = command.env(name, value);
        }
        let command = command.env_remove("MESH_CLUSTER").log(logs.join(format!("{}.log", launch.name)));
        let mut child = command.spawn().await.map_err(fault)?;
        let stdout = child.take_stdout().ok_or_else(|| trouble("its standard output is not there"))?;
        Ok(Process { name: launch.name, child, lines: BufReader::new(stdout).lines(), metrics: None })
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Where it shows its figures.
    pub(super) fn metrics(&self) -> Option<&str> {
        self.metrics.as_deref()
    }

    /// Its process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its next line. Cancel-safe.
    pub(super) async fn line(&mut self) -> Result<Value, Fault> {
        let line = self.lines.next_line().await;
        let line = line.map_err(|error| trouble(format!("{}: {error}", self.name)))?;
        let Some(line) = line else { return Err(self.gone().await) };
        serde_json::from_str(&line).map_err(|_| trouble(format!("{} says {line:?}", self.name)))
    }

    /// Its first line, within 30 s.
    pub(super) async fn first_line(&mut self) -> Result<Value, Fault> {
        match tokio::time::timeout(READY_TIMEOUT, self.line()).await {
            Ok(line) => {
                let line = line?;
                self.metrics = line["metrics"].as_str().map(str::to_owned);
                Ok(line)
            }
            Err(_) => Err(self.fault(&format!("was not ready after {} s", READY_TIMEOUT.as_secs()))),
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Fault> {
        let status = self.child.wait().now_or_never()?.ok();
        Some(self.ended_with(status))
    }

    /// Lets it drain, and waits for its end.
    pub(super) async fn stop(&mut self) {
        if let Err(error) = self.child.stop(STOP_GRACE).await {
            tracing::warn!(process = self.name, %error, "it could not be stopped");
        }
    }

    /// Ends it by force, and waits for its end.
    pub(super) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(process = self.name, %error, "it could not be killed");
        }
    }

    async fn gone(&mut self) -> Fault {
        // Its standard output is closed: its end is near.
        let status = tokio::time::timeout(STOP_GRACE, self.child.wait()).await.ok().and_then(Result::ok);
        self.ended_with(status)
    }

    fn ended_with(&self, status: Option<ExitStatus>) -> Fault {
        let how = status.map(|status| format!(" ({status})")).unwrap_or_default();
        self.fault(&format!("ended by itself{how}"))
    }

    fn fault(&self, what: &str) -> Fault {
        let tail = self.child.log_tail(TAIL_LINES);
        let message = format!("the process {} {what}. The end of its log:\n{tail}\n", self.name);
        Fault::new(Code::Unavailable, Effect::Unknown, Reason::LocalFailed, message)
    }
}
