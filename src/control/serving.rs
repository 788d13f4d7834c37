//! The certificates that ingress listeners serve. Each is read again when its files change; a pair of certificate and key
//! that cannot be used leaves the last good one in place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use zeroize::Zeroize as _;

use crate::config::checked::{IngressListener, Process, Subject};
use crate::control::named_file::FileProblem;
use crate::control::snapshot::SnapshotError;
use crate::identity::leaf::validity;
use crate::identity::pem::{self, KeyError};
use crate::identity::tls;
use crate::vocab::resource::ResourceName;

/// A certificate with less than this of its life left will soon expire, in seconds: 14 days.
const SOON_S: u64 = 14 * 86_400;
/// One that lives for a short time only is near its end in the last fifth of it.
const LAST_PART: u64 = 5;

/// What one listener serves.
#[derive(Debug)]
pub struct Served {
    /// Gateway.
    pub gateway: ResourceName,
    /// Address of the listener.
    pub listener: SocketAddr,
    /// Start of the certificate's validity.
    pub not_before: UnixTime,
    /// End of the certificate's validity.
    pub not_after: UnixTime,
    config: Arc<ServerConfig>,
    /// SHA-256 of both files.
    held: [Vec<u8>; 2],
}

impl Served {
    /// Seconds until the certificate expires; 0 if it has.
    #[must_use]
    pub fn seconds_left(&self, now: UnixTime) -> u64 {
        self.not_after.as_secs().saturating_sub(now.as_secs())
    }
}

/// What all listeners serve.
#[derive(Debug, Default)]
pub struct Serving {
    /// By ingress and listener as configured.
    listeners: Vec<Vec<Arc<Served>>>,
    problems: Vec<FileProblem>,
}

impl Serving {
    /// The configuration of one listener.
    #[must_use]
    pub fn get(&self, ingress: usize, listener: usize) -> Option<&Arc<ServerConfig>> {
        let served = self.listeners.get(ingress)?.get(listener)?;
        Some(&served.config)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Served> {
        self.listeners.iter().flatten().map(Arc::as_ref)
    }

    /// Files that could not be used, in whose place what they held before is served.
    #[must_use]
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// Whether another one serves the same and has the same problems.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let all =
            |of: &Self| -> Vec<_> { of.listeners.iter().flatten().map(Arc::as_ptr).collect() };
        self.problems == other.problems && all(self) == all(other)
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// `SnapshotError::File` for the first pair that cannot be used and is not served yet.
    pub fn renew(&self, process: &Process) -> Result<Self, SnapshotError> {
        let mut new = Self::default();
        for (at, ingress) in process.ingresses.iter().enumerate() {
            let mut listeners = Vec::new();
            for (nth, listener) in ingress.listeners.iter().enumerate() {
                let known = self.listeners.get(at).and_then(|all| all.get(nth));
                match (read(&ingress.gateway, listener, known), known) {
                    (Ok(served), _) => listeners.push(served),
                    (Err(problems), Some(known)) => {
                        new.problems.extend(problems);
                        listeners.push(Arc::clone(known));
                    }
                    (Err(problems), None) => {
                        let first = problems.into_iter().next();
                        let first = first.unwrap_or_else(|| unusable(listener));
                        return Err(SnapshotError::File(first));
                    }
                }
            }
            new.listeners.push(listeners);
        }
        Ok(new)
    }
}

fn unusable(listener: &IngressListener) -> FileProblem {
    FileProblem::unusable(certificate(listener), "cannot be used")
}

/// Every problem of the files that a process serves, and what is to be said of those that can be used at `now`.
#[must_use]
pub fn inspect(process: &Process, now: UnixTime) -> (Vec<FileProblem>, Vec<(Subject, String)>) {
    let (mut problems, mut remarks) = (Vec::new(), Vec::new());
    for ingress in &process.ingresses {
        for listener in &ingress.listeners {
            if let Err(found) = read(&ingress.gateway, listener, None) {
                problems.extend(found);
            }
            // Whoever may not read the key can still be told that the certificate expires.
            if let Ok((_, chain)) = chain(listener)
                && let Some((from, to)) = chain.first().and_then(validity)
                && let Some(remark) = remark(from, to, now)
            {
                remarks.push((certificate(listener), remark));
            }
        }
    }
    (problems, remarks)
}

/// What is to be said of a certificate at `now`.
fn remark(from: UnixTime, to: UnixTime, now: UnixTime) -> Option<String> {
    let (from, to, now) = (from.as_secs(), to.as_secs(), now.as_secs());
    let left = to.saturating_sub(now);
    if now > to {
        let ago = (now - to) / 86_400;
        return Some(format!("holds a certificate that expired {ago} days ago"));
    }
    if now < from {
        let ahead = (from - now).div_ceil(86_400);
        return Some(format!(
            "holds a certificate that is not valid yet, for {ahead} days"
        ));
    }
    let soon = SOON_S.min(to.saturating_sub(from) / LAST_PART);
    let (days, hours) = (left / 86_400, left % 86_400 / 3600);
    (left < soon).then(|| format!("holds a certificate that expires in {days} days {hours} hours"))
}

/// Every file that is read for what a process serves.
#[must_use]
pub fn paths(process: &Process) -> Vec<PathBuf> {
    let listeners = process.ingresses.iter().flat_map(|i| &i.listeners);
    listeners
        .flat_map(|l| std::iter::once(l.certificate.clone()).chain(l.key.path()))
        .collect()
}

fn certificate(listener: &IngressListener) -> Subject {
    Subject::Path(listener.certificate.clone())
}

type Chain = (Vec<u8>, Vec<CertificateDer<'static>>);

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread reads files, the cores do not"
)]
fn chain(listener: &IngressListener) -> Result<Chain, FileProblem> {
    let path = &listener.certificate;
    let text = std::fs::read(path).map_err(|error| FileProblem::unread(path, &error))?;
    let found = pem::certificates(&text);
    let chain = found.map_err(|error| {
        let what = match error {
            pem::PemError::Syntax(_) => "is not readable as PEM",
            pem::PemError::Empty => "holds no certificate",
        };
        FileProblem::unusable(certificate(listener), what)
    })?;
    Ok((text, chain))
}

/// Digest of the text, and the key.
fn key(listener: &IngressListener) -> Result<(Vec<u8>, PrivateKeyDer<'static>), FileProblem> {
    let read = listener.key.read();
    let text = read.map_err(|error| FileProblem::of_secret(&listener.key, &error))?;
    let key = pem::private_key(&text).map_err(|error| {
        let what = match error {
            KeyError::Empty => "holds no private key",
            KeyError::Syntax => "holds no private key that is readable as PEM",
        };
        FileProblem::unusable(Subject::Secret(listener.key.clone()), what)
    })?;
    Ok((sha256(&text), key))
}

/// What a listener is to serve by its files; `known` if they are as they were.
fn read(
    gateway: &ResourceName,
    listener: &IngressListener,
    known: Option<&Arc<Served>>,
) -> Result<Arc<Served>, Vec<FileProblem>> {
    let ((chain_text, chain), (key_digest, mut key)) = match (chain(listener), key(listener)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let held = [sha256(&chain_text), key_digest];
    if let Some(known) = known.filter(|known| known.held == held) {
        key.zeroize();
        return Ok(Arc::clone(known));
    }
    let of_certificate = |what: &str| vec![FileProblem::unusable(certificate(listener), what)];
    let times = chain.first().and_then(validity);
    let (not_before, not_after) =
        times.ok_or_else(|| of_certificate("holds no X.509 certificate"))?;
    let config = config(chain, key).map_err(|error| {
        if !matches!(error, rustls::Error::InconsistentKeys(_)) {
            return of_certificate(&format!("cannot be served: {error}"));
        }
        let what = format!(
            "is not the key of the certificate in `{}`",
            listener.certificate.display()
        );
        let subject = Subject::Secret(listener.key.clone());
        vec![FileProblem::unusable(subject, what)]
    })?;
    Ok(Arc::new(Served {
        gateway: gateway.clone(),
        listener: listener.address,
        not_before,
        not_after,
        config: Arc::new(config),
        held,
    }))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().to_vec()
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let certified = tls::certified(chain, key)?;
    // Browsers and machines of the outside may still speak TLS 1.2.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session goes on by a ticket that the client keeps (RFC 8446 section 4.6.1, RFC 5077), so any core takes it up.
    // Its key is replaced by the first handshake six hours after it came, and with the listener's files: what an old certificate
    // began ends with it. Handshakes share a read lock on the keys, which is
    // taken for writing as long as they are exchanged.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true; // `record` takes over after the handshake
    Ok(config)
}

#[cfg(test)]
mod tests;
