//! Hand-over: a new process takes the listening sockets of the one that runs, serves them, and then tells it to go.
//!
//! The sockets are the same ones, passed as descriptors, so what waits in their queues waits for either process. Until the
//! new one says that it serves, nothing changes for the old one; if the new one fails before, it is as if it had never been.
//!
//! On the unix socket: `HELLO` by the new process; the number of sockets (4 bytes, little endian) and the sockets by the old
//! one; `TAKE` by the new one when all is ready; `GONE` by the old one, which accepts nothing and writes no state from then on,
//! and drains. The new one accepts from then on. `NO` instead of it: another process came meanwhile, or it has taken too long;
//! who is told so ends.
//!
//! Sockets that a supervisor has passed come the same way, but for the process before: there is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::config::checked::{IdentitySource, Process};
use crate::control::authority::Authority;
use crate::control::pass;
use crate::control::phase::Phase;
use crate::control::supervisor;
use crate::control::tenure::Tenure;
use crate::io::listener::own_uid;
use crate::io::peer::FileId;
use crate::vocab::limits;

/// The ports below this are the system's.
const LOW: u16 = 1024;
/// Clients that may wait to be accepted.
const QUEUE: i32 = 1024;
const HELLO: &[u8; 20] = b"ringgate handover 1\n";
const TAKE: u8 = b'T';
const GONE: u8 = b'G';
const NO: u8 = b'N';
/// Only the own user may take over.
const MODE: u32 = 0o600;
/// How long either side may take to say what is expected of it at once.
const WORD: Duration = Duration::from_secs(5);
/// How long the new process may take from the sockets to serving them, if no other one comes.
const START: Duration = Duration::from_secs(120);
/// How long the accept loop waits after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why nothing could be taken over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// What stands there is no socket, and is left alone.
    #[error("`{}` is there and is not a socket", .0.display())]
    NotSocket(PathBuf),
    /// It is served by another user.
    #[error("the process at `{}` runs as uid {uid}, expected {}", path.display(), own_uid())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// What the other process says makes no sense.
    #[error("the process at `{}` sends what is no hand-over", .0.display())]
    Protocol(PathBuf),
    /// Another new process came, or this one took too long.
    #[error("the process at `{}` hands over to another one, or waits no longer", .0.display())]
    Refused(PathBuf),
    /// The operating system refused, or the other process does not answer.
    #[error("cannot take over at `{}`", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// What another process has handed over. Dropping it without `commit` leaves that one as it was.
#[derive(Debug)]
pub struct Inherited {
    path: PathBuf,
    link: Option<UnixStream>,
    sockets: BTreeMap<(bool, SocketAddr), Vec<Socket>>,
    /// Those at a path.
    unix: Vec<(PathBuf, Socket)>,
    /// What are no sockets: locks.
    files: Vec<File>,
    /// Each core serves each of them: others than this process may not bind beside one of another user, as which a supervisor
    /// binds.
    shared: bool,
}

/// What the control thread takes of it.
#[derive(Debug, Default)]
pub struct Face {
    /// Another process serves them until this one does.
    served: bool,
    sockets: Vec<(SocketAddr, Socket)>,
    unix: Vec<(PathBuf, Socket)>,
    files: Vec<File>,
}

impl Face {
    /// Whether another process serves all of it until this one does.
    pub(super) fn is_served(&self) -> bool {
        self.served
    }

    /// Binds what of the control thread's own listeners has a port of the system, if it was not taken over: that thread, and
    /// those that it starts, never have the capability to. What fails here is tried there again, and told.
    pub fn bind(&mut self, process: &Process) {
        let known: Vec<SocketAddr> = self.sockets.iter().map(|(address, _)| *address).collect();
        let own = own_listeners(process).into_iter();
        for address in own.filter(|a| a.port() < LOW && !known.contains(a)) {
            match bound(address) {
                Ok(socket) => self.sockets.push((address, socket)),
                Err(error) => tracing::debug!(%error, %address, "not bound yet"),
            }
        }
    }

    /// The listener of an address.
    pub(super) fn listener(&mut self, address: SocketAddr) -> Option<Socket> {
        let at = self.sockets.iter().position(|(a, _)| *a == address)?;
        Some(self.sockets.swap_remove(at).1)
    }

    /// The listener at a path.
    pub(super) fn unix_listener(&mut self, path: &Path) -> Option<Socket> {
        let path = std::path::absolute(path).ok()?;
        let at = self.unix.iter().position(|(p, _)| *p == path)?;
        Some(self.unix.swap_remove(at).1)
    }

    /// The file at a path, open as the other process has it, with the lock that is on it.
    pub(super) fn file(&mut self, path: &Path) -> Option<File> {
        let there = std::fs::metadata(path).ok()?;
        let same = |file: &File| {
            file.metadata()
                .is_ok_and(|m| (m.dev(), m.ino()) == (there.dev(), there.ino()))
        };
        let at = self.files.iter().position(same)?;
        Some(self.files.swap_remove(at))
    }
}

/// Where the control thread listens.
fn own_listeners(process: &Process) -> Vec<SocketAddr> {
    let authority = match &process.identity {
        IdentitySource::Embedded(settings) => settings.listen,
        IdentitySource::Remote(_) | IdentitySource::Files(_) | IdentitySource::WorkloadApi(_) => {
            None
        }
    };
    let all = [process.admin, process.metrics, process.readiness, authority];
    all.into_iter().flatten().collect()
}

/// As tokio would bind it.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
    Ok(socket)
}

/// Takes the sockets of the process that serves `path`; `None` if there is none.
///
/// # Errors
/// `HandoverError`.
pub fn take(path: &Path) -> Result<Option<Inherited>, HandoverError> {
    let failed = |source| HandoverError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(HandoverError::NotSocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut link = match UnixStream::connect(path) {
        Ok(link) => link,
        // A process that is gone has left it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let uid = peer_uid(&link).map_err(failed)?;
    if uid != own_uid() {
        let path = path.to_owned();
        return Err(HandoverError::Stranger { path, uid });
    }
    link.set_read_timeout(Some(WORD)).map_err(failed)?;
    link.set_write_timeout(Some(WORD)).map_err(failed)?;
    link.write_all(HELLO).map_err(failed)?;
    let mut count = [0; 4];
    link.read_exact(&mut count).map_err(failed)?;
    let count = usize::try_from(u32::from_le_bytes(count)).unwrap_or(usize::MAX);
    if count > limits::HANDED_SOCKETS {
        return Err(HandoverError::Protocol(path.to_owned()));
    }
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        descriptors.extend(pass::receive(&link).map_err(failed)?);
    }
    let sockets = descriptors.len();
    tracing::info!(sockets, "takes over from a process that runs");
    let mut inherited = Inherited::of(descriptors);
    path.clone_into(&mut inherited.path);
    inherited.link = Some(link);
    Ok(Some(inherited))
}

/// What a supervisor has passed, if it is anything.
#[must_use]
pub fn passed(descriptors: Vec<OwnedFd>) -> Option<Inherited> {
    let sockets = descriptors.len();
    if sockets == 0 {
        return None;
    }
    tracing::info!(sockets, "listens at what the supervisor has passed");
    for descriptor in &descriptors {
        // Of a socket unit they block, whatever it is that reads them here.
        if let Err(error) = SockRef::from(descriptor).set_nonblocking(true) {
            tracing::warn!(%error, "a socket that was passed may block");
        }
    }
    let mut inherited = Inherited::of(descriptors);
    inherited.shared = true;
    Some(inherited)
}

fn peer_uid(link: &UnixStream) -> io::Result<u32> {
    let peer = rustix::net::sockopt::socket_peercred(link)?;
    Ok(peer.uid.as_raw())
}

/// Whether it is a stream, and where it listens; `None` if it is no socket.
fn key(socket: &Socket) -> Option<(bool, SocketAddr)> {
    let address = socket.local_addr().ok()?.as_socket()?;
    Some((socket.r#type().ok()? == Type::STREAM, address))
}

/// Where a unix socket listens.
fn path_of(socket: &Socket) -> Option<PathBuf> {
    let address = socket.local_addr().ok()?;
    std::path::absolute(address.as_pathname()?).ok()
}

impl Inherited {
    fn of(descriptors: Vec<OwnedFd>) -> Self {
        let mut sorted = Self {
            path: PathBuf::new(),
            link: None,
            sockets: BTreeMap::new(),
            unix: Vec::new(),
            files: Vec::new(),
            shared: false,
        };
        for descriptor in descriptors {
            let socket = Socket::from(descriptor);
            match (key(&socket), path_of(&socket)) {
                (Some(key), _) => sorted.sockets.entry(key).or_default().push(socket),
                (None, Some(at)) => sorted.unix.push((at, socket)),
                (None, None) => sorted.files.push(File::from(OwnedFd::from(socket))),
            }
        }
        sorted
    }

    /// Whether another process serves until [`commit`](Self::commit).
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.link.is_some()
    }

    /// Takes what the control thread needs.
    pub fn face(&mut self, process: &Process) -> Face {
        let own = own_listeners(process).into_iter();
        Face {
            served: self.is_served(),
            sockets: own
                .filter_map(|address| Some((address, self.one(true, address)?)))
                .collect(),
            unix: std::mem::take(&mut self.unix),
            files: std::mem::take(&mut self.files),
        }
    }

    /// Takes the socket of a listener that there is one of.
    pub fn one(&mut self, stream: bool, address: SocketAddr) -> Option<Socket> {
        let found = self.sockets.get_mut(&(stream, address))?;
        found.pop()
    }

    /// Deals what is left to this many cores: each socket of an address to the next core. With fewer cores than before some
    /// get more than one, so that none stays unserved.
    pub fn deal(&mut self, cores: usize) -> Vec<BTreeMap<SocketAddr, Vec<Socket>>> {
        let mut dealt: Vec<BTreeMap<SocketAddr, Vec<Socket>>> = Vec::new();
        dealt.resize_with(cores, BTreeMap::new);
        for ((stream, address), mut sockets) in std::mem::take(&mut self.sockets) {
            if !stream {
                continue;
            }
            if self.shared {
                share(&mut sockets, cores);
            }
            for (nth, socket) in sockets.into_iter().enumerate() {
                let core = nth.checked_rem(cores).and_then(|core| dealt.get_mut(core));
                if let Some(core) = core {
                    core.entry(address).or_default().push(socket);
                }
            }
        }
        dealt
    }

    /// Tells the other process that this one is ready, and waits until that one accepts nothing more.
    ///
    /// # Errors
    /// `HandoverError::Refused`: that one goes on, and this one must not serve beside it.
    pub fn commit(&mut self) -> Result<(), HandoverError> {
        let Some(mut link) = self.link.take() else {
            return Ok(());
        };
        // Where it could not be written an answer may wait all the same.
        let told = link.write_all(&[TAKE]);
        let mut answer = [0];
        match link.read_exact(&mut answer).map(|()| answer) {
            Ok([GONE]) => tracing::info!("has taken over"),
            Ok([NO]) => return Err(HandoverError::Refused(self.path.clone())),
            // It may have ended meanwhile; this process serves either way.
            Ok(_) | Err(_) => {
                let error = told.err().map(tracing::field::display);
                tracing::warn!(error, "the other process did not say that it goes");
            }
        }
        Ok(())
    }
}

/// Adds descriptors of the same sockets until there is one for each core.
fn share(sockets: &mut Vec<Socket>, cores: usize) {
    let there = sockets.len();
    for nth in there..cores {
        let socket = nth.checked_rem(there).and_then(|nth| sockets.get(nth));
        match socket.map(Socket::try_clone) {
            Some(Ok(socket)) => sockets.push(socket),
            // That core binds its own, or says why it can not.
            Some(Err(error)) => tracing::warn!(%error, "a socket is not shared with each core"),
            None => {}
        }
    }
}

/// The socket file of this process; removed at its end, unless another process has taken over.
struct Served {
    path: PathBuf,
    id: Option<FileId>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // After a hand-over the file is the other process's.
        if self.id.is_some() && FileId::of(&self.path).ok() == self.id {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Makes the socket beside its place and moves it there: what was there before is replaced at once.
fn bind(path: &Path) -> io::Result<(UnixListener, Served)> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(MODE))?;
    std::fs::rename(&beside, path)?;
    let served = Served {
        id: FileId::of(path).ok(),
        path: path.to_owned(),
    };
    Ok((listener, served))
}

/// Offers `sockets` at `path` until a process has taken them or this one stops; they are closed here then. The state of
/// `authority` goes with them. If it stops while another process starts, that one may serve all the same: `tenure` says so.
pub async fn serve(
    path: PathBuf,
    sockets: Vec<Arc<OwnedFd>>,
    (phase, tenure): (watch::Sender<Phase>, Tenure),
    authority: Option<Arc<Authority>>,
) {
    let (listener, served) = match bind(&path) {
        Ok(bound) => bound,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "no process can take over from this one");
            return;
        }
    };
    let mut stop = phase.subscribe();
    tokio::select! {
        // What the other process has said already counts.
        biased;
        () = offer(&listener, (&sockets, &tenure), authority.as_deref()) => {
            phase.send_modify(|phase| if *phase == Phase::Serve { *phase = Phase::HandedOver });
        }
        _ = stop.wait_for(|phase| phase.stops()) => {}
    }
    drop(served);
}

/// Returns when a process has taken over. One that comes while another one starts takes its place: it was started later,
/// and the other one may never be ready.
async fn offer(
    listener: &UnixListener,
    (sockets, tenure): (&[Arc<OwnedFd>], &Tenure),
    authority: Option<&Authority>,
) {
    let mut next = None;
    loop {
        let mut stream = match next.take() {
            Some(stream) => stream,
            None => caller(listener).await,
        };
        tenure.give(true);
        let ready = tokio::select! {
            // One that is ready is not turned away for one that has just come.
            biased;
            ready = give(&mut stream, sockets) => ready,
            other = caller(listener) => {
                next = Some(other);
                Err(io::Error::other("another new process has come"))
            }
        };
        if let Err(error) = ready {
            tracing::warn!(%error, "a hand-over was not finished, this process goes on");
            // It may have ended.
            drop(within(WORD, stream.write_all(&[NO])).await);
            tenure.give(false);
            continue;
        }
        // Before the other one is told: it reads what has been written.
        if let Some(authority) = authority {
            authority.hand_over();
        }
        tracing::info!("a new process has taken over, this one drains");
        // It tells the supervisor that it is ready only once it was answered, and is believed because it is the main one.
        supervisor::forget(sockets);
        if let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) {
            supervisor::main_is(pid);
        }
        // Whether or not it hears this, it serves.
        drop(within(WORD, stream.write_all(&[GONE])).await);
        return;
    }
}

/// The next process that asks to take over; others are turned away.
async fn caller(listener: &UnixListener) -> tokio::net::UnixStream {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "hand-over accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match greeted(&mut stream).await {
            Ok(()) => return stream,
            Err(error) => tracing::warn!(%error, "what asks for a hand-over gets none"),
        }
    }
}

async fn greeted(stream: &mut tokio::net::UnixStream) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != own_uid() {
        return Err(io::Error::other(format!("uid {uid} is another user")));
    }
    let mut hello = [0; HELLO.len()];
    within(WORD, stream.read_exact(&mut hello)).await?;
    if hello == *HELLO {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Returns when the new process is ready.
async fn give(stream: &mut tokio::net::UnixStream, sockets: &[Arc<OwnedFd>]) -> io::Result<()> {
    let count = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    within(WORD, stream.write_all(&count.to_le_bytes())).await?;
    for batch in sockets.chunks(pass::BATCH) {
        let batch: Vec<_> = batch.iter().map(|socket| socket.as_fd()).collect();
        let sent = stream.async_io(Interest::WRITABLE, || pass::send(&*stream, &batch));
        within(WORD, sent).await?;
    }
    tracing::info!(
        sockets = count,
        "a new process has the sockets, and may take over"
    );
    let mut word = [0];
    within(START, stream.read_exact(&mut word)).await?;
    if word != [TAKE] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::time::sleep;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    /// What a process that takes over has to do with.
    struct Old {
        dir: tempfile::TempDir,
        phase: watch::Sender<Phase>,
        tenure: Tenure,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Old {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (phase, begun) = (watch::Sender::new(Phase::Serve), watch::Sender::new(true));
            let tenure = Tenure::new(begun.subscribe(), phase.subscribe());
            let told = (phase.clone(), tenure.clone());
            let serving = serve(dir.path().join("socket"), Vec::new(), told, None);
            Self {
                serving: tokio::spawn(serving),
                dir,
                phase,
                tenure,
            }
        }

        async fn connect(&self) -> UnixStream {
            let path = self.dir.path().join("socket");
            while !path.exists() {
                sleep(SOON).await;
            }
            UnixStream::connect(path).await.unwrap()
        }

        /// One that has what it needs, and is not ready.
        async fn successor(&self) -> UnixStream {
            let mut stream = self.connect().await;
            stream.write_all(HELLO).await.unwrap();
            assert_eq!(stream.read_u32_le().await.unwrap(), 0);
            stream
        }
    }

    #[tokio::test]
    async fn one_that_is_ready_is_not_turned_away_for_one_that_has_just_come() {
        for _ in 0..20 {
            let old = Old::start();
            let mut first = old.successor().await;
            let second = old.connect().await;
            // Time to be accepted.
            sleep(SOON).await;
            // Both are heard at the same moment.
            assert_eq!(second.try_write(HELLO).unwrap(), HELLO.len());
            assert_eq!(first.try_write(&[TAKE]).unwrap(), 1);
            assert_eq!(first.read_u8().await.unwrap(), GONE);
            old.serving.await.unwrap();
            assert_eq!(*old.phase.borrow(), Phase::HandedOver);
        }
    }

    #[tokio::test]
    async fn what_another_process_may_have_is_left_to_it() {
        let old = Old::start();
        let first = old.successor().await;
        assert!(!old.tenure.is_now());
        // It has failed.
        drop(first);
        let told = async {
            while !old.tenure.is_now() {
                sleep(SOON).await;
            }
            Ok(())
        };
        within(WORD, told).await.unwrap();
        // This one may be ready at any time, and this process is told to stop.
        let second = old.successor().await;
        old.phase.send_replace(Phase::Drain);
        old.serving.await.unwrap();
        assert!(!old.tenure.is_now());
        drop(second);
    }
}
