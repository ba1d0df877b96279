//! The letter's life as a state machine: several actors with stale views write through compare-and-set, against a broker
//! that keeps the records of one subject, and may lose the answer to whoever wrote.

use std::collections::BTreeMap;

use mesh_proto::v1::{self, letter_record::Record};
use proptest::prelude::*;

use super::{ActKind, Letter, LetterState, Letters};

const ACTORS: usize = 4;

/// What an actor does next.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// It reads the letter.
    Look,
    /// It writes what it believes to be possible, after the last record that it saw.
    Act(ActKind),
    /// The same, without asking its own view first: a program with a fault, or of another make.
    Force(ActKind),
    /// The consumer's word on a replay that it got: again, or handled.
    Fail,
    Handle,
}

fn moves() -> impl Strategy<Value = Vec<(usize, Move)>> {
    use ActKind::{Captured, Discarded, Edited, Held, Released, Replayed, Resolved};
    let kinds = prop::sample::select(vec![Replayed, Discarded, Held, Released, Edited]);
    let any_kind = prop::sample::select(vec![Captured, Replayed, Resolved, Discarded, Held, Released, Edited]);
    let one = prop_oneof![
        3 => Just(Move::Look),
        5 => kinds.prop_map(Move::Act),
        1 => any_kind.prop_map(Move::Force),
        1 => Just(Move::Fail),
        1 => Just(Move::Handle),
    ];
    prop::collection::vec((0..ACTORS, one), 0..60)
}

/// One letter's subject at the broker, and what its actors know of it.
struct World {
    records: Vec<v1::LetterRecord>,
    views: [Option<Letter>; ACTORS],
    /// The copies on the lane: generation, the sequence that ordered it, the payload.
    copies: Vec<(u32, u64, Vec<u8>)>,
    edits: u8,
    /// The payload of each edit that the broker confirmed, by its sequence.
    confirmed: BTreeMap<u64, Vec<u8>>,
}

impl World {
    fn new() -> World {
        let first = Record::Captured(v1::DeadLetter { payload: vec![0].into(), ..Default::default() });
        let records = vec![v1::LetterRecord { record: Some(first) }];
        World { records, views: [const { None }; ACTORS], copies: Vec::new(), edits: 0, confirmed: BTreeMap::new() }
    }

    fn letter(&self) -> Letter {
        let mut letters = Letters::default();
        for (sequence, record) in (1..).zip(&self.records) {
            letters.follow("id", "local", sequence, record.clone());
        }
        letters.into_map().into_values().next().unwrap()
    }

    /// The broker: stored only if the last record is the one that the writer saw.
    fn append(&mut self, expected: u64, record: Record) -> Option<u64> {
        if expected != self.records.len() as u64 {
            return None;
        }
        self.records.push(v1::LetterRecord { record: Some(record) });
        Some(self.records.len() as u64)
    }

    fn step(&mut self, actor: usize, step: Move) {
        match step {
            Move::Look => self.views[actor] = Some(self.letter()),
            Move::Act(kind) => {
                let Some(view) = self.views[actor].clone() else { return };
                if view.state.after(kind).is_some() {
                    self.write(actor, &view, kind);
                }
            }
            Move::Force(kind) => {
                let Some(view) = self.views[actor].clone() else { return };
                self.write(actor, &view, kind);
            }
            Move::Fail | Move::Handle => {
                let Some((generation, ordered_at, payload)) = self.copies.last().cloned() else { return };
                let record = match step {
                    Move::Fail => {
                        Record::Captured(v1::DeadLetter { generation, payload: payload.into(), ..Default::default() })
                    }
                    _ => Record::Resolved(v1::LetterAct { generation, ..Default::default() }),
                };
                self.append(ordered_at, record);
            }
        }
    }

    fn write(&mut self, actor: usize, view: &Letter, kind: ActKind) {
        let generation = view.letter.generation + u32::from(matches!(kind, ActKind::Replayed | ActKind::Captured));
        let act = v1::LetterAct { generation, by: actor.to_string(), ..Default::default() };
        self.edits += 1;
        let edited = vec![self.edits];
        let record = match kind {
            ActKind::Captured => {
                let payload = view.letter.payload.clone();
                Record::Captured(v1::DeadLetter { generation, payload, ..Default::default() })
            }
            ActKind::Replayed => Record::Replaying(act),
            ActKind::Resolved => Record::Resolved(act),
            ActKind::Discarded => Record::Discarded(act),
            ActKind::Held => Record::Held(act),
            ActKind::Released => Record::Released(act),
            ActKind::Edited => {
                Record::Edited(v1::LetterEdit { act: Some(act), payload: edited.clone().into(), claim: None })
            }
        };
        let Some(sequence) = self.append(view.last_sequence, record) else { return };
        if view.state.after(kind).is_none() {
            return;
        }
        match kind {
            ActKind::Replayed => self.copies.push((generation, sequence, view.letter.payload.to_vec())),
            ActKind::Edited => drop(self.confirmed.insert(sequence, edited)),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_actors_with_stale_views_do_a_letter_lives_one_life(moves in moves()) {
        let mut world = World::new();
        let mut before = world.letter();
        for (actor, step) in moves {
            world.step(actor, step);
            let now = world.letter();
            prop_assert!(!before.state.is_ended() || now.state == before.state, "what has ended stays ended");
            prop_assert!(now.history.starts_with(&before.history), "history only grows");
            prop_assert!(now.letter.generation >= before.letter.generation);
            let held = before.state == LetterState::Held && now.state == LetterState::Replaying;
            prop_assert!(!held, "what is held is not replayed");
            before = now;
        }
        // Each generation is sent once, though two saw the same letter.
        let mut generations: Vec<u32> = world.copies.iter().map(|(generation, ..)| *generation).collect();
        let sent = generations.len();
        generations.dedup();
        prop_assert_eq!(generations.len(), sent);
        prop_assert!(generations.windows(2).all(|pair| pair[0] < pair[1]));
        // An edit that was confirmed is in the history, and every replay carries the newest edit before it.
        let edits = before.history.iter().filter(|act| act.kind == ActKind::Edited);
        let edits: Vec<_> = edits.filter_map(|act| act.payload.as_ref().map(|payload| payload.to_vec())).collect();
        prop_assert_eq!(&edits, &world.confirmed.values().cloned().collect::<Vec<_>>());
        for (_, ordered_at, payload) in &world.copies {
            if let Some((_, newest)) = world.confirmed.range(..ordered_at).next_back() {
                prop_assert_eq!(newest, payload);
            }
        }
    }
}
