//! What a catalog can't do, and what to do instead.

use std::fmt;

/// A name, a descriptor set, a payload or a JSON text was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The bytes are no complete descriptor set.
    #[error(
        "not a complete descriptor set: {0} (write it with its imports: buf build -o, or protoc --include_imports)"
    )]
    Descriptors(String),
    /// Two sets hold different files of one name.
    #[error("two different files are called {file:?}: use descriptor sets that were built from one version of it")]
    Conflict {
        /// The import name of the file.
        file: String,
    },
    /// No message has this name.
    #[error("no message is called {name:?}{}", did_you_mean(.nearest))]
    UnknownName {
        /// The name that was asked for.
        name: String,
        /// Known names that look like it, best first.
        nearest: Vec<String>,
    },
    /// The bytes are not a message of this type.
    #[error("the {length} bytes are not a {name}: {error}")]
    Undecodable {
        /// Full name of the message.
        name: String,
        /// How many bytes there were.
        length: usize,
        /// What the decoder said.
        error: String,
    },
    /// The message holds a value that JSON has no form for.
    #[error("the {name} can't be written as JSON: {error}")]
    NotJson {
        /// Full name of the message.
        name: String,
        /// Why not.
        error: String,
    },
    /// The JSON does not fit the message.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// JSON that does not fit its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Full name of the message.
    pub message: String,
    /// Where in it: `lines[2].quantity`. Empty for the whole.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// In bytes: of the last one that was read, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub text: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl std::error::Error for JsonError {}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JsonError { message, path, line, column, text, help } = self;
        write!(f, "the JSON is not a {message}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        write!(f, "{text} (line {line}, column {column})")?;
        if help.is_empty() { Ok(()) } else { write!(f, "; {help}") }
    }
}

/// `; did you mean …?`, or nothing.
pub(super) fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; did you mean {}?", nearest.join(" or ")) }
}

/// Those of `names` that look like `name`, best first, at most three.
pub(super) fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = names.into_iter().map(|known| (likeness(name, &known), known)).collect();
    scored.retain(|(score, _)| *score > 0.75);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// 1 for the same name. The last part alone counts nearly as much as the whole: people leave the package out.
fn likeness(given: &str, known: &str) -> f64 {
    let (given, known) = (given.to_lowercase(), known.to_lowercase());
    let whole = strsim::normalized_damerau_levenshtein(&given, &known);
    let part = strsim::normalized_damerau_levenshtein(last(&given), last(&known));
    whole.max(part * 0.95)
}

fn last(name: &str) -> &str {
    name.rsplit(['.', '/']).next().unwrap_or(name)
}
