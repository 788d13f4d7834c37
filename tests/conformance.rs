//! Conformance: the cases of `tests/data/conformance` against the policy engine and the words it reads.
//!
//! A case that fails must stand in `tests/data/known-gaps.toml` with its reason, and one that stands there
//! must fail.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: a broken case file ends it"
)]

use std::collections::BTreeMap;
use std::path::Path;

use ringgate::config::{Options, parse_resources};
use ringgate::policy::{Point, PointKind, attaches, compile, mtls_mode, pattern, trust};
use ringgate::vocab::path::{CanonicalPath, split_absolute};
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};
use serde_json::Value;

#[path = "conformance/authz.rs"]
mod authz;
#[path = "conformance/egress.rs"]
mod egress;
#[path = "conformance/istio.rs"]
mod istio;
#[path = "conformance/names.rs"]
mod names;
#[path = "conformance/tokens.rs"]
mod tokens;

const POLICY: &str = include_str!("data/conformance/policy.jsonl");
const SPIFFE_ID: &str = include_str!("data/conformance/spiffe_id.jsonl");
const KNOWN_GAPS: &str = include_str!("data/known-gaps.toml");

/// What a case gave: an answer to compare, or why there is none.
type Outcome = Result<Value, String>;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn normalize(case: &Value) -> Outcome {
    let target = text(case, "in");
    let origin = split_absolute(target).map_or_else(|| target.into(), |(_, origin)| origin);
    let path = CanonicalPath::parse(istio::normalization(text(case, "mode")), &origin);
    Ok(path.map_or_else(|_e| "400".into(), |p| p.as_str().into()))
}

fn td_expand(case: &Value) -> Outcome {
    let own: Vec<TrustDomain> = strings(&case["trustDomains"])
        .iter()
        .map(|td| TrustDomain::parse(td).unwrap())
        .collect();
    Ok(trust::expand_principals(&strings(&case["principals"]), &own).into())
}

fn attach(case: &Value) -> Outcome {
    let mesh = istio::Mesh::read(case);
    let point = istio::point(&case["workload"]);
    let policy = &case["policy"];
    let Ok(target) = istio::target(&policy["spec"]) else {
        return Ok(false.into());
    };
    let namespace = text(&policy["metadata"], "namespace");
    Ok(attaches(&target, namespace, &point, mesh.scope()).into())
}

fn peerauthn(case: &Value) -> Outcome {
    let mesh = istio::Mesh::read(case);
    let point = istio::point(&case["workload"]);
    let policies = istio::peer_authentications(&case["policies"]);
    // A workload without labels stands for one that every selector of the case picks.
    let selectors = policies
        .iter()
        .filter_map(|p| p.selector.clone())
        .flatten()
        .collect();
    let labels = if case["workload"]["labels"].is_object() {
        &point.labels
    } else {
        &selectors
    };
    let mode = |port| {
        let mode = mtls_mode(
            &policies,
            &mesh.root_namespace,
            &point.namespace,
            labels,
            port,
        );
        Value::from(format!("{mode:?}").to_uppercase())
    };
    let ports = case["expect"]["perPort"].as_object().unwrap();
    let per_port: serde_json::Map<String, Value> = ports
        .keys()
        .map(|port| (port.clone(), mode(port.parse().unwrap())))
        .collect();
    Ok(serde_json::json!({ "mode": mode(0), "perPort": per_port }))
}

/// By the loader that reads an operator's files.
fn validation(case: &Value) -> Outcome {
    let files = [("case.json".into(), case["policy"].to_string())];
    // A case is one resource: what it refers to is elsewhere.
    let options = Options {
        partial: true,
        ..Options::default()
    };
    let read = parse_resources(&files, Path::new(""), options);
    Ok(if read.is_ok() { "accept" } else { "reject" }.into())
}

fn spiffe_id(case: &Value) -> Outcome {
    let id = SpiffeId::parse(text(case, "id"));
    let valid = case["valid"].as_bool().unwrap();
    if let (Ok(id), true) = (&id, valid) {
        let k8s = id.k8s().map_or(
            Value::Null,
            |(ns, sa)| serde_json::json!({ "namespace": ns, "service_account": sa }),
        );
        let parts = [
            ("trust_domain", id.trust_domain().into()),
            ("path", id.path().into()),
            ("k8s", k8s),
        ];
        if let Some((name, got)) = parts.into_iter().find(|(name, got)| case[*name] != *got) {
            return Err(format!("{name} is {got}"));
        }
    }
    Ok(id.is_ok().into())
}

fn run(case: &Value) -> Outcome {
    match text(case, "kind") {
        "authz" => authz::run(case),
        "normalize" => normalize(case),
        "td_expand" => td_expand(case),
        "match" => Ok(pattern::text_matches(text(case, "pattern"), text(case, "value")).into()),
        "attach" => attach(case),
        "peerauthn" => peerauthn(case),
        "validate" => validation(case),
        "id" => spiffe_id(case),
        "egress" => egress::run(case),
        "san" => Ok(names::server_is(text(case, "host"), text(case, "san")).into()),
        other => Err(format!("kind `{other}` is not the policy engine's")),
    }
}

/// Why the case fails; `None` if it passes.
fn failure(case: &Value) -> Option<String> {
    let want = if case["valid"].is_boolean() {
        &case["valid"]
    } else {
        &case["expect"]
    };
    let also = case.get("also_ok");
    match run(case) {
        Err(why) => Some(why),
        Ok(got) if got == *want || also == Some(&got) => None,
        Ok(got)
            if also
                .and_then(Value::as_array)
                .is_some_and(|a| a.contains(&got)) =>
        {
            None
        }
        Ok(got) => Some(format!("want {want}, got {got}")),
    }
}

/// Reasons by case id or, with an asterisk at the end, by the beginning of ids.
fn known_gaps() -> BTreeMap<String, String> {
    #[derive(serde::Deserialize)]
    struct Gap {
        cases: String,
        reason: String,
    }
    #[derive(serde::Deserialize)]
    struct Gaps {
        #[serde(default)]
        gap: Vec<Gap>,
    }
    let gaps: Gaps = toml::from_str(KNOWN_GAPS).unwrap();
    assert!(
        gaps.gap.iter().all(|g| !g.reason.is_empty()),
        "every gap needs a reason"
    );
    gaps.gap.into_iter().map(|g| (g.cases, g.reason)).collect()
}

#[test]
fn cases() {
    let gaps = known_gaps();
    let listed = |id: &str| {
        gaps.keys().find(|g| {
            g.strip_suffix('*')
                .map_or_else(|| g.as_str() == id, |prefix| id.starts_with(prefix))
        })
    };
    let mut used: BTreeMap<&String, usize> = BTreeMap::new();
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let mut wrong = Vec::new();
    let spiffe = SPIFFE_ID
        .lines()
        .map(|l| ("name", l))
        .filter(|(_, l)| l.contains("\"kind\": \"id\""));
    for (id_key, line) in POLICY.lines().map(|l| ("id", l)).chain(spiffe) {
        // No certificate can name `sa=alt`; the cases mean just another account.
        let case: Value = serde_json::from_str(&line.replace("sa=alt", "sa-alt")).unwrap();
        let id = text(&case, id_key);
        let failed = failure(&case);
        counts.entry(text(&case, "kind").to_owned()).or_default()[usize::from(failed.is_some())] +=
            1;
        match (failed, listed(id)) {
            (None, None) => {}
            (Some(_), Some(gap)) => *used.entry(gap).or_default() += 1,
            (Some(why), None) => wrong.push(format!("{id}: {why}")),
            (None, Some(gap)) => wrong.push(format!("{id}: passes, but `{gap}` is a known gap")),
        }
    }
    wrong.extend(
        gaps.keys()
            .filter(|g| !used.contains_key(g))
            .map(|g| format!("no case for gap `{g}`")),
    );
    for (kind, [passed, gap]) in &counts {
        println!("{kind}: {passed} passed, {gap} not");
    }
    assert!(
        counts.values().map(|[passed, _]| passed).sum::<usize>() > 700,
        "case files are missing"
    );
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The set of a case compiles for a point of its own kind.
fn compile_for(
    mesh: &istio::Mesh,
    point: &Point,
    policies: &[ringgate::policy::model::AuthorizationPolicy],
    l4_deny: ringgate::policy::L4Deny,
) -> Result<ringgate::policy::PolicySet, String> {
    let mesh = ringgate::policy::MeshPolicies {
        policies,
        trust_domains: &mesh.trust_domains,
        scope: mesh.scope(),
        l4_deny,
        dry_run: false,
    };
    compile(&mesh, point).map_err(|problems| format!("{problems:?}"))
}

/// Whether PeerAuthentication concerns the point: not a gateway's listeners.
fn has_mtls_mode(point: &Point) -> bool {
    point.kind == PointKind::Workload
}
