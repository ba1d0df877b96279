//! `/metrics`, `/livez` and `/readyz`: the small HTTP server that Prometheus and an orchestrator ask.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::metrics::{CONTENT_TYPE, Metrics};
use crate::{
    clock::TaskScope,
    fault::{Code, Effect, Fault, Reason},
};

/// Connections at one time; the next waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long a client may take to send its request's head, which also ends idle connections that say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// The pause after a connection that could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Site<R> {
    metrics: Metrics,
    ready: R,
}

/// Serves until `scope` is stopped; answers the address it is bound to (a port of 0 takes a free one).
///
/// `/metrics` is OpenMetrics text; `/livez` says that the process runs; `/readyz` is 200, or 503 with what `ready` says is
/// missing. Give it a scope that outlives the drain of the work, so that a draining process can still be seen.
///
/// # Errors
/// The address is taken ([`Reason::PortInUse`]) or can't be had at all; nothing was started.
pub async fn serve_metrics(
    address: SocketAddr,
    metrics: Metrics,
    ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    scope: &TaskScope,
) -> Result<SocketAddr, Fault> {
    let listener = TcpListener::bind(address).await.map_err(|e| unbound(address, &e))?;
    let bound = listener.local_addr().map_err(|e| unbound(address, &e))?;
    let site = Arc::new(Site { metrics, ready });
    let inner = scope.clone();
    scope.spawn(async move {
        tokio::select! {
            () = inner.stopped() => {}
            () = accept(listener, site, &inner) => {}
        }
    });
    Ok(bound)
}

fn unbound(address: SocketAddr, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::AddrInUse {
        let message = format!(
            "{address}, where /metrics should be, is taken; end the program that has it, or choose another address \
             (port 0 takes a free one)"
        );
        return Fault::new(Code::Unavailable, Effect::None, Reason::PortInUse, message);
    }
    let message = format!(
        "{address}, where /metrics should be, can't be listened on: {error}; choose an address of this machine"
    );
    Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, message)
}

async fn accept<R>(listener: TcpListener, site: Arc<Site<R>>, scope: &TaskScope)
where
    R: Fn() -> Result<(), String> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (site, inner) = (Arc::clone(&site), scope.clone());
                scope.spawn(async move {
                    let _place = place;
                    converse(stream, site, inner).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to /metrics could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<R>(stream: TcpStream, site: Arc<Site<R>>, scope: TaskScope)
where
    R: Fn() -> Result<(), String> + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&site, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = scope.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to /metrics ended early");
    }
}

fn answer<R: Fn() -> Result<(), String>>(site: &Site<R>, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    let (status, media, body) = match path {
        "/metrics" | "/livez" | "/readyz" if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, text, "only GET and HEAD\n".to_owned())
        }
        "/metrics" => (StatusCode::OK, CONTENT_TYPE, site.metrics.encode()),
        "/livez" => (StatusCode::OK, text, "alive\n".to_owned()),
        "/readyz" => match (site.ready)() {
            Ok(()) => (StatusCode::OK, text, "ready\n".to_owned()),
            Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("not ready: {missing}\n")),
        },
        _ => (StatusCode::NOT_FOUND, text, "here are /metrics, /livez and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
    const LIMIT: Duration = Duration::from_secs(10);

    async fn ask(method: Method, address: SocketAddr, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let asking = client.request(request.body(Empty::new()).unwrap());
        let response = tokio::time::timeout(LIMIT, asking).await.unwrap().unwrap();
        let media = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, media, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_over_http_and_ends_with_its_scope() {
        let (scope, metrics) = (TaskScope::new(), Metrics::new());
        metrics.publisher("shop.v1.OrderPlaced").published(Ok(()));
        let connected = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&connected);
        let ready = move || if seen.load(Ordering::Acquire) { Ok(()) } else { Err("no bus".to_owned()) };
        let address = serve_metrics(ANY, metrics, ready, &scope).await.unwrap();

        let (status, media, body) = ask(Method::GET, address, "/metrics").await;
        assert_eq!((status, media.as_str()), (200, CONTENT_TYPE));
        assert!(body.contains("mesh_published_total{message=\"shop.v1.OrderPlaced\",result=\"ok\"} 1\n"), "{body}");
        assert_eq!(ask(Method::GET, address, "/livez").await.0, 200);
        let (status, _, body) = ask(Method::GET, address, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "not ready: no bus\n"));
        connected.store(true, Ordering::Release);
        assert_eq!(ask(Method::GET, address, "/readyz").await.0, 200);
        assert_eq!(ask(Method::HEAD, address, "/metrics").await.2, "");
        assert_eq!(ask(Method::POST, address, "/metrics").await.0, 405);
        assert_eq!(ask(Method::GET, address, "/other").await.0, 404);

        scope.stop();
        tokio::time::timeout(LIMIT, scope.idle()).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let scope = TaskScope::new();
        let taken = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).await.unwrap();
        let fault = serve_metrics(taken, Metrics::new(), || Ok(()), &scope).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::PortInUse);
        let text = fault.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("choose another address"), "{text}");
        assert_eq!(scope.running(), 0);
        drop(holder);
    }
}
