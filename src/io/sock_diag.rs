//! Who owns a local TCP connection: the kernel's own answer, asked by exact addresses (`sock_diag(7)`).
//!
//! Reading and writing the messages is pure; the socket answers within the call that asks, so that nothing waits.

pub mod udp;

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// Every extension that a bit can ask for; the class of `net_cls` is among them.
const EXTENSIONS: u8 = 0xff;
/// Netlink header and `inet_diag_req_v2`.
pub const QUERY_BYTES: usize = HEADER + 56;
const HEADER: usize = 16;
/// `inet_diag_msg`.
const MESSAGE: usize = 72;
/// `INET_DIAG_MARK`, `INET_DIAG_CLASS_ID`, `INET_DIAG_CGROUP_ID`.
const MARK: u16 = 15;
const CLASS_ID: u16 = 17;
const CGROUP_ID: u16 = 21;
/// An answer with all attributes is a few hundred bytes.
const ANSWER_BYTES: usize = 4096;
/// Answers to earlier questions that one question reads past.
const STALE: usize = 8;

/// What the kernel says about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// TCP state.
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// User who made it; 0 as well where nobody has it any more.
    pub uid: u32,
    /// Its inode; 0 where no process has it.
    pub inode: u32,
    /// Control group (version 2) in which it was made.
    pub cgroup: Option<u64>,
    /// `SO_MARK`, to those who may set it.
    pub mark: Option<u32>,
    /// Class of `net_cls`.
    pub class_id: Option<u32>,
}

/// Why nobody is known to own a connection.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The kernel cannot be asked.
    #[error("the kernel cannot be asked who owns the connection")]
    Io(#[source] io::Error),
    /// There is no such socket on this machine.
    #[error("no socket of this machine made the connection")]
    Absent,
    /// Its process has gone; the kernel reports user 0 for such a socket.
    #[error("the process that made the connection has gone")]
    Orphan,
    /// The kernel's answer is about another socket, or cannot be read.
    #[error("the kernel's answer is not about this connection")]
    Answer,
}

fn state_is_open(state: u8) -> bool {
    // ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: it was connected, and still has an inode if it
    // has an owner. Never LISTEN, which the kernel finds where there is no connection.
    matches!(state, 1 | 4 | 5 | 8 | 9 | 11)
}

impl Found {
    /// Itself, if a process has it and it is the connection from `local` to `remote`.
    ///
    /// # Errors
    /// `OwnerError`.
    pub fn owned(self, local: SocketAddr, remote: SocketAddr) -> Result<Self, OwnerError> {
        if !state_is_open(self.state) || self.local != local || self.remote != remote {
            return Err(OwnerError::Answer);
        }
        if self.inode == 0 {
            return Err(OwnerError::Orphan);
        }
        Ok(self)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// The question for the socket that connected from `local` to `remote`, both of one family.
#[must_use]
pub fn encode(sequence: u32, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut out = Vec::with_capacity(QUERY_BYTES);
    let length = u32::try_from(QUERY_BYTES).unwrap_or_default();
    out.extend(length.to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(REQUEST.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    out.extend([u8::try_from(family).unwrap_or_default(), tcp, EXTENSIONS, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(remote.port().to_be_bytes());
    out.extend(octets(local.ip()));
    out.extend(octets(remote.ip()));
    out.extend(0_u32.to_ne_bytes());
    // INET_DIAG_NOCOOKIE, twice.
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(u32::MAX.to_ne_bytes());
    out
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    at(bytes, offset).map(u32::from_ne_bytes)
}

fn address(family: u8, bytes: &[u8], offset: usize, port: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(at(bytes, port)?);
    let ip = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(at::<4>(bytes, offset)?).into(),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(at::<16>(bytes, offset)?)),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

/// Reads one answer, header included; `None` if it answers another question.
///
/// # Errors
/// `OwnerError::Absent` if the kernel says so, `OwnerError::Answer` for what cannot be read.
pub fn decode(bytes: &[u8], sequence: u32) -> Option<Result<Found, OwnerError>> {
    if number(bytes, 8) != Some(sequence) {
        return None;
    }
    Some(read(bytes))
}

fn read(bytes: &[u8]) -> Result<Found, OwnerError> {
    let header = number(bytes, 0).zip(at(bytes, 4).map(u16::from_ne_bytes));
    let (length, kind) = header.ok_or(OwnerError::Answer)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let body = bytes.get(HEADER..length).ok_or(OwnerError::Answer)?;
    match kind {
        ERROR => {
            let code = at(body, 0).map(i32::from_ne_bytes);
            Err(match code.map(i32::wrapping_neg) {
                Some(libc::ENOENT) => OwnerError::Absent,
                Some(code) if code > 0 => OwnerError::Io(io::Error::from_raw_os_error(code)),
                _ => OwnerError::Answer,
            })
        }
        BY_FAMILY => message(body).ok_or(OwnerError::Answer),
        _ => Err(OwnerError::Answer),
    }
}

fn message(body: &[u8]) -> Option<Found> {
    let [family, state] = at(body, 0)?;
    let mut found = Found {
        state,
        local: address(family, body, 8, 4)?,
        remote: address(family, body, 24, 6)?,
        uid: number(body, 64)?,
        inode: number(body, 68)?,
        cgroup: None,
        mark: None,
        class_id: None,
    };
    let mut rest = body.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (at(rest, 0), at(rest, 2)) {
        let (length, kind) = (u16::from_ne_bytes(length), u16::from_ne_bytes(kind));
        let value = rest.get(4..usize::from(length))?;
        match kind {
            MARK => found.mark = Some(number(value, 0)?),
            CLASS_ID => found.class_id = Some(number(value, 0)?),
            CGROUP_ID => found.cgroup = Some(u64::from_ne_bytes(at(value, 0)?)),
            _ => {}
        }
        let next = usize::from(length).checked_next_multiple_of(4)?;
        rest = rest.get(next..).unwrap_or_default();
    }
    Some(found)
}

/// A core's own socket to the kernel; opened with the first question.
#[derive(Debug, Default)]
pub struct SockDiag {
    socket: Option<Socket>,
    sequence: u32,
}

impl SockDiag {
    /// The socket of this machine that connected from `local` to `remote`.
    ///
    /// # Errors
    /// `OwnerError`: fail closed.
    pub fn owner(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<Found, OwnerError> {
        let (local, remote) = (canonical(local), canonical(remote));
        self.sequence = self.sequence.wrapping_add(1);
        let asked = self.ask(local, remote);
        if matches!(asked, Err(OwnerError::Io(_))) {
            // The next question gets a socket without anything left in it.
            self.socket = None;
        }
        asked?.owned(local, remote)
    }

    fn ask(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<Found, OwnerError> {
        let sequence = self.sequence;
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(open().map_err(OwnerError::Io)?),
        };
        let query = encode(sequence, local, remote);
        socket.send(&query).map_err(OwnerError::Io)?;
        let mut buffer = [0; ANSWER_BYTES];
        for _ in 0..STALE {
            // The kernel has answered before it returned from the call above.
            let length = socket.read(&mut buffer).map_err(OwnerError::Io)?;
            let answer = buffer.get(..length).unwrap_or_default();
            if let Some(answer) = decode(answer, sequence) {
                return answer;
            }
        }
        Err(OwnerError::Answer)
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(SOCK_DIAG)),
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt as _;

    use super::*;

    fn own_uid() -> u32 {
        std::fs::metadata("/proc/self").unwrap().st_uid()
    }

    fn check(address: &str) {
        #![expect(clippy::disallowed_types, reason = "a test may block")]
        let listener = std::net::TcpListener::bind(address).unwrap();
        let to = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(to).unwrap();
        let from = client.local_addr().unwrap();
        let mut kernel = SockDiag::default();
        let found = kernel.owner(from, to).unwrap();
        assert_eq!(
            (found.local, found.remote),
            (canonical(from), canonical(to))
        );
        assert_eq!(found.uid, own_uid());
        assert!(found.cgroup.is_some_and(|id| id > 0));
        // The accepted side is another socket: asked the other way round.
        let (accepted, _peer) = listener.accept().unwrap();
        assert_ne!(kernel.owner(to, from).unwrap().inode, found.inode);
        // Where there is no connection the kernel offers the listener, which is not it.
        let nobody = SocketAddr::new(from.ip(), 1);
        assert!(matches!(kernel.owner(to, nobody), Err(OwnerError::Answer)));
        assert!(matches!(kernel.owner(nobody, to), Err(OwnerError::Absent)));
        // Once the client has closed, user 0 is reported.
        drop(client);
        let gone = kernel.owner(from, to);
        assert!(
            matches!(gone, Err(OwnerError::Orphan | OwnerError::Answer)),
            "{gone:?}"
        );
        drop(accepted);
    }

    #[test]
    fn the_kernel_knows_who_connected() {
        check("127.0.0.1:0");
        check("[::1]:0");
        check("[::ffff:127.0.0.1]:0");
    }

    #[test]
    fn answers_are_read_to_the_byte() {
        let (local, remote) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:6".parse().unwrap());
        let query = encode(9, local, remote);
        assert_eq!(query.len(), QUERY_BYTES);
        let mut body = vec![0; MESSAGE];
        body[0] = 2;
        body[1] = 1;
        body[4..8].copy_from_slice(&[0, 5, 0, 6]);
        body[8..12].copy_from_slice(&[10, 0, 0, 1]);
        body[24..28].copy_from_slice(&[10, 0, 0, 2]);
        body[64..68].copy_from_slice(&1001_u32.to_ne_bytes());
        body[68..72].copy_from_slice(&77_u32.to_ne_bytes());
        for (kind, value) in [(15_u16, 7_u32), (17, 0x1_0005), (3, 1)] {
            body.extend(8_u16.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.to_ne_bytes());
        }
        body.extend(12_u16.to_ne_bytes());
        body.extend(21_u16.to_ne_bytes());
        body.extend(0x1_0000_0042_u64.to_ne_bytes());
        let whole = |kind: u16, body: &[u8]| {
            let mut bytes = u32::try_from(HEADER + body.len())
                .unwrap()
                .to_ne_bytes()
                .to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(9_u32.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body);
            bytes
        };
        let bytes = whole(BY_FAMILY, &body);
        let found = decode(&bytes, 9).unwrap().unwrap();
        let told = (
            found.uid,
            found.inode,
            found.mark,
            found.class_id,
            found.cgroup,
        );
        assert_eq!(
            told,
            (1001, 77, Some(7), Some(0x1_0005), Some(0x1_0000_0042))
        );
        assert_eq!(found.owned(local, remote).unwrap(), found);
        assert!(matches!(
            found.owned(remote, local),
            Err(OwnerError::Answer)
        ));
        let orphan = Found {
            inode: 0,
            uid: 0,
            ..found
        };
        assert!(matches!(
            orphan.owned(local, remote),
            Err(OwnerError::Orphan)
        ));
        let listening = Found { state: 10, ..found };
        assert!(matches!(
            listening.owned(local, remote),
            Err(OwnerError::Answer)
        ));
        assert!(decode(&bytes, 8).is_none());
        for cut in 0..bytes.len() {
            let answer = decode(&bytes[..cut], 9);
            assert!(!matches!(answer, Some(Ok(_))), "{cut} bytes are no answer");
        }
        let refused = whole(ERROR, &(-libc::ENOENT).to_ne_bytes());
        assert!(matches!(decode(&refused, 9), Some(Err(OwnerError::Absent))));
    }
}
