//! Compiles one policy: its rules, field by field, and what is left of them on a bare connection.

use std::fmt::Display;
use std::sync::Arc;

use crate::policy::attribute::Attribute;
use crate::policy::compile::{L4Deny, PolicyProblem};
use crate::policy::field::{Check, Occurrences, Test};
use crate::policy::intern::{Shared, TestKey};
use crate::policy::matcher::Matcher;
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use crate::policy::rule::{self, AtL4, Clause, Form};
use crate::policy::values::Values;
use crate::vocab::spiffe::TrustDomain;

/// The compiler of one policy.
pub(super) struct Compiler<'m, 's> {
    pub(super) policy: &'m AuthorizationPolicy,
    pub(super) trust_domains: &'m [TrustDomain],
    pub(super) l4_deny: L4Deny,
    pub(super) shared: &'s mut Shared<'m>,
}

/// Where something stands in the policy; it becomes text only if something is wrong there.
type At<'a> = &'a dyn Display;

impl<'m> Compiler<'m, '_> {
    fn problem(&mut self, field: impl Display, message: impl Into<String>) {
        self.shared.problems.push(PolicyProblem {
            policy: self.policy.name.clone(),
            field: field.to_string(),
            message: message.into(),
        });
    }

    /// Compiles the policy; what is wrong with it is added to the problems. A DENY or CUSTOM policy without rules
    /// matches nothing; that it is refused at load is for `loadable` to say.
    pub(super) fn policy(&mut self) -> rule::Policy {
        let policy = self.policy;
        self.target();
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
        let rules = policy.rules.iter().enumerate();
        let rules = rules.map(|(i, r)| self.rule(i, r)).collect();
        rule::Policy {
            name: Arc::new(policy.name.clone()),
            provider: self.shared.interner.text(provider),
            rules,
        }
    }

    /// What is refused when a policy is loaded, though its meaning is plain.
    pub(super) fn loadable(&mut self) {
        let needs_rules = match self.policy.action {
            Action::Deny | Action::Custom => true,
            Action::Allow | Action::Audit => false,
        };
        if needs_rules && self.policy.rules.is_empty() {
            self.problem(
                "rules",
                "a DENY or CUSTOM policy needs rules: without any it matches nothing",
            );
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

    fn rule(&mut self, at: usize, rule: &'m Rule) -> rule::Rule {
        let mut from = Vec::with_capacity(rule.from.len());
        for (i, source) in rule.from.iter().enumerate() {
            from.push(self.source(&format_args!("rules[{at}].from[{i}].source"), source));
        }
        let mut to = Vec::with_capacity(rule.to.len());
        for (i, operation) in rule.to.iter().enumerate() {
            to.push(self.operation(&format_args!("rules[{at}].to[{i}].operation"), operation));
        }
        let mut when = Vec::with_capacity(rule.when.len());
        for (i, condition) in rule.when.iter().enumerate() {
            self.condition(&format_args!("rules[{at}].when[{i}]"), condition, &mut when);
        }
        let full = Form {
            from: from.into(),
            to: to.into(),
            when: when.into(),
        };
        let needs_http = full.tests().any(|t| t.attribute.needs_http());
        let needs_time = full.tests().any(|t| t.attribute == Attribute::Time);
        let needs_token = full.tests().any(|t| t.attribute.is_of_token());
        rule::Rule {
            at_l4: self.at_l4(&full),
            full,
            needs_http,
            needs_time,
            needs_token,
        }
    }

    fn source(&mut self, at: At<'_>, s: &'m Source) -> Clause {
        use Attribute as A;
        let fields = [
            (
                A::Principal,
                ["principals", "notPrincipals"],
                [&s.principals, &s.not_principals],
            ),
            (
                A::RequestPrincipal,
                ["requestPrincipals", "notRequestPrincipals"],
                [&s.request_principals, &s.not_request_principals],
            ),
            (
                A::Namespace,
                ["namespaces", "notNamespaces"],
                [&s.namespaces, &s.not_namespaces],
            ),
            (
                A::ServiceAccount,
                ["serviceAccounts", "notServiceAccounts"],
                [&s.service_accounts, &s.not_service_accounts],
            ),
            (
                A::TrustDomain,
                ["trustDomains", "notTrustDomains"],
                [&s.trust_domains, &s.not_trust_domains],
            ),
            (
                A::SourceIp,
                ["ipBlocks", "notIpBlocks"],
                [&s.ip_blocks, &s.not_ip_blocks],
            ),
            (
                A::RemoteIp,
                ["remoteIpBlocks", "notRemoteIpBlocks"],
                [&s.remote_ip_blocks, &s.not_remote_ip_blocks],
            ),
        ];
        let out = self.fields(at, &fields);
        if out.is_empty() {
            self.problem(at, "has no field: an empty source would mean anyone");
        }
        let names = |t: &Arc<Test>| matches!(t.attribute, A::Principal | A::Namespace);
        if out.iter().any(|t| t.attribute == A::ServiceAccount) && out.iter().any(names) {
            let why = "serviceAccounts stands alone: not together with principals or namespaces";
            self.problem(at, why);
        }
        out.into()
    }

    fn operation(&mut self, at: At<'_>, o: &'m Operation) -> Clause {
        use Attribute as A;
        let fields = [
            (A::Host, ["hosts", "notHosts"], [&o.hosts, &o.not_hosts]),
            (
                A::DestinationPort,
                ["ports", "notPorts"],
                [&o.ports, &o.not_ports],
            ),
            (
                A::Method,
                ["methods", "notMethods"],
                [&o.methods, &o.not_methods],
            ),
            (A::Path, ["paths", "notPaths"], [&o.paths, &o.not_paths]),
        ];
        let mut out = self.fields(at, &fields);
        let regexes = [
            ("pathRegexes", List::Regexes, &o.path_regexes),
            ("notPathRegexes", List::NotRegexes, &o.not_path_regexes),
        ];
        for (name, list, patterns) in regexes {
            if !patterns.is_empty() {
                let key = list.key(name, patterns);
                out.push(self.test(at, name, key, &A::Path, list, false));
            }
        }
        if out.is_empty() {
            self.problem(at, "has no field: an empty operation would mean anything");
        }
        out.into()
    }

    /// Fields and their `not` twins, each unless absent.
    fn fields(&mut self, at: At<'_>, fields: &[Field<'m>]) -> Vec<Arc<Test>> {
        let mut out = Vec::new();
        for (attribute, names, values) in fields {
            for ((name, values), list) in names.iter().zip(values).zip([List::Values, List::Not]) {
                if !values.is_empty() {
                    self.refuse_identity(&format_args!("{at}.{name}"), attribute);
                    let mut key = list.key(name, values);
                    if *attribute == Attribute::ServiceAccount {
                        key.namespace = &self.policy.name.namespace;
                    }
                    out.push(self.test(at, name, key, attribute, list, false));
                }
            }
        }
        out
    }

    fn condition(&mut self, at: At<'_>, c: &'m Condition, out: &mut Vec<Arc<Test>>) {
        let attribute = match Attribute::parse_key(&c.key) {
            Ok(attribute) => attribute,
            Err(why) => {
                self.problem(format_args!("{at}.key"), format!("`{}`: {why}", c.key));
                return;
            }
        };
        self.refuse_identity(&format_args!("{at}.key"), &attribute);
        let lists = [
            ("values", List::Values, &c.values),
            ("notValues", List::Not, &c.not_values),
            ("regexes", List::Regexes, &c.regexes),
            ("notRegexes", List::NotRegexes, &c.not_regexes),
        ];
        let mut parts = Vec::new();
        for (name, list, values) in lists {
            if values.is_empty() {
                continue;
            }
            if list.is_regex() && !attribute.is_text() {
                let what = format!("`{}` is not compared as text", c.key);
                self.problem(format_args!("{at}.{name}"), what);
                continue;
            }
            parts.push((name, list, values));
        }
        if parts.is_empty() {
            self.problem(at, "needs values, notValues, regexes or notRegexes");
        }
        if matches!(attribute, Attribute::Query(_)) {
            out.extend(self.query(at, attribute, &c.key, &parts));
            return;
        }
        for (name, list, values) in parts {
            let mut key = list.key(&c.key, values);
            if attribute == Attribute::ServiceAccount {
                key.namespace = &self.policy.name.namespace;
            }
            out.push(self.test(at, name, key, &attribute, list, true));
        }
    }

    /// One test of all lists: each occurrence of the parameter is judged by all of them.
    fn query(
        &mut self,
        at: At<'_>,
        attribute: Attribute,
        key: &'m str,
        parts: &[(&str, List, &'m Vec<String>)],
    ) -> Option<Arc<Test>> {
        let every = self.policy.action == Action::Allow;
        let mut whole = TestKey {
            name: key,
            lists: [&[]; 4],
            namespace: "",
            every,
        };
        for (_, list, values) in parts {
            let one = list.key(key, values);
            for (to, from) in whole.lists.iter_mut().zip(one.lists) {
                if !from.is_empty() {
                    *to = from;
                }
            }
        }
        if let Some(known) = self.shared.tests.get(&whole) {
            return Some(Arc::clone(known));
        }
        let (_, first, written) = parts.first()?;
        let before = self.shared.problems.len();
        let compiled = parts.iter().map(|(name, list, values)| {
            let matcher = self.matcher(at, name, &attribute, *list, values);
            (matcher, list.is_not())
        });
        let occurrences = Occurrences {
            parts: compiled.collect(),
            every,
        };
        let made = Arc::new(Test {
            attribute,
            check: Check::Occurrences(Box::new(occurrences)),
            written: self.written(written),
            not: first.is_not(),
            l7_for_ztunnel: true,
        });
        if self.shared.problems.len() == before {
            self.shared.tests.insert(whole, Arc::clone(&made));
        }
        Some(made)
    }

    /// The test of one list, made once for all policies that have it.
    fn test(
        &mut self,
        at: At<'_>,
        name: &str,
        key: TestKey<'m>,
        attribute: &Attribute,
        list: List,
        in_when: bool,
    ) -> Arc<Test> {
        if let Some(known) = self.shared.tests.get(&key) {
            return Arc::clone(known);
        }
        let before = self.shared.problems.len();
        let values = key.lists.into_iter().find(|l| !l.is_empty());
        let values = values.unwrap_or_default();
        let matcher = self.matcher(at, name, attribute, list, values);
        let l7_for_ztunnel = matches!(attribute, Attribute::RemoteIp | Attribute::Sni)
            || (in_when
                && matches!(
                    attribute,
                    Attribute::ServiceAccount | Attribute::TrustDomain
                ));
        let made = Arc::new(Test {
            attribute: attribute.clone(),
            check: Check::Values(matcher, list.is_not()),
            written: self.written(values),
            not: list.is_not(),
            l7_for_ztunnel,
        });
        if self.shared.problems.len() == before {
            self.shared.tests.insert(key, Arc::clone(&made));
        }
        made
    }

    fn written(&mut self, values: &[String]) -> Box<[Arc<str>]> {
        let interner = &mut self.shared.interner;
        values.iter().map(|v| interner.text(v)).collect()
    }

    fn refuse_identity(&mut self, at: At<'_>, attribute: &Attribute) {
        if self.policy.action == Action::Custom && attribute.is_identity() {
            self.problem(
                at,
                "a CUSTOM policy is asked before identities and tokens are looked at",
            );
        }
    }

    fn matcher(
        &mut self,
        at: At<'_>,
        name: &str,
        attribute: &Attribute,
        list: List,
        values: &[String],
    ) -> Matcher {
        let mut compiled = Values {
            namespace: &self.policy.name.namespace,
            trust_domains: self.trust_domains,
            interner: &mut self.shared.interner,
            faults: Vec::new(),
        };
        let matcher = if list.is_regex() {
            compiled.regexes(values)
        } else {
            compiled.matcher(attribute, values)
        };
        for (index, message) in compiled.faults {
            match index {
                None => self.problem(format_args!("{at}.{name}"), message),
                Some(i) => self.problem(format_args!("{at}.{name}[{i}]"), message),
            }
        }
        matcher
    }

    /// What is left of a rule on a bare connection.
    fn at_l4(&self, full: &Form) -> AtL4 {
        let dialect = self.l4_deny;
        let l7 = |t: &Arc<Test>| {
            t.attribute.needs_http() || (dialect == L4Deny::Ztunnel && t.l7_for_ztunnel)
        };
        if !full.tests().any(l7) {
            return AtL4::Same;
        }
        if self.policy.action == Action::Allow {
            return AtL4::Never;
        }
        let keep =
            |tests: &Clause| -> Clause { tests.iter().filter(|t| !l7(t)).cloned().collect() };
        let clauses = |lists: &[Clause]| lists.iter().map(keep).collect::<Vec<_>>();
        let (mut from, mut to, when) = (clauses(&full.from), clauses(&full.to), keep(&full.when));
        if self.policy.action == Action::Deny && dialect == L4Deny::Ztunnel {
            from.retain(|c| !c.is_empty());
            to.retain(|c| !c.is_empty());
            let emptied = (from.is_empty() && !full.from.is_empty())
                || (to.is_empty() && !full.to.is_empty())
                || when.len() < full.when.len();
            if emptied {
                return AtL4::Never;
            }
        }
        AtL4::Reduced(Box::new(Form {
            from: from.into(),
            to: to.into(),
            when,
        }))
    }
}

/// A field of `source` or `operation`: attribute, the names and the values of itself and its twin.
type Field<'m> = (Attribute, [&'static str; 2], [&'m Vec<String>; 2]);

/// One of the lists of a field or condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Values,
    Not,
    Regexes,
    NotRegexes,
}

impl List {
    fn is_regex(self) -> bool {
        matches!(self, Self::Regexes | Self::NotRegexes)
    }

    fn is_not(self) -> bool {
        matches!(self, Self::Not | Self::NotRegexes)
    }

    /// A test of this list alone.
    fn key<'m>(self, name: &'m str, values: &'m [String]) -> TestKey<'m> {
        let lists = match self {
            Self::Values => [values, &[], &[], &[]],
            Self::Not => [&[], values, &[], &[]],
            Self::Regexes => [&[], &[], values, &[]],
            Self::NotRegexes => [&[], &[], &[], values],
        };
        TestKey {
            name,
            lists,
            namespace: "",
            every: false,
        }
    }
}
