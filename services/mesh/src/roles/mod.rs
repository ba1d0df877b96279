//! Services that this program can be: those of the shop, each a process of its own, an adapter by its vendor file, and the keeper.
//!
//! A role takes its address and identity from the environment (`MESH_NATS_URL`, `MESH_NATS_SEED_FILE`, `MESH_REGION`), says
//! `{"ready":"<service>"}` on standard output once it works, and drains when it is told to stop.

mod adapter;
mod frame;
mod keeper;
mod shop;

pub use adapter::{AdapterArgs, run as run_adapter};
pub use keeper::{InBackground as Keeping, run as run_keeper};
pub use shop::{RoleArgs, RoleName, run};
