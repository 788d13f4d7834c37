//! A client of SOCKS5 that blocks.

#![expect(
    clippy::disallowed_types,
    reason = "the client of these tests blocks on purpose"
)]

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

#[path = "../support/socks.rs"]
mod wire;

/// A connection through the listener `at`; `PermissionDenied` if it is refused.
pub(crate) fn socks(at: &str, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&wire::GREETING)?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(&wire::connect(host, port))?;
    let mut granted = [0; 10];
    stream.read_exact(&mut granted)?;
    match granted[1] {
        0 => Ok(stream),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}
