//! Istio's certificate service, `istio.v1.auth.IstioCertificateService/CreateCertificate`: gRPC over TLS; and beside it
//! methods of our own that tell roots and revocations as soon as they change, and sign JWT-SVIDs.
//!
//! [`server`] lets other processes and real ztunnels join the embedded authority; [`client`] makes this process join
//! another's.

mod answer;
mod channel;
mod client;
mod follow;
mod node;
mod server;
mod tokens;

pub use self::client::{RemoteAuthority, RemoteError, TokenSource};
pub use self::follow::follow;
pub use self::node::{NodeError, NodeState};
pub use self::server::{CertificateService, Parts, ServeError};
pub use self::tokens::RemoteSigner;

/// The one method of Istio's service.
const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Answered when the version is another than the asked one, or after a while.
const NEWS_PATH: &str = "/ringgate.authority.v1.AuthorityService/Watch";
/// Signs a JWT-SVID, and tells the keys.
const TOKEN_PATH: &str = "/ringgate.authority.v1.AuthorityService/SignToken";
/// ALPN of gRPC.
const ALPN: &[u8] = b"h2";

/// `IstioCertificateRequest`. Field 4, `metadata` (impersonation by a node proxy), is not read: a caller gets what
/// its own token or node grants.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct CertificateRequest {
    /// PKCS#10 in PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct CertificateResponse {
    /// PEM: leaf, issuing certificates, and last the roots.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// Asks for roots and revocations.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct NewsRequest {
    /// The version that the caller has; empty for none.
    #[prost(string, tag = "1")]
    version: String,
}

/// Roots and revocations.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct NewsResponse {
    /// Names this content.
    #[prost(string, tag = "1")]
    version: String,
    /// DER of the trusted roots.
    #[prost(bytes = "vec", repeated, tag = "2")]
    roots: Vec<Vec<u8>>,
    /// Everything that is revoked.
    #[prost(message, repeated, tag = "3")]
    revocations: Vec<NewsRevocation>,
}

/// One revocation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct NewsRevocation {
    /// `serial`, `id` or `node`.
    #[prost(string, tag = "1")]
    kind: String,
    /// Which.
    #[prost(string, tag = "2")]
    value: String,
    /// Why.
    #[prost(string, tag = "3")]
    reason: String,
}

/// Asks for a JWT-SVID; without an ID for the keys alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct TokenRequest {
    /// Whose.
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// `aud`.
    #[prost(string, repeated, tag = "2")]
    audience: Vec<String>,
    /// Lifetime in seconds; the authority may give less.
    #[prost(uint64, tag = "3")]
    ttl_s: u64,
}

/// A JWT-SVID, and what verifies it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
struct TokenResponse {
    /// Empty if none was asked for.
    #[prost(string, tag = "1")]
    svid: String,
    /// Key set (RFC 7517) as JSON.
    #[prost(string, tag = "2")]
    key_set: String,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse")
            .field("key_set", &self.key_set)
            .finish_non_exhaustive()
    }
}
