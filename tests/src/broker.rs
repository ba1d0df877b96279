//! A real nats-server with the users that declarations ask for.

use std::collections::HashMap;

use mesh::engine::{AllowResponses, Environment, Guard, JetStream, Server, ServerConfig, UserEntry, obtain};
use mesh_core::{
    Fault, Mesh,
    bus::StreamLimits,
    identity::Credential,
    policy::compile::{Declaration, Permissions, compile, keeper, operator},
    subject::{KEEPER, Name},
};
use tempfile::TempDir;

use crate::mesh_binary;

/// The region of every test.
pub const REGION: &str = "local";

/// People who are operators, each a user of their own.
pub const PEOPLE: [&str; 2] = ["ada", "eve"];

/// A broker of its own for one test, with a user for every declared service, one called `operator`, one for each of
/// [`PEOPLE`] and one called `keeper`.
pub struct TestBroker {
    /// The server: to be killed and restarted.
    pub server: Server,
    seeds: HashMap<String, String>,
    _folder: TempDir,
}

impl TestBroker {
    /// Starts a broker that syncs always, and makes what the declarations need.
    ///
    /// # Errors
    /// It can't be had or started.
    pub async fn start(declarations: &[Declaration]) -> anyhow::Result<TestBroker> {
        TestBroker::with(declarations, true, &StreamLimits::default()).await
    }

    /// The same, with the sync mode and the limits as given.
    ///
    /// # Errors
    /// It can't be had or started.
    pub async fn with(
        declarations: &[Declaration],
        sync_always: bool,
        limits: &StreamLimits,
    ) -> anyhow::Result<TestBroker> {
        TestBroker::on(declarations, JetStream { sync_always, ..JetStream::default() }, limits).await
    }

    /// The same, with its store where it is said.
    ///
    /// # Errors
    /// It can't be had or started.
    pub async fn on(
        declarations: &[Declaration],
        jetstream: JetStream,
        limits: &StreamLimits,
    ) -> anyhow::Result<TestBroker> {
        let folder = tempfile::tempdir()?;
        let binary = obtain(&Environment::from_process(), &mut |_| {}).await?;
        let (users, seeds) = users_of(declarations)?;
        let config = ServerConfig::new("test").users(users).jetstream(Some(jetstream));
        let guard = Guard::new(mesh_binary());
        let server = Server::start(&guard, &binary.path, config, &folder.path().join("server")).await?;
        let broker = TestBroker { server, seeds, _folder: folder };
        broker.apply(declarations, limits).await?;
        Ok(broker)
    }

    /// Makes the streams and consumers what declarations and limits say.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn apply(&self, declarations: &[Declaration], limits: &StreamLimits) -> anyhow::Result<()> {
        let operator = self.connect("operator").await?;
        let applied = mesh_core::operate::topology::apply(operator.bus(), declarations, limits).await?;
        operator.drain().await;
        applied.waiting.into_iter().next().map_or(Ok(()), |waiting| Err(waiting.fault.into()))
    }

    /// Connects as a declared service, or as `operator`.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn connect(&self, service: &str) -> Result<Mesh, Fault> {
        Mesh::builder(service)
            .region(REGION)
            .url(&self.server.client_url())
            .credential(self.credential(service))
            .connect()
            .await
    }

    /// The credential of a service.
    #[must_use]
    pub fn credential(&self, service: &str) -> Credential {
        self.seeds.get(service).map_or(Credential::None, |seed| Credential::Nkey(seed.clone().into()))
    }

    /// The seed of a service, for clients that are not ours.
    #[must_use]
    pub fn seed(&self, service: &str) -> Option<&str> {
        self.seeds.get(service).map(String::as_str)
    }
}

/// A user for every declared service and those of operators and the keeper, with the seeds by name.
pub(crate) fn users_of(declarations: &[Declaration]) -> anyhow::Result<(Vec<UserEntry>, HashMap<String, String>)> {
    let region: Name = REGION.parse()?;
    let (mut users, mut seeds) = (Vec::new(), HashMap::new());
    let permissions = declarations.iter().map(|d| (d.service.to_string(), compile(d, &region)));
    let mut own = vec![(KEEPER.to_owned(), keeper(&KEEPER.parse()?, &region))];
    for name in ["operator"].into_iter().chain(PEOPLE) {
        own.push((name.to_owned(), operator(&name.parse()?)));
    }
    for (name, permissions) in permissions.chain(own) {
        let pair = nkeys::KeyPair::new_user();
        seeds.insert(name, pair.seed()?);
        users.push(user(pair.public_key(), permissions));
    }
    Ok((users, seeds))
}

fn user(nkey_public: String, permissions: Permissions) -> UserEntry {
    UserEntry {
        nkey_public,
        publish_allow: permissions.publish,
        subscribe_allow: permissions.subscribe,
        allow_responses: permissions
            .may_answer
            .then_some(AllowResponses { max: 1, expires: std::time::Duration::from_secs(120) }),
    }
}
