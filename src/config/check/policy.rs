//! `[[authorizationPolicy]]` (policy semantics sections 2 and 11).

use crate::config::check::Context;
use crate::config::check::condition::key_hint;
use crate::config::check::locate::Locator;
use crate::config::check::target::{Attachment, target};
use crate::config::check::values::Reader;
use crate::config::checked::{GatewayClass, Mesh};
use crate::config::raw::File;
use crate::config::raw::policy as raw;
use crate::config::read::{PolicyPort, Table};
use crate::policy::model::{
    Action, AuthorizationPolicy, Operation, Rule, Source, Target, TargetKind,
};
use crate::policy::validate;
use crate::vocab::resource::ResourceName;

/// The annotation that `dryRun` stands for.
const DRY_RUN: &str = "istio.io/dry-run";

/// Every `[[authorizationPolicy]]`.
pub(crate) fn policies(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.authorization_policy.iter().flatten())
    {
        let policy = policy(raw, mesh, cx);
        let rules = raw.rules.iter().flat_map(|r| &r.0);
        let rules = rules.map(|rule| rule.place().clone()).collect();
        cx.out.policy(&policy.name, &raw.name.place, rules);
        mesh.authorization_policies.push(policy);
    }
}

fn policy(
    raw: &raw::AuthorizationPolicy,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> AuthorizationPolicy {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let action = raw.action.as_ref().map(|at| at.value).unwrap_or_default();
    let attachment = Attachment {
        selector: raw.selector.as_ref(),
        target_ref: raw.target_ref.as_ref(),
        target_refs: raw.target_refs.as_ref(),
        name: &raw.name.place,
    };
    let before = cx.out.count();
    let target = target(&attachment, &name, mesh, cx);
    let target_ok = cx.out.count() == before;
    let dry_run = dry_run(raw, action, cx);
    provider(raw, action, &name, &target, mesh, cx);
    let mut reader = Reader {
        locator: locator(raw, target_ok),
    };
    let written = raw.rules.iter().flat_map(|r| &r.0).enumerate();
    let rules = written
        .map(|(i, r)| reader.rule(r, &format!("rules[{i}]")))
        .collect();
    let locator = reader.locator;
    let provider = raw.provider.as_ref().map(|p| p.name.value.clone());
    let policy = AuthorizationPolicy {
        name,
        target,
        action,
        provider,
        dry_run,
        rules,
    };
    refused(&policy, &locator, cx);
    policy
}

/// What the policy engine refuses, at its place.
pub(crate) fn refused(policy: &AuthorizationPolicy, locator: &Locator, cx: &mut Context<'_>) {
    for problem in validate(policy) {
        let Some(place) = locator.find(&problem.field) else {
            continue;
        };
        let mut message = problem.message;
        if let Some(key) = condition_key(policy, &problem.field) {
            message.push_str(&key_hint(key));
        }
        cx.out.error(place, message);
    }
}

/// Where the keys stand that are not in `rules`.
fn locator(raw: &raw::AuthorizationPolicy, target_ok: bool) -> Locator {
    let mut locator = Locator::default();
    let whole = raw.whole();
    locator.add("rules", &raw.name.place, whole);
    locator.add(
        "selector",
        raw.selector
            .as_ref()
            .map_or(&raw.name.place, |at| &at.place),
        whole && target_ok,
    );
    locator.add(
        "targetRefs",
        raw.target_refs
            .as_ref()
            .map_or(&raw.name.place, |at| &at.place),
        whole && target_ok,
    );
    match &raw.provider {
        Some(provider) => locator.add("provider", provider.place(), provider.whole()),
        None => {
            let near = raw.action.as_ref().map_or(&raw.name.place, |at| &at.place);
            locator.add(
                "provider",
                &raw.place()
                    .key("provider", near.offset)
                    .key("name", near.offset),
                whole,
            );
        }
    }
    if let Some(at) = &raw.dry_run {
        locator.add("dryRun", &at.place, true);
    }
    locator
}

/// The key of the condition whose key is meant by `field` (`rules[0].when[1].key`).
fn condition_key<'p>(policy: &'p AuthorizationPolicy, field: &str) -> Option<&'p str> {
    let rest = field.strip_prefix("rules[")?.strip_suffix("].key")?;
    let (rule, when) = rest.split_once("].when[")?;
    let rule = policy.rules.get(rule.parse::<usize>().ok()?)?;
    rule.when
        .get(when.parse::<usize>().ok()?)
        .map(|c| c.key.as_str())
}

fn provider(
    raw: &raw::AuthorizationPolicy,
    action: Action,
    name: &ResourceName,
    target: &Target,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) {
    let Some(provider) = raw.provider.as_ref().filter(|_| action == Action::Custom) else {
        return;
    };
    // Providers have no namespace; they are known by the name alone.
    cx.provider_exists(&provider.name);
    let is_login = mesh
        .oidc_providers
        .iter()
        .any(|p| p.name == provider.name.value);
    if is_login && raw.whole() && !cx.partial && !at_ingress(name, target, mesh) {
        let place = raw.action.as_ref().map_or(&raw.name.place, |at| &at.place);
        cx.out.error(
            place,
            "a login needs a browser: expected `targetRefs` that name a gateway of class `ringgate-ingress`",
        );
    }
}

/// Whether the policy is attached to ingress gateways and nothing else.
fn at_ingress(name: &ResourceName, target: &Target, mesh: &Mesh) -> bool {
    let ingress = |gateway: &str| {
        let known = mesh
            .gateways
            .iter()
            .find(|g| g.name.namespace == name.namespace && g.name.name == gateway);
        // One that does not exist is already a problem of its own.
        known.is_none_or(|g| g.class == GatewayClass::Ingress)
    };
    match target {
        Target::Refs(refs) => refs
            .iter()
            .all(|r| r.kind == TargetKind::Gateway && ingress(&r.name)),
        Target::Namespace | Target::Selector(_) => false,
    }
}

/// `dryRun` or the annotation, a Go boolean.
fn dry_run(raw: &raw::AuthorizationPolicy, action: Action, cx: &mut Context<'_>) -> bool {
    let annotation = raw
        .annotations
        .iter()
        .flat_map(|l| &l.0)
        .find(|(key, _)| key.value == DRY_RUN)
        .map(|(_, v)| v);
    let written = match annotation.map(|at| at.0.as_str()) {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Some(true),
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Some(false),
        Some(_) | None => None,
    };
    if let Some(at) = annotation.filter(|_| written.is_none()) {
        cx.out.error(
            &at.place,
            format!("`{}` is not `true` or `false`", at.0.escape_debug()),
        );
    }
    let place = raw
        .dry_run
        .as_ref()
        .map(|at| &at.place)
        .or_else(|| annotation.map(|at| &at.place));
    let sugar = raw.dry_run.as_ref().map(|at| at.value);
    if let (Some(place), Some(a), Some(b)) = (place, sugar, written)
        && a != b
    {
        cx.out.error(
            place,
            format!("says the opposite of the annotation `{DRY_RUN}`"),
        );
    }
    let dry_run = sugar.or(written).unwrap_or(false);
    if let Some(at) = annotation.filter(|_| matches!(action, Action::Audit | Action::Custom)) {
        cx.out
            .error(&at.place, "only ALLOW and DENY policies have a dry run");
    }
    dry_run
}

impl Reader {
    /// A rule; `field` is its name for the policy engine.
    pub(crate) fn rule(&mut self, raw: &raw::Rule, field: &str) -> Rule {
        let from = raw.from.iter().flatten().enumerate();
        let from = from
            .map(|(i, f)| self.source(&f.source, &format!("{field}.from[{i}].source")))
            .collect();
        let to = raw.to.iter().flatten().enumerate();
        let to = to
            .map(|(i, t)| self.operation(&t.operation, &format!("{field}.to[{i}].operation")))
            .collect();
        let when = raw.when.iter().flatten().enumerate();
        let when = when
            .map(|(i, c)| self.condition(c, &format!("{field}.when[{i}]")))
            .collect();
        Rule { from, to, when }
    }

    fn source(&mut self, raw: &raw::Source, at: &str) -> Source {
        self.locator.add(at, raw.place(), raw.whole());
        let mut field = |values, name: &str| self.values(values, &format!("{at}.{name}"));
        Source {
            principals: field(&raw.principals, "principals"),
            not_principals: field(&raw.not_principals, "notPrincipals"),
            request_principals: field(&raw.request_principals, "requestPrincipals"),
            not_request_principals: field(&raw.not_request_principals, "notRequestPrincipals"),
            namespaces: field(&raw.namespaces, "namespaces"),
            not_namespaces: field(&raw.not_namespaces, "notNamespaces"),
            service_accounts: field(&raw.service_accounts, "serviceAccounts"),
            not_service_accounts: field(&raw.not_service_accounts, "notServiceAccounts"),
            trust_domains: field(&raw.trust_domains, "trustDomains"),
            not_trust_domains: field(&raw.not_trust_domains, "notTrustDomains"),
            ip_blocks: field(&raw.ip_blocks, "ipBlocks"),
            not_ip_blocks: field(&raw.not_ip_blocks, "notIpBlocks"),
            remote_ip_blocks: field(&raw.remote_ip_blocks, "remoteIpBlocks"),
            not_remote_ip_blocks: field(&raw.not_remote_ip_blocks, "notRemoteIpBlocks"),
        }
    }

    fn operation(&mut self, raw: &raw::Operation, at: &str) -> Operation {
        self.locator.add(at, raw.place(), raw.whole());
        let ports =
            |ports: &Option<Vec<PolicyPort>>| ports.iter().flatten().map(|p| p.0.clone()).collect();
        let mut field = |values, name: &str| self.values(values, &format!("{at}.{name}"));
        Operation {
            hosts: field(&raw.hosts, "hosts"),
            not_hosts: field(&raw.not_hosts, "notHosts"),
            ports: ports(&raw.ports),
            not_ports: ports(&raw.not_ports),
            methods: field(&raw.methods, "methods"),
            not_methods: field(&raw.not_methods, "notMethods"),
            paths: field(&raw.paths, "paths"),
            not_paths: field(&raw.not_paths, "notPaths"),
            path_regexes: field(&raw.path_regexes, "pathRegexes"),
            not_path_regexes: field(&raw.not_path_regexes, "notPathRegexes"),
        }
    }
}
