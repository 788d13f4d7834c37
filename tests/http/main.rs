//! The HTTP path of a running `ringgate`, byte by byte: what a client says over raw sockets, what may reach the server
//! behind, and what comes back; at the ingress, at a waypoint and at the egress gateway, under both drivers.
//!
//! Cases that are bytes alone stand in `tests/data/http`.

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
    clippy::let_underscore_must_use,
    reason = "a test ends by panicking, blocks, is not a data core, and holds its tables of inputs"
)]

mod answer;
mod backend;
mod cases;
#[expect(dead_code, reason = "each suite uses its part of the client")]
#[path = "../attack/client.rs"]
mod client;
mod downgrade;
mod early;
#[expect(dead_code, reason = "each suite uses its part of the frames")]
#[path = "../attack/frames.rs"]
mod frames;
mod from_where;
mod guards;
#[path = "../support/mesh.rs"]
mod mesh;
mod metrics;
mod own_fields;
mod peers;
mod rate_limits;
mod server_names;
mod slow;
mod stopping;
mod stream;
mod streaming;
mod system;
mod tickets;
mod upstream_h2;
mod websocket;
mod websocket_h2;

/// Runs each function against a system of its own, once with each driver.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $name() { let system = crate::system::System::start("epoll"); super::$name(&system); system.healthy(); })+
        }
        mod io_uring {
            $(#[test] fn $name() { let system = crate::system::System::start("io_uring"); super::$name(&system); system.healthy(); })+
        }
    };
}
pub(crate) use both;

/// Runs each function once with each driver, of which it gets the name.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[test] fn epoll() { super::$name("epoll"); }
            #[test] fn io_uring() { super::$name("io_uring"); }
        })+
    };
}
pub(crate) use on_both;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
