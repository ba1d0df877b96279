//! One attempt, from the delivery to its settlement, to be read from top to bottom.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use mesh_proto::v1;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{
    age::free_of,
    feed::InHand,
    inbox::Trial,
    lease::Lease,
    targets::Shelf,
    tenure::{Tenure, lost},
    worker::Worker,
};
use crate::{
    claim::{self, Reader},
    clock::patient_delays,
    contract::{Context, Facts},
    delayed::attempts_of,
    envelope::{Envelope, TargetWait, TraceContext},
    fault::{Code, Effect, Fault, Reason, crash_point},
    gate::{Opened, Unopened},
    policy::retry::{self, Failure, RetryRule, Verdict, Why},
    telemetry::trace,
};

/// How an attempt ended, before anything is done about it.
#[derive(Clone)]
pub(super) enum Ended {
    /// Done; for an operation, the reply's bytes.
    Done(Bytes),
    /// It was answered with no: done as well.
    Refused(Fault),
    /// Again, when it is due (Unix milliseconds).
    Again { due_ms: i64, attempt: u32 },
    /// Not begun: the same attempt again, when it is due (Unix milliseconds). `turn` tells it from every other time that the same
    /// delivery is put aside, where that is remembered. `shelf`: who may call it back before. `waits`: of what was never begun, how
    /// long its target keeps it waiting.
    PutAside { due_ms: i64, turn: String, shelf: Option<Shelf>, waits: Option<TargetWait> },
    /// To the letters.
    DeadLetter(Fault),
    /// Back to the broker, as if it had not been begun.
    HandedBack,
    /// Back to the broker: its handler was cut off in the middle, and may have acted.
    CutOff,
    /// A later copy of it is at work, or it was settled before: only the ack is missing.
    Overtaken,
    /// The same id was sent before, with this sequence in its stream, and that one carries both: what is to be said is that it is so.
    SentAgain { first: u64 },
    /// Another process went on with it while this one was silent, and settles it.
    TakenOver,
}

impl Ended {
    /// The same, where it is put aside: for so long its target has kept it waiting.
    pub(super) fn waiting(mut self, so_far: Option<TargetWait>) -> Ended {
        if let Ended::PutAside { waits, .. } = &mut self {
            *waits = so_far;
        }
        self
    }
}

impl Worker {
    /// Handles one delivery: gate, grant, permit, limits, handler, verdict, settlement.
    pub(super) async fn attempt(self: Arc<Self>, delivery: Unopened, reply: Arc<str>, lease: Lease, _here: InHand) {
        let Opened { mut envelope, refusal, .. } = delivery.open();
        let mut attempts = attempts_of(&envelope);
        // What is over its limits is a letter at once, however long it would have to wait for its turn.
        let is_refused = refusal.is_some();
        let granted = match refusal.or_else(|| self.over_its_limits(&envelope)) {
            Some(fault) => Err(Ended::DeadLetter(fault)),
            None => tokio::select! {
                biased;
                () = self.scope.stopped() => Err(Ended::HandedBack),
                granted = async {
                    self.bring(&mut envelope).await.map_err(Ended::DeadLetter)?;
                    self.grant(&envelope).await
                } => granted,
            },
        };
        let granted = match granted {
            Ok(granted) => granted,
            Err(mut ended) => {
                if !is_refused {
                    let trace = envelope.trace.unwrap_or_else(|| TraceContext::root(false));
                    let (attempts, lease) = (&mut attempts, &lease);
                    let trial = Trial { envelope: &envelope, attempts, trace, lease, tenure: None };
                    ended = self.not_begun(trial, ended).await;
                }
                self.settle(&envelope, (&reply, Some(&lease)), (ended, attempts), Instant::now()).await;
                return;
            }
        };
        let Some(_permit) = self.place().await else {
            Box::pin(self.hand_over_back(&envelope, (&reply, Some(&lease)), false)).await;
            return;
        };
        let in_flight = self.metrics.begin();
        let span = tracing::debug_span!(
            "mesh.consume",
            consumer = %self.lane.consumer,
            message_id = envelope.message_id,
            attempt = envelope.attempt()
        );
        let trace = envelope.trace.unwrap_or_else(|| TraceContext::root(false));
        trace::adopt(&span, trace);
        let started = Instant::now();
        async {
            let trial = Trial { envelope: &envelope, attempts: &mut attempts, trace, lease: &lease, tenure: None };
            let ended = self.run(trial).await;
            crash_point("attempt.handled");
            self.learn(granted, &ended, (&attempts, lease.has_begun()));
            self.settle(&envelope, (&reply, Some(&lease)), (ended, attempts), started).await;
        }
        .instrument(span)
        .await;
        drop((lease, in_flight));
    }

    /// How one attempt of an ordered consumer ends, and every attempt so far: nothing is settled yet.
    pub(super) async fn end_of(
        &self,
        envelope: &Envelope,
        refusal: Option<Fault>,
        (trace, lease, tenure): (TraceContext, &Lease, Tenure<'_>),
    ) -> (Ended, v1::Attempts) {
        let mut attempts = attempts_of(envelope);
        let ended = match refusal {
            Some(refusal) => Ended::DeadLetter(refusal),
            None => {
                let tenure = Some(tenure);
                self.run(Trial { envelope, attempts: &mut attempts, trace, lease, tenure }).await
            }
        };
        (ended, attempts)
    }

    /// A permit, once the admission is open. `None`: the service drains.
    async fn place(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let permit = tokio::select! {
            biased;
            () = self.scope.stopped() => return None,
            permit = self.permits.acquire() => permit.ok()?,
        };
        while let Some(closed) = self.settings.admission.closed_for() {
            tokio::select! {
                () = self.scope.stopped() => return None,
                () = tokio::time::sleep(closed) => {}
            }
        }
        Some(permit)
    }

    /// The limits, what is remembered of it, the handler.
    async fn run(&self, trial: Trial<'_>) -> Ended {
        let unbegun = self.over_its_limits(trial.envelope).map(Ended::DeadLetter);
        if self.is_remembered(trial.envelope) {
            return Box::pin(self.try_remembered(trial, unbegun)).await;
        }
        if let Some(ended) = unbegun {
            return ended;
        }
        self.try_unwritten(trial).await
    }

    pub(super) async fn try_once(&self, trial: Trial<'_>) -> Ended {
        let Trial { envelope, attempts, trace, lease, tenure } = trial;
        // It may have waited for its place or its record until another process owns it.
        if tenure.is_some_and(|tenure| !(tenure.is_live)()) {
            return Ended::HandedBack;
        }
        let clock = self.bus.gate().clock();
        let (started_at_ms, started) = (clock.now_ms(), Instant::now());
        let at_work = lease.begin(self.settings.handler_limit);
        let handled = tokio::select! {
            biased;
            handled = self.handle(envelope, trace) => handled,
            () = self.abort.stopped() => return Ended::CutOff,
            () = lost(tenure) => return Ended::CutOff,
        };
        drop(at_work);
        let fault = match handled {
            Ok(reply) => match self.bus.gate().check_size("the reply", reply.len()) {
                Ok(()) => return Ended::Done(reply),
                Err(fault) => {
                    let message = format!("it was done, and its outcome can't be announced: {}", fault.message());
                    self.signed(Fault::new(Code::InvalidArgument, Effect::Done, Reason::TooLarge, message), envelope)
                }
            },
            Err(fault) => self.signed(fault, envelope),
        };
        attempts.attempts.push(v1::Attempt {
            number: envelope.attempt(),
            started_at_ms,
            duration_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            fault: Some((&fault).into()),
        });
        self.judge(envelope, fault, attempts)
    }

    /// Brings payload and headers of a copy that lie apart. While the bus does not give them, the copy waits here, leased, and
    /// says so.
    ///
    /// # Errors
    /// They are gone: a letter of its own, with what is known.
    pub(super) async fn bring(&self, envelope: &mut Envelope) -> Result<(), Fault> {
        let Some(claim) = envelope.claim().cloned() else { return Ok(()) };
        let mut delays = patient_delays();
        loop {
            match claim::fetch(&self.bus, self.lane.owner(), &claim, Reader::Owner).await {
                Ok(apart) => {
                    envelope.take_in(apart);
                    return Ok(());
                }
                Err(fault) if fault.reason() == Reason::ClaimMissing => return Err(self.signed(fault, envelope)),
                Err(fault) => tracing::warn!(
                    %fault,
                    message_id = envelope.message_id,
                    consumer = %self.lane.consumer,
                    "the bytes of a large message can't be had now: it waits (mesh apply makes what is missing)"
                ),
            }
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    /// What is captured before its handler runs.
    fn over_its_limits(&self, envelope: &Envelope) -> Option<Fault> {
        let clock = self.bus.gate().clock();
        if envelope.note.deadline.is_some_and(|deadline| deadline.is_over(clock)) {
            let message = "its deadline had passed before it was handled";
            return Some(Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message));
        }
        let max_attempts = self.retry_rule(envelope).max_attempts;
        if envelope.attempt() > max_attempts {
            let message = format!("attempt {} is over the limit of {max_attempts}", envelope.attempt());
            return Some(Fault::new(Code::Internal, Effect::Unknown, Reason::AttemptsExhausted, message));
        }
        self.comes_too_late(envelope).then(|| {
            // The letter that it would have become had it been known that nobody would be there in time.
            let last = attempts_of(envelope).attempts.pop().and_then(|attempt| attempt.fault).map(Fault::from);
            let unsaid = || Fault::new(Code::Aborted, Effect::Unknown, Reason::OutcomeUnknown, "it came back too late");
            explained(last.unwrap_or_else(unsaid), Why::TooOld)
        })
    }

    /// A retry is ordered within the age that the rule allows, but it may come later than it was ordered: nobody was there.
    fn comes_too_late(&self, envelope: &Envelope) -> bool {
        envelope.attempt() > 1 && envelope.note.lane.is_some() && self.is_key_forgotten(envelope)
    }

    /// The handler, with its time limit and its panics caught.
    async fn handle(&self, envelope: &Envelope, trace: TraceContext) -> Result<Bytes, Fault> {
        let cx = Context::new(Facts {
            message_id: envelope.message_id.clone(),
            caller: envelope.caller.clone(),
            idempotency_key: envelope.idempotency_key().to_owned(),
            attempt: envelope.attempt(),
            deadline: envelope.note.deadline,
            trace: trace::outgoing(Some(trace)),
            fence: envelope.order.as_ref().map(|order| order.fence),
            is_call: false,
        });
        let limit = self.settings.handler_limit;
        let handling = AssertUnwindSafe(self.work.handle(cx, envelope)).catch_unwind();
        match tokio::time::timeout(limit, handling).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                Err(Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerPanicked, "the handler panicked")
                    .with_detail(panic_text(&*panic)))
            }
            Err(_) => Err(Fault::new(
                Code::DeadlineExceeded,
                Effect::Unknown,
                Reason::HandlerTimedOut,
                format!("the handler did not end within {} s", limit.as_secs_f32()),
            )),
        }
    }

    fn judge(&self, envelope: &Envelope, fault: Fault, attempts: &v1::Attempts) -> Ended {
        let clock = self.bus.gate().clock();
        let failure = Failure {
            fault: &fault,
            attempt: envelope.attempt(),
            free: free_of(attempts, envelope.attempt()),
            repeat: self.work.repeat(envelope),
            age: self.age(envelope),
            remaining: envelope.note.deadline.map(|deadline| deadline.remaining(clock)),
        };
        match retry::decide(self.retry_rule(envelope), &failure, fastrand::f64()) {
            // An event has no requester to whom a no could go: it is a refusal like others.
            Verdict::Answered if self.work.operation(envelope).is_none() => Ended::DeadLetter(fault),
            Verdict::Answered => Ended::Refused(fault),
            Verdict::Delay { delay, attempt } => {
                let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
                Ended::Again { due_ms: clock.now_ms().saturating_add(delay_ms), attempt }
            }
            Verdict::DeadLetter(why) => Ended::DeadLetter(explained(fault, why)),
        }
    }

    /// The rule of the operation, else that of the consumer.
    pub(super) fn retry_rule(&self, envelope: &Envelope) -> &RetryRule {
        let of_operation = match self.settings.retry_of.is_empty() {
            true => None,
            false => self.work.operation(envelope).and_then(|(_, method)| self.settings.retry_of.get(method)),
        };
        of_operation.unwrap_or(&self.settings.retry)
    }

    fn signed(&self, fault: Fault, envelope: &Envelope) -> Fault {
        let mut origin = fault.origin().clone();
        if let (true, Some((service, method))) = (origin.operation.is_empty(), self.work.operation(envelope)) {
            origin.operation = format!("{service}/{method}");
        }
        fault.with_origin(origin).raised_by(self.lane.service.as_str())
    }
}

/// The letter's fault is the last attempt's, with why there is no further one.
fn explained(fault: Fault, why: Why) -> Fault {
    match (why, why.explain()) {
        (_, None) => fault,
        (Why::Parked, Some(note)) => fault.with_note(&format!("parked: {note}")),
        (_, Some(note)) => fault.with_note(note),
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}
