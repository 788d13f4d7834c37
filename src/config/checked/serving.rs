//! What an ingress serves at its listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::checked::Secret;
use crate::vocab::resource::ResourceName;

/// `[[ingress]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingress {
    /// Gateway resource.
    pub gateway: ResourceName,
    /// Listener that redirects to https.
    pub http: Option<SocketAddr>,
    /// The port that it redirects to, if not that of the first listener.
    pub https_port: Option<u16>,
    /// Listeners.
    pub listeners: Vec<IngressListener>,
}

/// `[[ingress.listener]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct IngressListener {
    /// Address.
    pub address: SocketAddr,
    /// At least one; the first is that of the listener itself if it names one.
    pub certificates: Vec<ListenerCertificate>,
    /// `unknownServerName`.
    pub unknown: UnknownServerName,
}

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerCertificate {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: Secret,
    /// `hostnames`, lower case, `*.suffix` allowed; `None` for those of the certificate.
    pub hostnames: Option<Vec<String>>,
}

/// `unknownServerName`: what a client gets that tells no server name (RFC 6066 section 3), or one that no certificate is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownServerName {
    /// `SERVE_FIRST`: the first certificate of the listener.
    #[default]
    ServeFirst,
    /// `REFUSE`: an alert.
    Refuse,
}

/// Gives the listeners of `then` the certificates of those of `now` that listen at the same places.
pub(super) fn leave_certificates(then: &mut [Ingress], now: &[Ingress]) {
    for (then, now) in then.iter_mut().zip(now) {
        for (then, now) in then.listeners.iter_mut().zip(&now.listeners) {
            then.certificates.clone_from(&now.certificates);
            then.unknown = now.unknown;
        }
    }
}
