//! What a provider says before its answer, on both drivers.

use std::net::SocketAddr;
use std::pin::Pin;

use http::Method;
use smallvec::smallvec;
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::io::h1::split;
use crate::io::h2::{Server, Taken, Windows};
use crate::io::rt::{self, Acceptor, ConnectOptions, Core, Want};
use crate::policy::{OutboundTarget, decide_outbound};
use crate::vocab::addr::UpstreamAddr;

fn on_both(test: fn() -> Pin<Box<dyn Future<Output = ()>>>) {
    for want in [Want::Epoll, Want::IoUring] {
        let mut core = Core::build(want).unwrap();
        let done = core.run(async move { rt::timeout(60_000, test()).await });
        done.expect("ends in time");
    }
}

fn listen() -> (Acceptor, Target) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any: SocketAddr = "127.91.45.1:0".parse().unwrap();
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

async fn ask(
    upstreams: &Upstreams,
    target: &Target,
    version: Version,
) -> Result<Answer, CallError> {
    let question = Call {
        method: Method::GET,
        target: "/".to_owned(),
        authority: "a".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let permit = decide_outbound(OutboundTarget::Known, false).permit();
    call(upstreams, permit.unwrap(), target, version, &question).await
}

/// What comes of a question to an HTTP/2 provider that says so often that it is at work.
async fn after(interim: usize, answers: bool) -> Result<Answer, CallError> {
    let (acceptor, target) = listen();
    rt::spawn(async move {
        let stream = acceptor.accept().await.unwrap().into();
        let mut server = Server::new(stream, Windows::Mesh, false);
        server.handshake().await.unwrap();
        let Ok(Some(Taken::Request(mut asked))) = server.accept().await else {
            panic!("no question");
        };
        let none = HeaderMap::new();
        for _ in 0..interim {
            let sent = asked.respond.send_interim(StatusCode::PROCESSING, &none);
            if sent.is_err() || server.flush().await.is_err() {
                return;
            }
            // Each by itself, so that they do not wait together.
            rt::sleep(5).await;
        }
        if answers {
            drop(asked.respond.send(StatusCode::OK, &none, true));
            while let Ok(Some(_)) = server.accept().await {}
        }
    });
    ask(&Upstreams::default(), &target, Version::H2).await
}

#[test]
fn interim_answers_over_http_2_are_counted() {
    on_both(|| {
        Box::pin(async {
            let most = limits::INTERIM_RESPONSES;
            assert_eq!(after(most, true).await.unwrap().status, StatusCode::OK);
            let error = after(most + 1, true).await.unwrap_err();
            // Where they came together nobody has counted them but the connection.
            let counted = matches!(error, CallError::Interim | CallError::Framing(_));
            assert!(counted, "{error:?}");
            after(1, false).await.unwrap_err();
        })
    });
}

/// Tells something over a connection that has carried a request before and is closed now without an answer: what comes of
/// it, and how many connections there were.
async fn told(method: Method, wants: Wants) -> (Result<StatusCode, CallError>, usize) {
    let (acceptor, target) = listen();
    let connections = std::rc::Rc::new(Cell::new(0));
    let count = std::rc::Rc::clone(&connections);
    rt::spawn(async move {
        loop {
            let (mut reader, mut writer) = split(acceptor.accept().await.unwrap().into());
            count.set(count.get() + 1);
            reader.head(h1::parse_request).await.unwrap().unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            writer.out().extend_from_slice(answer);
            writer.flush().await.unwrap();
            if count.get() == 1 {
                reader.head(h1::parse_request).await.unwrap().unwrap();
            } else {
                std::future::pending::<()>().await;
            }
        }
    });
    let upstreams = Upstreams::default();
    ask(&upstreams, &target, Version::H1).await.unwrap();
    let what = Call {
        method,
        target: "/".to_owned(),
        authority: "a".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let permit = decide_outbound(OutboundTarget::Known, false)
        .permit()
        .unwrap();
    let manner = (Version::H1.into(), wants);
    let told = asked(&upstreams, permit, &target, manner, &what).await;
    (told.map(|answer| answer.status), connections.get())
}

#[test]
fn a_copy_goes_once_but_where_it_does_no_harm() {
    on_both(|| {
        Box::pin(async {
            for method in [Method::POST, Method::PUT, Method::DELETE] {
                let (told, connections) = told(method, Wants::Status).await;
                assert!(matches!(told, Err(CallError::Silent)), "{told:?}");
                assert_eq!(connections, 1);
            }
            for (method, wants) in [
                (Method::GET, Wants::Status),
                // A question for a verdict.
                (Method::POST, Wants::Answer),
            ] {
                let (told, connections) = told(method, wants).await;
                assert_eq!(told.unwrap(), StatusCode::OK);
                assert_eq!(connections, 2);
            }
        })
    });
}

#[test]
fn who_has_said_something_is_not_asked_twice() {
    on_both(|| {
        Box::pin(async {
            let (acceptor, target) = listen();
            rt::spawn(async move {
                let (mut reader, mut writer) = split(acceptor.accept().await.unwrap().into());
                for says in [
                    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    "HTTP/1.1 103 Early Hints\r\n\r\n",
                ] {
                    reader.head(h1::parse_request).await.unwrap().unwrap();
                    writer.out().extend_from_slice(says.as_bytes());
                    writer.flush().await.unwrap();
                }
            });
            let upstreams = Upstreams::default();
            ask(&upstreams, &target, Version::H1).await.unwrap();
            let error = ask(&upstreams, &target, Version::H1).await.unwrap_err();
            assert!(matches!(error, CallError::Io(_)), "{error:?}");
        })
    });
}
