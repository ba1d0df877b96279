//! What becomes of the orders of one command, told as it is known: however many there are, what is kept of them stays small.

use std::io;

use indicatif::ProgressBar;
use mesh_core::{dead_letter::ActKind, fault::Fault};
use serde_json::Value;

use super::{
    super::{failure, output::JsonList},
    Output, Status, ask, counted, short,
};

/// Up to so many letters are named one by one.
const FEW: usize = 20;

/// The account of one command's orders.
pub(super) struct Account<'o> {
    kind: ActKind,
    output: &'o Output,
    bar: ProgressBar,
    list: Option<JsonList>,
    /// Where standard output failed: the orders go on, and it is said in the end.
    unwritten: Option<io::Error>,
    done: u64,
    refused: u64,
    /// The ids of the first.
    first: Vec<String>,
    status: Status,
}

impl<'o> Account<'o> {
    /// Nothing is done yet. `length`: how many orders it will be, where that is known.
    pub(super) fn begin(kind: ActKind, length: Option<u64>, output: &'o Output) -> Account<'o> {
        Account {
            kind,
            output,
            bar: ask::bar(length, output),
            list: output.is_json().then(JsonList::default),
            unwritten: None,
            done: 0,
            refused: 0,
            first: Vec::new(),
            status: Status::Ok,
        }
    }

    /// One order has ended, for the letter with this id. `document` says so to programs.
    pub(super) fn add(&mut self, id: &str, document: &Value, end: &Result<(), Fault>) {
        self.bar.inc(1);
        match end {
            Ok(()) => {
                self.done += 1;
                if self.first.len() < FEW {
                    self.first.push(short(id).to_owned());
                }
            }
            Err(fault) => {
                self.refused += 1;
                let output = self.output;
                self.status = self.bar.suspend(|| failure::show(output, &fault.clone().into()));
            }
        }
        if let (Some(list), None) = (&mut self.list, &self.unwritten) {
            self.unwritten = list.add(document).err();
        }
    }

    /// Orders that were carried out, and those that were refused.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.done, self.refused)
    }

    /// What is ordered.
    pub(super) fn kind(&self) -> ActKind {
        self.kind
    }

    /// Where it is told.
    pub(super) fn output(&self) -> &'o Output {
        self.output
    }

    /// What was done so far, in words.
    pub(super) fn done(&self) -> String {
        format!("{} {}", self.kind.word(), counted(self.done, "letter"))
    }

    /// Says what was done in all.
    ///
    /// # Errors
    /// Standard output can't be written: the error says what was done all the same.
    pub(super) fn end(mut self) -> io::Result<Status> {
        self.bar.finish_and_clear();
        let written = self.unwritten.take().map_or_else(|| self.write_end(), Err);
        written.map_err(|error| io::Error::new(error.kind(), format!("{error}; {} all the same", self.done())))?;
        Ok(self.status)
    }

    fn write_end(&mut self) -> io::Result<()> {
        if let Some(list) = self.list.take() {
            return list.end();
        }
        if self.done > FEW as u64 {
            return self.output.line(&self.done());
        }
        let word = self.kind.word();
        self.first.iter().try_for_each(|id| self.output.line(&format!("{word} {id}{}", after(self.kind))))
    }
}

fn after(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Held => ": it is not replayed until it is released",
        ActKind::Released => ": it may be replayed",
        ActKind::Discarded => ": it is never sent again",
        _ => "",
    }
}
