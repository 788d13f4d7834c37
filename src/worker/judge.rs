//! What the policies of a snapshot say at a site. Used for the first decision and for every one after a reload.

use std::net::{IpAddr, SocketAddr};

use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::policy::{Connection, Request};
use crate::role::egress::NoEndpoint;
use crate::role::endpoints::{Caller, Pick};
use crate::role::plan::{self, NoPlan, Plan};
use crate::vocab::addr::UpstreamAddr;
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
    let rules = &snapshot.enforcements;
    plan::plan(rules, &site.point, &site.connection, request, pick)
}

/// Whether the peer's certificate is revoked.
#[must_use]
pub fn is_revoked(snapshot: &Snapshot, site: &Site) -> bool {
    let leaf = site.leaf.as_ref();
    leaf.is_some_and(|leaf| snapshot.revocations.of(leaf).is_some())
}

/// Judges an open exchange again, by a newer snapshot or at a later time. A provider that was not asked before it opened
/// cannot be asked now.
#[must_use]
pub fn still_allowed(
    snapshot: &Snapshot,
    site: &Site,
    request: Option<&Request>,
    unix_s: i64,
    asked: &Asked,
) -> bool {
    if is_revoked(snapshot, site) {
        return false;
    }
    let connection = Connection {
        time: unix_s,
        ..site.connection.clone()
    };
    let rules = &snapshot.enforcements;
    let covered = plan::plan(rules, &site.point, &connection, request, 0)
        .is_ok_and(|plan| asked.covers(&plan, &connection, request));
    covered && plan::still_allowed(rules, &site.point, &connection, request)
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
    if let Some(ip) = asked {
        let address = SocketAddr::new(ip, port);
        // A block may take in this process's own listeners.
        let own = core.process.listens_on(address);
        return (!own)
            .then_some(UpstreamAddr(address))
            .ok_or(NoTarget::SelfCall);
    }
    pick.outside(&snapshot.mesh, (service, port), &snapshot.resolved, from)
        .map_err(NoTarget::NoEndpoint)
}

/// Why what was permitted cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTarget {
    /// Nothing there.
    NoRoute,
    /// An address of this process itself.
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
            Self::SelfCall => (
                CloseReason::SelfCall,
                Some("an address of this process itself".to_owned()),
            ),
            Self::NoEndpoint(why) => (CloseReason::UpstreamConnect, Some(why.to_string())),
        }
    }
}
