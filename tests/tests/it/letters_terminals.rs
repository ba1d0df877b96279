//! Two people at their terminals, each with a process of their own, who edit and replay the same letters at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
};

use mesh_core::dead_letter::{ActKind, Letter, LetterState};
use mesh_tests::{TestBroker, broker::PEOPLE, eventually};
use serde_json::Value;

use crate::{
    command_line::Operator,
    letters_cli::all,
    replay::{Shelf, capture, work},
    shop::{consumer, orders},
};

/// As many as are replayed at once, without a keeper.
const LETTERS: usize = 100;

/// What a command said yes to, by its own word, and how many it said no to.
struct Said {
    granted: BTreeSet<String>,
    refused: usize,
}

/// Runs one command at two terminals at the same moment.
async fn both(people: &[Operator; 2], words: [&[&str]; 2], granted: fn(&Value) -> Vec<&Value>) -> [Said; 2] {
    let run = |index: usize| {
        let mut command = people[index].command(words[index]);
        command.env("USER", PEOPLE[index]).args(["-o", "json"]);
        async move { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() }
    };
    let (one, two) = tokio::join!(run(0), run(1));
    [one, two].map(|ended| said(&ended, granted))
}

fn said(ended: &Output, granted: fn(&Value) -> Vec<&Value>) -> Said {
    let document = serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let id = |end: &Value| end["id"].as_str().unwrap().to_owned();
    let granted = granted(&document).into_iter().map(id).collect();
    let errors = String::from_utf8(ended.stderr.clone()).unwrap();
    let refused = errors.lines().inspect(|line| assert!(line.contains("MESH-0024"), "{errors}")).count();
    assert_eq!(ended.status.code(), Some(i32::from(refused > 0)), "{errors}");
    Said { granted, refused }
}

/// Ids by who did it.
fn by(letters: &[Letter], kind: ActKind) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for letter in letters {
        for act in letter.history.iter().filter(|act| act.kind == kind) {
            let (who, _) = act.by.split_once('@').unwrap();
            assert_eq!((act.why.as_str(), &act.by), (format!("by {who}").as_str(), &mesh_tests::person(who)));
            all.entry(who).or_default().push(&letter.letter.id);
        }
    }
    all.values_mut().for_each(|ids| ids.sort_unstable());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn two_terminals_edit_and_replay_the_same_letters_and_each_is_told_what_it_did() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let people = PEOPLE.map(|_| Operator::at(&broker, "operator"));
    let operator = broker.connect("operator").await.unwrap();
    capture(operator.bus(), "a", 0..LETTERS).await;

    let edit = |set, why| ["dead-letter", "edit", "--all", "--set", set, "--why", why, "--yes"];
    let words = [&edit("total_cents=1", "by ada")[..], &edit("total_cents=2", "by eve")];
    let edits =
        both(&people, words, |ends| ends.as_array().unwrap().iter().filter(|end| end["written"] == true).collect())
            .await;
    for said in &edits {
        assert_eq!(said.granted.len() + said.refused, LETTERS, "each letter is answered for");
    }

    let replay = |why| ["dead-letter", "replay", "--all", "--why", why, "--yes", "--no-wait"];
    let words = [&replay("by ada")[..], &replay("by eve")];
    let replays = both(&people, words, |done| done["letters"].as_array().unwrap().iter().collect()).await;
    assert_eq!(replays[0].granted.intersection(&replays[1].granted).count(), 0, "no letter went twice");

    let shelf = Shelf::default();
    let _at_work = work(&broker, "a", &shelf).await;
    let letters = eventually("the end of all", || async {
        let letters = all(operator.bus()).await;
        letters.iter().all(|letter| letter.state == LetterState::Resolved).then_some(letters)
    })
    .await;
    for (kind, said) in [(ActKind::Edited, &edits), (ActKind::Replayed, &replays)] {
        let history = by(&letters, kind);
        for (name, said) in PEOPLE.iter().zip(said) {
            let told: Vec<&str> = said.granted.iter().map(String::as_str).collect();
            assert_eq!(history.get(name).cloned().unwrap_or_default(), told, "what {name} was told of {kind:?}");
        }
    }
    assert_eq!(shelf.handled().await, LETTERS, "each once");
    let refused = [&edits, &replays].map(|said| said[0].refused + said[1].refused);
    println!("letters={LETTERS} refused edits={} refused replays={}", refused[0], refused[1]);
}
