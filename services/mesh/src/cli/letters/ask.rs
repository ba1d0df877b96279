//! Asking the person, and showing how far it is, when many letters are meant.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use mesh_core::dead_letter::Letter;

use super::{super::Failure, Output, consumer, counted};

/// From so many letters on there is a bar.
const MANY: usize = 50;

/// Asks whether something is to be done to these letters.
pub(super) fn agreed(what: &str, letters: &[Letter]) -> anyhow::Result<bool> {
    let count = counted(letters.len() as u64, "letter");
    answered(&format!("{what} {count} of {}?", consumers(letters).join(", ")), "say --yes to do it")
}

/// Asks whether so many letters are to be replayed to these consumers.
pub(super) fn replay_agreed(letters: u64, consumers: &[impl AsRef<str>]) -> anyhow::Result<bool> {
    let consumers: Vec<_> = consumers.iter().map(AsRef::as_ref).collect();
    let question = format!("replay {} to {}?", counted(letters, "letter"), consumers.join(", "));
    answered(&question, "say --yes to replay them")
}

/// The consumers of letters, each once.
pub(super) fn consumers(letters: &[Letter]) -> Vec<String> {
    let mut consumers: Vec<_> = letters.iter().map(consumer).collect();
    consumers.sort();
    consumers.dedup();
    consumers
}

/// What the person answers; `otherwise` is what to do where nobody can be asked.
fn answered(question: &str, otherwise: &'static str) -> anyhow::Result<bool> {
    let mut screen = std::io::stderr();
    let can_ask = std::io::stdin().is_terminal();
    if !can_ask || write!(screen, "{question} [y/N] ").and_then(|()| screen.flush()).is_err() {
        return Err(Failure::input(format!("{question} Nobody is there to ask"), otherwise).into());
    }
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A bar on the terminal, where there is one and it is worth it.
pub(super) fn bar(length: usize, output: &Output) -> ProgressBar {
    if length < MANY || output.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}  {eta} left");
    ProgressBar::new(length as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
