//! `Upgrade` on HTTP/1.1 (RFC 9110 section 7.8): which requests ask for a WebSocket (RFC 6455 section 4), and which
//! answers agree to one. No other protocol is switched to: its `Upgrade` goes no further than this hop.

use http::{HeaderMap, Method, StatusCode, header};

use crate::http::h1::{Framing, RawRequest, RawResponse};

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
        && says_upgrade(&head.headers)
        && names_websocket(&head.headers)
        && once(&head.headers, header::SEC_WEBSOCKET_KEY)
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
}
