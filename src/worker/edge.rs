//! The ingress: browsers that have to log in, and its listener.

use std::rc::Rc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::oneshot;

use crate::control::ask::Ask;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::reply::Reply;
use crate::io::rt::{self, Tcp};
use crate::io::{clock, tls};
use crate::oidc::{self, BrowserRequest, ExchangeError, Provider, Respond, Step};
use crate::policy::{Connection, Request, custom_providers};
use crate::telemetry::record::Kind;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;
use crate::worker::core::Core;
use crate::worker::serve;
use crate::worker::site::{Site, SitePoint, Story};

/// How long the control thread may take to redeem a code, in milliseconds.
const REDEEM_MS: u64 = 15_000;

/// What login demands of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    Done,
    /// A bearer token stands in for the session: request authentication must find it valid.
    BearerMustVerify,
}

/// Asks the login providers whose CUSTOM policies match.
///
/// # Errors
/// The answer to give instead.
pub async fn login(
    core: &Rc<Core>,
    site: &Site,
    snapshot: &Snapshot,
    request: &mut Request,
) -> Result<Login, (Reply, CloseReason)> {
    let SitePoint::Ingress { gateway } = &site.point else {
        return Ok(Login::Done);
    };
    let enforcement = snapshot
        .directory
        .gateway(gateway)
        .and_then(|at| snapshot.gateways.get(at)?.as_ref());
    let Some(enforcement) = enforcement else {
        return Err((Reply::denied(), CloseReason::NoRoute));
    };
    let mut login = Login::Done;
    for name in custom_providers(&enforcement.set, &site.connection, Some(request)) {
        // A provider that is not ready is not a provider that says yes.
        let Some(provider) = snapshot.oidc.get(name) else {
            let reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, "login is not available");
            return Err((reply, CloseReason::Login));
        };
        if one(core, site, provider, request).await? == Login::BearerMustVerify {
            login = Login::BearerMustVerify;
        }
    }
    Ok(login)
}

fn random(into: &mut [u8]) {
    if aws_lc_rs::rand::fill(into).is_err() {
        tracing::error!("no randomness");
    }
}

async fn one(
    core: &Rc<Core>,
    site: &Site,
    provider: &Provider,
    request: &mut Request,
) -> Result<Login, (Reply, CloseReason)> {
    let Some(path) = &request.path else {
        return Err((
            Reply::text(StatusCode::BAD_REQUEST, "bad request"),
            CloseReason::BadRequest,
        ));
    };
    let browser = BrowserRequest {
        method: &request.method,
        scheme: site.scheme,
        host: &request.host,
        path,
        headers: &request.headers,
    };
    match oidc::step(provider, &browser, clock::unix_s(), &mut random) {
        Step::Pass(session) => {
            session.edits.apply(&mut request.headers);
            let bearer = HeaderValue::try_from(format!("Bearer {}", session.id_token));
            let bearer = bearer.map_err(|_e| {
                (
                    Reply::text(StatusCode::UNAUTHORIZED, ""),
                    CloseReason::Login,
                )
            })?;
            request.headers.insert(header::AUTHORIZATION, bearer);
            request.claims = Some(session.claims);
            Ok(Login::Done)
        }
        Step::Bearer { edits } => {
            edits.apply(&mut request.headers);
            Ok(Login::BearerMustVerify)
        }
        Step::Respond(respond) => Err((reply(respond), CloseReason::Login)),
        Step::Exchange(exchange) => {
            let (answer, answered) = oneshot::channel();
            let ask = Ask::Redeem {
                provider: provider.settings().name.clone(),
                exchange: exchange.clone(),
                answer,
            };
            let respond = match core.asks.try_send(ask) {
                Ok(()) => match rt::timeout(REDEEM_MS, answered).await {
                    Ok(Ok(respond)) => respond,
                    Ok(Err(_)) | Err(rt::Elapsed) => unreachable(provider, &exchange),
                },
                Err(_full) => unreachable(provider, &exchange),
            };
            Err((reply(respond), CloseReason::Login))
        }
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

fn reply(respond: Respond) -> Reply {
    Reply {
        status: StatusCode::from_u16(respond.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        headers: respond.headers,
        body: respond.body.into(),
    }
}

/// Response fields that only we may set at a site.
#[must_use]
pub fn session_headers(_site: &Site) -> &'static [HeaderName] {
    &[]
}

/// Serves one edge connection; `at` is the listener as configured.
pub async fn connection(core: Rc<Core>, tcp: Tcp, gateway: ResourceName, at: (usize, usize)) {
    let snapshot = core.snapshot();
    let (Ok(peer), Ok(local)) = (tcp.peer(), tcp.local()) else {
        return;
    };
    let config = snapshot
        .edge
        .get(at.0)
        .and_then(|listeners| listeners.get(at.1))
        .cloned();
    let instance = gateway.to_string();
    let story = Story::about(
        &core,
        ("ingress", &instance),
        peer,
        Kind::Connection,
        snapshot.generation,
    );
    let handshake = tls::accept(tcp.into(), |_sni| config);
    let (stream, proof) = match rt::timeout(limits::HANDSHAKE_MS, handshake).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return story.fail(CloseReason::Handshake, error),
        Err(rt::Elapsed) => return story.fail(CloseReason::Timeout, "handshake is too slow"),
    };
    story.forget();
    let peer_ip = peer.ip().to_canonical();
    let site = Site {
        role: "ingress",
        instance: instance.into(),
        point: SitePoint::Ingress { gateway },
        connection: Connection {
            principal: None,
            peer: peer_ip,
            remote: peer_ip,
            destination: local.ip().to_canonical(),
            port: local.port(),
            sni: proof.sni,
        },
        peer,
        scheme: "https",
    };
    Box::pin(serve::http(core, site, stream, proof.h2)).await;
}
