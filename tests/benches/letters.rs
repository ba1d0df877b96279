//! A million dead letters: how long a keeper takes to read them, to answer, and how much memory it needs.
//!
//! `cargo bench -p mesh-tests --bench letters`: writes about 1 GB into a temporary folder and removes it. docs/benchmarks.md
//! explains the figures.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and ends at an error"
)]

use std::{
    borrow::Cow,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::{Bus, StreamLimits},
    operate::{jobs, keeper::ask},
    policy::{
        compile::{Consumes, Declaration},
        replay::Counts,
    },
    proto::v1,
    subject::{DEAD_LETTER_STREAM, KEEPER, Name, dead_letter},
};
use mesh_tests::{Growing, TestBroker, letters::EVENT, mesh_binary};
use prost::Message as _;
use tokio::process::{Child, Command};

/// Of the letters.
const SERVICES: u64 = 5;
const CONSUMERS: u64 = 20;
/// Writers that wait for their acknowledgement at once.
const WRITERS: usize = 4096;

#[derive(Debug, Parser)]
struct Options {
    /// How many letters
    #[arg(long, default_value_t = 1_000_000)]
    letters: u64,
    /// Jobs that replay all of them, at the same time and to nobody: what the keeper's memory is then
    #[arg(long, default_value_t = 0)]
    jobs: u64,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let broker = TestBroker::with(&declarations(), false, &StreamLimits::default()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let wrote = Instant::now();
    write(operator.bus(), options.letters).await;
    let bytes = operator.bus().stream_state(DEAD_LETTER_STREAM).await.unwrap().unwrap().bytes;
    eprintln!(
        "{} letters, {} MB, written in {:.1} s",
        options.letters,
        bytes / 1_000_000,
        wrote.elapsed().as_secs_f32()
    );

    let started = Instant::now();
    let keys = tempfile::tempdir().unwrap();
    let keeper = keeper(&broker, keys.path());
    while ask::count(operator.bus(), all()).await.map_or(0, |count| count.total) < options.letters {
        assert!(started.elapsed() < Duration::from_secs(600), "it never has them all");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("rebuilt                     {:>8.1} s", started.elapsed().as_secs_f32());
    ask_everything(&broker, operator.bus()).await;
    if options.jobs > 0 {
        println!("memory of the keeper, before {:>7} MiB", memory(&keeper, "VmHWM:").unwrap() / 1024);
        replay(operator.bus(), options.jobs, options.letters).await;
    }
    for (what, field) in [("memory of the keeper, peak", "VmHWM:"), ("memory of the keeper, now", "VmRSS:")] {
        println!("{what:<27} {:>8} MiB", memory(&keeper, field).unwrap() / 1024);
    }
    operator.drain().await;
}

async fn ask_everything(broker: &TestBroker, bus: &Bus) {
    let first = Instant::now();
    let page = ask::page(bus, all(), 100, "").await.unwrap();
    println!("first page of 100           {:>8.1} ms", ms(first));
    assert_eq!(page.letters.len(), 100);
    let narrow = v1::LetterQuery { consumer: "consumer-7".into(), reason: "MESH-0103".into(), ..all() };
    let (mut pages, mut groups) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let asked = Instant::now();
        ask::page(bus, narrow.clone(), 100, &page.next).await.unwrap();
        pages.push(ms(asked));
        let asked = Instant::now();
        let reply = ask::group(bus, all(), 0).await.unwrap();
        assert!(reply.groups.len() > 10 && reply.total == page.total);
        groups.push(ms(asked));
    }
    println!("a page of a filter, worst   {:>8.1} ms", worst(&pages));
    println!("group, worst of 10          {:>8.1} ms", worst(&groups));
    commands(broker, &page.letters[0].letter.id[..8]).await;
}

/// Commands of a person, each a process of its own: how long the whole of it takes, and its memory at its peak.
async fn commands(broker: &TestBroker, short_id: &str) {
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("operator.seed");
    std::fs::write(&seed, broker.seed("operator").unwrap()).unwrap();
    let file = folder.path().join("letters.ndjson");
    let one_of_twenty = ["--consumer", "consumer-7"];
    for (name, more) in [
        ("list", &[][..]),
        ("show", &[short_id]),
        ("export", &[one_of_twenty[0], one_of_twenty[1], "--to", file.to_str().unwrap()]),
        ("hold", &[one_of_twenty[0], one_of_twenty[1], "--why", "a benchmark", "--yes"]),
    ] {
        let asked = Instant::now();
        let mut command = Command::new(mesh_binary());
        command
            .args(["dead-letter", name, "-o", "json", "--url", &broker.server.client_url(), "--seed-file"])
            .arg(&seed);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut peak = 0;
        let ended = loop {
            // What a process needs at most is known to the system as long as it lives.
            peak = peak.max(memory(&process, "VmHWM:").unwrap_or(0));
            match tokio::time::timeout(Duration::from_millis(5), process.wait()).await {
                Ok(ended) => break ended.unwrap(),
                Err(_) => assert!(asked.elapsed() < Duration::from_secs(300), "{name} never ends"),
            }
        };
        assert!(ended.success(), "{name}: {ended}");
        println!("{:<27} {:>8.0} ms, {} MiB", format!("mesh dead-letter {name}"), ms(asked), peak / 1024);
    }
}

/// Several jobs for all letters, until each is sent or skipped by all of them.
async fn replay(bus: &Bus, count: u64, letters: u64) {
    let asked = Instant::now();
    let preview = jobs::preview(bus, &jobs::Selection::default()).await.unwrap();
    for _ in 0..count {
        let ask = jobs::Ask {
            selection: jobs::Selection::default(),
            cut_off: preview.cut_off,
            selected: preview.letters,
            rate: None,
            canary: Default::default(),
            abort_if: None,
            at_ms: None,
            max_in_flight: u32::try_from(letters).unwrap(),
            by: "bench".into(),
            why: String::new(),
        };
        jobs::create(bus, ask).await.unwrap();
    }
    let mut growing = Growing::new("letters that the jobs have looked at");
    loop {
        let counts: Vec<_> = jobs::list(bus).await.unwrap().iter().map(|job| job.counts()).collect();
        let looked_at = |counts: &Counts| counts.dispatched + counts.skipped.total();
        if counts.len() as u64 == count && counts.iter().all(|counts| looked_at(counts) >= preview.letters) {
            let sent: Vec<_> = counts.iter().map(|counts| counts.dispatched).collect();
            println!("{count} jobs, sent {sent:?}     {:>8.1} s", asked.elapsed().as_secs_f32());
            return;
        }
        growing.look(counts.iter().map(looked_at).sum()).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The consumers of the letters.
fn declarations() -> Vec<Declaration> {
    let mut orders = Declaration::new("orders".parse().unwrap());
    orders.publishes.insert(EVENT.into());
    let of_service = |service: u64| {
        let mut declaration = Declaration::new(format!("service-{service}").parse().unwrap());
        declaration.consumes.extend((service..CONSUMERS).step_by(usize::try_from(SERVICES).unwrap()).map(|number| {
            Consumes {
                consumer: format!("consumer-{number}").parse().unwrap(),
                producer: "orders".into(),
                event: EVENT.into(),
                ordered: false,
            }
        }));
        declaration
    };
    (0..SERVICES).map(of_service).chain([orders]).collect()
}

fn all() -> v1::LetterQuery {
    v1::LetterQuery::default()
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn worst(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

async fn write(bus: &Bus, letters: u64) {
    let region: Name = "local".parse().unwrap();
    let mut writing = stream::iter(0..letters)
        .map(|number| {
            let letter = letter(number);
            let (service, consumer) = (letter.service.parse().unwrap(), letter.consumer.parse().unwrap());
            let subject = dead_letter(&region, &service, &consumer, &letter.id);
            let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter)) };
            let expected = (Cow::Borrowed("Nats-Expected-Last-Subject-Sequence"), "0".to_owned());
            let sealed = bus.gate().seal_own(subject, vec![expected], record.encode_to_vec().into());
            bus.publish(DEAD_LETTER_STREAM, sealed)
        })
        .buffer_unordered(WRITERS);
    let mut done = 0u64;
    while let Some(stored) = writing.next().await {
        stored.unwrap();
        done += 1;
        if done.is_multiple_of(100_000) {
            eprintln!("written: {done}");
        }
    }
}

/// A letter as services write it: 20 consumers, 8 reasons, 3 vendors with 40 codes each.
fn letter(number: u64) -> v1::DeadLetter {
    let text = |name: &str, of: u64| format!("{name}-{}", number % of);
    // Spread as the digits of a hash are, and never the same twice: multiplication by an odd number can be undone.
    let spread = |factor: u64| number.wrapping_mul(factor).rotate_left(29);
    let fault = v1::Fault {
        code: 3,
        effect: 1,
        reason: format!("MESH-01{:02}", 1 + number % 8),
        message: format!("the vendor said no to order {number}"),
        detail: "HTTP 400 invalid_request_error".into(),
        origin: Some(v1::Origin {
            service: text("service", SERVICES),
            vendor: text("vendor", 3),
            operation: "shop.payments.v1.Payments/Charge".into(),
            request_id: format!("req_{number}"),
            http_status: 400,
            vendor_code: text("code", 40),
        }),
        ..v1::Fault::default()
    };
    v1::DeadLetter {
        id: format!("{:016x}{:016x}", spread(0x9e37_79b9_7f4a_7c15), number),
        service: text("service", SERVICES),
        consumer: text("consumer", CONSUMERS),
        source: Some(v1::Source {
            stream: "mesh1-work-shop-payments-v1-Payments".into(),
            sequence: number,
            subject: "mesh1.work.local.shop.payments.v1.Payments.Charge.normal.3.payments".into(),
            message_id: format!("payments/shop.payments.v1.Payments.Charge/{number}"),
            stored_at_ms: 1_795_000_000_000,
            deliveries: 1,
        }),
        message_type: "shop.payments.v1.Payments/Charge".into(),
        payload: vec![7; 120].into(),
        headers: vec![v1::Header { name: "Nats-Msg-Id".into(), value: format!("payments/Charge/{number}") }],
        attempts: vec![v1::Attempt {
            number: 1,
            duration_us: 900,
            fault: Some(fault.clone()),
            ..v1::Attempt::default()
        }],
        fault: Some(fault),
        captured_at_ms: 1_795_000_000_000 + i64::try_from(number / 7).unwrap(),
        caller: "payments".into(),
        ..v1::DeadLetter::default()
    }
}

fn keeper(broker: &TestBroker, folder: &Path) -> Child {
    let seed = folder.join("keeper.seed");
    std::fs::write(&seed, broker.seed(KEEPER).unwrap()).unwrap();
    let mut command = Command::new(mesh_binary());
    command.arg("keeper").env("MESH_NATS_URL", broker.server.client_url()).env("MESH_NATS_SEED_FILE", seed);
    // As every process of the mesh is started.
    command.env("MALLOC_ARENA_MAX", "2").env_remove("MESH_CLUSTER");
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Kilobytes. `None`: it has ended.
fn memory(process: &Child, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
