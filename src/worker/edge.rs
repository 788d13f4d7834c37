//! The ingress: browsers that have to log in, and its listener.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use tokio::sync::oneshot;

use crate::config::checked::OidcProvider;
use crate::control::ask::Ask;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::reply::Reply;
use crate::io::rt::{self, Tcp};
use crate::io::{clock, tls};
use crate::oidc::{self, BrowserRequest, ExchangeError, Provider, Respond, Session, Step};
use crate::policy::{Connection, PolicySet, Request, custom_providers};
use crate::role::plan::SitePoint;
use crate::telemetry::record::Kind;
use crate::vocab::claims::Claims;
use crate::vocab::path::CanonicalPath;
use crate::vocab::resource::ResourceName;
use crate::worker::core::Core;
use crate::worker::custom::Before;
use crate::worker::relaying::Rest;
use crate::worker::serve;
use crate::worker::site::{Site, Story};
use crate::worker::sources::Counted;

/// How long the control thread may take to redeem a code, in milliseconds.
const REDEEM_MS: u64 = 15_000;

/// What login demands of the rest.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// Bearer tokens stand in for sessions: request authentication must find one valid of each of these issuers.
    bearer_of: Vec<String>,
    /// Who was asked, and about what.
    pub asked: Before,
}

impl Login {
    /// Whether the verified claims are what the tokens promised.
    #[must_use]
    pub fn is_met(&self, claims: Option<&Claims>) -> bool {
        self.bearer_of
            .iter()
            .all(|wanted| claims.and_then(Claims::issuer) == Some(wanted.as_str()))
    }
}

/// The answer in place of the request's own.
#[derive(Debug)]
pub struct Answered {
    /// Answer.
    pub reply: Reply,
    /// Why.
    pub close: CloseReason,
    /// For the record.
    pub detail: Option<String>,
}

impl Answered {
    fn plain(status: StatusCode, text: &'static str, close: CloseReason) -> Self {
        Self {
            reply: Reply::text(status, text),
            close,
            detail: None,
        }
    }

    fn by(provider: &str, respond: Respond) -> Self {
        let detail = format!("login provider `{provider}` answers {}", respond.status);
        let status = StatusCode::from_u16(respond.status);
        Self {
            reply: Reply {
                status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                is_text: false,
                headers: respond.headers,
                body: respond.body.into(),
            },
            close: CloseReason::Login,
            detail: Some(detail),
        }
    }
}

/// Asks the login providers whose CUSTOM policies match. What is left of the request holds no cookie of ours, whether they
/// match or not.
///
/// # Errors
/// The answer to give instead.
pub async fn login(
    core: &Rc<Core>,
    site: &Site,
    snapshot: &Snapshot,
    request: &mut Request,
) -> Result<Login, Box<Answered>> {
    let SitePoint::Ingress { gateway } = &site.point else {
        return Ok(Login::default());
    };
    let enforcement = snapshot
        .enforcements
        .directory
        .gateway(gateway)
        .and_then(|at| snapshot.enforcements.gateways.get(at));
    let Some(enforcement) = enforcement else {
        return Err(Box::new(Answered {
            reply: Reply::denied(),
            close: CloseReason::NoRoute,
            detail: None,
        }));
    };
    let set = &enforcement.set;
    if let Some(name) = own_path(site, snapshot, set, request) {
        return Err(own_page(core, site, snapshot, name, request).await);
    }
    let asked = custom_providers(set, &site.connection, Some(request));
    let mut login = Login::default();
    let mut sessions = Vec::new();
    if !asked.is_empty() {
        login.asked.request = Some(Arc::new(request.clone()));
    }
    // Authorizers are asked when the route is known.
    let is_login = |name: &&str| !snapshot.mesh.authorizers.iter().any(|a| a.name == *name);
    for name in asked.into_iter().filter(is_login) {
        // Each is asked about the request as it arrived: what one of them adds is no credential for the next.
        match ask(site, snapshot, name, request)? {
            Said::Session(session) => sessions.push(session),
            Said::Bearer(issuer) => login.bearer_of.push(issuer),
        }
        login.asked.names.push(name.to_owned());
    }
    oidc::strip_request(&mut request.headers);
    for session in sessions {
        session.edits.apply(&mut request.headers);
        request.claims = Some(session.claims);
    }
    Ok(login)
}

/// The provider to whom the request's path belongs: it ends a login or a session, on every host of the gateway, whether or
/// not a policy matches or a route is there. Of several that share the path, the one whose cookies say so.
fn own_path<'s>(
    site: &Site,
    snapshot: &'s Snapshot,
    set: &'s PolicySet,
    request: &Request,
) -> Option<&'s str> {
    let path = request.path.as_ref()?;
    let names = set.providers();
    let mut owners = snapshot.mesh.oidc_providers.iter().filter(|p| {
        let own = p.redirect_path == path.path() || p.logout_path == path.path();
        own && names.contains(&p.name.as_str())
    });
    let holds = |p: &&OidcProvider| {
        let provider = snapshot.oidc.get(&p.name);
        provider.is_some_and(|at| oidc::holds(at, &browser(site, request, path), clock::unix_s()))
    };
    let first = owners.clone().next()?;
    Some(owners.find(holds).unwrap_or(first).name.as_str())
}

fn browser<'a>(site: &Site, request: &'a Request, path: &'a CanonicalPath) -> BrowserRequest<'a> {
    BrowserRequest {
        method: &request.method,
        scheme: site.scheme,
        host: &request.host,
        path,
        headers: &request.headers,
    }
}

fn random(into: &mut [u8]) {
    if aws_lc_rs::rand::fill(into).is_err() {
        tracing::error!("no randomness");
    }
}

/// One step at one provider, and what it is about.
fn step<'s>(
    site: &Site,
    snapshot: &'s Snapshot,
    name: &str,
    request: &Request,
) -> Result<(&'s Provider, Step), Box<Answered>> {
    let Some(path) = &request.path else {
        return Err(Box::new(Answered::plain(
            StatusCode::BAD_REQUEST,
            "bad request",
            CloseReason::BadRequest,
        )));
    };
    // A provider that is not ready is not a provider that says yes.
    let Some(provider) = snapshot.oidc.get(name) else {
        let respond = oidc::not_ready(&request.method, &request.headers);
        return Err(Box::new(Answered::by(name, respond)));
    };
    let browser = browser(site, request, path);
    Ok((
        provider,
        oidc::step(provider, &browser, clock::unix_s(), &mut random),
    ))
}

/// What a provider says who does not say no.
enum Said {
    Session(Box<Session>),
    Bearer(String),
}

fn ask(
    site: &Site,
    snapshot: &Snapshot,
    name: &str,
    request: &Request,
) -> Result<Said, Box<Answered>> {
    let (provider, step) = step(site, snapshot, name, request)?;
    match step {
        Step::Pass(session) => Ok(Said::Session(session)),
        Step::Bearer { .. } => Ok(Said::Bearer(provider.settings().issuer.clone())),
        Step::Respond(respond) => Err(Box::new(Answered::by(name, respond))),
        // Only at the provider's own path, which does not come here.
        Step::Exchange(_) => Err(Box::new(Answered::plain(
            StatusCode::BAD_REQUEST,
            "bad request",
            CloseReason::Login,
        ))),
    }
}

/// The answer at a path of the provider's own; who logged in or out stands in the request's claims afterwards.
async fn own_page(
    core: &Rc<Core>,
    site: &Site,
    snapshot: &Snapshot,
    name: &str,
    request: &mut Request,
) -> Box<Answered> {
    let outcome = step(site, snapshot, name, request);
    without_query(snapshot, request);
    let respond = match outcome {
        Err(answered) => return answered,
        Ok((_, Step::Respond(respond))) => respond,
        Ok((provider, Step::Exchange(exchange))) => {
            let client = site.connection.remote;
            redeem(core, client, provider, exchange).await
        }
        // No other step is made at these paths.
        Ok((_, Step::Pass(_) | Step::Bearer { .. })) => {
            oidc::not_ready(&request.method, &request.headers)
        }
    };
    request.claims.clone_from(&respond.claims);
    Box::new(Answered::by(name, respond))
}

/// The code in the query is a credential until it is redeemed: the record gets the path alone.
fn without_query(snapshot: &Snapshot, request: &mut Request) {
    let mode = snapshot.mesh.path_normalization;
    request.path = request
        .path
        .as_ref()
        .and_then(|path| CanonicalPath::parse(mode, path.path()).ok());
}

/// Takes the code out of a request that ends a login and is not looked at: its browser may bring the same code again.
pub fn conceal(site: &Site, snapshot: &Snapshot, request: &mut Request) {
    let mut providers = snapshot.mesh.oidc_providers.iter();
    let path = request.path.as_ref().map(CanonicalPath::path);
    let is_callback = providers.any(|p| path == Some(p.redirect_path.as_str()));
    if is_callback && matches!(site.point, SitePoint::Ingress { .. }) {
        without_query(snapshot, request);
    }
}

async fn redeem(
    core: &Rc<Core>,
    client: IpAddr,
    provider: &Provider,
    exchange: Box<oidc::Exchange>,
) -> Respond {
    let (answer, answered) = oneshot::channel();
    let ask = Ask::Redeem {
        provider: provider.settings().name.clone(),
        client,
        exchange: exchange.clone(),
        answer,
    };
    if core.asks.try_send(ask).is_err() {
        return unreachable(provider, &exchange);
    }
    match rt::timeout(REDEEM_MS, answered).await {
        Ok(Ok(respond)) => respond,
        Ok(Err(_)) | Err(rt::Elapsed) => unreachable(provider, &exchange),
    }
}

/// The answer where the control thread gives none.
fn unreachable(provider: &Provider, exchange: &oidc::Exchange) -> Respond {
    oidc::complete(
        provider,
        exchange,
        Err(ExchangeError::Unreachable),
        clock::unix_s(),
        &mut random,
    )
}

/// Serves one edge connection; `at` is the listener as configured.
pub async fn connection(
    core: Rc<Core>,
    tcp: Tcp,
    gateway: ResourceName,
    at: (usize, usize),
) -> Rest {
    let Some((tcp, entered)) = entered(&core, tcp, gateway) else {
        return Rest::NONE;
    };
    let mut shown = None;
    let choose = |name: Option<&str>| {
        let now = core.snapshot();
        let (config, remembered) = now.serving.get(at.0, at.1)?.choose(name)?;
        shown = remembered;
        Some(config)
    };
    let (stream, proof) = match tls::accept(tcp.into(), choose).await {
        Ok(done) => done,
        Err(error) => {
            entered.story.fail(error.close(), error);
            return Rest::NONE;
        }
    };
    let (mut site, counted) = entered.site();
    site.shown = shown.map(Rc::new);
    site.connection.sni = proof.sni.map(Into::into);
    let rest = serve::http(core, site, stream, proof.h2).await;
    rest.holding(counted)
}

/// Serves one connection of plain HTTP, each request of which is redirected to https at `to_port`.
pub async fn redirecting(core: Rc<Core>, tcp: Tcp, gateway: ResourceName, to_port: u16) -> Rest {
    let Some((tcp, entered)) = entered(&core, tcp, gateway) else {
        return Rest::NONE;
    };
    let (mut site, counted) = entered.site();
    site.scheme = "http";
    site.redirects = Some(to_port);
    let rest = serve::http(core, site, tcp.into(), false).await;
    rest.holding(counted)
}

/// A connection from the outside that has its place.
struct Entered {
    gateway: ResourceName,
    peer: SocketAddr,
    local: SocketAddr,
    story: Story,
    counted: Counted,
}

/// Gives a connection its place; one that has none is recorded and reset.
fn entered(core: &Rc<Core>, tcp: Tcp, gateway: ResourceName) -> Option<(Tcp, Entered)> {
    let (Ok(peer), Ok(local)) = (tcp.peer(), tcp.local()) else {
        return None;
    };
    let counted = core.places.enter_from(peer.ip());
    if counted.is_err() {
        tcp.reset_on_close();
    }
    let instance = gateway.to_string();
    let story = Story::about(
        core,
        ("ingress", &instance),
        peer,
        Kind::Connection,
        core.snapshot().generation,
    );
    match counted {
        Ok(counted) => {
            let entered = Entered {
                gateway,
                peer,
                local,
                story,
                counted,
            };
            Some((tcp, entered))
        }
        Err(full) => {
            story.fail(full.close(), full);
            None
        }
    }
}

impl Entered {
    /// Where its requests are served; they have records of their own.
    fn site(self) -> (Site, Counted) {
        let Self {
            gateway,
            peer,
            local,
            story,
            counted,
        } = self;
        story.forget();
        let peer_ip = peer.ip().to_canonical();
        let site = Site {
            role: "ingress",
            instance: gateway.to_string().into(),
            point: SitePoint::Ingress { gateway },
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
            scheme: "https",
            told: None,
            held: Rc::default(),
            last: RefCell::default(),
            redirects: None,
            shown: None,
            said: Rc::default(),
        };
        (site, counted)
    }
}
