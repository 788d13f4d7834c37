//! HTTP/2 for tunnels: framing, header compression and the state of one connection that carries CONNECT streams
//! (RFC 9113 section 8.5, RFC 7541), with ztunnel's settings. Bytes in, events and bytes out; nothing here waits.

pub mod flow;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod huffman;
pub mod session;
pub mod table;

pub use flow::Flood;
pub use frame::Code;
pub use head::{ConnectHead, RequestHead, ResponseHead};
pub use session::{ConnectionError, Event, OpenError, Session, Settings};
pub use table::Table;
