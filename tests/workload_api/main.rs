//! The SPIFFE Workload API of a running process: real clients on its socket, and what is tried against it.
//!
//! Needs root (users, control groups, process numbers), py-spiffe in `target/python` and go-spiffe in `target/go`, which
//! `cargo xtask ci --only tools` puts there.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::too_many_lines,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::let_underscore_must_use,
    reason = "a test ends by panicking, blocks and is not a data core"
)]

mod agent;
mod attacks;
mod golang;
mod python;
mod system;
