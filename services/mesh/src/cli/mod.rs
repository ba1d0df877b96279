//! The command line of `mesh`: data on stdout, the rest on stderr; exit status 0 all well, 1 something failed, 2 bad input.

mod apply;
mod arguments;
mod away;
mod check;
mod columns;
mod completions;
mod contracts;
mod failure;
mod hints;
mod keys;
mod ledger;
mod letters;
mod mask;
mod output;
mod place;
mod send;
mod tap;
#[cfg(test)]
mod tests;
mod text;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

pub use arguments::{Cli, GlobalArgs};
pub use failure::Failure;
pub use output::{Output, mention};

use arguments::{Command, Internal};
use mesh_core::{config::Environment, subject::KEEPER, telemetry};

use crate::{
    demo, dev,
    roles::{self, AdapterArgs},
    stop::Stop,
};

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub enum Status {
    /// All went well.
    Ok,
    /// Something failed.
    Failed,
    /// The input, a file or the environment is wrong.
    BadInput,
    /// A role has told its own end.
    Told(ExitCode),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        match status {
            Status::Ok => ExitCode::SUCCESS,
            Status::Failed => ExitCode::FAILURE,
            Status::BadInput => ExitCode::from(2),
            Status::Told(code) => code,
        }
    }
}

/// Whether these words, the program's own name first, are a command line that it takes.
///
/// # Errors
/// What it would say about them.
pub fn parse<I: IntoIterator<Item = T>, T: Into<OsString> + Clone>(words: I) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words)
}

/// Runs the program with the words that it was called with, its own name first.
#[must_use]
pub fn main(words: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error, &words).into(),
    };
    let output = Output::new(cli.global.output, cli.global.color);
    // Every process of the mesh waits far more than it computes; more is had by more processes.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::show(&output, &error.into()).into(),
    };
    let ended = runtime.block_on(Box::pin(run(cli, output)));
    // A read of standard input that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| failure::show(&output, &error)).into()
}

async fn run(cli: Cli, output: Output) -> anyhow::Result<Status> {
    let (global, is_tool, takes_user) = (cli.global.clone(), cli.command.is_tool(), cli.command.takes_user());
    let ended = Box::pin(command(cli, output)).await;
    ended.map_err(|error| match is_tool {
        true => failure::explained(error, || place::who_may(&global, takes_user)),
        // A role connects as itself.
        false => error,
    })
}

async fn command(cli: Cli, output: Output) -> anyhow::Result<Status> {
    let Cli { global, command } = cli;
    let _logging = if command.is_tool() { Some(begin_logging(&output)?) } else { None };
    match command {
        Command::Demo(args) => Box::pin(demo::run(args, &output)).await.map(Status::Told),
        Command::Dev(args) => Box::pin(dev::run(args, &contracts::catalog(&global)?, &output)).await.map(Status::Told),
        Command::DeadLetter(command) => Box::pin(letters::run(command, &global, &output)).await,
        Command::Ledger(args) => Box::pin(ledger::run(args, &global, &output)).await,
        Command::Publish(args) => send::publish(args, &global, &output).await,
        Command::Enqueue(args) => send::enqueue(args, &global, &output).await,
        Command::Call(args) => send::call(args, &global, &output).await,
        Command::Tap(args) => tap::run(args, &global, &output).await,
        Command::Check(args) => check::run(&args, &global, &output),
        Command::Apply(args) => apply::run(args, &global, &output).await,
        Command::Keys(args) => keys::run(&args, &global, &output),
        Command::Completions(args) => completions::run(&args, &output),
        Command::Adapter(args) => adapter(args, &global, &output).await,
        Command::Keeper => {
            let environment = coloured(place::Place::find(&global)?.environment(KEEPER)?, &output);
            Box::pin(roles::run_keeper(&environment)).await?;
            Ok(Status::Ok)
        }
        Command::Internal(Internal::Role(args)) => {
            Box::pin(roles::run(args)).await?;
            Ok(Status::Ok)
        }
        Command::Internal(Internal::VendorSim(args)) => vendor_sim(*args).await,
        Command::Internal(Internal::Guard) => {
            Err(Failure::input("mesh internal guard takes words of its own", "").into())
        }
    }
}

/// A tool says what went wrong itself: of the libraries' lines only our own errors are wanted, unless `RUST_LOG` asks for more.
fn begin_logging(output: &Output) -> anyhow::Result<telemetry::Guard> {
    let environment = Environment::from_process();
    let mut settings = telemetry::Settings::new("mesh");
    settings.log_filter = environment.get("RUST_LOG").unwrap_or("error,async_nats=off").to_owned();
    settings.colour = output.colours_errors();
    Ok(telemetry::init(&settings)?)
}

/// The environment of a role, with the choice of colours that was made at the command line: a role knows only `NO_COLOR`.
fn coloured(environment: Environment, output: &Output) -> Environment {
    environment.with("NO_COLOR", if output.colours_errors() { "" } else { "1" })
}

async fn adapter(args: AdapterArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let sets = contracts::descriptors(global)?;
    let sets: Vec<&[u8]> = sets.iter().map(Vec::as_slice).collect();
    let place = |service: &str| Ok(coloured(place::Place::find(global)?.environment(service)?, output));
    Box::pin(roles::run_adapter(args, &sets, place)).await?;
    Ok(Status::Ok)
}

async fn vendor_sim(args: vendor_sim::Args) -> anyhow::Result<Status> {
    let stop = Stop::listen()?;
    vendor_sim::run(args.into(), stop.told()).await?;
    Ok(Status::Ok)
}
