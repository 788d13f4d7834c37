//! Tunnels that arrive (at a node, a waypoint, an egress gateway), direct mTLS at a waypoint, the explicit proxy.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::config::checked::{Node, Protocol};
use crate::control::snapshot::{MeshTls, Snapshot};
use crate::exchange::close::CloseReason;
use crate::http::connect::{self, LastBaggage, Told};
use crate::identity::revocation::PeerLeaf;
use crate::io::mux::{Respond, ServerConnection};
use crate::io::rt::{self, Tcp};
use crate::io::stream::Stream;
use crate::io::tunnel::Tunnel;
use crate::io::{clock, tls};
use crate::policy::Connection;
use crate::role::plan::SitePoint;
use crate::telemetry::record::Kind;
use crate::vocab::addr::OriginalDst;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;
use crate::worker::core::Core;
use crate::worker::judge;
use crate::worker::node::{self, Tunnelled};
use crate::worker::places::Full;
use crate::worker::relaying::{Going, Rest, Setup};
use crate::worker::serve;
use crate::worker::site::{Site, Story};
use crate::worker::streams;

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Whose listener it is.
#[derive(Clone, Debug)]
pub enum At {
    /// A workload's, at its node.
    Node(Rc<Node>),
    /// A waypoint's.
    Waypoint(ResourceName),
    /// An egress gateway's; the port of its explicit proxy.
    Egress(ResourceName, Option<u16>),
}

impl At {
    fn label(&self) -> (&'static str, String) {
        match self {
            Self::Node(node) => ("node", node.name.clone()),
            Self::Waypoint(name) => ("waypoint", name.to_string()),
            Self::Egress(name, _) => ("egress", name.to_string()),
        }
    }

    /// Role and instance, for records.
    pub(super) fn who(&self) -> (&'static str, Rc<str>) {
        let (role, instance) = self.label();
        (role, instance.into())
    }

    /// TLS of the identity that answers at `local`. ztunnel sends no server name: the address decides.
    fn tls(&self, snapshot: &Snapshot, local: SocketAddr) -> Option<MeshTls> {
        let (mesh, directory) = (&snapshot.mesh, &snapshot.enforcements.directory);
        let id = match self {
            Self::Node(_) => {
                &mesh
                    .workloads
                    .get(directory.workload_by_address(local.ip().to_canonical())?)?
                    .id
            }
            Self::Waypoint(name) | Self::Egress(name, _) => {
                &mesh.gateways.get(directory.gateway(name)?)?.id
            }
        };
        snapshot.identities.get(id).cloned()
    }
}

/// An HBONE connection; what is left are its tunnels.
pub async fn tunnels(core: Rc<Core>, tcp: Tcp, at: At) -> Rest {
    let snapshot = core.snapshot();
    let (Ok(peer), Ok(local)) = (tcp.peer(), tcp.local()) else {
        return Rest::NONE;
    };
    let (role, instance) = at.label();
    let story = Story::about(
        &core,
        (role, &instance),
        peer,
        Kind::Connection,
        snapshot.generation,
    );
    let failed = |story: Story, close, why: &dyn fmt::Display| {
        story.fail(close, why);
        Rest::NONE
    };
    let Some(config) = at.tls(&snapshot, local) else {
        let why = "no identity for this address";
        return failed(story, CloseReason::Handshake, &why);
    };
    let (stream, proof) = match tls::accept(tcp.into(), |_sni| Some(config.hbone)).await {
        Ok(done) => done,
        Err(error) => return failed(story, error.close(), &error),
    };
    let Some(leaf) = proof.leaf else {
        let why = "client showed no certificate";
        return failed(story, CloseReason::Handshake, &why);
    };
    let mut connection = ServerConnection::new(stream);
    match rt::timeout(limits::HANDSHAKE_MS, connection.handshake()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return failed(story, CloseReason::Handshake, &error),
        Err(rt::Elapsed) => {
            let why = "HTTP/2 handshake is too slow";
            return failed(story, CloseReason::Timeout, &why);
        }
    }
    story.forget();
    let local = OriginalDst(SocketAddr::new(local.ip().to_canonical(), local.port()));
    let tunnelling = Tunnelling {
        core,
        at,
        leaf,
        peer,
        local,
    };
    Rest::serve(tunnelling.serve(connection))
}

/// An HBONE connection after its handshakes.
struct Tunnelling {
    core: Rc<Core>,
    at: At,
    leaf: Arc<PeerLeaf>,
    peer: SocketAddr,
    local: OriginalDst,
}

impl Tunnelling {
    async fn serve(self, connection: ServerConnection) {
        // The handshake may have taken its time: what counts is what is revoked now.
        let served = {
            let now = self.core.snapshot();
            let (open, trusted) = (&self.core.open, Some(Arc::clone(&self.leaf)));
            open.while_trusted(trusted, &now, self.streams(connection))
        };
        if served.await.is_some() {
            return;
        }
        // Its streams have records of their own; a connection without any has this one.
        let Self {
            core,
            at,
            leaf,
            peer,
            ..
        } = self;
        let (role, instance) = at.label();
        let generation = core.snapshot().generation;
        let who = (role, instance.as_str());
        Story::about(&core, who, peer, Kind::Connection, generation)
            .fail(CloseReason::Revoked, format!("`{}` is revoked", leaf.id));
    }

    fn streams(&self, connection: ServerConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        let last = Rc::new(RefCell::new(LastBaggage::default()));
        let (core, at, leaf) = (
            Rc::clone(&self.core),
            self.at.clone(),
            Arc::clone(&self.leaf),
        );
        let (peer, local) = (self.peer, self.local);
        Box::pin(async move {
            let each = |request, respond| -> Setup {
                let arrival = Arrival {
                    core: Rc::clone(&core),
                    at: at.clone(),
                    leaf: Arc::clone(&leaf),
                    peer,
                    local,
                    last: Rc::clone(&last),
                };
                Box::pin(tunnel(arrival, request, respond))
            };
            streams::serve_tunnels(&core, connection, each).await;
        })
    }
}

struct Arrival {
    core: Rc<Core>,
    at: At,
    leaf: Arc<PeerLeaf>,
    peer: SocketAddr,
    local: OriginalDst,
    last: Rc<RefCell<LastBaggage>>,
}

impl Arrival {
    /// What the head of a tunnel tells.
    fn told(&self, headers: &HeaderMap) -> Told {
        Told::after(&mut self.last.borrow_mut(), headers)
    }

    /// `baggage` of who serves here.
    fn baggage(&self) -> Option<HeaderValue> {
        let snapshot = self.core.snapshot();
        let rules = &snapshot.enforcements;
        let found = match &self.at {
            At::Node(_) => rules
                .metadata
                .workload(rules.directory.workload_by_address(self.local.ip())?),
            At::Waypoint(name) | At::Egress(name, _) => {
                rules.metadata.gateway(rules.directory.gateway(name)?)
            }
        };
        found.cloned()
    }
}

/// Refuses a tunnel because of the process's limit.
fn refuse_more(arrival: &Arrival, full: &Full, respond: &mut Respond) -> Rest {
    let (role, instance) = arrival.at.label();
    let generation = arrival.core.snapshot().generation;
    let who = (role, instance.as_str());
    Story::about(&arrival.core, who, arrival.peer, Kind::Tunnel, generation)
        .fail(full.close(), full);
    refuse(respond, full.close().connect_status());
    Rest::NONE
}

/// One CONNECT stream.
async fn tunnel(arrival: Arrival, request: Request<Tunnel>, mut respond: Respond) -> Rest {
    let authority = request
        .uri()
        .authority()
        .and_then(|a| Host::parse(a.as_str()).ok());
    let authority = authority.filter(|a| request.method() == Method::CONNECT && a.port().is_some());
    let Some(authority) = authority else {
        let (role, instance) = arrival.at.label();
        let generation = arrival.core.snapshot().generation;
        Story::about(
            &arrival.core,
            (role, &instance),
            arrival.peer,
            Kind::Tunnel,
            generation,
        )
        .fail(CloseReason::BadRequest, "not a CONNECT with host and port");
        return refuse(&mut respond, StatusCode::BAD_REQUEST);
    };
    if let Some(full) = arrival.core.refuses_stream() {
        return refuse_more(&arrival, &full, &mut respond);
    }
    let told = Arc::new(arrival.told(request.headers()));
    let body = request.into_body();
    match &arrival.at {
        At::Node(node) => {
            let Arrival {
                core,
                leaf,
                peer,
                local,
                ..
            } = &arrival;
            let asked = (&authority, told);
            match node::tunnelled(core, node, leaf, *peer, *local, asked).await {
                Tunnelled::Refuse(status) => refuse(&mut respond, status),
                Tunnelled::Http(site, tls) => {
                    let baggage = arrival.baggage();
                    match accept(&mut respond, body, baggage.as_ref()) {
                        Some(stream) => {
                            let outer = Some(leaf.id.clone());
                            http(Rc::clone(core), *site, stream, tls, outer).await
                        }
                        None => Rest::NONE,
                    }
                }
                Tunnelled::Bytes(going) => {
                    relay(*going, &mut respond, body, arrival.baggage().as_ref())
                }
            }
        }
        At::Waypoint(name) => {
            let point = SitePoint::Waypoint {
                gateway: name.clone(),
                authority: Some(authority.clone()),
            };
            through(&arrival, point, (&authority, told), body, respond).await
        }
        At::Egress(name, proxy) => {
            // A tunnel to the proxy's own port carries proxy requests, which say themselves where to.
            let to_proxy = proxy.is_some()
                && authority.port() == *proxy
                && authority.ip() == Some(arrival.local.ip());
            let point = SitePoint::Egress {
                gateway: name.clone(),
                authority: (!to_proxy).then(|| authority.clone()),
            };
            through(&arrival, point, (&authority, told), body, respond).await
        }
    }
}

/// A tunnel through a gateway.
async fn through(
    arrival: &Arrival,
    point: SitePoint,
    (authority, told): (&Host, Arc<Told>),
    body: Tunnel,
    mut respond: Respond,
) -> Rest {
    let Arrival {
        core,
        at,
        leaf,
        peer,
        local,
        ..
    } = arrival;
    let (role, instance) = at.label();
    let peer_ip = peer.ip().to_canonical();
    let connection = Connection {
        principal: Some(leaf.id.clone()),
        peer: peer_ip,
        remote: peer_ip,
        destination: authority.ip().unwrap_or_else(|| local.ip()),
        port: authority.port().unwrap_or_default(),
        sni: None,
        time: clock::unix_s(),
    };
    let is_proxy = matches!(
        point,
        SitePoint::Egress {
            authority: None,
            ..
        }
    );
    let site = Site {
        role,
        instance: instance.into(),
        point,
        connection,
        peer: *peer,
        leaf: Some(Arc::clone(leaf)),
        scheme: "http",
        told: Some(told),
        held: Rc::default(),
        last: RefCell::default(),
        redirects: None,
        shown: None,
        said: Rc::default(),
    };
    let snapshot = core.snapshot();
    let planned = judge::plan(&snapshot, &site, None, 0);
    let (needs_http, ends_tls) = match &planned {
        Ok(plan) => (
            plan.needs_http(true),
            role == "waypoint" && plan.protocol == Protocol::Https,
        ),
        Err(_none) => (is_proxy, false),
    };
    drop(planned);
    if needs_http {
        let tls = if ends_tls {
            at.tls(&snapshot, local.0)
        } else {
            None
        };
        return match accept(&mut respond, body, arrival.baggage().as_ref()) {
            Some(stream) => http(Rc::clone(core), site, stream, tls, Some(leaf.id.clone())).await,
            None => Rest::NONE,
        };
    }
    match node::dialled(core, site, &snapshot).await {
        Err(close) => refuse(&mut respond, close.connect_status()),
        Ok(going) => relay(going, &mut respond, body, arrival.baggage().as_ref()),
    }
}

/// Opens a tunnel whose upstream was dialled.
fn relay(going: Going, respond: &mut Respond, body: Tunnel, baggage: Option<&HeaderValue>) -> Rest {
    match accept(respond, body, baggage) {
        Some(down) => Rest::relay(going, down),
        None => {
            going.story.end(CloseReason::DownstreamReset);
            Rest::NONE
        }
    }
}

/// HTTP inside a tunnel, within TLS of the client's own if it brings any and it ends here.
async fn http(
    core: Rc<Core>,
    site: Site,
    mut stream: Stream,
    tls: Option<MeshTls>,
    outer: Option<SpiffeId>,
) -> Rest {
    if tls.is_some() {
        let first = rt::timeout(limits::HEAD_MS, stream.peek(1)).await;
        if matches!(first, Ok(Ok([TLS_HANDSHAKE]))) {
            return Box::pin(node::direct(core, site, stream, tls, outer)).await;
        }
    }
    serve::http(core, site, stream, false).await
}

fn refuse(respond: &mut Respond, status: StatusCode) -> Rest {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Err(error) = respond.send_response(&response, true) {
        tracing::trace!(%error, "CONNECT stream is gone");
    }
    Rest::NONE
}

fn accept(respond: &mut Respond, body: Tunnel, baggage: Option<&HeaderValue>) -> Option<Stream> {
    let response = connect::opened(baggage);
    respond.send_response(&response, false).ok()?;
    Some(body.into())
}

/// Direct mTLS at a waypoint, or a client of the egress gateway's explicit proxy (plaintext or TLS).
pub async fn listener(core: Rc<Core>, tcp: Tcp, at: At) -> Rest {
    let snapshot = core.snapshot();
    let (Ok(peer), Ok(local)) = (tcp.peer(), tcp.local()) else {
        return Rest::NONE;
    };
    let (role, instance) = at.label();
    let story = Story::about(
        &core,
        (role, &instance),
        peer,
        Kind::Connection,
        snapshot.generation,
    );
    let authority = None;
    let (point, is_proxy) = match at.clone() {
        At::Waypoint(gateway) => (SitePoint::Waypoint { gateway, authority }, false),
        At::Egress(gateway, _) => (SitePoint::Egress { gateway, authority }, true),
        At::Node(_) => {
            story.end(CloseReason::NoRoute);
            return Rest::NONE;
        }
    };
    let peer_ip = peer.ip().to_canonical();
    let site = Site {
        role,
        instance: instance.into(),
        point,
        connection: Connection {
            principal: None,
            peer: peer_ip,
            remote: peer_ip,
            destination: local.ip().to_canonical(),
            port: local.port(),
            sni: None,
            time: clock::unix_s(),
        },
        peer,
        leaf: None,
        scheme: "http",
        told: None,
        held: Rc::default(),
        last: RefCell::default(),
        redirects: None,
        shown: None,
        said: Rc::default(),
    };
    if is_proxy
        && !matches!(
            rt::timeout(limits::HEAD_MS, tcp.peek_first()).await,
            Ok(Ok(Some(TLS_HANDSHAKE)))
        )
    {
        story.forget();
        return serve::http(core, site, tcp.into(), false).await;
    }
    let Some(tls) = at.tls(&snapshot, local) else {
        story.fail(CloseReason::Handshake, "no identity for this gateway yet");
        return Rest::NONE;
    };
    let config = if is_proxy { tls.proxy } else { tls.gateway };
    secured(core, site, tcp, config, story).await
}

/// HTTP over TLS that ends here, of a client that shows who it is or may.
async fn secured(
    core: Rc<Core>,
    mut site: Site,
    tcp: Tcp,
    config: Arc<rustls::ServerConfig>,
    story: Story,
) -> Rest {
    let (stream, proof) = match tls::accept(tcp.into(), |_sni| Some(config)).await {
        Ok(done) => done,
        Err(error) => {
            story.fail(error.close(), error);
            return Rest::NONE;
        }
    };
    story.forget();
    site.connection.principal = proof.peer;
    site.connection.sni = proof.sni.map(Into::into);
    site.leaf.clone_from(&proof.leaf);
    site.scheme = "https";
    let (open, now) = (Rc::clone(&core.open), core.snapshot());
    let served = Box::pin(serve::http(core, site, stream, proof.h2));
    let served = open.while_trusted(proof.leaf, &now, served).await;
    served.unwrap_or(Rest::NONE)
}
