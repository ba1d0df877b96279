//! The letter's life as a state machine, every order of up to six records tried (the property test beside it tries long ones at
//! random): two people with stale views write through compare-and-set, one of them may write without asking what may follow, and
//! the consumer says what came of the copies that it was sent.
//!
//! A view is the real fold of the records, and what may follow is what `LetterState::after` says. Compare-and-set and the number of
//! the next generation are the model's own.

use mesh_proto::v1::{self, letter_record::Record};
use stateright::{Checker as _, Model, Property};

use super::{ActKind, Letter, LetterState, Letters};

const PEOPLE: usize = 2;
/// Records in all, at most.
const RECORDS: usize = 6;
/// Records that somebody writes who does not ask what may follow: a program with a fault, or of another make.
const FORCED: u8 = 1;
const KINDS: [ActKind; 7] = [
    ActKind::Captured,
    ActKind::Replayed,
    ActKind::Resolved,
    ActKind::Discarded,
    ActKind::Held,
    ActKind::Released,
    ActKind::Edited,
];

/// A record at the broker: its place is its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Written {
    kind: ActKind,
    generation: u32,
    payload: u8,
}

/// What a confirmed replay put on the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    generation: u32,
    ordered_at: u64,
    payload: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    records: Vec<Written>,
    /// How many records each has read; `None`: he has not looked.
    views: [Option<usize>; PEOPLE],
    sent: Vec<Sent>,
    /// The edits that somebody was told of: sequence and payload.
    confirmed: Vec<(u64, u8)>,
    forced: u8,
    /// Whether somebody wrote too late.
    was_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Look(usize),
    /// He writes what he believes to be possible.
    Act(usize, ActKind),
    /// He writes without asking.
    Force(usize, ActKind),
    /// The consumer's word on a copy.
    Ends(Sent, Came),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Came {
    Failed,
    Done,
}

impl World {
    /// The letter after so many records.
    fn letter(&self, read: usize) -> Letter {
        let mut letters = Letters::default();
        for (sequence, record) in (1..).zip(self.records.iter().take(read)) {
            letters.follow("id", "local", sequence, record.to_wire());
        }
        letters.into_map().into_values().next().unwrap()
    }

    fn now(&self) -> Letter {
        self.letter(self.records.len())
    }

    /// The broker: stored only if the last record is the one that the writer saw.
    fn append(&mut self, seen: u64, record: Written) -> Option<u64> {
        if seen != self.records.len() as u64 {
            return None;
        }
        self.records.push(record);
        Some(self.records.len() as u64)
    }

    fn write(&mut self, read: usize, kind: ActKind) {
        let view = self.letter(read);
        let generation = view.letter.generation + u32::from(matches!(kind, ActKind::Replayed | ActKind::Captured));
        // Each edit has a payload of its own.
        let edited = u8::try_from(self.records.len()).unwrap_or(u8::MAX);
        let payload = if kind == ActKind::Edited { edited } else { payload_of(&view) };
        let Some(sequence) = self.append(view.last_sequence, Written { kind, generation, payload }) else {
            self.was_refused = true;
            return;
        };
        if view.state.after(kind).is_none() {
            return;
        }
        match kind {
            ActKind::Replayed => self.sent.push(Sent { generation, ordered_at: sequence, payload }),
            ActKind::Edited => self.confirmed.push((sequence, payload)),
            _ => {}
        }
    }
}

impl Written {
    fn to_wire(self) -> v1::LetterRecord {
        let Written { kind, generation, payload } = self;
        let payload = vec![payload].into();
        let act = v1::LetterAct { generation, ..Default::default() };
        let record = match kind {
            ActKind::Captured => Record::Captured(v1::DeadLetter { generation, payload, ..Default::default() }),
            ActKind::Replayed => Record::Replaying(act),
            ActKind::Resolved => Record::Resolved(act),
            ActKind::Discarded => Record::Discarded(act),
            ActKind::Held => Record::Held(act),
            ActKind::Released => Record::Released(act),
            ActKind::Edited => Record::Edited(v1::LetterEdit { act: Some(act), payload, claim: None }),
        };
        v1::LetterRecord { record: Some(record) }
    }
}

fn payload_of(letter: &Letter) -> u8 {
    letter.letter.payload[0]
}

struct Life;

impl Model for Life {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let captured = Written { kind: ActKind::Captured, generation: 0, payload: 0 };
        vec![World {
            records: vec![captured],
            views: [None; PEOPLE],
            sent: Vec::new(),
            confirmed: Vec::new(),
            forced: 0,
            was_refused: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.records.len() >= RECORDS {
            return;
        }
        for (who, read) in world.views.iter().enumerate() {
            if *read != Some(world.records.len()) {
                steps.push(Step::Look(who));
            }
            let Some(read) = *read else { continue };
            let state = world.letter(read).state;
            for kind in KINDS {
                // What a consumer says is not a person's to write.
                let is_own = !matches!(kind, ActKind::Captured | ActKind::Resolved);
                if is_own && state.after(kind).is_some() {
                    steps.push(Step::Act(who, kind));
                } else if world.forced < FORCED {
                    steps.push(Step::Force(who, kind));
                }
            }
        }
        let ends = |sent| [Came::Failed, Came::Done].map(|came| Step::Ends(sent, came));
        steps.extend(world.sent.iter().copied().flat_map(ends));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Look(who) => next.views[who] = Some(world.records.len()),
            Step::Act(who, kind) => next.write(world.views[who]?, kind),
            Step::Force(who, kind) => {
                next.forced += 1;
                next.write(world.views[who]?, kind);
            }
            Step::Ends(Sent { generation, ordered_at, payload }, came) => {
                let kind = if came == Came::Failed { ActKind::Captured } else { ActKind::Resolved };
                next.append(ordered_at, Written { kind, generation, payload });
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what has ended stays ended, and history only grows", |_, world: &World| {
                let stages: Vec<Letter> = (1..=world.records.len()).map(|read| world.letter(read)).collect();
                stages.windows(2).all(|pair| {
                    let [before, now] = pair else { return false };
                    (!before.state.is_ended() || now.state == before.state)
                        && now.history.starts_with(&before.history)
                        && now.letter.generation >= before.letter.generation
                        && (before.state, now.state) != (LetterState::Held, LetterState::Replaying)
                })
            }),
            Property::always("each generation is ordered once, and in order", |_, world: &World| {
                world.sent.windows(2).all(|pair| pair[0].generation < pair[1].generation)
            }),
            Property::always("an edit that was confirmed is in the history, and no other", |_, world: &World| {
                let history = world.now().history;
                let edits = history.iter().filter(|act| act.kind == ActKind::Edited);
                let edits = edits.filter_map(|act| act.payload.as_ref()?.first().copied());
                edits.eq(world.confirmed.iter().map(|(_, payload)| *payload))
            }),
            Property::always("a replay carries the newest edit before it", |_, world: &World| {
                world.sent.iter().all(|sent| {
                    let before = world.confirmed.iter().rfind(|(sequence, _)| *sequence < sent.ordered_at);
                    sent.payload == before.map_or(0, |(_, payload)| *payload)
                })
            }),
            Property::sometimes("a replay of a replay is handled", |_, world: &World| {
                let last = world.now();
                last.state == LetterState::Resolved && last.letter.generation == 1 && world.sent.len() == 2
            }),
            Property::sometimes("one is mended, held, released and replayed", |_, world: &World| {
                let kinds: Vec<_> = world.now().history.iter().map(|act| act.kind).collect();
                use ActKind::{Captured, Edited, Held, Released, Replayed};
                kinds == [Captured, Edited, Held, Released, Replayed]
            }),
            Property::sometimes("who has not seen the last record is refused", |_, world: &World| {
                world.was_refused && !world.confirmed.is_empty()
            }),
        ]
    }
}

#[test]
fn in_whatever_order_people_and_consumer_act_a_letter_lives_one_life() {
    let checked = Life.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    let states = checked.unique_state_count();
    println!("letter: {states} states, depth {}, no property is violated", checked.max_depth());
    assert!(states > 10_000, "{states}");
}
