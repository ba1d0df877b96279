//! `mesh check`: everything that is wrong in files, each with its place.

use std::path::Path;

use mesh_core::{
    config::{Environment, Kind, Problem, Problems, mesh_file, vendor},
    contract::Catalog,
    fault::Reason,
};
use serde_json::{Value, json};

use super::{Failure, GlobalArgs, Output, Status, arguments::CheckArgs, contracts};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Vendor,
    Mesh,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Purpose::Vendor => "vendor file",
            Purpose::Mesh => "mesh file",
        }
    }

    /// A mesh file names services at its top. Whatever does not is read as a vendor file, whose errors name its keys.
    fn of(text: &str) -> Purpose {
        let services = text.lines().any(|line| line.trim_start_matches('{').trim_start().starts_with("services"));
        if services { Purpose::Mesh } else { Purpose::Vendor }
    }
}

pub(super) fn run(args: &CheckArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let environment = Environment::from_process();
    let (mut problems, mut good) = (Vec::new(), Vec::new());
    for path in &args.files {
        let (name, text) = (path.display().to_string(), read(path)?);
        let purpose = Purpose::of(&text);
        match check(purpose, (&name, &text), &catalog, &environment) {
            Ok(()) => good.push((name, purpose)),
            Err(found) => problems.extend(found.0),
        }
    }
    if output.is_json() {
        let good: Vec<Value> =
            good.iter().map(|(file, purpose)| json!({ "file": file, "is": purpose.word() })).collect();
        output.json(&json!({ "good": good, "problems": problems.iter().map(document).collect::<Vec<_>>() }))?;
    } else {
        for (file, purpose) in &good {
            output.line(&format!("{file}: a {} without a problem", purpose.word()))?;
        }
    }
    if problems.is_empty() { Ok(Status::Ok) } else { Err(Problems(problems).into()) }
}

fn check(
    purpose: Purpose,
    (name, text): (&str, &str),
    catalog: &Catalog,
    environment: &Environment,
) -> Result<(), Problems> {
    match purpose {
        Purpose::Mesh => mesh_file::load(name, text, catalog).map(drop),
        Purpose::Vendor => vendor::load(name, text, environment, &contracts::pool(catalog)).map(drop),
    }
}

fn document(problem: &Problem) -> Value {
    let reason = match problem.kind {
        Kind::SecretMissing => Reason::SecretMissing,
        Kind::File => Reason::InvalidFile,
    };
    json!({
        "file": problem.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "reason": reason.code(),
        "what": problem.what,
    })
}

/// The text of a file.
///
/// # Errors
/// It can't be read, or is not UTF-8.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::input(format!("{} can't be read: {error}", path.display()), "see that the path is right")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_by_its_keys_what_it_is() {
        assert_eq!(Purpose::of("# x\nregion: local\nservices:\n  a:\n"), Purpose::Mesh);
        assert_eq!(Purpose::of("{services: {}}"), Purpose::Mesh);
        assert_eq!(Purpose::of("vendor: stripe\noperations:\n"), Purpose::Vendor);
    }
}
