//! The embedded engine: a nats-server that is found or installed, and runs as a child that can't outlive its parent.
//!
//! [`obtain`] finds or installs the program, [`Server`] runs it. [`GuardedCommand`] and [`Child`] run any other program in the
//! same way. `mesh internal guard` must lead to [`guard_main`].

mod child;
mod config;
mod download;
mod error;
mod find;
mod guard;
mod install;
mod log;
mod platform;
mod progress;
mod ready;
mod server;
#[cfg(test)]
mod server_tests;
mod source;
mod spawner;
#[cfg(test)]
mod testing;
mod unpack;
mod version;

pub use child::{Child, Guard, GuardedCommand, Output};
pub use config::{AllowResponses, Cluster, JetStream, ServerConfig, UserEntry, users_text};
pub use error::{EngineError, Tried};
pub use find::{Binary, Environment, Origin, find};
pub use guard::{GUARD_WORDS, guard_main};
pub use install::install;
pub use progress::{Listener, Progress};
pub use server::Server;
pub use version::{FLOOR, INSTALLED, Version};

/// Finds a usable nats-server, or installs one into the user's cache.
///
/// # Errors
/// [`EngineError::Variable`] if `MESH_NATS_SERVER` names nothing usable, [`EngineError::NotInstalled`] with everything that was
/// tried if there is none and none can be had.
pub async fn obtain(environment: &Environment, listener: Listener<'_>) -> Result<Binary, EngineError> {
    let mut passed_over = Vec::new();
    let mut hear = |news: Progress| {
        if let Progress::PassedOver { path, reason } = &news {
            passed_over.push(Tried { source: path.display().to_string(), reason: reason.clone() });
        }
        listener(news);
    };
    if let Some(binary) = find(environment, &mut hear).await? {
        return Ok(binary);
    }
    match install(environment, &mut hear).await {
        Err(EngineError::NotInstalled { tried }) => {
            Err(EngineError::NotInstalled { tried: passed_over.into_iter().chain(tried).collect() })
        }
        done => done,
    }
}

/// Where [`free_loopback_port`] looks: below the ranges out of which the systems choose ports for outgoing connections and for port 0
/// (Linux from 32768, IANA from 49152), so that no connection of a neighbour takes the port before it is used.
const FIRST_PORT: u32 = 20_000;
/// How many ports it looks through.
const PORTS: u32 = 12_000;

/// A port of 127.0.0.1 that is free now, and a different one at each call of one process. Another program may still take it before it
/// is used: prefer port 0 where the server can choose, and use this where a port must be known beforehand, as in the routes of a cluster.
///
/// # Errors
/// What the system says, when none of the ports looked at is free.
pub fn free_loopback_port() -> std::io::Result<u16> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Processes of one machine begin apart: their ids are often neighbours, so they are spread.
    let start = std::process::id().wrapping_mul(2_654_435_761) >> 8;
    let mut last = None;
    for _ in 0..PORTS {
        let step = CALLS.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (start.wrapping_add(step)) % PORTS;
        let Ok(port) = u16::try_from(port) else { continue };
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}
