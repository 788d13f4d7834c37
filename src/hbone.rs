//! HBONE: HTTP/2 connections whose streams are tunnels (RFC 9113 section 8.5), with ztunnel's settings. The framing is
//! [`crate::h2`]; here are the heads of CONNECT.

pub mod head;

pub use crate::h2::{Code, ConnectionError};
pub use head::{ConnectHead, RequestHead, ResponseHead, Tunnels};

use crate::h2::{Settings, Side};
use crate::vocab::limits;

/// A connection of tunnels.
pub type Session = crate::h2::Session<Tunnels>;
/// What its peer did.
pub type Event = crate::h2::Event<Tunnels>;

/// ztunnel's settings as a client.
pub const CLIENT: Settings = Settings {
    side: Side::Client,
    window: limits::HBONE_STREAM_WINDOW_BYTES,
    connection_window: limits::HBONE_CONNECTION_WINDOW_BYTES,
    max_frame: limits::HBONE_FRAME_BYTES,
    header_list: limits::HBONE_ANSWER_LIST_BYTES,
    max_streams: 0,
    charged: limits::HBONE_CHARGED_BYTES,
    advance: limits::HBONE_ADVANCE_BYTES,
    extended_connect: false,
    early_reset_ms: 0,
};
/// ztunnel's settings as a server.
pub const SERVER: Settings = Settings {
    side: Side::Server,
    header_list: limits::HBONE_HEADER_LIST_BYTES,
    max_streams: limits::H2_STREAMS,
    ..CLIENT
};

#[cfg(test)]
mod tests;
