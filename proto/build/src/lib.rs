//! Turns `.proto` contracts into typed publishers, consumers, clients and servers, from a build script and without
//! `protoc`.
//!
//! A `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), mesh_build::Error> {
//!     mesh_build::compile(&["proto/orders/v1/orders.proto"], &["proto"])
//! }
//! ```
//!
//! and the `lib.rs` or `main.rs` beside it:
//!
//! ```text
//! mesh_core::include_contracts!();
//! ```
//!
//! The contract may import `mesh/v1/options.proto` and `google/protobuf/*.proto`: both are built in. A contract that
//! can't work (an event without producer, a secret in a stored message, …) fails the build, and the [`Error`] lists every
//! problem with its file, line and column and what to do about it.

mod check;
mod config;
mod error;
mod generate;
mod place;
mod rust_names;
mod sources;

use std::path::Path;

pub use config::Config;
pub use error::{Error, Problem};

/// Compiles the contracts in `files`, found below the folders `includes`, into `OUT_DIR`.
///
/// Their imports are compiled as well. Cargo is told to run the build script again when one of the files changes.
///
/// # Errors
/// A file can't be read or parsed, the contract is wrong, or the code can't be written.
pub fn compile(files: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    let config = files.iter().fold(Config::new(), |config, file| config.file(file));
    includes.iter().fold(config, |config, include| config.include(include)).compile()
}
