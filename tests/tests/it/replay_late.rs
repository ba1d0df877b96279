//! Orders that stand without their job's doing: stored after it has finished, where the letter is not left *replaying* without a
//! copy; or written by a service of its own letters, in the job's name.

use mesh_core::{
    dead_letter::{Letter, LetterState},
    operate::jobs::{self, Job, JobState},
    proto::v1::{self, letter_record::Record},
};
use mesh_tests::{eventually, foreign};
use prost::Message as _;
use tokio::task::AbortHandle;

use crate::replay::{Office, Shelf, append, capture, work};

/// A job that was cancelled after its first letter, and the keeper that ran it.
async fn cancelled(office: &Office) -> (Job, AbortHandle) {
    capture(office.bus(), "a", 0..3).await;
    // The first one goes at once, the next one would in a minute.
    let job = office.ask("a", |ask| ask.rate = "1/m".parse().ok()).await;
    let keeping = office.keep("one");
    let counted = || async { Some(office.job(&job).await).filter(|job| job.counts().resolved == 1) };
    let sent = eventually("the first letter", counted).await;
    jobs::cancel(office.bus(), &sent, "eve", "enough").await.unwrap();
    let ended = office.finished(&job).await;
    assert_eq!((ended.state(), ended.counts().dispatched), (JobState::Cancelled, 1));
    (ended, keeping)
}

/// What the job had given before it was cancelled, and what was on its way until now.
async fn store_an_order_of(office: &Office, job: &Job) -> Letter {
    let open = office.letters().await.into_iter().find(|letter| letter.state == LetterState::Open).unwrap();
    let act = v1::LetterAct { generation: 1, by: "ada".into(), job: job.id.clone(), ..v1::LetterAct::default() };
    append(office.bus(), &open, Record::Replaying(act)).await;
    open
}

async fn resolved(office: &Office, letter: &Letter) {
    eventually("its copy to be handled", || async {
        let now = office.letters().await.into_iter().find(|it| it.letter.id == letter.letter.id).unwrap();
        (now.state == LetterState::Resolved).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_stored_after_its_job_has_finished_gets_its_copy() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let (job, keeping) = cancelled(&office).await;
    let letter = store_an_order_of(&office, &job).await;
    resolved(&office, &letter).await;
    assert_eq!(shelf.handled().await, 2, "and no other was sent");
    assert_eq!(office.job(&job).await, job, "its account is closed");
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_stored_while_nobody_keeps_gets_its_copy_by_the_next_keeper() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let (job, keeping) = cancelled(&office).await;
    keeping.abort();
    let letter = store_an_order_of(&office, &job).await;
    let keeping = office.keep("two");
    resolved(&office, &letter).await;
    assert_eq!(shelf.handled().await, 2);
    keeping.abort();
}

/// What `b` writes under its own name of a letter that has this id.
async fn forge(office: &Office, id: &str, record: Record) {
    let b = async_nats::jetstream::new(foreign::client(&office.broker, "b").await);
    let record = v1::LetterRecord { record: Some(record) }.encode_to_vec();
    b.publish(format!("mesh1.dead.local.b.work.{id}"), record.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_writes_under_its_own_name_is_in_no_account_of_anothers_letters() {
    const LETTERS: usize = 6;
    let office = Office::open(&["a", "b"]).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let all = |ask: &mut jobs::Ask| {
        (ask.selection, ask.selected) = (jobs::Selection::default(), LETTERS as u64);
        ask.rate = "2/s".parse().ok();
    };
    let job = office.ask("a", all).await;
    let keeping = office.keep("one");
    eventually("the first letter", || async { (shelf.handled().await > 0).then_some(()) }).await;
    let mut letters = office.letters().await;
    letters.retain(|letter| letter.state == LetterState::Open);
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.last_sequence));
    let act = v1::LetterAct { generation: 1, by: "ada".into(), job: job.id.clone(), ..v1::LetterAct::default() };
    forge(&office, &letters[0].letter.id, Record::Replaying(act.clone())).await;
    forge(&office, &letters[0].letter.id, Record::Resolved(act.clone())).await;
    forge(&office, &letters[1].letter.id, Record::Replaying(act)).await;
    let ended = office.finished(&job).await;
    let (counts, all) = (ended.counts(), LETTERS as u64);
    assert_eq!((ended.state(), counts.dispatched, counts.resolved), (JobState::Done, all, all));
    assert_eq!(shelf.handled().await, LETTERS, "none of them was only said to have been sent");
    keeping.abort();
}
