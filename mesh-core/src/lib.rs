//! Messages between services over NATS: publish, consume, call and enqueue, with dead letters and replay.
//!
//! The crate is built in floors; a module imports only lower floors, and a test keeps it so:
//!
//! ```text
//! 10 mesh          connect, builder, drain
//!  9 adapter       an operation -> a vendor's HTTP API -> outcome    operate   what people and tools may ask and order
//!  8 consume       pull, run, settle
//!  7 delayed       later, without holding a slot     dead_letter   refused work and its replay
//!    outbox        publish what a database committed (features outbox-sqlite, outbox-postgres)
//!  6 publish       send an event or queue work       request       ask and answer
//!  5 store         leases, inboxes: state by compare-and-set        claim       bytes that lie apart of a letter or a copy
//!  4 bus           the broker                        http          one vendor call
//!  3 gate          seal on the way out, open on the way in           config    files and environment -> valid values
//!  2 policy        pure decisions      identity   who I am           telemetry what is said about it
//!  1 contract      message types, the Handler        envelope        a message with its facts
//!  0 subject       names of places     fault      what went wrong    clock     time, deadlines, task scope
//! ```

pub mod adapter;
pub mod bus;
pub mod claim;
pub mod clock;
pub mod config;
pub mod consume;
pub mod contract;
pub mod dead_letter;
pub mod delayed;
pub mod envelope;
pub mod fault;
pub mod gate;
pub mod http;
pub mod identity;
pub mod mesh;
pub mod operate;
#[cfg(any(feature = "outbox-sqlite", feature = "outbox-postgres"))]
pub mod outbox;
pub mod policy;
pub mod publish;
pub mod request;
pub mod store;
pub mod subject;
pub mod telemetry;

pub use mesh_proto as proto;

pub use contract::Context;
pub use fault::Fault;
pub use mesh::{ConsumerBuilder, Mesh, MeshBuilder, OperationClient, ServeBuilder};
pub use publish::{Publisher, Receipt};
