//! From workload to workload of one process: what would be a tunnel of the process to itself is none.
//!
//! Both sides judge, record and count as they do at the ends of a tunnel, by the same functions, and the caller is told the
//! same. Only the bytes go from app to app without TLS. Where it is not plain that the tunnel would end here and carry bytes
//! alone, it is a tunnel.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::UnixTime;

use crate::config::checked::{Node, Process};
use crate::http::connect::Told;
use crate::identity::revocation::PeerLeaf;
use crate::identity::verify::Usage;
use crate::io::early::Early;
use crate::io::hbone::{Far, HboneError};
use crate::io::listener::is_local;
use crate::io::stream::Stream;
use crate::io::upstream::{DialError, Target};
use crate::io::{clock, random, rt};
use crate::policy::Permit;
use crate::telemetry::record::Kind;
use crate::vocab::addr::OriginalDst;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::node::{self, Tunnelled};
use crate::worker::relaying::FarSide;
use crate::worker::site::Story;

/// An upstream, and who answers there.
pub(super) struct Dialled {
    pub(super) up: Stream,
    /// Certificate of the far end of a tunnel.
    pub(super) leaf: Option<Arc<PeerLeaf>>,
    pub(super) far: Option<Box<FarSide>>,
}

/// Whose connection it is that leaves a workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'e> {
    pub(super) address: SocketAddr,
    /// What it says before the tunnel is open, if it may speak then.
    early: Option<&'e Early>,
}

impl<'e> Client<'e> {
    /// One that may speak first.
    pub(super) fn early(address: SocketAddr, early: &'e Early) -> Self {
        let early = Some(early);
        Self { address, early }
    }

    /// One that waits to be told that it may.
    pub(super) fn waiting(address: SocketAddr) -> Self {
        let early = None;
        Self { address, early }
    }
}

/// Dials for a permit. With a `client`, whose connection leaves a workload, another workload of this process is reached
/// without a tunnel.
///
/// # Errors
/// `DialError`, as by the tunnel.
pub(super) async fn dial(
    core: &Rc<Core>,
    permit: Permit,
    target: &Target,
    client: Option<Client<'_>>,
) -> Result<Dialled, DialError> {
    let early = client.and_then(|client| client.early);
    // What another endpoint has got before it failed counts for nothing here, whatever way this one is reached.
    early.into_iter().for_each(Early::begin);
    if let (Some(client), Target::Hbone(far)) = (client, target) {
        // Boxed: it judges and dials in its turn.
        let within = Box::pin(within(core, far, client.address));
        let within_ms = far.options.within_ms.unwrap_or(limits::CONNECT_MS);
        match rt::timeout(within_ms, within).await {
            Ok(Within::Tunnel) => {}
            Ok(Within::Dialled(dialled)) => return Ok(dialled),
            Ok(Within::Refused(status)) => return Err(HboneError::Refused(status).into()),
            Err(rt::Elapsed) => return Err(HboneError::Timeout.into()),
        }
    }
    let (up, leaf) = core.upstreams.dial_proved(permit, target, early).await?;
    let far = None;
    Ok(Dialled { up, leaf, far })
}

enum Within {
    /// Only a tunnel will do.
    Tunnel,
    Dialled(Dialled),
    /// What the tunnel would have been answered.
    Refused(http::StatusCode),
}

/// The far end's part of a tunnel from this process to itself.
async fn within(core: &Rc<Core>, far: &Far, client: SocketAddr) -> Within {
    let Some(arrival) = Arrival::of(core, far) else {
        return Within::Tunnel;
    };
    let Arrival {
        node,
        caller,
        callee,
        local,
        authority,
        told,
    } = arrival;
    if let Some(full) = core.places.refuses(false) {
        let generation = core.snapshot().generation;
        let who = ("node", node.name.as_str());
        Story::about(core, who, client, Kind::Tunnel, generation).fail(full.close(), &full);
        return Within::Refused(full.close().connect_status());
    }
    let asked = (&authority, Arc::new(told));
    match node::tunnelled(core, node, &caller, client, local, asked).await {
        Tunnelled::Http(..) => Within::Tunnel,
        Tunnelled::Refuse(status) => Within::Refused(status),
        Tunnelled::Bytes(going) => Within::Dialled(Dialled {
            up: going.up,
            leaf: Some(callee),
            far: Some(Box::new(FarSide {
                story: going.story,
                entry: going.entry,
                place: core.place(),
            })),
        }),
    }
}

/// What a tunnel would bring with it to its far end.
struct Arrival<'c> {
    node: &'c Node,
    /// What the caller's handshake would prove,
    caller: Arc<PeerLeaf>,
    /// and what the answer to it would.
    callee: Arc<PeerLeaf>,
    local: OriginalDst,
    authority: Host,
    told: Told,
}

impl<'c> Arrival<'c> {
    /// `None` where the tunnel would not end here, or fail: then it tells why.
    fn of(core: &'c Core, far: &Far) -> Option<Self> {
        let node = listening(&core.process, far.address)?;
        let (snapshot, now) = (core.snapshot(), clock::unix());
        let ip = far.address.ip().to_canonical();
        let directory = &snapshot.enforcements.directory;
        let at = directory.workload_by_address(ip)?;
        let workload = snapshot.mesh.workloads.get(at)?;
        let here = node.workloads.iter().any(|w| w.workload == workload.name);
        // What is configured as a workload of this node may be on another machine for all that.
        if !here || workload.id != far.expected || !is_local(ip) {
            return None;
        }
        let now = UnixTime::since_unix_epoch(now);
        let identities = &snapshot.identities;
        let caller = identities.proved(&far.source, Usage::Client, now).ok()?;
        let callee = identities.proved(&far.expected, Usage::Server, now).ok()?;
        let request = far.head.request(random::bytes()?).ok()?;
        Some(Self {
            node,
            caller,
            callee,
            local: OriginalDst(SocketAddr::new(ip, far.address.port())),
            authority: Host::parse(request.uri().authority()?.as_str()).ok()?,
            told: Told::of(request.headers()),
        })
    }
}

/// The node whose HBONE listener answers at `address`, if it is one alone.
fn listening(process: &Process, address: SocketAddr) -> Option<&Node> {
    let answers = |listener: SocketAddr| {
        listener.port() == address.port() && takes(listener.ip(), address.ip())
    };
    let gateways = process.waypoints.iter().map(|w| w.hbone);
    let mut gateways = gateways.chain(process.egresses.iter().map(|e| e.hbone));
    if gateways.any(answers) {
        return None;
    }
    let mut nodes = process.nodes.iter().filter(|node| {
        let own = node.workloads.iter().filter_map(|w| w.hbone);
        own.chain(node.hbone).any(answers)
    });
    let node = nodes.next()?;
    nodes.next().is_none().then_some(node)
}

/// Whether a listener at `own` takes connections to `ip`.
fn takes(own: IpAddr, ip: IpAddr) -> bool {
    own == ip || (own.is_unspecified() && own.is_ipv4() == ip.is_ipv4())
}
