//! Which letters a replay means: the same whether it goes at once or as a job, and what becomes of those that were named.

use std::process::Stdio;

use mesh_core::{
    Fault,
    dead_letter::{self, Letter, LetterState},
    envelope::Envelope,
    operate::letters,
    proto::v1,
};
use mesh_tests::{
    eventually,
    letters::{in_hand, lane},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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

/// Nobody handles what is sent. Who waits for it is told that it was sent, also where the wait ends before it does.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_no_longer_is_told_what_was_sent() {
    let mut office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..4).await;
    let person = Operator::at(&office.broker, "operator");
    let letters = all(office.bus()).await;
    let (first, second) = letters.split_at(2);
    let mut wait = async |letters: &[Letter], ends: &mut (dyn FnMut(&mut Office, u32) + Send)| {
        let named: Vec<&str> = letters.iter().map(|letter| letter.letter.id.as_str()).collect();
        let words = [&["dead-letter", "replay", "-o", "json"], &named[..]].concat();
        let process = person.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("both sent", || async {
            let now = all(office.bus()).await;
            let sent = now.iter().filter(|now| now.state == LetterState::Replaying && named.contains(&&*now.letter.id));
            (sent.count() == 2).then_some(())
        })
        .await;
        ends(&mut office, process.id());
        let ended = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
        let document: Value =
            serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        assert_eq!(ids(&document).len(), 2, "{document}");
        assert_eq!(
            (&document["letters"][0]["state"], ended.status.code()),
            (&"replaying".into(), Some(1)),
            "{ended:?}"
        );
        String::from_utf8(ended.stderr).unwrap()
    };
    let interrupt = |process| kill(Pid::from_raw(i32::try_from(process).unwrap()), Signal::SIGINT).unwrap();
    let said = wait(first, &mut |_, process| interrupt(process)).await;
    assert!(said.contains("they go on without you"), "{said}");
    let freeze = |office: &mut Office| {
        let pid = office.broker.server.pid().unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGSTOP).unwrap();
    };
    let said = wait(second, &mut |office, _| freeze(office)).await;
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(said["error"]["message"].as_str().unwrap().starts_with("2 letters sent; what became of that"), "{said}");
    assert_eq!(said["error"]["effect"], "DONE");
}
