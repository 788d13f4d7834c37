//! Compiles one policy: its rules, field by field, and what is left of them on a bare connection.

use std::sync::Arc;

use crate::policy::attribute::{Attribute, Matcher};
use crate::policy::compile::{L4Deny, PolicyProblem};
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use crate::policy::set::{self, AtL4, Check, Form, Test};
use crate::policy::values::Values;
use crate::vocab::spiffe::TrustDomain;

/// The compiler of one policy.
pub(super) struct Compiler<'a> {
    pub(super) policy: &'a AuthorizationPolicy,
    pub(super) trust_domains: &'a [TrustDomain],
    pub(super) l4_deny: L4Deny,
    pub(super) problems: Vec<PolicyProblem>,
}

impl Compiler<'_> {
    fn problem(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(PolicyProblem {
            policy: self.policy.name.clone(),
            field: field.into(),
            message: message.into(),
        });
    }

    /// Compiles the policy; what is wrong with it is added to `problems`.
    pub(super) fn policy(&mut self) -> set::Policy {
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
        let tests = || full.from.iter().chain(&full.to).flatten().chain(&full.when);
        let needs_http = tests().any(|t| t.attribute.needs_http());
        let needs_time = tests().any(|t| t.attribute == Attribute::Time);
        set::Rule {
            full,
            at_l4,
            needs_http,
            needs_time,
        }
    }

    fn source(&mut self, at: &str, s: &Source) -> Vec<Test> {
        use Attribute as A;
        let requested = (&s.request_principals, &s.not_request_principals);
        let remote = (&s.remote_ip_blocks, &s.not_remote_ip_blocks);
        let accounts = (&s.service_accounts, &s.not_service_accounts);
        let mut out = Vec::new();
        self.pair(
            &mut out,
            at,
            "principals",
            &A::Principal,
            (&s.principals, &s.not_principals),
        );
        self.pair(
            &mut out,
            at,
            "requestPrincipals",
            &A::RequestPrincipal,
            requested,
        );
        self.pair(
            &mut out,
            at,
            "namespaces",
            &A::Namespace,
            (&s.namespaces, &s.not_namespaces),
        );
        self.pair(
            &mut out,
            at,
            "serviceAccounts",
            &A::ServiceAccount,
            accounts,
        );
        let domains = (&s.trust_domains, &s.not_trust_domains);
        self.pair(&mut out, at, "trustDomains", &A::TrustDomain, domains);
        self.pair(
            &mut out,
            at,
            "ipBlocks",
            &A::SourceIp,
            (&s.ip_blocks, &s.not_ip_blocks),
        );
        self.pair(&mut out, at, "remoteIpBlocks", &A::RemoteIp, remote);
        if out.is_empty() {
            self.problem(at, "has no field: an empty source would mean anyone");
        }
        let names = |t: &Test| matches!(t.attribute, A::Principal | A::Namespace);
        if out.iter().any(|t| t.attribute == A::ServiceAccount) && out.iter().any(names) {
            let why = "serviceAccounts stands alone: not together with principals or namespaces";
            self.problem(at, why);
        }
        out
    }

    fn operation(&mut self, at: &str, o: &Operation) -> Vec<Test> {
        use Attribute as A;
        let mut out = Vec::new();
        self.pair(&mut out, at, "hosts", &A::Host, (&o.hosts, &o.not_hosts));
        self.pair(
            &mut out,
            at,
            "ports",
            &A::DestinationPort,
            (&o.ports, &o.not_ports),
        );
        self.pair(
            &mut out,
            at,
            "methods",
            &A::Method,
            (&o.methods, &o.not_methods),
        );
        self.pair(&mut out, at, "paths", &A::Path, (&o.paths, &o.not_paths));
        let regexes = [
            ("pathRegexes", &o.path_regexes, false),
            ("notPathRegexes", &o.not_path_regexes, true),
        ];
        for (name, patterns, not) in regexes {
            if !patterns.is_empty() {
                let matcher = self.regexes(&format!("{at}.{name}"), patterns);
                out.push(test(A::Path, matcher, patterns, not, false));
            }
        }
        if out.is_empty() {
            self.problem(at, "has no field: an empty operation would mean anything");
        }
        out
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

    /// A field and its `not` twin, each unless absent.
    fn pair(
        &mut self,
        out: &mut Vec<Test>,
        at: &str,
        name: &str,
        attribute: &Attribute,
        (values, not_values): (&Vec<String>, &Vec<String>),
    ) {
        let (first, rest) = name.split_at(1);
        let twin = format!("not{}{rest}", first.to_ascii_uppercase());
        for (name, values, not) in [(name, values, false), (&twin, not_values, true)] {
            if !values.is_empty() {
                let at = format!("{at}.{name}");
                self.refuse_identity(&at, attribute);
                let matcher = self.matcher(&at, attribute, values);
                out.push(test(attribute.clone(), matcher, values, not, false));
            }
        }
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
