//! One request of a browser: has a session, begins a login, ends one, or logs out.

use std::fmt;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use zeroize::Zeroizing;

use crate::jwt::HeaderEdits;
use crate::jwt::extract;
use crate::jwt::token::{Unverified, Verified};
use crate::jwt::www_authenticate_missing;
use crate::oidc::flow::Exchange;
use crate::oidc::provider::Provider;
use crate::oidc::respond::Respond;
use crate::oidc::seal::Binding;
use crate::oidc::{cookie, csrf, flow};
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::vocab::path::CanonicalPath;

/// A request at a route that asks for a login.
#[derive(Clone, Copy, Debug)]
pub struct BrowserRequest<'a> {
    /// Method.
    pub method: &'a Method,
    /// `https`, as the downstream connection is.
    pub scheme: &'a str,
    /// Host and port.
    pub host: &'a Host,
    /// Canonical path and query.
    pub path: &'a CanonicalPath,
    /// Headers as they arrived.
    pub headers: &'a HeaderMap,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// There is a session.
    Pass(Box<Session>),
    /// There is a bearer credential instead. The caller must hand the request to request authentication and refuse it
    /// with 401 unless that says `Valid` and the token is of this provider's issuer: here nothing was verified, and what
    /// another issuer says is no login here.
    Bearer {
        /// Takes our cookies out of the request.
        edits: HeaderEdits,
    },
    /// Answer this.
    Respond(Respond),
    /// The control thread must redeem this code, then `complete` gives the answer.
    Exchange(Box<Exchange>),
}

/// A browser's session.
#[derive(Clone, PartialEq)]
pub struct Session {
    /// Claims of the ID token.
    pub claims: Claims,
    /// The ID token.
    pub id_token: Zeroizing<String>,
    /// End of the session.
    pub expires_unix_s: i64,
    /// Takes our cookies out and sets `authorization: Bearer <id token>`, so that request authentication behind it and at
    /// the waypoint sees the user.
    pub edits: HeaderEdits,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("subject", &self.claims.subject())
            .field("expires_unix_s", &self.expires_unix_s)
            .finish_non_exhaustive()
    }
}

/// Whether the request comes back from the provider's login page: its query holds a code, which no log should.
#[must_use]
pub fn is_callback(provider: &Provider, path: &CanonicalPath) -> bool {
    path.path() == provider.settings.redirect_path
}

/// Whether a request at one of the provider's own paths is meant for it: it ends a login that began here, or there is a
/// session to end. Providers may share their paths.
#[must_use]
pub fn holds(provider: &Provider, request: &BrowserRequest<'_>, now_unix_s: i64) -> bool {
    if is_callback(provider, request.path) {
        flow::is_under_way(provider, request, now_unix_s)
    } else {
        session(provider, request, HeaderEdits::default(), now_unix_s).is_some()
    }
}

/// The answer where a provider is not known yet, so that nobody can be sent to it and no session judged.
#[must_use]
pub fn not_ready(method: &Method, headers: &HeaderMap) -> Respond {
    if csrf::is_navigation(method, headers) {
        return Respond::page(
            503,
            "Login is not possible now",
            "The login service does not answer.",
        );
    }
    Respond::unavailable()
}

/// Judges one request. `rng` fills a buffer with unpredictable bytes.
#[must_use]
pub fn step(
    provider: &Provider,
    request: &BrowserRequest<'_>,
    now_unix_s: i64,
    rng: &mut dyn FnMut(&mut [u8]),
) -> Step {
    if request.path.path() == provider.settings.logout_path {
        return Step::Respond(log_out(provider, request, now_unix_s));
    }
    if request.path.path() == provider.settings.redirect_path {
        return match *request.method {
            Method::GET => flow::end(provider, request, now_unix_s),
            _ => Step::Respond(Respond::page(
                405,
                "Login failed",
                "The login service must answer by a redirect.",
            )),
        };
    }
    let ours = cookie::named(request.headers, cookie::PREFIX).into_iter();
    let edits = HeaderEdits {
        drop_cookies: ours.map(|(name, _)| name.to_owned()).collect(),
        ..HeaderEdits::default()
    };
    let mut credentials = request.headers.get_all(AUTHORIZATION).iter();
    if credentials.any(|value| extract::bearer_credential(value.as_bytes()).is_some()) {
        return Step::Bearer { edits };
    }
    match session(provider, request, edits, now_unix_s) {
        Some(_)
            if csrf::is_cross_site_change(
                request.method,
                request.scheme,
                request.host,
                request.headers,
            ) =>
        {
            Step::Respond(Respond::page(
                403,
                "Access denied",
                "Another site tried to act in your name.",
            ))
        }
        Some(session) => Step::Pass(Box::new(session)),
        None if csrf::is_navigation(request.method, request.headers) => {
            let begun = flow::begin(provider, request, now_unix_s, rng);
            let sorry = |_e| {
                Respond::page(
                    500,
                    "Login is not possible now",
                    "The login cannot be kept.",
                )
            };
            Step::Respond(begun.unwrap_or_else(sorry))
        }
        None => {
            let challenge =
                www_authenticate_missing(request.scheme, request.host, Some(request.path));
            Step::Respond(Respond::unauthenticated(challenge))
        }
    }
}

/// The session that the request's cookies hold, if they are ours, of this host and in time.
fn session(
    provider: &Provider,
    request: &BrowserRequest<'_>,
    mut edits: HeaderEdits,
    now_unix_s: i64,
) -> Option<Session> {
    let name = &provider.session_cookie;
    let sealed = cookie::parts(request.headers, name)?;
    let binding = Binding {
        cookie: name,
        host: request.host.as_str(),
        provider: &provider.identity,
    };
    let (text, expires_unix_s) = provider
        .cookie_keys
        .open(binding, &sealed, now_unix_s)
        .ok()?;
    let id_token = Zeroizing::new(std::str::from_utf8(&text).ok()?.to_owned());
    // `complete` verified it before it sealed it; the seal proves that nobody changed it since.
    let verified = Unverified::parse(&id_token).ok()?.claims().ok()?;
    let claims = claims(verified);
    edits.remove.push(AUTHORIZATION);
    let bearer = Zeroizing::new(["Bearer ", id_token.as_str()].concat());
    let bearer = HeaderValue::from_str(&bearer).ok()?;
    edits.set.push((AUTHORIZATION, bearer));
    Some(Session {
        claims,
        id_token,
        expires_unix_s,
        edits,
    })
}

/// Claims of an ID token as policies read them; `scope` and `permission` are lists (Envoy's default).
pub(crate) fn claims(verified: Verified) -> Claims {
    Claims::shared(
        verified.claims,
        ["scope".to_owned(), "permission".to_owned()].into(),
    )
}

/// Clears our cookies, and ends the session at the provider if it can (OpenID Connect RP-Initiated Logout 1.0).
fn log_out(provider: &Provider, request: &BrowserRequest<'_>, now_unix_s: i64) -> Respond {
    if *request.method != Method::GET && *request.method != Method::POST {
        return Respond::page(
            405,
            "Not signed out",
            "Open this page in a browser to sign out.",
        );
    }
    if csrf::is_cross_site(request.headers) {
        return Respond::page(403, "Not signed out", "Another site tried to sign you out.");
    }
    let session = session(provider, request, HeaderEdits::default(), now_unix_s);
    let mut respond = match &provider.end_session {
        None => Respond::page(200, "Signed out", "You are signed out here."),
        Some(endpoint) => {
            let mut url = endpoint.clone();
            let mut query = url.query_pairs_mut();
            query.append_pair("client_id", &provider.settings.client_id);
            if let Some(session) = &session {
                query.append_pair("id_token_hint", &session.id_token);
            }
            if let Some(path) = &provider.settings.post_logout_path {
                query.append_pair(
                    "post_logout_redirect_uri",
                    &format!("{}://{}{path}", request.scheme, request.host),
                );
            }
            drop(query);
            Respond::redirect(303, url.as_str())
        }
    };
    let flows = cookie::named(request.headers, &provider.flow_prefix).into_iter();
    let mut names: Vec<String> = flows.map(|(name, _)| name.to_owned()).collect();
    names.extend(
        (0..limits::SESSION_COOKIES)
            .map(|index| cookie::part_name(&provider.session_cookie, index)),
    );
    for name in names {
        cookie::clear(&mut respond.headers, &name);
    }
    respond.claims = session.map(|session| session.claims);
    respond
}
