//! `mesh dev`: a local cluster that stays, for services of one's own.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use mesh_core::config::{Environment, mesh_file};
use mesh_core::contract::Catalog;
use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::subject::{KEEPER, Name};
use mesh_core::telemetry::metrics::Metrics;

use crate::cli::Output;
use crate::cluster::{self, Cluster, ClusterContext, ClusterSettings, Registry, state_folder};
use crate::engine::Progress as News;
use crate::roles::Keeping;
use crate::stop::Stop;

/// Options of `mesh dev`.
#[derive(Debug, Clone, clap::Args)]
pub struct DevArgs {
    /// The broker's port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 4222, value_name = "PORT")]
    pub port: u16,
    /// The mesh file: what each service does. The shop's where nothing is said
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The cluster's name: its messages and keys are there again the next time
    #[arg(long, default_value = "dev", value_name = "NAME")]
    pub name: Name,
}

/// Runs the cluster until Ctrl-C. `catalog` knows the contracts that the mesh file may name.
///
/// # Errors
/// A wrong mesh file, no nats-server to be had, a port or name in use, a broker that ended by itself.
pub async fn run(args: DevArgs, catalog: &Catalog, output: &Output) -> anyhow::Result<ExitCode> {
    let stop = Stop::listen()?;
    let environment = Environment::from_process();
    let registry = Registry::of(&environment)?;
    let settings = settings(&args, catalog, &environment)?;
    let remarks = *output;
    let mut listener = move |news: News| {
        if !matches!(news, News::Received { .. }) {
            remarks.remark(&news.to_string());
        }
    };
    let mut cluster = tokio::select! {
        () = stop.told() => return Ok(ExitCode::SUCCESS),
        cluster = Box::pin(Cluster::start(settings, &mut listener)) => cluster?,
    };
    let bus = cluster::connect(cluster.context(), KEEPER).await?;
    let keeping = Keeping::start(&bus, &Metrics::new());
    let registered = registry.enter(cluster.context())?;
    if output.is_json() {
        output.json(cluster.context())?;
    } else {
        output.line(&how_to_connect(cluster.context()))?;
    }
    let gone = tokio::select! {
        () = stop.told() => None,
        gone = cluster.until_server_ends() => Some(gone),
    };
    drop(registered);
    if let Some(gone) = gone {
        return Err(gone.into());
    }
    keeping.stop().await;
    bus.close().await;
    cluster.stop().await?;
    output.remark("stopped by you; messages and keys stay for the next time");
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &DevArgs, catalog: &Catalog, environment: &Environment) -> Result<ClusterSettings, Fault> {
    let (name, mesh_text) = match &args.config {
        None => (shop::MESH_FILE.to_owned(), shop::mesh_file().to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("the mesh file {} can't be read: {error}", path.display());
                Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, message)
            })?;
            (path.display().to_string(), text)
        }
    };
    let file = mesh_file::load(&name, &mesh_text, catalog)?;
    let folder = state_folder(environment)?.join("dev").join(args.name.as_str());
    let (name, port) = (args.name.to_string(), args.port);
    Ok(ClusterSettings { name, port, folder, temporary: false, file, mesh_text })
}

/// What a service needs to connect, ready to be copied.
fn how_to_connect(context: &ClusterContext) -> String {
    let ClusterContext { name, url, region, folder, seeds, .. } = context;
    let mut text =
        format!("the cluster {name} runs at {url}, region {region}, in {}\n\nFor every service:\n", folder.display());
    // Writing to a String can't fail.
    let _ = writeln!(text, "  export MESH_NATS_URL={url} MESH_REGION={region}\n\nand who it is:");
    for (user, seed) in seeds {
        let _ = writeln!(text, "  export MESH_NATS_SEED_FILE={}   # {user}", seed.display());
    }
    let _ = write!(
        text,
        "\nCommands of mesh find it by themselves; where other clusters run too, with --cluster {name}. Ctrl-C ends it; messages and keys stay."
    );
    text
}
