//! What the steps of an HTTP exchange cost by themselves: a head and its canonical form, the head that goes upstream, a
//! token that is verified and one that was, the decision, the record.
//!
//! `cargo bench --bench http`; a word after `--` picks benches by name. The request is that of the load bench: a waypoint, a
//! token of RS256, one policy that asks for a caller, a method, a path and a claim.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench stops at what it did not expect, and reads its tokens from a file"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput};
use ringgate::config::checked::RecordedQuery;
use ringgate::exchange::close::CloseReason;
use ringgate::http::{canonical, forward, h1};
use ringgate::jwt::model::{JwtRule, KeySource, Reach};
use ringgate::jwt::{KeySet, TokenCache, TokenOutcome, TokenRules};
use ringgate::jwt::{authenticate, authenticate_cached};
use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use ringgate::policy::{
    Compiled, Connection, Decision, L4Deny, MeshPolicies, Point, PointKind, PolicySet, Request,
    Scope, decide,
};
use ringgate::telemetry::record::{Kind, Record};
use ringgate::vocab::path::PathNormalization;
use ringgate::vocab::resource::ResourceName;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};
use serde_json::Value;

/// When the tokens of the conformance set are valid.
const NOW: i64 = 1_763_800_000;
const CALLER: &str = "cluster.local/ns/default/sa/frontend-service";

/// A token of the conformance set, and the keys for it.
fn token(id: &str) -> (String, KeySet) {
    let directory = std::env::current_dir().unwrap();
    let read = |name: &str| {
        let path = directory.join("tests/data/conformance").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let cases = read("jwt.jsonl");
    let mut cases = cases
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let case = cases.find(|case| case["id"] == id).unwrap();
    let bearer = case["request"]["headers"][0][1].as_str().unwrap();
    let keys: Value = serde_json::from_str(&read("jwks.json")).unwrap();
    let all: Vec<&Value> = keys["keys"].as_object().unwrap().values().collect();
    let keys = KeySet::parse(&serde_json::json!({ "keys": all }).to_string()).unwrap();
    (bearer.to_owned(), keys)
}

/// The head as a client of the load bench writes it.
fn head(bearer: &str) -> Vec<u8> {
    format!(
        "GET /api/v1/users HTTP/1.1\r\nhost: customer-api\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\
         authorization: {bearer}\r\n\r\n"
    )
    .into_bytes()
}

fn canonical(head: &[u8]) -> Request {
    let (raw, length) = h1::parse_request(head).unwrap().unwrap();
    assert_eq!(length, head.len());
    let (request, _) = canonical::from_h1(raw, PathNormalization::MergeSlashes, NOW).unwrap();
    request
}

fn connection(principal: &str) -> Connection {
    let peer = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 7));
    Connection {
        principal: Some(SpiffeId::parse(&format!("spiffe://{principal}")).unwrap()),
        peer,
        remote: peer,
        destination: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 3)),
        port: 15443,
        sni: None,
        time: NOW,
    }
}

/// One policy: a caller, two methods, a prefix, a claim.
fn policies() -> Arc<PolicySet> {
    let rule = Rule {
        from: vec![Source {
            principals: vec![CALLER.to_owned()],
            ..Source::default()
        }],
        to: vec![Operation {
            methods: vec!["GET".to_owned(), "POST".to_owned()],
            paths: vec!["/api/v1/*".to_owned()],
            ..Operation::default()
        }],
        when: vec![Condition {
            key: "request.auth.claims[sub]".to_owned(),
            values: vec!["alice".to_owned()],
            ..Condition::default()
        }],
    };
    let policy = AuthorizationPolicy {
        name: ResourceName::new("default", "customer-api-lockdown"),
        target: Target::Namespace,
        action: Action::Allow,
        provider: None,
        dry_run: false,
        rules: vec![rule],
    };
    let policies = [policy];
    let own = [TrustDomain::parse("cluster.local").unwrap()];
    let compiled = Compiled::new(&MeshPolicies {
        policies: &policies,
        trust_domains: &own,
        scope: Scope {
            root_namespace: "istio-system",
            gateway_name_selector: true,
            gateway_selectors: true,
        },
        l4_deny: L4Deny::Api,
        dry_run: false,
    });
    compiled.unwrap().at(&Point {
        kind: PointKind::Workload,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: None,
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    })
}

fn heads(criterion: &mut Criterion) {
    let (bearer, _) = token("alg/RS256");
    let head = head(&bearer);
    let mut group = criterion.benchmark_group("head");
    group.throughput(Throughput::Bytes(head.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| h1::parse_request(black_box(&head)).unwrap());
    });
    group.bench_function("parse-canonical", |b| {
        b.iter(|| canonical(black_box(&head)));
    });
    group.finish();
}

/// Fields that come from the client, those that are ours, and all of them as bytes.
fn onward(criterion: &mut Criterion) {
    let (bearer, _) = token("alg/RS256");
    let request = canonical(&head(&bearer));
    let peer = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 7));
    // As a connection keeps it: made with its first request.
    let said = forward::Said::default();
    let details = forward::ForwardClientCert::default();
    criterion.bench_function("forward/fields", |b| {
        let setup = || (request.headers.clone(), BytesMut::with_capacity(4096));
        b.iter_batched(
            setup,
            |(mut headers, mut out)| {
                forward::strip(&mut headers, false, 0);
                let mut own = forward::Own::default();
                let principal = Some("spiffe://cluster.local/ns/default/sa/frontend-service");
                let to = "spiffe://cluster.local/ns/default/sa/customer-api";
                forward::set(
                    &mut own,
                    (peer, principal),
                    to,
                    "https",
                    (&said, details, &[]),
                );
                for (name, value) in forward::outgoing(&headers, &own) {
                    out.extend_from_slice(name.as_str().as_bytes());
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
                (headers, own, out)
            },
            BatchSize::SmallInput,
        );
    });
}

struct Keys(KeySet);

impl ringgate::jwt::KeyLookup for Keys {
    fn key_set(&self, _source: &KeySource) -> Option<&KeySet> {
        Some(&self.0)
    }

    fn generation(&self) -> u64 {
        1
    }
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    for id in ["RS256", "ES256"] {
        let (bearer, keys) = token(&format!("alg/{id}"));
        let (request, keys) = (canonical(&head(&bearer)), Keys(keys));
        let rules = rules();
        let path = request.path.as_ref();
        let is_valid = |outcome: TokenOutcome| {
            let TokenOutcome::Valid { claims, .. } = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(claims.subject(), Some("alice"));
        };
        group.bench_function(format!("{id}/verified"), |b| {
            b.iter(|| {
                is_valid(authenticate(
                    &rules,
                    &keys,
                    black_box(&request.headers),
                    path,
                    NOW,
                ));
            });
        });
        let mut cache = TokenCache::default();
        group.bench_function(format!("{id}/cached"), |b| {
            b.iter(|| {
                let headers = black_box(&request.headers);
                is_valid(authenticate_cached(
                    &mut cache, &rules, &keys, headers, path, NOW,
                ));
            });
        });
    }
    group.finish();
}

fn rules() -> TokenRules {
    let rule = JwtRule {
        issuer: "https://issuer.example".to_owned(),
        audiences: Vec::new(),
        keys: KeySource::Uri("https://issuer.example/jwks.json".to_owned()),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        forward_original_token: true,
        output_payload_to_header: None,
        output_claim_to_headers: Vec::new(),
        space_delimited_claims: Vec::new(),
        require_expiration: false,
        timeout_ms: 5000,
        reach: Reach::default(),
    };
    TokenRules::compile(&[rule]).unwrap()
}

/// A request with the claims of its token.
fn judged_request() -> Request {
    let (bearer, keys) = token("alg/RS256");
    let mut request = canonical(&head(&bearer));
    let path = request.path.as_ref();
    let outcome = authenticate(&rules(), &Keys(keys), &request.headers, path, NOW);
    let TokenOutcome::Valid { claims, .. } = outcome else {
        panic!("{outcome:?}");
    };
    request.claims = Some(claims);
    request
}

const CALLERS: [(&str, &str, Decision); 2] = [
    ("allowed", CALLER, Decision::Allow),
    (
        "denied",
        "cluster.local/ns/default/sa/reviews-service",
        Decision::Deny,
    ),
];

fn decisions(criterion: &mut Criterion) {
    let (set, request) = (policies(), judged_request());
    let mut group = criterion.benchmark_group("decide");
    for (name, caller, expected) in CALLERS {
        let connection = connection(caller);
        group.bench_function(name, |b| {
            b.iter(|| {
                let verdict = decide(&set, black_box(&connection), Some(&request));
                assert_eq!(verdict.decision, expected);
                verdict
            });
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let (set, request) = (policies(), Arc::new(judged_request()));
    let mut group = criterion.benchmark_group("record");
    for (name, caller, expected) in CALLERS {
        let connection = connection(caller);
        let verdict = decide(&set, &connection, Some(&request));
        assert_eq!(verdict.decision, expected);
        let allowed = expected == Decision::Allow;
        let record = Record {
            health_check: None,
            time: Duration::from_millis(1_763_800_000_123),
            generation: 1,
            role: "waypoint",
            instance: "default/customer-api".into(),
            kind: Kind::Request,
            peer: SocketAddr::new(connection.peer, 41_012),
            connection: Some(connection),
            trace: None,
            told: None,
            service: Some("default/customer-api".into()),
            workload: Some("default/customer-api".into()),
            endpoint: None,
            route: None,
            attempts: None,
            mirror: false,
            renamed: None,
            request: Some(Arc::clone(&request)),
            asked: Vec::new(),
            judged: Some((*verdict).clone()),
            detail: None,
            would: None,
            status: Some(if allowed { 200 } else { 403 }),
            grpc_status: None,
            close: Some(if allowed {
                CloseReason::Done
            } else {
                CloseReason::Denied
            }),
            received: 0,
            sent: 1024,
            duration: Duration::from_micros(321),
        };
        let mut text = Vec::new();
        record.write_json(1, RecordedQuery::Keep, &mut text);
        let parsed: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(parsed["verdict"], if allowed { "allow" } else { "deny" });
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                text.clear();
                record.write_json(black_box(1), RecordedQuery::Keep, &mut text);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    heads(&mut criterion);
    onward(&mut criterion);
    tokens(&mut criterion);
    decisions(&mut criterion);
    records(&mut criterion);
    criterion.final_summary();
}
