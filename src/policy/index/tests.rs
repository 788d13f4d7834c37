//! The index against a scan of all rules, over random policies of every kind of value and random requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::json;

use super::{Index, Node};
use crate::policy::attribute::Facts;
use crate::policy::field::Test;
use crate::policy::model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Target,
};
use crate::policy::nearest::{LOOKED_AT, nearest};
use crate::policy::rule::{Clause, Form};
use crate::policy::set::List;
use crate::policy::{
    Connection, Decision, L4Deny, MeshPolicies, Point, PointKind, PolicySet, Request, Scope,
    compile,
};
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

const PRINCIPALS: [&str; 10] = [
    "td/ns/a/sa/x",
    "td/ns/a/sa/y",
    "td/ns/b/sa/x",
    "td/ns/b/sa/z",
    "other/ns/a/sa/x",
    "other/odd",
    "td/*",
    "td/ns/a/*",
    "*/x",
    "*",
];
const PATHS: [&str; 18] = [
    "/",
    "/a",
    "/a/b",
    "/a/b/c",
    "/b/a",
    "/b/c/d",
    "/c",
    "/a*",
    "/a/*",
    "/b/c*",
    "*/c",
    "*b",
    "*",
    "/a/{*}",
    "/{*}/b/{**}",
    "/{*}/c",
    "/b/{**}/d",
    "/a/{*}/c",
];
const REGEXES: [&str; 12] = [
    "/[ab]/b/.*",
    "/[abc]+/(b|c)/[cd]",
    "/./c",
    "/a/[bc]",
    "^/b/.*$",
    "/[ab]/c.*",
    ".*d",
    "/a/b",
    "(?i)/A.*",
    "/c|/a",
    r"/\w+\b.*",
    "(/a)(/b)*",
];
const HOSTS: [&str; 6] = ["one", "two.example", "*.example", "one:*", "t*", "*"];
const WORDS: [&str; 8] = ["a", "b", "ab", "a*", "*b", "*", "x", "a b"];
const BLOCKS: [&str; 6] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.1",
    "0.0.0.0/0",
    "fd00::/8",
    "fd00::1",
];
const ADDRESSES: [&str; 5] = [
    "10.1.0.1",
    "10.2.0.1",
    "192.0.2.1",
    "fd00::1",
    "::ffff:10.1.0.1",
];

/// A seeded xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }

    fn one<'p>(&mut self, pool: &[&'p str]) -> &'p str {
        pool[self.below(pool.len())]
    }

    /// Nothing most of the time, else a few values.
    fn some(&mut self, odds: usize, pool: &[&str]) -> Vec<String> {
        if self.below(odds) > 0 {
            return Vec::new();
        }
        let n = 1 + self.below(2);
        (0..n).map(|_| self.one(pool).to_owned()).collect()
    }

    fn source(&mut self, custom: bool) -> Source {
        let mut source = Source {
            ip_blocks: self.some(6, &BLOCKS),
            not_ip_blocks: self.some(12, &BLOCKS),
            remote_ip_blocks: self.some(9, &BLOCKS),
            not_remote_ip_blocks: self.some(14, &BLOCKS),
            ..Source::default()
        };
        if custom {
            return source;
        }
        if self.below(4) == 0 {
            source.service_accounts = self.some(1, &["x", "a/x", "b/x", "b/z"]);
            source.not_service_accounts = self.some(3, &["a/y", "x"]);
        } else {
            source.principals = self.some(2, &PRINCIPALS);
            source.not_principals = self.some(8, &PRINCIPALS);
            source.namespaces = self.some(6, &["a", "b", "a*", "*b", "*"]);
            source.not_namespaces = self.some(12, &["a", "b*"]);
        }
        source.trust_domains = self.some(8, &["td", "other", "o*"]);
        source.not_trust_domains = self.some(14, &["other"]);
        source.request_principals = self.some(
            6,
            &[
                "*", "iss/s1", "iss/s2", "iss/*", "*/s1", "i*", "iss/s*", "*2",
            ],
        );
        source.not_request_principals = self.some(12, &["iss/s1", "*"]);
        source
    }

    fn operation(&mut self) -> Operation {
        Operation {
            hosts: self.some(4, &HOSTS),
            not_hosts: self.some(12, &HOSTS),
            ports: self.some(5, &["80", "443", "8080"]),
            not_ports: self.some(12, &["80", "443"]),
            methods: self.some(3, &["GET", "POST", "P*", "*"]),
            not_methods: self.some(10, &["GET", "PUT"]),
            paths: self.some(2, &PATHS),
            not_paths: self.some(8, &PATHS),
            path_regexes: self.some(5, &REGEXES),
            not_path_regexes: self.some(12, &REGEXES),
        }
    }

    fn condition(&mut self, custom: bool) -> Condition {
        let keys: &[(&str, &[&str])] = &[
            ("request.headers[x-a]", &WORDS),
            ("request.headers[:path]", &["/a?q=a", "/a*", "*=b", "/b*"]),
            ("request.query[q]", &WORDS),
            ("request.query[r s]", &WORDS),
            ("destination.ip", &BLOCKS),
            ("destination.port", &["80", "443"]),
            ("connection.sni", &["one", "*.example", "t*"]),
            ("source.ip", &BLOCKS),
            ("remote.ip", &BLOCKS),
            ("time", &["00:00-06:00", "Mon 00:00-24:00"]),
            ("source.principal", &PRINCIPALS),
            ("source.namespace", &["a", "b", "*"]),
            ("source.serviceAccount", &["x", "b/x"]),
            ("source.trustDomain", &["td", "other"]),
            ("request.auth.claims[c]", &WORDS),
            ("request.auth.claims[d][e]", &WORDS),
            ("request.auth.claims[scope]", &WORDS),
            ("request.auth.audiences", &["a", "x*"]),
            ("request.auth.principal", &["iss/s1", "*/s2", "*"]),
        ];
        let usable = if custom { 10 } else { keys.len() };
        let (key, pool) = keys[self.below(usable)];
        let mut condition = Condition {
            key: key.to_owned(),
            values: self.some(2, pool),
            not_values: self.some(4, pool),
            ..Condition::default()
        };
        let text = !["ip", "time", "port"].iter().any(|end| key.ends_with(end));
        if text {
            condition.regexes =
                self.some(4, &["a|b", "a.*", ".*b", "iss/s[12]", "[ab]/x", "(a|b)*x?"]);
            condition.not_regexes = self.some(8, &["ab", ".*x"]);
        }
        let lists = [&condition.values, &condition.not_values, &condition.regexes];
        if lists.iter().all(|l| l.is_empty()) && condition.not_regexes.is_empty() {
            condition.values.push(pool[0].to_owned());
        }
        condition
    }

    fn rule(&mut self, custom: bool) -> Rule {
        let mut rule = Rule::default();
        for _ in 0..self.below(3) {
            let source = self.source(custom);
            if source != Source::default() {
                rule.from.push(source);
            }
        }
        for _ in 0..self.below(3) {
            let operation = self.operation();
            if operation != Operation::default() {
                rule.to.push(operation);
            }
        }
        for _ in 0..self.below(3).saturating_sub(1) {
            rule.when.push(self.condition(custom));
        }
        // A rule that matches everything would hide those after it.
        if rule == Rule::default() {
            rule.to.push(Operation {
                paths: vec![self.one(&PATHS).to_owned()],
                ..Operation::default()
            });
        }
        rule
    }

    fn policies(&mut self) -> Vec<AuthorizationPolicy> {
        let count = [3, 20, 80, 200][self.below(4)];
        // Now and then all rules ask for one thing only, so that one axis has to tell them all apart.
        let narrow = self.below(6);
        (0..count)
            .map(|i| {
                let action = [Action::Allow, Action::Deny, Action::Audit, Action::Custom]
                    [[0, 0, 0, 1, 1, 2, 3][self.below(7)]];
                let custom = action == Action::Custom;
                let mut rules: Vec<Rule> = (0..=self.below(2)).map(|_| self.rule(custom)).collect();
                for rule in &mut rules {
                    self.narrow(narrow, custom, rule);
                }
                let can_be_dry = matches!(action, Action::Allow | Action::Deny);
                AuthorizationPolicy {
                    name: ResourceName::new("a", &format!("p{i:03}")),
                    target: Target::Namespace,
                    action,
                    provider: custom.then(|| format!("by{}", i % 3)),
                    dry_run: can_be_dry && self.below(6) == 0,
                    rules,
                }
            })
            .collect()
    }

    fn narrow(&mut self, which: usize, custom: bool, rule: &mut Rule) {
        match which {
            0 if !custom => {
                let source = Source {
                    principals: self.some(1, &PRINCIPALS),
                    ..Source::default()
                };
                rule.from = vec![source];
            }
            1 => {
                let operation = Operation {
                    paths: self.some(1, &PATHS),
                    ..Operation::default()
                };
                *rule = Rule {
                    to: vec![operation],
                    ..Rule::default()
                };
            }
            2 => {
                let operation = Operation {
                    path_regexes: self.some(1, &REGEXES),
                    ..Operation::default()
                };
                rule.to = vec![operation];
            }
            3 => rule.when = vec![self.condition(custom)],
            _ => {}
        }
    }

    fn connection(&mut self) -> Connection {
        let ids = [&PRINCIPALS[..6], &["td/ns/c/sa/w", "td/ns/a/sa/x/y"]].concat();
        let id = self.one(&ids);
        let none = self.below(8) == 0;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Connection {
            principal: (!none).then(|| SpiffeId::parse(&format!("spiffe://{id}")).unwrap()),
            peer: address(self.one(&ADDRESSES)),
            remote: address(self.one(&ADDRESSES)),
            destination: address(self.one(&ADDRESSES)),
            port: [80, 443, 8080, 1][self.below(4)],
            sni: [None, Some("one"), Some("two.example")][self.below(3)].map(Into::into),
            time: [0, 400_000][self.below(2)],
        }
    }

    fn request(&mut self) -> Request {
        let path = self.one(&[
            "/", "/a", "/a/b", "/a/b/c", "/b/a", "/b/c/d", "/c", "/z/c", "/A",
        ]);
        let query = self.one(&[
            "",
            "?q=a",
            "?q=b&q=ab",
            "?q=%61&r+s=x",
            "?q",
            "?r%20s=a+b&q=x",
        ]);
        let target = format!("{path}{query}");
        let mut headers = HeaderMap::new();
        for _ in 0..self.below(3) {
            let name = HeaderName::from_static("x-a");
            headers.append(
                name,
                HeaderValue::from_static([" a", "b ", "", "ab"][self.below(4)]),
            );
        }
        let claims = [
            json!({}),
            json!({ "iss": "iss", "sub": "s1", "c": "a", "scope": "a b x", "aud": ["a", "xy"] }),
            json!({ "iss": "iss", "sub": "s2", "c": ["b", 1, "ab"], "d": { "e": "a" }, "aud": "a" }),
            json!({ "iss": "other", "sub": "x2", "d": 1 }),
        ];
        let claims = claims[self.below(4)].as_object().unwrap().clone();
        Request {
            method: [Method::GET, Method::POST, Method::PUT][self.below(3)].clone(),
            host: Host::parse(self.one(&["one", "one:80", "two.example", "x"])).unwrap(),
            path: (self.below(12) > 0)
                .then(|| CanonicalPath::parse(PathNormalization::Base, &target).unwrap()),
            headers,
            claims: (self.below(3) > 0).then(|| Claims::new(claims, Vec::new())),
            time: 0,
        }
    }
}

fn compiled(policies: &[AuthorizationPolicy], l4_deny: L4Deny) -> PolicySet {
    let mesh = MeshPolicies {
        policies,
        trust_domains: &[TrustDomain::parse("td").unwrap()],
        scope: Scope {
            root_namespace: "istio-system",
            gateway_name_selector: true,
            gateway_selectors: true,
        },
        l4_deny,
        dry_run: false,
    };
    let point = Point {
        kind: PointKind::Workload,
        namespace: "a".to_owned(),
        labels: BTreeMap::new(),
        gateway: None,
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    };
    compile(&mesh, &point).unwrap()
}

fn lists(set: &PolicySet) -> Vec<&List> {
    let fixed = [
        &set.deny,
        &set.allow,
        &set.audit,
        &set.dry_deny,
        &set.dry_allow,
    ];
    let custom = set.custom.iter().map(|(_, list)| list);
    fixed.into_iter().chain(custom).collect()
}

fn proposed(index: &Index, facts: Facts<'_>) -> BTreeSet<u32> {
    let mut out = BTreeSet::new();
    index.candidates(facts, &mut |places| out.extend(places));
    out
}

/// By how much the nearest rule falls short and the first test that it fails, by a scan of all rules and of all ways to
/// choose a source and an operation: twice the tests that fail, but a token that is missing is one however many ask for it.
fn scanned(list: &List, facts: Facts<'_>) -> Option<(usize, String)> {
    let anonymous = facts
        .request
        .is_some_and(|request| request.claims.is_none());
    let short = |way: &[&Clause]| {
        let failed = way.iter().flat_map(|clause| clause.iter());
        let failed: Vec<_> = failed.filter(|test| !test.holds(facts)).collect();
        let token = |test: &Test| {
            let name = test.attribute.to_string();
            anonymous && (name == "request principal" || name.starts_with("claim "))
        };
        let tokens = failed.iter().filter(|test| token(test)).count();
        let mut text = String::new();
        failed.first()?.write(&mut text).unwrap();
        Some((2 * (failed.len() - tokens) + tokens.min(1), text))
    };
    let nearest_way = |form: &Form| {
        let none: Clause = [].into();
        let ways = |clauses: &[Clause]| match clauses {
            [] => vec![none.clone()],
            some => some.to_vec(),
        };
        let mut least: Option<(usize, String)> = None;
        for from in ways(&form.from) {
            for to in ways(&form.to) {
                let (short, text) = short(&[&from, &to, &form.when])?;
                if least.as_ref().is_none_or(|(least, _)| short < *least) {
                    least = Some((short, text));
                }
            }
        }
        least
    };
    let http = facts.request.is_some();
    let all = list.all().filter_map(|hit| match hit.rule.form(http) {
        None => Some((usize::MAX, "an HTTP request".to_owned())),
        Some(form) => nearest_way(form),
    });
    all.min_by_key(|(short, _)| *short)
}

fn is_split(index: &Index) -> bool {
    matches!(index.root, Node::Split(_))
}

/// Every rule that matches is proposed, by all axes and by those without the identity; the first of them is found; the
/// nearest of a denial is what a scan says, and with a bound it is one of the list.
#[test]
fn agrees_with_a_scan() {
    let mut random = Random(0x5eed_1dea);
    let (mut hits, mut misses, mut split, mut few, mut noting) = (0, 0, 0, 0, 0);
    for round in 0..160 {
        let policies = random.policies();
        let dialect = [L4Deny::Api, L4Deny::Ztunnel][round % 2];
        let set = compiled(&policies, dialect);
        for _ in 0..60 {
            let conn = random.connection();
            let request = random.request();
            for request in [Some(&request), None] {
                let facts = Facts {
                    conn: &conn,
                    request,
                };
                for list in lists(&set) {
                    let told = || format!("{conn:?} {request:?}\n{policies:#?}");
                    let want = list.scan(facts).map(|h| (h.policy.name.clone(), h.at));
                    for got in [list.first(facts), list.first_noting(facts).0] {
                        let got = got.map(|h| (h.policy.name.clone(), h.at));
                        assert_eq!(got, want, "{}", told());
                    }
                    let indexes = [Some(list.index(facts)), list.others(facts)];
                    for index in indexes.into_iter().flatten() {
                        let proposed = proposed(index, facts);
                        let missing = (0..).zip(list.all()).find(|(place, hit)| {
                            hit.rule.matches(facts) && !proposed.contains(place)
                        });
                        assert!(missing.is_none(), "{missing:?} {}", told());
                        split += usize::from(is_split(index));
                        few += usize::from(proposed.len() * 2 < list.len());
                    }
                    if want.is_some() {
                        hits += 1;
                        continue;
                    }
                    misses += 1;
                    let needs = |bound, noted| {
                        let near = nearest(list, facts, bound, noted);
                        near.map(|(hit, near)| (hit.at, near.needs()))
                    };
                    let exact = needs(usize::MAX, None);
                    let text = exact.as_ref().map(|(_, needs)| needs.clone());
                    assert_eq!(text, scanned(list, facts).map(|(_, n)| n), "{}", told());
                    let bounded = needs(LOOKED_AT, None);
                    assert_eq!(bounded.is_some(), list.len() > 0, "{}", told());
                    let (_, noted) = list.first_noting(facts);
                    noting += usize::from(noted.is_some());
                    assert_eq!(needs(usize::MAX, noted), exact, "{}", told());
                    assert_eq!(needs(LOOKED_AT, noted), bounded, "{}", told());
                }
            }
        }
    }
    let seen = [hits, misses, split, few, noting];
    assert!(
        seen.iter().all(|n| *n > 4_000),
        "too few of a kind: {seen:?}"
    );
}

/// A rule of one kind, by number.
type Kind = fn(usize) -> Rule;

/// Policies that begin alike, each of another kind: a decision looks at a few of them.
#[test]
fn few_are_proposed() {
    let kinds: [(&str, Kind); 7] = [
        ("templates", |i| {
            paths(&[&format!("/api/{{*}}/team-{i}/{{**}}")])
        }),
        ("prefixes", |i| paths(&[&format!("/api/v1/team-{i}/*")])),
        ("suffixes", |i| paths(&[&format!("*/team-{i}/x")])),
        ("exact", |i| paths(&[&format!("/api/v1/team-{i}/x")])),
        ("regexes", |i| Rule {
            to: vec![Operation {
                path_regexes: vec![format!("/api/v[0-9]+/team-{i}/.*")],
                ..Operation::default()
            }],
            ..Rule::default()
        }),
        ("hosts", |i| Rule {
            to: vec![Operation {
                hosts: vec![format!("team-{i}.example"), format!("*.team-{i}.example")],
                ..Operation::default()
            }],
            ..Rule::default()
        }),
        ("headers", |i| Rule {
            when: vec![Condition {
                key: "request.headers[x-team]".to_owned(),
                values: vec![format!("team-{i}")],
                ..Condition::default()
            }],
            ..Rule::default()
        }),
    ];
    let mut random = Random(7);
    let conn = random.connection();
    let mut asked = random.request();
    asked.host = Host::parse("team-77.example").unwrap();
    asked.path = CanonicalPath::parse(PathNormalization::Base, "/api/v1/team-77/x").ok();
    let team = HeaderValue::from_static("team-77");
    asked
        .headers
        .insert(HeaderName::from_static("x-team"), team);
    let facts = Facts {
        conn: &conn,
        request: Some(&asked),
    };
    for (name, rule) in kinds {
        let policies: Vec<_> = (0..500)
            .map(|i| AuthorizationPolicy {
                name: ResourceName::new("a", &format!("p{i:03}")),
                target: Target::Namespace,
                action: Action::Allow,
                provider: None,
                dry_run: false,
                rules: vec![rule(i)],
            })
            .collect();
        let set = compiled(&policies, L4Deny::Api);
        let hit = set.allow.first(facts).unwrap();
        assert_eq!(hit.policy.name.name, "p077", "{name}");
        let proposed = proposed(set.allow.index(facts), facts);
        assert!(proposed.len() <= 12, "{name}: {} proposed", proposed.len());
    }
}

fn paths(paths: &[&str]) -> Rule {
    Rule {
        to: vec![Operation {
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

/// What a caller repeats is not looked at as often as it is repeated: the work of a decision is bounded by the policies.
#[test]
fn repeats_cost_nothing() {
    let condition = |key: &str, value: String| Condition {
        key: key.to_owned(),
        values: vec![value],
        ..Condition::default()
    };
    let policies: Vec<AuthorizationPolicy> = (0..400)
        .map(|i| AuthorizationPolicy {
            name: ResourceName::new("a", &format!("p{i:03}")),
            target: Target::Namespace,
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: vec![Rule {
                when: vec![
                    condition("request.query[q]", format!("q{}", i / 20)),
                    condition("request.query[r]", format!("r{}", i % 20)),
                ],
                ..Rule::default()
            }],
        })
        .collect();
    let set = compiled(&policies, L4Deny::Api);
    let conn = Random(1).connection();
    let ask = |query: &str| {
        let mut request = Random(1).request();
        let path = CanonicalPath::parse(PathNormalization::Base, &format!("/?{query}"));
        request.path = Some(path.unwrap());
        let facts = Facts {
            conn: &conn,
            request: Some(&request),
        };
        let index = set.allow.index(facts);
        assert!(is_split(index));
        let (mut near, mut candidates) = (0, 0);
        index.candidates(facts, &mut |places| candidates += places.len());
        index.nearby(facts, &mut |places| near += places.len());
        (
            candidates,
            near,
            set.allow
                .first(facts)
                .map(|hit| hit.policy.name.name.clone()),
        )
    };
    let once = ask("q=q3&r=r7");
    assert_eq!(once.2.as_deref(), Some("p067"));
    let repeated = "q=q3&r=r7&".repeat(500);
    let (candidates, near, found) = ask(&repeated);
    assert_eq!(found, once.2);
    assert!(
        candidates <= once.0 && near <= once.1 + 4,
        "{candidates} {near}"
    );
    // Other values each time: what they lead to is looked at once.
    let mixed: String = (0..600)
        .map(|i| format!("q=q{}&r=r{}&", i % 20, i % 19))
        .collect();
    let (candidates, near, _) = ask(&mixed);
    assert!(
        candidates <= 2 * 400 && near <= 4 * 400,
        "{candidates} {near}"
    );
}
