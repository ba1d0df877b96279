//! How a service connects.

use secrecy::SecretString;

use super::Mesh;
use crate::{
    bus::{Bus, BusSettings},
    clock::Clock,
    config::Environment,
    fault::{Code, Effect, Fault, Reason},
    identity::{Credential, Identity},
    subject::Name,
    telemetry::metrics::Metrics,
};

/// What a service is and where its broker is. Everything has a default but the name.
#[must_use = "nothing is connected until connect() is awaited"]
pub struct MeshBuilder {
    service: String,
    region: String,
    credential: Credential,
    seed_file: Option<String>,
    settings: BusSettings,
    metrics: Metrics,
    clock: Clock,
}

impl MeshBuilder {
    pub(super) fn new(service: &str) -> MeshBuilder {
        MeshBuilder {
            service: service.to_owned(),
            region: "local".to_owned(),
            credential: Credential::None,
            seed_file: None,
            settings: BusSettings::new("nats://127.0.0.1:4222"),
            metrics: Metrics::new(),
            clock: Clock::system(),
        }
    }

    /// Takes `MESH_NATS_URL`, `MESH_NATS_SEED_FILE` and `MESH_REGION` where they are set.
    pub fn environment(mut self, environment: &Environment) -> MeshBuilder {
        if let Some(url) = environment.get("MESH_NATS_URL") {
            url.clone_into(&mut self.settings.url);
        }
        if let Some(region) = environment.get("MESH_REGION") {
            region.clone_into(&mut self.region);
        }
        self.seed_file = environment.get("MESH_NATS_SEED_FILE").map(str::to_owned).or(self.seed_file);
        self
    }

    /// The region that it runs in: `[a-z0-9-]{1,63}`. Default: `local`.
    pub fn region(mut self, region: &str) -> MeshBuilder {
        region.clone_into(&mut self.region);
        self
    }

    /// The address of the broker, `nats://host:port`; several joined by commas. Default: this machine, port 4222.
    pub fn url(mut self, url: &str) -> MeshBuilder {
        url.clone_into(&mut self.settings.url);
        self
    }

    /// What proves the identity. Default: nothing.
    pub fn credential(mut self, credential: Credential) -> MeshBuilder {
        self.credential = credential;
        self
    }

    /// Reads the credential, an nkey's seed, from a file.
    pub fn seed_file(mut self, path: &str) -> MeshBuilder {
        self.seed_file = Some(path.to_owned());
        self
    }

    /// How to reach the broker and how long to wait for it.
    pub fn settings(mut self, settings: BusSettings) -> MeshBuilder {
        self.settings = settings;
        self
    }

    /// Where to count.
    pub fn metrics(mut self, metrics: Metrics) -> MeshBuilder {
        self.metrics = metrics;
        self
    }

    /// The clock that deadlines are read on.
    pub fn clock(mut self, clock: Clock) -> MeshBuilder {
        self.clock = clock;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// A name that is none, a seed file that can't be read, a broker that can't be reached, refuses the credential or is
    /// too old.
    pub async fn connect(self) -> Result<Mesh, Fault> {
        let service = name("service", &self.service)?;
        let region = name("region", &self.region)?;
        let credential = match &self.seed_file {
            Some(path) => read_seed(path)?,
            None => self.credential,
        };
        let identity = Identity::new(service, region, credential);
        let bus = Bus::connect(self.settings, identity, self.clock).await?;
        Ok(Mesh::new(bus, self.metrics))
    }
}

fn name(what: &str, text: &str) -> Result<Name, Fault> {
    text.parse().map_err(|error| Fault::invalid(format!("the {what}'s name: {error}")))
}

fn read_seed(path: &str) -> Result<Credential, Fault> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the credential's file {path:?} can't be read: {error}");
        Fault::new(Code::InvalidArgument, Effect::None, Reason::SecretMissing, message)
    })?;
    Ok(Credential::Nkey(SecretString::from(text.trim().to_owned())))
}
