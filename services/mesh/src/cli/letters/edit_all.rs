//! Mending all letters that fit a filter, of however many: read twice, so that only a few are in memory.
//!
//! The first reading checks every edit, and where one does not fit, none is made. The second makes each edit anew and writes it, as
//! the letters stood at the same cut-off. What is kept between the two is the first edits, to be shown, and the ids: 16 bytes a
//! letter. By them a letter that somebody else changed meanwhile is told, not overwritten.

use std::{collections::BTreeSet, pin::pin};

use futures_util::{Stream, TryStreamExt as _, future::ready};
use mesh_core::{
    dead_letter::{ActKind, Letter},
    fault::{Code, Effect, Fault, Reason},
    operate::letters::{self, Listing, Patience, Selector, Sifted},
};
use serde_json::json;

use super::{
    super::output::JsonList,
    Status,
    account::Account,
    bulk::{self, Done},
    consumer, counted,
    diff::Change,
    edit::{Edit, SHOWN},
    mend::Plan,
    mention,
    which::tell_unclear,
};
use crate::stop::Stop;

/// What the first reading leaves.
#[derive(Default)]
struct Look {
    /// The ids of the letters that change.
    ids: BTreeSet<u128>,
    unchanged: u64,
    consumers: BTreeSet<String>,
    /// The first edits, as they are shown.
    first: Vec<(Letter, Vec<Change>)>,
    left_out: Listing,
}

pub(super) async fn run(edit: &Edit<'_>, selector: &Selector) -> anyhow::Result<Status> {
    let cut_off = letters::cut_off(edit.mender.bus, selector).await?;
    let all = All { edit, selector, cut_off };
    let mut look = all.look().await?;
    let count = look.ids.len() as u64;
    if count + look.unchanged == 0 {
        edit.tell_none(selector).await;
    }
    let first: Vec<_> = look.first.iter().map(|(letter, changes)| (letter, changes.as_slice())).collect();
    edit.show(&first, (count, look.unchanged))?;
    if count == 0 || edit.is_dry_run {
        if edit.output.is_json() {
            all.list(&mut look.ids).await?;
        }
        return Ok(Status::Ok);
    }
    let consumers: Vec<_> = look.consumers.into_iter().collect();
    if !edit.agreed(count, &consumers)? {
        return Ok(Status::Failed);
    }
    drop(look.first);
    all.write(&mut look.ids).await
}

/// The letters of a filter at the moment of asking.
struct All<'a> {
    edit: &'a Edit<'a>,
    selector: &'a Selector,
    cut_off: u64,
}

impl All<'_> {
    /// Checks every edit and writes none. Where the reading ends too soon, it is begun anew.
    async fn look(&self) -> anyhow::Result<Look> {
        let mut patience = Patience::default();
        loop {
            let looked = self.look_once().await;
            match looked.as_ref().map_err(anyhow::Error::downcast_ref::<Fault>) {
                Err(Some(fault)) if patience.reads_again(fault).await => {}
                _ => return looked.inspect(|look| tell_unclear(&look.left_out)),
            }
        }
    }

    async fn look_once(&self) -> anyhow::Result<Look> {
        let mut look = Look::default();
        let mut sifted = pin!(self.meant());
        while let Some(sifted) = sifted.try_next().await? {
            let letter = match sifted {
                Sifted::Letter(letter) => *letter,
                Sifted::Unclear(why) => {
                    look.left_out.leave_out(why);
                    continue;
                }
                Sifted::Unread(id) => {
                    look.left_out.leave_unread(id);
                    continue;
                }
            };
            match number(&letter.letter.id) {
                Some(id) => look.take(id, Box::pin(self.edit.mender.plan(letter)).await?),
                None => look.left_out.leave_unread(letter.letter.id),
            }
        }
        Ok(look)
    }

    fn meant(&self) -> impl Stream<Item = Result<Sifted, Fault>> {
        bulk::meant(self.edit.mender.bus, self.selector, (self.cut_off, ActKind::Edited))
    }

    /// The same letters once more: those that change, and nobody changed meanwhile. Those that were met are taken out.
    fn again(&self, ids: &mut BTreeSet<u128>) -> impl Stream<Item = Result<Sifted, Fault>> {
        self.meant().try_filter(move |sifted| {
            let id = match sifted {
                Sifted::Letter(letter) => number(&letter.letter.id),
                Sifted::Unclear(_) | Sifted::Unread(_) => None,
            };
            ready(id.is_some_and(|id| ids.remove(&id)))
        })
    }

    /// What would change, for programs. What is printed is whole, also where not all of it could be read.
    async fn list(&self, ids: &mut BTreeSet<u128>) -> anyhow::Result<()> {
        let mut list = JsonList::default();
        // Where nothing changes, nothing is read a second time.
        let listed = if ids.is_empty() { Ok(()) } else { self.add_each(ids, &mut list).await };
        list.end()?;
        listed?;
        if !ids.is_empty() {
            // For programs too: it is not among the data.
            mention(&format!("note: {} changed meanwhile: left out", counted(ids.len() as u64, "letter")));
        }
        Ok(())
    }

    async fn add_each(&self, ids: &mut BTreeSet<u128>, list: &mut JsonList) -> anyhow::Result<()> {
        let mut sifted = pin!(self.again(ids));
        while let Some(sifted) = sifted.try_next().await? {
            let Sifted::Letter(letter) = sifted else { continue };
            if let Some(plan) = Box::pin(self.edit.mender.plan(*letter)).await? {
                list.add(&plan.document())?;
            }
        }
        Ok(())
    }

    async fn write(&self, ids: &mut BTreeSet<u128>) -> anyhow::Result<Status> {
        let mut account = Account::begin(ActKind::Edited, Some(ids.len() as u64), self.edit.output);
        // Not before the person was asked: until then, Ctrl-C ends it at once.
        let stop = Stop::listen()?;
        let ended =
            bulk::order_each(self.again(ids), |letter| Box::pin(self.write_one(letter)), (&mut account, &stop)).await;
        if ended.fault.is_none() && !ended.is_stopped {
            for id in &*ids {
                let Done { id, document, end } = changed(format!("{id:032x}"), "");
                account.add(&id, &document, &end);
            }
        }
        bulk::tell(account, &ended)
    }

    async fn write_one(&self, letter: Letter) -> Done {
        let id = letter.letter.id.clone();
        match self.edit.mender.plan(letter).await {
            Ok(Some(plan)) => self.edit.mender.write(plan, &self.edit.order).await,
            Ok(None) => changed(id, ""),
            Err(error) => match error.downcast::<Fault>() {
                Ok(fault) => refused(id, fault),
                Err(error) => changed(id, &format!(" ({error})")),
            },
        }
    }
}

impl Look {
    fn take(&mut self, id: u128, plan: Option<Plan>) {
        let Some(plan) = plan else {
            self.unchanged += 1;
            return;
        };
        self.ids.insert(id);
        self.consumers.insert(consumer(&plan.letter));
        if self.first.len() < SHOWN {
            self.first.push(plan.into_shown());
        }
    }
}

/// The letter is not as it was when its edit was checked.
fn changed(id: String, why: &str) -> Done {
    let message = format!("letter {id}: somebody else was first{why}; look again: mesh dead-letter show {id}");
    refused(id, Fault::new(Code::Aborted, Effect::None, Reason::LetterChanged, message))
}

fn refused(id: String, fault: Fault) -> Done {
    Done { document: json!({ "id": id, "changes": [], "written": false }), id, end: Err(fault) }
}

/// An id in 16 bytes. `None`: it is none.
fn number(id: &str) -> Option<u128> {
    (id.len() == letters::ID_LENGTH).then(|| u128::from_str_radix(id, 16).ok()).flatten()
}
