//! The endpoints of every service with their health, and the choice of one of them.

pub mod affinity;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use affinity::Call;

use crate::config::checked::{Balance, Gateway, Location, Mesh, Preference, Service, Workload};
use crate::policy::Request;
use crate::role::egress::{Endpoint as Written, NoEndpoint, written};
use crate::upstream::balance::{Candidate, How, Simple, after, choose};
use crate::upstream::by_turns;
use crate::upstream::hash::{Member, Table};
use crate::upstream::health::Health;
use crate::upstream::load::{self, Kind, Load, MaxRetries, Overflow, Waiting};
use crate::upstream::resolved::Resolved;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::host::Host;
use crate::vocab::locality::Locality;
use crate::vocab::resource::ResourceName;

/// Label of a workload that names the node it runs on.
const NODE_LABEL: &str = "kubernetes.io/hostname";

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A workload of the mesh, as an index into `Mesh::workloads`.
    Workload(usize),
    /// An address outside.
    Outside(IpAddr),
}

/// One endpoint of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub place: Place,
    /// `weight`.
    pub weight: u32,
    /// `locality`.
    pub locality: Locality,
    /// Node that it runs on, if that is told.
    pub node: Option<String>,
    /// By port of the service, in their order.
    pub health: Vec<Arc<Health>>,
}

type HealthKey = (ResourceName, IpAddr, u16);

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejected {
    /// It could not be connected to.
    Connect,
    /// Its answers were errors, or did not come.
    Answers,
}

impl Ejected {
    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Answers => "answers",
        }
    }
}

/// How often endpoints were ejected, since the process began.
#[derive(Debug, Default)]
struct Ejections {
    connect: AtomicU64,
    answers: AtomicU64,
}

impl Ejections {
    const fn of(&self, reason: Ejected) -> &AtomicU64 {
        match reason {
            Ejected::Connect => &self.connect,
            Ejected::Answers => &self.answers,
        }
    }
}

/// How often endpoints were checked, since the process began.
#[derive(Debug, Default)]
struct Checks {
    passed: AtomicU64,
    failed: AtomicU64,
}

/// The endpoints of all services. Health outlives what it is kept for: a reload does not make an endpoint healthy.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// By service.
    services: Vec<Vec<Endpoint>>,
    health: BTreeMap<HealthKey, Arc<Health>>,
    /// By service, where keys decide.
    tables: BTreeMap<usize, Arc<Table>>,
    names: BTreeMap<ResourceName, Arc<Table>>,
    /// By service and the index of its port, where there are limits.
    loads: BTreeMap<(usize, usize), Arc<Load>>,
    loads_by_name: BTreeMap<(ResourceName, u16), Arc<Load>>,
    overflows: Arc<AtomicU64>,
    ejections: Arc<Ejections>,
    checks: Arc<Checks>,
}

impl Endpoints {
    /// Those of a mesh, with the addresses that are known of outside names; endpoints that were in `last` keep their
    /// health.
    #[must_use]
    pub fn new(mesh: &Mesh, resolved: &Resolved, last: Option<&Self>) -> Self {
        let mut this = Self {
            ejections: last.map_or_else(Arc::default, |last| Arc::clone(&last.ejections)),
            checks: last.map_or_else(Arc::default, |last| Arc::clone(&last.checks)),
            overflows: last.map_or_else(Arc::default, |last| Arc::clone(&last.overflows)),
            ..Self::default()
        };
        for (at, service) in mesh.services.iter().enumerate() {
            this.limits(at, service, last);
            let places = places(mesh, service, resolved);
            if let Some(hash) = &service.balance.hash {
                let member = |found: &Found| Member {
                    address: found.1,
                    weight: found.2,
                };
                let kept = last.and_then(|last| last.names.get(&service.name));
                let table = Table::of(hash.shape, places.iter().map(member).collect(), kept);
                this.tables.insert(at, Arc::clone(&table));
                this.names.insert(service.name.clone(), table);
            }
            let mut endpoints = Vec::with_capacity(places.len());
            for (place, address, weight, locality, node) in places {
                let health = service.ports.iter().map(|port| {
                    let key = (service.name.clone(), address, port.target_port);
                    let kept = last.and_then(|last| last.health.get(&key));
                    let kept = kept.cloned().unwrap_or_default();
                    Arc::clone(this.health.entry(key).or_insert(kept))
                });
                endpoints.push(Endpoint {
                    place,
                    weight,
                    locality,
                    node,
                    health: health.collect(),
                });
            }
            this.services.push(endpoints);
        }
        this
    }

    /// What a service has to do stays counted after a reload.
    fn limits(&mut self, at: usize, service: &Service, last: Option<&Self>) {
        if !service.balance.pool.counts() {
            return;
        }
        for (nth, port) in service.ports.iter().enumerate() {
            let key = (service.name.clone(), port.number);
            let kept = last.and_then(|last| last.loads_by_name.get(&key));
            let load = kept.map_or_else(Arc::default, Arc::clone);
            self.loads.insert((at, nth), Arc::clone(&load));
            self.loads_by_name.insert(key, load);
        }
    }

    /// What was chosen gets a request or connection, until what comes back is dropped; `None` where there are no limits
    /// (`connectionPool`).
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(
        &self,
        mesh: &Mesh,
        chosen: Chosen,
        kind: Kind,
    ) -> Result<Option<load::Place>, Overflow> {
        let service = mesh.services.get(chosen.service);
        let load = self.loads.get(&(chosen.service, chosen.port));
        let (Some(service), Some(load)) = (service, load) else {
            return Ok(None);
        };
        let taken = Load::take(load, &service.balance.pool, kind);
        if taken.is_err() {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        taken.map(Some)
    }

    /// A request for what was chosen begins to wait for a connection (`http1MaxPendingRequests`).
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn wait(&self, mesh: &Mesh, chosen: Chosen) -> Result<Option<Waiting>, Overflow> {
        let pool = mesh.services.get(chosen.service).map(|s| &s.balance.pool);
        let pool = pool.filter(|pool| pool.max_pending.is_some());
        let load = self.loads.get(&(chosen.service, chosen.port));
        let (Some(pool), Some(load)) = (pool, load) else {
            return Ok(None);
        };
        let waits = Load::wait(load, pool);
        if waits.is_err() {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        waits.map(Some)
    }

    /// How many requests for what was chosen may be sent more than once (`maxRetries`).
    #[must_use]
    pub fn max_retries(&self, mesh: &Mesh, chosen: Chosen) -> Option<MaxRetries> {
        let most = mesh
            .services
            .get(chosen.service)?
            .balance
            .pool
            .max_retries?;
        let load = self.loads.get(&(chosen.service, chosen.port))?;
        Some(MaxRetries {
            load: Arc::clone(load),
            most,
        })
    }

    /// How often a limit was reached, since the process began.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Connections and requests that a port of a service has now, by its index; `None` where nobody counts them.
    #[must_use]
    pub fn load(&self, service: usize, port: usize) -> Option<(u32, u32)> {
        self.loads.get(&(service, port)).map(|load| load.now())
    }

    /// Those of a service, by its index.
    #[must_use]
    pub fn of(&self, service: usize) -> &[Endpoint] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }

    /// Address of an endpoint, and the port that it serves at.
    #[must_use]
    pub fn address(&self, mesh: &Mesh, at: Chosen) -> Option<SocketAddr> {
        let ip = match self.of(at.service).get(at.endpoint)?.place {
            Place::Workload(at) => mesh.workloads.get(at)?.address,
            Place::Outside(ip) => ip,
        };
        let port = mesh.services.get(at.service)?.ports.get(at.port)?;
        Some(SocketAddr::new(ip, port.target_port))
    }

    /// Tells that what was chosen could be connected to.
    pub fn succeeded(&self, mesh: &Mesh, chosen: Chosen, now_ms: u64) {
        if let Some((health, balance)) = self.health_of(mesh, chosen) {
            health.succeeded(now_ms, &balance.outlier);
        }
    }

    /// Tells that what was chosen could not be connected to. `true`: it is left out from now on.
    pub fn failed(&self, mesh: &Mesh, chosen: Chosen, now_ms: u64) -> bool {
        let Some((health, balance)) = self.health_of(mesh, chosen) else {
            return false;
        };
        let may = || self.may_eject(balance, chosen, now_ms);
        let ejected = health.failed(now_ms, &balance.outlier, may);
        self.count(ejected, Ejected::Connect)
    }

    /// What was chosen answered a request with this status, or broke off (502), or was silent (504). `true`: it is left out
    /// from now on.
    pub fn answered(&self, mesh: &Mesh, chosen: Chosen, status: u16, now_ms: u64) -> bool {
        let Some((health, balance)) = self.health_of(mesh, chosen) else {
            return false;
        };
        let may = || self.may_eject(balance, chosen, now_ms);
        let ejected = health.answered(status, now_ms, &balance.outlier, may);
        self.count(ejected, Ejected::Answers)
    }

    fn count(&self, ejected: bool, reason: Ejected) -> bool {
        if ejected {
            self.ejections.of(reason).fetch_add(1, Ordering::Relaxed);
        }
        ejected
    }

    /// How often endpoints were ejected for this reason.
    #[must_use]
    pub fn ejections(&self, reason: Ejected) -> u64 {
        self.ejections.of(reason).load(Ordering::Relaxed)
    }

    /// Counts a health check.
    pub fn checked(&self, well: bool) {
        let Checks { passed, failed } = &*self.checks;
        let count = if well { passed } else { failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many health checks have passed and failed.
    #[must_use]
    pub fn checks(&self) -> (u64, u64) {
        let Checks { passed, failed } = &*self.checks;
        (
            passed.load(Ordering::Relaxed),
            failed.load(Ordering::Relaxed),
        )
    }

    /// Whether one more of a service's endpoints may be left out (`maxEjectionPercent`). Two cores that ask at the same
    /// moment may both be told so.
    fn may_eject(&self, balance: &Balance, chosen: Chosen, now_ms: u64) -> bool {
        let all = self.of(chosen.service);
        let health = all.iter().filter_map(|e| e.health.get(chosen.port));
        let ejected = health.filter(|h| h.is_ejected(now_ms)).count();
        let most = usize::try_from(balance.outlier.max_ejection_percent).unwrap_or(100);
        ejected.saturating_add(1).saturating_mul(100) <= all.len().saturating_mul(most)
    }

    /// What was chosen has one request or connection more until what comes back is dropped; `None` where nobody looks at
    /// them.
    #[must_use]
    pub fn begins(&self, mesh: &Mesh, chosen: Chosen) -> Option<Busy> {
        let balance = &mesh.services.get(chosen.service)?.balance;
        if balance.simple != Simple::LeastRequest {
            return None;
        }
        let endpoint = self.of(chosen.service).get(chosen.endpoint)?;
        let health = Arc::clone(endpoint.health.get(chosen.port)?);
        health.begins();
        Some(Busy(health))
    }

    fn health_of<'s>(
        &'s self,
        mesh: &'s Mesh,
        chosen: Chosen,
    ) -> Option<(&'s Health, &'s Balance)> {
        let endpoint = self.of(chosen.service).get(chosen.endpoint)?;
        let balance = &mesh.services.get(chosen.service)?.balance;
        Some((endpoint.health.get(chosen.port)?, balance))
    }
}

/// One request or connection that an endpoint has.
#[derive(Debug)]
pub struct Busy(Arc<Health>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.ends();
    }
}

type Found = (Place, IpAddr, u32, Locality, Option<String>);

fn places(mesh: &Mesh, service: &Service, resolved: &Resolved) -> Vec<Found> {
    if service.location == Location::Internal {
        let workload = |at: &usize| {
            let w = mesh.workloads.get(*at)?;
            let node = w.labels.get(NODE_LABEL).cloned();
            let locality = w.locality.clone();
            Some((Place::Workload(*at), w.address, w.weight, locality, node))
        };
        return service.workloads.iter().filter_map(workload).collect();
    }
    let mut found: Vec<Found> = Vec::new();
    for (endpoint, at) in written(service).zip(&service.endpoints) {
        let addresses = match &endpoint {
            Written::Address(ip) => std::slice::from_ref(ip),
            Written::Name(name) => resolved.addresses(name).unwrap_or_default(),
        };
        for ip in addresses {
            // Two names of one address are one endpoint.
            if !found.iter().any(|(_, known, ..)| known == ip) {
                let locality = at.locality.clone();
                found.push((Place::Outside(*ip), *ip, at.weight, locality, None));
            }
        }
    }
    found
}

/// Which endpoint was chosen, as indices: of the service, of the endpoint, of the service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// Index into the endpoints of the service.
    pub endpoint: usize,
    /// Index into the ports of the service.
    pub port: usize,
}

/// How an endpoint is chosen. A number alone is a turn: without health, weight and place, for those who only ask which
/// way there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick<'a> {
    /// Counts up with every choice of a core.
    pub turn: usize,
    /// Now, on the clock of `Health`.
    pub now_ms: u64,
    /// The endpoints with their health.
    pub endpoints: Option<&'a Endpoints>,
    /// Endpoints that were tried for this connection.
    pub tried: &'a [usize],
    /// No others than these.
    pub among: Option<&'a [usize]>,
    /// Who calls and what, where keys decide.
    pub call: Option<Call<'a>>,
    /// The value of the cookie that a request without it may be given.
    pub fresh: u64,
    /// Where the choice is told.
    pub chosen: Option<&'a Cell<Option<Chosen>>>,
    /// The workload that was chosen before, and nothing else: what is open is judged by where it goes.
    pub only: Option<usize>,
    /// The backend that a route has chosen before: the next endpoint is one of it.
    pub leg: Option<Leg>,
    /// The host of what is sent, where a route has written it before.
    pub host: Option<&'a Host>,
    /// What is open: routes of today are for what comes after.
    pub settled: bool,
}

impl Pick<'_> {
    /// For an endpoint of what was chosen among `several` by the same turn: it follows from that in the same way, so that
    /// it would be the same one each time.
    #[must_use]
    pub fn spread(self, several: bool) -> Self {
        Self {
            turn: after(self.turn, usize::from(several)),
            ..self
        }
    }
}

/// The backend of a route that was chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// Service port.
    pub port: u16,
    /// What is sent is not what was asked for.
    pub edited: bool,
}

impl From<usize> for Pick<'static> {
    fn from(turn: usize) -> Self {
        Self {
            turn,
            ..Self::default()
        }
    }
}

/// Who asks for a way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// Its namespace, which decides between services of one name.
    pub namespace: Option<&'a str>,
    /// Where it is.
    pub locality: Option<&'a Locality>,
    /// The node that it runs on.
    pub node: Option<&'a str>,
    /// Whether unknown destinations are let out, where its node says so itself.
    pub allow_any: Option<bool>,
    /// Suffixes that it may have appended to a short name.
    pub search: &'a [String],
}

impl<'a> Caller<'a> {
    /// A workload.
    #[must_use]
    pub fn workload(workload: &'a Workload) -> Self {
        Self {
            namespace: Some(&workload.name.namespace),
            locality: Some(&workload.locality),
            node: workload.labels.get(NODE_LABEL).map(String::as_str),
            ..Self::default()
        }
    }

    /// A gateway.
    #[must_use]
    pub fn gateway(gateway: &'a Gateway) -> Self {
        Self {
            namespace: Some(&gateway.name.namespace),
            locality: Some(&gateway.locality),
            node: gateway.labels.get(NODE_LABEL).map(String::as_str),
            ..Self::default()
        }
    }

    /// How far an endpoint is, by what the service prefers.
    fn distance(&self, endpoint: &Endpoint, balance: &Balance) -> u32 {
        let unknown = Locality::default();
        let here = self.locality.unwrap_or(&unknown);
        let shared = here.shared(&endpoint.locality);
        let far = || 3_u32.saturating_sub(shared);
        match balance.preference {
            Preference::Any => 0,
            Preference::Zone => 2_u32.saturating_sub(shared),
            Preference::Node => {
                let same = self.node.is_some() && self.node == endpoint.node.as_deref();
                if same { 0 } else { far().saturating_add(1) }
            }
            Preference::Locality if shared > 0 => far(),
            // Of the other regions the one that takes over comes first.
            Preference::Locality => {
                let mut failover = balance.failover.iter();
                let to = failover.find(|(from, _)| from == here.region());
                if to.is_some_and(|(_, to)| to == endpoint.locality.region()) {
                    3
                } else {
                    4
                }
            }
        }
    }
}

impl<'a> Pick<'a> {
    /// The same for a call.
    #[must_use]
    pub fn of<'c>(self, request: Option<&'c Request>, source: IpAddr) -> Pick<'c>
    where
        'a: 'c,
    {
        Pick {
            call: Some(Call { request, source }),
            ..self
        }
    }

    /// Chooses the workload of a service inside the mesh for one of its ports, by the port's index.
    #[must_use]
    pub fn workload(
        &self,
        mesh: &Mesh,
        at: usize,
        port: usize,
        from: &Caller<'_>,
    ) -> Option<usize> {
        let service = mesh.services.get(at)?;
        if let Some(only) = self.only {
            return service.workloads.contains(&only).then_some(only);
        }
        if self.endpoints.is_none() {
            return by_turns(&service.workloads, self.turn).copied();
        }
        match self.endpoint(mesh, at, port, from)? {
            Place::Workload(workload) => Some(workload),
            Place::Outside(_) => None,
        }
    }

    /// Chooses an endpoint of a service for one of its ports.
    fn endpoint(&self, mesh: &Mesh, at: usize, port: usize, from: &Caller<'_>) -> Option<Place> {
        let balance = &mesh.services.get(at)?.balance;
        let endpoints = self.endpoints?.of(at);
        let fits = |nth: usize| self.among.is_none_or(|among| among.contains(&nth));
        let one = |nth: usize| {
            endpoints
                .get(nth)
                .map_or_else(Candidate::default, |endpoint| {
                    let health = endpoint.health.get(port);
                    Candidate {
                        weight: endpoint.weight,
                        distance: from.distance(endpoint, balance),
                        ejected: health.is_some_and(|h| h.is_out(self.now_ms)),
                        tried: self.tried.contains(&nth) || !fits(nth),
                        active: health.map_or(0, |h| h.active()),
                    }
                })
        };
        let table = self.endpoints.and_then(|all| all.tables.get(&at));
        let key = || affinity::key(balance.hash.as_ref()?, self.call?, self.fresh);
        let how = How {
            outlier: &balance.outlier,
            simple: balance.simple,
            keyed: table.and_then(|table| Some((&**table, key()?))),
        };
        let turn = after(self.turn, self.tried.len());
        let nth = choose(endpoints.len(), one, how, turn)?;
        if let Some(chosen) = self.chosen {
            chosen.set(Some(Chosen {
                service: at,
                endpoint: nth,
                port,
            }));
        }
        endpoints.get(nth).map(|e| e.place)
    }

    /// Chooses the address of an outside service for one of its ports, by the port it is dialled at.
    ///
    /// # Errors
    /// `NoEndpoint`, with what is wrong with each name.
    pub fn outside(
        &self,
        mesh: &Mesh,
        (at, target_port): (usize, u16),
        resolved: &Resolved,
        from: &Caller<'_>,
    ) -> Result<UpstreamAddr, NoEndpoint> {
        let none = || {
            let service = mesh.services.get(at);
            service.map_or_else(NoEndpoint::default, |s| NoEndpoint::of(s, resolved))
        };
        let service = mesh.services.get(at).ok_or_else(none)?;
        let mut ports = service.ports.iter();
        let port = ports
            .position(|p| p.target_port == target_port)
            .unwrap_or_default();
        match self.endpoint(mesh, at, port, from) {
            Some(Place::Outside(ip)) => Ok(UpstreamAddr(SocketAddr::new(ip, target_port))),
            Some(Place::Workload(_)) | None => Err(none()),
        }
    }
}

#[cfg(test)]
mod tests;
