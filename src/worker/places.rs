//! How many connections there are at a time: of the process, and of each workload in either direction.
//!
//! The counts are the process's, not a core's: the kernel spreads connections over the cores as it likes, and all tunnels
//! of one HBONE connection are on one core. They are touched when a connection begins and when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::checked::Process;
use crate::telemetry::tally::Tally;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;

/// Who opened a connection of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Others.
    Inbound,
    /// The workload.
    Outbound,
}

/// All places of the process.
#[derive(Debug)]
pub struct Places {
    tally: Arc<Tally>,
    most: usize,
    workloads: BTreeMap<ResourceName, [Arc<Count>; 2]>,
}

#[derive(Debug)]
struct Count {
    now: AtomicUsize,
    most: usize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Count>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
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
        Self {
            tally,
            most: process.limits.connections.map_or(own, |most| most.min(own)),
            workloads: workloads.collect(),
        }
    }

    /// Takes a place of a workload; `Err` holds how many it has, all of which are taken.
    ///
    /// # Errors
    /// The limit.
    pub fn take(&self, workload: &ResourceName, way: Way) -> Result<Option<Taken>, usize> {
        let Some([inbound, outbound]) = self.workloads.get(workload) else {
            return Ok(None);
        };
        let count = match way {
            Way::Inbound => inbound,
            Way::Outbound => outbound,
        };
        if count.now.fetch_add(1, Ordering::Relaxed) < count.most {
            return Ok(Some(Taken(Arc::clone(count))));
        }
        count.now.fetch_sub(1, Ordering::Relaxed);
        self.tally.refuse();
        Err(count.most)
    }

    /// Counts a connection or tunnel of the process.
    pub fn enter(&self) {
        self.tally.enter();
    }

    /// One that was counted has ended.
    pub fn leave(&self) {
        self.tally.leave();
    }

    /// The limit of the process, if what is about to begin is too much; that it was refused is counted then. `entered`:
    /// whether it was counted already.
    #[must_use]
    pub fn refuses(&self, entered: bool) -> Option<usize> {
        let others = self.tally.open().saturating_sub(entered.into());
        let full = others >= self.most;
        full.then(|| {
            self.tally.refuse();
            self.most
        })
    }
}
