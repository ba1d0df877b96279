//! Services that this program can be: those of the shop, each a process of its own, and an adapter by its vendor file.
//!
//! A role takes its address and identity from the environment (`MESH_NATS_URL`, `MESH_NATS_SEED_FILE`, `MESH_REGION`), says
//! `{"ready":"<service>"}` on standard output once it works, and drains when it is told to stop.

mod adapter;
mod frame;
mod shop;

pub use adapter::{AdapterArgs, run as run_adapter};
pub use shop::{RoleArgs, RoleName, run};
