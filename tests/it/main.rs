//! Tests of the whole program from outside, on loopback, with real processes.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking"
)]

mod authority;
mod demo;
mod dry_run;
mod egress;
mod ending;
mod explain;
mod handover;
mod idle;
mod limits;
mod lost;
mod metrics;
mod reload;
mod rotation;
mod server_first;
mod socks;
mod stopping;
mod story;

#[path = "../support/pair.rs"]
mod pair;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
