//! What a tunnel that we open tells beside its authority: whose client, of which workload, in which trace.

use std::net::SocketAddr;

use http::HeaderValue;

use crate::control::snapshot::Snapshot;
use crate::http::connect;
use crate::policy::Request;
use crate::role::plan::{Plan, SitePoint};
use crate::vocab::trace::{TraceId, TraceParent};
use crate::worker::site::Site;

/// Where what goes into a tunnel came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Address of the client.
    pub client: SocketAddr,
    /// `baggage` of the workload or gateway that sends it on.
    pub baggage: Option<HeaderValue>,
    /// The trace that it belongs to; a new one if there is none.
    pub trace: Option<TraceId>,
}

impl Origin {
    /// Of what passes a site. The request's own trace is nearer to it than that of the tunnel it came in.
    #[must_use]
    pub fn at(site: &Site, snapshot: &Snapshot, request: Option<&Request>) -> Self {
        let rules = &snapshot.enforcements;
        let told = site.told.as_ref().and_then(|told| told.trace);
        Self {
            client: site.peer,
            baggage: rules.metadata.at(&rules.directory, &site.point).cloned(),
            trace: request.and_then(|r| connect::trace(&r.headers)).or(told),
        }
    }
}

/// The service that what arrives at a workload is counted for: the one that the peer tells if the workload belongs to it,
/// else the one that has its port. Nothing else depends on it.
#[must_use]
pub fn told_service(snapshot: &Snapshot, site: &Site, plan: &Plan<'_>) -> Option<usize> {
    let told = || {
        let host = site.told.as_ref()?.service.as_ref()?;
        let directory = &snapshot.enforcements.directory;
        let at = directory.service_by_host(host.name())?;
        let service = snapshot.mesh.services.get(at)?;
        let workload = plan.workload.filter(|w| service.workloads.contains(w));
        workload.map(|_member| at)
    };
    match site.point {
        SitePoint::Workload { .. } => told().or(plan.service),
        SitePoint::Waypoint { .. } | SitePoint::Egress { .. } | SitePoint::Ingress { .. } => {
            plan.service
        }
    }
}

/// A new trace; `None` only without randomness.
#[must_use]
pub fn new_trace() -> Option<TraceId> {
    let random = crate::io::random::bytes()?;
    TraceParent::new(None, random).map(|made| made.trace)
}
