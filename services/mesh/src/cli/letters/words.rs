//! A selection of letters in the words of the command line, to be typed again.

use mesh_core::{
    clock::rfc3339,
    dead_letter::{Fingerprint, LetterState},
    operate::letters::Selection,
};

/// The options that mean the same letters, quoted for a shell; none: all. States are not among them: see [`state`].
pub(super) fn filters(selection: &Selection) -> Vec<String> {
    let Selection { service, consumer, message_types, reasons, codes, vendors, vendor_codes, .. } = selection;
    let Selection { fingerprints, since_ms, until_ms, headers, condition, .. } = selection;
    let consumer = consumer.as_ref().map(|name| service.as_ref().map_or(name.to_string(), |of| format!("{of}/{name}")));
    let fingerprints: Vec<_> = fingerprints.iter().map(Fingerprint::to_string).collect();
    let mut options = Vec::new();
    let mut add = |name: &str, value: &str| options.push(format!("--{name} {}", quoted(value)));
    consumer.iter().for_each(|consumer| add("consumer", consumer));
    let lists = [
        ("type", message_types),
        ("reason", reasons),
        ("code", codes),
        ("vendor", vendors),
        ("vendor-code", vendor_codes),
        ("fingerprint", &fingerprints),
    ];
    lists.iter().filter(|(_, values)| !values.is_empty()).for_each(|(name, values)| add(name, &values.join(",")));
    since_ms.iter().for_each(|at| add("since", &rfc3339(*at)));
    until_ms.iter().for_each(|at| add("until", &rfc3339(*at)));
    headers.iter().for_each(|(name, value)| add("header", &format!("{name}={value}")));
    condition.iter().for_each(|condition| add("where", condition));
    options
}

/// The value of `--state` that means the same states. `None`: that which is meant where nothing is said, or there is no word.
pub(super) fn state(selection: &Selection) -> Option<&'static str> {
    match selection.states.as_slice() {
        _ if selection.parked => Some("parked"),
        [] => Some("all"),
        [LetterState::Open] => Some("open"),
        [one] => Some(one.word()),
        _ => None,
    }
}

/// A word of a command line, as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_said_as_it_was_typed() {
        assert!(filters(&Selection::default()).is_empty());
        let selection = Selection {
            service: Some("payments".parse().unwrap()),
            consumer: Some("charge".parse().unwrap()),
            reasons: vec!["MESH-0103".into(), "MESH-0007".into()],
            since_ms: Some(1_767_323_045_000),
            headers: vec![("note".into(), "two words".into())],
            condition: Some("letter.vendor == 'stripe'".into()),
            ..Selection::default()
        };
        assert_eq!(
            filters(&selection).join(" "),
            r"--consumer payments/charge --reason MESH-0103,MESH-0007 --since 2026-01-02T03:04:05.000Z --header 'note=two words' --where 'letter.vendor == '\''stripe'\'''"
        );
    }

    #[test]
    fn the_states_have_the_word_that_means_them() {
        let of = |states: Vec<LetterState>, parked| state(&Selection { states, parked, ..Selection::default() });
        assert_eq!(of(vec![], false), Some("all"));
        assert_eq!(of(vec![LetterState::Resolved], false), Some("resolved"));
        assert_eq!(of(vec![LetterState::Open], true), Some("parked"));
        assert_eq!(of(vec![LetterState::Open, LetterState::Held, LetterState::Replaying], false), None);
    }
}
