//! Where a connection is served: the enforcement point, by name, so that it is looked up anew after a reload.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::serving::Shown;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::connect::Told;
use crate::http::forward::Said;
use crate::identity::revocation::PeerLeaf;
use crate::io::clock;
use crate::io::relay::Meter;
use crate::policy::{Connection, Judged};
use crate::role::plan::{Plan, SitePoint};
use crate::telemetry::live::Live;
use crate::telemetry::metrics::{Ends, Flag, Key, Reporter, Series};
use crate::telemetry::record::{Kind, Record};
use crate::vocab::host::Host;
use crate::worker::core::Core;
use crate::worker::counting::{Counting, OfConnection};
use crate::worker::places::Taken;

/// An enforcement point with one connection at it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Role, in records.
    pub role: &'static str,
    /// Node or gateway, in records.
    pub instance: Rc<str>,
    /// Which point it is.
    pub point: SitePoint,
    /// What was verified about the connection.
    pub connection: Connection,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// What a revocation may name of the peer's certificate.
    pub leaf: Option<Arc<PeerLeaf>>,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// What the head of the tunnel told, if it came through one.
    pub told: Option<Arc<Told>>,
    /// What it has.
    pub held: Rc<Held>,
    /// Each request is redirected to https at this port, whatever it asks for.
    pub redirects: Option<u16>,
    /// The certificate that the client was shown, if its listener has others.
    pub shown: Option<Rc<Shown>>,
    /// What is told of the peer with each of its requests.
    pub said: Rc<Said>,
    /// As the last of its requests had it, if that was otherwise: most that come over one connection are for one place.
    pub last: RefCell<Option<Rc<Self>>>,
}

/// What a connection has, whichever of its requests is served.
#[derive(Debug, Default)]
pub struct Held {
    /// Its place among the connections of the workload.
    pub taken: OnceCell<Taken>,
    /// What metrics know of its requests.
    pub counted: OfConnection,
}

impl Site {
    /// Whether the client is one of the mesh's own gateways: what it does slowly, it does for a client of its own, whom it
    /// watches itself. From here such a client cannot be told from one that has stopped, for what lies between the two
    /// moves in lumps.
    #[must_use]
    pub fn is_own_hop(&self, snapshot: &Snapshot) -> bool {
        let principal = self.connection.principal.as_ref();
        principal.is_some_and(|id| snapshot.mesh.gateways.iter().any(|g| g.id == *id))
    }

    /// How long the client may take nothing of its answers, in milliseconds; `None` for any time.
    #[must_use]
    pub fn patience_ms(&self, core: &Core) -> Option<u64> {
        (!self.is_own_hop(&core.snapshot())).then_some(core.process.limits.read_ms)
    }

    /// Whether a request for `host` came to a connection that is for other hosts: its client was shown another certificate
    /// than the one for that host.
    #[must_use]
    pub fn misdirects(&self, host: &Host) -> bool {
        let Some(shown) = &self.shown else {
            return false;
        };
        // Nearly all ask for the host that they named in the handshake.
        self.connection.sni.as_deref() != Some(host.name()) && shown.misdirects(host.name())
    }

    /// The same site as one of its requests has it: the client's address as trusted proxies tell it, and the destination
    /// that is judged, which at an explicit proxy is another one for each request.
    #[must_use]
    pub fn of_request(self: &Rc<Self>, remote: IpAddr, destination: (IpAddr, u16)) -> Rc<Self> {
        let is_it = |site: &Self| {
            let known = &site.connection;
            known.remote == remote && (known.destination, known.port) == destination
        };
        if is_it(self) {
            return Rc::clone(self);
        }
        if let Some(last) = self.last.borrow().as_ref().filter(|last| is_it(last)) {
            return Rc::clone(last);
        }
        let mut site = Self::clone(self);
        site.connection.remote = remote;
        (site.connection.destination, site.connection.port) = destination;
        site.last = RefCell::default();
        let site = Rc::new(site);
        *self.last.borrow_mut() = Some(Rc::clone(&site));
        site
    }
}

/// A record until it is sent.
type Shared = Rc<RefCell<Option<Record>>>;

/// Gathers one record while an exchange runs; sends it when it ends, however it ends.
#[derive(Debug)]
pub struct Story {
    core: Rc<Core>,
    started: Instant,
    /// Shared with whoever tells what is open.
    record: Shared,
    /// What passes.
    pub passed: Rc<Meter>,
    /// What counts it, if it is one of those that are counted.
    series: Option<Arc<Series>>,
    /// Whether it was counted as open.
    counted: Cell<bool>,
    /// How it is counted, if it is a request of those that are counted.
    counting: Option<Counting>,
}

impl Story {
    /// Begins at a site.
    #[must_use]
    pub fn begin(core: &Rc<Core>, site: &Site, kind: Kind, snapshot: &Arc<Snapshot>) -> Self {
        let who = (site.role, Rc::clone(&site.instance));
        Self::new(core, who, site.peer, kind, snapshot.generation)
            .with_connection(site.connection.clone())
            .with_told(site.told.as_ref())
    }

    /// Begins with a request that a client has sent, which metrics count.
    #[must_use]
    pub fn of_request(core: &Rc<Core>, site: &Site, snapshot: &Arc<Snapshot>) -> Self {
        let mut story = Self::begin(core, site, Kind::Request, snapshot);
        story.counting = Counting::begin(core, site, snapshot);
        story
    }

    /// Begins before anything is known but the peer.
    #[must_use]
    pub fn about(
        core: &Rc<Core>,
        who: (&'static str, &str),
        peer: SocketAddr,
        kind: Kind,
        generation: u64,
    ) -> Self {
        Self::new(core, (who.0, who.1.into()), peer, kind, generation)
    }

    fn new(
        core: &Rc<Core>,
        (role, instance): (&'static str, Rc<str>),
        peer: SocketAddr,
        kind: Kind,
        generation: u64,
    ) -> Self {
        // Made where it stays: it is large.
        let shared = Shared::default();
        *shared.borrow_mut() = Some(Record {
            time: Duration::ZERO,
            generation,
            role,
            instance,
            kind,
            connection: None,
            peer,
            trace: None,
            told: None,
            service: None,
            workload: None,
            endpoint: None,
            route: None,
            attempts: None,
            mirror: false,
            health_check: None,
            request: None,
            renamed: None,
            asked: Vec::new(),
            judged: None,
            detail: None,
            would: None,
            status: None,
            grpc_status: None,
            // Until something else is known: the task was dropped.
            close: Some(CloseReason::DownstreamReset),
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
        });
        Self {
            core: Rc::clone(core),
            started: clock::now(),
            record: shared,
            passed: Rc::default(),
            series: None,
            counted: Cell::new(false),
            counting: None,
        }
    }

    /// Changes the record so far.
    pub fn edit(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_mut() {
            change(record);
        }
    }

    /// Adds who and where.
    #[must_use]
    pub fn with_connection(mut self, connection: Connection) -> Self {
        self.edit(|r| r.connection = Some(connection));
        self
    }

    /// Adds what the head of the tunnel told.
    #[must_use]
    pub fn with_told(mut self, told: Option<&Arc<Told>>) -> Self {
        if let Some(told) = told {
            self.edit(|r| {
                r.trace = told.trace;
                r.told = Some(Arc::clone(told));
            });
        }
        self
    }

    /// Adds what the engine said.
    pub fn judged(&mut self, judged: &Judged) {
        self.edit(|r| r.judged = Some(judged.clone()));
    }

    /// Has it counted in the metrics: by whom, between whom, and whether by mutual TLS.
    pub fn count(&mut self, snapshot: &Snapshot, reporter: Reporter, ends: Ends, mutual_tls: bool) {
        let key = Key {
            reporter,
            ends,
            mutual_tls,
        };
        let (meters, now) = (&self.core.meters, clock::now());
        self.series = Some(meters.series(&key, snapshot.generation, &snapshot.mesh, now));
    }

    /// Metrics count it as a call of gRPC.
    pub fn is_grpc(&mut self, is_grpc: bool) {
        if let Some(counting) = &mut self.counting {
            counting.is_grpc(is_grpc);
        }
    }

    /// Metrics count it as one that goes where `plan` says.
    pub fn goes(&mut self, site: &Site, snapshot: &Snapshot, plan: &Plan<'_>) {
        if let Some(counting) = &mut self.counting {
            counting.goes(&self.core, site, snapshot, plan);
        }
    }

    /// It went to another workload than the one that was chosen first, by its index into `Mesh::workloads`.
    pub fn moves(&mut self, site: &Site, snapshot: &Snapshot, workload: usize) {
        let name = self.core.labels.workload(snapshot, workload);
        self.edit(|r| r.workload = name.map(|name| name.text));
        if let Some(counting) = &mut self.counting {
            counting.moves(&self.core, site, snapshot, workload);
        }
    }

    /// It is refused before it goes anywhere.
    pub fn unsent(&mut self) {
        if let Some(counting) = &mut self.counting {
            counting.unsent();
        }
    }

    /// Records that what was judged is open now; how it ended follows when it has.
    pub fn opened(&self) {
        if let Some(series) = &self.series {
            series.opened.add(1);
            self.counted.set(true);
            self.passed.attach(&series.traffic);
        }
        let record = self.record.borrow().clone();
        if let Some(mut record) = record {
            record.time = clock::unix();
            record.close = None;
            record.duration = self.started.elapsed();
            self.core.record(&record);
        }
    }

    /// What it is about, as far as that is known.
    #[must_use]
    pub fn sketch(&self) -> Option<Sketch> {
        // Its end sets the time anew.
        self.record.borrow_mut().as_mut()?.time = clock::unix_coarse();
        Some(Sketch {
            record: Rc::clone(&self.record),
            passed: Rc::clone(&self.passed),
        })
    }

    /// Ends it.
    pub fn end(mut self, close: CloseReason) {
        self.edit(|r| r.close = Some(close));
    }

    /// A record of its own for what is known so far.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            core: Rc::clone(&self.core),
            started: self.started,
            record: Rc::new(RefCell::new(self.record.borrow().clone())),
            passed: Rc::default(),
            series: None,
            counted: Cell::new(false),
            counting: None,
        }
    }

    /// Drops it unrecorded: what follows has records of its own.
    pub fn forget(self) {
        self.record.take();
    }

    /// Ends it for a reason that needs words.
    pub fn fail(mut self, close: CloseReason, detail: impl fmt::Display) {
        self.edit(|r| {
            r.close = Some(close);
            r.detail = Some(detail.to_string());
        });
    }
}

/// What an open exchange is about, for those who ask what is open.
#[derive(Clone, Debug)]
pub struct Sketch {
    record: Shared,
    passed: Rc<Meter>,
}

impl Sketch {
    /// As it is now; `None` once it has ended.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        let (record, passed) = (self.record.borrow(), self.passed.get());
        let record = record.as_ref()?;
        Some(Live {
            role: record.role,
            instance: record.instance.to_string(),
            kind: record.kind,
            connection: record.connection.clone(),
            peer: record.peer,
            service: record.service.as_deref().map(str::to_owned),
            workload: record.workload.as_deref().map(str::to_owned),
            since: record.time,
            received: passed.received,
            sent: passed.sent,
        })
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // Whoever tells what is open does not tell this any more, also while it is written.
        let mut record = self.record.borrow_mut();
        let Some(told) = record.as_mut() else {
            return;
        };
        let passed = self.passed.get();
        if let Some(series) = &self.series {
            let flag = told.close.map_or(Flag::None, Flag::from);
            let ended = self.core.meters.flagged(series, flag, clock::now());
            if self.counted.get() {
                ended.closed.add(1);
            } else {
                ended.failed.add(1);
            }
        }
        told.time = clock::unix();
        told.received = told.received.max(passed.received);
        told.sent = told.sent.max(passed.sent);
        told.duration = self.started.elapsed();
        if let Some(counting) = self.counting.take() {
            counting.end(&self.core, told);
        }
        self.core.record(told);
        *record = None;
    }
}
