//! Istio resources as YAML and JSON: the same checked model as TOML, the same problems in the author's own places.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "helpers of a test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ringgate::config::{self, ConfigErrors, Options, Problem, Resources};
use ringgate::policy::model::{MtlsMode, Target, TargetKind};
use ringgate::policy::mtls_mode;
use ringgate::role::attached::attached;
use serde_json::{Value, json};

const WHOLE: Options = Options {
    strict_import: false,
    partial: false,
    lints: config::Depth::Single,
};
const PARTIAL: Options = Options {
    strict_import: false,
    partial: true,
    lints: config::Depth::Single,
};

/// A mesh for the resources of a test: a waypoint `w`, an ingress `edge/in`, workloads and a service `a`.
const BASE: &str = include_str!("data/config/base.toml");

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn files(all: &[(&str, &str)]) -> Vec<(PathBuf, String)> {
    let file = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
    all.iter().map(file).collect()
}

fn resources(all: &[(&str, &str)], options: Options) -> Result<Resources, ConfigErrors> {
    config::parse_resources(&files(all), Path::new(""), options)
}

fn good(all: &[(&str, &str)], options: Options) -> Resources {
    resources(all, options).unwrap_or_else(|e| panic!("{e}"))
}

/// The mesh of base.toml without its process.
fn base() -> String {
    BASE.replace("[authority]\n", "")
}

/// One resource with its head; `spec` is what stands below `metadata.name: p`.
fn resource(kind: &str, spec: &str) -> String {
    let group = match kind {
        "ServiceEntry" | "WorkloadEntry" | "DestinationRule" => "networking.istio.io",
        "HTTPRoute" => "gateway.networking.k8s.io",
        _ => "security.istio.io",
    };
    format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata:\n  name: p\n{spec}")
}

/// Problems of one YAML file beside the base.
fn problems(yaml: &str) -> Vec<String> {
    match resources(&[("base.toml", &base()), ("x.yaml", yaml)], WHOLE) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems().iter().map(ToString::to_string).collect(),
    }
}

fn warnings(found: &[Problem]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

fn cases(kind: &str) -> Vec<Value> {
    include_str!("data/conformance/policy.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|case| case["kind"] == kind)
        .collect()
}

#[test]
fn every_case_of_validation_is_judged_by_the_loader() {
    let cases = cases("validate");
    assert!(cases.len() > 40, "only {}", cases.len());
    for case in cases {
        let text = case["policy"].to_string();
        for name in ["case.json", "case.yaml"] {
            let got = resources(&[(name, &text)], PARTIAL);
            let verdict = if got.is_ok() { "accept" } else { "reject" };
            assert_eq!(
                case["expect"],
                verdict,
                "{} {name}: {:?}",
                case["id"],
                got.err()
            );
            if let (Ok(read), Some(true)) = (&got, case["warning"].as_bool()) {
                let apart = "no `apiVersion`";
                let told = read
                    .warnings
                    .iter()
                    .filter(|w| !w.message.starts_with(apart));
                // That a denial needs HTTP is said where it is attached to a workload, which a case does not name.
                if !case["id"].as_str().unwrap().contains("L7Deny") {
                    assert!(told.count() > 0, "{} warns of nothing", case["id"]);
                }
            }
        }
    }
}

#[test]
fn the_three_resources_load_unchanged() {
    let toml = read("config/customer-api.toml");
    let yaml = read("config/customer-api.yaml");
    let gateway = toml.split("# Every connection").next().unwrap();
    let of_toml = good(&[("customer-api.toml", &toml)], WHOLE);
    let of_yaml = good(
        &[("gateway.toml", gateway), ("customer-api.yaml", &yaml)],
        WHOLE,
    );
    assert_eq!(of_yaml.mesh, of_toml.mesh);
    assert_eq!(of_yaml.mesh.authorization_policies.len(), 1);
    assert_eq!(of_toml.warnings, []);
    let told = warnings(&of_yaml.warnings);
    assert_eq!(told.len(), 2, "{told:?}");
    for (warning, line) in told.iter().zip([19, 32]) {
        assert!(
            warning.starts_with(&format!("customer-api.yaml:{line}:5: spec.selector: enforced here at gateway `default/customer-api`, but by Istio nowhere")),
            "{warning}"
        );
        assert!(
            warning.ends_with("`targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: customer-api}]` means the same to both"),
            "{warning}"
        );
    }
    // What the warning advises holds at the same place, and without a warning.
    let advised = yaml.replace(
        "  selector:\n    matchLabels:\n      istio.io/gateway-name: customer-api\n",
        "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: customer-api}]\n",
    );
    let advised = good(
        &[("gateway.toml", gateway), ("customer-api.yaml", &advised)],
        WHOLE,
    );
    assert_eq!(warnings(&advised.warnings), Vec::<String>::new());
    assert_eq!(attached(&advised.mesh), attached(&of_yaml.mesh));
    assert_eq!(
        attached(&advised.mesh)[0].places,
        ["waypoint default/customer-api"]
    );
}

#[test]
fn a_selector_of_a_gateway_that_is_not_there_attaches_to_nothing() {
    let yaml = resource(
        "AuthorizationPolicy",
        "spec:\n  selector: {matchLabels: {istio.io/gateway-name: ww}}\n",
    );
    let read = good(&[("base.toml", &base()), ("x.yaml", &yaml)], WHOLE);
    assert_eq!(
        warnings(&read.warnings),
        [
            "x.yaml:6:13: spec.selector: attaches to nothing: no workload or gateway is selected by it"
        ]
    );
    let off = "[mesh]\ncompat.gatewayNameSelector = false\n";
    let yaml = yaml.replace("ww", "w");
    let read = good(
        &[
            ("base.toml", &base()),
            ("mesh.toml", off),
            ("x.yaml", &yaml),
        ],
        WHOLE,
    );
    assert_eq!(
        warnings(&read.warnings),
        [
            "x.yaml:6:13: spec.selector: attaches to nothing: no workload or gateway is selected by it"
        ]
    );
    assert!(attached(&read.mesh)[0].places.is_empty());
}

#[test]
fn problems_stand_where_the_author_wrote_them() {
    let yaml = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: a
  nmaespace: x
spec:
  rules:
  - from:
    - source:
        principal: [a]
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: b, labels: {a: 1}}
spec:
  action: DENNY
  dryRun: true
  rules: [{to: [{operation: {paths: ['/{*}/{**}/{*}'], methods: GET}}]}]
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {namespace: egress}
spec: {host: partner.example.test, subsets: []}
---
apiVersion: v1
kind: List
items:
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata: {name: c}
  spec:
    portLevelMtls: {8080: {mode: STRICT}}
    mtls: ~
- apiVersion: security.istio.io/v2
  kind: PeerAuthentication
  metadata: {name: d, namespace: x}
";
    assert_eq!(
        problems(yaml),
        [
            "x.yaml:5:3: metadata.nmaespace: unknown key, did you mean `namespace`?",
            "x.yaml:10:9: spec.rules[0].from[0].source.principal: unknown key, did you mean `principals`?",
            "x.yaml:14:33: metadata.labels.a: expected a string, found an integer",
            "x.yaml:16:11: spec.action: `DENNY` is not one of ALLOW, DENY, AUDIT, CUSTOM, did you mean `DENY`?",
            "x.yaml:17:3: spec.dryRun: unknown key; write the annotation `istio.io/dry-run`",
            "x.yaml:18:38: spec.rules[0].to[0].operation.paths[0]: `/{*}/{**}/{*}`: `{*}` may not stand after `{**}`",
            "x.yaml:18:65: spec.rules[0].to[0].operation.methods: expected a list, each element a string, found a string",
            "x.yaml:22:1: metadata.name: missing, expected a string",
            "x.yaml:23:1: spec.trafficPolicy: missing, expected a table",
            "x.yaml:23:36: spec.subsets: not supported yet",
            "x.yaml:32:20: items[0].spec.portLevelMtls: ports belong to workloads; `portLevelMtls` needs a `selector`",
            "x.yaml:33:11: items[0].spec.mtls: expected a table, found nothing; leave the key out if that is meant",
            "x.yaml:34:15: items[1].apiVersion: `v2` is not one of v1, v1beta1, did you mean `v1`?",
        ]
    );
}

#[test]
fn a_broken_file_tells_of_itself_alone() {
    let yaml =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nkind: AuthorizationPolicy\n";
    let toml = "[[authorizationPolicy]]\nname = 'x'\ntargetRefs = [{ group = 'gateway.networking.k8s.io', kind = 'Gateway', name = 'ww' }]\n";
    let all = [
        ("base.toml", base()),
        ("x.yaml", yaml.to_owned()),
        ("y.toml", toml.to_owned()),
    ];
    let all: Vec<(&str, &str)> = all.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let errors = resources(&all, WHOLE).unwrap_err().to_string();
    // The gateway may be what the broken file describes.
    assert_eq!(errors, "x.yaml:3:1: a second key `kind`");
}

#[test]
fn kinds() {
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: b}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: c}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: d}\n";
    let policy = resource("AuthorizationPolicy", "");
    let yaml = format!("{other}---\n{policy}");
    let read = good(&[("x.yaml", &yaml)], PARTIAL);
    assert_eq!(read.mesh.authorization_policies.len(), 1);
    assert_eq!(
        warnings(&read.warnings),
        [
            "x.yaml:2:7: kind: not read, and without effect here: Deployment `b/a`, Service `c`, VirtualService `d`"
        ]
    );
    let strict = Options {
        strict_import: true,
        ..PARTIAL
    };
    let errors = resources(&[("x.yaml", &yaml)], strict).unwrap_err();
    assert_eq!(
        warnings(errors.problems()),
        [
            "x.yaml:2:7: kind: Deployment `b/a` is of a kind that is not read",
            "x.yaml:6:7: kind: Service `c` is of a kind that is not read",
            "x.yaml:10:7: kind: VirtualService `d` is of a kind that is not read",
        ]
    );
    for (head, want) in [
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy",
            "did you mean `AuthorizationPolicy`?",
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntri",
            "did you mean `ServiceEntry`?",
        ),
        (
            "kind: AuthorizationPolcy",
            "did you mean `AuthorizationPolicy`?",
        ),
        ("apiVersion: security.istio.io/v1", "kind: missing"),
        (
            "apiVersion: security.istio.io\nkind: AuthorizationPolicy",
            "apiVersion: ",
        ),
        (
            "kind: PeerAuthentication\napiVersion: securty.istio.io/v1",
            "x.yaml:2:13: apiVersion: `securty.istio.io` has no kind `PeerAuthentication` that is read, expected `security.istio.io/v1`",
        ),
        (
            "apiVersion: 1\nkind: PeerAuthentication",
            "x.yaml:1:13: apiVersion: expected a string, found an integer",
        ),
        (
            "kind: PeerAuthentication\nmetadata: {name: a, \"x\\ny\": b}",
            "metadata.\"x\\ny\": unknown key",
        ),
        ("- a", "expected a resource, found a list"),
        ("text", "expected a resource, found a string"),
    ] {
        let errors = resources(&[("x.yaml", head)], PARTIAL);
        let errors = errors.map(|_| ()).expect_err(head).to_string();
        assert!(errors.contains(want), "{head}: {errors}");
    }
}

#[test]
fn what_the_api_server_adds_is_passed_over() {
    let exported = json!({
        "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
        "items": [{
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {
                "name": "a", "namespace": "x", "uid": "1", "resourceVersion": "2", "generation": 3,
                "creationTimestamp": "2025-01-31T12:00:00Z",
                "labels": {"app": "a"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n", "istio.io/dry-run": "T"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"rules": [{}]},
            "status": {"conditions": [{"type": "ZtunnelAccepted"}]},
        }],
    });
    let read = good(&[("x.json", &exported.to_string())], PARTIAL);
    let policy = &read.mesh.authorization_policies[0];
    assert_eq!(policy.name.to_string(), "x/a");
    assert!(policy.dry_run);
    assert_eq!(warnings(&read.warnings), Vec::<String>::new());
    // The namespace is kubectl's default; null where Kubernetes writes null is nothing.
    let plain = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: b, creationTimestamp: null}\nspec:\n";
    let read = good(&[("x.yaml", plain)], PARTIAL);
    assert_eq!(
        read.mesh.authorization_policies[0].name.to_string(),
        "default/b"
    );
    assert!(read.mesh.authorization_policies[0].rules.is_empty());
}

#[test]
fn dry_run_takes_the_words_of_go() {
    let with = |value: &str| {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  annotations: {{istio.io/dry-run: \"{value}\"}}\n"
        );
        resources(&[("x.yaml", &yaml)], PARTIAL).map(|r| r.mesh.authorization_policies[0].dry_run)
    };
    for (value, want) in [
        ("1", true),
        ("t", true),
        ("T", true),
        ("TRUE", true),
        ("true", true),
        ("True", true),
        ("0", false),
        ("f", false),
        ("F", false),
        ("FALSE", false),
        ("false", false),
        ("False", false),
    ] {
        assert_eq!(with(value), Ok(want), "{value}");
    }
    for value in ["", "yes", "tRUE", "on", "2", " true"] {
        let error = with(value).unwrap_err().to_string();
        assert!(
            error.contains("metadata.annotations.\"istio.io/dry-run\""),
            "{error}"
        );
    }
}

#[test]
fn what_widens_is_refused() {
    for (spec, want) in [
        (
            "spec: {rules: [{from: []}]}",
            "spec.rules[0].from: an empty list",
        ),
        (
            "spec: {rules: [{from: }]}",
            "spec.rules[0].from: expected a list, each element a table, found nothing",
        ),
        (
            "spec: {rules: [{from: [{source: {principals: []}}]}]}",
            "principals: an empty list",
        ),
        (
            "spec: {rules: [{from: [{source: {principals: }}]}]}",
            "principals: expected a list",
        ),
        (
            "spec: {rules: [{from: [{source: {}}]}]}",
            "spec.rules[0].from[0].source: ",
        ),
        (
            "spec: {rules: [{to: [{}]}]}",
            "spec.rules[0].to[0].operation: missing, expected a table",
        ),
        (
            "spec: {rules: [{when: []}]}",
            "spec.rules[0].when: an empty list",
        ),
        (
            "spec: {rules: [~]}",
            "spec.rules[0]: expected a table, found nothing",
        ),
        (
            "spec: {rules: {from: [{source: {namespaces: [a]}}]}}",
            "spec.rules: expected a list of tables, found one table; begin it with `- `",
        ),
        (
            "spec: {selector: }",
            "spec.selector: expected a table, found nothing",
        ),
        ("spec: {targetRefs: []}", "spec.targetRefs: an empty list"),
        ("spec: []", "spec: expected a table, found a list"),
        ("specs: {}", "specs: unknown key, did you mean `spec`?"),
        ("action: DENY", "action: unknown key"),
        ("spec: {name: q}", "spec.name: belongs in `metadata`"),
        (
            "spec: {rules: [{to: [{operation: {ports: [80.5]}}]}]}",
            "expected a port from 0 to 65535 as a string, found a float",
        ),
    ] {
        let found = problems(&resource("AuthorizationPolicy", spec));
        assert!(
            found.len() == 1 && found[0].contains(want),
            "{spec}: {found:?}"
        );
    }
}

/// Policy semantics, section 11, line by line: each is refused, once, where it is written.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of what is refused")]
fn request_authentication_is_validated() {
    let rule = |more: &str| {
        format!(
            "spec: {{jwtRules: [{{issuer: a.example, jwksUri: \"https://a.example/keys\", {more}}}]}}"
        )
    };
    let whole = |rule: &str| format!("spec: {{jwtRules: [{{{rule}}}]}}");
    for (spec, want) in [
        (whole(""), "spec.jwtRules[0]: expected `issuer` or `jwksUri`"),
        (whole("issuer: ''"), "spec.jwtRules[0]: expected `issuer` or `jwksUri`"),
        (whole("audiences: [a]"), "spec.jwtRules[0]: expected `issuer` or `jwksUri`"),
        (rule("audiences: ['']"), "audiences[0]: must not be empty"),
        (rule("fromHeaders: [{name: ''}]"), "fromHeaders[0].name: must not be empty"),
        (rule("fromHeaders: [{prefix: x}]"), "fromHeaders[0].name: missing"),
        (rule("fromParams: ['']"), "fromParams[0]: must not be empty"),
        (rule("fromCookies: ['', foo]"), "fromCookies[0]: must not be empty"),
        (whole("issuer: a, jwksUri: a.example"), "jwksUri: `a.example`: not a URL"),
        (whole("issuer: a, jwksUri: 'ftp://a.example'"), "jwksUri: `ftp://a.example`"),
        (whole("issuer: a, jwksUri: 'https://a.example:bar'"), "jwksUri: `https://a.example:bar`"),
        (whole("issuer: a, jwksUri: 'https://a.example:0'"), "jwksUri: `https://a.example:0`"),
        (whole("issuer: a, jwksUri: 'https://a.example:65536'"), "jwksUri: `https://a.example:65536`"),
        (whole("issuer: a, jwksUri: 'http://a.example'"), "jwksUri: `http://a.example`"),
        (whole("issuer: a, jwks: foo"), "jwks: not a JWK or JWK set"),
        (whole("issuer: a, jwks: '{\"keys\": [{}]}'"), "jwks: not a JWK or JWK set"),
        (rule("outputClaimToHeaders: [{claim: a}]"), "outputClaimToHeaders[0].header: missing"),
        (rule("outputClaimToHeaders: [{header: a}]"), "outputClaimToHeaders[0].claim: missing"),
        (rule("outputClaimToHeaders: [{header: '', claim: a}]"), "header: must not be empty"),
        (rule("outputClaimToHeaders: [{header: a, claim: ''}]"), "claim: must not be empty"),
        (rule("outputClaimToHeaders: [{header: 'a%b', claim: a}]"), "`a%b` is not a header name"),
        (rule("outputPayloadToHeader: 'a b'"), "`a b` is not a header name"),
        (rule("timeout: 0s"), "timeout: expected at least 1ms"),
        (rule("timeout: 500us"), "timeout: `500us` is not a duration of whole milliseconds"),
        (rule("timeout: 0.0005s"), "timeout: `0.0005s` is not a duration of whole milliseconds"),
        (rule("timeout: 5"), "timeout: expected a duration"),
        (rule("spaceDelimitedClaims: ['']"), "spaceDelimitedClaims[0]: must not be empty"),
        (rule("jwks_uri: x"), "jwks_uri: unknown key, did you mean `jwksUri`?"),
        ("spec: {selector: {matchLabels: {app: a, '': v1}}}".into(), "an empty key"),
        ("spec: {selector: {matchLabels: {app: 'a*'}}}".into(), "labels are compared exactly, expected no `*`"),
        ("spec: {selector: {matchLabels: {'a*': a}}}".into(), "labels are compared exactly, expected no `*`"),
        ("spec: {selector: {matchExpressions: []}}".into(), "spec.selector.matchExpressions: unknown key"),
        ("spec: {selector: {matchLabels: {app: a}}, targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: w}}".into(), "spec.targetRef: only one of"),
        ("spec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: w}, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: w}]}".into(), "spec.targetRefs: only one of"),
        ("spec: {targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io}]}".into(), "spec.targetRefs[0].name: missing"),
        ("spec: {targetRefs: [{name: w, group: gateway.networking.k8s.io}]}".into(), "spec.targetRefs[0].kind: missing"),
        ("spec: {targetRef: {kind: Gateway, name: w, group: gateway.networking.k8s.io, namespace: x}}".into(), "spec.targetRef.namespace: a target is in the policy's own namespace"),
        ("spec: {targetRef: {kind: Gateway, name: w}}".into(), "kind `Gateway` needs `group`, expected `gateway.networking.k8s.io`"),
        ("spec: {targetRef: {kind: Pod, name: w}}".into(), "spec.targetRef.kind: `Pod` is not one of Gateway"),
        ("spec: {targetRef: {kind: Gateway, name: ww, group: gateway.networking.k8s.io}}".into(), "there is no gateway `default/ww`, did you mean `default/w`?"),
        ("spec: {targetRef: {kind: Service, name: aa}}".into(), "there is no serviceEntry `default/aa`, did you mean `default/a`?"),
    ] {
        let found = problems(&resource("RequestAuthentication", &spec));
        assert!(found.len() == 1 && found[0].contains(want), "{spec}: {found:?}");
    }
    let dry = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, annotations: {istio.io/dry-run: 'true'}}\n";
    assert_eq!(
        problems(dry),
        [
            "x.yaml:3:35: metadata.annotations.\"istio.io/dry-run\": a requestAuthentication has no dry run"
        ]
    );
    for spec in [
        "",
        "spec: {}",
        "spec: {jwtRules: []}",
        "spec: {jwtRules: [{issuer: '', jwksUri: 'https://a.example'}]}",
        "spec: {jwtRules: [{jwksUri: 'https://a.example:8443/keys'}]}",
        "spec: {jwtRules: [{jwksUri: 'http://127.0.0.1:1/keys'}]}",
        "spec: {jwtRules: [{issuer: 'https://a.example'}]}",
        "spec: {jwtRules: [{issuer: a, jwks: '{\"kty\": \"EC\"}'}]}",
        "spec: {jwtRules: [{issuer: a, jwksUri: 'https://a.example', timeout: 1.5s, fromHeaders: [{name: x, prefix: 'Bearer '}]}]}",
        "spec: {selector: {matchLabels: {app: ''}}}",
    ] {
        assert_eq!(
            problems(&resource("RequestAuthentication", spec)),
            Vec::<String>::new(),
            "{spec}"
        );
    }
}

#[test]
fn peer_authentication_is_validated() {
    let selected = |ports: &str| {
        format!("spec: {{selector: {{matchLabels: {{app: a}}}}, portLevelMtls: {ports}}}")
    };
    for (spec, want) in [
        (
            "spec: {portLevelMtls: {8080: {mode: STRICT}}}".to_owned(),
            "needs a `selector`",
        ),
        (
            "spec: {selector: {}, portLevelMtls: {8080: {mode: STRICT}}}".into(),
            "needs a `selector`",
        ),
        (selected("{}"), "an empty table"),
        (selected("{0: {mode: STRICT}}"), "`0` is not a port"),
        (selected("{65536: {mode: STRICT}}"), "`65536` is not a port"),
        (selected("{http: {mode: STRICT}}"), "`http` is not a port"),
        (
            selected("{8080: {mode: STRIKT}}"),
            "portLevelMtls.8080.mode: `STRIKT` is not one of",
        ),
        (
            selected("{8080: {mode: STRICT}, '8080': {}}"),
            "a second key `8080`",
        ),
        (
            "spec: {mtls: {mode: strict}}".into(),
            "spec.mtls.mode: `strict` is not one of",
        ),
        (
            "spec: {mtls: STRICT}".into(),
            "spec.mtls: expected a table, found a string",
        ),
        (
            "spec: {targetRefs: [{kind: Gateway, name: w, group: gateway.networking.k8s.io}]}"
                .into(),
            "spec.targetRefs: unknown key",
        ),
    ] {
        let found = problems(&resource("PeerAuthentication", &spec));
        assert!(
            found.len() == 1 && found[0].contains(want),
            "{spec}: {found:?}"
        );
    }
    for spec in [
        "",
        "spec: {}",
        "spec: {mtls: {}}",
        "spec: {mtls: {mode: UNSET}}",
        "spec: {selector: {matchLabels: {}}}",
    ] {
        assert_eq!(
            problems(&resource("PeerAuthentication", spec)),
            Vec::<String>::new(),
            "{spec}"
        );
    }
}

#[test]
fn the_oldest_peer_authentication_of_a_scope_holds() {
    let peer = |name: &str, created: &str, mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}{created}}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
        )
    };
    let at = |second: u8| format!(", creationTimestamp: 2025-01-01T00:00:{second:02}Z");
    let yaml = peer("a", &at(20), "STRICT")
        + &peer("b", &at(10), "DISABLE")
        + &peer("c", &at(30), "STRICT");
    let read = good(&[("base.toml", &base()), ("x.yaml", &yaml)], WHOLE);
    let labels = read.mesh.workloads[0].labels.clone();
    let mode = mtls_mode(
        &read.mesh.peer_authentications,
        "istio-system",
        "default",
        &labels,
        80,
    );
    assert_eq!(mode, MtlsMode::Disable);
    assert_eq!(
        warnings(&read.warnings),
        [
            "x.yaml:3:18: metadata.name: peerAuthentication `default/b` has the same scope and is older; this one is ignored there",
            "x.yaml:13:18: metadata.name: peerAuthentication `default/b` has the same scope and is older; this one is ignored there",
        ]
    );
    // Without a time there is no older one.
    let found = problems(&(peer("a", &at(20), "STRICT") + &peer("b", "", "DISABLE")));
    assert!(
        found.len() == 1 && found[0].contains("only one can hold"),
        "{found:?}"
    );
    let found = problems(&peer("a", ", creationTimestamp: yesterday", "STRICT"));
    assert!(
        found.len() == 1
            && found[0].contains("metadata.creationTimestamp: `yesterday` is not a time"),
        "{found:?}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of targets")]
fn targets() {
    let of = |refs: &str| {
        let yaml = resource("AuthorizationPolicy", &format!("spec: {{{refs}}}"));
        let read = good(&[("base.toml", &base()), ("x.yaml", &yaml)], WHOLE);
        let places = attached(&read.mesh)[0].places.clone();
        let Target::Refs(refs) = &read.mesh.authorization_policies[0].target else {
            panic!("{refs}");
        };
        (refs[0].kind, refs[0].name.clone(), places)
    };
    let service = (
        TargetKind::ServiceEntry,
        "a".to_owned(),
        vec!["service default/a at waypoint default/w".to_owned()],
    );
    assert_eq!(of("targetRef: {kind: Service, name: a}"), service);
    assert_eq!(
        of("targetRefs: [{group: '', kind: Service, name: a}]"),
        service
    );
    assert_eq!(
        of("targetRefs: [{group: core, kind: Service, name: a, namespace: ''}]"),
        service
    );
    assert_eq!(
        of("targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: a}]"),
        service
    );
    let gateway = (
        TargetKind::Gateway,
        "w".to_owned(),
        vec!["waypoint default/w".to_owned()],
    );
    assert_eq!(
        of("targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: w}"),
        gateway
    );
    let class = |name: &str| {
        let yaml = resource(
            "AuthorizationPolicy",
            &format!(
                "  namespace: istio-system\nspec: {{targetRef: {{group: gateway.networking.k8s.io, kind: GatewayClass, name: {name}}}}}\n"
            ),
        );
        let read = good(
            &[
                (
                    "base.toml",
                    &base()
                        .replace("ringgate-egress", "ringgate-ingress")
                        .replace("labels = { \"istio.io/use-waypoint\" = \"out\" }\n", ""),
                ),
                ("x.yaml", &yaml),
            ],
            WHOLE,
        );
        (
            attached(&read.mesh)[0].places.clone(),
            warnings(&read.warnings),
        )
    };
    assert_eq!(
        class("istio-waypoint"),
        (vec!["waypoint default/w".to_owned()], Vec::new())
    );
    let nowhere =
        "x.yaml:6:80: spec.targetRef.name: attaches to nothing: no gateway is of this class";
    assert_eq!(
        class("ringgate-egress"),
        (Vec::new(), vec![nowhere.to_owned()])
    );
    // A service outside is no Service of Kubernetes.
    let yaml = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: egress}\nspec: {targetRef: {kind: Service, name: partner}}\n";
    let found = problems(yaml);
    assert!(
        found.len() == 1 && found[0].contains("is outside the mesh, expected kind `ServiceEntry`"),
        "{found:?}"
    );
}

#[test]
fn names_of_both_dialects_collide() {
    let toml = "[[authorizationPolicy]]\nname = 'p'\n";
    let yaml = resource("AuthorizationPolicy", "");
    let json = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "default"}});
    let json = json.to_string();
    let collide = |all: &[(&str, &str)]| {
        let errors = resources(all, PARTIAL).unwrap_err();
        warnings(errors.problems())
    };
    assert_eq!(
        collide(&[("a.toml", toml), ("b.yaml", &yaml)]),
        [
            "b.yaml:4:9: metadata.name: a second authorizationPolicy `default/p`; the first is at a.toml:2:8"
        ]
    );
    assert_eq!(
        collide(&[("b.yaml", &yaml), ("a.toml", toml)]),
        [
            "a.toml:2:8: authorizationPolicy[0].name: a second authorizationPolicy `default/p`; the first is at b.yaml:4:9"
        ]
    );
    assert_eq!(
        collide(&[("a.toml", &format!("{toml}{toml}"))]),
        [
            "a.toml:4:8: authorizationPolicy[1].name: a second authorizationPolicy `default/p`; the first is at a.toml:2:8"
        ]
    );
    assert_eq!(collide(&[("b.yaml", &yaml), ("c.json", &json)]).len(), 1);
    // Another kind, another namespace: another name.
    let other = yaml.replace("name: p", "name: p\n  namespace: x");
    good(
        &[
            ("a.toml", toml),
            ("b.yaml", &resource("PeerAuthentication", "")),
            ("c.yaml", &other),
        ],
        PARTIAL,
    );
}

#[test]
fn ports_as_integers_are_taken_with_a_warning() {
    let yaml = resource(
        "AuthorizationPolicy",
        "spec: {rules: [{to: [{operation: {ports: [8080, '9090']}}]}]}",
    );
    let read = good(&[("x.yaml", &yaml)], PARTIAL);
    assert_eq!(
        read.mesh.authorization_policies[0].rules[0].to[0].ports,
        ["8080", "9090"]
    );
    assert_eq!(
        warnings(&read.warnings),
        [
            "x.yaml:5:43: spec.rules[0].to[0].operation.ports[0]: Istio takes ports as strings, write \"8080\""
        ]
    );
}

#[test]
fn a_damaged_file_is_never_a_panic() {
    let text = "%YAML 1.2\n---\napiVersion: security.istio.io/v1 # \u{fc}\nkind: AuthorizationPolicy\nmetadata: &m {name: \"a\", labels: {x: 'y'}}\nspec:\n  rules:\n  - to:\n    - operation: {paths: [/a, \"/b\"]}\n  - {}\n---\nmetadata: *m\n...\n";
    let specials = "{}[]&*!|>'\"%@`-:?,#\t\n \\\0\u{feff}\u{e9}";
    let try_it = |text: &str| {
        if let Err(errors) = resources(&[("x.yaml", text), ("x.json", text)], PARTIAL) {
            assert!(!errors.problems().is_empty());
            assert!(errors.problems().iter().all(|p| p.position.is_some()));
        }
    };
    for (at, c) in text.char_indices() {
        try_it(&text[..at]);
        for special in specials.chars() {
            try_it(&format!(
                "{}{special}{}",
                &text[..at],
                &text[at + c.len_utf8()..]
            ));
            try_it(&format!("{}{special}{}", &text[..at], &text[at..]));
        }
    }
}

#[test]
fn our_own_fields_have_the_same_names() {
    let yaml = resource(
        "AuthorizationPolicy",
        "spec:
  rules:
  - to: [{operation: {pathRegexes: ['/a/[0-9]+'], notPathRegexes: ['/a/0+']}}]
    when:
    - {key: 'request.query[q]', values: [x], notValues: [y]}
    - {key: 'request.headers[h]', regexes: ['a+'], notRegexes: ['aa']}
",
    ) + "---\n"
        + &resource(
            "RequestAuthentication",
            "spec: {jwtRules: [{issuer: 'https://a.example', requireExpiration: true}]}",
        );
    let toml = "[[authorizationPolicy]]\nname = 'p'\n[[authorizationPolicy.rules]]\n\
        to = [{ operation = { pathRegexes = ['/a/[0-9]+'], notPathRegexes = ['/a/0+'] } }]\n\
        when = [{ key = 'request.query[q]', values = ['x'], notValues = ['y'] }, { key = 'request.headers[h]', regexes = ['a+'], notRegexes = ['aa'] }]\n\
        [[requestAuthentication]]\nname = 'p'\njwtRules = [{ issuer = 'https://a.example', requireExpiration = true }]\n";
    assert_eq!(
        good(&[("x.yaml", &yaml)], PARTIAL).mesh,
        good(&[("x.toml", toml)], PARTIAL).mesh
    );
}

/// The network resources, equal to what base.toml says.
#[test]
fn networking_resources_are_read() {
    let mut toml = base();
    let at = toml.find("[[workloadEntry]]").unwrap();
    let end = toml.find("[[extensionProvider]]").unwrap();
    let of_toml = good(&[("base.toml", &toml)], WHOLE);
    toml.replace_range(at..end, "");
    let yaml = "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a-1, labels: {app: a}}
spec: {serviceAccount: a, address: 10.0.0.1, labels: {app: b}}
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: a, labels: {istio.io/use-waypoint: w}}
spec:
  hosts: [a]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: a}}
---
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata: {name: partner, namespace: egress, labels: {istio.io/use-waypoint: out}}
spec:
  hosts: [partner.example.test, '*.wild.example.test']
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
";
    let of_yaml = good(&[("base.toml", &toml), ("x.yaml", yaml)], WHOLE);
    assert_eq!(of_yaml.mesh, of_toml.mesh);
    // Labels of `spec` alone, and those that only `spec` has.
    let both = yaml.replace(
        "labels: {app: a}}\nspec: {serviceAccount: a, address: 10.0.0.1, labels: {app: b}}",
        "labels: {app: a}}\nspec: {serviceAccount: a, address: 10.0.0.1, labels: {tier: x}}",
    );
    let read = good(&[("base.toml", &toml), ("x.yaml", &both)], WHOLE);
    assert_eq!(read.mesh.workloads[0].labels["tier"], "x");
    assert_eq!(read.mesh.workloads[0].labels["app"], "a");
    let found = resources(
        &[
            ("base.toml", &toml),
            (
                "x.yaml",
                &yaml.replace("address: 192.0.2.1", "address: 192.0.2.1, network: n"),
            ),
        ],
        WHOLE,
    );
    assert_eq!(
        found.map(|_| ()).unwrap_err().to_string(),
        "x.yaml:23:36: spec.endpoints[0].network: not supported yet"
    );
}

/// A namespace and a service account are read for the waypoint in their labels, and for nothing else.
#[test]
fn waypoints_of_namespaces_and_accounts_are_read() {
    let base = "[authority]\n[[gateway]]\nname = 'w'\nnamespace = 'shop'\ngatewayClassName = 'istio-waypoint'\n\
                address = '10.0.0.1'\nlabels = { 'istio.io/waypoint-for' = 'all' }\n[[workloadEntry]]\nname = 'a'\n\
                namespace = 'shop'\nserviceAccount = 'a'\naddress = '10.0.0.2'\nlabels = { app = 'a' }\n\
                [[serviceEntry]]\nname = 's'\nnamespace = 'shop'\nhosts = ['s']\nlocation = 'MESH_INTERNAL'\n\
                ports = [{ number = 80, name = 'http', protocol = 'HTTP' }]\nresolution = 'STATIC'\n\
                workloadSelector.labels = { app = 'a' }\n";
    let yaml = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {istio.io/use-waypoint: w}\n\
                spec: {finalizers: [kubernetes]}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, \
                namespace: shop, labels: {istio.io/use-waypoint: none}}\nautomountServiceAccountToken: false\n";
    let read = resources(
        &[
            ("base.toml", base.trim_start_matches("[authority]\n")),
            ("x.yaml", yaml),
        ],
        WHOLE,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(read.warnings, []);
    assert_eq!(read.mesh.services[0].waypoint, Some(0));
    assert_eq!(read.mesh.workloads[0].waypoint, None);
}

/// What is converted means what the original meant, for every policy of the conformance cases and the files in config/.
#[test]
fn conversion_to_toml_keeps_the_meaning() {
    let mut sets: Vec<(String, String)> =
        vec![("customer-api".into(), read("config/customer-api.yaml"))];
    for case in cases("authz").into_iter().chain(cases("peerauthn")) {
        let mut list = case["policies"].clone();
        for (i, policy) in list.as_array_mut().unwrap().iter_mut().enumerate() {
            policy["apiVersion"] = "security.istio.io/v1".into();
            policy["metadata"]["name"] = format!("p{i}").into();
            policy["metadata"]["labels"] = json!({"a.b/c": "\"\\\u{7f}é\n", "": "x"})
                .as_object()
                .unwrap()
                .iter()
                .filter(|(k, _)| !k.is_empty())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        sets.push((
            case["id"].to_string(),
            json!({"apiVersion": "v1", "kind": "List", "items": list}).to_string(),
        ));
    }
    let mut converted = 0;
    for (id, text) in sets {
        let Ok(original) = resources(&[("x.yaml", &text)], PARTIAL) else {
            continue;
        };
        let toml = config::to_toml(&files(&[("x.yaml", &text)]), PARTIAL)
            .unwrap_or_else(|e| panic!("{id}: {e}"));
        let again = resources(&[("x.toml", &toml)], PARTIAL)
            .unwrap_or_else(|e| panic!("{id}: {e}\n{toml}"));
        assert_eq!(again.mesh, original.mesh, "{id}\n{toml}");
        converted += 1;
    }
    assert!(converted > 600, "only {converted}");
}

#[test]
fn conversion_is_written_as_one_would_write_it() {
    let toml = config::to_toml(
        &files(&[("x.yaml", &read("config/customer-api.yaml"))]),
        PARTIAL,
    )
    .unwrap();
    assert_eq!(
        toml,
        r#"[[peerAuthentication]]
name = "default"
namespace = "istio-system"
mtls.mode = "STRICT"

[[requestAuthentication]]
name = "jwt-validator"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }

[[requestAuthentication.jwtRules]]
issuer = "https://auth.example.com"
jwksUri = "https://auth.example.com/.well-known/jwks.json"

[[authorizationPolicy]]
name = "customer-api-lockdown"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
action = "ALLOW"

[[authorizationPolicy.rules]]
from = [{ source.principals = ["cluster.local/ns/default/sa/frontend-service"] }]
"#
    );
    let bad = resource(
        "AuthorizationPolicy",
        "spec: {rules: [{to: [{operation: {path: [/a]}}]}]}",
    );
    assert!(config::to_toml(&files(&[("x.yaml", &bad)]), PARTIAL).is_err());
}

mod command {
    use super::*;

    fn check(args: &[&str]) -> (bool, String, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .current_dir(root())
            .arg("check")
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.success(), text(out.stdout), text(out.stderr))
    }

    #[test]
    fn files_of_resources() {
        let (good, out, err) = check(&["config/customer-api.toml"]);
        assert!(good, "{err}");
        assert_eq!(
            out,
            "authorizationPolicy default/customer-api-lockdown (ALLOW): waypoint default/customer-api\n\
             requestAuthentication default/jwt-validator: waypoint default/customer-api\n\
             peerAuthentication istio-system/default: nowhere\n\
             resources are good\n"
        );
        let (good, out, _) = check(&["config/customer-api.yaml"]);
        assert!(good);
        assert!(
            out.contains(
                "warning: config/customer-api.yaml:19:5: spec.selector: enforced here at gateway"
            ),
            "{out}"
        );
        assert!(out.contains("references were not followed"), "{out}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        std::fs::write(
            &path,
            resource("AuthorizationPolicy", "spec: {rules: [{form: []}]}"),
        )
        .unwrap();
        let (good, out, err) = check(&[path.to_str().unwrap()]);
        assert!(!good && out.is_empty());
        assert!(
            err.contains("x.yaml:5:17: spec.rules[0].form: unknown key, did you mean `from`?"),
            "{err}"
        );
        let (good, _, err) = check(&[dir.path().join("none.yaml").to_str().unwrap()]);
        assert!(!good && err.contains("cannot be read"), "{err}");
    }

    #[test]
    fn beside_a_main_file() {
        let dir = tempfile::tempdir().unwrap();
        let (main, more) = (
            dir.path().join("ringgate.toml"),
            dir.path().join("more.yaml"),
        );
        std::fs::write(&main, BASE).unwrap();
        std::fs::write(
            &more,
            resource(
                "AuthorizationPolicy",
                "spec: {targetRef: {kind: Service, name: a}}",
            ),
        )
        .unwrap();
        let (good, out, err) = check(&[main.to_str().unwrap(), more.to_str().unwrap()]);
        assert!(good, "{err}");
        assert!(
            out.contains(
                "authorizationPolicy default/p (ALLOW): service default/a at waypoint default/w\n"
            ),
            "{out}"
        );
        std::fs::write(
            &more,
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
        )
        .unwrap();
        let all = [main.to_str().unwrap(), more.to_str().unwrap()];
        let (good, out, _) = check(&all);
        assert!(
            good && out.contains("without effect here: Service `a`"),
            "{out}"
        );
        let (good, _, err) = check(&[all[0], all[1], "--strict-import"]);
        assert!(
            !good && err.contains("Service `a` is of a kind that is not read"),
            "{err}"
        );
    }

    #[test]
    fn as_toml() {
        let (good, out, err) = check(&["--as", "toml", "config/customer-api.yaml"]);
        assert!(good, "{err}");
        let of_yaml = resources(&[("x.yaml", &read("config/customer-api.yaml"))], PARTIAL).unwrap();
        assert_eq!(
            resources(&[("x.toml", &out)], PARTIAL).unwrap().mesh,
            of_yaml.mesh
        );
    }
}
