//! `mesh apply`: streams and consumers as a mesh file declares them.

use mesh_core::{
    bus::StreamLimits,
    config::{Problems, mesh_file},
    operate::topology,
};
use serde_json::json;

use super::{GlobalArgs, Output, Status, arguments::ApplyArgs, check, contracts, place::Place};

pub(super) async fn run(args: ApplyArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let text = check::read(&args.config)?;
    let file =
        mesh_file::load(&args.config.display().to_string(), &text, &catalog).map_err(anyhow::Error::new::<Problems>)?;
    let region = global.region.clone().unwrap_or(file.region);
    let place = Place::find(&GlobalArgs { region: Some(region), ..global.clone() })?;
    let bus = place.connect_as(&args.user).await?;
    let limits = StreamLimits { replicas: args.replicas.into(), ..StreamLimits::default() };
    let made = topology::apply(&bus, &file.declarations, &limits).await?;
    bus.close().await;
    if output.is_json() {
        let streams: Vec<_> = made.streams.iter().map(|spec| &spec.name).collect();
        let consumers: Vec<_> =
            made.consumers.iter().map(|spec| json!({ "stream": spec.stream, "name": spec.durable })).collect();
        output.json(&json!({ "streams": streams, "consumers": consumers }))?;
        return Ok(Status::Ok);
    }
    for spec in &made.streams {
        output.line(&format!("stream    {}", spec.name))?;
    }
    for spec in &made.consumers {
        output.line(&format!("consumer  {} on {}", spec.durable, spec.stream))?;
    }
    Ok(Status::Ok)
}
