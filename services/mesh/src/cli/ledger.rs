//! `mesh ledger`: what became of every message at the broker, and what does not add up.
//!
//! The counting stands in `mesh_core::operate::ledger`. It is the broker's side alone; `crate::ledger` is the demonstration's
//! account, which sets the vendors' side against it.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::Args;
use mesh_core::{
    config::{Problems, mesh_file},
    operate::{
        ledger::{self, Check, Checked, Finding, Line, Rules},
        topology::Topology,
    },
    subject::{Name, durable},
};
use serde_json::{Value, json};

use super::{
    Failure, GlobalArgs, Output, Status, check,
    columns::{Give, Layout},
    contracts,
    place::Place,
    text,
};
use crate::ledger::{counted, grouped};

#[derive(Debug, Args)]
pub(super) struct LedgerArgs {
    /// Only this stream
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only this consumer: SERVICE/NAME
    #[arg(long, value_name = "CONSUMER", value_parser = consumer)]
    consumer: Option<String>,
    /// A mesh file: its streams and consumers must exist
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read again until nothing moves any more
    #[arg(long)]
    wait: bool,
    /// With --wait: for how long at most
    #[arg(long, requires = "wait", value_parser = text::duration, default_value = "60s", value_name = "TIME")]
    timeout: Duration,
    /// How long a replay or a schedule may be late before it is named
    #[arg(long, value_parser = text::duration, default_value = "30s", value_name = "TIME")]
    grace: Duration,
}

/// `SERVICE/NAME` as the broker's name of the consumer.
fn consumer(text: &str) -> Result<String, String> {
    let (service, name) = text.split_once('/').ok_or("write SERVICE/NAME, such as payments/charge")?;
    let name_of = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
    Ok(durable(&name_of(service)?, &name_of(name)?))
}

const HEADER: [&str; 11] = [
    "STREAM",
    "CONSUMER",
    "PUBLISHED",
    "ACCEPTED",
    "DELAYED",
    "DEAD",
    "HELD",
    "GIVEN UP",
    "IN FLIGHT",
    "WAITING",
    "MISSING",
];

/// Consumers that an error names, at most.
const NAMED: usize = 10;

const STREAM: usize = 0;
const CONSUMER: usize = 1;

pub(super) async fn run(args: LedgerArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let topology = topology(&args, global)?;
    let bus = Place::find(global)?.connect().await?;
    let rules = Rules { grace_ms: i64::try_from(args.grace.as_millis()).unwrap_or(i64::MAX), ..Rules::default() };
    let asked = Check { rules, topology: topology.as_ref(), quiet_within: args.wait.then_some(args.timeout) };
    let mut checked = ledger::check(&bus, asked).await?;
    bus.close().await;
    narrow(&args, &mut checked)?;
    if output.is_json() {
        output.json(&document(&checked))?;
    } else {
        show(&checked, output)?;
    }
    Ok(if checked.account.findings.is_empty() { Status::Ok } else { Status::Failed })
}

/// What must exist by the mesh file, where there is one.
fn topology(args: &LedgerArgs, global: &GlobalArgs) -> anyhow::Result<Option<Topology>> {
    let Some(path) = &args.config else { return Ok(None) };
    let catalog = contracts::catalog(global)?;
    let text = check::read(path)?;
    let file = mesh_file::load(&path.display().to_string(), &text, &catalog).map_err(anyhow::Error::new::<Problems>)?;
    let region = global.region.as_ref().unwrap_or(&file.region);
    Ok(Some(Topology::of(&file.declarations, region)))
}

/// Leaves what was asked for.
fn narrow(args: &LedgerArgs, checked: &mut Checked) -> Result<(), Failure> {
    let (stream, consumer) = (args.stream.as_deref(), args.consumer.as_deref());
    let is_wanted = |at: &str, durable: &str| {
        stream.is_none_or(|wanted| wanted == at) && consumer.is_none_or(|wanted| wanted == durable)
    };
    let account = &mut checked.account;
    let known: BTreeSet<String> = account.lines.iter().map(|line| consumer_name(&line.durable)).collect();
    account.lines.retain(|line| is_wanted(&line.stream, &line.durable));
    account.findings.retain(|finding| is_wanted(&finding.stream, &finding.durable));
    let asked = stream.is_some() || consumer.is_some();
    if asked && account.lines.is_empty() && account.findings.is_empty() {
        let named: Vec<_> = known.iter().take(NAMED).map(String::as_str).collect();
        let more = if known.len() > NAMED { ", …" } else { "" };
        return Err(Failure::input(
            format!("no stream of events or work and no consumer is called so; consumers: {}{more}", named.join(", ")),
            "mesh ledger without --stream and --consumer lists them all",
        ));
    }
    Ok(())
}

fn show(checked: &Checked, output: &Output) -> anyhow::Result<()> {
    let account = &checked.account;
    let rows: Vec<_> = account.lines.iter().map(row).collect();
    let mut layout = Layout::new(HEADER);
    let steps = steps(&rows);
    let mut table = layout.lines(rows, (&steps, output.width()), output);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    output.line(&table.trim_fmt())?;
    let left_out = layout.left_out();
    if !left_out.is_empty() {
        output.remark(&format!("(left out for want of room, 0 in every line: {})", left_out.join(", ")));
    }
    if !account.findings.is_empty() {
        output.line("")?;
    }
    for finding in &account.findings {
        output.line(&sentence(finding))?;
    }
    output.line(&format!("\n{}", last_line(checked)))?;
    for remark in &account.remarks {
        output.remark(&format!("note: {remark}"));
    }
    if checked.moving == Some(true) {
        output.remark("note: messages moved while this was read; --wait reads until they don't");
    }
    Ok(())
}

/// How the columns give way on a narrow terminal: those that say nothing first, then names and headers, never a number.
fn steps(rows: &[[String; 11]]) -> Vec<(usize, Give)> {
    // Held, given up, missing, delayed, in flight, waiting, dead.
    let nothing = [6, 7, 10, 4, 8, 9, 5].into_iter().filter(|column| rows.iter().all(|row| row[*column] == "0"));
    let names = [(STREAM, Give::To(20)), (CONSUMER, Give::To(20))];
    let short_names = [(STREAM, Give::To(6)), (CONSUMER, Give::To(6))];
    let headers = (2..HEADER.len()).map(|column| (column, Give::Header));
    nothing.map(|column| (column, Give::All)).chain(names).chain(headers).chain(short_names).collect()
}

fn row(line: &Line) -> [String; 11] {
    [
        line.stream.clone(),
        consumer_name(&line.durable),
        grouped(line.published),
        grouped(line.accepted),
        grouped(line.delayed),
        grouped(line.dead),
        grouped(line.held),
        grouped(line.discarded),
        grouped(line.in_flight),
        grouped(line.waiting),
        grouped(line.missing),
    ]
}

/// `payments/charge` of `payments_charge`: no name holds `_`.
fn consumer_name(durable: &str) -> String {
    if durable.is_empty() { "-".to_owned() } else { durable.replacen('_', "/", 1) }
}

fn place(finding: &Finding) -> String {
    match finding.durable.as_str() {
        "" => finding.stream.clone(),
        durable => format!("{} {}", finding.stream, consumer_name(durable)),
    }
}

/// What, where, how many, which first, and what to do.
fn sentence(finding: &Finding) -> String {
    let (kind, count, first) = (finding.kind, finding.which.count(), finding.which.first());
    let shown = first.join(", ");
    let how_many = match (kind.is_of_the_whole() && count == 1, first.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(": {count}"),
        (false, false) => format!(": {count} ({shown}{})", if has_more(finding) { ", …" } else { "" }),
    };
    format!("WRONG  {}: {}{how_many}; next: {}", place(finding), kind.what(), kind.next())
}

fn has_more(finding: &Finding) -> bool {
    use mesh_core::operate::ledger::Which;
    let shown = finding.which.first().len();
    match &finding.which {
        Which::Sequences(sequences) => sequences.iter().count() > shown,
        Which::Letters(letters) => letters.len() > shown,
        Which::Count(_) => false,
    }
}

fn last_line(checked: &Checked) -> String {
    let account = &checked.account;
    let sum = |of: fn(&Line) -> u64| account.lines.iter().map(of).sum();
    let sums = format!(
        "{} published, {} accepted, {}, {} on their way",
        grouped(sum(|line| line.published)),
        grouped(sum(|line| line.accepted)),
        counted(sum(|line| line.dead + line.held), "letter"),
        grouped(sum(|line| line.delayed + line.in_flight + line.waiting)),
    );
    match account.findings.len() {
        0 => format!("all adds up: {sums}"),
        1 => format!("one thing does NOT add up: {sums}"),
        several => format!("{several} things do NOT add up: {sums}"),
    }
}

fn document(checked: &Checked) -> Value {
    let account = &checked.account;
    let line = |line: &Line| {
        json!({
            "stream": line.stream,
            "consumer": consumer_name(&line.durable),
            "published": line.published,
            "accepted": line.accepted,
            "delayed": line.delayed,
            "dead": line.dead,
            "held": line.held,
            "givenUp": line.discarded,
            "inFlight": line.in_flight,
            "waiting": line.waiting,
            "missing": line.missing,
        })
    };
    let finding = |finding: &Finding| {
        json!({
            "kind": finding.kind.word(),
            "what": finding.kind.what(),
            "stream": finding.stream,
            "consumer": consumer_name(&finding.durable),
            "count": finding.which.count(),
            "first": finding.which.first(),
            "next": finding.kind.next(),
        })
    };
    json!({
        "atMs": account.at_ms,
        "readings": checked.readings,
        "moving": checked.moving,
        "lines": account.lines.iter().map(line).collect::<Vec<_>>(),
        "findings": account.findings.iter().map(finding).collect::<Vec<_>>(),
        "remarks": account.remarks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::operate::ledger::{Kind, Which};

    #[test]
    fn a_finding_is_one_line_with_everything() {
        let which = Which::Sequences([3, 4, 9].into_iter().collect());
        let finding =
            Finding { kind: Kind::WorkMissing, stream: "mesh1-work-x".into(), durable: "bank_x".into(), which };
        let text = sentence(&finding);
        for part in ["mesh1-work-x bank/x", "left its stream", "3 (3-4, 9)", "; next: "] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(text.lines().count(), 1);
        let paused = Finding { kind: Kind::Paused, which: Which::Count(1), ..finding };
        assert!(sentence(&paused).contains("the consumer is paused; next: "), "{}", sentence(&paused));
    }

    #[test]
    fn the_account_fits_a_narrow_terminal_and_no_number_is_cut() {
        let output = Output::new(super::super::output::Format::Table, super::super::arguments::Color::Never);
        let line = Line {
            stream: "mesh1-event-notifications-of-customers".into(),
            durable: "notifications_confirmation-of-orders".into(),
            published: 1_234_567,
            accepted: 1_234_456,
            dead: 111,
            ..Line::default()
        };
        let full = Line { delayed: 12, held: 3, discarded: 4, in_flight: 5, waiting: 6, missing: 7, ..line.clone() };
        for (line, width) in [(&line, 200), (&line, 120), (&line, 80), (&full, 80)] {
            let rows = vec![row(line)];
            let numbers: Vec<_> = rows[0][2..].iter().filter(|number| *number != "0").cloned().collect();
            let steps = steps(&rows);
            let text = Layout::new(HEADER).lines(rows, (&steps, Some(width)), &output).trim_fmt();
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width.into(), "{longest}\n{text}");
            assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
        }
    }

    #[test]
    fn a_consumer_is_named_with_its_service() {
        assert_eq!(consumer("payments/charge").as_deref(), Ok("payments_charge"));
        for wrong in ["charge", "Pay/charge", "a/b/c"] {
            assert!(consumer(wrong).is_err(), "{wrong}");
        }
    }
}
