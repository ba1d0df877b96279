//! What is wrong in a file, and where.

use std::fmt;

use crate::fault::{Code, Effect, Fault, Reason};

/// A place in a file; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The file itself is wrong.
    File,
    /// The file is right, but the environment lacks a secret.
    SecretMissing,
}

/// One thing that is wrong: `file:line:column: what, expected what`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{}:{}: {what}", .place.line, .place.column)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: String,
    /// Where.
    pub place: Place,
    /// What is wrong and what was expected.
    pub what: String,
    /// What kind of problem.
    pub kind: Kind,
}

/// Everything that is wrong in one file, in the order of the file: one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Fault {
    fn from(problems: Problems) -> Fault {
        let only_secrets = problems.0.iter().all(|p| p.kind == Kind::SecretMissing);
        let reason = if only_secrets { Reason::SecretMissing } else { Reason::InvalidFile };
        Fault::new(Code::InvalidArgument, Effect::None, reason, problems.to_string())
    }
}

/// Collects what is wrong while a file is read.
#[derive(Debug)]
pub(super) struct Report {
    file: String,
    lines: Vec<String>,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(file: &str, text: &str) -> Report {
        Report { file: file.to_owned(), lines: text.lines().map(str::to_owned).collect(), problems: Vec::new() }
    }

    /// The file's name as it was given.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// The place of the character `offset` of the text that begins at `start`: behind a quote where it has one. Within a
    /// text of several lines it is the place where that begins.
    pub(super) fn within(&self, start: Place, offset: usize) -> Place {
        let line = self.lines.get(start.line - 1);
        let column = match line.and_then(|line| line.chars().nth(start.column - 1)) {
            Some('|' | '>') => return start,
            Some('"' | '\'') => start.column + 1 + offset,
            _ => start.column + offset,
        };
        if line.is_some_and(|line| column > line.chars().count() + 1) { start } else { Place { column, ..start } }
    }

    pub(super) fn add(&mut self, place: Place, what: impl Into<String>) {
        self.add_kind(place, what, Kind::File);
    }

    pub(super) fn add_kind(&mut self, place: Place, what: impl Into<String>, kind: Kind) {
        self.problems.push(Problem { file: self.file.clone(), place, what: what.into(), kind });
    }

    /// How much is wrong so far.
    pub(super) fn len(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn into_problems(mut self) -> Problems {
        self.problems.sort_by_key(|p| p.place);
        Problems(self.problems)
    }
}

/// ` (did you mean "x"?)` where a known name is near, else the known names.
pub(super) fn hint<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= (name.len().max(given.len()) / 3).max(1))
        .min();
    match nearest {
        Some((_, name)) => format!(" (did you mean {name:?}?)"),
        None if known.is_empty() => String::new(),
        None => format!(", expected one of: {}", known.join(", ")),
    }
}
