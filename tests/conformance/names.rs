//! Names of servers outside the mesh (policy semantics 9.2).

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use ringgate::identity::outside::OutsideVerifier;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};

/// Whether a server whose certificate holds the DNS name `san` is accepted as `host`: as the name that was connected
/// to and as a configured one, which must be the same.
pub(super) fn server_is(host: &str, san: &str) -> bool {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::DnsName(san.try_into().unwrap())];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root_cert.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let accepts = |names: &[String], connected: &str| {
        let Ok(connected) = ServerName::try_from(connected.to_owned()) else {
            return false;
        };
        let Ok(verifier) = OutsideVerifier::new(Arc::clone(&roots), names) else {
            return false;
        };
        verifier
            .verify_server_cert(leaf.der(), &[], &connected, &[], UnixTime::now())
            .is_ok()
    };
    let connected = accepts(&[], host);
    let configured = accepts(&[host.to_owned()], "elsewhere.test");
    assert_eq!(connected, configured, "{host} {san}");
    connected
}
