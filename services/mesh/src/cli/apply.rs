//! `mesh apply`: streams and consumers as a mesh file declares them.

use mesh_core::{
    Fault,
    bus::{Change, StreamLimits},
    config::{Problems, mesh_file},
    fault::{Code, Effect, Reason},
    operate::topology::{self, Applied, Halted, Waiting},
    policy::compile::ConsumerSpec,
};
use serde_json::{Value, json};

use crate::stop::Stop;

use super::{Failure, GlobalArgs, Output, Status, arguments::ApplyArgs, check, contracts, failure, place::Place};

pub(super) async fn run(args: ApplyArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let text = check::read(&args.config)?;
    let file =
        mesh_file::load(&args.config.display().to_string(), &text, &catalog).map_err(anyhow::Error::new::<Problems>)?;
    let region = global.region.clone().unwrap_or(file.region);
    let place = Place::find(&GlobalArgs { region: Some(region), ..global.clone() })?;
    let bus = place.connect_as(&args.user).await?;
    let ApplyArgs { replicas, event_age, force: may_lower, patience, .. } = args;
    let limits =
        StreamLimits { replicas: replicas.map(usize::from), event_age, may_lower, patience, ..StreamLimits::default() };
    let stop = Stop::listen()?;
    let ended = tokio::select! {
        ended = Box::pin(topology::apply_until(&bus, &file.declarations, &limits, stop.scope())) => ended,
        () = stop.told_again() => return Err(ended_at_once().into()),
    };
    bus.close().await;
    match ended {
        Ok(applied) => show(&applied, output),
        Err(halted) => {
            let Halted { applied: mut done, fault } = *halted;
            // What failed is said below; of the rest only what is known.
            done.topology.streams.clear();
            let left = done.clone();
            done.topology.consumers.retain(|spec| why(&left, spec).is_some());
            if done != Applied::default() {
                show(&done, output)?;
            }
            Err(advised(fault))
        }
    }
}

fn ended_at_once() -> Failure {
    let why =
        "it was told twice to end, and did so between two steps: consumers whose methods move may be paused for 40 s";
    let fault = Fault::new(Code::Unavailable, Effect::Unknown, Reason::PublishRefused, why);
    Failure::new(fault, "apply again")
}

/// Only here it is known which words were meant.
fn advised(fault: Fault) -> anyhow::Error {
    if fault.reason() != Reason::InvalidInput {
        return fault.into();
    }
    let help = "leave --replicas and --event-age out to keep what they have, or lower it with --force";
    Failure::new(fault, help).into()
}

fn show(applied: &Applied, output: &Output) -> anyhow::Result<Status> {
    print(applied, output)?;
    for warning in &applied.warnings {
        output.remark(&format!("warning: {warning}"));
    }
    let mut status = Status::Ok;
    for waiting in &applied.waiting {
        status = failure::show(output, &waiting.fault.clone().into());
    }
    Ok(status)
}

fn print(applied: &Applied, output: &Output) -> anyhow::Result<()> {
    let Applied { topology, changes, .. } = applied;
    let (waiting, standing): (Vec<_>, Vec<_>) =
        topology.consumers.iter().partition(|spec| why(applied, spec).is_some());
    if output.is_json() {
        let streams: Vec<_> = topology.streams.iter().map(|spec| &spec.name).collect();
        let consumer = |spec: &&ConsumerSpec| json!({ "stream": spec.stream, "name": spec.durable });
        let is_waiting = |spec: &&ConsumerSpec| {
            let why = why(applied, spec).map(Fault::message);
            json!({ "stream": spec.stream, "name": spec.durable, "why": why })
        };
        output.json(&json!({
            "streams": streams,
            "consumers": standing.iter().map(consumer).collect::<Vec<_>>(),
            "waiting": waiting.iter().map(is_waiting).collect::<Vec<_>>(),
            "changes": changes.iter().map(change).collect::<Vec<_>>(),
            "warnings": applied.warnings,
        }))?;
        return Ok(());
    }
    for spec in &topology.streams {
        output.line(&format!("stream    {}", spec.name))?;
    }
    for spec in standing {
        output.line(&format!("consumer  {} on {}", spec.durable, spec.stream))?;
    }
    for spec in waiting {
        output.line(&format!("waiting   {} on {}: not as declared yet", spec.durable, spec.stream))?;
    }
    for Change { stream, consumer, field, from, to, .. } in changes {
        let what = consumer.as_ref().map_or_else(|| stream.clone(), |durable| format!("{durable} on {stream}"));
        output.line(&format!("changed   {what}: {field} {from} -> {to}"))?;
    }
    Ok(())
}

/// Why a consumer is not as it is declared. `None`: it is.
fn why<'a>(applied: &'a Applied, spec: &ConsumerSpec) -> Option<&'a Fault> {
    let is_it = |waiting: &&Waiting| waiting.stream == spec.stream && waiting.consumers.contains(&spec.durable);
    applied.waiting.iter().find(is_it).map(|waiting| &waiting.fault)
}

fn change(change: &Change) -> Value {
    let Change { stream, consumer, field, from, to, .. } = change;
    json!({ "stream": stream, "consumer": consumer, "field": field, "from": from, "to": to })
}
