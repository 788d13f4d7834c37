//! Tests of the whole program from outside, on loopback, with real processes.

#![allow(
    clippy::unwrap_used,
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
mod metrics;
mod reload;
mod rotation;
mod socks;
mod story;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
