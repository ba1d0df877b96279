//! The index of letters, kept and answered for: `mesh.v1.Keeper`.

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use mesh_proto::v1;
use prost::Message;
use tokio::{sync::watch, time::Instant};

use super::index::Index;
use crate::{
    bus::{Bus, Followed},
    clock::TaskScope,
    contract::{BoxFuture, Context, OperationInfo, Repeat, Service, generated::unknown_method},
    fault::{Code, Effect, Fault, Reason},
    operate::until_done::until_done,
    request::{Discovery, Responder, ResponderSettings},
    subject::DEAD_LETTER_STREAM,
    telemetry::metrics::Metrics,
};

/// The rpc service.
pub(super) const SERVICE: &str = "mesh.v1.Keeper";
/// How long a question waits for records that its asker knows of.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Questions at once: each looks at every letter.
const QUESTIONS: usize = 16;

/// Keeps the index, and answers once it has read what was there when it began, until `scope` stops.
pub(super) async fn run(bus: Bus, metrics: Metrics, scope: TaskScope) {
    let (started, letters) = (Instant::now(), Letters::new());
    let there = until_done("the state of the letters", || bus.stream_state(DEAD_LETTER_STREAM)).await;
    let mut there = there.map_or(0, |state| state.last_sequence);
    let mut records = bus.follow(DEAD_LETTER_STREAM, 0, 1);
    let mut is_serving = false;
    loop {
        if !is_serving && letters.read_to() >= there {
            is_serving = true;
            let (count, took) = (letters.count(), started.elapsed());
            tracing::info!(letters = count, seconds = took.as_secs_f32(), "the index of letters stands");
            let service: Arc<dyn Service> = Arc::new(letters.clone());
            let settings = ResponderSettings { concurrency: QUESTIONS };
            let discovery = Discovery::new(&bus);
            until_done("the answering of questions about letters", || {
                Responder::start(&bus, Arc::clone(&service), &settings, (&metrics, &scope, &discovery))
            })
            .await;
        }
        tokio::select! {
            biased;
            () = scope.stopped() => return,
            followed = records.next() => match followed {
                Followed::Message(record) => letters.apply(record),
                // Letters of a stream that is no more are none.
                Followed::Another { last_sequence, .. } => {
                    letters.forget();
                    there = last_sequence;
                }
            },
        }
    }
}

/// The index, shared by who keeps it and who answers.
#[derive(Clone)]
struct Letters {
    index: Arc<RwLock<Index>>,
    read_to: watch::Sender<u64>,
}

impl Letters {
    fn new() -> Letters {
        Letters { index: Arc::default(), read_to: watch::Sender::new(0) }
    }

    fn apply(&self, record: crate::gate::Unopened) {
        let envelope = record.open().envelope;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.apply(&envelope);
        self.read_to.send_replace(index.read_to());
    }

    fn forget(&self) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Index::default();
        self.read_to.send_replace(0);
    }

    fn read_to(&self) -> u64 {
        *self.read_to.borrow()
    }

    fn count(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Looks, once everything up to `sequence` was read.
    async fn look<R: Message>(&self, sequence: u64, look: impl FnOnce(&Index) -> R) -> Result<Bytes, Fault> {
        let mut read_to = self.read_to.subscribe();
        let caught_up = tokio::time::timeout(CATCH_UP, read_to.wait_for(|read_to| *read_to >= sequence)).await;
        if !matches!(caught_up, Ok(Ok(_))) {
            return Err(Fault::unavailable("the index of letters is behind the stream: ask again soon"));
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        Ok(look(&index).encode_to_vec().into())
    }

    async fn answer(&self, method: &str, payload: Bytes) -> Result<Bytes, Fault> {
        match method {
            "ListLetters" => {
                let request: v1::ListLettersRequest = read(payload)?;
                self.look(request.read_to, |index| index.list(&request)).await
            }
            "GroupLetters" => {
                let request: v1::GroupLettersRequest = read(payload)?;
                self.look(request.read_to, |index| index.group(&request)).await
            }
            "CountLetters" => {
                let request: v1::CountLettersRequest = read(payload)?;
                self.look(request.read_to, |index| index.count(&request)).await
            }
            other => Err(unknown_method(SERVICE, other)),
        }
    }
}

impl Service for Letters {
    fn name(&self) -> &str {
        SERVICE
    }

    fn operations(&self) -> Vec<OperationInfo> {
        let operation = |method: &'static str| OperationInfo {
            service: Cow::Borrowed(SERVICE),
            method: Cow::Borrowed(method),
            repeat: Repeat::NoSideEffects,
            request: format!("mesh.v1.{method}Request").into(),
            reply: format!("mesh.v1.{method}Reply").into(),
        };
        ["ListLetters", "GroupLetters", "CountLetters"].map(operation).into()
    }

    fn dispatch<'a>(&'a self, method: &'a str, _cx: Context, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(self.answer(method, payload))
    }
}

fn read<M: Message + Default>(payload: Bytes) -> Result<M, Fault> {
    M::decode(payload).map_err(|error| {
        let message = "the payload is not the request of this operation";
        Fault::new(Code::InvalidArgument, Effect::None, Reason::Undecodable, message).with_detail(error.to_string())
    })
}
