//! DHCPv4 as a client says and hears it (RFC 2131, options of RFC 2132): messages as bytes, no socket.
//!
//! Anyone on the network may answer. An answer counts if it is whole, meant for this question and this interface, and
//! offers what a host can have; everything else is left alone, and nothing is read past what arrived.

use std::net::{IpAddr, Ipv4Addr};

use crate::appliance::address::{Address, MTU_MAX, MTU_MIN, NAMESERVERS, is_host};
use crate::appliance::arguments::is_hostname;

/// Port of the server.
pub const SERVER: u16 = 67;
/// Port of the client.
pub const CLIENT: u16 = 68;
/// A message without options.
const FIXED: usize = 236;
/// RFC 2131, section 3.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Smallest message that old relays let pass (BOOTP).
const MESSAGE_BYTES: usize = 300;
/// Shortest lease that is taken, in seconds: a shorter one would ask all the time.
const LEASE_MIN_S: u32 = 60;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// Bits of the second word of an IP header by which a packet is a part of one: more follow, or it is not the first.
pub const FRAGMENT: u16 = 0x3fff;

/// Options.
mod option {
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const MTU: u8 = 26;
    pub(super) const WANTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const ASKED: u8 = 55;
    pub(super) const T1: u8 = 58;
    pub(super) const T2: u8 = 59;
    pub(super) const END: u8 = 255;
}

/// Hardware address of an Ethernet interface.
pub type Mac = [u8; 6];

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `DHCPOFFER`
    Offer,
    /// `DHCPACK`
    Ack,
    /// `DHCPNAK`
    Nak,
}

/// An address for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Address, network, gateway, nameservers, MTU.
    pub address: Address,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Name that the server has for the machine.
    pub hostname: Option<String>,
    /// How long it is good, in seconds.
    pub lease_s: u32,
    /// After how long the server is asked for more (T1).
    pub renew_s: u32,
    /// After how long every server is (T2).
    pub rebind_s: u32,
}

/// An answer to a question of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An offer, which is not yet a lease.
    Offer(Lease),
    /// A lease.
    Ack(Lease),
    /// The server refuses what was asked for.
    Nak(Ipv4Addr),
}

/// `DHCPDISCOVER`.
#[must_use]
pub fn discover(xid: u32, mac: Mac) -> Vec<u8> {
    message(1, xid, mac, Ipv4Addr::UNSPECIFIED, &[])
}

/// `DHCPREQUEST` for what was offered.
#[must_use]
pub fn request(xid: u32, mac: Mac, offer: &Lease) -> Vec<u8> {
    let IpAddr::V4(wanted) = offer.address.ip else {
        return discover(xid, mac);
    };
    let more = [
        (option::WANTED, wanted.octets()),
        (option::SERVER, offer.server.octets()),
    ];
    message(3, xid, mac, Ipv4Addr::UNSPECIFIED, &more)
}

/// `DHCPREQUEST` for more time with `own` address; it names neither server nor wanted address (RFC 2131, section 4.3.2).
#[must_use]
pub fn renew(xid: u32, mac: Mac, own: Ipv4Addr) -> Vec<u8> {
    message(3, xid, mac, own, &[])
}

fn message(kind: u8, xid: u32, mac: Mac, own: Ipv4Addr, more: &[(u8, [u8; 4])]) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0]; // BOOTREQUEST, Ethernet, six bytes, no hops
    out.extend(xid.to_be_bytes());
    // The answer shall be broadcast: before the address is ours nothing else arrives everywhere.
    let flags: u16 = if own.is_unspecified() { 0x8000 } else { 0 };
    out.extend([0, 0]);
    out.extend(flags.to_be_bytes());
    out.extend(own.octets());
    out.extend([0; 12]);
    out.extend(mac);
    out.resize(FIXED, 0);
    out.extend(COOKIE);
    out.extend([option::KIND, 1, kind]);
    for (code, value) in more {
        out.extend([*code, 4]);
        out.extend(value);
    }
    let asked = [
        option::MASK,
        option::ROUTER,
        option::DNS,
        option::HOSTNAME,
        option::MTU,
        option::LEASE,
        option::T1,
        option::T2,
    ];
    out.extend([option::ASKED, u8::try_from(asked.len()).unwrap_or_default()]);
    out.extend(asked);
    out.push(option::END);
    out.resize(MESSAGE_BYTES, 0);
    out
}

/// The payload of an IPv4 packet from a server's port to a client's; `None` for any other packet.
///
/// The checksum of UDP is not looked at: where the other end is on the same host it is not computed before a network card
/// does it.
#[must_use]
pub fn payload(packet: &[u8]) -> Option<&[u8]> {
    let first = packet.first()?;
    let (version, header) = (first >> 4, usize::from(first & 0xf) * 4);
    let total = usize::from(u16::from_be_bytes(at(packet, 2)?));
    let fragment = u16::from_be_bytes(at(packet, 6)?) & FRAGMENT;
    if version != 4 || header < 20 || fragment != 0 || packet.get(9) != Some(&UDP) {
        return None;
    }
    let datagram = packet.get(..total)?.get(header..)?;
    let from = u16::from_be_bytes(at(datagram, 0)?);
    let to = u16::from_be_bytes(at(datagram, 2)?);
    let length = usize::from(u16::from_be_bytes(at(datagram, 4)?));
    if from != SERVER || to != CLIENT {
        return None;
    }
    datagram.get(8..length)
}

/// What a server's message says to the question `xid` of `mac`; `None` if it is no answer to it that can be used.
#[must_use]
pub fn answer(bytes: &[u8], xid: u32, mac: Mac) -> Option<Answer> {
    let is_reply = bytes.first_chunk() == Some(&[2, 1, 6]);
    let is_ours = at(bytes, 4).map(u32::from_be_bytes) == Some(xid) && at(bytes, 28) == Some(mac);
    if !is_reply || !is_ours || at(bytes, FIXED) != Some(COOKIE) {
        return None;
    }
    let options = Options::of(bytes)?;
    let server = Ipv4Addr::from(options.exact::<4>(option::SERVER)?);
    if !is_host(server.into()) {
        return None;
    }
    let kind = match options.exact::<1>(option::KIND)? {
        [2] => Kind::Offer,
        [5] => Kind::Ack,
        [6] => Kind::Nak,
        _ => return None,
    };
    if kind == Kind::Nak {
        return Some(Answer::Nak(server));
    }
    let lease = lease(&options, Ipv4Addr::from(at::<4>(bytes, 16)?), server)?;
    Some(if kind == Kind::Offer {
        Answer::Offer(lease)
    } else {
        Answer::Ack(lease)
    })
}

fn lease(options: &Options<'_>, ip: Ipv4Addr, server: Ipv4Addr) -> Option<Lease> {
    let mask = u32::from_be_bytes(options.exact(option::MASK)?);
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    let is_mask = mask.count_ones() == u32::from(prefix) && prefix > 0;
    if !is_mask || !is_host(ip.into()) {
        return None;
    }
    let first = |code| options.addresses(code).find(|ip| is_host(*ip));
    let mtu = options.exact(option::MTU).map(u16::from_be_bytes);
    let mtu = mtu.map(u32::from);
    let address = Address {
        ip: ip.into(),
        prefix,
        gateway: first(option::ROUTER),
        nameservers: options
            .addresses(option::DNS)
            .filter(|ip| is_host(*ip))
            .take(NAMESERVERS)
            .collect(),
        mtu: mtu.filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu)),
    };
    let seconds = |code| options.exact(code).map(u32::from_be_bytes);
    let lease_s = seconds(option::LEASE)?.max(LEASE_MIN_S);
    // RFC 2131, section 4.4.5, for what the server leaves out or says in the wrong order.
    let rebind_s = seconds(option::T2).filter(|t2| (LEASE_MIN_S / 2..lease_s).contains(t2));
    let rebind_s = rebind_s.unwrap_or(lease_s - lease_s / 8);
    let renew_s = seconds(option::T1).filter(|t1| *t1 < rebind_s);
    let renew_s = renew_s.unwrap_or_else(|| (lease_s / 2).min(rebind_s));
    let hostname = options.value(option::HOSTNAME).and_then(|name| {
        let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
        is_hostname(name).then(|| name.to_owned())
    });
    Some(Lease {
        address,
        server,
        hostname,
        lease_s,
        renew_s: renew_s.max(LEASE_MIN_S / 2),
        rebind_s,
    })
}

/// The areas of options, in the order in which they count (RFC 2131, section 4.1).
struct Options<'m>([&'m [u8]; 3]);

impl<'m> Options<'m> {
    fn of(message: &'m [u8]) -> Option<Self> {
        let own = message.get(FIXED + COOKIE.len()..)?;
        let mut areas = [own, &[], &[]];
        let overload = Self(areas).exact::<1>(option::OVERLOAD);
        let [_, file, sname] = &mut areas;
        if let Some([bits @ 1..=3]) = overload {
            if bits & 1 != 0 {
                *file = message.get(108..FIXED)?;
            }
            if bits & 2 != 0 {
                *sname = message.get(44..108)?;
            }
        }
        Some(Self(areas))
    }

    /// The first option of this code.
    fn value(&self, wanted: u8) -> Option<&'m [u8]> {
        self.0.iter().find_map(|area| {
            let mut rest = *area;
            loop {
                let (code, after) = rest.split_first()?;
                match *code {
                    0 => rest = after,
                    option::END => return None,
                    code => {
                        let (length, after) = after.split_first()?;
                        let value = after.get(..usize::from(*length))?;
                        if code == wanted {
                            return Some(value);
                        }
                        rest = after.get(value.len()..)?;
                    }
                }
            }
        })
    }

    /// An option of exactly this length.
    fn exact<const N: usize>(&self, wanted: u8) -> Option<[u8; N]> {
        self.value(wanted)?.try_into().ok()
    }

    fn addresses(&self, wanted: u8) -> impl Iterator<Item = IpAddr> + use<'m> {
        let value = self.value(wanted).unwrap_or_default();
        value
            .chunks_exact(4)
            .filter_map(|ip| Some(Ipv4Addr::from(at::<4>(ip, 0)?).into()))
    }
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
pub(crate) mod tests;
