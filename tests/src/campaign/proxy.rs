//! A proxy between a client and the broker that can lose what was said: acknowledgements, connections, or both. It can also
//! tell what clients said.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use mesh_core::clock::TaskScope;

/// What a client said, in parts, and when each came.
pub type Said = Vec<(Instant, Vec<u8>)>;

#[derive(Debug)]
struct State {
    /// What the broker says is thrown away.
    deaf: AtomicBool,
    /// New connections are ended at once.
    refuses: AtomicBool,
    /// Bytes of the broker that still go through.
    left: AtomicU64,
    /// Bytes of the broker that were thrown away.
    lost: AtomicU64,
    /// What clients said, where somebody wants to know.
    said: Option<Mutex<Said>>,
}

impl Default for State {
    fn default() -> State {
        let (deaf, refuses) = (AtomicBool::new(false), AtomicBool::new(false));
        State { deaf, refuses, left: AtomicU64::new(u64::MAX), lost: AtomicU64::new(0), said: None }
    }
}

/// Forwards connections to one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    /// Counted up: every connection of before is cut.
    cuts: watch::Sender<u64>,
    tasks: TaskScope,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Proxy {
    /// Forwards to `broker`, which may restart on its port.
    ///
    /// # Errors
    /// It can't listen.
    pub async fn start(broker: SocketAddr) -> anyhow::Result<Proxy> {
        Proxy::with(broker, State::default()).await
    }

    /// The same, and keeps all that clients say.
    ///
    /// # Errors
    /// It can't listen.
    pub async fn listening(broker: SocketAddr) -> anyhow::Result<Proxy> {
        Proxy::with(broker, State { said: Some(Mutex::default()), ..State::default() }).await
    }

    async fn with(broker: SocketAddr, state: State) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (cuts, cut) = watch::channel(0);
        let proxy = Proxy { address, state: Arc::new(state), cuts, tasks: TaskScope::new() };
        let (state, tasks) = (Arc::clone(&proxy.state), proxy.tasks.clone());
        proxy.tasks.spawn(async move {
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = tasks.stopped() => return,
                };
                if let Ok((client, _)) = client
                    && !state.refuses.load(Ordering::SeqCst)
                {
                    tasks.spawn(forward(client, broker, Arc::clone(&state), cut.clone(), tasks.clone()));
                }
            }
        });
        Ok(proxy)
    }

    /// Its address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on nothing that the broker says reaches a client; what clients say goes on to the broker.
    pub fn lose_answers(&self) {
        self.state.deaf.store(true, Ordering::SeqCst);
    }

    /// The same once the broker has said about so many bytes more.
    pub fn lose_answers_after(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts every connection, and lets new ones hear again.
    pub fn cut(&self) {
        self.state.deaf.store(false, Ordering::SeqCst);
        self.state.left.store(u64::MAX, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Whether new connections are refused: with [`cut`](Proxy::cut), whether its clients are cut off.
    pub fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::SeqCst);
    }

    /// All that the one client said so far, and when its parts came; nothing where it was not to be kept.
    #[must_use]
    pub fn said(&self) -> Said {
        let said = self.state.said.as_ref();
        said.map(|said| said.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// How many bytes of the broker's were lost.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }
}

/// One connection, until either side ends it or it is cut. Once it has lost something it stays deaf: a stream of bytes with a
/// hole in it is none.
async fn forward(
    client: TcpStream,
    broker: SocketAddr,
    state: Arc<State>,
    mut cut: watch::Receiver<u64>,
    tasks: TaskScope,
) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(broker).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = up(from_client, to_server, &state) => {}
        () = down(from_server, to_client, &state) => {}
        _ = cut.changed() => {}
        () = tasks.stopped() => {}
    }
}

/// Until either end goes: that may be at any time.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Some(said) = &state.said {
            said.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), buffer[..read].to_vec()));
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    let mut deaf = false;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let takes = |left: u64| left.checked_sub(read as u64);
        if state.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes).is_err() {
            state.deaf.store(true, Ordering::SeqCst);
        }
        deaf |= state.deaf.load(Ordering::SeqCst);
        if deaf {
            state.lost.fetch_add(read as u64, Ordering::SeqCst);
        } else if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
