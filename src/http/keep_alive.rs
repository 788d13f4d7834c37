//! Whether a connection takes another message, and for how long a server keeps one that nothing moves on.

use http::{HeaderMap, HeaderName, header};

use crate::http::h1::{Framing, RawResponse};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Whether the connection may serve another message (RFC 9112 section 9.3).
#[must_use]
pub fn keeps_alive(headers: &HeaderMap, is_11: bool) -> bool {
    let says = |word: &str| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(word))
    };
    if is_11 {
        !says("close")
    } else {
        says("keep-alive") && !says("close")
    }
}

/// A request that comes when the server is about to end the connection is lost, and one that may not be sent twice is then
/// answered 502: the connection is not used any more when so much of its time is left, in milliseconds.
const MARGIN_MS: u64 = 1000;

/// For how many milliseconds the connection that `head` came on may be used again, after all of its answer; `None`: not at
/// all. `u64::MAX` where the server does not say when it ends it (`Keep-Alive: timeout=SECONDS`, RFC 2068 section 19.7.1.1,
/// as Node.js, Apache and gunicorn send it).
#[must_use]
pub fn kept_ms(head: &RawResponse, framing: Framing) -> Option<u64> {
    if framing == Framing::UntilClose || !keeps_alive(&head.headers, head.is_11) {
        return None;
    }
    let Some(seconds) = timeout_s(&head.headers) else {
        return Some(u64::MAX);
    };
    let left = seconds.saturating_mul(1000).checked_sub(MARGIN_MS);
    left.filter(|left| *left > 0)
}

fn timeout_s(headers: &HeaderMap) -> Option<u64> {
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?.split(',');
    let mut named = parameters.filter_map(|parameter| parameter.split_once('='));
    let (_name, value) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::parse_response;

    fn kept(version: &str, fields: &str, framing: Framing) -> Option<u64> {
        let head = format!("HTTP/{version} 200 OK\r\n{fields}\r\n");
        let Ok(Some((head, _))) = parse_response(head.as_bytes()) else {
            panic!("no head: {head}");
        };
        kept_ms(&head, framing)
    }

    #[test]
    fn a_server_says_when_it_ends_a_connection() {
        for (fields, want) in [
            ("", Some(u64::MAX)),
            ("keep-alive: timeout=5\r\n", Some(4000)),
            ("Keep-Alive: max=3, Timeout = 2 \r\n", Some(1000)),
            ("keep-alive: timeout=1\r\n", None),
            ("keep-alive: timeout=0\r\n", None),
            (
                "keep-alive: timeout=18446744073709551615\r\n",
                Some(u64::MAX - MARGIN_MS),
            ),
            // Nothing that can be read says nothing.
            ("keep-alive: timeout=soon\r\n", Some(u64::MAX)),
            ("keep-alive: 5\r\n", Some(u64::MAX)),
            ("connection: close\r\nkeep-alive: timeout=5\r\n", None),
        ] {
            assert_eq!(kept("1.1", fields, Framing::Empty), want, "{fields}");
        }
        assert_eq!(kept("1.1", "", Framing::UntilClose), None);
        assert_eq!(kept("1.0", "", Framing::Empty), None);
        let said = "connection: keep-alive\r\nkeep-alive: timeout=9\r\n";
        assert_eq!(kept("1.0", said, Framing::Empty), Some(8000));
    }
}
