//! Two operators who edit and replay the same letters at the same moments: of two who saw the same one wins, the other is
//! told so, each letter is sent once per generation, and all that was granted stands in its history.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use async_nats::Message;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    Fault, Mesh,
    config::Environment,
    dead_letter::{self, ActKind, Letter, LetterState},
    envelope::{Envelope, Note, header},
    fault::{Effect, Reason},
    operate::letters::{self, Order},
    proto::v1,
};
use mesh_tests::{
    TestBroker,
    broker::PEOPLE,
    foreign::Worker,
    letters::{in_hand, lane},
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::{Mutex, Semaphore};

use crate::{
    letters_cli::all,
    replay::capture,
    shop::{consumer, orders},
};

const LETTERS: usize = 1000;
/// Letters that are fought for at once.
const AT_ONCE: usize = 64;
/// Copies that the clerk asks for at once.
const BATCH: usize = 256;
/// Letters fail again so often, less one.
const LIVES: usize = 3;

/// Payloads that came to the consumer, by letter and generation.
type Effects = BTreeMap<(String, u32), Vec<Bytes>>;

/// The consumer that failed. It pulls with a client that is not ours, and without an inbox: a second copy on the lane, or of
/// another generation than was ordered, would be seen and counted.
struct Clerk {
    worker: Worker,
    mesh: Mesh,
    effects: Mutex<Effects>,
    /// One permit for each copy of an order's that was settled, by the order's number.
    settled: Vec<Semaphore>,
}

impl Clerk {
    async fn new(broker: &TestBroker) -> Clerk {
        Clerk {
            worker: Worker::new(broker, "a", ("mesh1-lane-a", "a_work")).await,
            mesh: broker.connect("a").await.unwrap(),
            effects: Mutex::default(),
            settled: (0..LETTERS).map(|_| Semaphore::new(0)).collect(),
        }
    }

    /// Until it is dropped.
    async fn work(&self) {
        loop {
            let copies = self.worker.ask(BATCH, 2).await.take(BATCH);
            let copies = copies.take_while(|copy| std::future::ready(copy.status.is_none()));
            copies.for_each_concurrent(None, |copy| self.handle(copy)).await;
        }
    }

    /// Counts a copy, and refuses it in the letter's first lives.
    async fn handle(&self, copy: Message) {
        let note = Note::parse(copy.headers.as_ref().unwrap().get(header::MESH).unwrap().as_str()).unwrap();
        let letter = note.lane.as_ref().unwrap().letter.clone().unwrap();
        let of = (letter.id.clone(), letter.generation);
        self.effects.lock().await.entry(of).or_default().push(copy.payload.clone());
        let number: usize = OrderPlaced::decode(copy.payload.clone()).unwrap().order_id.parse().unwrap();
        if (letter.generation as usize) <= number % LIVES {
            let envelope = Envelope { note, ..in_hand(number as u64, copy.payload) };
            let fault = Fault::invalid("not yet");
            let attempts = v1::Attempts::default();
            dead_letter::capture(self.mesh.bus(), &lane("a"), &envelope, &fault, attempts).await.unwrap();
        } else {
            dead_letter::resolve(self.mesh.bus(), &lane("a"), &letter).await.unwrap();
        }
        self.worker.client.publish(copy.reply.unwrap(), "+ACK".into()).await.unwrap();
        self.settled[number].add_permits(1);
    }
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
    /// Orders for letters that were replaying already: the same copy again, and no second order.
    joined: AtomicI64,
}

/// Edits differ by this.
static CENTS: AtomicI64 = AtomicI64::new(1);

impl Person {
    async fn new(broker: &TestBroker, by: &'static str) -> Person {
        Person {
            by,
            mesh: broker.connect(by).await.unwrap(),
            granted: Mutex::default(),
            refused: Mutex::default(),
            joined: AtomicI64::new(0),
        }
    }

    async fn look(&self, id: &str) -> Letter {
        letters::find(self.mesh.bus(), id).await.unwrap()
    }

    /// Edits or replays a letter as it was seen. What was granted.
    async fn act(&self, seen: &Letter, replays: bool, why: &str) -> Option<Granted> {
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
            let known = OrderPlaced::decode(seen.letter.payload.clone()).unwrap();
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
                return Some(granted);
            }
        }
        None
    }
}

/// Both act on one letter as they see it, again and again, until it is handled. Who lost looks again and acts once more.
async fn contest(people: &[Person; 2], clerk: &Clerk, (number, id): (usize, &str), seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
    for round in 0.. {
        let seen = tokio::join!(people[0].look(id), people[1].look(id));
        if seen.0.state.is_ended() {
            break;
        }
        let mut replays = || random.u8(..3) > 0;
        let (acts, why) = ([replays(), replays()], format!("round {round} of {number}"));
        let told = tokio::join!(people[0].act(&seen.0, acts[0], &why), people[1].act(&seen.1, acts[1], &why));
        let (first, loser) = match told {
            (Some(first), None) => (first, &people[1]),
            (None, Some(first)) => (first, &people[0]),
            both => panic!("of two who saw the same, one wins: {both:?}"),
        };
        let again = loser.act(&loser.look(id).await, replays(), &format!("{why}, again")).await;
        let orders = [Some(first), again].into_iter().flatten().filter(|granted| granted.is_replay).count();
        clerk.settled[number].acquire_many(u32::try_from(orders).unwrap()).await.unwrap().forget();
    }
}

/// The seed of this run: MESH_SEED, or a new one.
fn seed() -> u64 {
    let given = Environment::from_process().get("MESH_SEED").map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// What a letter's history says was granted to people, and what of it was handled: payloads by generation.
fn told(letter: &Letter) -> (Vec<Granted>, BTreeMap<u32, Bytes>) {
    let (mut granted, mut sent, mut payload) = (Vec::new(), BTreeMap::new(), Bytes::new());
    for act in &letter.history {
        if let Some(changed) = &act.payload {
            payload = changed.clone();
        }
        let is_replay = act.kind == ActKind::Replayed;
        if is_replay {
            assert_eq!(sent.insert(act.generation, payload.clone()), None, "one order for each generation");
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

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_fight_for_a_thousand_letters_send_each_once_per_generation() {
    let seed = seed();
    println!("MESH_SEED={seed}");
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let people = [Person::new(&broker, PEOPLE[0]).await, Person::new(&broker, PEOPLE[1]).await];
    let clerk = Clerk::new(&broker).await;
    let operator = broker.connect("operator").await.unwrap();
    capture(operator.bus(), "a", 0..LETTERS).await;
    let letters = all(operator.bus()).await;
    let numbers = letters.iter().map(|it| OrderPlaced::decode(it.letter.payload.clone()).unwrap().order_id);
    let mut ids: Vec<(usize, &str)> =
        numbers.zip(&letters).map(|(number, it)| (number.parse().unwrap(), &*it.letter.id)).collect();
    ids.sort_unstable();
    fastrand::Rng::with_seed(seed).shuffle(&mut ids);

    let clock = operator.bus().gate().clock();
    let (started, started_ms) = (Instant::now(), clock.now_ms());
    let contests = stream::iter(&ids).for_each_concurrent(AT_ONCE, |id| contest(&people, &clerk, *id, seed));
    tokio::select! {
        () = clerk.work() => unreachable!("it works until it is dropped"),
        () = contests => {}
    }
    let (took, ended_ms) = (started.elapsed(), clock.now_ms());

    // What stands in the histories.
    let (mut written, mut sent) = (BTreeSet::new(), BTreeMap::new());
    for letter in all(operator.bus()).await {
        let lives = u32::try_from(order_number(&letter) % LIVES).unwrap() + 1;
        assert_eq!((letter.state, letter.letter.generation), (LetterState::Resolved, lives - 1), "{letter:?}");
        let of_people = letter.history.iter().filter(|act| act.by != "a");
        for act in of_people {
            assert!(PEOPLE.contains(&act.by.as_str()) && !act.why.is_empty(), "{act:?}");
            assert!((started_ms..=ended_ms).contains(&act.at_ms), "{act:?}");
        }
        let (granted, payloads) = told(&letter);
        assert_eq!(payloads.keys().copied().collect::<Vec<_>>(), (1..=lives).collect::<Vec<_>>());
        written.extend(granted);
        sent.extend(payloads.into_iter().map(|(generation, it)| ((letter.letter.id.clone(), generation), vec![it])));
    }
    assert_eq!(sent.len(), (0..LETTERS).map(|number| number % LIVES + 1).sum::<usize>());

    // What came to the consumer, by its own count and by the broker's.
    assert_eq!(*clerk.effects.lock().await, sent, "each once per generation, with the payload that was ordered");
    let lane = operator.bus().stream_state("mesh1-lane-a").await.unwrap().unwrap();
    assert_eq!((lane.last_sequence, lane.messages), (sent.len() as u64, 0), "copies that were ever stored");

    // What the two were told.
    let (mut granted, mut refused, mut joined) = (BTreeSet::new(), 0, 0);
    for person in &people {
        granted.extend(person.granted.lock().await.iter().cloned());
        joined += person.joined.load(Ordering::Relaxed);
        for fault in person.refused.lock().await.iter() {
            assert_eq!((fault.reason(), fault.effect()), (Reason::LetterChanged, Effect::None), "{fault}");
            assert!(fault.message().contains("look again: mesh dead-letter show"), "{fault}");
            refused += 1;
        }
    }
    assert_eq!(written, granted, "all that was granted stands in a history, and nothing else");
    assert!(refused >= LETTERS, "at least one conflict for each letter: {refused}");
    let replays = granted.iter().filter(|it| it.is_replay).count();
    let edits = granted.len() - replays;
    println!(
        "MESH_SEED={seed} letters={LETTERS} edits={edits} replays={replays} refused={refused} joined={joined} doubled=0 \
         in {:.1} s",
        took.as_secs_f32()
    );
}

fn order_number(letter: &Letter) -> usize {
    OrderPlaced::decode(letter.letter.payload.clone()).unwrap().order_id.parse().unwrap()
}
