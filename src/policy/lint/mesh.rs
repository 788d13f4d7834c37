//! What the policies leave open in the mesh as a whole.

use crate::policy::lint::{Code, Finding, Site, Spot, Subject, Work};
use crate::policy::model::{Action, MtlsMode};

/// Names that a message lists.
const LISTED: usize = 5;

/// Workloads that no ALLOW policy covers, in a mesh where others are covered.
pub(super) fn coverage(work: &Work<'_>, out: &mut Vec<Finding>) {
    let known = work.known;
    let allows = |site: &Site| {
        let policies = site
            .policies
            .iter()
            .filter_map(|at| known.policies.get(*at));
        policies
            .into_iter()
            .any(|p| p.action == Action::Allow && !p.dry_run)
    };
    let covered = |site: &Site| {
        let waypoints = site.waypoints.iter().filter_map(|at| known.sites.get(*at));
        allows(site) || waypoints.into_iter().any(allows)
    };
    let workloads = || known.sites.iter().filter(|s| s.workload.is_some());
    let open: Vec<&Site> = workloads().filter(|s| !covered(s)).collect();
    let (Some(first), true) = (open.first(), workloads().any(covered)) else {
        return;
    };
    let names: Vec<&str> = open.iter().take(LISTED).map(|s| s.name.as_str()).collect();
    let more = match open.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let spot = Spot {
        subject: first.workload.map_or(Subject::Mesh, Subject::Workload),
        field: String::new(),
    };
    let message = format!(
        "no ALLOW policy covers {}{more}, as one covers others of this mesh: what no DENY policy refuses is let in",
        names.join(", ")
    );
    out.push(Finding::new(Code::Uncovered, spot, message));
}

/// Exceptions from a mesh that is STRICT.
pub(super) fn plaintext(work: &Work<'_>, out: &mut Vec<Finding>) {
    let peers = work.known.peers;
    let wide = peers.iter().find(|p| {
        let everywhere = p.selector.as_ref().is_none_or(|s| s.is_empty());
        p.name.namespace == work.known.root_namespace && everywhere
    });
    if wide.is_none_or(|p| p.mode != MtlsMode::Strict) {
        return;
    }
    let open = |mode: &MtlsMode| matches!(mode, MtlsMode::Permissive | MtlsMode::Disable);
    for (at, peer) in peers.iter().enumerate() {
        if peer.name.namespace == work.known.root_namespace && peer.selector.is_some() {
            continue;
        }
        let spot = Spot {
            subject: Subject::Peer(at),
            field: String::new(),
        };
        let ports: Vec<String> = peer
            .ports
            .iter()
            .filter(|(_, mode)| open(mode))
            .map(|(port, _)| port.to_string())
            .collect();
        let what = if open(&peer.mode) {
            String::new()
        } else if ports.is_empty() {
            continue;
        } else {
            format!(" on port {}", ports.join(", "))
        };
        let message = format!("the mesh is STRICT, and this lets plaintext in{what}");
        out.push(Finding::new(Code::PlaintextException, spot, message));
    }
}
