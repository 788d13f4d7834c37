//! Attacks on a running `ringgate` with raw sockets, under both drivers: what must not get through, and what
//! must go on while it is tried.

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

mod client;
mod conformance;
mod egress;
mod entry;
mod extended;
mod frames;
mod hbone;
mod headers;
mod http2;
mod lies;
mod limits;
#[path = "../support/mesh.rs"]
mod mesh;
mod paths;
mod reload;
mod slow;
mod smuggling;
mod system;
mod tokens;
mod tunnels;

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
