//! A replay of many letters as a rollout: at which rate, in which steps, and when to give up.
//!
//! [`next`] is the whole of it: from the plan, what is known of the letters and the time it says what the runner does. Rates
//! are kept by [`Pace`], a virtual schedule: the n-th letter has a moment of its own, so that late timers add up to nothing.

mod pace;
mod rule;
#[cfg(test)]
mod tests;

pub(crate) use pace::MADE_UP;
pub use pace::{Pace, Rate};
pub use rule::{AbortRule, InvalidRule};

/// What became of the letters of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Sent to their consumers.
    pub dispatched: u64,
    /// Of those, handled.
    pub resolved: u64,
    /// Of those, failed again.
    pub failed: u64,
    /// What was open when the job was asked for, and was not sent.
    pub skipped: Skips,
}

/// Why letters were not sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Skips {
    /// Somebody holds them.
    pub held: u64,
    /// Somebody gave them up.
    pub discarded: u64,
    /// Somebody else replayed them.
    pub replayed_by_others: u64,
    /// Their consumer is gone.
    pub without_consumer: u64,
    /// Their order can't be given at all.
    pub refused: u64,
}

impl Skips {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.held + self.discarded + self.replayed_by_others + self.without_consumer + self.refused
    }
}

impl Counts {
    /// Sent, and the consumer has said how it ended.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.resolved + self.failed
    }

    /// Sent, and not ended.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.dispatched.saturating_sub(self.ended())
    }
}

/// The steps of a rollout, in per cent of what was selected: ascending, each above 0 and at most 100.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Canary(Vec<f64>);

impl Canary {
    /// Steps as a person writes them.
    ///
    /// # Errors
    /// They do not ascend, or one is not above 0 and at most 100.
    pub fn new(steps: Vec<f64>) -> Result<Canary, String> {
        if let Some(wrong) = steps.iter().find(|step| !(**step > 0.0 && **step <= 100.0)) {
            return Err(format!("a canary step is a percentage above 0 and at most 100, not {wrong}"));
        }
        if let Some(pair) = steps.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!("canary steps ascend: {} comes before {}", pair[0], pair[1]));
        }
        Ok(Canary(steps))
    }

    /// The percentages.
    #[must_use]
    pub fn steps(&self) -> &[f64] {
        &self.0
    }

    /// How many letters may have been sent when step `step` (from 0) is over. `None`: there is no such step, or it is the
    /// whole: no limit. Each step has at least one letter more than the one before.
    #[must_use]
    pub fn limit(&self, step: usize, selected: u64) -> Option<u64> {
        let mut limit = 0;
        for percent in self.0.iter().take(step + 1) {
            limit = share(*percent, selected).max(limit + 1);
        }
        self.0.get(step).filter(|percent| **percent < 100.0).map(|_| limit)
    }
}

/// `percent` of `of`, rounded up.
fn share(percent: f64, of: u64) -> u64 {
    // In millionths of a per cent: exact for what people write, and for more letters than there will be.
    let millionths = u128::from(percent_millionths(percent));
    u64::try_from((u128::from(of) * millionths).div_ceil(100_000_000)).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage between 0 and 100, which fits whatever its sign bit"
)]
fn percent_millionths(percent: f64) -> u64 {
    (percent.clamp(0.0, 100.0) * 1_000_000.0).round() as u64
}

/// What a job was asked to do, as far as its decisions need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Letters that were open in the selection when it was asked for.
    pub selected: u64,
    /// How fast. `None`: as fast as can be.
    pub rate: Option<Rate>,
    /// In which steps.
    pub canary: Canary,
    /// When to give up. `None`: never.
    pub abort_if: Option<AbortRule>,
    /// Letters sent and not ended, at most.
    pub max_in_flight: u64,
}

/// What is known of a job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// What became of its letters.
    pub counts: Counts,
    /// Orders under way whose end is not counted in `counts` yet.
    pub starting: u64,
    /// The canary step that is under way, from 0.
    pub step: usize,
    /// Whether a person stopped it for now.
    pub is_paused: bool,
    /// Whether nothing more may be sent: cancelled or aborted.
    pub is_stopped: bool,
    /// Whether no letter is left to look at.
    pub is_walked: bool,
}

/// What a job does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send the next letter, if its moment has come.
    Dispatch,
    /// Wait until something is heard.
    Wait,
    /// The canary step is over and the rule holds: begin the next one.
    Advance,
    /// The rule does not hold any more: stop, and say this.
    Abort(String),
    /// Everything that was sent has ended and nothing is left to send.
    Finish,
}

/// What a job does next. The rate is not asked here: [`Pace`] says when.
#[must_use]
pub fn next(plan: &Plan, view: &View) -> Next {
    let quiet = view.starting == 0 && view.counts.in_flight() == 0;
    let sent = view.counts.dispatched + view.starting;
    let limit = plan.canary.limit(view.step, plan.selected);
    let step_is_sent = limit.is_some_and(|limit| sent >= limit);
    if view.is_stopped {
        return if quiet { Next::Finish } else { Next::Wait };
    }
    // At the end of a step all of it is judged, however little it is.
    let is_whole = quiet && (step_is_sent || view.is_walked);
    if let Some(why) = plan.abort_if.as_ref().and_then(|rule| rule.fires(&view.counts, is_whole)) {
        return Next::Abort(why);
    }
    if quiet && view.is_walked {
        return Next::Finish;
    }
    if view.is_paused || view.is_walked {
        return Next::Wait;
    }
    if step_is_sent {
        return if quiet { Next::Advance } else { Next::Wait };
    }
    let full = view.counts.in_flight() + view.starting >= plan.max_in_flight.max(1);
    if full { Next::Wait } else { Next::Dispatch }
}

/// How long after its last checkpoint a job that has run for `run_ms` writes the next one: often at first, while people
/// look, and so that a long job does not fill the stream.
#[must_use]
pub fn checkpoint_every_ms(run_ms: u64) -> u64 {
    (run_ms / 60).clamp(500, 10_000)
}
