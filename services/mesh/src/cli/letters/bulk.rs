//! Orders for all letters that fit, given as these are read.
//!
//! They may be a million: only a few are in memory, by their number and by their bytes. They are those of the moment of asking; what
//! changes after it is left as it is, and the orders' own records are not met again. Told to stop, a command orders no more, hears
//! what becomes of those that are under way, and says what was done.

use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future::ready, stream::FuturesOrdered};
use mesh_core::{
    bus::Bus,
    dead_letter::{ActKind, Letter},
    fault::{Effect, Fault},
    operate::letters::{self, Listing, Selector, Sifted},
};
use serde_json::Value;

use super::{
    super::{Failure, failure},
    Status,
    account::Account,
    counted, mention,
};
use crate::stop::Stop;

/// Orders that are under way at once.
pub(super) const UNDER_WAY: usize = 256;
/// Bytes of the letters that these are for, about; one alone may have more.
const BYTES_UNDER_WAY: u64 = 32 * 1024 * 1024;

/// What became of the order for one letter.
pub(super) struct Done {
    pub(super) id: String,
    /// What it was, for programs.
    pub(super) document: Value,
    pub(super) end: Result<(), Fault>,
}

/// How the orders of one command came to their end.
#[derive(Default)]
pub(super) struct Ended {
    /// What was left out.
    pub(super) unclear: Listing,
    /// Why not all letters were read.
    pub(super) fault: Option<Fault>,
    /// It was told to stop before all were ordered, or for the second time.
    pub(super) is_stopped: bool,
    /// Orders that were not waited for then.
    unknown: usize,
}

/// The letters of a selection to which something can be done, as they stood at the cut-off.
pub(super) fn meant<'a>(
    bus: &'a Bus,
    selector: &'a Selector,
    (cut_off, kind): (u64, ActKind),
) -> impl Stream<Item = Result<Sifted, Fault>> + 'a {
    let is_meant = move |sifted: &Sifted| !matches!(sifted, Sifted::Letter(it) if it.state.after(kind).is_none());
    Box::pin(letters::sift(bus, selector, cut_off)).try_filter(move |sifted| ready(is_meant(sifted)))
}

/// Orders something for each letter as it is read, until it is told to stop. What is left out is counted.
pub(super) async fn order_each<F: Future<Output = Done>>(
    letters: impl Stream<Item = Result<Sifted, Fault>>,
    order: impl Fn(Letter) -> F,
    (account, stop): (&mut Account<'_>, &Stop),
) -> Ended {
    let mut letters = pin!(letters);
    let (mut under_way, mut bytes) = (FuturesOrdered::new(), 0);
    let (mut ended, mut is_read) = (Ended::default(), false);
    while !is_read || !under_way.is_empty() {
        let has_room = under_way.len() < UNDER_WAY && bytes < BYTES_UNDER_WAY;
        tokio::select! {
            next = letters.try_next(), if !is_read && has_room => match next {
                Ok(Some(Sifted::Letter(letter))) => {
                    let size = size(&letter);
                    bytes += size;
                    under_way.push_back(sized(size, order(*letter)));
                }
                Ok(Some(Sifted::Unclear(why))) => ended.unclear.leave_out(why),
                Ok(Some(Sifted::Unread(id))) => ended.unclear.leave_unread(id),
                // What is under way comes to its end in any case.
                Ok(None) => is_read = true,
                Err(fault) => (is_read, ended.fault) = (true, Some(fault)),
            },
            Some((size, done)) = under_way.next(), if !under_way.is_empty() => {
                bytes -= size;
                account.add(&done.id, &done.document, &done.end);
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

async fn sized<F: Future>(size: u64, order: F) -> (u64, F::Output) {
    (size, order.await)
}

/// Bytes of a letter, about, and of what lies apart of it.
fn size(letter: &Letter) -> u64 {
    let acts = letter.history.iter().map(|act| act.payload.as_ref().map_or(0, Bytes::len) as u64);
    let apart = letter.history.iter().map(|act| &act.claim).chain([&letter.letter.claim]).flatten();
    letter.letter.payload.len() as u64 + acts.sum::<u64>() + apart.map(|claim| claim.size).sum::<u64>()
}

/// What an order needs of a letter: many are under way, and what they hold may be large.
pub(super) fn slim(mut letter: Letter) -> Letter {
    letter.letter.payload = Bytes::new();
    (letter.letter.headers, letter.letter.attempts) = (Vec::new(), Vec::new());
    letter.history = Vec::new();
    letter
}

/// Says what was done, whatever ended it.
pub(super) fn tell(account: Account<'_>, ended: &Ended) -> anyhow::Result<Status> {
    let (kind, output) = (account.kind(), account.output());
    let (done, said) = (account.counts().0, account.done());
    let written = account.end();
    if ended.fault.is_none() && !ended.is_stopped {
        return Ok(written?);
    }
    // How much was done is said below, also where standard output does not take it.
    if let Err(error) = written {
        failure::show(output, &error.into());
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
        Some(fault) => Err(not_all(fault, kind, done).into()),
        None => Ok(Status::Failed),
    }
}

/// The reading ended too soon: what was done until then stands.
fn not_all(fault: &Fault, kind: ActKind, done: u64) -> Failure {
    let word = kind.word();
    let effect = if done == 0 { fault.effect() } else { Effect::Done };
    let message = format!("not all letters were read: {}; {word} before that: {done}", fault.message());
    let fault = Fault::new(fault.code(), effect, fault.reason(), message).with_detail(fault.detail().to_owned());
    Failure::new(fault, "the same command again goes on with the others: nothing is done twice")
}
