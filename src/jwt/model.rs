//! RequestAuthentication as the operator wrote it, checked.

use crate::policy::model::Target;
use crate::vocab::resource::ResourceName;

/// A RequestAuthentication (`security.istio.io/v1`).
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Namespace and name.
    pub name: ResourceName,
    /// What it is attached to.
    pub target: Target,
    /// Rules.
    pub rules: Vec<JwtRule>,
}

/// One `jwtRules` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// Must equal `iss`; empty means any issuer (then `keys` is not `Discovery`).
    pub issuer: String,
    /// Any of them must be in `aud`; empty means not checked.
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// `fromHeaders`; with `from_params` and `from_cookies` all empty, the defaults apply.
    pub from_headers: Vec<TokenHeader>,
    /// `fromParams`.
    pub from_params: Vec<String>,
    /// `fromCookies`.
    pub from_cookies: Vec<String>,
    /// `forwardOriginalToken`.
    pub forward_original_token: bool,
    /// `outputPayloadToHeader`, lower case.
    pub output_payload_to_header: Option<String>,
    /// `outputClaimToHeaders`: header (lower case) and claim.
    pub output_claim_to_headers: Vec<(String, String)>,
    /// `spaceDelimitedClaims`.
    pub space_delimited_claims: Vec<String>,
    /// Extension: a token without `exp` is refused.
    pub require_expiration: bool,
    /// Fetch timeout of the key set, in milliseconds.
    pub timeout_ms: u64,
    /// Where the key set may be fetched from.
    pub reach: Reach,
}

/// Where a key set may be fetched from besides https at addresses of the Internet, and loopback that is written as such.
/// Whoever writes a rule names the URL, and a name leads where its owner says; without these a rule cannot make the
/// control thread read what is inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Extension `dangerous_allowInsecure`: http to other hosts than loopback; whoever is on the way can give keys of his own.
    pub http: bool,
    /// Extension `dangerous_allowPrivateAddresses`: addresses of the inside, as `vocab::scope::is_private` has them.
    pub private: bool,
}

impl Reach {
    /// What either of two rules with the same source allows.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            http: self.http || other.http,
            private: self.private || other.private,
        }
    }

    /// Whether everything that `other` allows is allowed.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.or(other) == self
    }
}

/// Where a key set comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    /// `jwks`, inline.
    Inline(String),
    /// `jwksUri`.
    Uri(String),
    /// OpenID discovery from the issuer.
    Discovery(String),
}

/// One `fromHeaders` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHeader {
    /// Header name, lower case.
    pub name: String,
    /// Prefix to strip, such as `Bearer `.
    pub prefix: String,
}
