//! The addresses of outside names, as they were judged when DNS answered. Nothing else of a name is dialled.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

use crate::vocab::limits;
use crate::vocab::scope::{is_global, is_private};

/// A name that has to be resolved, and how its answers are judged: two services may share a name and differ in that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// In lower case, without a trailing dot.
    pub host: String,
    /// `dangerous_allowPrivateAddresses`: answers may also be inside addresses.
    pub allow_private: bool,
}

/// What is known about a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Addresses that may be dialled, in order and without doubles; never more than `limits::ADDRESSES_PER_NAME`.
    pub addresses: Vec<IpAddr>,
    /// What DNS answered and may not be dialled.
    pub refused: Vec<IpAddr>,
    /// Why there was no newer answer; the addresses are the last good ones then.
    pub failure: Option<Failure>,
}

/// Why a name has no newer answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// DNS says that there is no such name, or no address of it.
    #[error("has no address in DNS")]
    NoSuchName,
    /// DNS said nothing.
    #[error("cannot be resolved: {0}")]
    Unanswered(String),
}

impl Known {
    /// Judges the addresses of an answer.
    #[must_use]
    pub fn judge(mut answer: Vec<IpAddr>, allow_private: bool) -> Self {
        for ip in &mut answer {
            *ip = ip.to_canonical();
        }
        answer.sort_unstable();
        answer.dedup();
        let may = |ip: &IpAddr| is_global(*ip) || (allow_private && is_private(*ip));
        let (mut addresses, mut refused): (Vec<_>, Vec<_>) = answer.into_iter().partition(may);
        addresses.truncate(limits::ADDRESSES_PER_NAME);
        refused.truncate(limits::ADDRESSES_PER_NAME);
        Self {
            addresses,
            refused,
            failure: None,
        }
    }

    /// The same after an attempt that failed. What DNS says does not exist is not dialled any more; silence changes
    /// nothing.
    #[must_use]
    pub fn after(&self, failure: Failure) -> Self {
        match failure {
            Failure::NoSuchName => Self {
                failure: Some(failure),
                ..Self::default()
            },
            Failure::Unanswered(_) => Self {
                failure: Some(failure),
                ..self.clone()
            },
        }
    }
}

/// All names, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Changes with every change of an address.
    pub generation: u64,
    /// By name.
    pub by_name: BTreeMap<Name, Known>,
}

/// Why a name cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    host: String,
    known: Option<Known>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.host)?;
        let Some(known) = &self.known else {
            return f.write_str("is not resolved yet");
        };
        if let Some(failure) = &known.failure {
            return failure.fmt(f);
        }
        f.write_str("has no address that may be dialled: DNS answered ")?;
        for (at, ip) in known.refused.iter().enumerate() {
            write!(f, "{}{ip}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Resolved {
    /// The addresses of a name; never none.
    ///
    /// # Errors
    /// `Unusable` if there is none that may be dialled.
    pub fn addresses(&self, name: &Name) -> Result<&[IpAddr], Unusable> {
        let known = self.by_name.get(name);
        match known.map(|k| k.addresses.as_slice()) {
            Some(addresses @ [_, ..]) => Ok(addresses),
            Some([]) | None => Err(Unusable {
                host: name.host.clone(),
                known: known.cloned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace()
            .map(|t| t.parse().unwrap())
            .collect()
    }

    #[test]
    fn judged() {
        for (allow_private, answer, addresses, refused) in [
            (false, "8.8.8.8 1.1.1.1 8.8.8.8", "1.1.1.1 8.8.8.8", ""),
            (false, "127.0.0.1 8.8.8.8", "8.8.8.8", "127.0.0.1"),
            (
                false,
                "::ffff:10.0.0.1 2606:4700::1",
                "2606:4700::1",
                "10.0.0.1",
            ),
            (true, "::ffff:10.0.0.1 ::1", "10.0.0.1 ::1", ""),
            (
                true,
                "169.254.169.254 10.0.0.1",
                "10.0.0.1",
                "169.254.169.254",
            ),
            (true, "0.0.0.0 ::", "", "0.0.0.0 ::"),
            (false, "", "", ""),
        ] {
            let known = Known::judge(ips(answer), allow_private);
            assert_eq!(known.addresses, ips(addresses), "{answer}");
            assert_eq!(known.refused, ips(refused), "{answer}");
        }
    }

    #[test]
    fn bounded() {
        let many = (0..200_u8).map(|n| IpAddr::from([8, 8, 8, n])).collect();
        assert_eq!(
            Known::judge(many, false).addresses.len(),
            limits::ADDRESSES_PER_NAME
        );
    }

    #[test]
    fn silence_keeps_and_no_ends() {
        let known = Known::judge(ips("8.8.8.8"), false);
        let silent = known.after(Failure::Unanswered("timed out".to_owned()));
        assert_eq!(silent.addresses, ips("8.8.8.8"));
        assert_eq!(known.after(Failure::NoSuchName).addresses, ips(""));
    }

    #[test]
    fn reasons() {
        let name = |host: &str, allow_private| Name {
            host: host.to_owned(),
            allow_private,
        };
        let mut all = Resolved::default();
        all.by_name.insert(
            name("in.test", false),
            Known::judge(ips("127.0.0.1 10.0.0.1"), false),
        );
        all.by_name.insert(
            name("none.test", false),
            Known::default().after(Failure::NoSuchName),
        );
        all.by_name
            .insert(name("out.test", false), Known::judge(ips("8.8.8.8"), false));
        for (name, want) in [
            (
                name("in.test", false),
                "`in.test` has no address that may be dialled: DNS answered 10.0.0.1, 127.0.0.1",
            ),
            (name("in.test", true), "`in.test` is not resolved yet"),
            (
                name("none.test", false),
                "`none.test` has no address in DNS",
            ),
        ] {
            assert_eq!(all.addresses(&name).unwrap_err().to_string(), want);
        }
        assert_eq!(
            all.addresses(&name("out.test", false)).unwrap(),
            ips("8.8.8.8")
        );
    }
}
