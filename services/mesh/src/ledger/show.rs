//! The ledger for people.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use super::account::{Account, Counted, Ended, Ledger};

const MIB: u64 = 1 << 20;

/// The ledger as text; the last line says how it went.
#[must_use]
pub fn text(ledger: &Ledger) -> String {
    let mut text = format!("{}\n\n", table(ledger));
    let run = &ledger.run;
    // Writing to a String can't fail.
    let _ = writeln!(text, "calls answered  {}", grouped(run.calls_answered));
    let _ = writeln!(text, "run time        {}", seconds(run.run_ms));
    if let Some(memory) = run.memory_bytes {
        let _ = writeln!(
            text,
            "memory (peak)   mesh {} MiB; nats-server {} MiB and vendor-sim {} MiB not counted",
            memory.mesh / MIB,
            memory.broker / MIB,
            memory.vendors / MIB
        );
    }
    for (what, ids) in disorders(ledger) {
        let more = if ids.count > ids.first.len() { ", …" } else { "" };
        let _ = writeln!(text, "{what}: {}{more}", ids.first.join(", "));
    }
    let _ = write!(text, "\n{}", last_line(ledger));
    text
}

/// How it went, in one line.
#[must_use]
pub fn last_line(ledger: &Ledger) -> String {
    let Ledger { published, operations, run, failures } = ledger;
    let took = seconds(run.run_ms);
    if !failures.is_empty() {
        return format!("FAILED after {took}: {}", failures.join("; "));
    }
    let sum = |of: fn(&Account) -> usize| operations.iter().map(of).sum::<usize>() as u64;
    let (done, letters, queued) = (sum(|a| a.effects), sum(|a| a.dead_letters), sum(|a| a.queued));
    let letters = counted(letters, "dead letter");
    let (published, done) = (grouped(published.published as u64), grouped(done));
    match run.ended {
        Ended::Stopped => format!(
            "stopped by you after {took}; nothing was lost: {published} published, {done} done, {letters}, \
             {} still queued were discarded with the temporary cluster",
            grouped(queued)
        ),
        Ended::Drained | Ended::Stuck => format!(
            "all well: {published} published, {done} done, {letters}; lost 0, duplicates 0, early retries 0, in {took}"
        ),
    }
}

fn table(ledger: &Ledger) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec![String::new(), "order".to_owned()];
    header.extend(ledger.operations.iter().map(|account| account.operation.to_owned()));
    table.set_header(header);
    let events = &ledger.published;
    // Whoever stops the orders in the middle has lost none of those that were not begun.
    let stopped = ledger.run.ended == Ended::Stopped;
    let (not_begun, lost) = if stopped { (Some(events.lost.count), 0) } else { (None, events.lost.count) };
    let rows: [Row; 16] = [
        ("wanted", Some(events.wanted), |a| a.wanted as u64),
        ("not begun", not_begun, |_| u64::MAX),
        ("published", Some(events.published), |_| u64::MAX),
        ("effects (vendor's count)", None, |a| a.effects as u64),
        ("dead letters", None, |a| a.dead_letters as u64),
        ("parked", None, |a| a.parked as u64),
        ("still queued", None, |a| a.queued as u64),
        ("lost", Some(lost), |a| a.lost.count as u64),
        ("not asked for", Some(events.phantom.count), |a| a.phantom.count as u64),
        ("duplicates", None, |a| a.vendor.duplicates.max(a.duplicates.count as u64)),
        ("early retries", None, |a| a.vendor.early_retries),
        ("attempts (vendor's calls)", None, |a| a.vendor.calls),
        ("  refused", None, |a| a.vendor.refused),
        ("  throttled (429)", None, |a| a.vendor.throttled),
        ("  failed (503)", None, |a| a.vendor.failed),
        ("  cut after acting", None, |a| a.vendor.cut),
    ];
    for (name, of_events, of_operation) in rows {
        let cell = |count: Option<u64>| count.filter(|count| *count != u64::MAX).map(grouped).unwrap_or_default();
        let mut cells = vec![name.to_owned(), cell(of_events.map(|count| count as u64))];
        cells.extend(ledger.operations.iter().map(|account| cell(Some(of_operation(account)))));
        if cells.iter().skip(1).any(|cell| !cell.is_empty()) {
            table.add_row(cells);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Its name, the orders' figure, and how an operation's is found; `u64::MAX` for none.
type Row = (&'static str, Option<usize>, fn(&Account) -> u64);

/// Ids that are not where they should be.
fn disorders(ledger: &Ledger) -> Vec<(String, &Counted)> {
    let mut all = vec![("events that nobody published".to_owned(), &ledger.published.phantom)];
    if ledger.run.ended != Ended::Stopped {
        all.push(("orders not published".to_owned(), &ledger.published.lost));
    }
    for account in &ledger.operations {
        let name = account.operation;
        all.push((format!("{name}: lost"), &account.lost));
        all.push((format!("{name}: not asked for"), &account.phantom));
        all.push((format!("{name}: done twice"), &account.duplicates));
        all.push((format!("{name}: done, with a letter"), &account.contradicted));
    }
    all.retain(|(_, ids)| ids.count > 0);
    all
}

fn seconds(ms: u64) -> String {
    let time = Duration::from_millis(ms);
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    if minutes > 0 { format!("{minutes} min {seconds} s") } else { format!("{seconds}.{} s", ms % 1000 / 100) }
}

/// 69659 as `69,659`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of what is named in the singular: `1 letter`, `69,659 letters`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, Run, operation, published, verdict};
    use super::*;

    fn ledger(ended: Ended, effects: &[(u64, u64)], queued: u64) -> Ledger {
        let wanted: std::collections::BTreeSet<u64> = (1..=3).collect();
        let mut facts = Operation { name: "charge", wanted: wanted.clone(), queued, ..Operation::default() };
        facts.effects.counts = effects.iter().copied().collect();
        let events = published(&wanted, &wanted.iter().copied().collect());
        let operations = vec![operation(&facts)];
        let failures = verdict(&events, &operations, ended);
        let run = Run { ended, run_ms: 61_500, memory_bytes: None, calls_answered: 6 };
        Ledger { published: events, operations, run, failures }
    }

    #[test]
    fn the_last_line_says_how_it_went() {
        let all: [(u64, u64); 3] = [(1, 1), (2, 1), (3, 1)];
        let cases = [
            (ledger(Ended::Drained, &all, 0), "all well: 3 published, 3 done, 0 dead letters; lost 0"),
            (ledger(Ended::Drained, &all[..2], 0), "FAILED after 1 min 1 s: charge: lost: 1"),
            (
                ledger(Ended::Stopped, &all[..2], 1),
                "stopped by you after 1 min 1 s; nothing was lost: 3 published, 2 done",
            ),
        ];
        for (ledger, expected) in cases {
            let text = text(&ledger);
            assert!(text.lines().last().unwrap().starts_with(expected), "{text}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in [(0, "0"), (999, "999"), (69_659, "69,659"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn one_is_not_many() {
        let of = |number| counted(number, "letter");
        assert_eq!([of(0), of(1), of(2), of(1_001)], ["0 letters", "1 letter", "2 letters", "1,001 letters"]);
    }
}
