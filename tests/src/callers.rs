//! Callers that each await their own answer before they begin the next: how many answers a second, and how long each took. And
//! what they publish, by the library, which commits in groups, and by a client that is not ours, each message alone. And how fast
//! the broker takes batches that nobody has to make any more.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use async_nats::{HeaderMap, jetstream};
use mesh_core::{Mesh, Publisher, bus::BusSettings, clock::TaskScope, envelope::TraceContext, subject::partition};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    TestBroker,
    broker::REGION,
    foreign,
    letters::EVENT,
    ready_made::{Batch, Message, ReadyMade},
};

/// What one round of one side gave.
#[derive(Debug, Clone)]
pub struct Round {
    /// Operations a second.
    pub rate: f64,
    /// How long each operation took, in ascending order; empty where one is not seen apart.
    pub latencies: Vec<Duration>,
}

/// Runs `count` operations, `callers` at once, each beginning its next when its last has ended. Each caller is a task of its
/// own, as the handlers of a service are: callers that share one task share one thread, whatever is measured.
///
/// # Errors
/// That of a caller whose operation failed.
pub async fn closed_loop<F, Fut>(callers: usize, count: usize, operation: F) -> anyhow::Result<Round>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (next, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::with_capacity(count))));
    let failed = Arc::new(Mutex::new(None));
    let tasks = TaskScope::new();
    let started = Instant::now();
    for _ in 0..callers {
        let (next, all, operation, failed) =
            (Arc::clone(&next), Arc::clone(&all), operation.clone(), Arc::clone(&failed));
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(count / callers + 1);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let began = Instant::now();
                if let Err(error) = operation(number).await {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    break;
                }
                latencies.push(began.elapsed());
            }
            all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut latencies);
        });
    }
    tasks.idle().await;
    let rate = rate(count, started.elapsed());
    let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(Ok(()), Err).context("a caller failed")?;
    let mut latencies = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(latencies.len() == count, "a caller ended before its time");
    latencies.sort_unstable();
    Ok(Round { rate, latencies })
}

/// So many in this time, a second.
#[must_use]
pub fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// An order of about 256 bytes.
#[must_use]
pub fn order(number: usize) -> OrderPlaced {
    OrderPlaced {
        order_id: number.to_string(),
        customer_id: (number % 1000).to_string(),
        placed_on: "x".repeat(220),
        item_count: 1,
        total_cents: 1177,
        currency: "USD".into(),
    }
}

/// Two publishers of the service `orders` at one broker: the library and a client that does the same on the wire (same subject,
/// same headers, same kind of acknowledgement) for each message alone.
pub struct Publishers {
    own: Mesh,
    raw: jetstream::Context,
    next: AtomicUsize,
}

impl Publishers {
    /// Both, connected.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn of(broker: &TestBroker, group_commit: bool) -> anyhow::Result<Publishers> {
        let settings = BusSettings { group_commit, ..BusSettings::new(broker.server.client_url()) };
        let own = Mesh::builder("orders").region(REGION).settings(settings).credential(broker.credential("orders"));
        Ok(Publishers {
            own: own.connect().await?,
            raw: jetstream::new(foreign::client(broker, "orders").await),
            next: AtomicUsize::new(1),
        })
    }

    /// The numbers of all orders so far.
    #[must_use]
    pub fn numbers(&self) -> Range<usize> {
        1..self.next.load(Ordering::Relaxed)
    }

    /// A round of batches that are ready, each sent when the one before it is stored: so many messages a second. `callers` are in a
    /// batch, as many as would wait for it.
    ///
    /// # Errors
    /// One is not stored.
    pub async fn ready_made(&self, broker: &TestBroker, callers: usize, count: usize) -> anyhow::Result<f64> {
        let mut connection = ReadyMade::connect(broker, "orders").await?;
        let batches: Vec<Batch> = (0..count / callers)
            .map(|_| {
                let first = self.next.fetch_add(callers, Ordering::Relaxed);
                connection.batch(&format!("ready-made-{first:011}"), (first..first + callers).map(message))
            })
            .collect();
        let started = Instant::now();
        for batch in &batches {
            connection.publish(batch).await?;
        }
        Ok(rate(batches.len() * callers, started.elapsed()))
    }

    /// One round: `count` orders more, each acknowledged by itself.
    ///
    /// # Errors
    /// One is not acknowledged.
    pub async fn publish(&self, own: bool, callers: usize, count: usize) -> anyhow::Result<Round> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if own {
            let publisher = Arc::new(self.own.publisher::<OrderPlaced>());
            closed_loop(callers, count, move |number| grouped(Arc::clone(&publisher), first + number)).await
        } else {
            let publisher = self.raw.clone();
            closed_loop(callers, count, move |number| alone(publisher.clone(), first + number)).await
        }
    }
}

async fn grouped(publisher: Arc<Publisher<OrderPlaced>>, number: usize) -> anyhow::Result<()> {
    publisher.publish(&order(number)).id(number.to_string()).await?;
    Ok(())
}

async fn alone(publisher: jetstream::Context, number: usize) -> anyhow::Result<()> {
    let Message { subject, headers, payload } = message(number);
    publisher.publish_with_headers(subject, headers, payload).await?.await?;
    Ok(())
}

/// An order as the library sends it.
fn message(number: usize) -> Message {
    let event = order(number);
    let subject = format!("mesh1.event.{REGION}.orders.{EVENT}.{}", partition(event.customer_id.as_bytes()));
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("orders/{EVENT}/{number}"));
    headers.insert("traceparent", TraceContext::root(false).to_string());
    Message { subject, headers, payload: event.encode_to_vec().into() }
}
