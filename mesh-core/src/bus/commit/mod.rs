//! Publishing into one stream: alone while few wait, in groups when many do.
//!
//! A broker that syncs always syncs once per message, or once per atomic batch (ADR-50), and a batch costs it as much as
//! about twelve messages alone, however small it is. So:
//!
//! - Up to [`MAX_SINGLES`] messages go alone, at once. When more wait, all that wait go as one batch ([`group`] says which
//!   may go together), and those who come while it is being sent go with it: the broker makes a place for a batch when its
//!   first message comes, and needs about two milliseconds for it.
//! - One batch at a time: while it is under way the next one gathers. Two at once would only be two smaller ones, since a
//!   stream takes them one after the other.
//! - Those whose messages were just stored are about to come with their next: the committer steps back until no more come
//!   before it ends a batch, and before it takes what is left for a few messages alone ([`gather`]). Otherwise its callers
//!   fall into two groups that wait for each other by turns. There is no timer: a caller that is alone never waits for
//!   company.
//!
//! Each caller gets its own result; what happens when a batch is refused or its answer does not come, see [`batch`].
//! A caller that goes away before its message has a place leaves nothing behind; afterwards the message goes its way without
//! it. Messages that wait have a bounded number of places ([`PLACES`]), large ones take several.

mod batch;
mod group;
mod single;

use std::sync::{Arc, Weak};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::coop::consume_budget,
};

use super::{
    Bus, Inner,
    convert::Member,
    error::{PublishError, Stored},
};
use crate::gate::Sealed;
use batch::Batch;
use group::Group;

pub(super) use single::ApiError;

/// Messages under way alone, at most. With more than this many waiting a batch is faster.
const MAX_SINGLES: usize = 12;
/// Places for the messages that wait or are under way; who finds none waits for one.
const PLACES: usize = 4096;
/// Bytes of one place.
const PLACE_BYTES: usize = 16 * 1024;
/// How often in a row nobody may come before the next batch goes.
const STEPS_BACK: usize = 3;

/// Batches that have to be one under way, at most: a stream begins 50 for all of its publishers.
pub(super) const MAX_WHOLES: usize = 8;

type Outcome = Result<Stored, PublishError>;

/// A message and who waits for it.
struct Waiting {
    sealed: Sealed,
    /// Its headers, where many wait: the committer is one task for all, and this is most of what it does for each.
    prepared: Option<Member>,
    done: oneshot::Sender<Answered>,
    _place: OwnedSemaphorePermit,
}

/// What became of it; and the message itself, for its caller to take apart. One task answers many callers: were it to free what
/// they made, it would hold the lock of the heap from which they just now make their next messages. A large one is not kept
/// until its caller comes.
type Answered = (Outcome, Option<Sealed>);

impl Waiting {
    /// A caller that went away wants no answer; the message is stored all the same.
    fn answer(self, outcome: Outcome) {
        let sealed = Some(self.sealed).filter(|sealed| sealed.size() <= PLACE_BYTES);
        let _ = self.done.send((outcome, sealed));
    }
}

/// The publisher into one stream.
#[derive(Clone)]
pub(super) struct Committer {
    /// `None`: every message goes alone, without a limit.
    queue: Option<Queue>,
}

#[derive(Clone)]
struct Queue {
    places: Arc<Semaphore>,
    sender: mpsc::Sender<Waiting>,
}

impl Committer {
    pub(super) fn start(bus: &Bus, stream: &str) -> Committer {
        if !bus.0.settings.group_commit {
            return Committer { queue: None };
        }
        let (sender, waiting) = mpsc::channel(PLACES);
        let worker = Worker { bus: Arc::downgrade(&bus.0), stream: stream.into(), singles: FuturesUnordered::new() };
        bus.0.tasks.spawn(worker.run(waiting));
        Committer { queue: Some(Queue { places: Arc::new(Semaphore::new(PLACES)), sender }) }
    }

    /// Waits for a place, then for the answer. Each message has a future of this: what is large in it and seldom needed (alone, no
    /// place) lies in a box.
    pub(super) async fn publish(self, bus: &Bus, sealed: Sealed) -> Outcome {
        let Some(queue) = self.queue else { return Box::pin(single::publish(bus, &sealed, None)).await };
        // One task may poll thousands of these: it gives way now and then.
        consume_budget().await;
        let wanted = places_for(sealed.size());
        let place = match Arc::clone(&queue.places).try_acquire_many_owned(wanted) {
            Ok(place) => Ok(place),
            Err(_) => Box::pin(Arc::clone(&queue.places).acquire_many_owned(wanted)).await,
        };
        let outcome = queue.put(sealed, place.map_err(|_| closed())?)?;
        drop(queue);
        // The sender is dropped unanswered only when the connection was closed meanwhile.
        outcome.await.map_or(Err(PublishError::Disconnected), |(outcome, _)| outcome)
    }
}

impl Queue {
    /// Who has a place finds room: there are as many places as the queue is long.
    fn put(&self, sealed: Sealed, place: OwnedSemaphorePermit) -> Result<oneshot::Receiver<Answered>, PublishError> {
        let (done, outcome) = oneshot::channel();
        let is_crowded = self.places.available_permits() + MAX_SINGLES < PLACES;
        let prepared = is_crowded.then(|| batch::member(&sealed));
        match self.sender.try_send(Waiting { sealed, prepared, done, _place: place }) {
            Ok(()) => Ok(outcome),
            Err(error) => {
                debug_assert!(matches!(error, TrySendError::Closed(_)), "a place without room");
                Err(closed())
            }
        }
    }
}

/// Stores messages as one, all of them or none; the sequence of the last.
pub(super) async fn publish_whole(bus: &Bus, messages: &[Sealed]) -> Result<u64, PublishError> {
    match messages {
        [] => Err(PublishError::NotSent("nothing to send".into())),
        [one] => single::publish(bus, one, None).await.map(|stored| stored.sequence),
        several => {
            let _turn = bus.0.wholes.acquire().await.map_err(|_| closed())?;
            batch::whole(bus, several).await
        }
    }
}

/// Whether these can be stored as one; if not, why.
pub(super) fn check_whole(bus: &Bus, messages: &[Sealed]) -> Result<(), String> {
    if messages.len() <= 1 { Ok(()) } else { group::check_whole(messages, bus.0.client.max_payload()) }
}

fn closed() -> PublishError {
    PublishError::NotSent("the connection is closed".into())
}

/// How many places a message of `bytes` takes: never more than there are.
fn places_for(bytes: usize) -> u32 {
    let places = bytes.div_ceil(PLACE_BYTES).clamp(1, PLACES);
    u32::try_from(places).unwrap_or(u32::MAX)
}

struct Worker {
    bus: Weak<Inner>,
    stream: Arc<str>,
    singles: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Worker {
    /// Runs until the last handle on the connection is gone.
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            tokio::select! {
                biased;
                received = queue.recv_many(&mut waiting, group::MAX_MESSAGES), if waiting.len() < group::MAX_MESSAGES => {
                    if received == 0 { break }
                }
                Some(()) = self.singles.next(), if !self.singles.is_empty() => {}
            }
            let Some(bus) = self.bus.upgrade().map(Bus) else { break };
            while waiting.len() > MAX_SINGLES {
                self.together(&bus, &mut queue, &mut waiting).await;
                gather(&mut queue, &mut waiting, MAX_SINGLES + 1).await;
            }
            let free = MAX_SINGLES.saturating_sub(self.singles.len()).min(waiting.len());
            self.alone(&bus, waiting.drain(..free));
        }
        while self.singles.next().await.is_some() {}
    }

    /// Sends what may go together: as a batch where that is faster, and with it those who come while it is being sent.
    async fn together(&mut self, bus: &Bus, queue: &mut mpsc::Receiver<Waiting>, waiting: &mut Vec<Waiting>) {
        let mut group = Group::new(bus.0.client.max_payload());
        let fitting = group.take(waiting.iter().map(|one| &one.sealed));
        if fitting <= MAX_SINGLES {
            self.alone(bus, waiting.drain(..fitting.max(1)));
            return;
        }
        let batch = async {
            let mut batch = Batch::begin(bus, &self.stream);
            let mut fitting = fitting;
            while fitting > 0 {
                batch.add(waiting.drain(..fitting)).await;
                gather(queue, waiting, group::MAX_MESSAGES).await;
                fitting = group.take(waiting.iter().map(|one| &one.sealed));
            }
            batch.commit().await;
        };
        tokio::pin!(batch);
        loop {
            // Singles first: what came before the batch is sent before it.
            tokio::select! {
                biased;
                Some(()) = self.singles.next(), if !self.singles.is_empty() => {}
                () = &mut batch => break,
            }
        }
    }

    fn alone(&mut self, bus: &Bus, each: impl IntoIterator<Item = Waiting>) {
        for one in each {
            let bus = bus.clone();
            self.singles.push(Box::pin(async move {
                let outcome = single::publish(&bus, &one.sealed, None).await;
                one.answer(outcome);
            }));
        }
    }
}

/// Lets those who are ready to publish come, until there are `enough` or nobody comes.
async fn gather(queue: &mut mpsc::Receiver<Waiting>, waiting: &mut Vec<Waiting>, enough: usize) {
    let mut in_vain = 0;
    while in_vain < STEPS_BACK && waiting.len() < enough {
        tokio::task::yield_now().await;
        let before = waiting.len();
        while waiting.len() < group::MAX_MESSAGES {
            let Ok(one) = queue.try_recv() else { break };
            waiting.push(one);
        }
        in_vain = if waiting.len() == before { in_vain + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_takes_more_places_and_never_more_than_there_are() {
        assert_eq!((places_for(0), places_for(PLACE_BYTES), places_for(PLACE_BYTES + 1)), (1, 1, 2));
        assert_eq!(places_for(usize::MAX) as usize, PLACES);
    }
}
