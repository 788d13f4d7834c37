//! Every address that this process listens at; no two may be the same.

use std::net::SocketAddr;

use crate::config::check::Context;
use crate::config::place::At;

/// Addresses so far.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    seen: Vec<At<SocketAddr>>,
}

impl Listeners {
    /// Adds a listener and returns its address.
    pub(crate) fn add(&mut self, at: &At<SocketAddr>, cx: &mut Context<'_>) -> SocketAddr {
        if let Some(first) = self
            .seen
            .iter()
            .find(|first| overlap(first.value, at.value))
        {
            let (key, address) = (&first.place.key, first.value);
            cx.out.error(
                &at.place,
                format!("`{}` is already taken by {key} (`{address}`)", at.value),
            );
        }
        cx.out.name_listener(&at.place, at.value);
        self.seen.push(at.clone());
        at.value
    }
}

/// Whether two listeners would take each other's connections.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    // The IPv6 wildcard takes IPv4 as well, unless the socket is told otherwise.
    let any = |ip: std::net::IpAddr, other: std::net::IpAddr| {
        ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4())
    };
    a.port() == b.port() && (x == y || any(x, y) || any(y, x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        for (a, b, want) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ] {
            assert_eq!(
                overlap(a.parse().unwrap(), b.parse().unwrap()),
                want,
                "{a} {b}"
            );
        }
    }
}
