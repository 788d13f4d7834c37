//! HTTP/2 frames byte for byte.

use crate::client::Conn;

/// What a client sends first, with empty settings.
pub(crate) const PREFACE: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame (RFC 9113 section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// One field, literal and never indexed (RFC 7541 section 6.2.3), lengths below 16 KiB.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0x10);
    for text in [name, value] {
        if text.len() < 127 {
            out.push(text.len() as u8);
        } else {
            let rest = text.len() - 127;
            out.extend_from_slice(&[127, (rest & 127) as u8 | 128, (rest >> 7) as u8]);
        }
        out.extend_from_slice(text);
    }
}

/// Name and value.
pub(crate) type Field = (&'static [u8], &'static [u8]);

/// Fields and more of them.
pub(crate) fn with(fields: &[Field], more: &[Field]) -> Vec<Field> {
    [fields, more].concat()
}

/// Fields of which one has another value.
pub(crate) fn instead(fields: &[Field], name: &'static [u8], value: &'static [u8]) -> Vec<Field> {
    let field = |(n, v): &Field| if *n == name { (name, value) } else { (*n, *v) };
    fields.iter().map(field).collect()
}

/// Fields but one.
pub(crate) fn without(fields: &[Field], name: &[u8]) -> Vec<Field> {
    fields.iter().filter(|(n, _)| *n != name).copied().collect()
}

/// A header block.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        field(&mut out, name, value);
    }
    out
}

/// Block of a plain GET.
pub(crate) fn get(authority: &str, path: &str) -> Vec<u8> {
    block(&[
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", authority.as_bytes()),
        (b":path", path.as_bytes()),
    ])
}

/// The next frame: kind, flags, stream, payload.
pub(crate) fn read(conn: &mut Conn) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head = conn.exactly(9)?;
    let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((head[3], head[4], stream, conn.exactly(len)?))
}
