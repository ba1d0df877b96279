//! The duty that no delivery is lost without a letter: the broker's advisories, and a look at the consumers where it is silent.
//!
//! The two run beside each other, and an advisory that can't be worked off now keeps neither the sweep nor the others waiting.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    KeeperSettings, advisory,
    beside::Beside,
    deletions::Deletions,
    hear::{self, AFTER_THE_STREAM, Heard},
    in_hand::Hand,
    outcomes::CLOCKS_DIFFER_MS,
    rescue::Rescue,
};
use crate::{
    bus::{Bus, Followed, Probed, PublishError, Stop},
    envelope::Envelope,
    fault::Fault,
    gate::Unopened,
    operate::position::Position,
    operate::until_done::until_done,
    policy::reconcile::{
        ConsumerView, Notice, Word, given_up_below, is_deletion_of_an_event, is_queue, needs_asking, was_settled,
    },
    subject::{ADVISORY_STREAM, WIRE},
    telemetry::metrics::Metrics,
};

/// How often a consumer is asked in one sweep: each question may turn up one more delivery that was given up.
const QUESTIONS: usize = 16;
/// Messages of one consumer that one sweep looks at.
const LOOKED_AT: usize = 256;
/// How long after a try that failed the place among the advisories is written again.
const WRITES_AGAIN: Duration = Duration::from_secs(1);
/// Advisories that are worked off at once.
const AT_ONCE: usize = 64;
/// The same of those that rest: most of the time they only wait.
const RESTING_AT_ONCE: usize = 1024;

/// What one reader of the advisories works off. Each has a place of its own in the stream: what rests is read again by whoever
/// comes after a crash, and holds up no other word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Everything else.
    AtOnce,
    /// That events left their stream: after a rest.
    Rested,
}

impl Turn {
    fn of(notice: &Notice) -> Turn {
        if is_deletion_of_an_event(notice) { Turn::Rested } else { Turn::AtOnce }
    }

    /// The name of its place.
    const fn duty(self) -> &'static str {
        match self {
            Turn::AtOnce => "advisory",
            Turn::Rested => "advisory-left",
        }
    }

    const fn at_once(self) -> usize {
        match self {
            Turn::AtOnce => AT_ONCE,
            Turn::Rested => RESTING_AT_ONCE,
        }
    }
}

/// Reconciles until it is dropped.
pub(super) async fn run(bus: &Bus, metrics: &Metrics, (settings, heard): (&KeeperSettings, &Heard)) {
    let (deletions, beside) = (Deletions::default(), Beside::default());
    let rescue = Rescue { bus, metrics, deletions: &deletions, beside: &beside, left_rest: settings.left_rest };
    tokio::join!(
        heed_all(&rescue, Turn::AtOnce),
        heed_all(&rescue, Turn::Rested),
        heed_heard(&rescue, heard),
        sweep_all(rescue, settings)
    );
}

/// What the stream of advisories may have missed. One that can't be worked off now holds one place, and no other word.
async fn heed_heard(rescue: &Rescue<'_>, heard: &Heard) {
    let _at_work = heard.at_work();
    let mut looks = tokio::time::interval(AFTER_THE_STREAM);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut under_way, mut taken, mut waiting) = (FuturesUnordered::new(), BTreeSet::new(), VecDeque::new());
    let mut resting = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let missed = Box::pin(missed(rescue.bus, heard, heard.due(&taken))).await;
                taken.extend(missed.iter().map(|word| word.number));
                resting.extend(missed.into_iter().map(|word| async { (rescue.rested(&word.notice).await, word) }));
            }
            Some((hand, word)) = resting.next(), if !resting.is_empty() => match hand {
                Hand::Silent => waiting.push_back(word),
                Hand::Settled => {
                    heard.done(word.number);
                    taken.remove(&word.number);
                }
            },
            Some(number) = under_way.next(), if !under_way.is_empty() => {
                heard.done(number);
                taken.remove(&number);
            }
        }
        while under_way.len() < AT_ONCE
            && let Some(hear::Word { number, notice, .. }) = waiting.pop_front()
        {
            under_way.push(Box::pin(async move {
                until_done("a letter of the keeper's", || rescue.reconcile(&notice)).await;
                number
            }));
        }
    }
}

/// Those of some words that the stream of advisories does not hold. What it holds is worked off from there, or was, perhaps by
/// another process: it is done with.
async fn missed(bus: &Bus, heard: &Heard, due: Vec<hear::Word>) -> Vec<hear::Word> {
    let Some(since_ms) = due.iter().map(|word| word.notice.at_ms).min() else { return due };
    let mut missed: HashSet<Notice> = due.iter().map(|word| word.notice.clone()).collect();
    let each = |message: Unopened| {
        if let Some(notice) = advisory::read(&message.open().envelope, 0) {
            missed.remove(&notice);
        }
        if missed.is_empty() { Stop::Yes } else { Stop::No }
    };
    if let Err(fault) = bus.read_since(ADVISORY_STREAM, ">", since_ms.saturating_sub(CLOCKS_DIFFER_MS), each).await {
        tracing::warn!(%fault, "the stream of advisories can't be read: what was heard is worked off without it");
    }
    let (missed, kept): (Vec<_>, Vec<_>) = due.into_iter().partition(|word| missed.contains(&word.notice));
    kept.iter().for_each(|word| heard.done(word.number));
    missed
}

async fn heed_all(rescue: &Rescue<'_>, turn: Turn) {
    let bus = rescue.bus;
    let mut position = until_done("its place among the advisories", || Position::load(bus, turn.duty())).await;
    let mut advisories = bus.follow(ADVISORY_STREAM, position.stream_created_ms(), position.sequence() + 1);
    let (mut under_way, mut left, mut read_to) = (FuturesUnordered::new(), BTreeSet::new(), position.sequence());
    loop {
        tokio::select! {
            followed = advisories.next(), if under_way.len() < turn.at_once() => match followed {
                // What is under way of the one before it is worked off all the same. It has no place any more.
                Followed::Another { created_ms, .. } => {
                    position.begin(created_ms);
                    (left, read_to) = (BTreeSet::new(), 0);
                }
                Followed::Message(advisory) => {
                    let envelope = advisory.open().envelope;
                    read_to = envelope.delivery.as_ref().map_or(read_to, |delivery| delivery.sequence);
                    left.insert(read_to);
                    under_way.push(Box::pin(heed((rescue, turn), envelope, (position.stream_created_ms(), read_to))));
                }
            },
            Some((of, sequence)) = under_way.next(), if !under_way.is_empty() => {
                if of != position.stream_created_ms() {
                    continue;
                }
                left.remove(&sequence);
                write(bus, &mut position, worked_off(&left, read_to)).await;
            }
            // It was not written, and perhaps nothing more comes for a long time.
            () = tokio::time::sleep(WRITES_AGAIN), if worked_off(&left, read_to) > position.sequence() => {
                write(bus, &mut position, worked_off(&left, read_to)).await;
            }
        }
    }
}

/// Up to where every advisory is worked off, of those that were read: `left` are under way.
fn worked_off(left: &BTreeSet<u64>, read_to: u64) -> u64 {
    left.first().map_or(read_to, |first| first - 1)
}

/// What is not written is read again: every step finds what it did before.
async fn write(bus: &Bus, position: &mut Position, worked_off: u64) {
    if worked_off > position.sequence()
        && let Err(fault) = position.advance(bus, worked_off).await
    {
        tracing::warn!(%fault, "how far the advisories are read was not written; it is tried again");
    }
}

async fn heed((rescue, turn): (&Rescue<'_>, Turn), envelope: Envelope, place: (i64, u64)) -> (i64, u64) {
    let notice = advisory::read(&envelope, 0).filter(|notice| Turn::of(notice) == turn);
    // While it rests it keeps no more than this.
    drop(envelope);
    if let Some(notice) = notice
        && rescue.rested(&notice).await == Hand::Silent
    {
        until_done("a letter of the keeper's", || rescue.reconcile(&notice)).await;
    }
    place
}

async fn sweep_all(rescue: Rescue<'_>, settings: &KeeperSettings) {
    let mut sweeps = tokio::time::interval(settings.sweep_every);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep { bus: rescue.bus, rescue, confirm_after: settings.confirm_after, seen: HashMap::new() };
    loop {
        sweeps.tick().await;
        Box::pin(sweep.once()).await;
    }
}

/// The look at all consumers.
struct Sweep<'a> {
    bus: &'a Bus,
    rescue: Rescue<'a>,
    confirm_after: Duration,
    /// By stream and consumer, messages that nobody seems to see to, by sequence, and since when.
    seen: HashMap<(String, String), HashMap<u64, Instant>>,
}

impl Sweep<'_> {
    /// One that can't be looked at now hides no other; what was seen of it before counts on.
    async fn once(&mut self) {
        let streams = match self.bus.stream_names(&format!("{WIRE}-")).await {
            Ok(streams) => streams,
            Err(fault) => {
                tracing::warn!(%fault, "the streams could not be listed; they are looked at again soon");
                return;
            }
        };
        self.seen.retain(|(stream, _), _| streams.contains(stream));
        for stream in streams {
            let views = match self.bus.consumer_views(&stream).await {
                Ok(views) => views,
                Err(fault) => {
                    tracing::warn!(%fault, stream, "its consumers could not be looked at; they are looked at again soon");
                    continue;
                }
            };
            self.seen.retain(|(of, durable), _| *of != stream || views.iter().any(|view| view.durable == *durable));
            for view in views {
                let asked = if needs_asking(&view) { self.ask(&view).await } else { Ok(()) };
                let looked = self.look(&view).await;
                for fault in [asked.err(), looked.err()].into_iter().flatten() {
                    let durable = view.durable.as_str();
                    tracing::warn!(%fault, stream, durable, "a consumer could not be seen to; it is looked at again soon");
                }
            }
        }
    }

    /// Has the broker say what it gave up: its word comes among the advisories.
    async fn ask(&self, view: &ConsumerView) -> Result<(), Fault> {
        // Only its leader answers: without one, the word would be stored nowhere.
        self.bus.stream_state(ADVISORY_STREAM).await?;
        for _ in 0..view.in_flight.min(QUESTIONS) {
            match self.bus.probe(&view.stream, &view.durable).await {
                Ok(Probed::Something) => {}
                // The consumer may have been deleted since it was listed.
                Ok(Probed::Nothing) | Err(PublishError::NobodyListens) => break,
                Err(error) => return Err(error.into_fault("the question to a consumer")),
            }
        }
        Ok(())
    }

    /// What lies in a queue though nobody sees to it: the broker's word on it was lost, or its deletion.
    async fn look(&mut self, view: &ConsumerView) -> Result<(), Fault> {
        let key = (view.stream.clone(), view.durable.clone());
        let Some(below) = given_up_below(view) else {
            self.seen.remove(&key);
            return Ok(());
        };
        let found = self.find(view, below).await?;
        let before = self.seen.remove(&key).unwrap_or_default();
        let now = Instant::now();
        let seen: HashMap<u64, Instant> =
            found.into_iter().map(|sequence| (sequence, before.get(&sequence).copied().unwrap_or(now))).collect();
        let mut due: Vec<u64> = seen
            .iter()
            .filter(|(_, since)| since.elapsed() >= self.confirm_after)
            .map(|(sequence, _)| *sequence)
            .collect();
        due.sort_unstable();
        // Those too, until they are gone: what can't be done now is due the next time.
        self.seen.insert(key, seen);
        let notice = |sequence| Notice {
            stream: view.stream.clone(),
            durable: view.durable.clone(),
            sequence,
            deliveries: 0,
            at_ms: 0,
            word: Word::Nothing,
        };
        let due: Vec<Notice> = due.into_iter().map(notice).collect();
        if due.is_empty() { Ok(()) } else { self.rescue.clear(&due, was_settled(view)).await }
    }

    async fn find(&self, view: &ConsumerView, below: u64) -> Result<Vec<u64>, Fault> {
        debug_assert!(is_queue(&view.stream));
        let mut all = Vec::new();
        for filter in &view.filters {
            let mut from = 1;
            for _ in 0..LOOKED_AT {
                let found = self.bus.next_on(&view.stream, filter, from).await?;
                let delivery = found.and_then(|message| message.open().envelope.delivery);
                let Some(sequence) = delivery.map(|d| d.sequence).filter(|sequence| *sequence <= below) else { break };
                from = sequence + 1;
                all.push(sequence);
            }
        }
        Ok(all)
    }
}
