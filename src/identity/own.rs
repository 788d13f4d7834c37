//! SVIDs of this process, as its own workloads prove them to each other where no handshake is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::UnixTime;

use super::bundle::TrustBundles;
use super::revocation::PeerLeaf;
use super::svid::Svid;
use super::verify::{SvidError, Usage, verify_svid};
use crate::vocab::limits;

/// When an SVID was last verified, as a client's and as a server's.
///
/// As with the connections that tunnels share, a chain that was found good counts for a time. What may change from one
/// moment to the next is looked at each time: the leaf's validity and the revocations.
#[derive(Debug)]
pub struct OwnProof {
    leaf: Arc<PeerLeaf>,
    /// Seconds since the Unix epoch; 0: never.
    client_s: AtomicU64,
    server_s: AtomicU64,
}

impl OwnProof {
    /// Of an SVID with this leaf, not verified yet.
    #[must_use]
    pub fn new(leaf: PeerLeaf) -> Self {
        Self {
            leaf: Arc::new(leaf),
            client_s: AtomicU64::new(0),
            server_s: AtomicU64::new(0),
        }
    }

    /// What the SVID proves at `now`, as a peer of that usage.
    ///
    /// # Errors
    /// Why a handshake would refuse it.
    pub fn prove(
        &self,
        svid: &Svid,
        bundles: &TrustBundles,
        usage: Usage,
        now: UnixTime,
    ) -> Result<Arc<PeerLeaf>, SvidError> {
        let verified = match usage {
            Usage::Client => &self.client_s,
            Usage::Server => &self.server_s,
        };
        let now_s = now.as_secs();
        let valid = svid.not_before.as_secs() <= now_s && !svid.expired(now);
        // A clock that was set back makes what was verified later unknown.
        let age_s = now_s.checked_sub(verified.load(Ordering::Relaxed));
        if valid && age_s.is_some_and(|age_s| age_s < limits::OWN_SVID_VERIFIED_S) {
            return match bundles.revoked(&self.leaf) {
                Some(target) => Err(SvidError::Revoked(target)),
                None => Ok(Arc::clone(&self.leaf)),
            };
        }
        verify_svid(&svid.chain, bundles, now, usage)?;
        verified.store(now_s, Ordering::Relaxed);
        Ok(Arc::clone(&self.leaf))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SanType,
    };
    use rustls::pki_types::PrivateKeyDer;
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::revocation::{Revocations, Target};
    use crate::identity::tls;
    use crate::vocab::spiffe::{SpiffeId, TrustDomain};

    const ID: &str = "spiffe://example.org/ns/foo/sa/bar";
    /// Validity of the leaf, in seconds since the Unix epoch.
    const FROM_S: u64 = 1_764_000_000;
    const TO_S: u64 = FROM_S + 3600;

    fn at(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    fn time(secs: u64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(i64::try_from(secs).unwrap()).unwrap()
    }

    struct Own {
        svid: Svid,
        bundles: TrustBundles,
        revoked: Arc<ArcSwap<Revocations>>,
        proof: OwnProof,
    }

    impl Own {
        /// Of a root that is valid from `root` to `root`, and a leaf for `usages`.
        fn new(root: (u64, u64), usages: Vec<ExtendedKeyUsagePurpose>) -> Self {
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            (ca.not_before, ca.not_after) = (time(root.0), time(root.1));
            let ca_key = KeyPair::generate().unwrap();
            let root = ca.self_signed(&ca_key).unwrap().into();
            let mut leaf = CertificateParams::default();
            leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.extended_key_usages = usages;
            (leaf.not_before, leaf.not_after) = (time(FROM_S), time(TO_S));
            let key = KeyPair::generate().unwrap();
            let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
            let svid = Svid {
                id: SpiffeId::parse(ID).unwrap(),
                chain: vec![leaf.into()],
                key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                not_before: at(FROM_S),
                not_after: at(TO_S),
            };
            let revoked = Arc::<ArcSwap<Revocations>>::default();
            let domain = TrustDomain::parse("example.org").unwrap();
            let bundles = TrustBundles::of(&domain, &[root]).unwrap();
            Self {
                bundles: bundles.with_revocations(Arc::clone(&revoked)),
                revoked,
                proof: OwnProof::new(tls::peer_leaf(&svid.chain).unwrap()),
                svid,
            }
        }

        fn prove(&self, usage: Usage, secs: u64) -> Result<SpiffeId, SvidError> {
            let proved = self
                .proof
                .prove(&self.svid, &self.bundles, usage, at(secs))?;
            Ok(proved.id.clone())
        }
    }

    fn both() -> Vec<ExtendedKeyUsagePurpose> {
        vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ]
    }

    #[test]
    fn it_proves_what_a_handshake_would_while_it_is_valid() {
        let own = Own::new((0, TO_S + 9999), both());
        for usage in [Usage::Client, Usage::Server] {
            assert!(own.prove(usage, FROM_S - 1).is_err());
            // The second time from memory.
            for secs in [FROM_S, FROM_S + 1, TO_S - 1, TO_S] {
                let id = own.prove(usage, secs).unwrap();
                assert_eq!(id.as_str(), ID, "{secs}");
            }
            // What was verified a second ago has expired now, and a clock that is set back is believed.
            assert!(own.prove(usage, TO_S + 1).is_err());
            assert!(own.prove(usage, FROM_S).is_ok());
            assert!(own.prove(usage, FROM_S - 1).is_err());
        }
    }

    #[test]
    fn what_a_handshake_refuses_proves_nothing() {
        let own = Own::new((0, TO_S), vec![ExtendedKeyUsagePurpose::ClientAuth]);
        for usage in [Usage::Client, Usage::Server] {
            let refused = own.prove(usage, FROM_S);
            assert!(matches!(refused, Err(SvidError::Leaf(_))), "{refused:?}");
        }
    }

    #[test]
    fn revocations_count_at_once() {
        let own = Own::new((0, TO_S), both());
        assert!(own.prove(Usage::Client, FROM_S).is_ok());
        let target = Target::Id(SpiffeId::parse(ID).unwrap());
        let mut revocations = Revocations::default();
        revocations.add(target.clone(), "test").unwrap();
        own.revoked.store(Arc::new(revocations));
        let refused = own.prove(Usage::Client, FROM_S);
        assert_eq!(refused, Err(SvidError::Revoked(target)));
        own.revoked.store(Arc::default());
        assert!(own.prove(Usage::Client, FROM_S).is_ok());
    }

    #[test]
    fn the_root_is_looked_at_again_after_a_while() {
        let root_ends_s = FROM_S + 10;
        let own = Own::new((0, root_ends_s), both());
        assert!(own.prove(Usage::Client, FROM_S).is_ok());
        let later = FROM_S + limits::OWN_SVID_VERIFIED_S;
        assert_eq!(own.prove(Usage::Client, later), Err(SvidError::RootTime));
    }
}
