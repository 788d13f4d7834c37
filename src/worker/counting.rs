//! Which series of the metrics a request is counted in. What is known of its connection is looked up once, and after a
//! reload anew.

use std::cell::RefCell;
use std::rc::Rc;

use crate::control::snapshot::Snapshot;
use crate::io::clock;
use crate::role::plan::{Next, Plan, SitePoint};
use crate::telemetry::metrics::requests::{Amounts, Destination, Pair, Source};
use crate::telemetry::metrics::{Ends, Key, Outcome, Reporter};
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
}

/// How one request will be counted.
#[derive(Debug)]
pub(super) struct Counting {
    source: Rc<Source>,
    /// Once it is known where it goes.
    pair: Option<Rc<Pair>>,
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
        let current = known.as_ref().map(|known| &known.source);
        let source = match current.filter(|s| s.generation() == snapshot.generation) {
            Some(source) => Rc::clone(source),
            None => {
                let key = of_site(site, snapshot);
                let source = requests.source(&key, snapshot.generation, &snapshot.mesh);
                *known = Some(Known {
                    source: Rc::clone(&source),
                    service: None,
                });
                source
            }
        };
        Some(Self {
            source,
            pair: None,
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
        self.service = match site.point {
            SitePoint::Workload { .. } => at_workload(site, snapshot, plan),
            SitePoint::Waypoint { .. } | SitePoint::Egress { .. } | SitePoint::Ingress { .. } => {
                plan.service
            }
        };
        let to = Destination {
            service: self.service,
            workload: plan.workload,
            gateway: match plan.next {
                Next::Gateway(at, _) => Some(at),
                Next::App(..) | Next::Workload(..) | Next::Outside(..) | Next::Redirect => None,
            },
        };
        self.pair(core, snapshot, to);
    }

    /// It went to another workload than the one that was chosen first.
    pub(super) fn moves(&mut self, core: &Core, snapshot: &Snapshot, workload: usize) {
        let to = Destination {
            service: self.service,
            workload: Some(workload),
            gateway: None,
        };
        self.pair(core, snapshot, to);
    }

    fn pair(&mut self, core: &Core, snapshot: &Snapshot, to: Destination) {
        // Its numbers are of the mesh that it was planned by.
        if self.source.generation() == snapshot.generation {
            let requests = core.meters.requests();
            self.pair = requests.map(|all| all.pair(&self.source, to, &snapshot.mesh));
        }
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
        let pair = self.pair.as_deref().unwrap_or_else(|| self.source.alone());
        requests.count(pair, outcome, amounts, clock::now);
    }
}

/// The service that requests at a workload's own node are for: all of one connection are for the same.
fn at_workload(site: &Site, snapshot: &Snapshot, plan: &Plan<'_>) -> Option<usize> {
    let mut known = site.held.counted.0.borrow_mut();
    let known = known
        .as_mut()
        .filter(|known| known.source.generation() == snapshot.generation);
    match known {
        Some(known) => *known
            .service
            .get_or_insert_with(|| told_service(snapshot, site, plan)),
        None => told_service(snapshot, site, plan),
    }
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
