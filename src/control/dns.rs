//! The addresses of outside names: asked for at the start and again by their TTL, never for a request.
//!
//! So a request waits for no nameserver, and what is dialled is what was judged when DNS answered: a name whose answer
//! changes between check and use has no effect.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::checked::{Config, Location, Service};
use crate::control::nameservers;
use crate::role::egress::{Endpoint, written};
use crate::upstream::resolved::{Failure, Known, Name, Resolved};
use crate::vocab::limits;

/// No name is asked for more often; the first wait after a failure.
const SOONEST: Duration = Duration::from_secs(5);
/// Every name is asked for at least so often; the longest wait after failures.
const LATEST: Duration = Duration::from_secs(300);
/// How long a nameserver of `process.nameservers` may take to answer before it is asked again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long the start waits for the first answers; a name that has none is not reached, nothing else.
const FIRST: Duration = Duration::from_secs(2);

/// What DNS says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// All addresses, not judged yet.
    pub addresses: Vec<IpAddr>,
    /// How long it holds.
    pub ttl: Duration,
}

/// Who is asked.
pub trait Lookup: Clone + Send + Sync + 'static {
    /// Asks for both families.
    fn lookup(&self, host: String) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// Nameservers of the process, or those of the system.
#[derive(Clone, Debug)]
pub struct Dns {
    nameservers: Vec<SocketAddr>,
}

impl Dns {
    /// Asks `nameservers`; if there are none, those of `/etc/resolv.conf`, after `/etc/hosts`.
    #[must_use]
    pub fn new(nameservers: Vec<SocketAddr>) -> Self {
        Self { nameservers }
    }

    /// Made anew for each name, so that a change of the system's files counts without a restart.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.nameservers.is_empty() {
            let (config, options) = nameservers::of_system()?;
            let mut builder =
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
                    .with_options(options);
            builder.options_mut().use_hosts_file = ResolveHosts::Always;
            builder
        } else {
            let servers = self.nameservers.iter().copied().map(nameserver).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            options.timeout = ATTEMPT;
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options)
        };
        builder.options_mut().cache_size = 0;
        builder.build()
    }
}

fn nameserver(address: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    let connections: &mut [ConnectionConfig] = &mut config.connections;
    for connection in connections {
        connection.port = address.port();
    }
    config
}

impl Lookup for Dns {
    async fn lookup(&self, host: String) -> Result<Answer, Failure> {
        let silent = |error: NetError| Failure::Unanswered(error.to_string());
        let resolver = self.resolver().map_err(silent)?;
        let mut name = rr::Name::from_ascii(&host).map_err(|e| silent(e.into()))?;
        // The system's search domains would make other names of it, and those belong to others.
        name.set_fqdn(true);
        let limit = Duration::from_millis(limits::LOOKUP_MS);
        let (v4, v6) = tokio::join!(
            Box::pin(timeout(limit, resolver.ipv4_lookup(name.clone()))),
            Box::pin(timeout(limit, resolver.ipv6_lookup(name)))
        );
        let one = |outcome: Result<Result<lookup::Lookup, NetError>, _>| match outcome {
            Ok(Ok(found)) => answer(&found),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_elapsed) => Err(Failure::Unanswered("no answer in time".to_owned())),
        };
        both(one(v4), one(v6))
    }
}

fn answer(found: &lookup::Lookup) -> Result<Answer, Failure> {
    let records = found.answers();
    let addresses: Vec<IpAddr> = records.iter().filter_map(|r| r.data.ip_addr()).collect();
    if addresses.is_empty() {
        return Err(Failure::NoSuchName);
    }
    // An alias on the way may change as well.
    let ttl = records.iter().map(|r| r.ttl).min().unwrap_or_default();
    Ok(Answer {
        addresses,
        ttl: Duration::from_secs(ttl.into()),
    })
}

fn failure(error: &NetError) -> Failure {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = error
        && matches!(
            none.response_code,
            ResponseCode::NXDomain | ResponseCode::NoError
        )
    {
        return Failure::NoSuchName;
    }
    Failure::Unanswered(error.to_string())
}

/// Both families together: one suffices, and only two negative answers are one.
fn both(v4: Result<Answer, Failure>, v6: Result<Answer, Failure>) -> Result<Answer, Failure> {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.addresses.extend(v6.addresses);
            v4.ttl = v4.ttl.min(v6.ttl);
            Ok(v4)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(silent @ Failure::Unanswered(_)), Err(_))
        | (Err(Failure::NoSuchName), Err(silent)) => Err(silent),
    }
}

/// The names that this process dials itself: those of services of its own egress gateways and, where it has nodes, of
/// services that pass none.
#[must_use]
pub fn wanted(config: &Config) -> BTreeSet<Name> {
    let (process, mesh) = (&config.process, &config.mesh);
    let dialled = |service: &&Service| match service.waypoint {
        _ if service.location != Location::External => false,
        None => !process.nodes.is_empty(),
        Some(at) => mesh
            .gateways
            .get(at)
            .is_some_and(|g| process.egresses.iter().any(|e| e.gateway == g.name)),
    };
    let name = |endpoint| match endpoint {
        Endpoint::Name(name) => Some(name),
        Endpoint::Address(_) => None,
    };
    let services = mesh.services.iter().filter(dialled);
    services.flat_map(written).filter_map(name).collect()
}

#[derive(Debug)]
struct Entry {
    known: Option<Known>,
    due: Instant,
    /// Attempts in a row that failed.
    failed: u32,
    /// An answer is on its way.
    asked: bool,
}

/// Keeps `Resolved` fresh.
#[derive(Debug)]
pub struct NameKeeper<L> {
    lookup: L,
    wanted: watch::Receiver<BTreeSet<Name>>,
    entries: BTreeMap<Name, Entry>,
    out: watch::Sender<Arc<Resolved>>,
}

/// How the keeper is told what to keep, and where it puts it.
#[derive(Debug)]
pub struct Names {
    /// The names to keep.
    pub wanted: watch::Sender<BTreeSet<Name>>,
    /// Their addresses.
    pub resolved: watch::Receiver<Arc<Resolved>>,
}

impl Names {
    /// Waits until something is known of every name, but not for long.
    pub async fn first(&mut self) {
        let wanted = self.wanted.borrow().clone();
        let all = self
            .resolved
            .wait_for(|r| wanted.iter().all(|name| r.by_name.contains_key(name)));
        if timeout(FIRST, all).await.is_err() {
            tracing::warn!(
                "not all outside names are resolved yet; they are not reached until they are"
            );
        }
    }
}

impl<L: Lookup> NameKeeper<L> {
    /// A keeper of these names; nothing happens before it runs.
    #[must_use]
    pub fn new(lookup: L, names: BTreeSet<Name>) -> (Self, Names) {
        let (sender, wanted) = watch::channel(names);
        let (out, resolved) = watch::channel(Arc::default());
        let keeper = Self {
            lookup,
            wanted,
            entries: BTreeMap::new(),
            out,
        };
        let names = Names {
            wanted: sender,
            resolved,
        };
        (keeper, names)
    }

    /// Runs until `Names::wanted` is dropped.
    pub async fn run(mut self) {
        let mut under_way = JoinSet::new();
        self.adopt();
        loop {
            let next = self.ask(&mut under_way);
            let wait = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.adopt(),
                    Err(_gone) => return,
                },
                Some(done) = under_way.join_next() => match done {
                    Ok((name, outcome)) => self.settle(&name, outcome),
                    Err(error) => self.lost(&error),
                },
                () = wait => {}
            }
        }
    }

    /// Asks for what is due, within the bound; when the next one is due.
    fn ask(&mut self, under_way: &mut JoinSet<(Name, Result<Answer, Failure>)>) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (name, entry) in self.entries.iter_mut().filter(|(_, e)| !e.asked) {
            if under_way.len() >= limits::LOOKUPS {
                // The next answer makes room.
                return None;
            }
            if entry.due > now {
                next = Some(next.map_or(entry.due, |known| known.min(entry.due)));
                continue;
            }
            entry.asked = true;
            let (lookup, name) = (self.lookup.clone(), name.clone());
            under_way.spawn(async move {
                let outcome = Box::pin(lookup.lookup(name.host.clone())).await;
                (name, outcome)
            });
        }
        next
    }

    /// Takes over the names that are wanted now; those that stay keep what is known.
    fn adopt(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.entries.retain(|name, _| wanted.contains(name));
        let now = Instant::now();
        for name in wanted {
            self.entries.entry(name).or_insert(Entry {
                known: None,
                due: now,
                failed: 0,
                asked: false,
            });
        }
        self.publish();
    }

    fn settle(&mut self, name: &Name, outcome: Result<Answer, Failure>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.asked = false;
        let (known, wait) = match outcome {
            Ok(answer) => {
                entry.failed = 0;
                let known = Known::judge(answer.addresses, name.allow_private);
                (known, answer.ttl.clamp(SOONEST, LATEST))
            }
            Err(failure) => {
                entry.failed = entry.failed.saturating_add(1);
                if entry.failed == 1 {
                    tracing::warn!("outside name `{}` {failure}", name.host);
                }
                let known = entry.known.clone().unwrap_or_default().after(failure);
                (known, backoff(entry.failed))
            }
        };
        entry.due = Instant::now().checked_add(wait).unwrap_or(entry.due);
        let refused = entry.known.as_ref().map_or(&[][..], |k| &k.refused);
        if !known.refused.is_empty() && known.refused != refused {
            tracing::warn!(
                addresses = ?known.refused,
                "DNS answers for `{}` with addresses that may not be dialled; they are left out",
                name.host
            );
        }
        entry.known = Some(known);
        self.publish();
    }

    /// A task that ended without an answer: everything is asked for again.
    fn lost(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "a lookup has ended");
        let due = Instant::now().checked_add(SOONEST);
        for entry in self.entries.values_mut().filter(|e| e.asked) {
            entry.asked = false;
            entry.due = due.unwrap_or(entry.due);
        }
    }

    fn publish(&self) {
        let known = |(name, entry): (&Name, &Entry)| Some((name.clone(), entry.known.clone()?));
        let by_name: BTreeMap<_, _> = self.entries.iter().filter_map(known).collect();
        self.out.send_if_modified(|now| {
            if now.by_name == by_name {
                return false;
            }
            let generation = now.generation.wrapping_add(1);
            *now = Arc::new(Resolved {
                generation,
                by_name,
            });
            true
        });
    }
}

/// How long after the `failed`th failure in a row.
fn backoff(failed: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(failed.saturating_sub(1))
        .unwrap_or(u32::MAX);
    SOONEST.saturating_mul(factor.max(1)).min(LATEST)
}

#[cfg(test)]
mod tests;
