//! Frame heads (RFC 9113 section 4.1), frame types, settings and error codes.

use crate::vocab::limits;

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 9;
/// Initial and least value of SETTINGS_MAX_FRAME_SIZE.
pub const MIN_MAX_FRAME: u32 = 1 << 14;
/// Greatest value of SETTINGS_MAX_FRAME_SIZE.
pub const MAX_MAX_FRAME: u32 = (1 << 24) - 1;
/// Initial window of streams and of the connection (RFC 9113 section 6.9.2).
pub const INITIAL_WINDOW: u32 = 65_535;
/// Greatest window.
pub const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Greatest stream identifier.
pub const MAX_STREAM: u32 = (1 << 31) - 1;

/// Frame types (RFC 9113 section 6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PUSH_PROMISE.
    pub const PUSH_PROMISE: u8 = 5;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    /// ACK of SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    /// END_STREAM of DATA and HEADERS.
    pub const END_STREAM: u8 = 0x1;
    /// END_HEADERS of HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;
    /// PADDED of DATA and HEADERS.
    pub const PADDED: u8 = 0x8;
    /// PRIORITY of HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 section 6.5.2).
pub mod setting {
    /// HEADER_TABLE_SIZE.
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// ENABLE_PUSH.
    pub const ENABLE_PUSH: u16 = 2;
    /// MAX_CONCURRENT_STREAMS.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// INITIAL_WINDOW_SIZE.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// MAX_FRAME_SIZE.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// MAX_HEADER_LIST_SIZE.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// ENABLE_CONNECT_PROTOCOL (RFC 8441 section 3).
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Error code (RFC 9113 section 7); a code that we do not know is kept as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0);
    /// Something that the protocol does not allow.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// Our fault.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More was sent than the window allows.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame for a stream that is half closed already.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a size that it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Not processed at all; may be tried again.
    pub const REFUSED_STREAM: Self = Self(7);
    /// Not wanted any more.
    pub const CANCEL: Self = Self(8);
    /// A header block that cannot be decompressed.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The connection of a CONNECT was broken off.
    pub const CONNECT_ERROR: Self = Self(10);
    /// The peer does what costs too much.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);

    /// Whether a reset with this code only ends a side: ztunnel ends streams so.
    #[must_use]
    pub fn is_plain_end(self) -> bool {
        matches!(self, Self::NO_ERROR | Self::CANCEL)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match *self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::STREAM_CLOSED => "STREAM_CLOSED",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self(other) => return write!(f, "error code {other}"),
        };
        f.write_str(name)
    }
}

/// Head of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the payload.
    pub len: u32,
    /// Type, see [`kind`].
    pub kind: u8,
    /// Flags, see [`flag`].
    pub flags: u8,
    /// Stream, 0 for the connection; the reserved bit is dropped.
    pub stream: u32,
}

impl FrameHead {
    /// Reads the nine bytes.
    #[must_use]
    pub fn parse(bytes: [u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM,
        }
    }

    /// Writes the nine bytes; only the low 24 bits of the length are sent.
    #[must_use]
    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, l0, l1, l2] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame whose payload is at hand and short.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(MAX_MAX_FRAME);
    let head = FrameHead {
        len,
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

const _: () = assert!(limits::HBONE_FRAME_BYTES >= MIN_MAX_FRAME);
const _: () = assert!(limits::HBONE_FRAME_BYTES <= MAX_MAX_FRAME);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_written() {
        for head in [
            FrameHead::default(),
            FrameHead {
                len: MAX_MAX_FRAME,
                kind: kind::DATA,
                flags: flag::END_STREAM | flag::PADDED,
                stream: MAX_STREAM,
            },
            FrameHead {
                len: 0x01_02_03,
                kind: 0xbb,
                flags: 0,
                stream: 7,
            },
        ] {
            assert_eq!(FrameHead::parse(head.bytes()), head);
        }
        let reserved = FrameHead::parse([0, 0, 1, 0, 0, 0x80, 0, 0, 3]);
        assert_eq!((reserved.stream, reserved.len), (3, 1));
    }

    #[test]
    fn codes_have_their_names() {
        assert_eq!(Code::ENHANCE_YOUR_CALM.to_string(), "ENHANCE_YOUR_CALM");
        assert_eq!(Code(99).to_string(), "error code 99");
        assert!(Code::CANCEL.is_plain_end() && !Code::CONNECT_ERROR.is_plain_end());
    }
}
