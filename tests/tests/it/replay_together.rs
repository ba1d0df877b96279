//! Several jobs that mean the same letters: they share them, each letter is sent once, and the counts of each job add up.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use mesh_core::{
    dead_letter::{ActKind, Letter, LetterState},
    envelope::header,
    operate::{
        jobs::{self, Ask, Job, JobState, Selection},
        letters::{self, Order},
    },
    policy::replay::Counts,
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{eventually, foreign};

use crate::replay::{Office, Shelf, capture, work};

/// Asks for what a filter means that only the letters themselves can answer, and that all of them fit.
fn by_type(ask: &mut Ask) {
    let message_types = vec!["OrderPlaced".to_owned()];
    ask.selection = Selection::new(BTreeSet::new(), &letters::Selection { message_types, ..Default::default() });
}

async fn all_finished(office: &Office, asked: &[Job]) -> Vec<Job> {
    let mut finished = Vec::new();
    for job in asked {
        finished.push(office.finished(job).await);
    }
    finished
}

fn sum(jobs: &[Job], count: fn(&Counts) -> u64) -> usize {
    usize::try_from(jobs.iter().map(|job| count(&job.counts())).sum::<u64>()).unwrap()
}

fn orders(letters: &[Letter]) -> usize {
    letters.iter().flat_map(|letter| &letter.history).filter(|act| act.kind == ActKind::Replayed).count()
}

/// Copies that were ever put on the lane of `a`.
async fn copies(office: &Office) -> u64 {
    office.bus().stream_state("mesh1-lane-a").await.unwrap().unwrap().last_sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_for_the_same_letters_send_each_once_while_the_keeper_dies_and_one_is_cancelled() {
    const LETTERS: usize = 3000;
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let slow = |ask: &mut Ask| ask.rate = "300/s".parse().ok();
    let mut asked = vec![office.ask("a", slow).await];
    let mut keeping = office.keep("one");
    let sent = |wanted: u64| {
        let office = &office;
        async move { eventually("some copies", || async { (copies(office).await >= wanted).then_some(()) }).await }
    };
    sent(50).await;
    // These mean what is open by now; one is told from the letters alone.
    asked.push(office.ask("a", |_| {}).await);
    asked.push(office.ask("a", by_type).await);
    asked.push(office.ask("a", |ask| ask.rate = "200/s".parse().ok()).await);
    for (turn, wanted) in [(2, 300), (3, 1000), (4, 2000)] {
        keeping.abort();
        keeping = office.keep(&format!("keeper {turn}"));
        sent(wanted).await;
    }
    let first = jobs::find(office.bus(), &asked[0].id).await.unwrap();
    jobs::cancel(office.bus(), &first, "eve", "enough").await.unwrap();
    // Nobody handled them until now: a second copy would have come to lie there.
    sent(LETTERS as u64).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let ended = all_finished(&office, &asked).await;
    keeping.abort();

    assert_eq!((shelf.handled().await, copies(&office).await), (LETTERS, LETTERS as u64));
    let letters = office.letters().await;
    assert!(letters.iter().all(|letter| letter.state == LetterState::Resolved));
    assert_eq!(orders(&letters), LETTERS, "one order for each letter");
    let (dispatched, resolved) = (sum(&ended, |it| it.dispatched), sum(&ended, |it| it.resolved));
    assert_eq!((dispatched, resolved), (LETTERS, LETTERS), "each letter is in the account of one job");
    assert_eq!(ended[0].state(), JobState::Cancelled);
    for job in &ended[1..] {
        let (counts, selected) = (job.counts(), job.replay.selected);
        assert_eq!(counts.dispatched + counts.skipped.replayed_by_others, selected, "{job:?}");
        assert_eq!((counts.skipped.total(), counts.failed), (counts.skipped.replayed_by_others, 0), "{job:?}");
    }
    assert!(
        ended[1..].iter().all(|job| job.replay.selected < LETTERS as u64),
        "it was asked for while the first was under way"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_job_sent_and_failed_again_is_left_alone_by_the_others() {
    const LETTERS: usize = 400;
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::refusing();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let asked = [
        office.ask("a", |ask| ask.rate = "400/s".parse().ok()).await,
        office.ask("a", |ask| ask.rate = "300/s".parse().ok()).await,
        office.ask("a", |_| {}).await,
        office.ask("a", by_type).await,
    ];
    // Two come when all is over.
    for job in &asked[2..] {
        jobs::pause(office.bus(), job, "eve", "not yet").await.unwrap();
    }
    let keeping = office.keep("one");
    all_finished(&office, &asked[..2]).await;
    for job in &asked[2..] {
        let job = jobs::find(office.bus(), &job.id).await.unwrap();
        jobs::resume(office.bus(), &job, "eve", "go").await.unwrap();
    }
    let ended = all_finished(&office, &asked).await;
    keeping.abort();
    assert_eq!((sum(&ended, |it| it.dispatched), sum(&ended, |it| it.failed)), (LETTERS, LETTERS));
    for job in &ended {
        let counts = job.counts();
        assert_eq!(counts.dispatched + counts.skipped.replayed_by_others, LETTERS as u64, "{job:?}");
    }
    assert_eq!(sum(&ended[2..], |it| it.skipped.replayed_by_others), 2 * LETTERS, "they found nothing to send");
    let letters = office.letters().await;
    assert!(letters.iter().all(|it| it.state == LetterState::Open && it.letter.generation == 1));
    assert_eq!((orders(&letters), shelf.handled().await), (LETTERS, LETTERS));
}

/// Whether the last record of each letter says that it was written after the one that is known of it, as the broker keeps it.
async fn say_after_which_they_come(office: &Office, letters: &[Letter]) -> bool {
    let jetstream = async_nats::jetstream::new(foreign::client(&office.broker, "operator").await);
    let records = jetstream.get_stream(DEAD_LETTER_STREAM).await.unwrap();
    for letter in letters {
        let subject = format!("mesh1.dead.local.a.work.{}", letter.letter.id);
        let last = records.get_last_raw_message_by_subject(&subject).await.unwrap();
        let after = last.headers.get(header::EXPECTED_LAST).map(|value| value.as_str().to_owned());
        if after != Some(letter.last_sequence.to_string()) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_after_a_job_was_asked_for_is_none_of_its_letters_whatever_others_do_to_it() {
    const LETTERS: usize = 300;
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let old: BTreeSet<String> = office.letters().await.into_iter().map(|letter| letter.letter.id).collect();
    let asked = [office.ask("a", |_| {}).await, office.ask("a", by_type).await];
    capture(office.bus(), "a", LETTERS..2 * LETTERS).await;
    let mut new = office.letters().await;
    new.retain(|letter| !old.contains(&letter.letter.id));
    assert_eq!(new.len(), LETTERS);
    // Half of them are left alone.
    new.truncate(LETTERS / 2);
    let order = Order { by: "eve".into(), why: "mine".into(), ..Order::default() };
    let acts = new.iter().enumerate().map(|(index, letter)| {
        let (bus, order) = (office.bus(), &order);
        async move {
            match index % 3 {
                0 => letters::hold(bus, letter, order).await.unwrap(),
                1 => letters::discard(bus, letter, order).await.unwrap(),
                _ => drop(letters::replay(bus, letter, order).await.unwrap()),
            }
        }
    });
    // So many at once that they go in batches too.
    stream::iter(acts).buffer_unordered(LETTERS).collect::<Vec<()>>().await;
    assert!(say_after_which_they_come(&office, &new).await);
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let keeping = office.keep("one");
    let ended = all_finished(&office, &asked).await;
    keeping.abort();
    assert_eq!(sum(&ended, |it| it.dispatched), LETTERS);
    for job in &ended {
        let (counts, skipped) = (job.counts(), job.counts().skipped);
        assert_eq!(counts.dispatched + skipped.replayed_by_others, LETTERS as u64, "{job:?}");
        assert_eq!(skipped.total(), skipped.replayed_by_others, "{job:?}");
    }
}
