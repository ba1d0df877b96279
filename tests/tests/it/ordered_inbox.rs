//! The order of keys where every start and every end is written down.

use std::time::Duration;

use mesh_core::consume::ConsumerSettings;

use crate::ordered::{are_killed, come_and_go, settings_with};

/// Retries wait on the lane, or in hand.
fn settings(short_wait: Duration) -> ConsumerSettings {
    ConsumerSettings { inbox: Some(Duration::from_secs(3600)), ..settings_with(short_wait) }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_while_processes_come_and_go() {
    Box::pin(come_and_go(settings(Duration::ZERO))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_where_short_waits_are_spent_in_hand() {
    Box::pin(come_and_go(settings(Duration::from_millis(150)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_killed_lose_nothing_and_nothing_overtakes() {
    Box::pin(are_killed(settings(Duration::ZERO))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_killed_during_short_waits_lose_nothing_and_nothing_overtakes() {
    Box::pin(are_killed(settings(Duration::from_millis(150)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_without_an_inbox_where_short_waits_are_spent_in_hand() {
    Box::pin(come_and_go(settings_with(Duration::from_millis(150)))).await;
}
