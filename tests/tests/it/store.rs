//! The store: writes decide, and what is silent goes by itself.

use std::time::Duration;

use mesh_core::store::{Lease, LeaseSettings, Store, Written};
use mesh_tests::{TestBroker, eventually};

use crate::shop::{bank, consumer, orders};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_wins_and_no_service_reaches_anothers_store() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work"), bank()]).await.unwrap();
    let (one, two) = (broker.connect("a").await.unwrap(), broker.connect("a").await.unwrap());
    let (one, two) = (Store::own(one.bus()), Store::own(two.bus()));
    let written = one.put("inbox.work.x", "first".into(), 0, None).await.unwrap();
    let Written::At(revision) = written else { panic!("nobody wrote before") };
    assert_eq!(two.put("inbox.work.x", "second".into(), 0, None).await.unwrap(), Written::Conflict);
    assert_eq!(one.put("inbox.work.x", "first".into(), 0, None).await.unwrap(), written, "one's own write again");
    let next = two.put("inbox.work.x", "third".into(), revision, None).await.unwrap();
    assert!(matches!(next, Written::At(next) if next > revision));
    assert_eq!(one.get("inbox.work.x").await.unwrap().unwrap().value, "third");
    assert!(one.get("inbox.work.y").await.unwrap().is_none());

    let bank = broker.connect("bank").await.unwrap();
    let foreign = Store::new(bank.bus(), "local".parse().unwrap(), "a".parse().unwrap());
    assert!(foreign.put("inbox.work.x", "forged".into(), 0, None).await.is_err());
    assert!(foreign.get("inbox.work.x").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_taken_over_when_its_holder_falls_silent_or_gives_it_up() {
    let broker = TestBroker::start(&[]).await.unwrap();
    let (first, second) = (broker.connect("keeper").await.unwrap(), broker.connect("keeper").await.unwrap());
    let settings = LeaseSettings { lasts: Duration::from_secs(2), ask_every: Duration::from_millis(50) };
    let lease = |bus, holder: &str| Lease::new(Store::own(bus), "keeper", holder.to_owned(), settings.clone());
    let (one, two) = (lease(first.bus(), "one"), lease(second.bus(), "two"));
    let mut held = one.try_take().await.unwrap().unwrap();
    assert!(two.try_take().await.unwrap().is_none());
    assert_eq!(two.holder().await.unwrap().unwrap().0, "one");

    // While it is kept, nobody else gets it, however long.
    let kept = tokio::time::timeout(Duration::from_secs(5), async {
        tokio::join!(held.keep(), two.take());
    })
    .await;
    assert!(kept.is_err());

    // Silence: it goes by itself, and the old holder learns that it is lost.
    let taken = eventually("the lease", || async { two.try_take().await.unwrap() }).await;
    tokio::time::timeout(Duration::from_secs(5), held.keep()).await.expect("it is lost");

    // Given up: taken at once.
    taken.release().await;
    assert!(one.try_take().await.unwrap().is_some());
}
