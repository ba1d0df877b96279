//! Letters with their whole histories, one a line: to keep, to look at elsewhere, to bring into another mesh.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    pin::pin,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::Args;
use futures_util::TryStreamExt as _;
use mesh_core::{
    bus::Bus,
    contract::Catalog,
    dead_letter::Letter,
    operate::letters::{self, History, Listing, Selector, Sifted},
    proto::v1,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    super::{contracts, mask::Mask, place::Place},
    GlobalArgs, Output, Status, counted, instead, mention,
    part::Part,
    payload_name,
    which::{FilterArgs, Wanted, tell_unclear},
};
use crate::stop::Stop;

/// The message type of a record.
pub(super) const RECORD: &str = "mesh.v1.LetterRecord";

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Write there instead of standard output; only its owner may read it
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Show personal and payment fields in "payload" too. The records have them in any case, encoded
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) async fn run(args: ExportArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let selector = args.filters.selector(Wanted::All, global)?;
    let bus = Place::find(global)?.connect().await?;
    let what = What { bus: &bus, selector: &selector, catalog: &catalog, reveal: args.reveal };
    let written = match &args.to {
        Some(path) => what.write_file(path).await,
        None => what.write(std::io::stdout().lock()).await.map(Some),
    };
    if matches!(&written, Ok(Some(Written { count: 0, .. }))) {
        instead::tell(instead::NONE, &bus, selector.selection(), output).await;
    }
    bus.close().await;
    let Some(Written { count, gone, left_out }) = written? else {
        output.remark("stopped: nothing was exported, and no file is left");
        return Ok(Status::Failed);
    };
    tell_unclear(&left_out);
    if gone > 0 {
        let gone = counted(gone as u64, "payload");
        mention(&format!("note: {gone} that lay apart can't be found any more (MESH-0031): exported without"));
    }
    let to = args.to.map(|path| format!(" to {}", path.display())).unwrap_or_default();
    output.remark(&format!("{} exported{to}", counted(count, "letter")));
    Ok(Status::Ok)
}

/// What was written.
#[derive(Default)]
struct Written {
    /// Letters.
    count: u64,
    /// Payloads that lay apart and are gone.
    gone: usize,
    /// No letters, but how many were left out.
    left_out: Listing,
}

/// What is to be written.
struct What<'a> {
    bus: &'a Bus,
    selector: &'a Selector,
    catalog: &'a Catalog,
    reveal: bool,
}

impl What<'_> {
    /// Under another name first: what has the name is whole. `None`: it was told to stop, and leaves nothing.
    async fn write_file(&self, path: &Path) -> anyhow::Result<Option<Written>> {
        let stop = Stop::listen()?;
        let (part, file) = Part::create(path)?;
        let written = tokio::select! {
            written = self.write(&file) => written?,
            () = stop.told() => return Ok(None),
        };
        part.finish(&file)?;
        Ok(Some(written))
    }

    async fn write(&self, to: impl Write) -> anyhow::Result<Written> {
        let (mut out, mut written) = (BufWriter::new(to), Written::default());
        let mut histories = pin!(letters::export(self.bus, self.selector));
        while let Some(sifted) = histories.try_next().await? {
            let mut history = match sifted {
                Sifted::Letter(history) => history,
                Sifted::Unclear(why) => {
                    written.left_out.leave_out(why);
                    continue;
                }
                Sifted::Unread(id) => {
                    written.left_out.leave_unread(id);
                    continue;
                }
            };
            // One after the other: what lies apart is large.
            let (apart, missing) = letters::take_along(self.bus, &history).await?;
            history.apart = apart;
            written.gone += missing;
            written.count += 1;
            serde_json::to_writer(&mut out, &line(&history, self.catalog, self.reveal)?)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(written)
    }
}

pub(super) fn line(history: &History, catalog: &Catalog, reveal: bool) -> anyhow::Result<Value> {
    let records: Result<Vec<Value>, _> =
        history.records.iter().map(|record| catalog.to_json(RECORD, &record.encode_to_vec())).collect();
    let letter = history.letter().map_err(|why| anyhow::anyhow!("letter {}: {why}", history.id))?;
    let name = payload_name(&letter.letter.message_type, catalog);
    let mut line = json!({
        "id": history.id,
        "region": history.region.as_str(),
        "service": history.service.as_str(),
        "consumer": history.consumer.as_str(),
        "state": letter.state.word(),
        "payload": Mask { reveal, defaults: false }.payload(catalog, name, &payload(history, &letter)),
        "records": records?,
    });
    if !history.apart.is_empty() {
        line["apart"] = history.apart.iter().map(|bytes| STANDARD.encode(bytes)).collect();
    }
    Ok(line)
}

/// What would be sent: in the letter, or taken along beside it.
fn payload(history: &History, letter: &Letter) -> Bytes {
    let Some(claim) = &letter.letter.claim else { return letter.letter.payload.clone() };
    let its = history.apart.iter().find(|bytes| mesh_core::subject::sha256(bytes) == claim.sha256);
    its.and_then(|bytes| v1::Apart::decode(bytes.clone()).ok()).map(|apart| apart.payload).unwrap_or_default()
}
