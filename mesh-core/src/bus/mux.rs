//! Many requests over one inbox: a slot for each, given back however the wait ends.
//!
//! async-nats has the same, but leaks a slot for every request that is never answered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Client;
use futures_util::StreamExt as _;
use tokio::{sync::oneshot, time::Instant};

use super::{
    convert::Received,
    error::PublishError,
    link::{Link, LinkState},
};
use crate::{
    clock::TaskScope,
    fault::{Code, Effect, Fault, Reason},
    subject::{self, Name},
};

type Answer = Result<Received, PublishError>;

struct Slot {
    answer: oneshot::Sender<Answer>,
    subject: String,
    /// The connection that its request goes over: while there is none, the next one, for which the client keeps it.
    generation: u64,
}

#[derive(Default)]
struct Slots {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Slot>>,
}

impl Slots {
    fn take(&self, token: u64) -> Option<Slot> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&token)
    }

    /// Ends every wait that `chosen` picks.
    fn fail(&self, error: &PublishError, chosen: impl Fn(&Slot) -> bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens: Vec<u64> = waiting.iter().filter(|(_, slot)| chosen(slot)).map(|(t, _)| *t).collect();
        for slot in tokens.iter().filter_map(|t| waiting.remove(t)) {
            // Nobody waits any more: nothing to tell.
            let _ = slot.answer.send(Err(error.clone()));
        }
    }
}

/// The multiplexer of one connection.
#[derive(Clone)]
pub(super) struct Mux {
    prefix: Arc<str>,
    slots: Arc<Slots>,
    link: Link,
}

/// One request under way. Dropping it gives the slot back.
pub(super) struct Asked {
    mux: Mux,
    token: u64,
    answer: oneshot::Receiver<Answer>,
    since: Instant,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.mux.slots.take(self.token);
    }
}

impl Mux {
    pub(super) async fn start(client: &Client, me: &Name, link: &Link, tasks: &TaskScope) -> Result<Mux, Fault> {
        let prefix: Arc<str> = format!("{}.{}", subject::inbox_prefix(me), nuid::next()).into();
        let mut inbox = client.subscribe(format!("{prefix}.*")).await.map_err(|error| {
            Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, "the inbox could not be opened")
                .with_detail(error.to_string())
        })?;
        let slots = Arc::new(Slots::default());
        let denied = Arc::clone(&slots);
        link.on_denied(move |subject| {
            denied.fail(&PublishError::Denied { subject: subject.to_owned() }, |slot| slot.subject == subject);
        });
        let mux = Mux { prefix, slots, link: link.clone() };
        let (reader, scope, mut state) = (mux.clone(), tasks.clone(), link.watch());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    message = inbox.next() => match message {
                        Some(message) => reader.deliver(message.into()),
                        None => break,
                    },
                    changed = state.changed() => {
                        let now = *state.borrow_and_update();
                        if changed.is_ok() {
                            // Answers to what was sent on a connection that has ended don't come any more.
                            reader.slots.fail(&PublishError::Disconnected, |slot| slot.generation < next_of(now));
                        }
                    }
                    () = scope.stopped() => break,
                }
            }
            reader.slots.fail(&PublishError::Disconnected, |_| true);
        });
        Ok(mux)
    }

    fn deliver(&self, received: Received) {
        let token = received.subject.get(self.prefix.len() + 1..).and_then(|t| t.parse().ok());
        if let Some(slot) = token.and_then(|t| self.slots.take(t)) {
            // The wait has ended meanwhile: the answer is for nobody.
            let _ = slot.answer.send(Ok(received));
        }
    }

    /// Takes a slot for a request to `subject`.
    pub(super) fn register(&self, subject: &str) -> Asked {
        let token = self.slots.next.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        let slot = Slot { answer, subject: subject.to_owned(), generation: next_of(self.link.state()) };
        self.slots.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(token, slot);
        Asked { mux: self.clone(), token, answer: receiver, since: Instant::now() }
    }
}

/// The connection over which goes what is sent from now on.
fn next_of(state: LinkState) -> u64 {
    state.generation + u64::from(!state.is_connected)
}

impl Asked {
    /// Where the answer must go.
    pub(super) fn inbox(&self) -> String {
        format!("{}.{}", self.mux.prefix, self.token)
    }

    /// Waits until `timeout` after the slot was taken.
    pub(super) async fn answer(mut self, timeout: Duration) -> Answer {
        match tokio::time::timeout_at(self.since + timeout, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(PublishError::Disconnected),
            Err(_) => Err(PublishError::TimedOut),
        }
    }
}
