//! `mesh dead-letter`: what failed, why, and again.

mod blocked;
mod list;
mod replay;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mesh_core::{
    dead_letter::{Letter, LetterState},
    fault::{Fault, Reason},
    operate::letters::{self, Filter, Order},
    subject::Name,
};

use super::{GlobalArgs, Output, Status, place, text};

#[derive(Debug, Subcommand)]
pub(super) enum LetterCommand {
    /// List them: the oldest first
    #[command(
        visible_alias = "ls",
        after_help = "Example: mesh dead-letter list --consumer payments/charge --state open"
    )]
    List(ListArgs),
    /// Show all that is known about one
    Show(ShowArgs),
    /// Send letters again to the consumer that failed, and say what became of them
    #[command(
        after_help = "Examples: mesh dead-letter replay 3f2a\n          mesh dead-letter replay --all --consumer payments/charge --yes"
    )]
    Replay(ReplayArgs),
    /// Give one up: it is never sent again
    #[command(after_help = "Example: mesh dead-letter discard 3f2a --why 'a test order'")]
    Discard(DiscardArgs),
    /// Which keys of ordered consumers are blocked, by what, and how much waits behind them
    #[command(after_help = "Example: mesh dead-letter blocked --consumer payments/charge")]
    Blocked(BlockedArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only of this consumer: NAME, or SERVICE/NAME
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<Consumer>,
    /// Only in this state
    #[arg(long, default_value = "waiting")]
    state: Wanted,
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct BlockedArgs {
    /// Only of this consumer: NAME, or SERVICE/NAME
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<Consumer>,
    /// Show the keys, which may be personal
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Its id, or a beginning that no other has
    id: String,
    /// Show personal and payment fields too
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub(super) struct ReplayArgs {
    /// Their ids, or beginnings that no other has
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All that are open
    #[arg(long)]
    all: bool,
    /// With --all: only of this consumer, NAME or SERVICE/NAME
    #[arg(long, requires = "all", value_name = "CONSUMER")]
    consumer: Option<Consumer>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Don't wait for what becomes of them
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for what becomes of them
    #[arg(long, value_parser = text::duration, default_value = "30s", value_name = "TIME")]
    timeout: Duration,
    /// Send one that is replaying once more, even where its copy may still wait
    #[arg(long)]
    again: bool,
    /// Why, for its history
    #[arg(long, default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct DiscardArgs {
    /// Its id, or a beginning that no other has
    id: String,
    /// Why, for its history
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,
}

/// `NAME` or `SERVICE/NAME`.
#[derive(Debug, Clone)]
struct Consumer {
    service: Option<Name>,
    name: Name,
}

impl std::str::FromStr for Consumer {
    type Err = String;

    fn from_str(text: &str) -> Result<Consumer, String> {
        let name = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
        match text.split_once('/') {
            Some((service, consumer)) => Ok(Consumer { service: Some(name(service)?), name: name(consumer)? }),
            None => Ok(Consumer { service: None, name: name(text)? }),
        }
    }
}

/// Which states are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Not ended: open or replaying
    Waiting,
    /// Waiting for a person
    Open,
    /// Open, and whether it happened is unknown
    Parked,
    /// Sent again
    Replaying,
    /// Handled
    Resolved,
    /// Given up
    Discarded,
    /// Any
    All,
}

impl Wanted {
    fn states(self) -> Vec<LetterState> {
        match self {
            Wanted::Waiting => vec![LetterState::Open, LetterState::Replaying],
            Wanted::Open | Wanted::Parked => vec![LetterState::Open],
            Wanted::Replaying => vec![LetterState::Replaying],
            Wanted::Resolved => vec![LetterState::Resolved],
            Wanted::Discarded => vec![LetterState::Discarded],
            Wanted::All => Vec::new(),
        }
    }
}

fn filter(consumer: Option<Consumer>, states: Vec<LetterState>) -> Filter {
    let (service, consumer) = consumer.map_or((None, None), |c| (c.service, Some(c.name)));
    Filter { service, consumer, states }
}

pub(super) async fn run(command: LetterCommand, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    match command {
        LetterCommand::List(args) => list::run(args, global, output).await,
        LetterCommand::Show(args) => show::run(args, global, output).await,
        LetterCommand::Replay(args) => replay::run(args, global, output).await,
        LetterCommand::Discard(args) => discard(args, global, output).await,
        LetterCommand::Blocked(args) => blocked::run(args, global, output).await,
    }
}

async fn discard(args: DiscardArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let bus = place::Place::find(global)?.connect().await?;
    let letter = letters::find(&bus, &args.id).await?;
    let order = Order { by: place::person(), why: args.why, again: false };
    letters::discard(&bus, &letter, &order).await?;
    let id = &letter.letter.id;
    if output.is_json() {
        output.json(&serde_json::json!({ "id": id, "state": LetterState::Discarded.word() }))?;
    } else {
        output.line(&format!("discarded {id}: it is never sent again"))?;
    }
    bus.close().await;
    Ok(Status::Ok)
}

/// What ended the newest attempt.
fn fault(letter: &Letter) -> Fault {
    letter.letter.fault.clone().unwrap_or_default().into()
}

/// The state's word; an open question whether something happened is *parked*.
fn state(letter: &Letter) -> &'static str {
    let parked = letter.state == LetterState::Open && fault(letter).reason() == Reason::OutcomeUnknown;
    if parked { "parked" } else { letter.state.word() }
}

/// Enough of the id to be the only one, as a rule.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn consumer(letter: &Letter) -> String {
    format!("{}/{}", letter.letter.service, letter.letter.consumer)
}

/// The last part of a full name: `Payments/Charge` of `shop.payments.v1.Payments/Charge`.
fn last_part(full_name: &str) -> &str {
    full_name.rsplit('.').next().unwrap_or(full_name)
}
