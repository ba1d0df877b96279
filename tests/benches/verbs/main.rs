//! How close the three verbs are to the limit: raw async-nats that does the same on the wire (same headers, same kind of ack,
//! same sync mode, same writes of the broker), and ours, in turn, several rounds in one run.
//!
//! `cargo bench -p mesh-tests --bench verbs -- --rounds 5`; docs/benchmarks.md explains the figures.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and ends at an error"
)]

mod ours;
mod raw;
mod report;
mod stage;

use clap::{Parser, ValueEnum};
use mesh_tests::{TestBroker, callers::Round};

use report::Row;
use stage::{Stage, declarations};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verb {
    /// Publish, each caller awaiting its own acknowledgement
    Publish,
    /// Consume and settle
    Consume,
    /// Call
    Call,
}

#[derive(Debug, Parser)]
struct Options {
    /// Rounds; in each, raw and ours take turns
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Verb>,
    /// A tenth of the work: shows that it runs, not how fast
    #[arg(long)]
    quick: bool,
    /// `json` for one JSON document
    #[arg(short, long, default_value = "table")]
    output: String,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(&self, verb: Verb) -> bool {
        self.only.is_empty() || self.only.contains(&verb)
    }

    fn count(&self, whole: usize) -> usize {
        if self.quick { whole / 10 } else { whole }
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let mut rows = Vec::new();
    for sync_always in [true, false] {
        let limits = mesh_core::bus::StreamLimits::default();
        let broker = TestBroker::with(&declarations(), sync_always, &limits).await.unwrap();
        let stage = Stage::new(&broker, sync_always).await;
        if options.wants(Verb::Publish) {
            let mode = if sync_always { "durable" } else { "default sync" };
            let counts = if sync_always { [(1, 1_000), (512, 20_000)] } else { [(1, 5_000), (512, 50_000)] };
            for (callers, count) in counts {
                let count = options.count(count).max(callers);
                let name = format!("publish, {mode}, {callers} callers");
                rows.push(row(&options, name, async |ours| stage.publish(ours, callers, count).await).await);
            }
        }
        if options.wants(Verb::Consume) && !sync_always {
            let count = options.count(50_000);
            rows.push(stage.consume_rounds(&options, count).await);
        }
        if options.wants(Verb::Call) && !sync_always {
            for (callers, count) in [(1, 5_000), (64, 50_000)] {
                let count = options.count(count);
                let name = format!("call, {callers} in flight");
                rows.push(row(&options, name, async |ours| stage.call(ours, callers, count).await).await);
            }
        }
    }
    report::print(&rows, options.output == "json");
}

/// Rounds of raw and ours in turn; who begins changes each time.
async fn row(options: &Options, name: String, measure: impl AsyncFn(bool) -> Round) -> Row {
    let mut row = Row::new(name);
    for round in 0..options.rounds {
        for ours in [round % 2 == 1, round % 2 == 0] {
            row.add(ours, measure(ours).await);
        }
        eprintln!("{}: round {} of {}", row.name(), round + 1, options.rounds);
    }
    row
}
