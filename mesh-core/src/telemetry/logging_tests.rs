//! Lines as they are written, and traces as a collector on loopback receives them.

use std::{
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span as OtlpSpan, span::SpanKind},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{clock::TaskScope, envelope::TraceContext};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn written_by(settings: &Settings, terminal: bool, act: impl FnOnce()) -> String {
    let written = Written::default();
    let writer = written.clone();
    let (dispatch, _guard) = begin(settings, terminal, move || writer.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, act);
    written.text()
}

#[test]
fn a_terminal_gets_coloured_text_and_everything_else_json() {
    let settings = Settings::new("shop");
    let say = || tracing::info!(order = 7, "placed");
    let text = written_by(&settings, true, say);
    assert!(text.contains("placed") && text.contains("\u{1b}[") && text.lines().count() == 1, "{text:?}");
    let plain = written_by(&Settings { colour: false, ..settings.clone() }, true, say);
    assert!(plain.contains("order=7") && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = written_by(&Settings { format: Format::Text, ..settings.clone() }, false, say);
    assert!(piped.contains("order=7") && !piped.contains('\u{1b}'), "{piped:?}");
    let json: serde_json::Value = serde_json::from_str(&written_by(&settings, false, say)).unwrap();
    assert_eq!((json["message"].as_str(), json["order"].as_i64()), (Some("placed"), Some(7)));
}

#[test]
fn the_filter_holds_and_a_wrong_one_is_named() {
    let warn = Settings { log_filter: "warn".into(), ..Settings::new("shop") };
    assert_eq!(written_by(&warn, false, || tracing::info!("not wanted")), "");
    let wrong = Settings { log_filter: "mesh_core=loud".into(), ..Settings::new("shop") };
    let error = begin(&wrong, false, std::io::sink).err().unwrap().to_string();
    assert!(error.contains("mesh_core=loud") && error.contains("mesh_core=debug"), "{error}");
}

#[test]
fn traces_without_a_runtime_are_refused() {
    let settings = Settings { otlp_endpoint: Some("http://127.0.0.1:4318".into()), ..Settings::new("shop") };
    assert!(matches!(begin(&settings, false, std::io::sink), Err(LoggingError::NoRuntime)));
}

/// A collector that hands on every request it gets.
async fn collector(scope: &TaskScope) -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    scope.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    sender.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
                    Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
                }
            });
            // The client closes the connection when it likes.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (address, received)
}

async fn next(received: &mut mpsc::UnboundedReceiver<ExportTraceServiceRequest>) -> ExportTraceServiceRequest {
    tokio::time::timeout(Duration::from_secs(10), received.recv()).await.expect("nothing exported").unwrap()
}

fn spans_of(request: &ExportTraceServiceRequest) -> Vec<&OtlpSpan> {
    request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect()
}

#[tokio::test]
async fn one_trace_goes_on_across_the_queue() {
    let scope = TaskScope::new();
    let (address, mut received) = collector(&scope).await;
    let settings = Settings { otlp_endpoint: Some(format!("http://{address}")), ..Settings::new("payments") };
    let (dispatch, guard) = begin(&settings, false, std::io::sink).unwrap();
    let given = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let sent = tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::debug_span!("consume", otel.kind = "consumer", messaging.system = "nats");
        trace::adopt(&span, given);
        span.in_scope(|| {
            tracing::debug_span!("vendor.call").in_scope(|| tracing::info!("charged"));
            trace::outgoing(Some(given))
        })
    });
    guard.shutdown().await;

    let request = next(&mut received).await;
    let named = &request.resource_spans[0].resource.as_ref().unwrap().attributes;
    let service = named.iter().find(|a| a.key == "service.name").and_then(|a| a.value.as_ref()?.value.clone());
    assert_eq!(service, Some(Value::StringValue("payments".into())));
    let spans = spans_of(&request);
    let find = |name: &str| spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no span {name}"));
    let (consume, call) = (find("consume"), find("vendor.call"));
    assert_eq!(consume.trace_id, given.trace_id().to_be_bytes());
    assert_eq!(consume.parent_span_id, given.span_id().to_be_bytes());
    assert_eq!(consume.kind(), SpanKind::Consumer);
    assert_eq!((&call.trace_id, &call.parent_span_id), (&consume.trace_id, &consume.span_id));
    assert_eq!(call.events.len(), 1);
    assert_eq!((sent.trace_id(), sent.is_sampled()), (given.trace_id(), true));
    assert_eq!(sent.span_id().to_be_bytes().to_vec(), consume.span_id);
}

#[tokio::test]
async fn a_trace_that_its_sender_does_not_record_is_not_recorded_here() {
    let scope = TaskScope::new();
    let (address, mut received) = collector(&scope).await;
    let settings = Settings { otlp_endpoint: Some(format!("http://{address}/")), ..Settings::new("payments") };
    let (dispatch, guard) = begin(&settings, false, std::io::sink).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        let silent = tracing::info_span!("silent");
        trace::adopt(&silent, TraceContext::root(false));
        silent.in_scope(|| {});
        tracing::info_span!("said").in_scope(|| {});
    });
    guard.shutdown().await;
    let request = next(&mut received).await;
    let names: Vec<_> = spans_of(&request).iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["said"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_guard_sends_what_is_queued() {
    let scope = TaskScope::new();
    let (address, mut received) = collector(&scope).await;
    let settings = Settings { otlp_endpoint: Some(format!("http://{address}")), ..Settings::new("payments") };
    let (dispatch, guard) = begin(&settings, false, std::io::sink).unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::info_span!("last").in_scope(|| {}));
    drop(guard);
    assert_eq!(spans_of(&next(&mut received).await)[0].name, "last");
}

#[tokio::test(start_paused = true)]
async fn a_silent_collector_stops_neither_work_nor_the_end_and_is_named_once() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let settings = Settings { otlp_endpoint: Some(endpoint), ..Settings::new("payments") };
    let written = Written::default();
    let writer = written.clone();
    let (dispatch, guard) = begin(&settings, false, move || writer.clone()).unwrap();
    let _default = tracing::dispatcher::set_default(&dispatch);
    for _ in 0..20_000 {
        tracing::info_span!("work").in_scope(|| {});
    }
    let began = tokio::time::Instant::now();
    guard.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(written.text().lines().count() == 1, "{}", written.text());
}

#[tokio::test]
async fn an_absent_collector_costs_one_line_and_no_work() {
    let address = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let settings = Settings { otlp_endpoint: Some(format!("http://{address}")), ..Settings::new("payments") };
    let written = Written::default();
    let writer = written.clone();
    let (dispatch, guard) = begin(&settings, false, move || writer.clone()).unwrap();
    let _default = tracing::dispatcher::set_default(&dispatch);
    tracing::info_span!("work").in_scope(|| {});
    guard.shutdown().await;
    let line: serde_json::Value = serde_json::from_str(&written.text()).unwrap();
    assert_eq!((line["level"].as_str(), line["lost"].as_u64()), (Some("WARN"), Some(1)), "{line}");
    assert!(line["message"].as_str().unwrap().contains("check the OTLP endpoint"), "{line}");
}
