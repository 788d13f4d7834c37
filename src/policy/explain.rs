//! The five steps by which a decision is told.

use crate::policy::facts::{Connection, Request};
use crate::policy::verdict::{Decision, Judged, Reason};

/// Tells a decision in five steps: identity, destination and request, policy checked, required against
/// presented, decision with its status. `destination` is the service or address as the record names it.
#[must_use]
pub fn steps(
    judged: &Judged,
    conn: &Connection,
    request: Option<&Request>,
    destination: &str,
) -> [String; 5] {
    [
        identity(conn),
        target(request, destination),
        policy(judged),
        comparison(judged, conn, request),
        decision(judged, request),
    ]
}

fn identity(conn: &Connection) -> String {
    match &conn.principal {
        Some(id) => format!("identity from the client certificate: {id}"),
        None => format!(
            "no client certificate: plaintext from {}, no identity",
            conn.peer
        ),
    }
}

fn target(request: Option<&Request>, destination: &str) -> String {
    let Some(request) = request else {
        return format!("destination: {destination}, a connection");
    };
    let path = request.path.as_ref().map(|p| p.path()).unwrap_or_default();
    let user = request.claims.as_ref().and_then(|c| c.request_principal());
    let user = user
        .map(|u| format!(", end user {}", u.escape_debug()))
        .unwrap_or_default();
    let space = if path.is_empty() { "" } else { " " };
    format!(
        "destination: {destination}, request {}{space}{path}{user}",
        request.method
    )
}

fn policy(judged: &Judged) -> String {
    let Some(name) = &judged.policy else {
        return format!("policy checked: none decided ({})", judged.reason.label());
    };
    let action = match judged.reason.action() {
        Some(action) => format!(" ({})", format!("{action:?}").to_uppercase()),
        None => String::new(),
    };
    let rule = judged
        .rule
        .map(|r| format!(", rule {r}"))
        .unwrap_or_default();
    format!("policy checked: {name}{action}{rule}")
}

fn comparison(judged: &Judged, conn: &Connection, request: Option<&Request>) -> String {
    let presented = conn
        .principal
        .as_ref()
        .map_or("no identity", |id| id.principal());
    match &judged.reason {
        Reason::NoRuleMatched(Some(near)) => {
            let (needs, got) = (near.needs(), near.got(conn, request));
            format!("required: {needs}, presented: {got}: mismatch")
        }
        Reason::PlaintextUnderStrict => "required: mTLS, presented: plaintext: mismatch".to_owned(),
        Reason::DenyRule => format!("presented: {presented}: match with what is denied"),
        Reason::AllowRule => format!("presented: {presented}: match"),
        Reason::NoRuleMatched(None)
        | Reason::NoPolicy
        | Reason::NoPolicyDefaultDeny
        | Reason::ViaWaypoint
        | Reason::KnownDestination
        | Reason::UnknownDestinationAllowed
        | Reason::UnknownDestination(_)
        | Reason::CustomDenied(_)
        | Reason::CustomError(_) => format!("presented: {presented}: {}", judged.reason),
    }
}

fn decision(judged: &Judged, request: Option<&Request>) -> String {
    if matches!(
        judged.reason,
        Reason::CustomDenied(_) | Reason::CustomError(_)
    ) {
        // What the client sees is the provider's answer or `statusOnError`.
        return "decision: DENY, by the provider".to_owned();
    }
    match (judged.decision, request) {
        (Decision::Allow, Some(_)) if judged.would_deny => {
            "decision: ALLOW, the mesh is in dry run; it would be DENY, 403 RBAC: access denied"
                .to_owned()
        }
        (Decision::Allow, None) if judged.would_deny => {
            "decision: ALLOW, the mesh is in dry run; it would be DENY, connection closed"
                .to_owned()
        }
        (Decision::Allow, _) => "decision: ALLOW, forwarded".to_owned(),
        (Decision::Deny, Some(_)) => "decision: DENY, 403 RBAC: access denied".to_owned(),
        (Decision::Deny, None) => "decision: DENY, connection closed".to_owned(),
    }
}
