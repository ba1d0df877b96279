//! The demonstration, as a person runs it: real processes, real HTTP, and the ledger at the end.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use mesh_tests::{eventually, mesh_binary};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

/// The first of the 80 orders of 0.00 dollars is among the first so many.
const WITH_A_REFUSAL: &str = "1600";

/// The program, with a state directory of its own, so that tests don't see each other's clusters.
fn mesh(state: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(mesh_binary());
    command.args(arguments).env("XDG_STATE_HOME", state).env_remove("MESH_CLUSTER").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(state: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output =
        tokio::time::timeout(Duration::from_secs(120), mesh(state, arguments).output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

async fn json(state: &Path, arguments: &[&str]) -> Value {
    let (code, out, err) = run(state, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// Processes that are below `folder`: the run directory stands in their command lines.
fn left_over(folder: &str) -> String {
    let listed = Command::new("pgrep").args(["-fa", folder]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_says_that_nothing_was_lost_or_done_twice() {
    let state = tempfile::tempdir().unwrap();
    // Two at the same time: no port clash, and neither sees the other.
    let arguments = ["demo", "--orders", WITH_A_REFUSAL, "-o", "json"];
    let (one, two) = tokio::join!(run(state.path(), &arguments), run(state.path(), &arguments));
    for (code, out, err) in [one, two] {
        assert_eq!(code, 0, "{err}");
        let ledger: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(ledger["published"]["published"], 1600);
        assert_eq!(ledger["failures"], serde_json::json!([]));
        for operation in ledger["operations"].as_array().unwrap() {
            let refused = operation["vendor"]["refused"].as_u64().unwrap();
            let expected = u64::from(operation["operation"] == "charge");
            assert_eq!((refused, operation["dead_letters"].as_u64()), (expected, Some(expected)), "{operation}");
            assert_eq!(operation["effects"], 1600 - expected);
            assert_eq!(operation["vendor"]["early_retries"], 0);
            assert_eq!(operation["duplicates"]["count"], 0);
        }
        assert!(err.lines().last().unwrap().starts_with("all well"), "{err}");
    }
}

/// `demo --keep`, once its ledger stands.
async fn kept(state: &TempDir) -> (Child, Vec<String>) {
    let mut demo = mesh(state.path(), &["demo", "--orders", WITH_A_REFUSAL, "--keep"]).spawn().unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let until_ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push(line);
            if said.last().is_some_and(|line| line.contains("Ctrl-C ends it")) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), until_ready).await.unwrap();
    // The rest is not read: a pipe that nobody reads must not stop the program.
    (demo, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_looks_at_a_letter_mends_the_world_and_replays_it() {
    let state = tempfile::tempdir().unwrap();
    let (mut demo, said) = kept(&state).await;
    let letters = json(state.path(), &["-o", "json", "dead-letter", "list"]).await;
    let letters = letters.as_array().unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let id = letters[0]["id"].as_str().unwrap();

    let (code, shown, err) = run(state.path(), &["dead-letter", "show", &id[..8]]).await;
    assert_eq!(code, 0, "{err}");
    for part in ["amount_too_small", "MESH-0103", "400", "req_", "mesh dead-letter replay"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }

    // Again without mending anything: refused again, the next generation of the same letter.
    let (code, out, err) = run(state.path(), &["dead-letter", "replay", id, "--yes"]).await;
    assert_eq!(code, 1, "{out}{err}");

    let control = said.iter().find_map(|line| line.split_whitespace().find(|word| word.contains("/_control/stripe")));
    let control = control.expect("demo says how to change the vendor");
    let changed =
        Command::new("curl").args(["-sf", "-X", "PUT", control, "-d", r#"{"min_amount":0}"#]).output().unwrap();
    assert!(changed.status.success(), "{changed:?}");
    let (code, out, err) = run(state.path(), &["dead-letter", "replay", id, "--yes"]).await;
    assert_eq!(code, 0, "{out}{err}");

    let left = json(state.path(), &["-o", "json", "dead-letter", "list"]).await;
    assert_eq!(left, serde_json::json!([]), "it is gone from the list");
    let effects = control.replace("/_control/stripe", "/_ledger/stripe/effects");
    let effects = Command::new("curl").args(["-sf", &effects]).output().unwrap();
    let effects = String::from_utf8(effects.stdout).unwrap();
    assert_eq!(effects.lines().count(), 1600, "every order is charged now");
    assert!(effects.lines().all(|line| line.contains(r#""count":1"#)), "each once");

    interrupt(&demo);
    let status = tokio::time::timeout(Duration::from_secs(60), demo.wait()).await.unwrap().unwrap();
    assert!(status.code().is_some(), "{status:?}");
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_middle_ends_with_a_clear_line_and_leaves_nothing() {
    let state = tempfile::tempdir().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut command = mesh(state.path(), &["demo"]);
    let mut demo = command.env("TMPDIR", temp.path()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let mut interrupted = false;
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if !interrupted && line.contains("published") {
                interrupt(&demo);
                interrupted = true;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), reading).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), demo.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(interrupted && last.contains("stopped by you") && last.contains("nothing was lost"), "{said}");
    let folder = temp.path().to_string_lossy().into_owned();
    eventually("every process to be gone", || async { left_over(&folder).is_empty().then_some(()) }).await;
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "no folder is left");
}
