//! What tests of connections share: both drivers, and both ends of a connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Acceptor, ConnectOptions, Core, Tcp, Want, connect, timeout};

/// What a task of a test does.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Runs a test on a core of each driver, for a minute at most.
pub(crate) fn on_both(test: impl AsyncFn()) {
    for want in [Want::Epoll, Want::IoUring] {
        let mut core = Core::build(want).unwrap();
        let done = core.run(async { timeout(60_000, test()).await });
        done.expect("ends in time");
    }
}

/// Both ends of a connection over loopback: the one that has connected, and the one that was accepted.
pub(crate) async fn sockets() -> (Tcp, Tcp) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any: SocketAddr = "127.83.19.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(8).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let acceptor = Acceptor::new(socket).unwrap();
    let up = connect(address, ConnectOptions::default()).await.unwrap();
    (up, acceptor.accept().await.unwrap())
}
