//! One local cluster: a nats-server of our own, a user for each service, its streams and consumers.

mod context;
mod keys;
mod users;

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use mesh_core::bus::{Bus, BusSettings, StreamLimits};
use mesh_core::clock::Clock;
use mesh_core::config::mesh_file::MeshFile;
use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::identity::Identity;
use mesh_core::operate::topology::{self, Topology};

pub use context::{ClusterContext, Registered, Registry, state_folder};
pub use users::{MAKER, OPERATOR};

use crate::engine::{self, EngineError, Guard, Listener, Server, ServerConfig};

/// How many lines of the server's log an error shows.
const TAIL_LINES: usize = 12;

/// What is to be started.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Its name.
    pub name: String,
    /// The clients' port; 0: any free one.
    pub port: u16,
    /// Its folder: keys, store, logs. What lies there already is used again.
    pub folder: PathBuf,
    /// Whether the folder goes with the cluster.
    pub temporary: bool,
    /// The mesh file.
    pub file: MeshFile,
    /// The mesh file's text: a copy lies in the folder.
    pub mesh_text: String,
}

/// Makes the keys of every service of a mesh file, of the operator and of `mesh` itself, each a `<name>.seed` in `folder`,
/// and gives the server's block of users. Keys that lie there already are used again.
///
/// # Errors
/// The folder can't be written, or holds a broken key.
pub fn make_keys(file: &MeshFile, folder: &Path) -> Result<String, Fault> {
    users::users(&file.declarations, &file.region, folder).map(|users| engine::users_text(&users.entries))
}

/// A running cluster. Dropping it kills the server; [`Cluster::stop`] stops it in peace.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    context: ClusterContext,
    file: MeshFile,
    topology: Topology,
}

impl Cluster {
    /// Finds or installs nats-server, starts it with a user for each service of the mesh file, and makes every stream and
    /// consumer that follows from it.
    ///
    /// # Errors
    /// No nats-server to be had, a port or folder in use. Nothing runs on then.
    pub async fn start(settings: ClusterSettings, listener: Listener<'_>) -> Result<Cluster, Fault> {
        let file = settings.file;
        let binary = engine::obtain(&engine::Environment::from_process(), listener).await.map_err(fault)?;
        let folder = std::path::absolute(&settings.folder).map_err(|error| unusable(&settings.folder, &error))?;
        let users = users::users(&file.declarations, &file.region, &folder.join("keys"))?;
        let mesh_file = folder.join("mesh.yaml");
        fs::write(&mesh_file, &settings.mesh_text).map_err(|error| unusable(&mesh_file, &error))?;
        let guard = Guard::of_this_program().map_err(fault)?;
        let config = ServerConfig::new(settings.name.clone()).port(settings.port).users(users.entries);
        let server = Server::start(&guard, &binary.path, config, &folder.join("broker")).await.map_err(fault)?;
        let context = ClusterContext {
            name: settings.name,
            url: server.client_url(),
            region: file.region.to_string(),
            pid: std::process::id(),
            started_at_ms: Clock::system().now_ms(),
            folder,
            temporary: settings.temporary,
            mesh_file,
            seeds: users.seeds,
            vendors: None,
        };
        let topology = make(&context, &file).await?;
        Ok(Cluster { server, context, file, topology })
    }

    /// How others reach it.
    #[must_use]
    pub fn context(&self) -> &ClusterContext {
        &self.context
    }

    /// Tells others where the stand-in vendors are.
    pub fn set_vendors(&mut self, url: String) {
        self.context.vendors = Some(url);
    }

    /// The mesh file that it runs by.
    #[must_use]
    pub fn file(&self) -> &MeshFile {
        &self.file
    }

    /// The streams and consumers that it has.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The server.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// What is to be said if the server has ended by itself.
    pub fn server_ended(&mut self) -> Option<Fault> {
        let status = self.server.ended().now_or_never()?.ok();
        Some(self.gone(status))
    }

    /// Ends when the server has ended by itself. Cancel-safe.
    pub async fn until_server_ends(&mut self) -> Fault {
        let status = self.server.ended().await.ok();
        self.gone(status)
    }

    fn gone(&self, status: Option<std::process::ExitStatus>) -> Fault {
        let how = status.map(|status| format!(" ({status})")).unwrap_or_default();
        let tail = self.server.log_tail(TAIL_LINES);
        trouble(format!("nats-server ended by itself{how}. The end of its log:\n{tail}\n"))
    }

    /// The server's process id.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Stops the server in peace.
    ///
    /// # Errors
    /// What the system says.
    pub async fn stop(self) -> Result<(), Fault> {
        self.server.shutdown().await.map_err(fault)
    }
}

/// Connects to a running cluster as one of its users.
///
/// # Errors
/// There is no such user, or the bus can't be reached.
pub async fn connect(context: &ClusterContext, user: &str) -> Result<Bus, Fault> {
    let name = |text: &str| text.parse().map_err(|error| Fault::invalid(format!("{text:?}: {error}")));
    let identity = Identity::new(name(user)?, name(&context.region)?, context.credential(user)?);
    Bus::connect(BusSettings::new(context.url.as_str()), identity, Clock::system()).await
}

async fn make(context: &ClusterContext, file: &MeshFile) -> Result<Topology, Fault> {
    let bus = connect(context, MAKER).await?;
    let applied = topology::apply(&bus, &file.declarations, &StreamLimits::default()).await;
    bus.close().await;
    let (applied, fault) = match applied {
        Ok(applied) => (applied, None),
        Err(halted) => (halted.applied, Some(halted.fault)),
    };
    for waiting in &applied.waiting {
        // Nobody is there yet who could end what is under way: what stands does its work, and the next start asks again.
        tracing::warn!(fault = %waiting.fault, "a consumer is as it was before");
    }
    for warning in &applied.warnings {
        tracing::warn!("{warning}");
    }
    fault.map_or(Ok(applied.topology), Err)
}

/// What went wrong with the engine, as a fault.
#[must_use]
pub fn fault(error: EngineError) -> Fault {
    let (code, reason) = match &error {
        EngineError::NotInstalled { tried }
            if tried.iter().any(|way| way.reason.contains("the download is damaged")) =>
        {
            (Code::FailedPrecondition, Reason::DownloadDamaged)
        }
        EngineError::Variable { .. } | EngineError::NoCache | EngineError::NotInstalled { .. } => {
            (Code::FailedPrecondition, Reason::BrokerMissing)
        }
        EngineError::PortInUse { .. } | EngineError::FolderInUse { .. } => {
            (Code::FailedPrecondition, Reason::PortInUse)
        }
        EngineError::TooOld { .. } => (Code::FailedPrecondition, Reason::BrokerTooOld),
        EngineError::Config { .. } => (Code::InvalidArgument, Reason::InvalidFile),
        _ => (Code::Unavailable, Reason::LocalFailed),
    };
    Fault::new(code, Effect::None, reason, error.to_string())
}

/// A part of the local cluster failed: nothing outside of it happened.
#[must_use]
pub fn trouble(message: impl Into<String>) -> Fault {
    Fault::new(Code::Unavailable, Effect::None, Reason::LocalFailed, message)
}

fn unusable(path: &Path, error: &std::io::Error) -> Fault {
    let message = format!("{} can't be used: {error}", path.display());
    Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidFile, message)
}
