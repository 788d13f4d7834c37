//! `Upgrade` on HTTP/1.1 (RFC 9110 section 7.8): which requests ask for a WebSocket (RFC 6455 section 4), and which
//! answers agree to one. No other protocol is switched to: its `Upgrade` goes no further than this hop. Extended CONNECT
//! (RFC 8441) asks for the same over HTTP/2, and becomes such a request.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use thiserror::Error;

use crate::http::h1::{Framing, RawRequest, RawResponse};
use crate::http::marks::Marks;

/// The only value that both sides may say.
pub const WEBSOCKET: &str = "websocket";

fn says_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(header::UPGRADE).iter();
    let first = all.next();
    first.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
        && all.next().is_none()
}

fn once(headers: &HeaderMap, name: header::HeaderName) -> bool {
    headers.get_all(name).iter().count() == 1
}

/// Whether a request asks for a WebSocket. One with a body, of another method, of HTTP/1.0 or with a second protocol in
/// `Upgrade` does not: it is served as if it had not asked.
#[must_use]
pub fn asks(head: &RawRequest, framing: Framing) -> bool {
    head.is_11
        && head.method == Method::GET
        && framing == Framing::Empty
        && head.marks().has(Marks::CONNECTION)
        && says_upgrade(head.headers())
        && names_websocket(head.headers())
        && once(head.headers(), header::SEC_WEBSOCKET_KEY)
}

/// Says of a request that it asks for a WebSocket, to those that judge it: policies, logins, authorizers. Any other `Upgrade` is
/// gone with the fields of the hop, and this one goes no further either.
pub fn mark(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Whether an answer with status 101 is the one to such a request. One that also frames a body is not (RFC 9110 section
/// 15.2.2, RFC 9112 section 6).
#[must_use]
pub fn agrees(head: &RawResponse) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
        && head.is_11
        && says_upgrade(&head.headers)
        && names_websocket(&head.headers)
        && once(&head.headers, header::SEC_WEBSOCKET_ACCEPT)
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
}

/// Why an extended CONNECT is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotServed {
    /// `:protocol` is not `websocket`.
    #[error("extended CONNECT for another protocol than websocket")]
    Protocol,
    /// What follows the head is no content, whose length could be said.
    #[error("extended CONNECT with content-length")]
    Length,
}

/// What the server hashes behind the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    HeaderValue::try_from(STANDARD.encode(hash.finish())).ok()
}

/// Makes the fields of an extended CONNECT those of a request for a WebSocket over HTTP/1.1, but for what is of the hop:
/// over HTTP/2 nobody sends a key (RFC 8441 section 5), and one that was sent all the same is not taken. What comes back
/// is the one `Sec-WebSocket-Accept` that answers it.
///
/// # Errors
/// `NotServed`.
pub fn extended(
    protocol: &HeaderValue,
    headers: &mut HeaderMap,
    random: [u8; 16],
) -> Result<HeaderValue, NotServed> {
    if !protocol
        .as_bytes()
        .eq_ignore_ascii_case(WEBSOCKET.as_bytes())
    {
        return Err(NotServed::Protocol);
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(NotServed::Length);
    }
    let key = HeaderValue::try_from(STANDARD.encode(random)).ok();
    let (key, accept) = key
        .and_then(|key| accept(&key).map(|accept| (key, accept)))
        .ok_or(NotServed::Protocol)?;
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    Ok(accept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::{parse_request, parse_response, request_framing};

    fn asked(text: &str) -> bool {
        let text = format!("{text}\r\n\r\n");
        let (head, _) = parse_request(text.as_bytes()).unwrap().unwrap();
        let framing = request_framing(&head).unwrap();
        asks(&head, framing)
    }

    #[test]
    fn only_a_websocket_is_asked_for() {
        let good = "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-key: x";
        assert!(asked(good));
        for (from, to) in [
            ("GET /", "POST /"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Upgrade\r\n", "close\r\n"),
            ("WebSocket", "h2c"),
            ("WebSocket", "websocket, h2c"),
            ("upgrade: WebSocket", "upgrade: websocket\r\nupgrade: h2c"),
            ("WebSocket", "websocket/13"),
            ("sec-websocket-key: x", "x: y"),
            ("x: ", "x: y\r\nsec-websocket-key: "),
            ("host: a", "host: a\r\ncontent-length: 1"),
            ("host: a", "host: a\r\ntransfer-encoding: chunked"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(text == good || !asked(&text), "{text}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_agreed_to() {
        let agreed = |text: &str| {
            let text = format!("{text}\r\n\r\n");
            agrees(&parse_response(text.as_bytes()).unwrap().unwrap().0)
        };
        let good = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x";
        assert!(agreed(good));
        for (from, to) in [
            ("101", "200"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("connection: upgrade", "connection: close"),
            ("websocket\r\n", "h2c\r\n"),
            ("sec-websocket-accept", "x"),
            ("sec-", "content-length: 0\r\nsec-"),
            ("sec-", "transfer-encoding: chunked\r\nsec-"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(text != good && !agreed(&text), "{text}");
        }
    }

    #[test]
    fn keys_are_answered_as_the_standard_has_it() {
        // RFC 6455 section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let accepted = accept(&key).unwrap();
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("theirs"),
        );
        let websocket = HeaderValue::from_static("WebSocket");
        let accepted = extended(&websocket, &mut headers, *b"the sample nonce").unwrap();
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers[header::SEC_WEBSOCKET_KEY], key);
        for other in ["h2c", "websocket ", "connect-udp", ""] {
            let other = HeaderValue::from_static(other);
            let refused = extended(&other, &mut headers, [0; 16]);
            assert_eq!(refused, Err(NotServed::Protocol));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let refused = extended(&websocket, &mut headers, [0; 16]);
        assert_eq!(refused, Err(NotServed::Length));
    }
}
