//! The Huffman code of header strings (RFC 7541 section 5.2, appendix B).
//!
//! The code is canonical: the lengths alone give it. Decoding looks a short code up by its byte and finds a long one by
//! its length.

use thiserror::Error;

/// A string that is no Huffman code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed Huffman code")]
pub struct HuffmanError;

const SYMBOLS: usize = 257;
/// End of string; it may not stand in a string.
const EOS: u16 = 256;
const LONGEST: u32 = 30;

/// Bits of the code of each symbol (RFC 7541 appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of one length.
#[derive(Clone, Copy)]
struct OfLength {
    /// First code past those of this length, in the upper bits of 32.
    limit: u64,
    /// The first code.
    first: u32,
    /// Where its symbol stands in `SORTED`.
    at: usize,
}

struct Tables {
    /// Symbols by code.
    sorted: [u16; SYMBOLS],
    by_length: [OfLength; 31],
    /// Symbol and length of the code that the byte begins with; length 0 if it is longer than a byte.
    fast: [(u8, u8); 256],
}

static TABLES: Tables = tables();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which reports an index out of range"
)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "symbols are below 257, lengths below 31, evaluated by the compiler"
)]
const fn tables() -> Tables {
    let none = OfLength {
        limit: 0,
        first: 0,
        at: 0,
    };
    let mut tables = Tables {
        sorted: [0; SYMBOLS],
        by_length: [none; 31],
        fast: [(0, 0); 256],
    };
    let (mut code, mut at, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        let (first, first_at) = (code, at);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as u32 == length {
                tables.sorted[at] = symbol as u16;
                if length <= 8 {
                    let low = (code << (8 - length)) as usize;
                    let mut n = 0;
                    while n < 1 << (8 - length) {
                        tables.fast[low + n] = (symbol as u8, length as u8);
                        n += 1;
                    }
                }
                at += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.by_length[length as usize] = OfLength {
            limit: (code as u64) << (32 - length),
            first,
            at: first_at,
        };
        length += 1;
    }
    tables
}

/// Symbol and length of the code that `bits` begin with; length 0 if it is longer than a byte.
fn fast(bits: u64) -> (u8, u8) {
    let [top, ..] = bits.to_be_bytes();
    TABLES.fast.get(usize::from(top)).copied().unwrap_or((0, 0))
}

/// Codes that are decoded without another look at how many bits there are: 56 or more, and none has more than eight.
const AT_ONCE: usize = 7;
/// First bits, left-aligned, of the codes of six, seven, eight and more bits: so much of the code table that the tests hold
/// against it.
const OF_SIX: u64 = 0x50 << 56;
const OF_SEVEN: u64 = 0xb8 << 56;
const OF_EIGHT: u64 = 0xf8 << 56;
const OF_MORE: u64 = 0xfe << 56;

/// Length of the code that `bits` begin with, if it is not more than eight. From comparisons: the next code does not wait
/// for what a table says of this one.
fn short_length(bits: u64) -> u32 {
    5_u32
        .wrapping_add(u32::from(bits >= OF_SIX))
        .wrapping_add(u32::from(bits >= OF_SEVEN))
        .wrapping_add(u32::from(bits >= OF_EIGHT))
}

/// Decodes a string into `out`, which has room for eight bytes for every five; how many that were.
///
/// # Errors
/// `HuffmanError`: EOS in the string, padding of more than seven bits or of other bits than EOS begins with.
pub fn decode(mut bytes: &[u8], out: &mut [u8]) -> Result<usize, HuffmanError> {
    // The next bits, left-aligned, and how many there are; behind those may stand some that are still to be counted.
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut at = 0_usize;
    loop {
        if let Some(eight) = bytes.first_chunk::<8>()
            && let Some(places) = out.get_mut(at..)
            && let Some(places) = places.first_chunk_mut::<AT_ONCE>()
            && have < 64
        {
            bits |= u64::from_be_bytes(*eight) >> have;
            let taken = 63_u32.wrapping_sub(have) / 8;
            have = have.wrapping_add(taken.wrapping_mul(8));
            bytes = bytes.get(taken as usize..).unwrap_or_default();
            let mut decoded = 0_usize;
            for place in places {
                if bits >= OF_MORE {
                    break;
                }
                let length = short_length(bits);
                *place = fast(bits).0;
                bits = bits.wrapping_shl(length);
                have = have.wrapping_sub(length);
                decoded = decoded.wrapping_add(1);
            }
            at = at.saturating_add(decoded);
            // A longer code needs more bits than may be left.
            if decoded > 0 {
                continue;
            }
        } else {
            while have <= 56
                && let Some((first, rest)) = bytes.split_first()
            {
                bits |= u64::from(*first) << 56_u32.saturating_sub(have);
                have = have.saturating_add(8);
                bytes = rest;
            }
        }
        let (symbol, length) = match fast(bits) {
            (symbol, length) if length > 0 => (u16::from(symbol), u32::from(length)),
            _ => long(bits).ok_or(HuffmanError)?,
        };
        if length > have {
            // What is left is padding: fewer than eight bits, all ones, as EOS begins.
            let ones = bits.leading_ones() >= have;
            return if have < 8 && ones {
                Ok(at)
            } else {
                Err(HuffmanError)
            };
        }
        match (u8::try_from(symbol), out.get_mut(at)) {
            (Ok(byte), Some(place)) => *place = byte,
            (Ok(_) | Err(_), _) => return Err(HuffmanError),
        }
        at = at.saturating_add(1);
        bits <<= length;
        have = have.saturating_sub(length);
    }
}

/// Symbol and length of a code of more than eight bits.
fn long(bits: u64) -> Option<(u16, u32)> {
    let top = bits >> 32;
    for length in 9..=LONGEST {
        let of = TABLES.by_length.get(usize::try_from(length).ok()?)?;
        if top < of.limit {
            let code = u32::try_from(bits >> 64_u32.saturating_sub(length)).ok()?;
            let nth = usize::try_from(code.checked_sub(of.first)?).ok()?;
            let symbol = TABLES.sorted.get(of.at.checked_add(nth)?)?;
            return Some((*symbol, length));
        }
    }
    Some((EOS, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a symbol, from the sorted table.
    fn code(symbol: u16) -> (u32, u32) {
        let at = TABLES.sorted.iter().position(|s| *s == symbol).unwrap();
        let length = u32::from(LENGTHS[usize::from(symbol)]);
        let of = TABLES.by_length[length as usize];
        (of.first + u32::try_from(at - of.at).unwrap(), length)
    }

    fn encode(symbols: &[u16]) -> Vec<u8> {
        let (mut out, mut bits, mut have) = (Vec::new(), 0_u64, 0);
        for symbol in symbols {
            let (code, length) = code(*symbol);
            bits = bits << length | u64::from(code);
            have += length;
            while have >= 8 {
                have -= 8;
                out.push(u8::try_from(bits >> have & 0xff).unwrap());
            }
        }
        if have > 0 {
            out.push(u8::try_from((bits << (8 - have) | (0xff >> have)) & 0xff).unwrap());
        }
        out
    }

    fn check(bytes: &[u8], want: Option<&[u8]>) {
        let mut out = vec![0; bytes.len() * 8 / 5];
        let got = decode(bytes, &mut out).ok();
        assert_eq!(got.map(|n| &out[..n]), want, "{bytes:x?}");
    }

    #[test]
    fn short_lengths_are_those_of_the_table() {
        for top in 0..=255_u64 {
            let bits = top << 56 | 0xff;
            let length = u32::from(fast(bits).1);
            assert_eq!(length == 0, bits >= OF_MORE, "{top:x}");
            if length > 0 {
                assert_eq!(short_length(bits), length, "{top:x}");
            }
        }
    }

    #[test]
    fn examples_of_the_standard() {
        // RFC 7541 appendix C.4.1, C.6.1.
        let www = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        check(&www, Some(b"www.example.com"));
        check(&[0xae, 0xc3, 0x77, 0x1a, 0x4b], Some(b"private"));
        check(&[], Some(b""));
        assert_eq!(code(EOS), (0x3fff_ffff, 30));
        assert_eq!(code(0), (0x1ff8, 13));
        assert_eq!(code(249), (0xfff_fffe, 28));
    }

    #[test]
    fn every_symbol_before_and_after_every_other() {
        for a in 0..256_u16 {
            check(&encode(&[a]), Some(&[u8::try_from(a).unwrap()]));
            for b in 0..256_u16 {
                let want = [a, b, a].map(|s| u8::try_from(s).unwrap());
                check(&encode(&[a, b, a]), Some(&want));
            }
        }
    }

    #[test]
    fn long_strings_of_short_and_long_codes() {
        let mut seed = 7_u64;
        for len in 0..200_usize {
            let symbols: Vec<u16> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let random = u16::try_from(seed >> 48).unwrap();
                    // Mostly what headers hold.
                    if random.is_multiple_of(16) {
                        random >> 8
                    } else {
                        u16::from(b'0') + (random >> 8) % 75
                    }
                })
                .collect();
            let want: Vec<u8> = symbols.iter().map(|s| u8::try_from(*s).unwrap()).collect();
            let coded = encode(&symbols);
            check(&coded, Some(&want));
            // Not a byte more than there is room for.
            let mut out = vec![0; len];
            assert_eq!(decode(&coded, &mut out), Ok(len));
            if len > 0 {
                assert_eq!(decode(&coded, &mut out[1..]), Err(HuffmanError));
            }
        }
    }

    #[test]
    fn what_is_no_code() {
        check(&encode(&[EOS]), None);
        check(&encode(&[u16::from(b'a'), EOS, u16::from(b'a')]), None);
        // Padding: `0` is 00000, so 000 is no padding; eight ones are too many.
        check(&[0b0000_0000], None);
        check(&[0b0000_0111], Some(b"0"));
        check(&[0b0000_0110], None);
        check(&[0xff], None);
        check(&[0b0000_0111, 0xff], None);
        check(&[0xff; 64], None);
    }
}
