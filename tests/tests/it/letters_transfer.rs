//! Letters out of one mesh and into another.

use std::process::Stdio;

use mesh_core::{
    dead_letter::{Letter, LetterState},
    operate::{
        keeper::{KeeperSettings, ask},
        letters,
    },
    proto::v1,
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{TestBroker, campaign::proxy::Proxy, eventually, foreign, keeper::Running, letters as captured};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message as _;
use serde_json::Value;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    command_line::Operator,
    letters_cli::{WORKER, all, some_letters},
    shop::{bank, consumer, order, orders, till},
};

/// Writes a record that does not follow from the state of an open letter.
async fn junk(broker: &TestBroker, id: &str) {
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Released(v1::LetterAct::default())) };
    let foreign = async_nats::ConnectOptions::with_nkey(broker.seed("operator").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(broker.server.client_url())
        .await
        .unwrap();
    let subject = format!("mesh1.dead.local.bank.{WORKER}.{id}");
    async_nats::jetstream::new(foreign).publish(subject, record.encode_to_vec().into()).await.unwrap().await.unwrap();
}

/// Writes a record of a kind that this version does not know, as a newer one might.
async fn news_of_a_later_version(broker: &TestBroker, id: &str) {
    let jetstream = async_nats::jetstream::new(foreign::client(broker, "operator").await);
    // Field 100 of the record, a message that is empty.
    let record: &[u8] = &[0xa2, 0x06, 0x00];
    assert_eq!(v1::LetterRecord::decode(record).unwrap().record, None);
    let subject = format!("mesh1.dead.local.bank.{WORKER}.{id}");
    jetstream.publish(subject, record.into()).await.unwrap().await.unwrap();
}

/// The lines of an export, each at the place of its id; they come in the order of what was done last.
fn in_order<'t>(text: &'t str, ids: &[String]) -> Vec<&'t str> {
    let line = |id: &String| text.lines().find(|line| line.contains(&format!("\"id\":{id:?}"))).unwrap();
    ids.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_taken_out_and_put_into_another_mesh_as_they_are() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    operator.json(0, &["dead-letter", "edit", &ids[1], "--set", "currency=EUR", "--why", "by hand"]).await;
    operator.json(0, &["dead-letter", "hold", &ids[2], "--why", "wait"]).await;
    // What a writer with a fault leaves: it changes nothing, and is not taken along.
    junk(&here, &ids[3]).await;
    let file = operator.home.path().join("letters.ndjson").display().to_string();
    let ended = operator.run(&["dead-letter", "export", "--to", &file]).await;
    assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 5);
    let line: Value = serde_json::from_str(in_order(&text, &ids)[1]).unwrap();
    assert_eq!((&line["payload"]["currency"], &line["payload"]["amountCents"]), (&"EUR".into(), &"[payment]".into()));
    assert_eq!(line["records"][1]["edited"]["act"]["why"], "by hand");
    let printed = operator.run(&["dead-letter", "export"]).await;
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), text, "the same to standard output");
    let twice = operator.run(&["dead-letter", "export", "--to", &file]).await;
    assert_eq!(twice.status.code(), Some(2), "a file that is there is not written over");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let (other_file, part) = (format!("{file}.2"), format!("{file}.2.part"));
    std::fs::write(&part, "a person's").unwrap();
    let beside = operator.run(&["dead-letter", "export", "--to", &other_file]).await;
    assert_eq!(beside.status.code(), Some(2), "what is there is nobody else's");
    assert_eq!(std::fs::read_to_string(&part).unwrap(), "a person's");
    assert!(!std::fs::exists(&other_file).unwrap(), "what has the name is whole");

    assert_eq!(other.json(0, &["dead-letter", "import", &file, "--dry-run"]).await["imported"], 0);
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&5.into(), &0.into()));
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&0.into(), &5.into()));
    let (one, two) = (here.connect("operator").await.unwrap(), there.connect("operator").await.unwrap());
    let same = |letters: Vec<Letter>| -> Vec<Letter> {
        letters.into_iter().map(|letter| Letter { last_sequence: 0, ..letter }).collect()
    };
    assert_eq!(same(all(one.bus()).await), same(all(two.bus()).await), "payloads, headers, states and histories");
    let printed = other.run(&["dead-letter", "export"]).await;
    let theirs = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(theirs.lines().count(), 5);
    assert_eq!(in_order(&theirs, &ids), in_order(&text, &ids), "out of the other mesh: the same bytes");

    // What went on there is not taken back.
    other.json(0, &["dead-letter", "discard", &ids[0], "--why", "done elsewhere"]).await;
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!(counts["skipped"], 5);
    assert_eq!(letters::find(two.bus(), &ids[0]).await.unwrap().state, LetterState::Discarded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_only_a_later_version_can_read_is_left_alone_and_named() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mut ids = some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    news_of_a_later_version(&broker, &ids[1]).await;
    let not_read = ids.remove(1);
    let named = "note: 1 letter left out and left alone: what was done last can't be read";
    let is_named = |said: &[u8]| {
        let said = String::from_utf8_lossy(said);
        assert!(said.contains(named) && said.contains(&format!("the first: {not_read}")), "{said}");
    };
    let exported = operator.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(exported.stdout).unwrap();
    assert!(exported.status.success() && !text.contains(&not_read), "{text}");
    assert_eq!(in_order(&text, &ids).len(), 4);
    is_named(&exported.stderr);
    // Who looks sees it as far as it can be read.
    for words in [&["list", "--limit", "0"][..], &["list", "--where", "letter.state == 'open'"]] {
        let listed = operator.json(0, &[&["dead-letter"], words].concat()).await;
        assert!(listed.as_array().unwrap().iter().any(|letter| letter["id"] == not_read.as_str()), "{listed}");
    }
    // A condition that does not fit is said of an export too.
    let unclear = operator.run(&["dead-letter", "export", "--where", "int(payload.currency) > 5"]).await;
    let said = String::from_utf8_lossy(&unclear.stderr);
    assert!(unclear.status.success() && unclear.stdout.is_empty(), "{said}");
    assert!(said.contains("note: --where could not be judged for 4 letters, left out"), "{said}");
    let words = ["dead-letter", "hold", "--all", "--why", "wait", "--yes", "-o", "json"];
    let held = operator.run(&words).await;
    assert!(held.status.success(), "{held:?}");
    is_named(&held.stderr);
    let held: Value = serde_json::from_slice(&held.stdout).unwrap();
    let mut done: Vec<_> = held.as_array().unwrap().iter().map(|end| end["id"].as_str().unwrap()).collect();
    done.sort_unstable();
    ids.sort();
    assert_eq!(done, ids, "the others");
    let few = operator.run(&["dead-letter", "replay", "--all", "--state", "replaying"]).await;
    is_named(&few.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_of_how_many_letters_it_does_not_know_how_they_stand() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    let said = async |words: &[&str], listed: usize| {
        let ended = operator.run(&[&["dead-letter"], words, &["-o", "json"]].concat()).await;
        let printed: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((ended.status.code(), printed.as_array().unwrap().len()), (Some(0), listed), "{words:?}");
        String::from_utf8(ended.stderr).unwrap()
    };
    let (list, group): (&[&str], &[&str]) = (&["list"], &["group"]);
    assert_eq!((said(list, 5).await, said(group, 2).await), (String::new(), String::new()));
    news_of_a_later_version(&broker, &ids[1]).await;
    // Of this one, not even the capture.
    let unheard = "0".repeat(32);
    news_of_a_later_version(&broker, &unheard).await;
    let named = "note: 2 letters may stand otherwise: what was done last can't be read";
    let is_named = |said: String| assert!(said.contains(named) && said.contains(&unheard), "{said}");
    is_named(said(list, 5).await);
    is_named(said(group, 2).await);
    assert_eq!(said(&["list", "--consumer", "bank/other"], 0).await, "", "of another consumer there is none");
    let mesh = broker.connect("operator").await.unwrap();
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    is_named(said(list, 5).await);
    is_named(said(group, 2).await);
    assert_eq!(said(&["list", "--consumer", "bank/other"], 0).await, "", "of another consumer there is none");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_taken_away_is_left_out_of_a_list_which_says_so() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&broker).await;
    let mesh = broker.connect("operator").await.unwrap();
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    let gone = format!("mesh1.dead.local.bank.{WORKER}.{}", ids[1]);
    let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    let stored = jetstream.get_stream(DEAD_LETTER_STREAM).await.unwrap();
    assert_eq!(stored.purge().filter(gone).await.unwrap().purged, 1);
    let operator = Operator::at(&broker, "operator");
    let ended = operator.run(&["dead-letter", "list", "-o", "json"]).await;
    let listed: Vec<Value> = serde_json::from_slice(&ended.stdout).unwrap();
    let listed: Vec<&str> = listed.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), listed.len()), (Some(0), 4), "{said}");
    assert!(
        !listed.contains(&ids[1].as_str()) && said.contains("note: 1 letter left out: not where the index"),
        "{said}"
    );
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_that_is_cut_off_is_json_all_the_same() {
    const MANY: u64 = 1200;
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let long = |number| (number, OrderPlaced { customer_id: "x".repeat(4096), ..order(0) });
    captured::capture(mesh.bus(), "mail", (0..MANY).map(long)).await;
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    // What the index says comes through, and of the letters about the half.
    let proxy = Proxy::start(broker.server.client_url().trim_start_matches("nats://").parse().unwrap()).await.unwrap();
    proxy.lose_answers_after(MANY * 4096 / 2);
    let operator = Operator::at(&broker, "operator").through(proxy.url());
    let ended = operator.run(&["dead-letter", "list", "--limit", "2000", "-o", "json"]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    let listed: Vec<Value> = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(!listed.is_empty() && (listed.len() as u64) < MANY, "{}: {said}", listed.len());
    assert!(ended.status.code() == Some(1) && said.contains("can't be read"), "{:?}: {said}", ended.status);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_stopped_leaves_nothing_and_the_next_one_has_its_name() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let long = |number| (number, OrderPlaced { customer_id: "x".repeat(4096), ..order(0) });
    captured::capture(mesh.bus(), "mail", (0..200).map(long)).await;
    // Of all that is asked for, the middle never comes.
    let proxy = Proxy::start(broker.server.client_url().trim_start_matches("nats://").parse().unwrap()).await.unwrap();
    proxy.lose_answers_after(200_000);
    let operator = Operator::at(&broker, "operator");
    let file = operator.home.path().join("letters.ndjson");
    let part = operator.home.path().join("letters.ndjson.part");
    let words = ["dead-letter", "export", "--to", file.to_str().unwrap()];
    let stuck = Operator::at(&broker, "operator").through(proxy.url());
    let child = stuck.command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("an export that waits", || async { (proxy.lost_bytes() > 0 && part.exists()).then_some(()) }).await;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    eventually("nothing of it to be left", || async { (!part.exists()).then_some(()) }).await;
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("nothing was exported"), "{said}");
    assert!(!file.exists());
    let again = operator.run(&words).await;
    assert!(again.status.success(), "{again:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_named_and_an_import_that_was_cut_off_goes_on() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    operator.json(0, &["dead-letter", "hold", &ids[0], "--why", "wait"]).await;
    let printed = operator.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    let lines: Vec<String> = in_order(&text, &ids).into_iter().map(str::to_owned).collect();
    let mesh = there.connect("operator").await.unwrap();
    let first_alone: Value = serde_json::from_str(&lines[0]).unwrap();
    let mut cut_off = first_alone.clone();
    cut_off["records"].as_array_mut().unwrap().truncate(1);
    let mut foreign = first_alone.clone();
    foreign["id"] = "0".repeat(32).into();
    let mut out_of_turn = first_alone.clone();
    out_of_turn["records"].as_array_mut().unwrap().reverse();
    let file = other.home.path().join("some.ndjson").display().to_string();
    let bare_id = lines[2].find("\"id\"").unwrap() + 1;
    let mut effects = ["effect: it happened"].into_iter();
    for (line, said) in [
        ("{".to_owned(), "some.ndjson:3:1: EOF while parsing an object\n"),
        (lines[2].replacen("\"id\"", "id", 1), &format!("some.ndjson:3:{bare_id}: key must be a string\n")),
        (lines[2].replace("\"region\":\"local\"", "\"region\":\"NO\""), "not a name"),
        (lines[2].replace("\"capturedAtMs\"", "\"capturdAtMs\""), "some.ndjson:3: record 1: captured"),
        (foreign.to_string(), "some.ndjson:3: record 1 is of another letter"),
        (out_of_turn.to_string(), "some.ndjson:3: record 1 does not follow"),
    ] {
        std::fs::write(&file, format!("{cut_off}\n\n{line}\n{}\n", lines[3])).unwrap();
        let ended = other.run(&["dead-letter", "import", &file]).await;
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(2) && text.contains(said) && text.contains("some.ndjson:3:"), "{text}");
        // The line before was written by the first import; later ones find it.
        assert!(text.contains(effects.next().unwrap_or("effect: nothing happened")), "{text}");
        let imported = all(mesh.bus()).await;
        assert_eq!(imported.len(), 1, "the line before, and nothing of the bad line or behind it");
        assert_eq!(imported[0].state, LetterState::Open);
    }
    // The first letter lacks a record: it is added, the others follow.
    std::fs::write(&file, lines.join("\n")).unwrap();
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&5.into(), &0.into()));
    assert_eq!(letters::find(mesh.bus(), &ids[0]).await.unwrap().state, LetterState::Held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_stands_in_several_lines_is_imported_once() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    for _ in 0..8 {
        operator.json(0, &["dead-letter", "hold", &ids[0], "--why", "wait"]).await;
        operator.json(0, &["dead-letter", "release", &ids[0], "--why", "go on"]).await;
    }
    let printed = operator.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(&ids[0])).unwrap();
    let file = other.home.path().join("twice.ndjson").display().to_string();
    std::fs::write(&file, format!("{line}\n").repeat(6) + &text).unwrap();
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&5.into(), &6.into()));
    let mesh = there.connect("operator").await.unwrap();
    assert_eq!(letters::find(mesh.bus(), &ids[0]).await.unwrap().history.len(), 17);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_named_by_its_line() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let printed = operator.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    let file = other.home.path().join("some.ndjson").display().to_string();
    std::fs::write(&file, format!("\n{text}")).unwrap();
    let broker = async_nats::jetstream::new(foreign::client(&there, "operator").await);
    let mut config = broker.get_stream(DEAD_LETTER_STREAM).await.unwrap().cached_info().config.clone();
    config.max_message_size = 64;
    broker.update_stream(config).await.unwrap();
    let ended = other.run(&["dead-letter", "import", &file]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("some.ndjson:2: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_another_region_are_named_or_taken_into_this_one() {
    let (here, there) =
        (TestBroker::start(&[till(), bank()]).await.unwrap(), TestBroker::start(&[till(), bank()]).await.unwrap());
    some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let printed = operator.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap().replace("\"region\":\"local\"", "\"region\":\"eu\"");
    let file = other.home.path().join("eu.ndjson").display().to_string();
    let mesh = there.connect("operator").await.unwrap();
    for (line, region, more, said) in [
        (0, "eu", &[][..], "note: 1 letter of the region eu can't be replayed in local"),
        (1, "local", &["--region", "local"], "note: 1 letter of the region eu taken into local"),
    ] {
        let line = text.lines().nth(line).unwrap();
        std::fs::write(&file, line).unwrap();
        let ended = other.run(&[&["dead-letter", "import", &file], more].concat()).await;
        assert!(ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains(said), "{ended:?}");
        let id: Value = serde_json::from_str(line).unwrap();
        let letter = letters::find(mesh.bus(), id["id"].as_str().unwrap()).await.unwrap();
        assert_eq!(letter.region, region);
    }
}
