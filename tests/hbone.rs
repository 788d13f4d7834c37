//! Our side of a connection of tunnels against the `h2` crate, both roles, with the bytes cut anywhere; and what the
//! steady state allocates: nothing.
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
use http::{HeaderMap, Method, Request, Response};
use ringgate::hbone::head::{Fields, Kept};
use ringgate::hbone::{CLIENT, ConnectHead, Event, ResponseHead, SERVER, Session, Tunnels};

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/h2_peer.rs"]
mod h2_peer;

use h2_peer::{End, MOST, Random, STREAMS, all, drive, run, send_all};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// What one of our streams has to send, and has got.
#[derive(Default)]
struct Ours {
    to_send: Vec<u8>,
    sent: usize,
    end: bool,
    ended: bool,
    got: Vec<u8>,
    got_end: bool,
    status: u16,
}

/// Our side of the connection: a session and its streams.
struct Side {
    session: Session,
    streams: BTreeMap<u32, Ours>,
    echo: bool,
    heads: Vec<(String, Fields)>,
}

impl End for Side {
    type Heads = Tunnels;

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn event(&mut self, event: Event, input: &[u8]) {
        match event {
            Event::Request { id, head, end } => {
                assert!(head.connect && !end);
                self.session.take(id);
                self.heads.push((head.authority.into(), head.fields));
                let mut answer = ResponseHead::new(200);
                answer.fields = answer.fields.with(Kept::Baggage, "service.name=ours");
                assert!(self.session.respond(id, &answer, false));
                self.streams.insert(id, Ours::default());
            }
            Event::Response { id, head } => {
                let ours = self.streams.get_mut(&id).unwrap();
                ours.status = head.status;
                self.heads.push((String::new(), head.fields));
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
            Event::End { id } => {
                let ours = self.streams.get_mut(&id).unwrap();
                ours.got_end = true;
                ours.end |= self.echo;
            }
            // The h2 crate says so when it has closed.
            Event::Room { .. } | Event::Pong | Event::GoAway { .. } => {}
            Event::Reset { .. }
            | Event::Malformed { .. }
            | Event::Interim { .. }
            | Event::Trailers { .. } => panic!("{event:?}"),
        }
    }

    fn pump(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        for (id, ours) in &mut self.streams {
            loop {
                let left = ours.to_send.len() - ours.sent;
                let Some(room) = self.session.room(*id) else {
                    break;
                };
                let n = left.min(room as usize).min(1 + random.below(40_000));
                let end = ours.end && n == left;
                if (n == 0 && !end) || (ours.status != 200 && !self.echo) {
                    break;
                }
                self.session.take_output(out);
                let head = self.session.data_head(*id, n as u32, end).unwrap();
                out.extend_from_slice(&head);
                out.extend_from_slice(&ours.to_send[ours.sent..ours.sent + n]);
                ours.sent += n;
                ours.ended |= end;
            }
        }
        self.session.take_output(out);
    }
}

fn connect_to(authority: &str) -> Request<()> {
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority.parse().unwrap());
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
    let fields = request.headers_mut();
    fields.insert("baggage", "k8s.namespace.name=default".parse().unwrap());
    fields.insert("forwarded", "for=\"10.0.0.1:5\"".parse().unwrap());
    request
}

fn our_server(seed: u64) {
    let mut random = Random::new(seed);
    let (ours, theirs) = tokio::io::duplex(1 + random.below(100_000));
    run(async {
        let payloads: Vec<_> = (0..STREAMS).map(|_| random.bytes(MOST)).collect();
        let want = payloads.clone();
        let client = tokio::task::spawn_local(async move {
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(20_000)
                .max_frame_size(17_000)
                .handshake::<_, Bytes>(theirs)
                .await
                .unwrap();
            let connection = tokio::task::spawn_local(connection);
            let mut tasks = Vec::new();
            for (n, payload) in payloads.into_iter().enumerate() {
                let send = send.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    let mut send = send.ready().await.unwrap();
                    let request = connect_to(&format!("service-{n}.example:80"));
                    let (answer, stream) = send.send_request(request, false).unwrap();
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    assert_eq!(answer.headers()["baggage"], "service.name=ours");
                    let sending =
                        tokio::task::spawn_local(send_all(stream, payload, HeaderMap::new()));
                    let (got, _) = all(answer.into_body()).await;
                    sending.await.unwrap();
                    got
                }));
            }
            let mut got = Vec::new();
            for task in tasks {
                got.push(task.await.unwrap());
            }
            drop(send);
            connection.await.unwrap().unwrap();
            got
        });
        let mut side = Side {
            session: Session::new(SERVER),
            streams: BTreeMap::new(),
            echo: true,
            heads: Vec::new(),
        };
        drive(&mut side, ours, &mut random, |_| false).await;
        assert!(client.await.unwrap() == want, "seed {seed}");
        assert_eq!(side.heads.len(), STREAMS);
        for (authority, fields) in &side.heads {
            assert!(authority.starts_with("service-"));
            let baggage = fields.find(Kept::Baggage);
            assert_eq!(baggage, Some("k8s.namespace.name=default"));
            assert_eq!(fields.find(Kept::Forwarded), Some("for=\"10.0.0.1:5\""));
        }
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
            let mut authorities = Vec::new();
            while let Some(taken) = connection.accept().await {
                let (request, mut respond) = taken.unwrap();
                assert_eq!(request.method(), Method::CONNECT);
                authorities.push(request.uri().authority().unwrap().to_string());
                tokio::task::spawn_local(async move {
                    let answer = Response::builder()
                        .header("baggage", "service.name=theirs")
                        .body(())
                        .unwrap();
                    let send = respond.send_response(answer, false).unwrap();
                    let (got, _) = all(request.into_body()).await;
                    send_all(send, got, HeaderMap::new()).await;
                });
            }
            authorities
        });
        let mut side = Side {
            session: Session::new(CLIENT),
            streams: BTreeMap::new(),
            echo: false,
            heads: Vec::new(),
        };
        for n in 0..STREAMS {
            let authority = format!("service-{n}.example:80");
            let fields = Fields::default().with(Kept::Forwarded, "for=\"10.0.0.1:5\"");
            let head = ConnectHead {
                authority: &authority,
                fields: &fields,
            };
            let id = side.session.open(&head).unwrap();
            let to_send = random.bytes(MOST);
            side.streams.insert(
                id,
                Ours {
                    to_send,
                    end: true,
                    ..Ours::default()
                },
            );
        }
        let all_done = |side: &Side| side.streams.values().all(|s| s.got_end && s.ended);
        drive(&mut side, ours, &mut random, all_done).await;
        for ours in side.streams.values() {
            assert!(
                ours.got == ours.to_send && ours.status == 200,
                "seed {seed}"
            );
        }
        for (_, fields) in &side.heads {
            assert_eq!(fields.find(Kept::Baggage), Some("service.name=theirs"));
        }
        let authorities = server.await.unwrap();
        assert_eq!(authorities.len(), STREAMS);
        assert_eq!(authorities[3], "service-3.example:80");
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

/// Moves everything that one side has to say to the other; the bytes that were told.
fn pass(from: &mut Session, to: &mut Session, wire: &mut Vec<u8>) -> usize {
    from.take_output(wire);
    let mut told = [(0, 0); 8];
    let mut n = 0;
    let taken = to.receive(1, wire, &mut |event| {
        if let Event::Data { id, range } = event {
            told[n] = (id, range.len());
            n += 1;
        }
    });
    taken.unwrap();
    wire.clear();
    let mut all = 0;
    for (id, bytes) in &told[..n] {
        to.release(*id, *bytes as u32);
        all += *bytes;
    }
    all
}

/// A client and a server with four tunnels open.
fn pair(wire: &mut Vec<u8>) -> (Session, Session, Vec<u32>) {
    let (mut client, mut server) = (Session::new(CLIENT), Session::new(SERVER));
    let fields = Fields::default();
    let head = ConnectHead {
        authority: "10.0.0.1:80",
        fields: &fields,
    };
    let ids: Vec<u32> = (0..4).map(|_| client.open(&head).unwrap()).collect();
    pass(&mut client, &mut server, wire);
    for id in &ids {
        assert!(server.respond(*id, &ResponseHead::new(200), false));
    }
    pass(&mut server, &mut client, wire);
    pass(&mut client, &mut server, wire);
    (client, server, ids)
}

/// Payloads both ways, updates of both windows, pings: no allocation, however long it goes on.
#[test]
fn the_steady_state_allocates_nothing() {
    let mut wire = Vec::with_capacity(1 << 20);
    let before = allocations::held();
    let (mut client, mut server, ids) = pair(&mut wire);
    let idle = allocations::held().wrapping_sub(before) / 2;
    assert!(idle < 3000, "{idle} bytes for a side with four tunnels");
    let payload = vec![7; 65_536];
    let mut rounds = |rounds: u32, bytes: u32| {
        let mut moved = 0;
        for n in 0..rounds {
            for id in &ids {
                for up in [true, false] {
                    let (from, to) = if up {
                        (&mut client, &mut server)
                    } else {
                        (&mut server, &mut client)
                    };
                    from.take_output(&mut wire);
                    let head = from.data_head(*id, bytes, false).expect("there is room");
                    wire.extend_from_slice(&head);
                    wire.extend_from_slice(&payload[..bytes as usize]);
                    moved += pass(from, to, &mut wire);
                }
            }
            if n % 10 == 0 {
                client.ping();
            }
        }
        moved
    };
    // The first rounds make what is kept.
    rounds(11, 65_536);
    for (many, bytes) in [(2000, 65_536), (5000, 100), (5000, 1)] {
        let (moved, asked) = allocations::asked_by(|| rounds(many, bytes));
        assert_eq!(moved, (many * bytes) as usize * 8);
        assert_eq!(
            asked, 0,
            "{asked} allocations in {many} rounds of {bytes} bytes"
        );
    }
}
