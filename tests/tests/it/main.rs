//! The tests of the whole: real brokers, real processes, real HTTP, all on loopback.

mod access;
mod letters;
mod shop;
mod verbs;
