//! What one decision costs: the demo's policy, a deny that must name its nearest rule, and a mesh of many rules.
#![allow(
    clippy::unwrap_used,
    reason = "a bench stops at what it did not expect"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use ringgate::policy::model::{
    Action, AuthorizationPolicy, Operation, Rule, Source, Target, TargetKind, TargetRef,
};
use ringgate::policy::{
    Connection, Decision, L4Deny, MeshPolicies, Point, PointKind, PolicySet, Request, Scope,
    compile, decide,
};
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::resource::ResourceName;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};

/// A policy at the waypoint with one rule for each principal.
fn policy(principals: &[String]) -> AuthorizationPolicy {
    let rule = |principal: &String| Rule {
        from: vec![Source {
            principals: vec![principal.clone()],
            ..Source::default()
        }],
        to: vec![Operation {
            methods: vec!["GET".to_owned()],
            paths: vec!["/api/v1/*".to_owned()],
            ..Operation::default()
        }],
        when: Vec::new(),
    };
    AuthorizationPolicy {
        name: ResourceName::new("default", "lockdown"),
        target: Target::Refs(vec![TargetRef {
            kind: TargetKind::Gateway,
            name: "customer-api".to_owned(),
        }]),
        action: Action::Allow,
        provider: None,
        dry_run: false,
        rules: principals.iter().map(rule).collect(),
    }
}

fn set(principals: &[String]) -> PolicySet {
    let policies = [policy(principals)];
    let mesh = MeshPolicies {
        policies: &policies,
        trust_domains: &[TrustDomain::parse("cluster.local").unwrap()],
        scope: Scope {
            root_namespace: "istio-system",
            gateway_name_selector: true,
            gateway_selectors: true,
        },
        l4_deny: L4Deny::Api,
        dry_run: false,
    };
    let point = Point {
        kind: PointKind::Waypoint,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: Some("customer-api".to_owned()),
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    };
    compile(&mesh, &point).unwrap()
}

fn connection(account: &str) -> Connection {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Connection {
        principal: Some(
            SpiffeId::parse(&format!("spiffe://cluster.local/ns/default/sa/{account}")).unwrap(),
        ),
        peer: loopback,
        remote: loopback,
        destination: loopback,
        port: 8080,
        sni: None,
        time: 0,
    }
}

fn request() -> Request {
    Request {
        method: Method::GET,
        host: Host::parse("customer-api").unwrap(),
        path: Some(
            CanonicalPath::parse(PathNormalization::MergeSlashes, "/api/v1/users/7").unwrap(),
        ),
        headers: HeaderMap::new(),
        claims: None,
        time: 0,
    }
}

fn principals(count: usize) -> Vec<String> {
    let mut all: Vec<String> = (1..count)
        .map(|n| format!("cluster.local/ns/default/sa/caller-{n}"))
        .collect();
    all.push("cluster.local/ns/default/sa/frontend-service".to_owned());
    all
}

fn benches(criterion: &mut Criterion) {
    let request = request();
    let (frontend, reviews) = (
        connection("frontend-service"),
        connection("reviews-service"),
    );
    for rules in [1, 10, 1000] {
        let set = set(&principals(rules));
        for (name, connection, wanted) in [
            ("allow", &frontend, Decision::Allow),
            ("deny", &reviews, Decision::Deny),
        ] {
            let verdict = decide(&set, connection, Some(&request));
            assert_eq!(verdict.decision, wanted, "{name} with {rules} rules");
            criterion.bench_function(&format!("{name}/{rules}-rules"), |bencher| {
                bencher.iter(|| {
                    decide(
                        black_box(&set),
                        black_box(connection),
                        black_box(Some(&request)),
                    )
                });
            });
        }
    }
}

criterion_group!(policy_benches, benches);
criterion_main!(policy_benches);
