//! The five steps by which a decision is told.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::policy::attribute::is_plain;
use crate::policy::facts::{Connection, Request};
use crate::policy::verdict::{Decision, Judged, Reason};
use crate::vocab::claims::Claims;

/// A decision and what it is told of. It is written piece by piece where it is to stand: a denied request costs no more
/// than the text of its record.
#[derive(Debug)]
pub struct Explained<'a> {
    judged: &'a Judged,
    conn: &'a Connection,
    request: Option<&'a Request>,
    destination: &'a str,
    /// What the nearest rule compares, as it was presented.
    got: Option<Cow<'a, str>>,
}

/// Steps of an explanation: identity, destination and request, policy checked, required against presented, decision with
/// its status.
pub const STEPS: usize = 5;

/// Steps whose words are ours alone, beside an ID or an address: nothing in them has to be escaped.
pub const PLAIN: [bool; STEPS] = [true, false, false, false, true];

impl<'a> Explained<'a> {
    /// `destination` is the service or address as the record names it.
    #[must_use]
    pub fn new(
        judged: &'a Judged,
        conn: &'a Connection,
        request: Option<&'a Request>,
        destination: &'a str,
    ) -> Self {
        Self {
            judged,
            conn,
            request,
            destination,
            got: judged.reason.got(conn, request),
        }
    }

    /// Writes the reason in words, with what was presented.
    ///
    /// # Errors
    /// Those of `out`.
    #[inline(always)]
    pub fn write_reason(&self, out: &mut impl Write) -> fmt::Result {
        self.judged.reason.write(out, self.got.as_deref())
    }

    /// Writes one of the five steps.
    ///
    /// # Errors
    /// Those of `out`.
    #[inline(always)]
    pub fn write_step(&self, nth: usize, out: &mut impl Write) -> fmt::Result {
        match nth {
            0 => self.identity(out),
            1 => self.target(out),
            2 => self.policy(out),
            3 => self.comparison(out),
            _ => out.write_str(decision(self.judged, self.request)),
        }
    }

    /// The five steps as texts.
    #[must_use]
    pub fn steps(&self) -> [String; STEPS] {
        std::array::from_fn(|nth| {
            let mut text = String::new();
            // A text takes all of it.
            let _always_written = self.write_step(nth, &mut text);
            text
        })
    }
}

impl Explained<'_> {
    fn identity(&self, f: &mut impl Write) -> fmt::Result {
        match &self.conn.principal {
            Some(id) => {
                f.write_str("identity from the client certificate: ")?;
                f.write_str(id.as_str())
            }
            None => write!(
                f,
                "no client certificate from {}, no identity",
                self.conn.peer
            ),
        }
    }

    fn target(&self, f: &mut impl Write) -> fmt::Result {
        f.write_str("destination: ")?;
        f.write_str(self.destination)?;
        let Some(request) = self.request else {
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

    fn policy(&self, f: &mut impl Write) -> fmt::Result {
        f.write_str("policy checked: ")?;
        let Some(name) = &self.judged.policy else {
            return write!(f, "none decided ({})", self.judged.reason.label());
        };
        f.write_str(&name.namespace)?;
        f.write_str("/")?;
        f.write_str(&name.name)?;
        if let Some(action) = self.judged.reason.action() {
            f.write_str(" (")?;
            f.write_str(action.word())?;
            f.write_str(")")?;
        }
        match self.judged.rule {
            Some(rule) => {
                f.write_str(", rule ")?;
                f.write_str(itoa::Buffer::new().format(rule))
            }
            None => Ok(()),
        }
    }

    fn comparison(&self, f: &mut impl Write) -> fmt::Result {
        let presented = self.conn.principal.as_ref();
        let presented = presented.map_or("no identity", |id| id.principal());
        match &self.judged.reason {
            Reason::NoRuleMatched(Some(near)) => {
                f.write_str("required: ")?;
                near.write(f)?;
                f.write_str(", presented: ")?;
                f.write_str(self.got.as_deref().unwrap_or_default())?;
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
            | Reason::CustomError(_) => write!(f, "presented: {presented}: {}", self.judged.reason),
        }
    }
}

fn end_user(claims: &Claims) -> Option<(&str, &str)> {
    claims.issuer().zip(claims.subject())
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
