//! Groups of like failures: what is broken, rather than what failed.

use mesh_core::{
    bus::{Bus, Stop},
    dead_letter::{Facts, Fingerprint},
    fault::Fault,
    operate::letters::{self, Group, Groups, Selection, Selector},
};
use serde_json::{Value, json};

use super::{
    super::{
        columns::{Columns, Give},
        place::Place,
        text,
    },
    GlobalArgs, GroupArgs, Output, Status, ask, indexed, instead, said, short,
    which::{Wanted, tell_listed},
    words,
};

const HEADER: [&str; 10] = [
    "FINGERPRINT",
    "COUNT",
    "STATES",
    "CONSUMER",
    "REASON",
    "VENDOR CODE",
    "SAID",
    "FIRST (UTC)",
    "LAST (UTC)",
    "EXAMPLE",
];
/// How its columns give way on a narrow terminal: `list` and `show` have all of it.
const STEPS: &[(usize, Give)] = &[
    (6, Give::To(24)),
    (5, Give::To(11)),
    (7, Give::Moments),
    (8, Give::Moments),
    (3, Give::To(20)),
    (2, Give::To(12)),
    (5, Give::All),
    (7, Give::All),
    (6, Give::To(12)),
    (9, Give::All),
    (3, Give::To(12)),
    (2, Give::To(8)),
    (6, Give::To(4)),
];

pub(super) async fn run(args: GroupArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let selector = args.filters.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let groups = match indexed::groups(&bus, selector.selection(), output).await? {
        Some(groups) => groups,
        None => read(&bus, &selector, output).await?,
    };
    if groups.is_empty() {
        instead::tell(instead::NONE, &bus, selector.selection(), output).await;
    }
    bus.close().await;
    if output.is_json() {
        output.json(&groups.iter().map(document).collect::<Vec<_>>())?;
        return Ok(Status::Ok);
    }
    let Some(largest) = groups.first() else { return Ok(Status::Ok) };
    let rows = groups.iter().map(|group| row(group, output)).collect();
    output.line(&Columns::new(HEADER, STEPS).laid_out(rows, output))?;
    output.remark(&format!("\nnext: {}", next(largest.fingerprint, selector.selection())));
    Ok(Status::Ok)
}

/// The command that lists the letters of a group: of those, the ones that were asked for.
fn next(fingerprint: Fingerprint, asked: &Selection) -> String {
    let mut words = vec!["mesh dead-letter list".to_owned()];
    words.extend(words::state(asked).map(|state| format!("--state {state}")));
    words.extend(words::filters(&Selection { fingerprints: vec![fingerprint], ..asked.clone() }));
    words.join(" ")
}

/// The same by reading every letter: none of them is kept.
async fn read(bus: &Bus, selector: &Selector, output: &Output) -> Result<Vec<Group>, Fault> {
    let bar = ask::bar(None, output);
    let looked = letters::look(bus, selector, |groups: &mut Groups, found| {
        bar.inc(1);
        groups.add(&Facts::of(&found.letter));
        Stop::No
    });
    let looked = looked.await;
    bar.finish_and_clear();
    let (groups, left_out) = looked?;
    tell_listed(&left_out);
    Ok(groups.into_sorted())
}

fn row(group: &Group, output: &Output) -> [String; 10] {
    let states: Vec<_> = group.states.iter().map(|(state, count)| format!("{count} {}", state.word())).collect();
    let consumers: Vec<&str> = group.consumers.iter().map(String::as_str).collect();
    [
        group.fingerprint.to_string(),
        group.count.to_string(),
        states.join(", "),
        consumers.join(", "),
        group.reason.clone(),
        group.vendor_code.clone(),
        said(&group.said, output),
        text::moment(group.first_ms),
        text::moment(group.last_ms),
        short(&group.example).to_owned(),
    ]
}

fn document(group: &Group) -> Value {
    let states: serde_json::Map<_, _> =
        group.states.iter().map(|(state, count)| (state.word().to_owned(), (*count).into())).collect();
    json!({
        "fingerprint": group.fingerprint,
        "count": group.count,
        "states": states,
        "consumers": group.consumers,
        "reason": group.reason,
        "code": group.code,
        "vendor": group.vendor,
        "vendorCode": group.vendor_code,
        "said": group.said,
        "firstMs": group.first_ms,
        "lastMs": group.last_ms,
        "example": group.example,
    })
}

#[cfg(test)]
mod tests {
    use mesh_core::dead_letter::LetterState;

    use super::*;
    use crate::cli::{arguments::Color, output::Format};

    #[test]
    fn what_is_proposed_next_shows_what_was_counted() {
        let fingerprint = Fingerprint::from_number(10);
        let of = |states: Vec<LetterState>| Selection {
            states,
            condition: Some("payload.x > 1".into()),
            ..Selection::default()
        };
        assert_eq!(
            next(fingerprint, &of(vec![LetterState::Resolved])),
            format!("mesh dead-letter list --state resolved --fingerprint {fingerprint} --where 'payload.x > 1'")
        );
        let waiting = of(Wanted::Waiting.states());
        assert!(!next(fingerprint, &waiting).contains("--state"), "it is what list shows");
    }

    #[test]
    fn the_longest_lines_fit_eighty_columns() {
        let row = [
            "eb28c96b4bb4",
            "1000000",
            "999998 open, 1 held, 1 replaying",
            "notifications/confirmation-of-orders, payments/charge",
            "MESH-0103",
            "amount_too_small_for_currency",
            "the amount is too small for this currency, says the vendor",
            "2026-01-02 03:04:05",
            "2026-01-02 03:04:05",
            "3f2a1b0c",
        ];
        let output = Output::new(Format::Table, Color::Never);
        let lines = Columns::new(HEADER, STEPS).laid_out_within(vec![row.map(str::to_owned)], Some(80), &output);
        assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
    }
}
