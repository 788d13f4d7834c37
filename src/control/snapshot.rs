//! The snapshot: everything a data core needs to judge and forward, immutable, swapped whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;

use crate::config::checked::{Config, Mesh};
use crate::control::named_file::FileProblem;
use crate::control::origination::Originations;
use crate::control::serving::Serving;
use crate::control::svid::SvidSet;
use crate::identity::bundle::TrustBundles;
use crate::identity::own::OwnProof;
use crate::identity::revocation::{PeerLeaf, Revocations, Target};
use crate::identity::svid::Svid;
use crate::identity::tls::{self, ClientAuth, Expected, TlsError};
use crate::identity::verify::{SvidError, Usage};
use crate::jwt::KeySets;
use crate::oidc;
use crate::role::endpoints::Endpoints;
use crate::role::enforcement::{EnforcementError, Enforcements};
use crate::upstream::resolved::Resolved;
use crate::vocab::spiffe::SpiffeId;

/// TLS configurations of one identity.
#[derive(Clone, Debug)]
pub struct MeshTls {
    /// HBONE server: mTLS, `h2`.
    pub hbone: Arc<ServerConfig>,
    /// Direct mTLS server of a workload: a client certificate is demanded; `http/1.1` before `h2`.
    pub direct: Arc<ServerConfig>,
    /// As `direct`, of a gateway: `h2` before `http/1.1`.
    pub gateway: Arc<ServerConfig>,
    /// Explicit proxy: a client certificate is verified if shown.
    pub proxy: Arc<ServerConfig>,
    /// HBONE client.
    pub client: Arc<ClientConfig>,
}

/// Everything that a core reads, once per exchange.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of the configuration; in records, metrics and the admin endpoint.
    pub generation: u64,
    /// Mesh resources.
    pub mesh: Arc<Mesh>,
    /// What judges where.
    pub enforcements: Arc<Enforcements>,
    /// By identity.
    pub identities: Arc<Identities>,
    /// Whom nobody may be any more.
    pub revocations: Arc<Revocations>,
    /// Key sets of all token rules.
    pub keys: Arc<KeySets>,
    /// Certificates of ingress listeners.
    pub serving: Arc<Serving>,
    /// TLS that egress gateways originate.
    pub origination: Arc<Originations>,
    /// Addresses of outside names.
    pub resolved: Arc<Resolved>,
    /// Endpoints of all services with their health.
    pub endpoints: Arc<Endpoints>,
    /// Login providers that are ready, by name.
    pub oidc: BTreeMap<String, Arc<oidc::Provider>>,
}

/// Why a snapshot cannot be made. The last good one stays.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Rules that cannot be enforced.
    #[error(transparent)]
    Enforcement(#[from] EnforcementError),
    /// An SVID cannot be used.
    #[error("identity")]
    Identity(#[source] TlsError),
    /// A file cannot be used.
    #[error("{0}")]
    File(FileProblem),
}

/// Why an identity of this process proves nothing within it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotProved {
    /// It has no SVID here.
    #[error("no SVID of it is here")]
    NotHere,
    /// A handshake would refuse its SVID.
    #[error(transparent)]
    Refused(SvidError),
}

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Number.
    pub generation: u64,
    /// Configuration.
    pub config: Arc<Config>,
    /// Identities.
    pub identities: Arc<Identities>,
    /// Revocations.
    pub revocations: Arc<Revocations>,
    /// Key sets.
    pub keys: Arc<KeySets>,
    /// Login providers.
    pub oidc: BTreeMap<String, Arc<oidc::Provider>>,
    /// Addresses of outside names.
    pub resolved: Arc<Resolved>,
    /// Certificates that the snapshot before this one serves.
    pub serving: Arc<Serving>,
    /// TLS that the snapshot before this one originates.
    pub origination: Arc<Originations>,
    /// The snapshot before, if it is of the same configuration.
    pub last: Option<Arc<Snapshot>>,
    /// Endpoints of the snapshot before, whatever its configuration.
    pub endpoints: Option<Arc<Endpoints>>,
}

impl Snapshot {
    /// Why an own identity is not used, if it is because it is revoked.
    #[must_use]
    pub fn revoked(&self, own: &SpiffeId) -> Option<Target> {
        if self.identities.get(own).is_some() {
            return None;
        }
        let barred = self.identities.barred(own).cloned();
        // There may be no SVID of it, because none is issued any more.
        barred.or_else(|| self.revocations.of_identity(own, None))
    }

    /// Builds a snapshot.
    ///
    /// # Errors
    /// `SnapshotError`.
    pub fn build(parts: &Parts) -> Result<Self, SnapshotError> {
        let mesh = Arc::clone(&parts.config.mesh);
        // New identities, keys and addresses leave the rules as they are.
        let made = parts.last.as_ref().map(|last| &last.enforcements);
        let enforcements = match made.filter(|made| Arc::ptr_eq(&made.mesh, &mesh)) {
            Some(made) => Arc::clone(made),
            None => Arc::new(Enforcements::build(Arc::clone(&mesh))?),
        };
        let same = parts.last.as_ref().filter(|last| {
            Arc::ptr_eq(&last.mesh, &mesh) && Arc::ptr_eq(&last.resolved, &parts.resolved)
        });
        let endpoints = match same {
            Some(last) => Arc::clone(&last.endpoints),
            None => {
                let last = parts.endpoints.as_deref();
                Arc::new(Endpoints::new(&mesh, &parts.resolved, last))
            }
        };
        Ok(Self {
            generation: parts.generation,
            enforcements,
            endpoints,
            identities: Arc::clone(&parts.identities),
            revocations: Arc::clone(&parts.revocations),
            keys: Arc::clone(&parts.keys),
            serving: Arc::new(parts.serving.renew(&parts.config.process)?),
            origination: Arc::new(parts.origination.renew(&mesh)?),
            resolved: Arc::clone(&parts.resolved),
            oidc: parts.oidc.clone(),
            mesh,
        })
    }
}

#[derive(Clone, Debug)]
struct Made {
    svid: Arc<Svid>,
    tls: MeshTls,
    /// `None` only of a leaf that is none.
    within: Option<Arc<OwnProof>>,
}

/// TLS configurations of all identities of the process.
#[derive(Debug, Default)]
pub struct Identities {
    made: BTreeMap<SpiffeId, Made>,
    /// Those that there is an SVID of, which is revoked.
    barred: BTreeMap<SpiffeId, Target>,
    bundles: Arc<TrustBundles>,
    /// The same roots with the revocations that handshakes look up.
    verifying: Arc<TrustBundles>,
    revoked: Arc<ArcSwap<Revocations>>,
}

impl Identities {
    /// None yet. Whatever `revoked` holds at the moment of a handshake is refused.
    #[must_use]
    pub fn new(revoked: Arc<ArcSwap<Revocations>>) -> Self {
        Self {
            revoked,
            ..Self::default()
        }
    }

    /// Makes the configurations; those whose SVID and bundles are as before are kept, and with them the pooled
    /// connections that were made by them. An identity of ours that is revoked is not used.
    ///
    /// # Errors
    /// `SnapshotError::Identity`.
    pub fn renew(&self, svids: &SvidSet, revoked: &Revocations) -> Result<Self, SnapshotError> {
        let same = Arc::ptr_eq(&self.bundles, &svids.bundles);
        let verifying = if same && !self.made.is_empty() {
            Arc::clone(&self.verifying)
        } else {
            let handle = Arc::clone(&self.revoked);
            Arc::new(svids.bundles.with_revocations(handle))
        };
        let (mut made, mut barred) = (BTreeMap::new(), BTreeMap::new());
        for (id, svid) in &svids.by_id {
            let leaf = tls::peer_leaf(&svid.chain);
            if let Some(target) = leaf.as_ref().and_then(|leaf| revoked.of(leaf)) {
                tracing::warn!(%id, %target, "own identity is revoked and not used");
                barred.insert(id.clone(), target);
                continue;
            }
            let kept = self
                .made
                .get(id)
                .filter(|known| Arc::ptr_eq(&known.svid, svid) && same);
            let identity = match kept {
                Some(known) => known.clone(),
                None => Made {
                    svid: Arc::clone(svid),
                    tls: mesh_tls(svid, &verifying).map_err(SnapshotError::Identity)?,
                    within: leaf.map(|leaf| Arc::new(OwnProof::new(leaf))),
                },
            };
            made.insert(id.clone(), identity);
        }
        Ok(Self {
            made,
            barred,
            bundles: Arc::clone(&svids.bundles),
            verifying,
            revoked: Arc::clone(&self.revoked),
        })
    }

    /// Why there is none of an identity, if it is because it is revoked.
    #[must_use]
    pub fn barred(&self, id: &SpiffeId) -> Option<&Target> {
        self.barred.get(id)
    }

    /// The configurations of one identity.
    #[must_use]
    pub fn get(&self, id: &SpiffeId) -> Option<&MeshTls> {
        self.made.get(id).map(|made| &made.tls)
    }

    /// What an identity of this process proves to another one of it, by the rules of the handshake that they would make.
    ///
    /// # Errors
    /// Why it proves nothing; there may be no such identity here.
    pub fn proved(
        &self,
        id: &SpiffeId,
        usage: Usage,
        now: UnixTime,
    ) -> Result<Arc<PeerLeaf>, NotProved> {
        let made = self.made.get(id).ok_or(NotProved::NotHere)?;
        let own = made.within.as_ref().ok_or(NotProved::NotHere)?;
        let proved = own.prove(&made.svid, &self.verifying, usage, now);
        let leaf = proved.map_err(NotProved::Refused)?;
        // A source may hand out a certificate of another identity; a handshake would show that one.
        (leaf.id == *id).then_some(leaf).ok_or(NotProved::NotHere)
    }
}

fn mesh_tls(svid: &Svid, bundles: &Arc<TrustBundles>) -> Result<MeshTls, TlsError> {
    let bundles = || Arc::clone(bundles);
    // Which one is spoken is the server's to choose (RFC 7301 section 3.2). What a workload gets may be bytes, so it has to
    // be what every HTTP server reads; who wants HTTP/2 there offers nothing else. A gateway speaks both itself.
    let (http1, http2): ([&[u8]; 2], [&[u8]; 2]) = ([b"http/1.1", b"h2"], [b"h2", b"http/1.1"]);
    Ok(MeshTls {
        hbone: tls::mesh_server_config(svid, bundles(), &[b"h2"], ClientAuth::Required)?,
        direct: tls::mesh_server_config(svid, bundles(), &http1, ClientAuth::Required)?,
        gateway: tls::mesh_server_config(svid, bundles(), &http2, ClientAuth::Required)?,
        proxy: tls::mesh_server_config(svid, bundles(), &http1, ClientAuth::Optional)?,
        client: tls::mesh_client_config(svid, bundles(), &[b"h2"], Expected::AnyOfBundles)?,
    })
}
