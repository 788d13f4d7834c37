//! PEM text of DER (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

const LINE_BYTES: usize = 64;

/// What is wrong with a PEM text.
#[derive(Debug, Error)]
pub enum PemError {
    /// Not PEM, or cut short.
    #[error("not readable as PEM")]
    Syntax(#[source] rustls::pki_types::pem::Error),
    /// No certificate in it.
    #[error("holds no certificate")]
    Empty,
}

/// One PEM block with `label`, such as `CERTIFICATE` or `PRIVATE KEY`, newline at the end.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(LINE_BYTES).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// The PEM blocks of several certificates, one after the other.
#[must_use]
pub fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|der| encode("CERTIFICATE", der))
        .collect()
}

/// Every certificate of a PEM text, in order; other blocks are skipped.
///
/// # Errors
/// `PemError` if the text is not PEM or holds no certificate.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(PemError::Syntax)?;
    if found.is_empty() {
        Err(PemError::Empty)
    } else {
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for len in [1, 47, 48, 49, 500] {
            let der = CertificateDer::from(vec![7_u8; len]);
            let text = encode_certificates(&[der.clone(), der.clone()]);
            assert_eq!(
                certificates(text.as_bytes()).unwrap(),
                vec![der.clone(), der]
            );
            assert!(text.lines().all(|line| line.len() <= LINE_BYTES));
        }
        assert!(matches!(
            certificates(b"nothing here"),
            Err(PemError::Empty)
        ));
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\nAAAA\n").is_err());
    }
}
