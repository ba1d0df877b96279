//! A payload in the person's own editor: proto3 JSON with a few lines of comment, opened again while it does not fit.

use std::{
    io::{IsTerminal as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use bytes::Bytes;
use mesh_core::{
    config::Environment,
    contract::{
        Catalog,
        catalog::{CatalogError, carry_over},
    },
    dead_letter::{Letter, normalised},
    fault::Reason,
};
use prost::Message as _;
use prost_reflect::DynamicMessage;

use super::{
    super::{Failure, mask::Mask},
    consumer, fault, payload_name,
};
use crate::stop::Stop;

/// The mark of a line that is not read. No line of JSON begins with it.
const COMMENT: char = '#';

/// What is edited.
pub(super) struct Draft<'a> {
    pub(super) letter: &'a Letter,
    pub(super) catalog: &'a Catalog,
    pub(super) original: &'a DynamicMessage,
    pub(super) mask: Mask,
}

/// Lets the person edit a payload. `None`: unchanged, emptied or given up.
///
/// # Errors
/// The editor can't be run or failed; what it left does not fit, and the person gave up.
pub(super) async fn mend(draft: &Draft<'_>) -> anyhow::Result<Option<Bytes>> {
    // Caught, Ctrl-C ends the editor's own work and not this program, which must still take the file away.
    let stop = Stop::listen()?;
    let folder = tempfile::Builder::new().prefix("mesh-letter-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
    let path = folder.path().join(format!("{}.json", draft.letter.letter.id));
    let mut text = serde_json::to_string_pretty(&draft.mask.editable(draft.original)?)?;
    let mut said: Option<String> = None;
    loop {
        write(&path, &format!("{}{text}\n", comments(draft, said.as_deref())))?;
        run(&path).await?;
        let edited = without_comments(&left(&path)?);
        let is_unchanged = edited.trim() == text.trim();
        if edited.trim().is_empty() || stop.is_told() {
            return Ok(None);
        }
        match (is_unchanged, said) {
            (true, None) => return Ok(None),
            (true, Some(said)) => return Err(Failure::input(said, "nothing was written: edit it again").into()),
            (false, _) => {}
        }
        match read(draft, &edited) {
            Ok(payload) => return Ok(Some(payload)),
            Err(error) => said = Some(error),
        }
        edited.trim_matches('\n').clone_into(&mut text);
    }
}

fn read(draft: &Draft<'_>, text: &str) -> Result<Bytes, String> {
    let name = payload_name(&draft.letter.letter.message_type, draft.catalog);
    let mut edited = draft.catalog.from_json(name, text).map_err(|error| match error {
        CatalogError::Json(error) => error.to_string(),
        other => other.to_string(),
    })?;
    let hidden = |field: &prost_reflect::FieldDescriptor| draft.mask.is_hidden(field);
    carry_over(draft.original, &mut edited, &hidden).map_err(|error| error.to_string())?;
    Ok(edited.encode_to_vec().into())
}

fn comments(draft: &Draft<'_>, said: Option<&str>) -> String {
    let letter = draft.letter;
    let fault = fault(letter);
    let mut lines = Vec::new();
    if let Some(said) = said {
        lines.extend(said.lines().map(|line| format!("ERROR: {line}")));
        lines.push("Mend it and save. To give up, leave it as it is or empty it.".to_owned());
        lines.push(String::new());
    }
    lines.push(format!("Letter {}: {} of {}", letter.letter.id, letter.letter.message_type, consumer(letter)));
    lines.push(format!("{} {}", fault.reason().code(), fault.reason().title()));
    // It goes into a file: what differs from case to case may be personal.
    lines.push(format!(
        "said: {}",
        if draft.mask.reveal { fault.message().to_owned() } else { normalised(fault.message()) }
    ));
    if !fault.origin().vendor_code.is_empty() {
        lines.push(format!("vendor code: {}", fault.origin().vendor_code));
    }
    if fault.reason() == Reason::OutcomeUnknown {
        lines.push("It may have happened: find out before it is sent again.".to_owned());
    }
    lines.push("Personal and payment fields are left out and stay as they are, unless --reveal is said.".to_owned());
    lines.push("Lines that begin with # are not read. Left unchanged or emptied, nothing is done.".to_owned());
    lines.iter().flat_map(|line| line.lines().chain(line.is_empty().then_some(""))).fold(
        String::new(),
        |mut out, line| {
            out.push(COMMENT);
            out.push(' ');
            out.push_str(line);
            out.push('\n');
            out
        },
    )
}

/// Lines of comment become empty lines before the text's first line, and stay so within it: line numbers of errors count
/// from the text's first line.
fn without_comments(text: &str) -> String {
    let line = |line: &str| if line.trim_start().starts_with(COMMENT) { String::new() } else { line.to_owned() };
    let lines: Vec<String> = text.lines().map(line).collect();
    let first = lines.iter().position(|line| !line.is_empty()).unwrap_or(lines.len());
    lines.get(first..).unwrap_or_default().join("\n")
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// What the editor left.
fn left(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("what the editor left can't be read ({error}): nothing was written");
        Failure::input(message, "save the text where it was opened, as UTF-8; or mend it with --set path=value")
    })
}

async fn run(path: &Path) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let named = environment.get("VISUAL").or_else(|| environment.get("EDITOR")).filter(|editor| !editor.is_empty());
    if named.is_none() && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        let help = "mend it with --set path=value, or name an editor with VISUAL or EDITOR";
        return Err(Failure::input("no terminal is there for an editor: nothing was written", help).into());
    }
    let editor = named.unwrap_or("vi");
    // Editors are named with options ("code --wait"), so a shell reads the words.
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("mesh").arg(path);
    let status = command.status().await?;
    if status.success() {
        return Ok(());
    }
    let help = "set VISUAL or EDITOR to an editor that waits (code --wait, vim), or mend it with --set path=value";
    Err(Failure::input(format!("the editor {editor:?} failed ({status}): nothing was written"), help).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_not_read_and_lines_count_from_the_text() {
        assert_eq!(without_comments("# a\n# b\n{\n  # c\n  \"x\": \"# d\"\n}\n"), "{\n\n  \"x\": \"# d\"\n}");
        assert_eq!(without_comments("# a\n\n"), "");
    }
}
