//! From policies as written to a compiled set: attach, expand trust domains, check and compile every value.

use std::sync::Arc;

use crate::policy::attach::{Point, attaches};
use crate::policy::attribute::{Attribute, Matcher};
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use crate::policy::set::{self, AtL4, Check, Form, PolicySet, Test};
use crate::policy::values::Values;
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
    /// `mesh.rootNamespace`.
    pub root_namespace: &'a str,
    /// `mesh.compat.gatewayNameSelector`.
    pub gateway_name_selector: bool,
    /// `mesh.compat.l4Deny`.
    pub l4_deny: L4Deny,
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
        .filter(|p| {
            attaches(
                &p.target,
                &p.name.namespace,
                point,
                mesh.root_namespace,
                mesh.gateway_name_selector,
            )
        })
        .collect();
    applying.sort_by(|a, b| a.name.cmp(&b.name));
    let mut problems = Vec::new();
    let mut out = PolicySet {
        default: point.default,
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

struct Compiler<'a> {
    policy: &'a AuthorizationPolicy,
    trust_domains: &'a [TrustDomain],
    l4_deny: L4Deny,
    problems: Vec<PolicyProblem>,
}

impl Compiler<'_> {
    fn problem(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(PolicyProblem {
            policy: self.policy.name.clone(),
            field: field.into(),
            message: message.into(),
        });
    }

    fn policy(&mut self) -> set::Policy {
        let policy = self.policy;
        self.target();
        let needs_rules = match policy.action {
            Action::Deny | Action::Custom => true,
            Action::Allow | Action::Audit => false,
        };
        if needs_rules && policy.rules.is_empty() {
            self.problem(
                "rules",
                "a DENY or CUSTOM policy needs rules: without any it matches nothing",
            );
        }
        let provider = policy.provider.as_deref().unwrap_or_default();
        if policy.action == Action::Custom && provider.is_empty() {
            self.problem(
                "provider.name",
                "action CUSTOM needs the name of a provider",
            );
        } else if policy.action != Action::Custom && policy.provider.is_some() {
            self.problem("provider", "only action CUSTOM has a provider");
        }
        if policy.dry_run && !matches!(policy.action, Action::Allow | Action::Deny) {
            self.problem("dryRun", "only ALLOW and DENY policies can be dry-run");
        }
        let rules = policy
            .rules
            .iter()
            .enumerate()
            .map(|(i, r)| self.rule(&format!("rules[{i}]"), r))
            .collect();
        set::Policy {
            name: Arc::new(policy.name.clone()),
            provider: provider.into(),
            rules,
        }
    }

    fn target(&mut self) {
        match &self.policy.target {
            Target::Namespace => {}
            Target::Selector(labels) => {
                for (key, value) in labels {
                    if key.is_empty() {
                        self.problem("selector.matchLabels", "empty label name");
                    }
                    if key.contains('*') || value.contains('*') {
                        let message = format!("`*` in `{key}`: labels are compared exactly");
                        self.problem("selector.matchLabels", message);
                    }
                }
            }
            Target::Refs(refs) => {
                if refs.is_empty() {
                    self.problem("targetRefs", "empty list");
                }
                for (i, target) in refs.iter().enumerate() {
                    if target.name.is_empty() {
                        self.problem(format!("targetRefs[{i}].name"), "empty name");
                    }
                }
            }
        }
    }

    fn rule(&mut self, at: &str, rule: &Rule) -> set::Rule {
        let mut full = Form::default();
        for (i, source) in rule.from.iter().enumerate() {
            full.from
                .push(self.source(&format!("{at}.from[{i}].source"), source));
        }
        for (i, operation) in rule.to.iter().enumerate() {
            full.to
                .push(self.operation(&format!("{at}.to[{i}].operation"), operation));
        }
        for (i, condition) in rule.when.iter().enumerate() {
            full.when
                .extend(self.condition(&format!("{at}.when[{i}]"), condition));
        }
        let at_l4 = self.at_l4(&full);
        let mut tests = full.from.iter().chain(&full.to).flatten().chain(&full.when);
        let needs_http = tests.any(|t| t.attribute.needs_http());
        set::Rule {
            full,
            at_l4,
            needs_http,
        }
    }

    fn source(&mut self, at: &str, source: &Source) -> Vec<Test> {
        let s = source;
        let fields = [
            ("principals", Attribute::Principal, &s.principals, false),
            (
                "notPrincipals",
                Attribute::Principal,
                &s.not_principals,
                true,
            ),
            (
                "requestPrincipals",
                Attribute::RequestPrincipal,
                &s.request_principals,
                false,
            ),
            (
                "notRequestPrincipals",
                Attribute::RequestPrincipal,
                &s.not_request_principals,
                true,
            ),
            ("namespaces", Attribute::Namespace, &s.namespaces, false),
            (
                "notNamespaces",
                Attribute::Namespace,
                &s.not_namespaces,
                true,
            ),
            (
                "serviceAccounts",
                Attribute::ServiceAccount,
                &s.service_accounts,
                false,
            ),
            (
                "notServiceAccounts",
                Attribute::ServiceAccount,
                &s.not_service_accounts,
                true,
            ),
            (
                "trustDomains",
                Attribute::TrustDomain,
                &s.trust_domains,
                false,
            ),
            (
                "notTrustDomains",
                Attribute::TrustDomain,
                &s.not_trust_domains,
                true,
            ),
            ("ipBlocks", Attribute::SourceIp, &s.ip_blocks, false),
            ("notIpBlocks", Attribute::SourceIp, &s.not_ip_blocks, true),
            (
                "remoteIpBlocks",
                Attribute::RemoteIp,
                &s.remote_ip_blocks,
                false,
            ),
            (
                "notRemoteIpBlocks",
                Attribute::RemoteIp,
                &s.not_remote_ip_blocks,
                true,
            ),
        ];
        let tests: Vec<Test> = fields
            .into_iter()
            .filter_map(|(name, attribute, values, not)| {
                self.field(&format!("{at}.{name}"), attribute, values, not)
            })
            .collect();
        if tests.is_empty() {
            self.problem(at, "has no field: an empty source would mean anyone");
        }
        let accounts = !s.service_accounts.is_empty() || !s.not_service_accounts.is_empty();
        let others = [
            &s.principals,
            &s.not_principals,
            &s.namespaces,
            &s.not_namespaces,
        ];
        if accounts && others.into_iter().any(|o| !o.is_empty()) {
            self.problem(
                at,
                "serviceAccounts stands alone: not together with principals or namespaces",
            );
        }
        tests
    }

    fn operation(&mut self, at: &str, operation: &Operation) -> Vec<Test> {
        let o = operation;
        let fields = [
            ("hosts", Attribute::Host, &o.hosts, false),
            ("notHosts", Attribute::Host, &o.not_hosts, true),
            ("ports", Attribute::DestinationPort, &o.ports, false),
            ("notPorts", Attribute::DestinationPort, &o.not_ports, true),
            ("methods", Attribute::Method, &o.methods, false),
            ("notMethods", Attribute::Method, &o.not_methods, true),
            ("paths", Attribute::Path, &o.paths, false),
            ("notPaths", Attribute::Path, &o.not_paths, true),
        ];
        let mut tests: Vec<Test> = fields
            .into_iter()
            .filter_map(|(name, attribute, values, not)| {
                self.field(&format!("{at}.{name}"), attribute, values, not)
            })
            .collect();
        let regexes = [
            ("pathRegexes", &o.path_regexes, false),
            ("notPathRegexes", &o.not_path_regexes, true),
        ];
        for (name, patterns, not) in regexes {
            if !patterns.is_empty() {
                let matcher = self.regexes(&format!("{at}.{name}"), patterns);
                tests.push(test(Attribute::Path, matcher, patterns, not, false));
            }
        }
        if tests.is_empty() {
            self.problem(at, "has no field: an empty operation would mean anything");
        }
        tests
    }

    fn condition(&mut self, at: &str, condition: &Condition) -> Vec<Test> {
        let c = condition;
        let attribute = match Attribute::parse_key(&c.key) {
            Ok(attribute) => attribute,
            Err(why) => {
                self.problem(format!("{at}.key"), format!("`{}`: {why}", c.key));
                return Vec::new();
            }
        };
        self.refuse_identity(&format!("{at}.key"), &attribute);
        let lists = [
            ("values", &c.values, false, false),
            ("notValues", &c.not_values, false, true),
            ("regexes", &c.regexes, true, false),
            ("notRegexes", &c.not_regexes, true, true),
        ];
        let mut parts = Vec::new();
        for (name, values, regex, not) in lists {
            if !values.is_empty() {
                let at = format!("{at}.{name}");
                let matcher = if regex && !attribute.is_text() {
                    self.problem(&at, format!("`{}` is not compared as text", c.key));
                    continue;
                } else if regex {
                    self.regexes(&at, values)
                } else {
                    self.matcher(&at, &attribute, values)
                };
                parts.push((matcher, values.as_slice(), not));
            }
        }
        if parts.is_empty() {
            self.problem(at, "needs values, notValues, regexes or notRegexes");
        }
        if !matches!(attribute, Attribute::Query(_)) {
            let tests = parts
                .into_iter()
                .map(|(m, values, not)| test(attribute.clone(), m, values, not, true));
            return tests.collect();
        }
        let wanted = parts
            .first()
            .map(|(_, values, not)| needs(&attribute, values, *not))
            .unwrap_or_default();
        let parts = parts.into_iter().map(|(m, _, not)| (m, not)).collect();
        let every = self.policy.action == Action::Allow;
        let check = Check::Occurrences { parts, every };
        vec![Test {
            attribute,
            check,
            needs: wanted.into(),
            l7_for_ztunnel: true,
        }]
    }

    /// One field; `None` if it is absent.
    fn field(
        &mut self,
        at: &str,
        attribute: Attribute,
        values: &[String],
        not: bool,
    ) -> Option<Test> {
        if values.is_empty() {
            return None;
        }
        self.refuse_identity(at, &attribute);
        let matcher = self.matcher(at, &attribute, values);
        Some(test(attribute, matcher, values, not, false))
    }

    fn refuse_identity(&mut self, at: &str, attribute: &Attribute) {
        if self.policy.action == Action::Custom && attribute.is_identity() {
            self.problem(
                at,
                "a CUSTOM policy is asked before identities and tokens are looked at",
            );
        }
    }

    fn matcher(&mut self, at: &str, attribute: &Attribute, values: &[String]) -> Matcher {
        let mut compiled = Values {
            namespace: &self.policy.name.namespace,
            trust_domains: self.trust_domains,
            faults: Vec::new(),
        };
        let matcher = compiled.matcher(attribute, values);
        self.faults(at, compiled.faults);
        matcher
    }

    fn regexes(&mut self, at: &str, patterns: &[String]) -> Matcher {
        let mut compiled = Values {
            namespace: &self.policy.name.namespace,
            trust_domains: self.trust_domains,
            faults: Vec::new(),
        };
        let matcher = compiled.regexes(patterns);
        self.faults(at, compiled.faults);
        matcher
    }

    fn faults(&mut self, at: &str, faults: Vec<(Option<usize>, String)>) {
        for (index, message) in faults {
            let field = index.map_or_else(|| at.to_owned(), |i| format!("{at}[{i}]"));
            self.problem(field, message);
        }
    }

    /// What is left of a rule on a bare connection.
    fn at_l4(&self, full: &Form) -> AtL4 {
        let dialect = self.l4_deny;
        let l7 =
            |t: &Test| t.attribute.needs_http() || (dialect == L4Deny::Ztunnel && t.l7_for_ztunnel);
        if !full
            .from
            .iter()
            .chain(&full.to)
            .flatten()
            .chain(&full.when)
            .any(l7)
        {
            return AtL4::Same;
        }
        let keep = |tests: &[Test]| {
            tests
                .iter()
                .filter(|t| !l7(t))
                .cloned()
                .collect::<Vec<Test>>()
        };
        let clauses = |lists: &[Vec<Test>]| lists.iter().map(|c| keep(c)).collect::<Vec<_>>();
        let mut left = Form {
            from: clauses(&full.from),
            to: clauses(&full.to),
            when: keep(&full.when),
        };
        match (self.policy.action, dialect) {
            (Action::Allow, _) => AtL4::Never,
            (Action::Deny, L4Deny::Ztunnel) => {
                left.from.retain(|c| !c.is_empty());
                left.to.retain(|c| !c.is_empty());
                let emptied = (left.from.is_empty() && !full.from.is_empty())
                    || (left.to.is_empty() && !full.to.is_empty())
                    || left.when.len() < full.when.len();
                if emptied {
                    AtL4::Never
                } else {
                    AtL4::Reduced(left)
                }
            }
            (Action::Deny | Action::Audit | Action::Custom, _) => AtL4::Reduced(left),
        }
    }
}

fn test(
    attribute: Attribute,
    matcher: Matcher,
    values: &[String],
    not: bool,
    in_when: bool,
) -> Test {
    let l7_for_ztunnel = matches!(attribute, Attribute::RemoteIp | Attribute::Sni)
        || (in_when
            && matches!(
                attribute,
                Attribute::ServiceAccount | Attribute::TrustDomain
            ));
    let needs = needs(&attribute, values, not).into();
    Test {
        attribute,
        check: Check::Values(matcher, not),
        needs,
        l7_for_ztunnel,
    }
}

/// Values of a field that a reason lists.
const LISTED: usize = 3;

/// What a test asks for, such as `principal x` or `path other than /a or /b`.
fn needs(attribute: &Attribute, values: &[String], not: bool) -> String {
    let mut text = attribute.noun();
    text.push_str(if not { " other than " } else { " " });
    let listed: Vec<&str> = values.iter().take(LISTED).map(String::as_str).collect();
    text.push_str(&listed.join(" or "));
    if let Some(more) = values.len().checked_sub(LISTED).filter(|m| *m > 0) {
        text.push_str(&format!(" or {more} more"));
    }
    text
}
