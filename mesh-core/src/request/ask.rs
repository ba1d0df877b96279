//! One call, attempt by attempt, to be read from top to bottom.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{call::CallTarget, retry::Retries};
use crate::{
    bus::{Bus, PublishError},
    clock::Deadline,
    contract::Repeat,
    envelope::{Note, TraceContext, header},
    fault::{Code, Effect, Fault, Reason},
    gate::Opened,
    policy::retry::{Failure, Why, repeat_call},
    telemetry::{metrics::OperationMetrics, trace},
};

/// What is asked, and what is known of it at the start.
pub(super) struct Asking {
    pub(super) bus: Bus,
    pub(super) target: CallTarget,
    pub(super) payload: Bytes,
    pub(super) deadline: Deadline,
    pub(super) trace: Option<TraceContext>,
    /// The local part of its id, where the caller says it.
    pub(super) id: Option<String>,
    /// The attempt that this call is a part of; above 1, whoever repeats is further up, and nothing is repeated here.
    pub(super) within: u32,
    /// `None`: nothing is repeated.
    pub(super) retries: Option<Retries>,
    pub(super) metrics: Option<OperationMetrics>,
}

/// Why there is no further attempt.
enum End {
    /// It is not to be tried again, by rule.
    Decided(Why),
    /// What is not decided by the rule.
    Said(&'static str),
    /// Nothing to say.
    Plain,
}

impl Asking {
    pub(super) async fn ask(&mut self) -> Result<Bytes, Fault> {
        let key = self.key()?;
        let mut note = Note { idempotency_key: key, ..Note::default() };
        let started = Instant::now();
        if let Some(retries) = self.repeating() {
            retries.first_attempt();
        }
        let (mut attempt, mut begun) = (1, started);
        let mut may_have_acted = false;
        loop {
            let fault = match self.once(&mut note, attempt).await {
                Ok(reply) => {
                    self.helped(attempt);
                    return Ok(reply);
                }
                // What an earlier attempt may have done is not undone by a later one that did nothing. An answer is the last word.
                Err(fault) if may_have_acted && fault.effect() == Effect::None && !fault.is_answer() => {
                    fault.with_effect(Effect::Unknown).with_note("an earlier attempt may have acted")
                }
                Err(fault) => fault,
            };
            may_have_acted |= fault.effect() != Effect::None;
            match self.again((&fault, attempt), started, begun.elapsed()) {
                // Dropping the call ends the wait, and with it every further attempt. On the heap: it is rare.
                Ok(delay) => Box::pin(tokio::time::sleep(delay)).await,
                Err(end) => return Err(self.told(fault, attempt, &end)),
            }
            (attempt, begun) = (attempt + 1, Instant::now());
        }
    }

    /// One attempt.
    async fn once(&mut self, note: &mut Note, attempt: u32) -> Result<Bytes, Fault> {
        let payload = self.payload(attempt);
        let clock = self.bus.gate().clock();
        let remaining = self.deadline.remaining(clock);
        if remaining.is_zero() {
            return Err(expired(&self.target));
        }
        let cut = self.attempt_timeout(attempt).filter(|timeout| *timeout < remaining);
        let number = self.within.saturating_add(attempt - 1);
        note.attempt = (number > 1).then_some(number);
        // Not the cut: what the other side sends on is not over with this attempt, and its clock may be ahead of ours.
        note.deadline = Some(self.deadline);
        let trace = trace::outgoing(self.trace);
        let sealed = self.bus.gate().seal_call(self.target.names(), (note, trace), payload)?;
        let answer = self.bus.request(sealed, cut.unwrap_or(remaining)).await;
        read(answer.map_err(|error| unanswered(&self.target, error, cut))?.open())
    }

    /// The payload for this attempt: shared where another may follow, handed over where none can.
    fn payload(&mut self, attempt: u32) -> Bytes {
        let may_follow = self.repeating().is_some_and(|retries| attempt < retries.limits().rule.max_attempts);
        if may_follow { self.payload.clone() } else { std::mem::take(&mut self.payload) }
    }

    /// How long this attempt may take, where another may follow and would do no harm.
    fn attempt_timeout(&self, attempt: u32) -> Option<Duration> {
        let limits = self.repeating()?.limits();
        let may_follow = self.target.repeat().is_safe_when_unknown() && attempt < limits.rule.max_attempts;
        limits.attempt_timeout.filter(|_| may_follow)
    }

    /// Who is asked for repeats; nobody where what caused this call is a retry: then that is the retry.
    fn repeating(&self) -> Option<&Retries> {
        self.retries.as_ref().filter(|_| self.within <= 1)
    }

    /// Sent where the contract calls a repeat safe with it, and where the caller gave an id.
    fn key(&mut self) -> Result<Option<String>, Fault> {
        let is_keyed = self.target.repeat() == Repeat::Keyed;
        match (self.id.take(), is_keyed) {
            (None, false) => Ok(None),
            (id, _) => self.bus.gate().call_key(self.target.names(), id).map(Some),
        }
    }

    /// The delay before the next attempt, or why there is none. `took`: how long the last attempt took. The next one is given
    /// as long, or it is not begun: cut off, it would turn *nothing happened* into *it may have happened*.
    fn again(&self, (fault, attempt): (&Fault, u32), started: Instant, took: Duration) -> Result<Duration, End> {
        let Some(retries) = &self.retries else { return Err(End::Plain) };
        let clock = self.bus.gate().clock();
        let failure = Failure {
            fault,
            attempt,
            // Here each costs an attempt.
            free: 0,
            repeat: self.target.repeat(),
            age: started.elapsed(),
            remaining: Some(self.deadline.remaining(clock).saturating_sub(took)),
        };
        let delay = repeat_call(&retries.limits().rule, &failure, fastrand::f64()).map_err(End::Decided)?;
        if self.within > 1 {
            return Err(End::Said("not repeated here: it was called for what is a retry itself"));
        }
        let granted = retries.draw();
        if let Some(metrics) = &self.metrics {
            metrics.call_retried(granted);
        }
        if !granted {
            return Err(End::Said("not repeated: the budget for repeats of this operation is spent"));
        }
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(operation = %self.target, attempt, delay_ms, %fault, "the call is made again");
        Ok(delay)
    }

    /// What an attempt came to, where it was answered: a repeat that helped costs nothing.
    fn helped(&self, attempt: u32) {
        if attempt > 1 {
            tracing::Span::current().record("attempts", attempt);
            if let Some(retries) = self.repeating() {
                retries.succeeded();
            }
        }
    }

    /// The last attempt's fault, with how many there were and why there is no further one.
    fn told(&self, fault: Fault, attempts: u32, end: &End) -> Fault {
        if fault.is_answer() {
            self.helped(attempts);
        }
        let note = match end {
            End::Decided(why) => why.explain(),
            End::Said(note) => Some(*note),
            End::Plain => None,
        };
        let fault = note.into_iter().fold(fault, |fault, note| fault.with_note(note));
        if attempts == 1 {
            return fault;
        }
        tracing::Span::current().record("attempts", attempts);
        let message = format!("{}; {attempts} attempts were made", fault.message());
        fault.with_message(message)
    }
}

fn read(opened: Opened) -> Result<Bytes, Fault> {
    let envelope = opened.envelope;
    let Some(code) = envelope.header(header::ERROR_CODE) else { return Ok(envelope.payload) };
    if envelope.payload.is_empty() {
        // A service that speaks only NATS micro.
        let line = envelope.header(header::ERROR).unwrap_or("no reason given");
        return Err(Fault::new(Code::Unknown, Effect::Unknown, Reason::HandlerRefused, format!("{code}: {line}")));
    }
    match <mesh_proto::v1::Fault as prost::Message>::decode(envelope.payload) {
        Ok(fault) => Err(fault.into()),
        Err(error) => Err(Fault::new(Code::DataLoss, Effect::Unknown, Reason::Undecodable, "the fault can't be read")
            .with_detail(error.to_string())),
    }
}

fn expired(name: &CallTarget) -> Fault {
    let message = format!("{name} was not called: its deadline had passed");
    Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message)
}

/// `cut`: how long the attempt might take, where that was less than the call.
fn unanswered(name: &CallTarget, error: PublishError, cut: Option<Duration>) -> Fault {
    match error {
        PublishError::NobodyListens => Fault::new(
            Code::Unavailable,
            Effect::None,
            Reason::NobodyAnswers,
            format!("no service answers {name}; is one that serves it running?"),
        ),
        PublishError::TimedOut => {
            let when = cut.map_or("before the deadline".to_owned(), |cut| format!("within {} ms", cut.as_millis()));
            let message = format!("{name} did not answer {when}; it may have acted");
            Fault::new(Code::DeadlineExceeded, Effect::Unknown, Reason::CallTimedOut, message)
        }
        PublishError::Disconnected => {
            let message = format!("the connection to the bus ended before {name} answered; it may have acted");
            Fault::new(Code::Unavailable, Effect::Unknown, Reason::CallTimedOut, message)
        }
        other => other.into_fault(&format!("the call of {name}")),
    }
}
