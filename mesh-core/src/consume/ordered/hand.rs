//! The deliveries of one partition that are here: each message once, however often it came.

use std::{collections::HashMap, sync::Arc};

use super::Ordered;
use crate::{
    consume::lease::Lease,
    delayed::stored_at,
    envelope::{Envelope, Order},
    fault::Fault,
    gate::{Opened, Unopened},
    policy::order::{Arrival, Arrived, At, Book, Came, Slot},
    subject,
};

/// Bytes of an ordering key that is repeated as it is, at most.
const MAX_KEY_BYTES: usize = 2048;

/// A delivery that came, opened.
pub(super) struct Come {
    pub(super) envelope: Envelope,
    pub(super) refusal: Option<Fault>,
    pub(super) came: Came,
    /// Its sequence in the stream that it was delivered from.
    pub(super) sequence: u64,
    /// Its number among the deliveries of its consumer.
    pub(super) number: u64,
    reply: Arc<str>,
    lease: Lease,
}

/// One message that is here.
pub(super) struct Hand {
    pub(super) envelope: Arc<Envelope>,
    pub(super) refusal: Option<Fault>,
    /// Each delivery of it, to be settled together: the newest last.
    deliveries: Vec<Held>,
    /// What came after its attempt began: the copy that its own end made may be among them.
    late: Vec<Come>,
    begun: bool,
}

struct Held {
    came: Came,
    sequence: u64,
    reply: Arc<str>,
    _lease: Lease,
}

/// Everything that is here, and what it came as.
#[derive(Default)]
pub(super) struct Hands {
    hands: HashMap<Slot, Hand>,
    places: HashMap<(Came, u64), Slot>,
    from_stream: usize,
    slots: Slot,
}

impl Come {
    /// Whether it was delivered before, here or elsewhere.
    pub(super) fn is_again(&self) -> bool {
        self.envelope.delivery.as_ref().is_some_and(|delivery| delivery.deliveries > 1)
    }

    /// The same, where whoever had it before is known to have handed it back in peace.
    pub(super) fn vouched_for(mut self) -> Come {
        if let Some(delivery) = &mut self.envelope.delivery {
            delivery.deliveries = delivery.deliveries.min(1);
        }
        self
    }

    /// Where it is to be settled. Its lease is kept alive no more.
    pub(super) fn into_reply(self) -> Arc<str> {
        self.reply
    }
}

impl Ordered {
    /// Opens a delivery and begins to keep its lease alive. `None`: it wants no ack.
    pub(super) fn open(&self, delivery: Unopened, came: Came, fence: u64) -> Option<Come> {
        let reply = delivery.reply().map(Arc::<str>::from)?;
        let lease = self.worker.leases.hold(Arc::clone(&reply));
        let Opened { mut envelope, refusal, .. } = delivery.open();
        let (sequence, number) = envelope.delivery.as_ref().map(|d| (d.sequence, d.consumer_sequence))?;
        // What lies apart is brought when its turn comes: its copy says the key.
        let key = match envelope.claim() {
            _ if refusal.is_some() => None,
            Some(_) => envelope.note.lane.as_ref().and_then(|lane| lane.key.clone()),
            None => self.worker.work.key(&envelope).map(short),
        };
        envelope.order = key.map(|key| Order { key, fence });
        Some(Come { envelope, refusal, came, sequence, number, reply, lease })
    }
}

impl Hand {
    /// Takes another delivery of its message. The one that tells more of it is handled: the copy with the attempts that its
    /// original does not know of, and the replay, whose letter has to end.
    fn join(&mut self, come: Come) {
        let Come { envelope, refusal, came, sequence, reply, lease, .. } = come;
        let tells = |envelope: &Envelope| envelope.note.lane.as_ref().map(|lane| (lane.letter.is_some(), lane.attempt));
        if tells(&envelope) > tells(&self.envelope) {
            (self.envelope, self.refusal) = (Arc::new(envelope), refusal);
        }
        self.deliveries.push(held_of(&came, sequence, reply, lease));
    }

    /// Its originals, where a copy of it is here as well.
    fn originals(&mut self) -> Vec<Held> {
        let is_original = |held: &mut Held| held.came == Came::Stream;
        if self.deliveries.iter().all(|held| held.came == Came::Stream) {
            return Vec::new();
        }
        self.deliveries.extract_if(.., is_original).collect()
    }
}

impl Hands {
    /// How many messages of the stream are here.
    pub(super) fn of_stream(&self) -> usize {
        self.from_stream
    }

    /// Whether anything that is here may have ended the process that had it before.
    pub(super) fn is_in_doubt(&self) -> bool {
        let is_again = |hand: &Hand| hand.envelope.delivery.as_ref().is_some_and(|delivery| delivery.deliveries > 1);
        self.hands.values().any(is_again)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Hand> {
        self.hands.get(&slot)
    }

    /// Takes what came; what is to be acknowledged now: what came, for its message was settled before, or an original whose copy
    /// is here and waits in its place. It would count as under way as long as its key is blocked, and keep others out.
    pub(super) fn take(&mut self, come: Come, book: &mut Book) -> Vec<Arc<str>> {
        // The same delivery again: its newest reply counts.
        if let Some(hand) = self.places.get(&(come.came, come.sequence)).and_then(|slot| self.hands.get_mut(slot)) {
            let held = hand.deliveries.iter_mut().find(|held| (held.came, held.sequence) == (come.came, come.sequence));
            if let Some(held) = held {
                *held = held_of(&come.came, come.sequence, come.reply, come.lease);
            }
            return Vec::new();
        }
        self.slots += 1;
        let slot = self.slots;
        match book.arrive(arrival(slot, &come)) {
            Arrived::Kept => {
                self.place(slot, &come);
                let Come { envelope, refusal, came, sequence, reply, lease, .. } = come;
                let deliveries = vec![held_of(&came, sequence, reply, lease)];
                let hand = Hand { envelope: Arc::new(envelope), refusal, deliveries, late: Vec::new(), begun: false };
                self.hands.insert(slot, hand);
                Vec::new()
            }
            Arrived::Same(same) => {
                self.place(same, &come);
                let Some(hand) = self.hands.get_mut(&same) else { return vec![come.reply] };
                if hand.begun {
                    hand.late.push(come);
                    return Vec::new();
                }
                hand.join(come);
                let originals = if book.keeps_its_copy(same) { hand.originals() } else { Vec::new() };
                for held in &originals {
                    self.unplace(held.came, held.sequence);
                }
                originals.into_iter().map(|held| held.reply).collect()
            }
            Arrived::Done => vec![come.reply],
        }
    }

    fn place(&mut self, slot: Slot, come: &Come) {
        self.places.insert((come.came, come.sequence), slot);
        self.from_stream += usize::from(come.came == Came::Stream);
    }

    fn unplace(&mut self, came: Came, sequence: u64) {
        if self.places.remove(&(came, sequence)).is_some() {
            self.from_stream -= usize::from(came == Came::Stream);
        }
    }

    /// Its attempt begins: the delivery that is settled by it.
    pub(super) fn begin(&mut self, slot: Slot) -> Option<(Arc<Envelope>, Option<Fault>, Arc<str>)> {
        let hand = self.hands.get_mut(&slot)?;
        hand.begun = true;
        let reply = Arc::clone(&hand.deliveries.last()?.reply);
        Some((Arc::clone(&hand.envelope), hand.refusal.clone(), reply))
    }

    /// It is settled: where its other deliveries are to be acknowledged, and what came late.
    pub(super) fn settled(&mut self, slot: Slot) -> (Vec<Arc<str>>, Vec<Come>) {
        let Some(mut hand) = self.hands.remove(&slot) else { return Default::default() };
        for held in &hand.deliveries {
            self.unplace(held.came, held.sequence);
        }
        for late in &hand.late {
            self.unplace(late.came, late.sequence);
        }
        // The last one was settled by the attempt, unless a newer reply took its place meanwhile: again does no harm.
        let others = hand.deliveries.drain(..).map(|held| held.reply).collect();
        (others, hand.late)
    }

    /// It was put aside: where the original is to be acknowledged, and whether its copy is here already.
    pub(super) fn put_aside(&mut self, slot: Slot) -> (Vec<Arc<str>>, bool) {
        let Some(hand) = self.hands.get_mut(&slot) else { return (Vec::new(), false) };
        let (originals, copies): (Vec<_>, Vec<_>) =
            std::mem::take(&mut hand.deliveries).into_iter().partition(|held| held.came == Came::Stream);
        let is_here = !copies.is_empty();
        hand.deliveries = copies;
        if !is_here {
            self.hands.remove(&slot);
        }
        for held in &originals {
            self.unplace(held.came, held.sequence);
        }
        (originals.into_iter().map(|held| held.reply).collect(), is_here)
    }

    /// Everything that is here, in the order of its stream: to be handed back.
    pub(super) fn drain(&mut self) -> Vec<Arc<str>> {
        self.places.clear();
        self.from_stream = 0;
        let mut hands: Vec<Hand> = std::mem::take(&mut self.hands).into_values().collect();
        hands.sort_by_key(|hand| at(&hand.envelope));
        let replies = hands.into_iter().flat_map(|hand| {
            let late: Vec<Arc<str>> = hand.late.into_iter().map(|come| come.reply).collect();
            hand.deliveries.into_iter().map(|held| held.reply).chain(late)
        });
        replies.collect()
    }
}

/// A key as records and letters repeat it: one that is very long is known by its hash.
fn short(key: String) -> String {
    if key.len() <= MAX_KEY_BYTES { key } else { format!("sha256:{}", subject::sha256(key.as_bytes())) }
}

fn held_of(came: &Came, sequence: u64, reply: Arc<str>, lease: Lease) -> Held {
    Held { came: *came, sequence, reply, _lease: lease }
}

/// Where the original stands in its stream.
pub(super) fn at(envelope: &Envelope) -> At {
    let sequence = envelope.source().map_or(0, |(_, sequence)| sequence);
    At { sequence, stored_at_ms: stored_at(envelope) }
}

fn arrival(slot: Slot, come: &Come) -> Arrival {
    let envelope = &come.envelope;
    let lane = envelope.note.lane.as_ref();
    Arrival {
        slot,
        key: envelope.order.as_ref().map(|order| order.key.as_str()).unwrap_or_default().into(),
        at: at(envelope),
        came: come.came,
        replay: lane.is_some_and(|lane| lane.letter.is_some()),
        marked: lane.is_some_and(|lane| lane.block.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consume::lease::Leases,
        envelope::{Delivery, LaneNote, Note},
        policy::order::Loaded,
    };

    /// Message `sequence` of the key, as it came.
    fn come(sequence: u64, came: Came) -> Come {
        let lane = LaneNote {
            attempt: 1,
            subject: String::new(),
            message_id: String::new(),
            source: (String::new(), sequence),
            stored_at_ms: 1,
            letter: None,
            block: Some("hash".into()),
            claim: None,
            key: None,
            waits: None,
        };
        let delivery =
            Delivery { stream: String::new(), sequence, consumer_sequence: sequence, deliveries: 1, stored_at_ms: 1 };
        let envelope = Envelope {
            subject: String::new(),
            message_id: String::new(),
            caller: String::new(),
            trace: None,
            note: Note { lane: (came == Came::Lane).then_some(lane), ..Note::default() },
            headers: Vec::new(),
            payload: bytes::Bytes::new(),
            delivery: Some(delivery),
            order: Some(Order { key: "k".into(), fence: 1 }),
        };
        let reply: Arc<str> = format!("{came:?}-{sequence}").into();
        let lease = Leases::default().hold(Arc::clone(&reply));
        Come { envelope, refusal: None, came, sequence, number: sequence, reply, lease }
    }

    #[test]
    fn originals_whose_copies_wait_behind_a_letter_keep_nothing_new_out() {
        let mut book = Book::new(1000, 1000);
        book.load(&"k".into(), At { sequence: 1, stored_at_ms: 1 }, Loaded::Letter("letter".into()));
        let mut hands = Hands::default();
        for sequence in 2..100 {
            assert!(hands.take(come(sequence, Came::Stream), &mut book).is_empty());
        }
        assert_eq!(hands.of_stream(), 98);
        for sequence in 2..100 {
            let replies = hands.take(come(sequence, Came::Lane), &mut book);
            assert_eq!(replies, [format!("Stream-{sequence}").into()]);
        }
        assert_eq!(hands.of_stream(), 0);
        // One whose ack was lost comes again.
        assert_eq!(hands.take(come(2, Came::Stream), &mut book), ["Stream-2".into()]);
        let copies: Vec<Arc<str>> = (2..100).map(|sequence| format!("Lane-{sequence}").into()).collect();
        assert_eq!(hands.drain(), copies);
    }

    #[test]
    fn an_original_of_a_key_that_is_not_blocked_is_settled_with_its_copy() {
        let (mut book, mut hands) = (Book::new(1000, 1000), Hands::default());
        assert!(hands.take(come(1, Came::Stream), &mut book).is_empty());
        assert!(hands.take(come(1, Came::Lane), &mut book).is_empty());
        assert_eq!(hands.of_stream(), 1);
    }
}
