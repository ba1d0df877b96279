//! NATS micro (ADR-32): `nats micro ls|info|stats` and any micro client see the services of the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    bus::{Bus, Subscription},
    clock::{TaskScope, rfc3339},
    contract::OperationInfo,
    fault::Fault,
    gate::Gate,
    telemetry::metrics::OperationMetrics,
};

/// What one endpoint has done.
pub(super) struct EndpointStats {
    service: String,
    name: String,
    subject: String,
    queue: &'static str,
    requests: AtomicU64,
    errors: AtomicU64,
    busy_ns: AtomicU64,
    last_error: Mutex<String>,
    pub(super) metrics: OperationMetrics,
}

impl EndpointStats {
    pub(super) fn new(
        operation: &OperationInfo,
        subject: String,
        queue: &'static str,
        metrics: OperationMetrics,
    ) -> EndpointStats {
        EndpointStats {
            service: operation.service.to_string(),
            name: operation.method.to_string(),
            subject,
            queue,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            last_error: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn answered(&self, took: Duration, fault: Option<&Fault>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(fault) = fault {
            self.errors.fetch_add(1, Ordering::Relaxed);
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = fault.to_string();
        }
    }

    pub(super) fn failed(&self, why: &str) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(1, Ordering::Relaxed);
        why.clone_into(&mut self.last_error.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn info(&self) -> Value {
        json!({ "name": self.name, "subject": self.subject, "queue_group": self.queue, "metadata": {} })
    }

    fn stats(&self) -> Value {
        let (requests, busy) = (self.requests.load(Ordering::Relaxed), self.busy_ns.load(Ordering::Relaxed));
        json!({
            "name": self.name,
            "subject": self.subject,
            "queue_group": self.queue,
            "num_requests": requests,
            "num_errors": self.errors.load(Ordering::Relaxed),
            "last_error": *self.last_error.lock().unwrap_or_else(PoisonError::into_inner),
            "processing_time": busy,
            "average_processing_time": busy.checked_div(requests).unwrap_or(0),
        })
    }
}

/// Answers the questions of discovery for one connection, whatever number of rpc services it serves: the broker lets a
/// message be answered once, so a second answerer on the same connection would silence both.
pub struct Discovery {
    bus: Bus,
    id: String,
    name: String,
    started: String,
    endpoints: Mutex<Vec<Arc<EndpointStats>>>,
    begun: OnceCell<()>,
}

impl Discovery {
    /// Of `bus`. It answers once an endpoint is served.
    #[must_use]
    pub fn new(bus: &Bus) -> Arc<Discovery> {
        let gate = bus.gate();
        Arc::new(Discovery {
            bus: bus.clone(),
            id: nuid::next().to_string(),
            name: gate.identity().service().to_string(),
            started: rfc3339(gate.clock().now_ms()),
            endpoints: Mutex::default(),
            begun: OnceCell::new(),
        })
    }

    /// Shows these endpoints as well, and begins to answer where nothing was shown before.
    pub(super) async fn show(
        self: &Arc<Self>,
        endpoints: Vec<Arc<EndpointStats>>,
        scope: &TaskScope,
    ) -> Result<(), Fault> {
        self.shown().extend(endpoints);
        self.begun.get_or_try_init(|| self.begin(scope)).await.copied()
    }

    async fn begin(self: &Arc<Self>, scope: &TaskScope) -> Result<(), Fault> {
        for verb in ["PING", "INFO", "STATS"] {
            let (name, id) = (&self.name, &self.id);
            for subject in [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{id}")] {
                let questions = self.bus.subscribe(&subject, None).await?;
                scope.spawn(Arc::clone(self).answer(questions, verb, scope.clone()));
            }
        }
        Ok(())
    }

    fn shown(&self) -> MutexGuard<'_, Vec<Arc<EndpointStats>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, mut questions: Subscription, verb: &'static str, scope: TaskScope) {
        loop {
            let question = tokio::select! {
                question = questions.next() => question,
                () = scope.stopped() => None,
            };
            let Some(question) = question else { break };
            if let Some(reply_to) = question.reply() {
                let answer = Gate::seal_api(reply_to.to_owned(), self.document(verb).to_string().into());
                if let Err(error) = self.bus.send_only(answer).await {
                    tracing::debug!(%error, "a question of discovery was not answered");
                }
            }
        }
        questions.close().await;
    }

    fn document(&self, verb: &str) -> Value {
        let endpoints = self.shown().clone();
        let services: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.service.as_str()).collect();
        let rpc = services.into_iter().collect::<Vec<_>>().join(", ");
        let mut document = BTreeMap::from([
            ("name", json!(self.name)),
            ("id", json!(self.id)),
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("metadata", json!({ "rpc": rpc })),
            ("type", json!(format!("io.nats.micro.v1.{}_response", verb.to_lowercase()))),
        ]);
        match verb {
            "INFO" => {
                document.insert("description", json!(format!("{rpc} of the mesh")));
                document.insert("endpoints", endpoints.iter().map(|e| e.info()).collect());
            }
            "STATS" => {
                document.insert("started", json!(self.started));
                document.insert("endpoints", endpoints.iter().map(|e| e.stats()).collect());
            }
            _ => {}
        }
        json!(document)
    }
}
