//! What the streams of a connection carry, and what is well formed whatever that is (RFC 9113 sections 8.1 to 8.3).

use std::fmt;

use crate::h2::hpack::{Decoder, HpackError};

/// What a header block was read as. A malformed one costs its stream, one that cannot be decoded the connection.
pub type Read<T> = Result<Result<T, Malformed>, HpackError>;

/// What the streams of a connection carry: how the heads in their header blocks are read.
pub trait Heads: fmt::Debug + Clone + PartialEq + Eq + 'static {
    /// Head of a request.
    type Request: fmt::Debug + Clone + PartialEq + Eq;
    /// Head of a response.
    type Response: fmt::Debug + Clone + PartialEq + Eq;
    /// Trailer fields.
    type Trailers: fmt::Debug + Clone + PartialEq + Eq;

    /// Reads a request's block; of the header list `most` bytes are taken. `extended`: extended CONNECT (RFC 8441) is
    /// offered.
    ///
    /// # Errors
    /// `HpackError`: the connection is lost.
    fn request(
        decoder: &mut Decoder,
        block: &[u8],
        most: usize,
        extended: bool,
    ) -> Read<Asked<Self::Request>>;

    /// Reads a response's block.
    ///
    /// # Errors
    /// `HpackError`: the connection is lost.
    fn response(decoder: &mut Decoder, block: &[u8], most: usize)
    -> Read<Answered<Self::Response>>;

    /// Reads a block of trailer fields.
    ///
    /// # Errors
    /// `HpackError`: the connection is lost.
    fn trailers(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<Self::Trailers>;
}

/// A request, and what the state of its stream needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<T> {
    /// Head.
    pub head: T,
    /// What the stream will carry.
    pub shape: Shape,
}

/// A response, and what the state of its stream needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered<T> {
    /// Head.
    pub head: T,
    /// `:status`.
    pub status: u16,
    /// `content-length`.
    pub length: Option<u64>,
}

/// What a stream will carry, by the head of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// A tunnel, once it is answered with 2xx: nothing but DATA follows (RFC 9113 section 8.5).
    pub connect: bool,
    /// The answer has no content, whatever its `content-length` says.
    pub is_head: bool,
    /// `content-length` of the request.
    pub length: Option<u64>,
}

/// Why a head is none; the stream is reset for it (RFC 9113 section 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A name with upper case letters or other bytes than a token has.
    Name,
    /// A value with CR, LF, NUL or another control byte, or with a space before or behind it.
    Value,
    /// A pseudo-header field that is unknown, comes twice, late, or is missing.
    Pseudo,
    /// A field of the connection (RFC 9113 section 8.2.2).
    Connection,
    /// A `content-length` that is no number, more than one, or one that is not the length of the content.
    Length,
    /// More fields or bytes than we take.
    Large,
}

impl Malformed {
    /// What it is, in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Name => "malformed field name",
            Self::Value => "malformed field value",
            Self::Pseudo => "malformed pseudo-header fields",
            Self::Connection => "a field of the connection",
            Self::Length => "content-length is not that of the content",
            Self::Large => "header list is too large",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Reads a block of which nothing is wanted, for the table's sake.
///
/// # Errors
/// `HpackError`: the connection is lost.
pub(crate) fn skip(decoder: &mut Decoder, block: &[u8]) -> Result<(), HpackError> {
    decoder.fields(block, |_field| {})
}

/// A byte of a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Whether a field of HTTP/2 may have this name (RFC 9113 section 8.2.1).
pub(crate) fn is_name(name: &[u8]) -> bool {
    let is_part = |b: &u8| is_token(*b) && !b.is_ascii_uppercase();
    !name.is_empty() && name.iter().all(is_part)
}

/// Whether a field may have this value (RFC 9110 section 5.5, RFC 9113 section 8.2.1).
pub(crate) fn is_value(value: &[u8]) -> bool {
    let visible = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    is_trimmed(value) && value.iter().all(visible)
}

/// Whether a value has no space before or behind it.
pub(crate) fn is_trimmed(value: &[u8]) -> bool {
    let space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    !space(value.first()) && !space(value.last())
}

/// Whether a field is one of the connection (RFC 9113 section 8.2.2).
pub(crate) fn is_of_connection(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => value != b"trailers",
        _ => false,
    }
}

/// A `:status`: three digits.
pub(crate) fn status(value: &[u8]) -> Option<u16> {
    let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else {
        return None;
    };
    let digit = |d: u8| u16::from(d.saturating_sub(b'0'));
    let tens = digit(a).saturating_mul(10).saturating_add(digit(b));
    Some(tens.saturating_mul(10).saturating_add(digit(c)))
}
