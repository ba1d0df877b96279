//! A job while the dead-letter stream takes nothing: its rate and its stop hold all the same.

use mesh_core::operate::jobs::{self, Job, JobState};
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
fn most_in_a_second(stored: &[i64]) -> usize {
    let within = |from: &i64| stored.iter().filter(|at| (*from..from + 1000).contains(*at)).count();
    stored.iter().map(within).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_a_while_is_not_made_up_for() {
    let office = Office::open(&["a"]).await;
    let job = refused(&office).await;
    hold_at_most(&office.broker, -1).await;
    let orders = eventually("every order", || async {
        let orders = office.orders_of(&job).await;
        (orders.len() == LETTERS).then_some(orders)
    })
    .await;
    let most = most_in_a_second(&orders);
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
