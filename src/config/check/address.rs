//! Virtual addresses for services that have none, so that plain TCP can be told apart by name: Istio's ranges,
//! 240.240.0.0/16 and 2001:2::/48.
//!
//! They are made of the service's name alone, so that every node that reads the same resources allocates the same ones,
//! and a restart or another service changes nothing. Where two names meet at one address, the later of them in the order
//! of names moves on to the next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::check::service::may_allocate;
use crate::config::checked::Mesh;
use crate::vocab::resource::ResourceName;

/// 240.240.0.0/16.
const V4: u32 = 0xf0f0_0000;
/// 2001:2::/48.
const V6: u128 = 0x2001_0002 << 96;
/// Hosts of one /24, without its first and last address.
const PER_BLOCK: u32 = 254;
/// Addresses that are given out.
const ROOM: u32 = 256 * PER_BLOCK;

/// Allocates an address of each family to every service that has none, and whose hosts are names.
pub(crate) fn allocate(mesh: &mut Mesh) {
    let mut taken: BTreeSet<u32> = mesh
        .services
        .iter()
        .flat_map(|s| &s.addresses)
        .filter_map(|ip| place_of(*ip))
        .collect();
    let needs = |at: &usize| {
        mesh.services.get(*at).is_some_and(|s| {
            let named = s.hosts.iter().any(|h| !h.starts_with('*'));
            s.addresses.is_empty() && s.blocks.is_empty() && named && may_allocate(s)
        })
    };
    let mut all: Vec<usize> = (0..mesh.services.len()).filter(needs).collect();
    all.sort_by_key(|at| mesh.services.get(*at).map(|s| s.name.clone()));
    for at in all {
        let Some(service) = mesh.services.get_mut(at) else {
            continue;
        };
        let first = hash(&service.name);
        let tries = 0..ROOM;
        let mut free = tries.map(|n| first.wrapping_add(n).checked_rem(ROOM).unwrap_or(0));
        // A mesh of more services than addresses leaves the last ones without.
        if let Some(place) = free.find(|place| !taken.contains(place)) {
            taken.insert(place);
            service.allocated = vec![v4(place), v6(place)];
        }
    }
}

fn v4(place: u32) -> IpAddr {
    let block = place.checked_div(PER_BLOCK).unwrap_or(0);
    let host = place.checked_rem(PER_BLOCK).unwrap_or(0).saturating_add(1);
    Ipv4Addr::from_bits(V4 | (block << 8) | host).into()
}

fn v6(place: u32) -> IpAddr {
    Ipv6Addr::from_bits(V6 | u128::from(place.saturating_add(1))).into()
}

/// The place that a written address of these ranges occupies.
fn place_of(ip: IpAddr) -> Option<u32> {
    match ip {
        IpAddr::V4(ip) => {
            let inside = ip.to_bits().checked_sub(V4).filter(|n| *n <= 0xffff)?;
            let (block, host) = (inside >> 8, inside & 0xff);
            let host = host.checked_sub(1).filter(|h| *h < PER_BLOCK)?;
            block.checked_mul(PER_BLOCK)?.checked_add(host)
        }
        IpAddr::V6(ip) => {
            let inside = ip.to_bits().checked_sub(V6)?.checked_sub(1)?;
            u32::try_from(inside).ok().filter(|place| *place < ROOM)
        }
    }
}

/// FNV-1a over the name: the same on every machine, for every version.
fn hash(name: &ResourceName) -> u32 {
    let bytes = name
        .namespace
        .bytes()
        .chain([b'/'])
        .chain(name.name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let place = hash.checked_rem(u64::from(ROOM)).unwrap_or(0);
    u32::try_from(place).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn places_are_addresses_one_to_one() {
        let mut seen = BTreeSet::new();
        for place in 0..ROOM {
            let (four, six) = (v4(place), v6(place));
            assert_eq!(place_of(four), Some(place));
            assert_eq!(place_of(six), Some(place));
            assert!(seen.insert(four) && seen.insert(six));
            let IpAddr::V4(four) = four else {
                panic!("{four}")
            };
            let [a, b, _, host] = four.octets();
            assert!((a, b) == (240, 240) && host != 0 && host != 255, "{four}");
        }
        for outside in ["240.241.0.1", "10.0.0.1", "240.240.7.0", "2001:3::1", "::1"] {
            assert_eq!(place_of(outside.parse().unwrap()), None, "{outside}");
        }
    }

    #[test]
    fn a_name_has_its_address_for_good() {
        for (name, want) in [
            ("default/api", "240.240.124.106"),
            ("shop/orders", "240.240.76.116"),
        ] {
            let (namespace, name) = name.split_once('/').unwrap();
            let address = v4(hash(&ResourceName::new(namespace, name)));
            assert_eq!(address.to_string(), want, "{name}");
        }
    }
}
