//! `mesh dead-letter`: what failed, why, and again.

mod account;
mod acts;
mod ask;
mod attach;
mod blocked;
mod bulk;
mod diff;
mod edit;
mod edit_all;
mod editor;
mod export;
mod group;
mod import;
mod indexed;
mod instead;
mod job_words;
mod jobs;
mod list;
mod mend;
mod part;
mod preview;
mod replay;
mod rollout;
mod show;
mod watch;
mod which;
mod words;

use std::time::Duration;

use clap::{Args, Subcommand};
use mesh_core::{
    contract::Catalog,
    dead_letter::{ActKind, Facts, Letter},
    fault::Fault,
};

use super::{GlobalArgs, Output, Status, mention, text};
use crate::ledger::counted;
use which::{Consumer, FilterArgs};

#[derive(Debug, Subcommand)]
pub(super) enum LetterCommand {
    /// List them: the oldest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples: mesh dead-letter list --consumer adapter-payments/shop-payments-v1-payments --state open\n          \
                      mesh dead-letter list --since 2h --vendor stripe --vendor-code amount_too_small\n          \
                      mesh dead-letter list --type Payments/Charge --where 'payload.amount_cents < 50'"
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
    #[command(after_help = "Examples: mesh dead-letter edit ID --why 'the amount was missing'\n          \
                      mesh dead-letter edit ID --set amount_cents=50 --why 'ticket 17'\n          \
                      mesh dead-letter edit --fingerprint 1315e66c591e --set currency=USD --why 'ticket 17' --dry-run")]
    Edit(Box<edit::EditArgs>),
    /// Keep letters back: they are not replayed until they are released
    #[command(after_help = "Example: mesh dead-letter hold --vendor stripe --since 1h --why 'until they call back'")]
    Hold(Box<acts::ActArgs>),
    /// Open held letters again
    #[command(after_help = "Example: mesh dead-letter release --all --why 'they called back' --yes")]
    Release(Box<acts::ActArgs>),
    /// Send letters again to the consumer that failed, and say what became of them
    ///
    /// A few are sent at once. With a rate, steps, a rule or an hour, and when there are more than 100, the keeper does it as
    /// a job: it goes on when this terminal ends (Ctrl-C lets go of it), see mesh dead-letter jobs.
    #[command(
        after_help = "Examples: mesh dead-letter replay ID\n          mesh dead-letter replay --all --consumer adapter-payments/shop-payments-v1-payments --dry-run\n          mesh dead-letter replay --all --consumer adapter-payments/shop-payments-v1-payments --rate 50/s --canary 1,5,20,100 --abort-if 'failed > 5%' --why 'mended' --yes"
    )]
    Replay(Box<ReplayArgs>),
    /// Replays that the keeper does: look at them, pause, resume, cancel
    #[command(subcommand, visible_alias = "job")]
    Jobs(jobs::JobCommand),
    /// Give letters up: they are never sent again
    #[command(after_help = "Examples: mesh dead-letter discard ID --why 'a test order'\n          \
                      mesh dead-letter discard --older-than 30d --reason 103 --why 'too late' --yes")]
    Discard(Box<acts::ActArgs>),
    /// Show new letters as they come
    #[command(
        after_help = "Example: mesh dead-letter watch --consumer adapter-payments/shop-payments-v1-payments -o json"
    )]
    Watch(watch::WatchArgs),
    /// Write letters with their whole histories, one a line (NDJSON)
    ///
    /// The lines hold the payloads as they are, personal fields too.
    #[command(after_help = "Example: mesh dead-letter export --fingerprint 1315e66c591e --to letters.ndjson")]
    Export(export::ExportArgs),
    /// Append letters of an export that are not there
    ///
    /// A letter of another region can be replayed only there; where --region is said, all are taken into that one.
    #[command(after_help = "Example: mesh dead-letter import letters.ndjson")]
    Import(import::ImportArgs),
    /// Which keys of ordered consumers are blocked, by what, and how much waits behind them
    #[command(after_help = "Example: mesh dead-letter blocked --consumer adapter-payments/shop-payments-v1-payments")]
    Blocked(BlockedArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    limit: usize,
    /// Show ordering keys, which may be personal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    #[command(flatten)]
    filters: FilterArgs,
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
    /// Show personal and payment fields and ordering keys too
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Their ids, or beginnings that no other has
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Don't wait for what becomes of them
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for what becomes of them [default: 30s; for a job until it has ended]. They go on after it
    #[arg(long, value_parser = text::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Send one that is replaying once more, even where its copy may still wait; not for a job
    #[arg(long)]
    again: bool,
    /// Why, for its history
    #[arg(long, default_value = "")]
    why: String,
    /// All that are open
    #[arg(long, help_heading = "Which letters")]
    all: bool,
    #[command(flatten)]
    filters: which::FilterArgs,
    #[command(flatten)]
    rollout: rollout::RolloutArgs,
}

pub(super) async fn run(command: LetterCommand, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    match command {
        LetterCommand::List(args) => list::run(args, global, output).await,
        LetterCommand::Group(args) => group::run(args, global, output).await,
        LetterCommand::Show(args) => show::run(args, global, output).await,
        LetterCommand::Edit(args) => Box::pin(edit::run(*args, global, output)).await,
        LetterCommand::Hold(args) => Box::pin(acts::run(ActKind::Held, *args, global, output)).await,
        LetterCommand::Release(args) => Box::pin(acts::run(ActKind::Released, *args, global, output)).await,
        LetterCommand::Replay(args) => Box::pin(replay::run(*args, global, output)).await,
        LetterCommand::Jobs(command) => jobs::run(command, global, output).await,
        LetterCommand::Discard(args) => Box::pin(acts::run(ActKind::Discarded, *args, global, output)).await,
        LetterCommand::Watch(args) => watch::run(args, global, output).await,
        LetterCommand::Export(args) => Box::pin(export::run(args, global, output)).await,
        LetterCommand::Import(args) => Box::pin(import::run(args, global, output)).await,
        LetterCommand::Blocked(args) => blocked::run(args, global, output).await,
    }
}

/// What ended the newest attempt.
fn fault(letter: &Letter) -> Fault {
    letter.letter.fault.clone().unwrap_or_default().into()
}

/// The state's word; an open question whether something happened is *parked*.
fn state(letter: &Letter) -> &'static str {
    if Facts::of(letter).is_parked() { "parked" } else { letter.state.word() }
}

/// What stands for an ordering key that is not to be shown.
const MASKED: &str = "***";

/// An ordering key, which may be personal.
fn shown_key(key: &str, reveal: bool) -> &str {
    if reveal || key.is_empty() { key } else { MASKED }
}

/// Enough of the id to be the only one, as a rule.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn consumer(letter: &Letter) -> String {
    format!("{}/{}", letter.letter.service, letter.letter.consumer)
}

/// What was said, as a cell of a table: what a terminal has no room for is cut there. Elsewhere there is no end of a line.
fn said(text: &str, output: &Output) -> String {
    text::cut(text, if output.width().is_some() { 300 } else { 60 })
}

/// The last part of a full name: `Payments/Charge` of `shop.payments.v1.Payments/Charge`.
fn last_part(full_name: &str) -> &str {
    full_name.rsplit('.').next().unwrap_or(full_name)
}

/// The full name of the message that a letter of this type carries.
fn payload_name<'n>(message_type: &'n str, catalog: &'n Catalog) -> &'n str {
    catalog.operation(message_type).map_or(message_type, |entry| entry.request.full_name())
}
