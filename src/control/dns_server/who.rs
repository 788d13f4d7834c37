//! Who asks at a listener that workloads of several namespaces share: the kernel says it, never the question.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::checked::{Node, NodeWorkload};
use crate::control::capture::cgroup;
use crate::io::sock_diag::{Found, SockDiag, udp};
use crate::role::owner::{self, LocalSocket};
use crate::vocab::limits;

/// Port of DNS.
const DNS: u16 = 53;

/// The workloads of a node that ask at one listener.
#[derive(Debug)]
pub(super) struct Who {
    workloads: Vec<NodeWorkload>,
    /// Ports that a question is sent to: as programs do, and the listener's own.
    ports: [u16; 2],
    /// Paths of control groups by number, which is never given to a second one; `None`: it has no path here.
    paths: Mutex<BTreeMap<u64, Option<Arc<str>>>>,
}

impl Who {
    /// The workloads of `node`, whose listener has `port`.
    pub(super) fn new(node: &Node, port: u16) -> Self {
        Self {
            workloads: node.workloads.clone(),
            ports: [DNS, port],
            paths: Mutex::default(),
        }
    }

    /// Namespace of the workload that sent a datagram; `None` if it is no workload's, or several may have sent it.
    pub(super) async fn sent(&self, client: SocketAddr) -> Option<&str> {
        let senders = udp::senders(client, &self.ports);
        let senders = senders.inspect_err(|error| tracing::debug!(%error, "who asks for a name"));
        let senders = senders.ok()?;
        let (first, others) = senders.split_first()?;
        let namespace = self.namespace(first).await?;
        for other in others {
            if self.namespace(other).await != Some(namespace) {
                return None;
            }
        }
        Some(namespace)
    }

    /// Namespace of the workload that connected from `client` to `dst`; `None` if it is no workload's.
    pub(super) async fn connected(&self, client: SocketAddr, dst: SocketAddr) -> Option<&str> {
        let found = SockDiag::default().owner(client, dst);
        let found = found.inspect_err(|error| tracing::debug!(%error, "who asks for a name"));
        self.namespace(&found.ok()?).await
    }

    async fn namespace(&self, found: &Found) -> Option<&str> {
        let path = match found.cgroup {
            Some(id) if owner::needs_cgroup(&self.workloads) => self.path(id).await,
            Some(_) | None => None,
        };
        let socket = LocalSocket {
            uid: found.uid,
            mark: found.mark,
            class_id: found.class_id,
            cgroup: path.as_deref(),
        };
        let at = owner::workload(&self.workloads, &socket)?;
        let workload = self.workloads.get(at)?;
        Some(workload.workload.namespace.as_str())
    }

    async fn path(&self, id: u64) -> Option<Arc<str>> {
        let mut paths = self.paths.lock().await;
        if let Some(known) = paths.get(&id) {
            return known.clone();
        }
        let looked = tokio::task::spawn_blocking(move || cgroup::path_of(id)).await;
        let path: Option<Arc<str>> = looked.ok()?.map(Arc::from);
        if paths.len() >= limits::CGROUPS_PER_CORE {
            // The lowest number is the oldest group, and most likely gone.
            paths.pop_first();
        }
        paths.insert(id, path.clone());
        path
    }
}
