//! What requests need of a session, frame by frame; what tunnels need as well is tested with them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::*;
use crate::h2::message::{Request, Requests};

const SERVER: Settings = Settings {
    side: Side::Server,
    window: limits::H2_EDGE_STREAM_WINDOW_BYTES,
    connection_window: limits::H2_EDGE_CONNECTION_WINDOW_BYTES,
    max_frame: limits::H2_FRAME_BYTES,
    header_list: 65_536,
    max_streams: limits::H2_EDGE_STREAMS,
    charged: limits::H2_EDGE_CHARGED_BYTES,
    advance: limits::H2_EDGE_ADVANCE_BYTES,
    extended_connect: true,
    early_reset_ms: limits::H2_EARLY_RESET_MS,
};
const CLIENT: Settings = Settings {
    side: Side::Client,
    max_streams: 0,
    ..SERVER
};

type Told = Event<Requests>;

/// A session with what it told.
struct Tested {
    session: Session<Requests>,
    events: Vec<Told>,
    now_ms: u64,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, flags, stream, payload);
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        hpack::put(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

const END: u8 = flag::END_STREAM;

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let flags = flags | flag::END_HEADERS;
    frame(kind::HEADERS, flags, stream, &block(fields))
}

fn request(stream: u32, flags: u8, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/"),
    ];
    headers(stream, flags, &[&head[..], more].concat())
}

fn data(stream: u32, flags: u8, bytes: usize) -> Vec<u8> {
    frame(kind::DATA, flags, stream, &vec![b'd'; bytes])
}

impl Tested {
    fn begun(own: Settings) -> Self {
        let mut tested = Self {
            session: Session::new(own),
            events: Vec::new(),
            now_ms: 1,
        };
        if own.side == Side::Server {
            tested.take(PREFACE);
        }
        tested.take(&frame(kind::SETTINGS, 0, 0, &[]));
        tested.session.sent();
        tested
    }

    fn try_take(&mut self, input: &[u8]) -> Result<(), ConnectionError> {
        let events = &mut self.events;
        self.session
            .receive(self.now_ms, input, &mut |event| events.push(event))
    }

    fn take(&mut self, input: &[u8]) {
        self.try_take(input).unwrap();
    }

    /// What was told since the last time, in short.
    fn told(&mut self) -> Vec<String> {
        let short = |event: &Told| match event {
            Event::Request { id, end, .. } => format!("request {id} {end}"),
            Event::Malformed { id, why } => format!("malformed {id}: {why}"),
            Event::Interim { id, head } => format!("interim {id} {}", head.status.as_u16()),
            Event::Response { id, head } => format!("response {id} {}", head.status.as_u16()),
            Event::Trailers { id, fields } => format!("trailers {id} {}", fields.len()),
            Event::Data { id, range } => format!("data {id} {}", range.len()),
            Event::End { id } => format!("end {id}"),
            Event::Reset { id, code, ours } => format!("reset {id} {code} {ours}"),
            Event::Room { id } => format!("room {id}"),
            Event::Pong => "pong".to_owned(),
            Event::GoAway { last, code } => format!("goaway {last} {code}"),
        };
        self.events.drain(..).map(|event| short(&event)).collect()
    }

    fn open(&mut self, method: &Method, end: bool) -> u32 {
        let none = std::iter::empty::<(&HeaderName, &HeaderValue)>();
        let request = Request {
            method,
            scheme: "http",
            authority: "a",
            path: "/",
            protocol: None,
            fields: none,
            length: None,
        };
        self.session.open(request, end).unwrap()
    }

    /// The kinds of the frames that were sent since the last time.
    fn sent(&mut self) -> Vec<u8> {
        let mut rest = self.session.output();
        let mut kinds = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            let head = FrameHead::parse(*head);
            kinds.push(head.kind);
            rest = &after[head.len as usize..];
        }
        self.session.sent();
        kinds
    }
}

/// What a client sends to a new server, and what is told of it.
fn check(input: &[Vec<u8>], want: &[&str]) {
    let mut server = Tested::begun(SERVER);
    server.take(&input.concat());
    assert_eq!(server.told(), want);
}

#[test]
fn requests_with_content_and_trailers() {
    check(&[request(1, END, "GET", &[])], &["request 1 true"]);
    let length = [("content-length", "5")];
    check(
        &[
            request(1, 0, "POST", &length),
            data(1, 0, 2),
            data(1, END, 3),
        ],
        &["request 1 false", "data 1 2", "data 1 3", "end 1"],
    );
    check(
        &[
            request(1, 0, "POST", &length),
            data(1, 0, 5),
            headers(1, END, &[("x", "y")]),
        ],
        &["request 1 false", "data 1 5", "trailers 1 1", "end 1"],
    );
}

#[test]
fn content_is_as_long_as_announced() {
    let length = [("content-length", "5")];
    let begun = "request 1 false";
    let broken = "reset 1 PROTOCOL_ERROR true";
    check(
        &[request(1, END, "POST", &length)],
        &["malformed 1: content-length is not that of the content"],
    );
    check(
        &[request(1, 0, "POST", &length), data(1, END, 4)],
        &[begun, "data 1 4", broken],
    );
    check(
        &[request(1, 0, "POST", &length), data(1, 0, 6)],
        &[begun, broken],
    );
    check(
        &[
            request(1, 0, "POST", &length),
            data(1, 0, 3),
            data(1, END, 3),
        ],
        &[begun, "data 1 3", broken],
    );
    check(
        &[
            request(1, 0, "POST", &length),
            headers(1, END, &[("x", "y")]),
        ],
        &[begun, broken],
    );
}

/// What fits of a frame that is too long would be taken for the whole content.
#[test]
fn nothing_is_told_of_a_frame_beyond_the_announced_length() {
    let length = [("content-length", "5")];
    let padded = frame(kind::DATA, flag::PADDED, 1, b"\x02dddddd\0\0");
    for beyond in [data(1, 0, 6), padded] {
        let next = request(3, END, "GET", &[]);
        let input = [request(1, 0, "POST", &length), beyond, next].concat();
        for pieces in [1, 7, usize::MAX] {
            let mut server = Tested::begun(SERVER);
            for piece in input.chunks(pieces) {
                server.take(piece);
            }
            let want = [
                "request 1 false",
                "reset 1 PROTOCOL_ERROR true",
                "request 3 true",
            ];
            assert_eq!(server.told(), want, "pieces of {pieces}");
        }
    }
}

#[test]
fn trailers_are_the_end_and_have_no_pseudo_fields() {
    let begun = "request 1 false";
    let broken = "reset 1 PROTOCOL_ERROR true";
    for second in [
        headers(1, 0, &[("x", "y")]),
        headers(1, END, &[(":path", "/admin")]),
        headers(1, END, &[("X", "y")]),
        headers(1, END, &[("connection", "x")]),
    ] {
        check(&[request(1, 0, "POST", &[]), second], &[begun, broken]);
    }
    // Nothing but DATA follows CONNECT (RFC 9113 section 8.5).
    let connect = headers(1, 0, &[(":method", "CONNECT"), (":authority", "a:1")]);
    check(&[connect, headers(1, END, &[("x", "y")])], &[begun, broken]);
}

#[test]
fn an_answer_with_all_that_belongs_to_it() {
    let mut server = Tested::begun(SERVER);
    server.take(&request(1, END, "GET", &[]));
    let none = HeaderMap::new();
    let session = &mut server.session;
    assert!(!session.send_trailers(1, &none), "not before the answer");
    assert!(!session.respond_interim(1, StatusCode::SWITCHING_PROTOCOLS, &none));
    assert!(!session.respond_interim(1, StatusCode::OK, &none));
    assert!(session.respond_interim(1, StatusCode::EARLY_HINTS, &none));
    assert!(session.respond(1, StatusCode::OK, &none, false));
    assert!(!session.respond_interim(1, StatusCode::EARLY_HINTS, &none));
    assert!(!session.respond(1, StatusCode::OK, &none, false), "once");
    assert!(session.data_head(1, 3, false).is_some());
    assert!(session.send_trailers(1, &none));
    assert!(session.data_head(1, 3, false).is_none());
    assert!(!session.send_trailers(1, &none));
    assert_eq!(session.open_streams(), 0);
    assert_eq!(server.sent(), [kind::HEADERS; 3]);
    server.session.forget(1);
    assert!(server.sent().is_empty());
}

/// What a server sends to the request of a client, and what is told of it.
fn answered(method: &Method, input: &[Vec<u8>], want: &[&str]) {
    let mut client = Tested::begun(CLIENT);
    assert_eq!(client.open(method, true), 1);
    client.take(&input.concat());
    assert_eq!(client.told(), want);
}

#[test]
fn answers() {
    let ok = [(":status", "200"), ("content-length", "3")];
    let response = "response 1 200";
    let broken = "reset 1 PROTOCOL_ERROR true";
    answered(
        &Method::GET,
        &[
            headers(1, 0, &[(":status", "103"), ("link", "x")]),
            headers(1, 0, &ok),
            data(1, 0, 3),
            headers(1, END, &[("grpc-status", "0")]),
        ],
        &[
            "interim 1 103",
            response,
            "data 1 3",
            "trailers 1 1",
            "end 1",
        ],
    );
    answered(
        &Method::GET,
        &[headers(1, 0, &ok), data(1, END, 2)],
        &[response, "data 1 2", broken],
    );
    answered(&Method::GET, &[headers(1, END, &ok)], &[broken]);
    // What has no content says how much another answer would have.
    answered(&Method::HEAD, &[headers(1, END, &ok)], &[response, "end 1"]);
    answered(
        &Method::HEAD,
        &[headers(1, 0, &ok), data(1, END, 3)],
        &[response, broken],
    );
    let unchanged = [(":status", "304"), ("content-length", "3")];
    answered(
        &Method::GET,
        &[headers(1, END, &unchanged)],
        &["response 1 304", "end 1"],
    );
    answered(
        &Method::GET,
        &[headers(1, 0, &[(":status", "204")]), data(1, END, 1)],
        &["response 1 204", broken],
    );
    for wrong in [
        data(1, END, 3),
        headers(1, 0, &[(":status", "101")]),
        headers(1, END, &[(":status", "103")]),
        headers(1, 0, &[(":status", "200"), (":path", "/")]),
        headers(1, 0, &[("x", "y")]),
        headers(1, 0, &[(":status", "2000")]),
    ] {
        answered(&Method::GET, &[wrong], &[broken]);
    }
}

#[test]
fn a_request_that_nobody_has_looked_at_may_be_made_again() {
    let mut client = Tested::begun(CLIENT);
    let (one, two) = (
        client.open(&Method::GET, true),
        client.open(&Method::GET, true),
    );
    let mut goaway = one.to_be_bytes().to_vec();
    goaway.extend_from_slice(&0_u32.to_be_bytes());
    client.take(&frame(kind::GOAWAY, 0, 0, &goaway));
    let refused = format!("reset {two} REFUSED_STREAM false");
    assert_eq!(client.told(), ["goaway 1 NO_ERROR", &refused]);
    assert!(client.session.is_going());
    client.take(&headers(one, END, &[(":status", "200")]));
    assert_eq!(client.told(), ["response 1 200", "end 1"]);
    assert!(client.session.is_finished());
}

#[test]
fn extended_connect_is_offered_and_read() {
    let server = Session::<Requests>::new(SERVER);
    let offered = [0, 8, 0, 0, 0, 1];
    assert!(server.output().windows(6).any(|w| w == offered));
    let mut client = Tested::begun(CLIENT);
    assert!(!client.session.takes_extended_connect());
    client.take(&frame(kind::SETTINGS, 0, 0, &offered));
    assert!(client.session.takes_extended_connect());
    let back = frame(kind::SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 0]);
    assert_eq!(
        client.try_take(&back).unwrap_err().code,
        Code::PROTOCOL_ERROR
    );
}

#[test]
fn a_stream_given_up_at_once_costs_more_than_one_that_ran() {
    let rst = |id| frame(kind::RST_STREAM, 0, id, &Code::CANCEL.0.to_be_bytes());
    let run = |before_ms: u64, answer: bool| {
        let mut server = Tested::begun(SERVER);
        for n in 0..2000_u32 {
            let id = n * 2 + 1;
            if server.try_take(&request(id, END, "GET", &[])).is_err() {
                return n;
            }
            server.session.take(id);
            if answer {
                server
                    .session
                    .respond(id, StatusCode::OK, &HeaderMap::new(), false);
            }
            server.now_ms += before_ms;
            if server.try_take(&rst(id)).is_err() {
                return n;
            }
            server.session.forget(id);
        }
        2000
    };
    let most = limits::H2_IDLE_FRAMES / limits::H2_RESET_COST;
    assert!((most - 5..most + 5).contains(&run(0, false)));
    assert_eq!(run(0, true), 2000);
    assert_eq!(run(limits::H2_EARLY_RESET_MS, false), 2000);
}

#[test]
fn bytes_do_not_pay_for_resets_and_answers_do() {
    let run = |answered: bool| {
        let mut server = Tested::begun(SERVER);
        server.take(&request(1, 0, "POST", &[]));
        for n in 1..2000_u32 {
            let id = n * 4 - 1;
            let mut input = vec![data(1, 0, 1); 20].concat();
            if answered {
                server.take(&request(id, END, "GET", &[]));
                server
                    .session
                    .respond(id, StatusCode::OK, &HeaderMap::new(), true);
                server.session.forget(id);
                server.session.sent();
            }
            input.extend(request(id + 2, END, "GET", &[]));
            input.extend(frame(kind::RST_STREAM, 0, id + 2, &[0, 0, 0, 8]));
            if let Err(error) = server.try_take(&input) {
                assert_eq!(error.code, Code::ENHANCE_YOUR_CALM);
                return n;
            }
            server.session.forget(id + 2);
            server.events.clear();
        }
        2000
    };
    let most = limits::H2_IDLE_FRAMES / limits::H2_RESET_COST;
    assert!((most..most + 5).contains(&run(false)));
    assert_eq!(run(true), 2000);
}

#[test]
fn a_client_ends_whatever_its_server_has_not_said() {
    let mut client = Session::<Requests>::new(CLIENT);
    assert!(!client.is_finished());
    client.drain();
    assert!(client.is_finished());
}

#[test]
fn streams_are_bounded_also_before_the_peer_says_how_many() {
    let mut client = Tested {
        session: Session::new(CLIENT),
        events: Vec::new(),
        now_ms: 1,
    };
    for _ in 0..limits::H2_STREAMS_AT_FIRST {
        client.open(&Method::GET, true);
    }
    assert_eq!(client.session.room_for_streams(), 0);
    client.take(&frame(kind::SETTINGS, 0, 0, &[]));
    assert!(client.session.room_for_streams() > 1_000_000, "no limit");
    client.take(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 101]));
    assert_eq!(client.session.room_for_streams(), 1);
}

#[test]
fn a_slow_stream_holds_up_no_other() {
    let mut server = Tested::begun(SERVER);
    // Nobody reads them; the last one is read.
    let slow = 30;
    for n in 0..=slow {
        server.take(&request(n * 2 + 1, 0, "POST", &[]));
    }
    for n in 0..slow {
        for _ in 0..4 {
            server.take(&data(n * 2 + 1, 0, 16_384));
        }
    }
    let last = slow * 2 + 1;
    for _ in 0..200 {
        server.take(&data(last, 0, 16_384));
        server.session.release(last, 16_384);
    }
    // More than its window allows is an error of the stream alone.
    server.events.clear();
    server.take(&data(1, 0, 1));
    assert_eq!(server.told(), ["reset 1 FLOW_CONTROL_ERROR true"]);
}

#[test]
fn long_heads_go_in_pieces() {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(&vec![b'v'; 40_000]).unwrap();
    headers.insert("x-long", value);
    let mut server = Tested::begun(SERVER);
    server.take(&request(1, END, "GET", &[]));
    server.session.respond(1, StatusCode::OK, &headers, true);
    let mut client = Tested::begun(CLIENT);
    client.open(&Method::GET, true);
    client.take(server.session.output());
    assert_eq!(client.told(), ["response 1 200", "end 1"]);
    assert_eq!(
        server.sent(),
        [kind::HEADERS, kind::CONTINUATION, kind::CONTINUATION]
    );
}
