//! Reads `retry`: whether and when queued work that failed is tried again.
//!
//! What an operation says replaces what the vendor says, key by key; what neither says is the default of every consumer.

use std::{ops::RangeInclusive, time::Duration};

use super::{IdempotencyPlan, read::NOT_A_DURATION};
use crate::{
    config::{
        duration,
        problem::{Place, Report},
        yaml::{Fields, Node, Value},
    },
    contract::{OperationInfo, Repeat},
    policy::{budget::BudgetRule, retry::RetryRule},
};

/// The keys of `retry`; under an operation there is no `budget`.
pub(super) const KEYS: &[&str] = &["attempts", "first_delay", "longest_delay", "max_age", "budget"];
/// The keys of `budget`.
pub(super) const BUDGET_KEYS: &[&str] = &["share", "per_second", "burst"];

/// How many attempts a file may ask for.
const MAX_ATTEMPTS: u32 = 1000;
const DELAYS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const AGES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// More retries than first attempts make no budget.
const SHARES: RangeInclusive<f64> = 0.0..=1.0;
const RATES: RangeInclusive<f64> = 0.0..=10_000.0;
const BURSTS: RangeInclusive<f64> = 1.0..=100_000.0;

/// A value and where it stands.
type At<T> = (Place, T);

/// What one `retry` says, and nothing of what it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stated {
    attempts: Option<u32>,
    first_delay: Option<At<Duration>>,
    longest_delay: Option<At<Duration>>,
    max_age: Option<At<Duration>>,
}

/// The vendor's: for every operation, and the budget.
pub(super) fn of_vendor(node: Option<&Node>, report: &mut Report) -> (Stated, BudgetRule) {
    let Some(fields) = node.and_then(|node| node.fields(KEYS, report)) else {
        return (Stated::default(), BudgetRule::default());
    };
    let stated = Stated::read(fields, "retry", report);
    stated.check_delays(&stated, report);
    (stated, budget(fields.get("budget"), report))
}

/// The rule of one operation. `vendors`: what the vendor says.
pub(super) fn of_operation(
    node: Option<&Node>,
    vendors: &Stated,
    (info, idempotency): (&OperationInfo, Option<&IdempotencyPlan>),
    report: &mut Report,
) -> RetryRule {
    let own = node.and_then(|node| {
        // A budget is known here, so that its error says where it belongs.
        let fields = node.fields(KEYS, report)?;
        if let Some(budget) = fields.get("budget") {
            let what =
                "retry.budget: it is counted for all operations of one rpc service together, in each process, expected it under \"retry\" at the top";
            report.add(budget.place, what);
        }
        Some(Stated::read(fields, &format!("operations.{}.retry", info.full_name()), report))
    });
    let stated = own.map_or(*vendors, |own| own.or(vendors));
    if let Some(own) = own {
        stated.check_delays(&own, report);
    }
    let remembered = idempotency.filter(|_| info.repeat == Repeat::Keyed).map(|plan| plan.retention);
    stated.check_age(remembered, info, report);
    stated.rule(remembered)
}

impl Stated {
    fn read(fields: Fields<'_>, path: &str, report: &mut Report) -> Stated {
        Stated {
            attempts: attempts(fields, path, report),
            first_delay: time(fields, (path, "first_delay"), &DELAYS, report),
            longest_delay: time(fields, (path, "longest_delay"), &DELAYS, report),
            max_age: time(fields, (path, "max_age"), &AGES, report),
        }
    }

    fn or(self, other: &Stated) -> Stated {
        Stated {
            attempts: self.attempts.or(other.attempts),
            first_delay: self.first_delay.or(other.first_delay),
            longest_delay: self.longest_delay.or(other.longest_delay),
            max_age: self.max_age.or(other.max_age),
        }
    }

    /// What does not fit is said where `own` says its part of it, once.
    fn check_delays(&self, own: &Stated, report: &mut Report) {
        let Some(((_, first), (_, longest))) = self.first_delay.zip(self.longest_delay) else { return };
        let place = own.first_delay.or(own.longest_delay).map(|(place, _)| place);
        if let (true, Some(place)) = (first > longest, place) {
            let (first, longest) = (duration::show(first), duration::show(longest));
            report.add(place, format!("retry.first_delay is {first}, longer than retry.longest_delay, {longest}"));
        }
    }

    /// A repeat that comes when the vendor has forgotten the key acts a second time.
    fn check_age(&self, remembered: Option<Duration>, info: &OperationInfo, report: &mut Report) {
        let Some((retention, (place, max_age))) = remembered.zip(self.max_age) else { return };
        if max_age > retention {
            let (age, kept) = (duration::show(max_age), duration::show(retention));
            let name = info.full_name();
            let what = format!(
                "retry.max_age is {age}, but the vendor forgets the key of {name} after {kept} (idempotency.retention): a \
                 later retry could act twice; expected at most {kept} there"
            );
            report.add(place, what);
        }
    }

    fn rule(&self, remembered: Option<Duration>) -> RetryRule {
        let default = RetryRule::default();
        let oldest = default.max_age.min(remembered.unwrap_or(Duration::MAX));
        // The default of one gives way to what is said of the other.
        let (first, longest) = (self.first_delay.map(|(_, delay)| delay), self.longest_delay.map(|(_, delay)| delay));
        RetryRule {
            max_attempts: self.attempts.unwrap_or(default.max_attempts),
            base: first.unwrap_or(default.base.min(longest.unwrap_or(Duration::MAX))),
            cap: longest.unwrap_or(default.cap.max(first.unwrap_or_default())),
            max_age: self.max_age.map_or(oldest, |(_, age)| age),
        }
    }
}

fn attempts(fields: Fields<'_>, path: &str, report: &mut Report) -> Option<u32> {
    let node = fields.get("attempts")?;
    let number = match &node.value {
        Value::Int(number) => u32::try_from(*number).ok().filter(|number| (1..=MAX_ATTEMPTS).contains(number)),
        _ => None,
    };
    if number.is_none() {
        let given = shown(node);
        let what = format!("{path}.attempts is {given}, expected a whole number from 1 (no retry) to {MAX_ATTEMPTS}");
        report.add(node.place, what);
    }
    number
}

fn time(
    fields: Fields<'_>,
    (path, key): (&str, &str),
    range: &RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<At<Duration>> {
    let node = fields.get(key)?;
    let given = match &node.value {
        Value::Text(text) => duration::parse(text),
        _ => None,
    };
    let Some(given) = given else {
        report.add(node.place, format!("{path}.{key}: {NOT_A_DURATION}"));
        return None;
    };
    if !range.contains(&given) {
        let (least, most) = (duration::show(*range.start()), duration::show(*range.end()));
        let what = format!("{path}.{key} is {}, expected {least} to {most}", duration::show(given));
        report.add(node.place, what);
        return None;
    }
    Some((node.place, given))
}

fn budget(node: Option<&Node>, report: &mut Report) -> BudgetRule {
    let default = BudgetRule::default();
    let Some(fields) = node.and_then(|node| node.fields(BUDGET_KEYS, report)) else { return default };
    BudgetRule {
        share: number(fields, "share", &SHARES, report).unwrap_or(default.share),
        floor_per_s: number(fields, "per_second", &RATES, report).unwrap_or(default.floor_per_s),
        burst: number(fields, "burst", &BURSTS, report).unwrap_or(default.burst),
    }
}

fn number(fields: Fields<'_>, key: &str, range: &RangeInclusive<f64>, report: &mut Report) -> Option<f64> {
    let node = fields.get(key)?;
    let given = match &node.value {
        Value::Int(number) => i32::try_from(*number).ok().map(f64::from),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    let fits = given.filter(|number| range.contains(number));
    if fits.is_none() {
        let (least, most) = (range.start(), range.end());
        let what = format!("retry.budget.{key} is {}, expected a number from {least} to {most}", shown(node));
        report.add(node.place, what);
    }
    fits
}

/// What stands there, for an error.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        _ => node.kind().to_owned(),
    }
}
