//! The names of a server's certificate (RFC 9525): which it has, and which a client takes it for.

use std::net::IpAddr;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::vocab::hosts;

/// DNS names of the subjectAltName of a certificate, in lower case, each once: exact ones and `*.suffix`. Other forms of
/// wildcards and addresses that are written as names, which clients do not take, are left out, and so is the CN.
#[must_use]
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return names;
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return names;
    };
    for name in &extension.value.general_names {
        if let GeneralName::DNSName(name) = name {
            let name = name.to_ascii_lowercase();
            let is_address = name.parse::<IpAddr>().is_ok();
            if hosts::is_pattern(&name) && !is_address && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Whether a client that asks for `pattern` takes the certificate for its server's, if it trusts who issued it. A wildcard of
/// a certificate stands for one label; for `*.suffix` it must have that very name.
#[must_use]
pub fn covers(certificate: &CertificateDer<'_>, pattern: &str) -> bool {
    if pattern.starts_with('*') {
        return dns_names(certificate).iter().any(|name| name == pattern);
    }
    let Ok(name) = ServerName::try_from(pattern) else {
        return false;
    };
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let common = &mut params.distinguished_name;
        common.push(DnType::CommonName, "common.example");
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn names_and_what_they_cover() {
        let one = certificate(&["A.example", "*.b.example", "a.example", "10.0.0.1"]);
        assert_eq!(dns_names(&one), ["a.example", "*.b.example"]);
        for (pattern, want) in [
            ("a.example", true),
            ("x.b.example", true),
            ("*.b.example", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("y.x.b.example", false),
            ("b.example", false),
            ("*.example", false),
            ("*.x.b.example", false),
            ("common.example", false),
            ("", false),
        ] {
            assert_eq!(covers(&one, pattern), want, "{pattern}");
        }
    }

    #[test]
    fn names_that_no_client_takes() {
        let mut params = CertificateParams::default();
        for name in ["*", "a*.example", "x.*.example", "a..example", "10.0.0.1"] {
            let name = name.try_into().unwrap();
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = KeyPair::generate().unwrap();
        let one = params.self_signed(&key).unwrap().der().clone();
        assert!(dns_names(&one).is_empty());
        assert!(!covers(&one, "*"));
        assert!(dns_names(&CertificateDer::from(vec![1, 2])).is_empty());
        assert!(!covers(&CertificateDer::from(vec![1, 2]), "a.example"));
    }
}
