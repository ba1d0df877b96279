//! Connections that know how many requests were written to them.
//!
//! The connector is ours: the guard on addresses has its place here, between name resolution and the connection.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ::http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Plain = MaybeHttpsStream<TokioIo<TcpStream>>;

/// What is known about one connection, shared by it and the calls that use it.
///
/// HTTP/1.1 carries one request at a time, so every request that was written is followed by its answer. `begun` counts the
/// requests of which a byte was written, `answered` those whose answer a call has in hand. A call that has no answer, on a
/// connection where the two are equal, has written nothing. A count of `answered` that lags only errs to the safe side.
#[derive(Debug, Default)]
pub(super) struct Tally {
    begun: AtomicU64,
    answered: AtomicU64,
}

impl Tally {
    /// A call on this connection has its answer.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a request may have been written that no call has an answer to. To be asked once the call has failed.
    pub(super) fn may_have_written(&self) -> bool {
        self.begun.load(Ordering::Acquire) != self.answered.load(Ordering::Acquire)
    }
}

/// Makes connections, within a time.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) inner: HttpsConnector<HttpConnector>,
    pub(super) timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = Counted;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Counted, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, timeout) = (self.inner.call(uri), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(stream) => Ok(Counted { stream: stream?, tally: Arc::default(), reading: true }),
                Err(_) => Err(format!("no connection within {} ms", timeout.as_millis()).into()),
            }
        })
    }
}

/// A connection that counts. Above TLS, so that its own records do not count.
#[derive(Debug)]
pub(super) struct Counted {
    stream: Plain,
    tally: Arc<Tally>,
    /// Bytes were read since the last write, or none were written yet: the next write begins a request.
    reading: bool,
}

impl Counted {
    fn count(&mut self, written: &Poll<io::Result<usize>>) {
        let left = match written {
            Poll::Ready(Ok(n)) => *n > 0,
            // Through TLS a failed write may have sent a part. On plain TCP the kernel took nothing.
            Poll::Ready(Err(_)) => matches!(self.stream, MaybeHttpsStream::Https(_)),
            Poll::Pending => false,
        };
        if left && self.reading {
            self.reading = false;
            self.tally.begun.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Arc::clone(&self.tally))
    }
}

impl Read for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        // The end of the stream counts too: at worst a request is counted twice, which errs to the safe side.
        self.reading |= polled.is_ready();
        polled
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(&polled);
        polled
    }
}
