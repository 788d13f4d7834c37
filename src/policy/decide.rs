//! The decision: DENY, then ALLOW; AUDIT marks. Pure, without allocation, and by an index: what a decision costs does
//! not grow with the number of policies.
//!
//! The policy that is told is the first that matches, in order of namespaces and names, and its first rule that does.

use std::sync::Arc;

use crate::policy::attribute::Facts;
use crate::policy::facts::{Connection, Request};
use crate::policy::model::MtlsMode;
use crate::policy::nearest::{LOOKED_AT, nearest};
use crate::policy::rule::Shortfall;
use crate::policy::set::{Hit, List, PolicySet};
use crate::policy::verdict::{Decision, Denied, Judged, Reason, Shadow, Verdict};
use crate::vocab::spiffe::SpiffeId;

/// Judges a connection, or a request on it. Without `request` the policies count as on a bare connection:
/// what they say about HTTP is unknown, which never allows more.
pub fn decide(set: &PolicySet, conn: &Connection, request: Option<&Request>) -> Verdict {
    decide_looking_at(set, conn, request, LOOKED_AT)
}

/// As `decide`, and a denial because no ALLOW rule matched looks at up to `rules` rules for the one that comes
/// nearest: `usize::MAX` for all, where nobody waits.
pub fn decide_looking_at(
    set: &PolicySet,
    conn: &Connection,
    request: Option<&Request>,
    rules: usize,
) -> Verdict {
    let facts = Facts { conn, request };
    judge(set, facts).unwrap_or_else(|| {
        if set.allow.policies.is_empty() {
            return match set.default {
                Decision::Allow => verdict(set, facts, Decision::Allow, None, Reason::NoPolicy),
                Decision::Deny => verdict(
                    set,
                    facts,
                    Decision::Deny,
                    None,
                    Reason::NoPolicyDefaultDeny,
                ),
            };
        }
        match set.allow.first_noting(facts) {
            (Some(hit), _) => verdict(set, facts, Decision::Allow, Some(hit), Reason::AllowRule),
            (None, noted) => not_allowed(set, facts, rules, noted),
        }
    })
}

/// Judges a CONNECT. What it opens is bytes that nobody reads, so DENY policies count as on a bare connection too: a
/// denied path is not reached through a tunnel.
pub fn decide_connect(set: &PolicySet, conn: &Connection, request: &Request) -> Verdict {
    let bare = Facts {
        conn,
        request: None,
    };
    judge(set, bare).unwrap_or_else(|| decide(set, conn, Some(request)))
}

/// Judges what a node receives from the workload's own waypoint: DENY policies count as ever, with the
/// waypoint as the peer; ALLOW lists need not name it (Istio's implicit allow from the waypoint). Any other
/// peer is judged by `decide`.
pub fn decide_via_waypoint(
    set: &PolicySet,
    conn: &Connection,
    request: Option<&Request>,
    waypoint: &SpiffeId,
) -> Verdict {
    if conn.principal.as_ref() != Some(waypoint) {
        return decide(set, conn, request);
    }
    let facts = Facts { conn, request };
    judge(set, facts)
        .unwrap_or_else(|| verdict(set, facts, Decision::Allow, None, Reason::ViaWaypoint))
}

/// The providers of the CUSTOM policies that match, by name and once each. All of them must say yes, and are
/// asked before tokens are looked at.
#[must_use]
pub fn custom_providers<'s>(
    set: &'s PolicySet,
    conn: &Connection,
    request: Option<&Request>,
) -> Vec<&'s str> {
    let facts = Facts { conn, request };
    let matching = |(_, list): &&(Arc<str>, List)| list.first(facts).is_some();
    let matching = set.custom.iter().filter(matching);
    matching.map(|(provider, _)| &**provider).collect()
}

/// Peer authentication: denies plaintext where the mode of the port is STRICT. `None` means go on.
#[must_use]
pub fn decide_plaintext(mode: MtlsMode, conn: &Connection) -> Option<Denied> {
    let strict = mode == MtlsMode::Strict && conn.principal.is_none();
    strict
        .then(|| Verdict::plain(Decision::Deny, Reason::PlaintextUnderStrict))
        .and_then(|v| v.permit().err())
}

/// Where a workload wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundTarget<'a> {
    /// A service or workload of the registry.
    Known,
    /// Anything else: the host or address, for the reason.
    Unknown(&'a str),
}

/// Judges an outbound destination before the mesh's own policies do (`outboundTrafficPolicy`): unknown ones
/// pass only where `allow_any` is set.
pub fn decide_outbound(target: OutboundTarget<'_>, allow_any: bool) -> Verdict {
    match target {
        OutboundTarget::Known => Verdict::plain(Decision::Allow, Reason::KnownDestination),
        OutboundTarget::Unknown(_) if allow_any => {
            Verdict::plain(Decision::Allow, Reason::UnknownDestinationAllowed)
        }
        OutboundTarget::Unknown(destination) => {
            let shown: String = destination.chars().flat_map(char::escape_debug).collect();
            Verdict::plain(Decision::Deny, Reason::UnknownDestination(shown.into()))
        }
    }
}

/// The DENY half.
fn judge(set: &PolicySet, facts: Facts<'_>) -> Option<Verdict> {
    let hit = set.deny.first(facts)?;
    Some(verdict(
        set,
        facts,
        Decision::Deny,
        Some(hit),
        Reason::DenyRule,
    ))
}

fn verdict(
    set: &PolicySet,
    facts: Facts<'_>,
    decision: Decision,
    hit: Option<Hit<'_>>,
    reason: Reason,
) -> Verdict {
    let matched = |list: &List| list.first(facts).is_some();
    let shadow = |list: &List, hit: Decision, miss: Decision| {
        (!list.policies.is_empty()).then(|| if matched(list) { hit } else { miss })
    };
    let judged = Judged {
        decision,
        policy: hit.map(|hit| Arc::clone(&hit.policy.name)),
        rule: hit.map(|hit| hit.at),
        reason,
        audit: matched(&set.audit),
        shadow: Shadow {
            deny: shadow(&set.dry_deny, Decision::Deny, Decision::Allow),
            allow: shadow(&set.dry_allow, Decision::Allow, Decision::Deny),
        },
        would_deny: false,
    };
    Verdict::new(if set.dry_run {
        judged.unenforced()
    } else {
        judged
    })
}

/// The denial because no ALLOW rule matched: names the rule that comes nearest, or the first policy if there is no
/// rule.
fn not_allowed<'s>(
    set: &'s PolicySet,
    facts: Facts<'_>,
    rules: usize,
    noted: Option<(u32, Shortfall<'s>)>,
) -> Verdict {
    if let Some((hit, near)) = nearest(&set.allow, facts, rules, noted) {
        let reason = Reason::NoRuleMatched(Some(near));
        return verdict(set, facts, Decision::Deny, Some(hit), reason);
    }
    let reason = Reason::NoRuleMatched(None);
    let first = set.allow.policies.first().map(|p| Arc::clone(&p.name));
    verdict(set, facts, Decision::Deny, None, reason).naming(first)
}
