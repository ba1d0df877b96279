//! What holds for the whole command line.

use clap::{CommandFactory as _, Parser as _};
use mesh_core::fault::Reason;

use super::Cli;

#[test]
fn the_command_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn options_of_every_command_may_stand_anywhere() {
    let cli = Cli::try_parse_from(["mesh", "dlq", "list", "-o", "json", "--cluster", "dev"]).unwrap();
    assert!(cli.global.cluster.as_deref() == Some("dev"));
    Cli::try_parse_from(["mesh", "-o", "json", "dead-letter", "replay", "3f", "--no-wait"]).unwrap();
    Cli::try_parse_from(["mesh", "dead-letter", "replay", "--reason", "103"]).unwrap();
    assert!(Cli::try_parse_from(["mesh", "dead-letter", "discard", "3f"]).is_err(), "why is not said");
}

#[test]
fn every_reason_has_a_page_and_every_page_a_reason() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for reason in Reason::ALL {
        let page = std::fs::read_to_string(folder.join(format!("{}.md", reason.code())));
        let page = page.unwrap_or_else(|error| panic!("docs/errors/{}.md: {error}", reason.code()));
        let heading = format!("# {}: {}\n", reason.code(), reason.title());
        assert!(page.starts_with(&heading), "docs/errors/{}.md must begin with {heading:?}", reason.code());
        for section in ["## What happened", "## May it have had an effect?", "## What to do next", "## Who acts"] {
            assert!(page.contains(section), "docs/errors/{}.md lacks {section:?}", reason.code());
        }
        let row = format!("| [{0}]({0}.md) | {1} |", reason.code(), reason.title());
        assert!(list.contains(&row), "docs/errors/README.md lacks {row:?}");
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name == "README.md" || Reason::ALL.iter().any(|reason| name == format!("{}.md", reason.code()));
        assert!(known, "docs/errors/{name} belongs to no reason");
    }
}
