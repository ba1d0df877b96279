//! One row on its way to the broker, and what its end means for what follows.

use super::{place::Place, window::Row, write::seal};
use crate::{
    bus::{Bus, PublishError},
    clock::Deadline,
    envelope::TraceContext,
    gate::{Cause, Leave},
};

/// What became of a row that was sent.
pub(super) struct Done {
    pub(super) sequence: i64,
    pub(super) place: String,
    pub(super) how: How,
}

/// How that ended.
pub(super) enum How {
    /// The broker has it.
    Confirmed { duplicate: bool },
    /// This row will not be taken as it is.
    Refused(String),
    /// Its place takes nothing now; whether this row was stored may be unknown.
    Postponed { why: String, is_unknown: bool },
}

/// Sends one row while it may leave, and waits for what becomes of it.
pub(super) async fn publish(bus: Bus, row: Row, leave: Leave) -> Done {
    let (sequence, place) = (row.sequence, row.place.clone());
    Done { sequence, place, how: attempt(&bus, row, leave).await }
}

async fn attempt(bus: &Bus, row: Row, leave: Leave) -> How {
    let Some(place) = Place::parse(&row.place) else {
        return How::Refused(format!("{:?} is no place of this version of the mesh", row.place));
    };
    let cause = Cause {
        id: Some(row.id),
        deadline: row.deadline_ms.map(Deadline::at_unix_ms),
        trace: row.traceparent.as_deref().and_then(TraceContext::parse),
    };
    let sealed = match seal(bus.gate(), &place, &row.key, cause, row.payload.into()) {
        Ok(sealed) => sealed.leaving(leave),
        Err(fault) => return How::Refused(fault.to_string()),
    };
    match bus.publish(&place.stream(), sealed).await {
        Ok(stored) => How::Confirmed { duplicate: stored.duplicate },
        Err(error) => how(error, &row.place),
    }
}

/// A refusal that concerns the message stops its key; everything else concerns the place.
fn how(error: PublishError, place: &str) -> How {
    let is_unreadable = matches!(error, PublishError::Rejected { code: 0, .. });
    let is_unknown = error.is_unknown() || is_unreadable;
    // What can't be read, is full or is away says nothing of the message.
    let is_refusal = matches!(&error, PublishError::Rejected { .. }) && !is_unknown && !error.is_passing();
    let fault = error.into_fault(place);
    let why = format!("{fault}: {}", fault.detail());
    if is_refusal { How::Refused(why) } else { How::Postponed { why, is_unknown } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_message_itself_stops_its_key() {
        let rejected = |code| PublishError::Rejected { code, description: "no".into() };
        let (subject, why) = ("s".to_owned(), "closed".to_owned());
        for (error, refused, unknown) in [
            (rejected(10054), true, false),
            (rejected(10077), false, false),
            (rejected(10002), false, false),
            (rejected(10008), false, false),
            (rejected(10076), false, false),
            (rejected(10158), false, true),
            (rejected(0), false, true),
            (PublishError::Denied { subject }, false, false),
            (PublishError::NobodyListens, false, false),
            (PublishError::NotSent(why), false, false),
            (PublishError::TimedOut, false, true),
            (PublishError::Disconnected, false, true),
        ] {
            let said = error.to_string();
            match how(error, "event/a/b") {
                How::Refused(_) => assert!(refused, "{said}"),
                How::Postponed { is_unknown, .. } => assert_eq!((refused, is_unknown), (false, unknown), "{said}"),
                How::Confirmed { .. } => panic!("{said}"),
            }
        }
    }
}
