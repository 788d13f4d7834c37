//! The decision: DENY, then ALLOW; AUDIT marks. Pure, and without allocation when it allows.

use std::sync::Arc;

use crate::policy::attribute::Facts;
use crate::policy::facts::{Connection, Request};
use crate::policy::model::MtlsMode;
use crate::policy::set::{Policy, PolicySet};
use crate::policy::verdict::{Decision, Denied, Judged, Nearest, Reason, Shadow, Verdict};
use crate::vocab::spiffe::SpiffeId;

/// Judges a connection, or a request on it. Without `request` the policies count as on a bare connection:
/// what they say about HTTP is unknown, which never allows more.
pub fn decide(set: &PolicySet, conn: &Connection, request: Option<&Request>) -> Verdict {
    let facts = Facts { conn, request };
    judge(set, facts).unwrap_or_else(|| {
        if set.allow.is_empty() {
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
        match first(&set.allow, facts) {
            Some(hit) => verdict(set, facts, Decision::Allow, Some(hit), Reason::AllowRule),
            None => nearest(set, facts),
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
    let matching = set.custom.iter().filter(|p| p.matching(facts).is_some());
    let mut providers: Vec<&str> = matching.map(|p| &*p.provider).collect();
    providers.sort_unstable();
    providers.dedup();
    providers
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

/// A policy that matched, and the index of its rule if it has one.
type Hit<'s> = (&'s Policy, Option<usize>);

fn first<'s>(policies: &'s [Policy], facts: Facts<'_>) -> Option<Hit<'s>> {
    policies
        .iter()
        .find_map(|p| p.matching(facts).map(|rule| (p, Some(rule))))
}

/// The DENY half.
fn judge(set: &PolicySet, facts: Facts<'_>) -> Option<Verdict> {
    first(&set.deny, facts)
        .map(|hit| verdict(set, facts, Decision::Deny, Some(hit), Reason::DenyRule))
}

fn verdict(
    set: &PolicySet,
    facts: Facts<'_>,
    decision: Decision,
    hit: Option<Hit<'_>>,
    reason: Reason,
) -> Verdict {
    let matched = |policies: &[Policy]| first(policies, facts).is_some();
    let shadow = |policies: &[Policy], hit: Decision, miss: Decision| {
        (!policies.is_empty()).then(|| if matched(policies) { hit } else { miss })
    };
    let judged = Judged {
        decision,
        policy: hit.map(|(policy, _)| Arc::clone(&policy.name)),
        rule: hit.and_then(|(_, rule)| rule),
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

/// The denial because no ALLOW rule matched: names the rule that fails by the fewest tests, and the first of
/// those. A rule that cannot match on a bare connection counts as the farthest.
fn nearest(set: &PolicySet, facts: Facts<'_>) -> Verdict {
    let mut best: Option<(usize, Hit<'_>, Nearest)> = None;
    for policy in &set.allow {
        for (index, rule) in policy.rules.iter().enumerate() {
            let (distance, near) = match rule.form(facts) {
                None => (
                    usize::MAX,
                    Nearest {
                        needs: "an HTTP request".to_owned(),
                        got: "a bare connection".to_owned(),
                    },
                ),
                Some(form) => {
                    let Some((failed, test)) = form.shortfall(facts) else {
                        continue;
                    };
                    if best.as_ref().is_some_and(|(d, ..)| *d <= failed) {
                        continue;
                    }
                    let got = test.attribute.presented(facts);
                    (
                        failed,
                        Nearest {
                            needs: test.needs.clone().into(),
                            got,
                        },
                    )
                }
            };
            if best.as_ref().is_none_or(|(d, ..)| distance < *d) {
                best = Some((distance, (policy, Some(index)), near));
            }
        }
    }
    let (hit, near) = match best {
        Some((_, hit, near)) => (Some(hit), Some(Box::new(near))),
        None => (set.allow.first().map(|p| (p, None)), None),
    };
    verdict(set, facts, Decision::Deny, hit, Reason::NoRuleMatched(near))
}
