//! One thread starts every child and lives as long as the process.
//!
//! On Linux a child's parent-death signal comes when the *thread* that started it ends, not the process. A runtime's worker
//! may end earlier, and take the children with it. So all are started by this one thread, which waits for orders for ever.

use std::io;
use std::sync::{OnceLock, mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    /// The runtime that shall hear of the child's end.
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

static KEEPER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();

/// Starts the command from the keeper thread. Must be called inside a tokio runtime.
///
/// # Errors
/// What the system says; or that the keeper thread could not be started.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts children is not there");
    let keeper = KEEPER.get_or_init(start_keeper).as_ref().ok_or_else(gone)?;
    let (answer, answered) = oneshot::channel();
    keeper.send(Order { command, runtime: Handle::current(), answer }).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

fn start_keeper() -> Option<mpsc::Sender<Order>> {
    let (sender, orders) = mpsc::channel();
    let thread = std::thread::Builder::new().name("mesh-spawner".to_owned());
    thread.spawn(move || orders.iter().for_each(obey)).ok().map(|_| sender)
}

fn obey(order: Order) {
    let Order { mut command, runtime, answer } = order;
    let _entered = runtime.enter();
    // Nobody waits any more: the child is dropped here, and `kill_on_drop` ends it.
    let _ = answer.send(command.spawn());
}
