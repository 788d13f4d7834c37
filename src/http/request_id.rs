//! `x-request-id`: one name for a request at all of its hops, as Envoy has it.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Steps of a generator whose every output looks random (`SplitMix64`); the names are to differ, not to be secret.
fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";
/// Where the digits of each byte of a UUID stand in its text.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The `nth` name from a random beginning, in the form of a UUID of version 4 (RFC 9562 section 5.4).
#[must_use]
pub fn name(beginning: [u64; 2], nth: u64) -> HeaderValue {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b] = beginning;
    let step = nth.wrapping_mul(GOLDEN);
    let high = mix(a.wrapping_add(step)) & !0xf000 | 0x4000;
    let low = mix(b.wrapping_add(step)) & !(3 << 62) | 2 << 62;
    let mut text = [b'-'; 36];
    let bytes = high.to_be_bytes().into_iter().chain(low.to_be_bytes());
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for (byte, at) in bytes.zip(PLACES) {
        if let Some([first, second]) = text.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            (*first, *second) = (digit(byte >> 4), digit(byte & 0xf));
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Gives a request its name: a new one at the edge, where anyone could choose it, and inside where it has none.
pub fn set(headers: &mut HeaderMap, outside: bool, new: impl FnOnce() -> HeaderValue) {
    if outside || !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_version_4_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..10_000 {
            let value = name([1, 2], n);
            let text = value.to_str().unwrap().to_owned();
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{text}");
            assert_eq!(text.as_bytes()[14], b'4', "{text}");
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
            assert!(seen.insert(text));
        }
    }

    #[test]
    fn a_name_is_all_of_its_bytes() {
        assert_eq!(name([1, 2], 7), "e099ec6c-d736-4ca5-b9f2-4f7bae4a6586");
    }

    #[test]
    fn the_edge_names_anew() {
        let mine = HeaderValue::from_static("mine");
        for (outside, before, want) in [
            (true, Some("theirs"), "mine"),
            (false, Some("theirs"), "theirs"),
            (false, None, "mine"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(REQUEST_ID, HeaderValue::from_static(before));
            }
            set(&mut headers, outside, || mine.clone());
            assert_eq!(headers[REQUEST_ID], want);
        }
    }
}
