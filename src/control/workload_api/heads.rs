//! Heads of requests as gRPC's C library sends them over a unix socket (Python, C++, Ruby, PHP).
//!
//! It names the socket's path in `:authority`, percent-encoded, which is no authority (RFC 3986 section 3.2 with RFC 9113
//! section 8.3.1), and the `http` crate refuses the request before anybody sees it. The name means nothing here: between
//! the socket and the HTTP/2 server this puts `localhost` in its place. Header blocks are decoded and written anew, all
//! other bytes pass as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h2::hpack::{Decoder, HpackError};
use crate::vocab::limits;

const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// Longest frame that the server allows (RFC 9113 section 6.5.2); it says no other.
const FRAME_BYTES: usize = 16 * 1024;
/// Longest header block, as it is sent; and the fields in it, as they are meant.
const BLOCK_BYTES: usize = 16 * 1024;
// Size of the table that clients take the server to have (RFC 9113 section 6.5.2); it says no other.
const _: () = assert!(limits::HPACK_TABLE_BYTES == 4096);
/// Read at a time.
const READ_BYTES: usize = 8 * 1024;
/// No further block is written out where this much waits to be read, and more room than this is not kept.
const READY_BYTES: usize = 4 * READ_BYTES;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What no HTTP/2 client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum HeadError {
    #[error("frame is longer than allowed")]
    Long,
    #[error("frame within a header block")]
    Between,
    #[error("malformed frame of a header block")]
    Frame,
    #[error("header block is longer than allowed")]
    Block,
    #[error("malformed header block")]
    Hpack(#[source] HpackError),
}

/// Takes bytes of a client in and gives them on.
struct Rewriter {
    decoder: Decoder,
    /// Bytes of the preface, or of a frame that is passed on, that are still to come.
    pass: usize,
    /// Bytes that are not yet understood.
    held: Vec<u8>,
    /// A header block that is not yet complete: its stream, its END_STREAM, its bytes.
    block: Option<(u32, u8, Vec<u8>)>,
}

impl Rewriter {
    fn new() -> Self {
        Self {
            decoder: Decoder::default(),
            pass: PREFACE_BYTES,
            held: Vec::new(),
            block: None,
        }
    }

    fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), HeadError> {
        let (now, rest) = input.split_at(self.pass.min(input.len()));
        out.extend_from_slice(now);
        self.pass = self.pass.saturating_sub(now.len());
        self.held.extend_from_slice(rest);
        self.frames(out)
    }

    /// Goes through the frames in `held`, until `out` has enough: a small block may be meant to be a large one.
    fn frames(&mut self, out: &mut Vec<u8>) -> Result<(), HeadError> {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while self.pass == 0
            && out.len() < READY_BYTES
            && let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>()
        {
            let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *head;
            let length = u32::from_be_bytes([0, l1, l2, l3]);
            let length = usize::try_from(length).map_err(|_e| HeadError::Long)?;
            let stream = u32::from_be_bytes([s1, s2, s3, s4]);
            if length > FRAME_BYTES {
                return Err(HeadError::Long);
            }
            if kind == HEADERS || kind == CONTINUATION {
                let Some((payload, next)) = after.split_at_checked(length) else {
                    break;
                };
                self.part(kind, flags, stream, payload, out)?;
                rest = next;
                continue;
            }
            if self.block.is_some() {
                return Err(HeadError::Between);
            }
            out.extend_from_slice(head);
            let (now, next) = after.split_at(length.min(after.len()));
            out.extend_from_slice(now);
            self.pass = length.saturating_sub(now.len());
            rest = next;
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }

    fn part(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), HeadError> {
        let block = match (kind, self.block.take()) {
            (HEADERS, None) => {
                let fragment = fragment(flags, payload).ok_or(HeadError::Frame)?;
                (stream, flags & END_STREAM, fragment.to_vec())
            }
            (CONTINUATION, Some((begun, end, mut bytes))) if begun == stream => {
                bytes.extend_from_slice(payload);
                (begun, end, bytes)
            }
            _ => return Err(HeadError::Between),
        };
        if block.2.len() > BLOCK_BYTES {
            return Err(HeadError::Block);
        }
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        let (stream, end, bytes) = block;
        let fields = self.decode(&bytes)?;
        write(stream, end, &fields, out)
    }

    /// The block, in literals that use no table.
    fn decode(&mut self, block: &[u8]) -> Result<Vec<u8>, HeadError> {
        let mut fields = Vec::new();
        let mut size = 0_usize;
        let each = |name: &[u8], value: &[u8]| {
            // As RFC 9113 section 6.5.2 counts.
            size = size.saturating_add(name.len() + value.len() + 32);
            if size <= BLOCK_BYTES {
                let malformed =
                    name == b":authority" && http::uri::Authority::try_from(value).is_err();
                fields.push(0);
                string(name, &mut fields);
                string(if malformed { b"localhost" } else { value }, &mut fields);
            }
        };
        self.decoder.decode(block, each).map_err(HeadError::Hpack)?;
        if size > BLOCK_BYTES {
            return Err(HeadError::Block);
        }
        Ok(fields)
    }
}

/// The part of a HEADERS frame that is of the block (RFC 9113 section 6.2).
fn fragment(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let mut fragment = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (length, rest) = fragment.split_first()?;
        (padding, fragment) = (usize::from(*length), rest);
    }
    if flags & PRIORITY != 0 {
        fragment = fragment.get(5..)?;
    }
    fragment.get(..fragment.len().checked_sub(padding)?)
}

/// A string literal without Huffman code (RFC 7541 section 5.2).
fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let mut left = bytes.len();
    if left < 0x7f {
        out.extend(u8::try_from(left));
    } else {
        out.push(0x7f);
        left -= 0x7f;
        while left >= 0x80 {
            out.extend(u8::try_from(left & 0x7f | 0x80));
            left >>= 7;
        }
        out.extend(u8::try_from(left));
    }
    out.extend_from_slice(bytes);
}

/// A HEADERS frame, and CONTINUATION frames as long as it takes.
fn write(stream: u32, end: u8, block: &[u8], out: &mut Vec<u8>) -> Result<(), HeadError> {
    let mut parts = block.chunks(FRAME_BYTES).peekable();
    let mut kind = HEADERS;
    loop {
        let part = parts.next().unwrap_or_default();
        let last = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        let length = u32::try_from(part.len()).map_err(|_e| HeadError::Block)?;
        let [_, l1, l2, l3] = length.to_be_bytes();
        let end = if kind == HEADERS { end } else { 0 };
        out.extend_from_slice(&[l1, l2, l3, kind, last | end]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(part);
        if last != 0 {
            return Ok(());
        }
        kind = CONTINUATION;
    }
}

fn invalid(error: HeadError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A stream whose heads are rewritten as they are read.
pub(super) struct Heads<S> {
    stream: S,
    rewriter: Rewriter,
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Heads<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            rewriter: Rewriter::new(),
            ready: Vec::new(),
            taken: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let waiting = this.ready.get(this.taken..).unwrap_or_default();
            if !waiting.is_empty() {
                let now = waiting.get(..waiting.len().min(buf.remaining()));
                let now = now.unwrap_or_default();
                buf.put_slice(now);
                this.taken = this.taken.saturating_add(now.len());
                return Poll::Ready(Ok(()));
            }
            this.taken = 0;
            this.ready.clear();
            if this.ready.capacity() > READY_BYTES {
                this.ready = Vec::new();
            }
            this.rewriter.frames(&mut this.ready).map_err(invalid)?;
            if !this.ready.is_empty() {
                continue;
            }
            let mut space = [0_u8; READ_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter
                .push(read.filled(), &mut this.ready)
                .map_err(invalid)?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&[a, b, c, kind, flags][..], &stream.to_be_bytes()].concat();
        [&head[..], payload].concat()
    }

    /// A literal that goes into the table.
    fn indexed(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut field = vec![0x40];
        string(name, &mut field);
        string(value, &mut field);
        field
    }

    fn run(input: &[u8], step: usize) -> Result<Vec<u8>, HeadError> {
        let (mut rewriter, mut out) = (Rewriter::new(), Vec::new());
        for part in input.chunks(step) {
            rewriter.push(part, &mut out)?;
        }
        Ok(out)
    }

    /// Frames after the preface; header blocks as fields.
    fn read(mut bytes: &[u8]) -> Vec<String> {
        bytes = bytes.strip_prefix(PREFACE).unwrap();
        let (mut decoder, mut found) = (loona_hpack::Decoder::new(), Vec::new());
        while !bytes.is_empty() {
            let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
            let (kind, flags, stream) = (bytes[3], bytes[4], bytes[8]);
            let payload = &bytes[9..9 + length];
            let text = if kind == HEADERS {
                let fields = decoder.decode(payload).unwrap();
                let fields = fields.iter().map(|(name, value)| {
                    let text = [name.as_slice(), b"=", value].concat();
                    String::from_utf8(text).unwrap()
                });
                fields.collect::<Vec<_>>().join(" ")
            } else {
                String::from_utf8_lossy(payload).into_owned()
            };
            found.push(format!("{kind}/{flags}/{stream} {text}"));
            bytes = &bytes[9 + length..];
        }
        found
    }

    #[test]
    fn a_path_becomes_localhost_however_the_bytes_are_cut() {
        let path = indexed(b":authority", b"tmp%2Fa%2Fx.sock");
        let first = [path, indexed(b":path", b"/a/b")].concat();
        let padded = [&[2][..], &[0; 5], &[0xbf, 0xbe], &[0, 0]].concat();
        let input = [
            PREFACE.to_vec(),
            frame(4, 0, 0, b""),
            frame(HEADERS, END_HEADERS, 1, &first),
            frame(0, 1, 1, b"data"),
            // Both from the table, padded, with a priority, ends the stream.
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED | PRIORITY,
                3,
                &padded,
            ),
            // Cut in the middle of a field.
            frame(HEADERS, END_STREAM, 5, &first[..7]),
            frame(CONTINUATION, END_HEADERS, 5, &first[7..]),
            frame(
                HEADERS,
                END_HEADERS,
                7,
                &indexed(b":authority", b"example.test:80"),
            ),
        ]
        .concat();
        let want = [
            "4/0/0 ",
            "1/4/1 :authority=localhost :path=/a/b",
            "0/1/1 data",
            "1/5/3 :authority=localhost :path=/a/b",
            "1/5/5 :authority=localhost :path=/a/b",
            "1/4/7 :authority=example.test:80",
        ];
        for step in [1, 2, 3, 10, 50, 1000] {
            assert_eq!(read(&run(&input, step).unwrap()), want, "{step}");
        }
    }

    /// Blocks of four bytes that mean 16 KB each: what waits to be read is bounded, and so is the room that stays.
    #[tokio::test]
    async fn small_blocks_that_mean_much_take_no_room() {
        use tokio::io::AsyncReadExt as _;
        let first = indexed(b"a", &[b'x'; 4000]);
        let mut input = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &first)].concat();
        for _ in 0..630 {
            input.extend(frame(HEADERS, END_HEADERS, 3, &[0xbe; 4]));
        }
        let mut heads = Heads::new(&input[..]);
        let (mut out, mut piece) = (Vec::new(), vec![0; 1000]);
        loop {
            let n = heads.read(&mut piece).await.unwrap();
            out.extend_from_slice(&piece[..n]);
            let room = heads.ready.capacity();
            assert!(room <= 4 * READY_BYTES, "{room} after {}", out.len());
            if n == 0 {
                break;
            }
        }
        assert!(heads.ready.capacity() <= READY_BYTES);
        let frames = read(&out);
        assert_eq!(frames.len(), 631, "nothing is lost");
        assert!(out.len() > 10_000_000, "{}", out.len());
    }

    #[test]
    fn what_no_client_sends_ends_the_connection() {
        let field = indexed(b"a", b"b");
        let long = indexed(b"a", &[b'x'; 3000]);
        // One field in the table, and so often that it would be 50 MB.
        let bomb = [long, vec![0xbe; 16_000]].concat();
        for (input, want) in [
            (frame(0, 0, 1, &[0; 16_385]), HeadError::Long),
            (frame(CONTINUATION, 4, 1, b""), HeadError::Between),
            (
                [frame(HEADERS, 0, 1, &field), frame(0, 0, 1, b"")].concat(),
                HeadError::Between,
            ),
            (
                [frame(HEADERS, 0, 1, &field), frame(CONTINUATION, 4, 3, b"")].concat(),
                HeadError::Between,
            ),
            (
                [frame(HEADERS, 0, 1, &field), frame(HEADERS, 4, 1, b"")].concat(),
                HeadError::Between,
            ),
            (frame(HEADERS, 4 | PADDED, 1, b""), HeadError::Frame),
            (frame(HEADERS, 4 | PADDED, 1, &[9, 0]), HeadError::Frame),
            (frame(HEADERS, 4 | PRIORITY, 1, &[0; 4]), HeadError::Frame),
            (
                [
                    frame(HEADERS, 0, 1, &[0; 16_000]),
                    frame(CONTINUATION, 0, 1, &[0; 16_000]),
                ]
                .concat(),
                HeadError::Block,
            ),
            (
                [
                    frame(HEADERS, 0, 1, &bomb[..10_000]),
                    frame(CONTINUATION, 4, 1, &bomb[10_000..16_000]),
                ]
                .concat(),
                HeadError::Block,
            ),
            (
                frame(HEADERS, 4, 1, &[0xff, 0xff, 0xff]),
                HeadError::Hpack(HpackError::Short),
            ),
            // A table larger than allowed: 8192.
            (
                frame(HEADERS, 4, 1, &[0x3f, 0xe1, 0x3f, 0x82]),
                HeadError::Hpack(HpackError::Size),
            ),
        ] {
            let bytes = [PREFACE, &input].concat();
            assert_eq!(run(&bytes, 4096).unwrap_err(), want, "{:?}", &input[..9]);
        }
    }
}
