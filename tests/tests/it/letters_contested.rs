//! Two operators who edit and replay the same letters at the same moments: see `mesh_tests::contested`.

use mesh_core::config::Environment;
use mesh_tests::{
    TestBroker,
    contested::{Fight, SERVICE, fight},
    letters::declarations,
};

const LETTERS: usize = 1000;

/// The seed of this run: MESH_SEED, or a new one.
fn seed() -> u64 {
    let given = Environment::from_process().get("MESH_SEED").map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| fastrand::u64(..))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_fight_for_a_thousand_letters_send_each_once_per_generation() {
    let seed = seed();
    println!("MESH_SEED={seed}");
    let broker = TestBroker::start(&declarations(SERVICE).unwrap()).await.unwrap();
    let outcome = fight(&broker, &Fight { letters: LETTERS, seed, counter: None }).await.unwrap();
    assert!(outcome.wrong.is_empty(), "{} are wrong: {:#?}", outcome.wrong.len(), outcome.wrong);
    println!(
        "MESH_SEED={seed} letters={LETTERS} edits={} replays={} refused={} joined={} doubled=0 in {:.1} s",
        outcome.edits,
        outcome.replays.len(),
        outcome.refused,
        outcome.joined,
        outcome.took.as_secs_f32()
    );
}
