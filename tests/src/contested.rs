//! Two operators who edit and replay the same letters at the same moments: of two who saw the same one wins, the other is
//! told so, each letter is sent once per generation, and all that was granted stands in its history.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_nats::Message;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_core::{
    Fault, Mesh,
    dead_letter::{self, ActKind, Letter, LetterState},
    envelope::{Envelope, Note, header},
    fault::{Effect, Reason},
    operate::letters::{self, Order, Selector},
    proto::v1,
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::{Mutex, Semaphore};

use crate::{
    TestBroker,
    broker::PEOPLE,
    campaign::client::CounterClient,
    foreign::Worker,
    letters::{capture, in_hand, lane},
};

/// The service whose letters they are: see [`declarations`](crate::letters::declarations).
pub const SERVICE: &str = "a";
/// Letters that are fought for at once.
const AT_ONCE: usize = 64;
/// Copies that the clerk asks for at once.
const BATCH: usize = 256;
/// Letters fail again so often, less one.
const LIVES: usize = 3;

/// What they fight for.
pub struct Fight {
    /// How many letters.
    pub letters: usize,
    /// What its randomness begins with.
    pub seed: u64,
    /// Who hears of each copy that came to the consumer, if anybody, by [`effect_id`].
    pub counter: Option<CounterClient>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Edits that were granted.
    pub edits: usize,
    /// Replays that were granted, by [`effect_id`].
    pub replays: BTreeSet<String>,
    /// How often somebody was told that another was first.
    pub refused: usize,
    /// Orders for letters that were replaying already: the same copy again, and no second order.
    pub joined: i64,
    /// How long it took.
    pub took: Duration,
    /// What must not be: nothing, if all is well.
    pub wrong: Vec<String>,
}

impl Outcome {
    fn require(&mut self, holds: bool, why: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(why());
        }
    }
}

/// How the counter calls what was sent of a letter in one generation.
#[must_use]
pub fn effect_id(letter: &str, generation: u32) -> String {
    format!("e-{letter}-{generation}")
}

/// Payloads that came to the consumer, by letter and generation.
type Effects = BTreeMap<(String, u32), Vec<Bytes>>;

/// The consumer that failed. It pulls with a client that is not ours, and without an inbox: a second copy on the lane, or of
/// another generation than was ordered, would be seen and counted.
struct Clerk {
    worker: Worker,
    mesh: Mesh,
    effects: Mutex<Effects>,
    counter: Option<CounterClient>,
    /// One permit for each copy of an order's that was settled, by the order's number.
    settled: Vec<Semaphore>,
}

impl Clerk {
    async fn new(broker: &TestBroker, fight: &Fight) -> anyhow::Result<Clerk> {
        Ok(Clerk {
            worker: Worker::new(broker, SERVICE, ("mesh1-lane-a", "a_work")).await,
            mesh: broker.connect(SERVICE).await?,
            effects: Mutex::default(),
            counter: fight.counter.clone(),
            settled: (0..fight.letters).map(|_| Semaphore::new(0)).collect(),
        })
    }

    /// Until it is dropped.
    async fn work(&self) -> anyhow::Result<()> {
        loop {
            let copies = self.worker.ask(BATCH, 2).await.take(BATCH);
            let copies = copies.take_while(|copy| std::future::ready(copy.status.is_none()));
            copies.map(anyhow::Ok).try_for_each_concurrent(None, |copy| self.handle(copy)).await?;
        }
    }

    /// Counts a copy, and refuses it in the letter's first lives.
    async fn handle(&self, copy: Message) -> anyhow::Result<()> {
        let headers = copy.headers.as_ref().context("a copy has headers")?;
        let note = Note::parse(headers.get(header::MESH).context("a copy has a note")?.as_str())?;
        let letter = note.lane.as_ref().and_then(|lane| lane.letter.clone()).context("a copy is of a letter")?;
        let reply = copy.reply.context("a copy is acknowledged")?;
        if let Some(counter) = &self.counter {
            // A second copy is another message of the lane, and a redelivery is the same one.
            let (id, key) = (effect_id(&letter.id, letter.generation), place_on_lane(&reply)?);
            let told = counter.effect(&id, key, 1).await;
            anyhow::ensure!(told.is_ok_and(|status| status.is_success()), "the counter does not count {id}: {told:?}");
        }
        let of = (letter.id.clone(), letter.generation);
        self.effects.lock().await.entry(of).or_default().push(copy.payload.clone());
        let number: usize = OrderPlaced::decode(copy.payload.clone())?.order_id.parse()?;
        if (letter.generation as usize) <= number % LIVES {
            let envelope = Envelope { note, ..in_hand(number as u64, copy.payload) };
            let fault = Fault::invalid("not yet");
            let attempts = v1::Attempts::default();
            dead_letter::capture(self.mesh.bus(), &lane(SERVICE), &envelope, &fault, attempts).await?;
        } else {
            dead_letter::resolve(self.mesh.bus(), &lane(SERVICE), &letter).await?;
        }
        self.worker.client.publish(reply, "+ACK".into()).await?;
        self.settled.get(number).context("an order that was captured")?.add_permits(1);
        Ok(())
    }
}

/// The sequence of a message on the lane, by what its acknowledgement is sent to: `$JS.ACK`, two names more where the broker
/// names its domain, the stream, the consumer, how often it was delivered, the sequence.
fn place_on_lane(reply: &str) -> anyhow::Result<&str> {
    let tokens: Vec<&str> = reply.split('.').collect();
    let place = if tokens.len() == 9 { tokens.get(5) } else { tokens.get(7) };
    place.copied().with_context(|| format!("{reply} is no place to acknowledge"))
}

/// What an operator was told yes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Granted {
    letter: String,
    is_replay: bool,
    generation: u32,
    by: String,
    why: String,
    /// Of an edit.
    payload: Option<Bytes>,
}

/// An operator with a connection and a user of their own.
struct Person {
    by: &'static str,
    mesh: Mesh,
    granted: Mutex<Vec<Granted>>,
    refused: Mutex<Vec<Fault>>,
    /// Orders for letters that were replaying already.
    joined: AtomicI64,
}

/// Edits differ by this.
static CENTS: AtomicI64 = AtomicI64::new(1);

impl Person {
    async fn new(broker: &TestBroker, by: &'static str) -> anyhow::Result<Person> {
        Ok(Person {
            by,
            mesh: broker.connect(by).await?,
            granted: Mutex::default(),
            refused: Mutex::default(),
            joined: AtomicI64::new(0),
        })
    }

    async fn look(&self, id: &str) -> Result<Letter, Fault> {
        letters::find(self.mesh.bus(), id).await
    }

    /// Edits or replays a letter as it was seen. What was granted.
    async fn act(&self, seen: &Letter, replays: bool, why: &str) -> anyhow::Result<Option<Granted>> {
        let order = Order { by: self.by.into(), why: why.into(), ..Order::default() };
        let mut granted = Granted {
            letter: seen.letter.id.clone(),
            is_replay: replays,
            generation: seen.letter.generation,
            by: self.by.into(),
            why: why.into(),
            payload: None,
        };
        let done = if replays {
            letters::replay(self.mesh.bus(), seen, &order)
                .await
                .map(|replayed| granted.generation = replayed.generation)
        } else {
            let cents = CENTS.fetch_add(1, Ordering::Relaxed);
            let known = OrderPlaced::decode(seen.letter.payload.clone())?;
            let payload = Bytes::from(OrderPlaced { total_cents: cents, ..known }.encode_to_vec());
            granted.payload = Some(payload.clone());
            letters::edit(self.mesh.bus(), seen, payload, &order).await
        };
        match done {
            Err(fault) => self.refused.lock().await.push(fault),
            Ok(()) if replays && seen.state == LetterState::Replaying => {
                self.joined.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {
                self.granted.lock().await.push(granted.clone());
                return Ok(Some(granted));
            }
        }
        Ok(None)
    }
}

/// Both act on one letter as they see it, again and again, until it is handled. Who lost looks again and acts once more.
async fn contest(people: &[Person; 2], clerk: &Clerk, (number, id): (usize, &str), seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
    for round in 0.. {
        let seen = tokio::try_join!(people[0].look(id), people[1].look(id))?;
        if seen.0.state.is_ended() {
            break;
        }
        let mut replays = || random.u8(..3) > 0;
        let (acts, why) = ([replays(), replays()], format!("round {round} of {number}"));
        let told = tokio::try_join!(people[0].act(&seen.0, acts[0], &why), people[1].act(&seen.1, acts[1], &why))?;
        let (first, loser) = match told {
            (Some(first), None) => (first, &people[1]),
            (None, Some(first)) => (first, &people[0]),
            both => bail!("of two who saw the same, one wins: {both:?}"),
        };
        let again = loser.act(&loser.look(id).await?, replays(), &format!("{why}, again")).await?;
        let orders = [Some(first), again].into_iter().flatten().filter(|granted| granted.is_replay).count();
        clerk.settled[number].acquire_many(u32::try_from(orders)?).await?.forget();
    }
    Ok(())
}

/// The letters of a consumer, those of the orders `0..fight.letters`, are captured and fought for until each is handled.
///
/// # Errors
/// What anybody takes part in fails otherwise than by coming second.
pub async fn fight(broker: &TestBroker, fight: &Fight) -> anyhow::Result<Outcome> {
    let people = [Person::new(broker, PEOPLE[0]).await?, Person::new(broker, PEOPLE[1]).await?];
    let clerk = Clerk::new(broker, fight).await?;
    let operator = broker.connect("operator").await?;
    capture(operator.bus(), SERVICE, (0..fight.letters).map(order)).await;
    let all = all(&operator).await?;
    let mut ids: Vec<(usize, &str)> = Vec::new();
    for letter in &all {
        ids.push((number_of(letter)?, &letter.letter.id));
    }
    ids.sort_unstable();
    fastrand::Rng::with_seed(fight.seed).shuffle(&mut ids);

    let clock = operator.bus().gate().clock();
    let (started, started_ms) = (Instant::now(), clock.now_ms());
    let contests = stream::iter(ids.iter().map(anyhow::Ok));
    let contests = contests.try_for_each_concurrent(AT_ONCE, |id| contest(&people, &clerk, *id, fight.seed));
    tokio::select! {
        ended = clerk.work() => bail!("the consumer ended: {ended:?}"),
        fought = contests => fought?,
    }
    let during = started_ms..=clock.now_ms();
    let mut outcome = Outcome { took: started.elapsed(), ..Outcome::default() };
    let (written, sent) = histories(&mut outcome, &operator, &during).await?;
    let whole: usize = (0..fight.letters).map(|number| number % LIVES + 1).sum();
    outcome.require(sent.len() == whole, || format!("{} orders, and {whole} were needed", sent.len()));
    came(&mut outcome, &clerk, &operator, &sent).await?;
    told(&mut outcome, &people, &written).await;
    let least = fight.letters;
    let refused = outcome.refused;
    outcome.require(refused >= least, || format!("a conflict for each letter at least: {refused} of {least}"));
    operator.drain().await;
    Ok(outcome)
}

/// What stands in the histories: what was granted to people, and the payloads that were sent.
async fn histories(
    outcome: &mut Outcome,
    operator: &Mesh,
    during: &std::ops::RangeInclusive<i64>,
) -> anyhow::Result<(BTreeSet<Granted>, Effects)> {
    let (mut written, mut sent) = (BTreeSet::new(), Effects::new());
    for letter in all(operator).await? {
        let lives = u32::try_from(number_of(&letter)? % LIVES)? + 1;
        let is_ended = (letter.state, letter.letter.generation) == (LetterState::Resolved, lives - 1);
        outcome.require(is_ended, || format!("not handled in life {lives}: {letter:?}"));
        for act in letter.history.iter().filter(|act| act.by != SERVICE) {
            let is_named = PEOPLE.contains(&act.by.as_str()) && !act.why.is_empty();
            outcome.require(is_named && during.contains(&act.at_ms), || format!("by whom, why, when? {act:?}"));
        }
        let (granted, payloads) = of_history(outcome, &letter);
        let generations: Vec<u32> = payloads.keys().copied().collect();
        outcome.require(generations.iter().copied().eq(1..=lives), || format!("{lives} lives, sent {generations:?}"));
        written.extend(granted);
        sent.extend(payloads.into_iter().map(|(generation, it)| ((letter.letter.id.clone(), generation), vec![it])));
    }
    Ok((written, sent))
}

/// What a letter's history says was granted to people, and what of it was handled: payloads by generation.
fn of_history(outcome: &mut Outcome, letter: &Letter) -> (Vec<Granted>, BTreeMap<u32, Bytes>) {
    let (mut granted, mut sent, mut payload) = (Vec::new(), BTreeMap::new(), Bytes::new());
    for act in &letter.history {
        if let Some(changed) = &act.payload {
            payload = changed.clone();
        }
        let is_replay = act.kind == ActKind::Replayed;
        if is_replay {
            let before = sent.insert(act.generation, payload.clone());
            outcome.require(before.is_none(), || format!("two orders of generation {}: {letter:?}", act.generation));
        }
        if is_replay || act.kind == ActKind::Edited {
            granted.push(Granted {
                letter: letter.letter.id.clone(),
                is_replay,
                generation: act.generation,
                by: act.by.clone(),
                why: act.why.clone(),
                payload: act.payload.clone(),
            });
        }
    }
    (granted, sent)
}

/// What came to the consumer, by its own count and by the broker's.
async fn came(outcome: &mut Outcome, clerk: &Clerk, operator: &Mesh, sent: &Effects) -> anyhow::Result<()> {
    let effects = clerk.effects.lock().await;
    let others = sent.iter().filter(|(of, payload)| effects.get(*of) != Some(payload)).map(|(of, _)| of);
    let others: Vec<_> = others.chain(effects.keys().filter(|of| !sent.contains_key(*of))).collect();
    outcome.require(others.is_empty(), || {
        format!("not once per generation, with the payload that was ordered: {others:?}")
    });
    let lane = operator.bus().stream_state("mesh1-lane-a").await?.context("a lane")?;
    let stored = (lane.last_sequence, lane.messages);
    outcome.require(stored == (sent.len() as u64, 0), || format!("copies that were ever stored, and are: {stored:?}"));
    Ok(())
}

/// What the two were told.
async fn told(outcome: &mut Outcome, people: &[Person; 2], written: &BTreeSet<Granted>) {
    let mut granted = BTreeSet::new();
    for person in people {
        granted.extend(person.granted.lock().await.iter().cloned());
        outcome.joined += person.joined.load(Ordering::Relaxed);
        for fault in person.refused.lock().await.iter() {
            let is_second = (fault.reason(), fault.effect()) == (Reason::LetterChanged, Effect::None);
            let says = fault.message().contains("look again: mesh dead-letter show");
            outcome.require(is_second && says, || format!("refused otherwise: {fault}"));
            outcome.refused += 1;
        }
    }
    let differ: Vec<_> = written.symmetric_difference(&granted).collect();
    outcome.require(differ.is_empty(), || format!("granted and not in a history, or the other way: {differ:?}"));
    let replays = granted.iter().filter(|it| it.is_replay);
    outcome.replays = replays.map(|it| effect_id(&it.letter, it.generation)).collect();
    outcome.edits = granted.iter().filter(|it| !it.is_replay).count();
}

async fn all(operator: &Mesh) -> Result<Vec<Letter>, Fault> {
    Ok(letters::list(operator.bus(), &Selector::default()).await?.letters)
}

fn order(number: usize) -> (u64, OrderPlaced) {
    let (order_id, customer_id) = (number.to_string(), (number % 7).to_string());
    (number as u64, OrderPlaced { order_id, customer_id, ..OrderPlaced::default() })
}

fn number_of(letter: &Letter) -> anyhow::Result<usize> {
    Ok(OrderPlaced::decode(letter.letter.payload.clone())?.order_id.parse()?)
}
