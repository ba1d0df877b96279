//! Looking on at a replay: a bar at a terminal, lines elsewhere. The terminal is a real one, a pseudo-terminal of the system.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    process::ExitStatus,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use mesh_core::{Context, Mesh, dead_letter::LetterState};
use mesh_tests::{TestBroker, eventually};
use nix::{
    fcntl::OFlag,
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
};
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::{process::Command, sync::Semaphore, time::timeout};

use crate::{
    command_line::Operator,
    replay::{Office, Shelf, capture, work},
};

const LETTERS: usize = 30;

/// A process at a terminal of its own.
struct AtTerminal {
    process: tokio::process::Child,
    shown: Arc<Mutex<String>>,
    reads: JoinHandle<()>,
}

impl AtTerminal {
    fn start(mut command: Command) -> AtTerminal {
        // No other process may have either side of it: then reading ends with this one.
        let screen = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let mut options = File::options();
        let side = options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let side = side.open(ptsname_r(&screen).unwrap()).unwrap();
        let [input, output] = [side.try_clone().unwrap(), side.try_clone().unwrap()];
        command.env("TERM", "xterm").stdin(input).stdout(output).stderr(side).kill_on_drop(true);
        let process = command.spawn().unwrap();
        let shown = Arc::default();
        let into = Arc::clone(&shown);
        AtTerminal { process, shown, reads: std::thread::spawn(move || read(screen, &into)) }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, is_there: impl Fn(&str) -> bool) {
        eventually(what, || async { is_there(&self.shown()).then_some(()) }).await;
    }

    /// How it ended, and all that it showed.
    async fn ended(mut self) -> (ExitStatus, String) {
        let ended = timeout(Duration::from_secs(60), self.process.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it does not end: {:?}", self.shown())).unwrap();
        let shown = Arc::clone(&self.shown);
        tokio::task::spawn_blocking(move || self.reads.join().unwrap()).await.unwrap();
        let shown = shown.lock().unwrap().clone();
        (status, shown)
    }
}

fn read(mut screen: PtyMaster, into: &Mutex<String>) {
    let mut some = [0; 4096];
    while let Ok(count @ 1..) = screen.read(&mut some) {
        into.lock().unwrap().push_str(&String::from_utf8_lossy(&some[..count]));
    }
}

/// How far a bar was, each time that it was drawn: `12 of 30  1s left`.
fn drawn(shown: &str) -> BTreeSet<usize> {
    let of = format!(" of {LETTERS} ");
    let each = shown.match_indices(&of).filter_map(|(at, of)| {
        let is_bar = shown[at + of.len()..].split_whitespace().nth(1) == Some("left");
        shown[..at].rsplit(' ').next()?.parse().ok().filter(|_| is_bar)
    });
    each.collect()
}

/// Handles one for each that the gate lets through.
async fn work_behind(gate: &Arc<Semaphore>, broker: &TestBroker, service: &str) -> Mesh {
    let mesh = broker.connect(service).await.unwrap();
    let gate = Arc::clone(gate);
    let handler = move |_: Context, _: OrderPlaced| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(())
        }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    mesh
}

fn replay(consumer: &'static str) -> [&'static str; 8] {
    ["dead-letter", "replay", "--consumer", consumer, "--all", "--yes", "--rate", "1000/s"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_at_a_terminal_how_far_it_is_and_takes_the_bar_away_in_the_end() {
    let office = Office::open(&["a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    let _at_work = work_behind(&gate, &office.broker, "a").await;
    capture(office.bus(), "a", 0..LETTERS).await;
    let keeping = office.keep("one");
    let operator = Operator::at(&office.broker, "operator");
    let at_terminal = AtTerminal::start(Command::from(operator.command(&replay("a/work"))));
    at_terminal.until("a bar at its beginning", |shown| drawn(shown).contains(&0)).await;
    gate.add_permits(10);
    at_terminal.until("a bar on its way", |shown| drawn(shown).last().is_some_and(|at| *at > 0)).await;
    let on_its_way = drawn(&at_terminal.shown());
    assert!(on_its_way.iter().all(|at| *at <= 10), "{on_its_way:?}");
    gate.add_permits(LETTERS);
    let (status, shown) = at_terminal.ended().await;
    assert!(status.success(), "{shown:?}");
    let (_, end) = shown.rsplit_once(" left").unwrap();
    let (_, end) = end.rsplit_once("\u{1b}[2K").unwrap_or_else(|| panic!("the bar stays: {end:?}"));
    assert!(end.contains("30 of 30 sent, 30 resolved, 0 failed again"), "{end:?}");
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_in_plain_lines_how_far_it_is_where_there_is_no_terminal() {
    let office = Office::open(&["b"]).await;
    let _at_work = work(&office.broker, "b", &Shelf::default()).await;
    capture(office.bus(), "b", 0..LETTERS).await;
    let keeping = office.keep("one");
    let ended = Operator::at(&office.broker, "operator").run(&replay("b/work")).await;
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(ended.status.success(), "{said:?}");
    assert!(said[0].contains("30 of 30 sent, 30 resolved, 0 failed again"), "{said:?}");
    assert!(said[1].contains(" of 30 sent"), "a line now and then: {said:?}");
    assert!(said.iter().all(|said| !said.contains(['\r', '\u{1b}'])), "no bar and no colour: {said:?}");
    assert!(office.letters().await.iter().all(|letter| letter.state == LetterState::Resolved));
    keeping.abort();
}
