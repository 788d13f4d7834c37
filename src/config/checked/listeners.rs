//! Where a process listens.

use std::net::{IpAddr, SocketAddr};

use crate::config::checked::{IdentitySource, Process};

impl Process {
    /// As `listens_on`, of an address that may be another machine's: `is_local` is asked where a listener takes every
    /// address of this one.
    #[must_use]
    pub fn listens_on_if(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let ip = address.ip().to_canonical();
        let reaches = |l: &SocketAddr| {
            l.port() == address.port()
                // A connection to no address in particular is one to loopback.
                && (ip.is_unspecified()
                    || l.ip().to_canonical() == ip
                    || (l.ip().is_unspecified() && is_local(ip)))
        };
        let mut found = false;
        self.each_listener(&mut |listener| found |= reaches(&listener));
        found
    }

    /// Where this process listens.
    #[must_use]
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        self.each_listener(&mut |listener| all.push(listener));
        all
    }

    fn each_listener(&self, each: &mut impl FnMut(SocketAddr)) {
        let authority = match &self.identity {
            IdentitySource::Embedded(authority) => authority.listen,
            IdentitySource::Remote(_)
            | IdentitySource::Files(_)
            | IdentitySource::WorkloadApi(_) => None,
        };
        let names = self.nodes.iter().flat_map(|node| {
            let workloads = node.workloads.iter().map(|w| w.dns);
            workloads.chain([node.dns]).flatten()
        });
        self.each_traffic_listener(&mut |address, _what| each(address));
        names
            .chain(self.admin)
            .chain(self.metrics)
            .chain(self.readiness)
            .chain(authority)
            .for_each(each);
    }

    /// Where the cores of this process listen, and what for.
    #[must_use]
    pub fn traffic_listeners(&self) -> Vec<(SocketAddr, &'static str)> {
        let mut all = Vec::new();
        self.each_traffic_listener(&mut |address, what| all.push((address, what)));
        all
    }

    fn each_traffic_listener(&self, each: &mut impl FnMut(SocketAddr, &'static str)) {
        let mut add = |what, addresses: &[Option<SocketAddr>]| {
            addresses.iter().flatten().for_each(|a| each(*a, what));
        };
        for node in &self.nodes {
            for address in &node.inbound {
                add("inbound", &[Some(*address)]);
            }
            add("outbound", &[node.outbound]);
            add("HBONE", &[node.hbone]);
            for workload in &node.workloads {
                add("HBONE", &[workload.hbone]);
                add("outbound", &[workload.outbound]);
                add("SOCKS5", &[workload.socks]);
            }
        }
        for waypoint in &self.waypoints {
            add("HBONE", &[Some(waypoint.hbone)]);
            add("direct mTLS", &[waypoint.mtls]);
        }
        for egress in &self.egresses {
            add("HBONE", &[Some(egress.hbone)]);
            add("proxy", &[egress.proxy]);
        }
        for ingress in &self.ingresses {
            add("redirect", &[ingress.http]);
        }
        for listener in self.ingresses.iter().flat_map(|i| &i.listeners) {
            add("ingress", &[Some(listener.address)]);
        }
    }
}
