//! A vendor on this machine, for tests of the floors above.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::clock::TaskScope;

/// A vendor that runs until it is dropped with the test's runtime.
pub(crate) struct Vendor {
    /// Its base URL.
    pub(crate) url: String,
    /// How many calls it had.
    pub(crate) calls: Arc<AtomicUsize>,
}

/// A vendor that answers every call with what `answer` says of its number. Every call must carry its trace.
pub(crate) async fn vendor(answer: impl Fn(usize) -> Response<&'static str> + Clone + Send + Sync + 'static) -> Vendor {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, tasks) = (Arc::clone(&calls), TaskScope::new());
    tasks.clone().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn(serve(stream, answer.clone(), Arc::clone(&counted)));
        }
    });
    Vendor { url, calls }
}

async fn serve(
    stream: TcpStream,
    answer: impl Fn(usize) -> Response<&'static str> + Clone + Send + 'static,
    calls: Arc<AtomicUsize>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, calls) = (answer.clone(), Arc::clone(&calls));
        async move {
            assert_eq!(request.headers()["traceparent"].len(), 55);
            request.into_body().collect().await.unwrap();
            let answer = answer(calls.fetch_add(1, Ordering::SeqCst));
            Ok::<_, Infallible>(answer.map(|text| Full::new(Bytes::from_static(text.as_bytes()))))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
