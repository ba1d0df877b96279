//! `mesh apply`: streams and consumers as a mesh file declares them.

use mesh_core::{
    Fault,
    bus::{Change, StreamLimits},
    config::{Problems, mesh_file},
    fault::Reason,
    operate::topology::{self, Applied},
};
use serde_json::{Value, json};

use super::{Failure, GlobalArgs, Output, Status, arguments::ApplyArgs, check, contracts, failure, place::Place};

pub(super) async fn run(args: ApplyArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let text = check::read(&args.config)?;
    let file =
        mesh_file::load(&args.config.display().to_string(), &text, &catalog).map_err(anyhow::Error::new::<Problems>)?;
    let region = global.region.clone().unwrap_or(file.region);
    let place = Place::find(&GlobalArgs { region: Some(region), ..global.clone() })?;
    let bus = place.connect_as(&args.user).await?;
    let ApplyArgs { replicas, event_age, force: may_lower, .. } = args;
    let limits = StreamLimits { replicas: replicas.map(usize::from), event_age, may_lower, ..StreamLimits::default() };
    let applied = topology::apply(&bus, &file.declarations, &limits).await;
    bus.close().await;
    let applied = applied.map_err(advised)?;
    show(&applied, output)?;
    let mut status = Status::Ok;
    for fault in &applied.waiting {
        status = failure::show(output, &fault.clone().into());
    }
    Ok(status)
}

/// Only here it is known which words were meant.
fn advised(fault: Fault) -> anyhow::Error {
    if fault.reason() != Reason::InvalidInput {
        return fault.into();
    }
    let help = "leave --replicas and --event-age out to keep what they have, or lower it with --force";
    Failure::new(fault, help).into()
}

fn show(Applied { topology, changes, .. }: &Applied, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        let streams: Vec<_> = topology.streams.iter().map(|spec| &spec.name).collect();
        let consumers: Vec<_> =
            topology.consumers.iter().map(|spec| json!({ "stream": spec.stream, "name": spec.durable })).collect();
        let changes: Vec<_> = changes.iter().map(change).collect();
        output.json(&json!({ "streams": streams, "consumers": consumers, "changes": changes }))?;
        return Ok(());
    }
    for spec in &topology.streams {
        output.line(&format!("stream    {}", spec.name))?;
    }
    for spec in &topology.consumers {
        output.line(&format!("consumer  {} on {}", spec.durable, spec.stream))?;
    }
    for Change { stream, consumer, field, from, to, .. } in changes {
        let what = consumer.as_ref().map_or_else(|| stream.clone(), |durable| format!("{durable} on {stream}"));
        output.line(&format!("changed   {what}: {field} {from} -> {to}"))?;
    }
    Ok(())
}

fn change(change: &Change) -> Value {
    let Change { stream, consumer, field, from, to, .. } = change;
    json!({ "stream": stream, "consumer": consumer, "field": field, "from": from, "to": to })
}
