//! Replay: to the consumer that failed, and to no other.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    dead_letter::{Letter, LetterState},
    fault::{Effect, Fault},
    operate::{
        jobs,
        letters::{self, Order, Replayed, Replays},
    },
    subject::Name,
};
use serde_json::{Value, json};

use crate::stop::Stop;

use super::{
    super::{Failure, failure, place, place::Place},
    GlobalArgs, Output, ReplayArgs, Status, ask, counted, fault, indexed, instead, mention,
    preview::{Unsendable, unsendable},
    rollout, short,
    which::{Wanted, tell_unclear},
};

/// Replays that are ordered at once.
const UNDER_WAY: usize = 16;
/// How long to wait for what becomes of a few letters, where nothing is said.
const WAIT: Duration = Duration::from_secs(30);

pub(super) async fn run(args: ReplayArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    check(&args)?;
    let by_ids = !args.ids.is_empty();
    let bus = Place::find(global)?.connect().await?;
    if args.rollout.is_wanted() {
        return rollout::run(args, bus, (global, output)).await;
    }
    let Some(letters) = chosen(&bus, &args, global).await? else {
        check_again(&args, "more than a few letters are a job")?;
        return rollout::run(args, bus, (global, output)).await;
    };
    rollout::tell_beside(&bus, &meant(&letters, &args)).await;
    if letters.is_empty() {
        instead::tell(NOTHING, &bus, &args.filters.selection(Wanted::Open), output).await;
        return nothing("", Status::Ok, output);
    }
    if !by_ids && !args.yes && !ask::replay_agreed(letters.len() as u64, &ask::consumers(&letters))? {
        return nothing("nothing was replayed", Status::Failed, output);
    }
    let order = Order { by: place::person(), why: args.why.clone(), again: args.again, job: String::new() };
    // From the first order on: whoever is told to end says what was sent.
    let stop = Stop::listen()?;
    let Sent { replayed, refused, left, unanswered } = order_all(&bus, &letters, &order, &stop).await;
    let became = match args.no_wait || replayed.is_empty() {
        true => Became::default(),
        false => what_became((&bus, &stop), &replayed, args.timeout.unwrap_or(WAIT)).await,
    };
    let letters = &became.letters;
    bus.close().await;
    tell(&Told { replayed: &replayed, letters, waited: !args.no_wait, output })?;
    let mut status = Status::Ok;
    if became.let_go || letters.iter().any(|letter| letter.state != LetterState::Resolved) {
        status = Status::Failed;
    }
    for fault in refused {
        status = failure::show(output, &fault.into());
    }
    if left > 0 {
        status = Status::Failed;
        mention(&format!("{} not sent: you ended it", counted(left as u64, "letter")));
    }
    if unanswered > 0 {
        status = Status::Failed;
        let letters = counted(unanswered as u64, "letter");
        mention(&format!("{letters} perhaps sent: the bus had not answered; look first: mesh dead-letter show ID"));
    }
    if became.let_go {
        mention("they go on without you; look again: mesh dead-letter list --state replaying");
    }
    if let Some(why) = became.unknown {
        status = failure::show(output, &why.into());
    }
    Ok(status)
}

/// What became of letters that were sent.
#[derive(Default)]
struct Became {
    letters: Vec<Letter>,
    /// Whether a person waits no longer.
    let_go: bool,
    /// Why that is not known.
    unknown: Option<Failure>,
}

/// Waits for the ends of letters that were sent. Where the bus goes away meanwhile it is said that they were sent all the same.
async fn what_became((bus, stop): (&Bus, &Stop), replayed: &[Replayed], limit: Duration) -> Became {
    tokio::select! {
        ended = letters::await_end(bus, replayed, limit) => match ended {
            Ok(letters) => Became { letters, ..Became::default() },
            Err(fault) => Became { unknown: Some(unknown(&fault, replayed.len())), ..Became::default() },
        },
        () = stop.told() => Became { let_go: true, ..Became::default() },
    }
}

fn unknown(fault: &Fault, count: usize) -> Failure {
    let what =
        format!("{} sent; what became of that is not known: {}", counted(count as u64, "letter"), fault.message());
    let help = "look, once the bus is back: mesh dead-letter show ID, mesh dead-letter list --state replaying";
    Failure::new(Fault::new(fault.code(), Effect::Done, fault.reason(), what), help)
}

/// Ids, filters or --all: nothing said is not everything.
fn check(args: &ReplayArgs) -> anyhow::Result<()> {
    let by_filters = !args.filters.is_empty();
    let (what, help) = match (args.ids.is_empty(), args.all, by_filters) {
        (true, false, false) => ("which letters?", "give ids, filters such as --reason, or --all"),
        (false, true, _) | (false, false, true) => {
            ("ids and filters exclude each other", "give ids, or filters, or --all")
        }
        _ => {
            args.rollout.check()?;
            let a_job = args.rollout.is_wanted().then_some("--again goes with no option of a job");
            return a_job.map_or(Ok(()), |why| check_again(args, why));
        }
    };
    Err(Failure::input(what, help).into())
}

/// A job replays what is open: one that is replaying is sent once more by itself.
fn check_again(args: &ReplayArgs, why: &str) -> anyhow::Result<()> {
    if !args.again {
        return Ok(());
    }
    let what = format!("{why}, which sends no letter again that is replaying");
    let help = "leave out --again; or name letters that are replaying by their ids, without options of a job";
    Err(Failure::input(what, help).into())
}

/// What a replay did, in one JSON object whatever it was: a job of the keeper's, or letters.
pub(super) fn document(job: Value, letters: Vec<Value>) -> Value {
    json!({ "job": job, "letters": letters })
}

/// What is said where no letter is meant.
pub(super) const NOTHING: &str = "no open letters: nothing to replay";

/// Says why nothing was replayed, where that is not said yet.
pub(super) fn nothing(why: &str, status: Status, output: &Output) -> anyhow::Result<Status> {
    if !why.is_empty() {
        output.remark(why);
    }
    if output.is_json() {
        output.json(&document(Value::Null, Vec::new()))?;
    }
    Ok(status)
}

/// The letters that are meant; an id that fits nothing ends it before anything is replayed. `None`: more than a few, which
/// are not read here.
async fn chosen(bus: &Bus, args: &ReplayArgs, global: &GlobalArgs) -> anyhow::Result<Option<Vec<Letter>>> {
    if !args.ids.is_empty() {
        return Ok(Some(indexed::find_each(bus, &args.ids).await?));
    }
    let selector = args.filters.selector(Wanted::Open, global)?;
    if indexed::are_more_than(bus, selector.selection(), rollout::AT_ONCE).await == Some(true) {
        return Ok(None);
    }
    let listing = letters::list_few(bus, &selector, rollout::AT_ONCE).await?;
    Ok(listing.map(|listing| {
        tell_unclear(&listing);
        let may_be_replaying = args.again || !selector.selection().admits_state(LetterState::Open);
        that_go(listing.letters, bus.gate().identity().region(), may_be_replaying)
    }))
}

/// Those that a job would send, and where they are meant those that are replaying: a filter means the same letters however many
/// there are. How many are left out is said.
fn that_go(mut letters: Vec<Letter>, here: &Name, may_be_replaying: bool) -> Vec<Letter> {
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    letters.retain(|letter| {
        let why = match (letter.state, unsendable(letter, here)) {
            (_, Some(Unsendable::WithoutMessage)) => "no message",
            (_, Some(Unsendable::OfAnotherRegion)) => "another region",
            (LetterState::Open, None) => return true,
            (LetterState::Replaying, None) if may_be_replaying => return true,
            (state, None) => state.word(),
        };
        *left_out.entry(why).or_default() += 1;
        false
    });
    if !left_out.is_empty() {
        let count = counted(left_out.values().sum::<usize>() as u64, "letter");
        let reasons: Vec<_> = left_out.iter().map(|(why, count)| format!("{why} ({count})")).collect();
        // For programs too: it is not among the data.
        mention(&format!("note: {count} left out: {}", reasons.join(", ")));
    }
    letters
}

/// What is about to be replayed, as a job would say it: letters by their ids, or filters, whichever letters those mean.
fn meant(letters: &[Letter], args: &ReplayArgs) -> jobs::Selection {
    let named = letters.iter().filter(|_| !args.ids.is_empty());
    let ids = named.map(|letter| letter.letter.id.clone()).collect();
    jobs::Selection::new(ids, &args.filters.selection(Wanted::Open))
}

/// What was sent of a few letters.
#[derive(Default)]
struct Sent {
    replayed: Vec<Replayed>,
    refused: Vec<Fault>,
    /// Letters that were not begun: a person ended it.
    left: usize,
    /// Letters that were begun, and of which nothing was heard as a person ended it for the second time.
    unanswered: usize,
}

/// Begins no more once it is told to stop; told again, it waits for no answer.
async fn order_all(bus: &Bus, letters: &[Letter], order: &Order, stop: &Stop) -> Sent {
    let (replays, begun) = (Replays::new(bus, order.clone()), AtomicUsize::new(0));
    let orders = letters.iter().take_while(|_| !stop.is_told()).map(|letter| {
        begun.fetch_add(1, Ordering::Relaxed);
        replays.replay(letter)
    });
    let mut under_way = stream::iter(orders).buffered(UNDER_WAY);
    let mut sent = Sent::default();
    loop {
        tokio::select! {
            next = under_way.next() => match next {
                Some(Ok(one)) => sent.replayed.push(one),
                Some(Err(fault)) => sent.refused.push(fault),
                None => break,
            },
            () = stop.told_again() => break,
        }
    }
    drop(under_way);
    let begun = begun.into_inner();
    Sent { left: letters.len() - begun, unanswered: begun - sent.replayed.len() - sent.refused.len(), ..sent }
}

struct Told<'a> {
    replayed: &'a [Replayed],
    letters: &'a [Letter],
    waited: bool,
    output: &'a Output,
}

fn tell(told: &Told<'_>) -> anyhow::Result<()> {
    let ends: Vec<_> = told.replayed.iter().map(|one| (one, became(told, one))).collect();
    if told.output.is_json() {
        let ends = ends.iter().map(|(one, (word, said))| {
            json!({ "id": one.letter_id, "generation": one.generation, "state": word, "said": said })
        });
        return Ok(told.output.json(&document(Value::Null, ends.collect()))?);
    }
    for (one, (word, said)) in &ends {
        told.output.line(&format!("{}  {word}{said}", short(&one.letter_id)))?;
    }
    let count = |wanted: &str| ends.iter().filter(|(_, (word, _))| *word == wanted).count();
    if told.waited && ends.len() > 1 {
        let (ok, again, waiting) = (count("resolved"), count("failed again"), count("replaying"));
        told.output.remark(&format!("{ok} resolved, {again} failed again, {waiting} not ended yet"));
    }
    Ok(())
}

fn became(told: &Told<'_>, one: &Replayed) -> (&'static str, String) {
    let Some(letter) = told.letters.iter().find(|letter| letter.letter.id == one.letter_id) else {
        return ("replaying", format!(": sent to its consumer (generation {})", one.generation));
    };
    match letter.state {
        LetterState::Open => {
            let fault = fault(letter);
            let said =
                format!(" as generation {}: {} {}", letter.letter.generation, fault.reason().code(), fault.message());
            ("failed again", said)
        }
        LetterState::Replaying => {
            ("replaying", format!(": not ended yet; mesh dead-letter show {}", short(&one.letter_id)))
        }
        ended => (ended.word(), String::new()),
    }
}
