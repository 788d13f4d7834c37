//! Connections of requests: what a peer sends means the same in any pieces, no request with what a header cannot hold is
//! told, content is as long as it was announced, and what we send back is the same, too, and made of whole frames.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ringgate::h2::frame::PREFACE;
use ringgate::h2::message::Request;
use ringgate::h2::{Event, RequestHead, Requests, Session, Settings, Side};

use super::connection::{Came, drive, same_in_pieces};

const SETTINGS: Settings = Settings {
    side: Side::Server,
    window: 65_536,
    connection_window: 1 << 20,
    max_frame: 16_384,
    header_list: 65_536,
    max_streams: 100,
    charged: 8192,
    advance: 1 << 20,
    extended_connect: true,
    early_reset_ms: 1000,
};

/// Frames of a client behind its preface, and the same bytes as a server's.
pub fn run(data: &[u8]) {
    let begun = [PREFACE, data].concat();
    same_in_pieces("server", |pieces| {
        let session = Session::<Requests>::new(SETTINGS);
        let mut lengths = BTreeMap::new();
        drive(session, &begun, pieces, |session, event, came| {
            whole_content(event, &mut lengths, came);
            if let Event::Request { id, head, .. } = event {
                check(head);
                session.take(*id);
                session.respond_interim(*id, StatusCode::EARLY_HINTS, &HeaderMap::new());
                session.respond(*id, StatusCode::OK, &head.headers, false);
                session.data_head(*id, 10, false);
            }
        })
    });
    same_in_pieces("client", |pieces| {
        let mut session = Session::<Requests>::new(Settings {
            side: Side::Client,
            ..SETTINGS
        });
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let request = Request {
                method: &method,
                scheme: "https",
                authority: "a:1",
                path: "/",
                protocol: None,
                fields: std::iter::empty::<(&HeaderName, &HeaderValue)>(),
                length: None,
            };
            session
                .open(request, method == Method::GET)
                .expect("a new connection takes streams");
        }
        drive(session, data, pieces, |_, _, _| {})
    });
}

/// Content that ends is as long as it was announced.
fn whole_content(event: &Event<Requests>, lengths: &mut BTreeMap<u32, u64>, came: &Came) {
    match event {
        Event::Request { id, head, .. } => {
            let length = head.headers.get("content-length");
            let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
            lengths.extend(length.map(|length| (*id, length)));
        }
        Event::End { id } => {
            let got = came.payloads.get(id).map_or(0, Vec::len);
            if let Some(length) = lengths.get(id) {
                assert_eq!(u64::try_from(got).ok(), Some(*length));
            }
        }
        Event::Data { .. }
        | Event::Malformed { .. }
        | Event::Interim { .. }
        | Event::Response { .. }
        | Event::Trailers { .. }
        | Event::Reset { .. }
        | Event::Room { .. }
        | Event::Pong
        | Event::GoAway { .. } => {}
    }
}

fn check(head: &RequestHead) {
    let texts = [&head.authority, &head.path, &head.protocol];
    let values = texts.into_iter().flatten().chain(head.headers.values());
    for value in values {
        assert!(!value.as_bytes().iter().any(|b| b"\r\n\0".contains(b)));
        assert_eq!(value.as_bytes().trim_ascii(), value.as_bytes());
    }
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
        assert!(!head.headers.contains_key(name));
    }
    assert!(head.oversized || head.method == Method::CONNECT || head.path.is_some());
}
