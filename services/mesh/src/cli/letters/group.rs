//! Groups of like failures: what is broken, rather than what failed.

use mesh_core::{
    bus::{Bus, Stop},
    dead_letter::{Facts, Fingerprint},
    fault::Fault,
    operate::letters::{self, Group, Groups, Selection, Selector},
};
use serde_json::{Value, json};

use super::{
    super::{place::Place, text},
    GlobalArgs, GroupArgs, Output, Status, ask, indexed, short, table,
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
const SAID: usize = 6;
const CONSUMER: usize = 3;

pub(super) async fn run(args: GroupArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let selector = args.filters.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let groups = match indexed::groups(&bus, selector.selection(), output).await? {
        Some(groups) => groups,
        None => read(&bus, &selector, output).await?,
    };
    bus.close().await;
    if output.is_json() {
        output.json(&groups.iter().map(document).collect::<Vec<_>>())?;
        return Ok(Status::Ok);
    }
    let Some(largest) = groups.first() else {
        output.remark("no letters");
        return Ok(Status::Ok);
    };
    let mut out = output.table(&HEADER);
    out.add_rows(table::fitted(groups.iter().map(row).collect(), (&HEADER, SAID, CONSUMER), output.width()));
    output.line(&out.trim_fmt())?;
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

fn row(group: &Group) -> [String; 10] {
    let states: Vec<_> = group.states.iter().map(|(state, count)| format!("{count} {}", state.word())).collect();
    let consumers: Vec<&str> = group.consumers.iter().map(String::as_str).collect();
    [
        group.fingerprint.to_string(),
        group.count.to_string(),
        states.join(", "),
        consumers.join(", "),
        group.reason.clone(),
        group.vendor_code.clone(),
        text::cut(&group.said, table::SAID_LENGTH.0),
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
}
