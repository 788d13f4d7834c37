//! Addresses by meaning, so that one cannot be passed for another.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

macro_rules! address {
    ($(#[$doc:meta] $name:ident),+ $(,)?) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// IP address; an IPv4-mapped IPv6 address is the IPv4 address it stands for.
            #[must_use]
            pub fn ip(self) -> IpAddr {
                self.0.ip().to_canonical()
            }

            /// TCP port.
            #[must_use]
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                SocketAddr::new(self.ip(), self.port()).fmt(f)
            }
        }
    )+};
}

address! {
    /// Where a listener is bound.
    ListenAddr,
    /// The TCP peer of a downstream connection: never an identity.
    PeerAddr,
    /// Where the client wanted to go before the connection was captured.
    OriginalDst,
    /// Where an upstream connection is made to.
    UpstreamAddr,
}
