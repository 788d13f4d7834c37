//! Both ends of a connection over loopback, on both drivers.

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;
use crate::io::rt::testing::{Work, on_both, sockets};

/// A connection between two ends on this core. Tunnels with `baggage` are refused, the others go to `serve`.
struct Pair {
    client: Mux,
    server: Mux,
    /// How the client's end of the connection ended.
    ended: Rc<RefCell<Option<Result<(), MuxError>>>>,
    /// Drops the server's end.
    cut: Rc<Notify>,
}

impl Pair {
    async fn new(serve: fn(Tunnel) -> Work) -> Self {
        let (up, down) = sockets().await;
        let (client, driver) = Mux::client(up.into());
        let ended = Rc::new(RefCell::new(None));
        let tell = Rc::clone(&ended);
        rt::spawn(async move { tell.replace(Some(driver.run().await)).map_or((), drop) });
        let mut connection = ServerConnection::new(down.into());
        let server = connection.mux().clone();
        let cut = Rc::new(Notify::new());
        let cutting = Rc::clone(&cut);
        rt::spawn(async move {
            connection.handshake().await.unwrap();
            let serving = async {
                while let Ok(Some((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.method(), Method::CONNECT);
                    let refused = request.headers().contains_key("baggage");
                    let mut response = Response::new(());
                    if refused {
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                    }
                    let sent = respond.send_response(&response, refused);
                    if sent.is_ok() && !refused {
                        rt::spawn(serve(request.into_body()));
                    }
                }
            };
            tokio::select! {
                () = serving => {}
                () = cutting.notified() => {}
            }
        });
        Self {
            client,
            server,
            ended,
            cut,
        }
    }

    async fn open(&self) -> Tunnel {
        let (response, tunnel) = self.client.open(&connect(false), None).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        tunnel
    }

    async fn ended(&self) -> Result<(), MuxError> {
        until(|| self.ended.borrow().is_some()).await;
        self.ended.take().unwrap()
    }
}

fn connect(refused: bool) -> Request<()> {
    let mut parts = http::uri::Parts::default();
    parts.authority = Some("10.0.0.1:80".parse().unwrap());
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
    if refused {
        let value = http::HeaderValue::from_static("a=b");
        request.headers_mut().insert("baggage", value);
    }
    request
}

async fn until(mut ready: impl FnMut() -> bool) {
    while !ready() {
        rt::sleep(1).await;
    }
}

/// Sends back what comes, piece by piece, without copying.
fn echo(mut tunnel: Tunnel) -> Work {
    Box::pin(async move {
        while let Some(mut chunk) = next(&mut tunnel).await.unwrap() {
            std::future::poll_fn(|cx| tunnel.poll_send(cx, &mut chunk))
                .await
                .unwrap();
        }
        tunnel.shutdown().await.unwrap();
    })
}

async fn next(tunnel: &mut Tunnel) -> io::Result<Option<Bytes>> {
    std::future::poll_fn(|cx| tunnel.poll_chunk(cx)).await
}

async fn read(tunnel: &mut Tunnel) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.map(|_n| all)
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * 31 + n / 251 + seed * 7) % 256).unwrap())
        .collect()
}

#[test]
fn many_tunnels_side_by_side() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(echo).await;
            let left = Rc::new(RefCell::new(60));
            for n in 0..60 {
                let tunnel = pair.open().await;
                let left = Rc::clone(&left);
                rt::spawn(async move {
                    let sent = pattern(n, 150_000 + n * 1000);
                    let (mut from, mut to) = tokio::io::split(tunnel);
                    let want = sent.clone();
                    let writing = async {
                        // In pieces of every size.
                        let mut rest = &sent[..];
                        let mut size = 1;
                        while !rest.is_empty() {
                            let (now, later) = rest.split_at(rest.len().min(size));
                            to.write_all(now).await.unwrap();
                            rest = later;
                            size = size * 3 % 70_001 + 1;
                        }
                        to.shutdown().await.unwrap();
                    };
                    let mut got = Vec::new();
                    let reading = from.read_to_end(&mut got);
                    let ((), n) = tokio::join!(writing, reading);
                    n.unwrap();
                    assert!(got == want);
                    *left.borrow_mut() -= 1;
                });
            }
            until(|| *left.borrow() == 0).await;
            until(|| pair.client.open_streams() + pair.server.open_streams() == 0).await;
            // Idle: nothing is held.
            let (client, server) = (pair.client.0.borrow(), pair.server.0.borrow());
            for state in [&client, &server] {
                assert!(state.slots.is_empty() && state.outbox.is_empty());
                assert!(state.session.output().is_empty());
            }
        })
    });
}

/// Sends eight megabytes, more than the window, then echoes what is asked for in another tunnel.
fn pours(mut tunnel: Tunnel) -> Work {
    Box::pin(async move {
        let mut first = [0; 1];
        tunnel.read_exact(&mut first).await.unwrap();
        if first == *b"e" {
            return echo(tunnel).await;
        }
        tunnel.write_all(&pattern(0, 8 << 20)).await.unwrap();
        tunnel.shutdown().await.unwrap();
    })
}

#[test]
fn a_slow_reader_stops_itself_alone() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(pours).await;
            let mut slow = pair.open().await;
            slow.write_all(b"p").await.unwrap();
            let held = |pair: &Pair| {
                let state = pair.client.0.borrow();
                let slot = state.slots.find(1).unwrap();
                slot.chunks.iter().map(Bytes::len).sum::<usize>() + slot.tail.len()
            };
            let window = limits::HBONE_STREAM_WINDOW_BYTES as usize;
            until(|| held(&pair) == window).await;
            for _ in 0..3 {
                let mut quick = pair.open().await;
                quick.write_all(b"e").await.unwrap();
                quick.write_all(&pattern(3, 300_000)).await.unwrap();
                quick.shutdown().await.unwrap();
                assert!(read(&mut quick).await.unwrap() == pattern(3, 300_000));
            }
            assert_eq!(held(&pair), window, "no byte beyond the window");
            assert!(read(&mut slow).await.unwrap() == pattern(0, 8 << 20));
        })
    });
}

/// As it is told: end, break off, or wait until the client is gone.
fn obeys(mut tunnel: Tunnel) -> Work {
    Box::pin(async move {
        let mut order = [0; 1];
        tunnel.read_exact(&mut order).await.unwrap();
        tunnel.write_all(b"last words").await.unwrap();
        match &order {
            b"s" => tunnel.shutdown().await.unwrap(),
            b"d" => {}
            b"a" => tunnel.abort(),
            _ => {
                std::future::poll_fn(|cx| tunnel.poll_gone(cx)).await;
                let after = tunnel.write_all(b"x").await;
                assert!(after.is_err());
            }
        }
    })
}

#[test]
fn ends_and_breaks_are_told_apart() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(obeys).await;
            for (order, whole) in [(b"s", true), (b"d", true), (b"a", false)] {
                let mut tunnel = pair.open().await;
                tunnel.write_all(order).await.unwrap();
                let mut words = [0; 10];
                tunnel.read_exact(&mut words).await.unwrap();
                let end = read(&mut tunnel).await;
                assert_eq!(end.is_ok(), whole, "{order:?} {end:?}");
            }
            for abort in [true, false] {
                let mut tunnel = pair.open().await;
                tunnel.write_all(b"w").await.unwrap();
                let mut words = [0; 10];
                tunnel.read_exact(&mut words).await.unwrap();
                if abort {
                    tunnel.abort();
                }
                drop(tunnel);
            }
            until(|| pair.server.0.borrow().slots.is_empty()).await;
            let (refusal, body) = pair.client.open(&connect(true), None).await.unwrap();
            assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
            drop(body);
            until(|| pair.client.0.borrow().slots.is_empty()).await;
        })
    });
}

/// What a client says goes out with the CONNECT, and once more with another one after a refusal.
#[test]
fn the_first_bytes_go_along() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(echo).await;
            let (mut app, down) = sockets().await;
            let early = Early::of(&down);
            app.write_all(b"first").await.unwrap();
            let refused = pair.client.open(&connect(true), Some(&early)).await;
            assert_eq!(refused.unwrap().0.status(), StatusCode::UNAUTHORIZED);
            // Another way that takes nothing along gets all of it by the relay.
            early.begin();
            assert_eq!(early.finish().unwrap(), (0, Bytes::from_static(b"first")));
            let (_response, mut tunnel) = pair
                .client
                .open(&connect(false), Some(&early))
                .await
                .unwrap();
            assert_eq!(early.finish().unwrap(), (5, Bytes::new()));
            assert_eq!(next(&mut tunnel).await.unwrap().unwrap(), "first");
            // A way without a tunnel gets all of it as well.
            early.begin();
            let first = Bytes::from_static(b"first");
            assert_eq!(early.finish().unwrap(), (0, first));
            // Nothing more was taken from the client.
            app.write_all(b"more").await.unwrap();
            let mut more = [0; 4];
            let mut down = Stream::from(down);
            down.read_exact(&mut more).await.unwrap();
            assert_eq!(&more, b"more");
        })
    });
}

/// A client that is silent, ends or breaks off before its tunnel is open.
#[test]
fn clients_that_say_nothing_first() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(echo).await;
            for end in [None, Some(false), Some(true)] {
                let (mut app, down) = sockets().await;
                let early = Early::of(&down);
                match end {
                    None => {}
                    Some(false) => app.shutdown().await.unwrap(),
                    Some(true) => {
                        app.reset_on_close();
                        drop(app);
                        down.readable().await.unwrap();
                    }
                }
                let opened = pair.client.open(&connect(false), Some(&early)).await;
                opened.unwrap();
                match end {
                    None => assert_eq!(early.finish().unwrap(), (0, Bytes::new())),
                    Some(false) => {
                        assert_eq!(early.finish().unwrap(), (0, Bytes::new()));
                        let mut rest = Vec::new();
                        assert_eq!(Stream::from(down).read_to_end(&mut rest).await.unwrap(), 0);
                    }
                    Some(true) => {
                        let kind = early.finish().unwrap_err().kind();
                        assert_eq!(kind, io::ErrorKind::ConnectionReset);
                    }
                }
            }
        })
    });
}

#[test]
fn a_lost_connection_is_no_end() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(echo).await;
            let mut tunnel = pair.open().await;
            tunnel.write_all(b"hello").await.unwrap();
            assert_eq!(next(&mut tunnel).await.unwrap().unwrap(), "hello");
            pair.cut.notify_one();
            assert!(read(&mut tunnel).await.is_err());
            assert!(tunnel.write_all(b"x").await.is_err());
            assert!(pair.ended().await.is_err());
            let opened = pair.client.open(&connect(false), None).await;
            assert!(matches!(opened, Err(MuxError::Ended)));
            assert!(!pair.client.is_alive() && pair.client.room_for_streams() == 0);
        })
    });
}

/// A peer that is there and answers no PING, as one whose machine was cut off: nothing else of the connection fails.
#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    on_both(|| {
        Box::pin(async {
            let (up, down) = sockets().await;
            let (client, driver) = Mux::client(up.into());
            let silent = client.clone().silent_within(1, 30);
            let waiting = client.clone();
            let opened = Rc::new(RefCell::new(None));
            let tell = Rc::clone(&opened);
            rt::spawn(async move {
                let answer = waiting.open(&connect(false), None).await;
                *tell.borrow_mut() = Some(answer.map(drop));
            });
            tokio::select! {
                ended = driver.run() => panic!("the connection goes on: {ended:?}"),
                () = silent => {}
            }
            // Who waits at it hears of it, and the pool takes it no more.
            until(|| opened.borrow().is_some()).await;
            let opened = opened.take().unwrap();
            assert!(matches!(opened, Err(MuxError::Ended)), "{opened:?}");
            assert!(!client.is_alive());
            drop(down);
        })
    });
}

#[test]
fn a_peer_that_answers_its_pings_is_kept() {
    on_both(|| {
        Box::pin(async {
            let pair = Pair::new(echo).await;
            let mut tunnel = pair.open().await;
            let answered = async {
                for _ in 0..5 {
                    until(|| pair.client.0.borrow().ponged).await;
                    until(|| !pair.client.0.borrow().ponged).await;
                }
            };
            tokio::select! {
                () = pair.client.clone().silent_within(5, 50_000) => panic!("it answers"),
                () = answered => {}
            }
            tunnel.write_all(b"here").await.unwrap();
            assert_eq!(next(&mut tunnel).await.unwrap().unwrap(), "here");
        })
    });
}

#[test]
fn a_drained_connection_carries_what_it_carries() {
    on_both(|| {
        Box::pin(async {
            for by_server in [true, false] {
                let pair = Pair::new(echo).await;
                let mut tunnel = pair.open().await;
                let side = if by_server {
                    &pair.server
                } else {
                    &pair.client
                };
                side.drain();
                until(|| !pair.client.is_alive()).await;
                let opened = pair.client.open(&connect(false), None).await;
                assert!(matches!(opened, Err(MuxError::Open(OpenError::GoingAway))));
                tunnel.write_all(b"still").await.unwrap();
                tunnel.shutdown().await.unwrap();
                assert_eq!(read(&mut tunnel).await.unwrap(), b"still");
                drop(tunnel);
                assert!(pair.ended().await.is_ok());
            }
        })
    });
}

#[test]
fn payloads_are_handed_on_where_they_are() {
    let (mut slot, mut held) = (Slot::<Tunnels>::default(), 0);
    let chunk = Bytes::from(vec![7; 10_000]);
    slot.push(chunk.slice(..10), &mut held, false);
    slot.push(chunk.slice(10..20), &mut held, false);
    slot.push(chunk.slice(20..30), &mut held, false);
    slot.push(chunk.slice(30..8000), &mut held, false);
    slot.push(chunk.slice(8000..8001), &mut held, false);
    // The first is where it was received, small ones behind it are gathered, large ones are not copied.
    let first = slot.pop(&mut held).unwrap();
    assert_eq!((first.as_ptr(), first.len()), (chunk.as_ptr(), 10));
    assert_eq!(slot.pop(&mut held).unwrap().len(), 20);
    let large = slot.pop(&mut held).unwrap();
    assert_eq!(large.as_ptr(), chunk[30..].as_ptr());
    assert_eq!(slot.pop(&mut held).unwrap(), chunk[..1]);
    assert_eq!(slot.pop(&mut held), None);
    assert_eq!(held, 0);
}

/// A peer whose every payload lies in a buffer of its own makes us hold no more than so many of them.
#[test]
fn buffers_that_wait_for_a_reader_are_bounded() {
    let (mut slots, mut held) = ([Slot::<Tunnels>::default(), Slot::<Tunnels>::default()], 0);
    let chunk = Bytes::from(vec![7; GATHERED_BYTES]);
    for at in 0..2 * HELD_CHUNKS {
        slots[at % 2].push(chunk.clone(), &mut held, false);
    }
    assert_eq!(held, HELD_CHUNKS);
    assert_eq!(
        slots.each_ref().map(|s| s.chunks.len()),
        [HELD_CHUNKS / 2; 2]
    );
    let mut taken = 0;
    for slot in &mut slots {
        while let Some(piece) = slot.pop(&mut held) {
            taken += piece.len();
        }
    }
    assert_eq!((taken, held), (2 * HELD_CHUNKS * GATHERED_BYTES, 0));
}
