//! Replay where something can't be sent, is not meant or belongs elsewhere.

use mesh_core::{
    Fault,
    bus::Bus,
    dead_letter::{self, Letter, LetterState},
    delayed::Lane,
    envelope::{Delivery, Envelope, Note},
    fault::{Effect, Reason},
    operate::{
        jobs::JobState,
        letters::{self, Order},
    },
    proto::v1::{self, letter_record::Record},
};
use mesh_tests::{eventually, foreign};
use prost::Message as _;
use serde_json::json;

use crate::{
    command_line::Operator,
    replay::{Office, Shelf, append, capture, work},
    shop::{EVENT, order},
};

/// A letter of a message that is nowhere any more, as the keeper leaves it.
async fn capture_lost(bus: &Bus, lane: &Lane) {
    let delivery = Delivery {
        stream: "mesh1-event-orders".into(),
        sequence: 9999,
        deliveries: 1,
        consumer_sequence: 0,
        stored_at_ms: 0,
    };
    let lost = Envelope {
        subject: String::new(),
        message_id: "mesh1-event-orders:9999".into(),
        caller: String::new(),
        trace: None,
        note: Note::default(),
        headers: Vec::new(),
        order: None,
        payload: Vec::new().into(),
        delivery: Some(delivery),
    };
    let fault = Fault::invalid("it is lost");
    dead_letter::capture(bus, lane, &lost, &fault, v1::Attempts::default()).await.unwrap();
}

fn lane_of(service: &str, region: &str) -> Lane {
    let name = |text: &str| text.parse().unwrap();
    Lane { region: name(region), service: name(service), consumer: name("work") }
}

/// A letter of `a` that its lane does not take.
async fn one_too_large(office: &Office) -> Letter {
    let large = v1::LetterEdit { act: Some(v1::LetterAct::default()), payload: vec![1; 8192].into(), claim: None };
    let letters = office.letters().await;
    let first = letters.into_iter().find(|letter| !letter.letter.payload.is_empty()).unwrap();
    append(office.bus(), &first, Record::Edited(large)).await;
    let jetstream = async_nats::jetstream::new(foreign::client(&office.broker, "operator").await);
    let mut config = jetstream.get_stream("mesh1-lane-a").await.unwrap().cached_info().config.clone();
    config.max_message_size = 4096;
    jetstream.update_stream(config).await.unwrap();
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_lane_will_never_take_is_open_again_and_can_be_mended() {
    let office = Office::open(&["a"]).await;
    let _at_work = work(&office.broker, "a", &Shelf::default()).await;
    capture(office.bus(), "a", 0..1).await;
    let id = one_too_large(&office).await.letter.id;
    let large = letters::find(office.bus(), &id).await.unwrap();
    let fault = letters::replay(office.bus(), &large, &Order::default()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::PublishRefused, Effect::None));
    assert!(fault.message().contains("has failed again by this, and is open"), "{fault}");
    let refused = letters::find(office.bus(), &id).await.unwrap();
    assert_eq!((refused.state, refused.letter.generation), (LetterState::Open, 1));
    letters::edit(office.bus(), &refused, order(0).encode_to_vec().into(), &Order::default()).await.unwrap();
    let mended = letters::find(office.bus(), &id).await.unwrap();
    letters::replay(office.bus(), &mended, &Order::default()).await.unwrap();
    eventually("its end", || async {
        let letter = letters::find(office.bus(), &id).await.unwrap();
        (letter.state == LetterState::Resolved).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_sent_does_not_keep_a_job_from_its_end() {
    let office = Office::open(&["a"]).await;
    let _at_work = work(&office.broker, "a", &Shelf::default()).await;
    capture(office.bus(), "a", 0..4).await;
    capture_lost(office.bus(), &lane_of("a", "local")).await;
    let first = one_too_large(&office).await;

    let job = office.ask("a", |_| {}).await;
    assert_eq!(job.replay.selected, 4, "what is lost is not meant");
    let keeping = office.keep("one");
    let job = office.finished(&job).await;
    assert_eq!(job.state(), JobState::Done);
    let counts = job.counts();
    assert_eq!((counts.dispatched, counts.resolved, counts.failed, counts.skipped.total()), (4, 3, 1, 0));
    let letters = office.letters().await;
    let refused = letters.iter().find(|letter| letter.letter.id == first.letter.id).unwrap();
    assert_eq!((refused.state, refused.letter.generation), (LetterState::Open, 1));
    assert_eq!(refused.letter.fault.as_ref().unwrap().reason, Reason::PublishRefused.code());
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_another_region_is_not_replayed_here() {
    let office = Office::open(&["a"]).await;
    let _at_work = work(&office.broker, "a", &Shelf::default()).await;
    capture_lost(office.bus(), &lane_of("a", "local")).await;
    let mut letter = office.letters().await.remove(0);
    let lost = letters::replay(office.bus(), &letter, &Order::default()).await.unwrap_err();
    assert_eq!(lost.reason(), Reason::LetterChanged, "{lost}");
    letter.letter.source.as_mut().unwrap().subject = format!("mesh1.event.eu.orders.{EVENT}.3");
    letter.region = "eu".into();
    let fault = letters::replay(office.bus(), &letter, &Order::default()).await.unwrap_err();
    assert!(fault.message().contains("of the region eu, and this is local"), "{fault}");
    assert_eq!(office.letters().await[0].state, LetterState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_not_meant_take_nothing_from_the_rate() {
    let office = Office::open(&["a"]).await;
    let _at_work = work(&office.broker, "a", &Shelf::default()).await;
    capture(office.bus(), "a", 0..40).await;
    // The first one goes at once, the next one would in a minute.
    let job = office.ask("a", |ask| ask.rate = "1/m".parse().ok()).await;
    let letters = office.letters().await;
    let (kept, others) = letters.split_first().unwrap();
    for letter in others {
        append(office.bus(), letter, Record::Discarded(v1::LetterAct::default())).await;
    }
    let keeping = office.keep("one");
    let job = office.finished(&job).await;
    let counts = job.counts();
    assert_eq!((counts.resolved, counts.skipped.discarded), (1, 39));
    let resolved = office.letters().await.into_iter().find(|letter| letter.state == LetterState::Resolved).unwrap();
    assert_eq!(resolved.letter.id, kept.letter.id);
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_at_the_command_line_prints_one_object_whatever_it_did() {
    let office = Office::open(&["a"]).await;
    let _at_work = work(&office.broker, "a", &Shelf::default()).await;
    capture(office.bus(), "a", 0..3).await;
    let person = Operator::at(&office.broker, "operator");
    let replay = |words: &[&'static str]| [&["dead-letter", "replay"], words].concat();
    let nothing = json!({ "job": null, "letters": [] });

    // Letters that are held are none that a job sends, and neither are the open ones then.
    let held = &office.letters().await[0];
    letters::hold(office.bus(), held, &Order::default()).await.unwrap();
    assert_eq!(person.json(0, &replay(&["--all", "--state", "held", "--rate", "5/s", "--yes"])).await, nothing);
    let again = person.run(&replay(&["--all", "--again", "--rate", "5/s", "--yes"])).await;
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--again goes with no option of a job"), "{again:?}");
    assert!(person.json(0, &["dead-letter", "jobs", "list"]).await.as_array().unwrap().is_empty());

    // Nobody keeps: it is let go of when the time is over, and goes on. Filters alone say which.
    let words = replay(&["--consumer", "a/work", "--rate", "5/s", "--timeout", "1s", "--yes"]);
    let asked = person.json(1, &words).await;
    assert_eq!((&asked["job"]["state"], &asked["job"]["selected"]), (&"waiting".into(), &2.into()));
    assert_eq!(asked["letters"], json!([]));
    let few = person.json(0, &replay(&["--consumer", "a/work", "--yes"])).await;
    assert_eq!((&few["job"], few["letters"].as_array().unwrap().len()), (&json!(null), 2));
    assert!(few["letters"].as_array().unwrap().iter().all(|letter| letter["state"] == "resolved"), "{few}");
    assert_eq!(person.json(0, &replay(&["--consumer", "a/work", "--yes"])).await, nothing);

    // More than a few are a job.
    capture(office.bus(), "a", 3..104).await;
    let many = person.json(0, &replay(&["--all", "--yes", "--no-wait"])).await;
    assert_eq!(many["job"]["selected"], 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_beside_a_job_says_so_and_a_watch_for_what_never_comes_is_refused() {
    let office = Office::open(&["a", "b"]).await;
    for service in ["a", "b"] {
        capture(office.bus(), service, 0..3).await;
    }
    // Nobody keeps: all of them are still to be sent.
    let job = office.ask("a", |ask| ask.rate = "5/s".parse().ok()).await;
    let person = Operator::at(&office.broker, "operator");
    let said = async |words: &[&'static str]| {
        let ended = person.run(&[&["dead-letter"], words].concat()).await;
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let told = format!("note: job {} of ada (waiting, 5/s) has 3 letters to send", job.id);
    for words in [&["replay", "--all", "--dry-run"][..], &["replay", "--consumer", "a/work", "--yes", "--no-wait"]] {
        let (status, stderr) = said(words).await;
        assert!(status == Some(0) && stderr.contains(&told), "{words:?}: {stderr}");
    }
    let (status, stderr) = said(&["replay", "--consumer", "b/work", "--yes", "--no-wait"]).await;
    assert!(status == Some(0) && !stderr.contains("note: job"), "{stderr}");
    for words in [&["watch", "--state", "held"][..], &["watch", "--since", "2h"]] {
        let (status, stderr) = said(words).await;
        assert!(status == Some(2) && stderr.contains("mesh dead-letter list"), "{words:?}: {stderr}");
    }
}
