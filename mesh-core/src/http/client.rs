//! The client: one pool of connections to one vendor.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{Extensions, HeaderMap, Method, Uri};
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        self,
        connect::{CaptureConnection, HttpConnector, capture_connection},
    },
    rt::TokioTimer,
};

use super::{
    Answer, BodyLost, NotSent, Sent, Stage, Unanswered, body,
    connect::{Connector, Tally},
};
use crate::clock::TaskScope;

/// What a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For name resolution, connection and TLS together.
    pub connect: Duration,
    /// The largest answer's body, in bytes.
    pub body: usize,
    /// The most headers of an answer.
    pub headers: usize,
    /// The largest head of an answer, in bytes.
    pub head: usize,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How many unused connections are kept.
    pub idle_connections: usize,
}

impl Default for Limits {
    /// Vendors' answers are a few KiB. An unused connection is
    /// dropped before the usual server (60 s) drops it, because a request written into that moment has an unknown outcome.
    fn default() -> Limits {
        Limits {
            connect: Duration::from_secs(5),
            body: 256 * 1024,
            headers: 100,
            head: 64 * 1024,
            idle: Duration::from_secs(20),
            idle_connections: 64,
        }
    }
}

/// One request. Its `Debug` shows no header, query or body: they may hold secrets.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// An absolute URL.
    pub url: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, body of {} bytes", self.method, self.url.path(), self.body.len())
    }
}

/// The client can't be made.
#[derive(Debug, thiserror::Error)]
#[error("the TLS of this machine can't be used: {0}")]
pub struct ClientError(String);

/// Calls one vendor. Cloning gives another handle on the same connections.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
    limits: Limits,
    pub(super) plain: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("limits", &self.limits).field("plain", &self.plain).finish_non_exhaustive()
    }
}

/// Runs the connections' tasks under a scope of the client's own.
#[derive(Clone)]
struct Tasks(TaskScope);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}

impl Client {
    /// A client for `https` alone, which trusts the certificates that this machine trusts.
    ///
    /// # Errors
    /// The machine's trust store can't be read.
    pub fn secure(limits: Limits) -> Result<Client, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider)
            .map_err(|e| ClientError(e.to_string()))?
            .https_only()
            .enable_http1()
            .wrap_connector(tcp());
        Ok(Client::over(connector, limits, false))
    }

    /// A client for a vendor without TLS: a stand-in on this machine.
    ///
    /// # Errors
    /// The TLS library refuses its own defaults.
    pub fn plain(limits: Limits) -> Result<Client, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| ClientError(e.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp());
        Ok(Client::over(connector, limits, true))
    }

    fn over(inner: hyper_rustls::HttpsConnector<HttpConnector>, limits: Limits, plain: bool) -> Client {
        let connector = Connector { inner, timeout: limits.connect };
        let inner = legacy::Client::builder(Tasks(TaskScope::new()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.idle)
            .pool_max_idle_per_host(limits.idle_connections)
            .retry_canceled_requests(false)
            .http1_max_headers(limits.headers)
            .http1_max_buf_size(limits.head.max(8192))
            .build(connector);
        Client { inner, limits, plain }
    }

    /// Sends `request` once and waits for the whole answer, at most `timeout`.
    pub async fn send(&self, request: Request, timeout: Duration) -> Sent {
        if let Err(why) = self.check(&request.url) {
            return Sent::NotSent(NotSent { stage: Stage::Connect, why });
        }
        let (begun, over) = (Instant::now(), tokio::time::Instant::now() + timeout.min(LONGEST));
        let mut message = ::http::Request::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = request.url;
        *message.headers_mut() = request.headers;
        let connection = capture_connection(&mut message);
        let response = match tokio::time::timeout_at(over, self.inner.request(message)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failed(&connection, &error),
            Err(_) => return timed_out(&connection, timeout),
        };
        if let Some(tally) = response.extensions().get::<Arc<Tally>>() {
            tally.answered();
        }
        let (head, incoming) = response.into_parts();
        let body = match tokio::time::timeout_at(over, body::read(incoming, self.limits.body)).await {
            Ok(body) => body,
            Err(_) => Err(BodyLost::TimedOut),
        };
        Sent::Answer(Answer { status: head.status, headers: head.headers, body, took: begun.elapsed() })
    }

    fn check(&self, url: &Uri) -> Result<(), String> {
        match url.scheme_str() {
            Some("https") if !self.plain => Ok(()),
            Some("http") if self.plain => Ok(()),
            _ => Err("the URL's scheme is not the one that this client was made for".to_owned()),
        }?;
        let authority = url.authority().ok_or("the URL names no host")?;
        if authority.as_str().contains('@') { Err("the URL holds a user name".to_owned()) } else { Ok(()) }
    }
}

/// Longer timeouts are cut to this one: a day.
const LONGEST: Duration = Duration::from_secs(86_400);

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp
}

/// The connection that the request was handed to, if any.
fn tally(connection: &CaptureConnection) -> Option<Arc<Tally>> {
    let mut extensions = Extensions::new();
    connection.connection_metadata().as_ref()?.get_extras(&mut extensions);
    extensions.remove()
}

fn failed(connection: &CaptureConnection, error: &legacy::Error) -> Sent {
    let why = chain(error);
    match tally(connection) {
        None => Sent::NotSent(NotSent { stage: Stage::Connect, why }),
        Some(tally) if !tally.may_have_written() => Sent::NotSent(NotSent { stage: Stage::Closed, why }),
        Some(_) => Sent::Unknown(Unanswered { timed_out: false, why }),
    }
}

/// A request that was handed to a connection may be written at this very moment: the count proves nothing here.
fn timed_out(connection: &CaptureConnection, timeout: Duration) -> Sent {
    let why = format!("no answer within {} ms", timeout.as_millis());
    match tally(connection) {
        None => Sent::NotSent(NotSent { stage: Stage::TimedOut, why }),
        Some(_) => Sent::Unknown(Unanswered { timed_out: true, why }),
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
