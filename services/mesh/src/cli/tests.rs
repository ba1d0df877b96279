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

/// The words of a line as a shell would hand them over.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of the pages' shell blocks, and what stands in backticks and begins like one of our commands.
fn commands_of_pages() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/errors"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut commands = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks =
            text.split("```sh").skip(1).flat_map(|block| block.split("```").next().unwrap_or_default().lines());
        // Ours, or run by cargo; without what is remarked beside it.
        let blocks = blocks.map(|line| line.split(" #").next().unwrap_or_default().trim_end());
        let blocks = blocks.filter_map(|line| {
            let by_cargo = line.split_once(" -p mesh -- ").map(|(_, words)| format!("mesh {words}"));
            by_cargo.or_else(|| line.starts_with("mesh ").then(|| line.to_owned()))
        });
        let inline = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let inline = inline.filter(|code| code.starts_with("mesh ") && code.contains(" --")).map(str::to_owned);
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        commands.extend(blocks.chain(inline).map(|command| (name.clone(), command)));
    }
    commands
}

/// The examples that the help of each command shows.
fn commands_of_help(command: &clap::Command) -> Vec<(String, String)> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = help.lines().map(|line| line.trim_start_matches("Examples:").trim_start_matches("Example:").trim());
    let own =
        lines.filter(|line| line.starts_with("mesh ")).map(|line| (command.get_name().to_owned(), line.to_owned()));
    own.chain(command.get_subcommands().flat_map(commands_of_help)).collect()
}

#[test]
fn every_command_that_a_page_or_a_help_shows_can_be_read() {
    let shown = [commands_of_pages(), commands_of_help(&Cli::command())].concat();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (place, command) in &shown {
        let words: Vec<_> = words(command).into_iter().take_while(|word| word != ">").collect();
        for file in words.iter().filter(|word| word.contains('/') && word.ends_with(".yaml")) {
            assert!(root.join(file).exists(), "{place}: {command}: there is no such file");
        }
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{place}: {command}\n{error}");
        }
    }
    assert!(shown.len() > 50, "the examples are found: {}", shown.len());
}
