//! Who asks at a listener that workloads of several namespaces share: the kernel says it, never the question.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::checked::{Node, NodeWorkload};
use crate::control::capture::cgroup;
use crate::control::dns_server::share::Source;
use crate::io::sock_diag::{Found, SockDiag, udp};
use crate::role::owner::{self, LocalSocket};
use crate::vocab::limits;

/// Port of DNS.
const DNS: u16 = 53;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender<'a> {
    /// Whose share it takes.
    pub(super) source: Source,
    /// Namespace of the workload.
    pub(super) namespace: Option<&'a str>,
}

/// The workloads of a node that ask at one listener.
#[derive(Debug)]
pub(super) struct Who {
    /// Number of the node in the process.
    node: usize,
    workloads: Vec<NodeWorkload>,
    /// Ports that a question is sent to: as programs do, and the listener's own.
    ports: [u16; 2],
    /// Paths of control groups by number, which is never given to a second one; `None`: it has no path here.
    paths: Mutex<BTreeMap<u64, Option<Arc<str>>>>,
}

impl Who {
    /// The workloads of `node`, the `nth` of its process, whose listener has `port`.
    pub(super) fn new(nth: usize, node: &Node, port: u16) -> Self {
        Self {
            node: nth,
            workloads: node.workloads.clone(),
            ports: [DNS, port],
            paths: Mutex::default(),
        }
    }

    /// Who sent a datagram: by address alone if several may have, without a namespace if it is no workload's or they are
    /// of several.
    pub(super) async fn sent(&self, client: SocketAddr) -> Sender<'_> {
        let unknown = unknown(client);
        let senders = udp::senders(client, &self.ports);
        let senders = senders.inspect_err(|error| tracing::debug!(%error, "who asks for a name"));
        let senders = senders.unwrap_or_default();
        let Some((first, others)) = senders.split_first() else {
            return unknown;
        };
        let mut all = self.sender(first, client).await;
        for other in others {
            let other = self.sender(other, client).await;
            if other.source != all.source {
                all.source = unknown.source;
            }
            if other.namespace != all.namespace {
                return unknown;
            }
        }
        all
    }

    /// Who connected from `client` to `dst`.
    pub(super) async fn connected(&self, client: SocketAddr, dst: SocketAddr) -> Sender<'_> {
        let found = SockDiag::default().owner(client, dst);
        let found = found.inspect_err(|error| tracing::debug!(%error, "who asks for a name"));
        match found {
            Ok(found) => self.sender(&found, client).await,
            Err(_unknown) => unknown(client),
        }
    }

    async fn sender(&self, found: &Found, client: SocketAddr) -> Sender<'_> {
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
        let at = owner::workload(&self.workloads, &socket);
        let workload = at.and_then(|at| Some((at, self.workloads.get(at)?)));
        match workload {
            Some((at, workload)) => Sender {
                source: Source::Workload {
                    node: self.node,
                    at,
                },
                namespace: Some(workload.workload.namespace.as_str()),
            },
            // The user of a socket that no process has is not known.
            None if found.inode == 0 => unknown(client),
            None => Sender {
                source: Source::User(found.uid),
                namespace: None,
            },
        }
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

/// Whom the kernel does not know.
pub(super) fn unknown(client: SocketAddr) -> Sender<'static> {
    Sender {
        source: Source::at(client.ip()),
        namespace: None,
    }
}
