//! A store that takes its time to confirm what is remembered, while everything else goes on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Context, Fault, Mesh, bus::StreamLimits, clock::TaskScope, consume::ConsumerSettings, contract::Repeat,
};
use mesh_tests::{Seen, TestBroker, eventually};
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsClient};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

use crate::{
    inbox::{BANKS_WORK, left_in_the_middle, letters, settled},
    inbox_aside::charges,
    shop::{bank, charge_of, consumer, order, orders, till},
};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// Stands between a client and its broker, and keeps back what the client writes to its store while the gate is shut.
struct SlowStore {
    address: SocketAddr,
    gate: watch::Sender<bool>,
    kept: Arc<AtomicUsize>,
    tasks: TaskScope,
}

impl Drop for SlowStore {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl SlowStore {
    async fn start(broker: &TestBroker, is_open: bool) -> SlowStore {
        let broker: SocketAddr = broker.server.client_url().trim_start_matches("nats://").parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (gate, tasks) = (watch::channel(is_open).0, TaskScope::new());
        let slow = SlowStore { address: listener.local_addr().unwrap(), gate, kept: Arc::default(), tasks };
        let (gate, kept, tasks) = (slow.gate.clone(), Arc::clone(&slow.kept), slow.tasks.clone());
        slow.tasks.spawn(async move {
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = tasks.stopped() => return,
                };
                tasks.spawn(forward(client, broker, (gate.clone(), Arc::clone(&kept)), tasks.clone()));
            }
        });
        slow
    }

    async fn connect(&self, broker: &TestBroker, service: &str) -> Mesh {
        let mesh = Mesh::builder(service).region(mesh_tests::broker::REGION).url(&format!("nats://{}", self.address));
        mesh.credential(broker.credential(service)).connect().await.unwrap()
    }

    fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }
}

type Gate = (watch::Sender<bool>, Arc<AtomicUsize>);

async fn forward(client: TcpStream, broker: SocketAddr, (gate, kept): Gate, tasks: TaskScope) {
    let Ok(server) = TcpStream::connect(broker).await else { return };
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let (at_once, later) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let is_open = gate.subscribe();
    tokio::select! {
        () = sort(from_client, (at_once.0, later.0), (gate, kept)) => {}
        () = write(to_server, (at_once.1, later.1), is_open) => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        () = tasks.stopped() => {}
    }
}

type Frames = mpsc::UnboundedSender<Vec<u8>>;

/// Reads what a client says, message by message.
async fn sort(from: OwnedReadHalf, (at_once, later): (Frames, Frames), (gate, kept): Gate) {
    let mut from = BufReader::new(from);
    loop {
        let mut frame = Vec::new();
        let Ok(1..) = from.read_until(b'\n', &mut frame).await else { return };
        let line = String::from_utf8_lossy(&frame).into_owned();
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let is_message = matches!(words.first(), Some(&"PUB" | &"HPUB"));
        if is_message {
            let bytes: usize = words.last().unwrap().parse().unwrap();
            let start = frame.len();
            frame.resize(start + bytes + 2, 0);
            if from.read_exact(frame.get_mut(start..).unwrap()).await.is_err() {
                return;
            }
        }
        let is_stored = is_message && words.get(1).is_some_and(|subject| subject.starts_with("mesh1.store."));
        let is_kept = is_stored && !*gate.borrow();
        kept.fetch_add(usize::from(is_kept), Ordering::SeqCst);
        let _ = if is_kept { later.send(frame) } else { at_once.send(frame) };
    }
}

type Arriving = mpsc::UnboundedReceiver<Vec<u8>>;

async fn write(mut to: OwnedWriteHalf, (mut at_once, mut later): (Arriving, Arriving), gate: watch::Receiver<bool>) {
    loop {
        let mut opened = gate.clone();
        let frame = tokio::select! {
            Some(frame) = at_once.recv() => frame,
            Some(frame) = async {
                opened.wait_for(|is_open| *is_open).await.ok()?;
                later.recv().await
            } => frame,
            else => return,
        };
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

fn limits() -> StreamLimits {
    StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() }
}

fn settings() -> ConsumerSettings {
    ConsumerSettings { ack_wait: ACK_WAIT, ..ConsumerSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_confirmed_late_is_known_as_ones_own() {
    let broker = TestBroker::with(&[till(), bank()], true, &limits()).await.unwrap();
    let store = SlowStore::start(&broker, false).await;
    let mesh = store.connect(&broker, "bank").await;
    let seen = Seen::default();
    mesh.serve(charges(Repeat::Once, &seen, &Arc::default())).settings(settings()).calls(false).start().await.unwrap();
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(3, 100)).id("3").await.unwrap();
    // The first, and more that were written because it was not confirmed.
    eventually("a second start", || async { (store.kept() >= 3).then_some(()) }).await;
    store.gate.send_replace(true);
    settled(&broker, BANKS_WORK).await;
    assert!(letters(&broker).await.is_empty(), "it had not begun");
    assert_eq!(*seen.lock().await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_lets_others_in_though_nothing_that_is_remembered_is_confirmed() {
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let sender = left_in_the_middle(&broker, settings(), None).await;
    let publisher = sender.publisher::<OrderPlaced>();

    let store = SlowStore::start(&broker, true).await;
    let (seen, (end, ended)) = (Seen::default(), watch::channel(false));
    let (into, gate) = (Arc::clone(&seen), store.gate.clone());
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, gate, mut ended) = (Arc::clone(&into), gate.clone(), ended.clone());
        async move {
            let is_suspect = event.order_id == "1";
            if is_suspect {
                gate.send_replace(false);
            }
            into.lock().await.push(event.order_id);
            if is_suspect {
                ended.wait_for(|is_over| *is_over).await.map_err(|_| Fault::unavailable("the test has ended"))?;
            }
            Ok(())
        }
    };
    let mesh = store.connect(&broker, "mail").await;
    mesh.consumer::<OrderPlaced>("confirm").settings(settings()).start(handler).await.unwrap();
    eventually("the suspect", || async { (seen.lock().await.len() == 1).then_some(()) }).await;
    publisher.publish(&order(2)).id("2").await.unwrap();
    eventually("another one", || async { (*seen.lock().await == ["1", "2"]).then_some(()) }).await;
    assert!(store.kept() > 0 && !*store.gate.borrow(), "the store confirms nothing");
    end.send_replace(true);
    store.gate.send_replace(true);
    settled(&broker, ("mesh1-event-orders", "mail_confirm")).await;
    assert!(letters(&broker).await.is_empty());
    assert_eq!(*seen.lock().await, ["1", "2"], "each once");
}
