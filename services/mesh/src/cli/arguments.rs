//! Every command and option, as clap reads them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_core::{gate::Gate, subject::Name};

use super::{completions::CompletionArgs, ledger::LedgerArgs, letters::LetterCommand, output::Format, tap::TapArgs};
use crate::{
    cluster::MAKER,
    demo::DemoArgs,
    dev::DevArgs,
    roles::{AdapterArgs, RoleArgs},
};

/// Join services and third-party APIs over NATS: publish, call, enqueue, look at what failed and replay it
#[derive(Debug, Parser)]
#[command(name = "mesh", version, arg_required_else_help = true, max_term_width = 110)]
#[command(
    after_help = "Data goes to stdout, the rest to stderr. Exit status: 0 all well, 1 something failed, 2 bad input."
)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// The running cluster of this machine that is meant; where only one runs, it need not be named
    #[arg(long, global = true, env = "MESH_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// A broker's address instead of a cluster of this machine, such as nats://127.0.0.1:4222
    #[arg(long, global = true, env = "MESH_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<String>,
    /// File with the nkey seed (SU…) to connect with
    #[arg(long, global = true, env = "MESH_NATS_SEED_FILE", value_name = "FILE")]
    pub seed_file: Option<PathBuf>,
    /// The region; that of the cluster where nothing is said
    #[arg(long, global = true, env = "MESH_REGION", value_name = "NAME")]
    pub region: Option<Name>,
    /// A table for people, or JSON
    #[arg(short, long, global = true, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
    /// When to use colours
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN")]
    pub color: Color,
    /// Descriptor set of contracts of your own (buf build -o, or protoc --include_imports --descriptor_set_out); repeatable
    #[arg(long, global = true, value_name = "FILE")]
    pub descriptors: Vec<PathBuf>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Even into a file.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Watch a small shop at work: real orders, two third-party APIs, dead letters, and the ledger that proves it
    #[command(after_help = "Examples: mesh demo --orders 1000\n          mesh demo --keep")]
    Demo(DemoArgs),
    /// Run a local cluster that stays, for services of your own
    Dev(DevArgs),
    /// Look at what failed, replay it or give it up
    #[command(subcommand, visible_alias = "dlq")]
    DeadLetter(LetterCommand),
    /// Count what became of every message, from the broker's own numbers, and name what does not add up
    ///
    /// For each stream and consumer: published = accepted + delayed + dead + held + given up + in flight + waiting +
    /// missing. The exit status is 0 if all adds up and 1 if not. What is found is read twice: it counts only if it stands in both readings.
    ///
    /// What it costs: it reads every outcome and every record of letters once, and asks the broker once for each message on
    /// a lane. It keeps about 100 bytes for each letter and for each message on a lane, and next to nothing for the rest. It
    /// changes nothing.
    #[command(
        after_help = "Examples: mesh ledger\n          mesh ledger --consumer payments/charge --wait\n          mesh ledger --config services/shop/mesh.yaml -o json"
    )]
    Ledger(LedgerArgs),
    /// Publish an event, as the service that is its producer
    #[command(
        after_help = "Example: mesh publish shop.orders.v1.OrderPlaced --json '{\"orderId\":\"a1\",\"customerId\":\"2\",\"totalCents\":\"900\",\"currency\":\"USD\"}' --id a1"
    )]
    Publish(SendArgs),
    /// Queue work for an operation, to be done when it can be
    #[command(after_help = "Example: mesh enqueue shop.payments.v1.Payments/Charge --json @charge.json --id 17")]
    Enqueue(SendArgs),
    /// Call an operation and print its reply
    #[command(
        after_help = "Example: mesh call shop.catalogue.v1.Catalogue/GetPrice --json '{\"sku\":\"cd-blue-train\"}'"
    )]
    Call(CallArgs),
    /// Watch live messages, decoded
    Tap(TapArgs),
    /// Check vendor files and mesh files: file:line:column of all that is wrong
    Check(CheckArgs),
    /// Make the streams and consumers that a mesh file declares
    Apply(ApplyArgs),
    /// Make an nkey and an allow-list for each service of a mesh file, for brokers that run elsewhere
    #[command(after_help = "Example: mesh keys --config services/shop/mesh.yaml --out deploy/keys")]
    Keys(KeysArgs),
    /// Turn operations of the contracts into calls of a third party's HTTP API, as a vendor file says
    ///
    /// It connects by MESH_NATS_URL, MESH_NATS_SEED_FILE and MESH_REGION, or to a cluster of this machine.
    Adapter(AdapterArgs),
    /// Keep the mesh: letters for what nobody settled, while nobody looks. Run two: one works, the other takes over
    ///
    /// It connects as the user keeper, by MESH_NATS_URL, MESH_NATS_SEED_FILE and MESH_REGION, or to a cluster of this machine.
    Keeper,
    /// Print a completion script for a shell
    #[command(after_help = "Example: mesh completions bash > ~/.local/share/bash-completion/completions/mesh")]
    Completions(CompletionArgs),
    /// What mesh starts itself
    #[command(subcommand, hide = true)]
    Internal(Internal),
}

impl Command {
    /// Whether it is a tool that ends by itself; the others begin logging as the service that they are.
    pub(super) fn is_tool(&self) -> bool {
        !matches!(self, Command::Internal(_) | Command::Adapter(_) | Command::Keeper)
    }

    /// Whether it has the option `--as`.
    pub(super) fn takes_user(&self) -> bool {
        matches!(self, Command::Publish(_) | Command::Enqueue(_) | Command::Call(_) | Command::Apply(_))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Internal {
    /// Keeps a child from outliving its parent
    Guard,
    /// A service of the shop
    Role(RoleArgs),
    /// The stand-in vendors
    VendorSim(Box<vendor_sim::Args>),
}

/// What is sent.
#[derive(Debug, Args)]
pub(super) struct Message {
    /// Full name, such as shop.orders.v1.OrderPlaced or shop.payments.v1.Payments/Charge
    pub(super) name: String,
    /// The message as JSON; @FILE reads a file, - reads standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, default_value = "{}")]
    pub(super) json: String,
    /// The service to send as; the operator where nothing is said, and an event's producer for an event
    #[arg(long = "as", value_name = "SERVICE")]
    pub(super) sender: Option<Name>,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    pub(super) message: Message,
    /// Its id: the same id again is the same message again, stored once within two minutes. Left out, a new one
    #[arg(long, value_parser = id)]
    pub(super) id: Option<String>,
    /// When nobody wants it any more, from now: 30s, 5m, 1h
    #[arg(long, value_parser = super::text::duration, value_name = "TIME")]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    #[command(flatten)]
    pub(super) message: Message,
    /// Its id: the same id again is the same idempotency key. Left out, a new one where the contract wants a key
    #[arg(long, value_parser = id)]
    pub(super) id: Option<String>,
    /// How long to wait for the answer: 500ms, 5s, 1m
    #[arg(long, value_parser = super::text::duration, default_value = "5s", value_name = "TIME")]
    pub(super) timeout: Duration,
}

fn id(text: &str) -> Result<String, String> {
    Gate::check_id(text).map(|()| text.to_owned()).map_err(|fault| fault.message().to_owned())
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    /// The mesh file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Where seeds, users.conf and compose.env are written; what lies there already is kept
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The mesh file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Copies of each stream: 1 on one server, 3 in production. Left out, a stream keeps those that it has, and a new one
    /// gets as many as the others have
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(super) replicas: Option<u8>,
    /// How long events and outcomes are kept: 7d, 12h. Left out, a stream keeps its age, and a new one gets 7d
    #[arg(long, value_parser = super::text::duration, value_name = "TIME")]
    pub(super) event_age: Option<Duration>,
    /// Lower copies and ages too: what is older is deleted at once
    #[arg(long)]
    pub(super) force: bool,
    /// Where methods move: how long what the services have in hand may take to end: 20s, 10m. They are given nothing meanwhile
    #[arg(long, value_parser = super::text::duration, value_name = "TIME", default_value = "20s")]
    pub(super) patience: Duration,
    /// The broker's user that may make streams and consumers
    #[arg(long = "as", value_name = "USER", default_value = MAKER)]
    pub(super) user: Name,
}
