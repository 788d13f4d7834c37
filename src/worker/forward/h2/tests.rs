//! What an HTTP/2 upstream says before its answer, and who may write to the client meanwhile, on both drivers.

use std::cell::Cell;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;

use http::{HeaderMap, Method, StatusCode, header};
use smallvec::smallvec;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

use super::*;
use crate::config::checked::route::Timeouts;
use crate::http::forward::Own;
use crate::io::h2::{Respond, Server, Taken, Windows};
use crate::io::relay::Meter;
use crate::io::rt::{self, Acceptor, ConnectOptions, Core, Want};
use crate::io::stream::Stream;
use crate::io::upstream::{DialError, Target, Upstream, Upstreams, Version};
use crate::policy::{self, OutboundTarget, Permit, decide_outbound};
use crate::upstream::load::Waiting;
use crate::upstream::retry::Budget;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::worker::forward::{OnAnswer, Onward};
use crate::worker::respond::Responder;
use crate::worker::retry::Retries;
use crate::worker::site::Story;

/// There is no other endpoint.
struct Nowhere<'a>(Retries<'a>);

impl Onward for Nowhere<'_> {
    fn reached(&self) {}

    fn answered(&self, _status: u16) {}

    fn begins(&self) {}

    fn next(&self, _error: &DialError) -> Option<(Permit, Target)> {
        None
    }

    fn waits(&self) -> Result<Option<Waiting>, String> {
        Ok(None)
    }

    fn retries(&self) -> &Retries<'_> {
        &self.0
    }

    fn another(&self) -> Option<(Permit, Target)> {
        None
    }

    fn tell(&self, _story: &mut Story) {}
}

fn on_both(test: fn() -> Pin<Box<dyn Future<Output = ()>>>) {
    for want in [Want::Epoll, Want::IoUring] {
        let mut core = Core::build(want).unwrap();
        let done = core.run(async move { rt::timeout(60_000, test()).await });
        done.expect("ends in time");
    }
}

/// A connection of requests: what sends one, and the server's end.
async fn connected(upstreams: &Upstreams) -> (Client, Server) {
    let (client, stream) = carried(upstreams).await;
    (client, Server::new(stream, Windows::Mesh, false))
}

/// A listener, and the way to it.
fn listens() -> (Acceptor, Target) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any: SocketAddr = "127.91.47.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(8).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let target = Target::Plain {
        addresses: smallvec![UpstreamAddr(address)],
        options: ConnectOptions::default(),
        source: None,
    };
    (Acceptor::new(socket).unwrap(), target)
}

/// As `connected`, with what carries the server's end.
async fn carried(upstreams: &Upstreams) -> (Client, Stream) {
    let (acceptor, target) = listens();
    let permit = decide_outbound(OutboundTarget::Known, false).permit();
    let asked = upstreams.request(permit.unwrap(), &target, Version::H2.into());
    let Ok((Upstream::H2(client), _again)) = asked.await else {
        panic!("no stream");
    };
    (client, acceptor.accept().await.unwrap().into())
}

async fn taken(server: &mut Server) -> Respond {
    server.handshake().await.unwrap();
    match server.accept().await {
        Ok(Some(Taken::Request(asked))) => asked.respond,
        _ => panic!("no request"),
    }
}

fn asks() -> policy::Request {
    policy::Request {
        method: Method::GET,
        host: Host::parse("a").unwrap(),
        path: None,
        headers: HeaderMap::new(),
        claims: None,
        time: 0,
    }
}

/// A client that waits for its answer, and where that goes.
async fn waiting(upstreams: &Upstreams) -> (Answering, Responder<'static>) {
    let (client, mut server) = connected(upstreams).await;
    let request = asks();
    let answering = client.request(
        Request {
            method: &request.method,
            scheme: "http",
            authority: "a",
            path: "/",
            protocol: None,
            fields: request.headers.iter(),
            length: None,
        },
        true,
    );
    let respond = taken(&mut server).await;
    rt::spawn(async move { while let Ok(Some(_)) = server.accept().await {} });
    let responder = Responder::H2 {
        respond,
        is_head: false,
    };
    (answering.unwrap(), responder)
}

/// What comes of a request to an upstream that says so often that it is at work.
async fn after(interim: usize, answers: bool) -> Result<Answered, AnswerError> {
    of(async move |mut respond, mut server| {
        let none = HeaderMap::new();
        for _ in 0..interim {
            let sent = respond.send_interim(StatusCode::PROCESSING, &none);
            if sent.is_err() || server.flush().await.is_err() {
                return;
            }
            // Each by itself, so that they do not wait together.
            rt::sleep(5).await;
        }
        if answers {
            drop(respond.send(StatusCode::OK, &none, true));
            while let Ok(Some(_)) = server.accept().await {}
        }
    })
    .await
}

/// What comes of a request to an upstream that does this.
async fn of(
    upstream: impl AsyncFnOnce(Respond, Server) + 'static,
) -> Result<Answered, AnswerError> {
    let upstreams = Upstreams::default();
    let (client, mut server) = connected(&upstreams).await;
    rt::spawn(async move {
        let respond = taken(&mut server).await;
        upstream(respond, server).await;
    });
    sent(client, &upstreams).await
}

/// What comes of a request that is sent by `client`.
async fn sent(client: Client, upstreams: &Upstreams) -> Result<Answered, AnswerError> {
    let (_client, responder) = waiting(upstreams).await;
    let (asked, extra, passed) = (asks(), Own::default(), Meter::default());
    let budget = Budget::default();
    let nowhere = Nowhere(Retries::new(None, &asked.method, (&budget, None)));
    let moving = Moving {
        request: &asked,
        extra: &extra,
        length: None,
        on_answer: &OnAnswer {
            at_edge: false,
            added: Vec::new(),
            changed: None,
        },
        scheme: "http",
        passed: &passed,
        upgrade: None,
        must_switch: false,
        awaited: Cell::new(false),
        invited: Notify::new(),
        pushed: Cell::new(0),
        uploaded: Cell::new(true),
        whole: Cell::new(true),
        small: true,
        times: Timeouts::default(),
        others: &nowhere,
        status: Cell::new(None),
        grpc: Cell::new(None),
        told: Cell::new(false),
        switched: Cell::new(None),
        next: Cell::new(None),
    };
    let slot = Slot::new(responder);
    let Answering { answer, content } = client.request(request(&moving), true).unwrap();
    let answered = answered(&moving, answer, &slot).await;
    drop(content);
    answered
}

#[test]
fn interim_answers_are_counted() {
    on_both(|| {
        Box::pin(async {
            let most = limits::INTERIM_RESPONSES;
            assert!(after(most, true).await.is_ok());
            assert!(matches!(
                after(most + 1, true).await,
                Err(AnswerError::Upstream(_))
            ));
        })
    });
}

/// What comes of an answer of no content behind which the upstream sends this, and then the end.
async fn empty_with(late: &'static [u8]) -> Result<Answered, AnswerError> {
    of(async move |mut respond, mut server| {
        let length = (header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let head = HeaderMap::from_iter([length]);
        let mut content = respond.send(StatusCode::OK, &head, false).unwrap();
        server.flush().await.unwrap();
        rt::sleep(50).await;
        if !late.is_empty() {
            drop(content.send(late.into()).await);
        }
        drop(content.finish());
        while let Ok(Some(_)) = server.accept().await {}
    })
    .await
}

#[test]
fn what_announces_no_content_is_whole_before_it_goes_on() {
    on_both(|| {
        Box::pin(async {
            assert!(empty_with(b"").await.is_ok());
            assert!(matches!(
                empty_with(b"late").await,
                Err(AnswerError::Upstream(why)) if why.contains("PROTOCOL_ERROR")
            ));
        })
    });
}

/// What comes of an answer of no content whose stream is refused behind its head (RFC 9113 section 8.7), of a server that
/// does not keep to the rules; or with no head before.
async fn refused(behind_a_head: bool) -> Result<Answered, AnswerError> {
    let upstreams = Upstreams::default();
    let (client, mut stream) = carried(&upstreams).await;
    rt::spawn(async move {
        // Behind the preface there are settings, and then the request.
        let mut at = 24;
        loop {
            let seen = stream.peek(at + 9).await.unwrap();
            if seen[at + 3] == 1 {
                break;
            }
            let length = usize::from(seen[at + 1]) << 8 | usize::from(seen[at + 2]);
            at += 9 + length;
        }
        let (reader, mut writer) = crate::io::h1::split(stream);
        // Settings, then `:status: 200` and `content-length: 0` without the end of the stream.
        writer.out().extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        if behind_a_head {
            let head = [0, 0, 5, 1, 4, 0, 0, 0, 1, 0x88, 0x0f, 13, 1, b'0'];
            writer.out().extend_from_slice(&head);
            drop(writer.flush().await);
            rt::sleep(50).await;
        }
        writer
            .out()
            .extend_from_slice(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7]);
        drop(writer.flush().await);
        pending::<()>().await;
        drop(reader);
    });
    sent(client, &upstreams).await
}

#[test]
fn who_has_answered_is_not_asked_again() {
    on_both(|| {
        Box::pin(async {
            assert!(matches!(
                refused(false).await,
                Err(AnswerError::Unprocessed)
            ));
            assert!(matches!(
                refused(true).await,
                Err(AnswerError::Upstream(why)) if why.contains("REFUSED_STREAM")
            ));
        })
    });
}

#[test]
fn who_has_said_something_was_there() {
    on_both(|| {
        Box::pin(async {
            assert!(matches!(after(0, false).await, Err(AnswerError::Silent)));
            assert!(matches!(
                after(1, false).await,
                Err(AnswerError::Upstream(why)) if why == UNANSWERED
            ));
        })
    });
}

#[test]
fn one_writes_at_a_time() {
    on_both(|| {
        Box::pin(async {
            let upstreams = Upstreams::default();
            let (_client, responder) = waiting(&upstreams).await;
            let (slot, gate) = (Slot::new(responder), Notify::new());
            let (wrote, answer, ()) = tokio::join!(
                slot.before_answer(async |_| gate.notified().await),
                slot.for_answer(),
                async {
                    rt::sleep(1).await;
                    assert!(slot.is_waiting());
                    gate.notify_one();
                }
            );
            assert!(wrote.is_some() && answer.is_some());
            // It has begun.
            assert!(!slot.is_waiting() && slot.for_answer().await.is_none());
            assert!(slot.before_answer(async |_| ()).await.is_none());
        })
    });
}

#[test]
fn nothing_follows_half_a_message() {
    on_both(|| {
        Box::pin(async {
            let upstreams = Upstreams::default();
            let (_client, responder) = waiting(&upstreams).await;
            let slot = Slot::new(responder);
            let stuck = slot.before_answer(async |_| pending::<()>().await);
            rt::timeout(1, stuck).await.unwrap_err();
            assert!(slot.for_answer().await.is_none());
            assert!(slot.into_unanswered().is_none());
        })
    });
}

/// A gateway of the mesh, which may read the answers of others as slowly as its clients do, and leaves no room for ours.
#[test]
fn who_takes_none_of_our_own_answer_is_let_go() {
    let mut core = Core::build(Want::Epoll).unwrap();
    let done = core.run(async {
        let upstreams = Upstreams::default();
        let (listener, target) = listens();
        let permit = decide_outbound(OutboundTarget::Known, false).permit();
        let (raw, stream) =
            tokio::join!(upstreams.dial(permit.unwrap(), &target), listener.accept());
        let (_reader, mut writer) = crate::io::h1::split(raw.unwrap());
        let out = writer.out();
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // INITIAL_WINDOW_SIZE is 0; then `GET http://a/`.
        out.extend_from_slice(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        out.extend_from_slice(&[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 1, b'a']);
        writer.flush().await.unwrap();
        let stream = stream.unwrap().into();
        let mut server = Server::new(stream, Windows::Mesh, false).wait_at_most(None);
        let respond = taken(&mut server).await;
        rt::spawn(async move { while let Ok(Some(_)) = server.accept().await {} });
        let responder = Responder::H2 {
            respond,
            is_head: false,
        };
        let reply = crate::http::reply::Reply::denied();
        let mut nothing = Source::Empty;
        let replied = responder.reply(reply, true, &mut nothing);
        rt::timeout(4 * limits::HEAD_MS, replied).await
    });
    assert!(done.is_ok(), "it waits for ever");
}
