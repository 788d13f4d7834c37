//! Names of servers outside the mesh (policy semantics 9.2).

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::json::{Broken, text};
use crate::identity::outside::OutsideVerifier;

/// `san`: whether a server whose certificate holds the DNS name `san` is accepted as `host`.
pub(super) fn judge(case: &Value) -> Judged {
    let judge = || {
        let (got, why) = server_is(text(case, "host")?, text(case, "san")?)?;
        Ok(Judged::compare(case, "expect", json!(got), why))
    };
    judge().into()
}

/// A real certificate before the real verifier, as the name that was connected to and as a configured one.
fn server_is(host: &str, san: &str) -> Broken<(bool, Option<String>)> {
    let Ok(name) = san.try_into() else {
        return Ok((false, Some("no certificate can hold this name".to_owned())));
    };
    let (root, leaf) = certificate(SanType::DnsName(name)).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(root).map_err(|error| error.to_string())?;
    let roots = Arc::new(roots);
    let accepts = |names: &[String], connected: &str| -> Result<(), String> {
        let connected = ServerName::try_from(connected.to_owned()).map_err(|e| e.to_string())?;
        let verifier =
            OutsideVerifier::new(Arc::clone(&roots), names).map_err(|e| e.to_string())?;
        let now = UnixTime::now();
        match verifier.verify_server_cert(&leaf, &[], &connected, &[], now) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    let connected = accepts(&[], host);
    let configured = accepts(&[host.to_owned()], "elsewhere.test");
    if connected.is_ok() != configured.is_ok() {
        return Err(format!(
            "as the name connected to: {connected:?}; as a configured name: {configured:?}"
        ));
    }
    Ok((connected.is_ok(), connected.err()))
}

type Der = CertificateDer<'static>;

fn certificate(name: SanType) -> Result<(Der, Der), rcgen::Error> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key)?;
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![name];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer)?;
    Ok((root_cert.der().clone(), leaf.der().clone()))
}
