//! Message types, operations, handlers and what a handler is told.
//!
//! The traits here are implemented by code that `mesh-build` generates from `.proto` files; nobody writes them by hand.

pub mod admission;
pub mod catalog;
mod context;
#[doc(hidden)]
pub mod generated;
mod handler;
mod operation;

use std::borrow::Cow;

pub use catalog::Catalog;
pub(crate) use context::vendor_key;
pub use context::{Context, Facts};
pub use handler::Handler;
pub use operation::{BoxFuture, Operation, OperationInfo, Repeat, Service};

/// A protobuf message that has a name in a contract.
///
/// Only a message of a contract travels; anything else does not compile:
///
/// ```compile_fail,E0277
/// fn travels<M: mesh_core::contract::Contract>() {}
/// travels::<String>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message of a contract",
    note = "messages come from .proto files: see mesh_build::compile"
)]
pub trait Contract: prost::Message + Default + Send + Sync + 'static {
    /// `package.Message`
    const FULL_NAME: &'static str;
}

/// A fact that happened, published by one service to every consumer that asked for it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event, so it can't be published or consumed",
    note = "make it one in its .proto: option (mesh.v1.event) = {{ producer: \"…\" }};"
)]
pub trait Event: Contract {
    /// The service that publishes it: `[a-z0-9-]{1,63}`.
    const PRODUCER: &'static str;

    /// The ordering key; empty where the contract names none.
    fn key(&self) -> Cow<'_, str>;
}

/// Includes the code that `mesh_build::compile` wrote in the build script: a module for every protobuf package, and
/// `DESCRIPTORS`, the encoded descriptor set of the contracts.
#[macro_export]
macro_rules! include_contracts {
    () => {
        include!(concat!(env!("OUT_DIR"), "/mesh_contracts.rs"));
    };
}
