//! Keeps one fresh SVID per wanted identity and hands them out whole.
//!
//! Every identity has a task of its own that issues, waits for the half life and issues again. A failure is tried
//! again with a growing wait while the old SVID lives on; when that one expires it is withdrawn, and the data cores
//! have nothing to present (fail closed). An SVID whose serial number is revoked, or that a clock set back has put into
//! the future, is replaced at once; a source that has no other one is asked as after a failure.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::authority::{Authority, IssueError};
use super::file_source::{FileSource, FileSourceError};
use super::grpc::{RemoteAuthority, RemoteError};
use super::workload_api::source::{AgentError, WorkloadApiSource};
use crate::identity::bundle::TrustBundles;
use crate::identity::leaf;
use crate::identity::revocation::{Revocations, Serial};
use crate::identity::rotation::{backoff, next_rotation};
use crate::identity::svid::{Svid, WantedSvid};
use crate::telemetry::record::rfc3339;
use crate::vocab::spiffe::SpiffeId;

/// Requests to the source at a time (ztunnel's value).
const CONCURRENT: usize = 8;
/// Longest sleep before the wall clock is read again: a VM that was suspended wakes up late by at most this.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// Shortest wait between two rotations of one identity.
const ROTATION_MIN_S: u64 = 1;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;
/// Gives a number in 0..1.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The wall clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(UnixTime::now)
}

/// Jitter from the operating system's randomness; 0.5 if there is none.
#[must_use]
pub fn system_jitter() -> Jitter {
    Arc::new(|| {
        let mut bytes = [0_u8; 4];
        match aws_lc_rs::rand::fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
            Err(_unspecified) => 0.5,
        }
    })
}

/// What a source answers.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The SVID.
    pub svid: Svid,
    /// The bundles to verify peers with.
    pub bundles: Arc<TrustBundles>,
}

/// Where SVIDs come from.
pub trait SvidSource: Send + Sync + 'static {
    /// Issues one SVID. Dropping the future gives the attempt up.
    fn issue(
        &self,
        wanted: &WantedSvid,
        now: UnixTime,
    ) -> impl Future<Output = Result<Issued, SourceError>> + Send;

    /// The bundles as the source knows them now; empty if it does not.
    fn bundles(&self) -> Arc<TrustBundles>;

    /// Tells when the bundles change by themselves; `None` if they come with SVIDs only.
    fn bundle_changes(&self) -> Option<watch::Receiver<Arc<TrustBundles>>> {
        None
    }

    /// Tells when it is worth asking again before an SVID is half over; `None` if that is never known.
    fn renewals(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// Why a source gave no SVID.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The Workload API did not offer it.
    #[error("Workload API gave no SVID")]
    Agent(#[source] AgentError),
    /// The embedded authority refused.
    #[error("embedded authority refused")]
    Embedded(#[source] IssueError),
    /// No usable files.
    #[error("no usable identity files")]
    Files(#[source] FileSourceError),
    /// The remote authority refused, could not be reached, or answered with something that does not verify.
    #[error("remote authority gave no usable answer")]
    Remote(#[source] RemoteError),
}

/// The sources of a configuration.
#[derive(Clone, Debug)]
pub enum Source {
    /// `[authority]`
    Embedded {
        /// In this process.
        authority: Arc<Authority>,
        /// Lifetime of an SVID.
        ttl: Duration,
    },
    /// `[identity]` with an address.
    Remote(Arc<RemoteAuthority>),
    /// `[identity]` with files.
    Files(Arc<FileSource>),
    /// `[identity]` with workloadApi.
    Agent(Arc<WorkloadApiSource>),
}

impl Source {
    /// What the admin endpoint calls it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Embedded { .. } => "authority",
            Self::Remote(_) => "remote",
            Self::Files(_) => "files",
            Self::Agent(_) => "workloadApi",
        }
    }
}

impl SvidSource for Source {
    async fn issue(&self, wanted: &WantedSvid, now: UnixTime) -> Result<Issued, SourceError> {
        match self {
            Self::Embedded { authority, ttl } => {
                let svid = authority
                    .issue(&wanted.id, &wanted.dns_names, *ttl, now)
                    .map_err(SourceError::Embedded)?;
                Ok(Issued {
                    svid,
                    bundles: authority.bundles(),
                })
            }
            Self::Remote(remote) => remote.issue(wanted, now).await.map_err(SourceError::Remote),
            Self::Files(files) => files.issue(wanted, now).map_err(SourceError::Files),
            Self::Agent(agent) => agent.issue(wanted, now).await.map_err(SourceError::Agent),
        }
    }

    fn bundles(&self) -> Arc<TrustBundles> {
        match self {
            Self::Embedded { authority, .. } => authority.bundles(),
            Self::Remote(remote) => remote.bundles(),
            Self::Files(files) => files.bundles(),
            Self::Agent(agent) => agent.bundles(),
        }
    }

    fn bundle_changes(&self) -> Option<watch::Receiver<Arc<TrustBundles>>> {
        match self {
            Self::Embedded { authority, .. } => Some(authority.subscribe_bundles()),
            Self::Remote(remote) => Some(remote.subscribe_bundles()),
            Self::Files(files) => Some(files.subscribe_bundles()),
            Self::Agent(agent) => Some(agent.subscribe_bundles()),
        }
    }

    fn renewals(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Embedded { .. } | Self::Remote(_) => None,
            Self::Files(files) => Some(files.renewals()),
            Self::Agent(agent) => Some(agent.renewals()),
        }
    }
}

/// Every SVID of the process at one moment.
#[derive(Clone, Debug, Default)]
pub struct SvidSet {
    /// The SVIDs that are valid now.
    pub by_id: BTreeMap<SpiffeId, Arc<Svid>>,
    /// What peers are verified with.
    pub bundles: Arc<TrustBundles>,
    /// Counts the changes; 0 before the first SVID.
    pub generation: u64,
}

impl SvidSet {
    /// Whether every wanted identity has its SVID.
    #[must_use]
    pub fn covers(&self, wanted: &[WantedSvid]) -> bool {
        wanted.iter().all(|w| self.by_id.contains_key(&w.id))
    }
}

enum Event {
    Fresh { wanted: WantedSvid, issued: Issued },
    Expired { id: SpiffeId },
}

struct Running {
    wanted: WantedSvid,
    task: AbortHandle,
}

/// Issues and rotates. [`Self::run`] is the work; the set is read through [`Self::subscribe`].
pub struct SvidManager<S> {
    source: Arc<S>,
    clock: Clock,
    jitter: Jitter,
    wanted: watch::Sender<Vec<WantedSvid>>,
    revoked: watch::Sender<Arc<Revocations>>,
    set: watch::Sender<Arc<SvidSet>>,
}

impl<S> std::fmt::Debug for SvidManager<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SvidManager")
            .field("wanted", &*self.wanted.borrow())
            .finish_non_exhaustive()
    }
}

impl<S: SvidSource> SvidManager<S> {
    /// A manager with the system's clock and randomness. Nothing is issued before [`Self::run`].
    #[must_use]
    pub fn new(source: S, wanted: Vec<WantedSvid>) -> Self {
        Self::with_clock(source, wanted, system_clock(), system_jitter())
    }

    /// A manager with the given clock and jitter.
    #[must_use]
    pub fn with_clock(source: S, wanted: Vec<WantedSvid>, clock: Clock, jitter: Jitter) -> Self {
        let empty = SvidSet {
            bundles: source.bundles(),
            ..SvidSet::default()
        };
        Self {
            source: Arc::new(source),
            clock,
            jitter,
            wanted: watch::Sender::new(wanted),
            revoked: watch::Sender::new(Arc::default()),
            set: watch::Sender::new(Arc::new(empty)),
        }
    }

    /// The set, now and after every change. Wait for the first SVIDs with
    /// `receiver.wait_for(|set| set.covers(&wanted))`.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<SvidSet>> {
        self.set.subscribe()
    }

    /// A handle that changes what is wanted after a reload: new identities are issued, changed DNS names issue
    /// again, others are withdrawn.
    #[must_use]
    pub fn wanted(&self) -> watch::Sender<Vec<WantedSvid>> {
        self.wanted.clone()
    }

    /// A handle that tells what is revoked: an SVID whose serial number is, is issued again at once.
    #[must_use]
    pub fn revoked(&self) -> watch::Sender<Arc<Revocations>> {
        self.revoked.clone()
    }

    /// Issues all wanted identities and keeps them fresh, until the future is dropped. Its tasks end with it.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<SpiffeId, Running> = BTreeMap::new();
        let mut wanted = self.wanted.subscribe();
        let permits = Arc::new(Semaphore::new(CONCURRENT));
        let (events, mut inbox) = mpsc::channel(CONCURRENT);
        let mut bundles = self.source.bundle_changes();
        wanted.mark_changed();
        loop {
            tokio::select! {
                // `self` holds a sender of either channel, so neither can close.
                Ok(()) = wanted.changed() => {
                    let now_wanted = wanted.borrow_and_update().clone();
                    self.withdraw(&mut running, &now_wanted);
                    for want in now_wanted {
                        if running.contains_key(&want.id) {
                            continue;
                        }
                        let keeper = Keeper {
                            wanted: want.clone(),
                            source: Arc::clone(&self.source),
                            clock: Arc::clone(&self.clock),
                            jitter: Arc::clone(&self.jitter),
                            permits: Arc::clone(&permits),
                            revoked: self.revoked.subscribe(),
                            renewals: self.source.renewals(),
                            events: events.clone(),
                        };
                        let task = tasks.spawn(keeper.run());
                        running.insert(want.id.clone(), Running { wanted: want, task });
                    }
                }
                () = changed(&mut bundles) => {
                    let bundles = self.source.bundles();
                    if !Arc::ptr_eq(&bundles, &self.set.borrow().bundles) {
                        self.publish(|set| set.bundles = bundles);
                    }
                }
                Some(event) = inbox.recv() => self.apply(event, &running),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && !error.is_cancelled() {
                        tracing::error!(error = &error as &dyn std::error::Error, "rotation of an identity has ended");
                    }
                }
            }
        }
    }

    /// Ends the tasks of identities that are no longer wanted, or wanted with other names.
    fn withdraw(&self, running: &mut BTreeMap<SpiffeId, Running>, now_wanted: &[WantedSvid]) {
        let mut gone = Vec::new();
        running.retain(|id, entry| {
            if now_wanted.contains(&entry.wanted) {
                return true;
            }
            entry.task.abort();
            if !now_wanted.iter().any(|w| w.id == *id) {
                gone.push(id.clone());
            }
            false
        });
        if !gone.is_empty() {
            self.publish(|set| set.by_id.retain(|id, _svid| !gone.contains(id)));
        }
    }

    fn apply(&self, event: Event, running: &BTreeMap<SpiffeId, Running>) {
        match event {
            Event::Fresh { wanted, issued } => {
                // An answer that was on its way when its identity was withdrawn is dropped.
                if running
                    .get(&wanted.id)
                    .is_none_or(|entry| entry.wanted != wanted)
                {
                    return;
                }
                let held = self.set.borrow().by_id.get(&wanted.id).cloned();
                if held.is_some_and(|held| held.chain == issued.svid.chain) {
                    // Files that have not changed.
                    return;
                }
                let not_after = Duration::from_secs(issued.svid.not_after.as_secs());
                tracing::info!(id = %wanted.id, not_after = rfc3339(not_after), "SVID issued");
                // The source may have told of newer ones since it answered.
                let bundles = match self.source.bundle_changes() {
                    Some(_told) => self.source.bundles(),
                    None => issued.bundles,
                };
                self.publish(|set| {
                    set.by_id.insert(wanted.id, Arc::new(issued.svid));
                    set.bundles = bundles;
                });
            }
            Event::Expired { id } => {
                tracing::error!(%id, "SVID expired and could not be replaced; the identity is withdrawn");
                self.publish(|set| {
                    set.by_id.remove(&id);
                });
            }
        }
    }

    fn publish(&self, change: impl FnOnce(&mut SvidSet)) {
        let mut next = SvidSet::clone(&self.set.borrow());
        change(&mut next);
        next.generation = next.generation.saturating_add(1);
        self.set.send_replace(Arc::new(next));
    }
}

/// The task of one identity.
struct Keeper<S> {
    wanted: WantedSvid,
    source: Arc<S>,
    clock: Clock,
    jitter: Jitter,
    permits: Arc<Semaphore>,
    revoked: watch::Receiver<Arc<Revocations>>,
    renewals: Option<watch::Receiver<u64>>,
    events: mpsc::Sender<Event>,
}

/// An SVID that was handed out.
struct Held {
    not_before: UnixTime,
    not_after: UnixTime,
    rotate_at: UnixTime,
    serial: Option<Serial>,
}

/// Ends when something was told; never without a channel.
async fn changed<T>(told: &mut Option<watch::Receiver<T>>) {
    if let Some(channel) = told
        && channel.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

impl<S: SvidSource> Keeper<S> {
    async fn run(mut self) {
        let mut failures = 0_u32;
        let mut expires: Option<UnixTime> = None;
        loop {
            match self.attempt(expires).await {
                Ok(held) => {
                    expires = Some(held.not_after);
                    let Some(why) = self.why_useless(&held) else {
                        failures = 0;
                        self.until_due(&held).await;
                        continue;
                    };
                    failures = failures.saturating_add(1);
                    let wait = backoff(failures, (self.jitter)());
                    tracing::warn!(
                        id = %self.wanted.id, failures, wait_ms = wait.as_millis(),
                        "the source has no other SVID than one that {why}"
                    );
                    expires = self.wait(wait, expires).await;
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    let wait = backoff(failures, (self.jitter)());
                    if let Some(error) = reason {
                        let now = (self.clock)().as_secs();
                        let left = expires.map_or(0, |end| end.as_secs().saturating_sub(now));
                        tracing::warn!(
                            id = %self.wanted.id, failures, wait_ms = wait.as_millis(), seconds_left = left,
                            error = &error as &dyn std::error::Error, "SVID not issued"
                        );
                    }
                    expires = self.wait(wait, expires).await;
                }
            }
        }
    }

    /// Why peers do not take what the source has just given.
    fn why_useless(&self, held: &Held) -> Option<&'static str> {
        let revoked = self.revoked.borrow();
        let serial = held.serial.as_ref();
        if serial.is_some_and(|serial| revoked.has_serial(serial)) {
            return Some("is revoked by its serial number");
        }
        let now = (self.clock)().as_secs();
        (now < held.not_before.as_secs()).then_some("is not valid yet")
    }

    /// Waits for the next rotation, or for what makes it necessary before.
    async fn until_due(&mut self, held: &Held) {
        let revoked = self.revoked.wait_for(|revoked| {
            held.serial
                .as_ref()
                .is_some_and(|serial| revoked.has_serial(serial))
        });
        let revoked = async {
            if revoked.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let clock = Arc::clone(&self.clock);
        let due = async {
            loop {
                let now = (clock)().as_secs();
                // Before its time: the clock was set back.
                if now >= held.rotate_at.as_secs() || now < held.not_before.as_secs() {
                    return;
                }
                let left = held.rotate_at.as_secs().saturating_sub(now);
                tokio::time::sleep(Duration::from_secs(left).min(SLEEP_MAX)).await;
            }
        };
        tokio::select! {
            () = due => {}
            () = revoked => {
                tracing::warn!(id = %self.wanted.id, "SVID is revoked by its serial number, another is asked for");
            }
            () = changed(&mut self.renewals) => {}
        }
    }

    /// One try. `Err(None)` means that the old SVID ran out while the source was silent.
    async fn attempt(&self, expires: Option<UnixTime>) -> Result<Held, Option<SourceError>> {
        let issue = async {
            // The semaphore is never closed; its error would only lift the bound.
            let _permit = self.permits.acquire().await;
            let now = (self.clock)();
            (self.source.issue(&self.wanted, now).await, now)
        };
        let (issued, now) = tokio::select! {
            (issued, now) = issue => (issued.map_err(Some)?, now),
            () = self.expiry(expires) => return Err(None),
        };
        let (from, not_after) = (
            issued.svid.not_before.as_secs().max(now.as_secs()),
            issued.svid.not_after,
        );
        let half = next_rotation(secs(from), not_after, (self.jitter)());
        let rotate_at = secs(
            half.as_secs()
                .max(now.as_secs().saturating_add(ROTATION_MIN_S)),
        );
        let first = issued.svid.chain.first();
        let held = Held {
            not_before: issued.svid.not_before,
            not_after,
            rotate_at,
            serial: first.and_then(|der| leaf::peer(der).ok()).map(|l| l.serial),
        };
        let event = Event::Fresh {
            wanted: self.wanted.clone(),
            issued,
        };
        self.send(event).await;
        Ok(held)
    }

    /// Waits `wait`, but tells it at once when the old SVID runs out. Returns what is left of `expires`.
    async fn wait(&mut self, wait: Duration, expires: Option<UnixTime>) -> Option<UnixTime> {
        let mut renewals = self.renewals.clone();
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed(&mut renewals) => {}
            }
        };
        tokio::pin!(pause);
        let left = tokio::select! {
            biased;
            () = self.expiry(expires) => {
                self.send(Event::Expired { id: self.wanted.id.clone() }).await;
                pause.await;
                None
            }
            () = &mut pause => expires,
        };
        // The next attempt sees what was told until now.
        if let Some(told) = &mut self.renewals {
            told.mark_unchanged();
        }
        left
    }

    /// Ends one second after `expires`; never without it.
    async fn expiry(&self, expires: Option<UnixTime>) {
        match expires {
            Some(end) => {
                self.sleep_until(secs(end.as_secs().saturating_add(1)))
                    .await;
            }
            None => std::future::pending().await,
        }
    }

    async fn sleep_until(&self, deadline: UnixTime) {
        loop {
            let left = deadline.as_secs().saturating_sub((self.clock)().as_secs());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_secs(left).min(SLEEP_MAX)).await;
        }
    }

    async fn send(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            // The manager is gone, and this task goes with it.
            std::future::pending::<()>().await;
        }
    }
}

fn secs(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
