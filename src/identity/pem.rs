//! PEM text of DER (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

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

/// Why a PEM text gives no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not PEM, or cut short.
    #[error("not readable as PEM")]
    Syntax,
    /// No private key in it.
    #[error("holds no private key")]
    Empty,
}

/// What a block is that holds a private key.
fn key_of(label: &str, der: Vec<u8>) -> Option<PrivateKeyDer<'static>> {
    match label {
        "PRIVATE KEY" => Some(PrivateKeyDer::Pkcs8(der.into())),
        "EC PRIVATE KEY" => Some(PrivateKeyDer::Sec1(der.into())),
        "RSA PRIVATE KEY" => Some(PrivateKeyDer::Pkcs1(der.into())),
        _ => None,
    }
}

/// The first private key of a PEM text (PKCS#8, SEC 1 or PKCS#1); other blocks are skipped. Nothing of it is left in memory
/// but what is returned, which is the caller's to wipe.
///
/// # Errors
/// `KeyError`.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    let text = std::str::from_utf8(pem).map_err(|_not_repeated| KeyError::Syntax)?;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let label = line.strip_prefix("-----BEGIN ");
        let Some(label) = label.and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        // Neither of the two grows.
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        loop {
            match lines.next() {
                Some(line) if line == end => break,
                Some(line) => base64.push_str(line),
                None => return Err(KeyError::Syntax),
            }
        }
        if key_of(label, Vec::new()).is_none() {
            continue;
        }
        let mut der = Zeroizing::new(vec![0; base64.len()]);
        let length = STANDARD
            .decode_slice(base64.as_bytes(), &mut der)
            .map_err(|_not_repeated| KeyError::Syntax)?;
        let exact = der.get(..length).unwrap_or_default().to_vec();
        return key_of(label, exact).ok_or(KeyError::Empty);
    }
    Err(KeyError::Empty)
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

    /// As the library that is used elsewhere reads them.
    #[test]
    fn keys() {
        let der = [0x30, 0x82, 1, 2, 3];
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let text = encode("CERTIFICATE", &[1; 99]) + "words\n" + &encode(label, &der);
            for text in [text.clone(), text.replace('\n', "\r\n")] {
                let key = private_key(text.as_bytes()).unwrap();
                let known = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
                assert_eq!(key, known, "{label}");
            }
        }
        let fails = |text: &str| private_key(text.as_bytes()).unwrap_err();
        assert_eq!(fails(&encode("CERTIFICATE", &der)), KeyError::Empty);
        assert_eq!(fails(""), KeyError::Empty);
        let whole = encode("PRIVATE KEY", &der);
        assert_eq!(
            fails(&whole.replace("-----END", "-----ENT")),
            KeyError::Syntax
        );
        assert_eq!(fails(&whole.replace("MII", "M!I")), KeyError::Syntax);
    }
}
