//! Changes of authorization rules.

use crate::config::checked::Mesh;
use crate::policy::Judged;
use crate::policy::model::{AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::role::remedy::fields::{Fields, Presented, condition_lists};
use crate::role::remedy::probe::{Part, Probe};
use crate::role::remedy::{Breadth, Change, Edit, policy_of, probe, written};
use crate::role::walk::Hop;

/// Kind of the resource.
pub(super) const KIND: &str = "authorizationPolicy";

/// Lets a call pass that no ALLOW rule matches.
pub(super) fn allow(mesh: &mut Mesh, hop: &Hop, judged: &Judged, breadth: Breadth) -> Option<Edit> {
    let policy = policy_of(mesh, judged)?;
    let nearest = judged.rule.and_then(|at| Some((at, policy.rules.get(at)?)));
    let probe = probe(mesh, hop);
    let (change, rule, dropped) = match (breadth, nearest) {
        (Breadth::Wide, Some((at, nearest))) => {
            let rule = widened(&probe, policy, nearest)?;
            (Change::Replace(at), rule, Vec::new())
        }
        (Breadth::Wide, None) => return None,
        (Breadth::Narrow, nearest) => {
            let (rule, dropped) = exact(&probe, policy, nearest.map(|(_, rule)| rule));
            (Change::Add, rule, dropped)
        }
    };
    if !probe.holds(policy, rule.clone()) {
        return None;
    }
    let allows = match change {
        Change::Replace(_) => (format!("this rule then allows {}", scope(&rule)), true),
        Change::New | Change::Add | Change::Set | Change::Remove(_) => {
            narrow_scope(&rule, &dropped)
        }
    };
    let edit = Edit {
        kind: KIND,
        name: policy.name.clone(),
        change,
        toml: format!("[[authorizationPolicy.rules]]\n{}", written::rule(&rule)),
        allows,
    };
    let name = policy.name.clone();
    let mut policies = mesh.authorization_policies.iter_mut();
    let rules = &mut policies.find(|p| p.name == name)?.rules;
    match change {
        Change::Replace(at) => *rules.get_mut(at)? = rule,
        Change::New | Change::Add | Change::Set | Change::Remove(_) => rules.push(rule),
    }
    Some(edit)
}

/// The rule for this call alone, and the conditions of the nearest one that it cannot ask for.
pub(super) fn exact(
    probe: &Probe<'_>,
    policy: &AuthorizationPolicy,
    nearest: Option<&Rule>,
) -> (Rule, Vec<String>) {
    let presented = probe.presented();
    let source = Source {
        principals: presented.principal().into_iter().collect(),
        request_principals: presented.request_principal().into_iter().collect(),
        ..Source::default()
    };
    let mut operation = Operation::default();
    match probe.request {
        Some(request) => {
            operation.methods = vec![request.method.as_str().to_owned()];
            match presented.path() {
                Some(path) if literal(&path) => operation.paths = vec![path],
                Some(path) => operation.path_regexes = vec![regex_syntax::escape(&path)],
                None => operation.hosts = vec![request.host.as_str().to_owned()],
            }
        }
        None => operation.ports = vec![probe.connection.port.to_string()],
    }
    let mut when = Vec::new();
    let mut dropped = Vec::new();
    for condition in nearest.into_iter().flat_map(|rule| &rule.when) {
        if probe.condition_holds(policy, condition) {
            when.push(condition.clone());
            continue;
        }
        let own = Condition {
            key: condition.key.clone(),
            values: presented.key(&condition.key),
            ..Condition::default()
        };
        let can = !own.values.is_empty() && own.values.iter().all(|v| literal(v));
        if can && probe.condition_holds(policy, &own) {
            when.push(own);
        } else {
            dropped.push(condition.key.clone());
        }
    }
    let rule = Rule {
        from: if source.is_empty() {
            Vec::new()
        } else {
            vec![source]
        },
        to: vec![operation],
        when,
    };
    (rule, dropped)
}

/// What an exact rule allows.
pub(super) fn narrow_scope(rule: &Rule, dropped: &[String]) -> (String, bool) {
    let mut text = format!("allows {}", scope(rule));
    if !dropped.is_empty() {
        let keys = dropped.join("`, `");
        text.push_str(&format!(
            "; it does not ask for `{keys}`, as the nearest rule does"
        ));
    }
    (text, rule.from.is_empty() || !dropped.is_empty())
}

/// Whether a value, written in a list, means itself.
fn literal(value: &str) -> bool {
    let pattern = value.starts_with('*') || value.ends_with('*') || value.contains(['{', '}']);
    !value.is_empty() && !pattern && !value.contains(char::is_control)
}

/// The nearest rule with the values of this call in its lists.
fn widened(probe: &Probe<'_>, policy: &AuthorizationPolicy, nearest: &Rule) -> Option<Rule> {
    let mut rule = nearest.clone();
    let presented = probe.presented();
    for failing in probe.failing(policy, nearest) {
        match failing.part {
            Part::From(at) => {
                let holds = |s: &Source| probe.source_holds(policy, s);
                widen(rule.from.get_mut(at)?, &failing.name, presented, holds)?;
            }
            Part::To(at) => {
                let holds = |o: &Operation| probe.operation_holds(policy, o);
                widen(rule.to.get_mut(at)?, &failing.name, presented, holds)?;
            }
            Part::When(at) => {
                let condition = rule.when.get_mut(at)?;
                let got = presented.key(&condition.key);
                widen_condition(condition, got, |c| probe.condition_holds(policy, c))?;
            }
        }
    }
    Some(rule)
}

/// Adds what is presented to a list, or takes what matches it out of a `not` list.
fn widen<F: Fields>(
    clause: &mut F,
    name: &str,
    presented: Presented<'_>,
    holds: impl Fn(&F) -> bool,
) -> Option<()> {
    let got = presented.field(name)?;
    let before = clause.only(name);
    let list = clause.field_mut(name)?;
    if name.starts_with("not") {
        list.retain(|value| {
            let mut one = before.only("");
            if let Some(field) = one.field_mut(name) {
                *field = vec![value.clone()];
            }
            holds(&one)
        });
        // A source or operation without any field would hold always, and is refused.
        return (!clause.is_empty()).then_some(());
    }
    if name.ends_with("Regexes") {
        list.push(regex_syntax::escape(&got));
    } else if literal(&got) {
        list.push(got);
    } else {
        return None;
    }
    Some(())
}

fn widen_condition(
    condition: &mut Condition,
    got: Vec<String>,
    holds: impl Fn(&Condition) -> bool,
) -> Option<()> {
    if got.is_empty() || !got.iter().all(|v| literal(v)) {
        return None;
    }
    let bare = |key: &str| Condition {
        key: key.to_owned(),
        ..Condition::default()
    };
    let mut missing = got;
    if !condition.values.is_empty() {
        missing.retain(|value| !condition.values.contains(value));
        condition.values.append(&mut missing);
    } else if !condition.regexes.is_empty() {
        condition
            .regexes
            .extend(missing.iter().map(|v| regex_syntax::escape(v)));
    }
    let key = condition.key.clone();
    condition.not_values.retain(|value| {
        holds(&Condition {
            not_values: vec![value.clone()],
            ..bare(&key)
        })
    });
    condition.not_regexes.retain(|value| {
        holds(&Condition {
            not_regexes: vec![value.clone()],
            ..bare(&key)
        })
    });
    let written = condition_lists(condition)
        .iter()
        .any(|(_, v)| !v.is_empty());
    (written && holds(condition)).then_some(())
}

/// Takes a call out of the DENY rule that matches it.
pub(super) fn except(
    mesh: &mut Mesh,
    hop: &Hop,
    judged: &Judged,
    breadth: Breadth,
) -> Option<Edit> {
    let policy = policy_of(mesh, judged)?;
    let at = judged.rule?;
    let rule = policy.rules.get(at)?;
    let probe = probe(mesh, hop);
    let who = without_caller(&probe, policy, rule);
    let (instead, allows) = match breadth {
        Breadth::Wide => {
            let caller = probe.presented().principal()?;
            let text = format!("{caller} is not held by this rule any more, whatever it sends");
            (vec![who?], (text, true))
        }
        Breadth::Narrow => {
            let rest = without_request(&probe, policy, rule)?;
            let anyone = who.is_none();
            let text = if anyone {
                "the rule lets this request pass from anyone that it holds for"
            } else {
                "the rule holds as before but for this caller with this request"
            };
            let instead: Vec<Rule> = who.into_iter().chain(rest).collect();
            (instead, (text.to_owned(), anyone))
        }
    };
    // What asks for a value and for another one at once never holds.
    let instead: Vec<Rule> = instead.into_iter().filter_map(without_void).collect();
    if instead.iter().any(|rule| probe.holds(policy, rule.clone())) {
        return None;
    }
    let change = match (instead.is_empty(), policy.rules.len()) {
        (false, _) => Change::Replace(at),
        (true, 1) => Change::Remove(None),
        (true, _) => Change::Remove(Some(at)),
    };
    let tables = instead
        .iter()
        .map(|rule| format!("[[authorizationPolicy.rules]]\n{}", written::rule(rule)));
    let edit = Edit {
        kind: KIND,
        name: policy.name.clone(),
        change,
        toml: tables.collect::<Vec<_>>().join("\n"),
        allows,
    };
    let name = policy.name.clone();
    let all = &mut mesh.authorization_policies;
    if change == Change::Remove(None) {
        all.retain(|p| p.name != name);
        return Some(edit);
    }
    let rules = &mut all.iter_mut().find(|p| p.name == name)?.rules;
    drop(rules.splice(at..=at, instead));
    Some(edit)
}

/// The rule without the sources and operations that never hold; `None` if it never holds itself.
fn without_void(mut rule: Rule) -> Option<Rule> {
    let (from, to) = (rule.from.len(), rule.to.len());
    rule.from.retain(|source| !is_void(source));
    rule.to.retain(|operation| !is_void(operation));
    let gone = (from > 0 && rule.from.is_empty()) || (to > 0 && rule.to.is_empty());
    (!gone).then_some(rule)
}

/// Whether it asks for values of which its `not` form takes every one.
fn is_void<F: Fields>(clause: &F) -> bool {
    let fields = clause.fields();
    let not_of = |name: &str| {
        let (first, rest) = name.split_at_checked(1)?;
        let not = format!("not{}{rest}", first.to_ascii_uppercase());
        let found = fields.iter().find(|(n, _)| *n == not)?;
        Some(found.1)
    };
    fields.iter().any(|(name, values)| {
        let without = not_of(name);
        let taken = |not: &Vec<String>| values.iter().all(|value| not.contains(value));
        !values.is_empty() && without.is_some_and(taken)
    })
}

/// The rule for every other caller.
fn without_caller(probe: &Probe<'_>, policy: &AuthorizationPolicy, rule: &Rule) -> Option<Rule> {
    let presented = probe.presented();
    let caller = presented.principal()?;
    let mut rule = rule.clone();
    if rule.from.is_empty() {
        rule.from.push(Source::default());
    }
    for source in &mut rule.from {
        if source.is_empty() || probe.source_holds(policy, source) {
            let accounts = !source.service_accounts.is_empty();
            if accounts || !source.not_service_accounts.is_empty() {
                // These stand alone, not beside principals.
                let account = presented.field("serviceAccounts")?;
                source.not_service_accounts.push(account);
            } else {
                source.not_principals.push(caller.clone());
            }
        }
    }
    Some(rule)
}

/// The rule for every other method, and the rule for every other path; on a bare connection for every other port.
fn without_request(
    probe: &Probe<'_>,
    policy: &AuthorizationPolicy,
    rule: &Rule,
) -> Option<Vec<Rule>> {
    let presented = probe.presented();
    let names: &[&str] = match probe.request {
        Some(request) if request.path.is_some() => &["notMethods", "notPaths"],
        Some(_) => &["notMethods", "notHosts"],
        None => &["notPorts"],
    };
    let other = |name: &&str| {
        let value = presented.field(name).filter(|v| literal(v))?;
        let mut rule = rule.clone();
        if rule.to.is_empty() {
            rule.to.push(Operation::default());
        }
        for operation in &mut rule.to {
            if operation.is_empty() || probe.operation_holds(policy, operation) {
                operation.field_mut(name)?.push(value.clone());
            }
        }
        Some(rule)
    };
    names.iter().map(other).collect()
}

/// What a rule allows, in words.
pub(super) fn scope(rule: &Rule) -> String {
    let sources: Vec<String> = rule.from.iter().filter_map(clause).collect();
    let operations: Vec<String> = rule.to.iter().map(operation).collect();
    let who = if sources.is_empty() {
        "anyone, also without any identity,".to_owned()
    } else {
        sources.join(", or ")
    };
    let what = if operations.is_empty() {
        "any request, by any method to any path".to_owned()
    } else {
        operations.join(", or ")
    };
    let conditions = rule.when.iter().map(|condition| {
        let lists = condition_lists(condition).into_iter();
        let lists = lists.filter(|(_, values)| !values.is_empty());
        let lists = lists.map(|(name, values)| match name {
            "values" => format!("is {}", values.join(" or ")),
            "notValues" => format!("is not {}", values.join(" or ")),
            "regexes" => format!("matches {}", values.join(" or ")),
            _ => format!("does not match {}", values.join(" or ")),
        });
        format!(
            "{} {}",
            condition.key,
            lists.collect::<Vec<_>>().join(" and ")
        )
    });
    let conditions: Vec<String> = conditions.collect();
    let only = if conditions.is_empty() { "" } else { " where " };
    format!("{who} to send {what}{only}{}", conditions.join(" and "))
}

/// The fields of a source, in words.
fn clause(of: &Source) -> Option<String> {
    let fields = of.fields();
    let written: Vec<String> = fields
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| words(name, values))
        .collect();
    (!written.is_empty()).then(|| written.join(" and "))
}

fn operation(of: &Operation) -> String {
    let list = |values: &[String], nots: &[String], noun: &str| {
        let mut parts = Vec::new();
        if !values.is_empty() {
            parts.push(format!("{noun} {}", values.join(" or ")));
        }
        if !nots.is_empty() {
            parts.push(format!("{noun} other than {}", nots.join(" or ")));
        }
        parts.join(" and ")
    };
    let methods = list(&of.methods, &of.not_methods, "");
    let paths = list(&of.paths, &of.not_paths, "to path");
    let regexes = list(&of.path_regexes, &of.not_path_regexes, "to a path matching");
    let hosts = list(&of.hosts, &of.not_hosts, "for host");
    let ports = list(&of.ports, &of.not_ports, "on port");
    let http = [&methods, &paths, &regexes, &hosts];
    let mut parts = Vec::new();
    if http.iter().all(|part| part.is_empty()) {
        parts.push("anything");
    } else {
        let any = methods.is_empty();
        parts.push(if any {
            "any method"
        } else {
            methods.trim_start()
        });
        if paths.is_empty() && regexes.is_empty() {
            parts.push("to any path");
        }
    }
    let rest = [&paths, &regexes, &hosts, &ports].map(String::as_str);
    parts.extend(rest.into_iter().filter(|part| !part.is_empty()));
    parts.join(" ")
}

fn words(name: &str, values: &[String]) -> String {
    let values = values.join(" or ");
    let noun = match name.strip_prefix("not").unwrap_or(name) {
        "requestPrincipals" | "RequestPrincipals" => "end user ",
        "namespaces" | "Namespaces" => "namespace ",
        "serviceAccounts" | "ServiceAccounts" => "service account ",
        "trustDomains" | "TrustDomains" => "trust domain ",
        "ipBlocks" | "IpBlocks" => "address ",
        "remoteIpBlocks" | "RemoteIpBlocks" => "client address ",
        _ => "",
    };
    if name.starts_with("not") {
        format!("other than {noun}{values}")
    } else {
        format!("{noun}{values}")
    }
}
