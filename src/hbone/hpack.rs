//! Header compression (RFC 7541): a full decoder with a bounded table, and the little encoding that tunnels need.
//!
//! We encode literals without indexing only: they are the same on every connection, need no table, and no peer can make
//! us keep one.

use std::collections::VecDeque;

use thiserror::Error;

use crate::hbone::huffman;
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

/// A field of the dynamic table: the name, then the value.
#[derive(Debug)]
struct Field {
    bytes: Box<[u8]>,
    name: usize,
}

impl Field {
    fn size(&self) -> usize {
        self.bytes.len().saturating_add(FIELD_OVERHEAD)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.name).unwrap_or_default()
    }
}

/// Decodes the header blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    /// The newest field first.
    table: VecDeque<Field>,
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
        mut block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut scratch = Vec::new();
        let mut fields = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let (name, value) = self.at(index)?;
                each(name, value);
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                // Only before the first field (RFC 7541 section 4.2).
                if fields || size > limits::HPACK_TABLE_BYTES {
                    return Err(HpackError::Size);
                }
                self.max = size;
                self.evict(0);
                continue;
            } else {
                let indexed = first & 0x40 != 0;
                let index = integer(&mut block, if indexed { 6 } else { 4 })?;
                scratch.clear();
                if index == 0 {
                    string(&mut block, &mut scratch)?;
                } else {
                    scratch.extend_from_slice(self.at(index)?.0);
                }
                let name = scratch.len();
                string(&mut block, &mut scratch)?;
                let (n, v) = scratch.split_at_checked(name).unwrap_or_default();
                each(n, v);
                if indexed {
                    self.insert(&scratch, name);
                }
            }
            fields = true;
        }
        Ok(())
    }

    fn at(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let before = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC.get(before) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let field = self.table.get(before.saturating_sub(STATIC.len()));
        field.map(Field::parts).ok_or(HpackError::Index)
    }

    fn insert(&mut self, bytes: &[u8], name: usize) {
        let size = bytes.len().saturating_add(FIELD_OVERHEAD);
        self.evict(size);
        // One that is larger than the table empties it, and is no error (RFC 7541 section 4.4).
        if size <= self.max {
            self.size = self.size.saturating_add(size);
            self.table.push_front(Field {
                bytes: bytes.into(),
                name,
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
fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(HpackError::Short)?;
    *block = rest;
    if coded {
        huffman::decode(bytes, out).map_err(|huffman::HuffmanError| HpackError::Huffman)?;
    } else {
        out.extend_from_slice(bytes);
    }
    Ok(())
}

/// Index of `:authority` in the static table.
pub(super) const AUTHORITY: u8 = 1;
/// Index of `:method`.
pub(super) const METHOD: u8 = 2;
/// Index of `:status`.
pub(super) const STATUS: u8 = 8;
/// The field `:status: 200` whole.
pub(super) const STATUS_200: u8 = 0x88;
/// A table size update to 0 (RFC 7541 section 6.3).
pub(super) const NO_TABLE: u8 = 0x20;

/// Appends a field, literal without indexing, whose name has an index below 15.
pub(super) fn put_named(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    out.push(index & 0x0f);
    put_string(out, value);
}

/// Appends a field, literal without indexing.
pub(super) fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
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
