//! From policies as written to a compiled set: attach, expand trust domains, check and compile every value.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::policy::attach::{Point, Scope, attaches};
use crate::policy::intern::Shared;
use crate::policy::model::{Action, AuthorizationPolicy};
use crate::policy::rule::Policy;
use crate::policy::rules::Compiler;
use crate::policy::set::{List, PolicySet};
use crate::policy::targets::Targets;
use crate::policy::verdict::Decision;
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

/// Sets by positions of their policies and by what holds without an ALLOW policy.
type Sets = FxHashMap<(Vec<usize>, Decision), Arc<PolicySet>>;

/// The policies of a mesh, each compiled once; `at` gives what holds at an enforcement point.
#[derive(Debug)]
pub struct Compiled<'m> {
    mesh: MeshPolicies<'m>,
    /// In order of their names.
    policies: Vec<(&'m AuthorizationPolicy, Arc<Policy>)>,
    targets: Targets<'m>,
    /// The sets made so far, by the policies in them.
    sets: RefCell<Sets>,
}

impl<'m> Compiled<'m> {
    /// Compiles all policies.
    ///
    /// # Errors
    /// Every problem of theirs. Nothing is skipped: with one bad value there is nothing.
    pub fn new(mesh: &MeshPolicies<'m>) -> Result<Self, Vec<PolicyProblem>> {
        Self::of(mesh, mesh.policies.iter().collect())
    }

    fn of(
        mesh: &MeshPolicies<'m>,
        mut written: Vec<&'m AuthorizationPolicy>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        written.sort_by(|a, b| a.name.cmp(&b.name));
        let mut shared = Shared::default();
        let mut policies = Vec::with_capacity(written.len());
        for policy in written {
            let compiled = Compiler {
                policy,
                trust_domains: mesh.trust_domains,
                l4_deny: mesh.l4_deny,
                shared: &mut shared,
            }
            .policy();
            policies.push((policy, Arc::new(compiled)));
        }
        if !shared.problems.is_empty() {
            return Err(shared.problems);
        }
        Ok(Self {
            mesh: *mesh,
            targets: Targets::new(policies.iter().map(|(written, _)| *written)),
            policies,
            sets: RefCell::default(),
        })
    }

    /// What holds at `point`. Points where the same policies apply share one set.
    #[must_use]
    pub fn at(&self, point: &Point) -> Arc<PolicySet> {
        let applying = self.applying(point);
        let mut sets = self.sets.borrow_mut();
        let made = sets
            .entry((applying, point.default))
            .or_insert_with_key(|(applying, default)| Arc::new(self.set(applying, *default)));
        Arc::clone(made)
    }

    /// Positions of the policies that apply at `point`, in order.
    fn applying(&self, point: &Point) -> Vec<usize> {
        let root = self.mesh.scope.root_namespace;
        let mut found = Vec::new();
        self.targets.candidates(point, root, |at| found.push(at));
        found.retain(|at| {
            self.policies.get(*at).is_some_and(|(policy, _)| {
                attaches(
                    &policy.target,
                    &policy.name.namespace,
                    point,
                    self.mesh.scope,
                )
            })
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    fn set(&self, applying: &[usize], default: Decision) -> PolicySet {
        let of = |wanted: Action, dry_run: bool| -> Vec<Arc<Policy>> {
            let policies = applying.iter().filter_map(|at| self.policies.get(*at));
            policies
                .filter(|(written, _)| written.action == wanted && written.dry_run == dry_run)
                .map(|(_, compiled)| Arc::clone(compiled))
                .collect()
        };
        let mut custom: BTreeMap<Arc<str>, Vec<Arc<Policy>>> = BTreeMap::new();
        for policy in of(Action::Custom, false) {
            let provider = Arc::clone(&policy.provider);
            custom.entry(provider).or_default().push(policy);
        }
        let custom = custom.into_iter();
        PolicySet {
            default,
            dry_run: self.mesh.dry_run,
            deny: List::new(of(Action::Deny, false), false),
            allow: List::new(of(Action::Allow, false), true),
            audit: List::new(of(Action::Audit, false), false),
            custom: custom
                .map(|(name, all)| (name, List::new(all, false)))
                .collect(),
            dry_deny: List::new(of(Action::Deny, true), false),
            dry_allow: List::new(of(Action::Allow, true), false),
        }
    }
}

/// Compiles the policies that apply at `point`, and only those.
///
/// # Errors
/// Every problem of those policies. Nothing is skipped: with one bad value there is no set.
pub fn compile(mesh: &MeshPolicies<'_>, point: &Point) -> Result<PolicySet, Vec<PolicyProblem>> {
    let applies =
        |p: &&AuthorizationPolicy| attaches(&p.target, &p.name.namespace, point, mesh.scope);
    let compiled = Compiled::of(mesh, mesh.policies.iter().filter(applies).collect())?;
    let all: Vec<usize> = (0..compiled.policies.len()).collect();
    Ok(compiled.set(&all, point.default))
}

/// Everything that is wrong with a policy, wherever it may be attached. That a list was written but empty
/// cannot be seen here; whoever reads the text refuses it (`from = []`).
#[must_use]
pub fn validate(policy: &AuthorizationPolicy) -> Vec<PolicyProblem> {
    let mut shared = Shared::default();
    let mut compiler = Compiler {
        policy,
        trust_domains: &[],
        l4_deny: L4Deny::default(),
        shared: &mut shared,
    };
    compiler.loadable();
    compiler.policy();
    shared.problems
}
