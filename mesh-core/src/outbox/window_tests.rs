use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

fn row(sequence: i64, place: &str, key: &str) -> Row {
    Row { sequence, place: place.into(), key: key.into(), ..Row::default() }
}

fn chosen(window: &mut Window) -> Vec<i64> {
    window.choose().iter().map(|row| row.sequence).collect()
}

#[test]
fn of_a_key_one_goes_at_a_time_and_others_go_on() {
    let mut window = Window::new(Limits::of(16));
    window.absorb(vec![row(1, "a", "k"), row(2, "a", "k"), row(3, "a", "m"), row(4, "b", "k"), row(5, "a", "")]);
    assert_eq!(chosen(&mut window), [1, 3, 4, 5]);
    assert!(chosen(&mut window).is_empty());
    window.confirmed(1);
    assert_eq!(chosen(&mut window), [2]);
}

#[test]
fn one_that_was_committed_late_goes_before_those_that_still_wait() {
    let mut window = Window::new(Limits::of(16));
    window.absorb(vec![row(5, "a", "k"), row(6, "a", "k")]);
    window.absorb(vec![row(2, "a", "k")]);
    assert_eq!(chosen(&mut window), [2]);
    window.confirmed(2);
    assert_eq!(chosen(&mut window), [5]);
}

#[test]
fn a_refused_row_stops_its_key_and_no_other() {
    let mut window = Window::new(Limits::of(16));
    window.absorb(vec![row(1, "a", "k"), row(2, "a", "k"), row(3, "a", "m"), row(4, "a", "m")]);
    assert_eq!(chosen(&mut window), [1, 3]);
    window.refused(1);
    window.confirmed(3);
    assert_eq!(chosen(&mut window), [4]);
    // Until it is written down, what follows is neither asked for nor taken.
    assert_eq!(window.ask().lines, [("a".to_owned(), "k".to_owned())]);
    window.absorb(vec![row(2, "a", "k")]);
    assert!(chosen(&mut window).is_empty());
    window.written(&[1]);
    assert!(window.ask().lines.is_empty());
}

#[test]
fn a_place_that_can_not_take_it_pauses_and_is_tried_with_one_row() {
    let mut window = Window::new(Limits::of(16));
    window.absorb(vec![row(1, "a", "k"), row(2, "a", "m"), row(3, "b", "k"), row(4, "a", "k")]);
    assert_eq!(chosen(&mut window), [1, 2, 3]);
    assert!(window.postponed(1, 1000));
    assert!(!window.postponed(2, 1000), "one failure, not two");
    assert_eq!((window.ask().places, window.next_trial_ms()), (vec!["a".to_owned()], Some(1250)));
    assert!(window.trials(1249).is_empty());
    assert_eq!(window.trials(1250), ["a"]);
    window.absorb(vec![row(1, "a", "k")]);
    assert_eq!(chosen(&mut window), [1]);
    assert!(window.trials(1250).is_empty(), "one at a time");
    assert!(!window.postponed(1, 1250));
    assert_eq!(window.next_trial_ms(), Some(1750), "longer each time");
    window.absorb(vec![row(1, "a", "k")]);
    assert_eq!(chosen(&mut window), [1]);
    window.confirmed(1);
    assert!(window.ask().places.is_empty());
}

#[test]
fn one_place_never_takes_the_whole_window() {
    let mut window = Window::new(Limits::of(8));
    window.absorb((1..=12).map(|n| row(n, "a", "")).chain([row(13, "b", "")]).collect());
    assert_eq!(chosen(&mut window), [1, 2, 3, 4, 13]);
}

/// A table, and a broker that confirms, refuses or fails; the truth that the window is held against.
#[derive(Default)]
struct World {
    table: BTreeMap<i64, Row>,
    refused: BTreeSet<i64>,
    /// What the broker confirmed, by line.
    sent: HashMap<(String, String), Vec<i64>>,
    now_ms: i64,
}

impl World {
    fn read(&self, ask: &Ask, only: Option<&str>) -> Vec<Row> {
        let stopped: BTreeSet<(&str, &str)> =
            self.refused.iter().map(|s| (self.table[s].place.as_str(), self.table[s].key.as_str())).collect();
        let fits = |row: &&Row| {
            let line = (row.place.clone(), row.key.clone());
            !ask.known.contains(&row.sequence)
                && !self.refused.contains(&row.sequence)
                && only.map_or(!ask.places.contains(&row.place), |place| row.place == place)
                && (row.key.is_empty()
                    || !(ask.lines.contains(&line) || stopped.contains(&(row.place.as_str(), row.key.as_str()))))
        };
        self.table.values().filter(fits).take(if only.is_some() { 1 } else { ask.limit }).cloned().collect()
    }

    /// One round, as the relay makes it: read, choose, send, settle, write.
    fn round(&mut self, window: &mut Window, fate: &mut impl FnMut(&Row) -> u8) -> usize {
        let rows = self.read(&window.ask(), None);
        window.absorb(rows);
        for place in window.trials(self.now_ms) {
            let rows = self.read(&window.ask(), Some(&place));
            if rows.is_empty() {
                window.empty(&place);
            }
            window.absorb(rows);
        }
        let chosen = window.choose();
        let lines: BTreeSet<(&str, &str)> =
            chosen.iter().filter(|r| !r.key.is_empty()).map(|r| (r.place.as_str(), r.key.as_str())).collect();
        assert_eq!(lines.len(), chosen.iter().filter(|r| !r.key.is_empty()).count(), "two of one line under way");
        let mut settled = Vec::new();
        for row in &chosen {
            match fate(row) {
                0 => {
                    window.postponed(row.sequence, self.now_ms);
                }
                1 => {
                    window.refused(row.sequence);
                    self.refused.insert(row.sequence);
                    settled.push(row.sequence);
                }
                _ => {
                    window.confirmed(row.sequence);
                    self.sent.entry((row.place.clone(), row.key.clone())).or_default().push(row.sequence);
                    self.table.remove(&row.sequence);
                    settled.push(row.sequence);
                }
            }
        }
        window.written(&settled);
        self.now_ms += 5000;
        chosen.len()
    }
}

proptest! {
    #[test]
    fn order_holds_memory_is_bounded_and_everything_goes(
        rows in proptest::collection::vec((0..3u8, 0..6u8), 0..300),
        fates in proptest::collection::vec(0..12u8, 1..60),
        window in 2..20usize,
        steps in 1..7usize,
    ) {
        let limits = Limits::of(window);
        let (mut window, mut world) = (Window::new(limits), World::default());
        let mut fates = fates.into_iter();
        let names = ["", "k", "l", "m", "n", "o"];
        let all: Vec<Row> = rows.iter().enumerate()
            .map(|(n, (place, key))| row(i64::try_from(n).unwrap(), &place.to_string(), names[usize::from(*key)]))
            .collect();
        // Rows come while the relay runs; fates other than success come only at first.
        let mut coming = all.clone().into_iter();
        let mut idle = 0;
        while idle < 8 {
            for row in coming.by_ref().take(steps * 10) {
                world.table.insert(row.sequence, row);
            }
            let went = world.round(&mut window, &mut |_| fates.next().unwrap_or(9));
            prop_assert!(window.under_way() == 0 && window.waiting <= limits.loaded);
            // A refusal is tried again when its time comes.
            world.refused.clear();
            idle = if went == 0 && coming.len() == 0 { idle + 1 } else { 0 };
        }
        prop_assert!(world.table.is_empty(), "these never went: {:?}", world.table.keys());
        for ((_, key), sent) in world.sent.iter().filter(|((_, key), _)| !key.is_empty()) {
            prop_assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{key}: {sent:?}");
        }
        prop_assert_eq!(world.sent.values().map(Vec::len).sum::<usize>(), all.len());
        prop_assert!(window.queues.is_empty() && window.heads.is_empty() && window.settled.is_empty() && window.bytes == 0);
    }
}
