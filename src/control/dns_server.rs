//! DNS for captured workloads: answers for names of the mesh, and hands on everything else as it came.
//!
//! It has a thread of its own, so that a flood of questions delays neither traffic nor the renewal of identities, and
//! keeps nothing but the questions that wait for a nameserver, of which there is a bounded number.

mod datagram;
pub mod forward;
pub mod message;
mod share;
#[cfg(test)]
mod tests;
mod who;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::checked::{DnsUnknown, Process};
use crate::control::dns_server::datagram::{Datagrams, Ends};
use crate::control::dns_server::forward::Forwarder;
use crate::control::dns_server::message::{Outcome, Transport};
use crate::control::dns_server::share::{Connected, Connections, Questions};
use crate::control::dns_server::who::{Sender, Who, unknown};
use crate::control::handover::Inherited;
use crate::control::snapshot::Snapshot;
use crate::io::clock;
use crate::io::listener::{original_destination_of, overlap};
use crate::role::lookup::View;
use crate::vocab::limits;

/// Questions that one TCP connection may ask.
const PER_CONNECTION: usize = 1000;
/// How long a full queue of the system's connections may be.
const BACKLOG: i32 = 128;
/// How long a listener waits after an error such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// An address that cannot be had.
#[derive(Debug, Error)]
#[error("cannot listen on `{address}` for DNS")]
pub struct DnsError {
    /// Address.
    pub address: SocketAddr,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// Listeners that are bound and not served yet.
#[derive(Debug)]
pub struct DnsServer {
    listeners: Vec<Bound>,
}

#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    udp: Socket,
    tcp: Socket,
    asker: Arc<Asker>,
}

/// Those who ask at one listener, and what they are told.
#[derive(Debug)]
struct Asker {
    /// Namespace of all of them, if they have one in common.
    namespace: Option<String>,
    /// Who they are: for that namespace else, and for their shares.
    who: Who,
    search: Vec<String>,
    unknown: DnsUnknown,
    forwarder: Forwarder,
}

/// What all listeners share.
#[derive(Debug)]
struct Shared {
    snapshot: Arc<ArcSwap<Snapshot>>,
    waiting: Questions,
    connections: Connections,
    turn: AtomicUsize,
}

impl DnsServer {
    /// Binds every DNS listener of the process, UDP and TCP; `None` if there is none.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(
        process: &Arc<Process>,
        mut taken: Option<&mut Inherited>,
    ) -> Result<Option<Self>, DnsError> {
        let mut listeners = Vec::new();
        for (nth, node) in process.nodes.iter().enumerate() {
            for (address, namespace) in node.dns_listeners() {
                let failed = |source| DnsError { address, source };
                let asker = Asker {
                    namespace: namespace.map(str::to_owned),
                    who: Who::new(nth, node, address.port()),
                    search: node.dns_search.clone(),
                    unknown: node.dns_unknown,
                    forwarder: Forwarder::new(Arc::clone(process), node.mark),
                };
                let shares = listeners
                    .iter()
                    .any(|other: &Bound| overlap(other.address, address));
                let tcp = match taken.as_mut().and_then(|t| t.one(true, address)) {
                    Some(tcp) => tcp,
                    None => {
                        let tcp = socket(address, Type::STREAM, shares).map_err(failed)?;
                        tcp.listen(BACKLOG).map_err(failed)?;
                        tcp
                    }
                };
                let udp = match taken.as_mut().and_then(|t| t.one(false, address)) {
                    Some(udp) => udp,
                    None => socket(address, Type::DGRAM, shares).map_err(failed)?,
                };
                listeners.push(Bound {
                    address,
                    udp,
                    tcp,
                    asker: Arc::new(asker),
                });
            }
        }
        Ok((!listeners.is_empty()).then_some(Self { listeners }))
    }

    /// Second descriptors of its sockets, for a process that takes over.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let all = self.listeners.iter().flat_map(|l| [&l.udp, &l.tcp]);
        all.map(|socket| socket.as_fd().try_clone_to_owned())
            .collect()
    }

    /// Serves until `halted`. Runs in a tokio runtime.
    pub async fn run(self, snapshot: Arc<ArcSwap<Snapshot>>, mut halted: watch::Receiver<bool>) {
        let shared = Arc::new(Shared {
            snapshot,
            waiting: Questions::default(),
            connections: Connections::default(),
            turn: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        for bound in self.listeners {
            let (address, asker) = (bound.address, bound.asker);
            match Datagrams::new(bound.udp).map(Arc::new) {
                Ok(socket) => {
                    let (shared, asker) = (Arc::clone(&shared), Arc::clone(&asker));
                    tasks.spawn(kept(address, "UDP", move || {
                        datagrams(Arc::clone(&shared), Arc::clone(&asker), Arc::clone(&socket))
                    }));
                }
                Err(error) => tracing::error!(%address, %error, "DNS over UDP is not served"),
            }
            match TcpListener::from_std(bound.tcp.into()).map(Arc::new) {
                Ok(listener) => {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(kept(address, "TCP", move || {
                        connections(
                            Arc::clone(&shared),
                            Arc::clone(&asker),
                            Arc::clone(&listener),
                        )
                    }));
                }
                Err(error) => tracing::error!(%address, %error, "DNS over TCP is not served"),
            }
        }
        // Only with the sender, which is with its process, does this fail.
        drop(halted.wait_for(|halt| *halt).await);
    }
}

/// Serves a listener, again whenever that ends, which a defect alone makes it do: no question may take the answers to all
/// others with it.
async fn kept<F>(address: SocketAddr, transport: &'static str, serve: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let ended = tokio::spawn(serve()).await;
        let panicked = ended.is_err_and(|error| error.is_panic());
        tracing::error!(%address, transport, panicked, "DNS was not served for a moment");
        tokio::time::sleep(PAUSE).await;
    }
}

/// `shares`: a listener of this process has its port already. Else nobody may have it.
fn socket(address: SocketAddr, kind: Type, shares: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(shares)?;
    socket.bind(&SockAddr::from(address))?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

impl Shared {
    /// What a question comes to, without waiting for anybody.
    fn outcome(
        &self,
        asker: &Asker,
        namespace: Option<&str>,
        question: &[u8],
        transport: Transport,
    ) -> Outcome {
        let snapshot = self.snapshot.load();
        let rules = &snapshot.enforcements;
        let system;
        let search = if asker.search.is_empty() {
            system = asker.forwarder.search();
            system.as_slice()
        } else {
            asker.search.as_slice()
        };
        let view = View {
            mesh: &snapshot.mesh,
            directory: &rules.directory,
            endpoints: &snapshot.endpoints,
            namespace,
            search,
            now_ms: clock::millis(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        message::outcome(&view, asker.unknown, question, transport)
    }
}

impl Asker {
    /// Who made a connection.
    async fn connected(&self, stream: &TcpStream, client: SocketAddr) -> Sender<'_> {
        let mut sender = match original_destination_of(&SockRef::from(stream)) {
            Ok(dst) => self.who.connected(client, dst.address().0).await,
            Err(_gone) => unknown(client),
        };
        if self.namespace.is_some() {
            sender.namespace = self.namespace.as_deref();
        }
        sender
    }
}

/// Questions by UDP.
async fn datagrams(shared: Arc<Shared>, asker: Arc<Asker>, socket: Arc<Datagrams>) {
    // One byte more shows what is too long.
    let mut buffer = vec![0; limits::DNS_DATAGRAM_BYTES.saturating_add(1)];
    loop {
        let (len, ends) = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An answer that could not be delivered is told by the next receive.
                tracing::trace!(%error, "DNS client is gone");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let fits = len <= limits::DNS_DATAGRAM_BYTES;
        let Some(question) = buffer.get(..len).filter(|_| fits) else {
            continue;
        };
        // What the kernel is asked costs less than a question that goes on, more than an answer of our own.
        let mut sender = None;
        if asker.namespace.is_none() {
            sender = Some(asker.who.sent(ends.client).await);
        }
        let namespace = asker.namespace.as_deref();
        let namespace = namespace.or_else(|| sender.and_then(|s| s.namespace));
        match shared.outcome(&asker, namespace, question, Transport::Udp) {
            Outcome::Drop => {}
            Outcome::Answer(answer) => tell(&socket, &answer, ends).await,
            Outcome::Forward => {
                let sender = match sender {
                    Some(sender) => sender,
                    None => asker.who.sent(ends.client).await,
                };
                let Some(place) = shared.waiting.place(sender.source).await else {
                    // Full: the client asks again, or another server.
                    if let Some(failure) = message::failure(question) {
                        tell(&socket, &failure, ends).await;
                    }
                    continue;
                };
                let (asker, socket) = (Arc::clone(&asker), Arc::clone(&socket));
                let question = question.to_vec();
                drop(tokio::spawn(async move {
                    let answer = asker.forwarder.ask(&question, Transport::Udp).await;
                    if let Some(answer) = answer.or_else(|| message::failure(&question)) {
                        tell(&socket, &answer, ends).await;
                    }
                    drop(place);
                }));
            }
        }
    }
}

async fn tell(socket: &Datagrams, answer: &[u8], ends: Ends) {
    if let Err(error) = socket.answer(answer, ends).await {
        tracing::trace!(%error, "DNS client is gone");
    }
}

async fn connections(shared: Arc<Shared>, asker: Arc<Asker>, listener: Arc<TcpListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let sender = asker.connected(&stream, client).await;
                let Some(place) = shared.connections.place(sender.source).await else {
                    continue;
                };
                let namespace = sender.namespace.map(str::to_owned);
                let (shared, asker) = (Arc::clone(&shared), Arc::clone(&asker));
                drop(tokio::spawn(async move {
                    let served = connection(&shared, &asker, namespace.as_deref(), &place, stream);
                    let ended = tokio::select! {
                        ended = served => ended,
                        () = place.closed() => Ok(()),
                    };
                    if let Err(error) = ended {
                        tracing::trace!(%error, "DNS connection ended");
                    }
                }));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept for DNS");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Questions of one connection, one after the other (RFC 7766).
async fn connection(
    shared: &Shared,
    asker: &Asker,
    namespace: Option<&str>,
    place: &Connected,
    mut stream: TcpStream,
) -> io::Result<()> {
    for _ in 0..PER_CONNECTION {
        let Some(question) = in_time(read(&mut stream)).await? else {
            return Ok(());
        };
        let answer = match shared.outcome(asker, namespace, &question, Transport::Tcp) {
            Outcome::Drop => return Ok(()),
            Outcome::Answer(answer) => Some(answer),
            Outcome::Forward => match shared.waiting.place(place.source()).await {
                Some(_waiting) => {
                    place.busy();
                    asker.forwarder.ask(&question, Transport::Tcp).await
                }
                None => None,
            },
        };
        let Some(answer) = answer.or_else(|| message::failure(&question)) else {
            return Ok(());
        };
        place.idle();
        in_time(write(&mut stream, &answer)).await?;
        place.idle();
    }
    stream.shutdown().await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit = Duration::from_millis(limits::DNS_IDLE_MS);
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads one message with its length; `None` where the peer has ended.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message with its length, in one piece.
async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_e| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(message.len().saturating_add(2));
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
