//! Our connections of requests against the `h2` crate, both roles, with the bytes cut anywhere: heads, interim answers,
//! content of any size, trailers; and what the steady state allocates for content: nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use ringgate::h2::{Event, Requests, Session, Settings, Side, message};

#[expect(
    dead_code,
    reason = "what is asked for is counted here, not what is held"
)]
#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/h2_peer.rs"]
mod h2_peer;

use h2_peer::{End, MOST, Random, STREAMS, all, drive, run, send_all};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const SERVER: Settings = Settings {
    side: Side::Server,
    window: 65_536,
    connection_window: 1 << 20,
    max_frame: 16_384,
    header_list: 65_536,
    max_streams: 100,
    charged: 8192,
    advance: 2 << 20,
    extended_connect: false,
    early_reset_ms: 1000,
};
const CLIENT: Settings = Settings {
    side: Side::Client,
    max_streams: 0,
    ..SERVER
};

/// Fields of which some come again, so that tables are used.
fn fields(random: &mut Random) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for _ in 0..random.below(8) {
        let name = format!("x-{}", random.below(5));
        let value = "v".repeat(random.below(300) + 1) + &random.below(3).to_string();
        let name: http::HeaderName = name.parse().unwrap();
        fields.append(name, value.parse().unwrap());
    }
    fields
}

/// What one of our streams has to send, and has got.
#[derive(Default)]
struct Ours {
    to_send: Vec<u8>,
    sent: usize,
    end: bool,
    ended: bool,
    trailers: HeaderMap,
    got: Vec<u8>,
    got_trailers: Option<HeaderMap>,
    got_end: bool,
    headers: HeaderMap,
    interim: usize,
    ready: bool,
}

/// Our side of the connection: a session and its streams.
struct Ends {
    session: Session<Requests>,
    streams: BTreeMap<u32, Ours>,
    /// A server that answers with what it gets.
    echo: bool,
}

impl End for Ends {
    type Heads = Requests;

    fn session(&mut self) -> &mut Session<Requests> {
        &mut self.session
    }

    fn event(&mut self, event: Event<Requests>, input: &[u8]) {
        match event {
            Event::Request { id, head, end } => {
                self.session.take(id);
                assert_eq!((head.https, head.method), (Some(false), Method::POST));
                assert_eq!(head.authority.unwrap(), "service.example:80");
                assert_eq!(head.path.unwrap(), format!("/{id}?q").as_str());
                let none = HeaderMap::new();
                let hints = StatusCode::EARLY_HINTS;
                assert!(self.session.respond_interim(id, hints, &none));
                let mut fields = head.headers.clone();
                fields.remove("content-length");
                assert!(self.session.respond(id, StatusCode::OK, &fields, false));
                let ours = Ours {
                    headers: head.headers,
                    got_end: end,
                    end,
                    ready: true,
                    ..Ours::default()
                };
                self.streams.insert(id, ours);
            }
            Event::Interim { id, head } => {
                assert_eq!(head.status, StatusCode::EARLY_HINTS);
                self.streams.get_mut(&id).unwrap().interim += 1;
            }
            Event::Response { id, head } => {
                assert_eq!(head.status, StatusCode::OK);
                self.streams.get_mut(&id).unwrap().headers = head.headers;
            }
            Event::Data { id, range } => {
                let n = range.len() as u32;
                let ours = self.streams.get_mut(&id).unwrap();
                ours.got.extend_from_slice(&input[range.clone()]);
                if self.echo {
                    ours.to_send.extend_from_slice(&input[range]);
                }
                self.session.release(id, n);
            }
            Event::Trailers { id, fields } => {
                let ours = self.streams.get_mut(&id).unwrap();
                if self.echo {
                    ours.trailers = fields.clone();
                }
                ours.got_trailers = Some(fields);
            }
            Event::End { id } => {
                let ours = self.streams.get_mut(&id).unwrap();
                ours.got_end = true;
                ours.end |= self.echo;
            }
            // The h2 crate says so when it has closed.
            Event::Room { .. } | Event::Pong | Event::GoAway { .. } => {}
            Event::Reset { .. } | Event::Malformed { .. } => panic!("{event:?}"),
        }
    }

    fn pump(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        for (id, ours) in self.streams.iter_mut().filter(|(_, o)| o.ready && !o.ended) {
            while ours.sent < ours.to_send.len() {
                let room = self.session.room(*id).unwrap_or(0) as usize;
                let left = ours.to_send.len() - ours.sent;
                let n = left.min(room).min(1 + random.below(40_000));
                if n == 0 {
                    break;
                }
                self.session.take_output(out);
                let head = self.session.data_head(*id, n as u32, false).unwrap();
                out.extend_from_slice(&head);
                out.extend_from_slice(&ours.to_send[ours.sent..ours.sent + n]);
                ours.sent += n;
            }
            if ours.end && ours.sent == ours.to_send.len() {
                ours.ended = true;
                if ours.trailers.is_empty() {
                    self.session.take_output(out);
                    out.extend_from_slice(&self.session.data_head(*id, 0, true).unwrap());
                } else {
                    assert!(self.session.send_trailers(*id, &ours.trailers));
                }
            }
        }
        self.session.take_output(out);
    }
}

fn trailers_of(n: usize) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if n.is_multiple_of(2) {
        trailers.insert("grpc-status", HeaderValue::from(n));
    }
    trailers
}

fn our_server(seed: u64) {
    let mut random = Random::new(seed);
    let (ours, theirs) = tokio::io::duplex(1 + random.below(100_000));
    run(async {
        let payloads: Vec<_> = (0..STREAMS).map(|_| random.bytes(MOST)).collect();
        let heads: Vec<_> = (0..STREAMS).map(|_| fields(&mut random)).collect();
        let client = tokio::task::spawn_local(async move {
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(20_000)
                .max_frame_size(17_000)
                .handshake::<_, Bytes>(theirs)
                .await
                .unwrap();
            let connection = tokio::task::spawn_local(connection);
            let mut tasks = Vec::new();
            for (n, (payload, fields)) in payloads.into_iter().zip(heads).enumerate() {
                let mut send = send.clone().ready().await.unwrap();
                let uri = format!("http://service.example:80/{}?q", n * 2 + 1);
                let mut request = Request::post(uri).body(()).unwrap();
                *request.headers_mut() = fields.clone();
                let (answer, stream) = send.send_request(request, false).unwrap();
                tasks.push(tokio::task::spawn_local(async move {
                    let sent = payload.clone();
                    let sending =
                        tokio::task::spawn_local(send_all(stream, payload, trailers_of(n)));
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    assert_eq!(*answer.headers(), fields);
                    let (got, trailers) = all(answer.into_body()).await;
                    sending.await.unwrap();
                    assert!(got == sent);
                    assert_eq!(trailers.unwrap_or_default(), trailers_of(n));
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            drop(send);
            connection.await.unwrap().unwrap();
        });
        let mut side = Ends {
            session: Session::new(SERVER),
            streams: BTreeMap::new(),
            echo: true,
        };
        drive(&mut side, ours, &mut random, |_| false).await;
        client.await.unwrap();
        assert_eq!(side.streams.len(), STREAMS, "seed {seed}");
        assert_eq!(side.session.open_streams(), 0);
    });
}

fn our_client(seed: u64) {
    let mut random = Random::new(seed);
    let (ours, theirs) = tokio::io::duplex(1 + random.below(100_000));
    run(async {
        let server = tokio::task::spawn_local(async move {
            let mut connection = h2::server::Builder::new()
                .initial_window_size(20_000)
                .max_frame_size(17_000)
                .handshake::<_, Bytes>(theirs)
                .await
                .unwrap();
            while let Some(taken) = connection.accept().await {
                let (request, mut respond) = taken.unwrap();
                assert_eq!(request.uri().path_and_query().unwrap(), "/a?b=c");
                assert_eq!(request.uri().scheme_str(), Some("https"));
                tokio::task::spawn_local(async move {
                    let hints = Response::builder().status(103).body(()).unwrap();
                    respond.send_informational(hints).unwrap();
                    let (parts, body) = request.into_parts();
                    let mut answer = Response::new(());
                    *answer.headers_mut() = parts.headers;
                    answer.headers_mut().remove("content-length");
                    let send = respond.send_response(answer, false).unwrap();
                    let (got, trailers) = all(body).await;
                    send_all(send, got, trailers.unwrap_or_default()).await;
                });
            }
        });
        let mut side = Ends {
            session: Session::new(CLIENT),
            streams: BTreeMap::new(),
            echo: false,
        };
        let mut sent = BTreeMap::new();
        for n in 0..STREAMS {
            let (fields, to_send) = (fields(&mut random), random.bytes(MOST));
            let trailers = trailers_of(n);
            let request = message::Request {
                method: &Method::PUT,
                scheme: "https",
                authority: "service.example",
                path: "/a?b=c",
                protocol: None,
                fields: fields.iter(),
                length: trailers.is_empty().then_some(to_send.len() as u64),
            };
            let id = side.session.open(request, false).unwrap();
            sent.insert(id, fields);
            side.streams.insert(
                id,
                Ours {
                    to_send,
                    end: true,
                    ready: true,
                    trailers,
                    ..Ours::default()
                },
            );
        }
        let all_done = |side: &Ends| side.streams.values().all(|s| s.got_end && s.ended);
        drive(&mut side, ours, &mut random, all_done).await;
        for (id, ours) in &side.streams {
            assert!(ours.got == ours.to_send, "seed {seed}");
            assert_eq!(ours.headers, sent[id]);
            assert_eq!(ours.got_trailers.clone().unwrap_or_default(), ours.trailers);
            assert_eq!(ours.interim, 1);
        }
        server.await.unwrap();
    });
}

#[test]
fn the_h2_crate_is_our_client() {
    (1..=12).for_each(our_server);
}

#[test]
fn the_h2_crate_is_our_server() {
    (101..=112).for_each(our_client);
}

/// A request and its answer, content and all, over a table that has been filled: what it costs in allocations.
#[test]
fn an_exchange_allocates_little_and_content_nothing() {
    let (mut client, mut server) = (
        Session::<Requests>::new(CLIENT),
        Session::<Requests>::new(SERVER),
    );
    let mut wire = Vec::with_capacity(1 << 20);
    let mut fields = HeaderMap::new();
    fields.insert("accept", HeaderValue::from_static("*/*"));
    fields.insert("x-own", HeaderValue::from_static("value"));
    let answer = fields.clone();
    let payload = vec![7; 16_384];
    let mut exchange = |pieces: usize| {
        let request = message::Request {
            method: &Method::GET,
            scheme: "https",
            authority: "service.example",
            path: "/",
            protocol: None,
            fields: fields.iter(),
            length: None,
        };
        let id = client.open(request, true).unwrap();
        wire.clear();
        client.take_output(&mut wire);
        let mut asked = None;
        let told = &mut |event| asked = Some(event);
        server.receive(1, &wire, told).unwrap();
        assert!(server.respond(id, StatusCode::OK, &answer, false));
        wire.clear();
        let mut got = 0;
        for n in 1..=pieces {
            server.take_output(&mut wire);
            let head = server.data_head(id, 16_384, n == pieces).unwrap();
            wire.extend_from_slice(&head);
            wire.extend_from_slice(&payload);
            let told = &mut |event: Event<Requests>| {
                if let Event::Data { range, .. } = event {
                    got += range.len();
                }
            };
            client.receive(1, &wire, told).unwrap();
            client.release(id, 16_384);
            wire.clear();
            client.take_output(&mut wire);
            server.receive(1, &wire, &mut |_| {}).unwrap();
            wire.clear();
        }
        assert_eq!(got, pieces * 16_384);
        client.forget(id);
        server.forget(id);
        drop(asked);
    };
    for _ in 0..3 {
        exchange(4);
    }
    let ((), few) = allocations::asked_by(|| (0..100).for_each(|_| exchange(4)));
    let ((), many) = allocations::asked_by(|| (0..100).for_each(|_| exchange(40)));
    assert_eq!(few, many, "content costs no allocation");
    assert!(few <= 100 * 24, "{few} allocations in 100 exchanges");
}
