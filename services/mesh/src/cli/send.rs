//! `mesh publish`, `mesh enqueue` and `mesh call`: any message by its full name.

use std::io::Read as _;

use bytes::Bytes;
use mesh_core::{
    bus::Bus,
    clock::{Clock, Deadline},
    contract::catalog::key_of,
    publish::{Enqueue, EventTarget, Publish, Receipt, WorkTarget},
    request::{Call, CallTarget},
    subject::Name,
};
use prost::Message as _;
use serde_json::json;

use super::{
    Failure, GlobalArgs, Output, Status,
    arguments::{CallArgs, Message, SendArgs},
    contracts,
    place::Place,
};

pub(super) async fn publish(args: SendArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let entry = contracts::event(&catalog, &args.message.name)?;
    let name = entry.message.full_name().to_owned();
    let event = catalog.from_json(&name, &json_text(&args.message.json)?)?;
    let producer: Name = entry.producer.parse()?;
    let bus = Place::find(global)?.connect_as(args.message.sender.as_ref().unwrap_or(&producer)).await?;
    let target = EventTarget::new(entry.producer.clone(), name);
    let mut publish = Publish::by_name(&bus, target, key_of(&event), event.encode_to_vec().into());
    if let Some(id) = args.id {
        publish = publish.id(id);
    }
    if let Some(timeout) = args.timeout {
        publish = publish.deadline(Deadline::after(&Clock::system(), timeout));
    }
    stored("published", &publish.await?, output)?;
    bus.close().await;
    Ok(Status::Ok)
}

pub(super) async fn enqueue(args: SendArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let entry = contracts::operation(&catalog, &args.message.name)?;
    let request = catalog.from_json(entry.request.full_name(), &json_text(&args.message.json)?)?;
    let bus = connect(&args.message, global).await?;
    let target = WorkTarget::new(entry.info.service.clone(), entry.info.method.clone());
    let mut enqueue = Enqueue::new(&bus, target, entry.key_of(&request), request.encode_to_vec().into());
    if let Some(id) = args.id {
        enqueue = enqueue.id(id);
    }
    if let Some(timeout) = args.timeout {
        enqueue = enqueue.deadline(Deadline::after(&Clock::system(), timeout));
    }
    stored("queued", &enqueue.await?, output)?;
    bus.close().await;
    Ok(Status::Ok)
}

pub(super) async fn call(args: CallArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let entry = contracts::operation(&catalog, &args.message.name)?;
    let request = catalog.from_json(entry.request.full_name(), &json_text(&args.message.json)?)?;
    let bus = connect(&args.message, global).await?;
    let target = CallTarget::new(entry.info.service.clone(), entry.info.method.clone()).repeats(entry.info.repeat);
    let payload: Bytes = request.encode_to_vec().into();
    // Made once: a person sees what came back, and decides.
    let mut call = Call::<()>::new(&bus, target, payload).timeout(args.timeout);
    if let Some(id) = args.id {
        call = call.id(id);
    }
    let reply = call.bytes().await?;
    output.json(&catalog.to_json(entry.reply.full_name(), &reply)?)?;
    bus.close().await;
    Ok(Status::Ok)
}

async fn connect(message: &Message, global: &GlobalArgs) -> anyhow::Result<Bus> {
    let place = Place::find(global)?;
    match &message.sender {
        Some(sender) => place.connect_as(sender).await,
        None => place.connect().await,
    }
}

fn stored(verb: &str, receipt: &Receipt, output: &Output) -> anyhow::Result<()> {
    let Receipt { message_id, stream, sequence, duplicate } = receipt;
    if output.is_json() {
        let document =
            json!({ "messageId": message_id, "stream": stream, "sequence": sequence, "duplicate": duplicate });
        return Ok(output.json(&document)?);
    }
    let verb = if *duplicate { "was there already, nothing was added:" } else { verb };
    Ok(output.line(&format!("{verb} {message_id} ({stream}, sequence {sequence})"))?)
}

/// The JSON as given, of a file, or of standard input.
fn json_text(argument: &str) -> Result<String, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::input(
            format!("{what} can't be read: {error}"),
            "--json takes the JSON itself, @FILE, or - for standard input",
        )
    };
    if argument == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("standard input", error))?;
        return Ok(text);
    }
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| unreadable(path, error)),
        None => Ok(argument.to_owned()),
    }
}
