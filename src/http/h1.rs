//! HTTP/1.1 heads and body framing (RFC 9112), strict: what two parsers could read differently is refused.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use thiserror::Error;

use crate::http::keep_alive::keeps_alive;
use crate::http::marks::Marks;
use crate::vocab::limits;

/// Why a head or body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum H1Error {
    /// Not HTTP/1.
    #[error("malformed head")]
    Malformed,
    /// A line ends without CR LF.
    #[error("bare carriage return or line feed in head")]
    LineEnd,
    /// More than `limits::HEAD_BYTES` or `limits::HEADERS`.
    #[error("head is too large")]
    TooLarge,
    /// More than `limits::TARGET_BYTES`.
    #[error("request target is too long")]
    TargetTooLong,
    /// Both `Content-Length` and `Transfer-Encoding`, or one of them repeated or unusable (RFC 9112 section 6.3).
    #[error("ambiguous body length")]
    Framing,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer coding")]
    Coding,
    /// A chunk is not as RFC 9112 section 7.1 writes it.
    #[error("malformed chunk")]
    Chunk,
}

/// A request head as received.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Method.
    pub method: Method,
    /// Request target, not yet interpreted.
    pub target: String,
    /// HTTP/1.1 (else 1.0).
    pub is_11: bool,
    headers: HeaderMap,
    marks: Marks,
}

impl RawRequest {
    /// A head that was not received.
    #[must_use]
    pub fn new(method: Method, target: String, headers: HeaderMap) -> Self {
        Self {
            method,
            target,
            is_11: true,
            marks: Marks::of(&headers),
            headers,
        }
    }

    /// Header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Which of them decide how it is read.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Method, target and header fields.
    #[must_use]
    pub fn into_parts(self) -> (Method, String, HeaderMap) {
        (self.method, self.target, self.headers)
    }

    /// Whether the connection may serve another message (RFC 9112 section 9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        if self.marks.has(Marks::CONNECTION) {
            keeps_alive(&self.headers, self.is_11)
        } else {
            self.is_11
        }
    }
}

/// A response head as received.
#[derive(Clone, Debug)]
pub struct RawResponse {
    /// Status.
    pub status: StatusCode,
    /// HTTP/1.1 (else 1.0).
    pub is_11: bool,
    /// Header fields.
    pub headers: HeaderMap,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection ends (responses only).
    UntilClose,
}

/// Whether parsing `buf` can say more than it did when it held `seen` bytes: the head ends, is too long or has a line that
/// does not end as it should.
#[must_use]
pub fn may_decide(buf: &[u8], seen: usize) -> bool {
    if buf.len() > limits::HEAD_BYTES {
        return true;
    }
    match line_ends(buf, seen.saturating_sub(3), seen == 0) {
        Ok(None) => false,
        Ok(Some(_)) | Err(_) => true,
    }
}

/// The end of the first empty line of `buf` from `from` on; `None` if there is none yet. `first`: what stands at `from` has
/// nothing before it.
///
/// # Errors
/// `LineEnd` for a CR or LF before that without the other one.
fn line_ends(buf: &[u8], from: usize, first: bool) -> Result<Option<usize>, H1Error> {
    let new = buf.get(from..).unwrap_or_default();
    // Where the line end that was seen last is over.
    let mut ended = None;
    // The CR before the first byte was looked at before.
    let mut looked_at = usize::from(!first && new.first() == Some(&b'\n'));
    while let Some(line) = memchr::memchr2(b'\r', b'\n', new.get(looked_at..).unwrap_or_default()) {
        let at = looked_at.saturating_add(line);
        match (new.get(at), new.get(at.saturating_add(1))) {
            (Some(b'\r'), Some(b'\n')) => {}
            (Some(b'\r'), None) => return Ok(None),
            _ => return Err(H1Error::LineEnd),
        }
        let end = at.saturating_add(2);
        if ended == Some(at) {
            return Ok(from.checked_add(end));
        }
        (ended, looked_at) = (Some(end), end);
    }
    Ok(None)
}

/// Bytes of the head at the start of `buf`, its last CR LF included; `None` if more is needed.
fn head_len(buf: &[u8]) -> Result<Option<usize>, H1Error> {
    // What is behind the longest head is not looked at.
    let looked_at = limits::HEAD_BYTES.saturating_add(4).min(buf.len());
    let end = line_ends(buf.get(..looked_at).unwrap_or_default(), 0, true)?;
    if end.unwrap_or(buf.len()) > limits::HEAD_BYTES {
        return Err(H1Error::TooLarge);
    }
    Ok(end)
}

/// The header fields of `head`, whose values share its memory; `each` sees their names.
fn fields(
    parsed: &[httparse::Header<'_>],
    head: &Bytes,
    mut each: impl FnMut(&HeaderName),
) -> Result<HeaderMap, H1Error> {
    // And the one that each message gains: to grow for it would double the map.
    let mut headers = HeaderMap::with_capacity(parsed.len().saturating_add(1));
    for field in parsed {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_e| H1Error::Malformed)?;
        let value = head.slice_ref(field.value.trim_ascii());
        let value = HeaderValue::from_maybe_shared(value).map_err(|_e| H1Error::Malformed)?;
        each(&name);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Parses a request head; the number is its length. `None`: more bytes are needed.
///
/// # Errors
/// `H1Error`; the connection cannot be used any further.
pub fn parse_request(buf: &[u8]) -> Result<Option<(RawRequest, usize)>, H1Error> {
    let Some(len) = head_len(buf)? else {
        return Ok(None);
    };
    let head = Bytes::copy_from_slice(buf.get(..len).unwrap_or_default());
    let mut slots = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&head, &mut slots) {
        Ok(httparse::Status::Complete(n)) if n == len => {}
        Err(httparse::Error::TooManyHeaders) => return Err(H1Error::TooLarge),
        Ok(_) | Err(_) => return Err(H1Error::Malformed),
    }
    let target = request.path.ok_or(H1Error::Malformed)?;
    if target.len() > limits::TARGET_BYTES {
        return Err(H1Error::TargetTooLong);
    }
    let method = request.method.ok_or(H1Error::Malformed)?;
    let mut marks = Marks::default();
    let headers = fields(request.headers, &head, |name| marks = marks.with(name))?;
    let raw = RawRequest {
        method: Method::from_bytes(method.as_bytes()).map_err(|_e| H1Error::Malformed)?,
        target: target.to_owned(),
        is_11: request.version == Some(1),
        headers,
        marks,
    };
    Ok(Some((raw, len)))
}

/// Parses a response head; the number is its length. `None`: more bytes are needed.
///
/// # Errors
/// `H1Error`; the connection cannot be used any further.
pub fn parse_response(buf: &[u8]) -> Result<Option<(RawResponse, usize)>, H1Error> {
    let Some(len) = head_len(buf)? else {
        return Ok(None);
    };
    let head = Bytes::copy_from_slice(buf.get(..len).unwrap_or_default());
    let mut slots = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, &head, &mut slots) {
        Ok(httparse::Status::Complete(n)) if n == len => {}
        Err(httparse::Error::TooManyHeaders) => return Err(H1Error::TooLarge),
        Ok(_) | Err(_) => return Err(H1Error::Malformed),
    }
    let raw = RawResponse {
        status: StatusCode::from_u16(response.code.unwrap_or(0))
            .map_err(|_e| H1Error::Malformed)?,
        is_11: response.version == Some(1),
        headers: fields(response.headers, &head, |_name| ())?,
    };
    Ok(Some((raw, len)))
}

/// `Content-Length` or chunked as the header fields say; `None` if neither stands there.
fn declared(headers: &HeaderMap, is_11: bool) -> Result<Option<Framing>, H1Error> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(H1Error::Framing),
        (Some(coding), None) => {
            if codings.next().is_some() || !is_11 {
                return Err(H1Error::Framing);
            }
            if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(H1Error::Coding);
            }
            Ok(Some(Framing::Chunked))
        }
        (None, Some(length)) => {
            let digits = length.as_bytes();
            if lengths.next().is_some()
                || digits.is_empty()
                || digits.len() > 18
                || !digits.iter().all(u8::is_ascii_digit)
            {
                return Err(H1Error::Framing);
            }
            let n = digits.iter().fold(0_u64, |n, d| {
                n.saturating_mul(10)
                    .saturating_add(u64::from(d.wrapping_sub(b'0')))
            });
            Ok(Some(if n == 0 {
                Framing::Empty
            } else {
                Framing::Length(n)
            }))
        }
    }
}

/// Body of a request (RFC 9112 section 6.3).
///
/// # Errors
/// `Framing`, `Coding`.
pub fn request_framing(head: &RawRequest) -> Result<Framing, H1Error> {
    if !head.marks.has(Marks::FRAMING) {
        return Ok(Framing::Empty);
    }
    Ok(declared(&head.headers, head.is_11)?.unwrap_or(Framing::Empty))
}

/// Whether a response to `method` has no body whatever its head says (RFC 9112 section 6.3).
#[must_use]
pub fn is_bodiless(status: StatusCode, method: &Method) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD
}

/// Body of a response to `method` (RFC 9112 section 6.3).
///
/// # Errors
/// `Framing`, `Coding`.
pub fn response_framing(head: &RawResponse, method: &Method) -> Result<Framing, H1Error> {
    let declared = declared(&head.headers, head.is_11)?;
    Ok(if is_bodiless(head.status, method) {
        Framing::Empty
    } else {
        declared.unwrap_or(Framing::UntilClose)
    })
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Content.
    Data(Bytes),
    /// Trailer fields; the end.
    Trailers(HeaderMap),
}

/// Takes a body apart as its bytes arrive.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: BodyState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Length(u64),
    UntilClose,
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// What `BodyDecoder::decode` wants.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// A piece.
    Chunk(Chunk),
    /// More bytes.
    More,
    /// The body is complete.
    End,
}

impl BodyDecoder {
    /// A decoder for a body framed like this.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty => BodyState::Done,
            Framing::Length(n) => BodyState::Length(n),
            Framing::Chunked => BodyState::ChunkLine,
            Framing::UntilClose => BodyState::UntilClose,
        };
        Self { state }
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// Whether the end of the connection is a proper end of the body.
    #[must_use]
    pub fn may_end_here(&self) -> bool {
        matches!(self.state, BodyState::Done | BodyState::UntilClose)
    }

    /// Whether what comes next is body alone, without framing of its own.
    #[must_use]
    pub fn takes_pieces(&self) -> bool {
        matches!(self.state, BodyState::Length(_) | BodyState::UntilClose)
    }

    /// Takes what belongs to the body from the front of a piece; what is left is not of this message.
    pub fn take_piece(&mut self, piece: &mut Bytes) -> Bytes {
        match self.state {
            BodyState::UntilClose => std::mem::take(piece),
            BodyState::Length(left) => {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                let left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                self.state = if left == 0 {
                    BodyState::Done
                } else {
                    BodyState::Length(left)
                };
                piece.split_to(n)
            }
            BodyState::ChunkLine
            | BodyState::ChunkData(_)
            | BodyState::ChunkEnd
            | BodyState::Trailers
            | BodyState::Done => Bytes::new(),
        }
    }

    /// Takes the next piece from `buf`.
    ///
    /// # Errors
    /// `Chunk`, `TooLarge` and head errors in trailers.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, H1Error> {
        loop {
            match self.state {
                BodyState::Done => return Ok(Decoded::End),
                BodyState::UntilClose => {
                    return Ok(if buf.is_empty() {
                        Decoded::More
                    } else {
                        data(buf.split())
                    });
                }
                BodyState::Length(left) => {
                    let Some((piece, left)) = take(buf, left) else {
                        return Ok(Decoded::More);
                    };
                    self.state = if left == 0 {
                        BodyState::Done
                    } else {
                        BodyState::Length(left)
                    };
                    return Ok(data(piece));
                }
                BodyState::ChunkData(left) => {
                    let Some((piece, left)) = take(buf, left) else {
                        return Ok(Decoded::More);
                    };
                    self.state = if left == 0 {
                        BodyState::ChunkEnd
                    } else {
                        BodyState::ChunkData(left)
                    };
                    return Ok(data(piece));
                }
                BodyState::ChunkLine => match chunk_line(buf)? {
                    None => return Ok(Decoded::More),
                    Some(0) => self.state = BodyState::Trailers,
                    Some(n) => self.state = BodyState::ChunkData(n),
                },
                BodyState::ChunkEnd => match buf.get(..2) {
                    None if buf.first().is_none_or(|b| *b == b'\r') => return Ok(Decoded::More),
                    Some(b"\r\n") => {
                        buf.advance(2);
                        self.state = BodyState::ChunkLine;
                    }
                    None | Some(_) => return Err(H1Error::Chunk),
                },
                BodyState::Trailers => {
                    let Some(trailers) = trailers(buf)? else {
                        return Ok(Decoded::More);
                    };
                    self.state = BodyState::Done;
                    if !trailers.is_empty() {
                        return Ok(Decoded::Chunk(Chunk::Trailers(trailers)));
                    }
                }
            }
        }
    }
}

fn data(piece: BytesMut) -> Decoded {
    Decoded::Chunk(Chunk::Data(piece.freeze()))
}

/// At most `left` bytes of `buf`, and how many are left then; `None` if `buf` is empty.
fn take(buf: &mut BytesMut, left: u64) -> Option<(BytesMut, u64)> {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    let taken = u64::try_from(n).ok()?;
    (n > 0).then(|| (buf.split_to(n), left.saturating_sub(taken)))
}

/// The size in a complete chunk line, which is consumed; chunk extensions are checked for length only and dropped.
fn chunk_line(buf: &mut BytesMut) -> Result<Option<u64>, H1Error> {
    let Some(end) = buf.iter().position(|b| *b == b'\n') else {
        return if buf.len() > limits::CHUNK_LINE_BYTES {
            Err(H1Error::Chunk)
        } else {
            Ok(None)
        };
    };
    let line = buf.split_to(end.saturating_add(1));
    let line = line
        .strip_suffix(b"\r\n")
        .filter(|l| l.len() <= limits::CHUNK_LINE_BYTES)
        .ok_or(H1Error::Chunk)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = line.get(digits..).unwrap_or_default();
    let extension_ok = rest.is_empty()
        || (rest.first() == Some(&b';')
            && rest.iter().all(|b| *b == b'\t' || (0x20..0x7f).contains(b)));
    if digits == 0 || digits > 15 || !extension_ok {
        return Err(H1Error::Chunk);
    }
    let text = line
        .get(..digits)
        .and_then(|d| std::str::from_utf8(d).ok())
        .ok_or(H1Error::Chunk)?;
    u64::from_str_radix(text, 16)
        .map(Some)
        .map_err(|_e| H1Error::Chunk)
}

fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, H1Error> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    if buf.is_empty() || *buf == b"\r"[..] {
        return Ok(None);
    }
    let Some(len) = head_len(buf)? else {
        return Ok(None);
    };
    let head = buf.split_to(len).freeze();
    let mut slots = [httparse::EMPTY_HEADER; limits::HEADERS];
    match httparse::parse_headers(&head, &mut slots) {
        Ok(httparse::Status::Complete((n, parsed))) if n == len => {
            fields(parsed, &head, |_name| ()).map(Some)
        }
        Ok(_) | Err(_) => Err(H1Error::Malformed),
    }
}

/// Writes header fields and the empty line that ends the head.
pub fn write_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one header field.
pub fn write_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the line before the data of a chunk.
pub fn write_chunk_line(out: &mut BytesMut, len: usize) {
    let mut digits = [0_u8; 16];
    let mut rest = len;
    let mut used = 0_usize;
    for digit in digits.iter_mut().rev() {
        *digit = HEX.get(rest & 15).copied().unwrap_or(b'0');
        used = used.saturating_add(1);
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    let from = digits.len().saturating_sub(used);
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes a number in decimal digits.
pub fn write_number(out: &mut BytesMut, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut used = 0_usize;
    for digit in digits.iter_mut().rev() {
        *digit = HEX
            .get(usize::try_from(rest % 10).unwrap_or(0))
            .copied()
            .unwrap_or(b'0');
        used = used.saturating_add(1);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let from = digits.len().saturating_sub(used);
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// Writes one chunk.
pub fn write_chunk(out: &mut BytesMut, data: &[u8]) {
    write_chunk_line(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, want: Result<Framing, H1Error>) {
        let text = format!("{head}\r\n\r\n");
        let parsed = parse_request(text.as_bytes());
        let got = parsed.and_then(|parsed| request_framing(&parsed.expect("complete").0));
        assert_eq!(got, want, "{head:?}");
    }

    /// What `line_ends` says, byte by byte.
    fn line_ends_slowly(buf: &[u8], from: usize, first: bool) -> Result<Option<usize>, H1Error> {
        let mut at = from;
        let mut ended = None;
        while at < buf.len() {
            match (buf[at], buf.get(at + 1)) {
                (b'\r', Some(b'\n')) if ended == Some(at) => return Ok(Some(at + 2)),
                (b'\r', Some(b'\n')) => {
                    at += 2;
                    ended = Some(at);
                }
                (b'\r', None) => return Ok(None),
                (b'\n', _) if at > from || first => return Err(H1Error::LineEnd),
                (b'\r', Some(_)) => return Err(H1Error::LineEnd),
                _ => at += 1,
            }
        }
        Ok(None)
    }

    #[test]
    fn ends_of_lines_in_all_short_texts() {
        let letters = [b'a', b'\r', b'\n'];
        for len in 0..=9_u32 {
            for nth in 0..3_usize.pow(len) {
                let text: Vec<u8> = (0..len)
                    .map(|place| letters[nth / 3_usize.pow(place) % 3])
                    .collect();
                for from in 0..=text.len() {
                    for first in [true, false] {
                        assert_eq!(
                            line_ends(&text, from, first).map_err(|e| e.to_string()),
                            line_ends_slowly(&text, from, first).map_err(|e| e.to_string()),
                            "{:?} from {from}, first: {first}",
                            text.escape_ascii().to_string()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn framing() {
        check("GET / HTTP/1.1\r\nhost: a", Ok(Framing::Empty));
        check(
            "POST / HTTP/1.1\r\ncontent-length: 5",
            Ok(Framing::Length(5)),
        );
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked",
            Ok(Framing::Chunked),
        );
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
            Err(H1Error::Framing),
        );
        check(
            "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5",
            Err(H1Error::Framing),
        );
        check(
            "POST / HTTP/1.1\r\ncontent-length: 5, 5",
            Err(H1Error::Framing),
        );
        check(
            "POST / HTTP/1.1\r\ncontent-length: +5",
            Err(H1Error::Framing),
        );
        check("POST / HTTP/1.1\r\ncontent-length: ", Err(H1Error::Framing));
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked",
            Err(H1Error::Coding),
        );
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: xchunked",
            Err(H1Error::Coding),
        );
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            Err(H1Error::Framing),
        );
        check(
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked",
            Err(H1Error::Framing),
        );
    }

    #[test]
    fn parsed_only_when_it_can_say_something() {
        fn decides(text: &str) -> Option<&str> {
            let at = (1..=text.len()).find(|n| may_decide(&text.as_bytes()[..*n], n - 1));
            at.and_then(|n| text.get(..n))
        }
        let whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(decides(whole), Some(whole));
        assert!(may_decide(whole.as_bytes(), 0), "at once as well");
        assert_eq!(decides("GET / HTTP/1.1\r\nhost: a\r\n"), None);
        assert_eq!(decides("GET /\nhost: a"), Some("GET /\n"));
        assert_eq!(decides("GET /\rhost: a"), Some("GET /\rh"));
        assert_eq!(decides("\nGET"), Some("\n"));
        assert!(may_decide(
            &vec![b'a'; limits::HEAD_BYTES + 1],
            limits::HEAD_BYTES
        ));
        // Wherever it decides, the parser agrees, whatever the pieces were.
        for step in 1..9 {
            let mut seen = 0;
            while !may_decide(&whole.as_bytes()[..(seen + step).min(whole.len())], seen) {
                seen += step;
                assert!(seen < whole.len(), "{step}");
            }
            assert!(seen + step >= whole.len(), "{step}");
        }
    }

    #[test]
    fn strict_lines() {
        check("GET / HTTP/1.1\nhost: a", Err(H1Error::LineEnd));
        check("GET / HTTP/1.1\r\nhost: a\rb", Err(H1Error::LineEnd));
        check("GET / HTTP/1.1\r\nhost : a", Err(H1Error::Malformed));
        check(
            "GET / HTTP/1.1\r\nhost: a\r\n folded",
            Err(H1Error::Malformed),
        );
        check("GET / HTTP/1.1\r\n: a", Err(H1Error::Malformed));
        check("GET /a b HTTP/1.1\r\nhost: a", Err(H1Error::Malformed));
    }

    fn decode(framing: Framing, mut text: &[u8], step: usize) -> Result<Vec<u8>, H1Error> {
        let mut decoder = BodyDecoder::new(framing);
        let mut buf = BytesMut::new();
        let mut out = Vec::new();
        loop {
            match decoder.decode(&mut buf)? {
                Decoded::Chunk(Chunk::Data(data)) => out.extend_from_slice(&data),
                Decoded::Chunk(Chunk::Trailers(t)) => {
                    out.extend_from_slice(format!("|{}", t.len()).as_bytes());
                }
                Decoded::End => return Ok(out),
                Decoded::More if text.is_empty() => return Ok(b"wants more than there is".to_vec()),
                Decoded::More => {
                    let (a, b) = text.split_at(step.min(text.len()));
                    buf.extend_from_slice(a);
                    text = b;
                }
            }
        }
    }

    #[test]
    fn chunked_in_any_pieces() {
        for step in 1..40 {
            assert_eq!(
                decode(
                    Framing::Chunked,
                    b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
                    step
                )
                .unwrap(),
                b"hello!"
            );
            assert_eq!(
                decode(Framing::Chunked, b"1\r\na\r\n0\r\nx: y\r\n\r\n", step).unwrap(),
                b"a|1"
            );
            assert_eq!(decode(Framing::Length(3), b"abc", step).unwrap(), b"abc");
            for bad in [
                &b"5\nhello\r\n0\r\n\r\n"[..],
                b"0x5\r\nhello",
                b"5 \r\nhello",
                b"-1\r\n",
                b"5\r\nhelloX\n0\r\n\r\n",
                b"fffffffffffffffff\r\n",
                b"\r\n\r\n",
            ] {
                assert!(
                    decode(Framing::Chunked, bad, step).is_err(),
                    "{bad:?} {step}"
                );
            }
        }
    }
}
