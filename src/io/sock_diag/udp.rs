//! Who may have sent a datagram: the UDP sockets of this machine with its port.
//!
//! A question by exact addresses would not do: the address that a datagram was sent to is not known once it is
//! translated, and of several sockets on one port the kernel would name one.

use std::io::{self, Read as _};
use std::net::SocketAddr;

use super::{
    BY_FAMILY, ERROR, EXTENSIONS, Found, HEADER, OwnerError, QUERY_BYTES, REQUEST, at, canonical,
    message, number, open,
};

/// `NLM_F_ROOT | NLM_F_MATCH`: all that match.
const DUMP: u16 = 0x300;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// What the kernel hands out at a time.
const PART_BYTES: usize = 32 * 1024;
/// Sockets of one port that are looked at; nobody has so many.
const SOCKETS: usize = 256;

/// The question for the sockets of a family with a local port.
#[must_use]
pub fn encode(family: libc::c_int, port: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(QUERY_BYTES);
    let length = u32::try_from(QUERY_BYTES).unwrap_or_default();
    out.extend(length.to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend((REQUEST | DUMP).to_ne_bytes());
    // Sequence number, port of the sender.
    out.extend([0; 8]);
    let udp = u8::try_from(libc::IPPROTO_UDP).unwrap_or_default();
    out.extend([u8::try_from(family).unwrap_or_default(), udp, EXTENSIONS, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(port.to_be_bytes());
    out.resize(QUERY_BYTES, 0);
    out
}

/// Reads one part of the answer into `found`; whether more follow.
///
/// # Errors
/// `OwnerError`.
pub fn decode(mut part: &[u8], found: &mut Vec<Found>) -> Result<bool, OwnerError> {
    while !part.is_empty() {
        let header = number(part, 0).zip(at(part, 4).map(u16::from_ne_bytes));
        let (length, kind) = header.ok_or(OwnerError::Answer)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let body = part.get(HEADER..length).ok_or(OwnerError::Answer)?;
        match kind {
            DONE => return Ok(false),
            BY_FAMILY if found.len() < SOCKETS => {
                found.push(message(body).ok_or(OwnerError::Answer)?);
            }
            ERROR => {
                let code = at(body, 0).map_or(0, i32::from_ne_bytes);
                let error = io::Error::from_raw_os_error(code.wrapping_neg());
                return Err(OwnerError::Io(error));
            }
            _ => return Err(OwnerError::Answer),
        }
        let next = length.next_multiple_of(4);
        part = part.get(next..).unwrap_or_default();
    }
    Ok(true)
}

/// Whether a datagram from `client` to one of `ports` may be of this socket: it is bound to that address or to all, and
/// connected to one of the ports or to nobody.
fn may_have_sent(socket: &Found, client: SocketAddr, ports: &[u16]) -> bool {
    let bound = socket.local.port() == client.port()
        && (socket.local.ip() == client.ip() || socket.local.ip().is_unspecified());
    bound && (socket.remote.port() == 0 || ports.contains(&socket.remote.port()))
}

/// The sockets of this machine that may have sent a datagram from `client` to one of `ports`, whatever the address.
///
/// # Errors
/// `OwnerError::Io` or `OwnerError::Answer`.
pub fn senders(client: SocketAddr, ports: &[u16]) -> Result<Vec<Found>, OwnerError> {
    let client = canonical(client);
    // Sockets of IPv6 send by IPv4, too.
    let families: &[libc::c_int] = match client {
        SocketAddr::V4(_) => &[libc::AF_INET, libc::AF_INET6],
        SocketAddr::V6(_) => &[libc::AF_INET6],
    };
    let mut found = Vec::new();
    let mut part = vec![0; PART_BYTES];
    for family in families {
        // One for each, so that nothing of another answer is in it.
        let mut kernel = open().map_err(OwnerError::Io)?;
        kernel
            .send(&encode(*family, client.port()))
            .map_err(OwnerError::Io)?;
        loop {
            // The kernel has the next part ready whenever it is read.
            let length = kernel.read(&mut part).map_err(OwnerError::Io)?;
            if !decode(part.get(..length).unwrap_or_default(), &mut found)? {
                break;
            }
        }
    }
    found.retain(|socket| may_have_sent(socket, client, ports));
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_types, reason = "a test may block")]

    use std::net::UdpSocket;
    use std::os::linux::fs::MetadataExt as _;

    use super::*;

    /// Inodes of the sockets that may have sent from where `socket` is, at `ip`.
    fn ask(socket: &UdpSocket, ip: &str, ports: &[u16]) -> Vec<u32> {
        let port = socket.local_addr().unwrap().port();
        let from = SocketAddr::new(ip.parse().unwrap(), port);
        let all = senders(from, ports).unwrap();
        assert!(all.iter().all(|f| f.uid == own_uid() && f.cgroup.is_some()));
        all.iter().map(|found| found.inode).collect()
    }

    fn own_uid() -> u32 {
        std::fs::metadata("/proc/self").unwrap().st_uid()
    }

    #[test]
    fn the_kernel_knows_who_may_have_sent() {
        let to_all = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(ask(&to_all, "127.83.19.5", &[53]).len(), 1);
        let both = UdpSocket::bind("[::]:0").unwrap();
        assert_eq!(ask(&both, "127.83.19.5", &[53]).len(), 1);
        assert_eq!(ask(&both, "::1", &[53]).len(), 1);
        let one = UdpSocket::bind("127.83.19.5:0").unwrap();
        assert_eq!(ask(&one, "127.83.19.5", &[53]).len(), 1);
        assert!(ask(&one, "127.83.19.6", &[53]).is_empty());
        one.connect("127.83.19.7:53").unwrap();
        assert_eq!(ask(&one, "127.83.19.5", &[53]).len(), 1);
        assert!(ask(&one, "127.83.19.5", &[54]).is_empty());
        // Somebody else on the same port may have sent as well.
        let port = one.local_addr().unwrap().port();
        if let Ok(second) = UdpSocket::bind(("127.83.19.6", port)) {
            assert_ne!(
                ask(&second, "127.83.19.6", &[53]),
                ask(&one, "127.83.19.5", &[53])
            );
        }
        drop(one);
        let gone = SocketAddr::new("127.83.19.5".parse().unwrap(), port);
        assert!(senders(gone, &[53]).unwrap().is_empty());
    }

    #[test]
    fn answers_are_read_to_the_byte() {
        assert_eq!(encode(libc::AF_INET, 5).len(), QUERY_BYTES);
        let whole = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes
        };
        let mut body = vec![0; super::super::MESSAGE];
        body[0] = 2;
        body[4..6].copy_from_slice(&9_u16.to_be_bytes());
        let socket = whole(BY_FAMILY, &body);
        let mut found = Vec::new();
        assert!(decode(&[socket.clone(), socket.clone()].concat(), &mut found).unwrap());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].local, "0.0.0.0:9".parse().unwrap());
        let last = [socket.clone(), whole(DONE, &[0; 4])].concat();
        assert!(!decode(&last, &mut found).unwrap());
        for cut in 1..socket.len() {
            let answer = decode(&socket[..cut], &mut Vec::new());
            assert!(matches!(answer, Err(OwnerError::Answer)), "{cut} bytes");
        }
        let refused = whole(ERROR, &(-libc::EPERM).to_ne_bytes());
        assert!(matches!(
            decode(&refused, &mut found),
            Err(OwnerError::Io(_))
        ));
        let many = socket.repeat(SOCKETS + 1);
        assert!(decode(&many, &mut Vec::new()).is_err());
    }
}
