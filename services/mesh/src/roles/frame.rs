//! What every role does around its own work: logging, connection, metrics, readiness, drain.

use std::io::Write as _;

use mesh_core::Mesh;
use mesh_core::clock::TaskScope;
use mesh_core::config::Environment;
use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::telemetry::{self, metrics::Metrics};
use serde_json::{Value, json};

/// A role at work.
pub(super) struct Frame {
    /// Its place in the mesh.
    pub(super) mesh: Mesh,
    /// Ends with the process; outlives the drain, so that a draining process can still be seen.
    scope: TaskScope,
    metrics_address: Option<String>,
    logging: Option<telemetry::Guard>,
}

impl Frame {
    /// Begins logging, connects as `service`, and serves metrics where `MESH_METRICS_ADDR` says so.
    pub(super) async fn begin(service: &str, environment: &Environment) -> Result<Frame, Fault> {
        let logging = begin_logging(service, environment)?;
        let metrics = Metrics::new();
        let mesh = Mesh::builder(service).environment(environment).metrics(metrics.clone()).connect().await?;
        let scope = TaskScope::new();
        let metrics_address = match environment.get("MESH_METRICS_ADDR") {
            Some(address) => Some(serve_metrics(address, metrics, &mesh, &scope).await?),
            None => None,
        };
        Ok(Frame { mesh, scope, metrics_address, logging })
    }

    /// Tells whoever started this process that it works.
    pub(super) fn ready(&self) -> Result<(), Fault> {
        let service = self.mesh.identity().service().as_str();
        tracing::info!(service, "ready");
        say(&json!({ "ready": service, "metrics": self.metrics_address }))
    }

    /// Works until the process is told to stop, drains, and sends what is left to be said.
    pub(super) async fn run_until_stopped(self) {
        self.mesh.run_until_stopped().await;
        self.end().await;
    }

    /// Drains at once.
    pub(super) async fn drain(self) {
        self.mesh.drain().await;
        self.end().await;
    }

    async fn end(self) {
        self.scope.stop();
        if let Some(logging) = self.logging {
            logging.shutdown().await;
        }
    }
}

/// One line for whoever started this process.
pub(super) fn say(line: &Value) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| Fault::unavailable(format!("standard output is closed: {error}")))
}

fn begin_logging(service: &str, environment: &Environment) -> Result<Option<telemetry::Guard>, Fault> {
    let mut settings = telemetry::Settings::new(service);
    settings.log_filter = environment.get("RUST_LOG").unwrap_or("info").to_owned();
    settings.colour = environment.get("NO_COLOR").is_none();
    settings.otlp_endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT").map(str::to_owned);
    settings.attributes = vec![("service.instance.id".to_owned(), format!("{service}-{}", std::process::id()))];
    match telemetry::init(&settings) {
        Ok(guard) => Ok(Some(guard)),
        Err(telemetry::LoggingError::AlreadyBegun) => Ok(None),
        Err(error) => Err(Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, error.to_string())),
    }
}

async fn serve_metrics(address: &str, metrics: Metrics, mesh: &Mesh, scope: &TaskScope) -> Result<String, Fault> {
    let parsed = address.parse().map_err(|error| {
        let message = format!("MESH_METRICS_ADDR is {address:?} ({error}); write an address like 127.0.0.1:9100");
        Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, message)
    })?;
    let bus = mesh.bus().clone();
    let ready = move || if bus.link_state().is_connected { Ok(()) } else { Err("the bus is not reached".to_owned()) };
    let bound = telemetry::serve_metrics(parsed, metrics, ready, scope).await?;
    Ok(bound.to_string())
}
