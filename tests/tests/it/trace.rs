//! One trace from the order to the vendor's call, across two queues and four processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_core::clock::TaskScope;
use mesh_tests::mesh_binary;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message as _;

type Spans = Arc<Mutex<Vec<(String, Span)>>>;

/// A collector of traces on a free port.
async fn collector(tasks: &TaskScope) -> (String, Spans) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Spans::default();
    let into = Arc::clone(&spans);
    let each = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let into = Arc::clone(&into);
            let service = service_fn(move |request| take(request, Arc::clone(&into)));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A sender that goes away in the middle is no concern of the collector.
            each.spawn(async move { drop(connection.await) });
        }
    });
    (url, spans)
}

async fn take(request: Request<Incoming>, into: Spans) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    if let Ok(export) = ExportTraceServiceRequest::decode(body) {
        let mut into = into.lock().unwrap();
        for resource in export.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let name = attributes.into_iter().find(|a| a.key == "service.name").and_then(|a| a.value);
            let name = name.map(|value| format!("{value:?}")).unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            into.extend(spans.map(|span| (name.clone(), span)));
        }
    }
    Ok(Response::new(Full::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_from_the_order_to_the_vendors_call() {
    let (url, spans) = collector(&TaskScope::new()).await;
    let state = tempfile::tempdir().unwrap();
    let demo = tokio::process::Command::new(mesh_binary())
        .args(["demo", "--orders", "5", "-o", "json"])
        .env("XDG_STATE_HOME", state.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(Duration::from_secs(90), demo).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let spans = spans.lock().unwrap();
    let mut traces: BTreeMap<&[u8], Vec<&(String, Span)>> = BTreeMap::new();
    for entry in spans.iter() {
        traces.entry(&entry.1.trace_id).or_default().push(entry);
    }
    let complete = traces.values().filter(|trace| {
        let calls = trace.iter().filter(|(_, span)| span.name == "vendor.call").count();
        calls == 2 && trace.iter().any(|(_, span)| span.name == "mesh.publish")
    });
    let complete: Vec<_> = complete.collect();
    assert_eq!(complete.len(), 5, "each order's trace has its publish and both vendors' calls");
    for trace in complete {
        let ids: BTreeSet<&[u8]> = trace.iter().map(|(_, span)| span.span_id.as_slice()).collect();
        let roots: Vec<_> = trace.iter().filter(|(_, span)| !ids.contains(span.parent_span_id.as_slice())).collect();
        assert_eq!(roots.len(), 1, "one tree: {:?}", roots.iter().map(|(_, s)| &s.name).collect::<Vec<_>>());
        let services: BTreeSet<&String> = trace.iter().map(|(service, _)| service).collect();
        assert!(services.len() >= 5, "orders, payments, notifications and both adapters: {services:?}");
    }
}
