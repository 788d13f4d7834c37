//! Reads the resources of conformance cases into the model, for the oracle alone.

use std::collections::BTreeMap;

use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, Rule, Source,
    Target, TargetKind, TargetRef,
};
use ringgate::policy::{Decision, Point, PointKind, ServiceKind};
use ringgate::vocab::resource::ResourceName;
use serde_json::{Map, Value};

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list of strings.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), text(v)))
        .collect()
}

/// The enforcement point of a case's `workload`.
pub(crate) fn point(workload: &Value) -> Point {
    let gateway = workload
        .get("gateway")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let kind = match (workload["isWaypoint"] == true, &gateway) {
        (true, _) => PointKind::Waypoint,
        (false, Some(_)) => PointKind::Gateway,
        (false, None) => PointKind::Workload,
    };
    let service = |s: &Value| {
        let entry = text(s, "kind") == "ServiceEntry";
        let kind = if entry {
            ServiceKind::ServiceEntry
        } else {
            ServiceKind::Service
        };
        (
            kind,
            ResourceName::new(text(s, "namespace"), text(s, "name")),
        )
    };
    Point {
        kind,
        namespace: text(workload, "namespace").to_owned(),
        labels: labels(&workload["labels"]),
        gateway,
        services: workload["services"]
            .as_array()
            .into_iter()
            .flatten()
            .map(service)
            .collect(),
        accounts: Vec::new(),
        default: Decision::Allow,
    }
}

fn name(policy: &Value) -> ResourceName {
    ResourceName::new(
        text(&policy["metadata"], "namespace"),
        text(&policy["metadata"], "name"),
    )
}

/// The target of a spec. With both a selector and references, references count.
fn target(spec: &Value) -> Result<Target, String> {
    let one = spec.get("targetRef").map(std::slice::from_ref);
    let many = spec
        .get("targetRefs")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    if let Some(refs) = one.or(many) {
        return refs
            .iter()
            .map(target_ref)
            .collect::<Result<_, _>>()
            .map(Target::Refs);
    }
    let selector = spec.get("selector").map(|s| labels(&s["matchLabels"]));
    Ok(selector.map_or(Target::Namespace, Target::Selector))
}

fn target_ref(value: &Value) -> Result<TargetRef, String> {
    if !text(value, "namespace").is_empty() {
        return Err("targetRefs[].namespace".to_owned());
    }
    let kind = match (text(value, "group"), text(value, "kind")) {
        ("gateway.networking.k8s.io", "Gateway") => TargetKind::Gateway,
        ("gateway.networking.k8s.io", "GatewayClass") => TargetKind::GatewayClass,
        ("" | "core", "Service") => TargetKind::Service,
        ("networking.istio.io", "ServiceEntry") => TargetKind::ServiceEntry,
        other => return Err(format!("targetRefs[] {other:?}")),
    };
    Ok(TargetRef {
        kind,
        name: text(value, "name").to_owned(),
    })
}

/// The object's lists of strings by field name; refuses every other field.
fn lists<'v>(
    object: &'v Map<String, Value>,
    known: &[&str],
) -> Result<impl Fn(&str) -> Vec<String> + use<'v>, String> {
    match object.keys().find(|k| !known.contains(&k.as_str())) {
        Some(unknown) => Err(format!("unknown field {unknown}")),
        None => Ok(|key: &str| object.get(key).map(texts).unwrap_or_default()),
    }
}

fn source(value: &Value) -> Result<Source, String> {
    let known = [
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
    let list = lists(value["source"].as_object().ok_or("no source")?, &known)?;
    Ok(Source {
        principals: list("principals"),
        not_principals: list("notPrincipals"),
        request_principals: list("requestPrincipals"),
        not_request_principals: list("notRequestPrincipals"),
        namespaces: list("namespaces"),
        not_namespaces: list("notNamespaces"),
        service_accounts: list("serviceAccounts"),
        not_service_accounts: list("notServiceAccounts"),
        trust_domains: list("trustDomains"),
        not_trust_domains: list("notTrustDomains"),
        ip_blocks: list("ipBlocks"),
        not_ip_blocks: list("notIpBlocks"),
        remote_ip_blocks: list("remoteIpBlocks"),
        not_remote_ip_blocks: list("notRemoteIpBlocks"),
    })
}

fn operation(value: &Value) -> Result<Operation, String> {
    let known = [
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
    let list = lists(
        value["operation"].as_object().ok_or("no operation")?,
        &known,
    )?;
    Ok(Operation {
        hosts: list("hosts"),
        not_hosts: list("notHosts"),
        ports: list("ports"),
        not_ports: list("notPorts"),
        methods: list("methods"),
        not_methods: list("notMethods"),
        paths: list("paths"),
        not_paths: list("notPaths"),
        path_regexes: list("pathRegexes"),
        not_path_regexes: list("notPathRegexes"),
    })
}

fn condition(value: &Value) -> Result<Condition, String> {
    let mut object = value.as_object().ok_or("no condition")?.clone();
    let key = object
        .remove("key")
        .and_then(|k| k.as_str().map(str::to_owned))
        .ok_or("no key")?;
    let list = lists(&object, &["values", "notValues", "regexes", "notRegexes"])?;
    Ok(Condition {
        key,
        values: list("values"),
        not_values: list("notValues"),
        regexes: list("regexes"),
        not_regexes: list("notRegexes"),
    })
}

/// The entries of a list that may be absent but not empty.
fn entries<T>(
    rule: &Value,
    key: &str,
    read: fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match rule.get(key).and_then(Value::as_array) {
        Some(list) if list.is_empty() => Err(format!("{key} is empty")),
        Some(list) => list.iter().map(read).collect(),
        None => Ok(Vec::new()),
    }
}

fn rule(value: &Value) -> Result<Rule, String> {
    Ok(Rule {
        from: entries(value, "from", source)?,
        to: entries(value, "to", operation)?,
        when: entries(value, "when", condition)?,
    })
}

fn authorization_policy(policy: &Value) -> Result<AuthorizationPolicy, String> {
    let spec = &policy["spec"];
    let action = match text(spec, "action") {
        "" | "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        "CUSTOM" => Action::Custom,
        other => return Err(format!("action {other}")),
    };
    let dry_run = match text(&policy["metadata"]["annotations"], "istio.io/dry-run") {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
        other => return Err(format!("dry-run {other}")),
    };
    Ok(AuthorizationPolicy {
        name: name(policy),
        target: target(spec)?,
        action,
        provider: spec.get("provider").map(|p| text(p, "name").to_owned()),
        dry_run,
        rules: spec["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(rule)
            .collect::<Result<_, _>>()?,
    })
}

/// The AuthorizationPolicies of a list; an error says why one of them is refused.
pub(crate) fn authorization_policies(policies: &Value) -> Result<Vec<AuthorizationPolicy>, String> {
    of_kind(policies, "AuthorizationPolicy")
        .map(authorization_policy)
        .collect()
}

fn mode(value: &Value) -> MtlsMode {
    match text(value, "mode") {
        "" | "UNSET" => MtlsMode::Unset,
        "DISABLE" => MtlsMode::Disable,
        "PERMISSIVE" => MtlsMode::Permissive,
        "STRICT" => MtlsMode::Strict,
        other => panic!("mode {other}"),
    }
}

/// The PeerAuthentications of a list, the oldest first.
pub(crate) fn peer_authentications(policies: &Value) -> Vec<PeerAuthentication> {
    let mut found: Vec<&Value> = of_kind(policies, "PeerAuthentication").collect();
    found.sort_by_key(|p| text(&p["metadata"], "creationTimestamp"));
    let read = |p: &Value| {
        let spec = &p["spec"];
        let ports = spec["portLevelMtls"].as_object().into_iter().flatten();
        PeerAuthentication {
            name: name(p),
            selector: spec.get("selector").map(|s| labels(&s["matchLabels"])),
            mode: mode(&spec["mtls"]),
            ports: ports
                .map(|(port, m)| (port.parse().unwrap(), mode(m)))
                .collect(),
        }
    };
    found.into_iter().map(read).collect()
}

/// The resources of one kind.
fn of_kind<'v>(policies: &'v Value, kind: &'v str) -> impl Iterator<Item = &'v Value> {
    policies
        .as_array()
        .unwrap()
        .iter()
        .filter(move |p| text(p, "kind") == kind)
}
