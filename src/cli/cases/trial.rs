//! One connection or request before everything that judges it, in the order of the data path: external authorizers,
//! tokens, policies.

use crate::jwt::{KeyLookup, authenticate};
use crate::policy::{Connection, Decision, Judged, LOOKED_AT, Request, Shadow, custom_providers};
use crate::role::authenticate::{self, TokenRefused};
use crate::role::plan::Plan;
use crate::vocab::path::PathNormalization;

/// What judges.
pub(super) struct Trial<'a> {
    pub(super) plan: Plan<'a>,
    pub(super) keys: &'a dyn KeyLookup,
    /// Seconds since 1970.
    pub(super) now_unix_s: i64,
    pub(super) normalization: PathNormalization,
    /// Whether the provider of this name says yes.
    pub(super) custom: &'a dyn Fn(&str) -> bool,
}

/// What came out.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Policies decided; the last verdict, or the first denial.
    Verdict {
        judged: Judged,
        /// Why, with what was presented.
        why: String,
        /// An AUDIT policy matched anywhere.
        audit: bool,
        shadow: Shadow,
    },
    /// This provider said no.
    Custom(String),
    /// A token did not verify: status and why.
    Token(u16, String),
    /// The request cannot be judged: status and why.
    Refused(u16, String),
    /// Nothing judges, which denies.
    Nothing,
}

impl Outcome {
    /// `allow`, `deny`, or the status of an answer that no policy gives.
    pub(super) fn answer(&self) -> String {
        match self {
            Self::Verdict { judged, .. } => match judged.decision {
                Decision::Allow => "allow".to_owned(),
                Decision::Deny => "deny".to_owned(),
            },
            Self::Custom(_) | Self::Nothing => "deny".to_owned(),
            Self::Token(status, _) | Self::Refused(status, _) => status.to_string(),
        }
    }

    /// Whether it is forwarded.
    pub(super) fn is_allowed(&self) -> bool {
        matches!(self, Self::Verdict { judged, .. } if judged.decision == Decision::Allow)
    }

    /// Why.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Verdict { judged, why, .. } => match &judged.policy {
                Some(policy) => {
                    let rule = judged
                        .rule
                        .map_or_else(String::new, |r| format!(" rule {r}"));
                    format!("{policy}{rule}: {why}")
                }
                None => why.clone(),
            },
            Self::Custom(provider) => format!("provider `{provider}` does not say yes"),
            Self::Token(_, why) | Self::Refused(_, why) => why.clone(),
            Self::Nothing => "nothing judges here".to_owned(),
        }
    }

    /// Audit mark and dry-run results.
    pub(super) fn sides(&self) -> (bool, Shadow) {
        match self {
            Self::Verdict { audit, shadow, .. } => (*audit, *shadow),
            Self::Custom(_) | Self::Token(..) | Self::Refused(..) | Self::Nothing => {
                (false, Shadow::default())
            }
        }
    }
}

impl Trial<'_> {
    /// Judges; what tokens change on the request is changed.
    pub(super) fn judge(&self, conn: &Connection, mut request: Option<&mut Request>) -> Outcome {
        for enforcement in self.plan.enforcements.iter() {
            let providers = custom_providers(&enforcement.set, conn, request.as_deref());
            if let Some(no) = providers.into_iter().find(|name| !(self.custom)(name)) {
                return Outcome::Custom(no.to_owned());
            }
        }
        if let Some(request) = request.as_deref_mut() {
            let verify = |rules: &_, request: &Request| {
                let path = request.path.as_ref();
                authenticate(rules, self.keys, &request.headers, path, self.now_unix_s)
            };
            match authenticate::tokens(&self.plan, request, self.normalization, verify) {
                Ok(()) => {}
                Err(TokenRefused::Invalid(invalid)) => {
                    let why = format!("token: {}", invalid.error);
                    return Outcome::Token(invalid.status.as_u16(), why);
                }
                Err(TokenRefused::Target) => {
                    let why = "the target without its token is no path";
                    return Outcome::Refused(400, why.to_owned());
                }
            }
        }
        self.policies(conn, request.as_deref())
    }

    fn policies(&self, conn: &Connection, request: Option<&Request>) -> Outcome {
        let mut last = Outcome::Nothing;
        let (mut all_audit, mut all) = (false, Shadow::default());
        for enforcement in self.plan.enforcements.iter() {
            let verdict = self.plan.verdict(enforcement, conn, request, LOOKED_AT);
            let judged = verdict.judged().clone();
            all_audit |= judged.audit;
            all = Shadow {
                deny: stricter(all.deny, judged.shadow.deny),
                allow: stricter(all.allow, judged.shadow.allow),
            };
            let denied = judged.decision == Decision::Deny;
            last = Outcome::Verdict {
                why: judged.reason.text(conn, request),
                judged,
                audit: all_audit,
                shadow: all,
            };
            if denied {
                break;
            }
        }
        last
    }
}

fn stricter(a: Option<Decision>, b: Option<Decision>) -> Option<Decision> {
    match (a, b) {
        (Some(Decision::Deny), _) | (_, Some(Decision::Deny)) => Some(Decision::Deny),
        (a, b) => a.or(b),
    }
}
