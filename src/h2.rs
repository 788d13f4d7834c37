//! HTTP/2 (RFC 9113): framing, header compression (RFC 7541) and the state of one connection, either side of it, without
//! any input or output of its own: bytes in, events and bytes out. What its streams carry is a parameter: requests
//! ([`message`]), or tunnels (`hbone`).

pub mod flow;
pub mod frame;
pub mod heads;
pub mod hpack;
pub mod huffman;
pub mod message;
pub mod session;
pub mod table;

pub use flow::Flood;
pub use frame::Code;
pub use heads::{Heads, Malformed};
pub use message::{RequestHead, Requests, ResponseHead};
pub use session::{ConnectionError, Event, OpenError, Session, Settings, Side};
pub use table::Table;
