//! New letters as they come.

use clap::Args;
use mesh_core::{
    clock::rfc3339,
    dead_letter::{Facts, Letter},
    fault::Code,
    operate::letters::News,
};

use super::{
    super::{place::Place, text},
    GlobalArgs, Output, Status, consumer, last_part, list, mention, short,
    which::{FilterArgs, Wanted, tell_unasked},
};
use crate::stop::Stop;

/// Characters of a line where no terminal says its width.
const LINE: usize = 400;

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    /// End after so many letters
    #[arg(long)]
    count: Option<usize>,
    /// Show ordering keys, which may be personal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) async fn run(args: WatchArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    args.filters.check_news()?;
    let selector = args.filters.selector(Wanted::All, global)?;
    let bus = Place::find(global)?.connect().await?;
    let mut news = News::listen(&bus, &selector).await?;
    let stop = Stop::listen()?;
    // For programs too: only now is every letter heard of.
    mention("watching; Ctrl-C ends");
    let (mut left, mut is_away) = (args.count.unwrap_or(usize::MAX), false);
    while left > 0 {
        let news = tokio::select! {
            news = news.next() => news,
            () = stop.told() => break,
        };
        let news = match news {
            Ok(news) => news,
            // Nothing is missed: what comes meanwhile is read when the bus is back.
            Err(fault) if fault.code() == Code::Unavailable => {
                if !is_away {
                    mention("the bus is away; waiting for it");
                }
                is_away = true;
                continue;
            }
            Err(fault) => return Err(fault.into()),
        };
        is_away = false;
        tell_unasked(&news);
        for letter in news.letters.iter().take(left) {
            show(letter, args.reveal, output)?;
        }
        left = left.saturating_sub(news.letters.len());
    }
    bus.close().await;
    Ok(Status::Ok)
}

fn show(letter: &Letter, reveal: bool, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.line(&list::summary(letter, reveal).to_string());
    }
    let facts = Facts::of(letter);
    let at = rfc3339(facts.captured_at_ms);
    let line = format!(
        "{}  {}  {}  {}  {}  {}  {}",
        at.get(11..19).unwrap_or(&at),
        short(facts.id),
        consumer(letter),
        last_part(facts.message_type),
        facts.reason,
        facts.vendor_code,
        facts.message,
    );
    output.line(&text::cut(&line, output.width().map_or(LINE, usize::from)))
}
