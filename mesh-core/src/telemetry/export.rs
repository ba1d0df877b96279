//! Finished spans to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! A span that ends goes into a bounded queue; one task takes batches from it and sends them. The queue never makes
//! anybody wait: what finds it full is dropped and counted. The SDK's own batch processor is not used: it answers a
//! flush by blocking a thread of the runtime that has to do the flushing, and refuses it when its queue is full.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc as blocking,
    },
    time::Duration,
};

use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::TelemetryResourceDetector,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle, time::Instant};

use super::settings::{LoggingError, Settings};
use crate::clock::TaskScope;

/// Spans that may wait; about a kilobyte each.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(2);
/// How long one batch may take, retries included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the program waits for what is still queued.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dropped guard waits, which blocks its thread.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
/// Failures are logged once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// A running export. Dropping it ends it.
pub(super) struct Export {
    provider: SdkTracerProvider,
    scope: TaskScope,
    task: AbortHandle,
    /// Hangs up when the task has ended. The lock only makes it `Sync`.
    ended: Mutex<blocking::Receiver<()>>,
}

impl Export {
    /// Starts the task that sends spans to `endpoint`.
    pub(super) fn start(endpoint: &str, settings: &Settings) -> Result<Export, LoggingError> {
        if Handle::try_current().is_err() {
            return Err(LoggingError::NoRuntime);
        }
        let resource = resource(settings);
        let mut exporter = exporter(endpoint)?;
        exporter.set_resource(&resource);
        let (sender, queue) = mpsc::channel(QUEUE);
        let overflow = Arc::new(AtomicU64::new(0));
        let (alive, ended) = blocking::channel();
        let scope = TaskScope::new();
        let complaints = Complaints::default();
        let sending = Sending { queue, exporter, overflow: Arc::clone(&overflow), complaints, _alive: alive };
        let stop = scope.clone();
        let task = scope.spawn(sending.run(stop));
        let ratio = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue { sender, overflow })
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        Ok(Export { provider, scope, task, ended: Mutex::new(ended) })
    }

    /// What makes spans.
    pub(super) fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Sends what is queued, for at most [`SHUTDOWN_TIMEOUT`], and ends.
    pub(super) async fn shutdown(&self) {
        self.scope.stop();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.scope.idle()).await.is_err() {
            self.task.abort();
            tracing::warn!(seconds = SHUTDOWN_TIMEOUT.as_secs(), "the last traces could not be exported in time");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.scope.stop();
        // On a runtime of one thread the task can't run while this waits.
        let alone = Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread);
        if !alone {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            // Both answers are an end: the task hung up, or the time is over.
            let _ = ended.recv_timeout(DROP_TIMEOUT);
        }
    }
}

fn resource(settings: &Settings) -> Resource {
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(settings.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
        .with_service_name(settings.service_name.clone())
        .build()
}

/// The exporter for `endpoint`, an address of a collector; its path is `/v1/traces` where it has none.
fn exporter(endpoint: &str) -> Result<SpanExporter, LoggingError> {
    let refused = |why: String| LoggingError::Endpoint { why };
    let mut url = url::Url::parse(endpoint).map_err(|e| refused(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("it holds a credential: set OTEL_EXPORTER_OTLP_HEADERS instead".into()));
    }
    if url.path() == "/" {
        url.set_path("/v1/traces");
    }
    let builder = SpanExporter::builder().with_http().with_endpoint(url.as_str()).with_timeout(EXPORT_TIMEOUT);
    let builder = match url.scheme() {
        "http" => builder.with_http_client(HyperClient::<HttpConnector>::with_default_connector(EXPORT_TIMEOUT, None)),
        "https" => builder.with_http_client(HyperClient::new(https()?, EXPORT_TIMEOUT, None)),
        other => return Err(refused(format!("{other}:// is not http:// or https://"))),
    };
    builder.build().map_err(|e: ExporterBuildError| refused(e.to_string()))
}

fn https() -> Result<hyper_rustls::HttpsConnector<HttpConnector>, LoggingError> {
    let builder = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_platform_verifier(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|e| LoggingError::Endpoint { why: format!("this machine's certificates can't be used: {e}") })?;
    Ok(builder.https_only().enable_http1().build())
}

/// The end of the queue that spans go into.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<SpanData>,
    overflow: Arc<AtomicU64>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.sender.try_send(span).is_err() {
            self.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task: the other end of the queue.
struct Sending {
    queue: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    overflow: Arc<AtomicU64>,
    complaints: Complaints,
    _alive: blocking::Sender<()>,
}

impl Sending {
    async fn run(mut self, scope: TaskScope) {
        let mut batch = Vec::new();
        loop {
            let open = tokio::select! {
                () = scope.stopped() => false,
                open = fill(&mut self.queue, &mut batch) => open,
            };
            if !open {
                break;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.queue.close();
        while !batch.is_empty() || self.queue.recv_many(&mut batch, BATCH).await > 0 {
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let failure = match tokio::time::timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", EXPORT_TIMEOUT.as_secs())),
        };
        let overflow = self.overflow.swap(0, Ordering::Relaxed);
        let lost = overflow + if failure.is_some() { spans } else { 0 };
        if let Some(lost) = self.complaints.due(lost, Instant::now()) {
            let why = failure.unwrap_or_else(|| "more spans ended than could be sent".into());
            tracing::warn!(lost, why, "traces are being lost; work goes on: check the OTLP endpoint");
        }
    }
}

/// Waits for spans until the batch is full or its first span has waited long enough. False: no more will come.
/// Cancel-safe: what it took stands in `batch`.
async fn fill<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>) -> bool {
    if queue.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    let due = Instant::now() + BATCH_DELAY;
    while batch.len() < BATCH {
        let free = BATCH - batch.len();
        match tokio::time::timeout_at(due, queue.recv_many(batch, free)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

/// Says when a loss is to be logged, so that a dead collector does not fill the log.
#[derive(Default)]
struct Complaints {
    lost: u64,
    last: Option<Instant>,
}

impl Complaints {
    /// Adds `lost` spans; gives the sum of all unreported ones when it is time to report.
    fn due(&mut self, lost: u64, now: Instant) -> Option<u64> {
        self.lost += lost;
        let quiet = self.last.is_some_and(|last| now.duration_since(last) < COMPLAINT_INTERVAL);
        if self.lost == 0 || quiet {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_reported_once_a_minute_and_in_full() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(complaints.due(0, at(0)), None);
        assert_eq!(complaints.due(3, at(1)), Some(3));
        assert_eq!(complaints.due(4, at(2)), None);
        assert_eq!(complaints.due(5, at(60)), None);
        assert_eq!(complaints.due(0, at(61)), Some(9));
        assert_eq!(complaints.due(0, at(200)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_its_time_is_over() {
        let (sender, mut queue) = mpsc::channel(QUEUE);
        (0..=BATCH).for_each(|n| sender.try_send(n).unwrap());
        let (began, mut batch) = (Instant::now(), Vec::new());
        assert!(fill(&mut queue, &mut batch).await);
        assert_eq!((batch.len(), began.elapsed()), (BATCH, Duration::ZERO));
        batch.clear();
        assert!(fill(&mut queue, &mut batch).await);
        // The clock of a paused runtime counts in milliseconds.
        assert_eq!((batch.len(), began.elapsed().as_secs()), (1, BATCH_DELAY.as_secs()));
        drop(sender);
        batch.clear();
        assert!(!fill(&mut queue, &mut batch).await);
    }

    #[test]
    fn a_wrong_endpoint_is_refused_without_showing_a_credential() {
        for (endpoint, says) in [
            ("collector", "relative URL"),
            ("grpc://127.0.0.1:4317", "grpc:// is not http://"),
            ("http://user:hunter2@127.0.0.1:4318", "it holds a credential"),
        ] {
            let error = exporter(endpoint).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }
}
