//! Looking on at a replay: a bar at a terminal, lines elsewhere. The terminal is a real one, a pseudo-terminal of the system.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
};

use mesh_core::dead_letter::LetterState;
use nix::pty::{Winsize, openpty};

use crate::{
    command_line::Operator,
    replay::{Office, Shelf, capture, work},
};

const LETTERS: usize = 30;

/// What a command showed at a terminal of its own, and whether it ended well.
fn at_a_terminal(mut command: Command) -> (bool, String) {
    let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    let mut child = command
        .env("TERM", "xterm")
        .stdin(Stdio::from(terminal.slave.try_clone().unwrap()))
        .stdout(Stdio::from(terminal.slave.try_clone().unwrap()))
        .stderr(Stdio::from(terminal.slave))
        .spawn()
        .unwrap();
    // Nobody but the child holds the other side any more: reading ends with it.
    drop(command);
    let (mut screen, mut shown, mut some) = (File::from(terminal.master), Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = screen.read(&mut some) {
        shown.extend_from_slice(&some[..count]);
    }
    (child.wait().unwrap().success(), String::from_utf8_lossy(&shown).into_owned())
}

/// How far a bar was, each time that it was drawn: `12 of 30`.
fn positions(shown: &str) -> BTreeSet<usize> {
    let of = format!(" of {LETTERS} ");
    let before = shown.match_indices(&of).map(|(at, _)| &shown[..at]);
    before.filter_map(|before| before.rsplit(' ').next()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_a_bar_and_the_time_left_at_a_terminal_and_plain_lines_elsewhere() {
    let office = Office::open(&["a", "b"]).await;
    let (a, b) = (Shelf::default(), Shelf::default());
    let _at_work = (work(&office.broker, "a", &a).await, work(&office.broker, "b", &b).await);
    capture(office.bus(), "a", 0..LETTERS).await;
    capture(office.bus(), "b", 0..LETTERS).await;
    let keeping = office.keep("one");
    let operator = Operator::at(&office.broker, "operator");
    let words = |consumer| ["dead-letter", "replay", "--consumer", consumer, "--all", "--yes", "--rate", "15/s"];

    let at_terminal = operator.command(&words("a/work"));
    let (is_good, shown) = tokio::task::spawn_blocking(move || at_a_terminal(at_terminal)).await.unwrap();
    assert!(is_good, "{shown}");
    let drawn = positions(&shown);
    assert!(drawn.len() > 3 && drawn.iter().all(|position| *position <= LETTERS), "{drawn:?}: {shown:?}");
    assert!(shown.contains("s left"), "{shown:?}");
    let end = format!("{LETTERS} of {LETTERS} sent, {LETTERS} resolved, 0 failed again");
    assert!(shown.lines().last().is_some_and(|line| line.contains(&end)), "the bar is gone in the end: {shown:?}");

    let elsewhere = operator.run(&words("b/work")).await;
    let said = [elsewhere.stdout, elsewhere.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(elsewhere.status.success() && said[0].contains(&end), "{said:?}");
    assert!(said.iter().all(|said| !said.contains(['\r', '\u{1b}'])), "no bar and no colour: {said:?}");
    assert!(said[1].contains("of 30 sent"), "a line now and then: {said:?}");
    let letters = office.letters().await;
    assert!(letters.iter().all(|letter| letter.state == LetterState::Resolved));
    keeping.abort();
}
