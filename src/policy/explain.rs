//! The five steps by which a decision is told.

use std::fmt::{self, Display, Formatter};

use crate::policy::attribute::is_plain;
use crate::policy::facts::{Connection, Request};
use crate::policy::verdict::{Decision, Judged, Reason};
use crate::vocab::claims::Claims;

/// What a decision is told of.
#[derive(Clone, Copy)]
struct Told<'a> {
    judged: &'a Judged,
    conn: &'a Connection,
    request: Option<&'a Request>,
    destination: &'a str,
}

/// One of the five steps, as its text: a denied request costs no more than what is written of it.
pub struct Step<'a> {
    of: Told<'a>,
    write: fn(Told<'a>, &mut Formatter<'_>) -> fmt::Result,
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Step<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (self.write)(self.of, f)
    }
}

/// Tells a decision in five steps: identity, destination and request, policy checked, required against
/// presented, decision with its status. `destination` is the service or address as the record names it.
#[must_use]
pub fn steps<'a>(
    judged: &'a Judged,
    conn: &'a Connection,
    request: Option<&'a Request>,
    destination: &'a str,
) -> [Step<'a>; 5] {
    let of = Told {
        judged,
        conn,
        request,
        destination,
    };
    let step = |write| Step { of, write };
    [
        step(identity),
        step(target),
        step(policy),
        step(comparison),
        step(|of, f| f.write_str(decision(of.judged, of.request))),
    ]
}

fn identity(of: Told<'_>, f: &mut Formatter<'_>) -> fmt::Result {
    match &of.conn.principal {
        Some(id) => {
            f.write_str("identity from the client certificate: ")?;
            f.write_str(id.as_str())
        }
        None => write!(
            f,
            "no client certificate: plaintext from {}, no identity",
            of.conn.peer
        ),
    }
}

fn target(of: Told<'_>, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str("destination: ")?;
    f.write_str(of.destination)?;
    let Some(request) = of.request else {
        return f.write_str(", a connection");
    };
    let path = request.path.as_ref().map(|p| p.path()).unwrap_or_default();
    f.write_str(", request ")?;
    f.write_str(request.method.as_str())?;
    f.write_str(if path.is_empty() { "" } else { " " })?;
    f.write_str(path)?;
    let Some((issuer, subject)) = request.claims.as_ref().and_then(end_user) else {
        return Ok(());
    };
    f.write_str(", end user ")?;
    if is_plain(issuer) && is_plain(subject) {
        f.write_str(issuer)?;
        f.write_str("/")?;
        f.write_str(subject)
    } else {
        write!(f, "{}", format!("{issuer}/{subject}").escape_debug())
    }
}

fn end_user(claims: &Claims) -> Option<(&str, &str)> {
    claims.issuer().zip(claims.subject())
}

fn policy(of: Told<'_>, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str("policy checked: ")?;
    let Some(name) = &of.judged.policy else {
        return write!(f, "none decided ({})", of.judged.reason.label());
    };
    Display::fmt(name, f)?;
    if let Some(action) = of.judged.reason.action() {
        f.write_str(" (")?;
        f.write_str(action.word())?;
        f.write_str(")")?;
    }
    match of.judged.rule {
        Some(rule) => {
            f.write_str(", rule ")?;
            Display::fmt(&rule, f)
        }
        None => Ok(()),
    }
}

fn comparison(of: Told<'_>, f: &mut Formatter<'_>) -> fmt::Result {
    let presented = of.conn.principal.as_ref();
    let presented = presented.map_or("no identity", |id| id.principal());
    match &of.judged.reason {
        Reason::NoRuleMatched(Some(near)) => {
            f.write_str("required: ")?;
            Display::fmt(near, f)?;
            f.write_str(", presented: ")?;
            f.write_str(&near.got(of.conn, of.request))?;
            f.write_str(": mismatch")
        }
        Reason::PlaintextUnderStrict => {
            f.write_str("required: mTLS, presented: plaintext: mismatch")
        }
        Reason::DenyRule => write!(f, "presented: {presented}: match with what is denied"),
        Reason::AllowRule => write!(f, "presented: {presented}: match"),
        Reason::NoRuleMatched(None)
        | Reason::NoPolicy
        | Reason::NoPolicyDefaultDeny
        | Reason::ViaWaypoint
        | Reason::KnownDestination
        | Reason::UnknownDestinationAllowed
        | Reason::UnknownDestination(_)
        | Reason::CustomDenied(_)
        | Reason::CustomError(_) => write!(f, "presented: {presented}: {}", of.judged.reason),
    }
}

fn decision(judged: &Judged, request: Option<&Request>) -> &'static str {
    if matches!(
        judged.reason,
        Reason::CustomDenied(_) | Reason::CustomError(_)
    ) {
        // What the client sees is the provider's answer or `statusOnError`.
        return "decision: DENY, by the provider";
    }
    match (judged.decision, request) {
        (Decision::Allow, Some(_)) if judged.would_deny => {
            "decision: ALLOW, the mesh is in dry run; it would be DENY, 403 RBAC: access denied"
        }
        (Decision::Allow, None) if judged.would_deny => {
            "decision: ALLOW, the mesh is in dry run; it would be DENY, connection closed"
        }
        (Decision::Allow, _) => "decision: ALLOW, forwarded",
        (Decision::Deny, Some(_)) => "decision: DENY, 403 RBAC: access denied",
        (Decision::Deny, None) => "decision: DENY, connection closed",
    }
}
