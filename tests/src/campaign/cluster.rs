//! Three servers on loopback that keep every stream three times.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use mesh::engine::{Cluster, Environment, Guard, Server, ServerConfig, free_loopback_port, obtain};
use mesh_core::{
    Fault, Mesh, bus::StreamLimits, identity::Credential, operate::topology, policy::compile::Declaration,
};
use tempfile::TempDir;
use tokio::time::Instant;

use super::stage::{Broker, OPERATOR, declarations};
use crate::{
    broker::{REGION, users_of},
    mesh_binary,
};

/// How long the first election may take.
const ELECTION: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(200);

/// The servers, the streams made.
pub struct TestCluster {
    /// `n1`, `n2` and `n3`: to be killed and restarted.
    pub servers: Vec<Server>,
    seeds: HashMap<String, String>,
    _folder: TempDir,
}

impl Broker for TestCluster {
    fn url(&self) -> String {
        self.servers.iter().map(Server::client_url).collect::<Vec<_>>().join(",")
    }

    fn seed(&self, service: &str) -> Option<&str> {
        self.seeds.get(service).map(String::as_str)
    }
}

impl TestCluster {
    /// Starts three and makes the streams of the campaign with these limits.
    ///
    /// # Errors
    /// They don't start, or elect nobody.
    pub async fn start(limits: &StreamLimits) -> anyhow::Result<TestCluster> {
        TestCluster::of(&declarations()?, limits).await
    }

    /// Starts three and makes the streams that others declare, with these limits.
    ///
    /// # Errors
    /// They don't start, or elect nobody.
    pub async fn of(declarations: &[Declaration], limits: &StreamLimits) -> anyhow::Result<TestCluster> {
        let folder = tempfile::tempdir()?;
        let binary = obtain(&Environment::from_process(), &mut |_| {}).await?;
        let guard = Guard::new(mesh_binary());
        let (users, seeds) = users_of(declarations)?;
        let ports = (0..3).map(|_| free_loopback_port()).collect::<Result<Vec<_>, _>>()?;
        let routes: Vec<String> = ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let mut servers = Vec::new();
        for (number, port) in (1..).zip(ports) {
            let cluster = Cluster { name: "campaign".into(), port, routes: routes.clone() };
            let config = ServerConfig::new(format!("n{number}")).users(users.clone()).cluster(cluster);
            let place = folder.path().join(format!("n{number}"));
            servers.push(Server::start(&guard, &binary.path, config, &place).await?);
        }
        let cluster = TestCluster { servers, seeds, _folder: folder };
        cluster.elected().await?;
        cluster.apply(declarations, &StreamLimits { replicas: Some(3), ..limits.clone() }).await?;
        Ok(cluster)
    }

    /// Waits until they have elected a leader: one that is asked before does not answer for long.
    async fn elected(&self) -> anyhow::Result<()> {
        let mut jetstream = super::stage::jetstream(self).await?;
        jetstream.set_timeout(AGAIN);
        let limit = Instant::now() + ELECTION;
        while let Err(error) = jetstream.query_account().await {
            anyhow::ensure!(Instant::now() < limit, "no leader is elected: {error}");
        }
        Ok(())
    }

    /// Connects as a declared service, `operator` or `keeper`, and knows every server.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn connect(&self, service: &str) -> Result<Mesh, Fault> {
        let seed = self.seed(service).unwrap_or_default().to_owned();
        let builder = Mesh::builder(service).region(REGION).url(&self.url());
        builder.credential(Credential::Nkey(seed.into())).connect().await
    }

    /// The broker's own interface, as the operator.
    ///
    /// # Errors
    /// No server can be reached.
    pub async fn jetstream(&self) -> anyhow::Result<async_nats::jetstream::Context> {
        super::stage::jetstream(self).await
    }

    async fn apply(&self, declarations: &[Declaration], limits: &StreamLimits) -> anyhow::Result<()> {
        let operator = self.connect(OPERATOR).await?;
        let limit = Instant::now() + ELECTION;
        while let Err(fault) = topology::apply(operator.bus(), declarations, limits).await {
            anyhow::ensure!(Instant::now() < limit, "the streams can't be made: {fault}");
            tokio::time::sleep(AGAIN).await;
        }
        operator.drain().await;
        Ok(())
    }

    /// Which of the servers leads a stream, once all three have it.
    ///
    /// # Errors
    /// That does not become so.
    pub async fn leader_of(&self, jetstream: &async_nats::jetstream::Context, stream: &str) -> anyhow::Result<usize> {
        let limit = Instant::now() + ELECTION;
        loop {
            if let Some(leader) = self.whole(jetstream, stream).await {
                return Ok(leader);
            }
            anyhow::ensure!(Instant::now() < limit, "{stream} is not whole again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn whole(&self, jetstream: &async_nats::jetstream::Context, stream: &str) -> Option<usize> {
        let stream = jetstream.get_stream(stream).await.ok()?;
        let cluster = stream.cached_info().cluster.as_ref()?;
        let current = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
        let number: usize = cluster.leader.as_deref()?.strip_prefix('n')?.parse().ok()?;
        (current == 2).then_some(number - 1)
    }

    /// Kills all three at one moment and starts them again.
    ///
    /// # Errors
    /// One does not come back.
    pub async fn kill_all(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.kill9().await?;
        }
        let restarts = self.servers.iter_mut().map(Server::restart);
        let restarted = futures_util::future::try_join_all(restarts).await;
        restarted.map(drop).context("a server did not come back")
    }
}
