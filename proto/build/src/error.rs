//! What can go wrong while contracts are compiled.

use std::{fmt, io, path::PathBuf};

/// Contracts could not be compiled. `Debug` shows the same text as `Display`, because that is what a build script's
/// `main` prints.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file is missing, or its text is not a `.proto` file: the text names the place.
    #[error("{0}")]
    Source(String),
    /// The files are `.proto` files, but the contract that they state is wrong.
    #[error("{}", list(.0))]
    Contract(Vec<Problem>),
    /// The result could not be written.
    #[error("can't write {}: {error}", .path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// `OUT_DIR` is not set, and no other folder was given.
    #[error("no folder to write to: call it from a build script, or set one with Config::out_dir")]
    NoOutDir,
    /// The code generator refused the descriptors.
    #[error("can't generate code: {0}")]
    Generate(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One thing that is wrong in a contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was found below its include folder.
    pub file: String,
    /// From 1; 0 where the place is unknown.
    pub line: u32,
    /// From 1; 0 where the place is unknown.
    pub column: u32,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}\n    help: {}", self.file, self.line, self.column, self.text, self.help)
    }
}

fn list(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem in the contracts".to_owned(),
        n => format!("{n} problems in the contracts"),
    };
    problems.iter().fold(count, |text, problem| format!("{text}\n{problem}"))
}
