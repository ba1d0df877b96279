//! The listener, its connections, and which path goes where.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::answer::{self, Cut, Reply};
use crate::config::Config;
use crate::control;
use crate::vendor::{Kind, Vendor};

/// How long calls under way may still take once the server is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pause after a connection could not be taken, most likely for want of file descriptors.
const BREATH: Duration = Duration::from_millis(10);

/// Why a server can't be had. Nothing has been served.
#[derive(Debug, Error)]
pub enum Error {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}; choose another with --listen, or port 0 for a free one")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The line that tells the address could not be written.
    #[error("can't write the address to standard output: {0}")]
    Announce(#[source] io::Error),
}

/// Both vendors.
pub(crate) struct Vendors {
    pub(crate) stripe: Arc<Vendor>,
    pub(crate) courier: Arc<Vendor>,
}

/// A server that listens, and serves once it is told to.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    vendors: Arc<Vendors>,
}

/// Begins to listen.
///
/// # Errors
/// The address is taken or not of this machine.
pub async fn bind(config: Config) -> Result<Server, Error> {
    let at = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(at)?;
    let local_addr = listener.local_addr().map_err(at)?;
    let vendor = |kind, one| Arc::new(Vendor::new(kind, one, config.seed, config.clock.clone()));
    let vendors =
        Vendors { stripe: vendor(Kind::Stripe, &config.stripe), courier: vendor(Kind::Courier, &config.courier) };
    Ok(Server { listener, local_addr, vendors: Arc::new(vendors) })
}

impl Server {
    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is ready. Calls under way get a second more; then their connections are dropped.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let connections = GracefulShutdown::new();
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                taken = self.listener.accept() => match taken {
                    Ok((stream, _)) => {
                        tasks.spawn(talk(stream, Arc::clone(&self.vendors), connections.watcher()));
                    }
                    Err(_) => tokio::time::sleep(BREATH).await,
                },
                Some(_) = tasks.join_next() => {}
                () = &mut shutdown => break,
            }
        }
        drop(self.listener);
        // Out of time is no failure: the set aborts what is left when it is dropped.
        let _ = tokio::time::timeout(LAST_ANSWERS, connections.shutdown()).await;
    }
}

async fn talk(stream: TcpStream, vendors: Arc<Vendors>, watcher: hyper_util::server::graceful::Watcher) {
    // Small answers must not wait for each other.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| route(Arc::clone(&vendors), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // How a connection ends is the client's affair, or was wished for (`Cut`).
    let _ = watcher.watch(connection).await;
}

async fn route(vendors: Arc<Vendors>, request: Request<Incoming>) -> Result<Reply, Cut> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    match (&parts.method, path) {
        (&Method::POST, "/v1/charges") => vendors.stripe.act(&parts, body).await,
        (&Method::GET, "/v1/charges") => vendors.stripe.look_up(&parts, body).await,
        (&Method::GET, _) if path.starts_with("/v1/charges/") => vendors.stripe.look_up(&parts, body).await,
        (&Method::POST, "/send") => vendors.courier.act(&parts, body).await,
        (&Method::GET, "/_health") => Ok(answer::value(200, &json!({"status": "ok"}))),
        _ if path.starts_with("/_") => control::answer(&vendors, &parts, body).await,
        _ if path.starts_with("/v1/") => Ok(crate::stripe::missing("Unrecognized request URL.")),
        _ => Ok(answer::value(404, &json!({"message": "Not Found", "type": "invalid_request_error"}))),
    }
}
