//! What every TCP connection of a core is told about peers that say nothing.

use std::cell::Cell;
use std::io;
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
