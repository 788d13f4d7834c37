//! WebSocket towards a server behind that speaks HTTP/2 and takes extended CONNECT (RFC 8441), for clients of either
//! version; through the ingress, which hands it on to the waypoint in the same way, and at the waypoint.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use ringgate::cli::os;

use crate::answer;
use crate::client::Conn;
use crate::peers::{host, system};
use crate::stream::{Answer, Ended, Streams};
use crate::system::{Place, System};

crate::on_both!(
    bytes_both_ways,
    what_came_early_comes_first,
    refusals_go_on,
    not_where_it_is_not_announced,
    cut_by_policy
);

const CANCEL: u32 = 8;
const PLACES: [Place; 2] = [Place::Ingress, Place::Waypoint];

/// What the server was asked: method, `:protocol`, scheme, path, fields.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    protocol: Option<String>,
    scheme: Option<String>,
    path: String,
    fields: HeaderMap,
}

/// A server at the port of `peer`, until the process ends. A path with `refuse` is answered 403.
struct Server(Arc<Mutex<Vec<Seen>>>);

impl Server {
    fn start(system: &System, announces: bool) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind(system.layout.at(3, 18081)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(serve(tcp, announces, Arc::clone(&shared)));
                }
            });
        });
        Self(seen)
    }

    fn seen(&self, path: &str) -> Vec<Seen> {
        let mut seen = self.0.lock().unwrap().clone();
        seen.retain(|s| s.path == path);
        seen
    }
}

async fn serve(tcp: tokio::net::TcpStream, announces: bool, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut builder = h2::server::Builder::new();
    if announces {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(take(request, respond, Arc::clone(&seen)));
    }
}

async fn take(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    let asked = Seen {
        method: request.method().clone(),
        protocol: protocol.map(|p| p.as_str().to_owned()),
        scheme: request.uri().scheme_str().map(str::to_owned),
        path: request.uri().path().to_owned(),
        fields: request.headers().clone(),
    };
    let (refused, switches) = (asked.path.contains("refuse"), asked.protocol.is_some());
    seen.lock().unwrap().push(asked);
    if refused {
        let refusal = Response::builder().status(StatusCode::FORBIDDEN);
        let mut sent = respond
            .send_response(refusal.body(()).unwrap(), false)
            .unwrap();
        return os::ignore(sent.send_data(Bytes::from_static(b"no"), true));
    }
    let answer = Response::builder()
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap();
    let mut out = respond.send_response(answer, !switches).unwrap();
    let mut body = request.into_body();
    while switches && let Some(Ok(piece)) = body.data().await {
        os::ignore(body.flow_control().release_capacity(piece.len()));
        if out.send_data(piece, false).is_err() {
            return;
        }
    }
    if switches {
        os::ignore(out.send_data(Bytes::new(), true));
    }
}

fn h1_request(place: Place, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n\r\n",
        host(place)
    )
}

fn h2_request(place: Place, path: &str) -> Vec<(&[u8], &[u8])> {
    vec![
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", host(place).as_bytes()),
        (b":path", path.as_bytes()),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-protocol", b"chat"),
    ]
}

/// An open WebSocket of a client of HTTP/1.1.
fn open_h1(system: &System, place: Place, path: &str) -> Conn {
    let mut conn = system.connect(place);
    conn.send(h1_request(place, path).as_bytes());
    let head = answer::head(&mut conn).expect("an answer");
    assert_eq!(head.status, 101, "{place:?}: {head:?} {}", system.log());
    // The answer to its own key (RFC 6455 section 1.3).
    assert_eq!(
        head.one("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(head.one("sec-websocket-protocol"), Some("chat"));
    assert_eq!(head.one("upgrade"), Some("websocket"));
    conn
}

/// As `open_h1`, of HTTP/2.
fn open_h2(system: &System, place: Place, path: &str) -> Streams {
    let mut streams = Streams::open(system, place);
    streams.head(1, &h2_request(place, path), false);
    let answer = streams.begun(1);
    assert_eq!(
        (answer.status, answer.ended),
        (200, Ended::Open),
        "{place:?}: {answer:?} {}",
        system.log()
    );
    assert_eq!(answer.all("sec-websocket-protocol"), ["chat"]);
    assert!(answer.all("sec-websocket-accept").is_empty(), "{answer:?}");
    streams
}

fn echoes(streams: &mut Streams, bytes: &[u8]) -> bool {
    let mut answer = Answer::default();
    streams.data(1, bytes, false);
    streams.until(1, &mut answer, |a| a.body.len() >= bytes.len());
    answer.body == bytes
}

fn large() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n % 251) as u8).collect()
}

fn recorded(system: &System, path: &str, event: &str) -> serde_json::Value {
    system
        .record(|r| r["role"] == "waypoint" && r["request"]["path"] == path && r["event"] == event)
}

fn bytes_both_ways(io: &str) {
    let system = system(io, "HTTP2");
    let server = Server::start(&system, true);
    for place in PLACES {
        let path = format!("/api/peer/{}/h1", place.role());
        let mut conn = open_h1(&system, place, &path);
        for piece in [&b"\x81\x05hello"[..], b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"]
            .into_iter()
            .chain(large().chunks(30_000))
        {
            conn.send(piece);
            let back = conn.exactly(piece.len());
            assert_eq!(back.as_deref(), Some(piece), "{place:?}");
        }
        let opened = recorded(&system, &path, "open");
        assert_eq!(opened["request"]["method"], "GET", "{opened}");
        drop(conn);
        let closed = recorded(&system, &path, "close");
        assert!(
            closed["bytes"]["received"].as_u64() >= Some(300_000)
                && closed["bytes"]["sent"].as_u64() >= Some(300_000),
            "{closed}"
        );
        let path = format!("/api/peer/{}/h2", place.role());
        let mut streams = open_h2(&system, place, &path);
        for piece in large().chunks(30_000) {
            assert!(echoes(&mut streams, piece), "{place:?}");
        }
        // An end in order, from the client to the server and back.
        streams.end(1);
        assert_eq!(streams.answer(1).ended, Ended::Whole, "{place:?}");
        let closed = recorded(&system, &path, "close");
        assert_eq!(closed["close"], "done", "{closed}");
        for kind in ["h1", "h2"] {
            let path = format!("/api/peer/{}/{kind}", place.role());
            let seen = server.seen(&path);
            assert_eq!(seen.len(), 1, "{seen:?}");
            let seen = &seen[0];
            assert_eq!(seen.method, Method::CONNECT);
            assert_eq!(seen.protocol.as_deref(), Some("websocket"));
            assert_eq!(seen.scheme.as_deref(), Some("http"));
            assert_eq!(seen.fields["sec-websocket-version"], "13");
            for name in ["sec-websocket-key", "upgrade", "connection"] {
                assert!(!seen.fields.contains_key(name), "{seen:?}");
            }
        }
    }
    system.healthy();
}

/// What a client says before it may reaches the server behind the switch, as ever.
fn what_came_early_comes_first(io: &str) {
    let system = system(io, "HTTP2");
    let _server = Server::start(&system, true);
    for place in PLACES {
        let mut conn = system.connect(place);
        let request = h1_request(place, "/api/peer/early");
        conn.send([request.as_bytes(), b"first"].concat().as_slice());
        assert_eq!(answer::head(&mut conn).map(|h| h.status), Some(101));
        conn.send(b"second");
        assert_eq!(conn.exactly(11).as_deref(), Some(&b"firstsecond"[..]));
        let mut streams = Streams::open(&system, place);
        streams.head(1, &h2_request(place, "/api/peer/early"), false);
        streams.data(1, b"first", false);
        let mut answer = Answer::default();
        streams.until(1, &mut answer, |a| a.body.len() >= 5);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"first"[..]));
    }
    system.healthy();
}

/// An answer that is no success is the client's, and its connection goes on.
fn refusals_go_on(io: &str) {
    let system = system(io, "HTTP2");
    let _server = Server::start(&system, true);
    for place in PLACES {
        let mut conn = system.connect(place);
        conn.send(h1_request(place, "/api/peer/refuse").as_bytes());
        let refused = answer::read(&mut conn, "GET").expect("an answer");
        assert_eq!((refused.status, &refused.body[..]), (403, &b"no"[..]));
        let mut streams = Streams::open(&system, place);
        streams.head(1, &h2_request(place, "/api/peer/refuse"), false);
        let refused = streams.answer(1);
        assert_eq!((refused.status, &refused.body[..]), (403, &b"no"[..]));
        streams.head(3, &h2_request(place, "/api/peer/then"), false);
        assert_eq!(streams.begun(3).status, 200);
    }
    system.healthy();
}

fn not_where_it_is_not_announced(io: &str) {
    let system = system(io, "HTTP2");
    let server = Server::start(&system, false);
    for place in PLACES {
        let mut conn = system.connect(place);
        conn.send(h1_request(place, "/api/peer/never").as_bytes());
        let refused = answer::read(&mut conn, "GET").expect("an answer");
        assert_eq!(refused.status, 502, "{place:?}");
        let mut streams = Streams::open(&system, place);
        streams.head(1, &h2_request(place, "/api/peer/never"), false);
        assert_eq!(streams.answer(1).status, 502, "{place:?}");
        assert!(server.seen("/api/peer/never").is_empty());
        // What asks for none is served.
        let mut ordinary = h2_request(place, "/api/peer/plain");
        ordinary.retain(|(name, _)| *name != b":protocol");
        ordinary[0].1 = b"GET";
        streams.head(3, &ordinary, true);
        assert_eq!(streams.answer(3).status, 200, "{place:?}");
    }
    let record = system.record(|r| {
        r["role"] == "waypoint" && r["request"]["path"] == "/api/peer/never" && r["status"] == 502
    });
    assert_eq!(
        record["reason"],
        "upstream speaks HTTP/2 and does not take WebSockets over it (RFC 8441)"
    );
    system.healthy();
}

fn cut_by_policy(io: &str) {
    let system = system(io, "HTTP2");
    let _server = Server::start(&system, true);
    let path = "/api/peer/cut";
    let mut conn = open_h1(&system, Place::Waypoint, path);
    let mut streams = open_h2(&system, Place::Waypoint, path);
    conn.send(b"before");
    assert_eq!(conn.exactly(6).as_deref(), Some(&b"before"[..]));
    assert!(echoes(&mut streams, b"before"));
    system.reload(|config| {
        format!(
            "{config}\n[[authorizationPolicy]]\nname = \"no-socket\"\nnamespace = \"default\"\nselector.matchLabels = {{ \"istio.io/gateway-name\" = \"customer-api\" }}\naction = \"DENY\"\nrules = [{{ to = [{{ operation.paths = [\"{path}\"] }}] }}]\n"
        )
    });
    conn.patience(Duration::from_secs(30));
    assert!(conn.is_over(), "it goes on");
    assert_eq!(streams.answer(1).ended, Ended::Reset(CANCEL));
    let closed = recorded(&system, path, "close");
    assert_eq!(closed["close"], "policy_changed", "{closed}");
    system.healthy();
}
