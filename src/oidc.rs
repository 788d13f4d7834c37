//! OIDC login for browsers at the ingress: authorization code flow with PKCE, the session in a sealed cookie.
//!
//! `step` judges one request, `complete` ends a login once the control thread has redeemed the code. Both are pure: time and
//! randomness are arguments, and nothing is remembered between requests but what the browser's sealed cookies hold.

mod complete;
mod cookie;
mod csrf;
mod flow;
mod id_token;
mod provider;
mod respond;
mod seal;
mod step;

pub use complete::{ExchangeError, TokenResponse, complete};
pub use cookie::{strip_request, strip_response};
pub use flow::Exchange;
pub use id_token::{IdTokenError, key_is_unknown};
pub use provider::{Endpoints, Provider, ProviderError, Settings};
pub use respond::Respond;
pub use seal::{CookieKeys, SealError};
pub use step::{BrowserRequest, Session, Step, holds, is_callback, not_ready, step};

#[cfg(test)]
mod tests;
