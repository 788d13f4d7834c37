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
fn what_is_given_back_is_taken_again_if_it_may() {
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
            // Nothing goes before the next request, and a peer that ends it by now is not asked.
            for (left, kept_ms, taken) in [
                (&b""[..], u64::MAX, true),
                (b"GET", u64::MAX, false),
                (b"", 60_000, true),
                (b"", 0, false),
            ] {
                let asked = upstreams
                    .request(permit(), &target, Version::H1.into())
                    .await;
                let Ok((Upstream::H1(mut connection), _again)) = asked else {
                    panic!("no connection");
                };
                connection.writer.out().extend_from_slice(left);
                connection.kept_ms = kept_ms;
                upstreams.give_back(connection);
                let pooled = upstreams.pooled(permit(), &target, Version::H1.into());
                assert_eq!(pooled.is_ok(), taken, "{left:?} {kept_ms}");
            }
        });
    }
}
