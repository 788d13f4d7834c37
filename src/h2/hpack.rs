//! Header compression (RFC 7541): a full decoder with a bounded table, and an encoder without one.
//!
//! We encode literals without indexing only: they are the same on every connection, need no table, and no peer can make
//! us keep one.

use std::cell::OnceCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use thiserror::Error;

use crate::h2::huffman;
use crate::vocab::limits;

/// Why a block cannot be decoded. The connection is lost then: the tables of both sides differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HpackError {
    /// It ends within a field.
    #[error("header block ends within a field")]
    Short,
    /// An integer of more than 28 bits.
    #[error("integer of a header block is too large")]
    Integer,
    /// An index that is in no table.
    #[error("index of a header block is in no table")]
    Index,
    /// A table size beyond the setting, or after the first field.
    #[error("size of the header table is not allowed")]
    Size,
    /// A string that is no Huffman code.
    #[error("malformed Huffman code")]
    Huffman,
}

/// Static table (RFC 7541 appendix A), from index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What a field of the table counts beyond its bytes (RFC 7541 section 4.1).
pub const FIELD_OVERHEAD: usize = 32;
/// Bytes that a Huffman code of five bits a symbol, the shortest, may become (RFC 7541 appendix B).
const fn decoded_bytes(coded: usize) -> usize {
    coded.saturating_mul(8) / 5
}

/// Name and value as whoever keeps them wants them; `None` where one of the two is malformed.
type Parsed = Option<(HeaderName, HeaderValue)>;

/// A field of the dynamic table: the name, then the value.
#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    name: usize,
    /// Read once, however often the field comes.
    parsed: OnceCell<Parsed>,
}

impl Entry {
    fn size(&self) -> usize {
        self.bytes.len().saturating_add(FIELD_OVERHEAD)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.name).unwrap_or_default()
    }

    fn parsed(&self) -> &Parsed {
        self.parsed.get_or_init(|| {
            let name = HeaderName::from_lowercase(self.parts().0).ok()?;
            let value = self.bytes.slice(self.name.min(self.bytes.len())..);
            Some((name, HeaderValue::from_maybe_shared(value).ok()?))
        })
    }
}

/// Where a name stands, or a whole field.
#[derive(Clone, Copy, Debug)]
enum Place<'b> {
    Static(&'static str, &'static str),
    Table(&'b Entry),
}

impl<'b> Place<'b> {
    fn parts(self) -> (&'b [u8], &'b [u8]) {
        match self {
            Self::Static(name, value) => (name.as_bytes(), value.as_bytes()),
            Self::Table(entry) => entry.parts(),
        }
    }

    fn name(self) -> Option<HeaderName> {
        match self {
            Self::Static(name, _) => HeaderName::from_lowercase(name.as_bytes()).ok(),
            Self::Table(entry) => match entry.parsed() {
                Some((name, _)) => Some(name.clone()),
                None => HeaderName::from_lowercase(entry.parts().0).ok(),
            },
        }
    }
}

/// What a field is made of.
#[derive(Clone, Copy, Debug)]
enum Source<'b> {
    Whole(Place<'b>),
    /// A name that stands somewhere, and a value that was sent.
    Named(Place<'b>, &'b Bytes),
    /// Both were sent, the name of this length first.
    Literal(&'b Bytes, usize),
}

/// A field of a block.
#[derive(Clone, Copy, Debug)]
pub struct Field<'b> {
    source: Source<'b>,
    /// A literal that nobody may put into a table (RFC 7541 section 6.2.3).
    never_indexed: bool,
}

impl<'b> Field<'b> {
    /// Name and value as they are.
    #[must_use]
    pub fn parts(&self) -> (&'b [u8], &'b [u8]) {
        match self.source {
            Source::Whole(place) => place.parts(),
            Source::Named(place, value) => (place.parts().0, value),
            Source::Literal(bytes, name) => bytes.split_at_checked(name).unwrap_or_default(),
        }
    }

    /// Name and value without a copy of either; `None` if the name is no lower-case token or the value has bytes that no
    /// value has (RFC 9110 section 5.5).
    #[must_use]
    pub fn parsed(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, mut value) = match self.source {
            Source::Whole(Place::Table(entry)) => entry.parsed().clone()?,
            Source::Whole(place @ Place::Static(_, value)) => {
                (place.name()?, HeaderValue::from_static(value))
            }
            Source::Named(place, _) => (place.name()?, self.value()?),
            Source::Literal(..) => (
                HeaderName::from_lowercase(self.parts().0).ok()?,
                self.value()?,
            ),
        };
        value.set_sensitive(self.never_indexed);
        Some((name, value))
    }

    /// The value without a copy; of a pseudo-header field too, which has no name that `parsed` would take.
    #[must_use]
    pub fn value(&self) -> Option<HeaderValue> {
        let bytes = match self.source {
            Source::Whole(Place::Static(_, value)) => return Some(HeaderValue::from_static(value)),
            Source::Whole(Place::Table(entry)) => {
                entry.bytes.slice(entry.name.min(entry.bytes.len())..)
            }
            Source::Named(_, value) => value.clone(),
            Source::Literal(bytes, name) => bytes.slice(name.min(bytes.len())..),
        };
        HeaderValue::from_maybe_shared(bytes).ok()
    }
}

/// Decodes the header blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    /// The newest field first.
    table: VecDeque<Entry>,
    size: usize,
    /// What the peer has set, at most `limits::HPACK_TABLE_BYTES`.
    max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            max: limits::HPACK_TABLE_BYTES,
        }
    }
}

impl Decoder {
    /// Decodes a whole block and shows every field, name and value, in order.
    ///
    /// # Errors
    /// `HpackError`; the decoder is of no use then.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        self.fields(block, |field| {
            let (name, value) = field.parts();
            each(name, value);
        })
    }

    /// As `decode`, with fields that can be kept without a copy. What was sent in the block is held together, so that a
    /// field that is kept keeps all of them; of names that were not sent there is no copy.
    ///
    /// # Errors
    /// `HpackError`; the decoder is of no use then.
    pub fn fields(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(&Field<'_>),
    ) -> Result<(), HpackError> {
        let mut sent = BytesMut::new();
        let mut begun = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                each(&Field {
                    source: Source::Whole(self.at(index)?),
                    never_indexed: false,
                });
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                // Only before the first field (RFC 7541 section 4.2).
                if begun || size > limits::HPACK_TABLE_BYTES {
                    return Err(HpackError::Size);
                }
                self.max = size;
                self.evict(0);
                continue;
            } else {
                if sent.capacity() == 0 {
                    sent.reserve(decoded_bytes(block.len()));
                }
                self.literal(first, &mut block, &mut sent, &mut each)?;
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        first: u8,
        block: &mut &[u8],
        sent: &mut BytesMut,
        each: &mut impl FnMut(&Field<'_>),
    ) -> Result<(), HpackError> {
        let indexed = first & 0x40 != 0;
        let index = integer(block, if indexed { 6 } else { 4 })?;
        let place = if index == 0 {
            string(block, sent)?;
            None
        } else {
            Some(self.at(index)?)
        };
        let name = sent.len();
        string(block, sent)?;
        let bytes = sent.split().freeze();
        let field = Field {
            source: match place {
                Some(place) => Source::Named(place, &bytes),
                None => Source::Literal(&bytes, name),
            },
            never_indexed: first & 0xf0 == 0x10,
        };
        each(&field);
        if indexed {
            let (name, value) = field.parts();
            let len = name.len();
            // A copy: else a short field would keep everything that came with it.
            let both = Bytes::from([name, value].concat());
            self.insert(both, len);
        }
        Ok(())
    }

    fn at(&self, index: usize) -> Result<Place<'_>, HpackError> {
        let before = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC.get(before) {
            return Ok(Place::Static(name, value));
        }
        let field = self.table.get(before.saturating_sub(STATIC.len()));
        field.map(Place::Table).ok_or(HpackError::Index)
    }

    fn insert(&mut self, bytes: Bytes, name: usize) {
        let size = bytes.len().saturating_add(FIELD_OVERHEAD);
        self.evict(size);
        // One that is larger than the table empties it, and is no error (RFC 7541 section 4.4).
        if size <= self.max {
            self.size = self.size.saturating_add(size);
            self.table.push_front(Entry {
                bytes,
                name,
                parsed: OnceCell::new(),
            });
        }
    }

    /// Drops the oldest fields until there is room for `more` bytes.
    fn evict(&mut self, more: usize) {
        while self.size.saturating_add(more) > self.max {
            let Some(field) = self.table.pop_back() else {
                return;
            };
            self.size = self.size.saturating_sub(field.size());
        }
    }
}

/// Bytes that may follow an integer's prefix: 28 bits are more than any length that we allow.
const INTEGER_BYTES: u32 = 4;

/// Takes an integer with a prefix of `bits` (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, HpackError> {
    let mask = (1_u32 << bits).saturating_sub(1);
    let mut value = u32::from(next(block)?) & mask;
    if value == mask {
        for n in 0..=INTEGER_BYTES {
            if n == INTEGER_BYTES {
                return Err(HpackError::Integer);
            }
            let byte = next(block)?;
            let part = u32::from(byte & 0x7f) << n.saturating_mul(7);
            value = value.saturating_add(part);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    usize::try_from(value).map_err(|_wide| HpackError::Integer)
}

fn next(block: &mut &[u8]) -> Result<u8, HpackError> {
    let (first, rest) = block.split_first().ok_or(HpackError::Short)?;
    *block = rest;
    Ok(*first)
}

/// Takes a string (RFC 7541 section 5.2) and appends it.
fn string(block: &mut &[u8], out: &mut BytesMut) -> Result<(), HpackError> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(HpackError::Short)?;
    *block = rest;
    if coded {
        let at = out.len();
        out.resize(at.saturating_add(decoded_bytes(len)), 0);
        let room = out.get_mut(at..).unwrap_or_default();
        let n =
            huffman::decode(bytes, room).map_err(|huffman::HuffmanError| HpackError::Huffman)?;
        out.truncate(at.saturating_add(n));
    } else {
        out.extend_from_slice(bytes);
    }
    Ok(())
}

/// Index of `:authority` in the static table.
pub(crate) const AUTHORITY: u8 = 1;
/// Index of `:method`.
pub(crate) const METHOD: u8 = 2;
/// Index of `:path`.
pub(crate) const PATH: u8 = 4;
/// Index of `:status`.
pub(crate) const STATUS: u8 = 8;
/// The field `:status: 200` whole.
pub(crate) const STATUS_200: u8 = 0x88;
/// A table size update to 0 (RFC 7541 section 6.3).
pub(crate) const NO_TABLE: u8 = 0x20;
/// First byte of a literal that nobody may put into a table (RFC 7541 section 6.2.3).
const NEVER_INDEXED: u8 = 0x10;

/// Appends a field of the static table.
pub(crate) fn put_whole(out: &mut Vec<u8>, index: u8) {
    out.push(0x80 | index);
}

/// Appends a field, literal without indexing, whose name has an index below 15.
pub(crate) fn put_named(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    out.push(index & 0x0f);
    put_string(out, value);
}

/// Appends a field, literal without indexing.
pub(crate) fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
}

/// As `put`, of a field of a message; one that came as a secret leaves as one.
pub(crate) fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let first = if value.is_sensitive() {
        NEVER_INDEXED
    } else {
        0
    };
    match index_of(name) {
        Some(index @ 0..15) => out.push(first | index),
        Some(index) => out.extend_from_slice(&[first | 15, index.saturating_sub(15)]),
        None => {
            out.push(first);
            put_string(out, name.as_str().as_bytes());
        }
    }
    put_string(out, value.as_bytes());
}

/// Index in the static table of names that most messages have.
fn index_of(name: &HeaderName) -> Option<u8> {
    Some(match name.as_str() {
        "accept" => 19,
        "accept-encoding" => 16,
        "authorization" => 23,
        "cache-control" => 24,
        "content-encoding" => 26,
        "content-length" => 28,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "last-modified" => 44,
        "location" => 46,
        "server" => 54,
        "set-cookie" => 55,
        "user-agent" => 58,
        "vary" => 59,
        _ => return None,
    })
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut left = bytes.len();
    if let Ok(len @ 0..=126) = u8::try_from(left) {
        out.push(len);
    } else {
        out.push(127);
        left = left.saturating_sub(127);
        while left >= 128 {
            out.push(u8::try_from(left & 127).unwrap_or_default() | 128);
            left >>= 7;
        }
        out.push(u8::try_from(left).unwrap_or_default());
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = Vec<(String, String)>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
        let mut fields = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        decoder.decode(block, |n, v| fields.push((text(n), text(v))))?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).unwrap()).unwrap();
        let pairs = digits.chunks(2);
        pairs
            .map(|two| digit(two[0]) << 4 | digit(two[1]))
            .collect()
    }

    fn check(decoder: &mut Decoder, block: &str, want: &[(&str, &str)], size: usize) {
        let got = decode(decoder, &hex(block)).unwrap();
        let got: Vec<_> = got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(got, want, "{block}");
        assert_eq!(decoder.size, size, "{block}");
    }

    /// RFC 7541 appendix C.3 and C.4.
    #[test]
    fn requests_of_the_standard() {
        let mut first = vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
        ];
        for [one, two] in [plain, coded] {
            let mut decoder = Decoder::default();
            first.truncate(4);
            check(&mut decoder, one, &first, 57);
            first.push(("cache-control", "no-cache"));
            check(&mut decoder, two, &first, 110);
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut decoder = Decoder::default();
        let mut block = Vec::new();
        for n in 0..200_u32 {
            block.push(0x40);
            put_string(&mut block, format!("name-{n}").as_bytes());
            put_string(&mut block, &[b'v'; 100]);
        }
        assert_eq!(decode(&mut decoder, &block).unwrap().len(), 200);
        assert!(decoder.size <= limits::HPACK_TABLE_BYTES);
        assert_eq!(
            decode(&mut decoder, &[0xbe]).unwrap()[0].0,
            "name-199",
            "the newest is 62"
        );
        // One that does not fit empties it.
        let mut large = vec![0x40, 1, b'x'];
        put_string(&mut large, &[b'v'; 4096]);
        assert_eq!(decode(&mut decoder, &large).unwrap().len(), 1);
        assert_eq!((decoder.size, decoder.table.len()), (0, 0));
    }

    #[test]
    fn sizes_come_first_and_are_bounded() {
        let mut decoder = Decoder::default();
        let grow = [0x40, 1, b'a', 1, b'b'];
        decode(&mut decoder, &grow).unwrap();
        assert_eq!(decoder.size, 34);
        let none: Fields = decode(&mut decoder, &[0x20]).unwrap();
        assert!(none.is_empty() && decoder.size == 0);
        decode(&mut decoder, &grow).unwrap();
        assert_eq!(decoder.size, 0, "no table, nothing kept");
        // To nothing and back in one block, as an encoder does that wants it emptied.
        let back = [&[0x20, 0x3f, 0xe1, 0x1f][..], &grow].concat();
        decode(&mut decoder, &back).unwrap();
        assert_eq!(decoder.size, 34);
        let late = [&grow[..], &[0x20]].concat();
        assert_eq!(decode(&mut decoder, &late), Err(HpackError::Size));
        let more = [0x3f, 0xe2, 0x1f];
        assert_eq!(decode(&mut decoder, &more), Err(HpackError::Size));
    }

    #[test]
    fn what_is_no_block() {
        for (block, want) in [
            (&[0x80][..], HpackError::Index),
            (&[0xbe], HpackError::Index),
            (&[0x7f, 0xff, 0x01], HpackError::Index),
            (&[0xff], HpackError::Short),
            (&[0xff, 0x80], HpackError::Short),
            (&[0x3f], HpackError::Short),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], HpackError::Integer),
            (&[0x00], HpackError::Short),
            (&[0x00, 0x02, b'a'], HpackError::Short),
            (&[0x00, 0x01, b'a'], HpackError::Short),
            (&[0x00, 0x01, b'a', 0x05, b'b'], HpackError::Short),
            (&[0x00, 0x81, 0xff], HpackError::Huffman),
            (&[0x0f, 0x80, 0x80, 0x80, 0x80, 0x01], HpackError::Integer),
        ] {
            let got = decode(&mut Decoder::default(), block);
            assert_eq!(got, Err(want), "{block:x?}");
        }
    }

    #[test]
    fn what_we_encode_is_read_back() {
        for len in [0, 1, 126, 127, 128, 254, 255, 256, 16_510, 20_000] {
            let value = "v".repeat(len);
            let mut block = vec![NO_TABLE, STATUS_200];
            put(&mut block, b"baggage", value.as_bytes());
            put_named(&mut block, AUTHORITY, value.as_bytes());
            put_named(&mut block, METHOD, b"CONNECT");
            put_named(&mut block, STATUS, b"503");
            let got = decode(&mut Decoder::default(), &block).unwrap();
            let want = [
                (":status", "200"),
                ("baggage", &value),
                (":authority", &value),
                (":method", "CONNECT"),
                (":status", "503"),
            ];
            let want = want.map(|(n, v)| (n.to_owned(), v.to_owned()));
            assert_eq!(got, want);
        }
    }
}
