//! Publishes events and queues work at a steady rate, and writes on standard output what the broker said of each.
//!
//! What is not acknowledged is sent again with the same id, as the fault's text says, until it is or until the process has
//! been told to stop for a while.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_core::{Fault, Mesh, Receipt};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeRequest, PaymentsClient},
};
use tokio::{signal::unix, time::Instant};

use super::Place;
use crate::campaign::{
    account::{EVENT, WORK},
    now_us,
    order::key_of,
    stage::SENDER,
};

/// What is published.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The broker
    #[command(flatten)]
    pub place: Place,
    /// Messages per second
    #[arg(long, default_value_t = 200)]
    pub rate: u64,
    /// Decides which message is of which kind
    #[arg(long)]
    pub seed: u64,
    /// Of a thousand messages, so many are refused by the counter
    #[arg(long, default_value_t = 50)]
    pub bad: u32,
    /// Of a thousand messages, so many find it busy, and so many get no answer, at first
    #[arg(long, default_value_t = 50)]
    pub troubled: u32,
    /// Every message is sent so often, whatever was said of the first
    #[arg(long, default_value_t = 1)]
    pub times: u32,
    /// Bytes of ballast in each message
    #[arg(long, default_value_t = 0)]
    pub ballast: usize,
    /// Sends these ids, one a line, instead, each once, and ends
    #[arg(long)]
    pub ids: Option<PathBuf>,
    /// Sends those at the rate instead of as fast as it can, and says when
    #[arg(long)]
    pub paced: bool,
}

/// Messages on their way at once, at most.
const WINDOW: usize = 512;
/// Within the broker's dedupe window, so that a repeat is recognised.
const TRY_FOR: Duration = Duration::from_secs(100);
/// How long a message may still be tried after the order to stop.
const LAST_WORDS: Duration = Duration::from_secs(40);

fn say(words: std::fmt::Arguments<'_>) {
    // Nobody listens any more: the campaign has ended, and so will this process.
    let _ = writeln!(std::io::stdout(), "{words}");
}

fn kind(random: &mut fastrand::Rng, settings: &Settings) -> &'static str {
    let dice = random.u32(0..1000);
    match dice {
        d if d < settings.bad => "-bad-",
        d if d < settings.bad + settings.troubled => "-busy-",
        d if d < settings.bad + 2 * settings.troubled => "-mute-",
        _ => "-good-",
    }
}

/// Publishes until SIGTERM.
///
/// # Errors
/// The broker can't be reached at first.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mesh = settings.place.connect(SENDER).await?;
    let mut stop = unix::signal(unix::SignalKind::terminate())?;
    say(format_args!("ready"));
    if let Some(file) = &settings.ids {
        let ids = std::fs::read_to_string(file)?;
        send_listed(&mesh, &settings, ids.lines()).await;
        say(format_args!("end"));
        return Ok(());
    }
    let mut random = fastrand::Rng::with_seed(settings.seed);
    let mut pace = tokio::time::interval(Duration::from_nanos(1_000_000_000 / settings.rate.max(1)));
    // After a stall the load goes on at its rate, not in one lump.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut under_way = FuturesUnordered::new();
    let mut gaps = Gaps::default();
    let mut number = 0_usize;
    loop {
        tokio::select! {
            _ = stop.recv() => break,
            Some(side) = under_way.next(), if !under_way.is_empty() => gaps.ended(side),
            _ = pace.tick(), if under_way.len() < WINDOW => {
                number += 1;
                let side = if random.bool() { WORK } else { EVENT };
                let id = format!("{}{}{number}", side.trim_end_matches('-'), kind(&mut random, &settings));
                say(format_args!("try {id}"));
                for _ in 0..settings.times.max(1) {
                    under_way.push(send_until_acknowledged(&mesh, id.clone(), settings.ballast).map(move |()| side));
                }
            }
        }
    }
    let last = async { while under_way.next().await.is_some() {} };
    let all = tokio::time::timeout(LAST_WORDS, last).await.is_ok();
    say(format_args!("gap {}", gaps.longest.as_millis()));
    say(format_args!("{}", if all { "end" } else { "end with some unanswered" }));
    Ok(())
}

/// How long nothing was acknowledged of events, or of queued work: they lie in two streams, with leaders of their own.
#[derive(Default)]
struct Gaps {
    last: HashMap<&'static str, Instant>,
    longest: Duration,
}

impl Gaps {
    fn ended(&mut self, side: &'static str) {
        if let Some(before) = self.last.insert(side, Instant::now()) {
            self.longest = self.longest.max(before.elapsed());
        }
    }
}

/// What is on its way.
#[derive(Default)]
struct UnderWay<'a> {
    sends: FuturesUnordered<BoxFuture<'a, &'a str>>,
    keys: HashSet<&'a str>,
}

impl<'a> UnderWay<'a> {
    fn begin(&mut self, mesh: &'a Mesh, id: &'a str, ballast: usize) {
        self.keys.extend(key_of(id));
        let send = send_until_acknowledged(mesh, id.to_owned(), ballast);
        self.sends.push(send.map(move |()| id).boxed());
    }

    /// Waits until one has ended; there must be one. Cancel-safe.
    async fn one_ends(&mut self) {
        if let Some(key) = self.sends.next().await.and_then(key_of) {
            self.keys.remove(key);
        }
    }

    /// Waits for the moment, and hears those that end until then.
    async fn until<T>(&mut self, moment: impl Future<Output = T>) {
        tokio::pin!(moment);
        loop {
            tokio::select! {
                _ = &mut moment => return,
                () = self.one_ends(), if !self.sends.is_empty() => {}
            }
        }
    }

    /// Waits until fewer than `most` are under way and the one before it of its key is stored: messages of one key are stored
    /// in the order in which they are sent.
    async fn room_for(&mut self, id: &str, most: usize) {
        while self.sends.len() >= most || key_of(id).is_some_and(|key| self.keys.contains(key)) {
            self.one_ends().await;
        }
    }
}

/// Sends each once, as fast as it can; or at the rate, whatever becomes of those before: an offered load.
async fn send_listed<'a>(mesh: &'a Mesh, settings: &Settings, ids: impl Iterator<Item = &'a str>) {
    let mut pace = tokio::time::interval(Duration::from_nanos(1_000_000_000 / settings.rate.max(1)));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut under_way = UnderWay::default();
    for id in ids {
        if settings.paced {
            under_way.until(pace.tick()).await;
        }
        under_way.room_for(id, if settings.paced { usize::MAX } else { WINDOW }).await;
        say(format_args!("try {id}"));
        if settings.paced {
            say(format_args!("at {} {id}", now_us()));
        }
        under_way.begin(mesh, id, settings.ballast);
    }
    while !under_way.sends.is_empty() {
        under_way.one_ends().await;
    }
}

async fn send_until_acknowledged(mesh: &Mesh, id: String, ballast: usize) {
    let limit = Instant::now() + TRY_FOR;
    let mut said = String::new();
    while Instant::now() < limit {
        match send(mesh, &id, ballast).await {
            Ok(receipt) => {
                say(format_args!("{} {id}", if receipt.duplicate { "dup" } else { "ack" }));
                return;
            }
            Err(fault) if fault.code() == mesh_core::fault::Code::InvalidArgument => {
                say(format_args!("refused {id} {fault}"));
                return;
            }
            Err(fault) => {
                let words = fault.to_string();
                if words != said {
                    say(format_args!("not {id} {words}"));
                    said = words;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    say(format_args!("gave-up {id}"));
}

async fn send(mesh: &Mesh, id: &str, ballast: usize) -> Result<Receipt, Fault> {
    if id.starts_with(WORK) {
        let description = "x".repeat(ballast);
        let request = ChargeRequest { order_id: id.to_owned(), amount_cents: 1, description, ..Default::default() };
        return PaymentsClient::new(mesh).charge().enqueue(&request).id(id).await;
    }
    let customer_id = key_of(id).unwrap_or_default().to_owned();
    let event =
        OrderPlaced { order_id: id.to_owned(), customer_id, placed_on: "x".repeat(ballast), ..Default::default() };
    mesh.publisher::<OrderPlaced>().publish(&event).id(id).await
}
