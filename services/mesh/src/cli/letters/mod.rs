//! `mesh dead-letter`: what failed, why, and again.

mod acts;
mod ask;
mod diff;
mod edit;
mod editor;
mod export;
mod group;
mod import;
mod indexed;
mod list;
mod replay;
mod show;
mod table;
mod watch;
mod which;

use std::time::Duration;

use clap::{Args, Subcommand};
use mesh_core::{
    contract::Catalog,
    dead_letter::{ActKind, Facts, Letter},
    fault::Fault,
    operate::letters::Selector,
};

use super::{GlobalArgs, Output, Status, text};
use which::{Consumer, FilterArgs, Wanted};

#[derive(Debug, Subcommand)]
pub(super) enum LetterCommand {
    /// List them: the oldest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples: mesh dead-letter list --consumer payments/charge --state open\n          \
                      mesh dead-letter list --since 2h --vendor stripe --vendor-code amount_too_small\n          \
                      mesh dead-letter list --type OrderPlaced --where 'payload.total_cents > 100000'"
    )]
    List(ListArgs),
    /// Count them in groups of like failures: the largest first
    #[command(after_help = "Examples: mesh dead-letter group\n          mesh dead-letter group --since 1d -o json")]
    Group(GroupArgs),
    /// Show all that is known about one
    Show(ShowArgs),
    /// Mend what is sent again: the payload in $VISUAL or $EDITOR, or value by value
    ///
    /// It is checked against the contract, and what changes is shown before it is written. Fields that the contract here
    /// does not know stay as they are, and so do personal and payment fields unless --reveal shows them.
    #[command(after_help = "Examples: mesh dead-letter edit 3f2a --why 'the amount was missing'\n          \
                      mesh dead-letter edit 3f2a --set amount_cents=50 --why 'ticket 17'\n          \
                      mesh dead-letter edit --fingerprint eb28c96b4bb4 --set currency=USD --why 'ticket 17' --dry-run")]
    Edit(Box<edit::EditArgs>),
    /// Keep letters back: they are not replayed until they are released
    #[command(after_help = "Example: mesh dead-letter hold --vendor stripe --since 1h --why 'until they call back'")]
    Hold(Box<acts::ActArgs>),
    /// Open held letters again
    #[command(after_help = "Example: mesh dead-letter release --all --why 'they called back' --yes")]
    Release(Box<acts::ActArgs>),
    /// Send letters again to the consumer that failed, and say what became of them
    #[command(
        after_help = "Examples: mesh dead-letter replay 3f2a\n          mesh dead-letter replay --all --consumer payments/charge --yes"
    )]
    Replay(ReplayArgs),
    /// Give letters up: they are never sent again
    #[command(after_help = "Examples: mesh dead-letter discard 3f2a --why 'a test order'\n          \
                      mesh dead-letter discard --older-than 30d --reason 103 --why 'too late' --yes")]
    Discard(Box<acts::ActArgs>),
    /// Show new letters as they come
    #[command(after_help = "Example: mesh dead-letter watch --consumer payments/charge -o json")]
    Watch(watch::WatchArgs),
    /// Write letters with their whole histories, one a line (NDJSON)
    ///
    /// The lines hold the payloads as they are, personal fields too.
    #[command(after_help = "Example: mesh dead-letter export --fingerprint eb28c96b4bb4 --to letters.ndjson")]
    Export(export::ExportArgs),
    /// Append letters of an export that are not there
    #[command(after_help = "Example: mesh dead-letter import letters.ndjson")]
    Import(import::ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    #[command(flatten)]
    filters: FilterArgs,
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

pub(super) async fn run(command: LetterCommand, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    match command {
        LetterCommand::List(args) => list::run(args, global, output).await,
        LetterCommand::Group(args) => group::run(args, global, output).await,
        LetterCommand::Show(args) => show::run(args, global, output).await,
        LetterCommand::Edit(args) => Box::pin(edit::run(*args, global, output)).await,
        LetterCommand::Hold(args) => Box::pin(acts::run(ActKind::Held, *args, global, output)).await,
        LetterCommand::Release(args) => Box::pin(acts::run(ActKind::Released, *args, global, output)).await,
        LetterCommand::Replay(args) => replay::run(args, global, output).await,
        LetterCommand::Discard(args) => Box::pin(acts::run(ActKind::Discarded, *args, global, output)).await,
        LetterCommand::Watch(args) => watch::run(args, global, output).await,
        LetterCommand::Export(args) => export::run(args, global, output).await,
        LetterCommand::Import(args) => Box::pin(import::run(args, global, output)).await,
    }
}

/// The selector of the older filters: a consumer and a state.
fn selector(consumer: Option<Consumer>, state: Wanted) -> anyhow::Result<Selector> {
    Ok(which::of_consumer(consumer, state.states()).compile(&Catalog::new([])?)?)
}

/// What ended the newest attempt.
fn fault(letter: &Letter) -> Fault {
    letter.letter.fault.clone().unwrap_or_default().into()
}

/// The state's word; an open question whether something happened is *parked*.
fn state(letter: &Letter) -> &'static str {
    if Facts::of(letter).is_parked() { "parked" } else { letter.state.word() }
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

/// The full name of the message that a letter of this type carries.
fn payload_name<'n>(message_type: &'n str, catalog: &'n Catalog) -> &'n str {
    catalog.operation(message_type).map_or(message_type, |entry| entry.request.full_name())
}
