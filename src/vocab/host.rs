//! The host of a request, canonical: lower case, no trailing dot, port apart.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use thiserror::Error;

use crate::vocab::limits;

/// `:authority` or `Host`, checked and folded (policy semantics: compared without case and without one trailing dot).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Name or IP literal (IPv6 in brackets) and the port if it was written.
    text: String,
    name_len: usize,
    port: Option<u16>,
}

/// Why a host is refused (answered 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("host is empty, too long or holds a character that a host cannot hold")]
pub struct HostError;

/// The bytes of a registered name (RFC 3986 section 3.2.2), without those of escapes: a bit for each.
const PLAIN: u128 = {
    let mut left: &[u8] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-_~!$&'()*+,;=";
    let mut plain = 0;
    while let [byte, rest @ ..] = left {
        plain |= 1 << *byte;
        left = rest;
    }
    plain
};

fn is_plain(byte: u8) -> bool {
    PLAIN.checked_shr(byte.into()).unwrap_or(0) & 1 == 1
}

impl Host {
    /// Parses `name`, `name:port`, `1.2.3.4:port`, `[::1]:port`.
    ///
    /// # Errors
    /// `HostError` for userinfo, a path, `#`, `?`, spaces, an empty or over-long name, two dots at its end, a bad port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let (name, port) = split_port(text)?;
        let port: Option<u16> = match port {
            None => None,
            Some(p) if (1..=5).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) => {
                Some(p.parse().map_err(|_e| HostError)?)
            }
            Some(_) => return Err(HostError),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let valid = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => name.bytes().all(is_plain),
        };
        // With two dots at the end, what is judged would have one, and who reads that drops it: another host.
        let dotted = name.ends_with('.');
        if name.is_empty() || dotted || name.len() > limits::HOST_BYTES || !valid {
            return Err(HostError);
        }
        // Room for the port as it is written, which may have zeros before it.
        let mut folded = String::with_capacity(text.len());
        folded.push_str(name);
        folded.make_ascii_lowercase();
        let name_len = folded.len();
        if let Some(port) = port {
            // Writing into a text does not fail.
            write!(folded, ":{port}").map_err(|_e| HostError)?;
        }
        Ok(Self {
            text: folded,
            name_len,
            port,
        })
    }

    /// Name and port as policies compare them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name without the port.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.get(..self.name_len).unwrap_or_default()
    }

    /// The port if one was written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The address if the name is an IP literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        let name = self.name();
        match name.as_bytes().first()? {
            b'[' => name.strip_prefix('[')?.strip_suffix(']')?.parse().ok(),
            b'0'..=b'9' => name.parse().ok(),
            // An address begins with a digit, and nearly all that is asked for is none.
            _ => None,
        }
    }
}

/// Splits `name:port`; a bracketed IPv6 literal keeps its colons.
fn split_port(text: &str) -> Result<(&str, Option<&str>), HostError> {
    if text.starts_with('[') {
        let (inner, rest) = text.split_once(']').ok_or(HostError)?;
        let name = text.get(..inner.len() + 1).ok_or(HostError)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((name, Some(port))),
            None if rest.is_empty() => Ok((name, None)),
            None => Err(HostError),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(HostError),
        Some((name, port)) => Ok((name, Some(port))),
        None => Ok((text, None)),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds() {
        for (text, want) in [
            ("Customer-API", "customer-api"),
            ("a.com.", "a.com"),
            ("a.com.:80", "a.com:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), want);
        }
    }

    #[test]
    fn literals_are_addresses() {
        for (text, want) in [
            ("[::1]:8080", Some("::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("127.0.0.1.nip.example", None),
            ("1password.example", None),
            ("api.example", None),
            ("dead", None),
        ] {
            let want = want.map(|ip| ip.parse().unwrap());
            assert_eq!(Host::parse(text).unwrap().ip(), want, "{text}");
        }
    }

    #[test]
    fn bytes_of_a_name() {
        for byte in 0..=u8::MAX {
            let named = byte.is_ascii_alphanumeric() || b".-_~!$&'()*+,;=".contains(&byte);
            assert_eq!(is_plain(byte), named, "{byte}");
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "", ".", "..", "a..", "a..:80", "a b", "user@a", "a/b", "a#b", "a?b", "a:b", "a:",
            "a:99999", "::1", "[::1", "[::1]x", "a\u{e9}",
        ] {
            assert_eq!(Host::parse(text), Err(HostError), "{text}");
        }
    }
}
