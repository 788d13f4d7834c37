//! PEM text of DER (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

const LINE_BYTES: usize = 64;
/// Label of a key in PKCS#8 (RFC 7468 section 10).
const KEY: &str = "PRIVATE KEY";

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
    block(label, &STANDARD.encode(der))
}

/// As [`encode`], of a private key in PKCS#8: the text is wiped when it is dropped, and nothing of it is left elsewhere.
#[must_use]
pub fn encode_key(der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(block(KEY, &Zeroizing::new(STANDARD.encode(der))))
}

fn block(label: &str, base64: &str) -> String {
    let marks = ["-----BEGIN ", "-----\n", "-----END ", "-----\n"];
    let length = marks.iter().map(|m| m.len()).sum::<usize>()
        + 2 * label.len()
        + base64.len()
        + base64.len().div_ceil(LINE_BYTES);
    // It does not grow, by which it would leave a key behind.
    let mut out = String::with_capacity(length);
    let [begin, begun, end, ended] = marks;
    out.extend([begin, label, begun]);
    let mut rest = base64;
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(LINE_BYTES).unwrap_or((rest, ""));
        out.extend([line, "\n"]);
        rest = tail;
    }
    out.extend([end, label, ended]);
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
fn key_of(label: &[u8], der: Vec<u8>) -> Option<PrivateKeyDer<'static>> {
    match label {
        b"PRIVATE KEY" => Some(PrivateKeyDer::Pkcs8(der.into())),
        b"EC PRIVATE KEY" => Some(PrivateKeyDer::Sec1(der.into())),
        b"RSA PRIVATE KEY" => Some(PrivateKeyDer::Pkcs1(der.into())),
        _ => None,
    }
}

/// The label of a line that begins or ends a block.
fn label<'l>(line: &'l [u8], mark: &[u8]) -> Option<&'l [u8]> {
    let line = line.strip_prefix(b"-----")?.strip_prefix(mark)?;
    line.strip_suffix(b"-----")
}

/// The first private key of a PEM text (PKCS#8, SEC 1 or PKCS#1); other blocks are skipped, and so is what stands around
/// them, in whatever encoding (RFC 7468 section 2). Nothing of it is left in memory but what is returned, which is the
/// caller's to wipe.
///
/// # Errors
/// `KeyError`.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    let mut lines = pem.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(begun) = label(line, b"BEGIN ") else {
            continue;
        };
        // Neither of the two grows.
        let mut base64 = Zeroizing::new(Vec::with_capacity(pem.len()));
        loop {
            match lines.next() {
                Some(line) if label(line, b"END ") == Some(begun) => break,
                Some(line) => base64.extend_from_slice(line),
                None => return Err(KeyError::Syntax),
            }
        }
        if key_of(begun, Vec::new()).is_none() {
            continue;
        }
        let mut der = Zeroizing::new(vec![0; base64.len()]);
        let length = STANDARD
            .decode_slice(&*base64, &mut der)
            .map_err(|_not_repeated| KeyError::Syntax)?;
        let exact = der.get(..length).unwrap_or_default().to_vec();
        return key_of(begun, exact).ok_or(KeyError::Empty);
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

    #[test]
    fn a_key_is_written_like_any_block() {
        for len in [1, 47, 48, 49, 96, 500] {
            let der = vec![7_u8; len];
            let text = encode_key(&der);
            assert_eq!(text.as_str(), encode("PRIVATE KEY", &der));
            assert_eq!(text.len(), text.capacity());
        }
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
    /// As `openssl pkcs12` writes them, with a name in Latin-1.
    #[test]
    fn what_stands_around_the_blocks_need_not_be_text() {
        let name =
            b"Bag Attributes\n    friendlyName: Schl\xfcssel\nKey Attributes: <No Attributes>\n";
        let (key, der) = ([0x30, 0x82, 1, 2, 3], [1; 99]);
        let blocks = [encode("CERTIFICATE", &der), encode("PRIVATE KEY", &key)];
        let pem: Vec<u8> = blocks
            .iter()
            .flat_map(|block| [&name[..], block.as_bytes()].concat())
            .chain(*name)
            .collect();
        assert!(std::str::from_utf8(&pem).is_err());
        assert_eq!(private_key(&pem).unwrap().secret_der(), key);
        assert_eq!(
            certificates(&pem).unwrap(),
            [CertificateDer::from(&der[..])]
        );
        let mut inside = encode("PRIVATE KEY", &key).into_bytes();
        inside.insert(inside.len() / 2, 0xfc);
        assert_eq!(private_key(&inside).unwrap_err(), KeyError::Syntax);
    }
}
