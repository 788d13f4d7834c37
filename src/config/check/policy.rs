//! `[[authorizationPolicy]]` (policy semantics sections 2 and 11).

use crate::config::check::condition::condition;
use crate::config::check::target::{Attachment, target};
use crate::config::check::traps;
use crate::config::check::values::{Form, values};
use crate::config::check::Context;
use crate::config::checked::{GatewayClass, Mesh};
use crate::config::raw::File;
use crate::config::raw::policy::{self as raw, Values};
use crate::config::read::{PolicyPort, Table};
use crate::policy::model::{Action, AuthorizationPolicy, Operation, Rule, Source, Target, TargetKind};
use crate::vocab::resource::ResourceName;

/// The annotation that `dryRun` stands for.
const DRY_RUN: &str = "istio.io/dry-run";
/// Why a CUSTOM policy is refused that reads an identity.
pub(crate) const CUSTOM_IDENTITY: &str =
    "a CUSTOM policy is judged before identities and tokens are known and may not use them";

/// Every `[[authorizationPolicy]]`.
pub(crate) fn policies(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files.iter().flat_map(|f| f.authorization_policy.iter().flatten()) {
        let policy = policy(raw, mesh, cx);
        traps::warn(raw, &policy, mesh, cx);
        mesh.authorization_policies.push(policy);
    }
}

fn policy(raw: &raw::AuthorizationPolicy, mesh: &Mesh, cx: &mut Context<'_>) -> AuthorizationPolicy {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let action = raw.action.as_ref().map(|at| at.value).unwrap_or_default();
    let attachment = Attachment {
        selector: raw.selector.as_ref(),
        target_ref: raw.target_ref.as_ref(),
        target_refs: raw.target_refs.as_ref(),
        name: &raw.name.place,
    };
    let target = target(&attachment, &name, mesh, cx);
    let written = raw.rules.iter().flat_map(|r| &r.0);
    let rules: Vec<Rule> = written.map(|r| rule(r, action, cx)).collect();
    if rules.is_empty() && raw.whole() && matches!(action, Action::Deny | Action::Custom) {
        cx.out.error(&raw.name.place, "without `rules` a DENY or CUSTOM policy matches nothing");
    }
    provider(raw, action, &name, &target, mesh, cx);
    let dry_run = dry_run(raw, action, cx);
    let provider = raw.provider.as_ref().map(|p| p.name.value.clone());
    AuthorizationPolicy { name, target, action, provider, dry_run, rules }
}

fn provider(
    raw: &raw::AuthorizationPolicy,
    action: Action,
    name: &ResourceName,
    target: &Target,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) {
    match (&raw.provider, action) {
        (None, Action::Custom) if raw.whole() => cx.out.error(&raw.name.place, "a CUSTOM policy needs `provider.name`"),
        (None, _) => {}
        (Some(provider), Action::Custom) => {
            // Providers have no namespace; they are known by the name alone.
            cx.provider_exists(&provider.name);
            if raw.whole() && !at_ingress(name, target, mesh) {
                let place = raw.action.as_ref().map_or(&raw.name.place, |at| &at.place);
                cx.out.error(place, "a login needs a browser: expected `targetRefs` that name a gateway of class `ringgate-ingress`");
            }
        }
        (Some(provider), Action::Allow | Action::Deny | Action::Audit) => {
            cx.out.error(provider.place(), "only a CUSTOM policy has a provider");
        }
    }
}

/// Whether the policy is attached to ingress gateways and nothing else.
fn at_ingress(name: &ResourceName, target: &Target, mesh: &Mesh) -> bool {
    let ingress = |gateway: &str| {
        let known = mesh.gateways.iter().find(|g| g.name.namespace == name.namespace && g.name.name == gateway);
        // One that does not exist is already a problem of its own.
        known.is_none_or(|g| g.class == GatewayClass::Ingress)
    };
    match target {
        Target::Refs(refs) => refs.iter().all(|r| r.kind == TargetKind::Gateway && ingress(&r.name)),
        Target::Namespace | Target::Selector(_) => false,
    }
}

/// `dryRun` or the annotation, a Go boolean.
fn dry_run(raw: &raw::AuthorizationPolicy, action: Action, cx: &mut Context<'_>) -> bool {
    let annotation = raw.annotations.iter().flat_map(|l| &l.0).find(|(key, _)| key.value == DRY_RUN).map(|(_, v)| v);
    let written = match annotation.map(|at| at.0.as_str()) {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Some(true),
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Some(false),
        Some(_) | None => None,
    };
    if let Some(at) = annotation.filter(|_| written.is_none()) {
        cx.out.error(&at.place, format!("`{}` is not `true` or `false`", at.0.escape_debug()));
    }
    let place = raw.dry_run.as_ref().map(|at| &at.place).or_else(|| annotation.map(|at| &at.place));
    let sugar = raw.dry_run.as_ref().map(|at| at.value);
    if let (Some(place), Some(a), Some(b)) = (place, sugar, written)
        && a != b
    {
        cx.out.error(place, format!("says the opposite of the annotation `{DRY_RUN}`"));
    }
    let dry_run = sugar.or(written).unwrap_or(false);
    if let Some(place) = place.filter(|_| matches!(action, Action::Audit | Action::Custom) && (dry_run || annotation.is_some())) {
        cx.out.error(place, "only ALLOW and DENY policies have a dry run");
    }
    dry_run
}

fn rule(raw: &raw::Rule, action: Action, cx: &mut Context<'_>) -> Rule {
    let custom = action == Action::Custom;
    Rule {
        from: raw.from.iter().flatten().map(|f| source(&f.source, custom, cx)).collect(),
        to: raw.to.iter().flatten().map(|t| operation(&t.operation, cx)).collect(),
        when: raw.when.iter().flatten().map(|c| condition(c, custom, cx)).collect(),
    }
}

fn source(raw: &raw::Source, custom: bool, cx: &mut Context<'_>) -> Source {
    let identity = [
        &raw.principals, &raw.not_principals, &raw.request_principals, &raw.not_request_principals, &raw.namespaces,
        &raw.not_namespaces, &raw.service_accounts, &raw.not_service_accounts, &raw.trust_domains,
        &raw.not_trust_domains,
    ];
    let address = [&raw.ip_blocks, &raw.not_ip_blocks, &raw.remote_ip_blocks, &raw.not_remote_ip_blocks];
    if raw.whole() && identity.iter().chain(&address).all(|f| f.is_none()) {
        cx.out.error(raw.place(), "a source without a field would match everyone; leave `from` out if that is meant");
    }
    for field in identity.iter().filter(|_| custom).filter_map(|f| f.as_ref()) {
        cx.out.error(&field.place, CUSTOM_IDENTITY);
    }
    let others = [&raw.principals, &raw.not_principals, &raw.namespaces, &raw.not_namespaces];
    if others.iter().any(|f| f.is_some()) {
        for field in [&raw.service_accounts, &raw.not_service_accounts].into_iter().flatten() {
            cx.out.error(&field.place, "service accounts and principals or namespaces exclude each other in one source");
        }
    }
    Source {
        principals: values(&raw.principals, Form::Principal, cx),
        not_principals: values(&raw.not_principals, Form::Principal, cx),
        request_principals: values(&raw.request_principals, Form::RequestPrincipal, cx),
        not_request_principals: values(&raw.not_request_principals, Form::RequestPrincipal, cx),
        namespaces: values(&raw.namespaces, Form::Pattern, cx),
        not_namespaces: values(&raw.not_namespaces, Form::Pattern, cx),
        service_accounts: values(&raw.service_accounts, Form::ServiceAccount, cx),
        not_service_accounts: values(&raw.not_service_accounts, Form::ServiceAccount, cx),
        trust_domains: values(&raw.trust_domains, Form::TrustDomain, cx),
        not_trust_domains: values(&raw.not_trust_domains, Form::TrustDomain, cx),
        ip_blocks: values(&raw.ip_blocks, Form::Block, cx),
        not_ip_blocks: values(&raw.not_ip_blocks, Form::Block, cx),
        remote_ip_blocks: values(&raw.remote_ip_blocks, Form::Block, cx),
        not_remote_ip_blocks: values(&raw.not_remote_ip_blocks, Form::Block, cx),
    }
}

fn operation(raw: &raw::Operation, cx: &mut Context<'_>) -> Operation {
    let fields: [&Values; 8] = [
        &raw.hosts, &raw.not_hosts, &raw.methods, &raw.not_methods, &raw.paths, &raw.not_paths, &raw.path_regexes,
        &raw.not_path_regexes,
    ];
    let ports = [&raw.ports, &raw.not_ports];
    if raw.whole() && fields.iter().all(|f| f.is_none()) && ports.iter().all(|f| f.is_none()) {
        cx.out.error(raw.place(), "an operation without a field would match everything; leave `to` out if that is meant");
    }
    let port = |field: &Option<Vec<PolicyPort>>| field.iter().flatten().map(|p| p.0.clone()).collect();
    Operation {
        hosts: values(&raw.hosts, Form::Host, cx),
        not_hosts: values(&raw.not_hosts, Form::Host, cx),
        ports: port(&raw.ports),
        not_ports: port(&raw.not_ports),
        methods: values(&raw.methods, Form::Method, cx),
        not_methods: values(&raw.not_methods, Form::Method, cx),
        paths: values(&raw.paths, Form::Path, cx),
        not_paths: values(&raw.not_paths, Form::Path, cx),
        path_regexes: values(&raw.path_regexes, Form::Regex, cx),
        not_path_regexes: values(&raw.not_path_regexes, Form::Regex, cx),
    }
}
