//! When a replay gives up: `failed > 5%`, `failed > 10`, several joined by `or`.

use std::{fmt, str::FromStr};

use super::Counts;

/// Conditions of which one is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct AbortRule(Vec<Condition>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Condition {
    /// More letters than this failed.
    Count(u64),
    /// More than this share, in per cent, of those that ended failed.
    Percent(f64),
}

/// A rule that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {what}")]
pub struct InvalidRule {
    /// Where, from 1, in characters.
    pub column: usize,
    /// What is wrong and what fits.
    pub what: String,
}

impl AbortRule {
    /// Why the job is to be given up; `None` while the rule holds. A percentage is judged from as many letters on as make
    /// one of them less than it (20 for 5 %): the first failure of a thousand is no 100 %. It is judged of fewer once `is_whole`,
    /// and where so many have failed that it is exceeded whatever becomes of the others up to that number. `failed > 0%` is the
    /// first failure.
    #[must_use]
    pub fn fires(&self, counts: &Counts, is_whole: bool) -> Option<String> {
        self.0
            .iter()
            .find(|condition| condition.is_met(counts, is_whole))
            .map(|condition| format!("{condition}: {} of {} that ended failed again", counts.failed, counts.ended()))
    }
}

impl Condition {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn is_met(self, counts: &Counts, is_whole: bool) -> bool {
        let (failed, ended) = (counts.failed as f64, counts.ended() as f64);
        match self {
            Condition::Count(limit) => counts.failed > limit,
            Condition::Percent(0.0) => counts.failed > 0,
            Condition::Percent(percent) if is_whole => failed * 100.0 > percent * ended,
            Condition::Percent(percent) => failed * 100.0 > (percent * ended).max(100.0),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Count(limit) => write!(f, "failed > {limit}"),
            Condition::Percent(percent) => write!(f, "failed > {percent}%"),
        }
    }
}

impl fmt::Display for AbortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.0.iter().enumerate() {
            let joined = if index == 0 { "" } else { " or " };
            write!(f, "{joined}{condition}")?;
        }
        Ok(())
    }
}

impl FromStr for AbortRule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<AbortRule, InvalidRule> {
        let mut words = Words { text, at: 0 };
        let mut conditions = Vec::new();
        loop {
            words.expect("failed", "a condition begins with `failed`, such as failed > 5%")?;
            words.expect(">", "after `failed` comes `>`")?;
            conditions.push(words.amount()?);
            if words.is_over() {
                return Ok(AbortRule(conditions));
            }
            words.expect("or", "conditions are joined by `or`")?;
        }
    }
}

/// The words of a rule, left to right.
struct Words<'t> {
    text: &'t str,
    /// Bytes that are read.
    at: usize,
}

impl<'t> Words<'t> {
    /// The next word: letters, or a number with its sign of per cent, or one other character.
    fn peek(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        self.at = self.text.len() - rest.len();
        let end_of = |belongs: fn(char) -> bool| rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let end = match rest.chars().next() {
            Some(c) if c.is_alphabetic() => end_of(char::is_alphabetic),
            Some(c) if c.is_ascii_digit() || c == '.' => end_of(|c| c.is_ascii_digit() || c == '.'),
            Some(c) => c.len_utf8(),
            None => 0,
        };
        &rest[..end]
    }

    fn next(&mut self) -> &'t str {
        let word = self.peek();
        self.at += word.len();
        word
    }

    fn is_over(&mut self) -> bool {
        self.peek().is_empty()
    }

    fn expect(&mut self, wanted: &str, hint: &str) -> Result<(), InvalidRule> {
        let found = self.peek();
        if found != wanted {
            return Err(self.wrong(found, hint));
        }
        self.next();
        Ok(())
    }

    fn amount(&mut self) -> Result<Condition, InvalidRule> {
        let number = self.peek();
        let hint = "after `>` comes a number of letters, or a percentage below 100: failed > 10, failed > 5%";
        let value: f64 = number.parse().map_err(|_| self.wrong(number, hint))?;
        let before = self.at;
        self.next();
        if self.peek() == "%" {
            if value >= 100.0 {
                self.at = before;
                return Err(self.wrong(number, hint));
            }
            self.next();
            return Ok(Condition::Percent(value));
        }
        let limit = number.parse().map_err(|_| {
            self.at = before;
            self.wrong(number, "letters are counted in whole numbers; a share has a `%`")
        })?;
        Ok(Condition::Count(limit))
    }

    fn wrong(&self, found: &str, hint: &str) -> InvalidRule {
        let found = if found.is_empty() { "the rule ends".to_owned() } else { format!("{found:?}") };
        InvalidRule { column: self.text[..self.at].chars().count() + 1, what: format!("{found}: {hint}") }
    }
}
