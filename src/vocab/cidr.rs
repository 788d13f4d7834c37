//! IP blocks as Istio writes them: an address, or an address with a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// An IP block. Host bits are masked; IPv4 never matches an IPv6 block; an IPv4-mapped address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// What is wrong with an IP block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an IP address or CIDR block")]
pub struct CidrError;

impl Cidr {
    /// Parses `10.0.0.0/8`, `10.1.2.3` (a /32), `fd00::/8`, `::1` (a /128).
    ///
    /// # Errors
    /// `CidrError` for anything else.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = addr.parse().map_err(|_e| CidrError)?;
        let max: u8 = if written.is_ipv4() { 32 } else { 128 };
        let mut bits = match prefix {
            None => max,
            Some(p) if !p.is_empty() && p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().map_err(|_e| CidrError)?
            }
            Some(_) => return Err(CidrError),
        };
        if bits > max {
            return Err(CidrError);
        }
        let base = written.to_canonical();
        if base.is_ipv4() && !written.is_ipv4() {
            bits = bits.checked_sub(96).ok_or(CidrError)?;
        }
        Ok(Self {
            base: mask(base, bits),
            prefix: bits,
        })
    }

    /// Address and prefix length; the bits after the prefix are zero, an IPv4-mapped block is IPv4.
    #[must_use]
    pub fn parts(&self) -> (IpAddr, u8) {
        (self.base, self.prefix)
    }

    /// The block of this prefix length that holds `ip`; no bits beyond those of the address count.
    #[must_use]
    pub fn of(ip: IpAddr, prefix: u8) -> Self {
        let base = ip.to_canonical();
        let prefix = prefix.min(if base.is_ipv4() { 32 } else { 128 });
        Self {
            base: mask(base, prefix),
            prefix,
        }
    }

    /// The last address inside.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | host))
            }
        }
    }

    /// Whether `ip` is inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.base.is_ipv4() && mask(ip, self.prefix) == self.base
    }

    /// Whether every address of `other` is inside.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.base)
    }

    /// The first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.base
    }
}

fn mask(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let m = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & m))
        }
        IpAddr::V6(v6) => {
            let m = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & m))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(s: &str) -> Result<Self, CidrError> {
        Self::parse(s)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &str, ip: &str, want: bool) {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(
            Cidr::parse(block).unwrap().contains(ip),
            want,
            "{block} {ip}"
        );
    }

    #[test]
    fn contains() {
        check("10.1.2.3/8", "10.9.9.9", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "1.2.3.4", false);
        check("::ffff:10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1", "::ffff:10.0.0.1", true);
    }

    #[test]
    fn covers() {
        for (wide, own, want) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "::1", true),
        ] {
            let block = |text| Cidr::parse(text).unwrap();
            assert_eq!(block(wide).covers(&block(own)), want, "{wide} {own}");
        }
    }

    #[test]
    fn ends() {
        for (block, first, last) in [
            ("10.1.2.3/8", "10.0.0.0", "10.255.255.255"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            (
                "fd00::/8",
                "fd00::",
                "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let block = Cidr::parse(block).unwrap();
            let ends = (block.parts().0.to_string(), block.last().to_string());
            assert_eq!(ends, (first.to_owned(), last.to_owned()));
            assert_eq!(Cidr::of(block.last(), block.parts().1), block);
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "::/129",
            "a/8",
        ] {
            assert_eq!(Cidr::parse(text), Err(CidrError), "{text}");
        }
    }
}
