//! What the search and the installation of nats-server tell the person who waits.

use std::fmt;
use std::path::PathBuf;

use super::version::{INSTALLED, Version};

/// One piece of news. `Display` gives a line for standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A nats-server was seen and not taken.
    PassedOver {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another process is installing; this one waits for it.
    Waiting,
    /// A download begins.
    Downloading {
        /// Where from.
        source: String,
    },
    /// Part of a download is here.
    Received {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all, where the other side says so.
        total: Option<u64>,
    },
    /// What came is damaged; it is thrown away and fetched once more.
    Damaged {
        /// Where from.
        source: String,
        /// The two hashes.
        reason: String,
    },
    /// This source failed; the next one is tried.
    SourceFailed {
        /// Where from.
        source: String,
        /// Why.
        reason: String,
    },
    /// The program is in its place.
    Installed {
        /// Its path.
        path: PathBuf,
        /// Its version.
        version: Version,
    },
}

/// Hears the news. It is called on the thread that installs, so it should be quick.
pub type Listener<'a> = &'a mut (dyn FnMut(Progress) + Send);

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassedOver { path, reason } => write!(formatter, "passed over {}: {reason}", path.display()),
            Self::Waiting => formatter.write_str("another mesh is installing nats-server: waiting for it"),
            Self::Downloading { source } => write!(formatter, "fetching nats-server {INSTALLED} from {source}"),
            Self::Received { bytes, total: Some(total) } => write!(formatter, "{bytes} of {total} bytes"),
            Self::Received { bytes, total: None } => write!(formatter, "{bytes} bytes"),
            Self::Damaged { source, reason } => {
                write!(formatter, "what came from {source} is damaged ({reason}): fetching it once more")
            }
            Self::SourceFailed { source, reason } => write!(formatter, "{source} can't be used: {reason}"),
            Self::Installed { path, version } => {
                write!(formatter, "nats-server {version} is installed: {}", path.display())
            }
        }
    }
}
