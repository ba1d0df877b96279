//! Hold, release and discard: one letter, several, or all that fit.
//!
//! All that fit may be a million: they are read one after the other and ordered as they come, so that only a few are in memory. They
//! are those of the moment of asking; what changes after it is left as it is, and the orders' own records are not met again.
//! Told to stop, it orders no more, hears what becomes of those that are under way, and says what was done.

use std::{collections::BTreeSet, pin::pin};

use bytes::Bytes;
use clap::Args;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future::ready, stream, stream::FuturesOrdered};
use mesh_core::{
    bus::Bus,
    dead_letter::{ActKind, Letter},
    fault::{Effect, Fault},
    operate::letters::{self, Listing, Order, Selector, Sifted},
};
use serde_json::{Value, json};

use super::{
    super::{Failure, failure, place, place::Place},
    GlobalArgs, Output, Status,
    account::Account,
    ask, consumer, counted, indexed, mention,
    which::{Wanted, WhichArgs, tell_unclear},
};
use crate::stop::Stop;

/// Orders that are under way at once.
pub(super) const UNDER_WAY: usize = 256;

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
}

/// How the orders of one command came to their end.
#[derive(Default)]
struct Ended {
    /// What was left out.
    unclear: Listing,
    /// Why not all letters were read.
    fault: Option<Fault>,
    /// It was told to stop before all were ordered, or for the second time.
    is_stopped: bool,
    /// Orders that were not waited for then.
    unknown: usize,
}

impl Acts<'_> {
    async fn named(&self, ids: &[String]) -> anyhow::Result<Status> {
        let letters = indexed::find_each(self.bus, ids).await?;
        let mut account = Account::begin(self.kind, Some(letters.len() as u64), self.output);
        let letters = stream::iter(letters).map(|letter| Ok(Sifted::Letter(Box::new(letter))));
        let ended = self.order_each(letters, &mut account, &Stop::listen()?).await;
        self.tell(account, &ended)
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
        let is_meant = |sifted: &Sifted| !matches!(sifted, Sifted::Letter(it) if it.state.after(self.kind).is_none());
        let letters = Box::pin(letters::sift(self.bus, selector, cut_off)).try_filter(|sifted| ready(is_meant(sifted)));
        let ended = match asked {
            Some(0) => Ended::default(),
            // Not before the person was asked: until then, Ctrl-C ends it at once.
            _ => self.order_each(letters, &mut account, &Stop::listen()?).await,
        };
        if asked.is_none() {
            tell_unclear(&ended.unclear);
        }
        let (done, refused) = account.counts();
        let status = self.tell(account, &ended)?;
        if ended.is_stopped {
            return Ok(status);
        }
        let changed = asked.unwrap_or(0).saturating_sub(done + refused);
        if changed > 0 {
            self.output.remark(&format!("{} changed meanwhile: left as they are", counted(changed, "letter")));
        } else if done + refused == 0 {
            self.output.remark(&format!("no letters to {}", verb(self.kind)));
        }
        Ok(status)
    }

    /// What is meant, without keeping any of it.
    async fn look(&self, selector: &Selector, cut_off: u64) -> anyhow::Result<Look> {
        let (mut look, mut unclear) = (Look::default(), Listing::default());
        let mut sifted = pin!(letters::sift(self.bus, selector, cut_off));
        while let Some(sifted) = sifted.try_next().await? {
            match sifted {
                Sifted::Letter(letter) if letter.state.after(self.kind).is_none() => {}
                Sifted::Letter(letter) => {
                    look.letters += 1;
                    look.consumers.insert(consumer(&letter));
                }
                Sifted::Unclear(why) => unclear.leave_out(why),
                Sifted::Unread(id) => unclear.leave_unread(id),
            }
        }
        tell_unclear(&unclear);
        Ok(look)
    }

    /// Orders each letter as it is read, until it is told to stop. What is left out is counted.
    async fn order_each(
        &self,
        letters: impl Stream<Item = Result<Sifted, Fault>>,
        account: &mut Account<'_>,
        stop: &Stop,
    ) -> Ended {
        let mut letters = pin!(letters);
        let (mut under_way, mut ended, mut is_read) = (FuturesOrdered::new(), Ended::default(), false);
        while !is_read || !under_way.is_empty() {
            tokio::select! {
                next = letters.try_next(), if !is_read && under_way.len() < UNDER_WAY => match next {
                    Ok(Some(Sifted::Letter(letter))) => under_way.push_back(self.order_one(slim(*letter))),
                    Ok(Some(Sifted::Unclear(why))) => ended.unclear.leave_out(why),
                    Ok(Some(Sifted::Unread(id))) => ended.unclear.leave_unread(id),
                    // What is under way comes to its end in any case.
                    Ok(None) => is_read = true,
                    Err(fault) => (is_read, ended.fault) = (true, Some(fault)),
                },
                Some((letter, end)) = under_way.next(), if !under_way.is_empty() => {
                    account.add(&letter.letter.id, &document(self.kind, &letter, &end), &end);
                }
                () = stop.told(), if !is_read => (is_read, ended.is_stopped) = (true, true),
                () = stop.told_again() => {
                    (ended.is_stopped, ended.unknown) = (true, under_way.len());
                    break;
                }
            }
        }
        ended
    }

    /// Says what was done, whatever ended it.
    fn tell(&self, account: Account<'_>, ended: &Ended) -> anyhow::Result<Status> {
        let (done, said) = (account.counts().0, account.done());
        let written = account.end();
        if ended.fault.is_none() && !ended.is_stopped {
            return Ok(written?);
        }
        // How much was done is said below, also where standard output does not take it.
        if let Err(error) = written {
            failure::show(self.output, &error.into());
        }
        if ended.is_stopped {
            // For programs too: it is not among the data.
            mention(&format!("stopped: {said}; the same command again goes on with the others"));
        }
        if ended.unknown > 0 {
            let orders = counted(ended.unknown as u64, "order");
            mention(&format!("note: what became of {orders} that were under way is not known"));
        }
        match &ended.fault {
            Some(fault) => Err(self.not_all(fault, done).into()),
            None => Ok(Status::Failed),
        }
    }

    async fn order_one(&self, letter: Letter) -> (Letter, Result<(), Fault>) {
        let done = match self.kind {
            ActKind::Held => letters::hold(self.bus, &letter, &self.order).await,
            ActKind::Released => letters::release(self.bus, &letter, &self.order).await,
            _ => letters::discard(self.bus, &letter, &self.order).await,
        };
        (letter, done)
    }

    /// The reading ended too soon: what was done until then stands.
    fn not_all(&self, fault: &Fault, done: u64) -> Failure {
        let word = self.kind.word();
        let effect = if done == 0 { fault.effect() } else { Effect::Done };
        let message = format!("not all letters were read: {}; {word} before that: {done}", fault.message());
        let fault = Fault::new(fault.code(), effect, fault.reason(), message).with_detail(fault.detail().to_owned());
        Failure::new(fault, "the same command again goes on with the others: nothing is done twice")
    }
}

/// What an order needs of a letter: many are under way, and what they hold may be large.
fn slim(mut letter: Letter) -> Letter {
    letter.letter.payload = Bytes::new();
    (letter.letter.headers, letter.letter.attempts) = (Vec::new(), Vec::new());
    letter.history = Vec::new();
    letter
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
