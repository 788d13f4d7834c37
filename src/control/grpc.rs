//! Istio's certificate service, `istio.v1.auth.IstioCertificateService/CreateCertificate`: gRPC over TLS.
//!
//! [`server`] lets other processes and real ztunnels join the embedded authority; [`client`] makes this process join
//! another's.

mod client;
mod server;

pub use self::client::{RemoteAuthority, RemoteError, TokenSource};
pub use self::server::{CertificateService, ServeError};

/// The one method.
const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// ALPN of gRPC.
const ALPN: &[u8] = b"h2";

/// `IstioCertificateRequest`. Field 4, `metadata` (impersonation by a node proxy), is not read: a caller gets what
/// its own token grants.
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
