//! `mesh adapter`: operations of a contract, carried out by a third party's HTTP API as a vendor file says.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use mesh_core::adapter::Adapter;
use mesh_core::clock::Clock;
use mesh_core::config::{Environment, vendor};
use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::subject::Name;
use prost_reflect::DescriptorPool;

use super::frame::Frame;

/// Options of an adapter.
#[derive(Debug, Clone, clap::Args)]
pub struct AdapterArgs {
    /// The vendor file: docs/adapters.md explains it
    #[arg(long, value_name = "FILE")]
    pub vendor: PathBuf,
    /// The service's name in the mesh file; adapter-<vendor> where nothing is said
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,
    /// How many calls of the vendor are under way at once
    #[arg(long, default_value = "64", value_name = "N")]
    pub concurrency: NonZeroU16,
}

/// Is the adapter until the process is told to stop. `descriptors` are encoded descriptor sets of the contracts; `place` says
/// where a service of this name works.
///
/// # Errors
/// A wrong vendor file, a missing secret, a bus that can't be reached.
pub async fn run(
    args: AdapterArgs,
    descriptors: &[&[u8]],
    place: impl FnOnce(&str) -> anyhow::Result<Environment>,
) -> anyhow::Result<()> {
    let (adapter, vendor) = load(&args.vendor, descriptors, &Environment::from_process())?;
    let name = args.name.as_ref().map_or_else(|| format!("adapter-{vendor}"), Name::to_string);
    let frame = Frame::begin(&name, &place(&name)?).await?;
    let places = usize::from(args.concurrency.get());
    let adapter = adapter.counted(frame.mesh.metrics());
    for service in adapter.services() {
        let settings = service.settings();
        let serving = frame.mesh.serve(service).settings(settings);
        serving.concurrency(places).call_concurrency(places).start().await?;
    }
    frame.ready()?;
    frame.run_until_stopped().await;
    Ok(())
}

/// The adapter of a vendor file, and the vendor's name.
fn load(path: &Path, descriptors: &[&[u8]], environment: &Environment) -> Result<(Adapter, String), Fault> {
    let mut pool = DescriptorPool::new();
    for set in descriptors {
        pool.decode_file_descriptor_set(*set).map_err(|error| {
            Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, format!("the contracts: {error}"))
        })?;
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the vendor file {} can't be read: {error}", path.display());
        Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, message)
    })?;
    let file = vendor::load(&path.display().to_string(), &text, environment, &pool)?;
    let name = file.vendor.clone();
    Ok((Adapter::by_file(file, &pool, Clock::system())?, name))
}
