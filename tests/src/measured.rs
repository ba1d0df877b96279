//! Processes of the mesh as people and machines start them: how long one takes, and how much memory it needs at most.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use mesh::engine::{Child, Guard, GuardedCommand};
use mesh_core::subject::KEEPER;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use crate::{TestBroker, mesh_binary};

/// How often it is looked how much memory a process has had: what it needs at most is known to the system as long as it lives.
const LOOK: Duration = Duration::from_millis(5);
/// A command that takes longer never ends.
const ENDLESS: Duration = Duration::from_secs(1200);

/// The most memory that a process has had, in `/proc`.
pub const PEAK: &str = "VmHWM:";
/// The memory that a process has.
pub const NOW: &str = "VmRSS:";

/// The memory of a process by the system's own word for it, in kB. `None`: it has ended.
#[must_use]
pub fn memory_kb(pid: Option<u32>, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A command that ended well.
#[derive(Debug)]
pub struct Measured {
    /// The whole of it, from its start to its end.
    pub took: Duration,
    /// The most memory that it was seen to have, looked at every five milliseconds.
    pub peak_kb: u64,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it said beside that.
    pub said: String,
}

/// Where a person works: a folder with the seed of a user.
pub struct Desk {
    folder: TempDir,
    url: String,
}

impl Desk {
    /// The desk of a user of this broker.
    ///
    /// # Errors
    /// There is no such user, or no folder can be made.
    pub fn of(broker: &TestBroker, user: &str) -> anyhow::Result<Desk> {
        let folder = tempfile::tempdir()?;
        let seed = broker.seed(user).with_context(|| format!("no user {user}"))?;
        std::fs::write(folder.path().join("seed"), seed)?;
        Ok(Desk { folder, url: broker.server.client_url() })
    }

    /// For files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `mesh dead-letter` with these words until it ends.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn dead_letter(&self, words: &[&str]) -> anyhow::Result<Measured> {
        self.mesh(&[&["dead-letter"], words].concat()).await
    }

    /// Runs `mesh` with these words until it ends.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn mesh(&self, words: &[&str]) -> anyhow::Result<Measured> {
        let mut command = Command::new(mesh_binary());
        command.args(words).args(["-o", "json", "--url", &self.url, "--seed-file"]);
        command.arg(self.folder.path().join("seed"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let started = Instant::now();
        let mut process = command.spawn()?;
        let (output, said) = (read(process.stdout.take()), read(process.stderr.take()));
        let mut peak_kb = 0;
        let ending = async {
            loop {
                peak_kb = peak_kb.max(memory_kb(process.id(), PEAK).unwrap_or(0));
                match tokio::time::timeout(LOOK, process.wait()).await {
                    Ok(ended) => return anyhow::Ok((ended?, started.elapsed())),
                    Err(_) => ensure!(started.elapsed() < ENDLESS, "{words:?} never ends"),
                }
            }
        };
        let ((ended, took), output, said) = tokio::try_join!(ending, output, said)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let printed = || String::from_utf8_lossy(&output).chars().take(2000).collect::<String>();
        ensure!(ended.success(), "{words:?}: {ended}: {said}\n{}", printed());
        Ok(Measured { took, peak_kb, output, said })
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.context("it is piped")?.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Starts `mesh keeper` as every process of the mesh is started. Dropping it kills it; its log lies in the folder.
///
/// # Errors
/// It can't be started.
pub async fn keeper(broker: &TestBroker, folder: &Path) -> anyhow::Result<Child> {
    let seed = folder.join("keeper.seed");
    std::fs::write(&seed, broker.seed(KEEPER).context("no keeper")?)?;
    let command = GuardedCommand::new(&Guard::new(mesh_binary()), mesh_binary()).arg("keeper");
    let command = command.env("MESH_NATS_URL", broker.server.client_url()).env("MESH_NATS_SEED_FILE", seed);
    let command = command.env("MALLOC_ARENA_MAX", "2").env_remove("MESH_CLUSTER").log(folder.join("keeper.log"));
    Ok(command.spawn().await?)
}
