//! The tests of the whole: real brokers, real processes, real HTTP, all on loopback.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where")]

mod access;
mod bad_input;
mod call_retry;
mod claims;
mod claims_busy;
mod claims_cli;
mod claims_crash;
mod claims_longest;
mod claims_ordered;
mod command_line;
mod commit;
mod compose;
mod demo;
mod inbox;
mod inbox_aside;
mod inbox_forgotten;
mod inbox_slow;
mod interop;
mod isolation;
mod keeper;
mod keeper_heard;
mod ledger;
mod letters;
mod letters_cli;
mod letters_contested;
mod letters_edit;
mod letters_full;
mod letters_terminals;
mod letters_transfer;
mod ordered;
mod ordered_cluster;
mod outbox;
mod own_contracts;
mod replay;
mod replay_preview;
mod replay_refused;
mod shop;
mod store;
mod tidy;
mod trace;
mod vendor_retry;
mod verbs;
mod wire;
