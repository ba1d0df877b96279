//! The roles that `campaign-worker` plays, each a process of its own: it can be killed, stopped and restarted alone.

pub mod keeper;
pub mod publisher;
pub mod replayer;
pub mod worker;

use clap::{Args, Parser};
use mesh_core::{
    Fault, Mesh,
    config::Environment,
    fault::arm_crash_point,
    telemetry::{Settings, logging},
};

/// The variable that names a crash point and the hit: `settle.captured:2`.
pub const CRASH: &str = "MESH_CRASH_POINT";

/// Where the broker is and who one is there.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The broker, or several joined by commas
    #[arg(long)]
    pub url: String,
    /// The file with the seed of the service
    #[arg(long)]
    pub seed_file: String,
}

impl Place {
    /// Connects as `service`.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn connect(&self, service: &str) -> Result<Mesh, Fault> {
        Mesh::builder(service).region(crate::broker::REGION).url(&self.url).seed_file(&self.seed_file).connect().await
    }
}

/// The command line of `campaign-worker`.
#[derive(Debug, Parser)]
pub enum Role {
    /// Counts effects
    Counter,
    /// Publishes events and queues work until it is told to stop
    Publisher(publisher::Settings),
    /// Handles both with the counter
    Worker(worker::Settings),
    /// Sends every open letter again
    Replayer(Place),
    /// Keeps the mesh, or waits to
    Keeper(Place),
}

impl Role {
    /// Plays it.
    ///
    /// # Errors
    /// Whatever keeps it from going on.
    pub async fn play(self) -> anyhow::Result<()> {
        let environment = Environment::from_process();
        let settings = Settings { log_filter: "warn,mesh_core=info".into(), ..Settings::new("campaign") };
        let _logging = logging::init(&settings)?;
        if let Some((point, hit)) = environment.get(CRASH).and_then(|order| order.split_once(':')) {
            arm_crash_point(point, hit.parse()?);
        }
        match self {
            Role::Counter => super::counter::serve().await,
            Role::Publisher(settings) => publisher::run(settings).await,
            Role::Worker(settings) => worker::run(settings).await,
            Role::Replayer(place) => replayer::run(&place).await,
            Role::Keeper(place) => keeper::run(&place).await,
        }
    }
}
