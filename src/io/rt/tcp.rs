//! A TCP connection: waits by readiness, and moves bytes by calls that do not block.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use monoio::net::TcpStream;
use socket2::{SockAddr, SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::turns::wake_next_turn;
use super::waits::{self, Wait, Waited, is_on};

/// A TCP connection. Clones share it.
#[derive(Clone)]
pub struct Tcp {
    pub(super) inner: Rc<TcpInner>,
}

/// Reads in a row that find bytes, after which the other tasks of the core get their turn: a peer that sends faster
/// than we work, say pings, would have the core for itself.
const READS_PER_TURN: u32 = 64;
/// Bytes that count as one more read: a large one takes as long as many small ones.
const READ_BYTES: usize = 16 * 1024;

pub(super) struct TcpInner {
    socket: Rc<Waited>,
    /// Reads in a row that found bytes.
    reads: Cell<u32>,
    /// The last read took all there was: the next one waits before it tries.
    drained: Cell<bool>,
    pub(super) readable: RefCell<Option<Wait>>,
    pub(super) writable: RefCell<Option<Wait>>,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tcp({})", self.inner.socket.stream.as_raw_fd())
    }
}

/// A socket of an IPv6 wildcard address has IPv4 peers, too (RFC 4291 section 2.5.5.2): nobody is to see that.
fn canonical(address: &SockAddr) -> io::Result<SocketAddr> {
    let found = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(match found {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, v6.port())),
            None => found,
        },
        SocketAddr::V4(_) => found,
    })
}

impl Tcp {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            inner: Rc::new(TcpInner {
                socket: Rc::new(Waited::new(socket)),
                reads: Cell::new(0),
                drained: Cell::new(false),
                readable: RefCell::new(None),
                writable: RefCell::new(None),
            }),
        }
    }

    /// Another descriptor of the connection, for another core; this one is to be dropped.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with_socket(|socket| socket.try_clone().map(Into::into))
    }

    /// Takes over a connection that another core has accepted.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        TcpStream::from_std(socket.into()).map(Self::new)
    }

    /// Borrows the descriptor for socket options and non-blocking calls.
    pub(super) fn with_socket<R>(&self, call: impl FnOnce(&Socket) -> R) -> R {
        // SAFETY: the descriptor is open as long as `self.inner.socket` lives, which outlasts the call.
        #[expect(unsafe_code, reason = "monoio's streams do not implement AsFd")]
        let fd = unsafe { BorrowedFd::borrow_raw(self.inner.socket.stream.as_raw_fd()) };
        call(&SockRef::from(&fd))
    }

    /// Runs `call` on the socket; for socket options in `listener`.
    pub(in crate::io) fn option<R>(&self, call: impl FnOnce(&Socket) -> R) -> R {
        self.with_socket(call)
    }

    /// Address of the peer.
    ///
    /// # Errors
    /// The peer is gone already.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        canonical(&self.with_socket(Socket::peer_addr)?)
    }

    /// Own address.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local(&self) -> io::Result<SocketAddr> {
        canonical(&self.with_socket(Socket::local_addr)?)
    }

    /// Waits until there is something to read, or the end.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ready(&self.inner.readable, true, cx)).await
    }

    /// Waits for the first byte and looks at it without taking it; `None` at the end of the stream.
    ///
    /// # Errors
    /// As `recv(2)`.
    pub async fn peek_first(&self) -> io::Result<Option<u8>> {
        loop {
            let mut first = [MaybeUninit::<u8>::uninit()];
            match self
                .with_socket(|s| s.recv_with_flags(&mut first, libc::MSG_PEEK | libc::MSG_DONTWAIT))
            {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    let [byte] = first;
                    // SAFETY: the kernel reported that it wrote one byte.
                    #[expect(unsafe_code, reason = "recv fills uninitialised memory")]
                    return Ok(Some(unsafe { byte.assume_init() }));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Has the next read try at once, if there is something to read: a wait that the driver has not looked at yet knows
    /// nothing of it. Whether there is nothing.
    pub fn look_again(&self) -> bool {
        let mut first = [MaybeUninit::<u8>::uninit()];
        let nothing = loop {
            match self
                .with_socket(|s| s.recv_with_flags(&mut first, libc::MSG_PEEK | libc::MSG_DONTWAIT))
            {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e.kind() == io::ErrorKind::WouldBlock,
                Ok(_) => break false,
            }
        };
        if !nothing {
            self.inner.drained.set(false);
            *self.inner.readable.borrow_mut() = None;
        }
        nothing
    }

    /// Makes the close a reset: the peer sees RST, whatever is unread.
    pub fn reset_on_close(&self) {
        let set = self.with_socket(|s| s.set_linger(Some(Duration::ZERO)));
        if let Err(error) = set {
            tracing::debug!(%error, "SO_LINGER");
        }
    }

    /// Ends both directions now; a task that waits on the socket sees the end.
    pub fn shutdown_both(&self) {
        if let Err(error) = self.with_socket(|s| s.shutdown(std::net::Shutdown::Both)) {
            tracing::trace!(%error, "shutdown");
        }
    }

    /// Waits until a connection is made, or is refused.
    pub(super) async fn connected(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ready(&self.inner.writable, false, cx)).await
    }

    fn poll_ready(
        &self,
        wait: &RefCell<Option<Wait>>,
        read: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        waits::poll(wait, &self.inner.socket, read, cx)
    }
}

impl Tcp {
    /// Receives by `recv`, which has room for `room` bytes, when there is something.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        mut recv: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let reads = self.inner.reads.get();
        if reads >= READS_PER_TURN {
            self.inner.reads.set(0);
            if wake_next_turn(cx) {
                return Poll::Pending;
            }
        }
        loop {
            let waits = self.inner.drained.take() || is_on(&self.inner.readable);
            if waits {
                std::task::ready!(self.poll_waited(cx))?;
            }
            match self.with_socket(&mut recv) {
                Ok(n) => {
                    self.inner.drained.set(n > 0 && n < room);
                    let weight = u32::try_from(n / READ_BYTES).unwrap_or(u32::MAX);
                    let reads = reads.saturating_add(1).saturating_add(weight);
                    self.inner.reads.set(reads);
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_waited(cx))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Ready when it is worth to try and read, so that what waits need hold no buffer.
    pub(in crate::io) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inner.drained.get() || is_on(&self.inner.readable) {
            std::task::ready!(self.poll_waited(cx))?;
            self.inner.drained.set(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for something to read. Who waits gives the others their turn.
    fn poll_waited(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_ready(&self.inner.readable, true, cx);
        if polled.is_pending() {
            self.inner.reads.set(0);
        }
        polled
    }

    /// Receives into several buffers by one call; 0 at the end of the stream.
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub(in crate::io) fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_receive(cx, room, |socket| receive_scattered(socket, bufs))
    }
}

/// `recvmsg(2)` without waiting; socket2 scatters into uninitialised memory alone.
#[expect(
    unsafe_code,
    reason = "no safe call receives into several buffers with flags"
)]
fn receive_scattered(socket: &Socket, bufs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
    // SAFETY: all zeros is a message header without address, buffers and control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // std promises that its slices are iovec(3).
    header.msg_iov = bufs.as_mut_ptr().cast();
    header.msg_iovlen = bufs.len();
    let descriptor = socket.as_raw_fd();
    // SAFETY: the header names buffers that are borrowed mutably as long as the call lasts.
    let n = unsafe { libc::recvmsg(descriptor, &raw mut header, libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_negative| io::Error::last_os_error())
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: recv writes only initialised bytes into the buffer.
        #[expect(unsafe_code, reason = "recv fills uninitialised memory")]
        let room = unsafe { buf.unfilled_mut() };
        let len = room.len();
        let n = std::task::ready!(
            self.poll_receive(cx, len, |s| { s.recv_with_flags(room, libc::MSG_DONTWAIT) })
        )?;
        // SAFETY: the kernel wrote the first `n` bytes.
        #[expect(unsafe_code, reason = "recv fills uninitialised memory")]
        unsafe {
            buf.assume_init(n);
        };
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl Tcp {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if is_on(&self.inner.writable) {
                std::task::ready!(self.poll_ready(&self.inner.writable, false, cx))?;
            }
            match self.with_socket(&send) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_ready(&self.inner.writable, false, cx))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |s| s.send_with_flags(buf, SEND_FLAGS))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |s| s.send_vectored_with_flags(bufs, SEND_FLAGS))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(
            match self.with_socket(|s| s.shutdown(std::net::Shutdown::Write)) {
                Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
                other => other,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_what_it_stands_for() {
        for (found, want) in [
            ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let found: SocketAddr = found.parse().unwrap();
            assert_eq!(canonical(&found.into()).unwrap(), want.parse().unwrap());
        }
    }
}
