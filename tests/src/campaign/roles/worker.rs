//! Handles events and queued work: each becomes one call of the counter, with the idempotency key of the attempt.

use std::{io::Write as _, time::Duration};

use clap::Args;
use hyper::StatusCode;
use mesh_core::{
    Context, Fault,
    consume::{ConsumerSettings, OrderSettings},
    fault::{Code, Effect, Reason},
    policy::{isolation::IsolationRule, retry::RetryRule},
};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsServer},
};

use super::Place;
use crate::campaign::{
    client::{CounterClient, NoAnswer},
    stage::{CONSUMER, WORKER},
};

/// What is handled, and how.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The broker
    #[command(flatten)]
    pub place: Place,
    /// Who handles; others than the first one handle events alone
    #[arg(long, default_value = WORKER)]
    pub service: String,
    /// The counter's address
    #[arg(long)]
    pub counter: String,
    /// How long the broker waits for a sign of life, in milliseconds: as the consumers were made
    #[arg(long)]
    pub ack_wait_ms: u64,
    /// Attempts at one message
    #[arg(long, default_value_t = 5)]
    pub attempts: u32,
    /// How long one attempt may take, in milliseconds
    #[arg(long, default_value_t = 60_000)]
    pub handler_limit_ms: u64,
    /// How long a message with the word `long` in its id is worked on, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub long_ms: u64,
    /// Messages that are handled at once
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// Remembers for an hour what was handled
    #[arg(long)]
    pub inbox: bool,
    /// Keeps messages with different words in their ids apart, as targets
    #[arg(long)]
    pub isolate: bool,
    /// After so long comes back what was put aside for a target by a process that nobody knows yet, in milliseconds
    #[arg(long, default_value_t = 120_000)]
    pub aside_unknown_ms: u64,
    /// Keeps the order of keys, with leases as short as the time of a test
    #[arg(long)]
    pub ordered: bool,
    /// The longest wait before the next attempt that is spent in hand where the order is kept, in milliseconds
    #[arg(long, default_value_t = 2000)]
    pub short_wait_ms: u64,
}

#[derive(Clone)]
struct Handler {
    counter: CounterClient,
    long: Duration,
}

impl Handler {
    async fn handle(&self, cx: &Context) -> Result<(), Fault> {
        come_to_grief(cx.local_id()).await;
        if cx.local_id().split('-').any(|word| word == "long") {
            self.work_on(cx.local_id()).await;
        }
        match self.counter.effect(cx.local_id(), cx.idempotency_key(), cx.attempt()).await {
            Ok(StatusCode::OK) => Ok(()),
            Ok(StatusCode::BAD_REQUEST) => Err(Fault::invalid("the counter refuses it")),
            Ok(status) => Err(Fault::unavailable(format!("the counter says {status}"))),
            Err(NoAnswer::NotSent) => Err(Fault::unavailable("the counter is not there")),
            Err(NoAnswer::Unknown) => {
                let message = "the counter did not answer";
                Err(Fault::new(Code::Unavailable, Effect::Unknown, Reason::HandlerRefused, message))
            }
        }
    }

    /// Says that it begins, for whoever counts, and takes its time.
    async fn work_on(&self, id: &str) {
        // Nobody listens any more: the campaign has ended, and so will this process.
        let _ = writeln!(std::io::stdout(), "begun {id}");
        tokio::time::sleep(self.long).await;
    }
}

/// What a bug of a handler does, by a word in the message's id.
async fn come_to_grief(id: &str) {
    for word in id.split('-') {
        match word {
            "panic" => panic_over(id),
            "hang" => std::future::pending().await,
            "abort" => std::process::abort(),
            "spin" => loop {
                std::hint::spin_loop();
            },
            _ => {}
        }
    }
}

#[expect(clippy::panic, reason = "the bug that is played here")]
fn panic_over(id: &str) {
    panic!("a bug over {id}");
}

impl Payments for Handler {
    async fn charge(&self, cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
        self.handle(&cx).await?;
        Ok(ChargeReply { charge_id: request.order_id, status: "succeeded".into() })
    }
}

/// Handles until SIGTERM, then drains.
///
/// # Errors
/// The broker can't be reached at first.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mesh = settings.place.connect(&settings.service).await?;
    let handler =
        Handler { counter: CounterClient::new(&settings.counter), long: Duration::from_millis(settings.long_ms) };
    let retry = RetryRule {
        max_attempts: settings.attempts,
        base: Duration::from_millis(100),
        cap: Duration::from_secs(1),
        ..RetryRule::default()
    };
    let consumer = ConsumerSettings {
        concurrency: settings.concurrency,
        prefetch: settings.concurrency,
        ack_wait: Duration::from_millis(settings.ack_wait_ms),
        handler_limit: Duration::from_millis(settings.handler_limit_ms),
        retry,
        inbox: settings.inbox.then_some(Duration::from_secs(3600)),
        ..ConsumerSettings::default()
    };
    let events = handler.clone();
    let on_event = move |cx: Context, _event: OrderPlaced| {
        let events = events.clone();
        async move { events.handle(&cx).await }
    };
    let order = settings.ordered.then(|| OrderSettings {
        lease: Duration::from_secs(2),
        look_every: Duration::from_millis(100),
        short_wait: Duration::from_millis(settings.short_wait_ms),
        ..OrderSettings::default()
    });
    let isolation = settings.isolate.then(|| IsolationRule {
        aside_unknown: Duration::from_millis(settings.aside_unknown_ms),
        ..IsolationRule::default()
    });
    let of_events = ConsumerSettings { order, isolation, ..consumer.clone() };
    let mut on_events = mesh.consumer::<OrderPlaced>(CONSUMER).settings(of_events);
    if settings.isolate {
        on_events = on_events.isolate_by(|event| event.order_id.split('-').nth(1).unwrap_or_default().to_owned());
    }
    on_events.start(on_event).await?;
    if settings.service == WORKER {
        mesh.serve(PaymentsServer::new(handler)).calls(false).settings(consumer).start().await?;
    }
    writeln!(std::io::stdout(), "ready")?;
    mesh.run_until_stopped().await;
    Ok(())
}
