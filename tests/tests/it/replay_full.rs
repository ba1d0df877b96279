//! A job while the dead-letter stream takes nothing: its rate, its stop and its counts hold all the same.

use mesh_core::operate::{
    jobs::{self, Job, JobState},
    letters::{self, Order},
};
use mesh_tests::eventually;

use crate::{
    letters_full::hold_at_most,
    replay::{Office, Shelf, capture, work},
};

/// Letters of a job at 100 a second, and how many of them find room.
const LETTERS: usize = 500;
const ROOM: usize = 40;
/// How long the stream takes nothing, at least.
const FULL_MS: i64 = 3000;

/// A job at 100 a second that has been refused for a while.
async fn refused(office: &Office) -> Job {
    capture(office.bus(), "a", 0..LETTERS).await;
    let job = office.ask("a", |ask| ask.rate = "100/s".parse().ok()).await;
    hold_at_most(&office.broker, i64::try_from(LETTERS + ROOM).unwrap()).await;
    let _keeping = office.keep("one");
    eventually("no room", || async { (office.orders_of(&job).await.len() == ROOM).then_some(()) }).await;
    let full_at = *office.orders_of(&job).await.last().unwrap();
    passed(office, full_at + FULL_MS).await;
    job
}

/// Waits until this moment, Unix milliseconds.
async fn passed(office: &Office, at_ms: i64) {
    let now_ms = || office.bus().gate().clock().now_ms();
    eventually("its moment", || async { (now_ms() > at_ms).then_some(()) }).await;
}

/// The most that were stored within a second.
fn most_in_a_second(given: &[i64]) -> usize {
    let within = |from: &i64| given.iter().filter(|at| (*from..from + 1000).contains(*at)).count();
    given.iter().map(within).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_a_while_is_not_made_up_for() {
    let office = Office::open(&["a"]).await;
    let job = refused(&office).await;
    hold_at_most(&office.broker, -1).await;
    let orders = eventually("every order", || async {
        let orders = office.orders(&job).await;
        (orders.len() == LETTERS).then_some(orders)
    })
    .await;
    // By when they were given: a busy broker stores some later, and so closer to those after them.
    let given: Vec<i64> = orders.into_iter().map(|(_, given_ms)| given_ms).collect();
    let most = most_in_a_second(&given);
    assert!(most <= 125, "{most} orders within a second, at 100/s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_a_cancel_is_not_ordered_after_it() {
    let office = Office::open(&["a"]).await;
    let job = refused(&office).await;
    jobs::cancel(office.bus(), &office.job(&job).await, "eve", "enough").await.unwrap();
    // A letter that was asked about as the word came is under way: it ends within this.
    passed(&office, office.bus().gate().clock().now_ms() + 250).await;
    hold_at_most(&office.broker, -1).await;
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let ended = office.finished(&job).await;
    assert_eq!((ended.state(), ended.counts().dispatched), (JobState::Cancelled, ROOM as u64));
    assert_eq!((office.orders_of(&job).await.len(), shelf.handled().await), (ROOM, ROOM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_stopped_keeps_what_it_counted_as_skipped() {
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..60).await;
    let job = office.ask("a", |_| ()).await;
    let order = Order { by: "eve".into(), why: "theirs".into(), ..Order::default() };
    for letter in &office.letters().await[..30] {
        letters::hold(office.bus(), letter, &order).await.unwrap();
    }
    let keeping = office.keep("one");
    let counted = || async { Some(office.job(&job).await).filter(|job| job.counts().skipped.held == 30) };
    let before = eventually("what is held", counted).await;
    jobs::cancel(office.bus(), &before, "eve", "enough").await.unwrap();
    keeping.abort();
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    let keeping = office.keep("two");
    let ended = office.finished(&job).await;
    assert_eq!((ended.state(), ended.counts().skipped.held), (JobState::Cancelled, 30));
    assert_eq!(ended.counts().dispatched, shelf.handled().await as u64);
    keeping.abort();
}
