//! A user's own project, outside the workspace: its contracts are compiled by its own build script, and it runs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use mesh_core::policy::compile::{Consumes, Declaration};
use mesh_tests::{TestBroker, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::shop::declaration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Builds the example as its user would, but with what is already compiled.
async fn build() -> PathBuf {
    let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let example = root().join("examples/own-contracts");
    // The same versions as the workspace: nothing is fetched, and what fits is shared.
    std::fs::copy(root().join("Cargo.lock"), example.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--quiet", "--offline", "--manifest-path"]).arg(example.join("Cargo.toml"));
    cargo.args([
        "--config",
        "profile.dev.debug=\"line-tables-only\"",
        "--config",
        "profile.dev.package.\"*\".debug=false",
    ]);
    cargo.env("CARGO_TARGET_DIR", profile.parent().unwrap());
    let built = cargo.output().await.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    profile.parent().unwrap().join("debug/own-contracts")
}

fn greenhouse() -> Declaration {
    let open = || BTreeSet::from([("greenhouse.v1.Valves".to_owned(), "Open".to_owned())]);
    let consumes = Consumes {
        consumer: "watering".parse().unwrap(),
        producer: "greenhouse".into(),
        event: "greenhouse.v1.BedTooDry".into(),
        ordered: false,
    };
    Declaration {
        publishes: BTreeSet::from(["greenhouse.v1.BedTooDry".into()]),
        consumes: BTreeSet::from([consumes]),
        calls: open(),
        enqueues: open(),
        serves: open(),
        ..declaration("greenhouse")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_contracts_of_its_own_builds_and_runs() {
    let program = build().await;
    let broker = TestBroker::start(&[greenhouse()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("greenhouse.seed");
    std::fs::write(&seed, broker.seed("greenhouse").unwrap()).unwrap();
    let mut running = Command::new(program)
        .env("MESH_NATS_URL", broker.server.client_url())
        .env("MESH_NATS_SEED_FILE", &seed)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("the basil got 1 litres"));
    let operator = broker.connect("operator").await.unwrap();
    eventually("the tomatoes to be watered, through the queue", || async {
        let work = operator.bus().stream_state("mesh1-work-greenhouse-v1-Valves").await.unwrap().unwrap();
        (work.messages == 0 && work.last_sequence == 1).then_some(())
    })
    .await;
    let pid = i32::try_from(running.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(40), running.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}
