//! The contract of Mesh itself: `mesh.v1`.
//!
//! [`v1`] holds the options that a contract states, and the messages that every part of Mesh exchanges: `Fault`,
//! `DeadLetter`, `LetterRecord`, `Outcome`. The descriptors are embedded, so that a tool can decode them by name.

pub mod options;

/// The messages and enums of the protobuf package `mesh.v1`.
#[expect(missing_docs, clippy::all, reason = "generated from proto/mesh/v1, where the comments stand")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/mesh.v1.rs"));
}

/// The encoded `google.protobuf.FileDescriptorSet` of `mesh.v1` and what it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mesh_v1.fds"));

/// The `.proto` sources by import path, for compilers of contracts that import them.
pub const SOURCES: &[(&str, &str)] = &[
    ("mesh/v1/options.proto", include_str!("../proto/mesh/v1/options.proto")),
    ("mesh/v1/fault.proto", include_str!("../proto/mesh/v1/fault.proto")),
    ("mesh/v1/job.proto", include_str!("../proto/mesh/v1/job.proto")),
    ("mesh/v1/letter.proto", include_str!("../proto/mesh/v1/letter.proto")),
    ("mesh/v1/outcome.proto", include_str!("../proto/mesh/v1/outcome.proto")),
    ("mesh/v1/store.proto", include_str!("../proto/mesh/v1/store.proto")),
    ("mesh/v1/keeper.proto", include_str!("../proto/mesh/v1/keeper.proto")),
];
