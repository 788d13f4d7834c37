//! What the engine says: verdict, reason, and the permit that dialling upstream takes by value.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::policy::attribute::Facts;
use crate::policy::facts::{Connection, Request};
use crate::policy::field::Test;
use crate::policy::model::Action;
use crate::vocab::resource::ResourceName;

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Forward.
    Allow,
    /// Do not.
    Deny,
}

/// What dry-run policies would have said; `None` where none of that action is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// `Deny` if a dry-run DENY policy matched.
    pub deny: Option<Decision>,
    /// `Allow` if a dry-run ALLOW policy matched.
    pub allow: Option<Decision>,
}

/// Why. `text` gives the text of decision records, `Display` the same without what was presented, `label` the value of
/// a metric label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A DENY policy matched.
    DenyRule,
    /// An ALLOW policy matched.
    AllowRule,
    /// No ALLOW policy applies here, which allows.
    NoPolicy,
    /// No ALLOW policy applies here, and this point allows nothing by itself.
    NoPolicyDefaultDeny,
    /// ALLOW policies apply and none matched; the rule that came closest, if there is any rule.
    NoRuleMatched(Option<Nearest>),
    /// Plaintext where the mTLS mode is STRICT.
    PlaintextUnderStrict,
    /// The peer is the workload's own waypoint, which judged before.
    ViaWaypoint,
    /// The destination is in the registry.
    KnownDestination,
    /// The destination is not in the registry, and `outboundTrafficPolicy` is `ALLOW_ANY`.
    UnknownDestinationAllowed,
    /// The destination is not in the registry, and `outboundTrafficPolicy` is `REGISTRY_ONLY`.
    UnknownDestination(Box<str>),
    /// The provider of a CUSTOM policy said no: its name.
    CustomDenied(Box<str>),
    /// The provider of a CUSTOM policy could not be asked or gave no answer: its name and what went wrong.
    CustomError(Box<str>),
}

/// What the ALLOW rule that failed by the fewest conditions asks for first. It holds the condition, not its text: to
/// deny copies nothing, a record becomes text later and elsewhere.
#[derive(Clone)]
pub struct Nearest {
    /// `None`: the rule cannot match on a bare connection.
    test: Option<Arc<Test>>,
}

impl Nearest {
    pub(super) fn test(test: &Arc<Test>) -> Self {
        Self {
            test: Some(Arc::clone(test)),
        }
    }

    pub(super) fn http() -> Self {
        Self { test: None }
    }

    /// What it asks for, such as `principal cluster.local/ns/default/sa/frontend-service`.
    #[must_use]
    pub fn needs(&self) -> String {
        self.to_string()
    }

    /// What was presented by the facts that were judged, such as `cluster.local/ns/default/sa/reviews-service` or
    /// `none`.
    #[must_use]
    pub fn got<'f>(&self, conn: &'f Connection, request: Option<&'f Request>) -> Cow<'f, str> {
        match &self.test {
            Some(test) => test.attribute.presented(Facts { conn, request }),
            None => "a bare connection".into(),
        }
    }
}

impl Nearest {
    /// Writes what it asks for.
    #[inline(always)]
    pub(super) fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match &self.test {
            Some(test) => test.write(out),
            None => out.write_str("an HTTP request"),
        }
    }
}

/// What it asks for.
impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl fmt::Debug for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nearest").field(&self.needs()).finish()
    }
}

impl PartialEq for Nearest {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Test>, &Arc<Test>)| Arc::ptr_eq(a, b);
        self.test
            .as_ref()
            .zip(other.test.as_ref())
            .is_some_and(same)
            || self.needs() == other.needs()
    }
}

impl Eq for Nearest {}

impl Reason {
    /// The reason in words, with what was presented by the facts that were judged.
    #[must_use]
    pub fn text(&self, conn: &Connection, request: Option<&Request>) -> String {
        let mut text = String::new();
        // A text takes all of it.
        let _always_written = self.write(&mut text, self.got(conn, request).as_deref());
        text
    }

    /// What was presented of that which the nearest rule compares.
    pub(super) fn got<'a>(
        &'a self,
        conn: &'a Connection,
        request: Option<&'a Request>,
    ) -> Option<Cow<'a, str>> {
        match self {
            Self::NoRuleMatched(Some(nearest)) => Some(nearest.got(conn, request)),
            Self::NoRuleMatched(None)
            | Self::DenyRule
            | Self::AllowRule
            | Self::NoPolicy
            | Self::NoPolicyDefaultDeny
            | Self::PlaintextUnderStrict
            | Self::ViaWaypoint
            | Self::KnownDestination
            | Self::UnknownDestinationAllowed
            | Self::UnknownDestination(_)
            | Self::CustomDenied(_)
            | Self::CustomError(_) => None,
        }
    }

    /// A short constant name.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::DenyRule => "deny_rule",
            Self::AllowRule => "allow_rule",
            Self::NoPolicy => "no_policy",
            Self::NoPolicyDefaultDeny => "no_policy_default_deny",
            Self::NoRuleMatched(_) => "no_rule_matched",
            Self::PlaintextUnderStrict => "plaintext_under_strict",
            Self::ViaWaypoint => "via_waypoint",
            Self::KnownDestination => "known_destination",
            Self::UnknownDestinationAllowed => "unknown_destination_allowed",
            Self::UnknownDestination(_) => "unknown_destination",
            Self::CustomDenied(_) => "custom_denied",
            Self::CustomError(_) => "custom_error",
        }
    }

    /// Action of the policy that decided, if a policy did.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::DenyRule => Some(Action::Deny),
            Self::AllowRule | Self::NoRuleMatched(_) => Some(Action::Allow),
            Self::CustomDenied(_) | Self::CustomError(_) => Some(Action::Custom),
            Self::NoPolicy
            | Self::NoPolicyDefaultDeny
            | Self::PlaintextUnderStrict
            | Self::ViaWaypoint
            | Self::KnownDestination
            | Self::UnknownDestinationAllowed
            | Self::UnknownDestination(_) => None,
        }
    }
}

impl Reason {
    /// Writes it in words, with what was presented if that is given.
    #[inline(always)]
    pub(super) fn write(&self, f: &mut impl fmt::Write, got: Option<&str>) -> fmt::Result {
        self.write_words(f)?;
        match got {
            Some(got) => {
                f.write_str(", got ")?;
                f.write_str(got)
            }
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn write_words(&self, f: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::DenyRule => f.write_str("matched a DENY rule"),
            Self::AllowRule => f.write_str("matched an ALLOW rule"),
            Self::NoPolicy => f.write_str("no ALLOW policy applies"),
            Self::NoPolicyDefaultDeny => {
                f.write_str("no ALLOW policy applies, and the default is to deny")
            }
            Self::NoRuleMatched(None) => f.write_str("no ALLOW policy has a rule"),
            Self::NoRuleMatched(Some(nearest)) => {
                f.write_str("needs ")?;
                nearest.write(f)
            }
            Self::PlaintextUnderStrict => f.write_str("plaintext, and the mTLS mode is STRICT"),
            Self::ViaWaypoint => f.write_str("via waypoint"),
            Self::KnownDestination => f.write_str("destination is in the registry"),
            Self::UnknownDestinationAllowed => f.write_str(
                "destination is not in the registry, outboundTrafficPolicy is ALLOW_ANY",
            ),
            Self::UnknownDestination(destination) => write!(
                f,
                "destination `{destination}` is not in the registry, outboundTrafficPolicy is REGISTRY_ONLY"
            ),
            Self::CustomDenied(provider) => write!(f, "provider `{provider}` said no"),
            Self::CustomError(trouble) => write!(f, "provider {trouble}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_words(f)
    }
}

/// What was judged, as plain data for records and explanations. It permits nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Allow or deny.
    pub decision: Decision,
    /// The policy that decided; for a denial because no rule matched, the one that came closest.
    pub policy: Option<Arc<ResourceName>>,
    /// Index of its rule.
    pub rule: Option<usize>,
    /// Why.
    pub reason: Reason,
    /// An AUDIT policy matched.
    pub audit: bool,
    /// Dry-run results.
    pub shadow: Shadow,
    /// The decision was to deny and the whole mesh is in dry run: it is `Allow` now, all else tells of the denial.
    pub would_deny: bool,
}

impl Judged {
    /// The same in a mesh that is in dry run: not enforced, if it is a denial.
    #[must_use]
    pub fn unenforced(mut self) -> Self {
        self.would_deny |= self.decision == Decision::Deny;
        self.decision = Decision::Allow;
        self
    }
}

/// The engine's answer. Only `policy` makes one; it reads as the `Judged` inside.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a verdict that nobody reads forwards nothing"]
pub struct Verdict {
    judged: Judged,
}

impl Verdict {
    pub(super) fn new(judged: Judged) -> Self {
        Self { judged }
    }

    /// Names a policy that decided without a rule.
    pub(super) fn naming(mut self, policy: Option<Arc<ResourceName>>) -> Self {
        self.judged.policy = policy;
        self
    }

    /// A verdict without a policy behind it.
    pub(super) fn plain(decision: Decision, reason: Reason) -> Self {
        Self::new(Judged {
            decision,
            policy: None,
            rule: None,
            reason,
            audit: false,
            shadow: Shadow::default(),
            would_deny: false,
        })
    }

    /// What was judged.
    #[must_use]
    pub fn judged(&self) -> &Judged {
        &self.judged
    }

    /// The right to dial upstream once.
    ///
    /// # Errors
    /// `Denied` if the decision is to deny.
    pub fn permit(self) -> Result<Permit, Denied> {
        match self.judged.decision {
            Decision::Allow => Ok(Permit {
                judged: self.judged,
            }),
            Decision::Deny => Err(Denied {
                judged: self.judged,
            }),
        }
    }
}

impl Deref for Verdict {
    type Target = Judged;

    fn deref(&self) -> &Judged {
        &self.judged
    }
}

/// The right to dial upstream once. Only `Verdict::permit` makes one, and it cannot be copied.
#[derive(Debug)]
#[must_use = "a permit is for dialling"]
pub struct Permit {
    judged: Judged,
}

impl Permit {
    /// What was judged, for the record.
    #[must_use]
    pub fn verdict(&self) -> &Judged {
        &self.judged
    }
}

/// A denial.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("denied: {}", judged.reason)]
pub struct Denied {
    /// What was judged.
    pub judged: Judged,
}
