//! What gRPC says beside HTTP: the deadline of a call (gRPC over HTTP/2, `grpc-timeout`).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// `grpc-timeout`.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `grpc-status`.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The deadline of a call, in milliseconds, rounded up; `None` if it says none that can be read. A call that says it twice
/// has the shorter one.
#[must_use]
pub fn timeout_ms(headers: &HeaderMap) -> Option<u64> {
    let all = headers.get_all(TIMEOUT);
    all.iter().filter_map(|v| parse(v.as_bytes())).min()
}

/// The status that says of an answer how well its server is. A call that failed has 200 all the same, and `grpc-status` in
/// its head where nothing follows (Trailers-Only). `asked`: the header of the request.
#[must_use]
pub fn outcome(status: StatusCode, headers: &HeaderMap, asked: &HeaderMap) -> StatusCode {
    match headers.get(STATUS).map(HeaderValue::as_bytes) {
        // A deadline that its client chose says nothing of the server.
        Some(b"4") if timeout_ms(asked).is_some() => status,
        // UNKNOWN, INTERNAL, DATA_LOSS.
        Some(b"2" | b"13" | b"15") => StatusCode::INTERNAL_SERVER_ERROR,
        Some(b"4") => StatusCode::GATEWAY_TIMEOUT,
        Some(b"14") => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) | None => status,
    }
}

/// The code that an answer says in its head or in its trailers; `None` where it says none that is a number.
#[must_use]
pub fn code(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
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

    #[test]
    fn how_well_a_server_is() {
        for (status, told, want) in [
            (200, None, 200),
            (503, None, 503),
            (200, Some("0"), 200),
            (200, Some("7"), 200),
            (200, Some("13"), 500),
            (200, Some("4"), 504),
            (200, Some("14"), 503),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(told) = told {
                headers.insert(STATUS, HeaderValue::from_static(told));
            }
            let status = StatusCode::from_u16(status).unwrap();
            let asked = HeaderMap::new();
            assert_eq!(outcome(status, &headers, &asked).as_u16(), want, "{told:?}");
        }
    }

    #[test]
    fn a_deadline_of_the_client_is_no_fault_of_the_server() {
        let mut asked = HeaderMap::new();
        asked.insert(TIMEOUT, HeaderValue::from_static("1n"));
        for (told, want) in [("4", 200), ("14", 503)] {
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, HeaderValue::from_static(told));
            let outcome = outcome(StatusCode::OK, &headers, &asked);
            assert_eq!(outcome.as_u16(), want, "{told}");
        }
    }
    use http::HeaderValue;

    #[test]
    fn codes() {
        for (text, want) in [("0", Some(0)), ("16", Some(16)), ("-1", None), ("x", None)] {
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, HeaderValue::from_static(text));
            assert_eq!(code(&headers), want, "{text}");
        }
        assert_eq!(code(&HeaderMap::new()), None);
    }

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
