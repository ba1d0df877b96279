//! Everything that the demonstration runs: broker, vendors, services and adapters, each a process with a user of its own.

use mesh_core::bus::Bus;
use mesh_core::config::mesh_file::{self, MeshFile};
use mesh_core::contract::Catalog;
use mesh_core::fault::Fault;
use mesh_core::subject::KEEPER;
use serde_json::Value;
use tempfile::TempDir;

use super::process::{Launch, Process};
use super::watch::Snapshot;
use crate::cluster::trouble;
use crate::cluster::{self, Cluster, ClusterSettings, OPERATOR, Registered, Registry};
use crate::engine::Listener;
use crate::ledger::read::Vendors;

/// Calls per second that a vendor of the demonstration takes, outside of its rush hour.
pub(super) const RATE_PER_S: u64 = 3000;
/// How many it takes at once, outside of its rush hour.
pub(super) const BURST: u64 = 1000;

/// The vendors of the demonstration: they throttle, take some time, fail now and then, and cut some connections
/// after they have acted. All of it is harmless to work that carries an idempotency key.
const KNOBS: [(&str, &str); 5] = [
    ("retry-after-s", "1"),
    ("latency-ms", "2"),
    ("jitter-ms", "3"),
    ("fail-503-share", "0.002"),
    ("cut-after-acting-share", "0.002"),
];

/// Services that are there before the first order: role and name.
const SERVICES: [&str; 3] = ["payments", "notifications", "catalogue"];

/// An adapter: its name, its vendor file and the variables that the file asks for.
struct AdapterPlan {
    name: &'static str,
    file: &'static str,
    base_url: &'static str,
    secret: (&'static str, &'static str),
}

const ADAPTERS: [AdapterPlan; 2] = [
    AdapterPlan {
        name: "adapter-payments",
        file: "stripe.yaml",
        base_url: "STRIPE_BASE_URL",
        secret: ("STRIPE_API_KEY", vendor_sim::STRIPE_KEY),
    },
    AdapterPlan {
        name: "adapter-notifications",
        file: "courier.yaml",
        base_url: "COURIER_BASE_URL",
        secret: ("COURIER_AUTH_TOKEN", vendor_sim::COURIER_KEY),
    },
];

/// The running demonstration. Dropping it kills every process; [`Stage::end`] ends them in order.
pub(super) struct Stage {
    pub(super) bus: Bus,
    pub(super) vendors: Vendors,
    pub(super) calls_answered: u64,
    pub(super) orders: Process,
    pub(super) services: Vec<Process>,
    pub(super) vendor_sim: Process,
    pub(super) cluster: Cluster,
    registered: Option<Registered>,
    /// Last: it is removed when all that writes there has ended.
    folder: TempDir,
}

/// What is to be run.
pub(super) struct Plan {
    /// How many orders.
    pub(super) orders: usize,
    /// The broker's port; 0: any free one.
    pub(super) port: u16,
}

impl Stage {
    /// Starts everything; the orders come last, and begin to publish.
    pub(super) async fn start(
        plan: &Plan,
        registry: Option<&Registry>,
        listener: Listener<'_>,
    ) -> Result<Stage, Fault> {
        // What a killed demonstration left behind goes now.
        registry.map(Registry::running);
        let folder = tempfile::Builder::new().prefix("mesh-demo-").tempdir();
        let folder = folder.map_err(|error| trouble(format!("no temporary folder: {error}")))?;
        let settings = ClusterSettings {
            name: format!("demo-{}", std::process::id()),
            port: plan.port,
            folder: folder.path().to_owned(),
            temporary: true,
            file: mesh_file()?,
            mesh_text: shop::mesh_file().to_owned(),
        };
        let mut cluster = Cluster::start(settings, listener).await?;
        let (vendor_sim, url) = start_vendors(&cluster).await?;
        cluster.set_vendors(url.clone());
        let registered = registry.map(|registry| registry.enter(cluster.context())).transpose()?;
        let mut services = start_services(&cluster, &url).await?;
        let calls_answered = ask_prices(&cluster).await?;
        let bus = cluster::connect(cluster.context(), OPERATOR).await?;
        let words = ["internal", "role", "orders", "--limit"].map(str::to_owned);
        let words = words.into_iter().chain([plan.orders.to_string()]).collect();
        let mut orders = Process::service(cluster.context(), Launch { name: "orders", words, variables: &[] }).await?;
        let line = orders.first_line().await?;
        tracing::debug!(%line, "orders are published");
        services.sort_by_key(|process| !SERVICES.contains(&process.name()));
        let vendors = Vendors::new(url);
        Ok(Stage { bus, vendors, calls_answered, orders, services, vendor_sim, cluster, registered, folder })
    }

    /// How far everything is.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Fault> {
        Snapshot::take(&self.bus, self.cluster.topology(), &self.vendors).await
    }

    /// The first process that ended though nobody told it to.
    pub(super) fn check_alive(&mut self) -> Result<(), Fault> {
        let all = [&mut self.orders, &mut self.vendor_sim].into_iter().chain(&mut self.services);
        let gone = all.into_iter().find_map(Process::ended);
        gone.or_else(|| self.cluster.server_ended()).map_or(Ok(()), Err)
    }

    /// Ends when a process has ended though nobody told it to.
    pub(super) async fn any_ended(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.check_alive() {
                return fault;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }

    /// The processes of the mesh itself.
    pub(super) fn mesh_ids(&self) -> Vec<u32> {
        let children = self.services.iter().chain([&self.orders]).filter_map(Process::id);
        children.chain([std::process::id()]).collect()
    }

    /// Lets the services drain: first who publishes, then who consumes, then the adapters.
    pub(super) async fn drain(&mut self) {
        self.orders.stop().await;
        let at_work = |process: &&mut Process| SERVICES.contains(&process.name());
        let (first, then): (Vec<_>, Vec<_>) = self.services.iter_mut().partition(at_work);
        futures_util::future::join_all(first.into_iter().map(Process::stop)).await;
        futures_util::future::join_all(then.into_iter().map(Process::stop)).await;
    }

    /// Ends everything by force and leaves nothing behind.
    pub(super) async fn kill(mut self) -> Result<(), Fault> {
        drop(self.registered.take());
        let all = [&mut self.orders, &mut self.vendor_sim].into_iter().chain(&mut self.services);
        futures_util::future::join_all(all.map(Process::kill)).await;
        self.cluster.server().kill9().await.map_err(cluster::fault)?;
        close(self.folder)
    }

    /// Ends everything in order and leaves nothing behind.
    pub(super) async fn end(mut self) -> Result<(), Fault> {
        drop(self.registered.take());
        self.drain().await;
        self.bus.close().await;
        self.vendor_sim.stop().await;
        let Stage { cluster, folder, .. } = self;
        cluster.stop().await?;
        close(folder)
    }
}

fn close(folder: TempDir) -> Result<(), Fault> {
    folder.close().map_err(|error| trouble(format!("the temporary folder stays behind: {error}")))
}

/// The shop's mesh file, read against the shop's contracts.
fn mesh_file() -> Result<MeshFile, Fault> {
    let catalog = Catalog::new([mesh_proto::DESCRIPTORS, shop_proto::DESCRIPTORS]);
    let catalog = catalog.map_err(|error| trouble(format!("the embedded contracts: {error}")))?;
    Ok(mesh_file::load(shop::MESH_FILE, shop::mesh_file(), &catalog)?)
}

async fn start_vendors(cluster: &Cluster) -> Result<(Process, String), Fault> {
    let mut words: Vec<String> = ["internal", "vendor-sim", "--listen", "127.0.0.1:0"].map(str::to_owned).into();
    for vendor in ["stripe", "courier"] {
        words.extend([format!("--{vendor}-rate-per-s"), RATE_PER_S.to_string()]);
        words.extend([format!("--{vendor}-burst"), BURST.to_string()]);
        for (knob, value) in KNOBS {
            words.extend([format!("--{vendor}-{knob}"), value.to_owned()]);
        }
    }
    let launch = Launch { name: "vendor-sim", words, variables: &[] };
    let mut process = Process::start(&cluster.context().folder, launch).await?;
    let line = process.first_line().await?;
    let address = line["listening"].as_str().unwrap_or_default();
    let url = format!("http://{address}");
    Ok((process, url))
}

async fn start_services(cluster: &Cluster, vendors: &str) -> Result<Vec<Process>, Fault> {
    let context = cluster.context();
    let folder = context.folder.join("vendors");
    let unwritable = |error: std::io::Error| trouble(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(unwritable)?;
    let mut started = Vec::new();
    for name in SERVICES {
        let words = ["internal", "role", name].map(str::to_owned).into();
        started.push(Process::service(context, Launch { name, words, variables: &[] }).await?);
    }
    for (file, text) in shop::vendor_files() {
        std::fs::write(folder.join(file), text).map_err(unwritable)?;
    }
    for plan in ADAPTERS {
        let path = folder.join(plan.file).display().to_string();
        let words = ["adapter", "--name", plan.name, "--vendor", &path].map(str::to_owned).into();
        let (secret, value) = plan.secret;
        let variables = [(plan.base_url, vendors.to_owned()), (secret, value.to_owned())];
        started.push(Process::service(context, Launch { name: plan.name, words, variables: &variables }).await?);
    }
    let words = vec![KEEPER.to_owned()];
    started.push(Process::service(context, Launch { name: KEEPER, words, variables: &[] }).await?);
    // All at once: each takes a moment to connect.
    let lines = futures_util::future::join_all(started.iter_mut().map(Process::first_line)).await;
    lines.into_iter().collect::<Result<Vec<Value>, Fault>>()?;
    Ok(started)
}

/// The till asks for every price: calls are answered by the catalogue, another process.
async fn ask_prices(cluster: &Cluster) -> Result<u64, Fault> {
    let words = ["internal", "role", "till"].map(str::to_owned).into();
    let mut till = Process::service(cluster.context(), Launch { name: "till", words, variables: &[] }).await?;
    let line = till.first_line().await?;
    till.stop().await;
    Ok(line["answers"].as_u64().unwrap_or_default())
}
