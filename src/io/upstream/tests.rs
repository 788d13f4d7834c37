//! What is pooled, on both drivers.

use smallvec::smallvec;
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::io::rt::{Acceptor, Core, Want};
use crate::policy::{OutboundTarget, decide_outbound};

fn permit() -> Permit {
    let decided = decide_outbound(OutboundTarget::Known, false);
    decided.permit().unwrap()
}

#[test]
fn nothing_goes_before_the_next_request() {
    for want in [Want::Epoll, Want::IoUring] {
        let mut core = Core::build(want).unwrap();
        core.run(async {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let any: SocketAddr = "127.91.46.1:0".parse().unwrap();
            socket.bind(&any.into()).unwrap();
            socket.listen(8).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let _acceptor = Acceptor::new(socket).unwrap();
            let target = Target::Plain {
                addresses: smallvec![UpstreamAddr(address)],
                options: ConnectOptions::default(),
                source: None,
            };
            let upstreams = Upstreams::default();
            for left in [&b""[..], b"GET"] {
                let asked = upstreams
                    .request(permit(), &target, Version::H1.into())
                    .await;
                let Ok((Upstream::H1(mut connection), _again)) = asked else {
                    panic!("no connection");
                };
                connection.writer.out().extend_from_slice(left);
                upstreams.give_back(connection);
                let pooled = upstreams.pooled(permit(), &target, Version::H1.into());
                assert_eq!(pooled.is_ok(), left.is_empty());
            }
        });
    }
}
