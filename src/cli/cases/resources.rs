//! Istio's resources of a case, as JSON, into the model.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cli::cases::json::{Broken, flag_or, list, member, object, text, text_or, texts};
use crate::jwt::model::{JwtRule, KeySource, RequestAuthentication, TokenHeader};
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, Rule, Source,
    Target, TargetKind, TargetRef,
};
use crate::policy::validate;
use crate::vocab::resource::ResourceName;

/// The resources of a case.
#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    pub(super) authorization: Vec<AuthorizationPolicy>,
    pub(super) peer: Vec<PeerAuthentication>,
    pub(super) request: Vec<RequestAuthentication>,
}

/// Reads resources; any one that would be refused at load is an error.
pub(super) fn read(resources: &[Value]) -> Broken<Resources> {
    let mut out = Resources::default();
    let mut peers = Vec::new();
    for resource in resources {
        let whose = |why: String| match name(resource) {
            Ok(name) => format!("{name}: {why}"),
            Err(_) => why,
        };
        match text(resource, "kind")? {
            "AuthorizationPolicy" => {
                let policy = authorization_policy(resource).map_err(whose)?;
                if let Some(problem) = validate(&policy).first() {
                    return Err(whose(format!("{}: {}", problem.field, problem.message)));
                }
                out.authorization.push(policy);
            }
            "RequestAuthentication" => {
                out.request.push(request_authentication(resource).map_err(whose)?);
            }
            "PeerAuthentication" => {
                let created = metadata(resource)
                    .and_then(|m| m.get("creationTimestamp"))
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                peers.push((created, peer_authentication(resource).map_err(whose)?));
            }
            other => return Err(format!("`{}` is no kind of policy", other.escape_debug())),
        }
    }
    // The oldest wins.
    peers.sort_by_key(|(created, _)| *created);
    out.peer = peers.into_iter().map(|(_, peer)| peer).collect();
    Ok(out)
}

fn metadata(resource: &Value) -> Option<&Value> {
    resource.get("metadata")
}

fn spec(resource: &Value) -> &Value {
    resource.get("spec").unwrap_or(&Value::Null)
}

/// Namespace, `default` if it is not written, and name.
pub(super) fn name(resource: &Value) -> Broken<ResourceName> {
    let metadata = metadata(resource).ok_or("`metadata` is missing")?;
    Ok(ResourceName::new(
        text_or(metadata, "namespace", "default")?,
        text(metadata, "name")?,
    ))
}

/// String members of an object.
pub(super) fn labels(value: &Value, key: &str) -> Broken<BTreeMap<String, String>> {
    let text = |(k, v): (&String, &Value)| {
        let v = v.as_str().ok_or_else(|| format!("`{key}` holds something that is not a string"))?;
        Ok((k.clone(), v.to_owned()))
    };
    object(value, key)?.into_iter().flatten().map(text).collect()
}

/// The target of a resource.
pub(super) fn target(resource: &Value) -> Broken<Target> {
    let spec = spec(resource);
    let one = member(spec, "targetRef").map(std::slice::from_ref);
    let refs = match one {
        Some(one) => one,
        None => list(spec, "targetRefs")?,
    };
    if !refs.is_empty() {
        return refs.iter().map(target_ref).collect::<Broken<_>>().map(Target::Refs);
    }
    match member(spec, "selector") {
        Some(selector) => Ok(Target::Selector(labels(selector, "matchLabels")?)),
        None => Ok(Target::Namespace),
    }
}

fn target_ref(value: &Value) -> Broken<TargetRef> {
    if !text_or(value, "namespace", "")?.is_empty() {
        return Err("targetRefs[].namespace must be empty".to_owned());
    }
    let kind = match (text_or(value, "group", "")?, text(value, "kind")?) {
        ("gateway.networking.k8s.io", "Gateway") => TargetKind::Gateway,
        ("gateway.networking.k8s.io", "GatewayClass") => TargetKind::GatewayClass,
        ("" | "core", "Service") => TargetKind::Service,
        ("networking.istio.io", "ServiceEntry") => TargetKind::ServiceEntry,
        (group, kind) => return Err(format!("targetRefs[]: no kind `{group}/{kind}`")),
    };
    Ok(TargetRef {
        kind,
        name: text(value, "name")?.to_owned(),
    })
}

/// The object's lists of strings by field name; refuses every other field and lists that are written empty.
fn lists(object: Option<&Value>, known: &[&str]) -> Broken<Map<String, Value>> {
    let map = object.and_then(Value::as_object).ok_or("not an object")?;
    match map.iter().find(|(k, v)| {
        !known.contains(&k.as_str()) || v.as_array().is_some_and(Vec::is_empty)
    }) {
        Some((bad, _)) => Err(format!("field `{bad}` is unknown or empty")),
        None => Ok(map.clone()),
    }
}

const SOURCE: [&str; 14] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];

fn source(value: &Value) -> Broken<Source> {
    let map = Value::Object(lists(value.get("source"), &SOURCE)?);
    let list = |key| texts(&map, key);
    Ok(Source {
        principals: list("principals")?,
        not_principals: list("notPrincipals")?,
        request_principals: list("requestPrincipals")?,
        not_request_principals: list("notRequestPrincipals")?,
        namespaces: list("namespaces")?,
        not_namespaces: list("notNamespaces")?,
        service_accounts: list("serviceAccounts")?,
        not_service_accounts: list("notServiceAccounts")?,
        trust_domains: list("trustDomains")?,
        not_trust_domains: list("notTrustDomains")?,
        ip_blocks: list("ipBlocks")?,
        not_ip_blocks: list("notIpBlocks")?,
        remote_ip_blocks: list("remoteIpBlocks")?,
        not_remote_ip_blocks: list("notRemoteIpBlocks")?,
    })
}

const OPERATION: [&str; 10] = [
    "hosts",
    "notHosts",
    "ports",
    "notPorts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
    "pathRegexes",
    "notPathRegexes",
];

fn operation(value: &Value) -> Broken<Operation> {
    let map = Value::Object(lists(value.get("operation"), &OPERATION)?);
    let list = |key| texts(&map, key);
    Ok(Operation {
        hosts: list("hosts")?,
        not_hosts: list("notHosts")?,
        ports: list("ports")?,
        not_ports: list("notPorts")?,
        methods: list("methods")?,
        not_methods: list("notMethods")?,
        paths: list("paths")?,
        not_paths: list("notPaths")?,
        path_regexes: list("pathRegexes")?,
        not_path_regexes: list("notPathRegexes")?,
    })
}

fn condition(value: &Value) -> Broken<Condition> {
    let mut rest = value.clone();
    let key = rest
        .as_object_mut()
        .and_then(|map| map.remove("key"))
        .and_then(|key| key.as_str().map(str::to_owned))
        .ok_or("`key` is missing")?;
    let known = ["values", "notValues", "regexes", "notRegexes"];
    let map = Value::Object(lists(Some(&rest), &known)?);
    let list = |key| texts(&map, key);
    Ok(Condition {
        key,
        values: list("values")?,
        not_values: list("notValues")?,
        regexes: list("regexes")?,
        not_regexes: list("notRegexes")?,
    })
}

/// The entries of a list that may be absent but not empty.
fn entries<T>(rule: &Value, key: &str, read: fn(&Value) -> Broken<T>) -> Broken<Vec<T>> {
    match rule.get(key).and_then(Value::as_array) {
        Some(list) if list.is_empty() => Err(format!("`{key}` is empty")),
        Some(list) => list.iter().map(read).collect(),
        None => Ok(Vec::new()),
    }
}

fn rule(value: &Value) -> Broken<Rule> {
    Ok(Rule {
        from: entries(value, "from", source)?,
        to: entries(value, "to", operation)?,
        when: entries(value, "when", condition)?,
    })
}

fn authorization_policy(resource: &Value) -> Broken<AuthorizationPolicy> {
    let spec = spec(resource);
    let action = match text_or(spec, "action", "ALLOW")? {
        "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        "CUSTOM" => Action::Custom,
        other => return Err(format!("action `{other}`")),
    };
    let annotations = metadata(resource)
        .and_then(|m| m.get("annotations"))
        .unwrap_or(&Value::Null);
    let dry_run = match text_or(annotations, "istio.io/dry-run", "false")? {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
        other => return Err(format!("dry-run `{other}`")),
    };
    let provider = match object(spec, "provider")? {
        Some(_) => Some(text(spec.get("provider").unwrap_or(&Value::Null), "name")?.to_owned()),
        None => None,
    };
    Ok(AuthorizationPolicy {
        name: name(resource)?,
        target: target(resource)?,
        action,
        provider,
        dry_run,
        rules: list(spec, "rules")?.iter().map(rule).collect::<Broken<_>>()?,
    })
}

fn mode(mtls: Option<&Value>) -> Broken<MtlsMode> {
    match text_or(mtls.unwrap_or(&Value::Null), "mode", "UNSET")? {
        "UNSET" => Ok(MtlsMode::Unset),
        "DISABLE" => Ok(MtlsMode::Disable),
        "PERMISSIVE" => Ok(MtlsMode::Permissive),
        "STRICT" => Ok(MtlsMode::Strict),
        other => Err(format!("mode `{other}`")),
    }
}

fn peer_authentication(resource: &Value) -> Broken<PeerAuthentication> {
    let spec = spec(resource);
    let mut ports = BTreeMap::new();
    for (port, mtls) in object(spec, "portLevelMtls")?.into_iter().flatten() {
        let port = port.parse().map_err(|_e| format!("port `{port}`"))?;
        ports.insert(port, mode(Some(mtls))?);
    }
    Ok(PeerAuthentication {
        name: name(resource)?,
        selector: match member(spec, "selector") {
            Some(selector) => Some(labels(selector, "matchLabels")?),
            None => None,
        },
        mode: mode(spec.get("mtls"))?,
        ports,
    })
}

fn request_authentication(resource: &Value) -> Broken<RequestAuthentication> {
    Ok(RequestAuthentication {
        name: name(resource)?,
        target: target(resource)?,
        rules: list(spec(resource), "jwtRules")?
            .iter()
            .map(jwt_rule)
            .collect::<Broken<_>>()?,
    })
}

/// One `jwtRules` entry.
pub(super) fn jwt_rule(rule: &Value) -> Broken<JwtRule> {
    let issuer = text_or(rule, "issuer", "")?;
    let keys = match (text_or(rule, "jwks", "")?, text_or(rule, "jwksUri", "")?) {
        ("", "") => KeySource::Discovery(issuer.to_owned()),
        ("", uri) => KeySource::Uri(uri.to_owned()),
        (inline, "") => KeySource::Inline(inline.to_owned()),
        _ => return Err("both `jwks` and `jwksUri`".to_owned()),
    };
    let header = |h: &Value| {
        Ok(TokenHeader {
            name: text(h, "name")?.to_ascii_lowercase(),
            prefix: text_or(h, "prefix", "")?.to_owned(),
        })
    };
    let claim = |c: &Value| {
        Ok((
            text(c, "header")?.to_ascii_lowercase(),
            text(c, "claim")?.to_owned(),
        ))
    };
    let payload = text_or(rule, "outputPayloadToHeader", "")?;
    Ok(JwtRule {
        issuer: issuer.to_owned(),
        audiences: texts(rule, "audiences")?,
        keys,
        from_headers: list(rule, "fromHeaders")?
            .iter()
            .map(header)
            .collect::<Broken<_>>()?,
        from_params: texts(rule, "fromParams")?,
        from_cookies: texts(rule, "fromCookies")?,
        forward_original_token: flag_or(rule, "forwardOriginalToken", false)?,
        output_payload_to_header: (!payload.is_empty()).then(|| payload.to_ascii_lowercase()),
        output_claim_to_headers: list(rule, "outputClaimToHeaders")?
            .iter()
            .map(claim)
            .collect::<Broken<_>>()?,
        space_delimited_claims: texts(rule, "spaceDelimitedClaims")?,
        require_expiration: flag_or(rule, "requireExpiration", false)?,
        timeout_ms: 5000,
    })
}
