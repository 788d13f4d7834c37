//! The compiled values of one field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::policy::attribute::joined;
use crate::policy::pattern::{RequestPrincipal, Template, TextSet};
use crate::policy::regex::WholeRegex;
use crate::policy::window::Window;
use crate::vocab::cidr::Cidr;
use crate::vocab::claims::Claims;

/// Compiled values of a field; one that matches is enough.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Text(TextSet),
    Paths(Box<(TextSet, Vec<Template>)>),
    Regexes(Box<[WholeRegex]>),
    Blocks(Box<Blocks>),
    /// In order.
    Ports(Box<[u16]>),
    RequestPrincipals(Box<[RequestPrincipal]>),
    Windows(Box<[Window]>),
}

/// IP blocks, as written and as ranges that are in order and do not overlap.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub(super) written: Box<[Cidr]>,
    v4: Box<[(Ipv4Addr, Ipv4Addr)]>,
    v6: Box<[(Ipv6Addr, Ipv6Addr)]>,
}

impl Blocks {
    /// Of blocks in any order.
    pub(super) fn new(written: Vec<Cidr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in &written {
            match (block.parts().0, block.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first, last)),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first, last)),
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Self {
            written: written.into(),
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => within(&self.v4, ip),
            IpAddr::V6(ip) => within(&self.v6, ip),
        }
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out.into()
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    let at = after.checked_sub(1).and_then(|i| ranges.get(i));
    at.is_some_and(|(_, last)| ip <= *last)
}

impl Matcher {
    /// Whether a string value matches.
    pub(super) fn text(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(set) => set.matches(value),
            Self::Paths(paths) => {
                let (set, templates) = &**paths;
                set.matches(value) || templates.iter().any(|t| t.matches(value))
            }
            Self::Regexes(regexes) => regexes.iter().any(|r| r.matches(value)),
            Self::Blocks(_) | Self::Ports(_) | Self::RequestPrincipals(_) | Self::Windows(_) => {
                false
            }
        }
    }

    /// Whether an address matches.
    pub(super) fn ip(&self, ip: IpAddr) -> bool {
        matches!(self, Self::Blocks(blocks) if blocks.contains(ip))
    }

    /// Whether a port matches.
    pub(super) fn port(&self, port: u16) -> bool {
        matches!(self, Self::Ports(ports) if ports.binary_search(&port).is_ok())
    }

    /// Whether a time, in seconds since the Unix epoch, matches.
    pub(super) fn time(&self, unix_s: i64) -> bool {
        matches!(self, Self::Windows(windows) if windows.iter().any(|w| w.contains(unix_s)))
    }

    /// Whether issuer and subject of a token match.
    pub(super) fn token(&self, claims: &Claims) -> bool {
        if let Self::RequestPrincipals(principals) = self {
            return principals.iter().any(|p| p.matches(claims));
        }
        match (claims.issuer(), claims.subject()) {
            (Some(issuer), Some(subject)) => joined(issuer, subject, |text| self.text(text)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let blocks = [
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.0.2.7",
            "fd00::/8",
            "11.0.0.0/8",
        ];
        let blocks = blocks.map(|b| Cidr::parse(b).unwrap()).to_vec();
        let matcher = Matcher::Blocks(Box::new(Blocks::new(blocks)));
        for (ip, want) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.2.0.1", true),
            ("11.255.255.255", true),
            ("12.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.0.0.1", true),
            ("fd12::1", true),
            ("fe00::", false),
        ] {
            assert_eq!(matcher.ip(ip.parse().unwrap()), want, "{ip}");
        }
    }
}
