//! What every TCP connection of a core is told about peers that say nothing.

use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

/// `tcp(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// `TCP_KEEPIDLE`.
    pub keepalive: Duration,
    /// `TCP_KEEPINTVL`.
    pub interval: Duration,
    /// `TCP_KEEPCNT`.
    pub probes: u32,
    /// `TCP_USER_TIMEOUT`; none: the kernel's count of retransmissions.
    pub user_timeout: Option<Duration>,
}

thread_local! {
    static OPTIONS: Cell<Option<TcpOptions>> = const { Cell::new(None) };
}

/// The sockets that this thread makes from now on have these options.
pub fn set(options: TcpOptions) {
    OPTIONS.set(Some(options));
}

/// Socket options of every connection; those of a listener pass to what it accepts.
///
/// # Errors
/// As `setsockopt(2)`.
pub(super) fn apply(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let Some(options) = OPTIONS.get() else {
        return Ok(());
    };
    let keepalive = TcpKeepalive::new()
        .with_time(options.keepalive)
        .with_interval(options.interval)
        .with_retries(options.probes);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(options.user_timeout)
}

/// Bytes that were written and that the peer has not acknowledged (`TIOCOUTQ`).
///
/// # Errors
/// As `ioctl(2)`.
pub(super) fn unsent(socket: &Socket) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the call writes one int to where it is told.
    #[expect(unsafe_code, reason = "no crate in use has TIOCOUTQ")]
    let told = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match told {
        0 => Ok(u64::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::SocketAddr;

    use socket2::{Domain, Protocol, Type};

    use super::*;

    #[test]
    fn what_the_peer_takes_is_seen() {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let (listener, mut ours) = (socket(), socket());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(1).unwrap();
        ours.connect(&listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = ours.write(&[0; 1 << 16]) {
            written += n;
        }
        assert!(unsent(&ours).unwrap() > 0);
        let mut taken = vec![0; written];
        theirs.read_exact(&mut taken).unwrap();
        // The last acknowledgement may still be under way.
        while unsent(&ours).unwrap() > 0 {
            std::thread::yield_now();
        }
    }
}
