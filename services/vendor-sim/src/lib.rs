//! Hostile stand-ins of third-party vendors, over real HTTP: one Stripe-like, one Courier-like, on one port.
//!
//! They check credentials, honour idempotency keys, throttle, refuse, slow down, fail and cut connections as
//! vendors do, and keep the vendor's side of the ledger. This crate uses none of the project's others, so it
//! can't share their mistakes. The README lists the paths, the knobs and the counts.
//!
//! Floors, each importing only those below it:
//!
//! ```text
//! server     listener, routes           args      command line
//! control    knobs and ledger over HTTP
//! vendor     one vendor over HTTP
//! stripe     courier                    the two dialects
//! desk       decides about each call    config
//! book       throttle   ledger          effects, pace, counts
//! knobs      clock      answer
//! ```

mod answer;
mod args;
mod book;
mod clock;
mod config;
mod control;
mod courier;
mod desk;
mod knobs;
mod ledger;
mod server;
mod stripe;
mod throttle;
mod vendor;

use std::future::Future;
use std::io::Write;

pub use args::{Args, BothKnobs};
pub use clock::{Clock, Hand};
pub use config::{COURIER_KEY, Config, Key, STRIPE_KEY, VendorConfig};
pub use knobs::{KNOBS, KnobError, Knobs};
pub use server::{Error, Server, bind};

/// Listens, tells the address on standard output in one line of JSON, and serves until `shutdown` is ready.
///
/// # Errors
/// The address can't be had, or standard output is closed.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let server = bind(config).await?;
    announce(&server).map_err(Error::Announce)?;
    server.serve(shutdown).await;
    Ok(())
}

fn announce(server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({"listening": server.local_addr().to_string()}))?;
    out.flush()
}
