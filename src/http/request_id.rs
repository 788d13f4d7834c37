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

/// The digits of a number to the base 16, all at once.
fn hex(number: u32) -> [u8; 8] {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let mut digits = u64::from(number);
    // Halves, then bytes, then nibbles move apart, until each has a byte of its own.
    digits = (digits << 16 | digits) & 0x0000_ffff_0000_ffff;
    digits = (digits << 8 | digits) & 0x00ff_00ff_00ff_00ff;
    digits = (digits << 4 | digits) & 0x0f0f_0f0f_0f0f_0f0f;
    // Six more than nine is where a nibble has its letter.
    let letters = (digits.wrapping_add(LOW.wrapping_mul(6)) >> 4) & LOW;
    let text = digits
        .wrapping_add(LOW.wrapping_mul(u64::from(b'0')))
        .wrapping_add(letters.wrapping_mul(u64::from(b'a' - b'9' - 1)));
    text.to_be_bytes()
}

/// The `nth` name from a random beginning, in the form of a UUID of version 4 (RFC 9562 section 5.4).
#[must_use]
pub fn name(beginning: [u64; 2], nth: u64) -> HeaderValue {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b] = beginning;
    let step = nth.wrapping_mul(GOLDEN);
    let high = mix(a.wrapping_add(step)) & !0xf000 | 0x4000;
    let low = mix(b.wrapping_add(step)) & !(3 << 62) | 2 << 62;
    let half = |number: u64, shift: u32| {
        let half = number >> shift & u64::from(u32::MAX);
        hex(u32::try_from(half).unwrap_or(0))
    };
    let [t0, t1, t2, t3, t4, t5, t6, t7] = half(high, 32);
    let [m0, m1, m2, m3, v0, v1, v2, v3] = half(high, 0);
    let [c0, c1, c2, c3, n0, n1, n2, n3] = half(low, 32);
    let [n4, n5, n6, n7, n8, n9, na, nb] = half(low, 0);
    let text = [
        t0, t1, t2, t3, t4, t5, t6, t7, b'-', m0, m1, m2, m3, b'-', v0, v1, v2, v3, b'-', c0, c1,
        c2, c3, b'-', n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, na, nb,
    ];
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
    fn all_digits_are_those_of_std() {
        for number in [0, 1, 0x9a, 0x0123_4567, 0x89ab_cdef, 0xf0f0_f0f0, u32::MAX] {
            assert_eq!(hex(number), *format!("{number:08x}").as_bytes());
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
