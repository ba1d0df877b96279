//! S21: a million letters, and people at their commands: how long each waits, and how much memory each process needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mesh_core::{
    bus::Bus,
    operate::keeper::ask,
    proto::v1::{LetterQuery, LetterStanding},
};
use mesh_tests::{
    Growing, TestBroker,
    campaign::{Account, Books, Run, Size},
    many_letters::{SERVICES, declarations, indexed, looked_at, number_of, write},
    measured::{self, Desk, Measured, PEAK, memory_kb},
};

use crate::Played;

/// Letters that come while the keeper knows the others.
const MORE: u64 = 1000;
/// The largest page.
const PAGE: u32 = 1000;
/// Questions of one kind; the worst counts.
const TIMES: usize = 10;
/// Who is held, before all others are replayed.
const ONE_OF_TWENTY: [&str; 2] = ["--consumer", "consumer-7"];
/// What the program says where the index did not answer.
const WITHOUT_INDEX: &str = "without a keeper's index";

/// What the long form asks for: milliseconds, and MiB of each process of the mesh.
const LIST_MS: u128 = 200;
const GROUP_MS: u128 = 2_000;
const REBUILT_MS: u128 = 60_000;
const MEMORY_MIB: u64 = 256;

/// Letters are written, a keeper is started, people list, group, show and hold, two of them order all to be replayed.
pub(crate) async fn letters(run: &mut Run) -> anyhow::Result<Played> {
    let count = run.sized(2_000, 1_000_000);
    let broker = TestBroker::start(&declarations()?).await?;
    let operator = broker.connect("operator").await?;
    let bus = operator.bus();
    write(bus, 0..count, |_| {}).await?;

    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let keeper = measured::keeper(&broker, folder.path()).await?;
    indexed(bus, count).await?;
    figure(run, ("rebuilt-ms", started.elapsed()), REBUILT_MS);
    answers(run, bus).await?;
    let desk = Desk::of(&broker, "operator")?;
    let mut memory = commands(run, &desk, bus).await?;

    let asked = Instant::now();
    write(bus, count..count + MORE, |_| {}).await?;
    let written = Instant::now();
    indexed(bus, count + MORE).await?;
    run.note("more-written-ms", (written - asked).as_millis());
    // The index answers for what was written before the question, so that one question is enough.
    figure(run, ("more-shown-ms", written.elapsed()), LIST_MS);
    let account = account(bus, count + MORE).await?;

    memory.extend(taken_along(run, &desk, count + MORE).await?);
    memory.extend(replays(run, &desk, bus, count + MORE).await?);
    memory.push(adds_up(run, &desk).await?);
    memory.insert(0, ("keeper", mib(memory_kb(keeper.id(), PEAK).context("the keeper has ended")?)));
    for (name, mib) in &memory {
        let why = format!("{name} needed {mib} MiB, and less than {MEMORY_MIB} were wanted");
        run.require(run.size == Size::Quick || *mib < MEMORY_MIB, why);
    }
    let memory: Vec<String> = memory.iter().map(|(name, mib)| format!("{name}:{mib}")).collect();
    run.note("memory-mib", memory.join(","));
    run.note("broker-memory-mib", memory_kb(broker.server.pid(), PEAK).map_or(0, mib));
    operator.drain().await;
    Ok(Played::Account(account))
}

/// Notes a figure; the long form wants it to be less than so many milliseconds.
fn figure(run: &mut Run, (name, took): (&'static str, Duration), wanted_ms: u128) {
    run.note(name, took.as_millis());
    let why = format!("{name}: {} ms, and less than {wanted_ms} were wanted", took.as_millis());
    run.require(run.size == Size::Quick || took.as_millis() < wanted_ms, why);
}

fn mib(kb: u64) -> u64 {
    kb.div_ceil(1024)
}

/// How long the index itself takes to answer: the first page with its letters' texts, and all groups.
async fn answers(run: &mut Run, bus: &Bus) -> anyhow::Result<()> {
    let (mut page, mut group) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TIMES {
        let asked = Instant::now();
        let first = ask::page(bus, LetterQuery::default(), 100, "").await?;
        page = page.max(asked.elapsed());
        run.require(first.letters.len() == 100, "a page of 100 is not whole");
        let asked = Instant::now();
        let reply = ask::group(bus, LetterQuery::default(), 0).await?;
        group = group.max(asked.elapsed());
        let in_groups: u64 = reply.groups.iter().map(|group| group.count).sum();
        let are_all = reply.total == first.total && in_groups <= reply.total && reply.groups.len() > 10;
        run.require(are_all, "the groups hold other letters");
    }
    figure(run, ("first-page-ms", page), LIST_MS);
    figure(run, ("group-ms", group), GROUP_MS);
    Ok(())
}

/// Commands of a person, each a process of its own: how much memory each needed.
async fn commands(run: &mut Run, desk: &Desk, bus: &Bus) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let first = ask::entries(bus, LetterQuery::default(), 1, "").await?;
    let id = first.letters.first().context("there are letters")?.id.clone();
    let held = LetterQuery { consumer: "consumer-7".into(), ..LetterQuery::default() };
    let to_hold = ask::count(bus, held).await?.total;
    let mut memory = Vec::new();
    for (name, figure_name, more, wanted_ms) in [
        ("list", "list-command-ms", &[][..], LIST_MS),
        ("group", "group-command-ms", &[], GROUP_MS),
        ("show", "show-command-ms", &[&id[..8]], u128::MAX),
        ("hold", "hold-command-ms", &[ONE_OF_TWENTY[0], ONE_OF_TWENTY[1], "--why", "a scenario", "--yes"], u128::MAX),
    ] {
        let measured = desk.dead_letter(&[&[name], more].concat()).await?;
        figure(run, (figure_name, measured.took), wanted_ms);
        memory.push((name, mib(measured.peak_kb)));
        let said = document(&measured)?;
        let rows = said.as_array().map_or(0, Vec::len) as u64;
        let is_right = match name {
            "list" => rows == 100,
            "group" => rows > 10,
            "show" => said["id"] == *id,
            _ => rows == to_hold,
        };
        run.require(is_right, format!("{name} prints {rows} rows"));
        run.require(!measured.said.contains(WITHOUT_INDEX), format!("{name}: {}", measured.said));
    }
    let query = LetterQuery { standings: vec![LetterStanding::Held.into()], ..LetterQuery::default() };
    let is_held = ask::count(bus, query).await?.total;
    run.note("held", is_held);
    run.require(is_held == to_hold, format!("the index shows {is_held} of {to_hold} that are held"));
    Ok(memory)
}

/// All letters are written into a file, and read from it: here each is there already, and nothing is written.
async fn taken_along(run: &mut Run, desk: &Desk, letters: u64) -> anyhow::Result<[(&'static str, u64); 2]> {
    let file = desk.folder().join("letters.ndjson").display().to_string();
    let exported = desk.dead_letter(&["export", "--to", &file]).await?;
    let imported = desk.dead_letter(&["import", &file]).await?;
    run.note("export-command-ms", exported.took.as_millis());
    run.note("import-command-ms", imported.took.as_millis());
    let counts = document(&imported)?;
    let are_all = counts["read"] == letters && counts["skipped"] == letters && counts["imported"] == 0;
    run.require(are_all, format!("of {letters} letters that were exported: {counts}"));
    tokio::fs::remove_file(&file).await?;
    Ok([("export", mib(exported.peak_kb)), ("import", mib(imported.peak_kb))])
}

fn document(measured: &Measured) -> anyhow::Result<serde_json::Value> {
    serde_json::from_slice(&measured.output).context("no JSON")
}

/// Two people order at the same moment that all is replayed, and there is nobody who handles it: what is open is sent once.
async fn replays(run: &mut Run, desk: &Desk, bus: &Bus, letters: u64) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let held = LetterQuery { standings: vec![LetterStanding::Held.into()], ..LetterQuery::default() };
    let open = letters - ask::count(bus, held).await?.total;
    let most = letters.to_string();
    let words = ["replay", "--all", "--yes", "--no-wait", "--max-in-flight", &most, "--why", "a scenario"];
    let asked = Instant::now();
    let (one, other) = tokio::try_join!(desk.dead_letter(&words), desk.dead_letter(&words))?;
    run.note("replay-command-ms", one.took.max(other.took).as_millis());
    let jobs = looked_at(bus).await?;
    run.note("jobs", jobs.len());
    run.note("jobs-ms", asked.elapsed().as_millis());
    let dispatched: u64 = jobs.iter().map(|job| job.counts().dispatched).sum();
    run.note("dispatched", dispatched);
    run.require(dispatched == open, format!("{dispatched} of {open} open letters were sent"));
    let copies = copies(bus, open).await?;
    run.require(copies == open, format!("{copies} copies of {open} letters lie on the lanes"));
    let query = LetterQuery { standings: vec![LetterStanding::Replaying.into()], ..LetterQuery::default() };
    let replaying = ask::count(bus, query).await?.total;
    run.require(replaying == open, format!("the index shows {replaying} of {open} that were sent"));
    Ok(vec![("replay", mib(one.peak_kb.max(other.peak_kb)))])
}

/// The ledger of all of it: a copy on a lane for each letter that was sent, and the letters.
async fn adds_up(run: &mut Run, desk: &Desk) -> anyhow::Result<(&'static str, u64)> {
    let ledger = desk.mesh(&["ledger"]).await?;
    run.note("ledger-command-ms", ledger.took.as_millis());
    Ok(("ledger", mib(ledger.peak_kb)))
}

/// How many copies lie on the lanes, once there are as many as were sent: they follow the orders.
async fn copies(bus: &Bus, sent: u64) -> anyhow::Result<u64> {
    let mut growing = Growing::new("copies on the lanes");
    loop {
        let mut copies = 0;
        for service in 0..SERVICES {
            let lane = bus.stream_state(&format!("mesh1-lane-service-{service}")).await?.context("a lane")?;
            copies += lane.messages;
        }
        if copies >= sent {
            return Ok(copies);
        }
        growing.look(copies)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every letter that was put in, against what the index lists, page by page.
async fn account(bus: &Bus, put_in: u64) -> anyhow::Result<Account> {
    // The message of each is one with which something is wrong.
    let id_of = |number: u64| format!("w-bad-{number}");
    let asked: BTreeSet<String> = (0..put_in).map(id_of).collect();
    let (mut listed, mut next) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    loop {
        let reply = ask::entries(bus, LetterQuery::default(), PAGE, &next).await?;
        for entry in reply.letters {
            let id = number_of(&entry.id).map_or_else(|| entry.id.clone(), id_of);
            listed.entry(id).or_default().push(entry.captured_sequence.to_string());
        }
        next = reply.next_page_token;
        if next.is_empty() {
            break;
        }
    }
    Ok(Account::of(&Books { acknowledged: asked.clone(), asked, letters: listed, calls: put_in, ..Books::default() }))
}
