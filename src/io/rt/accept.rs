//! Connections of clients.

use std::io;

use monoio::net::TcpStream;
use socket2::Socket;

use super::Tcp;

/// A listening socket of this core.
///
/// It is waited for by readiness, like all else here: an accept that was under way in the kernel when its wait is dropped
/// would take a connection that nobody serves.
pub struct Acceptor {
    /// Whatever monoio takes it for, only its readiness is asked.
    socket: Tcp,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({:?})", self.socket)
    }
}

impl Acceptor {
    /// Takes over a bound, listening, non-blocking socket.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            socket: Tcp::new(TcpStream::from_std(socket.into())?),
        })
    }

    /// The next connection. Other processes may accept from the same socket.
    ///
    /// # Errors
    /// As `accept(2)`.
    pub async fn accept(&self) -> io::Result<Tcp> {
        loop {
            self.socket.readable().await?;
            match self.socket.with_socket(Socket::accept) {
                Ok((stream, _peer)) => return Ok(Tcp::new(TcpStream::from_std(stream.into())?)),
                // Somebody else was faster.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}
