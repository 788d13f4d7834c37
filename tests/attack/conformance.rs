//! HTTP/2 by the standards: each rule of RFC 9113 and RFC 7541 that a peer can break, frame by frame, with the error that
//! they ask for and its scope.

use std::time::Duration;

use crate::client::{Conn, client, stolen};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, field, frame, get, read,
};
use crate::system::System;

crate::both!(framing, streams, settings, heads, windows, floods_are_told);

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    /// An answer on stream 1, by the first byte of its block.
    Answer(u8),
    /// The stream is reset.
    Stream(u32),
    /// The connection is ended.
    Connection(u32),
    /// It is ended without a word.
    End,
}

const OK: Came = Came::Answer(0x88);

fn open(system: &System) -> Conn {
    let conn = Conn::plain(&system.layout.at(13, 8443));
    let config = client(&["h2"], Some(stolen(system, "frontend-service")));
    conn.tls(config, "customer-api").unwrap()
}

fn word(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// The first thing that is an answer or an error.
fn came(conn: &mut Conn) -> Came {
    while let Some((kind, _, _, payload)) = read(conn) {
        match kind {
            HEADERS => return Came::Answer(payload[0]),
            RST_STREAM => return Came::Stream(word(&payload)),
            GOAWAY => return Came::Connection(word(&payload[4..])),
            _ => {}
        }
    }
    Came::End
}

/// Sends frames behind a preface.
fn sent(system: &System, frames: &[Vec<u8>]) -> Conn {
    let mut conn = open(system);
    conn.send(&[PREFACE, &frames.concat()].concat());
    conn
}

type Case = (&'static str, Vec<Vec<u8>>, Came);

fn check(system: &System, cases: Vec<Case>) {
    for (what, frames, want) in cases {
        let mut conn = sent(system, &frames);
        let got = came(&mut conn);
        assert_eq!(got, want, "{what}");
        if matches!(want, Came::Connection(_)) {
            assert!(conn.is_over(), "{what}: it stays open");
        }
    }
    system.customer.take();
    system.victim_is_served();
}

/// A whole request on a stream.
fn ask(id: u32) -> Vec<u8> {
    let whole = END_HEADERS | END_STREAM;
    frame(HEADERS, whole, id, &get("customer-api", "/h2"))
}

/// A request whose content is still to come.
fn post(id: u32) -> Vec<u8> {
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"customer-api"),
        (b":path", b"/h2"),
    ];
    frame(HEADERS, END_HEADERS, id, &block(&fields))
}

fn framing(system: &System) {
    use Came::{Connection, Stream};
    let mut conn = open(system);
    conn.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(came(&mut conn), Connection(PROTOCOL_ERROR), "no preface");
    let mut conn = open(system);
    conn.send(&[&PREFACE[..24], &frame(PING, 0, 0, &[0; 8])].concat());
    assert_eq!(came(&mut conn), Connection(PROTOCOL_ERROR), "no SETTINGS");
    let half = get("customer-api", "/h2");
    let (one, two) = half.split_at(half.len() / 2);
    let padded = [&[3][..], &half, &[0; 3]].concat();
    let priority = [&[0, 0, 0, 0, 9][..], &half].concat();
    let whole = END_HEADERS | END_STREAM;
    let long = vec![0; 16_385];
    let mut reserved = ask(1);
    reserved[5] |= 0x80;
    check(
        system,
        vec![
            (
                "a type that nobody knows",
                vec![frame(0xee, 0xff, 1, b"x"), ask(1)],
                OK,
            ),
            (
                "flags that nobody knows",
                vec![frame(HEADERS, whole | 0x52, 1, &half)],
                OK,
            ),
            ("the reserved bit", vec![reserved], OK),
            (
                "padding",
                vec![frame(HEADERS, whole | PADDED, 1, &padded)],
                OK,
            ),
            (
                "a priority",
                vec![frame(HEADERS, whole | WITH_PRIORITY, 1, &priority)],
                OK,
            ),
            ("PRIORITY", vec![frame(PRIORITY, 0, 3, &[0; 5]), ask(1)], OK),
            (
                "a block in pieces",
                vec![
                    frame(HEADERS, END_STREAM, 1, one),
                    frame(CONTINUATION, 0, 1, b""),
                    frame(CONTINUATION, END_HEADERS, 1, two),
                ],
                OK,
            ),
            (
                "DATA beyond the longest frame",
                vec![post(1), frame(DATA, 0, 1, &long)],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "HEADERS beyond it",
                vec![frame(HEADERS, END_HEADERS, 1, &long)],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "a block that is interrupted",
                vec![frame(HEADERS, 0, 1, one), frame(PRIORITY, 0, 1, &[0; 5])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "by an unknown type",
                vec![frame(HEADERS, 0, 1, one), frame(0xee, 0, 1, b"")],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "by another stream",
                vec![
                    frame(HEADERS, 0, 1, one),
                    frame(CONTINUATION, END_HEADERS, 3, two),
                ],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION alone",
                vec![frame(CONTINUATION, END_HEADERS, 1, one)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION behind the end",
                vec![post(1), frame(CONTINUATION, END_HEADERS, 1, one)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "DATA on the connection",
                vec![frame(DATA, 0, 0, b"x")],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "HEADERS on it",
                vec![frame(HEADERS, whole, 0, &half)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "PRIORITY on it",
                vec![frame(PRIORITY, 0, 0, &[0; 5])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "RST_STREAM on it",
                vec![frame(RST_STREAM, 0, 0, &[0; 4])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "SETTINGS on a stream",
                vec![frame(SETTINGS, 0, 1, b"")],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "PING on a stream",
                vec![frame(PING, 0, 1, &[0; 8])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "GOAWAY on a stream",
                vec![frame(GOAWAY, 0, 1, &[0; 8])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "PUSH_PROMISE",
                vec![post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 8])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "a short PING",
                vec![frame(PING, 0, 0, &[0; 7])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "a short GOAWAY",
                vec![frame(GOAWAY, 0, 0, &[0; 7])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "a short RST_STREAM",
                vec![post(1), frame(RST_STREAM, 0, 1, &[0; 3])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "a short PRIORITY",
                vec![frame(PRIORITY, 0, 1, &[0; 4])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "a short WINDOW_UPDATE",
                vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "padding beyond DATA",
                vec![post(1), frame(DATA, PADDED, 1, &[5, 0, 0])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "padding beyond HEADERS",
                vec![frame(HEADERS, whole | PADDED, 1, &[9, 0, 0])],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "padded DATA of nothing",
                vec![post(1), frame(DATA, PADDED, 1, b"")],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "an error code that nobody knows",
                vec![post(3), frame(RST_STREAM, 0, 3, &[0xff; 4]), ask(5)],
                OK,
            ),
            (
                "a head that is none",
                vec![frame(HEADERS, whole, 1, &block(&[(b"x", b"y")]))],
                Stream(PROTOCOL_ERROR),
            ),
        ],
    );
    // A PING is answered with its own payload, an answer to none is not.
    let mut conn = sent(
        system,
        &[
            frame(PING, ACK, 0, b"no reply"),
            frame(PING, 0, 0, b"my bytes"),
        ],
    );
    loop {
        let (kind, flags, _, payload) = read(&mut conn).expect("a PING");
        if kind == PING {
            assert_eq!((flags, &payload[..]), (ACK, &b"my bytes"[..]));
            break;
        }
    }
}

fn streams(system: &System) {
    use Came::{Connection, Stream};
    let trailer = |id| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            id,
            &block(&[(b"x", b"y")]),
        )
    };
    let rst = |id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
    let data = |id| frame(DATA, 0, id, b"x");
    check(
        system,
        vec![
            (
                "DATA on an idle stream",
                vec![data(1)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "RST_STREAM on one",
                vec![rst(1)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "WINDOW_UPDATE on one",
                vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0])],
                Connection(PROTOCOL_ERROR),
            ),
            ("an even stream", vec![ask(2)], Connection(PROTOCOL_ERROR)),
            (
                "a stream below the last",
                vec![post(5), ask(3)],
                Connection(STREAM_CLOSED),
            ),
            (
                "DATA behind the end",
                vec![post(1), frame(DATA, END_STREAM, 1, b""), data(1)],
                Stream(STREAM_CLOSED),
            ),
            (
                "a head behind the end",
                vec![post(1), frame(DATA, END_STREAM, 1, b""), trailer(1)],
                Stream(STREAM_CLOSED),
            ),
            (
                "a second head",
                vec![post(1), post(1)],
                Stream(PROTOCOL_ERROR),
            ),
            (
                "an error is the stream's own",
                vec![post(1), rst(1), ask(3)],
                OK,
            ),
        ],
    );
    // What belongs to a stream that is reset may still be under way; it costs nothing else.
    let mut conn = sent(system, &[post(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]);
    assert_eq!(came(&mut conn), Stream(PROTOCOL_ERROR));
    conn.send(&[data(1), trailer(1), ask(3)].concat());
    assert_eq!(came(&mut conn), OK);
    // More streams than were allowed are refused, and can be made again; the others go on.
    let mut conn = open(system);
    conn.send(PREFACE);
    let most = loop {
        let (kind, flags, _, payload) = read(&mut conn).expect("SETTINGS");
        if kind == SETTINGS && flags == 0 {
            let found = payload.chunks(6).find(|one| one[..2] == [0, 3]);
            break word(&found.expect("a limit of streams")[2..]);
        }
    };
    let many: Vec<u8> = (0..=most).flat_map(|n| post(n * 2 + 1)).collect();
    conn.send(&many);
    assert_eq!(came(&mut conn), Stream(REFUSED_STREAM));
    conn.send(&frame(DATA, END_STREAM, 1, b"x"));
    assert_eq!(came(&mut conn), OK);
    system.customer.take();
}

fn settings(system: &System) {
    use Came::Connection;
    let one = |id: u8, value: u32| {
        let value = value.to_be_bytes();
        frame(SETTINGS, 0, 0, &[&[0, id][..], &value].concat())
    };
    let (max, window) = (5, 4);
    check(
        system,
        vec![
            ("a setting that nobody knows", vec![one(99, 1), ask(1)], OK),
            ("no table", vec![one(1, 0), ask(1)], Came::Answer(0x20)),
            ("a push", vec![one(2, 1), ask(1)], OK),
            ("a push of two", vec![one(2, 2)], Connection(PROTOCOL_ERROR)),
            (
                "too wide a window",
                vec![one(window, 1 << 31)],
                Connection(FLOW_CONTROL_ERROR),
            ),
            (
                "frames below the least",
                vec![one(max, 16_383)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "frames beyond the longest",
                vec![one(max, 1 << 24)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "ACK with settings",
                vec![frame(SETTINGS, ACK, 0, &[0; 6])],
                Connection(FRAME_SIZE_ERROR),
            ),
            (
                "half a setting",
                vec![frame(SETTINGS, 0, 0, &[0; 5])],
                Connection(FRAME_SIZE_ERROR),
            ),
        ],
    );
    let mut conn = sent(system, &[one(99, 1)]);
    let mut acks = 0;
    while acks < 2 {
        let (kind, flags, _, payload) = read(&mut conn).expect("an ACK of each");
        if kind == SETTINGS && flags == ACK {
            assert!(payload.is_empty());
            acks += 1;
        }
    }
}

fn heads(system: &System) {
    use Came::{Connection, Stream};
    let whole = END_HEADERS | END_STREAM;
    let good = get("customer-api", "/h2");
    let with = |more: &[u8]| vec![frame(HEADERS, whole, 1, &[&good[..], more].concat())];
    let before = |first: &[u8]| vec![frame(HEADERS, whole, 1, &[first, &good].concat())];
    let fields = |fields: &[(&[u8], &[u8])]| {
        let mut more = Vec::new();
        fields.iter().for_each(|(n, v)| field(&mut more, n, v));
        with(&more)
    };
    let table = |size: u8| [0x3f, size, 0x1f];
    check(
        system,
        vec![
            ("a size within the setting", before(&table(0xe1)), OK),
            (
                "a size beyond it",
                before(&table(0xe2)),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "a size behind a field",
                with(&[0x20]),
                Connection(COMPRESSION_ERROR),
            ),
            ("index 0", with(&[0x80]), Connection(COMPRESSION_ERROR)),
            (
                "an index that is in no table",
                with(&[0xbe]),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "an integer without end",
                with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "half a field",
                with(&[0x00, 0x05, b'x']),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "EOS in a string",
                with(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "padding of zeros",
                with(&[0x00, 0x01, b'x', 0x81, 0x00]),
                Connection(COMPRESSION_ERROR),
            ),
            (
                "upper case",
                fields(&[(b"X", b"y")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a name of nothing",
                fields(&[(b"", b"y")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a space in a name",
                fields(&[(b"x y", b"z")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a line break",
                fields(&[(b"x", b"y\r\nz: 1")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a zero byte",
                fields(&[(b"x", b"y\0")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a space before a value",
                fields(&[(b"x", b" y")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a tab behind a value",
                fields(&[(b"x", b"y\t")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "connection",
                fields(&[(b"connection", b"x")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "keep-alive",
                fields(&[(b"keep-alive", b"1")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "proxy-connection",
                fields(&[(b"proxy-connection", b"x")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "transfer-encoding",
                fields(&[(b"transfer-encoding", b"chunked")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "upgrade",
                fields(&[(b"upgrade", b"h2c")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "te",
                fields(&[(b"te", b"trailers, gzip")]),
                Stream(PROTOCOL_ERROR),
            ),
            ("te: trailers", fields(&[(b"te", b"trailers")]), OK),
            (
                "a late pseudo-header",
                fields(&[(b"x", b"y"), (b":path", b"/")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "one of answers",
                fields(&[(b":status", b"200")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "one that nobody knows",
                fields(&[(b":x", b"y")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "one that comes twice",
                fields(&[(b":path", b"/")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "content that does not come",
                fields(&[(b"content-length", b"1")]),
                Stream(PROTOCOL_ERROR),
            ),
            (
                "a pseudo-header in trailers",
                vec![
                    post(1),
                    frame(HEADERS, whole, 1, &block(&[(b":path", b"/admin")])),
                ],
                Stream(PROTOCOL_ERROR),
            ),
        ],
    );
    // One connection carries on behind a malformed head: the tables of both sides still agree.
    let mut first = good.clone();
    field(&mut first, b"X", b"y");
    first.extend_from_slice(b"\x40\x03x-a\x03one");
    let again = [&good[..], &[0xbe]].concat();
    let mut conn = sent(
        system,
        &[
            frame(HEADERS, whole, 1, &first),
            frame(HEADERS, whole, 3, &again),
        ],
    );
    assert_eq!(came(&mut conn), Stream(PROTOCOL_ERROR));
    assert_eq!(came(&mut conn), OK);
    let seen = system.customer.take().pop().unwrap();
    assert_eq!(seen.all("x-a"), ["one"]);
}

fn windows(system: &System) {
    use Came::{Connection, Stream};
    let update = |id, more: u32| frame(WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    let most = (1 << 31) - 1;
    check(
        system,
        vec![
            (
                "an update of nothing",
                vec![update(0, 0)],
                Connection(PROTOCOL_ERROR),
            ),
            (
                "of a stream",
                vec![post(1), update(1, 0)],
                Stream(PROTOCOL_ERROR),
            ),
            (
                "too wide a window",
                vec![update(0, most)],
                Connection(FLOW_CONTROL_ERROR),
            ),
            (
                "of a stream",
                vec![post(1), update(1, most)],
                Stream(FLOW_CONTROL_ERROR),
            ),
            (
                "by a setting",
                vec![
                    post(1),
                    update(1, 1 << 30),
                    frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
                ],
                Connection(FLOW_CONTROL_ERROR),
            ),
            ("the reserved bit", vec![update(0, 1 << 31 | 5), ask(1)], OK),
        ],
    );
    // Content goes out as far as the window lets it, byte for byte.
    let narrow = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
    let denied = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &get("customer-api", "/admin"),
    );
    let mut conn = sent(system, &[narrow, denied]);
    let mut body = Vec::new();
    loop {
        let (kind, flags, _, payload) = read(&mut conn).expect("a frame");
        if kind != DATA {
            continue;
        }
        assert_eq!(payload.len(), 1);
        body.extend_from_slice(&payload);
        if flags & END_STREAM != 0 {
            break;
        }
        conn.send(&update(1, 1));
    }
    assert_eq!(body, b"RBAC: access denied");
}

/// Whoever is cut off is told why, and so is the operator.
fn floods_are_told(system: &System) {
    let calm = |what: &str, first: &[u8], piece: &mut dyn FnMut(u32) -> Vec<u8>| {
        let before = system.records().len();
        let mut conn = open(system);
        conn.send(&[PREFACE, first].concat());
        conn.patience(Duration::from_secs(5));
        let mut n = 0;
        let mut batch = || {
            let all: Vec<Vec<u8>> = (0..200)
                .map(|_| {
                    n += 1;
                    piece(n)
                })
                .collect();
            all.concat()
        };
        let mut sends = 0;
        while conn.send(&batch()) {
            sends += 1;
            assert!(sends < 5000, "{what} is taken without end");
        }
        let told = system.within(Duration::from_secs(10), || {
            system.records()[before..].iter().any(|record| {
                let detail = record["reason"].as_str().unwrap_or_default();
                record["close"] == "limit" && detail.contains("ENHANCE_YOUR_CALM")
            })
        });
        assert!(told, "{what}: {:?}", system.records().split_off(before));
        system.victim_is_served();
        system.customer.take();
    };
    calm("PING", b"", &mut |_| frame(PING, 0, 0, &[0; 8]));
    calm("SETTINGS", b"", &mut |_| frame(SETTINGS, 0, 0, b""));
    calm("PRIORITY", b"", &mut |_| frame(PRIORITY, 0, 1, &[0; 5]));
    calm("WINDOW_UPDATE", b"", &mut |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    });
    calm("empty DATA", &post(1), &mut |_| frame(DATA, 0, 1, b""));
    let head = frame(HEADERS, 0, 1, b"");
    calm("CONTINUATION", &head, &mut |_| {
        frame(CONTINUATION, 0, 1, b"")
    });
    // CVE-2023-44487.
    calm("rapid reset", b"", &mut |n| {
        let id = n * 2 - 1;
        [ask(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    });
    // The same, paid for with a byte of content at a time.
    calm("rapid reset beside content", &post(1), &mut |n| {
        let id = n * 2 + 1;
        let reset = [ask(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
        [frame(DATA, 0, 1, b"x").repeat(20), reset].concat()
    });
    // CVE-2025-8671: we are made to reset.
    calm("made to reset", b"", &mut |n| {
        let id = n * 2 - 1;
        [ask(id), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
    });
    calm("malformed heads", b"", &mut |n| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            n * 2 - 1,
            &block(&[(b"x", b"y")]),
        )
    });
}
