//! Taking a partition over: nothing begins before everything that was under way elsewhere is in hand.
//!
//! First the messages of the stream: as many must be here as the broker counts under way. What a killed process had comes again
//! after `ack_wait`. Then what the store and the letters say of blocked keys, and last the lane. In this order nothing slips
//! through: whoever put a copy on the lane had not settled its original before.
//!
//! More may be due on the lane than may be under way, such as when a million letters are replayed. Then as much is enough as
//! leaves room for more, and the owner works with a book that knows that it is not whole until the rest has come.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    blocks::{BEHIND, LoadedKey},
    hand::{Come, Hands, at},
    turn::Term,
    window_of,
};
use crate::{
    bus::{ConsumerState, Pull, Pulled},
    clock::TaskScope,
    fault::Fault,
    policy::order::{At, Book, Came},
};

/// How many are asked for at once while it is not known how many are to come.
const BATCH: usize = 64;
/// How often the broker is asked how many are under way.
const ASK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// Messages that are kept in hand behind keys that are blocked for a moment, before they are put aside.
const PATIENCE: usize = 256;
/// How long to wait before asking a broker again that was away.
const AWAY: Duration = Duration::from_millis(250);

/// How long more may be here than the broker counts, which forgets a little when it is killed; and how long a partition may
/// stand still before somebody is told.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// After so long without a delivery of a lane that has more, the broker is asked whether it has.
const QUIET: Duration = Duration::from_secs(1);

/// What the gathering waits for.
pub(super) struct Waits {
    since: Instant,
    /// Since when more is here than is under way: a process that was stopped settled some of it after that came again.
    too_many: Option<Instant>,
    /// What others have under way, before any of it came here.
    others: Option<u64>,
    is_told: bool,
}

impl Waits {
    pub(super) fn new() -> Waits {
        Waits { since: Instant::now(), too_many: None, others: None, is_told: false }
    }

    /// Whether the numbers are the same and yet some of what others had is missing (`again`: what came again of it): something
    /// was settled meanwhile, and nobody tells whether that is here, and what it stands for is not.
    fn misses(&mut self, here: u64, in_flight: u64, again: u64) -> bool {
        if again == 0 {
            let others = in_flight.saturating_sub(here);
            self.others = Some(self.others.unwrap_or(others).min(others));
        }
        again > 0 && in_flight == here && self.others.is_some_and(|others| again < others)
    }

    /// Whether more is here than the broker counts, and that does not pass.
    pub(super) fn has_too_many(&mut self, here: u64, in_flight: u64) -> bool {
        if in_flight >= here {
            self.too_many = None;
            return false;
        }
        self.too_many.get_or_insert_with(Instant::now).elapsed() > WAITS.0
    }

    /// Tells once what a partition waits for that stands still for long.
    pub(super) fn tell(&mut self, consumer: &str, of: (&str, &str), (here, in_flight, pending): (u64, u64, u64)) {
        if self.is_told || self.since.elapsed() < WAITS.1 {
            return;
        }
        self.is_told = true;
        tracing::warn!(
            consumer,
            stream = of.0,
            partition = of.1,
            here,
            in_flight,
            pending,
            "the partition stands still until what another process has in hand comes here: look for a process of this consumer that hangs, and end it"
        );
    }
}

/// What stands at the beginning of an ownership.
pub(super) struct Gathered {
    pub(super) book: Book,
    pub(super) hands: Hands,
    pub(super) keys: Vec<(Arc<str>, i64)>,
    /// The number of the last delivery of the stream's consumer.
    pub(super) last_number: u64,
    /// What is still to come of the lane, where it was too much.
    pub(super) rest: Option<Rest>,
    /// Where messages are to be acknowledged that were settled before.
    pub(super) settled: Vec<Arc<str>>,
}

/// What lay on the lane at a takeover, and was too much to be in hand at once.
#[derive(Debug)]
pub(super) struct Rest {
    /// Copies that were never delivered, and have not come since.
    left: u64,
    /// The number of the last delivery of the lane's consumer.
    last_number: u64,
    /// Since when nothing of it came.
    quiet_from: Instant,
}

impl Rest {
    /// A delivery came. `false`: one went elsewhere meanwhile, so nobody knows what is missing.
    pub(super) fn comes(&mut self, number: u64, is_again: bool) -> bool {
        let follows = number == self.last_number + 1;
        (self.last_number, self.quiet_from) = (number, Instant::now());
        self.left = self.left.saturating_sub(u64::from(!is_again));
        follows
    }

    /// Whether nothing has come for so long that the broker may be asked: it is busy enough with what does come.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_from.elapsed() >= QUIET
    }

    /// Whether all has come. The broker gives in the order of the stream what it gives for the first time: as many as waited then
    /// are those that waited then. `now`: what the broker says by now, where some of them were deleted.
    pub(super) fn is_here(&self, now: Option<&UnderWay>) -> bool {
        self.left == 0 || now.is_some_and(|now| now.pending == 0 && now.number == self.last_number)
    }
}

/// What the broker says of a consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnderWay {
    /// Delivered, and not settled.
    pub(super) in_flight: u64,
    /// Not delivered yet.
    pub(super) pending: u64,
    /// The number of its last delivery.
    pub(super) number: u64,
    /// So many may be under way.
    window: u64,
}

impl UnderWay {
    /// Whether so many in hand are enough of a lane on which more waits: half of what may be under way is left for them.
    fn is_much(self, here: u64) -> bool {
        here >= self.window / 2
    }
}

/// Why a partition is not taken over.
pub(super) enum NotGathered {
    /// It is given up again, with what is here.
    Stopped(Vec<Come>),
    /// The process is no longer the owner.
    Lost,
}

impl Term {
    /// Gathers all that belongs to the partition.
    pub(super) async fn gather(
        &self,
        partition: u32,
        (main, lane): (&mut Pull, &mut Pull),
        give: &TaskScope,
    ) -> Result<Gathered, NotGathered> {
        let worker = &self.ordered.worker;
        let durable = worker.lane.partition_durable(partition);
        let stop = async {
            tokio::select! {
                () = self.lost.stopped() => NotGathered::Lost,
                () = give.stopped() => NotGathered::Stopped(Vec::new()),
                () = worker.scope.stopped() => NotGathered::Stopped(Vec::new()),
            }
        };
        let (mut from_stream, mut from_lane, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        let gathering = async {
            let of_stream = self.collect((&self.ordered.stream, &durable), main, Came::Stream, &mut from_stream).await;
            keys = self.keys().await;
            let of_lane = self.collect((&worker.lane.stream(), &durable), lane, Came::Lane, &mut from_lane).await;
            self.look_for_heads(&mut keys, &from_stream, &from_lane).await;
            (of_stream, of_lane)
        };
        let gathered = tokio::select! {
            biased;
            stopped = stop => Err(stopped),
            all = gathering => Ok(all),
        };
        match gathered {
            Ok(all) => Ok(self.open_book(keys, (from_stream, from_lane), all)),
            Err(NotGathered::Lost) => Err(NotGathered::Lost),
            Err(NotGathered::Stopped(_)) => {
                from_stream.append(&mut from_lane);
                Err(NotGathered::Stopped(from_stream))
            }
        }
    }

    fn open_book(
        &self,
        keys: Vec<LoadedKey>,
        comes: (Vec<Come>, Vec<Come>),
        (of_stream, of_lane): (UnderWay, UnderWay),
    ) -> Gathered {
        let mut book = Book::new(self.ordered.settings.most_held, PATIENCE);
        let (mut hands, mut settled) = (Hands::default(), Vec::new());
        for loaded in &keys {
            book.load(&loaded.key, loaded.head, loaded.state.clone());
            if loaded.unfound.is_some() {
                book.seek(&loaded.key);
            }
        }
        let all = comes.0.into_iter().chain(comes.1);
        for come in all.map(|come| if self.in_doubt { come } else { come.vouched_for() }) {
            settled.extend(hands.take(come, &mut book));
        }
        let UnderWay { pending: left, number: last_number, .. } = of_lane;
        let rest = (left > 0).then_some(Rest { left, last_number, quiet_from: Instant::now() });
        if rest.is_some() {
            book.more_is_on_lane();
        }
        book.open();
        let keys = keys.into_iter().map(|loaded| (loaded.key, loaded.since_ms)).collect();
        Gathered { book, hands, keys, last_number: of_stream.number, rest, settled }
    }

    async fn keys(&self) -> Vec<LoadedKey> {
        loop {
            match self.blocks.load().await {
                Ok(keys) => return keys,
                Err(error) => {
                    tracing::warn!(%error, consumer = self.ordered.consumer(), "blocked keys can't be read yet")
                }
            }
            tokio::time::sleep(AWAY).await;
        }
    }

    /// Looks again for the heads that are neither here nor were found elsewhere, before they count as settled.
    async fn look_for_heads(&self, keys: &mut [LoadedKey], from_stream: &[Come], from_lane: &[Come]) {
        let here: BTreeSet<(&str, At)> = from_stream.iter().chain(from_lane).filter_map(place).collect();
        let limit = Instant::now() + BEHIND;
        for loaded in keys.iter_mut().filter(|loaded| !here.contains(&(loaded.key.as_ref(), loaded.head))) {
            self.blocks.look_again(loaded, limit).await;
        }
    }

    /// Collects until all that is under way is here and, of the lane, all that waits there, or as much as leaves room for more.
    async fn collect(&self, of: (&str, &str), pull: &mut Pull, came: Came, into: &mut Vec<Come>) -> UnderWay {
        let mut here: BTreeSet<u64> = BTreeSet::new();
        let (mut pause, mut next) = (ASK.0, Instant::now());
        let mut waits = Waits::new();
        let mut is_enough = false;
        loop {
            if Instant::now() >= next {
                match self.under_way(of).await {
                    Ok(now) => {
                        let UnderWay { in_flight, pending, .. } = now;
                        let (mine, again) =
                            (here.len() as u64, into.iter().filter(|come| come.is_again()).count() as u64);
                        let is_settled_late = waits.misses(mine, in_flight, again);
                        // What comes from now on was asked for before.
                        is_enough = came == Came::Lane && now.is_much(mine) && in_flight <= mine + pull.asked() as u64;
                        if in_flight == mine && !is_settled_late && (came == Came::Stream || pending == 0 || is_enough)
                        {
                            return now;
                        }
                        if is_settled_late || waits.has_too_many(mine, in_flight) {
                            // Which one was settled elsewhere nobody tells. What is handed back and comes again is all there is.
                            self.give.stop();
                        }
                        waits.tell(self.ordered.consumer(), of, (mine, in_flight, pending));
                    }
                    Err(error) => tracing::debug!(%error, consumer = of.1, "the broker does not say what is under way"),
                }
                next = Instant::now() + pause;
                pause = (pause * 2).min(ASK.1);
            }
            if pull.asked() == 0
                && !is_enough
                && waits.others.is_some()
                && let Err(error) = pull.ask(BATCH).await
            {
                tracing::debug!(%error, consumer = of.1, "the pull was not sent");
            }
            tokio::select! {
                pulled = pull.next() => match pulled {
                    Pulled::Delivery(delivery) => {
                        if let Some(come) = self.ordered.open(delivery, came, self.blocks.fence) {
                            // The same one again: its newest reply counts.
                            if !here.insert(come.sequence) {
                                into.retain(|other| other.sequence != come.sequence);
                            }
                            into.push(come);
                            next = next.min(Instant::now() + ASK.0);
                        }
                    }
                    Pulled::Idle => {}
                    Pulled::Away(_) | Pulled::Gone => tokio::time::sleep(AWAY).await,
                },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// What still comes of what was asked for.
    pub(super) async fn run_dry(&self, pull: &mut Pull, came: Came) -> Vec<Come> {
        let mut comes = Vec::new();
        while pull.asked() > 0 && self.is_live() {
            if let Pulled::Delivery(delivery) = pull.next().await {
                comes.extend(self.ordered.open(delivery, came, self.blocks.fence));
            }
        }
        comes
    }

    pub(super) async fn under_way(&self, of: (&str, &str)) -> Result<UnderWay, Fault> {
        let state = self.ordered.worker.bus.consumer_state(of.0, of.1).await?;
        let state = state.ok_or_else(|| Fault::unavailable("the consumer is not there"))?;
        let ConsumerState { in_flight, pending, deliveries: number, .. } = state;
        Ok(UnderWay { in_flight, pending, number, window: window_of(&state) })
    }
}

/// Which place of which key a delivery has. `None`: it has no key.
fn place(come: &Come) -> Option<(&str, At)> {
    Some((come.envelope.order.as_ref()?.key.as_str(), at(&come.envelope)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(in_flight: u64, pending: u64, number: u64) -> UnderWay {
        UnderWay { in_flight, pending, number, window: 16 }
    }

    #[test]
    fn half_of_the_window_is_enough_of_a_lane() {
        assert!(!now(16, 9, 16).is_much(7));
        assert!(now(8, 9, 8).is_much(8));
    }

    #[test]
    fn the_rest_is_here_when_as_many_came_for_the_first_time_as_waited() {
        let mut rest = Rest { left: 2, last_number: 8, quiet_from: Instant::now() };
        assert!(rest.comes(9, false) && !rest.is_here(None));
        assert!(rest.comes(10, true), "one that we had comes again");
        assert!(!rest.is_here(Some(&now(3, 1, 10))));
        assert!(rest.comes(11, false) && rest.is_here(None));
    }

    #[test]
    fn the_rest_is_here_too_when_nothing_waits_any_more_and_all_that_was_delivered_came_here() {
        let mut rest = Rest { left: 2, last_number: 8, quiet_from: Instant::now() };
        assert!(rest.comes(9, false));
        assert!(!rest.is_here(Some(&now(9, 0, 10))), "one is on its way");
        assert!(rest.is_here(Some(&now(9, 0, 9))), "one was deleted");
    }

    #[test]
    fn a_copy_that_went_elsewhere_is_missed() {
        let mut rest = Rest { left: 2, last_number: 8, quiet_from: Instant::now() };
        assert!(!rest.comes(10, false));
    }
}
