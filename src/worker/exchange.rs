//! One request from its canonical head to its record: tokens, policy, forward.

mod mirror;
mod others;
mod refusal;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};

use smallvec::smallvec;

use others::{First, Others};
use refusal::{Asks, Refusal, refuse};

use crate::config::checked::capture::OriginalSource;
use crate::config::checked::route::Timeouts;
use crate::config::checked::{Mesh, Protocol, UpstreamTls};
use crate::control::ask::Ask;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::canonical::Form;
use crate::http::connect::Head;
use crate::http::forward::{self, Own};
use crate::http::reply::Reply;
use crate::http::request_id;
use crate::io::body::{Source, TooLong};
use crate::io::clock;
use crate::io::hbone::Far;
use crate::io::pace::BodyPace;
use crate::io::rt::{self, ConnectOptions};
use crate::io::upstream::{Addresses, Manner, Target, Version};
use crate::jwt::{TokenRules, authenticate_cached, www_authenticate};
use crate::policy::{Judged, Permit, Request};
use crate::role::authenticate::{self, TokenRefused};
use crate::role::egress;
use crate::role::endpoints::{Caller, Pick};
use crate::role::plan::{HTTP_PORT, HTTPS_PORT, Next, Plan, SitePoint};
use crate::upstream::load;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::spiffe::SpiffeId;
use crate::worker::attempt::Attempt;
use crate::worker::connect;
use crate::worker::core::Core;
use crate::worker::custom::{self, Asker, Passed, Upload};
use crate::worker::deadline;
use crate::worker::edge;
use crate::worker::forward::{self as forwarding, Forward};
use crate::worker::inbound;
use crate::worker::judge::{self, NoTarget, Opened};
use crate::worker::limited;
use crate::worker::open::{Entry, Rejudge};
use crate::worker::origin::Origin;
use crate::worker::respond::Responder;
use crate::worker::routed;
use crate::worker::site::{Site, Story};
use crate::worker::upgrade::{Times, Upgrade};

/// A request as it arrived, canonical.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Request.
    pub request: Request,
    /// Form of its target.
    pub form: Form,
    /// Body.
    pub body: Source<'a>,
    /// Announced length of the body.
    pub length: Option<u64>,
    /// It asks for a WebSocket.
    pub upgrade: Option<&'a Upgrade>,
}

/// Serves one request, in memory of its own. `true`: the downstream connection can take another one.
// What it is made of is known at its place, which is taken first: else all of it would be copied there.
#[inline(always)]
pub fn serve<'a>(
    core: &'a Rc<Core>,
    site: &'a Rc<Site>,
    arrived: Arrived<'a>,
    responder: Responder<'a>,
) -> Pin<Box<impl Future<Output = bool>>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, served(core, site, arrived, responder)))
}

async fn served(
    core: &Rc<Core>,
    site: &Rc<Site>,
    arrived: Arrived<'_>,
    mut responder: Responder<'_>,
) -> bool {
    let snapshot = core.snapshot();
    let mut story = Story::of_request(core, site, &snapshot);
    let Arrived {
        mut request,
        form,
        mut body,
        length,
        upgrade,
    } = arrived;
    let outside = matches!(site.point, SitePoint::Ingress { .. });
    let told = named(core, site, &mut request);
    let site = as_asked(&mut request, form, site, (outside, &snapshot));
    let asks = Asks::of(&mut story, &request, length);
    if let Some(refusal) = turned_away((core, &site, &snapshot), &mut request, length) {
        known(&mut story, request, &site);
        return refuse(Box::new(refusal), asks, story, body, responder).await;
    }
    body = bounded(core, &request, body);
    let upload = Upload {
        body: &mut body,
        responder: &mut responder,
        length,
    };
    let here = (core, &*site, &*snapshot);
    let prepared = prepare(here, &mut request, form, &mut story, upload).await;
    let request = known(&mut story, request, &site);
    let (permit, going, passed, first) = match prepared {
        Ok(ready) => *ready,
        Err(refusal) => return refuse(refusal, asks, story, body, responder).await,
    };
    let original = (&request, &first, &passed.asked, told.as_slice());
    let mut copies = mirror::judged((core, &site, &snapshot), original, upgrade.is_some());
    let extra = own_fields(&site, &request, &going, (&snapshot, told));
    let answer = routed::on_answer(first.rule, outside, passed.downstream);
    let (times, lasts) = times(&first);
    let opened = first.opens(site, &request, passed.asked, &snapshot);
    let others = Others::new(core, &opened, &snapshot, &request, first);
    let body = paced(body, core, (&others, &snapshot), (asks, &going));
    let placed = (&story, going.place, permit.verdict());
    let entered = enter(core, opened, &snapshot, placed);
    let entry = match entered.inspect_err(|why| mirror::refused_with(&mut copies, why)) {
        Ok(entry) => entry,
        Err(refusal) => return refuse(refusal, asks, story, body, responder).await,
    };
    let body = mirror::begin((core, &snapshot), copies, body, length);
    let work = Forward {
        upstreams: &core.upstreams,
        permit,
        target: going.target,
        manner: going.manner,
        request: others.sent(),
        extra: &extra,
        length,
        answer: &answer,
        others: &others,
        upgrade,
        times,
    };
    let cancel = &entry.cancel;
    if request.method == Method::CONNECT {
        return Box::pin(connect::connect(work, body, responder, story, cancel)).await;
    }
    // Boxed, so that what is refused here has no room for it; made in its place, as above.
    let place = Box::new_uninit();
    let exchange = forwarding::exchange(work, body, responder, story, cancel);
    let exchange = Box::into_pin(Box::write(place, exchange));
    let keep = deadline::within(times, cancel, exchange).await;
    switched(upgrade, entry, others, lasts);
    keep
}

/// What is a WebSocket now keeps its place.
fn switched(upgrade: Option<&Upgrade>, entry: Entry, others: Others<'_>, lasts: Times) {
    if let Some(upgrade) = upgrade {
        upgrade.enter((entry, others.into_busy()), lasts);
    }
}

/// The times of its route, and what of them holds for a WebSocket that it becomes.
fn times(first: &First<'_>) -> (Timeouts, Times) {
    let times = first.rule.map(|rule| rule.timeouts).unwrap_or_default();
    (times, Times::begin(&times))
}

/// What a request needs of a service that counts it.
const fn kind(version: Version) -> load::Kind {
    match version {
        Version::H1 => load::Kind::Alone,
        Version::H2 => load::Kind::Shared,
    }
}

/// Gives a request the name by which its records are found (`x-request-id`), but for the outside world; what the one before
/// us says of the client.
fn named(core: &Core, site: &Site, request: &mut Request) -> Vec<HeaderValue> {
    let told = told(&request.headers);
    let outside = matches!(site.point, SitePoint::Ingress { .. });
    if !matches!(site.point, SitePoint::Egress { .. }) {
        request_id::set(&mut request.headers, outside, || core.request_name());
    }
    told
}

/// A body of which no more is taken than one may have.
fn bounded<'b>(core: &Core, request: &Request, body: Source<'b>) -> Source<'b> {
    match most_of_body(core, request) {
        Some(most) => body.limited(most),
        None => body,
    }
}

/// A body that must not keep us waiting. The deadline of a call is for both sides of it to say (a server of HTTP/1 takes none,
/// whatever its client says), what follows a CONNECT is no body, and the mesh's own gateways watch their own clients.
fn paced<'a>(
    body: Source<'a>,
    core: &Core,
    (others, snapshot): (&'a Others<'_>, &Snapshot),
    (asks, going): (Asks, &Going),
) -> Source<'a> {
    let is_body = !body.is_empty() && others.sent().method != Method::CONNECT;
    let calls = asks.grpc && going.manner.version == Version::H2;
    if !is_body || calls || others.is_own_hop(snapshot) {
        return body;
    }
    body.paced(BodyPace::new(core.process.limits.body_ms, others.begun()))
}

/// How long the body of a request may be. What follows a CONNECT is none.
fn most_of_body(core: &Core, request: &Request) -> Option<u64> {
    let most = core.process.limits.body?;
    (request.method != Method::CONNECT).then_some(most)
}

/// Why a request is not even looked at, whose body has the announced length `length`; what it has to keep for itself is out of
/// it then.
fn turned_away(
    (core, site, snapshot): (&Core, &Site, &Snapshot),
    request: &mut Request,
    length: Option<u64>,
) -> Option<Refusal> {
    let refusal = why_away(core, site, request, length)?;
    edge::conceal(site, snapshot, request);
    Some(refusal)
}

fn why_away(core: &Core, site: &Site, request: &Request, length: Option<u64>) -> Option<Refusal> {
    if core.places.sheds() {
        return Some(Refusal::overload());
    }
    if let Some(port) = site.redirects {
        return Some(Refusal::to_https(request, port));
    }
    if site.misdirects(&request.host) {
        return Some(Refusal::misdirected(site, request));
    }
    let most = most_of_body(core, request);
    let too_long = length.zip(most).is_some_and(|(length, most)| length > most);
    too_long.then(|| Refusal {
        detail: Some(TooLong.to_string()),
        ..Refusal::close(CloseReason::BodyTooLarge)
    })
}

/// The record knows the request, whom it came from and what it is for.
fn known(story: &mut Story, request: Request, site: &Site) -> Arc<Request> {
    let request = Arc::new(request);
    story.edit(|r| {
        r.request = Some(Arc::clone(&request));
        let connection = r.connection.get_or_insert_with(|| site.connection.clone());
        connection.remote = site.connection.remote;
        connection.destination = site.connection.destination;
        connection.port = site.connection.port;
    });
    request
}

/// The client's address, of a request whose head says no more than those before us may say.
fn client_of(request: &mut Request, site: &Site, outside: bool, snapshot: &Snapshot) -> IpAddr {
    let trusted = snapshot.mesh.num_trusted_proxies;
    forward::strip(&mut request.headers, outside, trusted);
    forward::client_address(&request.headers, site.connection.peer, trusted)
}

/// The site as a request has it: who its client is, and what it asks for.
fn as_asked(
    request: &mut Request,
    form: Form,
    site: &Rc<Site>,
    (outside, snapshot): (bool, &Snapshot),
) -> Rc<Site> {
    let client = client_of(request, site, outside, snapshot);
    let scheme_port = match form {
        Form::AbsoluteHttps => HTTPS_PORT,
        Form::Origin | Form::Absolute | Form::Authority => HTTP_PORT,
    };
    let (at, host) = (&site.connection, &request.host);
    site.of_request(client, site.point.destination(at, host, scheme_port))
}

/// What the client itself speaks, as the one before us tells; whom nobody stands before is not believed.
pub(super) fn scheme(site: &Site, request: &Request) -> &'static str {
    forward::told_scheme(&request.headers).unwrap_or(site.scheme)
}

/// What the one before us says of the client (`x-forwarded-client-cert`).
fn told(headers: &HeaderMap) -> Vec<HeaderValue> {
    headers.get_all(&forward::XFCC).iter().cloned().collect()
}

/// Puts a permitted request on the list of what is open.
///
/// # Errors
/// There are too many connections, or it is allowed no more: a policy that changed while providers were asked was heard by
/// nobody; from here on it is.
fn enter(
    core: &Core,
    opened: Rc<Opened>,
    judged_by: &Arc<Snapshot>,
    (story, place, allowed): (&Story, Option<load::Place>, &Judged),
) -> Result<Entry, Box<Refusal>> {
    inbound::take(core, &opened.site)
        .map_err(|detail| Box::new(Refusal::full(detail)).behind(allowed))?;
    let latest = core.snapshot();
    let leaf = opened.site.leaf.clone();
    if !Arc::ptr_eq(&latest, judged_by) && !opened.is_still_allowed(&latest) {
        return Err(Box::new(Refusal::policy_changed()));
    }
    let mut entry = core.open.enter(Rejudge::Opened(opened), story.sketch());
    entry.takes(place);
    entry.cancel.depends_on(leaf);
    Ok(entry)
}

/// Where a permitted request goes, and how.
struct Going {
    target: Target,
    manner: Manner,
    own: Option<SpiffeId>,
    /// The service outside of the mesh that it leaves for.
    outside: Option<usize>,
    /// The peer is the workload's own waypoint.
    via: bool,
    /// At the service, where places are counted.
    place: Option<load::Place>,
}

/// What is refused before anything is looked at: a revoked peer, and a form of target that this site does not serve.
fn unserved(site: &Site, snapshot: &Snapshot, form: Form) -> Option<Refusal> {
    if judge::is_revoked(snapshot, site) {
        return Some(Refusal {
            close: CloseReason::Revoked,
            ..Refusal::denied(None)
        });
    }
    let proxy = matches!(
        site.point,
        SitePoint::Egress {
            authority: None,
            ..
        }
    );
    // A proxy that takes `https` reads in the clear what the client believes to be sealed to the origin.
    let unserved = match form {
        Form::Authority => !proxy,
        Form::AbsoluteHttps => proxy || site.scheme != "https",
        Form::Origin | Form::Absolute => false,
    };
    unserved.then(|| Refusal::close(CloseReason::BadRequest))
}

/// What a permitted request is sent by.
type Ready<'s> = (Permit, Going, Passed, First<'s>);

/// Everything up to the permit. The outcome is boxed either way, so that neither has the room of the other.
async fn prepare<'s>(
    (core, site, snapshot): (&Rc<Core>, &Site, &'s Arc<Snapshot>),
    request: &mut Request,
    form: Form,
    story: &mut Story,
    upload: Upload<'_, '_, '_>,
) -> Result<Box<Ready<'s>>, Box<Refusal>> {
    if let Some(refusal) = unserved(site, snapshot, form) {
        return Err(Box::new(refusal));
    }
    // Login comes before routing: the provider's callback is no route of its own.
    let mut login = edge::login(core, site, snapshot, request)
        .await
        .map_err(|answered| Box::new(Refusal::answered(*answered)))?;
    let attempt = Attempt::new(core);
    let pick = attempt.pick(snapshot);
    let plan = judge::plan(snapshot, site, Some(request), pick)
        .map_err(|why| Box::new(Refusal::unplanned(why)))?;
    planned(core, story, &plan, snapshot);
    story.goes(site, snapshot, &plan);
    attempt.stays_with(plan.leg);
    let asker = Asker {
        core,
        site,
        snapshot,
        plan: &plan,
    };
    let asked = std::mem::take(&mut login.asked);
    let mut passed = match custom::nobody(&plan, asked) {
        Ok(passed) => passed,
        Err(before) => Box::pin(custom::request(asker, request, before, upload, story)).await?,
    };
    tokens(core, site, snapshot, &plan, request, story)?;
    if !login.is_met(request.claims.as_ref()) {
        return Err(Box::new(Refusal::missing_token(site, request)));
    }
    // Tokens may have taken a parameter out of the target. The backend stays, whatever routes would say of what is left.
    let sent = routed::sent(&plan, site, snapshot, request)?;
    let permit = plan
        .judge_sent(&site.connection, Some(request), sent.as_ref())
        .map_err(|d| Box::new(Refusal::denied(d)))?;
    let counted = (&site.connection, &*request, sent.as_ref());
    limited::check(&core.rates, snapshot, &plan, counted)
        .map_err(|why| Refusal::limited(why, &permit))?;
    if let Some(reply) = routed::answer(&plan, site, request) {
        let answered = Refusal::permitted(reply, CloseReason::Done, &permit);
        return Err(Box::new(answered));
    }
    let goes = sent.as_ref().unwrap_or(request);
    let going = going(core, snapshot, site, &plan, goes, (&attempt, &pick)).map_err(|refusal| {
        // Where there is nothing that it may go to, that is a denial.
        let full = refusal.close == CloseReason::Overflow;
        if full {
            refusal.behind(permit.verdict())
        } else {
            refusal
        }
    })?;
    let secure = || scheme(site, request) == "https";
    let cookie = attempt.cookie(snapshot, request, secure);
    passed
        .downstream
        .extend(cookie.map(|value| (header::SET_COOKIE, value)));
    let first = First {
        workload: plan.workload,
        rule: plan.rule,
        routed: routed::remembered(core, &plan, snapshot, sent),
        enforcements: plan.enforcements,
        attempt,
    };
    story.judged(permit.verdict());
    Ok(Box::new((permit, going, passed, first)))
}

/// The record knows where it goes.
fn planned(core: &Core, story: &mut Story, plan: &Plan<'_>, snapshot: &Snapshot) {
    let labels = &core.labels;
    story.edit(|r| {
        let service = plan.service.and_then(|at| labels.service(snapshot, at));
        r.service = service.map(|name| name.text);
        let workload = plan.workload.and_then(|at| labels.workload(snapshot, at));
        r.workload = workload.map(|name| name.text);
        r.route = routed::label(plan);
    });
}

/// Verifies what the request presents.
fn tokens(
    core: &Core,
    site: &Site,
    snapshot: &Snapshot,
    plan: &Plan<'_>,
    request: &mut Request,
    story: &mut Story,
) -> Result<(), Box<Refusal>> {
    let mut cache = core.tokens.borrow_mut();
    let verify = |rules: &TokenRules, request: &Request| {
        authenticate_cached(
            &mut cache,
            rules,
            &*snapshot.keys,
            &request.headers,
            request.path.as_ref(),
            clock::unix_s(),
        )
    };
    let mode = snapshot.mesh.path_normalization;
    let invalid = match authenticate::tokens(plan, request, mode, verify) {
        Ok(()) => return Ok(()),
        Err(TokenRefused::Target) => {
            return Err(Box::new(Refusal::close(CloseReason::BadRequest)));
        }
        Err(TokenRefused::Invalid(invalid)) => invalid,
    };
    if let Some(source) = invalid.unknown_kid {
        // A full channel means that the fetch is asked for already.
        drop(core.asks.try_send(Ask::UnknownKey(source)));
    }
    let detail = format!("token: {}", invalid.error);
    if snapshot.mesh.dry_run {
        // As if there were no token.
        story.edit(|r| r.would = Some(detail));
        request.claims = None;
        authenticate::without_tokens(plan, request);
        return Ok(());
    }
    let scheme = scheme(site, request);
    let challenge = www_authenticate(scheme, &request.host, request.path.as_ref());
    let challenge = challenge.to_str().unwrap_or_default();
    Err(Box::new(Refusal {
        reply: Reply::unauthenticated(invalid.status, invalid.text, challenge),
        close: CloseReason::Token,
        detail: Some(detail),
        denied: None,
        judged: None,
    }))
}

/// The protocol that a port of the registry is spoken to with.
pub(super) fn version(protocol: Protocol) -> Version {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Version::H2,
        Protocol::Http | Protocol::Https | Protocol::Tls | Protocol::Tcp => Version::H1,
    }
}

fn going(
    core: &Core,
    snapshot: &Snapshot,
    site: &Site,
    plan: &Plan<'_>,
    request: &Request,
    (attempt, pick): (&Attempt, &Pick<'_>),
) -> Result<Going, Box<Refusal>> {
    let workload = plan.workload.and_then(|at| snapshot.mesh.workloads.get(at));
    let target = target(core, snapshot, site, plan, Some(request), pick).map_err(|why| {
        let (close, detail) = why.close();
        Box::new(Refusal {
            detail,
            ..Refusal::close(close)
        })
    })?;
    let version = version(plan.protocol);
    Ok(Going {
        target,
        manner: Manner {
            version,
            reuse: attempt.pool(snapshot).reuse,
        },
        own: plan.own.or_else(|| workload.map(|w| &w.id)).cloned(),
        outside: if let Next::Outside(service, ..) = plan.next {
            Some(service)
        } else {
            None
        },
        via: plan.via.is_some(),
        place: attempt
            .takes(snapshot, kind(version))
            .map_err(|detail| Box::new(Refusal::overflow(detail)))?,
    })
}

/// Turns where into how. `pick` chooses the address of an outside service.
///
/// # Errors
/// `NoTarget`.
pub fn target(
    core: &Core,
    snapshot: &Snapshot,
    site: &Site,
    plan: &Plan<'_>,
    request: Option<&Request>,
    pick: &Pick<'_>,
) -> Result<Target, NoTarget> {
    let mesh = &snapshot.mesh;
    let beyond = match &plan.next {
        Next::App(address, mark, source) => {
            return Ok(Target::Plain {
                addresses: smallvec![UpstreamAddr(*address)],
                options: ConnectOptions {
                    mark: *mark,
                    within_ms: None,
                },
                source: client_address(*source, site.peer, *address),
            });
        }
        Next::Outside(service, port, asked) => {
            let gateway = mesh.gateways.iter().find(|g| Some(&g.id) == plan.own);
            let from = gateway.map_or_else(Caller::default, Caller::gateway);
            let asked = (*service, *port, *asked);
            let spread = pick.spread(plan.is_spread());
            let pick = &spread.of(request, site.connection.remote);
            let addresses = smallvec![judge::endpoint(core, snapshot, asked, &from, pick)?];
            let version = version(plan.protocol);
            // CONNECT and bytes carry the client's own TLS, which must not be wrapped once more.
            let request = request.filter(|r| r.method != Method::CONNECT);
            let host = request.map(|r| r.host.name());
            return outside(snapshot, *service, addresses, version, host).ok_or(NoTarget::NoRoute);
        }
        Next::Workload(at, port) => mesh.workloads.get(*at).map(|workload| Beyond {
            connect_ms: plan.service.and_then(|at| connect_ms(mesh, at)),
            address: SocketAddr::new(workload.address, workload.hbone_port),
            expected: workload.id.clone(),
            service: plan.service,
            authority: SocketAddr::new(workload.address, *port).to_string(),
        }),
        Next::Redirect => None,
        Next::Gateway(at, authority) => mesh.gateways.get(*at).map(|gateway| Beyond {
            connect_ms: None,
            address: gateway.hbone,
            expected: gateway.id.clone(),
            service: plan.service,
            authority: authority.clone(),
        }),
    };
    let origin = Origin::at(site, snapshot, request);
    let far = |(own, beyond)| hbone(snapshot, own, origin, beyond);
    plan.own.zip(beyond).and_then(far).ok_or(NoTarget::NoRoute)
}

/// The address that the app sees instead of ours. Within loopback the kernel drops what comes from elsewhere.
fn client_address(keep: OriginalSource, client: SocketAddr, app: SocketAddr) -> Option<rt::Source> {
    let ip = client.ip().to_canonical();
    let kept = keep != OriginalSource::Drop && !ip.is_loopback() && !app.ip().is_loopback();
    kept.then_some(rt::Source {
        ip,
        optional: keep == OriginalSource::Auto,
    })
}

/// The far end of a tunnel.
#[derive(Clone, Debug)]
pub struct Beyond {
    /// How long it may take to connect to it, in milliseconds; `None` is as long as any.
    pub connect_ms: Option<u64>,
    /// HBONE listener.
    pub address: SocketAddr,
    /// Who must answer.
    pub expected: SpiffeId,
    /// The service that was asked for, as an index into `Mesh::services`.
    pub service: Option<usize>,
    /// `:authority`.
    pub authority: String,
}

/// A tunnel as `own`.
#[must_use]
pub fn hbone(
    snapshot: &Snapshot,
    own: &SpiffeId,
    origin: Origin,
    beyond: Beyond,
) -> Option<Target> {
    let tls = snapshot.identities.get(own)?;
    let service = beyond.service;
    let metadata = &snapshot.enforcements.metadata;
    let known = service.and_then(|at| snapshot.mesh.services.get(at));
    Some(Target::Hbone(Box::new(Far {
        address: beyond.address,
        expected: beyond.expected,
        also: known.and_then(|service| service.spiffe_names.clone()),
        source: own.clone(),
        tls: Arc::clone(&tls.client),
        head: Head {
            authority: beyond.authority,
            client: Some(origin.client),
            service: service.and_then(|at| metadata.service(at)).cloned(),
            baggage: origin.baggage,
            trace: origin.trace,
        },
        options: ConnectOptions {
            mark: None,
            within_ms: beyond.connect_ms,
        },
    })))
}

/// How long it may take to connect to an endpoint of a service (`connectTimeout`), in milliseconds.
pub(super) fn connect_ms(mesh: &Mesh, service: usize) -> Option<u64> {
    mesh.services.get(service)?.balance.pool.connect_ms
}

/// The way to an outside service. `host`: that of what is sent there, for the TLS that we originate; `None` if it brings
/// its own.
pub(super) fn outside(
    snapshot: &Snapshot,
    service: usize,
    addresses: Addresses,
    version: Version,
    host: Option<&str>,
) -> Option<Target> {
    let options = ConnectOptions {
        mark: None,
        within_ms: connect_ms(&snapshot.mesh, service),
    };
    match (egress::tls_rule(&snapshot.mesh, service), host) {
        (Some(UpstreamTls::Simple { sni, .. }), Some(host)) => {
            let service = snapshot.mesh.services.get(service)?;
            let origination = snapshot
                .origination
                .get(&service.name, version == Version::H2)?;
            let name = sni.clone().unwrap_or_else(|| host.to_owned());
            Some(Target::Tls {
                addresses,
                options,
                config: Arc::clone(origination),
                name: rustls::pki_types::ServerName::try_from(name).ok()?,
            })
        }
        (Some(UpstreamTls::Simple { .. } | UpstreamTls::Disable) | None, _) => {
            Some(Target::Plain {
                addresses,
                options,
                source: None,
            })
        }
    }
}

/// Header fields that we set ourselves; they replace those of the request.
fn own_fields(
    site: &Site,
    request: &Request,
    going: &Going,
    (snapshot, told): (&Snapshot, Vec<HeaderValue>),
) -> Own {
    let details = snapshot.mesh.forward_client_cert;
    let told_who = |at: usize| {
        let service = snapshot.mesh.services.get(at);
        matches!(site.point, SitePoint::Ingress { .. }) && service.is_some_and(|s| s.forward_client)
    };
    let mute = going.outside.is_some_and(|at| !told_who(at));
    let at_egress = matches!(site.point, SitePoint::Egress { .. });
    if mute && (!at_egress || site.is_own_hop(snapshot)) {
        // The outside learns nothing about the inside, neither from us nor from what our gateways have told each other.
        return Own::mute();
    }
    if mute || at_egress {
        // What an app tells by itself is its own.
        return Own::default();
    }
    let mut extra = Own::after(&request.headers);
    let peer: IpAddr = site.connection.peer;
    let principal = site.connection.principal.as_ref().map(|id| id.as_str());
    let own = going.own.as_ref().map_or("", |id| id.as_str());
    forward::set(
        &mut extra,
        (peer, principal),
        own,
        site.scheme,
        (&site.said, details, &told),
    );
    if going.outside.is_some() {
        extra.remove(&forward::XFCC);
    }
    if going.via {
        // The workload's own waypoint said who calls; that it is the waypoint itself says nothing new.
        extra.remove(&forward::XFCC);
        for value in told {
            extra.append(forward::XFCC, value);
        }
    }
    extra
}
