//! Hold, release and discard: one letter, several, or all that fit.

use clap::Args;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    dead_letter::{ActKind, Letter},
    fault::Fault,
    operate::letters::{self, Order},
};
use serde_json::json;

use super::{
    super::{failure, place, place::Place},
    GlobalArgs, Output, Status, ask, counted, short,
    which::WhichArgs,
};

/// Orders that are under way at once.
pub(super) const UNDER_WAY: usize = 256;
/// Up to so many letters are named one by one.
const FEW: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct ActArgs {
    /// Why, for their history
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    which: WhichArgs,
}

pub(super) async fn run(kind: ActKind, args: ActArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    args.which.check()?;
    let bus = Place::find(global)?.connect().await?;
    let chosen = args.which.choose(&bus, kind, global).await?;
    let verb = verb(kind);
    if chosen.letters.is_empty() {
        output.remark(&format!("no letters to {verb}"));
    } else if chosen.by_filter && !args.yes && !ask::agreed(verb, &chosen.letters)? {
        output.remark("nothing was done");
        return Ok(Status::Failed);
    }
    let order = Order { by: place::person(), why: args.why, again: false, job: String::new() };
    let ends = all(chosen.letters, output, |letter| order_one(&bus, kind, letter, &order)).await;
    bus.close().await;
    tell(kind, &ends, output)
}

async fn order_one(bus: &Bus, kind: ActKind, letter: Letter, order: &Order) -> End {
    let done = match kind {
        ActKind::Held => letters::hold(bus, &letter, order).await,
        ActKind::Released => letters::release(bus, &letter, order).await,
        _ => letters::discard(bus, &letter, order).await,
    };
    (letter, done)
}

/// A letter and what became of the order for it.
pub(super) type End = (Letter, Result<(), Fault>);

/// Carries out one order for each, many at once, with a bar; in their order.
pub(super) async fn all<T, F: Future<Output = End>>(items: Vec<T>, output: &Output, each: impl Fn(T) -> F) -> Vec<End> {
    let bar = ask::bar(items.len(), output);
    let mut under_way = stream::iter(items.into_iter().map(each)).buffered(UNDER_WAY);
    let mut ends = Vec::new();
    while let Some(end) = under_way.next().await {
        ends.push(end);
        bar.inc(1);
    }
    bar.finish_and_clear();
    ends
}

/// Says what became of them; the refusals last.
pub(super) fn tell(kind: ActKind, ends: &[End], output: &Output) -> anyhow::Result<Status> {
    let word = kind.word();
    let done: Vec<&Letter> = ends.iter().filter(|(_, end)| end.is_ok()).map(|(letter, _)| letter).collect();
    if output.is_json() {
        let ends = ends.iter().map(|(letter, end)| {
            let state = if end.is_ok() { letter.state.after(kind).unwrap_or(letter.state) } else { letter.state };
            json!({ "id": letter.letter.id, "done": end.is_ok(), "state": state.word() })
        });
        output.json(&ends.collect::<Vec<_>>())?;
    } else if done.len() > FEW {
        output.line(&format!("{word} {}", counted(done.len() as u64, "letter")))?;
    } else {
        for letter in &done {
            output.line(&format!("{word} {}{}", short(&letter.letter.id), after(kind)))?;
        }
    }
    tell_refused(ends, output)
}

/// Says which orders were refused, and why.
pub(super) fn tell_refused(ends: &[End], output: &Output) -> anyhow::Result<Status> {
    let mut status = Status::Ok;
    for fault in ends.iter().filter_map(|(_, end)| end.as_ref().err()) {
        status = failure::show(output, &fault.clone().into());
    }
    Ok(status)
}

fn verb(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Held => "hold",
        ActKind::Released => "release",
        _ => "discard",
    }
}

fn after(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Held => ": it is not replayed until it is released",
        ActKind::Released => ": it may be replayed",
        ActKind::Discarded => ": it is never sent again",
        _ => "",
    }
}
