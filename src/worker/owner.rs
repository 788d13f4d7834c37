//! Captured connections of a node that several workloads may share: the kernel says whose each is, never the client.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use smallvec::smallvec;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::checked::Node;
use crate::config::checked::capture::{CaptureMode, Unowned};
use crate::control::ask::Ask;
use crate::exchange::close::CloseReason;
use crate::io::early::Early;
use crate::io::listener::{Captured, diverted_destination, original_destination};
use crate::io::rt::{self, ConnectOptions, Tcp};
use crate::io::sock_diag::{OwnerError, SockDiag};
use crate::io::upstream::Target;
use crate::policy::{OutboundTarget, decide_outbound};
use crate::role::outbound::Wanted;
use crate::role::owner::{self, LocalSocket};
use crate::vocab::addr::{ListenAddr, OriginalDst, UpstreamAddr};
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::core::Core;
use crate::worker::inbound;
use crate::worker::judge;
use crate::worker::node;
use crate::worker::open::Rejudge;
use crate::worker::relaying::Rest;
use crate::worker::same_node::Client;
use crate::worker::site::Story;

/// What a core knows of the owners of local connections.
#[derive(Debug, Default)]
pub struct Owners {
    kernel: RefCell<SockDiag>,
    /// Paths of control groups. A number is never given to a second group, so that none of them becomes wrong.
    paths: RefCell<BTreeMap<u64, Rc<str>>>,
}

/// Why a connection is no workload's.
#[derive(Debug, Error)]
pub enum NoOwner {
    /// The kernel names nobody.
    #[error("{}", chain(.0))]
    Kernel(OwnerError),
    /// The process is in a control group that is not found, or not in time: it may be any workload's.
    #[error("the control group of the connection is not found")]
    Group,
    /// A process that is no workload of the node.
    #[error("no workload of this node: uid {uid}, control group `{cgroup}`")]
    Stranger {
        /// Its user.
        uid: u32,
        /// Its control group, as far as it was asked for.
        cgroup: Rc<str>,
    },
}

/// Index of the workload of `node` that connected from `client` to `dst`.
///
/// # Errors
/// `NoOwner`.
pub async fn workload(
    core: &Rc<Core>,
    node: &Node,
    client: SocketAddr,
    dst: OriginalDst,
) -> Result<usize, NoOwner> {
    if let [only] = node.workloads.as_slice()
        && only.owner.is_none()
    {
        // Whatever is captured is its.
        return Ok(0);
    }
    let found = core.owners.kernel.borrow_mut().owner(client, dst.0);
    let found = found.map_err(NoOwner::Kernel)?;
    let path = if owner::needs_cgroup(&node.workloads) {
        let path = match found.cgroup {
            Some(id) => cgroup(core, id).await,
            None => None,
        };
        Some(path.ok_or(NoOwner::Group)?)
    } else {
        None
    };
    let socket = LocalSocket {
        uid: found.uid,
        mark: found.mark,
        class_id: found.class_id,
        cgroup: path.as_deref(),
    };
    owner::workload(&node.workloads, &socket).ok_or_else(|| NoOwner::Stranger {
        uid: found.uid,
        cgroup: path.unwrap_or_else(|| "not asked for".into()),
    })
}

/// The path of a control group; the first time the control thread is asked.
async fn cgroup(core: &Rc<Core>, id: u64) -> Option<Rc<str>> {
    if let Some(path) = core.owners.paths.borrow().get(&id) {
        return Some(Rc::clone(path));
    }
    let (answer, told) = oneshot::channel();
    core.asks.try_send(Ask::Cgroup { id, answer }).ok()?;
    let told = rt::timeout(limits::CGROUP_MS, told).await;
    let path: Rc<str> = told.ok()?.ok()??.into();
    let mut paths = core.owners.paths.borrow_mut();
    if paths.len() >= limits::CGROUPS_PER_CORE {
        // The lowest number is the oldest group, and most likely gone.
        paths.pop_first();
    }
    paths.insert(id, Rc::clone(&path));
    Some(path)
}

fn destination(tcp: &Tcp, node: &Node) -> io::Result<Captured> {
    let listener = node.outbound.map(ListenAddr);
    match (&node.capture, listener) {
        (Some(capture), Some(listener)) if capture.mode == CaptureMode::Tproxy => {
            diverted_destination(tcp, listener)
        }
        _ => original_destination(tcp),
    }
}

/// A captured connection at the outbound listener of a node.
pub async fn outbound(core: Rc<Core>, tcp: Tcp, node: Rc<Node>) -> Rest {
    let Ok(peer) = tcp.peer() else {
        return Rest::NONE;
    };
    let captured = destination(&tcp, &node);
    let story = node::outbound_story(&core, &node, peer);
    let Ok(Captured::Redirected(dst)) = captured else {
        tcp.reset_on_close();
        story.end(CloseReason::SelfCall);
        return Rest::NONE;
    };
    let at = match workload(&core, &node, peer, dst).await {
        Ok(at) => at,
        Err(no_owner) => return unowned(core, node, tcp, dst, story, no_owner).await,
    };
    let wanted = Wanted::Address(dst.ip());
    let early = Early::of(&tcp);
    let client = Client::early(peer, &early);
    match node::leave(&core, &node, at, client, &wanted, dst.port(), story).await {
        Ok(going) => Rest::relay_begun(going, tcp, &early),
        Err(_close) => {
            tcp.reset_on_close();
            Rest::NONE
        }
    }
}

/// A captured connection that is no workload's.
async fn unowned(
    core: Rc<Core>,
    node: Rc<Node>,
    tcp: Tcp,
    dst: OriginalDst,
    mut story: Story,
    why: NoOwner,
) -> Rest {
    let asked = dst.to_string();
    story.edit(|r| {
        r.service = Some(asked.as_str().into());
        r.detail = Some(why.to_string());
    });
    // Who is not known to be a stranger may be a workload, which has policies.
    let passes = node.unowned == Unowned::Pass && matches!(why, NoOwner::Stranger { .. });
    let snapshot = core.snapshot();
    if passes && node::hosted(&snapshot, &node, dst).is_some() {
        // Who calls a workload here comes in like anybody from the network, and meets its policies.
        story.forget();
        return Box::pin(inbound::arrived(core, tcp, node, dst)).await;
    }
    let verdict = decide_outbound(OutboundTarget::Unknown(&asked), passes);
    story.judged(&verdict);
    let Ok(permit) = verdict.permit() else {
        tcp.reset_on_close();
        story.end(CloseReason::Denied);
        return Rest::NONE;
    };
    if judge::is_own(&core, &snapshot, dst.0) {
        tcp.reset_on_close();
        story.end(CloseReason::SelfCall);
        return Rest::NONE;
    }
    let target = Target::Plain {
        addresses: smallvec![UpstreamAddr(dst.0)],
        options: ConnectOptions {
            mark: node.mark,
            within_ms: None,
        },
        source: None,
    };
    let entry = core.open.enter(Rejudge::Nothing, story.sketch());
    match node::dial(
        &core,
        (permit, target),
        None,
        story,
        entry,
        |_error, _story| None,
    )
    .await
    {
        Ok(going) => Rest::relay(going, tcp.into()),
        Err(_close) => {
            tcp.reset_on_close();
            Rest::NONE
        }
    }
}
