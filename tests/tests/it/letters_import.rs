//! An import that the broker does not take to its end, and letters that stand in another region.

use mesh_core::{
    dead_letter::{Letter, LetterState},
    operate::letters,
    proto::v1::{self, letter_record::Record},
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::TestBroker;
use prost::Message as _;
use serde_json::Value;

use crate::{
    claims::foreign,
    command_line::Operator,
    letters_cli::{WORKER, all, some_letters},
    shop::{bank, till},
};

async fn broker() -> TestBroker {
    TestBroker::start(&[till(), bank()]).await.unwrap()
}

async fn hold_at_most(broker: &TestBroker, messages: i64) {
    let jetstream = foreign(broker, "operator").await;
    let mut config = jetstream.get_stream(DEAD_LETTER_STREAM).await.unwrap().cached_info().config.clone();
    config.max_messages = messages;
    jetstream.update_stream(config).await.unwrap();
}

/// Adds records to a letter, as its consumer and its operators did.
async fn add(broker: &TestBroker, id: &str, records: impl IntoIterator<Item = Record>) {
    let jetstream = foreign(broker, "operator").await;
    for record in records {
        let record = v1::LetterRecord { record: Some(record) }.encode_to_vec();
        let subject = format!("mesh1.dead.local.bank.{WORKER}.{id}");
        jetstream.publish(subject, record.into()).await.unwrap().await.unwrap();
    }
}

fn act(generation: u32, why: &str) -> v1::LetterAct {
    v1::LetterAct { generation, why: why.into(), ..Default::default() }
}

/// The line of one letter in an export, in a file of its own.
async fn exported(from: &Operator, id: &str, to: &Operator) -> String {
    let printed = from.run(&["dead-letter", "export"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(&format!("\"id\":{id:?}"))).unwrap();
    let file = to.home.path().join("one.ndjson").display().to_string();
    std::fs::write(&file, line).unwrap();
    file
}

async fn states(broker: &TestBroker) -> Vec<LetterState> {
    let mesh = broker.connect("operator").await.unwrap();
    all(mesh.bus()).await.into_iter().map(|letter| letter.state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_ended_is_not_open_where_its_import_was_cut_off() {
    let (here, there) = (broker().await, broker().await);
    let id = some_letters(&here).await.remove(0);
    add(&here, &id, [Record::Replaying(act(1, "again")), Record::Resolved(act(1, "handled"))]).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let file = exported(&operator, &id, &other).await;
    for room in [1, 2] {
        hold_at_most(&there, room).await;
        let ended = other.run(&["dead-letter", "import", &file]).await;
        assert!(!ended.status.success(), "there is no room for it: {ended:?}");
        assert_eq!(states(&there).await, [], "room for {room}");
    }
    hold_at_most(&there, -1).await;
    for (imported, skipped) in [(1, 0), (0, 1)] {
        let counts = other.json(0, &["dead-letter", "import", &file]).await;
        assert_eq!((&counts["imported"], &counts["skipped"]), (&imported.into(), &skipped.into()));
        assert_eq!(states(&there).await, [LetterState::Resolved]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_too_long_for_one_write_is_whole_or_refused() {
    let (here, there) = (broker().await, broker().await);
    let mut ids = some_letters(&here).await;
    let (long, longer) = (ids.remove(0), ids.remove(0));
    let turns =
        |turns: usize| (0..turns).flat_map(|_| [Record::Held(act(0, "wait")), Record::Released(act(0, "go on"))]);
    Box::pin(add(&here, &long, turns(499).chain([Record::Held(act(0, "to stay"))]))).await;
    let ended = [Record::Held(act(0, "x")), Record::Discarded(act(0, "too late"))];
    Box::pin(add(&here, &longer, turns(499).chain(ended))).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let file = exported(&operator, &long, &other).await;
    assert_eq!(other.json(0, &["dead-letter", "import", &file]).await["imported"], 1);
    assert_eq!(states(&there).await, [LetterState::Held]);
    let file = exported(&operator, &longer, &other).await;
    let ended = other.run(&["dead-letter", "import", &file]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("one.ndjson:1: ") && said.contains("1001 records"), "{said}");
    assert_eq!(states(&there).await, [LetterState::Held], "nothing of it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_stands_in_another_region_is_not_put_into_this_one_too() {
    let (here, there) = (broker().await, broker().await);
    let id = some_letters(&here).await.remove(0);
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let file = exported(&operator, &id, &other).await;
    let line = std::fs::read_to_string(&file).unwrap().replace("\"region\":\"local\"", "\"region\":\"eu\"");
    std::fs::write(&file, line).unwrap();
    let said = |ended: std::process::Output| String::from_utf8(ended.stderr).unwrap();
    let first = said(other.run(&["dead-letter", "import", &file, "--dry-run"]).await);
    let first_written = said(other.run(&["dead-letter", "import", &file]).await);
    let ended = other.run(&["dead-letter", "import", &file, "--region", "local"]).await;
    assert!(!ended.status.success(), "{ended:?}");
    let refused = said(ended);
    for part in ["one.ndjson:1: ", &id, "stands in the region eu", "--region eu"] {
        assert!(refused.contains(part), "no {part:?} in {refused}");
    }
    assert!(first_written.contains("1 letter of the region eu can't be replayed in local"), "{first_written}");
    assert!(!first_written.contains("takes such into it"), "it would be refused: {first_written}");
    assert!(first.contains("1 letter of the region eu can't be replayed in local; --region local takes"), "{first}");
    let mesh = there.connect("operator").await.unwrap();
    let regions = |letters: Vec<Letter>| letters.into_iter().map(|letter| letter.region).collect::<Vec<_>>();
    assert_eq!(regions(all(mesh.bus()).await), ["eu"]);
    other.json(0, &["dead-letter", "hold", &id, "--why", "x", "--region", "eu"]).await;
    assert_eq!(letters::find(mesh.bus(), &id).await.unwrap().state, LetterState::Held);
    // Again into its own region, and into none: it is there.
    for more in [&["--region", "eu"][..], &[]] {
        let counts = other.json(0, &[&["dead-letter", "import", &file], more].concat()).await;
        assert_eq!(counts["skipped"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_letter_that_stands_in_two_regions_each_can_be_acted_on() {
    let (here, there) = (broker().await, broker().await);
    let id = some_letters(&here).await.remove(0);
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let file = exported(&operator, &id, &other).await;
    let line = std::fs::read_to_string(&file).unwrap();
    let eu: Value = serde_json::from_str(&line.replace("\"region\":\"local\"", "\"region\":\"eu\"")).unwrap();
    std::fs::write(&file, format!("{line}\n{eu}\n")).unwrap();
    assert_eq!(other.json(0, &["dead-letter", "import", &file]).await["imported"], 2, "as an export had them");
    other.json(0, &["dead-letter", "hold", &id, "--why", "x", "--region", "eu"]).await;
    other.json(0, &["dead-letter", "discard", &id, "--why", "x"]).await;
    let mesh = there.connect("operator").await.unwrap();
    let mut stand: Vec<_> = all(mesh.bus()).await.into_iter().map(|letter| (letter.region, letter.state)).collect();
    stand.sort_unstable();
    assert_eq!(stand, [("eu".to_owned(), LetterState::Held), ("local".to_owned(), LetterState::Discarded)]);
}

/// Whether a process catches Ctrl-C by now.
#[cfg(target_os = "linux")]
fn catches_ctrl_c(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|caught| caught & 0b10 != 0)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_waits_for_lines_hears_that_it_is_to_stop() {
    use std::{io::Write as _, process::Stdio};

    use mesh_tests::eventually;
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    let (here, there) = (broker().await, broker().await);
    let id = some_letters(&here).await.remove(0);
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    let line = std::fs::read(exported(&operator, &id, &other).await).unwrap();
    let mut command = other.command(&["dead-letter", "import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&line).unwrap();
    let pid = child.id();
    eventually("Ctrl-C to be caught", || async { catches_ctrl_c(pid).then_some(()) }).await;
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGINT).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("stopped: each letter"), "{said}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0 imported, 0 were there\n");
    assert_eq!(states(&there).await, []);
}
