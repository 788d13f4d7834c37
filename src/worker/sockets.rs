//! The listening sockets of one core: those that another process has handed over, else new ones.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::Socket;

use crate::io::listener::{ListenOptions, prepare, socket};
use crate::io::rt::Acceptor;
use crate::vocab::addr::ListenAddr;

/// Sockets that are bound one by one.
#[derive(Debug)]
pub struct Sockets {
    inherited: BTreeMap<SocketAddr, Vec<Socket>>,
    /// Whether this process may be taken over itself.
    keeps: bool,
    kept: Vec<OwnedFd>,
}

impl Sockets {
    /// With what is inherited. With `keeps` there is a second descriptor of each, to be handed over later.
    #[must_use]
    pub fn new(inherited: BTreeMap<SocketAddr, Vec<Socket>>, keeps: bool) -> Self {
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
