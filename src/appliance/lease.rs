//! The DHCPv4 client: asks, takes the first lease that can be used, and keeps it (RFC 2131, section 4.4).

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::appliance::dhcp::{self, Answer, CLIENT, Lease, Mac, SERVER};
use crate::appliance::network::{self, Interface};
use crate::appliance::os;
use crate::io::{clock, random};

/// `ETH_P_IP`, as the socket call wants it.
const ETH_P_IP: u16 = 0x0800_u16.to_be();
/// Waits for an answer, in seconds; each twice the one before (RFC 2131, section 4.1), and together what a start may take.
const WAITS_S: [u64; 6] = [1, 2, 4, 8, 16, 30];
/// Largest packet that is read.
const PACKET_BYTES: usize = 2048;
/// Between two tries to get any lease again, once the last one has ended.
const AGAIN: Duration = Duration::from_secs(10);

/// What is sent and heard on one interface.
#[derive(Debug)]
pub struct Wire {
    send: Socket,
    /// Packets as they come in: an answer to an address that is not ours yet is given to no other socket.
    hear: Socket,
}

/// The kernel lets through what may be an answer, so that the machine's other packets do not fill the socket: whole
/// datagrams of UDP over IPv4 from the server's port to the client's. Classic BPF (`linux/filter.h`), from the IP header on;
/// the jumps count instructions.
fn answers_alone() -> [SockFilter; 14] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND: u16 = 0x48;
    const HEADER_LENGTH: u16 = 0xb1;
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let (client, server) = (u32::from(CLIENT), u32::from(SERVER));
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(IF_EQUAL, 0, 10, 0x40), // version 4
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(IF_EQUAL, 0, 8, dhcp::UDP.into()),
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(IF_ANY_BIT, 6, 0, dhcp::FRAGMENT.into()),
        SockFilter::new(HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_HALF_BEHIND, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 0, 3, server),
        SockFilter::new(LOAD_HALF_BEHIND, 0, 0, 2),
        SockFilter::new(IF_EQUAL, 0, 1, client),
        SockFilter::new(RETURN, 0, 0, u32::MAX), // all of it
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

impl Wire {
    /// Opens its sockets; `own` is the address that the interface has, if it has one.
    ///
    /// # Errors
    /// The system's.
    pub fn open(interface: &Interface, own: Ipv4Addr) -> io::Result<Self> {
        let send = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        send.set_reuse_address(true)?;
        send.set_broadcast(true)?;
        send.bind_device(Some(interface.name.as_bytes()))?;
        send.bind(&SocketAddrV4::new(own, CLIENT).into())?;
        let kind = Protocol::from(i32::from(ETH_P_IP));
        let hear = Socket::new(Domain::PACKET, Type::DGRAM, Some(kind))?;
        hear.attach_filter(&answers_alone())?;
        // What came before the filter was there; no more comes now.
        hear.set_nonblocking(true)?;
        while (&hear).read(&mut [0; 1]).is_ok() {}
        hear.set_nonblocking(false)?;
        Ok(Self { send, hear })
    }

    /// The next packet, from its IP header on, of those that may be answers; `None` if none came in `wait`.
    ///
    /// # Errors
    /// The system's.
    pub fn next(&self, wait: Duration) -> io::Result<Option<Vec<u8>>> {
        let until = clock::now() + wait;
        let mut packet = [0; PACKET_BYTES];
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.hear.set_read_timeout(Some(left))?;
            match (&self.hear).read(&mut packet) {
                Ok(length) => {
                    return Ok(Some(packet.get(..length).unwrap_or_default().to_vec()));
                }
                Err(error) if is_nothing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends `question` to `server` and waits for what `take` accepts.
    fn ask<T>(
        &self,
        (question, server): (&[u8], Ipv4Addr),
        wait: Duration,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        self.send
            .send_to(question, &SocketAddrV4::new(server, SERVER).into())?;
        let until = clock::now() + wait;
        while let Some(packet) = self.next(until.saturating_duration_since(clock::now()))? {
            if let Some(taken) = dhcp::payload(&packet).and_then(&take) {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn xid() -> anyhow::Result<u32> {
    let bytes = random::bytes().context("no random bytes")?;
    Ok(u32::from_ne_bytes(bytes))
}

/// A lease for the interface, which is up and has no address.
///
/// # Errors
/// Nobody gives one within a minute.
pub fn acquire(interface: &Interface) -> anyhow::Result<Lease> {
    let (mac, xid) = (interface.mac, xid()?);
    let wire = Wire::open(interface, Ipv4Addr::UNSPECIFIED).context("sockets of DHCP")?;
    let everyone = Ipv4Addr::BROADCAST;
    for wait in WAITS_S.map(Duration::from_secs) {
        let offered = |bytes: &[u8]| match dhcp::answer(bytes, xid, mac)? {
            Answer::Offer(lease) => Some(lease),
            Answer::Ack(_) | Answer::Nak(_) => None,
        };
        let question = dhcp::discover(xid, mac);
        let Some(offer) = wire.ask((&question, everyone), wait, offered)? else {
            tracing::info!(interface = interface.name, waited = ?wait, "no DHCP server has answered");
            continue;
        };
        let question = dhcp::request(xid, mac, &offer);
        let server = offer.server;
        match wire.ask((&question, everyone), wait, |bytes| {
            settled(bytes, xid, mac, Some(server))
        })? {
            Some(Some(lease)) => return Ok(lease),
            Some(None) => tracing::warn!(%server, "the DHCP server takes its offer back"),
            None => tracing::info!(%server, "the DHCP server has not confirmed its offer"),
        }
    }
    bail!(
        "no DHCP server gives `{}` an address; `ringgate.net=ADDR/LEN,gw=ADDR` sets one",
        interface.name
    )
}

/// `Some(None)` is a refusal.
fn settled(bytes: &[u8], xid: u32, mac: Mac, of: Option<Ipv4Addr>) -> Option<Option<Lease>> {
    let (server, settled) = match dhcp::answer(bytes, xid, mac)? {
        Answer::Ack(lease) => (lease.server, Some(lease)),
        Answer::Nak(server) => (server, None),
        Answer::Offer(_) => return None,
    };
    of.is_none_or(|of| of == server).then_some(settled)
}

/// Keeps `lease` on a thread of its own, for the life of the machine.
///
/// # Errors
/// The thread cannot be started.
pub fn keep(interface: Interface, lease: Lease) -> anyhow::Result<()> {
    os::thread("dhcp", move || {
        let mut lease = lease;
        loop {
            lease = match extend(&interface, &lease) {
                Some(next) => next,
                None => anew(&interface, &lease),
            };
        }
    })
}

/// Waits until it is time, and asks for more; `None` once the address is ours no longer.
fn extend(interface: &Interface, lease: &Lease) -> Option<Lease> {
    let IpAddr::V4(own) = lease.address.ip else {
        return None;
    };
    let seconds = |s: u32| Duration::from_secs(s.into());
    let since = clock::now();
    os::pause(seconds(lease.renew_s));
    while clock::now() < since + seconds(lease.lease_s) {
        let is_late = clock::now() >= since + seconds(lease.rebind_s);
        let (to, of) = if is_late {
            (Ipv4Addr::BROADCAST, None)
        } else {
            (lease.server, Some(lease.server))
        };
        match ask_more(interface, own, to, of) {
            Ok(Some(Some(next))) => {
                if next.address != lease.address {
                    network::change(interface, &lease.address, &next.address);
                }
                return Some(next);
            }
            Ok(Some(None)) => {
                tracing::error!(%own, "the DHCP server takes the address back");
                return None;
            }
            Ok(None) => tracing::warn!(%own, server = %to, "DHCP: no answer to a renewal"),
            Err(error) => tracing::warn!(%own, "DHCP: {error:#}"),
        }
        // Half of what is left, a minute at least (RFC 2131, section 4.4.5).
        let end = if is_late {
            lease.lease_s
        } else {
            lease.rebind_s
        };
        let left = (since + seconds(end)).saturating_duration_since(clock::now());
        os::pause((left / 2).max(Duration::from_secs(60)).min(left));
    }
    tracing::error!(%own, "the lease of the address has ended");
    None
}

/// Asks `to` for more time with `own` address, which the interface has; an answer counts from the server `of` alone, if that
/// is known. `None` is no answer, `Some(None)` a refusal.
///
/// # Errors
/// The system's.
pub fn ask_more(
    interface: &Interface,
    own: Ipv4Addr,
    to: Ipv4Addr,
    of: Option<Ipv4Addr>,
) -> anyhow::Result<Option<Option<Lease>>> {
    let (mac, xid) = (interface.mac, xid()?);
    let wire = Wire::open(interface, own).context("sockets of DHCP")?;
    let question = dhcp::renew(xid, mac, own);
    let wait = Duration::from_secs(10);
    Ok(wire.ask((&question, to), wait, |bytes| settled(bytes, xid, mac, of))?)
}

/// Gives the address up and asks until there is another lease.
fn anew(interface: &Interface, old: &Lease) -> Lease {
    network::withdraw(interface, &old.address);
    loop {
        match acquire(interface) {
            Ok(lease) => {
                network::settle(interface, &lease.address);
                return lease;
            }
            Err(error) => tracing::error!("{error:#}"),
        }
        os::pause(AGAIN);
    }
}
