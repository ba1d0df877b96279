//! What every mesh has: the streams of letters, outcomes, jobs and advisories, and the keeper that looks after them.

use super::{Kind, Permissions, StreamSpec, discovery, own_store, store_spec};
use crate::subject::{
    self, ADVISORY_STREAM, CLAIM_STREAM, DEAD_LETTER_STREAM, JOB_STREAM, KEEPER, Name, OUTCOME_STREAM, WIRE,
};

/// The broker's advisories that tell of a delivery given up: it produces them only while somebody listens, and a stream does.
pub const GIVEN_UP: [&str; 2] =
    ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"];

/// The streams of every mesh, whatever is declared.
#[must_use]
pub fn streams() -> Vec<StreamSpec> {
    let spec = |name: &str, subjects: &[&str], kind| StreamSpec {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        kind,
    };
    let own = |kind: &str| format!("{WIRE}.{kind}.>");
    let mut specs = vec![
        spec(DEAD_LETTER_STREAM, &[&own("dead")], Kind::Letters),
        spec(OUTCOME_STREAM, &[&own("outcome")], Kind::Events),
        spec(JOB_STREAM, &[&own("job")], Kind::Letters),
        spec(CLAIM_STREAM, &[&own("claim")], Kind::Claims),
        spec(ADVISORY_STREAM, &GIVEN_UP, Kind::Advisories),
    ];
    specs.extend(KEEPER.parse().ok().map(|keeper: Name| store_spec(&keeper)));
    specs
}

/// The allow-list of the keeper in `region`: it reads every stream of the mesh, writes letters, jobs and lanes, keeps its own
/// store, pauses nobody and makes no stream. It answers the calls of `mesh.v1.Keeper`.
#[must_use]
pub fn keeper(name: &Name, region: &Name) -> Permissions {
    let inbox = format!("{}.>", subject::inbox_prefix(name));
    let mut publish = vec![
        inbox.clone(),
        format!("{WIRE}.dead.{region}.>"),
        // A letter of its own may be of a message that is too large for it.
        format!("{WIRE}.claim.{region}.>"),
        format!("{WIRE}.job.{region}.>"),
        format!("{WIRE}.lane.{region}.>"),
        format!("{WIRE}.outcome.{region}.>"),
    ];
    publish.extend(own_store(region, name));
    let api = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.MSG.GET.*",
        // Queued work that the broker gave up, once its letter is confirmed; what lay apart, once nothing refers to it. Streams of letters and jobs refuse it.
        "$JS.API.STREAM.MSG.DELETE.*",
        "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.NAMES.*",
        "$JS.API.CONSUMER.INFO.*.*",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.DELETE.>",
        "$JS.API.CONSUMER.MSG.NEXT.>",
        "$JS.ACK.>",
    ];
    publish.extend(api.map(str::to_owned));
    let mut subscribe = vec![inbox, format!("{WIRE}.call.{region}.mesh.v1.Keeper.*.*"), format!("{WIRE}.dead.>")];
    // It hears what its stream may miss during an election.
    subscribe.extend(GIVEN_UP.map(str::to_owned));
    // And whether an event that left its stream is in hand still: its worker says so, and that it is settled, to the broker alone.
    subscribe.push("$JS.ACK.>".to_owned());
    subscribe.extend(discovery(name));
    Permissions { publish, subscribe, may_answer: true }
}
