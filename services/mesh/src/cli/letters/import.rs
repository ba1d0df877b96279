//! What was exported, line by line: letters that are not there are appended, the others stay as they are. Told to stop, an import
//! begins no more letters, and ends those that are under way.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    sync::atomic::{AtomicBool, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    contract::{
        Catalog,
        catalog::{CatalogError, JsonError},
    },
    fault::{Code, Effect, Fault, Reason},
    operate::letters::{self, History, Imported},
    proto::v1,
    subject::Name,
};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{Failure, contracts, place::Place},
    GlobalArgs, Output, Status,
    bulk::UNDER_WAY,
    counted,
    export::RECORD,
    mention,
};
use crate::stop::Stop;

/// Lines that are read before their letters are written.
const AT_ONCE: usize = 4096;
/// Bytes of such lines, about.
const BYTES_AT_ONCE: usize = 32 * 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    /// The file that mesh dead-letter export wrote; - for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Check every line and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What of a line is read: the rest is for people.
#[derive(Debug, Deserialize)]
struct Line {
    id: String,
    region: Name,
    service: Name,
    consumer: Name,
    records: Vec<Value>,
    /// In base64.
    #[serde(default)]
    apart: Vec<String>,
}

#[derive(Debug, Default)]
struct Counts {
    read: usize,
    imported: usize,
    skipped: usize,
    /// By the region of their lines.
    of_region: BTreeMap<Name, usize>,
}

impl Counts {
    /// Letters of other regions: they can't be replayed here, unless they were taken into this one. Once they are written they
    /// can't be taken into another one any more.
    fn tell_of_others(&self, here: Option<&Name>, (are_taken_in, are_written): (bool, bool)) {
        let Some(here) = here else { return };
        for (region, count) in self.of_region.iter().filter(|(region, _)| *region != here) {
            let letters = counted(*count as u64, "letter");
            let became = match (are_taken_in, are_written) {
                (true, _) => format!("taken into {here}"),
                (false, true) => format!("can't be replayed in {here}, but there: --region {region}"),
                (false, false) => format!("can't be replayed in {here}; --region {here} takes such into it"),
            };
            // For programs too: it is not among the data.
            mention(&format!("note: {letters} of the region {region} {became}"));
        }
    }
}

/// How the reading of lines came to its end.
enum End {
    /// All were read.
    All,
    /// It was told to stop.
    Stopped,
}

/// Lines that come one after the other.
struct Source {
    reader: Box<dyn BufRead + Send>,
    number: usize,
}

/// Some lines, each with its number, and how they ended where they did.
struct Lines {
    texts: Vec<(usize, String)>,
    ended: Option<io::Result<()>>,
}

impl Source {
    /// The next lines. It waits for them as long as it takes.
    fn read_on(&mut self) -> Lines {
        let (mut texts, mut bytes, mut ended) = (Vec::new(), 0, None);
        while texts.len() < AT_ONCE && bytes < BYTES_AT_ONCE && ended.is_none() {
            let mut text = String::new();
            let length = self.reader.read_line(&mut text);
            self.number += 1;
            match length {
                Ok(0) => ended = Some(Ok(())),
                Ok(length) => {
                    bytes += length;
                    texts.push((self.number, text));
                }
                Err(error) => ended = Some(Err(error)),
            }
        }
        Lines { texts, ended }
    }
}

/// Where the letters go.
struct Target<'a> {
    /// `None`: nowhere.
    bus: Option<&'a Bus>,
    catalog: &'a Catalog,
    /// Into this region, whatever the line says.
    into: Option<&'a Name>,
    /// As it is called.
    file: &'a str,
    stop: &'a Stop,
}

pub(super) async fn run(args: ImportArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let reader: Box<dyn BufRead + Send> = match args.file.as_str() {
        "-" => Box::new(BufReader::new(std::io::stdin())),
        path => Box::new(BufReader::new(File::open(path).map_err(|error| {
            Failure::input(format!("{path} can't be read: {error}"), "name a file that mesh dead-letter export wrote")
        })?)),
    };
    // Without a place the lines can be checked all the same.
    let place = Place::find(global);
    let here = place.as_ref().ok().map(|place| place.region.clone()).or_else(|| global.region.clone());
    let bus = if args.dry_run { None } else { Some(place?.connect().await?) };
    let mut counts = Counts::default();
    let stop = Stop::listen()?;
    let target =
        Target { bus: bus.as_ref(), catalog: &catalog, into: global.region.as_ref(), file: &args.file, stop: &stop };
    let ended = import(Source { reader, number: 0 }, &target, &mut counts).await;
    if let Some(bus) = bus.filter(|_| !stop.is_told_again()) {
        bus.close().await;
    }
    counts.tell_of_others(here.as_ref(), (global.region.is_some(), !args.dry_run));
    let Counts { read, imported, skipped, .. } = counts;
    if output.is_json() {
        output.json(&json!({ "read": read, "imported": imported, "skipped": skipped }))?;
    } else if args.dry_run {
        let are = if read == 1 { "is" } else { "are" };
        output.line(&format!("{} {are} right; nothing was written", counted(read as u64, "letter")))?;
    } else {
        output.line(&format!("{imported} imported, {skipped} were there"))?;
    }
    match ended? {
        End::All => Ok(Status::Ok),
        End::Stopped => {
            // For programs too: it is not among the data.
            mention("stopped: each letter that was imported is whole; the same import again goes on with the others");
            Ok(Status::Failed)
        }
    }
}

async fn import(mut source: Source, target: &Target<'_>, counts: &mut Counts) -> anyhow::Result<End> {
    let stop = target.stop;
    loop {
        // Who waits for standard input hears that it is to stop all the same.
        let reading = tokio::task::spawn_blocking(move || (source.read_on(), source));
        let (lines, read_on) = tokio::select! {
            read = reading => read?,
            () = stop.told() => return Ok(End::Stopped),
        };
        source = read_on;
        let (histories, ended) = histories(lines, source.number, target, counts);
        if let Some(bus) = target.bus {
            tokio::select! {
                written = write(bus, target, (&histories, &mut *counts)) => written?,
                () = stop.told_again() => {}
            }
        }
        match ended {
            _ if stop.is_told() => return Ok(End::Stopped),
            Some(Ok(())) => return Ok(End::All),
            Some(Err(why)) => return Err(bad_line(why, counts).into()),
            None => {}
        }
    }
}

/// Letters with the numbers of their lines, and how the lines ended, if they have: `Err` says where one is wrong.
type Read = (Vec<(usize, History)>, Option<Result<(), String>>);

/// What lines hold, up to the first that is wrong; and how they ended.
fn histories(lines: Lines, last: usize, target: &Target<'_>, counts: &mut Counts) -> Read {
    let file = target.file;
    let mut histories = Vec::new();
    let mut ended = lines.ended.map(|ended| ended.map_err(|error| format!("{file}:{last}: {error}")));
    for (number, text) in lines.texts.iter().filter(|(_, text)| !text.trim().is_empty()) {
        match read(text.trim_end_matches(['\n', '\r']), target.catalog) {
            Ok(mut history) => {
                *counts.of_region.entry(history.region.clone()).or_default() += 1;
                history.region = target.into.cloned().unwrap_or(history.region);
                histories.push((*number, history));
            }
            Err(wrong) => {
                ended = Some(Err(format!("{file}:{number}:{wrong}")));
                break;
            }
        }
    }
    counts.read += histories.len();
    (histories, ended)
}

/// Lines of one letter are written one after the other: beside each other, each would take the other for somebody else. After
/// the first error, and when it is told to stop, nothing more is begun, and what is begun is ended.
async fn write(
    bus: &Bus,
    target: &Target<'_>,
    (histories, counts): (&[(usize, History)], &mut Counts),
) -> Result<(), Fault> {
    let mut letters: BTreeMap<&str, Vec<&(usize, History)>> = BTreeMap::new();
    let mut in_order = Vec::new();
    for line in histories {
        let lines = letters.entry(&line.1.id).or_default();
        if lines.is_empty() {
            in_order.push(line.1.id.as_str());
        }
        lines.push(line);
    }
    let has_failed = AtomicBool::new(false);
    let lines = in_order.iter().filter_map(|id| letters.remove(id));
    let imports = lines.map(|lines| import_letter(bus, target, (lines, &has_failed)));
    let mut under_way = stream::iter(imports).buffered(UNDER_WAY);
    let mut ended = Ok(());
    while let Some((imported, skipped, end)) = under_way.next().await {
        (counts.imported, counts.skipped) = (counts.imported + imported, counts.skipped + skipped);
        ended = ended.and(end);
    }
    ended
}

/// How many of a letter's lines were imported and how many skipped, until one failed.
async fn import_letter(
    bus: &Bus,
    target: &Target<'_>,
    (lines, has_failed): (Vec<&(usize, History)>, &AtomicBool),
) -> (usize, usize, Result<(), Fault>) {
    let (mut imported, mut skipped) = (0, 0);
    for (number, history) in lines {
        if has_failed.load(Ordering::Relaxed) || target.stop.is_told() {
            break;
        }
        match import_line(bus, target, history).await {
            Ok(Imported::Written) => imported += 1,
            Ok(Imported::Skipped) => skipped += 1,
            Err(fault) => {
                has_failed.store(true, Ordering::Relaxed);
                return (imported, skipped, Err(in_line(target.file, *number, &fault)));
            }
        }
    }
    (imported, skipped, Ok(()))
}

async fn import_line(bus: &Bus, target: &Target<'_>, history: &History) -> Result<Imported, Fault> {
    if target.into.is_some()
        && let Some(region) = letters::elsewhere(bus, history).await?
    {
        let (id, into) = (&history.id, &history.region);
        let message = format!(
            "letter {id} stands in the region {region} already, and is not put into {into} too: leave this line out, and act on the \
             letter there (mesh dead-letter show {id} --region {region})"
        );
        return Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidInput, message));
    }
    letters::import(bus, history).await
}

/// The same fault, with the line that it is about.
fn in_line(file: &str, number: usize, fault: &Fault) -> Fault {
    let message = format!("{file}:{number}: {}", fault.message());
    Fault::new(fault.code(), fault.effect(), fault.reason(), message).with_detail(fault.detail())
}

/// The line that ended it, and what was done before.
fn bad_line(why: String, counts: &Counts) -> Failure {
    let help = format!(
        "nothing of this line or of a later one was written; of the lines before it {} were imported now\n\
         mend it and import the file again: what is there is left as it is",
        counts.imported
    );
    let effect = if counts.imported == 0 { Effect::None } else { Effect::Done };
    Failure::new(Fault::new(Code::InvalidArgument, effect, Reason::InvalidInput, why), help)
}

/// What is wrong in a line: the column, where one is known, and why.
#[derive(Debug)]
struct Wrong {
    column: Option<usize>,
    why: String,
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong { column: None, why }
    }
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Wrong {
        why.to_owned().into()
    }
}

impl From<serde_json::Error> for Wrong {
    fn from(error: serde_json::Error) -> Wrong {
        let place = format!(" at line {} column {}", error.line(), error.column());
        Wrong { column: Some(error.column()), why: error.to_string().trim_end_matches(&place).to_owned() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        write!(f, " {}", self.why)
    }
}

/// A place in a record is said by its path: where it stands in the line is not known any more.
fn in_record(number: usize, error: &CatalogError) -> String {
    match error {
        CatalogError::Json(JsonError { path, text, help, .. }) => {
            let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
            let help = if help.is_empty() { String::new() } else { format!("; {help}") };
            format!("record {number}: {path}{text}{help}")
        }
        other => format!("record {number}: {other}"),
    }
}

fn read(text: &str, catalog: &Catalog) -> Result<History, Wrong> {
    let line: Line = serde_json::from_str(text)?;
    let id = Some(line.id).filter(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let id = id.ok_or("its id is none: those are 32 digits of 0-9 and a-f")?;
    let mut records = Vec::new();
    for (index, record) in line.records.iter().enumerate() {
        let read = catalog.from_json(RECORD, &record.to_string());
        let read = read.map_err(|error| in_record(index + 1, &error))?;
        let record = v1::LetterRecord::decode(read.encode_to_vec().as_slice());
        records.push(record.map_err(|error| format!("record {}: {error}", index + 1))?);
    }
    let apart: Result<Vec<Bytes>, _> = line.apart.iter().map(|text| STANDARD.decode(text).map(Bytes::from)).collect();
    let apart = apart.map_err(|error| format!("what lies apart of it is no base64: {error}"))?;
    let history = History { region: line.region, service: line.service, consumer: line.consumer, id, records, apart };
    history.letter()?;
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::letters::export;
    use mesh_core::proto::v1::letter_record::Record;
    use proptest::prelude::*;

    fn history(payload: Vec<u8>, headers: Vec<(String, String)>, numbers: (u64, i64, i32)) -> History {
        let id = "0af".repeat(11)[..32].to_owned();
        let (sequence, at_ms, code) = numbers;
        let act = v1::LetterAct { at_ms, by: "ada".into(), why: "\u{1f980} \"why\"\n".into(), ..Default::default() };
        let captured = v1::DeadLetter {
            id: id.clone(),
            service: "a".into(),
            consumer: "b".into(),
            source: Some(v1::Source { sequence, ..Default::default() }),
            payload: payload.clone().into(),
            headers: headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect(),
            // A code that this version does not know is kept too.
            fault: Some(v1::Fault { code, ..Default::default() }),
            ..Default::default()
        };
        let apart = Bytes::from(
            v1::Apart { payload: payload.iter().rev().copied().collect(), headers: Vec::new() }.encode_to_vec(),
        );
        let claim = v1::Claim {
            letter: id.clone(),
            sha256: mesh_core::subject::sha256(&apart),
            size: apart.len() as u64,
            parts: 1,
        };
        let edited = v1::LetterEdit { act: Some(act.clone()), claim: Some(claim), ..Default::default() };
        let records = [Record::Captured(captured), Record::Held(act), Record::Edited(edited)];
        let records = records.map(|record| v1::LetterRecord { record: Some(record) }).to_vec();
        let name = |text: &str| text.parse().unwrap();
        History { region: name("local"), service: name("a"), consumer: name("b"), id, records, apart: vec![apart] }
    }

    proptest! {
        #[test]
        fn what_was_exported_comes_in_byte_for_byte(
            payload: Vec<u8>,
            headers in proptest::collection::vec((any::<String>(), any::<String>()), 0..4),
            numbers: (u64, i64, i32),
        ) {
            let catalog = Catalog::new([mesh_core::proto::DESCRIPTORS]).unwrap();
            let history = history(payload, headers, numbers);
            let line = export::line(&history, &catalog, false).unwrap().to_string();
            prop_assert!(!line.contains('\n'), "one line");
            prop_assert_eq!(read(&line, &catalog).unwrap(), history.clone());
            let foreign = History { apart: vec![Bytes::from_static(b"else")], ..history };
            let line = export::line(&foreign, &catalog, false).map(|line| line.to_string());
            prop_assert!(line.is_err() || read(&line.unwrap(), &catalog).is_err(), "what no record claims is refused");
        }
    }
}
