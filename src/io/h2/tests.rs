//! Both ends over loopback, on both drivers.

use std::cell::{Cell, RefCell};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;
use crate::h2::frame::{FrameHead, kind};
use crate::h2::message::Request;
use crate::http::h1::{BodyDecoder, Framing};
use crate::io::body::{Sink, Source, Trailers, pump};
use crate::io::h1;
use crate::io::rt;
use crate::io::rt::testing::{self, Work, on_both};
use crate::io::stream::{Half, Stream};
use crate::io::tunnel::Lease;
use crate::upstream::load::Reuse;
use crate::vocab::limits;

/// Both ends of a connection.
async fn sockets() -> (Stream, Stream) {
    let (up, down) = testing::sockets().await;
    (up.into(), down.into())
}

/// Serves every request of a connection in a task of its own.
fn serve(stream: Stream, each: fn(Asked) -> Work) -> Rc<Notify> {
    let drain = Rc::new(Notify::new());
    let told = Rc::clone(&drain);
    rt::spawn(async move {
        let mut server = Server::new(stream, Windows::Edge, true);
        server.handshake().await.unwrap();
        loop {
            let taken = tokio::select! {
                () = told.notified() => {
                    server.drain();
                    continue;
                }
                taken = server.accept() => taken,
            };
            match taken {
                Ok(Some(Taken::Request(asked))) => rt::spawn(each(*asked)),
                Ok(Some(Taken::Malformed(why))) => panic!("{why}"),
                Ok(None) | Err(_) => return,
            }
        }
    });
    drain
}

fn clients(stream: Stream) -> impl Fn() -> Client {
    let (mux, driver) = client::begin(stream);
    rt::spawn(async move { drop(driver.run().await) });
    let streams = Rc::default();
    let kept = Rc::new(pool::Kept(mux));
    move || Client::new(Rc::clone(&kept), Lease::take(&streams), false)
}

fn ask(client: Client, path: &str, end: bool) -> Result<Answering, MuxError> {
    let request = Request {
        method: &Method::POST,
        scheme: "http",
        authority: "a",
        path,
        protocol: None,
        fields: std::iter::empty::<(&HeaderName, &HeaderValue)>(),
        length: None,
    };
    client.request(request, end)
}

async fn whole(mut body: Incoming) -> io::Result<(usize, Option<HeaderMap>)> {
    let mut got = 0;
    loop {
        match std::future::poll_fn(|cx| body.poll_next(cx)).await? {
            Some(Chunk::Data(data)) => got += data.len(),
            Some(Chunk::Trailers(trailers)) => return Ok((got, Some(trailers))),
            None => return Ok((got, None)),
        }
    }
}

/// Answers with what comes, and trailers that count it.
fn echo(asked: Asked) -> Work {
    Box::pin(async move {
        let Asked {
            mut body,
            mut respond,
            ..
        } = asked;
        let none = HeaderMap::new();
        respond
            .send_interim(StatusCode::EARLY_HINTS, &none)
            .unwrap();
        let mut out = respond.send(StatusCode::OK, &none, false).unwrap();
        let mut n = 0_usize;
        while let Some(piece) = std::future::poll_fn(|cx| body.poll_next(cx)).await.unwrap() {
            if let Chunk::Data(data) = piece {
                n += data.len();
                out.send(data).await.unwrap();
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-length", HeaderValue::from(n));
        out.trailers(&trailers).unwrap();
    })
}

#[test]
fn many_streams_at_once_with_all_that_belongs_to_them() {
    on_both(|| {
        Box::pin(async {
            let (up, down) = sockets().await;
            serve(down, echo);
            let client = clients(up);
            let done = Rc::new(Cell::new(0));
            let all = Rc::new(Notify::new());
            let each = [0_usize, 1, 1000, 5000, 16_384, 70_000, 200_000, 1_000_000];
            for size in each.iter().cycle().take(32).copied() {
                let (client, done, all) = (client(), Rc::clone(&done), Rc::clone(&all));
                rt::spawn(async move {
                    let mut asked = ask(client, "/", false).unwrap();
                    let head = asked.answer.head().await.unwrap();
                    assert_eq!(head.status, StatusCode::EARLY_HINTS);
                    let head = asked.answer.head().await.unwrap();
                    assert_eq!(head.status, StatusCode::OK);
                    let body = whole(asked.answer.body());
                    let send = asked.content.send_last(Bytes::from(vec![7; size]));
                    let (sent, got) = tokio::join!(send, body);
                    sent.unwrap();
                    let (n, trailers) = got.unwrap();
                    assert_eq!(n, size);
                    assert_eq!(trailers.unwrap()["x-length"], size.to_string());
                    done.set(done.get() + 1);
                    all.notify_one();
                });
            }
            while done.get() < 32 {
                all.notified().await;
            }
        })
    });
}

/// Reads nothing where the path says so.
fn echo_or_not(asked: Asked) -> Work {
    if asked.head.path.as_ref().is_some_and(|p| p == "/slow") {
        return waiting(asked);
    }
    echo(asked)
}

#[test]
fn a_slow_stream_holds_up_no_other() {
    on_both(|| {
        Box::pin(async {
            let (up, down) = sockets().await;
            serve(down, echo_or_not);
            let client = clients(up);
            let mut held = Vec::new();
            for _ in 0..30 {
                let mut slow = ask(client(), "/slow", false).unwrap();
                // As much as its window takes.
                slow.content
                    .send(Bytes::from(vec![7; 65_536]))
                    .await
                    .unwrap();
                let more = rt::timeout(20, slow.content.send(Bytes::from_static(b"x"))).await;
                assert!(more.is_err(), "beyond its window: {more:?}");
                held.push(slow);
            }
            let mut quick = ask(client(), "/", false).unwrap();
            let body = async {
                while quick.answer.head().await.unwrap().status != StatusCode::OK {}
                whole(quick.answer.body()).await
            };
            let sent = quick.content.send_last(Bytes::from(vec![7; 4_000_000]));
            let (sent, got) = tokio::join!(sent, body);
            sent.unwrap();
            assert_eq!(got.unwrap().0, 4_000_000);
        })
    });
}

#[test]
fn what_breaks_off_is_an_error_and_what_is_given_up_is_told() {
    on_both(|| {
        Box::pin(async {
            let (up, down) = sockets().await;
            // It aborts its answer, after some of it.
            serve(down, |asked| {
                Box::pin(async move {
                    let Asked { mut respond, .. } = asked;
                    let none = HeaderMap::new();
                    let mut out = respond.send(StatusCode::OK, &none, false).unwrap();
                    out.send(Bytes::from_static(b"half")).await.unwrap();
                    std::future::poll_fn(|cx| out.poll_gone(cx)).await;
                })
            });
            let client = clients(up);
            let mut given_up = ask(client(), "/", true).unwrap();
            assert_eq!(given_up.answer.head().await.unwrap().status, 200);
            drop(given_up);
            // It has to be told, or it would wait for ever and its place with it.
            for _ in 0..3 {
                let mut one = ask(client(), "/", false).unwrap();
                assert_eq!(one.answer.head().await.unwrap().status, 200);
                one.content.abort();
                let error = whole(one.answer.body()).await.unwrap_err();
                assert!(error.to_string().contains("ended") || error.to_string().contains("reset"));
            }
        })
    });
}

#[test]
fn a_server_that_goes_takes_no_more_and_finishes_what_it_has() {
    on_both(|| {
        Box::pin(async {
            let (up, down) = sockets().await;
            let drain = serve(down, echo);
            let client = clients(up);
            let mut open = ask(client(), "/", false).unwrap();
            while open.answer.head().await.unwrap().status != StatusCode::OK {}
            drain.notify_one();
            // Until the server's word has come, streams are still taken or refused unseen.
            loop {
                match ask(client(), "/", true) {
                    Err(error) => {
                        assert!(is_unprocessed(&error), "{error}");
                        break;
                    }
                    Ok(mut asked) => match asked.answer.head().await {
                        Ok(_) => rt::yield_turn().await,
                        Err(error) => assert!(is_unprocessed(&error), "{error}"),
                    },
                }
            }
            open.content
                .send_last(Bytes::from_static(b"more"))
                .await
                .unwrap();
            assert_eq!(whole(open.answer.body()).await.unwrap().0, 4);
        })
    });
}

/// Requests that wait, so that their streams stay open.
fn waiting(asked: Asked) -> Work {
    Box::pin(async move {
        let Asked {
            body, mut respond, ..
        } = asked;
        std::future::poll_fn(|cx| respond.poll_gone(cx)).await;
        drop(body);
    })
}

#[test]
fn a_pool_shares_connections_and_makes_another_when_they_are_full() {
    on_both(|| {
        Box::pin(async {
            let pool = Rc::new(Pool::<u32>::default());
            let dials = Rc::new(Cell::new(0));
            let get = async |key: u32| {
                let dial = async || {
                    dials.set(dials.get() + 1);
                    let (up, down) = sockets().await;
                    serve(down, waiting);
                    Ok::<_, io::Error>(up)
                };
                match pool.client(key, Reuse::default(), dial).await {
                    Ok(client) => client,
                    Err(NoClient::Dial(error)) => panic!("{error}"),
                    Err(NoClient::Waited) => panic!("nothing failed"),
                }
            };
            // At once, and one connection for them.
            let (one, two, three) = tokio::join!(get(1), get(1), get(1));
            assert_eq!(dials.get(), 1);
            assert!(!one.is_reused() && two.is_reused() && three.is_reused());
            drop((one, two, three));
            let most = limits::H2_EDGE_STREAMS as usize;
            let mut held = Vec::new();
            for _ in 0..most {
                held.push(ask(get(1).await, "/", true).unwrap());
            }
            assert_eq!(dials.get(), 1);
            let beyond = get(1).await;
            assert_eq!(dials.get(), 2);
            held.pop();
            drop(get(1).await);
            drop(beyond);
            assert_eq!(dials.get(), 2, "the place of one that ended");
            drop(get(2).await);
            assert_eq!(dials.get(), 3, "of another key");
            // What is in use stays, and what was not used for long goes.
            pool.sweep(|_used, _reuse| false);
            drop(get(1).await);
            assert_eq!(dials.get(), 3);
            drop(get(2).await);
            assert_eq!(dials.get(), 4);
        })
    });
}

/// A process that ends forgets its pool again and again. Who is still about to ask (for a WebSocket, once the far end has
/// said its settings) does so, and the connection ends with that.
#[test]
fn who_has_not_asked_yet_may_although_the_pool_is_cleared() {
    on_both(|| {
        Box::pin(async {
            let pool = Pool::<u32>::default();
            let settles = Rc::new(Notify::new());
            let (over, told) = (Rc::new(Notify::new()), Rc::clone(&settles));
            let ended = Rc::clone(&over);
            let dial = async || {
                let (up, down) = sockets().await;
                rt::spawn(async move {
                    told.notified().await;
                    let mut server = Server::new(down, Windows::Edge, true);
                    server.handshake().await.unwrap();
                    while let Ok(Some(taken)) = server.accept().await {
                        let Taken::Request(asked) = taken else {
                            panic!("it is well formed");
                        };
                        rt::spawn(five(*asked));
                    }
                    ended.notify_one();
                });
                Ok::<_, io::Error>(up)
            };
            let Ok(client) = pool.client(1, Reuse::default(), dial).await else {
                panic!("it can be dialled");
            };
            pool.clear();
            settles.notify_one();
            client.settled().await.unwrap();
            assert!(client.takes_extended_connect());
            pool.clear();
            let mut asked = ask(client, "/", true).unwrap();
            assert_eq!(asked.answer.head().await.unwrap().status, StatusCode::OK);
            assert_eq!(whole(asked.answer.body()).await.unwrap().0, 5);
            drop(asked);
            over.notified().await;
        })
    });
}

#[test]
fn a_connection_carries_as_many_requests_as_it_may() {
    on_both(|| {
        Box::pin(async {
            let pool = Pool::<u32>::default();
            let dials = Cell::new(0);
            let get = async |reuse: Reuse| {
                let dial = async || {
                    dials.set(dials.get() + 1);
                    let (up, down) = sockets().await;
                    serve(down, waiting);
                    Ok::<_, io::Error>(up)
                };
                match pool.client(1, reuse, dial).await {
                    Ok(client) => ask(client, "/", true).unwrap(),
                    Err(_) => panic!("it can be dialled"),
                }
            };
            let two = Reuse {
                idle_ms: None,
                requests: Some(2),
            };
            let mut held = Vec::new();
            for dialled in [1, 1, 2, 2, 3] {
                held.push(get(two).await);
                assert_eq!(dials.get(), dialled);
            }
            // What the first ones carry goes on.
            for Answering {
                mut answer,
                content: _content,
            } in held
            {
                let waits = rt::timeout(20, answer.head()).await;
                assert!(waits.is_err(), "{waits:?}");
            }
            let idle = Reuse {
                idle_ms: Some(1),
                requests: None,
            };
            rt::sleep(20).await;
            drop(get(idle).await);
            assert_eq!(dials.get(), 4, "the third was idle for too long");
        })
    });
}

#[test]
fn who_waits_for_a_dial_that_fails_does_not_dial_once_more() {
    on_both(|| {
        Box::pin(async {
            let pool = Pool::<u32>::default();
            let (dials, go) = (Cell::new(0), Notify::new());
            let get = async || {
                let dial = async || {
                    dials.set(dials.get() + 1);
                    go.notified().await;
                    Err::<Stream, _>(io::Error::other("no"))
                };
                matches!(
                    pool.client(1, Reuse::default(), dial).await,
                    Err(NoClient::Waited)
                )
            };
            let later = async {
                rt::yield_turn().await;
                go.notify_one();
            };
            let (one, two, ()) = tokio::join!(get(), get(), later);
            assert_eq!((one, two, dials.get()), (false, true, 1));
            go.notify_one();
            assert!(!get().await, "the next one tries");
            assert_eq!(dials.get(), 2);
        })
    });
}

/// Answers with five bytes that come over HTTP/1 with their length.
fn five(asked: Asked) -> Work {
    Box::pin(async move {
        let Asked { mut respond, .. } = asked;
        let (up, mut far) = sockets().await;
        far.write_all(b"12345").await.unwrap();
        let (mut reader, _writer) = h1::split(up);
        let mut source = Source::H1(&mut reader, BodyDecoder::new(Framing::Length(5)));
        let out = respond.send(StatusCode::OK, &HeaderMap::new(), false);
        let mut sink = Sink::H2(out.unwrap());
        pump(&mut source, &mut sink, Trailers::Clean, |_n| ())
            .await
            .unwrap();
    })
}

/// Hands on what comes, and keeps it.
async fn overhear(mut from: Half, mut to: Half, seen: Rc<RefCell<Vec<u8>>>) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        seen.borrow_mut().extend_from_slice(&bytes[..n]);
        to.write_all(&bytes[..n]).await.unwrap();
    }
}

/// A client's end of a connection that is served by `each`, and what the server sends on it.
async fn overheard(each: fn(Asked) -> Work) -> (Stream, Rc<RefCell<Vec<u8>>>) {
    let (up, near) = sockets().await;
    let (far, down) = sockets().await;
    serve(down, each);
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let seen = Rc::new(RefCell::new(Vec::new()));
    rt::spawn(overhear(near_in, far_out, Rc::default()));
    rt::spawn(overhear(far_in, near_out, Rc::clone(&seen)));
    (up, seen)
}

/// Heads of the frames that were sent whole, and the first bytes of their payloads as a number.
fn frames_and_words(mut seen: &[u8]) -> Vec<(FrameHead, u32)> {
    let mut frames = Vec::new();
    while let Some((head, behind)) = seen.split_first_chunk() {
        let head = FrameHead::parse(*head);
        let Some((payload, rest)) = behind.split_at_checked(head.len as usize) else {
            break;
        };
        let word = payload.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        frames.push((head, word));
        seen = rest;
    }
    frames
}

fn frames(seen: &[u8]) -> Vec<FrameHead> {
    let frames = frames_and_words(seen).into_iter();
    frames.map(|(head, _)| head).collect()
}

#[test]
fn the_end_goes_with_the_last_data() {
    on_both(|| {
        Box::pin(async {
            let (up, seen) = overheard(five).await;
            let mut asked = ask(clients(up)(), "/", true).unwrap();
            asked.answer.head().await.unwrap();
            let (n, trailers) = whole(asked.answer.body()).await.unwrap();
            assert_eq!((n, trailers), (5, None));
            let data: Vec<_> = frames(&seen.borrow())
                .into_iter()
                .filter(|frame| frame.kind == kind::DATA)
                .map(|frame| (frame.len, frame.flags))
                .collect();
            assert_eq!(data, [(5, 1)], "one DATA frame, with END_STREAM");
        })
    });
}

/// Answers before the request is whole, and lets the client end it for long, or for no time where the path says so.
fn early(asked: Asked) -> Work {
    Box::pin(async move {
        let Asked {
            head,
            body,
            mut respond,
        } = asked;
        let ending = respond.ending();
        let mut out = respond
            .send(StatusCode::FORBIDDEN, &HeaderMap::new(), false)
            .unwrap();
        out.send_last(Bytes::from_static(b"no")).await.unwrap();
        drop((out, respond, body));
        let short = head.path.is_some_and(|path| path == "/short");
        ending.linger_within(if short { 1 } else { 600_000 }).await;
    })
}

/// What was sent on a stream: types and flags, and the codes of resets.
fn on_stream(seen: &RefCell<Vec<u8>>, id: u32) -> Vec<(u8, u32)> {
    let frames = frames_and_words(&seen.borrow()).into_iter();
    frames
        .filter(|(head, _)| head.stream == id)
        .map(|(head, word)| match head.kind {
            kind::RST_STREAM => (head.kind, word),
            kind => (kind, u32::from(head.flags)),
        })
        .collect()
}

#[test]
fn an_early_answer_is_whole_before_the_client_is_told_to_stop() {
    const ANSWER: [(u8, u32); 2] = [(kind::HEADERS, 4), (kind::DATA, 1)];
    on_both(|| {
        Box::pin(async {
            let (up, seen) = overheard(early).await;
            let client = clients(up);
            let told = async |asked: &mut Answering| {
                let head = asked.answer.head().await.unwrap();
                assert_eq!(head.status, StatusCode::FORBIDDEN);
                assert_eq!(whole(asked.answer.body()).await.unwrap(), (2, None));
            };
            // Who ends its request is not reset. It may send what it has leave for, which is not renewed.
            let mut ends = ask(client(), "/", false).unwrap();
            told(&mut ends).await;
            let mut goes_on = ask(client(), "/", false).unwrap();
            told(&mut goes_on).await;
            let window = Bytes::from(vec![7; 65_536]);
            goes_on.content.send(window).await.unwrap();
            ends.content
                .send_last(Bytes::from_static(b"x"))
                .await
                .unwrap();
            // Who does not is told, and not that anything were wrong.
            let mut stops = ask(client(), "/short", false).unwrap();
            told(&mut stops).await;
            std::future::poll_fn(|cx| stops.content.poll_gone(cx)).await;
            assert_eq!(on_stream(&seen, 1), ANSWER);
            assert_eq!(on_stream(&seen, 3), ANSWER);
            let reset = (kind::RST_STREAM, Code::NO_ERROR.0);
            assert_eq!(on_stream(&seen, 5), [ANSWER[0], ANSWER[1], reset]);
            // What they have sent and nobody reads takes none of the connection's window.
            let mut held = Vec::new();
            for _ in 0..60 {
                let mut one = ask(client(), "/", false).unwrap();
                told(&mut one).await;
                let window = Bytes::from(vec![7; 65_536]);
                one.content.send(window).await.unwrap();
                held.push(one);
            }
        })
    });
}
