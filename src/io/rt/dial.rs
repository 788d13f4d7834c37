//! Connections to upstreams.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::Tcp;
use crate::io::{listener, tcp_options};

/// How an upstream connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions {
    /// `SO_MARK`, so that capture rules let it pass (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// How long it may take to make, in milliseconds, with TLS and tunnel; `None` is as long as any.
    pub within_ms: Option<u64>,
}

/// An address of another machine that a connection comes from (`IP_TRANSPARENT`; needs `CAP_NET_ADMIN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub ip: IpAddr,
    /// Without leave to take it, connect from an own address instead of failing.
    pub optional: bool,
}

/// Connects without a time limit of its own; wrap it in `timeout`. Only `upstream` and `hbone` dial, for a `Permit`.
///
/// # Errors
/// As `connect(2)`.
pub(in crate::io) fn connect(
    to: SocketAddr,
    options: ConnectOptions,
) -> impl Future<Output = io::Result<Tcp>> + use<> {
    connect_from(None, to, options)
}

/// As `connect`, from the client's own address where `source` is one.
///
/// # Errors
/// As `connect(2)` and `bind(2)`.
pub(in crate::io) fn connect_from(
    source: Option<Source>,
    to: SocketAddr,
    options: ConnectOptions,
) -> impl Future<Output = io::Result<Tcp>> + use<> {
    // Begun before the future is made, which many requests carry: it holds the socket alone.
    let begun = begin(source, to, options);
    async move {
        let tcp = begun?;
        tcp.connected().await?;
        match tcp.with_socket(Socket::take_error)? {
            Some(error) => Err(error),
            None => Ok(tcp),
        }
    }
}

fn begin(source: Option<Source>, to: SocketAddr, options: ConnectOptions) -> io::Result<Tcp> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    tcp_options::apply(&socket)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(source) = source.filter(|s| s.ip.is_ipv4() == to.is_ipv4()) {
        match listener::take_address(&socket, source.ip) {
            Err(error) if source.optional => tracing::debug!(%error, "client's address"),
            taken => taken?,
        }
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(Tcp::new(TcpStream::from_std(socket.into())?))
}
