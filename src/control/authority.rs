//! The embedded authority: root and issuing CA, X509-SVIDs, and the mesh's own workload tokens.
//!
//! It stands in for SPIRE or istiod where neither is there. The root signs one issuing certificate, the issuing
//! certificate signs leaves; both keys are P-256. Keys are kept by [`store`], roots and their rotation by [`roots`], what
//! else is remembered by [`ledger`]; certificates are made by [`ca`], workload tokens by [`token`]; [`join`] makes nodes.

mod ca;
pub mod control;
pub mod grant;
pub mod hold;
pub mod join;
pub mod ledger;
pub mod news;
mod roots;
mod rotate;
mod store;
mod token;

pub use self::rotate::RotateError;
pub use self::store::{lock_file, socket};

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::ca::{Ca, Names, Subject};
use self::grant::Grant;
use self::hold::Hold;
use self::ledger::{Data, Ledger, LedgerError};
use self::news::News;
use self::roots::{Root, Roots, unfit};
use self::store::Store;
use self::token::TokenKey;
use crate::identity::bundle::{BundleError, TrustBundles};
use crate::identity::revocation::{NodeName, Revocations, Target};
use crate::identity::svid::Svid;
use crate::identity::verify::{SvidError, Usage, verify_svid};
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Longest life of an SVID or a token.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest life of the SVID of a node, which it needs to ask for any other.
pub const NODE_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Permission bits of a private file.
pub(super) const PRIVATE_MODE: u32 = 0o400;

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
    /// Another process takes over, or has taken over.
    #[error("state directory `{}` is handed over to another process", .0.display())]
    Elsewhere(PathBuf),
    /// The state is there but a file of it is not.
    #[error("authority state is incomplete: `{}` is missing; restore it, or remove the directory to start a new root", .0.display())]
    Incomplete(PathBuf),
    /// A private key can be read by others than its owner.
    #[error("`{}` has mode {mode:03o}; a private key must be 400", path.display())]
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
    /// The ledger is not one.
    #[error("`{}` is not a ledger of this authority; restore it", .0.display())]
    Ledger(PathBuf),
    /// The ledger is not there.
    #[error("`{}` is missing, and with it every revocation, node and join token: restore it, or have `ringgate authority new-ledger` make an empty one", .0.display())]
    NoLedger(PathBuf),
    /// A ledger is not replaced by an empty one.
    #[error("`{}` has a ledger, which stays", .0.display())]
    LedgerThere(PathBuf),
    /// The ledger names a root that is not there.
    #[error("root {0} that signs is not there")]
    NoRoot(u32),
    /// A revocation of the ledger cannot be read.
    #[error("ledger cannot be used")]
    Content(#[source] LedgerError),
    /// The issuing CA that the operator gave is not one.
    #[error("the issuing CA that was given cannot be used: {0}")]
    Given(&'static str),
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
    /// It is revoked.
    #[error("revoked: {0}")]
    Barred(Target),
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

/// An issuing CA that the operator gives instead of one that the authority makes.
pub struct GivenCa {
    /// PEM: the issuing certificate, then those between it and a root.
    pub chain: Vec<u8>,
    /// PEM: its P-256 key in PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
    /// Roots that what it issues is to be verified by.
    pub roots: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for GivenCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenCa").finish_non_exhaustive()
    }
}

/// Roots, issuing CA, token key and ledger of one trust domain. Share it in an `Arc`.
pub struct Authority {
    trust_domain: TrustDomain,
    roots: ArcSwap<Roots>,
    token: TokenKey,
    ledger: Ledger,
    news: watch::Sender<Arc<News>>,
    bundles: watch::Sender<Arc<TrustBundles>>,
    /// What nodes were told last, by name.
    told: watch::Sender<BTreeMap<NodeName, String>>,
    refusals: AtomicU64,
    longest_life: Duration,
    store: Option<Arc<Store>>,
    hold: watch::Sender<Hold>,
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
        Self::start(None, None, trust_domain, now)
    }

    /// An authority whose keys and ledger live in `state_dir`: made at the first start, loaded later.
    ///
    /// # Errors
    /// `AuthorityError`: the directory is in use, incomplete, readable by others, of another trust domain, or its
    /// parts do not fit together. Nothing is repaired or replaced.
    pub fn open(
        state_dir: &Path,
        trust_domain: TrustDomain,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        Self::start(Some(state_dir), None, trust_domain, now)
    }

    /// As [`Self::open`] and [`Self::in_memory`], with an issuing CA that was given.
    ///
    /// # Errors
    /// `AuthorityError`.
    pub fn start(
        state_dir: Option<&Path>,
        given: Option<&GivenCa>,
        trust_domain: TrustDomain,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let store = state_dir.map(Store::open).transpose()?.map(Arc::new);
        Self::of(store, given, trust_domain, now)
    }

    /// As [`Self::start`], of a state that another process holds until this one takes over: nothing is written until
    /// [`Self::take_over`]. `lock` is the lock of that process.
    ///
    /// # Errors
    /// `AuthorityError`.
    pub fn start_beside(
        (state_dir, lock): (&Path, File),
        given: Option<&GivenCa>,
        trust_domain: TrustDomain,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let store = Arc::new(Store::inherited(state_dir, lock)?);
        Self::of(Some(store), given, trust_domain, now)
    }

    fn of(
        store: Option<Arc<Store>>,
        given: Option<&GivenCa>,
        trust_domain: TrustDomain,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let holds = store.as_ref().is_none_or(|store| store.writes());
        let first = match given {
            Some(given) => Some(given_root(given)?),
            None => None,
        };
        let (made, token) = match &store {
            Some(store) if store.exists()? => (first, load_token(store)?),
            _ => {
                let root = match first {
                    Some(root) => root,
                    None => Root::generate(1, &trust_domain, now).map_err(AuthorityError::Issue)?,
                };
                let token = TokenKey::generate().map_err(AuthorityError::Issue)?;
                if let Some(store) = &store {
                    store.create(root.files().as_ref(), &token.key_pem())?;
                }
                (Some(root), token)
            }
        };
        let ledger = Ledger::open(store.clone())?;
        let data = ledger.data();
        let mut known = BTreeMap::new();
        let named = data
            .rotation
            .as_ref()
            .map_or_else(|| vec![data.active], |r| vec![r.old, r.next]);
        if let Some(root) = made {
            known.insert(data.active, Arc::new(root));
        }
        for number in named {
            if let (None, Some(store)) = (known.get(&number), &store) {
                let root = Root::load(store, number, &trust_domain)?;
                known.insert(number, Arc::new(root));
            }
        }
        let roots = Roots::of(known, &data, &trust_domain)?;
        if let (Some(store), None, true) = (&store, &data.rotation, holds) {
            // What a crash or a full disk left of roots that are not trusted any more.
            for number in 1..data.active {
                store.remove_root(number)?;
            }
        }
        let revoked = data.revoked().map_err(AuthorityError::Content)?;
        let news = News::new(roots.trusted(), Arc::new(revoked));
        let authority = Self {
            trust_domain,
            bundles: watch::Sender::new(Arc::clone(&roots.bundles)),
            roots: ArcSwap::from_pointee(roots),
            token,
            ledger,
            news: watch::Sender::new(Arc::new(news)),
            told: watch::Sender::new(BTreeMap::new()),
            refusals: AtomicU64::new(0),
            longest_life: TTL_MAX,
            store,
            hold: watch::Sender::new(if holds { Hold::Holds } else { Hold::Waits }),
        };
        authority.prove(now)?;
        Ok(authority)
    }

    /// Tells how long the longest-lived certificate lives; a root rotation is not faster. Without it 24 h.
    #[must_use]
    pub fn with_longest_life(mut self, life: Duration) -> Self {
        self.longest_life = life;
        self
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
        verify_svid(&svid.chain, &self.bundles(), now, Usage::Server)
            .map_err(AuthorityError::Mismatch)?;
        Ok(())
    }

    fn renew_roots(&self, known: BTreeMap<u32, Arc<Root>>) -> Result<(), AuthorityError> {
        let roots = Roots::of(known, &self.ledger.data(), &self.trust_domain)?;
        let bundles = Arc::clone(&roots.bundles);
        self.roots.store(Arc::new(roots));
        self.bundles.send_replace(bundles);
        self.tell();
        Ok(())
    }

    /// Tells followers of roots and revocations as they are now.
    fn tell(&self) {
        let revoked = match self.ledger.data().revoked() {
            Ok(revoked) => Arc::new(revoked),
            Err(error) => {
                tracing::error!(%error, "the last good revocations stay");
                self.revocations()
            }
        };
        let news = News::new(self.roots(), revoked);
        self.news.send_if_modified(|last| {
            let differs = last.version != news.version;
            if differs {
                *last = Arc::new(news);
            }
            differs
        });
    }

    /// Revokes certificates: open connections with them end, and nothing is issued for them.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn revoke(&self, target: &Target, reason: &str, now: UnixTime) -> Result<(), LedgerError> {
        if reason.len() > crate::vocab::limits::REASON_BYTES {
            return Err(LedgerError::Reason);
        }
        if let Target::Id(id) = target
            && id.path().is_empty()
        {
            // It would match nobody.
            return Err(LedgerError::Domain(id.clone()));
        }
        let (kind, value) = ledger::words(target);
        self.ledger.change(|data| {
            let mut all = data.revoked()?;
            all.add(target.clone(), reason)?;
            data.revocations
                .retain(|entry| !(entry.kind == kind && entry.value == value));
            data.revocations.push(ledger::RevocationEntry {
                kind: kind.to_owned(),
                value,
                reason: reason.to_owned(),
                time: now.as_secs(),
            });
            if data.revocation_bytes() > crate::vocab::limits::REVOCATIONS_BYTES {
                return Err(LedgerError::Long);
            }
            Ok(())
        })?;
        tracing::warn!(%target, reason, "revoked");
        self.tell();
        Ok(())
    }

    /// Undoes a revocation.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn unrevoke(&self, target: &Target) -> Result<(), LedgerError> {
        let (kind, value) = ledger::words(target);
        self.ledger.change(|data| {
            let before = data.revocations.len();
            data.revocations
                .retain(|entry| !(entry.kind == kind && entry.value == value));
            if data.revocations.len() == before {
                return Err(LedgerError::NotRevoked(target.clone()));
            }
            Ok(())
        })?;
        tracing::warn!(%target, "revocation undone");
        self.tell();
        Ok(())
    }

    /// What is revoked now.
    #[must_use]
    pub fn revocations(&self) -> Arc<Revocations> {
        Arc::clone(&self.news.borrow().revocations)
    }

    /// Roots and revocations, now and after every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// The bundle, now and whenever the roots change.
    #[must_use]
    pub fn subscribe_bundles(&self) -> watch::Receiver<Arc<TrustBundles>> {
        self.bundles.subscribe()
    }

    /// Changes of the ledger, for those who wait for the next step of a rotation.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Data>> {
        self.ledger.subscribe()
    }

    /// Remembers what a node was told.
    pub fn note_told(&self, node: &NodeName, version: &str) {
        self.told.send_modify(|told| {
            if told.len() < crate::vocab::limits::NODES || told.contains_key(node) {
                told.insert(node.clone(), version.to_owned());
            }
        });
    }

    /// Nodes that have not been told of the roots and revocations as they are now, since this process started.
    #[must_use]
    pub fn not_told(&self) -> Vec<String> {
        let version = self.news.borrow().version.clone();
        let told = self.told.borrow();
        let behind = |name: &&String| {
            let node = NodeName::parse(name).ok();
            node.and_then(|node| told.get(&node).cloned()) != Some(version.clone())
        };
        self.ledger
            .data()
            .nodes
            .keys()
            .filter(behind)
            .cloned()
            .collect()
    }

    /// The trust domain that it issues for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle of its trust domain.
    #[must_use]
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.roots.load().bundles)
    }

    /// The root certificates, for peers that are to trust it; two during a rotation.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.roots.load().trusted()
    }

    /// The root that signs now, by its number; it changes with a rotation.
    #[must_use]
    pub fn signing_root(&self) -> u32 {
        self.roots.load().active.number
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
        if let Some(target) = self.revocations().of_identity(id, None) {
            return Err(IssueError::Barred(target));
        }
        let names = Names::svid(id, dns_names, None)?;
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
        grant.check(&request)?;
        if NodeName::of(&request.id).is_some() {
            // Only a join token, or the node itself, asks for this one.
            return Err(IssueError::NotGranted(request.id.to_string()));
        }
        if let Some(target) = self.revocations().of_identity(&request.id, None) {
            return Err(IssueError::Barred(target));
        }
        self.sign_request(request, None, ttl, now)
    }

    fn sign_request(
        &self,
        request: ca::Request,
        node: Option<&NodeName>,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<(SpiffeId, Vec<CertificateDer<'static>>), IssueError> {
        let own = NodeName::of(&request.id).is_some();
        self.check_id(&request.id)?;
        check_ttl(ttl, if own { NODE_TTL_MAX } else { TTL_MAX })?;
        let names = Names::svid(&request.id, &request.dns_names, node)?;
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
        check_ttl(ttl, TTL_MAX)?;
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
        self.issue_jwt_svid(id, &[audience.to_owned()], ttl, now)
    }

    /// As [`Self::issue_token`], for several audiences (SPIFFE JWT-SVID section 3).
    ///
    /// # Errors
    /// `IssueError`: a foreign ID or a lifetime of more than 24 h.
    pub fn issue_jwt_svid(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, IssueError> {
        self.check_request(id, ttl)?;
        if let Some(target) = self.revocations().of_identity(id, None) {
            return Err(IssueError::Barred(target));
        }
        self.token.sign(&self.trust_domain, id, audiences, ttl, now)
    }

    /// The key set (RFC 7517) that verifies the workload tokens, as JSON.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.token.jwks()
    }

    fn check_request(&self, id: &SpiffeId, ttl: Duration) -> Result<(), IssueError> {
        self.check_id(id)?;
        check_ttl(ttl, TTL_MAX)
    }

    fn check_id(&self, id: &SpiffeId) -> Result<(), IssueError> {
        if id.trust_domain() != self.trust_domain.as_str() || id.path().is_empty() {
            return Err(IssueError::ForeignId(id.clone()));
        }
        Ok(())
    }

    fn issuing(&self, now: UnixTime) -> Result<Arc<Ca>, IssueError> {
        let active = Arc::clone(&self.roots.load().active);
        active.issuing(&self.trust_domain, self.store.as_deref(), now)
    }

    /// The state directory, if there is one.
    #[must_use]
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.store.as_ref().map(|store| store.dir().to_owned())
    }
}

fn load_token(store: &Store) -> Result<TokenKey, AuthorityError> {
    let path = store.path(store::TOKEN_KEY);
    TokenKey::parse(&store.token_key()?).ok_or_else(|| unfit(&path, &path, ca::Unfit::Key))
}

fn given_root(given: &GivenCa) -> Result<Root, AuthorityError> {
    let issuing = Ca::parse(&given.chain, &given.key).map_err(|reason| {
        AuthorityError::Given(match reason {
            ca::Unfit::Certificate => "chain is not PEM of certificates",
            ca::Unfit::Key => "key is not a P-256 key in PKCS#8",
            ca::Unfit::Pair => "key is not that of the first certificate",
        })
    })?;
    if given.roots.is_empty() {
        return Err(AuthorityError::Given("no roots"));
    }
    Ok(Root::given(issuing, given.roots.clone()))
}

fn check_ttl(ttl: Duration, most: Duration) -> Result<(), IssueError> {
    if ttl < Duration::from_secs(1) || ttl > most {
        Err(IssueError::Ttl)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
