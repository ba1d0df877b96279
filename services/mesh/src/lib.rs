//! The program `mesh` as a library: its command line, the local cluster with its embedded nats-server, and the roles that
//! its processes take.

// `eprintln!` panics where nobody reads any more (`mesh … 2>&1 | head -1`): `cli::mention` does not.
#![warn(clippy::print_stderr)]

pub mod cli;
pub mod cluster;
pub mod demo;
pub mod dev;
pub mod engine;
pub mod ledger;
pub mod roles;
pub mod stop;
