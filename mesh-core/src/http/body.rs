//! Reads an answer's body up to a limit.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::BodyLost;

/// Reads the whole body, at most `limit` bytes. What is over the limit is never held in memory.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, BodyLost> {
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyLost::TooLarge(limit));
    }
    // Most answers come as one frame: it is handed on without a copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyLost::Broken)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(BodyLost::TooLarge(limit));
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}
