//! A login that is under way: begun with a redirect, kept in a sealed cookie, ended at the redirect path.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use zeroize::{Zeroize as _, Zeroizing};

use crate::oidc::cookie;
use crate::oidc::provider::Provider;
use crate::oidc::respond::Respond;
use crate::oidc::seal::{self, Binding, SealError};
use crate::oidc::step::{BrowserRequest, Step};
use crate::vocab::limits;
use crate::vocab::path::CanonicalPath;

/// Characters of a flow's id: 8 bytes in base64url.
const FLOW_ID_CHARS: usize = 11;

/// What the control thread needs to redeem a code, and `complete` to end the login.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `code`.
    pub code: Zeroizing<String>,
    /// PKCE verifier (RFC 7636 section 4.1).
    pub verifier: Zeroizing<String>,
    /// `nonce` that the ID token must repeat.
    pub nonce: String,
    /// `redirect_uri`, as it was in the authorization request.
    pub redirect_uri: String,
    /// Path and query of the same origin that the login began at.
    pub return_to: String,
    /// Host and port that the session is bound to.
    pub host: String,
    /// The flow cookie to clear.
    pub flow_cookie: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("redirect_uri", &self.redirect_uri)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What the flow cookie holds.
#[derive(Serialize, Deserialize)]
struct Flow {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.state.zeroize();
        self.nonce.zeroize();
        self.verifier.zeroize();
    }
}

impl Flow {
    fn json(&self) -> Result<Zeroizing<Vec<u8>>, SealError> {
        // Twice the longest text is more than escapes make of it: what grows leaves behind what it was.
        let texts = [&self.state, &self.nonce, &self.verifier, &self.return_to];
        let room = texts.iter().map(|text| text.len().saturating_mul(2)).sum();
        let mut json = Zeroizing::new(Vec::with_capacity(128_usize.saturating_add(room)));
        serde_json::to_writer(&mut *json, self).map_err(|_e| SealError::Form)?;
        Ok(json)
    }
}

/// `N` random bytes in base64url.
fn random<const N: usize>(rng: &mut dyn FnMut(&mut [u8])) -> Result<String, SealError> {
    let bytes = Zeroizing::new(seal::random::<N>(rng)?);
    Ok(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

fn redirect_uri(provider: &Provider, request: &BrowserRequest<'_>) -> String {
    format!(
        "{}://{}{}",
        request.scheme, request.host, provider.settings.redirect_path
    )
}

/// Sends the browser to the provider (RFC 6749 section 4.1.1, OpenID Connect Core section 3.1.2.1).
pub(crate) fn begin(
    provider: &Provider,
    request: &BrowserRequest<'_>,
    now_unix_s: i64,
    rng: &mut dyn FnMut(&mut [u8]),
) -> Result<Respond, SealError> {
    let id = random::<8>(rng)?;
    let flow = Flow {
        state: format!("{id}.{}", random::<24>(rng)?),
        nonce: random::<24>(rng)?,
        verifier: random::<32>(rng)?,
        return_to: return_to(provider, request.path),
    };
    let challenge =
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, flow.verifier.as_bytes()));
    let mut scopes = provider.settings.scopes.clone();
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let mut url = provider.authorization.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &provider.settings.client_id)
        .append_pair("redirect_uri", &redirect_uri(provider, request))
        .append_pair("scope", &scopes.join(" "))
        .append_pair("state", &flow.state)
        .append_pair("nonce", &flow.nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    let name = format!("{}{id}", provider.flow_prefix);
    let text = flow.json()?;
    let expires = now_unix_s.saturating_add(limits::LOGIN_FLOW_S);
    let sealed =
        provider
            .cookie_keys
            .seal(binding(provider, request, &name), expires, &text, rng)?;
    let mut respond = Respond::redirect(302, url.as_str());
    for old in surplus(provider, request, now_unix_s) {
        cookie::clear(&mut respond.headers, &old);
    }
    cookie::set(&mut respond.headers, &name, &sealed, limits::LOGIN_FLOW_S);
    Ok(respond)
}

/// Flow cookies to drop so that with the new one at most `limits::LOGIN_FLOWS` stay: dead ones, then the oldest.
fn surplus(provider: &Provider, request: &BrowserRequest<'_>, now_unix_s: i64) -> Vec<String> {
    let held = cookie::named(request.headers, &provider.flow_prefix).into_iter();
    let mut flows: Vec<(i64, String)> = held
        .map(|(name, value)| {
            let binding = binding(provider, request, name);
            let opened = provider.cookie_keys.open(binding, value, now_unix_s);
            (opened.map_or(0, |(_, expires)| expires), name.to_owned())
        })
        .collect();
    flows.sort_unstable();
    let dead = flows.iter().filter(|(expires, _)| *expires == 0).count();
    let excess = (flows.len() + 1)
        .saturating_sub(limits::LOGIN_FLOWS)
        .max(dead);
    flows
        .into_iter()
        .take(excess)
        .map(|(_, name)| name)
        .collect()
}

fn binding<'a>(
    provider: &'a Provider,
    request: &'a BrowserRequest<'_>,
    name: &'a str,
) -> Binding<'a> {
    Binding {
        cookie: name,
        host: request.host.as_str(),
        provider: &provider.identity,
    }
}

/// Path and query of the page that was asked for if it is one of this origin, else `/`. `//host` and `/\host` are other
/// origins to a browser.
fn return_to(provider: &Provider, path: &CanonicalPath) -> String {
    let text = path.as_str();
    let mut chars = text.chars();
    let relative = chars.next() == Some('/') && !matches!(chars.next(), Some('/' | '\\'));
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let own = [
        &provider.settings.redirect_path,
        &provider.settings.logout_path,
    ]
    .iter()
    .any(|p| *p == path.path());
    if relative && plain && !own && text.len() <= limits::RETURN_TO_BYTES {
        text.to_owned()
    } else {
        "/".to_owned()
    }
}

/// The parameters of the authorization response that matter (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Default)]
struct Callback {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

impl Callback {
    /// `None` if a parameter stands twice (RFC 6749 section 3.1).
    fn parse(query: &str) -> Option<Self> {
        let mut callback = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match name.as_ref() {
                "code" => &mut callback.code,
                "state" => &mut callback.state,
                "iss" => &mut callback.iss,
                "error" => &mut callback.error,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(callback)
    }
}

const NOT_STARTED: &str = "The login was not started in this browser, took too long, or the browser does not keep cookies.";

/// Whether the request answers a login that this browser began at this provider.
pub(crate) fn is_under_way(
    provider: &Provider,
    request: &BrowserRequest<'_>,
    now_unix_s: i64,
) -> bool {
    let callback = Callback::parse(request.path.query().unwrap_or_default());
    let state = callback.and_then(|callback| callback.state);
    open_flow(provider, request, state.as_deref(), now_unix_s).is_some()
}

/// The browser is back at the redirect path.
pub(crate) fn end(provider: &Provider, request: &BrowserRequest<'_>, now_unix_s: i64) -> Step {
    let refuse = |text| Step::Respond(Respond::page(400, "Login failed", text));
    let Some(callback) = Callback::parse(request.path.query().unwrap_or_default()) else {
        return refuse("The answer of the login service is not valid.");
    };
    let opened = open_flow(provider, request, callback.state.as_deref(), now_unix_s);
    let Some((name, mut flow)) = opened else {
        return refuse(NOT_STARTED);
    };
    // From here on the flow is spent, whatever comes of it.
    let finish = |mut respond: Respond| {
        cookie::clear(&mut respond.headers, &name);
        Step::Respond(respond)
    };
    let issuer = callback.iss.as_deref();
    if issuer.is_some_and(|iss| iss != provider.settings.issuer)
        || (provider.iss_parameter && issuer.is_none())
    {
        return finish(Respond::page(
            400,
            "Login failed",
            "The answer came from another login service.",
        ));
    }
    match (callback.code, callback.error) {
        (Some(code), None) if !code.is_empty() => Step::Exchange(Box::new(Exchange {
            code: Zeroizing::new(code),
            verifier: Zeroizing::new(std::mem::take(&mut flow.verifier)),
            nonce: std::mem::take(&mut flow.nonce),
            redirect_uri: redirect_uri(provider, request),
            return_to: std::mem::take(&mut flow.return_to),
            host: request.host.as_str().to_owned(),
            flow_cookie: name,
        })),
        (None, Some(error)) if error == "access_denied" => finish(Respond::page(
            403,
            "Access denied",
            "The login service did not let you in.",
        )),
        _ => finish(Respond::page(
            400,
            "Login failed",
            "The login service reported an error.",
        )),
    }
}

/// The flow that `state` belongs to, if this browser began it on this host.
fn open_flow(
    provider: &Provider,
    request: &BrowserRequest<'_>,
    state: Option<&str>,
    now_unix_s: i64,
) -> Option<(String, Flow)> {
    let state = state?;
    let (id, _) = state.split_once('.')?;
    let plain = id.len() == FLOW_ID_CHARS
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = plain.then(|| format!("{}{id}", provider.flow_prefix))?;
    let sealed = cookie::value(request.headers, &name)?;
    let (text, _) = provider
        .cookie_keys
        .open(binding(provider, request, &name), sealed, now_unix_s)
        .ok()?;
    let flow: Flow = serde_json::from_slice(&text).ok()?;
    constant_time::verify_slices_are_equal(flow.state.as_bytes(), state.as_bytes()).ok()?;
    Some((name, flow))
}
