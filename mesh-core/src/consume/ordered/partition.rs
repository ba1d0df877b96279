//! The owner of one partition: one loop that does what the book says.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior},
};

use super::{
    gather::{Gathered, NotGathered, Rest, UnderWay, Waits},
    hand::{Come, Hands},
    turn::{Report, Term, Turn},
};
use crate::{
    bus::{Pull, Pulled},
    clock::TaskScope,
    fault::Fault,
    policy::{
        compile::{LANE_WINDOW, WINDOW},
        order::{Begin, Book, Came, Ending, Plan, Slot},
    },
};

/// So long the broker may send to a process that does not read any more; and a partition that is given up waits for the end
/// of what it asked for, since a client that unsubscribes may drop what is on its way.
const EXPIRES: Duration = Duration::from_secs(1);
/// Messages of the stream that are here or asked for, at least aimed at.
const TARGET: usize = 128;
/// How much is taken in at once.
const AT_ONCE: usize = 64;
/// How often what is not told is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often letters that block keys are looked at without news.
const LOOK_AT_LETTERS: Duration = Duration::from_secs(20);
/// What waits behind a key that is blocked for about twice as long is put aside.
const HURRY: Duration = Duration::from_secs(1);
/// How long to wait before asking a broker again that was away, and one that has no such consumer (any more).
const AWAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

type Permit = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// Letters of this consumer of which there was news.
pub(super) type News = mpsc::UnboundedReceiver<Arc<str>>;

/// One partition, owned.
struct Owner {
    term: Arc<Term>,
    partition: u32,
    book: Book,
    hands: Hands,
    /// Since when keys are blocked, Unix milliseconds.
    since: HashMap<Arc<str>, i64>,
    /// The number of the last delivery of the stream's consumer.
    last_number: u64,
    /// What is still to come of the lane, of what lay there at the takeover.
    rest: Option<Rest>,
    /// Tasks that will report.
    busy: usize,
    looking: bool,
    look_next: Instant,
    hurry_next: Instant,
    away: HashMap<Came, Instant>,
    counted: (i64, i64),
    was_full: bool,
    /// What it waits for while something is under way elsewhere.
    waits: Option<Waits>,
}

/// Owns the partition until it is to be given up, or is lost.
pub(super) async fn own(
    term: Arc<Term>,
    reports: mpsc::UnboundedReceiver<Report>,
    partition: u32,
    give: TaskScope,
    news: News,
) {
    let metrics = term.ordered.worker.metrics.clone();
    metrics.order(1, 0, 0);
    if let Err(error) = run(&term, reports, partition, give, news).await {
        tracing::warn!(%error, partition, consumer = term.ordered.consumer(), "the partition is not taken over now");
    }
    metrics.order(-1, 0, 0);
}

async fn run(
    term: &Arc<Term>,
    reports: mpsc::UnboundedReceiver<Report>,
    partition: u32,
    give: TaskScope,
    news: News,
) -> Result<(), Fault> {
    let worker = &term.ordered.worker;
    let durable = worker.lane.partition_durable(partition);
    let mut main = worker.bus.pull(&term.ordered.stream, &durable).await?.expiring(EXPIRES);
    let mut lane = worker.bus.pull(&worker.lane.stream(), &durable).await?.expiring(EXPIRES);
    let started = Instant::now();
    let gathered = match term.gather(partition, (&mut main, &mut lane), &give).await {
        Ok(gathered) => gathered,
        Err(NotGathered::Lost) => return Ok(()),
        Err(NotGathered::Stopped(comes)) => {
            let mut comes = comes;
            comes.extend(term.run_dry(&mut main, Came::Stream).await);
            comes.extend(term.run_dry(&mut lane, Came::Lane).await);
            let mut replies: Vec<_> = comes.into_iter().map(|come| (come.sequence, come.into_reply())).collect();
            replies.sort_by_key(|(sequence, _)| *sequence);
            let replies = replies.into_iter().map(|(_, reply)| reply).collect();
            give_up(term, (main, lane), replies, term.in_doubt).await;
            return Ok(());
        }
    };
    tracing::debug!(partition, fence = term.blocks.fence, took = ?started.elapsed(), "a partition is taken over");
    let Gathered { book, hands, keys, last_number, rest, settled } = gathered;
    if let Some(rest) = &rest {
        tracing::info!(
            partition,
            consumer = term.ordered.consumer(),
            ?rest,
            "more copies wait on the lane than may be in hand at once: they are handled first, and new work waits in its stream meanwhile"
        );
    }
    for reply in settled {
        term.ack(&reply).await;
    }
    let mut owner = Owner {
        term: Arc::clone(term),
        partition,
        book,
        hands,
        since: keys.into_iter().collect(),
        last_number,
        rest,
        busy: 0,
        looking: false,
        look_next: Instant::now() + LOOK_AT_LETTERS,
        hurry_next: Instant::now() + HURRY,
        away: HashMap::new(),
        counted: (0, 0),
        was_full: false,
        waits: None,
    };
    let is_lost = owner.work((&mut main, &mut lane), reports, give, news).await;
    owner.count(0, 0);
    if !is_lost {
        let in_doubt = owner.hands.is_in_doubt();
        let replies = owner.hands.drain();
        give_up(term, (main, lane), replies, in_doubt).await;
    }
    Ok(())
}

/// Hands everything back, in order, and lets another process own the partition.
async fn give_up(term: &Term, pulls: (Pull, Pull), replies: Vec<Arc<str>>, in_doubt: bool) {
    let worker = &term.ordered.worker;
    for reply in replies {
        worker.release(&reply).await;
    }
    for pull in [pulls.0, pulls.1] {
        for delivery in pull.close().await {
            if let Some(reply) = delivery.reply() {
                worker.release(reply).await;
            }
        }
    }
    // What was handed back has reached the broker before anybody else looks.
    let _ = worker.bus.round_trip(Duration::from_secs(2)).await;
    if let Err(error) = term.blocks.give_up(in_doubt).await {
        tracing::debug!(%error, "the partition was not given up in words: it goes with this process");
    }
}

impl Owner {
    /// Works until it is to be given up (`false`) or is lost (`true`).
    async fn work(
        &mut self,
        (main, lane): (&mut Pull, &mut Pull),
        mut reports: mpsc::UnboundedReceiver<Report>,
        give: TaskScope,
        mut news: News,
    ) -> bool {
        let (term, scope) = (Arc::clone(&self.term), self.term.ordered.worker.scope.clone());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut permit: Option<Permit> = None;
        let mut stopping = false;
        loop {
            self.follow_the_book();
            if stopping && self.busy == 0 && main.asked() + lane.asked() == 0 {
                return false;
            }
            if !stopping {
                self.ask(main, lane).await;
            }
            // Whoever waits for a permit and does not look gets it all the same, and all other partitions have one less.
            let may_begin = self.book.has_ready() && !stopping;
            permit = if may_begin { permit.or_else(|| Some(self.permit())) } else { None };
            tokio::select! {
                biased;
                () = term.lost.stopped() => {
                    // Nobody of this process may still be at work when it takes the partition again.
                    while self.busy > 0 {
                        // Who asks gets no answer and ends.
                        let is_last = reports.recv().await.is_none_or(|report| report.is_last());
                        self.busy -= usize::from(is_last);
                    }
                    return true;
                }
                Some(report) = reports.recv() => if self.hear_all(report, &mut reports).await { term.lost.stop() },
                () = give.stopped(), if !stopping => stopping = true,
                () = scope.stopped(), if !stopping => stopping = true,
                granted = granted(&mut permit), if may_begin => {
                    permit = None;
                    if let Ok(granted) = granted { self.begin(granted) }
                }
                pulled = main.next() => self.pulled_all(pulled, main, Came::Stream).await,
                pulled = lane.next() => self.pulled_all(pulled, lane, Came::Lane).await,
                Some(letter) = news.recv(), if !stopping => self.heard_of(&letter),
                _ = tick.tick(), if !stopping => self.look_around().await,
            }
        }
    }

    fn permit(&self) -> Permit {
        Box::pin(Arc::clone(&self.term.ordered.worker.permits).acquire_owned())
    }

    /// Begins what may begin, as long as there are permits.
    fn begin(&mut self, permit: OwnedSemaphorePermit) {
        let mut permit = Some(permit);
        while let Some(granted) = permit.take() {
            let Some(Begin { slot, is_blocked }) = self.book.begin() else { return };
            let Some((envelope, refusal, reply)) = self.hands.begin(slot) else { continue };
            let turn = Turn { slot, envelope, refusal, reply, is_blocked, permit: Some(granted) };
            self.spawn(Arc::clone(&self.term).attempt(turn));
            permit = Arc::clone(&self.term.ordered.worker.permits).try_acquire_owned().ok();
        }
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.busy += 1;
        self.term.ordered.worker.scope.spawn(task);
    }

    /// What is to be put aside and to be written.
    fn follow_the_book(&mut self) {
        for slot in self.book.take_moves() {
            let Some(envelope) = self.hands.get(slot).map(|hand| Arc::clone(&hand.envelope)) else { continue };
            self.spawn(Arc::clone(&self.term).put_aside(slot, envelope));
        }
        for (key, plan) in self.book.take_writes() {
            let since_ms = self.since(&key, plan);
            self.spawn(Arc::clone(&self.term).write_alone(key, plan, since_ms));
        }
        let now = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.count(now(self.book.blocked()), now(self.book.held()));
        // As long as the book is not whole, it has much of the lane that need not wait there.
        let is_full = self.book.is_whole() && self.book.is_full();
        if is_full && !self.was_full {
            let limit = self.term.ordered.settings.most_held;
            tracing::warn!(
                partition = self.partition,
                consumer = self.term.ordered.consumer(),
                limit,
                "as many messages wait behind blocked keys as may: nothing new is fetched until a letter is replayed or discarded"
            );
        }
        self.was_full = is_full;
    }

    fn count(&mut self, blocked: i64, held: i64) {
        if self.counted == (blocked, held) {
            return;
        }
        let (was_blocked, was_held) = std::mem::replace(&mut self.counted, (blocked, held));
        self.term.ordered.worker.metrics.order(0, blocked - was_blocked, held - was_held);
    }

    async fn ask(&mut self, main: &mut Pull, lane: &mut Pull) {
        if !self.term.is_live() {
            // What comes now is for whoever has the partition by now.
            return;
        }
        let here = self.hands.of_stream().saturating_sub(self.book.behind());
        let has_room = self.book.is_whole() && !self.book.is_full();
        let wanted = wanted((here, main.asked()), self.book.is_open(), has_room);
        self.ask_for(main, wanted, Came::Stream).await;
        let room = usize::try_from(LANE_WINDOW).unwrap_or(0);
        let wanted = if lane.asked() < TARGET / 2 && self.book.held() < room { TARGET } else { 0 };
        self.ask_for(lane, wanted, Came::Lane).await;
    }

    async fn ask_for(&mut self, pull: &mut Pull, count: usize, of: Came) {
        if count == 0 || self.away.get(&of).is_some_and(|until| Instant::now() < *until) {
            return;
        }
        self.away.remove(&of);
        if let Err(error) = pull.ask(count).await {
            tracing::warn!(%error, consumer = self.term.ordered.consumer(), "the pull was not sent");
        }
    }

    /// Takes what has come, many at once.
    async fn pulled_all(&mut self, first: Pulled, pull: &mut Pull, came: Came) {
        self.pulled(first, came).await;
        for _ in 1..AT_ONCE {
            let Some(pulled) = pull.next().now_or_never() else { return };
            self.pulled(pulled, came).await;
        }
    }

    /// Hears what is told, many at once; `true`: the partition is lost.
    async fn hear_all(&mut self, first: Report, reports: &mut mpsc::UnboundedReceiver<Report>) -> bool {
        let mut is_lost = self.hear(first).await;
        for _ in 1..AT_ONCE {
            let Ok(report) = reports.try_recv() else { break };
            is_lost |= self.hear(report).await;
        }
        is_lost
    }

    async fn pulled(&mut self, pulled: Pulled, came: Came) {
        let away = match pulled {
            Pulled::Delivery(delivery) => {
                let term = Arc::clone(&self.term);
                if let Some(come) = term.ordered.open(delivery, came, term.blocks.fence) {
                    self.take(come).await;
                }
                return;
            }
            Pulled::Idle => return,
            Pulled::Away(why) => {
                tracing::debug!(partition = self.partition, why, "asking the broker again soon");
                AWAY.0
            }
            Pulled::Gone => {
                tracing::error!(
                    partition = self.partition,
                    consumer = self.term.ordered.consumer(),
                    "the consumer was deleted; apply the mesh file (mesh apply)"
                );
                AWAY.1
            }
        };
        self.away.insert(came, Instant::now() + away);
    }

    async fn take(&mut self, come: Come) {
        if come.came == Came::Stream {
            if come.number != self.last_number + 1 && self.book.is_open() {
                // Another process got what lies between, such as one that was stopped: it comes again, and goes first.
                tracing::debug!(
                    partition = self.partition,
                    number = come.number,
                    last = self.last_number,
                    "deliveries went elsewhere"
                );
                self.book.close();
            }
            self.last_number = come.number;
        }
        if come.came == Came::Lane {
            self.counts_off(&come);
        }
        // All that an owner before had begun was gathered: what comes now was begun by nobody.
        let replies = self.hands.take(come.vouched_for(), &mut self.book);
        self.ack_all(replies).await;
        self.is_rest_here(None);
    }

    /// One less is to come of what lay on the lane at the takeover.
    fn counts_off(&mut self, come: &Come) {
        if self.rest.as_mut().is_none_or(|rest| rest.comes(come.number, come.is_again())) {
            return;
        }
        // What is handed back and comes again is all there is.
        tracing::debug!(partition = self.partition, number = come.number, "a copy went elsewhere: gathering anew");
        self.term.give.stop();
    }

    /// Whether all that lay on the lane at the takeover has come.
    fn is_rest_here(&mut self, now: Option<&UnderWay>) {
        if self.rest.as_ref().is_some_and(|rest| !self.term.give.is_stopping() && rest.is_here(now)) {
            self.rest = None;
            self.book.lane_is_whole();
        }
    }

    /// What a task tells; `true`: the partition is lost.
    async fn hear(&mut self, report: Report) -> bool {
        // Before anything is made of it: whoever waits for the end of all tasks counts those of a partition that is lost too.
        self.busy -= usize::from(report.is_last());
        self.term.unheard.fetch_sub(usize::from(report.is_acked()), Ordering::AcqRel);
        match report {
            Report::Asks(slot, ending, answer) => {
                let plan = self.book.plan(slot, &ending);
                let key = self.hands.get(slot).and_then(|hand| hand.envelope.order.as_ref());
                let key = key.map(|order| Arc::<str>::from(order.key.as_str())).unwrap_or_default();
                // A task that waits no more is gone with the ownership.
                let _ = answer.send((plan, self.since(&key, plan)));
            }
            Report::Settled(slot, ending) => self.settled(slot, ending).await,
            Report::Stale(slot) => {
                self.book.given_back(slot);
                let (others, late) = self.hands.settled(slot);
                self.ack_all(others).await;
                self.take_all(late).await;
            }
            Report::HandedBack => {}
            Report::Copied(slot, is_new) => {
                if !self.term.is_live() {
                    return true;
                }
                self.copied(slot, is_new).await;
            }
            Report::Written(key) => self.book.written(&key),
            Report::LetterEnded(letter, key) => self.book.release(&key, &letter),
            Report::Looked => self.looking = false,
            Report::Lost => return true,
        }
        false
    }

    async fn settled(&mut self, slot: Slot, ending: Ending) {
        let is_done = ending == Ending::Done;
        let (others, late) = self.hands.settled(slot);
        self.book.settled(slot, ending);
        self.ack_all(others).await;
        if is_done {
            self.ack_all(late.into_iter().map(Come::into_reply).collect()).await;
        } else {
            self.take_all(late).await;
        }
    }

    async fn copied(&mut self, slot: Slot, is_new: bool) {
        if !is_new {
            // Its copy may be handled already: the original stays, in its place.
            self.book.not_moved(slot);
            return;
        }
        let (originals, is_here) = self.hands.put_aside(slot);
        self.book.moved(slot, is_here);
        self.ack_all(originals).await;
    }

    async fn ack_all(&self, replies: Vec<Arc<str>>) {
        for reply in replies {
            self.term.ack(&reply).await;
        }
    }

    async fn take_all(&mut self, comes: Vec<Come>) {
        for come in comes {
            let replies = self.hands.take(come, &mut self.book);
            self.ack_all(replies).await;
        }
    }

    /// Since when a key is blocked: from now on where it was not.
    fn since(&mut self, key: &Arc<str>, plan: Plan) -> i64 {
        let now_ms = self.term.ordered.store.now_ms();
        match plan {
            Plan::Free => self.since.remove(key).unwrap_or(now_ms),
            Plan::Settle => now_ms,
            Plan::Block(_) | Plan::Drain(_) => *self.since.entry(Arc::clone(key)).or_insert(now_ms),
        }
    }

    fn heard_of(&mut self, letter: &Arc<str>) {
        let found = self.book.letters().find(|(blocking, _)| *blocking == letter);
        if let Some((letter, key)) = found.map(|(letter, key)| (Arc::clone(letter), Arc::clone(key))) {
            self.looking = true;
            self.spawn(Arc::clone(&self.term).look_at_letters(vec![(letter, key)], true));
        }
    }

    async fn look_around(&mut self) {
        if Instant::now() >= self.hurry_next {
            self.hurry_next = Instant::now() + HURRY;
            self.book.hurry();
        }
        if !self.looking && Instant::now() >= self.look_next {
            self.look_next = Instant::now() + LOOK_AT_LETTERS;
            let letters: Vec<_> = self.book.letters().map(|(l, k)| (Arc::clone(l), Arc::clone(k))).collect();
            if !letters.is_empty() {
                self.looking = true;
                self.spawn(Arc::clone(&self.term).look_at_letters(letters, false));
            }
        }
        if !self.book.is_open() {
            self.look_for_the_rest().await;
        }
        if self.rest.as_ref().is_some_and(Rest::is_quiet) {
            self.look_for_the_rest_of_the_lane().await;
        }
    }

    /// What waited on the lane at the takeover may have been deleted, and does not come.
    async fn look_for_the_rest_of_the_lane(&mut self) {
        let lane = &self.term.ordered.worker.lane;
        let of = (lane.stream(), lane.partition_durable(self.partition));
        if let Ok(now) = self.term.under_way((&of.0, &of.1)).await {
            self.is_rest_here(Some(&now));
        }
    }

    /// Looks whether what another process got is here now.
    async fn look_for_the_rest(&mut self) {
        let worker = &self.term.ordered.worker;
        let (stream, durable) = (&self.term.ordered.stream, worker.lane.partition_durable(self.partition));
        let Ok(UnderWay { in_flight, pending, number, .. }) = self.term.under_way((stream, &durable)).await else {
            return;
        };
        let here = self.hands.of_stream() as u64;
        // After the broker's answer: what was acknowledged before it and is heard later is counted here.
        let unheard = self.term.unheard.load(Ordering::Acquire);
        if is_all_here((here, unheard), in_flight) && number == self.last_number {
            self.waits = None;
            self.book.open();
            return;
        }
        let waits = self.waits.get_or_insert_with(Waits::new);
        // While attempts end, their acks may be ahead of what they tell.
        if waits.has_too_many(if self.busy == 0 { here } else { 0 }, in_flight) {
            self.term.give.stop();
        }
        waits.tell(self.term.ordered.consumer(), (stream, &durable), (here, in_flight, pending));
    }
}

/// How many more messages of the stream to ask for, where so many are here and asked for.
fn wanted((here, asked): (usize, usize), is_open: bool, has_room: bool) -> usize {
    if !is_open {
        // What was delivered elsewhere has to come here: there is room for it, and the broker sends it to nobody but who asks.
        // Though as much be here as may be under way, it sends again what is overdue.
        let window = usize::try_from(WINDOW).unwrap_or(TARGET);
        return window.saturating_sub(here + asked).max(usize::from(asked == 0));
    }
    if !has_room || here + asked > TARGET / 2 { 0 } else { TARGET - here - asked }
}

/// The permit, once it is there. Where none is waited for, never.
async fn granted(permit: &mut Option<Permit>) -> Result<OwnedSemaphorePermit, AcquireError> {
    match permit {
        Some(permit) => permit.await,
        None => std::future::pending().await,
    }
}

/// Whether everything that the broker counts as under way is here, and not only as much. An ack of which nobody has heard yet
/// takes one from the broker's number while its delivery still counts as here: it would stand for one that is elsewhere, which
/// is taken for done when it comes after one behind it was handled.
fn is_all_here((here, unheard): (u64, usize), in_flight: u64) -> bool {
    unheard == 0 && in_flight == here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_partition_asks_until_what_it_waits_for_can_come() {
        let window = usize::try_from(WINDOW).unwrap();
        assert_eq!(wanted((0, 0), false, true), window);
        // All but one is here, as after a gap that a backlog filled up, and what was asked for has run out.
        assert_eq!(wanted((window - 1, 0), false, true), 1);
        assert_eq!(wanted((window, 0), false, false), 1);
        assert_eq!(wanted((window - 1, 1), false, true), 0);
    }

    #[test]
    fn an_open_partition_asks_when_half_of_what_it_aims_at_is_gone_and_has_room_behind_its_keys() {
        assert_eq!(wanted((0, 0), true, true), TARGET);
        assert_eq!(wanted((TARGET / 4, TARGET / 4), true, true), TARGET / 2);
        assert_eq!(wanted((TARGET / 2, 1), true, true), 0);
        assert_eq!(wanted((512, 0), true, true), 0);
        assert_eq!(wanted((0, 0), true, false), 0);
    }

    #[test]
    fn an_ack_that_is_not_heard_does_not_stand_for_a_message_that_is_elsewhere() {
        // Three are here, one of them acknowledged by its attempt; the broker counts the other two, and one that is elsewhere.
        assert!(!is_all_here((3, 1), 3));
        // Once it is heard, the one that is missing shows; and when that came, all is here.
        assert!(!is_all_here((2, 0), 3));
        assert!(is_all_here((3, 0), 3));
    }
}
