//! Where output goes and how it looks.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use mesh_core::config::Environment;
use serde::Serialize;

use super::arguments::Color;

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, or one object a line for a stream of them.
    Json,
}

/// How to write: made once from the options.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    colour: bool,
    colour_errors: bool,
}

/// `NO_COLOR`, with any value but none: <https://no-color.org>.
fn is_colour_refused() -> bool {
    Environment::from_process().get("NO_COLOR").is_some()
}

/// Columns of a line where the terminal does not say.
const DEFAULT_WIDTH: u16 = 160;

/// A line on stderr. Where nobody reads it any more the command goes on: its exit status still says how it ended.
pub fn mention(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

impl Output {
    pub(super) fn new(format: Format, color: Color) -> Output {
        let colour = |terminal: bool| match color {
            Color::Auto => terminal && format == Format::Table && !is_colour_refused(),
            Color::Always => true,
            Color::Never => false,
        };
        Output { format, colour: colour(io::stdout().is_terminal()), colour_errors: colour(io::stderr().is_terminal()) }
    }

    /// Whether programs read it.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether standard error may be coloured.
    #[must_use]
    pub fn colours_errors(&self) -> bool {
        self.colour_errors
    }

    /// One line of data on stdout.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
        written.map_err(unwritten)
    }

    /// One JSON document on stdout, indented on a terminal.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn json(&self, document: &impl Serialize) -> io::Result<()> {
        let indented = io::stdout().is_terminal();
        let text = if indented { serde_json::to_string_pretty(document) } else { serde_json::to_string(document) };
        self.line(&text?)
    }

    /// A remark for the person, on stderr. Programs don't get it.
    pub fn remark(&self, text: &str) {
        if !self.is_json() {
            mention(text);
        }
    }

    /// `text` bold, where stdout may be coloured.
    pub(super) fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Columns that a line may have. `None`: any number, nobody's terminal is there.
    pub(super) fn width(&self) -> Option<u16> {
        let out = io::stdout();
        if !out.is_terminal() {
            return None;
        }
        let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| size.ws_col);
        Some(if columns == 0 { DEFAULT_WIDTH } else { columns })
    }

    /// A table with a header. Its lines are as long as their cells: whoever fills it cuts them to [`Output::width`].
    pub(super) fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.iter().copied());
        table
    }
}

fn unwritten(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output can't be written: {error}"))
}

/// A JSON array on stdout, written item by item: however long it is, little of it is in memory.
#[derive(Debug)]
pub(super) struct JsonList {
    out: io::BufWriter<io::Stdout>,
    is_begun: bool,
    /// Between two items.
    between: &'static str,
}

impl Default for JsonList {
    fn default() -> JsonList {
        let between = if io::stdout().is_terminal() { ",\n " } else { "," };
        JsonList { out: io::BufWriter::new(io::stdout()), is_begun: false, between }
    }
}

impl JsonList {
    /// Writes one more.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) fn add(&mut self, item: &impl Serialize) -> io::Result<()> {
        let before = if self.is_begun { self.between } else { "[" };
        self.is_begun = true;
        self.out.write_all(before.as_bytes()).map_err(unwritten)?;
        serde_json::to_writer(&mut self.out, item).map_err(|error| unwritten(error.into()))
    }

    /// There are no more.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) fn end(mut self) -> io::Result<()> {
        let end: &[u8] = if self.is_begun { b"]\n" } else { b"[]\n" };
        self.out.write_all(end).and_then(|()| self.out.flush()).map_err(unwritten)
    }
}
