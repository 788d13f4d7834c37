//! A turn at the rules of this network namespace: a table of nftables that the kernel lets one socket own at a time (its
//! flag `owner`, Linux 5.12) and removes when that socket is closed, however its process ends. Nobody without
//! `CAP_NET_ADMIN` can take it, nor keep those waiting who have that.

use std::io::{self, Read as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// `NETLINK_NETFILTER`.
const NETFILTER: i32 = 12;
/// `NFNL_SUBSYS_NFTABLES`, and as the first byte of a type.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFT_MSG_NEWTABLE` of nftables.
const NEW_TABLE: u16 = NFTABLES << 8;
/// `NLMSG_ERROR`, which an acknowledgement is as well.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFTA_TABLE_NAME`, `NFTA_TABLE_FLAGS`, `NFT_TABLE_F_OWNER`.
const NAME: u16 = 1;
const FLAGS: u16 = 2;
const OWNER: u32 = 2;
/// Netlink header and `nfgenmsg`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// The kernel answers within the call that asks.
const ANSWER: Duration = Duration::from_secs(1);

/// The turn; it ends with the value.
#[derive(Debug)]
pub struct Turn {
    _socket: Socket,
}

/// Takes the turn of this name; `None` if somebody else has it.
///
/// # Errors
/// As `socket(2)`, and what the kernel says of the table: `EOPNOTSUPP` where it knows no owners.
pub fn take(name: &str) -> io::Result<Option<Turn>> {
    let protocol = Some(Protocol::from(NETFILTER));
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, protocol)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(&request(name))?;
    let mut buffer = [0; 4096];
    let length = socket.read(&mut buffer)?;
    let answer = buffer.get(..length).unwrap_or_default();
    match refusal(answer) {
        Some(0) => Ok(Some(Turn { _socket: socket })),
        Some(libc::EPERM | libc::EEXIST) => Ok(None),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The error number of an answer; 0 is none.
fn refusal(answer: &[u8]) -> Option<i32> {
    let kind = answer.get(4..)?.first_chunk().copied()?;
    let code = answer.get(HEADER..)?.first_chunk().copied()?;
    (u16::from_ne_bytes(kind) == ERROR).then(|| i32::from_ne_bytes(code).wrapping_neg())
}

/// A batch with the one table.
fn request(name: &str) -> Vec<u8> {
    let mut attributes = attribute(NAME, &[name.as_bytes(), &[0]].concat());
    attributes.extend(attribute(FLAGS, &OWNER.to_be_bytes()));
    let create = REQUEST | ACK | CREATE | EXCLUSIVE;
    [
        message(BEGIN, REQUEST, 0, NFTABLES, &[]),
        message(NEW_TABLE, create, INET, 0, &attributes),
        message(END, REQUEST, 0, NFTABLES, &[]),
    ]
    .concat()
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER
        .saturating_add(GENERIC)
        .saturating_add(attributes.len());
    let length = u32::try_from(length).unwrap_or_default();
    let mut out = Vec::new();
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // One question on a socket: nothing to tell apart by a sequence number.
    out.extend([0; 8]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(attributes);
    out
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or_default();
    let mut out = Vec::new();
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests run as root, as those in network namespaces do.
    #[test]
    fn one_has_the_turn_until_it_is_dropped() {
        let name = format!("ringgate-test-{}", std::process::id());
        let first = take(&name).unwrap();
        assert!(first.is_some());
        assert!(take(&name).unwrap().is_none(), "a second at the same time");
        let other = take(&format!("{name}-other")).unwrap();
        assert!(other.is_some(), "another name is another turn");
        drop(first);
        // The kernel removes the table with the socket, not in the same call.
        let again = (0..1000).find_map(|_| {
            std::thread::yield_now();
            take(&name).unwrap()
        });
        assert!(again.is_some());
    }
}
