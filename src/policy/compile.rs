//! From policies as written to a compiled set: attach, expand trust domains, check and compile every value.

use crate::policy::attach::{Point, Scope, attaches};
use crate::policy::model::{Action, AuthorizationPolicy};
use crate::policy::rules::Compiler;
use crate::policy::set::PolicySet;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::TrustDomain;

/// What a rule with HTTP attributes does on a bare connection (`compat.l4Deny`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L4Deny {
    /// `api`, the text of Istio's API: a DENY rule is judged without its HTTP attributes and denies more.
    #[default]
    Api,
    /// `ztunnel`: a source, operation or condition of HTTP attributes alone never matches.
    Ztunnel,
}

/// The mesh's policies and what they are read by.
#[derive(Clone, Copy, Debug)]
pub struct MeshPolicies<'a> {
    /// All policies; `compile` picks those that apply.
    pub policies: &'a [AuthorizationPolicy],
    /// Our own trust domain first, then its aliases.
    pub trust_domains: &'a [TrustDomain],
    /// What a policy applies to.
    pub scope: Scope<'a>,
    /// `mesh.compat.l4Deny`.
    pub l4_deny: L4Deny,
    /// `mesh.dangerous_dryRun`: what would be denied is allowed, and said to be so.
    pub dry_run: bool,
}

/// Something in a policy that cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The policy.
    pub policy: ResourceName,
    /// The field, such as `rules[0].to[0].operation.pathRegexes[1]`.
    pub field: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

/// Compiles the policies that apply at `point`.
///
/// # Errors
/// Every problem of those policies. Nothing is skipped: with one bad value there is no set.
pub fn compile(mesh: &MeshPolicies<'_>, point: &Point) -> Result<PolicySet, Vec<PolicyProblem>> {
    let mut applying: Vec<&AuthorizationPolicy> = mesh
        .policies
        .iter()
        .filter(|p| attaches(&p.target, &p.name.namespace, point, mesh.scope))
        .collect();
    applying.sort_by(|a, b| a.name.cmp(&b.name));
    let mut problems = Vec::new();
    let mut out = PolicySet {
        default: point.default,
        dry_run: mesh.dry_run,
        deny: Vec::new(),
        allow: Vec::new(),
        audit: Vec::new(),
        custom: Vec::new(),
        dry_deny: Vec::new(),
        dry_allow: Vec::new(),
    };
    for policy in applying {
        let mut compiler = Compiler {
            policy,
            trust_domains: mesh.trust_domains,
            l4_deny: mesh.l4_deny,
            problems,
        };
        let compiled = compiler.policy();
        problems = compiler.problems;
        let list = match (policy.action, policy.dry_run) {
            (Action::Allow, false) => &mut out.allow,
            (Action::Deny, false) => &mut out.deny,
            (Action::Allow, true) => &mut out.dry_allow,
            (Action::Deny, true) => &mut out.dry_deny,
            (Action::Audit, _) => &mut out.audit,
            (Action::Custom, _) => &mut out.custom,
        };
        list.push(compiled);
    }
    if problems.is_empty() {
        Ok(out)
    } else {
        Err(problems)
    }
}

/// Everything that is wrong with a policy, wherever it may be attached. That a list was written but empty
/// cannot be seen here; whoever reads the text refuses it (`from = []`).
#[must_use]
pub fn validate(policy: &AuthorizationPolicy) -> Vec<PolicyProblem> {
    let mut compiler = Compiler {
        policy,
        trust_domains: &[],
        l4_deny: L4Deny::default(),
        problems: Vec::new(),
    };
    compiler.policy();
    compiler.problems
}
