//! Hold, release and discard: one letter, several, or all that fit.

use std::{collections::BTreeSet, pin::pin};

use clap::Args;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    dead_letter::{ActKind, Letter},
    fault::Fault,
    operate::letters::{self, Listing, Order, Patience, Selector, Sifted},
};
use serde_json::{Value, json};

use super::{
    super::{place, place::Place},
    GlobalArgs, Output, Status,
    account::Account,
    ask,
    bulk::{self, Done, Ended, slim},
    consumer, counted, indexed, instead,
    which::{Wanted, WhichArgs, tell_unclear},
};
use crate::stop::Stop;

#[derive(Debug, Args)]
pub(in crate::cli) struct ActArgs {
    /// Why, for their history
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    which: WhichArgs,
}

pub(super) async fn run(kind: ActKind, args: ActArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    args.which.check()?;
    let selector = args.which.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let order = Order { by: place::person(), why: args.why, again: false, job: String::new() };
    let acts = Acts { bus: &bus, kind, order, output };
    let ended = match args.which.ids() {
        [] => acts.filtered(&selector, args.yes).await,
        ids => acts.named(ids).await,
    };
    bus.close().await;
    ended
}

/// One command's orders.
struct Acts<'a> {
    bus: &'a Bus,
    kind: ActKind,
    order: Order,
    output: &'a Output,
}

/// What a filter holds, before anything is done.
#[derive(Default)]
struct Look {
    letters: u64,
    consumers: BTreeSet<String>,
    left_out: Listing,
}

impl Acts<'_> {
    async fn named(&self, ids: &[String]) -> anyhow::Result<Status> {
        let letters = indexed::find_each(self.bus, ids).await?;
        let mut account = Account::begin(self.kind, Some(letters.len() as u64), self.output);
        let letters = stream::iter(letters).map(|letter| Ok(Sifted::Letter(Box::new(letter))));
        let ended = self.order_each(letters, &mut account, &Stop::listen()?).await;
        bulk::tell(account, &ended)
    }

    async fn filtered(&self, selector: &Selector, is_agreed: bool) -> anyhow::Result<Status> {
        let cut_off = letters::cut_off(self.bus, selector).await?;
        let mut asked = None;
        if !is_agreed {
            let look = self.look(selector, cut_off).await?;
            let consumers: Vec<_> = look.consumers.into_iter().collect();
            if look.letters > 0 && !ask::agreed(verb(self.kind), look.letters, &consumers)? {
                self.output.remark("nothing was done");
                return Ok(Status::Failed);
            }
            asked = Some(look.letters);
        }
        let mut account = Account::begin(self.kind, asked, self.output);
        let letters = bulk::meant(self.bus, selector, (cut_off, self.kind));
        let ended = match asked {
            Some(0) => Ended::default(),
            // Not before the person was asked: until then, Ctrl-C ends it at once.
            _ => self.order_each(letters, &mut account, &Stop::listen()?).await,
        };
        if asked.is_none() {
            tell_unclear(&ended.unclear);
        }
        let (done, refused) = account.counts();
        let status = bulk::tell(account, &ended)?;
        if ended.is_stopped {
            return Ok(status);
        }
        let changed = asked.unwrap_or(0).saturating_sub(done + refused);
        if changed > 0 {
            self.output.remark(&format!("{} changed meanwhile: left as they are", counted(changed, "letter")));
        } else if done + refused == 0 {
            let what = format!("no letters to {}", verb(self.kind));
            instead::tell(&what, self.bus, selector.selection(), self.output).await;
        }
        Ok(status)
    }

    /// What is meant, without keeping any of it. Where the reading ends too soon, it is begun anew.
    async fn look(&self, selector: &Selector, cut_off: u64) -> Result<Look, Fault> {
        let mut patience = Patience::default();
        loop {
            let looked = self.look_once(selector, cut_off).await;
            match &looked {
                Err(fault) if patience.reads_again(fault).await => {}
                _ => return looked.inspect(|look| tell_unclear(&look.left_out)),
            }
        }
    }

    async fn look_once(&self, selector: &Selector, cut_off: u64) -> Result<Look, Fault> {
        let mut look = Look::default();
        let mut sifted = pin!(bulk::meant(self.bus, selector, (cut_off, self.kind)));
        while let Some(sifted) = sifted.try_next().await? {
            match sifted {
                Sifted::Letter(letter) => {
                    look.letters += 1;
                    look.consumers.insert(consumer(&letter));
                }
                Sifted::Unclear(why) => look.left_out.leave_out(why),
                Sifted::Unread(id) => look.left_out.leave_unread(id),
            }
        }
        Ok(look)
    }

    async fn order_each(
        &self,
        letters: impl Stream<Item = Result<Sifted, Fault>>,
        account: &mut Account<'_>,
        stop: &Stop,
    ) -> Ended {
        // Of the letters nothing large is needed.
        let letters = letters.map_ok(|sifted| match sifted {
            Sifted::Letter(letter) => Sifted::Letter(Box::new(slim(*letter))),
            left_out => left_out,
        });
        bulk::order_each(letters, |letter| self.order_one(letter), (account, stop)).await
    }

    async fn order_one(&self, letter: Letter) -> Done {
        let end = match self.kind {
            ActKind::Held => letters::hold(self.bus, &letter, &self.order).await,
            ActKind::Released => letters::release(self.bus, &letter, &self.order).await,
            _ => letters::discard(self.bus, &letter, &self.order).await,
        };
        Done { document: document(self.kind, &letter, &end), id: letter.letter.id, end }
    }
}

fn document(kind: ActKind, letter: &Letter, end: &Result<(), Fault>) -> Value {
    let state = if end.is_ok() { letter.state.after(kind).unwrap_or(letter.state) } else { letter.state };
    json!({ "id": letter.letter.id, "done": end.is_ok(), "state": state.word() })
}

fn verb(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Held => "hold",
        ActKind::Released => "release",
        _ => "discard",
    }
}
