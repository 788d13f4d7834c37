//! The listening sockets of one core: those that another process has handed over, else new ones. The first one of an address
//! is bound for all cores before they start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::Socket;

use crate::io::listener::{ListenOptions, claim, overlap, prepare, socket};
use crate::io::rt::Acceptor;
use crate::vocab::addr::ListenAddr;
use crate::worker::listen::ListenError;

/// Sockets of one core by their address.
pub type Own = BTreeMap<SocketAddr, Vec<Socket>>;

/// Binds the first socket of each address that was not handed over, and gives it to the first core. Cores bind theirs so that
/// they share an address with whoever else has it: this is where one is found that another process has.
///
/// # Errors
/// The first address that somebody else listens at.
pub fn first_of_each(
    listeners: &[(SocketAddr, &'static str)],
    dealt: &mut [Own],
) -> Result<(), ListenError> {
    let mut had: Vec<SocketAddr> = dealt.iter().flat_map(|own| own.keys().copied()).collect();
    for (address, what) in listeners {
        if had.iter().any(|other| overlap(*other, *address)) {
            continue;
        }
        match (claim(ListenAddr(*address)), dealt.first_mut()) {
            (Ok(socket), Some(first)) => {
                first.entry(*address).or_default().push(socket);
                had.push(*address);
            }
            (Err(source), _) if source.kind() == io::ErrorKind::AddrInUse => {
                let (address, what) = (*address, *what);
                return Err(ListenError {
                    address,
                    what,
                    source,
                });
            }
            // With its options a core may have it, or says why not.
            (Err(_) | Ok(_), _) => {}
        }
    }
    Ok(())
}

/// Sockets that are bound one by one.
#[derive(Debug)]
pub struct Sockets {
    inherited: Own,
    /// Whether this process may be taken over itself.
    keeps: bool,
    kept: Vec<OwnedFd>,
}

impl Sockets {
    /// With what is inherited. With `keeps` there is a second descriptor of each, to be handed over later.
    #[must_use]
    pub fn new(inherited: Own, keeps: bool) -> Self {
        Self {
            inherited,
            keeps,
            kept: Vec::new(),
        }
    }

    /// All sockets of an address on this core, at least one.
    ///
    /// # Errors
    /// As `bind(2)`, `listen(2)` and `setsockopt(2)`.
    pub fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<Vec<Acceptor>> {
        let mut sockets = self.inherited.remove(&address).unwrap_or_default();
        for inherited in &sockets {
            // Its options may be configured otherwise now.
            prepare(inherited, ListenAddr(address), options)?;
        }
        if sockets.is_empty() {
            sockets.push(socket(ListenAddr(address), options)?);
        }
        if self.keeps {
            for socket in &sockets {
                self.kept.push(socket.as_fd().try_clone_to_owned()?);
            }
        }
        sockets.into_iter().map(Acceptor::new).collect()
    }

    /// The second descriptors. What was inherited and is not listened at is closed.
    #[must_use]
    pub fn into_kept(self) -> Vec<OwnedFd> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(host: u8) -> [(SocketAddr, &'static str); 2] {
        let at = |port| SocketAddr::from(([127, 171, 93, host], port));
        [(at(15006), "inbound"), (at(15008), "HBONE")]
    }

    #[test]
    fn an_address_that_somebody_has_is_not_shared_with_him() {
        let listeners = listeners(1);
        let mut cores = [Own::new(), Own::new()];
        first_of_each(&listeners, &mut cores).unwrap();
        assert_eq!((cores[0].len(), cores[1].len()), (2, 0));
        // The other cores of the process have theirs beside it.
        let own = socket(ListenAddr(listeners[0].0), ListenOptions::default());
        let own = own.expect("it is shared");
        // Another process does not.
        let refused = first_of_each(&listeners[1..], &mut [Own::new()]).unwrap_err();
        assert_eq!(refused.address, listeners[1].0);
        assert_eq!(refused.what, "HBONE");
        assert_eq!(refused.source.kind(), io::ErrorKind::AddrInUse);
        // Who has it so that others may share it has it as well.
        drop(cores);
        let refused = first_of_each(&listeners[..1], &mut [Own::new()]).unwrap_err();
        assert_eq!(refused.address, listeners[0].0);
        drop(own);
        first_of_each(&listeners, &mut [Own::new()]).unwrap();
    }

    #[test]
    fn what_is_handed_over_is_nobody_elses() {
        let listeners = listeners(2);
        let mut before = [Own::new()];
        first_of_each(&listeners, &mut before).unwrap();
        // Both processes have the same socket.
        let handed = before[0][&listeners[0].0][0].try_clone().unwrap();
        let mut after = [Own::new(), Own::from([(listeners[0].0, vec![handed])])];
        first_of_each(&listeners[..1], &mut after).unwrap();
        assert_eq!((after[0].len(), after[1].len()), (0, 1));
    }

    #[test]
    fn a_port_of_all_addresses_is_one_port() {
        let all = SocketAddr::from(([0, 0, 0, 0], 15093));
        let one = SocketAddr::from(([127, 171, 93, 3], 15093));
        for pair in [[all, one], [one, all]] {
            let mut cores = [Own::new()];
            let pair = pair.map(|address| (address, "inbound"));
            first_of_each(&pair, &mut cores).unwrap();
            let mut sockets = Sockets::new(std::mem::take(&mut cores[0]), false);
            for (address, _) in pair {
                let own = sockets.inherited.remove(&address).unwrap_or_default();
                let bound = own
                    .is_empty()
                    .then(|| socket(ListenAddr(address), ListenOptions::default()));
                assert!(bound.is_none_or(|bound| bound.is_ok()), "{address}");
            }
        }
    }

    #[test]
    fn versions_of_ip_have_ports_of_their_own() {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 1);
        for (one, other, is_one_port) in [
            ("0.0.0.0", "::1", false),
            ("127.0.0.1", "::1", false),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "127.0.0.1", true),
            ("::", "0.0.0.0", true),
            ("::", "::1", true),
        ] {
            assert_eq!(overlap(at(one), at(other)), is_one_port, "{one} {other}");
            assert_eq!(overlap(at(other), at(one)), is_one_port, "{other} {one}");
        }
    }
}
