//! Mending payloads: in an editor, or value by value; checked against the contract, shown field by field, then written.

use std::pin::pin;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_core::{
    dead_letter::{ActKind, Letter},
    operate::letters::{self, Listing, Order, Selector, Sifted},
};

use super::{
    super::{Failure, contracts, place, place::Place},
    GlobalArgs, Output, Status,
    account::Account,
    ask,
    bulk::{self, UNDER_WAY},
    diff, edit_all, indexed, instead,
    mend::{Mender, Plan, Shown},
    which::{Wanted, WhichArgs, tell_unclear},
};

/// Up to so many letters are shown field by field.
pub(super) const SHOWN: usize = 10;
/// Bytes of letters that are named, lie apart and are edited at once, at most; one alone may have more.
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

/// How one command edits.
pub(super) struct Edit<'a> {
    pub(super) mender: Mender<'a>,
    pub(super) order: Order,
    pub(super) is_dry_run: bool,
    /// Nobody is asked.
    pub(super) is_agreed: bool,
    pub(super) output: &'a Output,
}

pub(super) async fn run(args: EditArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    args.which.check()?;
    let catalog = contracts::catalog(global)?;
    let selector = args.which.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let order = Order { by: place::person(), why: args.why, again: false, job: String::new() };
    let mender = Mender { bus: &bus, catalog: &catalog, sets: &args.sets, reveal: args.reveal };
    let edit = Edit { mender, order, is_dry_run: args.dry_run, is_agreed: args.yes, output };
    let ended = match (args.which.ids(), args.sets.is_empty()) {
        ([], false) => Box::pin(edit_all::run(&edit, &selector)).await,
        ([], true) => edit.few(the_one(&edit, &selector).await?, true).await,
        (ids, _) => edit.few(indexed::find_each(&bus, ids).await?, false).await,
    };
    bus.close().await;
    ended
}

/// The one letter that a filter means: an editor takes one.
async fn the_one(edit: &Edit<'_>, selector: &Selector) -> anyhow::Result<Vec<Letter>> {
    let bus = edit.mender.bus;
    let cut_off = letters::cut_off(bus, selector).await?;
    let (mut first, mut count, mut left_out) = (None, 0, Listing::default());
    let mut sifted = pin!(bulk::meant(bus, selector, (cut_off, ActKind::Edited)));
    while let Some(sifted) = sifted.try_next().await? {
        match sifted {
            Sifted::Letter(letter) => {
                count += 1;
                first.get_or_insert(*letter);
            }
            Sifted::Unclear(why) => left_out.leave_out(why),
            Sifted::Unread(id) => left_out.leave_unread(id),
        }
    }
    tell_unclear(&left_out);
    if count == 0 {
        edit.tell_none(selector).await;
    }
    if count > 1 { Err(several(count).into()) } else { Ok(first.into_iter().collect()) }
}

fn several(count: usize) -> Failure {
    let message = format!("{count} letters are meant, and an editor takes one");
    Failure::input(message, "say what changes in all of them: --set path=value")
}

impl Edit<'_> {
    /// Says that there is nothing to edit, and what there is.
    pub(super) async fn tell_none(&self, selector: &Selector) {
        instead::tell("no letters to edit", self.mender.bus, selector.selection(), self.output).await;
    }

    /// Edits letters that are all in memory: each is right, or none is written.
    async fn few(&self, letters: Vec<Letter>, by_filter: bool) -> anyhow::Result<Status> {
        letters.iter().try_for_each(|letter| letters::check(letter, ActKind::Edited))?;
        check_room(&letters)?;
        if self.mender.sets.is_empty() && letters.len() > 1 {
            return Err(several(letters.len()).into());
        }
        let (mut plans, mut unchanged) = (Vec::new(), 0);
        for letter in letters {
            match self.mender.plan(letter).await? {
                Some(plan) => plans.push(plan),
                None => unchanged += 1,
            }
        }
        let first: Vec<_> = plans.iter().take(SHOWN).map(Plan::shown).collect();
        self.show(&first, (plans.len() as u64, unchanged))?;
        if plans.is_empty() || self.is_dry_run {
            if self.output.is_json() {
                self.output.json(&plans.iter().map(Plan::document).collect::<Vec<_>>())?;
            }
            return Ok(Status::Ok);
        }
        let consumers = ask::consumers(plans.iter().map(|plan| &plan.letter));
        if by_filter && !self.agreed(plans.len() as u64, &consumers)? {
            return Ok(Status::Failed);
        }
        let mut account = Account::begin(ActKind::Edited, Some(plans.len() as u64), self.output);
        let write = |plan| self.mender.write(plan, &self.order);
        let mut under_way = stream::iter(plans).map(write).buffered(UNDER_WAY);
        while let Some(done) = under_way.next().await {
            account.add(&done.id, &done.document, &done.end);
        }
        Ok(account.end()?)
    }

    /// Shows the first edits to a person, and says how many there are, and how many letters have these values already.
    pub(super) fn show(&self, first: &[Shown<'_>], (edits, unchanged): (u64, u64)) -> anyhow::Result<()> {
        let output = self.output;
        if !output.is_json() {
            first.iter().try_for_each(|(letter, changes)| diff::show(letter, changes, output))?;
        }
        if edits > first.len() as u64 {
            output.remark(&format!("and {} more", edits - first.len() as u64));
        }
        if unchanged > 0 {
            output.remark(&format!("{unchanged} unchanged"));
        }
        if self.is_dry_run || (edits == 0 && unchanged > 0) {
            output.remark("nothing was written");
        }
        Ok(())
    }

    /// Whether so many letters of these consumers are to be edited.
    pub(super) fn agreed(&self, letters: u64, consumers: &[String]) -> anyhow::Result<bool> {
        let agreed = self.is_agreed || ask::agreed("edit", letters, consumers)?;
        if !agreed {
            self.output.remark("nothing was written");
        }
        Ok(agreed)
    }
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
    Err(Failure::input(message, "name fewer, or say which by a filter; nothing was written"))
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
