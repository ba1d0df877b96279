//! What the person sees while it runs: bars on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::watch::Snapshot;
use crate::cli::mention;
use crate::ledger::grouped;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The display, on standard error.
pub(super) enum Progress {
    /// Nothing: a program reads.
    Silent,
    /// Lines.
    Lines { begun: Instant, last: Option<Instant> },
    /// Bars: published, charges, messages, and a line below.
    Bars(Box<Bars>),
}

pub(super) struct Bars {
    all: MultiProgress,
    bars: [ProgressBar; 3],
    below: ProgressBar,
}

impl Progress {
    /// A display for `orders` orders.
    pub(super) fn new(orders: usize, for_programs: bool) -> Progress {
        match (std::io::stderr().is_terminal(), for_programs) {
            (true, _) => Progress::Bars(Box::new(Bars::new(orders as u64))),
            (false, true) => Progress::Silent,
            (false, false) => Progress::Lines { begun: Instant::now(), last: None },
        }
    }

    /// Shows how far everything is.
    pub(super) fn show(&mut self, now: &Snapshot) {
        match self {
            Progress::Silent => {}
            Progress::Bars(bars) => bars.show(now),
            Progress::Lines { begun, last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    mention(&line(begun.elapsed(), now));
                }
            }
        }
    }

    /// Takes the display away: what follows begins on a clean line.
    pub(super) fn end(self) {
        if let Progress::Bars(bars) = self {
            // A terminal that is gone needs no cleaning.
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new(orders: u64) -> Bars {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>10} {wide_bar} {human_pos:>7} of {human_len}  {rate:>8}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate);
        let bar =
            |prefix: &'static str| all.add(ProgressBar::new(orders).with_style(style.clone()).with_prefix(prefix));
        let bars = ["published", "charges", "messages"].map(bar);
        let plain = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let below = all.add(ProgressBar::new_spinner().with_style(plain));
        Bars { all, bars, below }
    }

    fn show(&self, now: &Snapshot) {
        let [charge, message] = &now.stands;
        let [published, charges, messages] = &self.bars;
        published.set_position(now.published);
        charges.set_position(charge.vendor.effects);
        messages.set_position(message.vendor.effects);
        self.below.set_message(format!("{:>10} {}", "", remarks(now)));
    }
}

fn rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    // What can't be shown is left out.
    let _ = write!(out, "{:.0}/s", state.per_sec());
}

fn line(since: Duration, now: &Snapshot) -> String {
    let [charge, message] = &now.stands;
    format!(
        "{:>4} s  published {:>7}  charges {:>7}  messages {:>7}  {}",
        since.as_secs(),
        grouped(now.published),
        grouped(charge.vendor.effects),
        grouped(message.vendor.effects),
        remarks(now)
    )
}

fn remarks(now: &Snapshot) -> String {
    let throttled: u64 = now.stands.iter().map(|stand| stand.vendor.throttled).sum();
    format!("dead letters {}  told to slow down {}", grouped(now.letters), grouped(throttled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_everything_is() {
        let mut now = Snapshot { published: 69_659, letters: 80, ..Snapshot::default() };
        now.stands[0].vendor.effects = 12_000;
        now.stands[0].vendor.throttled = 7;
        let text = line(Duration::from_secs(12), &now);
        for part in ["12 s", "published  69,659", "charges  12,000", "dead letters 80", "told to slow down 7"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
