//! HTTP/2 frame by frame over TLS, as a client or a server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::DerefMut;

use rustls::{ConnectionCommon, SideData, StreamOwned};

use crate::app::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The first four bytes of the payload: a code or an increment.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }

    /// The code of a GOAWAY.
    pub(crate) fn goaway_code(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().unwrap())
    }

    /// Identifiers and values of a SETTINGS.
    pub(crate) fn settings(&self) -> Vec<(u16, u32)> {
        let pair = |six: &[u8]| {
            let id = u16::from_be_bytes(six[..2].try_into().unwrap());
            (id, u32::from_be_bytes(six[2..].try_into().unwrap()))
        };
        let mut all: Vec<_> = self.payload.chunks_exact(6).map(pair).collect();
        all.sort_unstable();
        all
    }
}

/// One end.
pub(crate) struct Wire {
    io: Box<dyn ReadWrite>,
}

pub(crate) trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

impl Wire {
    /// After the handshake.
    pub(crate) fn over<C, S>(tls: StreamOwned<C, TcpStream>) -> Self
    where
        C: DerefMut<Target = ConnectionCommon<S>> + Send + 'static,
        S: SideData + 'static,
    {
        tls.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { io: Box::new(tls) }
    }

    /// Sends bytes as they stand.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).unwrap();
        self.io.flush().unwrap();
    }

    /// Sends a frame.
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.send(&bytes);
    }

    /// HEADERS of a CONNECT, each field as a literal without index (RFC 7541 section 6.2.2).
    pub(crate) fn connect(&mut self, stream: u32, authority: &str) {
        let mut block = Vec::new();
        for (name, value) in [(":method", "CONNECT"), (":authority", authority)] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, 4, stream, &block);
    }

    /// The next frame; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.io.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()) & 0x7fff_ffff,
            payload,
        })
    }

    /// The next frame that is `wanted`; others are passed over, but answered as the protocol demands.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut passed = Vec::new();
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
            if frame.kind == SETTINGS && frame.flags == 0 {
                self.frame(SETTINGS, 1, 0, &[]);
            }
            passed.push((frame.kind, frame.flags, frame.stream));
        }
        panic!("no such frame; passed: {passed:?}");
    }

    /// Reads exactly so much.
    pub(crate) fn exactly(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.io.read_exact(&mut bytes).unwrap();
        bytes
    }
}
