//! Appending to the log of a job: only after the record that its writer knew.

use std::borrow::Cow;

use mesh_proto::v1::{self, job_record::Record};
use prost::Message as _;

use crate::{
    bus::{Bus, PublishError},
    subject::{self, JOB_STREAM},
};

const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// Appends a record if `expected` is the sequence of the job's last one (0: there is none). The sequence that it got.
///
/// # Errors
/// A conflict: something else was written meanwhile ([`PublishError::is_conflict`]), or this very record, whose first
/// acknowledgement was lost. Or the broker has not confirmed it.
pub(super) async fn append(bus: &Bus, id: &str, expected: u64, record: Record) -> Result<u64, PublishError> {
    let subject = subject::job(bus.gate().identity().region(), id);
    let headers = vec![(Cow::Borrowed(EXPECTED_LAST), expected.to_string())];
    let record = v1::JobRecord { record: Some(record) };
    let sealed = bus.gate().seal_own(subject, headers, record.encode_to_vec().into());
    bus.publish(JOB_STREAM, sealed).await.map(|stored| stored.sequence)
}
