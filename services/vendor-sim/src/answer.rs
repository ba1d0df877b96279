//! Small pieces of HTTP that every part needs: bodies in, bodies out, and the end of a connection.

use std::hash::{DefaultHasher, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use serde_json::Value;
use thiserror::Error;

/// A body that is longer is read no further, and its connection is given up.
const DRAINED_BYTES: usize = 32 << 20;

/// The connection ends here, without an answer.
#[derive(Debug, Error)]
#[error("the connection is cut on purpose")]
pub(crate) struct Cut;

/// Every answer's body: whole, or produced page by page.
pub(crate) type Body = Either<Full<Bytes>, Pages>;

/// An answer.
pub(crate) type Reply = Response<Body>;

/// A body made page by page, so that a long list is never in memory as a whole.
pub(crate) struct Pages(Box<dyn FnMut() -> Option<Bytes> + Send>);

impl Pages {
    /// A body of what `next` gives until it gives nothing.
    pub(crate) fn new(next: impl FnMut() -> Option<Bytes> + Send + 'static) -> Self {
        Self(Box::new(next))
    }
}

impl HttpBody for Pages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready((self.0)().map(|page| Ok(Frame::data(page))))
    }
}

/// An answer with a JSON text.
pub(crate) fn json(status: u16, body: String) -> Reply {
    with_type("application/json", status, Either::Left(Full::new(Bytes::from(body))))
}

/// An answer with a JSON value.
pub(crate) fn value(status: u16, value: &Value) -> Reply {
    json(status, value.to_string())
}

/// An answer of newline-separated JSON, page by page.
pub(crate) fn lines(pages: Pages) -> Reply {
    with_type("application/x-ndjson", 200, Either::Right(pages))
}

fn with_type(content_type: &'static str, status: u16, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The request's body; `None` when it is longer than `limit` bytes.
///
/// A body over the limit is still read to its end (within reason), so that the client hears the refusal
/// and not a reset.
pub(crate) async fn read(mut body: Incoming, limit: usize) -> Result<Option<Vec<u8>>, Cut> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Cut)?.into_data() else { continue };
        length += data.len();
        if length > DRAINED_BYTES {
            return Err(Cut);
        }
        if length <= limit {
            bytes.extend_from_slice(&data);
        }
    }
    Ok((length <= limit).then_some(bytes))
}

/// A short stand-in of what was asked, equal for equal parts.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}
