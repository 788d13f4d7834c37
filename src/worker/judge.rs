//! What the policies of a snapshot say at a site. Used for the first decision and for every one after a reload.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::io::clock;
use crate::io::listener::is_local;
use crate::policy::{Connection, Request};
use crate::role::egress::NoEndpoint;
use crate::role::endpoints::{Caller, Leg, Pick};
use crate::role::enforcement::Enforcement;
use crate::role::plan::{self, NoPlan, Plan, SitePoint};
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::resource::ResourceName;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::custom::Asked;
use crate::worker::site::Site;

/// Finds what holds at `site`. `request` is `None` at L4.
///
/// # Errors
/// `NoPlan`.
pub fn plan<'s, 'p>(
    snapshot: &'s Snapshot,
    site: &Site,
    request: Option<&Request>,
    pick: impl Into<Pick<'p>>,
) -> Result<Plan<'s>, NoPlan> {
    let (rules, connection) = (&snapshot.enforcements, &site.connection);
    let pick = pick.into().of(request, connection.remote);
    plan::plan(rules, &site.point, connection, request, pick)
}

/// Whether the peer's certificate is revoked.
#[must_use]
pub fn is_revoked(snapshot: &Snapshot, site: &Site) -> bool {
    let leaf = site.leaf.as_ref();
    leaf.is_some_and(|leaf| snapshot.revocations.of(leaf).is_some())
}

/// The plan at another endpoint, after one that `first` judged for could not be connected to. Endpoints where other
/// providers or token rules hold are passed over: those were not asked, and tokens not verified by them.
#[must_use]
pub fn elsewhere<'s>(
    attempt: &mut Attempt,
    snapshot: &'s Snapshot,
    site: &Site,
    (request, sent): (Option<&Request>, Option<&Request>),
    first: &[&Enforcement],
) -> Option<Plan<'s>> {
    loop {
        let pick = Pick {
            host: sent.map(|sent| &sent.host),
            ..attempt.pick(snapshot)
        };
        let plan = plan(snapshot, site, request, pick).ok()?;
        if plan.is_judged_as(first) {
            return Some(plan);
        }
        if !attempt.passes_over() {
            return None;
        }
    }
}

/// What a route has made of a request.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// The backend, with the name of its service.
    pub leg: Option<(Rc<ResourceName>, Leg)>,
    /// What is sent, if that is not what was asked for.
    pub sent: Option<Arc<Request>>,
}

/// What is open, as it is judged again by a newer snapshot or at a later time.
#[derive(Debug)]
pub struct Opened {
    /// Where.
    pub site: Rc<Site>,
    request: Option<Arc<Request>>,
    routed: Routed,
    asked: Asked,
    /// The workload that a gateway has chosen.
    towards: RefCell<Option<ResourceName>>,
}

impl Opened {
    /// Of an exchange that providers have said yes to, with the workload that it goes to, by the snapshot that judged it.
    /// `request` is `None` at L4.
    #[must_use]
    pub fn new(
        site: impl Into<Rc<Site>>,
        request: Option<&Arc<Request>>,
        asked: Asked,
        judged_by: &Snapshot,
        workload: Option<usize>,
    ) -> Rc<Self> {
        let routed = Routed::default();
        Self::routed(site, (request, routed), asked, judged_by, workload)
    }

    /// As [`Self::new`], of a request that a route has sent on its way.
    #[must_use]
    pub fn routed(
        site: impl Into<Rc<Site>>,
        (request, routed): (Option<&Arc<Request>>, Routed),
        asked: Asked,
        judged_by: &Snapshot,
        workload: Option<usize>,
    ) -> Rc<Self> {
        let opened = Self {
            site: site.into(),
            request: request.map(Arc::clone),
            routed,
            asked,
            towards: RefCell::default(),
        };
        opened.goes_to(judged_by, workload);
        Rc::new(opened)
    }

    /// It goes to this workload now. At a workload's own node there is no other.
    fn goes_to(&self, snapshot: &Snapshot, workload: Option<usize>) {
        if matches!(self.site.point, SitePoint::Workload { .. }) {
            return;
        }
        let workload = workload.and_then(|at| snapshot.mesh.workloads.get(at));
        *self.towards.borrow_mut() = workload.map(|w| w.name.clone());
    }

    /// It goes to another workload, as `judged_by` allows; `None` if the latest snapshot does not. Those who judge what is
    /// open may have looked at the workload before.
    #[must_use]
    pub fn moves(
        &self,
        core: &Core,
        judged_by: &Arc<Snapshot>,
        workload: Option<usize>,
    ) -> Option<()> {
        let before = self.towards.borrow().clone();
        self.goes_to(judged_by, workload);
        let latest = core.snapshot();
        let may = Arc::ptr_eq(&latest, judged_by) || self.is_still_allowed(&latest);
        if !may {
            // It stays where it is, and is judged as what it is there.
            *self.towards.borrow_mut() = before;
        }
        may.then_some(())
    }

    /// Whether it may stay open now. A provider that was not asked before it opened cannot be asked any more.
    #[must_use]
    pub fn is_still_allowed(&self, snapshot: &Snapshot) -> bool {
        let Self { site, .. } = self;
        if is_revoked(snapshot, site) {
            return false;
        }
        let request = self.request.as_deref();
        let connection = Connection {
            time: clock::unix_s(),
            ..site.connection.clone()
        };
        let (rules, towards) = (&snapshot.enforcements, self.towards.borrow());
        let leg = self.routed.leg.as_ref().map(|(name, leg)| (&**name, *leg));
        let goes = (towards.as_ref(), leg);
        let plan = plan::again(rules, &site.point, &connection, request, goes);
        plan.is_some_and(|plan| {
            let sent = self.routed.sent.as_deref();
            let unasked = sent.and_then(|sent| plan.unasked(&connection, sent));
            self.asked.covers(&plan, &connection, request)
                && (snapshot.mesh.dry_run || unasked.is_none())
                && plan.still_allows_sent(&site.point, &connection, request, sent)
        })
    }
}

/// Whether a plain connection to this address would reach this process itself, or a workload of one of its nodes: capture
/// lets the node's own connections pass, so that nobody would ask the workload's policies.
#[must_use]
pub fn is_own(core: &Core, snapshot: &Snapshot, address: SocketAddr) -> bool {
    let directory = &snapshot.enforcements.directory;
    let workload = directory.workload_by_address(address.ip().to_canonical());
    let workload = workload.and_then(|at| snapshot.mesh.workloads.get(at));
    let mut hosted = core.process.nodes.iter().flat_map(|n| &n.workloads);
    hosted.any(|hosted| {
        workload.is_some_and(|w| w.name == hosted.workload)
            || hosted.app.values().any(|app| *app == address)
    }) || core.process.listens_on_if(address, is_local)
}

/// The address of an outside service that is dialled: the one that was asked for where that is what is dialled, else one
/// of its endpoints, as it was judged when DNS answered: a name is never resolved for a request.
///
/// # Errors
/// Why there is none.
pub fn endpoint(
    core: &Core,
    snapshot: &Snapshot,
    (service, port, asked): (usize, u16, Option<IpAddr>),
    from: &Caller<'_>,
    pick: &Pick<'_>,
) -> Result<UpstreamAddr, NoTarget> {
    let address = match asked {
        Some(ip) => UpstreamAddr(SocketAddr::new(ip, port)),
        None => pick
            .outside(&snapshot.mesh, (service, port), &snapshot.resolved, from)
            .map_err(NoTarget::NoEndpoint)?,
    };
    // A block may take in this process's own listeners, and an endpoint may be a workload here.
    let own = is_own(core, snapshot, address.0);
    (!own).then_some(address).ok_or(NoTarget::SelfCall)
}

/// Why what was permitted cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTarget {
    /// Nothing there.
    NoRoute,
    /// Nothing of a service can be reached there, in words for the record.
    Unreachable(String),
    /// An address of this process itself, or of a workload behind one of its nodes.
    SelfCall,
    /// An outside service without a usable address.
    NoEndpoint(NoEndpoint),
}

impl NoTarget {
    /// The reason that is recorded, and what the record says more.
    #[must_use]
    pub fn close(&self) -> (CloseReason, Option<String>) {
        match self {
            Self::NoRoute => (CloseReason::NoRoute, None),
            Self::Unreachable(why) => (CloseReason::NoRoute, Some(why.clone())),
            Self::SelfCall => (
                CloseReason::SelfCall,
                Some("an address of this process itself or of a workload here".to_owned()),
            ),
            Self::NoEndpoint(why) => (CloseReason::UpstreamConnect, Some(why.to_string())),
        }
    }
}
