//! Datagrams that are answered from the address they came to: a client takes no answer from another one, and the kernel
//! would choose whichever of the host's addresses is nearest (RFC 1123 6.1.3.5, `ip(7)`, RFC 3542 6).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A UDP socket that knows which of the host's addresses a datagram came to.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    v4: bool,
}

/// Who sent a datagram, and the address of this host that it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Sender.
    pub(super) client: SocketAddr,
    /// Address of this host.
    pub(super) own: IpAddr,
}

impl Datagrams {
    /// Takes a bound socket. Runs in a tokio runtime.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        let v4 = socket.local_addr()?.is_ipv4();
        // A socket of both families is told of IPv4 by mapped addresses.
        if v4 {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, v4 })
    }

    /// Waits for a datagram; its length, cut to that of `buffer`.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `InvalidData` where the kernel does not tell the addresses.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Ends)> {
        let fd = self.socket.as_raw_fd();
        let mut space = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
        let call = || {
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::empty();
            let got = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
            let client = got.address.as_ref().and_then(std_address);
            let own = got.cmsgs()?.find_map(|message| destination(&message));
            let ends = client.zip(own).map(|(client, own)| Ends { client, own });
            Ok((got.bytes, ends.ok_or(io::ErrorKind::InvalidData)?))
        };
        self.socket.async_io(Interest::READABLE, call).await
    }

    /// Answers.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub(super) async fn answer(&self, bytes: &[u8], ends: Ends) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        let to = SockaddrStorage::from(ends.client);
        let (v4, v6);
        let from = if let (IpAddr::V4(own), true) = (ends.own, self.v4) {
            v4 = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(own.octets()),
                },
                ipi_addr: in_addr { s_addr: 0 },
            };
            ControlMessage::Ipv4PacketInfo(&v4)
        } else {
            let own = match ends.own {
                IpAddr::V4(own) => own.to_ipv6_mapped(),
                IpAddr::V6(own) => own,
            };
            v6 = in6_pktinfo {
                ipi6_addr: in6_addr {
                    s6_addr: own.octets(),
                },
                ipi6_ifindex: 0,
            };
            ControlMessage::Ipv6PacketInfo(&v6)
        };
        let call = || {
            let parts = [IoSlice::new(bytes)];
            Ok(sendmsg(fd, &parts, &[from], MsgFlags::empty(), Some(&to))?)
        };
        self.socket.async_io(Interest::WRITABLE, call).await?;
        Ok(())
    }
}

fn std_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|a| SocketAddr::V6((*a).into()))
    })
}

fn destination(message: &ControlMessageOwned) -> Option<IpAddr> {
    if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
        // Of a broadcast the address that answers, of all else the one that was asked.
        return Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
    }
    if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
        return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
    }
    None
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Protocol, SockAddr, Type};

    use super::*;

    fn bound(address: &str) -> (Datagrams, u16) {
        let address: SocketAddr = address.parse().unwrap();
        let kind = Some(Protocol::UDP);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, kind).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SockAddr::from(address)).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (Datagrams::new(socket).unwrap(), port)
    }

    /// A client at `from` asks the server of all addresses at `asked`, and is answered from there.
    async fn check(listen: &str, from: &str, asked: &str) {
        let (server, port) = bound(listen);
        let client = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0))
            .await
            .unwrap();
        let asked: IpAddr = asked.parse().unwrap();
        client.send_to(b"who?", (asked, port)).await.unwrap();
        let mut buffer = [0; 8];
        let (length, ends) = server.receive(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"who?");
        assert_eq!(ends.own.to_canonical(), asked);
        server.answer(b"me", ends).await.unwrap();
        let (length, source) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"me");
        assert_eq!(source, SocketAddr::new(asked, port), "{listen}");
    }

    /// Of addresses of one interface the kernel answers from that which the client has, or from the first.
    #[tokio::test]
    async fn answers_come_from_the_address_that_was_asked() {
        check("0.0.0.0:0", "127.83.19.1", "127.83.19.2").await;
        check("[::]:0", "127.83.19.1", "127.83.19.2").await;
        check("[::]:0", "::1", "::1").await;
        check("127.83.19.3:0", "127.83.19.1", "127.83.19.3").await;
    }
}
