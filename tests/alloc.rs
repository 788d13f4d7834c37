//! Deciding allocates nothing: hit or miss, with HTTP or without, whatever kind of value is compared. Nor does telling why.
//! What a request is made of takes few blocks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ringgate::http::canonical::from_h1;
use ringgate::http::h1::parse_request;
use ringgate::http::reply::Reply;
use ringgate::http::{forward, request_id};
use ringgate::policy::limit::{Buckets, Key, Limit, RateLimit, TokenBucket};
use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use ringgate::policy::{
    Connection, Decision, L4Deny, MeshPolicies, Point, PointKind, PolicySet, Request, Scope,
    compile, custom_providers, decide, decide_connect,
    explain::{self, Explained},
};
use ringgate::vocab::claims::Claims;
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::resource::ResourceName;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};

#[path = "support/allocations.rs"]
mod allocations;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ResourceName::new("default", name),
        target: Target::Namespace,
        action,
        provider: (action == Action::Custom).then(|| "asked".to_owned()),
        dry_run: false,
        rules,
    }
}

fn set(policies: &[AuthorizationPolicy], default: Decision) -> PolicySet {
    let mesh = MeshPolicies {
        policies,
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
        kind: PointKind::Workload,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: None,
        services: Vec::new(),
        accounts: Vec::new(),
        default,
    };
    compile(&mesh, &point).unwrap()
}

fn connection(account: &str, port: u16) -> Connection {
    let local: IpAddr = "10.1.2.3".parse().unwrap();
    let id = format!("spiffe://cluster.local/ns/default/sa/{account}");
    Connection {
        principal: Some(SpiffeId::parse(&id).unwrap()),
        peer: local,
        remote: local,
        destination: local,
        port,
        sni: Some("api.example".into()),
        time: 1_000_000,
    }
}

fn request(method: &str, target: &str) -> Request {
    let claims = serde_json::json!({
        "iss": "https://id.example", "sub": "user-7", "scope": "read write",
        "aud": ["api", "other"], "realm": { "roles": ["staff", "admin"] },
    });
    let mut headers = HeaderMap::new();
    for value in ["one", "two", " three "] {
        let name = HeaderName::from_static("x-part");
        headers.append(name, HeaderValue::from_static(value));
    }
    Request {
        method: method.parse::<Method>().unwrap(),
        host: Host::parse("api.example:8080").unwrap(),
        path: Some(CanonicalPath::parse(PathNormalization::Base, target).unwrap()),
        headers,
        claims: Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new())),
        time: 1_000_000,
    }
}

fn when(key: &str, values: &[&str], regexes: &[&str]) -> Condition {
    Condition {
        key: key.to_owned(),
        values: list(values),
        regexes: list(regexes),
        ..Condition::default()
    }
}

/// A rule for every kind of value, of one caller.
fn rules(account: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut add = |paths: &[&str], regexes: &[&str], conditions: Vec<Condition>| {
        rules.push(Rule {
            from: vec![Source {
                principals: vec![format!("cluster.local/ns/default/sa/{account}")],
                not_ip_blocks: list(&["192.0.2.0/24", "2001:db8::/32"]),
                ip_blocks: list(&["10.0.0.0/8"]),
                ..Source::default()
            }],
            to: vec![Operation {
                methods: list(&["GET"]),
                paths: list(paths),
                path_regexes: list(regexes),
                ..Operation::default()
            }],
            when: conditions,
        });
    };
    add(&["/exact"], &[], vec![]);
    add(&["/prefix/*"], &[], vec![]);
    add(&["*/suffix"], &[], vec![]);
    add(&["/template/{*}/x/{**}"], &[], vec![]);
    add(&[], &["/regex/[a-z]+/[0-9]{2,4}"], vec![]);
    add(&[], &["/hard/(a|b)*a(a|b){16}"], vec![]);
    add(
        &["/query"],
        &[],
        vec![when("request.query[q r]", &["a b", "c*"], &[])],
    );
    add(
        &["/query"],
        &[],
        vec![when("request.query[long]", &[], &["[x ]+"])],
    );
    add(
        &["/header"],
        &[],
        vec![when("request.headers[x-part]", &["three"], &[])],
    );
    add(
        &["/claims"],
        &[],
        vec![
            when("request.auth.claims[realm][roles]", &["admin"], &[]),
            when("request.auth.claims[scope]", &["write"], &[]),
            when(
                "request.auth.principal",
                &[],
                &["https://id\\.example/user-[0-9]"],
            ),
            when("request.auth.audiences", &["api"], &[]),
        ],
    );
    add(
        &["/account"],
        &[],
        vec![
            when("source.serviceAccount", &[], &["default/.*"]),
            when("source.namespace", &["def*"], &[]),
            when("connection.sni", &["*.example"], &[]),
            when("time", &["00:00-24:00 Europe/Berlin"], &[]),
        ],
    );
    rules
}

const TARGETS: [&str; 14] = [
    "/exact",
    "/prefix/a/b",
    "/any/suffix",
    "/template/a/x/y/z",
    "/regex/abc/123",
    "/hard/babbbbbbbbbbbbbbbb",
    "/query?q+r=a+b&q%20r=c%41",
    "/query?long=LONG",
    "/header",
    "/claims",
    "/account",
    "/exactly",
    "/regex/abc/12345",
    "/query?q%20r=%zz",
];

/// Decisions of each kind that `ask` came to, each asked for twice: what a thread keeps is made by the first.
fn check(what: &str, mut ask: impl FnMut() -> Decision, seen: &mut BTreeMap<bool, usize>) {
    let first = ask();
    let (again, asked) = allocations::asked_by(&mut ask);
    assert_eq!(asked, 0, "{what}: {asked} allocations");
    assert_eq!(first, again, "{what}");
    *seen.entry(again == Decision::Allow).or_default() += 1;
}

/// The allocator sees what it is for.
#[test]
fn counts() {
    let before = allocations::held();
    let (kept, asked) = allocations::asked_by(|| vec![1_u8; 100]);
    assert_eq!((kept.len(), asked), (100, 1));
    assert_eq!(allocations::held().wrapping_sub(before), 100);
}

/// Sets of every shape that a decision can meet.
fn sets() -> [(&'static str, PolicySet); 6] {
    let extra = |action| {
        policy(
            &format!("{action:?}"),
            action,
            vec![Rule {
                to: vec![Operation {
                    paths: list(&["/exact", "/query*"]),
                    ..Operation::default()
                }],
                ..Rule::default()
            }],
        )
    };
    let callers = |action| -> Vec<_> {
        let names = ["frontend", "b", "c", "d", "e"];
        names.map(|n| policy(n, action, rules(n))).to_vec()
    };
    let mut all = callers(Action::Allow);
    all.push(extra(Action::Audit));
    all.push(extra(Action::Custom));
    let mut dry = extra(Action::Deny);
    dry.dry_run = true;
    all.push(dry);
    let mut bare = callers(Action::Deny);
    bare.push(policy("none", Action::Allow, vec![]));
    [
        ("allow", set(&all, Decision::Allow)),
        ("few", set(&all[..1], Decision::Allow)),
        ("deny", set(&callers(Action::Deny), Decision::Allow)),
        ("nothing allowed", set(&bare, Decision::Allow)),
        ("no policy", set(&[], Decision::Allow)),
        ("default deny", set(&[], Decision::Deny)),
    ]
}

#[test]
fn deciding_allocates_nothing() {
    let sets = sets();
    let long = "x+%78".repeat(2_000);
    let mut seen = BTreeMap::new();
    for (name, set) in &sets {
        for account in ["frontend", "nobody"] {
            let conn = connection(account, 8080);
            check(
                &format!("{name} {account} bare"),
                || decide(set, &conn, None).decision,
                &mut seen,
            );
            for target in TARGETS {
                for method in ["GET", "POST"] {
                    let asked = request(method, &target.replace("LONG", &long));
                    let what = format!("{name} {account} {method} {target}");
                    check(
                        &what,
                        || decide(set, &conn, Some(&asked)).decision,
                        &mut seen,
                    );
                    check(
                        &what,
                        || decide_connect(set, &conn, &asked).decision,
                        &mut seen,
                    );
                }
            }
        }
    }
    assert!(seen[&true] > 100 && seen[&false] > 100, "{seen:?}");
    let conn = connection("frontend", 8080);
    let hits = TARGETS.iter().filter(|target| {
        let asked = request("GET", &target.replace("LONG", &long));
        decide(&sets[0].1, &conn, Some(&asked)).decision == Decision::Allow
    });
    assert_eq!(hits.count(), 11, "every kind of value has matched");
    let missed = request("GET", "/elsewhere");
    let (none, asked) =
        allocations::asked_by(|| custom_providers(&sets[0].1, &conn, Some(&missed)));
    assert_eq!((none.len(), asked), (0, 0));
}

/// Who is not let in may ask as often as others: the words of its records are written where they go.
#[test]
fn telling_a_denial_allocates_nothing() {
    let set = set(
        &[policy("one", Action::Allow, rules("frontend"))],
        Decision::Allow,
    );
    let conn = connection("nobody", 8080);
    let asked = request("GET", "/exact");
    let verdict = decide(&set, &conn, Some(&asked));
    assert_eq!(verdict.decision, Decision::Deny);
    let mut out = String::with_capacity(4096);
    let tell = || {
        let told = Explained::new(&verdict, &conn, Some(&asked), "default/api");
        for nth in 0..explain::STEPS {
            told.write_step(nth, &mut out).unwrap();
            out.push_str("; ");
        }
        told.write_reason(&mut out).unwrap();
    };
    let ((), asked_for) = allocations::asked_by(tell);
    assert_eq!(asked_for, 0);
    let want = "required: principal cluster.local/ns/default/sa/frontend, presented: \
                cluster.local/ns/default/sa/nobody: mismatch";
    assert!(out.contains(want), "{out}");
    assert!(
        out.contains(", end user https://id.example/user-7"),
        "{out}"
    );
    assert!(
        out.ends_with(", got cluster.local/ns/default/sa/nobody"),
        "{out}"
    );
}

/// Whether there is a token, and to take it: counted apart by every kind of key.
#[test]
fn a_rate_limit_allocates_nothing() {
    let by = [
        "source.principal",
        "source.serviceAccount",
        "source.ip",
        "remote.ip",
        "request.auth.principal",
        "request.auth.claims[realm][roles]",
        "request.headers[x-part]",
        "request.query[q r]",
        "request.path",
        "request.host",
    ];
    let bucket = TokenBucket {
        max_tokens: 2,
        tokens_per_fill: 1,
        fill_interval_ms: 1000,
    };
    let rule = RateLimit {
        name: ResourceName::new("default", "all"),
        target: Target::Namespace,
        rules: rules("frontend"),
        by: by.iter().map(|key| Key::parse(key).unwrap()).collect(),
        bucket,
    };
    let scope = Scope {
        root_namespace: "istio-system",
        gateway_name_selector: true,
        gateway_selectors: true,
    };
    let domains = [TrustDomain::parse("cluster.local").unwrap()];
    let limit = Limit::compile(&rule, &domains, scope).unwrap();
    let mut buckets = Buckets::new(&bucket, 1, true);
    let keys = [RandomState::new(), RandomState::new()];
    let conn = connection("frontend", 8080);
    let mut counted = 0;
    for target in TARGETS {
        let request = request("GET", target);
        let mut passes = || {
            let key = limit.key(&keys, &conn, &request);
            if !limit.counts(&conn, &request) {
                return None;
            }
            let passes = buckets.look(key, 5).is_ok();
            if passes {
                buckets.take(key, 5);
            }
            Some(passes)
        };
        // What a thread keeps is made by the first.
        let first = passes();
        let (again, asked) = allocations::asked_by(&mut passes);
        assert_eq!(asked, 0, "{target}: {asked} allocations");
        assert_eq!(first, again, "{target}");
        counted += usize::from(first.is_some());
        assert_ne!(passes(), Some(true), "{target}: two tokens are all");
    }
    assert!((5..TARGETS.len()).contains(&counted), "{counted}");
}

/// Blocks of an ordinary request, step by step: what is said of it in `docs/performance-l7.md`.
#[test]
fn a_request_takes_few_blocks() {
    let head = b"GET /api/v1/orders/7?page=2 HTTP/1.1\r\nhost: Shop.example:8443\r\naccept: */*\r\nuser-agent: probe\r\n\r\n";
    let (parsed, asked) = allocations::asked_by(|| parse_request(head));
    // The bytes and the count of those who share them, the target, the two halves of the header map.
    assert_eq!(asked, 5);
    let (raw, _length) = parsed.unwrap().unwrap();
    let (canonical, asked) = allocations::asked_by(|| from_h1(raw, PathNormalization::Base, 0));
    // The host: a target that is normal stays where it is.
    assert_eq!(asked, 1);
    let (mut request, _form) = canonical.unwrap();
    assert_eq!(request.host.as_str(), "shop.example:8443");
    assert_eq!(request.path.as_ref().unwrap().path(), "/api/v1/orders/7");
    let name = HeaderValue::from_static("name");
    let ((), asked) =
        allocations::asked_by(|| request_id::set(&mut request.headers, true, || name.clone()));
    assert_eq!(asked, 0, "the header map has room for what it gains");
    let said = forward::Said::default();
    let peer: IpAddr = "10.1.2.3".parse().unwrap();
    let own_fields = || {
        let mut own = forward::Own::after(&request.headers);
        let details = forward::ForwardClientCert::default();
        let who = (peer, Some("spiffe://cluster.local/ns/default/sa/web"));
        forward::set(&mut own, who, "spiffe://b", "https", (&said, details, &[]));
        forward::outgoing(&request.headers, &own).count()
    };
    let first = own_fields();
    let (again, asked) = allocations::asked_by(own_fields);
    // Host, which the canonical request has by itself, is gone.
    assert_eq!((first, again, asked), (6, 6, 0));
    let (reply, asked) = allocations::asked_by(Reply::denied);
    assert_eq!((reply.body.len(), asked), (19, 0));
}
