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

use std::time::Instant;

use clap::Parser;
use mesh_core::{
    bus::{Bus, StreamLimits},
    operate::{jobs, keeper::ask},
    proto::v1,
    subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{
    TestBroker,
    many_letters::{declarations, indexed, looked_at, write},
    measured::{self, Desk, memory_kb},
};

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
    let broker = TestBroker::with(&declarations().unwrap(), false, &StreamLimits::default()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let wrote = Instant::now();
    let written = |count: u64| {
        if count.is_multiple_of(100_000) {
            eprintln!("written: {count}");
        }
    };
    write(operator.bus(), 0..options.letters, written).await.unwrap();
    let bytes = operator.bus().stream_state(DEAD_LETTER_STREAM).await.unwrap().unwrap().bytes;
    eprintln!(
        "{} letters, {} MB, written in {:.1} s",
        options.letters,
        bytes / 1_000_000,
        wrote.elapsed().as_secs_f32()
    );

    let started = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let keeper = measured::keeper(&broker, folder.path()).await.unwrap();
    indexed(operator.bus(), options.letters).await.unwrap();
    println!("rebuilt                     {:>8.1} s", started.elapsed().as_secs_f32());
    ask_everything(&broker, operator.bus()).await;
    let memory = |field: &str| memory_kb(keeper.id(), field).unwrap() / 1024;
    if options.jobs > 0 {
        println!("memory of the keeper, before {:>7} MiB", memory(measured::PEAK));
        replay(operator.bus(), options.jobs, options.letters).await;
    }
    for (what, field) in [("memory of the keeper, peak", measured::PEAK), ("memory of the keeper, now", measured::NOW)]
    {
        println!("{what:<27} {:>8} MiB", memory(field));
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
    let desk = Desk::of(broker, "operator").unwrap();
    let file = desk.folder().join("letters.ndjson");
    let one_of_twenty = ["--consumer", "consumer-7"];
    for (name, more) in [
        ("list", &[][..]),
        ("show", &[short_id]),
        ("export", &[one_of_twenty[0], one_of_twenty[1], "--to", file.to_str().unwrap()]),
        ("hold", &[one_of_twenty[0], one_of_twenty[1], "--why", "a benchmark", "--yes"]),
    ] {
        let measured = desk.dead_letter(&[&[name], more].concat()).await.unwrap();
        let (took, peak) = (measured.took.as_secs_f64() * 1000.0, measured.peak_kb / 1024);
        println!("{:<27} {took:>8.0} ms, {peak} MiB", format!("mesh dead-letter {name}"));
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
    let all = looked_at(bus).await.unwrap();
    assert_eq!(all.len() as u64, count);
    let sent: Vec<_> = all.iter().map(|job| job.counts().dispatched).collect();
    println!("{count} jobs, sent {sent:?}     {:>8.1} s", asked.elapsed().as_secs_f32());
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
