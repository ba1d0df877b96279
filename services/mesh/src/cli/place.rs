//! Where the broker is and who connects: options and environment first, else a running cluster of this machine.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use mesh_core::{
    bus::{Bus, BusSettings},
    clock::Clock,
    config::Environment,
    fault::{Code, Fault, Reason},
    identity::{Credential, Identity},
    operate::regions,
    subject::Name,
};
use secrecy::SecretString;

use super::{Failure, GlobalArgs};
use crate::cluster::{ClusterContext, MAKER, OPERATOR, Registry};

/// How long it may take to find out which regions there are.
const PATIENCE: Duration = Duration::from_secs(2);

/// A broker that tools can connect to.
pub(super) struct Place {
    url: String,
    pub(super) region: Name,
    credentials: Credentials,
    /// Whether the broker's address was said, rather than found.
    is_named: bool,
    /// Whether the region is known to be one of the broker's.
    is_region_sure: bool,
}

enum Credentials {
    /// Of a cluster of this machine: its run directory has the seed of every user.
    Cluster(ClusterContext),
    File(PathBuf),
    None,
}

impl Place {
    /// Finds the place that the options mean.
    ///
    /// # Errors
    /// No cluster runs, or several and none is named; the seed's file can't be read.
    pub(super) fn find(global: &GlobalArgs) -> anyhow::Result<Place> {
        let Some(url) = &global.url else {
            let registry = Registry::of(&Environment::from_process())?;
            let cluster = registry.find(global.cluster.as_deref()).map_err(not_found)?;
            let region = match &global.region {
                Some(region) => region.clone(),
                None => cluster.region.parse()?,
            };
            let is_region_sure = region.as_str() == cluster.region;
            let url = cluster.url.clone();
            let credentials = match &global.seed_file {
                Some(file) => Credentials::File(file.clone()),
                None => Credentials::Cluster(cluster),
            };
            return Ok(Place { url, region, credentials, is_named: false, is_region_sure });
        };
        if let Some(cluster) = &global.cluster {
            let message = format!("both the cluster {cluster:?} and the address of a broker are named");
            return Err(Failure::input(message, "leave out --cluster (MESH_CLUSTER) or --url (MESH_NATS_URL)").into());
        }
        let region = global.region.clone().map_or_else(|| "local".parse(), Ok)?;
        let credentials = global.seed_file.clone().map_or(Credentials::None, Credentials::File);
        Ok(Place { url: url.clone(), region, credentials, is_named: true, is_region_sure: false })
    }

    /// Connects as the operator.
    ///
    /// # Errors
    /// The bus can't be reached, or does not accept the credential; the region is none of the broker's.
    pub(super) async fn connect(&self) -> anyhow::Result<Bus> {
        let bus = self.connect_as(&OPERATOR.parse()?).await?;
        // Where it can't be asked, what is done next says why.
        let others = if self.is_region_sure { None } else { self.regions_instead(&bus).await };
        match others {
            Some(others) => Err(no_region(&self.region, &others).into()),
            None => Ok(bus),
        }
    }

    /// `None`, too, where that can't be said soon: a stream without a leader holds nothing up that needs it not.
    async fn regions_instead(&self, bus: &Bus) -> Option<BTreeSet<String>> {
        let asked = tokio::time::timeout(PATIENCE, regions::instead_of(bus, &self.region)).await;
        asked.ok()?.ok()?
    }

    /// Connects as the service `user`.
    ///
    /// # Errors
    /// The bus can't be reached, or does not accept the credential; the cluster has no such user.
    pub(super) async fn connect_as(&self, user: &Name) -> anyhow::Result<Bus> {
        self.check_region(user.as_str())?;
        let credential = match &self.credentials {
            Credentials::Cluster(cluster) => cluster.credential(user.as_str()).map_err(not_a_user)?,
            Credentials::File(path) => Credential::Nkey(read_seed(path)?),
            Credentials::None => Credential::None,
        };
        let identity = Identity::new(user.clone(), self.region.clone(), credential);
        let settings = BusSettings { connect_timeout: CONNECT, ..BusSettings::new(&self.url) };
        let connected = Bus::connect(settings, identity, Clock::system()).await;
        connected.map_err(|fault| self.unreached(fault).into())
    }

    /// A service may do something in the region of its cluster alone: elsewhere it would be denied all.
    fn check_region(&self, user: &str) -> Result<(), Failure> {
        match &self.credentials {
            Credentials::Cluster(cluster) if !self.is_region_sure && ![OPERATOR, MAKER].contains(&user) => {
                Err(no_region(&self.region, &BTreeSet::from([cluster.region.clone()])))
            }
            _ => Ok(()),
        }
    }

    /// What to do where no connection was made: a cluster of this machine can be started, a broker that was named can't.
    fn unreached(&self, fault: Fault) -> Failure {
        let is_away = fault.reason() == Reason::BusUnavailable && fault.code() == Code::Unavailable;
        let help = match (is_away, self.is_named) {
            (false, _) => "",
            (true, true) => "see that a broker listens there, and that --url (MESH_NATS_URL) is right",
            (true, false) => "start a cluster with mesh dev, or say which one with --cluster or --url and --seed-file",
        };
        Failure::new(fault, help)
    }

    /// The environment of a role that works here as `user`.
    ///
    /// # Errors
    /// The cluster has no such user, or another region.
    pub(super) fn environment(&self, user: &str) -> anyhow::Result<Environment> {
        self.check_region(user)?;
        let environment = Environment::from_process();
        let environment =
            environment.with("MESH_NATS_URL", self.url.as_str()).with("MESH_REGION", self.region.as_str());
        let seed = match &self.credentials {
            Credentials::Cluster(cluster) => cluster.seed_file(user).map_err(not_a_user)?,
            Credentials::File(path) => path,
            Credentials::None => return Ok(environment),
        };
        Ok(environment.with("MESH_NATS_SEED_FILE", seed.display().to_string()))
    }
}

/// Whose credential a tool asks with, for a person whom the broker denies something. `takes_user`: it has the option `--as`.
pub(super) fn who_may(global: &GlobalArgs, takes_user: bool) -> String {
    let user = if takes_user { "a user" } else { OPERATOR };
    let credential = match (&global.seed_file, &global.url, Place::find(global).map(|place| place.credentials)) {
        (Some(file), ..) => format!("the seed in {}", file.display()),
        (None, Some(_), _) => "no credential".to_owned(),
        (.., Ok(Credentials::Cluster(cluster))) => format!("the seed of {user} of the cluster {}", cluster.name),
        _ => format!("the seed of {user} of the cluster"),
    };
    let options = if takes_user { "--as, --seed-file" } else { "--seed-file" };
    format!(
        "it was asked with {credential}; connect as who may ({options}), or declare it in the mesh file and run mesh apply"
    )
}

/// A person waits: shorter than a service would.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(4);

fn no_region(region: &Name, others: &BTreeSet<String>) -> Failure {
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    let message = format!("no region {:?} is here; there is: {}", region.as_str(), others.join(", "));
    Failure::input(message, "name one of them with --region (MESH_REGION)")
}

fn not_found(fault: Fault) -> Failure {
    let help = match fault.reason() {
        Reason::InvalidInput => "name the one that is meant: --cluster NAME, or once: export MESH_CLUSTER=NAME",
        _ => "",
    };
    Failure::new(fault, help)
}

fn not_a_user(fault: Fault) -> Failure {
    let help = match fault.reason() {
        Reason::UnknownName => "name one of them, or add the service to the mesh file and start the cluster again",
        _ => "",
    };
    Failure::new(fault, help)
}

fn read_seed(path: &std::path::Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the seed's file {} can't be read: {error}", path.display());
        Failure::input(message, "--seed-file names a file that holds one line: SU…")
    })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

/// Who orders something, for the history of letters: user and machine, as these name themselves. Nothing proves it: to the
/// broker, everybody at a command line is one user.
pub(super) fn person() -> String {
    let environment = Environment::from_process();
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME")).unwrap_or(OPERATOR);
    match nix::unistd::gethostname().map(std::ffi::OsString::into_string) {
        Ok(Ok(host)) if !host.is_empty() => format!("{user}@{host}"),
        _ => user.to_owned(),
    }
}
