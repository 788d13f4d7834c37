//! What a policy says and its author probably does not mean (policy semantics 2.8). Accepted, and reported.

use crate::config::check::Context;
use crate::config::checked::Mesh;
use crate::config::place::Place;
use crate::config::raw::policy::{AuthorizationPolicy as Raw, Condition, Operation, Source};
use crate::config::read::Table;
use crate::policy::model::{Action, AuthorizationPolicy};
use crate::vocab::path::PathNormalization;

/// Reports every trap of one policy.
pub(crate) fn warn(raw: &Raw, policy: &AuthorizationPolicy, mesh: &Mesh, cx: &mut Context<'_>) {
    let rules = raw.rules.iter().flat_map(|r| &r.0);
    for rule in rules {
        for source in rule.from.iter().flatten().map(|f| &f.source) {
            identities(source, policy.action, cx);
        }
        for operation in rule.to.iter().flatten().map(|t| &t.operation) {
            hosts(operation, cx);
            paths(operation, policy.action, mesh, cx);
        }
        for condition in rule.when.iter().flatten() {
            repeats(condition, policy.action, cx);
        }
    }
}

fn identities(source: &Source, action: Action, cx: &mut Context<'_>) {
    let positive = [
        &source.principals,
        &source.request_principals,
        &source.namespaces,
        &source.service_accounts,
        &source.trust_domains,
        &source.ip_blocks,
        &source.remote_ip_blocks,
    ];
    if action == Action::Allow && source.whole() && positive.iter().all(|f| f.is_none()) {
        cx.out.warn(
            source.place(),
            "only `not..` fields: callers without any identity are allowed too",
        );
    }
    if let Some(field) = source
        .request_principals
        .as_ref()
        .filter(|_| action == Action::Deny)
    {
        anonymous(&field.place, cx);
    }
}

fn anonymous(place: &Place, cx: &mut Context<'_>) {
    cx.out.warn(place, "a request without a token is not denied by this; deny `notRequestPrincipals = [\"*\"]` too");
}

fn hosts(operation: &Operation, cx: &mut Context<'_>) {
    for field in [&operation.hosts, &operation.not_hosts]
        .into_iter()
        .flatten()
    {
        for host in field
            .iter()
            .filter(|h| !h.contains(':') && !h.ends_with('*'))
        {
            let twin = format!("{}:*", host.value);
            if !field.iter().any(|other| other.value == twin) {
                let text = host.escape_debug();
                cx.out.warn(&host.place, format!("`{text}` does not match a host that is written with its port; add `{text}:*`"));
            }
        }
    }
}

fn paths(operation: &Operation, action: Action, mesh: &Mesh, cx: &mut Context<'_>) {
    let merged = match mesh.path_normalization {
        PathNormalization::None | PathNormalization::Base => false,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes => true,
    };
    if let Some(field) = operation
        .paths
        .as_ref()
        .filter(|_| action == Action::Deny && !merged)
    {
        cx.out.warn(&field.place, "under this `mesh.pathNormalization` a doubled slash is another path, and is not denied");
    }
}

/// Header fields may come more than once.
fn repeats(condition: &Condition, action: Action, cx: &mut Context<'_>) {
    let header = condition.key.starts_with("request.headers[");
    match action {
        Action::Deny
            if condition.key.starts_with("request.auth.") && condition.values.is_some() =>
        {
            anonymous(&condition.key.place, cx);
        }
        Action::Deny if header => {
            if let Some(field) = condition.not_values.as_ref() {
                cx.out.warn(&field.place, "a second field of that name with a good value lifts this denial; write an ALLOW policy instead");
            }
        }
        Action::Allow
            if header && condition.not_values.is_none() && condition.not_regexes.is_none() =>
        {
            if let Some(field) = condition.values.as_ref() {
                cx.out.warn(
                    &field.place,
                    "one good value is enough, whatever a second field of that name holds",
                );
            }
        }
        Action::Allow | Action::Deny | Action::Audit | Action::Custom => {}
    }
}
