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

use super::{
    export::Export,
    settings::{Format, LoggingError, Settings},
    trace,
};

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
