//! The one renderer of errors: what happened, whether it had an effect, what to do next, and the page that says more.

use std::{ffi::OsString, fmt::Write as _, io};

use mesh_core::{
    config::Problems,
    contract::catalog::{CatalogError, JsonError},
    fault::{Code, Effect, Fault, Reason},
};
use serde_json::{Value, json};

use super::{Output, Status, hints, mention};

/// A fault with the advice that only the command knows.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Failure {
    fault: Fault,
    help: String,
}

impl Failure {
    /// A fault, and what to do about it.
    #[must_use]
    pub fn new(fault: Fault, help: impl Into<String>) -> Failure {
        Failure { fault, help: help.into() }
    }

    /// An argument is wrong: nothing happened.
    #[must_use]
    pub fn input(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::new(Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, message), help)
    }
}

/// The same error, with what to do where the broker denied it: only the command knows with whose credential it asked.
pub(super) fn explained(error: anyhow::Error, help: impl FnOnce() -> String) -> anyhow::Error {
    let fault = |cause: &(dyn std::error::Error + 'static)| {
        let fault = cause.downcast_ref::<Fault>().or_else(|| Some(&cause.downcast_ref::<Failure>()?.fault));
        fault.filter(|fault| fault.reason() == Reason::AccessDenied).cloned()
    };
    match error.chain().find_map(fault) {
        Some(fault) => Failure::new(fault, help()).into(),
        None => error,
    }
}

/// Shows an error and says how the program ends.
pub(super) fn show(output: &Output, error: &anyhow::Error) -> Status {
    if is_broken_pipe(error) {
        return Status::Ok;
    }
    let report = Report::of(error);
    if output.is_json() {
        mention(&report.json().to_string());
    } else {
        mention(report.text(output.colours_errors()).trim_end());
    }
    report.status
}

/// Shows what clap says about the words that it could not read, or the help that was asked for.
pub(super) fn usage(error: &clap::Error, words: &[OsString]) -> Status {
    if !error.use_stderr() {
        // Nobody reads the help any more: no reason to complain.
        let _ = error.print();
        return Status::Ok;
    }
    if wants_json(words) {
        let text = error.to_string();
        let (message, help) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error: ");
        let report = Report::plain(Failure::input(message, help.trim()));
        mention(&report.json().to_string());
    } else {
        let _ = error.print();
    }
    Status::BadInput
}

/// Whether JSON is asked for, in any of the forms that the option has: clap, which knows them, has read nothing.
fn wants_json(words: &[OsString]) -> bool {
    let words = words.iter().map(|word| word.to_str().unwrap_or_default()).take_while(|word| *word != "--");
    let (mut is_next, mut wants_json) = (false, false);
    for word in words {
        let value = if is_next { Some(word) } else { format_in(word) };
        is_next = value == Some("");
        // The last one counts. An empty one stands before its value.
        wants_json = value.filter(|value| !value.is_empty()).map_or(wants_json, |value| value == "json");
    }
    wants_json
}

/// The value of the option for the format in a word: empty where it stands in the next one.
fn format_in(word: &str) -> Option<&str> {
    if let Some(long) = word.strip_prefix("--") {
        let value = long.strip_prefix("output")?;
        return if value.is_empty() { Some(value) } else { value.strip_prefix('=') };
    }
    // Others that take no value may stand before it, as in -yo json.
    let value = word.strip_prefix('-')?.trim_start_matches('y').strip_prefix('o')?;
    Some(value.strip_prefix('=').unwrap_or(value))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    let json = error.chain().find_map(|cause| cause.downcast_ref::<serde_json::Error>());
    let kind = io.map(io::Error::kind).or_else(|| json.and_then(serde_json::Error::io_error_kind));
    kind == Some(io::ErrorKind::BrokenPipe)
}

struct Report {
    fault: Fault,
    help: Vec<String>,
    status: Status,
    /// Not every error of the program has a reason: then no page is named.
    has_reason: bool,
}

impl Report {
    fn of(error: &anyhow::Error) -> Report {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return Report::plain(Failure::new(failure.fault.clone(), failure.help.clone()));
            }
            if let Some(CatalogError::Json(error)) = cause.downcast_ref() {
                let fault = of_catalog(&JsonError { help: String::new(), ..error.clone() }.into());
                return Report::plain(Failure::new(fault, error.help.clone()));
            }
            let fault = cause
                .downcast_ref::<Fault>()
                .cloned()
                .or_else(|| cause.downcast_ref::<Problems>().cloned().map(Fault::from))
                .or_else(|| cause.downcast_ref::<CatalogError>().map(of_catalog))
                .or_else(|| cause.downcast_ref::<vendor_sim::Error>().map(of_vendors));
            if let Some(fault) = fault {
                return Report::plain(Failure::new(fault, ""));
            }
        }
        let fault = Fault::new(Code::Unknown, Effect::Unknown, Reason::InvalidInput, format!("{error:#}"));
        Report { fault, help: Vec::new(), status: Status::Failed, has_reason: false }
    }

    fn plain(failure: Failure) -> Report {
        let Failure { fault, help } = failure;
        let help = if help.is_empty() { hints::help(&fault) } else { help };
        let help = help.lines().map(str::to_owned).collect();
        Report { status: status(&fault), fault, help, has_reason: true }
    }

    fn text(&self, colour: bool) -> String {
        let paint =
            |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
        let mut lines = self.fault.message().lines();
        let first = lines.next().unwrap_or_default();
        let mut out = match self.has_reason {
            true => format!("{}: {first}\n", paint("1;31", &format!("error[{}]", self.fault.reason().code()))),
            false => format!("{}: {first}\n", paint("1;31", "error")),
        };
        let mut add = |name: &str, text: &str| {
            // Writing to a String can't fail.
            let _ = writeln!(out, "  {} {text}", paint("1", name));
        };
        for line in lines {
            add("     ", line);
        }
        if !self.fault.detail().is_empty() {
            add("detail:", self.fault.detail());
        }
        for line in &self.help {
            add("help:", line);
        }
        if self.has_reason {
            add("effect:", hints::effect(self.fault.effect()));
            add("page:", &page(self.fault.reason()));
        }
        out
    }

    fn json(&self) -> Value {
        let fault = &self.fault;
        if !self.has_reason {
            return json!({ "error": { "message": fault.message() } });
        }
        json!({ "error": {
            "reason": fault.reason().code(),
            "title": fault.reason().title(),
            "message": fault.message(),
            "detail": fault.detail(),
            "help": self.help.join("\n"),
            "code": fault.code().as_str_name().trim_start_matches("CODE_"),
            "effect": fault.effect().as_str_name().trim_start_matches("EFFECT_"),
            "page": page(fault.reason()),
        } })
    }
}

fn page(reason: Reason) -> String {
    format!("docs/errors/{}.md", reason.code())
}

/// Wrong input, files and environment are the user's to mend; the rest failed.
fn status(fault: &Fault) -> Status {
    let bad_input = match fault.reason() {
        // A bus that is away, or stops answering, is nobody's slip: only an address that is none, a cluster that is not there
        // and a credential that the broker does not know are.
        Reason::BusUnavailable => {
            matches!(fault.code(), Code::InvalidArgument | Code::NotFound | Code::Unauthenticated)
        }
        Reason::BrokerTooOld | Reason::LetterMissing | Reason::JobMissing => true,
        reason => reason.code() >= "MESH-0200" && reason != Reason::LocalFailed,
    };
    if bad_input { Status::BadInput } else { Status::Failed }
}

fn of_catalog(error: &CatalogError) -> Fault {
    let reason = match error {
        CatalogError::UnknownName { .. } => Reason::UnknownName,
        CatalogError::Json(_) => Reason::InvalidJson,
        CatalogError::Undecodable { .. } | CatalogError::NotJson { .. } => Reason::Undecodable,
        _ => Reason::InvalidFile,
    };
    Fault::new(Code::InvalidArgument, Effect::None, reason, error.to_string())
}

fn of_vendors(error: &vendor_sim::Error) -> Fault {
    let in_use = matches!(error, vendor_sim::Error::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    let reason = if in_use { Reason::PortInUse } else { Reason::InvalidInput };
    Fault::new(Code::FailedPrecondition, Effect::None, reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do_and_where_more_stands() {
        let fault = Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, "f:1:2: a\nf:3:4: b");
        let text = Report::of(&fault.into()).text(false);
        assert_eq!(
            text,
            "error[MESH-0203]: f:1:2: a\n        f:3:4: b\n  help: mend each line, then check again: mesh check FILE\n  \
             effect: nothing happened\n  page: docs/errors/MESH-0203.md\n"
        );
    }

    #[test]
    fn a_bus_that_is_away_is_no_bad_input_and_a_wrong_address_is() {
        let status_of = |code| {
            i32::from(matches!(status(&Fault::new(code, Effect::None, Reason::BusUnavailable, "")), Status::BadInput))
        };
        for (code, is_bad_input) in
            [(Code::Unavailable, 0), (Code::InvalidArgument, 1), (Code::NotFound, 1), (Code::Unauthenticated, 1)]
        {
            assert_eq!(status_of(code), is_bad_input, "{code:?}");
        }
        let away = Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, "the bus did not answer");
        let text = Report::of(&away.into()).text(false);
        assert!(text.contains("help: ") && !text.contains("mesh dev"), "{text}");
    }

    #[test]
    fn json_is_asked_for_in_many_ways() {
        let wants = |line: &str| wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in [
            "mesh x -o json",
            "mesh x -o=json",
            "mesh x -ojson",
            "mesh x --output json",
            "mesh x --output=json",
            "mesh -o=json x --bogus",
            "mesh --output=json x",
            "mesh x -yo json",
            "mesh -o table x -o json",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in [
            "mesh x",
            "mesh x -o table",
            "mesh json -o",
            "mesh x -- -o json",
            "mesh -o json x -o=table",
            "mesh --out json",
        ] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("while writing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
