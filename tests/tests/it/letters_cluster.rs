//! Letters on three servers: whoever reads is served by one of them, which may be behind the others.

use std::time::Duration;

use mesh_core::{
    bus::{Bus, StreamLimits},
    operate::letters::{Selector, list, list_few},
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{campaign::cluster::TestCluster, letters, within};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::shop::{consumer, order, orders};

/// In about one of five the look comes to the server that is behind.
const ROUNDS: usize = 12;
/// Captures that a server misses.
const MISSED: usize = 150;

fn signal(cluster: &TestCluster, server: usize, signal: Signal) {
    let pid = cluster.servers[server].pid().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// A connection to the server that was away may have to find another one first. What is answered then must be whole.
const FINDS: Duration = Duration::from_secs(120);

async fn listed(bus: &Bus) -> usize {
    within(FINDS, "a list", || async { list(bus, &Selector::default()).await.ok() }).await.letters.len()
}

async fn listed_few(bus: &Bus) -> usize {
    let few = within(FINDS, "a few", || async { list_few(bus, &Selector::default(), usize::MAX).await.ok() }).await;
    few.unwrap().letters.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_holds_what_was_captured_before_though_a_server_was_away_meanwhile() {
    let declarations = [orders(), consumer("mail", "work")];
    let cluster = TestCluster::of(&declarations, &StreamLimits::default()).await.unwrap();
    let operator = cluster.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), cluster.jetstream().await.unwrap());
    for round in 1..=ROUNDS {
        let away = (cluster.leader_of(&jetstream, DEAD_LETTER_STREAM).await.unwrap() + 1 + round % 2) % 3;
        signal(&cluster, away, Signal::SIGSTOP);
        let numbers = (round - 1) * MISSED..round * MISSED;
        letters::capture(bus, "mail", numbers.map(|number| (number as u64, order(number)))).await;
        signal(&cluster, away, Signal::SIGCONT);
        let whole = round * MISSED;
        if round.is_multiple_of(3) {
            assert_eq!(listed_few(bus).await, whole, "a few in round {round}");
        } else {
            assert_eq!(listed(bus).await, whole, "round {round}");
        }
    }
    operator.drain().await;
}
