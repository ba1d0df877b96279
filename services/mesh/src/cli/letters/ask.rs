//! Asking the person, and showing how far it is, when many letters are meant.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use mesh_core::dead_letter::Letter;

use super::{super::Failure, Output, consumer, counted};

/// From so many letters on there is a bar.
const MANY: u64 = 50;

/// Asks whether something is to be done to so many letters of these consumers.
pub(super) fn agreed(what: &str, letters: u64, consumers: &[String]) -> anyhow::Result<bool> {
    let count = counted(letters, "letter");
    answered(&format!("{what} {count} of {}?", consumers.join(", ")), "say --yes to do it")
}

/// Asks whether so many letters are to be replayed to these consumers.
pub(super) fn replay_agreed(letters: u64, consumers: &[impl AsRef<str>]) -> anyhow::Result<bool> {
    let consumers: Vec<_> = consumers.iter().map(AsRef::as_ref).collect();
    let question = format!("replay {} to {}?", counted(letters, "letter"), consumers.join(", "));
    answered(&question, "say --yes to replay them")
}

/// The consumers of letters, each once.
pub(super) fn consumers<'l>(letters: impl IntoIterator<Item = &'l Letter>) -> Vec<String> {
    let mut consumers: Vec<_> = letters.into_iter().map(consumer).collect();
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

/// A bar on the terminal, where there is one and it is worth it; a running count where nobody knows the length.
pub(super) fn bar(length: Option<u64>, output: &Output) -> ProgressBar {
    let is_few = length.is_some_and(|length| length < MANY);
    if is_few || output.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match length.map(ProgressBar::new) {
        Some(bar) => {
            let style = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}  {eta} left");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        None => {
            let style = ProgressStyle::with_template("{human_pos} letters, {per_sec}");
            ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        }
    }
}
