//! The asking side of the certificate service: keys are made here and never leave the process.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::channel::{Address, Channel};
use super::node::{Node, NodeError};
use super::{ALPN, CertificateRequest, CertificateResponse, PATH};
use crate::control::svid::Issued;
use crate::identity::bundle::{BundleError, TrustBundles};
use crate::identity::leaf::{self, LeafError};
use crate::identity::pem::{self, PemError};
use crate::identity::revocation::Revocations;
use crate::identity::svid::{Svid, WantedSvid};
use crate::identity::tls;
use crate::identity::verify::{SvidError, Usage, verify_svid};
use crate::vocab::limits;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// One request from connect to answer.
pub(super) const REQUEST: Duration = Duration::from_secs(15);
/// Istio's port of the certificate service.
const PORT: u16 = 15012;

/// Reads the join token; called for every request, so that the token can be changed while the process runs.
pub type TokenSource = Arc<dyn Fn() -> Result<String, std::io::Error> + Send + Sync>;

/// Why the remote authority is no source.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Not `https://host[:port]`.
    #[error("`{0}` is not https://host:port")]
    Address(String),
    /// The configured roots cannot be used.
    #[error("root of the authority cannot be used")]
    Root(#[source] BundleError),
    /// rustls refuses the configuration.
    #[error("TLS to the authority cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The join token cannot be read.
    #[error("join token cannot be read")]
    Token(#[source] std::io::Error),
    /// The join token has bytes that a header cannot carry.
    #[error("join token is not printable text")]
    TokenText,
    /// Key or request could not be made.
    #[error("certificate signing request could not be made")]
    Request(#[source] rcgen::Error),
    /// Connecting or the handshake failed.
    #[error("authority cannot be reached")]
    Connect(#[source] std::io::Error),
    /// The HTTP/2 connection failed.
    #[error("connection to the authority failed")]
    Http(#[source] hyper::Error),
    /// No answer in time.
    #[error("authority did not answer within {} s", REQUEST.as_secs())]
    Timeout,
    /// The authority said no.
    #[error("authority refused")]
    Refused(#[source] Box<Status>),
    /// The answer is not PEM.
    #[error("answer holds no certificates")]
    Pem(#[source] PemError),
    /// The answer has no root, or none that is configured.
    #[error("answer's root is not a configured one")]
    ForeignRoot,
    /// The answer's chain does not verify against the configured roots.
    #[error("answer does not verify")]
    Verify(#[source] SvidError),
    /// The answer's leaf is no SVID.
    #[error("answer is not an SVID")]
    Leaf(#[source] LeafError),
    /// The answer is for another identity.
    #[error("answer is for `{0}`")]
    OtherId(SpiffeId),
    /// The answer is for another key.
    #[error("answer is for another key")]
    OtherKey,
    /// The node's own identity.
    #[error("node's own identity")]
    Node(#[source] NodeError),
    /// The cluster's name has bytes that a header cannot carry.
    #[error("`{0}` cannot stand in a header")]
    ClusterId(String),
    /// What the authority tells of roots and revocations cannot be read.
    #[error("authority tells {0} that cannot be used")]
    News(&'static str),
}

/// Another process's authority (`[identity]`).
pub struct RemoteAuthority {
    pub(super) address: Address,
    pub(super) domain: TrustDomain,
    pub(super) trust: ArcSwap<Trust>,
    bundles: watch::Sender<Arc<TrustBundles>>,
    pub(super) revocations: watch::Sender<Arc<Revocations>>,
    token: TokenSource,
    cluster_id: Option<AsciiMetadataValue>,
    pub(super) ttl: Duration,
    pub(super) node: Option<Node>,
}

/// Whom the process trusts.
pub(super) struct Trust {
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) bundles: Arc<TrustBundles>,
}

impl Trust {
    pub(super) fn new(
        domain: &TrustDomain,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, RemoteError> {
        let bundles = TrustBundles::of(domain, roots).map_err(RemoteError::Root)?;
        Ok(Self {
            roots: roots.to_vec(),
            bundles: Arc::new(bundles),
        })
    }
}

impl std::fmt::Debug for RemoteAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteAuthority")
            .field("origin", &self.address.origin)
            .finish_non_exhaustive()
    }
}

impl RemoteAuthority {
    /// `address` is `https://host[:port]`; `roots` verify both the authority's server certificate and everything it
    /// issues for `trust_domain`. `ttl` is asked for; the authority may give less.
    ///
    /// # Errors
    /// `RemoteError` if the address or the roots cannot be used. Nothing is connected here.
    pub fn new(
        address: &str,
        roots: &[CertificateDer<'static>],
        trust_domain: &TrustDomain,
        token: TokenSource,
        ttl: Duration,
    ) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Address(address.to_owned());
        let origin: http::Uri = address.parse().map_err(|_e| bad())?;
        let plain = origin.path() == "/" && origin.query().is_none();
        let host = origin
            .host()
            .filter(|_| plain && origin.scheme_str() == Some("https"))
            .ok_or_else(bad)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_e| bad())?;
        let trust = Trust::new(trust_domain, roots)?;
        Ok(Self {
            address: Address {
                port: origin.port_u16().unwrap_or(PORT),
                host,
                server_name,
                origin,
            },
            domain: trust_domain.clone(),
            bundles: watch::Sender::new(Arc::clone(&trust.bundles)),
            trust: ArcSwap::from_pointee(trust),
            revocations: watch::Sender::new(Arc::default()),
            token,
            cluster_id: None,
            ttl,
            node: None,
        })
    }

    /// Sends `clusterid`, as istiod wants it of its clients.
    ///
    /// # Errors
    /// `RemoteError::ClusterId`.
    pub fn with_cluster_id(mut self, name: &str) -> Result<Self, RemoteError> {
        let value = name.parse();
        self.cluster_id = Some(value.map_err(|_e| RemoteError::ClusterId(name.to_owned()))?);
        Ok(self)
    }

    /// The process is this node: the token joins it once, and from then on its own SVID asks.
    #[must_use]
    pub(super) fn with_node(mut self, node: Node) -> Self {
        self.node = Some(node);
        self
    }

    /// The trusted roots as the bundle of the trust domain.
    #[must_use]
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.trust.load().bundles)
    }

    /// The bundle, now and whenever the authority's roots change.
    #[must_use]
    pub fn subscribe_bundles(&self) -> watch::Receiver<Arc<TrustBundles>> {
        self.bundles.subscribe()
    }

    /// What the authority says is revoked, now and after every change.
    #[must_use]
    pub fn subscribe_revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    /// Trusts these roots from now on, and no others.
    ///
    /// # Errors
    /// `RemoteError::Root`; the old ones are trusted then.
    pub fn set_roots(&self, roots: &[CertificateDer<'static>]) -> Result<(), RemoteError> {
        if self.trust.load().roots == roots {
            return Ok(());
        }
        let trust = Trust::new(&self.domain, roots)?;
        let bundles = Arc::clone(&trust.bundles);
        self.trust.store(Arc::new(trust));
        self.bundles.send_replace(bundles);
        tracing::info!(roots = roots.len(), "trusted roots have changed");
        Ok(())
    }

    /// Makes a P-256 key, has it certified, and checks the answer.
    ///
    /// # Errors
    /// `RemoteError`: not reached, refused, or an answer that is not exactly what was asked for.
    pub async fn issue(&self, wanted: &WantedSvid, now: UnixTime) -> Result<Issued, RemoteError> {
        let node = self.own_svid(now).await?;
        let key = KeyPair::generate().map_err(RemoteError::Request)?;
        let svid = self.certify(wanted, &key, node.as_deref(), now).await?;
        Ok(Issued {
            svid,
            bundles: self.bundles(),
        })
    }

    /// Has `key` certified: by the certificate of `node`, or by the token.
    pub(super) async fn certify(
        &self,
        wanted: &WantedSvid,
        key: &KeyPair,
        node: Option<&Svid>,
        now: UnixTime,
    ) -> Result<Svid, RemoteError> {
        let validity_duration = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let mut request = Request::new(CertificateRequest {
            csr: request_pem(wanted, key)?,
            validity_duration,
        });
        self.present(request.metadata_mut(), node)?;
        let call = async {
            let channel = Channel::connect(&self.address, self.client_tls(node)?).await?;
            channel
                .call(PATH, request, limits::CERTIFICATE_MESSAGE_BYTES)
                .await
        };
        let answer = timeout(REQUEST, call)
            .await
            .map_err(|_elapsed| RemoteError::Timeout)??;
        self.accept(wanted, key, &answer, now)
    }

    /// Adds what the caller is known by, unless that is its certificate.
    pub(super) fn present(
        &self,
        metadata: &mut MetadataMap,
        node: Option<&Svid>,
    ) -> Result<(), RemoteError> {
        if node.is_none() {
            let token = (self.token)().map_err(RemoteError::Token)?;
            let mut bearer: MetadataValue<_> = format!("Bearer {}", token.trim())
                .parse()
                .map_err(|_e| RemoteError::TokenText)?;
            bearer.set_sensitive(true);
            metadata.insert("authorization", bearer);
        }
        if let Some(name) = &self.cluster_id {
            metadata.insert("clusterid", name.clone());
        }
        Ok(())
    }

    /// TLS that verifies the authority by the roots of this moment.
    pub(super) fn client_tls(&self, node: Option<&Svid>) -> Result<Arc<ClientConfig>, RemoteError> {
        let mut store = RootCertStore::empty();
        for root in &self.trust.load().roots {
            store.add(root.clone()).map_err(RemoteError::Tls)?;
        }
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(RemoteError::Tls)?
            .with_root_certificates(store);
        let mut config = match node {
            Some(svid) => config
                .with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())
                .map_err(RemoteError::Tls)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// The answer must be for the wanted identity and this key, and verify against the configured roots.
    fn accept(
        &self,
        wanted: &WantedSvid,
        key: &KeyPair,
        answer: &CertificateResponse,
        now: UnixTime,
    ) -> Result<Svid, RemoteError> {
        let (roots, chain) = answer
            .cert_chain
            .split_last()
            .ok_or(RemoteError::ForeignRoot)?;
        let roots = pem::certificates(roots.as_bytes()).map_err(RemoteError::Pem)?;
        let trust = self.trust.load_full();
        if !roots.iter().any(|root| trust.roots.contains(root)) {
            return Err(RemoteError::ForeignRoot);
        }
        let chain: Vec<CertificateDer<'static>> =
            pem::certificates(chain.concat().as_bytes()).map_err(RemoteError::Pem)?;
        let id =
            verify_svid(&chain, &trust.bundles, now, Usage::Server).map_err(RemoteError::Verify)?;
        if id != wanted.id {
            return Err(RemoteError::OtherId(id));
        }
        let leaf_der = chain.first().ok_or(RemoteError::Verify(SvidError::Empty))?;
        let found = leaf::check(leaf_der).map_err(RemoteError::Leaf)?;
        let (_, parsed) = X509Certificate::from_der(leaf_der)
            .map_err(|_e| RemoteError::Leaf(LeafError::Parse))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(RemoteError::OtherKey);
        }
        Ok(Svid {
            id,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            not_before: found.not_before,
            not_after: found.not_after,
            chain,
        })
    }
}

/// PKCS#10: empty subject, critical SAN.
pub(super) fn request_pem(wanted: &WantedSvid, key: &KeyPair) -> Result<String, RemoteError> {
    let mut params =
        CertificateParams::new(wanted.dns_names.clone()).map_err(RemoteError::Request)?;
    params.distinguished_name = DistinguishedName::new();
    let uri = wanted
        .id
        .as_str()
        .try_into()
        .map_err(RemoteError::Request)?;
    params.subject_alt_names.push(SanType::URI(uri));
    let request = params
        .serialize_request(key)
        .map_err(RemoteError::Request)?;
    request.pem().map_err(RemoteError::Request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::authority::Authority;
    use crate::control::authority::grant::JoinTokens;

    const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend-service";
    const TOKEN: &str = "0123456789abcdef";

    struct Bench {
        authority: Authority,
        remote: RemoteAuthority,
        wanted: WantedSvid,
        key: KeyPair,
        now: UnixTime,
    }

    fn bench() -> Bench {
        let (domain, now) = (
            TrustDomain::parse("cluster.local").unwrap(),
            UnixTime::now(),
        );
        let authority = Authority::in_memory(domain.clone(), now).unwrap();
        let token: TokenSource = Arc::new(|| Ok(TOKEN.to_owned()));
        let ttl = Duration::from_secs(60);
        let remote =
            RemoteAuthority::new("https://[::1]", &authority.roots(), &domain, token, ttl).unwrap();
        let wanted = WantedSvid {
            id: SpiffeId::parse(FRONTEND).unwrap(),
            dns_names: Vec::new(),
        };
        Bench {
            authority,
            remote,
            wanted,
            key: KeyPair::generate().unwrap(),
            now,
        }
    }

    impl Bench {
        /// What a service would answer to a request of `key`.
        fn answer(&self, key: &KeyPair) -> CertificateResponse {
            let tokens =
                JoinTokens::parse(&format!("{TOKEN} spiffe://cluster.local/ns/*")).unwrap();
            let csr = request_pem(&self.wanted, key).unwrap();
            let grant = tokens.grant(TOKEN).unwrap();
            let (_, chain) = self
                .authority
                .sign_csr(&csr, grant, Duration::from_secs(60), self.now)
                .unwrap();
            let mut cert_chain: Vec<String> = chain
                .iter()
                .map(|der| pem::encode("CERTIFICATE", der))
                .collect();
            cert_chain.push(pem::encode_certificates(&self.authority.roots()));
            CertificateResponse { cert_chain }
        }

        fn accept(&self, answer: &CertificateResponse) -> Result<Svid, RemoteError> {
            self.remote
                .accept(&self.wanted, &self.key, answer, self.now)
        }
    }

    #[test]
    fn takes_what_was_asked_for() {
        let bench = bench();
        assert_eq!(
            (
                bench.remote.address.host.as_str(),
                bench.remote.address.port
            ),
            ("::1", PORT)
        );
        let svid = bench.accept(&bench.answer(&bench.key)).unwrap();
        assert_eq!((svid.id.as_str(), svid.chain.len()), (FRONTEND, 2));
        assert!(tls::certified_key(&svid).is_ok());
    }

    #[test]
    fn refuses_anything_else() {
        let (mut bench, other) = (bench(), bench());
        let good = bench.answer(&bench.key);

        let stranger = bench.answer(&other.key);
        assert!(matches!(
            bench.accept(&stranger),
            Err(RemoteError::OtherKey)
        ));

        let foreign_chain = CertificateResponse {
            cert_chain: [
                &other.answer(&bench.key).cert_chain[..2],
                &good.cert_chain[2..],
            ]
            .concat(),
        };
        assert!(matches!(
            bench.accept(&foreign_chain),
            Err(RemoteError::Verify(_))
        ));
        assert!(matches!(
            bench.accept(&other.answer(&bench.key)),
            Err(RemoteError::ForeignRoot)
        ));

        let no_root = CertificateResponse {
            cert_chain: good.cert_chain[..2].to_vec(),
        };
        assert!(matches!(
            bench.accept(&no_root),
            Err(RemoteError::ForeignRoot)
        ));
        let no_issuing = CertificateResponse {
            cert_chain: vec![good.cert_chain[0].clone(), good.cert_chain[2].clone()],
        };
        assert!(matches!(
            bench.accept(&no_issuing),
            Err(RemoteError::Verify(_))
        ));
        assert!(matches!(
            bench.accept(&CertificateResponse::default()),
            Err(RemoteError::ForeignRoot)
        ));
        let noise = CertificateResponse {
            cert_chain: vec!["noise".to_owned(); 3],
        };
        assert!(matches!(bench.accept(&noise), Err(RemoteError::Pem(_))));

        bench.wanted.id =
            SpiffeId::parse("spiffe://cluster.local/ns/default/sa/customer-api").unwrap();
        assert!(matches!(bench.accept(&good), Err(RemoteError::OtherId(_))));
    }
}
