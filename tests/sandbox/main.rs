//! What a process forbids itself: each thing is tried inside of it, and it serves, reloads, rotates and hands over all the
//! same. Needs root, which starts it as another user.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reports by panicking, and its backend is a thread"
)]

mod forbidden;
mod launcher;
mod memory;
mod secrets;
mod serves;
mod start;
mod status;
mod system;
mod told;

#[path = "../support/shop.rs"]
mod shop;

#[path = "../support/netns.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "other tests use the rest of it"
)]
mod namespaces;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
