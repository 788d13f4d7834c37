//! The seam to the runtime: build, spawn, accept, connect, receive, send, readiness, timers.
//!
//! monoio 0.2.4 is seen only here. Waiting is by readiness (`IORING_OP_POLL_ADD` or epoll), the bytes
//! move by a non-blocking call afterwards: a dropped wait loses no bytes, an idle connection holds no
//! buffer, and both drivers run the same code.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Once;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::{kernel, listener, tcp_options};

#[cfg(test)]
pub(crate) mod testing;
mod timers;
mod waits;

pub use timers::{Alarm, Elapsed, sleep, timeout};
use waits::{Wait, Waited, is_on};

/// Which driver a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// Name in the log and in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Which driver is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// io_uring, else epoll.
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// Ring sizes to try: a small RLIMIT_MEMLOCK refuses large rings.
const RING_ENTRIES: [u32; 3] = [4096, 1024, 256];

type UringRuntime = monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>;
type EpollRuntime = monoio::Runtime<monoio::time::TimeDriver<monoio::LegacyDriver>>;

/// A runtime for the thread that builds it.
#[expect(missing_debug_implementations, reason = "monoio's runtimes have none")]
pub enum Core {
    /// On io_uring.
    IoUring(UringRuntime),
    /// On epoll.
    Epoll(EpollRuntime),
}

impl Core {
    /// Builds a runtime on this thread (the ring belongs to the thread that makes it).
    ///
    /// # Errors
    /// The last error of io_uring where it is demanded, or epoll's.
    pub fn build(want: Want) -> io::Result<Self> {
        match want {
            Want::Epoll => epoll(),
            Want::IoUring => uring(),
            Want::Auto => uring().or_else(|error| {
                // Each core builds one, and all are refused for the same reason.
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(%error, "io_uring is refused here, epoll is used");
                });
                epoll()
            }),
        }
    }

    /// The driver that was chosen.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            Self::IoUring(_) => Driver::IoUring,
            Self::Epoll(_) => Driver::Epoll,
        }
    }

    /// Runs `main` to its end.
    pub fn run<F: Future>(&mut self, main: F) -> F::Output {
        let main = async {
            timers::begin();
            spawn(turn_driver());
            main.await
        };
        match self {
            Self::IoUring(runtime) => runtime.block_on(main),
            Self::Epoll(runtime) => runtime.block_on(main),
        }
    }
}

/// The driver that [`Want::Auto`] takes here, as far as the kernel decides it.
#[must_use]
pub fn automatic() -> Driver {
    if monoio::utils::detect_uring() {
        Driver::IoUring
    } else {
        Driver::Epoll
    }
}

fn uring() -> io::Result<Core> {
    if automatic() == Driver::Epoll {
        kernel::io_uring()?; // it says why
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "io_uring has not all operations that are needed",
        ));
    }
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for entries in RING_ENTRIES {
        // Measured: without these flags io_uring costs twice the CPU at L7.
        let mut flags: [io_uring::Builder; 3] = [
            io_uring::IoUring::builder(),
            io_uring::IoUring::builder(),
            io_uring::IoUring::builder(),
        ];
        let [defer, coop, _plain] = &mut flags;
        defer.setup_single_issuer().setup_defer_taskrun();
        coop.setup_coop_taskrun();
        for builder in flags {
            let built = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
                .uring_builder(builder)
                .with_entries(entries)
                .enable_timer()
                .build();
            match built {
                Ok(runtime) => return Ok(Core::IoUring(runtime)),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

fn epoll() -> io::Result<Core> {
    let built = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_timer()
        .build();
    built.map(Core::Epoll)
}

/// Starts a task on this core. A panic in it ends it, and nothing else of the core.
pub fn spawn<F: Future<Output = ()> + 'static>(task: F) {
    drop(monoio::spawn(Contained {
        task: Some(Box::pin(task)),
    }));
}

/// A task whose panics go no further: monoio would let them unwind through the run loop, and every
/// connection of the core would be gone.
struct Contained<F> {
    task: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        // What a broken task shared with others is in cells whose guards the unwinding has dropped.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(_panic) => {
                tracing::error!("a task panicked and was ended");
                let task = self.task.take();
                if catch_unwind(AssertUnwindSafe(|| drop(task))).is_err() {
                    tracing::error!("the end of a task that panicked has panicked as well");
                }
                Poll::Ready(())
            }
        }
    }
}

thread_local! {
    static TURN: RefCell<Turn> = const { RefCell::new(Turn { waiting: Vec::new(), bell: None }) };
}

struct Turn {
    waiting: Vec<Waker>,
    bell: Option<std::os::unix::net::UnixStream>,
}

/// Wakes the tasks that gave up their turn, after the driver has looked at its sockets.
///
/// A task that wakes itself goes to the front of monoio's queue and starves the others; so the wake
/// comes from a socket of our own, through the driver, like any other event.
async fn turn_driver() {
    let pair = std::os::unix::net::UnixStream::pair().and_then(|(bell, ear)| {
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let drain = ear.try_clone()?;
        Ok((bell, monoio::net::UnixStream::from_std(ear)?, drain))
    });
    let (bell, ear, mut drain) = match pair {
        Ok(pair) => pair,
        Err(error) => {
            tracing::error!(%error, "no socket pair for taking turns");
            return;
        }
    };
    TURN.with_borrow_mut(|turn| turn.bell = Some(bell));
    let mut sink = [0_u8; 64];
    loop {
        if let Err(error) = ear.readable(false).await {
            // Without a bell nobody waits for it: `yield_turn` goes on at once then.
            tracing::error!(%error, "taking turns has ended");
            let left = TURN.with_borrow_mut(|turn| {
                turn.bell = None;
                std::mem::take(&mut turn.waiting)
            });
            return left.into_iter().for_each(Waker::wake);
        }
        while matches!(io::Read::read(&mut drain, &mut sink), Ok(n) if n == sink.len()) {}
        for waker in TURN.with_borrow_mut(|turn| std::mem::take(&mut turn.waiting)) {
            waker.wake();
        }
    }
}

/// Has the task woken when the others had their turn; `false` if that cannot be.
fn wake_next_turn(cx: &Context<'_>) -> bool {
    TURN.with_borrow_mut(|turn| {
        let Some(bell) = &mut turn.bell else {
            return false;
        };
        let first = turn.waiting.is_empty();
        // A full pipe has a byte in it already, which rings as well.
        let rung = !first || io::Write::write(bell, &[1]).is_ok();
        if rung {
            turn.waiting.push(cx.waker().clone());
        }
        rung
    })
}

/// Lets the other tasks of this core run. For loops that find their sockets always ready.
pub async fn yield_turn() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if waited || !wake_next_turn(cx) {
            return Poll::Ready(());
        }
        waited = true;
        Poll::Pending
    })
    .await;
}

/// A TCP connection. Clones share it.
#[derive(Clone)]
pub struct Tcp {
    inner: Rc<TcpInner>,
}

/// Reads in a row that find bytes, after which the other tasks of the core get their turn: a peer that sends faster
/// than we work, say pings, would have the core for itself.
const READS_PER_TURN: u32 = 64;
/// Bytes that count as one more read: a large one takes as long as many small ones.
const READ_BYTES: usize = 16 * 1024;

struct TcpInner {
    socket: Rc<Waited>,
    /// Reads in a row that found bytes.
    reads: Cell<u32>,
    /// The last read took all there was: the next one waits before it tries.
    drained: Cell<bool>,
    readable: RefCell<Option<Wait>>,
    writable: RefCell<Option<Wait>>,
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
    fn new(socket: TcpStream) -> Self {
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
    fn with_socket<R>(&self, call: impl FnOnce(&Socket) -> R) -> R {
        // SAFETY: the descriptor is open as long as `self.inner.socket` lives, which outlasts the call.
        #[expect(unsafe_code, reason = "monoio's streams do not implement AsFd")]
        let fd = unsafe { BorrowedFd::borrow_raw(self.inner.socket.stream.as_raw_fd()) };
        call(&SockRef::from(&fd))
    }

    /// Runs `call` on the socket; for socket options in `listener`.
    pub(super) fn option<R>(&self, call: impl FnOnce(&Socket) -> R) -> R {
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
    /// nothing of it.
    pub fn look_again(&self) {
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
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    pub(super) fn poll_read_vectored(
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
pub(super) fn connect(
    to: SocketAddr,
    options: ConnectOptions,
) -> impl Future<Output = io::Result<Tcp>> + use<> {
    connect_from(None, to, options)
}

/// As `connect`, from the client's own address where `source` is one.
///
/// # Errors
/// As `connect(2)` and `bind(2)`.
pub(super) fn connect_from(
    source: Option<Source>,
    to: SocketAddr,
    options: ConnectOptions,
) -> impl Future<Output = io::Result<Tcp>> + use<> {
    // Begun before the future is made, which many requests carry: it holds the socket alone.
    let begun = begin(source, to, options);
    async move {
        let tcp = begun?;
        std::future::poll_fn(|cx| tcp.poll_ready(&tcp.inner.writable, false, cx)).await?;
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

/// A listening socket of this core.
///
/// It is waited for by readiness, like all else here: an accept that was under way in the kernel when its wait is dropped
/// would take a connection that nobody serves.
pub struct Acceptor {
    /// Whatever monoio takes it for, only its readiness is asked.
    socket: Tcp,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({:?})", self.socket)
    }
}

impl Acceptor {
    /// Takes over a bound, listening, non-blocking socket.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            socket: Tcp::new(TcpStream::from_std(socket.into())?),
        })
    }

    /// The next connection. Other processes may accept from the same socket.
    ///
    /// # Errors
    /// As `accept(2)`.
    pub async fn accept(&self) -> io::Result<Tcp> {
        loop {
            self.socket.readable().await?;
            match self.socket.with_socket(Socket::accept) {
                Ok((stream, _peer)) => return Ok(Tcp::new(TcpStream::from_std(stream.into())?)),
                // Somebody else was faster.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
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

    struct Broken;

    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("in the end of a broken task");
        }
    }

    fn check(want: Want) {
        let mut core = Core::build(want).unwrap();
        let served = Rc::new(Cell::new(0));
        core.run(async {
            for n in 0..4 {
                let served = Rc::clone(&served);
                spawn(async move {
                    // One fails at once, one after a wait, one fails and then fails to end, one serves.
                    assert_ne!(n, 0, "a task fails");
                    sleep(5).await;
                    assert_ne!(n, 1, "a task fails later");
                    let _broken = (n == 2).then(|| Broken);
                    sleep(5).await;
                    if n == 2 {
                        return;
                    }
                    served.set(served.get() + 1);
                });
            }
            // What a panic prints (a backtrace, symbols and all) takes the core as long as it takes.
            for _ in 0..1000 {
                if served.get() > 0 {
                    break;
                }
                sleep(10).await;
            }
            sleep(20).await;
        });
        assert_eq!(served.get(), 1);
    }

    #[test]
    fn a_panic_ends_one_task_alone() {
        check(Want::Epoll);
        check(Want::IoUring);
    }
}
