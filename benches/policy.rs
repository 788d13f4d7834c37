//! What a decision costs with 10, 1,000 and 10,000 policies, and what the policies cost to compile and to keep.
//!
//! `cargo bench --bench policy` prints the table of `docs/policy-cost.md` first, then runs criterion. A word after
//! `--` picks groups by name, as ever.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench stops at what it did not expect, prints, and reads the clock"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, Method};
use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target, TargetKind, TargetRef,
};
use ringgate::policy::{
    Compiled, Connection, Decision, L4Deny, MeshPolicies, Point, PointKind, PolicySet, Request,
    Scope, decide,
};
use ringgate::vocab::claims::Claims;
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::resource::ResourceName;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};

#[path = "../tests/support/allocations.rs"]
mod allocations;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const COUNTS: [usize; 3] = [10, 1_000, 10_000];

/// What the policies of a mesh look like.
#[derive(Clone, Copy, Debug)]
enum Mesh {
    /// Each policy has its own caller; of ten rules four have exact paths, two prefixes, one a suffix, one a template,
    /// one a regex with a query parameter, one a template with a claim.
    Mix,
    /// As `Mix`, on bare connections: each policy its own caller, each rule its own port.
    Ports,
    /// One caller for all: only paths tell the policies apart, by turns as in `Mix`.
    OneCaller,
    /// No caller, each rule its own regex, with states of its own; they begin and end alike.
    Regexes,
    /// As `Regexes`, and no segment of the path is the same in all that one matches.
    Alternations,
    /// No caller, each rule its own host and its subdomains.
    Hosts,
    /// No caller, each rule its own IP block.
    Blocks,
    /// The worst: each rule asks for a header of its own name, which is no axis.
    HeaderNames,
}

impl Mesh {
    fn rule(self, policy: usize, rule: usize) -> Rule {
        let mut out = Rule::default();
        match self {
            Self::Mix => {
                out.from = vec![caller(policy)];
                path_of(&mut out, policy, rule, policy + rule);
            }
            Self::Ports => {
                out.from = vec![caller(policy)];
                out.to = vec![Operation {
                    ports: vec![(1024 + rule).to_string()],
                    ..Operation::default()
                }];
            }
            Self::OneCaller => {
                out.from = vec![caller(0)];
                path_of(&mut out, policy, rule, policy + rule);
            }
            Self::Regexes => {
                out.to = vec![Operation {
                    path_regexes: vec![format!(
                        "/api/v[0-9]+/abc-{policy}/(r{rule}|[a-z]+)/(u|v)+"
                    )],
                    ..Operation::default()
                }];
            }
            Self::Alternations => {
                out.to = vec![Operation {
                    path_regexes: vec![format!("/api/v[0-9]+/([a-z]+-{policy}|r{rule})/(u|v)+")],
                    ..Operation::default()
                }];
            }
            Self::Hosts => {
                let host = format!("r{rule}.s{policy}.example");
                out.to = vec![Operation {
                    hosts: vec![host.clone(), format!("*.{host}")],
                    methods: vec!["GET".to_owned()],
                    ..Operation::default()
                }];
            }
            Self::Blocks => {
                let block = format!("10.{}.{}.{}/32", policy / 256, policy % 256, rule);
                out.from = vec![Source {
                    ip_blocks: vec![block],
                    ..Source::default()
                }];
            }
            Self::HeaderNames => {
                out.when = vec![Condition {
                    key: format!("request.headers[x-{policy}-{rule}]"),
                    values: vec!["1".to_owned()],
                    ..Condition::default()
                }];
            }
        }
        out
    }

    fn policies(self, action: Action, count: usize, rules: usize) -> Vec<AuthorizationPolicy> {
        let policy = |i: usize| AuthorizationPolicy {
            name: ResourceName::new("default", &format!("policy-{i}")),
            target: Target::Refs(vec![TargetRef {
                kind: TargetKind::Gateway,
                name: "gateway".to_owned(),
            }]),
            action,
            provider: None,
            dry_run: false,
            rules: (0..rules).map(|r| self.rule(i, r)).collect(),
        };
        (0..count).map(policy).collect()
    }
}

fn caller(policy: usize) -> Source {
    Source {
        principals: vec![principal(policy)],
        ..Source::default()
    }
}

fn principal(policy: usize) -> String {
    format!("cluster.local/ns/team-{}/sa/client-{policy}", policy % 100)
}

fn path_of(rule: &mut Rule, policy: usize, number: usize, kind: usize) {
    let at = format!("/api/v1/service-{policy}/resource-{number}");
    let mut operation = Operation {
        methods: vec!["GET".to_owned(), "HEAD".to_owned()],
        ..Operation::default()
    };
    let mut condition = |key: &str| {
        rule.when = vec![Condition {
            key: key.to_owned(),
            values: vec!["7".to_owned(), "a*".to_owned()],
            ..Condition::default()
        }];
    };
    match kind % 10 {
        0..=3 => operation.paths = vec![format!("{at}/items/7")],
        4 | 5 => operation.paths = vec![format!("{at}/*")],
        6 => operation.paths = vec![format!("*/service-{policy}/resource-{number}/items/7")],
        7 => operation.paths = vec![format!("{at}/{{*}}/7")],
        8 => {
            operation.path_regexes = vec![format!("{at}/[a-z]+/[0-9]{{1,9}}")];
            condition("request.query[id]");
        }
        _ => {
            operation.paths = vec![format!("{at}/{{**}}")];
            condition("request.auth.claims[team]");
        }
    }
    rule.to = vec![operation];
}

fn mesh<'a>(policies: &'a [AuthorizationPolicy], own: &'a [TrustDomain]) -> MeshPolicies<'a> {
    MeshPolicies {
        policies,
        trust_domains: own,
        scope: Scope {
            root_namespace: "istio-system",
            gateway_name_selector: true,
            gateway_selectors: true,
        },
        l4_deny: L4Deny::Api,
        dry_run: false,
    }
}

fn point() -> Point {
    Point {
        kind: PointKind::Waypoint,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: Some("gateway".to_owned()),
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    }
}

fn set(policies: &[AuthorizationPolicy]) -> std::sync::Arc<PolicySet> {
    let own = [TrustDomain::parse("cluster.local").unwrap()];
    let compiled = Compiled::new(&mesh(policies, &own)).unwrap();
    compiled.at(&point())
}

fn connection(principal: &str, peer: IpAddr, port: usize) -> Connection {
    Connection {
        principal: Some(SpiffeId::parse(&format!("spiffe://{principal}")).unwrap()),
        peer,
        remote: peer,
        destination: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: u16::try_from(port).unwrap(),
        sni: None,
        time: 0,
    }
}

fn request(target: &str, host: &str) -> Request {
    let claims = serde_json::json!({ "iss": "https://id.example", "sub": "u", "team": "7" });
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", http::HeaderValue::from_static("bench"));
    Request {
        method: Method::GET,
        host: Host::parse(host).unwrap(),
        path: Some(CanonicalPath::parse(PathNormalization::MergeSlashes, target).unwrap()),
        headers,
        claims: Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new())),
        time: 0,
    }
}

/// What the rule `rule` of policy `policy` matches.
fn facts(mesh: Mesh, policy: usize, rule: usize) -> (Connection, Option<Request>) {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let usual = |principal: &str| connection(principal, local, 8080);
    let target = format!("/api/v1/service-{policy}/resource-{rule}/items/7?id=7");
    match mesh {
        Mesh::Mix => {
            let asked = request(&target, "api.example");
            (usual(&principal(policy)), Some(asked))
        }
        Mesh::Ports => (connection(&principal(policy), local, 1024 + rule), None),
        Mesh::OneCaller => (usual(&principal(0)), Some(request(&target, "api.example"))),
        Mesh::Regexes => {
            let target = format!("/api/v1/abc-{policy}/x/uvu");
            (usual(&principal(0)), Some(request(&target, "api.example")))
        }
        Mesh::Alternations => {
            let target = format!("/api/v1/abc-{policy}/uvu");
            (usual(&principal(0)), Some(request(&target, "api.example")))
        }
        Mesh::Hosts => {
            let host = format!("r{rule}.s{policy}.example");
            (usual(&principal(0)), Some(request("/", &host)))
        }
        Mesh::Blocks => {
            let [high, low] = u16::try_from(policy).unwrap().to_be_bytes();
            let peer = Ipv4Addr::new(10, high, low, u8::try_from(rule).unwrap());
            (connection(&principal(0), IpAddr::V4(peer), 8080), None)
        }
        Mesh::HeaderNames => {
            let mut asked = request("/", "api.example");
            let name = format!("x-{policy}-{rule}");
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            asked
                .headers
                .insert(name, http::HeaderValue::from_static("1"));
            (usual(&principal(0)), Some(asked))
        }
    }
}

type Facts = (Connection, Option<Request>);

/// Cases of the main table: name, mesh, action, facts for a number of policies, what they must come to.
type Case = (
    &'static str,
    Mesh,
    Action,
    fn(usize, usize) -> Facts,
    Decision,
);

fn hit(mesh: Mesh, policies: usize, rules: usize) -> Facts {
    facts(mesh, policies * 2 / 3, rules - 1)
}

/// Another caller for what policy 2n/3 guards.
fn other_caller(policies: usize, rules: usize) -> Facts {
    let (mut conn, asked) = hit(Mesh::Mix, policies, rules);
    conn.principal = SpiffeId::parse("spiffe://cluster.local/ns/x/sa/reviews-service").ok();
    (conn, asked)
}

/// A caller that policies name, for a path that none names.
fn other_path(policies: usize, rules: usize) -> Facts {
    let (conn, _) = hit(Mesh::Mix, policies, rules);
    (
        conn,
        Some(request("/api/v1/elsewhere/7?id=7", "api.example")),
    )
}

fn nothing_alike(policies: usize, rules: usize) -> Facts {
    let (conn, _) = other_caller(policies, rules);
    (conn, Some(request("/elsewhere", "api.example")))
}

fn other_port(policies: usize, rules: usize) -> Facts {
    let (mut conn, _) = hit(Mesh::Ports, policies, rules);
    conn.port = 1;
    (conn, None)
}

const CASES: [Case; 11] = {
    use Action::{Allow, Deny};
    use Decision::{Allow as Yes, Deny as No};
    [
        (
            "l7-allow/hit",
            Mesh::Mix,
            Allow,
            |p, r| hit(Mesh::Mix, p, r),
            Yes,
        ),
        ("l7-allow/other-caller", Mesh::Mix, Allow, other_caller, No),
        ("l7-allow/other-path", Mesh::Mix, Allow, other_path, No),
        (
            "l7-allow/nothing-alike",
            Mesh::Mix,
            Allow,
            nothing_alike,
            No,
        ),
        (
            "l7-deny/hit",
            Mesh::Mix,
            Deny,
            |p, r| hit(Mesh::Mix, p, r),
            No,
        ),
        ("l7-deny/miss", Mesh::Mix, Deny, other_caller, Yes),
        (
            "l4-allow/hit",
            Mesh::Ports,
            Allow,
            |p, r| hit(Mesh::Ports, p, r),
            Yes,
        ),
        ("l4-allow/miss", Mesh::Ports, Allow, other_port, No),
        (
            "l4-deny/hit",
            Mesh::Ports,
            Deny,
            |p, r| hit(Mesh::Ports, p, r),
            No,
        ),
        ("l4-deny/miss", Mesh::Ports, Deny, other_port, Yes),
        (
            "l7-at-l4/deny-hit",
            Mesh::Mix,
            Deny,
            |p, r| (hit(Mesh::Mix, p, r).0, None),
            No,
        ),
    ]
};

const SHAPES: [(&str, Mesh); 6] = [
    ("one-caller", Mesh::OneCaller),
    ("regexes", Mesh::Regexes),
    ("alternations", Mesh::Alternations),
    ("hosts", Mesh::Hosts),
    ("ip-blocks", Mesh::Blocks),
    ("header-names", Mesh::HeaderNames),
];

fn measure(
    criterion: &mut Criterion,
    group: &str,
    name: BenchmarkId,
    set: &PolicySet,
    facts: &Facts,
) {
    criterion
        .benchmark_group(group)
        .bench_function(name, |bencher| {
            bencher.iter(|| {
                decide(
                    black_box(set),
                    black_box(&facts.0),
                    black_box(facts.1.as_ref()),
                )
            });
        });
}

fn decisions(criterion: &mut Criterion) {
    for rules in [1, 10] {
        for count in COUNTS {
            for (name, mesh, action, facts, wanted) in CASES {
                let set = set(&mesh.policies(action, count, rules));
                let facts = facts(count, rules);
                let ask = || decide(&set, &facts.0, facts.1.as_ref());
                let (verdict, allocations) = allocations::asked_by(ask);
                assert_eq!(
                    verdict.decision, wanted,
                    "{name} {count}x{rules}: {verdict:?}"
                );
                assert_eq!(allocations, 0, "{name} {count}x{rules}");
                let id = BenchmarkId::new(format!("{rules}-rules"), count);
                measure(criterion, name, id, &set, &facts);
            }
        }
    }
    for (name, mesh) in SHAPES {
        for count in COUNTS {
            let set = set(&mesh.policies(Action::Allow, count, 1));
            let hit = facts(mesh, count * 2 / 3, 0);
            assert_eq!(
                decide(&set, &hit.0, hit.1.as_ref()).decision,
                Decision::Allow,
                "{name}"
            );
            let miss = facts(mesh, count, 0);
            assert_eq!(
                decide(&set, &miss.0, miss.1.as_ref()).decision,
                Decision::Deny,
                "{name}"
            );
            let group = format!("shape-{name}");
            measure(
                criterion,
                &group,
                BenchmarkId::new("hit", count),
                &set,
                &hit,
            );
            measure(
                criterion,
                &group,
                BenchmarkId::new("miss", count),
                &set,
                &miss,
            );
        }
    }
}

/// Compile time, bytes and blocks of the compiled policies of one point, as they were asked for.
fn report() {
    println!("| policies | rules each | mesh | action | compile | memory |");
    println!("|---:|---:|---|---|---:|---:|");
    let row = |count: usize, rules: usize, mesh: Mesh, action: Action| {
        let policies = mesh.policies(action, count, rules);
        let mut best = Duration::MAX;
        let mut bytes = 0;
        for _ in 0..3 {
            let held = allocations::held();
            let start = Instant::now();
            let set = set(&policies);
            best = best.min(start.elapsed());
            bytes = allocations::held().wrapping_sub(held);
            black_box(&set);
        }
        let (ms, mib) = (best.as_secs_f64() * 1e3, bytes as f64 / f64::from(1 << 20));
        println!("| {count} | {rules} | {mesh:?} | {action:?} | {ms:.1} ms | {mib:.1} MiB |");
    };
    for count in COUNTS {
        for rules in [1, 10] {
            row(count, rules, Mesh::Mix, Action::Allow);
        }
    }
    for rules in [1, 10] {
        row(10_000, rules, Mesh::Mix, Action::Deny);
        row(10_000, rules, Mesh::Ports, Action::Allow);
        row(10_000, rules, Mesh::OneCaller, Action::Allow);
    }
    for (_, mesh) in SHAPES {
        row(10_000, 1, mesh, Action::Allow);
    }
}

fn main() {
    // `cargo test --benches` runs each bench once; the report is for who measures.
    if !std::env::args().any(|arg| arg == "--test") {
        report();
    }
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    decisions(&mut criterion);
    criterion.final_summary();
}
