//! How many connections there are at a time: of the process, of each workload in either direction, and of each peer.
//!
//! The counts are the process's, not a core's: the kernel spreads connections over the cores as it likes, and all tunnels
//! of one HBONE connection are on one core. They are touched when a connection begins and when it ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;

use crate::config::checked::Process;
use crate::exchange::close::CloseReason;
use crate::telemetry::tally::Tally;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;
use crate::worker::peers::{Counted, Peers};
use crate::worker::sources::{self, Sources};

/// What is said of work that the memory ceiling refuses.
pub(super) const MEMORY: &str = "the process is at its memory ceiling (limits.maxMemoryMib)";

/// All places of the process.
#[derive(Debug)]
pub struct Places {
    tally: Arc<Tally>,
    sources: Arc<Sources>,
    most: usize,
    workloads: BTreeMap<ResourceName, [Arc<Count>; 2]>,
    peers: Option<Peers>,
}

#[derive(Debug)]
struct Count {
    now: AtomicUsize,
    most: usize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Taken {
    count: Arc<Count>,
    /// One of the peer's as well.
    _peer: Option<Counted>,
}

/// Which limit is reached, in words.
#[derive(Debug, Error)]
pub enum Full {
    /// Of a workload, from others.
    #[error("`{0}` has {1} connections from others (maxInboundConnections)")]
    Inbound(ResourceName, usize),
    /// Of a workload, to others.
    #[error("`{0}` has {1} connections to others (maxOutboundConnections)")]
    Outbound(ResourceName, usize),
    /// Of a peer.
    #[error("`{0}` has {1} connections here (limits.maxConnectionsPerPeer)")]
    Peer(SpiffeId, usize),
    /// Of a source address at the ingress.
    #[error("`{0}` has {1} connections (limits.maxConnectionsPerSource)")]
    Source(IpAddr, u32),
    /// Of the process.
    #[error("the process has {0} connections (limits.maxConnections)")]
    Process(usize),
    /// The process's own memory.
    #[error("{MEMORY}")]
    Memory,
}

impl Full {
    /// The reason of the end.
    #[must_use]
    pub fn close(&self) -> CloseReason {
        match self {
            Self::Memory => CloseReason::Overload,
            Self::Inbound(..)
            | Self::Outbound(..)
            | Self::Peer(..)
            | Self::Source(..)
            | Self::Process(_) => CloseReason::Limit,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.count.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// The places of a process with this many cores. `tally` is told.
    #[must_use]
    pub fn new(process: &Process, cores: usize, tally: Arc<Tally>) -> Self {
        let count = |most| {
            let now = AtomicUsize::new(0);
            Arc::new(Count { now, most })
        };
        let hosted = process.nodes.iter().flat_map(|node| &node.workloads);
        let workloads = hosted.map(|w| {
            let counts = [count(w.limits.inbound), count(w.limits.outbound)];
            (w.workload.clone(), counts)
        });
        let own = limits::CONNECTIONS_PER_CORE.saturating_mul(cores);
        let most = process.limits.connections.map_or(own, |most| most.min(own));
        Self {
            tally,
            sources: Sources::new(process.limits.per_source, most),
            most,
            workloads: workloads.collect(),
            peers: process.limits.per_peer.map(Peers::new),
        }
    }

    /// Takes a place of a workload for what goes to others.
    ///
    /// # Errors
    /// All are taken, which is counted.
    pub fn take_outbound(&self, workload: &ResourceName) -> Result<Option<Taken>, Full> {
        let Some([_inbound, outbound]) = self.workloads.get(workload) else {
            return Ok(None);
        };
        match self.one_of(outbound, None) {
            Some(taken) => Ok(Some(taken)),
            None => Err(Full::Outbound(workload.clone(), outbound.most)),
        }
    }

    /// Takes a place of a workload, and one of the peer, for what comes from `peer`.
    ///
    /// # Errors
    /// All are taken, which is counted.
    pub fn take_inbound(
        &self,
        workload: &ResourceName,
        peer: Option<&SpiffeId>,
    ) -> Result<Option<Taken>, Full> {
        let Some([inbound, _outbound]) = self.workloads.get(workload) else {
            return Ok(None);
        };
        let counted = match (&self.peers, peer) {
            (Some(peers), Some(peer)) => Some(peers.take(peer).map_err(|most| {
                self.tally.refuse();
                Full::Peer(peer.clone(), most)
            })?),
            (Some(_) | None, _) => None,
        };
        match self.one_of(inbound, counted) {
            Some(taken) => Ok(Some(taken)),
            None => Err(Full::Inbound(workload.clone(), inbound.most)),
        }
    }

    fn one_of(&self, count: &Arc<Count>, peer: Option<Counted>) -> Option<Taken> {
        if count.now.fetch_add(1, Ordering::Relaxed) < count.most {
            return Some(Taken {
                count: Arc::clone(count),
                _peer: peer,
            });
        }
        count.now.fetch_sub(1, Ordering::Relaxed);
        self.tally.refuse();
        None
    }

    /// Counts a connection or tunnel of the process.
    pub fn enter(&self) {
        self.tally.enter();
    }

    /// One that was counted has ended.
    pub fn leave(&self) {
        self.tally.leave();
    }

    /// Why what is about to begin is too much for the process, if it is; that it was refused is counted then. `entered`:
    /// whether it was counted already.
    #[must_use]
    pub fn refuses(&self, entered: bool) -> Option<Full> {
        let others = self.tally.open().saturating_sub(entered.into());
        let full = if others >= self.most {
            Full::Process(self.most)
        } else if self.tally.sheds() {
            Full::Memory
        } else {
            return None;
        };
        self.tally.refuse();
        Some(full)
    }

    /// Whether the process holds as much memory as it may, so that no request is begun.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.tally.sheds()
    }

    /// Counts a connection of a source address at the edge.
    ///
    /// # Errors
    /// The limit.
    pub fn enter_from(&self, source: IpAddr) -> Result<sources::Counted, Full> {
        self.sources.enter(source).map_err(|most| {
            self.tally.refuse();
            Full::Source(source.to_canonical(), most)
        })
    }

    /// Whether any of those is open, on any core.
    #[must_use]
    pub fn has_entered(&self) -> bool {
        Arc::strong_count(&self.sources) > 1
    }
}
