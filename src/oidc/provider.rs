//! One OpenID provider as a data core needs it: settings, endpoints, keys, cookie keys.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use url::Url;

use crate::jwt::algorithm::Algorithm;
use crate::jwt::keys::KeySet;
use crate::oidc::cookie;
use crate::oidc::seal::CookieKeys;

/// What the operator says (`[[extensionProvider]]` with `oidc`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `name`.
    pub name: String,
    /// `issuer`, byte for byte what `iss` must be.
    pub issuer: String,
    /// `clientId`.
    pub client_id: String,
    /// `redirectPath`.
    pub redirect_path: String,
    /// `logoutPath`.
    pub logout_path: String,
    /// `scopes`; `openid` is added if it is missing.
    pub scopes: Vec<String>,
    /// Longest session, in seconds; a session never outlives its ID token.
    pub session_max_s: i64,
    /// Where the provider sends the browser after logout, a path of the same origin; it must be registered there. `None`
    /// leaves the browser at the provider.
    pub post_logout_path: Option<String>,
}

/// What discovery says (OpenID Connect Discovery 1.0 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// `authorization_endpoint`.
    pub authorization: String,
    /// `end_session_endpoint`.
    pub end_session: Option<String>,
    /// `authorization_response_iss_parameter_supported` (RFC 9207).
    pub iss_parameter: bool,
    /// `id_token_signing_alg_values_supported`.
    pub id_token_algs: Vec<String>,
}

/// A provider, ready to log browsers in.
#[derive(Clone, Debug)]
pub struct Provider {
    pub(crate) settings: Settings,
    pub(crate) authorization: Url,
    pub(crate) end_session: Option<Url>,
    pub(crate) iss_parameter: bool,
    pub(crate) algs: Vec<Algorithm>,
    pub(crate) keys: Arc<KeySet>,
    pub(crate) cookie_keys: CookieKeys,
    /// Issuer and client, as cookies are bound to them.
    pub(crate) identity: String,
    pub(crate) session_cookie: String,
    /// A flow cookie is called this and the id of the flow.
    pub(crate) flow_prefix: String,
}

/// Why a provider cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProviderError {
    /// An endpoint is no absolute URL, or neither https nor http on loopback.
    #[error("endpoint `{0}` is not an https URL")]
    Endpoint(String),
    /// No algorithm that the provider signs with is allowed here.
    #[error("provider signs with no allowed algorithm")]
    Algorithms,
}

impl Provider {
    /// Puts settings, discovery, keys and cookie keys together.
    ///
    /// # Errors
    /// `ProviderError` for unusable discovery data.
    pub fn new(
        settings: Settings,
        endpoints: &Endpoints,
        keys: Arc<KeySet>,
        cookie_keys: CookieKeys,
    ) -> Result<Self, ProviderError> {
        let algs: Vec<_> = endpoints
            .id_token_algs
            .iter()
            .filter_map(|name| Algorithm::parse(name))
            .collect();
        if algs.is_empty() {
            return Err(ProviderError::Algorithms);
        }
        let identity = format!("{}\n{}", settings.issuer, settings.client_id);
        // Names of providers may hold what a cookie name cannot, so cookies are called by a digest of name and identity.
        let hash = digest::digest(
            &digest::SHA256,
            format!("{}\n{identity}", settings.name).as_bytes(),
        );
        let tag = URL_SAFE_NO_PAD.encode(hash.as_ref().get(..6).unwrap_or_default());
        Ok(Self {
            authorization: endpoint(&endpoints.authorization)?,
            end_session: endpoints.end_session.as_deref().map(endpoint).transpose()?,
            iss_parameter: endpoints.iss_parameter,
            algs,
            keys,
            cookie_keys,
            identity,
            session_cookie: format!("{}s-{tag}", cookie::PREFIX),
            flow_prefix: format!("{}f-{tag}-", cookie::PREFIX),
            settings,
        })
    }

    /// The same provider with newer keys.
    #[must_use]
    pub fn with_keys(&self, keys: Arc<KeySet>) -> Self {
        Self {
            keys,
            ..self.clone()
        }
    }

    /// What the operator says.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

fn endpoint(text: &str) -> Result<Url, ProviderError> {
    let refuse = || ProviderError::Endpoint(text.to_owned());
    let url = Url::parse(text).map_err(|_e| refuse())?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => return Err(refuse()),
    };
    let allowed = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    if allowed { Ok(url) } else { Err(refuse()) }
}
