//! The answering side: an endpoint loop of our own, since NATS micro's has no limit, deadline or shedding.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use super::discovery::{Discovery, EndpointStats};
use crate::{
    bus::{Bus, Subscription},
    clock::TaskScope,
    contract::{Context, Facts, OperationInfo, Service},
    envelope::Envelope,
    fault::{Code, Effect, Fault, Reason},
    gate::{Opened, Unopened},
    subject::WIRE,
    telemetry::{metrics::Metrics, trace},
};

/// One of the responders of an operation gets each call.
const QUEUE: &str = "mesh";

/// Limits of answering.
#[derive(Debug, Clone)]
pub struct ResponderSettings {
    /// Calls that are handled at once; one more is refused as overloaded.
    pub concurrency: usize,
}

impl Default for ResponderSettings {
    fn default() -> ResponderSettings {
        ResponderSettings { concurrency: 1024 }
    }
}

/// Answers the calls of one rpc service.
pub struct Responder {
    bus: Bus,
    service: Arc<dyn Service>,
    permits: Arc<Semaphore>,
    scope: TaskScope,
}

impl Responder {
    /// Begins to answer, in tasks of `scope`, until it stops. When this returns, the broker knows of it.
    ///
    /// # Errors
    /// The bus can't be reached.
    pub async fn start(
        bus: &Bus,
        service: Arc<dyn Service>,
        settings: &ResponderSettings,
        about: (&Metrics, &TaskScope, &Arc<Discovery>),
    ) -> Result<(), Fault> {
        let (metrics, scope, discovery) = about;
        let responder = Arc::new(Responder {
            bus: bus.clone(),
            permits: Arc::new(Semaphore::new(settings.concurrency)),
            scope: scope.clone(),
            service,
        });
        let mut endpoints = Vec::new();
        for operation in responder.service.operations() {
            let region = bus.gate().identity().region();
            let subject = format!("{WIRE}.call.{region}.{}.{}.*", operation.service, operation.method);
            let calls = bus.subscribe(&subject, Some(QUEUE)).await?;
            let counted = metrics.operation(&operation.full_name());
            let stats = Arc::new(EndpointStats::new(&operation, subject, QUEUE, counted));
            endpoints.push(Arc::clone(&stats));
            scope.spawn(Arc::clone(&responder).answer_all(calls, operation, stats));
        }
        discovery.show(endpoints, scope).await?;
        bus.round_trip(std::time::Duration::from_secs(5)).await.map_err(|e| e.into_fault("the subscription"))
    }

    async fn answer_all(self: Arc<Self>, mut calls: Subscription, operation: OperationInfo, stats: Arc<EndpointStats>) {
        let operation = Arc::new(operation);
        loop {
            let call = tokio::select! {
                call = calls.next() => call,
                () = self.scope.stopped() => break,
            };
            let Some(call) = call else { return };
            self.take(call, &operation, &stats).await;
        }
        // What the broker had sent already is still answered.
        calls.close().await;
        let _ = self.bus.round_trip(std::time::Duration::from_secs(2)).await;
        while let Some(Some(call)) = calls.next().now_or_never() {
            self.take(call, &operation, &stats).await;
        }
    }

    async fn take(self: &Arc<Self>, call: Unopened, operation: &Arc<OperationInfo>, stats: &Arc<EndpointStats>) {
        let opened = call.open();
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => {
                let (responder, operation, stats) = (Arc::clone(self), Arc::clone(operation), Arc::clone(stats));
                self.scope.spawn(responder.answer_one(opened, operation, stats, permit));
            }
            Err(_) => {
                stats.failed("overloaded");
                let fault = Fault::new(
                    Code::ResourceExhausted,
                    Effect::None,
                    Reason::Overloaded,
                    format!("{} has no free place; try again later or start another replica", operation.full_name()),
                );
                self.reply(&opened, Err(self.signed(fault, operation))).await;
            }
        }
    }

    async fn answer_one(
        self: Arc<Self>,
        opened: Opened,
        operation: Arc<OperationInfo>,
        stats: Arc<EndpointStats>,
        _permit: OwnedSemaphorePermit,
    ) {
        let started = tokio::time::Instant::now();
        let span = tracing::debug_span!("mesh.respond", otel.kind = "server", operation = %operation.method);
        if let Some(parent) = opened.envelope.trace {
            trace::adopt(&span, parent);
        }
        let answer = self.handle(&opened, &operation).instrument(span).await;
        stats.answered(started.elapsed(), answer.as_ref().err());
        stats.metrics.served(answer.as_ref().map(drop), started.elapsed());
        self.reply(&opened, answer.map_err(|fault| self.signed(fault, &operation))).await;
    }

    async fn handle(&self, opened: &Opened, operation: &OperationInfo) -> Result<Bytes, Fault> {
        if let Some(refusal) = &opened.refusal {
            return Err(refusal.clone());
        }
        let envelope = &opened.envelope;
        let clock = self.bus.gate().clock();
        let Some(deadline) = envelope.note.deadline else {
            return self.run(envelope, operation).await;
        };
        let remaining = deadline.remaining(clock);
        if remaining.is_zero() {
            let message = "its deadline had passed when it came";
            return Err(Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message));
        }
        match tokio::time::timeout(remaining, self.run(envelope, operation)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::new(
                Code::DeadlineExceeded,
                Effect::Unknown,
                Reason::CallTimedOut,
                "the handler was not done at the deadline",
            )),
        }
    }

    async fn run(&self, envelope: &Envelope, operation: &OperationInfo) -> Result<Bytes, Fault> {
        let cx = context(envelope);
        let handling = self.service.dispatch(&operation.method, cx, envelope.payload.clone());
        AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(|_| {
            Err(Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerPanicked, "the handler panicked"))
        })
    }

    async fn reply(&self, opened: &Opened, answer: Result<Bytes, Fault>) {
        let Some(reply_to) = opened.reply.as_deref() else {
            tracing::debug!(caller = opened.envelope.caller, "a call without a reply subject: nobody is told");
            return;
        };
        let sealed = self.bus.gate().seal_reply(&opened.envelope.caller, reply_to, answer.as_ref().cloned());
        let sent = match sealed {
            Ok(sealed) => self.bus.send_only(sealed).await.map_err(|error| error.into_fault("the answer")),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = sent {
            tracing::warn!(%fault, caller = opened.envelope.caller, "a call was not answered");
        }
    }

    fn signed(&self, fault: Fault, operation: &OperationInfo) -> Fault {
        let mut origin = fault.origin().clone();
        if origin.operation.is_empty() {
            origin.operation = operation.full_name();
        }
        fault.with_origin(origin).raised_by(self.bus.gate().identity().service().as_str())
    }
}

/// What a handler is told about a call.
fn context(envelope: &Envelope) -> Context {
    let key = envelope.idempotency_key();
    // A call's id is its key, where the caller's own name begins it as it begins the id of whatever else it sends.
    let id = key.strip_prefix(envelope.caller.as_str()).filter(|rest| rest.starts_with('/')).map_or("", |_| key);
    Context::new(Facts {
        message_id: id.to_owned(),
        caller: envelope.caller.clone(),
        idempotency_key: key.to_owned(),
        attempt: envelope.attempt(),
        deadline: envelope.note.deadline,
        trace: trace::outgoing(envelope.trace),
        fence: None,
        is_call: true,
    })
}
