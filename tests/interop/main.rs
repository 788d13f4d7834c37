//! What passes between `ringgate` and its peers on the wire: Envoy as HBONE client and server, a real ztunnel both ways
//! where `RINGGATE_ZTUNNEL` names its binary, and each fact of the wire with a client and a server of the test's own.
//!
//! Every test has a network namespace of its own, so all ports are the real ones; that needs root. Envoy must be there:
//! `RINGGATE_ENVOY` names its binary, or `cargo xtask ci --only tools` installs it.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::too_many_lines,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::large_futures,
    clippy::print_stdout,
    reason = "a test ends by panicking, blocks and is not a data core"
)]

mod app;
mod envoy;
mod far;
mod frames;
mod inbound;
mod mesh;
mod outbound;
mod resets;
mod spread;
mod tunnel;
mod waypoint;
mod ztunnel;

#[path = "../support/netns.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "other tests use the rest of it"
)]
mod netns;
#[path = "../support/peers/envoy.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "the benches use the rest of it"
)]
mod peer_envoy;
#[path = "../support/peers/ztunnel.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "the benches use the rest of it"
)]
mod peer_ztunnel;

/// Runs each function in a namespace of its own against a mesh of its own, once with each driver.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $name() { crate::mesh::Mesh::with("epoll", super::$name); })+
        }
        mod io_uring {
            $(#[test] fn $name() { crate::mesh::Mesh::with("io_uring", super::$name); })+
        }
    };
}
pub(crate) use both;
