//! One letter with other values: by the values that are set or in an editor, checked against the contract, ready to be written.

use bytes::Bytes;
use mesh_core::{
    bus::Bus,
    contract::{Catalog, catalog},
    dead_letter::Letter,
    fault::{Code, Effect, Fault, Reason},
    operate::letters::{self, Order},
};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

use super::{
    super::{Failure, mask::Mask},
    bulk::{Done, slim},
    diff::{self, Change, Payloads},
    editor::{self, Draft},
    payload_name, short,
};

/// What one command mends letters by.
pub(super) struct Mender<'a> {
    pub(super) bus: &'a Bus,
    pub(super) catalog: &'a Catalog,
    /// Paths and values; none: an editor says.
    pub(super) sets: &'a [(String, String)],
    /// Whether personal and payment fields are shown too.
    pub(super) reveal: bool,
}

/// An edit that is ready to be written.
pub(super) struct Plan {
    /// Without what is not needed to write it.
    pub(super) letter: Letter,
    payload: Bytes,
    pub(super) changes: Vec<Change>,
}

/// A letter and what changes in it.
pub(super) type Shown<'a> = (&'a Letter, &'a [Change]);

impl Mender<'_> {
    /// An edit that fits. `None`: the letter has these values already. What lies apart is brought for it.
    pub(super) async fn plan(&self, letter: Letter) -> anyhow::Result<Option<Plan>> {
        let whole = letters::bring(self.bus, &letter).await?;
        let original = self.decoded(&whole)?;
        let payload = match self.sets {
            [] => {
                let mask = Mask { reveal: self.reveal, defaults: true };
                let draft = Draft { letter: &whole, catalog: self.catalog, original: &original, mask };
                Box::pin(editor::mend(&draft)).await?
            }
            sets => Some(set_all(original, &whole, sets)?),
        };
        let Some(payload) = payload else { return Ok(None) };
        let before = whole.letter.payload.as_ref();
        let payloads = Payloads { message_type: &whole.letter.message_type, before, after: &payload };
        let changes = diff::changes(&payloads, self.catalog, self.reveal);
        if changes.is_empty() {
            return Ok(None);
        }
        letters::check_edit(self.bus, &letter, payload.len())?;
        Ok(Some(Plan { letter: slim(letter), payload, changes }))
    }

    /// Writes one edit, if nobody wrote to the letter since it was read.
    pub(super) async fn write(&self, plan: Plan, order: &Order) -> Done {
        let mut document = plan.document();
        let end = letters::edit(self.bus, &plan.letter, plan.payload, order).await;
        document["written"] = end.is_ok().into();
        Done { id: plan.letter.letter.id, document, end }
    }

    fn decoded(&self, letter: &Letter) -> Result<DynamicMessage, Failure> {
        let name = payload_name(&letter.letter.message_type, self.catalog);
        self.catalog.decode(name, &letter.letter.payload).map_err(|error| {
            let id = short(&letter.letter.id);
            let message = format!("letter {id} can't be edited: its payload can't be read by a contract: {error}");
            let fault = Fault::new(Code::InvalidArgument, Effect::None, Reason::UnknownName, message);
            Failure::new(fault, "contracts of your own: give their descriptor set with --descriptors FILE")
        })
    }
}

impl Plan {
    /// What of it is shown to a person.
    pub(super) fn shown(&self) -> Shown<'_> {
        (&self.letter, &self.changes)
    }

    /// The same, to be kept: the new payload may be large.
    pub(super) fn into_shown(self) -> (Letter, Vec<Change>) {
        (self.letter, self.changes)
    }

    /// What it changes, for programs. It is not written yet.
    pub(super) fn document(&self) -> Value {
        json!({ "id": self.letter.letter.id, "changes": diff::documents(&self.changes), "written": false })
    }
}

fn set_all(mut message: DynamicMessage, letter: &Letter, sets: &[(String, String)]) -> Result<Bytes, Failure> {
    for (path, value) in sets {
        catalog::set(&mut message, path, value).map_err(|error| {
            let text = format!("letter {}: {error}", short(&letter.letter.id));
            let fault = Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidJson, text);
            Failure::new(fault, format!("{}\nnothing was written", error.help).trim_start())
        })?;
    }
    Ok(message.encode_to_vec().into())
}
