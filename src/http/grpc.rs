//! What gRPC says beside HTTP: the deadline of a call (gRPC over HTTP/2, `grpc-timeout`).

use http::{HeaderMap, HeaderName};

/// `grpc-timeout`.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The deadline of a call, in milliseconds, rounded up; `None` if it says none that can be read. A call that says it twice
/// has the shorter one.
#[must_use]
pub fn timeout_ms(headers: &HeaderMap) -> Option<u64> {
    let all = headers.get_all(TIMEOUT);
    all.iter().filter_map(|v| parse(v.as_bytes())).min()
}

fn parse(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => number.saturating_mul(3_600_000),
        b'M' => number.saturating_mul(60_000),
        b'S' => number.saturating_mul(1000),
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn units() {
        for (text, want) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("45m", Some(45)),
            ("1u", Some(1)),
            ("2000001n", Some(3)),
            ("0m", Some(0)),
            ("99999999S", Some(99_999_999_000)),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.append(TIMEOUT, HeaderValue::from_static("5S"));
        headers.append(TIMEOUT, HeaderValue::from_static("70m"));
        assert_eq!(timeout_ms(&headers), Some(70));
    }
}
