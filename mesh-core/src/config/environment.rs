//! The one reader of the environment.

use std::{collections::BTreeMap, fmt};

/// The variables of the environment, read once. Its `Debug` shows no value: some are secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// A variable that a file needs is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable {0} is not set in the environment")]
pub struct Unset(pub String);

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn from_process() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment(std::env::vars_os().filter_map(text).collect())
    }

    /// The value of a variable; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same with one variable set otherwise.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Environment {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Replaces `${NAME}` and `${NAME:-default}` in `text`. `$${` stands for `${`.
    ///
    /// # Errors
    /// Names the first variable that is not set and has no default.
    pub fn expand(&self, text: &str) -> Result<String, Unset> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            let Some(end) = rest[at..].find('}') else { break };
            out.push_str(&rest[..at]);
            let inside = &rest[at + 2..at + end];
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, or)| (name, Some(or)));
            out.push_str(self.get(name).or(default).ok_or_else(|| Unset(name.to_owned()))?);
            rest = &rest[at + end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Environment {
        Environment(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let environment = Environment::from_iter([("HOST", "example.com"), ("EMPTY", "")]);
        for (given, expected) in [
            ("plain", "plain"),
            ("https://${HOST}/v1", "https://example.com/v1"),
            ("${NONE:-https://a:1}", "https://a:1"),
            ("${EMPTY:-x}${HOST:-y}", "xexample.com"),
            ("${NONE:-}", ""),
            ("$${HOST}", "${HOST}"),
            ("${open", "${open"),
        ] {
            assert_eq!(environment.expand(given).as_deref(), Ok(expected), "{given}");
        }
        assert_eq!(environment.expand("${NONE}"), Err(Unset("NONE".into())));
        assert_eq!(environment.expand("${EMPTY}"), Err(Unset("EMPTY".into())));
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", Environment::from_iter([("KEY", "sk_1")])), "Environment(1 variables)");
    }
}
