//! The tests of the whole: real brokers, real processes, real HTTP, all on loopback.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where")]

mod access;
mod bad_input;
mod command_line;
mod compose;
mod demo;
mod interop;
mod letters;
mod ordered;
mod own_contracts;
mod shop;
mod store;
mod tidy;
mod trace;
mod verbs;
mod wire;
