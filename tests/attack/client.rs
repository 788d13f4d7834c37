//! A raw client: bytes as given, answers taken apart by their framing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::system::System;

#[path = "../support/tls_client.rs"]
pub(crate) mod tls_client;
#[path = "../support/socks.rs"]
mod wire;

pub(crate) use tls_client::Identity;

/// How long a read may wait.
const READ: Duration = Duration::from_secs(8);

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The body was as long as its framing said.
    pub(crate) complete: bool,
}

/// A connection.
pub(crate) struct Conn {
    wire: Box<dyn Wire>,
    tcp: TcpStream,
    buf: Vec<u8>,
    /// The first error that a send met: the socket tells it once.
    broke: Option<std::io::ErrorKind>,
}

impl Conn {
    /// On a socket that is connected.
    pub(crate) fn over(tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(READ)).unwrap();
        tcp.set_write_timeout(Some(READ / 4)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self {
            wire: Box::new(tcp.try_clone().unwrap()),
            tcp,
            buf: Vec::new(),
            broke: None,
        }
    }

    /// Plain TCP, if it connects.
    pub(crate) fn try_plain(address: &str) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::over)
    }

    /// Plain TCP.
    pub(crate) fn plain(address: &str) -> Self {
        Self::try_plain(address).expect("connects")
    }

    /// A SOCKS5 CONNECT; the reply code if it is refused, 255 if there is none.
    pub(crate) fn socks(proxy: &str, host: &str, port: u16) -> Result<Self, u8> {
        let mut conn = Self::try_plain(proxy).ok_or(255)?;
        conn.send(&[&wire::GREETING[..], &wire::connect(host, port)].concat());
        let reply = conn.exactly(12).ok_or(255)?;
        if reply[3] == 0 {
            Ok(conn)
        } else {
            Err(reply[3])
        }
    }

    /// TLS on top.
    pub(crate) fn tls(self, config: Arc<ClientConfig>, name: &str) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(config, name).unwrap();
        let tcp = self.tcp.try_clone()?;
        let mut stream = StreamOwned::new(session, self.tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self {
            wire: Box::new(stream),
            tcp,
            buf: Vec::new(),
            broke: None,
        })
    }

    /// Writes; an error only means that the peer has enough.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.wire.write_all(bytes).and_then(|()| self.wire.flush());
        if let Err(error) = &sent {
            self.broke = self.broke.or_else(|| Some(error.kind()));
        }
        sent.is_ok()
    }

    /// Ends our direction.
    pub(crate) fn half_close(&self) {
        drop(self.tcp.shutdown(Shutdown::Write));
    }

    /// Sets how long a read may wait.
    pub(crate) fn patience(&self, limit: Duration) {
        self.tcp.set_read_timeout(Some(limit)).unwrap();
    }

    /// Sets how long a send may wait.
    pub(crate) fn wait_to_send(&self, limit: Duration) {
        self.tcp.set_write_timeout(Some(limit)).unwrap();
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.wire.read(&mut piece) {
            Ok(n) if n > 0 => {
                self.buf.extend_from_slice(&piece[..n]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// So many bytes.
    pub(crate) fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buf.len() < n {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buf.drain(..n).collect())
    }

    /// Everything until the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buf)
    }

    /// How the connection ends: `Some(kind)` for an error, `None` for a plain end.
    pub(crate) fn end(&mut self) -> Option<std::io::ErrorKind> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.wire.read(&mut piece) {
                Ok(0) => return self.broke,
                Ok(_) => {}
                Err(error) => return Some(error.kind()),
            }
        }
    }

    /// Whether the peer has ended the connection, or does so soon.
    pub(crate) fn is_over(&mut self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        !matches!(self.end(), Some(WouldBlock | TimedOut))
    }

    /// The next answer; `None` at the end of the connection.
    pub(crate) fn response(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buf.drain(..end).collect::<Vec<u8>>())
            .to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.get(..3))
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        let field = |name: &str| {
            let line = head.lines().find(|l| l.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let mut answer = Answer {
            status,
            ..Answer::default()
        };
        if let Some(n) = field("content-length:").and_then(|v| v.parse::<usize>().ok()) {
            match self.exactly(n) {
                Some(body) => (answer.body, answer.complete) = (body, true),
                None => answer.body = std::mem::take(&mut self.buf),
            }
        } else if field("transfer-encoding:").is_some() {
            answer.complete = self.chunks(&mut answer.body).is_some();
        } else if status >= 200
            && status != 204
            && status != 304
            && !head.contains("\nconnection: keep-alive")
        {
            answer.body = self.rest();
            answer.complete = true;
        }
        Some(answer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = loop {
                if let Some(at) = self.buf.windows(2).position(|w| w == b"\r\n") {
                    break self.exactly(at + 2)?;
                }
                if !self.fill() {
                    return None;
                }
            };
            let n = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            let piece = self.exactly(n + 2)?;
            if n == 0 {
                return Some(());
            }
            body.extend_from_slice(&piece[..n]);
        }
    }
}

/// The stolen identity files of a workload.
pub(crate) fn stolen(system: &System, workload: &str) -> Identity {
    tls_client::identity(&system.file(&format!("stolen/{workload}/istio")))
}

/// A TLS client configuration; the attacker does not care who answers.
pub(crate) fn client(alpn: &[&str], identity: Option<Identity>) -> Arc<ClientConfig> {
    tls_client::client(alpn, identity, true)
}
