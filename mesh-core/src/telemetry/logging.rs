//! Log lines: for people on a terminal, as JSON elsewhere, always on stderr; and traces where a collector is named.
//!
//! Nothing here reads the environment, but for what the OTLP exporter itself reads by its standard: the headers of its
//! requests (`OTEL_EXPORTER_OTLP_HEADERS`, where a collector's key belongs) and their compression.

use std::{fmt, io::IsTerminal as _};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Dispatch, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _, registry::LookupSpan,
};

use super::{export::Export, trace};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text where stderr is a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One short line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the caller read from its configuration and environment.
#[derive(Clone)]
pub struct Settings {
    /// The name of this service, as traces show it.
    pub service_name: String,
    /// Which lines are wanted, in the words of `RUST_LOG`: `info`, `mesh_core=debug,warn`.
    pub log_filter: String,
    /// How they look.
    pub format: Format,
    /// Whether text may be coloured where stderr is a terminal.
    pub colour: bool,
    /// Where traces go by OTLP over HTTP (`http://127.0.0.1:4318`; `/v1/traces` is added where it has no path).
    /// `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// How many of the traces that begin here are recorded, from 0 to 1. One that came with a message keeps its sender's choice.
    pub sample_ratio: f64,
    /// What else traces say about this process, such as `service.instance.id`.
    pub attributes: Vec<(String, String)>,
}

impl Settings {
    /// The defaults: `info`, text or JSON by what stderr is, no traces.
    #[must_use]
    pub fn new(service_name: impl Into<String>) -> Settings {
        Settings {
            service_name: service_name.into(),
            log_filter: "info".into(),
            format: Format::Auto,
            colour: true,
            otlp_endpoint: None,
            sample_ratio: 1.0,
            attributes: Vec::new(),
        }
    }
}

/// Why logging could not begin. Each says what to do; nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error(
        "the log filter {filter:?} can't be read: {why}; write a level (\"info\") or pairs (\"mesh_core=debug,warn\")"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The OTLP endpoint can't be used. It is not shown, as it may hold a credential.
    #[error("the OTLP endpoint can't be used: {why}; write one like \"http://127.0.0.1:4318\", or none for no traces")]
    Endpoint {
        /// What is wrong with it.
        why: String,
    },
    /// Traces are sent by a task, which needs a runtime.
    #[error("traces need a running tokio runtime: call init inside of one")]
    NoRuntime,
    /// Somebody else takes the lines.
    #[error("logging was begun before in this process: call init once, in main")]
    AlreadyBegun,
}

/// Keeps traces flowing. End it by [`shutdown`](Guard::shutdown); dropping it sends what it can for two seconds.
#[must_use = "dropping the guard ends the export of traces"]
pub struct Guard(Option<Export>);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Guard(exporting)" } else { "Guard" })
    }
}

impl Guard {
    /// Sends the spans that are still queued and ends the export; at most five seconds. Log lines go on.
    pub async fn shutdown(self) {
        if let Some(export) = &self.0 {
            export.shutdown().await;
        }
    }
}

/// Begins logging, and tracing where an endpoint is set, for the whole process. Call it once, inside the runtime.
///
/// # Errors
/// The filter or the endpoint can't be used, there is no runtime for traces, or logging was begun before.
pub fn init(settings: &Settings) -> Result<Guard, LoggingError> {
    let terminal = std::io::stderr().is_terminal();
    let (dispatch, guard) = begin(settings, terminal, std::io::stderr)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LoggingError::AlreadyBegun)?;
    Ok(guard)
}

/// All of [`init`] but the installing.
fn begin<W>(settings: &Settings, terminal: bool, writer: W) -> Result<(Dispatch, Guard), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&settings.log_filter)
        .map_err(|e| LoggingError::Filter { filter: settings.log_filter.clone(), why: e.to_string() })?;
    let export = match settings.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) {
        Some(endpoint) => Some(Export::start(endpoint, settings)?),
        None => None,
    };
    let traces = export.as_ref().map(|export| {
        trace::turn_on();
        spans(export.provider().tracer("mesh")).with_filter(exported())
    });
    let lines = lines(settings, terminal, writer).with_filter(filter);
    let subscriber = Registry::default().with(traces).with(lines);
    Ok((Dispatch::new(subscriber), Guard(export)))
}

fn lines<S, W>(settings: &Settings, terminal: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let text = match settings.format {
        Format::Auto => terminal,
        Format::Text => true,
        Format::Json => false,
    };
    // A closed stderr must not end the work: the layer would report it on stderr, and that panics.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    if text {
        layer.compact().with_ansi(terminal && settings.colour).boxed()
    } else {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).with_ansi(false).boxed()
    }
}

/// Spans as OpenTelemetry sees them, without what costs time and tells nobody anything: threads, lines, busy time.
fn spans<S>(tracer: SdkTracer) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    OpenTelemetryLayer::new(tracer)
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_threads(false)
        .with_location(false)
}

/// The mesh's own spans, a service's from INFO up, and nothing of what the export itself runs on.
fn exported() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("mesh_core", LevelFilter::DEBUG)
        .with_targets(["hyper", "h2", "rustls", "opentelemetry"].map(|target| (target, LevelFilter::OFF)))
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
