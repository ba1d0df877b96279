//! Whether what is remembered of a message speaks of another one with the same id, that was sent before.

use mesh_proto::v1::{InboxRecord, inbox_record::End};

use super::attempt::Ended;
use crate::envelope::Envelope;

/// How a delivery ends that is dropped for what is remembered.
pub(super) fn overtaken(record: Option<&InboxRecord>, envelope: &Envelope) -> Ended {
    match record.and_then(|record| sent_before(record, envelope.source()?)) {
        Some(first) => Ended::SentAgain { first },
        None => Ended::Overtaken,
    }
}

/// Whether the record says that another one of the same id is done: whoever has that one carries its end out.
pub(super) fn is_done_before(record: Option<&InboxRecord>, envelope: &Envelope) -> bool {
    let is_done = |record: &&InboxRecord| matches!(record.end, Some(End::Reply(_) | End::Refused(_)));
    record.filter(is_done).and_then(|record| sent_before(record, envelope.source()?)).is_some()
}

/// The sequence of the other one in the stream of this one, whose original lies at `source`. `None`: the record speaks of this one,
/// or does not say (an older version wrote it, of a copy).
fn sent_before(record: &InboxRecord, source: (&str, u64)) -> Option<u64> {
    let (stream, sequence) = source;
    let first = match record.original {
        0 if record.stream == stream => record.sequence,
        original => original,
    };
    (first > 0 && first != sequence).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_is_told_from_another_and_from_its_own_copy() {
        let record = |stream: &str, sequence, original| InboxRecord {
            stream: stream.into(),
            sequence,
            original,
            ..InboxRecord::default()
        };
        for (record, expected) in [
            (record("mesh1-work-p", 7, 7), None),
            (record("mesh1-work-p", 5, 5), Some(5)),
            // A copy on the lane, of this one and of another.
            (record("mesh1-lane-bank", 900, 7), None),
            (record("mesh1-lane-bank", 7, 5), Some(5)),
            // As older versions wrote them.
            (record("mesh1-work-p", 7, 0), None),
            (record("mesh1-work-p", 5, 0), Some(5)),
            (record("mesh1-lane-bank", 900, 0), None),
        ] {
            assert_eq!(sent_before(&record, ("mesh1-work-p", 7)), expected, "{record:?}");
        }
    }
}
