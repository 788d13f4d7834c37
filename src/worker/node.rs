//! The node: what enters its workloads, and what leaves them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::checked::capture::OriginalSource;
use crate::config::checked::{Node, NodeWorkload, Process, Protocol, Workload};
use crate::control::snapshot::{MeshTls, Snapshot};
use crate::exchange::close::CloseReason;
use crate::http::connect::Told;
use crate::identity::revocation::PeerLeaf;
use crate::io::early::Early;
use crate::io::listener::{Captured, original_destination};
use crate::io::rt::{self, Tcp};
use crate::io::stream::Stream;
use crate::io::upstream::{DialError, Target};
use crate::io::{clock, tls};
use crate::policy::{Connection, Denied, Permit};
use crate::role::endpoints::Caller;
use crate::role::outbound::{self, Route, Wanted};
use crate::role::plan::{NoPlan, Plan, SitePoint};
use crate::telemetry::metrics::{Ends, Reporter};
use crate::telemetry::record::Kind;
use crate::vocab::addr::OriginalDst;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;
use crate::vocab::text::chain;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::counting;
use crate::worker::custom::{self, Asked, Asker};
use crate::worker::exchange;
use crate::worker::forward::dial_reason;
use crate::worker::inbound;
use crate::worker::judge::{self, NoTarget, Opened};
use crate::worker::leave::Leaving;
use crate::worker::open::{Entry, Rejudge};
use crate::worker::origin::{self, Origin};
use crate::worker::places::Taken;
use crate::worker::relaying::{Going, Rest};
use crate::worker::same_node::{self, Client, Dialled};
use crate::worker::serve;
use crate::worker::site::{Site, Story};
use crate::worker::socks::{self, Answer};

/// A workload of this node by its address.
pub(super) fn hosted<'n>(
    snapshot: &Snapshot,
    node: &'n Node,
    dst: OriginalDst,
) -> Option<(&'n NodeWorkload, usize)> {
    let at = snapshot
        .enforcements
        .directory
        .workload_by_address(dst.ip())?;
    let name = &snapshot.mesh.workloads.get(at)?.name;
    node.workloads
        .iter()
        .find(|w| w.workload == *name)
        .map(|w| (w, at))
}

/// Where the app of a workload listens for `port`.
pub(super) fn app_of(
    process: &Process,
    snapshot: &Snapshot,
    hosted: &NodeWorkload,
    at: usize,
    port: u16,
) -> Option<SocketAddr> {
    let found = app_address(snapshot, hosted, at, port)?;
    // The process's own listeners (admin, certificates, tunnels) are no app of anybody's.
    (!process.listens_on(found)).then_some(found)
}

fn app_address(
    snapshot: &Snapshot,
    hosted: &NodeWorkload,
    at: usize,
    port: u16,
) -> Option<SocketAddr> {
    match hosted.app.get(&port) {
        Some(app) => Some(*app),
        // With a table of its own, a port that is not in it is not there.
        None if !hosted.app.is_empty() => None,
        None => Some(SocketAddr::new(
            snapshot.mesh.workloads.get(at)?.address,
            port,
        )),
    }
}

pub(super) fn site_of(
    node: &Node,
    hosted: &NodeWorkload,
    connection: Connection,
    peer: SocketAddr,
    app: SocketAddr,
) -> Site {
    Site {
        role: "node",
        instance: node.name.as_str().into(),
        point: SitePoint::Workload {
            workload: hosted.workload.clone(),
            app,
            mark: node.mark,
            source: match node.original_source {
                OriginalSource::Auto if node.capture.is_none() => OriginalSource::Drop,
                source @ (OriginalSource::Auto | OriginalSource::Keep | OriginalSource::Drop) => {
                    source
                }
            },
        },
        connection,
        peer,
        leaf: None,
        scheme: "http",
        told: None,
        held: Rc::default(),
        last: RefCell::default(),
        redirects: None,
        shown: None,
        said: Rc::default(),
    }
}

/// TLS that ends here: mTLS with the workload's identity. `outer`: the identity of the tunnel around it.
pub async fn direct(
    core: Rc<Core>,
    mut site: Site,
    stream: Stream,
    tls: Option<MeshTls>,
    outer: Option<SpiffeId>,
) -> Rest {
    let snapshot = core.snapshot();
    let story = Story::begin(&core, &site, Kind::Connection, &snapshot);
    let Some(tls) = tls else {
        story.fail(CloseReason::Handshake, "no identity for this workload yet");
        return Rest::NONE;
    };
    let (stream, proof) = match tls::accept(stream, |_sni| Some(tls.direct)).await {
        Ok(done) => done,
        Err(error) => {
            story.fail(error.close(), error);
            return Rest::NONE;
        }
    };
    if outer.is_some() && outer != proof.peer {
        // A stolen certificate used through somebody else's node.
        let why = "certificate inside the tunnel is not the tunnel's identity";
        story.fail(CloseReason::Denied, why);
        return Rest::NONE;
    }
    story.forget();
    site.connection.principal = proof.peer;
    site.connection.sni = proof.sni.map(Into::into);
    site.leaf.clone_from(&proof.leaf);
    site.scheme = "https";
    let (open, now) = (Rc::clone(&core.open), core.snapshot());
    let served = Box::pin(admit(core, site, stream, proof.h2));
    let served = open.while_trusted(proof.leaf, &now, served).await;
    served.unwrap_or(Rest::NONE)
}

/// Judges a connection to a workload and serves it: by request where HTTP rules hold, else as bytes.
pub(super) async fn admit(core: Rc<Core>, site: Site, stream: Stream, h2: bool) -> Rest {
    let snapshot = core.snapshot();
    let needs_http = match judge::plan(&snapshot, &site, None, 0) {
        Ok(plan) => plan.needs_http(false),
        Err(_none) => false,
    };
    if needs_http {
        return serve::http(core, site, stream, h2).await;
    }
    let mut stream = stream;
    match dialled(&core, site, &snapshot).await {
        Ok(going) => Rest::relay(going, stream),
        Err(_close) => {
            stream.abort();
            Rest::NONE
        }
    }
}

/// The L4 decision at a site: permit, target and the open story.
///
/// # Errors
/// Why not; it is recorded.
async fn permitted<'s>(
    core: &Rc<Core>,
    site: &Site,
    snapshot: &'s Arc<Snapshot>,
    attempt: &Attempt,
) -> Result<(Permit, Target, Story, Asked, Plan<'s>), CloseReason> {
    let mut story = Story::begin(core, site, Kind::Connection, snapshot);
    let end = |story: Story, close| {
        story.end(close);
        Err(close)
    };
    if judge::is_revoked(snapshot, site) {
        return end(story, CloseReason::Revoked);
    }
    let plan = match judge::plan(snapshot, site, None, attempt.pick(snapshot)) {
        Ok(plan) => plan,
        Err(NoPlan::Close(close)) => return end(story, close),
        Err(NoPlan::Denied(denied)) => {
            story.judged(&denied.judged);
            return end(story, CloseReason::Denied);
        }
        Err(NoPlan::Plaintext(denied)) => {
            story.judged(&denied.judged);
            return end(story, CloseReason::PlaintextRefused);
        }
    };
    let service = origin::told_service(snapshot, site, &plan);
    story.edit(|r| {
        r.service = service
            .and_then(|at| snapshot.mesh.services.get(at))
            .map(|s| s.name.joined().into());
        r.workload = plan
            .workload
            .and_then(|at| snapshot.mesh.workloads.get(at))
            .map(|w| w.name.joined().into());
    });
    count_inbound(&mut story, snapshot, site, plan.workload, service);
    let asker = Asker {
        core,
        site,
        snapshot,
        plan: &plan,
    };
    let asked = match Box::pin(custom::connection(asker, &mut story)).await {
        Ok(asked) => asked,
        Err(denied) => {
            story.judged(&denied.judged);
            return end(story, CloseReason::Denied);
        }
    };
    let permit = match plan.judge(&site.connection, None) {
        Ok(permit) => permit,
        Err(denied) => {
            if let Some(Denied { judged }) = denied {
                story.judged(&judged);
            }
            return end(story, CloseReason::Denied);
        }
    };
    story.judged(permit.verdict());
    if let Err(detail) = inbound::take(core, site) {
        story.fail(CloseReason::Limit, detail);
        return Err(CloseReason::Limit);
    }
    // The plan has chosen already where it chooses; an outside address is chosen here.
    let pick = attempt.again(snapshot);
    match exchange::target(core, snapshot, site, &plan, None, &pick) {
        Ok(target) => Ok((permit, target, story, asked, plan)),
        Err(why) => {
            let (close, detail) = why.close();
            story.edit(|r| r.detail = detail);
            end(story, close)
        }
    }
}

/// Has a connection counted that arrived here for `workload`.
pub(super) fn count_inbound(
    story: &mut Story,
    snapshot: &Snapshot,
    site: &Site,
    workload: Option<usize>,
    service: Option<usize>,
) {
    let ends = Ends {
        destination: workload,
        service,
        ..counting::source(site, snapshot)
    };
    let reporter = match site.point {
        SitePoint::Workload { .. } => Reporter::Destination,
        SitePoint::Waypoint { .. } | SitePoint::Egress { .. } | SitePoint::Ingress { .. } => {
            Reporter::Waypoint
        }
    };
    let is_proved = ends.principal.is_some();
    story.count(snapshot, reporter, ends, is_proved);
}

/// Has a connection counted that leaves workload `source`.
fn tell_route(
    story: &mut Story,
    snapshot: &Snapshot,
    (source, principal): (usize, &SpiffeId),
    route: &Route,
) {
    let mut ends = Ends {
        principal: Some(principal.clone()),
        source: Some(source),
        ..Ends::default()
    };
    let mutual_tls = match route {
        Route::Gateway {
            gateway, service, ..
        } => {
            (ends.gateway, ends.service) = (Some(*gateway), *service);
            true
        }
        Route::Workload {
            workload, service, ..
        } => {
            (ends.destination, ends.service) = (Some(*workload), *service);
            true
        }
        Route::Outside { service, .. } | Route::Unreachable { service, .. } => {
            ends.service = Some(*service);
            false
        }
        Route::Unknown(_) => false,
    };
    let workload = ends
        .destination
        .and_then(|at| snapshot.mesh.workloads.get(at));
    story.edit(|r| r.workload = workload.map(|w| w.name.joined().into()));
    story.count(snapshot, Reporter::Source, ends, mutual_tls);
}

/// Judges a connection at a site as bytes and dials.
///
/// # Errors
/// Why not; it is recorded.
pub async fn dialled(
    core: &Rc<Core>,
    site: Site,
    snapshot: &Arc<Snapshot>,
) -> Result<Going, CloseReason> {
    let mut attempt = Attempt::new(core);
    let (permit, target, story, asked, plan) = permitted(core, &site, snapshot, &attempt).await?;
    let opened = Opened::new(site, None, asked, snapshot, plan.workload);
    // A policy that changed while providers were asked was not heard by anybody.
    let latest = core.snapshot();
    if !Arc::ptr_eq(&latest, snapshot) && !opened.is_still_allowed(&latest) {
        story.end(CloseReason::PolicyChanged);
        return Err(CloseReason::PolicyChanged);
    }
    // On the list before the dial: one that changes from now on is heard.
    let still = Rejudge::Opened(Rc::clone(&opened));
    let mut entry = core.open.enter(still, story.sketch());
    let story = attempt.placed(snapshot, story, &mut entry)?;
    entry.cancel.depends_on(opened.site.leaf.clone());
    let first = plan.enforcements;
    let next = |error: &DialError, story: &mut Story| {
        if !attempt.failed(snapshot, error) {
            return None;
        }
        let site = &opened.site;
        let plan = judge::elsewhere(&mut attempt, snapshot, site, (None, None), &first)?;
        let permit = plan.judge(&site.connection, None).ok()?;
        let pick = attempt.again(snapshot);
        let target = exchange::target(core, snapshot, site, &plan, None, &pick);
        opened.moves(core, snapshot, plan.workload)?;
        let workload = plan.workload.and_then(|at| snapshot.mesh.workloads.get(at));
        story.edit(|r| r.workload = workload.map(|w| w.name.joined().into()));
        count_inbound(story, snapshot, site, plan.workload, plan.service);
        Some((permit, target.ok()?))
    };
    let mut going = dial(core, (permit, target), None, story, entry, next).await?;
    attempt.succeeded(snapshot);
    going.idle_ms = attempt.pool(snapshot).bytes_idle_ms;
    going.entry.keeps(attempt.begins(snapshot));
    Ok(going)
}

/// Dials, and again whatever `next` says after a failure: nothing was sent until then. `client`: whose connection it is that
/// leaves a workload; another workload of this process may be reached without a tunnel then.
pub(super) async fn dial(
    core: &Rc<Core>,
    first: (Permit, Target),
    client: Option<Client<'_>>,
    mut story: Story,
    entry: Entry,
    mut next: impl FnMut(&DialError, &mut Story) -> Option<(Permit, Target)>,
) -> Result<Going, CloseReason> {
    let (mut permit, mut target) = first;
    loop {
        let dialled = tokio::select! {
            biased;
            why = entry.cancel.cancelled() => {
                story.end(why);
                return Err(why);
            }
            dialled = same_node::dial(core, permit, &target, client) => dialled,
        };
        let error = match dialled {
            Ok(Dialled { up, leaf, far }) => {
                entry.cancel.depends_on(leaf);
                if entry.cancel.is_revoked(&core.snapshot()) {
                    // Since its handshake, and since what is open was judged.
                    story.end(CloseReason::Revoked);
                    return Err(CloseReason::Revoked);
                }
                return Ok(Going {
                    up,
                    story,
                    entry,
                    far,
                    taken: None,
                    idle_ms: None,
                });
            }
            Err(error) => error,
        };
        match next(&error, &mut story) {
            Some(other) => (permit, target) = other,
            None => {
                let close = dial_reason(&error);
                story.fail(close, chain(&error));
                return Err(close);
            }
        }
    }
}

/// What a CONNECT stream to a workload becomes.
#[derive(Debug)]
pub enum Tunnelled {
    /// Answer 200 and serve it so.
    Http(Box<Site>, Option<MeshTls>),
    /// Dialled; answer 200 and relay.
    Bytes(Box<Going>),
    /// Answer this.
    Refuse(http::StatusCode),
}

/// Judges a tunnel into a workload of this node. `local` is the address that the connection was made to.
pub async fn tunnelled(
    core: &Rc<Core>,
    node: &Node,
    leaf: &Arc<PeerLeaf>,
    peer: SocketAddr,
    local: OriginalDst,
    (authority, told): (&Host, Arc<Told>),
) -> Tunnelled {
    let snapshot = core.snapshot();
    let story = Story::about(
        core,
        ("node", &node.name),
        peer,
        Kind::Tunnel,
        snapshot.generation,
    )
    .with_told(Some(&told));
    let (dst, hosted, at) = match tunnel_target(&snapshot, node, local, authority) {
        Ok(found) => found,
        Err(close) => {
            story.fail(close, format!("`{authority}` is not a workload here"));
            return Tunnelled::Refuse(close.connect_status());
        }
    };
    let connection = Connection {
        principal: Some(leaf.id.clone()),
        peer: peer.ip().to_canonical(),
        remote: peer.ip().to_canonical(),
        destination: dst.ip(),
        port: dst.port(),
        sni: None,
        time: clock::unix_s(),
    };
    let Some(app) = app_of(&core.process, &snapshot, hosted, at, dst.port()) else {
        story.with_connection(connection).end(CloseReason::NoRoute);
        return Tunnelled::Refuse(http::StatusCode::SERVICE_UNAVAILABLE);
    };
    let site = Site {
        told: Some(told),
        leaf: Some(Arc::clone(leaf)),
        ..site_of(node, hosted, connection, peer, app)
    };
    story.forget();
    if let Ok(plan) = judge::plan(&snapshot, &site, None, 0)
        && (plan.needs_http(false) || plan.protocol == Protocol::Https)
    {
        let id = snapshot.mesh.workloads.get(at).map(|w| &w.id);
        // Only a direct caller brings TLS of its own; the waypoint has ended it.
        let tls = id.filter(|_| plan.via.is_none() && plan.protocol == Protocol::Https);
        return Tunnelled::Http(
            Box::new(site),
            tls.and_then(|id| snapshot.identities.get(id)).cloned(),
        );
    }
    match dialled(core, site, &snapshot).await {
        Ok(going) => Tunnelled::Bytes(Box::new(going)),
        Err(close) => Tunnelled::Refuse(close.connect_status()),
    }
}

/// Ports of Istio's data plane: a tunnel to one of them would go in circles.
const OWN_PORTS: [u16; 4] = [15001, 15006, 15008, 15080];

/// The workload and port that a tunnel is for: `IP:port` of the address it came to, or a host name of a
/// service that the workload there belongs to.
///
/// # Errors
/// `BadRequest`: another address; `NoRoute`: no such name or port; `SelfCall`: a port of the node.
fn tunnel_target<'n>(
    snapshot: &Snapshot,
    node: &'n Node,
    local: OriginalDst,
    authority: &Host,
) -> Result<(OriginalDst, &'n NodeWorkload, usize), CloseReason> {
    let port = authority.port().ok_or(CloseReason::BadRequest)?;
    let (hosted, at) = hosted(snapshot, node, local).ok_or(CloseReason::NoRoute)?;
    let port = match authority.ip() {
        Some(ip) if ip.to_canonical() == local.ip() => port,
        Some(_) => return Err(CloseReason::BadRequest),
        None => service_target(snapshot, at, authority.name(), port).ok_or(CloseReason::NoRoute)?,
    };
    if OWN_PORTS.contains(&port) {
        return Err(CloseReason::SelfCall);
    }
    let dst = OriginalDst(SocketAddr::new(local.ip(), port));
    Ok((dst, hosted, at))
}

/// The workload's port that a service which it belongs to has behind `port`.
fn service_target(snapshot: &Snapshot, workload: usize, host: &str, port: u16) -> Option<u16> {
    let services = snapshot.enforcements.directory.services_by_host(host);
    let mut services = services
        .iter()
        .filter_map(|at| snapshot.mesh.services.get(*at));
    let service = services.find(|s| s.workloads.contains(&workload))?;
    crate::role::directory::service_port(service, port).map(|p| p.target_port)
}

/// A redirected connection that leaves a workload.
pub async fn outbound(core: Rc<Core>, tcp: Tcp, node: Rc<Node>, at: usize) -> Rest {
    let Ok(peer) = tcp.peer() else {
        return Rest::NONE;
    };
    let captured = original_destination(&tcp);
    let story = outbound_story(&core, &node, peer);
    let Ok(Captured::Redirected(dst)) = captured else {
        // Nobody is a workload by connecting here; only the kernel's redirect says who it is.
        tcp.reset_on_close();
        story.end(CloseReason::SelfCall);
        return Rest::NONE;
    };
    let wanted = Wanted::Address(dst.ip());
    let early = Early::of(&tcp);
    let client = Client::early(peer, &early);
    match leave(&core, &node, at, client, &wanted, dst.port(), story).await {
        Ok(going) => Rest::relay_begun(going, tcp, &early),
        Err(_close) => {
            tcp.reset_on_close();
            Rest::NONE
        }
    }
}

/// A SOCKS5 client of a workload.
pub async fn socks(core: Rc<Core>, tcp: Tcp, node: Rc<Node>, at: usize) -> Rest {
    let Ok(peer) = tcp.peer() else {
        return Rest::NONE;
    };
    let mut stream = Stream::from(tcp);
    let story = outbound_story(&core, &node, peer);
    let asked = core
        .within(limits::HANDSHAKE_MS, socks::wanted(&mut stream))
        .await;
    let (wanted, port) = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => {
            story.fail(CloseReason::BadRequest, error);
            return Rest::NONE;
        }
        Err(rt::Elapsed) => {
            story.fail(CloseReason::Timeout, "SOCKS request is too slow");
            return Rest::NONE;
        }
    };
    let client = Client::waiting(peer);
    match leave(&core, &node, at, client, &wanted, port, story).await {
        Ok(going) => match socks::answer(&mut stream, Answer::Granted).await {
            Ok(()) => return Rest::relay(going, stream),
            Err(error) => going.story.fail(CloseReason::DownstreamReset, error),
        },
        Err(close) => {
            if let Err(error) = socks::answer(&mut stream, Answer::of(close)).await {
                tracing::trace!(%error, "SOCKS client is gone");
            }
        }
    }
    Rest::NONE
}

pub(super) fn outbound_story(core: &Rc<Core>, node: &Node, peer: SocketAddr) -> Story {
    Story::about(
        core,
        ("node", &node.name),
        peer,
        Kind::Outbound,
        core.snapshot().generation,
    )
}

/// Takes a place among the connections to others of a workload.
///
/// # Errors
/// All are taken, which is recorded and counted.
fn take_outbound(
    core: &Core,
    snapshot: &Snapshot,
    (own, id): (usize, &SpiffeId),
    hosted: &ResourceName,
    mut story: Story,
) -> Result<(Option<Taken>, Story), CloseReason> {
    let full = match core.places.take_outbound(hosted) {
        Ok(taken) => return Ok((taken, story)),
        Err(full) => full,
    };
    let ends = Ends {
        principal: Some(id.clone()),
        source: Some(own),
        ..Ends::default()
    };
    story.count(snapshot, Reporter::Source, ends, false);
    story.fail(CloseReason::Limit, full);
    Err(CloseReason::Limit)
}

/// Judges and dials a connection that leaves workload `at` of `node`.
pub(super) async fn leave(
    core: &Rc<Core>,
    node: &Rc<Node>,
    at: usize,
    client: Client<'_>,
    wanted: &Wanted,
    port: u16,
    mut story: Story,
) -> Result<Going, CloseReason> {
    let snapshot = core.snapshot();
    let Some((own_at, own)) = leaver(node, at, &snapshot) else {
        story.fail(CloseReason::NoRoute, "workload is not in the mesh any more");
        return Err(CloseReason::NoRoute);
    };
    story.edit(|r| {
        r.connection = Some(leaving_connection(&own.id, client.address, wanted, port));
        r.service = Some(wanted.with_port(port).into());
    });
    let source = (own_at, &own.id);
    let (taken, mut story) = take_outbound(core, &snapshot, source, &own.name, story)?;
    let rules = &snapshot.enforcements;
    let from = leaving_from(node, own);
    let mut attempt = Attempt::new(core);
    let source = client.address.ip().to_canonical();
    let pick = attempt.pick(&snapshot).of(None, source);
    let (route, verdict) = outbound::judge(rules, &from, (wanted, port), pick);
    story.judged(&verdict);
    tell_route(&mut story, &snapshot, (own_at, &own.id), &route);
    let Ok(permit) = verdict.permit() else {
        story.end(CloseReason::Denied);
        return Err(CloseReason::Denied);
    };
    let options = rt::ConnectOptions {
        mark: node.mark,
        within_ms: None,
    };
    let trace = origin::new_trace();
    story.edit(|r| r.trace = trace);
    let origin = Origin {
        client: client.address,
        baggage: rules.metadata.workload(own_at).cloned(),
        trace,
    };
    let leaving = Leaving {
        core,
        snapshot: &snapshot,
        own: &own.id,
        origin,
        from,
        options,
    };
    let target = match leaving.target(route, &pick) {
        Ok(target) => target,
        Err(why) => {
            let (close, detail) = no_way(&why, &snapshot, &own.id, &wanted.with_port(port));
            story.fail(close, detail);
            return Err(close);
        }
    };
    let still = still_leaving(Rc::clone(node), at, wanted.clone(), port);
    let mut entry = core.open.enter(still, story.sketch());
    let story = attempt.placed(&snapshot, story, &mut entry)?;
    let next = |error: &DialError, story: &mut Story| {
        if !attempt.failed(&snapshot, error) {
            return None;
        }
        let pick = attempt.pick(&snapshot).of(None, source);
        let (route, verdict) = outbound::judge(rules, &from, (wanted, port), pick);
        let permit = verdict.permit().ok()?;
        tell_route(story, &snapshot, (own_at, &own.id), &route);
        Some((permit, leaving.target(route, &pick).ok()?))
    };
    let mut going = dial(core, (permit, target), Some(client), story, entry, next).await?;
    attempt.succeeded(&snapshot);
    going.idle_ms = attempt.pool(&snapshot).bytes_idle_ms;
    going.entry.keeps(attempt.begins(&snapshot));
    Ok(Going { taken, ..going })
}

/// Why what was allowed does not get on its way.
fn no_way(
    why: &NoTarget,
    snapshot: &Snapshot,
    own: &SpiffeId,
    asked: &str,
) -> (CloseReason, String) {
    let (close, detail) = why.close();
    if let (CloseReason::NoRoute, Some(target)) = (close, snapshot.revoked(own)) {
        let detail = format!("own identity: {target} is revoked");
        return (CloseReason::Revoked, detail);
    }
    let none = || format!("`{asked}` has no endpoint or no such port");
    (close, detail.unwrap_or_else(none))
}

/// Workload `at` of `node`, with its place in the mesh.
fn leaver<'s>(node: &Node, at: usize, snapshot: &'s Snapshot) -> Option<(usize, &'s Workload)> {
    let name = &node.workloads.get(at)?.workload;
    let at = snapshot.enforcements.directory.workload(name)?;
    Some((at, snapshot.mesh.workloads.get(at)?))
}

/// Whether a connection that left a workload may stay open, by a newer snapshot.
fn still_leaving(node: Rc<Node>, at: usize, wanted: Wanted, port: u16) -> Rejudge {
    let by = move |snapshot: &Snapshot| {
        leaver(&node, at, snapshot).is_some_and(|(_at, own)| {
            let (rules, from) = (&snapshot.enforcements, leaving_from(&node, own));
            let (_route, verdict) = outbound::judge(rules, &from, (&wanted, port), 0);
            verdict.permit().is_ok()
        })
    };
    Rejudge::By(Box::new(by))
}

fn leaving_connection(own: &SpiffeId, peer: SocketAddr, wanted: &Wanted, port: u16) -> Connection {
    Connection {
        principal: Some(own.clone()),
        peer: peer.ip().to_canonical(),
        remote: peer.ip().to_canonical(),
        destination: match wanted {
            Wanted::Address(ip) => *ip,
            Wanted::Name(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        },
        port,
        sni: None,
        time: clock::unix_s(),
    }
}

/// A workload as it leaves from its node.
fn leaving_from<'a>(node: &'a Node, own: &'a Workload) -> Caller<'a> {
    Caller {
        allow_any: node.outbound_allow_any,
        search: &node.dns_search,
        ..Caller::workload(own)
    }
}
