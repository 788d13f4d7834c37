//! Accepts connections, finds out who made them, and bounds what one user may take.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::attest::{self, Entry};
use super::heads::Heads;
use super::session::{Budget, Session, Shared, User};
use super::socket::Listening;
use super::tokens::Tokens;
use crate::control::svid::{Clock, SvidSet};
use crate::control::tenure::Tenure;
use crate::identity::revocation::Revocations;
use crate::io::peer::{self, BootTime, Peer};
use crate::telemetry::audit::Audit;
use crate::vocab::limits;

const HEADER_BYTES: u32 = 16 * 1024;
/// Bytes that may wait for a client that does not read.
const SEND_BYTES: usize = 64 * 1024;
/// After a failed accept (no file descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Where the kernel does not say which process connected: a process has to be this old before it is sure that it was it.
const LOOK_AT_QUEUE: Duration = Duration::from_millis(100);
/// How long a client may take to go after it was told to.
const GOODBYE: Duration = Duration::from_secs(1);

/// The Workload API of this process.
#[derive(Clone)]
pub struct WorkloadApiServer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for WorkloadApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadApiServer")
            .field("entries", &*self.shared.entries.borrow())
            .finish_non_exhaustive()
    }
}

/// Parts of a server.
#[derive(Debug)]
pub struct Parts {
    /// Who is what; may change.
    pub entries: watch::Receiver<Arc<Vec<Entry>>>,
    /// The SVIDs of this process.
    pub svids: watch::Receiver<Arc<SvidSet>>,
    /// What is revoked: nobody gets that.
    pub revoked: watch::Receiver<Arc<Revocations>>,
    /// Who signs JWT-SVIDs.
    pub tokens: Tokens,
    /// Lifetime of a JWT-SVID.
    pub jwt_svid_ttl: Duration,
    /// Where every answer is recorded.
    pub audit: Audit,
}

impl WorkloadApiServer {
    /// A server that is not yet reached.
    #[must_use]
    pub fn new(parts: Parts, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                entries: parts.entries,
                svids: parts.svids,
                revoked: parts.revoked,
                tokens: parts.tokens,
                jwt_svid_ttl: parts.jwt_svid_ttl,
                clock,
                audit: parts.audit,
            }),
        }
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, listening: Listening) {
        let mut tenure = listening.tenure.clone();
        // Another process may serve until then.
        tenure.begins().await;
        let places = Arc::new(Semaphore::new(limits::WORKLOAD_API_CONNECTIONS));
        let mut users: BTreeMap<u32, Arc<User>> = BTreeMap::new();
        let mut connections = JoinSet::new();
        let mut quiet = listening.quiet;
        let sure = kernel_tells();
        if !sure {
            tracing::warn!(
                "the kernel does not say which process connects (Linux 6.5 does): \
                one that has just begun may be refused once"
            );
        }
        loop {
            // Past the bound new connections wait in the kernel's queue.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            quiet = later(&listening, quiet);
            let stream = tokio::select! {
                () = tenure.ends() => break,
                accepted = listening.listener.accept() => match accepted {
                    Ok((stream, _address)) => stream,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "Workload API cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                Some(_ended) = connections.join_next() => {
                    let now = (self.shared.clock)().as_secs();
                    users.retain(|_uid, user| Arc::strong_count(user) > 1 || user.is_active(now));
                    continue;
                }
                () = sleep(LOOK_AT_QUEUE), if !sure => continue,
            };
            let Some(session) = self.admit(&stream, quiet, &mut users) else {
                continue;
            };
            let tenure = tenure.clone();
            connections.spawn(async move {
                connection(session, stream, tenure).await;
                drop(place);
            });
        }
        // Nobody waits here in vain should the other process end. The file stays: the tenure is over.
        drop(listening);
        // They are told to go, and ask the process that has taken over.
        while connections.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    }

    /// Who made the connection, if he may have another one.
    fn admit(
        &self,
        stream: &UnixStream,
        quiet: BootTime,
        users: &mut BTreeMap<u32, Arc<User>>,
    ) -> Option<Arc<Session>> {
        let refused = |source, reason: &str| {
            self.shared
                .record(source, "connect", Vec::new(), Some(reason));
        };
        let credentials = stream.peer_cred().ok()?;
        let now_s = (self.shared.clock)().as_secs();
        let user = Arc::clone(users.entry(credentials.uid()).or_default());
        let found = Peer::of(stream.as_fd(), quiet).and_then(|peer| {
            let facts = peer.facts()?;
            Ok((peer, facts))
        });
        let (peer, first) = match found {
            Ok(found) => found,
            Err(error) => {
                if user.take(now_s) != Budget::Over {
                    let named = [
                        ("uid".to_owned(), credentials.uid().into()),
                        ("gid".to_owned(), credentials.gid().into()),
                    ];
                    refused(named.into_iter().collect(), &error.to_string());
                }
                return None;
            }
        };
        if user.connections.load(Ordering::Relaxed) >= limits::WORKLOAD_API_CONNECTIONS_PER_USER {
            if user.take(now_s) != Budget::Over {
                let source = attest::describe(&peer, Some(&first));
                refused(source, "too many connections of this user");
            }
            return None;
        }
        user.connections.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Session {
            shared: Arc::clone(&self.shared),
            peer,
            first,
            user,
            stale: Notify::new(),
        }))
    }
}

/// A moment at which nobody waited to be accepted: now, or the last one known.
fn later(listening: &Listening, last: BootTime) -> BootTime {
    // The clock first: whoever comes after this line has connected after it.
    let Ok(now) = BootTime::now() else {
        return last;
    };
    match peer::readable(listening.listener.as_fd()) {
        Ok(false) => now,
        Ok(true) | Err(_) => last,
    }
}

/// Whether a connection names the process that made it.
fn kernel_tells() -> bool {
    let pair = StdUnixStream::pair();
    pair.is_ok_and(|(ours, _theirs)| Peer::by_kernel(ours.as_fd()).is_ok())
}

/// Serves one connection, at most until the process that made it ends: what others hold of it then speaks for nobody.
async fn connection(session: Arc<Session>, stream: UnixStream, mut tenure: Tenure) {
    let ended = match session.peer.watch() {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Workload API cannot watch a process"
            );
            return;
        }
    };
    let service = Arc::clone(&session);
    let answer = hyper::service::service_fn(move |request| {
        let session = Arc::clone(&service);
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::WORKLOAD_API_STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(SEND_BYTES)
        .serve_connection(TokioIo::new(Heads::new(stream)), answer);
    tokio::pin!(served);
    let told_to_go = async {
        tokio::select! {
            () = session.stale.notified() => {}
            () = tenure.ends() => {}
        }
    };
    let result = tokio::select! {
        result = &mut served => result,
        () = ended.ended() => return,
        () = told_to_go => {
            served.as_mut().graceful_shutdown();
            match timeout(GOODBYE, &mut served).await {
                Ok(result) => result,
                Err(_elapsed) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(
            pid = session.peer.pid,
            error = &error as &dyn std::error::Error,
            "connection of the Workload API"
        );
    }
}
