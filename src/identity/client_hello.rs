//! What a TLS client says first, read without answering it: which server it wants.

use rustls::server::Acceptor;
use thiserror::Error;

use crate::vocab::host::Host;
use crate::vocab::limits;

/// Why first bytes are not what is expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// Not a TLS ClientHello.
    #[error("not a TLS ClientHello: {0}")]
    NotTls(String),
    /// Larger than [`limits::CLIENT_HELLO_BYTES`].
    #[error("TLS ClientHello is longer than {} bytes", limits::CLIENT_HELLO_BYTES)]
    TooLong,
    /// No server name, or one that is not a DNS name.
    #[error("TLS ClientHello names no server, expected `{0}`")]
    NoName(String),
    /// Another server name.
    #[error("TLS ClientHello names server `{found}`, expected `{expected}`")]
    OtherName {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

/// Judges the first bytes of a connection to `host`: its ClientHello must carry that name, and no IP address stands
/// for one (RFC 6066 section 3). `Ok(false)`: more bytes are needed. The name of an encrypted ClientHello cannot be
/// seen; the outer one counts.
///
/// # Errors
/// `HelloError`.
pub fn names_host(bytes: &[u8], host: &Host) -> Result<bool, HelloError> {
    // One byte tells already; a client of another protocol may wait for an answer before it sends more.
    if bytes.first().is_some_and(|first| *first != HANDSHAKE) {
        return Err(HelloError::NotTls("no handshake record".to_owned()));
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(HelloError::NotTls(error.to_string())),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                return match accepted.client_hello().server_name() {
                    Some(found) if found.eq_ignore_ascii_case(host.name()) => Ok(true),
                    Some(found) => Err(HelloError::OtherName {
                        found: found.to_owned(),
                        expected: host.name().to_owned(),
                    }),
                    None => Err(HelloError::NoName(host.name().to_owned())),
                };
            }
            Err((error, _alert)) => return Err(HelloError::NotTls(error.to_string())),
        }
    }
    if bytes.len() >= limits::CLIENT_HELLO_BYTES {
        return Err(HelloError::TooLong);
    }
    Ok(false)
}

/// Type of the record that a TLS client begins with (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What a rustls client sends first.
    fn hello(name: &str, sni: bool) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.enable_sni = sni;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    fn judge(bytes: &[u8], host: &str) -> Result<bool, HelloError> {
        let host = Host::parse(host).map_err(|error| HelloError::NotTls(error.to_string()))?;
        names_host(bytes, &host)
    }

    #[test]
    fn whole_and_in_pieces() {
        let bytes = hello("Partner.example.test", true);
        assert_eq!(judge(&bytes, "partner.example.test:443"), Ok(true));
        for cut in 0..bytes.len() {
            assert_eq!(
                judge(&bytes[..cut], "partner.example.test:443"),
                Ok(false),
                "{cut}"
            );
        }
        let mut more = bytes;
        more.extend([20, 3, 3, 0, 1, 1]);
        assert_eq!(judge(&more, "partner.example.test"), Ok(true));
    }

    #[test]
    fn cut_into_records() {
        let whole = hello("partner.example.test", true);
        let mut records = Vec::new();
        for piece in whole[5..].chunks(100) {
            records.extend([HANDSHAKE, 3, 1, 0]);
            records.push(u8::try_from(piece.len()).unwrap());
            records.extend(piece);
        }
        assert_eq!(judge(&records, "partner.example.test"), Ok(true));
        assert!(judge(&records, "other.example.test").is_err());
    }

    #[test]
    fn another_name_or_none() {
        let other = judge(&hello("evil.example.test", true), "partner.example.test");
        assert_eq!(
            other.unwrap_err().to_string(),
            "TLS ClientHello names server `evil.example.test`, expected `partner.example.test`"
        );
        for (name, sni) in [("partner.example.test", false), ("192.0.2.1", true)] {
            let none = judge(&hello(name, sni), "partner.example.test");
            assert_eq!(
                none,
                Err(HelloError::NoName("partner.example.test".to_owned()))
            );
        }
        // A part of the name is another name.
        assert!(judge(&hello("example.test", true), "partner.example.test").is_err());
    }

    #[test]
    fn two_names_are_none() {
        let bytes = hello("partner.example.test", true);
        let name = b"partner.example.test";
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
        // The list of names gets a second one, and every length around it grows.
        let mut second = vec![0, 0, 4];
        second.extend(b"evil");
        let mut twice = bytes.clone();
        twice.splice(at + name.len()..at + name.len(), second.iter().copied());
        let mut grow = |at: usize| {
            let n = u16::from_be_bytes([twice[at], twice[at + 1]]) + 7;
            twice[at..at + 2].copy_from_slice(&n.to_be_bytes());
        };
        // Of the list, the extension, all extensions, the handshake message, the record.
        let extensions = extensions_at(&bytes);
        for length in [at - 5, at - 7, extensions, 7, 3] {
            grow(length);
        }
        assert!(matches!(
            judge(&twice, "partner.example.test"),
            Err(HelloError::NotTls(_))
        ));
    }

    /// Where the length of the extensions stands.
    fn extensions_at(bytes: &[u8]) -> usize {
        let session = 5 + 4 + 2 + 32;
        let suites = session + 1 + usize::from(bytes[session]);
        let compression =
            suites + 2 + usize::from(u16::from_be_bytes([bytes[suites], bytes[suites + 1]]));
        compression + 1 + usize::from(bytes[compression])
    }

    #[test]
    fn no_tls() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"SSH-2.0-x\r\n",
            b"\x00",
            b"\x17\x03\x03\x00\x05hello",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x09\x01\x00\x04\x01\x00\x00\x00",
        ] {
            assert!(
                matches!(judge(bytes, "a.test"), Err(HelloError::NotTls(_))),
                "{bytes:?}: {:?}",
                judge(bytes, "a.test")
            );
        }
    }

    #[test]
    fn too_long() {
        let mut bytes = vec![HANDSHAKE, 3, 1, 0x40, 0, 1, 0, 0xff, 0];
        bytes.resize(limits::CLIENT_HELLO_BYTES - 1, 0);
        assert_eq!(judge(&bytes, "a.test"), Ok(false));
        bytes.push(0);
        assert_eq!(judge(&bytes, "a.test"), Err(HelloError::TooLong));
    }
}
