//! The oracle itself, against the conformance cases: two readers of the policy semantics that agree could both be wrong.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ringgate::policy::model::{MtlsMode, Target};
use ringgate::policy::{Connection, PointKind, Request};
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization, split_absolute};
use ringgate::vocab::spiffe::SpiffeId;
use serde_json::Value;

use crate::istio::{self, texts};
use crate::naive::{Opinion, Oracle, Settings, mtls_mode};
use crate::tally::Tally;

const CASES: &str = include_str!("../data/conformance/policy.jsonl");

/// Cases that are settled before policies are asked, by what reads configurations and heads.
const BEFORE_POLICY: [&str; 2] = [
    "field/method/lowercase-post",                // refused with the head
    "structure/deny-without-rules-never-matches", // refused at load
];

#[test]
fn the_oracle_passes_the_conformance_cases() {
    let mut wrong = Vec::new();
    let mut judged = BTreeSet::new();
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        let kinds = case["policies"].as_array().into_iter().flatten();
        let tokens = kinds
            .clone()
            .any(|policy| policy["kind"] == "RequestAuthentication")
            || case["request"].get("tokens").is_some();
        if case["kind"] != "authz" || tokens || BEFORE_POLICY.contains(&id) {
            continue;
        }
        let Some(answer) = judge(&case) else {
            continue;
        };
        judged.insert(id.to_owned());
        if case["expect"] != answer.as_str() {
            wrong.push(format!("{id}: {answer}, not {}", case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(judged.len() >= 500, "only {} cases", judged.len());
    println!("the oracle passes {} conformance cases", judged.len());
}

fn or<'v>(value: &'v Value, key: &str, default: &'v str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or(default)
}

/// The answer of a case; `None` if it says nothing about policies: its identity can have no certificate, its policies
/// are refused, or it is of several namespaces and does not say where it is judged.
fn judge(case: &Value) -> Option<String> {
    let mesh = &case["mesh"];
    let aliases = texts(&mesh["trustDomainAliases"]);
    let own = or(mesh, "trustDomain", "cluster.local").to_owned();
    let settings = Settings {
        trust_domains: std::iter::once(own).chain(aliases).collect(),
        root_namespace: or(mesh, "rootNamespace", "istio-system").to_owned(),
        gateway_name_selector: true,
        gateway_selectors: mesh["gatewaySelectorPolicies"].as_bool().unwrap_or(true),
        ztunnel: case["dialect"] == "ztunnel",
        dry_run: false,
    };
    let mut policies = istio::authorization_policies(&case["policies"]).ok()?;
    let mut point = istio::point(&case["workload"]);
    if case.get("workload").is_none() {
        for policy in &mut policies {
            policy.target = Target::Namespace;
        }
        let namespaces: BTreeSet<&str> = policies.iter().map(|p| &*p.name.namespace).collect();
        let mut own = namespaces
            .iter()
            .filter(|ns| **ns != settings.root_namespace);
        point.namespace = (*own.next().unwrap_or(&&*settings.root_namespace)).to_owned();
        if own.next().is_some() {
            return None;
        }
    }
    let proxies = mesh["numTrustedProxies"].as_u64().unwrap_or(0);
    let conn = connection(&case["request"], usize::try_from(proxies).unwrap())?;
    if point.kind == PointKind::Workload && conn.principal.is_none() {
        let peers = istio::peer_authentications(&case["policies"]);
        if mtls_mode(&peers, &settings, &point, conn.port) == MtlsMode::Strict {
            return Some("deny".to_owned());
        }
    }
    let http = case["level"] == "l7";
    let mode = or(mesh, "pathNormalization", "BASE");
    let request = match request(&case["request"], mode) {
        Some(request) => http.then_some(request),
        None if http => return Some("400".to_owned()),
        None => None,
    };
    let tally = Tally::default();
    let oracle = Oracle {
        settings: &settings,
        conn: &conn,
        request: request.as_ref(),
        tally: &tally,
    };
    let opinion = oracle.opinion(&policies, &point);
    side_results(case, &opinion);
    let says_yes = |provider: &String| case["request"]["custom"][provider] == "allow";
    let allowed = opinion.providers.iter().all(says_yes) && opinion.allowed(true);
    Some(if allowed { "allow" } else { "deny" }.to_owned())
}

/// Audit mark and dry-run results, where the case states them.
fn side_results(case: &Value, opinion: &Opinion) {
    if let Some(want) = case.get("expect_audit") {
        assert_eq!(*want, opinion.audit, "{}", case["id"]);
    }
    let shadow = &case["expect_shadow"];
    let denied = opinion
        .shadow_deny
        .map(|d| if d { "denied" } else { "allowed" });
    let allowed = opinion
        .shadow_allow
        .map(|a| if a { "allowed" } else { "denied" });
    for (action, got) in [("deny", denied), ("allow", allowed)] {
        if let Some(want) = shadow.get(action) {
            assert_eq!(want.as_str(), got, "{}", case["id"]);
        }
    }
}

fn connection(request: &Value, proxies: usize) -> Option<Connection> {
    let source = &request["source"];
    let address =
        |value: &Value| -> IpAddr { value.as_str().unwrap_or("127.0.0.1").parse().unwrap() };
    let principal = source["principal"].as_str();
    let principal = principal.map(|p| SpiffeId::parse(&format!("spiffe://{p}")));
    let peer = address(&source["ip"]);
    let forwarded = source["xff"].as_str().filter(|_| proxies > 0);
    let forwarded = forwarded.and_then(|xff| xff.rsplit(',').nth(proxies - 1)?.trim().parse().ok());
    Some(Connection {
        principal: principal.transpose().ok()?,
        peer,
        remote: forwarded.unwrap_or(peer),
        destination: address(&request["dest"]["ip"]),
        port: u16::try_from(request["dest"]["port"].as_u64().unwrap_or(18080)).unwrap(),
        sni: request["tls"]["sni"]
            .as_str()
            .map(|name| name.to_ascii_lowercase().into()),
        time: 1_763_800_000,
    })
}

fn request(request: &Value, mode: &str) -> Option<Request> {
    let mode = match mode {
        "NONE" => PathNormalization::None,
        "BASE" => PathNormalization::Base,
        "MERGE_SLASHES" => PathNormalization::MergeSlashes,
        "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes,
        other => panic!("mode {other}"),
    };
    let target = or(request, "path", "/");
    let origin = split_absolute(target).map_or_else(|| target.into(), |(_, origin)| origin);
    let mut headers = HeaderMap::new();
    for pair in request["headers"].as_array().into_iter().flatten() {
        let name: HeaderName = pair[0].as_str().unwrap().parse().ok()?;
        headers.append(name, HeaderValue::from_str(pair[1].as_str().unwrap()).ok()?);
    }
    Some(Request {
        method: Method::from_bytes(or(request, "method", "GET").as_bytes()).ok()?,
        host: Host::parse(or(request, "host", "localhost")).ok()?,
        path: Some(CanonicalPath::parse(mode, &origin).ok()?),
        headers,
        claims: None,
        time: 1_763_800_000,
    })
}
