//! Completion scripts.

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

use super::{Cli, Output, Status};

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: Supported,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &CompletionArgs, output: &Output) -> anyhow::Result<Status> {
    let shell = match args.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "mesh", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Status::Ok)
}
