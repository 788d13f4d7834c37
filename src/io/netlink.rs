//! Netlink: questions to the kernel that it acknowledges, and what it announces to a group (`netlink(7)`, RFC 3549).
//!
//! For the time before the cores run and for threads beside them: a question waits for its answer.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Header of a message.
const HEADER: usize = 16;
/// Header of an attribute.
const ATTRIBUTE: usize = 4;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_ACK: u16 = 1 | 4;
/// `NLMSG_ERROR`, which is the acknowledgement, too.
const ERROR: u16 = 2;
/// Largest answer that is read.
const ANSWER_BYTES: usize = 16 * 1024;
/// Messages that one question reads past, at most.
const READS: usize = 64;
/// How long the kernel may take for an answer; it has it ready when the question was sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bits of an attribute's kind that say how it is coded.
const KIND: u16 = 0x3fff;

/// A message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_seq`: that of the question.
    pub sequence: u32,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// A socket to one netlink family.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket to `family` (`NETLINK_ROUTE`, `NETLINK_GENERIC`).
    ///
    /// # Errors
    /// The system's.
    pub fn open(family: i32) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(family)),
        )?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let sequence = 0;
        Ok(Self { socket, sequence })
    }

    /// Sends one request of `kind` with more `flags` (`NLM_F_CREATE` and such), and reads what the kernel says until it has
    /// acknowledged it.
    ///
    /// # Errors
    /// What the kernel refuses it with, or no acknowledgement.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let query = encode(kind, REQUEST_ACK | flags, self.sequence, body)?;
        self.socket.send(&query)?;
        let mut told = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES];
        for _ in 0..READS {
            let length = self.socket.read(&mut buffer)?;
            for message in messages(buffer.get(..length).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.kind != ERROR {
                    told.push(message);
                    continue;
                }
                return match number(&message.body, 0) {
                    Some(0) => Ok(told),
                    Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Takes part in what is announced to `group`, and waits for it without a limit from here on.
    ///
    /// # Errors
    /// The system's.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.socket.set_read_timeout(None)?;
        let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or_default();
        // SAFETY: the descriptor is that of a socket which lives, `group` is readable for `length` bytes.
        #[expect(unsafe_code, reason = "no crate has this option of netlink")]
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                length,
            )
        };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// What comes next; waits for it.
    ///
    /// # Errors
    /// The system's; `ENOBUFS` where more was announced than was read.
    pub fn wait(&mut self) -> io::Result<Vec<Message>> {
        let mut buffer = vec![0; ANSWER_BYTES];
        let length = self.socket.read(&mut buffer)?;
        Ok(messages(buffer.get(..length).unwrap_or_default()))
    }
}

fn encode(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes()); // the kernel fills the port in
    out.extend(body);
    Ok(out)
}

/// Appends an attribute, and what fills it up to a multiple of four bytes.
pub fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A value is some bytes of our own: addresses, names.
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, kind and value, up to the first that is not whole.
#[must_use]
pub fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let (Some(length), Some(kind)) = (at::<2>(rest, 0), at::<2>(rest, 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        let Some(value) = rest.get(ATTRIBUTE..length) else {
            break;
        };
        found.push((u16::from_ne_bytes(kind) & KIND, value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The messages in `bytes`, up to the first that is not whole.
fn messages(bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let (Some(length), Some(kind), Some(sequence)) =
        (at::<4>(rest, 0), at::<2>(rest, 4), at::<4>(rest, 8))
    {
        let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADER..length) else {
            break;
        };
        found.push(Message {
            kind: u16::from_ne_bytes(kind),
            sequence: u32::from_ne_bytes(sequence),
            body: body.to_vec(),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn number(bytes: &[u8], offset: usize) -> Option<i32> {
    at(bytes, offset).map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RTM_GETLINK` for the loopback interface, which every network namespace has.
    #[test]
    fn the_kernel_answers_and_refuses() {
        let mut kernel = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        let mut by_index = vec![0; 16];
        by_index[4] = 1;
        let told = kernel.ask(18, 0, &by_index).unwrap();
        assert_eq!(told.len(), 1);
        let name = attributes(&told[0].body[16..])
            .into_iter()
            .find(|(kind, _)| *kind == 3) // IFLA_IFNAME
            .map(|(_, value)| value.to_vec());
        assert_eq!(name.as_deref(), Some(b"lo\0".as_slice()));

        by_index[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let refused = kernel.ask(18, 0, &by_index).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
        // The next question is not answered by what is left of the last one.
        by_index[4..8].copy_from_slice(&1_i32.to_ne_bytes());
        assert_eq!(kernel.ask(18, 0, &by_index).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_whole_is_not_read() {
        let mut body = Vec::new();
        attribute(&mut body, 3, b"abc");
        attribute(&mut body, 0x8007, b"");
        assert_eq!(body.len(), 12);
        assert_eq!(attributes(&body), [(3, b"abc".as_slice()), (7, b"")]);
        let whole = encode(5, 1, 9, &body).unwrap();
        let twice = [whole.as_slice(), &whole].concat();
        assert_eq!(messages(&twice).len(), 2);
        for cut in 0..twice.len() {
            let few = messages(&twice[..cut]);
            assert!(few.len() <= cut / whole.len(), "{cut}");
            for message in few {
                assert_eq!(message.body, body);
            }
        }
        for cut in 0..body.len() {
            assert!(attributes(&body[..cut]).len() < 2, "{cut}");
        }
        // Lengths that are too small end the walk.
        assert_eq!(attributes(&[0; 8]), []);
        assert_eq!(attributes(&[3, 0, 1, 0]), []);
        assert_eq!(messages(&[0; 64]), []);
    }
}
