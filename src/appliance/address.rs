//! The address of the machine as the command line gives it: `ADDR/LEN[,gw=ADDR][,dns=ADDR]..[,mtu=BYTES]`.

use std::net::{IpAddr, Ipv4Addr};

/// Smallest MTU that is taken: what IPv4 hosts must accept whole (RFC 791).
pub const MTU_MIN: u32 = 576;
/// Largest: jumbo frames.
pub const MTU_MAX: u32 = 9216;
/// Most nameservers, as in `resolv.conf(5)`.
pub const NAMESERVERS: usize = 3;

/// One `ringgate.net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// `dhcp`: DHCPv4 asks.
    Dhcp,
    /// `none`: the interface stays down.
    Off,
    /// An address.
    Static(Address),
}

/// What an interface has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Default gateway, of the same family.
    pub gateway: Option<IpAddr>,
    /// Nameservers, `NAMESERVERS` at most.
    pub nameservers: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
}

impl Address {
    /// Whether `other` is in its network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        let (bits, own, other) = match (self.ip, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (32, u128::from(own.to_bits()), u128::from(other.to_bits()))
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (128, own.to_bits(), other.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let host = u32::from(bits - self.prefix.min(bits));
        own.checked_shr(host) == other.checked_shr(host)
    }
}

/// Reads one; the error is what was expected.
///
/// # Errors
/// What was expected.
pub fn parse_network(value: &str) -> Result<Network, String> {
    const FORM: &str = "dhcp, none or ADDR/LEN[,gw=ADDR][,dns=ADDR][,mtu=BYTES]";
    match value {
        "dhcp" => return Ok(Network::Dhcp),
        "none" => return Ok(Network::Off),
        _ => {}
    }
    let mut parts = value.split(',');
    let (ip, prefix) = parts
        .next()
        .and_then(|first| first.split_once('/'))
        .ok_or(FORM)?;
    let ip: IpAddr = ip.parse().map_err(|_not_told| FORM)?;
    let prefix: u8 = prefix.parse().map_err(|_not_told| FORM)?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    if prefix == 0 || prefix > bits || !is_host(ip) {
        return Err(format!(
            "the address of a host, and 1 to {bits} bits of network"
        ));
    }
    let (gateway, nameservers, mtu) = (None, Vec::new(), None);
    let mut address = Address {
        ip,
        prefix,
        gateway,
        nameservers,
        mtu,
    };
    for part in parts {
        let (key, value) = part.split_once('=').ok_or(FORM)?;
        match key {
            "gw" if address.gateway.is_none() => {
                let gateway = value.parse().ok().filter(|g| is_host(*g));
                let gateway = gateway.filter(|g: &IpAddr| g.is_ipv4() == ip.is_ipv4());
                address.gateway = Some(gateway.ok_or("gw to be an address of the same family")?);
            }
            "dns" if address.nameservers.len() < NAMESERVERS => {
                let server = value.parse().map_err(|_not_told| "dns to be an address")?;
                address.nameservers.push(server);
            }
            "mtu" if address.mtu.is_none() => {
                let mtu = value
                    .parse()
                    .ok()
                    .filter(|m| (MTU_MIN..=MTU_MAX).contains(m));
                let expected = || format!("mtu to be {MTU_MIN} to {MTU_MAX}");
                address.mtu = Some(mtu.ok_or_else(expected)?);
            }
            _ => {
                return Err(format!(
                    "gw once, dns at most {NAMESERVERS} times, mtu once, not `{key}`"
                ));
            }
        }
    }
    Ok(Network::Static(address))
}

/// Whether a host may have it.
#[must_use]
pub fn is_host(ip: IpAddr) -> bool {
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    let is_zero = matches!(ip, IpAddr::V4(v4) if v4.octets().first() == Some(&0));
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_broadcast || is_zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(value: &str) -> Address {
        match parse_network(value) {
            Ok(Network::Static(address)) => address,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(parse_network("dhcp"), Ok(Network::Dhcp));
        assert_eq!(parse_network("none"), Ok(Network::Off));
        let all = fixed("10.0.2.15/24,gw=10.0.2.2,dns=10.0.2.3,dns=10.0.2.4,mtu=1460");
        assert_eq!(all.gateway, Some("10.0.2.2".parse().unwrap()));
        assert_eq!(
            (all.prefix, all.nameservers.len(), all.mtu),
            (24, 2, Some(1460))
        );
        assert_eq!(fixed("2001:db8::2/64,gw=fe80::1").prefix, 64);
        for bad in [
            "",
            "10.0.0.2",
            "10.0.0.2/0",
            "10.0.0.2/33",
            "127.0.0.1/8",
            "0.0.0.1/8",
            "255.255.255.255/32",
            "224.0.0.1/4",
            "10.0.0.2/8,gw=::1",
            "10.0.0.2/8,gw=",
            "10.0.0.2/8,gw=fe80::1",
            "10.0.0.2/8,gw=10.0.0.1,gw=10.0.0.1",
            "10.0.0.2/8,mtu=100",
            "10.0.0.2/8,mtu=65536",
            "10.0.0.2/8,ntp=10.0.0.1",
            "10.0.0.2/8,",
            "::1/128",
            "10.0.0.2/8,dns=a",
            "10.0.0.2/8,dns=1.1.1.1,dns=1.1.1.1,dns=1.1.1.1,dns=1.1.1.1",
        ] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn gateways_may_be_elsewhere() {
        let own = fixed("10.0.2.15/24");
        assert!(own.contains("10.0.2.2".parse().unwrap()));
        assert!(!own.contains("10.0.3.2".parse().unwrap()));
        assert!(!own.contains("fe80::1".parse().unwrap()));
        let alone = fixed("10.0.2.15/32");
        assert!(!alone.contains("10.0.2.2".parse().unwrap()));
        assert!(alone.contains("10.0.2.15".parse().unwrap()));
        assert!(fixed("2001:db8::2/64").contains("2001:db8::1".parse().unwrap()));
    }
}
