//! Mending payloads: in an editor, or value by value; checked against the contract, shown field by field, then written.

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    contract::{Catalog, catalog},
    dead_letter::{ActKind, Letter},
    fault::{Code, Effect, Fault, Reason},
    operate::letters::{self, Order},
};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

use super::{
    super::{Failure, contracts, mask::Mask, place, place::Place},
    GlobalArgs, Output, Status,
    account::Account,
    acts::UNDER_WAY,
    ask,
    diff::{self, Change, Payloads},
    editor::{self, Draft},
    payload_name, short,
    which::WhichArgs,
};

/// Up to so many letters are shown field by field.
const SHOWN: usize = 10;
/// Bytes of letters that lie apart and are edited at once, at most; one alone may have more.
const APART_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct EditArgs {
    /// Set the value at a path instead of opening an editor, such as amount_cents=50, lines[0].quantity=2 or note=null;
    /// repeatable
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = set)]
    sets: Vec<(String, String)>,
    /// Why, for their history
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,
    /// Show what would change and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Show personal and payment fields too, in the editor and in what changes
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    which: WhichArgs,
}

fn set(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no PATH=VALUE"))?;
    Ok((path.to_owned(), value.to_owned()))
}

/// An edit that is ready to be written.
struct Plan {
    letter: Letter,
    payload: Bytes,
    changes: Vec<Change>,
}

pub(super) async fn run(args: EditArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    args.which.check()?;
    let catalog = contracts::catalog(global)?;
    let bus = Place::find(global)?.connect().await?;
    let chosen = args.which.to_edit(&bus, global).await?;
    if chosen.letters.is_empty() {
        output.remark("no letters to edit");
        return finish(&[], output);
    }
    for letter in &chosen.letters {
        letters::check(letter, ActKind::Edited)?;
    }
    check_room(&chosen.letters)?;
    let (plans, unchanged) = plan_all(&bus, chosen.letters, (&args, &catalog)).await?;
    for plan in &plans {
        letters::check_edit(&bus, &plan.letter, plan.payload.len())?;
    }
    show(&plans, unchanged, args.dry_run, output)?;
    if plans.is_empty() || args.dry_run {
        return finish(&plans, output);
    }
    let consumers = ask::consumers(plans.iter().map(|plan| &plan.letter));
    if chosen.by_filter && !args.yes && !ask::agreed("edit", plans.len() as u64, &consumers)? {
        output.remark("nothing was written");
        return Ok(Status::Failed);
    }
    let order = Order { by: place::person(), why: args.why.clone(), again: false, job: String::new() };
    let mut account = Account::begin(ActKind::Edited, Some(plans.len() as u64), output);
    let mut under_way = stream::iter(plans).map(|plan| write(&bus, plan, &order)).buffered(UNDER_WAY);
    while let Some((mut document, end)) = under_way.next().await {
        document["written"] = end.is_ok().into();
        let id = document["id"].as_str().unwrap_or_default().to_owned();
        account.add(&id, &document, &end);
    }
    bus.close().await;
    Ok(account.end()?)
}

/// Writes one edit; what it is, for programs, and what became of it.
async fn write(bus: &Bus, plan: Plan, order: &Order) -> (Value, Result<(), Fault>) {
    let document = document(&plan);
    let end = letters::edit(bus, &plan.letter, plan.payload, order).await;
    (document, end)
}

/// Every new payload is held until all are known to fit: of what lies apart, only so much at once.
fn check_room(letters: &[Letter]) -> Result<(), Failure> {
    let sizes: Vec<u64> = letters.iter().filter_map(|letter| Some(letter.letter.claim.as_ref()?.size)).collect();
    let bytes: u64 = sizes.iter().sum();
    if sizes.len() < 2 || bytes <= APART_BYTES {
        return Ok(());
    }
    let count = sizes.len();
    let message =
        format!("{count} of the letters lie apart, with {bytes} bytes; at most {APART_BYTES} are edited at once");
    Err(Failure::input(message, "name fewer: by --where, --since and --until, or by their ids; nothing was written"))
}

/// Every edit, checked; where one does not fit, none is made. And how many letters have these values already. What lies apart
/// is brought for its own edit alone.
async fn plan_all(
    bus: &Bus,
    letters: Vec<Letter>,
    (args, catalog): (&EditArgs, &Catalog),
) -> anyhow::Result<(Vec<Plan>, usize)> {
    if args.sets.is_empty() && letters.len() > 1 {
        let message = format!("{} letters are meant, and an editor takes one", letters.len());
        return Err(Failure::input(message, "say what changes in all of them: --set path=value").into());
    }
    let (mut plans, mut unchanged) = (Vec::new(), 0);
    for letter in letters {
        let whole = letters::bring(bus, &letter).await?;
        match plan(letter, &whole, (args, catalog)).await? {
            Some(plan) => plans.push(plan),
            None => unchanged += 1,
        }
    }
    Ok((plans, unchanged))
}

/// `None`: it has these values already.
async fn plan(letter: Letter, whole: &Letter, (args, catalog): (&EditArgs, &Catalog)) -> anyhow::Result<Option<Plan>> {
    let original = decoded(whole, catalog)?;
    let payload = match args.sets.is_empty() {
        true => {
            let mask = Mask { reveal: args.reveal, defaults: true };
            editor::mend(&Draft { letter: whole, catalog, original: &original, mask }).await?
        }
        false => Some(set_all(original, whole, &args.sets)?),
    };
    let Some(payload) = payload else { return Ok(None) };
    let before = whole.letter.payload.as_ref();
    let payloads = Payloads { message_type: &whole.letter.message_type, before, after: &payload };
    let changes = diff::changes(&payloads, catalog, args.reveal);
    Ok((!changes.is_empty()).then_some(Plan { letter, payload, changes }))
}

fn decoded(letter: &Letter, catalog: &Catalog) -> Result<DynamicMessage, Failure> {
    let name = payload_name(&letter.letter.message_type, catalog);
    catalog.decode(name, &letter.letter.payload).map_err(|error| {
        let id = short(&letter.letter.id);
        let message = format!("letter {id} can't be edited: its payload can't be read by a contract: {error}");
        let fault = Fault::new(Code::InvalidArgument, Effect::None, Reason::UnknownName, message);
        Failure::new(fault, "contracts of your own: give their descriptor set with --descriptors FILE")
    })
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

fn show(plans: &[Plan], unchanged: usize, dry_run: bool, output: &Output) -> anyhow::Result<()> {
    if !output.is_json() {
        plans.iter().take(SHOWN).try_for_each(|plan| diff::show(&plan.letter, &plan.changes, output))?;
    }
    if plans.len() > SHOWN {
        output.remark(&format!("and {} more", plans.len() - SHOWN));
    }
    if unchanged > 0 {
        output.remark(&format!("{unchanged} unchanged"));
    }
    if dry_run || plans.is_empty() {
        output.remark("nothing was written");
    }
    Ok(())
}

fn finish(plans: &[Plan], output: &Output) -> anyhow::Result<Status> {
    if output.is_json() {
        output.json(&plans.iter().map(document).collect::<Vec<_>>())?;
    }
    Ok(Status::Ok)
}

fn document(plan: &Plan) -> Value {
    json!({ "id": plan.letter.letter.id, "changes": diff::documents(&plan.changes), "written": false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::{
        dead_letter::LetterState,
        proto::v1::{Claim, DeadLetter},
    };

    fn apart(size: Option<u64>) -> Letter {
        let claim = size.map(|size| Claim { size, ..Claim::default() });
        let letter = DeadLetter { claim, ..DeadLetter::default() };
        Letter { letter, state: LetterState::Open, history: Vec::new(), last_sequence: 1, region: String::new() }
    }

    #[test]
    fn only_so_much_that_lies_apart_is_edited_at_once() {
        let half = APART_BYTES / 2;
        assert!(check_room(&[apart(Some(APART_BYTES * 2)), apart(None)]).is_ok(), "one alone");
        assert!(check_room(&[apart(Some(half)), apart(Some(half))]).is_ok());
        let refused = check_room(&[apart(Some(half)), apart(Some(half + 1))]).unwrap_err();
        assert!(refused.to_string().contains("2 of the letters lie apart"), "{refused}");
    }
}
