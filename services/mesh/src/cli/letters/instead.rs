//! What there is in place of what was asked for, where no letter is meant: a name with a slip looks like good news otherwise.
//!
//! Only the keeper's index is asked, which takes milliseconds: where none answers, it is said which filters fit nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    bus::Bus,
    dead_letter::{Facts, LetterState},
    operate::letters::Selection,
};

use super::{Output, counted, indexed, words};

/// Names that are told, at most.
const NAMED: usize = 10;
/// Groups whose newest letter is read for its names.
const READ: u32 = 20;

/// Says that no letter is meant, beginning with `what`, and what there is instead. For people.
pub(super) async fn tell(what: &str, bus: &Bus, selection: &Selection, output: &Output) {
    if !output.is_json() {
        let instead = Instead::of(bus, selection).await;
        output.remark(&told(what, selection, instead.as_ref()));
    }
}

/// What there is.
#[derive(Debug, PartialEq, Eq)]
enum Instead {
    /// So many letters fit all but the condition and the headers.
    ButForTheCondition(u64),
    /// All fits but the state.
    InOtherStates(BTreeMap<LetterState, u64>),
    /// No letter has what one filter names; those names that there are. `is_more`: and others.
    Unlike { kind: &'static str, wanted: String, known: BTreeSet<String>, is_more: bool },
    /// Each filter fits some letter, and none fits all; the states of all letters.
    Together(BTreeMap<LetterState, u64>),
    /// There are no letters.
    Nothing,
}

/// What a filter that takes exact names is called, what it names, and the same of a letter.
struct Exact {
    kind: &'static str,
    wanted: String,
    alone: Selection,
    of: for<'f> fn(&Facts<'f>) -> &'f str,
}

impl Instead {
    /// `None`: no index says.
    async fn of(bus: &Bus, selection: &Selection) -> Option<Instead> {
        let plain = Selection { condition: None, headers: Vec::new(), ..selection.clone() };
        if plain != *selection {
            let count = indexed::count(bus, &plain).await?;
            if count > 0 {
                return Some(Instead::ButForTheCondition(count));
            }
        }
        let stateless = Selection { states: Vec::new(), parked: false, ..plain };
        let states = indexed::states(bus, &stateless).await?;
        if !states.is_empty() {
            return Some(Instead::InOtherStates(states));
        }
        for exact in exact(&stateless) {
            if indexed::count(bus, &exact.alone).await? == 0 {
                return Instead::unlike(bus, exact).await;
            }
        }
        let states = indexed::states(bus, &Selection::default()).await?;
        Some(if states.is_empty() { Instead::Nothing } else { Instead::Together(states) })
    }

    async fn unlike(bus: &Bus, exact: Exact) -> Option<Instead> {
        let (consumers, letters, is_more) = indexed::examples(bus, READ).await?;
        if consumers.is_empty() {
            return Some(Instead::Nothing);
        }
        let known = match exact.kind {
            CONSUMER => consumers,
            _ => letters.iter().map(|letter| (exact.of)(&Facts::of(letter)).to_owned()).collect(),
        };
        Some(Instead::Unlike { kind: exact.kind, wanted: exact.wanted, known, is_more })
    }
}

const CONSUMER: &str = "consumer";

/// The filters that take exact names, each alone.
fn exact(selection: &Selection) -> Vec<Exact> {
    let Selection { service, consumer, message_types, reasons, codes, vendors, vendor_codes, .. } = selection.clone();
    let all = Selection::default;
    let mut exact = Vec::new();
    if let Some(name) = &consumer {
        let wanted = service.as_ref().map_or(name.to_string(), |service| format!("{service}/{name}"));
        exact.push(Exact {
            kind: CONSUMER,
            wanted,
            alone: Selection { service, consumer, ..all() },
            of: |f| f.consumer,
        });
    }
    let mut add = |kind, names: &[String], alone, of| {
        if !names.is_empty() {
            exact.push(Exact { kind, wanted: names.join(","), alone, of });
        }
    };
    add("type", &message_types.clone(), Selection { message_types, ..all() }, |f| f.message_type);
    add("reason", &reasons.clone(), Selection { reasons, ..all() }, |f| f.reason);
    add("code", &codes.clone(), Selection { codes, ..all() }, |f| f.code_word());
    add("vendor", &vendors.clone(), Selection { vendors, ..all() }, |f| f.vendor);
    add("vendor code", &vendor_codes.clone(), Selection { vendor_codes, ..all() }, |f| f.vendor_code);
    exact
}

/// In one line.
fn told(what: &str, selection: &Selection, instead: Option<&Instead>) -> String {
    let none_fits = || {
        let all = words::filters(selection).join(" ");
        if what == NONE { format!("{what} fit {all}") } else { format!("{what}: none fits {all}") }
    };
    match instead {
        Some(Instead::ButForTheCondition(count)) => {
            let names = [("--where", selection.condition.is_some()), ("--header", !selection.headers.is_empty())];
            let names: Vec<_> = names.into_iter().filter(|(_, is_said)| *is_said).map(|(name, _)| name).collect();
            format!("{what}; without {} there would be {}", names.join(" and "), letters(*count))
        }
        Some(Instead::InOtherStates(states)) => {
            let all = if what == NONE { "; --state all means those too" } else { "" };
            format!("{what}; in other states: {}{all}", listed(states))
        }
        Some(Instead::Unlike { kind, wanted, known, is_more }) => {
            let named: Vec<_> = known.iter().filter(|name| !name.is_empty()).take(NAMED).map(String::as_str).collect();
            let is_more = if *is_more || known.len() > named.len() + 1 { ", …" } else { "" };
            let named = if named.is_empty() { format!("no {kind}") } else { named.join(", ") };
            let alone = format!("no letter of {kind} {wanted:?} (there are letters of: {named}{is_more})");
            if what == NONE { alone } else { format!("{what}: {alone}") }
        }
        Some(Instead::Together(states)) => format!("{}; there are: {}", none_fits(), listed(states)),
        None if !words::filters(selection).is_empty() => none_fits(),
        Some(Instead::Nothing) | None => what.to_owned(),
    }
}

/// What a list says.
pub(super) const NONE: &str = "no letters";

fn letters(count: u64) -> String {
    counted(count, "letter")
}

fn listed(states: &BTreeMap<LetterState, u64>) -> String {
    states.iter().map(|(state, count)| format!("{count} {}", state.word())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_told_in_one_line() {
        let selection = Selection {
            consumer: Some("charge".parse().unwrap()),
            condition: Some("payload.x > 1".into()),
            ..Selection::default()
        };
        let states = BTreeMap::from([(LetterState::Open, 2), (LetterState::Resolved, 7)]);
        let unlike = |known: &[&str]| Instead::Unlike {
            kind: "vendor",
            wanted: "strip".into(),
            known: known.iter().map(|name| (*name).to_owned()).collect(),
            is_more: false,
        };
        let many: Vec<String> = (0..40).map(|number| format!("v{number:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (what, instead, expected) in [
            (NONE, Some(Instead::Nothing), "no letters"),
            (NONE, None, "no letters fit --consumer charge --where 'payload.x > 1'"),
            (NONE, Some(unlike(&["", "stripe"])), "no letter of vendor \"strip\" (there are letters of: stripe)"),
            (NONE, Some(unlike(&[""])), "no letter of vendor \"strip\" (there are letters of: no vendor)"),
            (
                "no letters to hold",
                Some(unlike(&["a"])),
                "no letters to hold: no letter of vendor \"strip\" (there are letters of: a)",
            ),
            (
                NONE,
                Some(unlike(&many)),
                "no letter of vendor \"strip\" (there are letters of: v00, v01, v02, v03, v04, v05, v06, v07, v08, v09, …)",
            ),
            ("nothing to do", None, "nothing to do: none fits --consumer charge --where 'payload.x > 1'"),
            (
                NONE,
                Some(Instead::InOtherStates(states.clone())),
                "no letters; in other states: 2 open, 7 resolved; --state all means those too",
            ),
            (
                NONE,
                Some(Instead::Together(states)),
                "no letters fit --consumer charge --where 'payload.x > 1'; there are: 2 open, 7 resolved",
            ),
            (NONE, Some(Instead::ButForTheCondition(3)), "no letters; without --where there would be 3 letters"),
        ] {
            assert_eq!(told(what, &selection, instead.as_ref()), expected);
        }
    }
}
