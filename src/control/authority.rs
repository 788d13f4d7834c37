//! The embedded authority: root and issuing CA, X509-SVIDs, and the mesh's own workload tokens.
//!
//! It stands in for SPIRE or istiod where neither is there. The root signs one issuing certificate, the issuing
//! certificate signs leaves; both keys are P-256. State is kept by [`store`], certificates are made by [`ca`],
//! tokens by [`token`].

mod ca;
pub mod grant;
mod store;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;

use self::ca::{Ca, Names, Subject, Unfit};
use self::grant::Grant;
use self::store::{Files, Store};
use self::token::TokenKey;
use crate::identity::bundle::{BundleError, TrustBundles};
use crate::identity::rotation::next_rotation;
use crate::identity::svid::Svid;
use crate::identity::verify::{SvidError, Usage, verify_svid};
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Longest life of an SVID or a token.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why the authority does not start.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The file system refused.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The reason of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Another process holds the state directory.
    #[error("state directory `{}` is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The state is there but a file of it is not.
    #[error("authority state is incomplete: `{}` is missing; restore it, or remove the directory to start a new root", .0.display())]
    Incomplete(PathBuf),
    /// A private key can be read by others than its owner.
    #[error("`{}` has mode {mode:03o}; a private key must be 600", path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A file is not the PEM that it should be.
    #[error("`{}` is not the PEM of a {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// A key file holds another key than the certificate's.
    #[error("`{}` does not hold the key of `{}`", key.display(), certificate.display())]
    OtherKey {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// The state belongs to another trust domain than the configured one.
    #[error("authority state is for trust domain `{found}`, configured is `{configured}`")]
    TrustDomain {
        /// In the root certificate.
        found: String,
        /// In the configuration.
        configured: TrustDomain,
    },
    /// Root, issuing certificate and keys do not belong together, or the root has expired.
    #[error(
        "authority state does not fit together: what it issues does not verify against its root"
    )]
    Mismatch(#[source] SvidError),
    /// The root certificate cannot be trusted.
    #[error("root certificate cannot be used")]
    Root(#[source] BundleError),
    /// Something could not be issued.
    #[error("authority cannot issue")]
    Issue(#[source] IssueError),
}

/// Why nothing was issued.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The ID belongs to another trust domain, or has no path.
    #[error("`{0}` is not an identity of this authority's trust domain")]
    ForeignId(SpiffeId),
    /// Zero, or more than 24 h.
    #[error("lifetime is not between 1 s and 24 h")]
    Ttl,
    /// Not a DNS name or IP address that a certificate can carry.
    #[error("`{0}` cannot stand in a certificate")]
    Name(String),
    /// The request is malformed, its signature is wrong, or it asks for more than an SVID.
    #[error("certificate signing request is refused: {0}")]
    Csr(&'static str),
    /// The request asks for an identity or a DNS name that the caller may not have.
    #[error("certificate signing request asks for `{0}`, which is not granted")]
    NotGranted(String),
    /// A time does not fit in a certificate, or the issuing certificate is over.
    #[error("time is outside the validity of the issuing certificate")]
    Time,
    /// Key or certificate could not be made.
    #[error("certificate could not be made")]
    Certificate(#[source] rcgen::Error),
    /// The token could not be signed.
    #[error("token could not be signed")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// No randomness.
    #[error("no randomness")]
    Random,
    /// A renewed issuing certificate could not be kept.
    #[error("issuing certificate could not be stored")]
    Store(#[source] Box<AuthorityError>),
}

/// A certificate for a server that is no workload: the certificate service itself.
pub struct ServerCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// End of the validity.
    pub not_after: UnixTime,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("not_after", &self.not_after.as_secs())
            .finish_non_exhaustive()
    }
}

/// Root, issuing CA and token key of one trust domain. Share it in an `Arc`.
pub struct Authority {
    trust_domain: TrustDomain,
    root: Ca,
    issuing: ArcSwap<Ca>,
    token: TokenKey,
    bundles: Arc<TrustBundles>,
    store: Option<Store>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// An authority whose root dies with the process.
    ///
    /// # Errors
    /// `AuthorityError::Issue` without randomness.
    pub fn in_memory(trust_domain: TrustDomain, now: UnixTime) -> Result<Self, AuthorityError> {
        let (root, issuing, token) =
            Self::generate(&trust_domain, now).map_err(AuthorityError::Issue)?;
        Self::assemble(trust_domain, root, issuing, token, None, now)
    }

    /// An authority whose root, issuing CA and token key live in `state_dir`: made at the first start, loaded later.
    ///
    /// # Errors
    /// `AuthorityError`: the directory is in use, incomplete, readable by others, of another trust domain, or its
    /// parts do not fit together. Nothing is repaired or replaced.
    pub fn open(
        state_dir: &Path,
        trust_domain: TrustDomain,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let store = Store::open(state_dir)?;
        let (root, issuing, token) = if let Some(files) = store.load()? {
            Self::parse(&store, &files, &trust_domain)?
        } else {
            let made = Self::generate(&trust_domain, now).map_err(AuthorityError::Issue)?;
            store.create(&Files {
                root: made.0.certificate_pem(),
                root_key: made.0.key_pem(),
                issuing: made.1.bundle_pem(),
                token_key: made.2.key_pem(),
            })?;
            made
        };
        Self::assemble(trust_domain, root, issuing, token, Some(store), now)
    }

    fn generate(
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<(Ca, Ca, TokenKey), IssueError> {
        let root = Ca::new_root(trust_domain, now)?;
        let issuing = root.new_issuing(trust_domain, now)?;
        Ok((root, issuing, TokenKey::generate()?))
    }

    fn parse(
        store: &Store,
        files: &Files,
        trust_domain: &TrustDomain,
    ) -> Result<(Ca, Ca, TokenKey), AuthorityError> {
        let unfit = |certificate: &str, key: &str, reason| match reason {
            Unfit::Certificate => AuthorityError::Unreadable {
                path: store.path(certificate),
                what: "certificate",
            },
            Unfit::Key => AuthorityError::Unreadable {
                path: store.path(key),
                what: "P-256 key in PKCS#8",
            },
            Unfit::Pair => AuthorityError::OtherKey {
                certificate: store.path(certificate),
                key: store.path(key),
            },
        };
        let root = Ca::parse(&files.root, &files.root_key)
            .map_err(|r| unfit(store::ROOT, store::ROOT_KEY, r))?;
        let issuing = Ca::parse(&files.issuing, &files.issuing)
            .map_err(|r| unfit(store::ISSUING, store::ISSUING, r))?;
        let token = TokenKey::parse(&files.token_key)
            .ok_or_else(|| unfit(store::TOKEN_KEY, store::TOKEN_KEY, Unfit::Key))?;
        let found = root.trust_domain().unwrap_or_default();
        if found != trust_domain.as_str() {
            return Err(AuthorityError::TrustDomain {
                found,
                configured: trust_domain.clone(),
            });
        }
        Ok((root, issuing, token))
    }

    fn assemble(
        trust_domain: TrustDomain,
        root: Ca,
        issuing: Ca,
        token: TokenKey,
        store: Option<Store>,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let roots = [root.certificate().clone()];
        let bundles = TrustBundles::of(&trust_domain, &roots).map_err(AuthorityError::Root)?;
        let authority = Self {
            trust_domain,
            root,
            issuing: ArcSwap::from_pointee(issuing),
            token,
            bundles: Arc::new(bundles),
            store,
        };
        authority.prove(now)?;
        Ok(authority)
    }

    /// What is issued must verify: this finds swapped keys, a foreign issuing certificate and an expired root.
    fn prove(&self, now: UnixTime) -> Result<(), AuthorityError> {
        let id = SpiffeId::parse(&format!(
            "spiffe://{}/ringgate/self-test",
            self.trust_domain
        ))
        .map_err(|e| {
            AuthorityError::Mismatch(SvidError::Leaf(crate::identity::leaf::LeafError::Id(e)))
        })?;
        let svid = self
            .issue(&id, &[], Duration::from_secs(60), now)
            .map_err(AuthorityError::Issue)?;
        verify_svid(&svid.chain, &self.bundles, now, Usage::Server)
            .map_err(AuthorityError::Mismatch)?;
        Ok(())
    }

    /// The trust domain that it issues for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle of its trust domain.
    #[must_use]
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.bundles)
    }

    /// The root certificates, for peers that are to trust it.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.certificate().clone()]
    }

    /// Makes a key and an SVID for it: one URI SAN, `dns_names` beside it, valid from 60 s ago for `ttl` from now.
    ///
    /// # Errors
    /// `IssueError`: a foreign ID, a lifetime of more than 24 h, a malformed name.
    pub fn issue(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Svid, IssueError> {
        self.check_request(id, ttl)?;
        let names = Names::svid(id, dns_names)?;
        let issued = self
            .issuing(now)?
            .issue(&names, &Subject::NewKey, ttl, now)?;
        let key = issued.key.ok_or(IssueError::Csr("no key"))?;
        Ok(Svid {
            id: id.clone(),
            chain: issued.chain,
            key,
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    }

    /// Signs a PKCS#10 request (PEM): its one URI SAN and its DNS SANs must be granted. Everything else in the
    /// certificate is decided here, not by the request. Leaf first; the root is not in it.
    ///
    /// # Errors
    /// `IssueError`: as [`Self::issue`], and whatever the request asks beyond its grant.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        grant: &Grant,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<(SpiffeId, Vec<CertificateDer<'static>>), IssueError> {
        let request = ca::Request::parse(csr_pem)?;
        if !grant.allows_id(&request.id) {
            return Err(IssueError::NotGranted(request.id.to_string()));
        }
        if let Some(name) = request
            .dns_names
            .iter()
            .find(|name| !grant.allows_dns(name))
        {
            return Err(IssueError::NotGranted(name.clone()));
        }
        self.check_request(&request.id, ttl)?;
        let names = Names::svid(&request.id, &request.dns_names)?;
        let issued =
            self.issuing(now)?
                .issue(&names, &Subject::Key(request.public_key), ttl, now)?;
        Ok((request.id, issued.chain))
    }

    /// A certificate for a TLS server with these names and addresses and no SPIFFE ID.
    ///
    /// # Errors
    /// `IssueError`: as [`Self::issue`].
    pub fn issue_server(
        &self,
        dns_names: &[String],
        addresses: &[IpAddr],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<ServerCertificate, IssueError> {
        check_ttl(ttl)?;
        let names = Names::server(dns_names, addresses)?;
        let issued = self
            .issuing(now)?
            .issue(&names, &Subject::NewKey, ttl, now)?;
        let key = issued.key.ok_or(IssueError::Csr("no key"))?;
        Ok(ServerCertificate {
            chain: issued.chain,
            key,
            not_after: issued.not_after,
        })
    }

    /// A workload token: a JWT (ES256) with `iss` = `https://<trust domain>`, `sub` = the SPIFFE ID, `aud`, `iat`
    /// and `exp`.
    ///
    /// # Errors
    /// `IssueError`: a foreign ID or a lifetime of more than 24 h.
    pub fn issue_token(
        &self,
        id: &SpiffeId,
        audience: &str,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, IssueError> {
        self.check_request(id, ttl)?;
        self.token.sign(&self.trust_domain, id, audience, ttl, now)
    }

    /// The key set (RFC 7517) that verifies the workload tokens, as JSON.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.token.jwks()
    }

    fn check_request(&self, id: &SpiffeId, ttl: Duration) -> Result<(), IssueError> {
        if id.trust_domain() != self.trust_domain.as_str() || id.path().is_empty() {
            return Err(IssueError::ForeignId(id.clone()));
        }
        check_ttl(ttl)
    }

    /// The issuing CA, replaced when it is past its half life.
    fn issuing(&self, now: UnixTime) -> Result<Arc<Ca>, IssueError> {
        let current = self.issuing.load_full();
        let (not_before, not_after) = current.validity();
        if now.as_secs() < next_rotation(not_before, not_after, 0.5).as_secs() {
            return Ok(current);
        }
        let next = Arc::new(self.root.new_issuing(&self.trust_domain, now)?);
        if let Some(store) = &self.store {
            store
                .replace_issuing(&next.bundle_pem())
                .map_err(|e| IssueError::Store(Box::new(e)))?;
        }
        tracing::info!(trust_domain = %self.trust_domain, "issuing certificate renewed");
        self.issuing.store(Arc::clone(&next));
        Ok(next)
    }
}

fn check_ttl(ttl: Duration) -> Result<(), IssueError> {
    if ttl < Duration::from_secs(1) || ttl > TTL_MAX {
        Err(IssueError::Ttl)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
