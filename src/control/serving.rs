//! The certificates that ingress listeners serve, and for which names. Each is read again when its files change; a pair of
//! certificate and key that cannot be used leaves the last good one in place.

mod choice;
mod inspect;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use zeroize::Zeroize as _;

pub use choice::{Listener, Shown};
pub use inspect::{Found, inspect};

use crate::config::checked::serving::{IngressListener, ListenerCertificate};
use crate::config::checked::{Process, Subject};
use crate::control::named_file::FileProblem;
use crate::control::snapshot::SnapshotError;
use crate::identity::leaf::validity;
use crate::identity::pem::{self, KeyError};
use crate::identity::{names, tls};
use crate::vocab::resource::ResourceName;

/// A certificate that a listener serves.
#[derive(Debug)]
pub struct Served {
    /// Gateway.
    pub gateway: ResourceName,
    /// Address of the listener.
    pub listener: SocketAddr,
    /// The file that it is in.
    pub certificate: PathBuf,
    /// Start of the certificate's validity.
    pub not_before: UnixTime,
    /// End of the certificate's validity.
    pub not_after: UnixTime,
    /// DNS names of the certificate.
    pub own_names: Vec<String>,
    leaf: CertificateDer<'static>,
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

    fn is_for(&self, one: &ListenerCertificate) -> bool {
        strangers(self.listener, one, &self.leaf).is_empty()
    }
}

/// What all listeners serve.
#[derive(Debug, Default)]
pub struct Serving {
    /// By ingress and listener as configured.
    listeners: Vec<Vec<Listener>>,
    problems: Vec<FileProblem>,
}

impl Serving {
    /// What one listener serves.
    #[must_use]
    pub fn get(&self, ingress: usize, listener: usize) -> Option<&Listener> {
        self.listeners.get(ingress)?.get(listener)
    }

    /// All listeners, in the order of the configuration.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().flatten()
    }

    /// All certificates, in the order of the configuration.
    pub fn all(&self) -> impl Iterator<Item = &Served> {
        self.each().map(Arc::as_ref)
    }

    fn each(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.listeners().flat_map(Listener::certificates)
    }

    /// All certificates, by the address of their listener and the file that they are in.
    #[must_use]
    pub fn by_file(&self) -> BTreeMap<(SocketAddr, &Path), &Arc<Served>> {
        let all = self.each();
        all.map(|served| ((served.listener, served.certificate.as_path()), served))
            .collect()
    }

    /// Files that could not be used, in whose place what they held before is served.
    #[must_use]
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// Whether another one, of the same configuration, serves the same and has the same problems.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let all = |of: &Self| -> Vec<_> { of.each().map(Arc::as_ptr).collect() };
        self.problems == other.problems && all(self) == all(other)
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// `SnapshotError::File` for the first pair that cannot be used and is not served yet.
    pub fn renew(&self, process: &Process) -> Result<Self, SnapshotError> {
        let mut new = Self::default();
        let known = self.by_file();
        for ingress in &process.ingresses {
            let mut listeners = Vec::new();
            for listener in &ingress.listeners {
                let gateway = &ingress.gateway;
                let served = of_listener(gateway, listener, &known, &mut new.problems)?;
                listeners.push(Listener::new(listener, served));
            }
            new.listeners.push(listeners);
        }
        Ok(new)
    }
}

fn of_listener(
    gateway: &ResourceName,
    listener: &IngressListener,
    known: &BTreeMap<(SocketAddr, &Path), &Arc<Served>>,
    problems: &mut Vec<FileProblem>,
) -> Result<Vec<Arc<Served>>, SnapshotError> {
    let address = listener.address;
    let mut all = Vec::new();
    for one in &listener.certificates {
        let known = known.get(&(address, one.certificate.as_path())).copied();
        match (read(gateway, address, one, known), known) {
            (Ok(served), _) => all.push(served),
            // Names that were added are not those of what was there before.
            (Err(found), Some(known)) if known.is_for(one) => {
                problems.extend(found);
                all.push(Arc::clone(known));
            }
            (Err(found), _) => {
                let first = found.into_iter().next();
                let unusable = || FileProblem::unusable(subject(one), "cannot be used");
                return Err(SnapshotError::File(first.unwrap_or_else(unusable)));
            }
        }
    }
    Ok(all)
}

/// Every file that is read for what a process serves.
#[must_use]
pub fn paths(process: &Process) -> Vec<PathBuf> {
    let listeners = process.ingresses.iter().flat_map(|i| &i.listeners);
    let certificates = listeners.flat_map(|l| &l.certificates);
    certificates
        .flat_map(|one| std::iter::once(one.certificate.clone()).chain(one.key.path()))
        .collect()
}

fn subject(one: &ListenerCertificate) -> Subject {
    Subject::Path(one.certificate.clone())
}

type Chain = (Vec<u8>, Vec<CertificateDer<'static>>);

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread reads files, the cores do not"
)]
fn chain(one: &ListenerCertificate) -> Result<Chain, FileProblem> {
    let path = &one.certificate;
    let text = std::fs::read(path).map_err(|error| FileProblem::unread(path, &error))?;
    let found = pem::certificates(&text);
    let chain = found.map_err(|error| {
        let what = match error {
            pem::PemError::Syntax(_) => "is not readable as PEM",
            pem::PemError::Empty => "holds no certificate",
        };
        FileProblem::unusable(subject(one), what)
    })?;
    Ok((text, chain))
}

/// Digest of the text, and the key.
fn key(one: &ListenerCertificate) -> Result<(Vec<u8>, PrivateKeyDer<'static>), FileProblem> {
    let read = one.key.read();
    let text = read.map_err(|error| FileProblem::of_secret(&one.key, &error))?;
    let key = pem::private_key(&text).map_err(|error| {
        let what = match error {
            KeyError::Empty => "holds no private key",
            KeyError::Syntax => "holds no private key that is readable as PEM",
        };
        FileProblem::unusable(Subject::Secret(one.key.clone()), what)
    })?;
    Ok((sha256(&text), key))
}

/// What a listener at `address` is to serve by the files of one certificate; `known` if they are as they were.
fn read(
    gateway: &ResourceName,
    address: SocketAddr,
    one: &ListenerCertificate,
    known: Option<&Arc<Served>>,
) -> Result<Arc<Served>, Vec<FileProblem>> {
    let ((chain_text, chain), (key_digest, mut key)) = match (chain(one), key(one)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let of_certificate = |what: &str| vec![FileProblem::unusable(subject(one), what)];
    let leaf = chain.first().cloned();
    let Some((leaf, (not_before, not_after))) = leaf.and_then(|l| validity(&l).map(|v| (l, v)))
    else {
        key.zeroize();
        return Err(of_certificate("holds no X.509 certificate"));
    };
    let strangers = strangers(address, one, &leaf);
    if !strangers.is_empty() {
        key.zeroize();
        return Err(strangers);
    }
    let held = [sha256(&chain_text), key_digest];
    if let Some(known) = known.filter(|known| known.held == held) {
        key.zeroize();
        return Ok(Arc::clone(known));
    }
    let config = config(chain, key).map_err(|error| {
        if !matches!(error, rustls::Error::InconsistentKeys(_)) {
            return of_certificate(&format!("cannot be served: {error}"));
        }
        let what = format!(
            "is not the key of the certificate in `{}`",
            one.certificate.display()
        );
        let subject = Subject::Key(address, one.certificate.clone(), one.key.clone());
        vec![FileProblem::unusable(subject, what)]
    })?;
    Ok(Arc::new(Served {
        gateway: gateway.clone(),
        listener: address,
        certificate: one.certificate.clone(),
        not_before,
        not_after,
        own_names: names::dns_names(&leaf),
        leaf,
        config: Arc::new(config),
        held,
    }))
}

/// Of the names that a certificate is to be served for, those that clients would not take it for.
fn strangers(
    address: SocketAddr,
    one: &ListenerCertificate,
    leaf: &CertificateDer<'_>,
) -> Vec<FileProblem> {
    let all = one.hostnames.iter().flatten();
    let strangers = all.filter(|name| !names::covers(leaf, name));
    let problem = |name: &String| {
        let subject = Subject::Hostname(address, name.clone());
        let what = format!(
            "is no name of the certificate in `{}`",
            one.certificate.display()
        );
        FileProblem::unusable(subject, what)
    };
    strangers.map(problem).collect()
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
