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

/// The `nth` name from a random beginning, in the form of a UUID of version 4 (RFC 9562 section 5.4).
#[must_use]
pub fn name(beginning: [u64; 2], nth: u64) -> HeaderValue {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b] = beginning;
    let step = nth.wrapping_mul(GOLDEN);
    let high = mix(a.wrapping_add(step)) & !0xf000 | 0x4000;
    let low = mix(b.wrapping_add(step)) & !(3 << 62) | 2 << 62;
    let uuid = (u128::from(high) << 64) | u128::from(low);
    let mut text = [b'-'; 36];
    let mut shift = 128_u32;
    for (at, place) in text.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        shift = shift.saturating_sub(4);
        let digit = u8::try_from(uuid >> shift & 0xf).unwrap_or(0);
        *place = match digit {
            0..=9 => b'0'.saturating_add(digit),
            _ => b'a'.saturating_add(digit).saturating_sub(10),
        };
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
