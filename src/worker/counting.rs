//! Which series of the metrics a request is counted in. What is known of its connection is looked up once, and after a
//! reload anew.

use std::cell::RefCell;
use std::rc::Rc;

use crate::control::snapshot::Snapshot;
use crate::io::clock;
use crate::role::plan::{Next, Plan, SitePoint};
use crate::telemetry::metrics::requests::{Amounts, Destination, Pair, Source};
use crate::telemetry::metrics::{Ends, Key, Outcome, Reporter, Requests};
use crate::telemetry::record::Record;
use crate::vocab::spiffe::SpiffeId;
use crate::worker::core::Core;
use crate::worker::origin::told_service;
use crate::worker::site::Site;

/// What the requests of one connection have in common.
#[derive(Debug, Default)]
pub struct OfConnection(RefCell<Option<Known>>);

#[derive(Debug)]
struct Known {
    source: Rc<Source>,
    /// At a workload, the service that its requests are for, once one of them has come so far.
    service: Option<Option<usize>>,
    /// Where the last one went: most often the next one goes there, too.
    last: Option<(Destination, Rc<Pair>)>,
}

impl Known {
    #[cold]
    fn new(requests: &Requests, site: &Site, snapshot: &Snapshot) -> Self {
        let key = of_site(site, snapshot);
        Self {
            source: requests.source(&key, snapshot.generation, &snapshot.mesh),
            service: None,
            last: None,
        }
    }

    /// Where a request goes by a plan of the source's own generation.
    fn goes(&mut self, site: &Site, snapshot: &Snapshot, plan: &Plan<'_>) -> Destination {
        let service = match site.point {
            // All of one connection are for the same.
            SitePoint::Workload { .. } => *self
                .service
                .get_or_insert_with(|| told_service(snapshot, site, plan)),
            SitePoint::Waypoint { .. } | SitePoint::Egress { .. } | SitePoint::Ingress { .. } => {
                plan.service
            }
        };
        destination(service, plan)
    }

    fn pair(&mut self, requests: &Requests, to: Destination, snapshot: &Snapshot) -> Rc<Pair> {
        if let Some((last, pair)) = &self.last
            && *last == to
        {
            return Rc::clone(pair);
        }
        let pair = requests.pair(&self.source, to, &snapshot.mesh);
        self.last = Some((to, Rc::clone(&pair)));
        pair
    }
}

fn destination(service: Option<usize>, plan: &Plan<'_>) -> Destination {
    Destination {
        service,
        workload: plan.workload,
        gateway: match plan.next {
            Next::Gateway(at, _) => Some(at),
            Next::App(..) | Next::Workload(..) | Next::Outside(..) | Next::Redirect => None,
        },
    }
}

/// How one request will be counted.
#[derive(Debug)]
pub(super) struct Counting {
    /// Between whom, as far as that is known.
    pair: Rc<Pair>,
    service: Option<usize>,
    is_grpc: bool,
    /// It is refused here.
    unsent: bool,
}

impl Counting {
    /// Of a request at a site; `None` if requests are not counted.
    pub(super) fn begin(core: &Core, site: &Site, snapshot: &Snapshot) -> Option<Self> {
        let requests = core.meters.requests()?;
        let mut known = site.held.counted.0.borrow_mut();
        let known = match &mut *known {
            Some(known) if known.source.generation() == snapshot.generation => known,
            outdated => outdated.insert(Known::new(requests, site, snapshot)),
        };
        Some(Self {
            pair: Rc::clone(known.source.alone()),
            service: None,
            is_grpc: false,
            unsent: false,
        })
    }

    /// It is a call of gRPC.
    pub(super) fn is_grpc(&mut self, is_grpc: bool) {
        self.is_grpc = is_grpc;
    }

    /// It is refused before it goes anywhere.
    pub(super) fn unsent(&mut self) {
        self.unsent = true;
    }

    /// It goes where `plan` says.
    pub(super) fn goes(&mut self, core: &Core, site: &Site, snapshot: &Snapshot, plan: &Plan<'_>) {
        let Some(requests) = core.meters.requests() else {
            return;
        };
        let mut known = site.held.counted.0.borrow_mut();
        match &mut *known {
            Some(known) if known.source.generation() == snapshot.generation => {
                let to = known.goes(site, snapshot, plan);
                self.service = to.service;
                self.pair = known.pair(requests, to, snapshot);
            }
            Some(_) | None => {
                let service = told_service(snapshot, site, plan);
                self.service = service;
                let to = destination(service, plan);
                self.pair = outdated(requests, to, site, snapshot);
            }
        }
    }

    /// It went to another workload than the one that was chosen first.
    pub(super) fn moves(&mut self, core: &Core, site: &Site, snapshot: &Snapshot, workload: usize) {
        let Some(requests) = core.meters.requests() else {
            return;
        };
        let to = Destination {
            service: self.service,
            workload: Some(workload),
            gateway: None,
        };
        let mut known = site.held.counted.0.borrow_mut();
        self.pair = match &mut *known {
            Some(known) if known.source.generation() == snapshot.generation => {
                known.pair(requests, to, snapshot)
            }
            Some(_) | None => outdated(requests, to, site, snapshot),
        };
    }

    /// It has ended as `record` says.
    pub(super) fn end(self, core: &Core, record: &Record) {
        let Some(requests) = core.meters.requests() else {
            return;
        };
        let outcome = Outcome::of(record, self.is_grpc, self.unsent);
        let amounts = Amounts {
            duration: record.duration,
            received: record.received,
            sent: record.sent,
        };
        requests.count(&self.pair, outcome, amounts, clock::now);
    }
}

/// The pair of a request that was planned by a mesh of before a reload, of which its connection knows nothing any more.
#[cold]
fn outdated(requests: &Requests, to: Destination, site: &Site, snapshot: &Snapshot) -> Rc<Pair> {
    requests.named(&of_site(site, snapshot), to, &snapshot.mesh)
}

/// The source of what comes to a site, as its point counts it.
fn of_site(site: &Site, snapshot: &Snapshot) -> Key {
    let principal = site.connection.principal.as_ref();
    let (reporter, ends) = match &site.point {
        SitePoint::Workload { .. } => (Reporter::Destination, source(site, snapshot)),
        SitePoint::Waypoint { .. } | SitePoint::Egress { .. } => {
            (Reporter::Waypoint, source(site, snapshot))
        }
        // Who calls from outside has no name here: it is the gateway that calls the service, as at Istio's.
        SitePoint::Ingress { gateway } => {
            let at = snapshot.enforcements.directory.gateway(gateway);
            let gateway = at.and_then(|at| snapshot.mesh.gateways.get(at));
            let ends = Ends {
                principal: gateway.map(|gateway| gateway.id.clone()),
                source_gateway: at,
                ..Ends::default()
            };
            (Reporter::Source, ends)
        }
    };
    Key {
        reporter,
        ends,
        mutual_tls: principal.is_some(),
    }
}

/// Who calls, as far as that is proved.
pub(super) fn source(site: &Site, snapshot: &Snapshot) -> Ends {
    let (mesh, connection) = (&snapshot.mesh, &site.connection);
    let principal = connection.principal.as_ref();
    // An address alone is nobody's name: the workload there counts as the source if it has the identity that was proved.
    let source = snapshot
        .enforcements
        .directory
        .workload_by_address(connection.peer)
        .filter(|at| {
            let id = mesh.workloads.get(*at).map(|w| &w.id);
            principal.is_none_or(|principal| id == Some(principal))
        });
    let gateway = |id: &SpiffeId| mesh.gateways.iter().position(|g| g.id == *id);
    Ends {
        principal: principal.cloned(),
        source_gateway: principal.filter(|_| source.is_none()).and_then(gateway),
        source,
        ..Ends::default()
    }
}
