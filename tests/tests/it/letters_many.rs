//! Orders for very many letters: each once, as they stood at the moment of asking, and few of them in memory.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write as _},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use futures_util::TryStreamExt as _;
use mesh_core::{
    Mesh,
    bus::Bus,
    dead_letter::LetterState,
    operate::{
        keeper::{KeeperSettings, ask},
        letters::{self, Order, Selector, Sifted},
    },
    proto::v1,
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{TestBroker, eventually, foreign, keeper::Running, letters::capture};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    command_line::Operator,
    letters_cli::{all, keeper_asked},
    shop::{consumer, order, orders},
};

const MANY: u64 = 20_000;
/// What so many may need more than one alone: it is 2 MiB. All of them at once would be about 90 MiB.
pub(crate) const MORE_KIB: u64 = 16 * 1024;

/// What a process needed at most, in KiB. `None`: it has ended.
fn peak(process: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A command that came to its end.
struct Ended {
    printed: String,
    said: String,
    status: Option<i32>,
    /// What it needed of memory at its peak, in KiB.
    most: u64,
}

async fn watched(operator: &Operator, words: &[&str]) -> Ended {
    let [out, err] = ["printed", "said"].map(|name| operator.home.path().join(name));
    let mut command = operator.command(&[words, &["-o", "json"]].concat());
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut process = command.spawn().unwrap();
    let mut most = 0;
    let ended = loop {
        // What a process needed at most is known to the system as long as it lives.
        most = most.max(peak(&process).unwrap_or(0));
        match process.try_wait().unwrap() {
            Some(ended) => break ended,
            None => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
        }
    };
    let [printed, said] = [out, err].map(|path| std::fs::read_to_string(path).unwrap());
    Ended { printed, said, status: ended.code(), most }
}

/// Runs a command to its good end: what it printed, and what it needed of memory at its peak.
pub(crate) async fn measured(operator: &Operator, words: &[&str]) -> (Value, u64) {
    let ended = watched(operator, words).await;
    assert_eq!(ended.status, Some(0), "{words:?}: {}", ended.said);
    (serde_json::from_str(&ended.printed).unwrap(), ended.most)
}

/// One letter of one consumer and very many of another, and who looks at them.
async fn one_and_many() -> (TestBroker, Mesh) {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work"), consumer("post", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let long = |number| (number, OrderPlaced { customer_id: "x".repeat(400), ..order(7) });
    capture(mesh.bus(), "post", [long(0)]).await;
    capture(mesh.bus(), "mail", (0..MANY).map(long)).await;
    (broker, mesh)
}

/// Types `y` after the question at a terminal: what is said then, and how the command ends.
pub(crate) async fn agreed(mut process: Child, mut screen: ChildStdout) -> (String, ExitStatus) {
    process.stdin.as_mut().unwrap().write_all(b"y\n").unwrap();
    let rest = move || {
        let mut said = String::new();
        screen.read_to_string(&mut said).unwrap();
        (said, process.wait().unwrap())
    };
    tokio::task::spawn_blocking(rest).await.unwrap()
}

/// The letters that were done, each once.
fn done(printed: &Value, state: &str) -> BTreeSet<String> {
    let ends = printed.as_array().unwrap();
    assert!(ends.iter().all(|end| end["done"] == true && end["state"] == state));
    let ids: BTreeSet<String> = ends.iter().map(|end| end["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), ends.len());
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_letters_are_each_ordered_once_and_few_of_them_are_in_memory() {
    let (broker, mesh) = one_and_many().await;
    let operator = Operator::at(&broker, "operator");
    let words = |verb, consumer| ["dead-letter", verb, "--consumer", consumer, "--why", "a test", "--yes"];
    let (one, alone) = measured(&operator, &words("hold", "post/work")).await;
    assert_eq!(done(&one, "held").len(), 1);
    let mut ids = None;
    for (turn, (verb, state)) in (2..).zip([("hold", "held"), ("discard", "discarded")]) {
        let (printed, most) = measured(&operator, &words(verb, "mail/work")).await;
        let these = done(&printed, state);
        assert_eq!(these.len() as u64, MANY, "{verb}");
        assert_eq!(*ids.get_or_insert(these.clone()), these, "{verb}");
        assert!(most < alone + MORE_KIB, "{verb}: {most} KiB, and {alone} KiB for one");
        let records = mesh.bus().stream_state(DEAD_LETTER_STREAM).await.unwrap().unwrap().messages;
        assert_eq!(records, 2 + MANY * turn, "{verb}: one record for each");
    }
    let none = operator.json(0, &words("discard", "mail/work")).await;
    assert_eq!(none, Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_letters_are_looked_at_one_by_one_where_only_they_say_what_is_meant() {
    let (broker, _mesh) = one_and_many().await;
    let operator = Operator::at(&broker, "operator");
    let (all_of_them, some) = ("payload.customer_id.startsWith('x')", "letter.message_id.endsWith('77')");
    let words =
        |verb, consumer, more: &[&'static str]| [&["dead-letter", verb, "--consumer", consumer][..], more].concat();
    let mut whole = Vec::new();
    for (verb, more) in [
        ("list", &["--limit", "0"][..]),
        ("list", &["--where", all_of_them]),
        ("group", &["--where", all_of_them]),
        ("replay", &["--where", some, "--dry-run"]),
    ] {
        let (one, alone) = measured(&operator, &words(verb, "post/work", more)).await;
        let (printed, most) = measured(&operator, &words(verb, "mail/work", more)).await;
        assert!(most < alone + MORE_KIB, "{verb} {more:?}: {most} KiB, and {alone} KiB for one");
        match (verb, more) {
            ("list", ["--where", _]) => {
                assert_eq!(printed.as_array().unwrap(), &whole[..100], "the oldest");
                assert_eq!(one.as_array().unwrap().len(), 1);
            }
            ("list", _) => {
                let listed = printed.as_array().unwrap();
                let place =
                    |letter: &Value| (letter["capturedAtMs"].as_i64(), letter["id"].as_str().map(str::to_owned));
                assert!(listed.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "each once, the oldest first");
                assert_eq!(listed.len() as u64, MANY);
                whole.clone_from(listed);
            }
            ("group", _) => assert_eq!((&printed[0]["count"], &printed[1]), (&MANY.into(), &Value::Null)),
            _ => assert_eq!(printed["letters"], MANY / 100),
        }
    }
    let table = operator.run(&words("list", "mail/work", &["--limit", "0"])).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count() as u64, MANY + 1, "one header, and a line for each");

    // More than a job can name: they are not read to the end.
    let too_many = words("replay", "mail/work", &["--where", all_of_them, "--dry-run"]);
    let (_, alone) = measured(&operator, &words("replay", "post/work", &["--where", all_of_them, "--dry-run"])).await;
    let Ended { said, status, most, .. } = watched(&operator, &too_many).await;
    assert!(status == Some(2) && said.contains("at least 10001 letters are meant one by one"), "{said}");
    assert!(most < alone + MORE_KIB, "{most} KiB, and {alone} KiB for one");
}

const DISCARD: [&str; 8] = ["dead-letter", "discard", "--all", "--why", "a test", "--yes", "-o", "json"];

/// A command that discards very many letters and has begun. It can't be through: nobody reads what it prints.
async fn discarding(broker: &TestBroker, operator: &Operator) -> Child {
    let mesh = broker.connect("operator").await.unwrap();
    capture(mesh.bus(), "mail", (0..MANY).map(|number| (number, order(7)))).await;
    let mut command = operator.command(&DISCARD);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the first orders", || async { (records(mesh.bus()).await > MANY).then_some(()) }).await;
    process
}

pub(crate) async fn records(bus: &Bus) -> u64 {
    bus.stream_state(DEAD_LETTER_STREAM).await.unwrap().unwrap().messages
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_orders_no_more_and_says_what_it_did() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let process = discarding(&broker, &operator).await;
    kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGINT).unwrap();
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let printed = serde_json::from_slice(&ended.stdout).unwrap();
    let count = done(&printed, "discarded").len() as u64;
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(count > 0 && count < MANY, "{count}");
    assert!(said.starts_with("stopped: discarded ") && said.contains("the same command again"), "{said}");
    let told: String = said.lines().next().unwrap().chars().filter(char::is_ascii_digit).collect();
    assert_eq!((told, records(mesh.bus()).await), (count.to_string(), MANY + count), "all that was done, and no more");
    let rest = operator.json(0, &DISCARD[..6]).await;
    assert_eq!(done(&rest, "discarded").len() as u64, MANY - count, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_reading_ends_too_soon_it_is_said_how_much_was_done_though_nobody_reads_it() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let mut process = discarding(&broker, &operator).await;
    let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    let letters = jetstream.get_stream(DEAD_LETTER_STREAM).await.unwrap();
    let readers: Vec<String> = letters.consumer_names().try_collect().await.unwrap();
    assert!(!readers.is_empty());
    for reader in readers {
        letters.delete_consumer(&reader).await.unwrap();
    }
    drop(process.stdout.take());
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let count = records(mesh.bus()).await - MANY;
    assert!(!ended.status.success() && said.contains("not all letters were read"), "{said}");
    assert!(
        count > 0 && count < MANY && said.contains(&format!("discarded before that: {count}\"")),
        "{count}: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_takes_what_is_printed_it_is_said_how_much_was_done() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    capture(mesh.bus(), "mail", (0..30).map(|number| (number, order(7)))).await;
    let operator = Operator::at(&broker, "operator");
    let words = ["dead-letter", "hold", "--all", "--why", "a test", "--yes", "-o", "json"];
    let mut command = operator.command(&words);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("held 30 letters all the same"), "{said}");
    assert!(said.contains("standard output can't be written"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_the_moment_of_asking_is_not_meant() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let bus = mesh.bus();
    let selector = Selector::default();
    assert_eq!(letters::cut_off(bus, &selector).await.unwrap(), 0);
    capture(bus, "mail", (0..4).map(|number| (number, order(7)))).await;
    let before = all(bus).await;
    let cut_off = letters::cut_off(bus, &selector).await.unwrap();
    capture(bus, "mail", [(4, order(7))]).await;
    let by = Order { by: "eve".into(), why: "meanwhile".into(), ..Order::default() };
    letters::hold(bus, &before[1], &by).await.unwrap();
    let meant = async |cut_off| {
        let sifted: Vec<Sifted> = letters::sift(bus, &selector, cut_off).try_collect().await.unwrap();
        let letter = |sifted: Sifted| match sifted {
            Sifted::Letter(letter) => (letter.letter.id, letter.state),
            Sifted::Unclear(why) | Sifted::Unread(why) => panic!("{why}"),
        };
        sifted.into_iter().map(letter).collect::<BTreeSet<_>>()
    };
    let unchanged = [&before[0], &before[2], &before[3]].map(|letter| (letter.letter.id.clone(), LetterState::Open));
    assert_eq!(meant(cut_off).await, BTreeSet::from(unchanged));
    let now = letters::cut_off(bus, &selector).await.unwrap();
    assert_eq!(meant(now).await.len(), 5);
}

/// The same command at a terminal of its own, which its input and output are those of.
pub(crate) fn at_terminal(command: &Command) -> Command {
    let spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut at_terminal = Command::new("python3");
    at_terminal.args(["-c", spawn]).arg(command.get_program()).args(command.get_args());
    at_terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    at_terminal
}

/// Reads what a process says until it waits for an answer.
pub(crate) fn question(from: &mut impl Read) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"[y/N] ") {
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_does_while_a_person_thinks_is_left_as_it_is() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    capture(mesh.bus(), "mail", (0..30).map(|number| (number, order(7)))).await;
    let operator = Operator::at(&broker, "operator");
    let mut command = at_terminal(&operator.command(&["dead-letter", "discard", "--all", "--why", "a test"]));
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut screen = process.stdout.take().unwrap();
    let (asked, screen) = tokio::task::spawn_blocking(move || (question(&mut screen), screen)).await.unwrap();
    assert_eq!(asked, "discard 30 letters of mail/work? [y/N] ");
    let by = Order { by: "eve".into(), why: "meanwhile".into(), ..Order::default() };
    letters::hold(mesh.bus(), &all(mesh.bus()).await[0], &by).await.unwrap();
    capture(mesh.bus(), "mail", [(30, order(7))]).await;
    let (said, ended) = agreed(process, screen).await;
    assert!(ended.success() && said.contains("discarded 29 letters"), "{said}");
    assert!(said.contains("1 letter changed meanwhile: left as they are"), "{said}");
    let mut states: Vec<_> = all(mesh.bus()).await.into_iter().map(|letter| letter.state).collect();
    states.sort_unstable();
    let expected = [&[LetterState::Open, LetterState::Held][..], &[LetterState::Discarded; 29]].concat();
    assert_eq!(states, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_id_is_found_by_the_keepers_index() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    capture(mesh.bus(), "mail", (0..20).map(|number| (number, order(7)))).await;
    let ids: Vec<String> = all(mesh.bus()).await.into_iter().map(|letter| letter.letter.id).collect();
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    let operator = Operator::at(&broker, "operator");
    let asked = || keeper_asked(&keeper, "ListLetters");
    let shown = operator.json(0, &["dead-letter", "show", &ids[3][..8]]).await;
    assert_eq!((&shown["id"], asked()), (&ids[3].clone().into(), 1));
    let held = operator.json(0, &["dead-letter", "hold", &ids[4][..8], &ids[5], &ids[6][..9], "--why", "x"]).await;
    assert_eq!(done(&held, "held"), BTreeSet::from([4, 5, 6].map(|at| ids[at].clone())));
    assert_eq!(asked(), 3, "a whole id is not asked for");
    // What is wrong is said as without an index: of 20 letters, several begin alike.
    let twice = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1).unwrap();
    for (id, said) in [(&twice[..1], "give more of it"), ("0123456789abc", "no letter's id begins with")] {
        let ended = operator.run(&["dead-letter", "show", id]).await;
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && text.contains(said), "{text}");
    }
    keeper.stop().await;
}
