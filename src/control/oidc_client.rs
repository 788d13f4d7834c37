//! The back channel to OpenID providers: discovery, redeeming codes, and keeping providers up to date.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
    CoreErrorResponseType, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{
    AdditionalProviderMetadata, AuthType, AuthorizationCode, ClientId, ClientSecret,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, LogoutProviderMetadata, OAuth2TokenResponse,
    PkceCodeVerifier, ProviderMetadata, RedirectUrl, RequestTokenError, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::control::http_client::{FetchError, HttpClient};
use crate::control::jwks::{self, JwksError};
use crate::jwt::model::KeySource;
use crate::oidc::TokenResponse;
use crate::oidc::{
    self, CookieKeys, Endpoints, Exchange, ExchangeError, Provider, ProviderError, Respond,
    Settings,
};

/// Time for one request to a provider.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Age at which discovery and keys of a provider are fetched again.
const REFRESH: Duration = Duration::from_secs(300);
/// Wait before a provider that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(10);

/// Why a provider cannot be used yet.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// The document cannot be fetched.
    #[error("discovery document cannot be fetched")]
    Fetch(#[source] FetchError),
    /// It is not JSON, or lacks what it must have.
    #[error("discovery document is not valid")]
    Document(#[source] serde_json::Error),
    /// Its `issuer` is not byte for byte the configured one (OpenID Connect Discovery 1.0 section 4.3).
    #[error("discovery document is of issuer `{found}`")]
    Issuer {
        /// What it says.
        found: String,
    },
    /// An https issuer names an endpoint without https, or http is not allowed for this provider.
    #[error("`{0}` is not an https URL")]
    Insecure(String),
    /// It names no token endpoint.
    #[error("discovery document has no token endpoint")]
    NoTokenEndpoint,
    /// Its endpoints or algorithms are of no use.
    #[error("provider is of no use")]
    Provider(#[source] ProviderError),
    /// Its keys cannot be obtained.
    #[error("keys of the provider cannot be obtained")]
    Keys(#[source] Box<JwksError>),
}

/// What only the keys need of a discovery document; issuers of machine tokens often have no more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyDiscovery {
    /// `issuer`.
    pub issuer: String,
    /// `jwks_uri`.
    pub jwks_uri: String,
}

/// RFC 9207 adds this to the metadata.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Rfc9207 {
    authorization_response_iss_parameter_supported: Option<bool>,
}

impl AdditionalProviderMetadata for Rfc9207 {}

type Metadata = ProviderMetadata<
    LogoutProviderMetadata<Rfc9207>,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A provider as the configuration names it, with its secrets read.
#[derive(Clone)]
pub struct Registration {
    /// What the data cores need to know.
    pub settings: Settings,
    /// `clientSecret`; a public client has none.
    pub client_secret: Option<Zeroizing<String>>,
    /// Keys of its cookies.
    pub cookie_keys: CookieKeys,
    /// `dangerous_allowHttpIssuerOnLoopback`.
    pub allow_http_loopback: bool,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A discovered provider: `provider` for the data cores, the rest for the control thread.
#[derive(Clone, Debug)]
pub struct Login {
    /// For `oidc::step` and `oidc::complete`.
    pub provider: Arc<Provider>,
    client: Client,
    http: HttpClient,
    jwks_uri: String,
}

/// Providers that were discovered, by name.
pub type Logins = BTreeMap<String, Arc<Login>>;

/// Fetches `issuer` and `jwks_uri` of an issuer.
///
/// # Errors
/// `DiscoveryError`; the issuer must match byte for byte.
pub async fn discover(
    http: &HttpClient,
    issuer: &str,
    timeout: Duration,
) -> Result<KeyDiscovery, DiscoveryError> {
    let document = document(http, issuer, timeout).await?;
    let found: KeyDiscovery =
        serde_json::from_slice(&document).map_err(DiscoveryError::Document)?;
    check_issuer(issuer, &found)?;
    Ok(found)
}

async fn document(
    http: &HttpClient,
    issuer: &str,
    timeout: Duration,
) -> Result<Vec<u8>, DiscoveryError> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.strip_suffix('/').unwrap_or(issuer)
    );
    http.get(&url, timeout).await.map_err(DiscoveryError::Fetch)
}

fn check_issuer(issuer: &str, found: &KeyDiscovery) -> Result<(), DiscoveryError> {
    if found.issuer != issuer {
        return Err(DiscoveryError::Issuer {
            found: found.issuer.clone(),
        });
    }
    check_scheme(issuer, &found.jwks_uri)
}

/// An https issuer has https endpoints: nothing it says may lead to plaintext.
fn check_scheme(issuer: &str, url: &str) -> Result<(), DiscoveryError> {
    if issuer.starts_with("https://") && !url.starts_with("https://") {
        return Err(DiscoveryError::Insecure(url.to_owned()));
    }
    Ok(())
}

impl Login {
    /// Discovers a provider and fetches its keys.
    ///
    /// # Errors
    /// `DiscoveryError`.
    pub async fn discover(
        http: &HttpClient,
        registration: &Registration,
    ) -> Result<Self, DiscoveryError> {
        let issuer = registration.settings.issuer.as_str();
        if !issuer.starts_with("https://") && !registration.allow_http_loopback {
            return Err(DiscoveryError::Insecure(issuer.to_owned()));
        }
        let document = document(http, issuer, TIMEOUT).await?;
        let found: KeyDiscovery =
            serde_json::from_slice(&document).map_err(DiscoveryError::Document)?;
        check_issuer(issuer, &found)?;
        let metadata: Metadata =
            serde_json::from_slice(&document).map_err(DiscoveryError::Document)?;
        let endpoints = endpoints(issuer, &metadata)?;
        let keys = jwks::fetch(http, &KeySource::Uri(found.jwks_uri.clone()), TIMEOUT)
            .await
            .map_err(|error| DiscoveryError::Keys(Box::new(error)))?;
        let settings = registration.settings.clone();
        let provider = Provider::new(
            settings,
            &endpoints,
            Arc::new(keys),
            registration.cookie_keys.clone(),
        )
        .map_err(DiscoveryError::Provider)?;
        let auth = auth_type(&metadata);
        let id = ClientId::new(registration.settings.client_id.clone());
        // The library does not wipe its copy, nor what it makes of it for a request: the allocator does.
        let secret = registration.client_secret.as_deref();
        let secret = secret.map(|text| ClientSecret::new(text.to_owned()));
        let client = CoreClient::from_provider_metadata(metadata, id, secret).set_auth_type(auth);
        Ok(Self {
            provider: Arc::new(provider),
            client,
            http: http.clone(),
            jwks_uri: found.jwks_uri,
        })
    }

    /// Redeems a code at the token endpoint (RFC 6749 section 4.1.3) with its PKCE verifier.
    ///
    /// # Errors
    /// `ExchangeError`; what exactly the provider said goes to the log, without secrets.
    pub async fn redeem(&self, exchange: &Exchange) -> Result<TokenResponse, ExchangeError> {
        let redirect = RedirectUrl::new(exchange.redirect_uri.clone())
            .map_err(|_e| ExchangeError::Malformed)?;
        let request = self
            .client
            .exchange_code(AuthorizationCode::new(exchange.code.to_string()))
            .map_err(|_e| ExchangeError::Malformed)?
            .set_pkce_verifier(PkceCodeVerifier::new(exchange.verifier.to_string()))
            .set_redirect_uri(Cow::Owned(redirect));
        let send = |request| self.http.send(request, TIMEOUT);
        let provider = self.provider.settings().name.as_str();
        let tokens = request.request_async(&send).await.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => {
                tracing::warn!(provider, error = ?answer.error(), "token endpoint refuses a code");
                match answer.error() {
                    CoreErrorResponseType::InvalidGrant => ExchangeError::Refused,
                    CoreErrorResponseType::InvalidClient
                    | CoreErrorResponseType::InvalidRequest
                    | CoreErrorResponseType::InvalidScope
                    | CoreErrorResponseType::UnauthorizedClient
                    | CoreErrorResponseType::UnsupportedGrantType
                    | CoreErrorResponseType::Extension(_) => ExchangeError::Malformed,
                }
            }
            RequestTokenError::Request(error) => {
                tracing::warn!(provider, ?error, "token endpoint does not answer");
                ExchangeError::Unreachable
            }
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                tracing::warn!(provider, "token endpoint gave no token response");
                ExchangeError::Malformed
            }
        })?;
        let id_token = tokens
            .id_token()
            .ok_or(ExchangeError::Malformed)?
            .to_string();
        Ok(TokenResponse {
            id_token,
            access_token: Some(tokens.access_token().secret().clone()),
        })
    }

    /// Ends a login: redeems the code, fetches the keys once if the ID token's is new, and gives the answer for the
    /// browser.
    pub async fn finish(
        &self,
        exchange: &Exchange,
        clock: &(dyn Fn() -> i64 + Sync),
        rng: &mut (dyn FnMut(&mut [u8]) + Send),
    ) -> Respond {
        let redeemed = self.redeem(exchange).await;
        let mut provider = Arc::clone(&self.provider);
        if let Ok(tokens) = &redeemed
            && oidc::key_is_unknown(&provider, &tokens.id_token)
            && let Ok(keys) =
                jwks::fetch(&self.http, &KeySource::Uri(self.jwks_uri.clone()), TIMEOUT).await
        {
            provider = Arc::new(provider.with_keys(Arc::new(keys)));
        }
        oidc::complete(&provider, exchange, redeemed, clock(), rng)
    }
}

fn endpoints(issuer: &str, metadata: &Metadata) -> Result<Endpoints, DiscoveryError> {
    let token = metadata
        .token_endpoint()
        .ok_or(DiscoveryError::NoTokenEndpoint)?;
    let logout = metadata.additional_metadata();
    let endpoints = Endpoints {
        authorization: metadata.authorization_endpoint().to_string(),
        end_session: logout
            .end_session_endpoint
            .as_ref()
            .map(ToString::to_string),
        iss_parameter: logout
            .additional_metadata
            .authorization_response_iss_parameter_supported
            .unwrap_or(false),
        id_token_algs: metadata
            .id_token_signing_alg_values_supported()
            .iter()
            .filter_map(|alg| serde_json::to_value(alg).ok()?.as_str().map(str::to_owned))
            .collect(),
    };
    let all = [
        Some(&endpoints.authorization),
        endpoints.end_session.as_ref(),
        Some(&token.to_string()),
    ];
    all.into_iter()
        .flatten()
        .try_for_each(|url| check_scheme(issuer, url))?;
    Ok(endpoints)
}

/// `client_secret_basic` unless the provider knows only `client_secret_post` (OpenID Connect Discovery 1.0 section 3: the
/// default is basic).
fn auth_type(metadata: &Metadata) -> AuthType {
    let methods = metadata.token_endpoint_auth_methods_supported();
    let has = |method| methods.is_some_and(|methods| methods.contains(&method));
    if has(CoreClientAuthMethod::ClientSecretPost) && !has(CoreClientAuthMethod::ClientSecretBasic)
    {
        AuthType::RequestBody
    } else {
        AuthType::BasicAuth
    }
}

/// Discovers providers, again and again, and publishes those that are known; one that fails keeps its last good state.
#[derive(Debug)]
pub struct LoginKeeper {
    http: HttpClient,
    registrations: Vec<Registration>,
    publish: watch::Sender<Arc<Logins>>,
}

impl LoginKeeper {
    /// Makes a keeper and what it publishes (at first what is `known`). Sessions of a provider that is not there yet or no more
    /// cannot be judged: the caller answers 503.
    #[must_use]
    pub fn new(
        http: HttpClient,
        registrations: Vec<Registration>,
        known: Logins,
    ) -> (watch::Receiver<Arc<Logins>>, Self) {
        let (publish, published) = watch::channel(Arc::new(known));
        (
            published,
            Self {
                http,
                registrations,
                publish,
            },
        )
    }

    /// Runs until nobody listens any more.
    pub async fn run(self) {
        while !self.publish.is_closed() {
            let mut wait = REFRESH;
            for registration in &self.registrations {
                match Login::discover(&self.http, registration).await {
                    Ok(login) => self.publish.send_modify(|logins| {
                        let mut next = Logins::clone(logins);
                        next.insert(registration.settings.name.clone(), Arc::new(login));
                        *logins = Arc::new(next);
                    }),
                    Err(error) => {
                        let provider = registration.settings.name.as_str();
                        tracing::warn!(
                            provider,
                            ?error,
                            "provider not discovered; the last good state stays"
                        );
                        wait = RETRY;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.publish.closed() => {}
            }
        }
    }
}
