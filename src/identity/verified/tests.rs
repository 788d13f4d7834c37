//! Which handshakes a remembered chain spares the work, and which it must not.

use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::*;
use crate::identity::bundle::TrustBundles;
use crate::identity::revocation::{Revocations, Serial, Target};
use crate::identity::verify::{SvidError, verify_peer};
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

const ID: &str = "spiffe://example.org/ns/foo/sa/bar";
/// The leaf is valid from here, in seconds since the Unix epoch, for `LEAF_S`,
const FROM_S: u64 = 1_764_000_000;
const LEAF_S: u64 = 3600;
/// its issuer shorter than itself.
const ISSUER_S: u64 = 1800;

fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

fn authority(name: &str, to_s: u64) -> CertificateParams {
    let time = |secs: u64| {
        OffsetDateTime::from_unix_timestamp(i64::try_from(secs).expect("small")).expect("a time")
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (time(FROM_S), time(to_s));
    params
}

/// A root, an issuer below it, and a leaf.
struct Mesh {
    root: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    bundles: TrustBundles,
    revoked: Arc<ArcSwap<Revocations>>,
}

impl Mesh {
    fn new() -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let root = authority("root", FROM_S + 9 * LEAF_S);
        let root_der = root.self_signed(&root_key).expect("signed").into();
        let root = Issuer::new(root, root_key);
        let issuer_key = KeyPair::generate().expect("a key");
        let issuer = authority("issuer", FROM_S + ISSUER_S);
        let issuer_der = issuer.signed_by(&issuer_key, &root).expect("signed").into();
        let mut leaf = authority("leaf", FROM_S + LEAF_S);
        leaf.is_ca = IsCa::NoCa;
        leaf.serial_number = Some(77_u64.into());
        leaf.subject_alt_names = vec![SanType::URI(ID.try_into().expect("a URI"))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let leaf = leaf
            .signed_by(&key, &Issuer::new(issuer, issuer_key))
            .expect("signed");
        let revoked = Arc::<ArcSwap<Revocations>>::default();
        Self {
            bundles: trusting(&root_der).with_revocations(Arc::clone(&revoked)),
            root: root_der,
            issuer: issuer_der,
            leaf: leaf.into(),
            revoked,
        }
    }

    fn verify(&self, secs: u64) -> Result<String, SvidError> {
        self.verify_with(std::slice::from_ref(&self.issuer), secs)
    }

    fn verify_with(
        &self,
        intermediates: &[CertificateDer<'_>],
        secs: u64,
    ) -> Result<String, SvidError> {
        let (leaf, now) = (&self.leaf, at(secs));
        verify_peer(leaf, intermediates, &self.bundles, now, Usage::Client)
            .map(|peer| peer.id.to_string())
    }

    fn remembered(&self) -> usize {
        self.bundles.verified().map_or(0, VerifiedChains::len)
    }

    fn digest(&self, usage: Usage) -> ChainDigest {
        ChainDigest::of(&self.leaf, std::slice::from_ref(&self.issuer), usage)
    }
}

fn trusting(root: &CertificateDer<'_>) -> TrustBundles {
    let domain = TrustDomain::parse("example.org").expect("a domain");
    TrustBundles::of(&domain, std::slice::from_ref(root)).expect("a root")
}

fn proved(id: &str) -> Proved {
    Proved {
        leaf: Arc::new(PeerLeaf {
            id: SpiffeId::parse(id).expect("an ID"),
            serial: Serial::of_bytes(&[1]),
            node: None,
        }),
        validity: Validity {
            not_before: at(FROM_S),
            not_after: at(FROM_S + 10),
        },
    }
}

#[test]
fn the_second_time_the_path_is_not_built() {
    let mesh = Mesh::new();
    assert_eq!(mesh.remembered(), 0);
    assert_eq!(mesh.verify(FROM_S).as_deref(), Ok(ID));
    assert_eq!(mesh.remembered(), 1);
    assert_eq!(mesh.verify(FROM_S + 1).as_deref(), Ok(ID));
    assert_eq!(mesh.remembered(), 1);
    // What is remembered is what answers: under another name the same chain is another peer.
    let other = "spiffe://example.org/remembered";
    let chains = mesh.bundles.verified().expect("handshakes ask");
    chains.keep(mesh.digest(Usage::Client), proved(other));
    assert_eq!(mesh.verify(FROM_S + 2).as_deref(), Ok(other));
}

#[test]
fn the_shortest_validity_of_the_path_ends_it() {
    let mesh = Mesh::new();
    for _ in 0..2 {
        assert!(mesh.verify(FROM_S - 1).is_err());
        assert_eq!(mesh.verify(FROM_S).as_deref(), Ok(ID));
        assert_eq!(mesh.verify(FROM_S + ISSUER_S).as_deref(), Ok(ID));
        // The leaf is valid still, its issuer no more.
        let late = mesh.verify(FROM_S + ISSUER_S + 1);
        assert!(matches!(late, Err(SvidError::Chain { .. })), "{late:?}");
    }
}

#[test]
fn a_revocation_counts_at_once() {
    let mesh = Mesh::new();
    assert!(mesh.verify(FROM_S).is_ok());
    let targets = [
        Target::Id(SpiffeId::parse(ID).expect("an ID")),
        Target::Serial(Serial::of_bytes(&[77])),
    ];
    for target in targets {
        let mut revocations = Revocations::default();
        revocations.add(target.clone(), "test").expect("room");
        mesh.revoked.store(Arc::new(revocations));
        assert_eq!(mesh.verify(FROM_S), Err(SvidError::Revoked(target)));
        mesh.revoked.store(Arc::default());
        assert!(mesh.verify(FROM_S).is_ok());
    }
}

#[test]
fn what_is_refused_is_not_remembered() {
    let mesh = Mesh::new();
    let stranger = Mesh::new();
    let mut revocations = Revocations::default();
    let target = Target::Id(SpiffeId::parse(ID).expect("an ID"));
    revocations.add(target, "test").expect("room");
    mesh.revoked.store(Arc::new(revocations));
    for _ in 0..2 {
        assert!(mesh.verify(FROM_S).is_err(), "revoked");
        assert!(mesh.verify(FROM_S - 1).is_err(), "not valid yet");
        let issuer = std::slice::from_ref(&stranger.issuer);
        assert!(mesh.verify_with(issuer, FROM_S).is_err(), "no path");
    }
    assert_eq!(mesh.remembered(), 0);
}

#[test]
fn other_roots_remember_nothing_of_these() {
    let mesh = Mesh::new();
    let stranger = Mesh::new();
    assert!(mesh.verify(FROM_S).is_ok());
    let verify = |bundles: &TrustBundles| {
        let issuer = std::slice::from_ref(&mesh.issuer);
        verify_peer(&mesh.leaf, issuer, bundles, at(FROM_S), Usage::Client).is_ok()
    };
    // A clone has the same roots.
    assert!(verify(&mesh.bundles.clone()));
    let revoked = Arc::clone(&mesh.revoked);
    assert!(!verify(&trusting(&stranger.root).with_revocations(revoked)));
    // One more root: what is remembered begins anew, for this value alone.
    let mut more = mesh.bundles.clone();
    let domain = TrustDomain::parse("example.org").expect("a domain");
    more.add(&domain, &stranger.root).expect("a root");
    assert!(more.verified().is_none() && verify(&more));
    assert_eq!(mesh.remembered(), 1);
}

#[test]
fn the_whole_chain_is_what_is_remembered() {
    let mesh = Mesh::new();
    let stranger = Mesh::new();
    assert!(mesh.verify(FROM_S).is_ok());
    assert!(mesh.verify_with(&[], FROM_S).is_err());
    let issuer = std::slice::from_ref(&stranger.issuer);
    assert!(mesh.verify_with(issuer, FROM_S).is_err());
    // The same bytes in other pieces, and the same chain in another usage.
    let digest = mesh.digest(Usage::Client);
    let (head, tail) = mesh.issuer.split_at(10);
    let pieces = [head, tail].map(CertificateDer::from);
    assert_ne!(ChainDigest::of(&mesh.leaf, &pieces, Usage::Client), digest);
    assert_ne!(mesh.digest(Usage::Server), digest);
    assert_eq!(mesh.digest(Usage::Client), digest);
}

#[test]
fn bounded_and_found_by_the_whole_digest() {
    let chains = VerifiedChains::default();
    let mut numbered = 0_u64..;
    let mut next = || {
        let number = numbered.next().expect("endless").to_be_bytes();
        ChainDigest::of(&CertificateDer::from(&number[..]), &[], Usage::Client)
    };
    let first = next();
    chains.keep(first, proved(ID));
    let now = at(FROM_S);
    assert!(chains.find(&first, now).is_some());
    let rival = loop {
        let digest = next();
        if digest.slot() == first.slot() {
            break digest;
        }
    };
    assert!(chains.find(&rival, now).is_none(), "another chain");
    chains.keep(rival, proved(ID));
    assert!(chains.find(&first, now).is_none(), "its place is taken");
    for _ in 0..8 * limits::VERIFIED_CHAINS {
        chains.keep(next(), proved(ID));
    }
    assert!((1..=limits::VERIFIED_CHAINS).contains(&chains.len()));
}
