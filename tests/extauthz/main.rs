//! CUSTOM policies with real authorizers, HTTP and gRPC, behind a real mesh, under both drivers. Needs curl.

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
    reason = "a test ends by panicking, blocks and is not a data core"
)]

mod authorizers;
mod bodies;
mod failures;
mod grpc;
mod http;
mod places;
mod system;

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
