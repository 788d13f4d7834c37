//! Listening sockets, and where a captured connection wanted to go.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::io::rt::{self, Acceptor, Tcp};
use crate::vocab::addr::{ListenAddr, OriginalDst};

/// Accept queue of one listener.
const BACKLOG: i32 = 4096;

/// Binds a listener that other cores may bind as well (`SO_REUSEPORT`).
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub fn bind(addr: ListenAddr) -> io::Result<Acceptor> {
    let socket = Socket::new(
        Domain::for_address(addr.0),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    rt::stream_options(&socket)?;
    socket.bind(&addr.0.into())?;
    socket.listen(BACKLOG)?;
    Acceptor::new(socket)
}

/// Whether an accept error is about that one connection, which its peer gave up; else the process or the host lacks
/// something, and the next accept would fail at once again.
#[must_use]
pub fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Raises the limit of open files to what the operator allows; the limit that holds then.
///
/// # Errors
/// As `setrlimit(2)`.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    #[expect(unsafe_code, reason = "std has no resource limits")]
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is initialised, and the call only reads it.
    #[expect(unsafe_code, reason = "std has no resource limits")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Where a connection was going: the NAT table's answer if it was redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captured {
    /// Redirected by the kernel.
    Redirected(OriginalDst),
    /// Made to the listener itself; the local address stands in.
    Direct(OriginalDst),
}

impl Captured {
    /// The address, however it was found.
    #[must_use]
    pub fn address(self) -> OriginalDst {
        match self {
            Self::Redirected(dst) | Self::Direct(dst) => dst,
        }
    }
}

/// Reads the original destination (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
///
/// # Errors
/// The connection is gone.
pub fn original_destination(tcp: &Tcp) -> io::Result<Captured> {
    let local = tcp.local()?;
    let canonical = |a: SocketAddr| OriginalDst(SocketAddr::new(a.ip().to_canonical(), a.port()));
    let found = if local.ip().to_canonical().is_ipv4() {
        tcp.option(Socket::original_dst_v4)
    } else {
        tcp.option(Socket::original_dst_v6)
    };
    let found = found.ok().and_then(|addr| addr.as_socket());
    Ok(match found {
        Some(dst) if canonical(dst) != canonical(local) => Captured::Redirected(canonical(dst)),
        _ => Captured::Direct(canonical(local)),
    })
}
