//! Which parts of a rule hold for a call. Each part is judged by the engine itself, as a rule of its own.

use std::collections::BTreeMap;

use crate::config::checked::Mesh;
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use crate::policy::{
    Connection, Decision, MeshPolicies, Point, PointKind, Request, compile, decide,
};
use crate::role::remedy::fields::{Fields, Presented};
use crate::vocab::spiffe::TrustDomain;

/// A call at an enforcement point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) connection: &'a Connection,
    pub(super) request: Option<&'a Request>,
}

/// A part of a rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failing {
    pub(super) part: Part,
    /// Field of the source or operation; key of the condition.
    pub(super) name: String,
}

/// Which clause of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    From(usize),
    To(usize),
    When(usize),
}

impl Probe<'_> {
    pub(super) fn presented(&self) -> Presented<'_> {
        Presented {
            connection: self.connection,
            request: self.request,
        }
    }

    /// Whether a rule holds, as one of `policy`.
    pub(super) fn holds(&self, policy: &AuthorizationPolicy, rule: Rule) -> bool {
        let by_deny = policy.action == Action::Deny;
        let alone = AuthorizationPolicy {
            name: policy.name.clone(),
            target: Target::Namespace,
            action: if by_deny { Action::Deny } else { Action::Allow },
            provider: None,
            dry_run: false,
            rules: vec![rule],
        };
        let own = std::iter::once(&self.mesh.trust_domain);
        let domains: Vec<TrustDomain> = own
            .chain(&self.mesh.trust_domain_aliases)
            .cloned()
            .collect();
        let policies = MeshPolicies {
            policies: std::slice::from_ref(&alone),
            trust_domains: &domains,
            scope: self.mesh.scope(),
            l4_deny: self.mesh.l4_deny,
            dry_run: false,
        };
        let point = Point {
            kind: PointKind::Workload,
            namespace: policy.name.namespace.clone(),
            labels: BTreeMap::new(),
            gateway: None,
            services: Vec::new(),
            accounts: Vec::new(),
            default: Decision::Allow,
        };
        let wanted = if by_deny {
            Decision::Deny
        } else {
            Decision::Allow
        };
        compile(&policies, &point)
            .is_ok_and(|set| decide(&set, self.connection, self.request).decision == wanted)
    }

    pub(super) fn source_holds(&self, policy: &AuthorizationPolicy, source: &Source) -> bool {
        self.holds(
            policy,
            Rule {
                from: vec![source.clone()],
                ..Rule::default()
            },
        )
    }

    pub(super) fn operation_holds(
        &self,
        policy: &AuthorizationPolicy,
        operation: &Operation,
    ) -> bool {
        self.holds(
            policy,
            Rule {
                to: vec![operation.clone()],
                ..Rule::default()
            },
        )
    }

    pub(super) fn condition_holds(
        &self,
        policy: &AuthorizationPolicy,
        condition: &Condition,
    ) -> bool {
        self.holds(
            policy,
            Rule {
                when: vec![condition.clone()],
                ..Rule::default()
            },
        )
    }

    /// The parts of a rule that fail: of the source and the operation that fail least, and of the conditions. As for the rule that
    /// comes nearest, a token that is missing counts once, and less than any other part.
    pub(super) fn failing(&self, policy: &AuthorizationPolicy, rule: &Rule) -> Vec<Failing> {
        let mut of_when = Vec::new();
        for (k, condition) in rule.when.iter().enumerate() {
            if !self.condition_holds(policy, condition) {
                of_when.push(Failing {
                    part: Part::When(k),
                    name: condition.key.clone(),
                });
            }
        }
        let anonymous = self.request.is_some_and(|r| r.claims.is_none());
        let counted = of_when.iter().any(Failing::is_of_token);
        let short = |failing: &Vec<Failing>| {
            let tokens = failing.iter().filter(|f| anonymous && f.is_of_token());
            let tokens = tokens.count();
            2 * (failing.len() - tokens) + usize::from(tokens > 0 && !counted)
        };
        let source = |field: &Source| self.source_holds(policy, field);
        let operation = |field: &Operation| self.operation_holds(policy, field);
        let mut all = least(&rule.from, Part::From, source, short);
        all.extend(least(&rule.to, Part::To, operation, short));
        all.extend(of_when);
        all
    }
}

impl Failing {
    /// Whether it asks for something of a token.
    pub(super) fn is_of_token(&self) -> bool {
        self.name == "requestPrincipals" || self.name.starts_with("request.auth.")
    }
}

fn least<F: Fields>(
    clauses: &[F],
    part: impl Fn(usize) -> Part,
    holds: impl Fn(&F) -> bool,
    short: impl Fn(&Vec<Failing>) -> usize,
) -> Vec<Failing> {
    let failing = |(i, clause): (usize, &F)| {
        let fields = clause.fields();
        let written = fields.into_iter().filter(|(_, values)| !values.is_empty());
        let failed = written.filter(|(name, _)| !holds(&clause.only(name)));
        failed
            .map(|(name, _)| Failing {
                part: part(i),
                name: name.to_owned(),
            })
            .collect::<Vec<_>>()
    };
    let all = clauses.iter().enumerate().map(failing);
    all.min_by_key(short).unwrap_or_default()
}
