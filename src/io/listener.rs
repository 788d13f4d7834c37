//! Listening sockets, and where a captured connection wanted to go.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::io::rt::{Acceptor, Tcp};
use crate::io::{clock, tcp_options};
use crate::vocab::addr::{ListenAddr, OriginalDst};

/// Accept queue of one listener.
const BACKLOG: i32 = 4096;
/// Longest path of a socket (`sun_path` and its closing NUL, unix(7)).
const UNIX_PATH_BYTES: usize = 107;

/// How a listener is bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions {
    /// It accepts connections to addresses of others, which capture diverts to it (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// `SO_MARK` of what it accepts, so that capture lets its answers pass.
    pub mark: Option<u32>,
}

/// The path to bind a unix socket by: absolute where it fits, for whoever takes the socket over may be in another directory.
#[must_use]
pub fn unix_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).ok();
    let fits = absolute.filter(|path| path.as_os_str().len() <= UNIX_PATH_BYTES);
    fits.unwrap_or_else(|| path.to_owned())
}

/// Binds a listener that other cores may bind as well (`SO_REUSEPORT`).
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub fn bind(addr: ListenAddr) -> io::Result<Acceptor> {
    Acceptor::new(socket(addr, ListenOptions::default())?)
}

/// The socket of such a listener; both options need `CAP_NET_ADMIN`.
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub fn socket(addr: ListenAddr, options: ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(addr.0),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    prepare(&socket, addr, options)?;
    socket.bind(&addr.0.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Binds the first socket of an address, which nobody may have yet: others of this process may share it from then on
/// (`SO_REUSEPORT`), and other processes of its user too, so that it is this bind alone that finds an address taken.
///
/// # Errors
/// As `bind(2)` and `listen(2)`; `AddrInUse` where somebody listens.
pub fn claim(addr: ListenAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(addr.0);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.0.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Whether two listeners cannot both be the first of their port.
#[must_use]
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Any address of version 6 is any of version 4, too.
    let covers = |any: SocketAddr, one: SocketAddr| {
        any.ip().is_unspecified() && (any.is_ipv6() || one.is_ipv4())
    };
    let same = one.ip() == other.ip() || covers(one, other) || covers(other, one);
    one.port() == other.port() && same
}

/// Gives a listener its options, whether or not it is bound already.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn prepare(socket: &Socket, addr: ListenAddr, options: ListenOptions) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    tcp_options::apply(socket)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if options.transparent {
        set_transparent(socket, addr.0.is_ipv4())?;
    }
    Ok(())
}

/// One option covers both families of the kernel's socket; a socket of IPv6 has a name of its own for it.
fn set_transparent(socket: &Socket, v4: bool) -> io::Result<()> {
    if v4 {
        return socket.set_ip_transparent_v4(true);
    }
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the descriptor is open while `socket` is borrowed, and the value outlives the call that reads it.
    #[expect(unsafe_code, reason = "no crate in use has IPV6_TRANSPARENT")]
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const on).cast(),
            size,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ports that a client's address is taken with: none that its own connections usually come from, for the two would be
/// told apart by nothing.
const TAKEN_PORTS: std::ops::Range<u16> = 10_240..32_768;
/// Ports tried in a row before the kernel chooses.
const TAKEN_TRIES: u32 = 16;

/// A datagram socket needs a port to be connected to (RFC 863); nothing is sent there.
const DISCARD_PORT: u16 = 9;

thread_local! {
    static NEXT_PORT: Cell<u16> = const { Cell::new(0) };
}

/// Binds a socket that has yet to connect to an address of another machine.
///
/// # Errors
/// As `setsockopt(2)` and `bind(2)`.
pub(super) fn take_address(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    set_transparent(socket, ip.is_ipv4())?;
    for _ in 0..TAKEN_TRIES {
        match socket.bind(&SocketAddr::new(ip, next_port()).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    socket.bind(&SocketAddr::new(ip, 0).into())
}

fn next_port() -> u16 {
    let span = TAKEN_PORTS.end.saturating_sub(TAKEN_PORTS.start);
    NEXT_PORT.with(|next| {
        let nth = match next.get() {
            // Another process of before, or another core, took other ports last.
            0 => u16::from_ne_bytes(
                clock::unix()
                    .subsec_micros()
                    .to_ne_bytes()
                    .first_chunk()
                    .copied()
                    .unwrap_or_default(),
            ),
            nth => nth,
        };
        next.set(nth.wrapping_add(1).max(1));
        TAKEN_PORTS
            .start
            .saturating_add(nth.checked_rem(span).unwrap_or(0))
    })
}

/// Whether what is sent to `ip` stays in this network namespace: the kernel sends it from that very address then. Nothing is
/// sent to find out.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    let from = || {
        let to = SocketAddr::new(ip, DISCARD_PORT);
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&to.into())?;
        socket.local_addr()
    };
    let from = from().ok().and_then(|from: SockAddr| from.as_socket());
    from.is_some_and(|from| from.ip() == ip)
}

/// User that this process runs as.
#[must_use]
pub fn own_uid() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    #[expect(unsafe_code, reason = "std does not tell it")]
    unsafe {
        libc::geteuid()
    }
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

/// The destination of a diverted connection (TPROXY), which is the connection's own address. A connection to the
/// listener's own port was made to the listener.
///
/// # Errors
/// The connection is gone.
pub fn diverted_destination(tcp: &Tcp, listener: ListenAddr) -> io::Result<Captured> {
    let local = tcp.local()?;
    let dst = OriginalDst(SocketAddr::new(local.ip().to_canonical(), local.port()));
    Ok(if dst.port() == listener.port() {
        Captured::Direct(dst)
    } else {
        Captured::Redirected(dst)
    })
}

/// Reads the original destination (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
///
/// # Errors
/// The connection is gone.
pub fn original_destination(tcp: &Tcp) -> io::Result<Captured> {
    tcp.option(original_destination_of)
}

/// As `original_destination`, of a socket outside the data cores.
///
/// # Errors
/// The connection is gone.
pub fn original_destination_of(socket: &Socket) -> io::Result<Captured> {
    let local = socket.local_addr()?.as_socket();
    let local = local.ok_or(io::ErrorKind::InvalidInput)?;
    let canonical = |a: SocketAddr| OriginalDst(SocketAddr::new(a.ip().to_canonical(), a.port()));
    let found = if local.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let found = found.ok().and_then(|addr| addr.as_socket());
    Ok(match found {
        Some(dst) if canonical(dst) != canonical(local) => Captured::Redirected(canonical(dst)),
        _ => Captured::Direct(canonical(local)),
    })
}
