//! What the engine judges: facts about a connection and, where HTTP is understood, about a request.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;
use crate::vocab::spiffe::SpiffeId;

/// A connection or tunnel. Every field is verified or read from the kernel, none is what the peer claims.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Verified identity of the peer; `None` for plaintext.
    pub principal: Option<SpiffeId>,
    /// Address of the direct peer (`source.ip`).
    pub peer: IpAddr,
    /// Client address (`remote.ip`) as the trusted proxies tell it; the peer's if there are none.
    pub remote: IpAddr,
    /// Original destination address.
    pub destination: IpAddr,
    /// Original destination port.
    pub port: u16,
    /// Server name of the TLS client hello, lower case.
    pub sni: Option<Arc<str>>,
    /// When it was accepted, in seconds since the Unix epoch.
    pub time: i64,
}

/// A request, canonical: what is judged here is what is sent upstream.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method token, case-sensitive.
    pub method: http::Method,
    /// Host and port.
    pub host: Host,
    /// Normalized path and query; `None` for CONNECT (RFC 9110 section 9.3.6), which has no path.
    pub path: Option<CanonicalPath>,
    /// Header fields in order of arrival within a name.
    pub headers: HeaderMap,
    /// Claims of the verified end-user token; `None` if anonymous.
    pub claims: Option<Claims>,
    /// When its head was read, in seconds since the Unix epoch.
    pub time: i64,
}
