//! Which letters a replay means: the same whether it goes at once or as a job, and what becomes of those that were named.

use mesh_core::{Fault, dead_letter, envelope::Envelope, operate::letters, proto::v1};
use mesh_tests::letters::{in_hand, lane};
use serde_json::{Value, json};

use crate::{
    command_line::Operator,
    letters_cli::all,
    replay::{Office, capture},
};

/// A letter of `a/work` that holds no message: the broker had deleted it.
async fn capture_lost(office: &Office) -> String {
    let lost = Envelope { subject: String::new(), ..in_hand(99, Default::default()) };
    let (fault, lane) = (Fault::invalid("a message was deleted before its consumer settled it"), lane("a"));
    let captured = dead_letter::capture(office.bus(), &lane, &lost, &fault, v1::Attempts::default());
    captured.await.unwrap().letter_id
}

/// Puts a letter of another region beside the others.
async fn import_from_afar(person: &Operator) -> String {
    let printed = person.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    let afar = "0b".repeat(16);
    let mut line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    line["id"] = afar.as_str().into();
    line["records"][0]["captured"]["id"] = afar.as_str().into();
    line["region"] = "eu".into();
    let file = person.home.path().join("afar.ndjson").display().to_string();
    std::fs::write(&file, line.to_string()).unwrap();
    assert_eq!(person.json(0, &["dead-letter", "import", &file]).await["imported"], 1);
    afar
}

fn ids(document: &Value) -> Vec<&str> {
    let mut ids: Vec<_> =
        document["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn few_letters_are_the_same_ones_that_a_job_would_send() {
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..5).await;
    let mut good: Vec<String> = all(office.bus()).await.into_iter().map(|letter| letter.letter.id).collect();
    good.sort_unstable();
    let person = Operator::at(&office.broker, "operator");
    let lost = capture_lost(&office).await;
    let afar = import_from_afar(&person).await;
    let dry = person.json(0, &["dead-letter", "replay", "--all", "--dry-run"]).await;
    assert_eq!(dry["letters"], 5, "{dry}");
    let all_words = ["dead-letter", "replay", "--all", "--yes", "--no-wait"];
    let ended = person.run(&[&all_words[..], &["-o", "json"]].concat()).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert_eq!(ids(&serde_json::from_slice(&ended.stdout).unwrap()), good);
    assert!(said.contains("note: 2 letters left out: another region (1), no message (1)"), "{said}");
    // Nothing is left that can be sent, and that is no failure.
    let none = person.json(0, &all_words).await;
    assert_eq!(none, json!({ "job": null, "letters": [] }));
    // Whoever names them is told of each.
    for id in [&lost, &afar] {
        let ended = person.run(&["dead-letter", "replay", id, "--no-wait"]).await;
        assert!(!ended.status.success(), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_letters_are_left_out_of_a_replay_by_a_filter_as_a_job_leaves_them_out() {
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..2).await;
    let held = all(office.bus()).await.remove(0).letter.id;
    let person = Operator::at(&office.broker, "operator");
    person.json(0, &["dead-letter", "hold", &held, "--why", "wait"]).await;
    let words = ["dead-letter", "replay", "--state", "held", "--yes", "--no-wait"];
    assert_eq!(person.json(0, &words).await, json!({ "job": null, "letters": [] }));
    let words = ["dead-letter", "replay", "--state", "waiting", "--yes", "--no-wait"];
    assert_eq!(person.json(0, &words).await["letters"].as_array().unwrap().len(), 1);
    // One that is replaying goes once more where it is asked for by its state.
    let words = ["dead-letter", "replay", "--state", "replaying", "--again", "--yes", "--no-wait"];
    assert_eq!(person.json(0, &words).await["letters"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_of_each_letter_that_was_named_and_stays_why() {
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..2).await;
    let letters = all(office.bus()).await;
    let (open, held) = (letters[0].letter.id.clone(), letters[1].letter.id.clone());
    let person = Operator::at(&office.broker, "operator");
    person.json(0, &["dead-letter", "hold", &held, "--why", "wait"]).await;
    let words = |ids: &[&str]| -> Vec<String> {
        let more = ["--rate", "5/s", "--yes", "--no-wait", "-o", "json"];
        ["dead-letter", "replay"].iter().chain(ids).chain(&more).map(|word| (*word).to_owned()).collect()
    };
    for (ids, jobs) in [(&[held.as_str()][..], 0), (&[&open, &held], 1)] {
        let words = words(ids);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = person.run(&words).await;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{} stays: it is held", &held[..8])), "{said}");
        let document: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(document["letters"], json!([]));
        match jobs {
            0 => assert_eq!(document["job"], Value::Null),
            _ => assert_eq!(document["job"]["selected"], 1, "{document}"),
        }
    }
    assert_eq!(letters::find(office.bus(), &held).await.unwrap().history.len(), 2, "nothing was done to it");
    // By a filter nothing is named, and nothing stays.
    let words = ["dead-letter", "replay", "--all", "--rate", "5/s", "--yes", "--no-wait"];
    person.json(0, &words).await;
    assert_eq!(person.json(0, &["dead-letter", "jobs", "list"]).await.as_array().unwrap().len(), 2);
}
