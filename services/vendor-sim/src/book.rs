//! What a vendor did and what it remembers: effects, and the first outcome under every idempotency key.
//!
//! Kept compact, because a demonstration leaves 140,000 effects here: no body is stored, each is made again
//! from these parts, byte for byte the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a well-formed call asks for.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// The caller's own id of the business it does, here an order.
    pub(crate) order: Option<String>,
    /// Minor units; 0 where there is no money.
    pub(crate) amount: i64,
    pub(crate) currency: [u8; 3],
    /// JSON members that the answer repeats and that can't be made from the other fields.
    pub(crate) rest: Option<Box<str>>,
    /// The card is one that the bank declines.
    pub(crate) declined: bool,
}

/// Why a vendor refuses a call. A constant of the vendor, so that remembering one costs a pointer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) param: &'static str,
    pub(crate) message: &'static str,
}

/// How an accepted call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Declined,
    Failed,
    Refused(&'static Rule),
}

/// One effect.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) order: Option<Arc<str>>,
    pub(crate) rest: Option<Box<str>>,
    pub(crate) amount: i64,
    pub(crate) currency: [u8; 3],
    /// Unix seconds.
    pub(crate) created_s: u32,
    /// How often this key with this order took effect; 0 on a repetition, which the first one counts.
    pub(crate) count: u32,
    /// The effect before this one under the same order.
    earlier: Option<u32>,
}

/// What is remembered under an idempotency key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// Hash of what was asked.
    pub(crate) params: u64,
    /// Before this moment the first call is still in flight. Milliseconds, rounded up.
    ready_at_ms: u64,
    /// The first effect under the key.
    pub(crate) effect: Option<u32>,
    pub(crate) outcome: Outcome,
}

/// [`Stored`] as it is kept: 24 bytes instead of 40, 140,000 times.
#[derive(Debug, Clone, Copy)]
struct Kept {
    params: u64,
    ready_at_ms: u64,
    /// The effect's index, or [`NO_EFFECT`].
    effect: u32,
    ending: Ending,
}

/// [`Outcome`] with the rule as its place in [`Book::rules`].
#[derive(Debug, Clone, Copy)]
enum Ending {
    Done,
    Declined,
    Failed,
    Refused(u8),
}

const NO_EFFECT: u32 = u32::MAX;

/// A new effect's place, and what it repeats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) repeats_key: bool,
    pub(crate) repeats_order: bool,
}

/// One vendor's book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    effects: Vec<Effect>,
    /// The newest effect of each order; older ones follow by `earlier`.
    by_order: HashMap<Arc<str>, u32>,
    by_key: HashMap<Arc<str>, Kept>,
    /// The rules that were remembered so far: a handful.
    rules: Vec<&'static Rule>,
}

impl Stored {
    /// Whether the call that made this entry is still being worked on.
    pub(crate) fn in_flight(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.ready_at_ms)
    }
}

impl Book {
    /// What is remembered under `key`.
    pub(crate) fn stored(&self, key: &str) -> Option<Stored> {
        let kept = self.by_key.get(key)?;
        let outcome = match kept.ending {
            Ending::Done => Outcome::Done,
            Ending::Declined => Outcome::Declined,
            Ending::Failed => Outcome::Failed,
            Ending::Refused(place) => Outcome::Refused(self.rules.get(usize::from(place))?),
        };
        let effect = (kept.effect != NO_EFFECT).then_some(kept.effect);
        Some(Stored { params: kept.params, ready_at_ms: kept.ready_at_ms, effect, outcome })
    }

    /// Remembers an outcome under `key`; the first one stays.
    pub(crate) fn store(&mut self, key: &Arc<str>, params: u64, ready_at: Duration, made: (Outcome, Option<u32>)) {
        let ready_at_ms = u64::try_from(ready_at.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let (outcome, effect) = made;
        let ending = match outcome {
            Outcome::Done => Ending::Done,
            Outcome::Declined => Ending::Declined,
            Outcome::Failed => Ending::Failed,
            Outcome::Refused(rule) => Ending::Refused(self.place_of(rule)),
        };
        let effect = effect.unwrap_or(NO_EFFECT);
        let entry = self.by_key.entry(Arc::clone(key));
        let kept = entry.or_insert(Kept { params, ready_at_ms, effect, ending });
        if kept.effect == NO_EFFECT {
            kept.effect = effect;
        }
    }

    fn place_of(&mut self, rule: &'static Rule) -> u8 {
        let place = self.rules.iter().position(|known| *known == rule).unwrap_or_else(|| {
            self.rules.push(rule);
            self.rules.len() - 1
        });
        u8::try_from(place).unwrap_or(u8::MAX)
    }

    /// Does what is wished, and says what that repeats.
    pub(crate) fn act(&mut self, wish: Wish, key: Option<&Arc<str>>, created_s: u32) -> Entry {
        let index = u32::try_from(self.effects.len()).unwrap_or(u32::MAX);
        let same_key = key.and_then(|key| self.stored(key)).and_then(|stored| stored.effect);
        let order: Option<Arc<str>> = wish.order.map(Arc::from);
        let earlier = order.as_ref().and_then(|order| self.by_order.insert(Arc::clone(order), index));
        let first = self.first_of(key, order.as_ref(), same_key.or(earlier));
        if let Some(first) = first.and_then(|first| self.effects.get_mut(first)) {
            first.count += 1;
        }
        self.effects.push(Effect {
            key: key.cloned(),
            order,
            rest: wish.rest,
            amount: wish.amount,
            currency: wish.currency,
            created_s,
            count: u32::from(first.is_none()),
            earlier,
        });
        Entry { index, repeats_key: same_key.is_some(), repeats_order: earlier.is_some() }
    }

    /// The effect that counts for this key with this order, if `candidate` or one before it is such.
    fn first_of(&self, key: Option<&Arc<str>>, order: Option<&Arc<str>>, candidate: Option<u32>) -> Option<usize> {
        let mut next = candidate;
        while let Some(index) = next {
            let effect = self.effect(index)?;
            if effect.count > 0 && effect.key.as_ref() == key && effect.order.as_ref() == order {
                return usize::try_from(index).ok();
            }
            next = effect.earlier;
        }
        None
    }

    /// The effect at `index`.
    pub(crate) fn effect(&self, index: u32) -> Option<&Effect> {
        self.effects.get(usize::try_from(index).ok()?)
    }

    /// Effects from `index` on.
    pub(crate) fn effects_from(&self, index: usize) -> &[Effect] {
        self.effects.get(index..).unwrap_or_default()
    }

    /// Every effect of one order, newest first.
    pub(crate) fn of_order(&self, order: &str) -> impl Iterator<Item = (u32, &Effect)> {
        let place = |index: u32| self.effect(index).map(|effect| (index, effect));
        let newest = self.by_order.get(order).copied().and_then(place);
        std::iter::successors(newest, move |(_, effect)| effect.earlier.and_then(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(order: &str) -> Wish {
        Wish { order: Some(order.into()), ..Wish::default() }
    }

    fn act(book: &mut Book, key: Option<&str>, order: &str) -> Entry {
        let key: Option<Arc<str>> = key.map(Arc::from);
        let entry = book.act(wish(order), key.as_ref(), 0);
        if let Some(key) = &key {
            book.store(key, 0, Duration::ZERO, (Outcome::Done, Some(entry.index)));
        }
        entry
    }

    #[test]
    fn one_effect_stays_small() {
        assert!(size_of::<Effect>() <= 80, "{}", size_of::<Effect>());
        assert!(size_of::<Kept>() <= 24, "{}", size_of::<Kept>());
    }

    #[test]
    fn repetitions_are_told_apart() {
        let mut book = Book::default();
        let table = [
            (Some("a"), "1", (false, false)),
            (Some("b"), "2", (false, false)),
            (Some("a"), "1", (true, true)),
            (Some("c"), "1", (false, true)),
            (Some("b"), "3", (true, false)),
            (None, "4", (false, false)),
            (None, "4", (false, true)),
        ];
        for (key, order, expected) in table {
            let entry = act(&mut book, key, order);
            assert_eq!((entry.repeats_key, entry.repeats_order), expected, "{key:?} {order}");
        }
        let counts: Vec<_> = book.effects_from(0).iter().map(|effect| effect.count).collect();
        assert_eq!(counts, [2, 1, 0, 1, 1, 2, 0]);
        assert_eq!(counts.iter().sum::<u32>(), 7, "the counts of the lines are all effects");
        assert_eq!(book.of_order("1").map(|(index, _)| index).collect::<Vec<_>>(), [3, 2, 0]);
    }

    #[test]
    fn a_stored_refusal_keeps_its_own_rule() {
        static RULES: [Rule; 2] = [
            Rule { status: 400, code: "a", param: "", message: "" },
            Rule { status: 400, code: "b", param: "", message: "" },
        ];
        let mut book = Book::default();
        for (key, rule) in [("1", 0), ("2", 1), ("3", 0)] {
            book.store(&key.into(), 0, Duration::ZERO, (Outcome::Refused(&RULES[rule]), None));
        }
        let codes = ["1", "2", "3"].map(|key| match book.stored(key).unwrap().outcome {
            Outcome::Refused(rule) => rule.code,
            other => panic!("{other:?}"),
        });
        assert_eq!(codes, ["a", "b", "a"]);
    }

    #[test]
    fn the_first_outcome_under_a_key_stays() {
        let mut book = Book::default();
        let key: Arc<str> = "a".into();
        book.store(&key, 1, Duration::from_micros(1500), (Outcome::Failed, None));
        book.store(&key, 2, Duration::from_secs(9), (Outcome::Done, Some(0)));
        let stored = book.stored("a").unwrap();
        assert_eq!((stored.params, stored.outcome, stored.effect), (1, Outcome::Failed, Some(0)));
        assert!(stored.in_flight(Duration::from_micros(1500)) && !stored.in_flight(Duration::from_millis(2)));
    }
}
