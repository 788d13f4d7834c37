//! The index against a scan that knows nothing of it, and the words of Gateway API.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::*;
use crate::config;
use crate::config::checked::route::{
    FieldMatch, HeaderChange, HttpRoute, PathMatch, Rewrite, RouteMatch, Timeouts, ValueMatch,
    WeightedBackend,
};
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};
use crate::vocab::resource::ResourceName;

const MESH: &str = r#"
[authority]
stateDir = "state"

[[gateway]]
name = "in"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.9"

[[serviceEntry]]
name = "a"
hosts = ["a"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "a" }
"#;

fn mesh(routes: Vec<HttpRoute>) -> Mesh {
    static EMPTY: LazyLock<Arc<Mesh>> = LazyLock::new(|| {
        let files = [("mesh.toml".into(), MESH.to_owned())];
        config::parse(&files, Path::new("")).unwrap().mesh
    });
    Mesh {
        routes,
        ..(**EMPTY).clone()
    }
}

fn route(name: &str, hosts: &[&str], rules: Vec<Vec<RouteMatch>>) -> HttpRoute {
    let name = ResourceName::new("default", name);
    let rule = |(nth, matches): (usize, Vec<RouteMatch>)| RouteRule {
        label: format!("{name}/{nth}").into(),
        matches,
        redirect: None,
        rewrite: Rewrite::default(),
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        mirrors: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    HttpRoute {
        rules: rules.into_iter().enumerate().map(rule).collect(),
        parents: vec![RouteParent::Gateway(0)],
        hostnames: hosts.iter().map(|h| (*h).to_owned()).collect(),
        name,
    }
}

fn at(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn prefix(text: &str) -> RouteMatch {
    at(PathMatch::Prefix(text.to_owned()))
}

fn request(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Request {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        map.append(name, value.parse().unwrap());
    }
    Request {
        method: method.parse().unwrap(),
        host: Host::parse(host).unwrap(),
        path: CanonicalPath::parse(PathNormalization::Base, target).ok(),
        headers: map,
        claims: None,
        time: 0,
    }
}

fn label(found: Found<'_>) -> Option<String> {
    match found {
        Found::Rule(rule) => Some(rule.label.to_string()),
        Found::NoMatch | Found::NoRoute => None,
    }
}

#[test]
fn the_most_specific_host_and_path_win_in_whatever_order_they_are_written() {
    let mut routes = vec![
        route("any", &[], vec![vec![prefix("")]]),
        route("wide", &["*.test"], vec![vec![prefix("/api")]]),
        route("deep", &["*.a.test"], vec![vec![prefix("")]]),
        route(
            "exact",
            &["x.a.test", "a.test"],
            vec![
                vec![prefix("/api")],
                vec![at(PathMatch::Exact("/api/v1".to_owned()))],
                vec![at(PathMatch::Regex("/api/v[0-9]".to_owned()))],
                vec![prefix("/api/v1/deep")],
            ],
        ),
    ];
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        let mesh = mesh(routes.clone());
        let routes = Routes::new(&mesh);
        for (host, target, want) in [
            ("x.a.test", "/api/v1", "exact/1"),
            ("x.a.test", "/api/v1/", "exact/0"),
            ("x.a.test", "/api/v2", "exact/2"),
            ("x.a.test", "/api/v1/deep/er", "exact/3"),
            ("x.a.test:8443", "/api/v1/deeper", "exact/0"),
            // None of its rules: the next host in length has one.
            ("x.a.test", "/other", "deep/0"),
            ("a.test", "/apix", "any/0"),
            ("b.test", "/api?x", "wide/0"),
            ("b.test", "/", "any/0"),
            ("p.q.a.test", "/", "deep/0"),
            ("test", "/api", "any/0"),
            ("10.0.0.1", "/", "any/0"),
        ] {
            let request = request("GET", host, target, &[]);
            let found = label(routes.at_gateway(&mesh, 0, &request));
            assert_eq!(found, Some(format!("default/{want}")), "{host}{target}");
        }
    }
}

#[test]
fn what_no_route_is_about_is_told_from_what_no_rule_matches() {
    let mesh = mesh(vec![route("r", &["a.test"], vec![vec![prefix("/x")]])]);
    let routes = Routes::new(&mesh);
    let found = |host: &str| routes.at_gateway(&mesh, 0, &request("GET", host, "/y", &[]));
    assert!(matches!(found("a.test"), Found::NoMatch));
    assert!(matches!(found("b.test"), Found::NoRoute));
}

#[test]
fn fields_and_methods() {
    let field = |name: &str, value: &str| FieldMatch {
        name: name.to_owned(),
        value: ValueMatch::Exact(value.to_owned()),
    };
    let canary = RouteMatch {
        headers: vec![field("x-canary", "yes")],
        ..prefix("")
    };
    let both = RouteMatch {
        headers: vec![field("x-canary", "yes"), field("x-b", "1")],
        ..prefix("")
    };
    let post = RouteMatch {
        method: Some(Method::POST),
        ..prefix("")
    };
    let beta = RouteMatch {
        query: vec![field("v", "a b")],
        ..prefix("")
    };
    let rules = vec![
        vec![prefix("")],
        vec![canary],
        vec![both],
        vec![post],
        vec![beta],
    ];
    let mesh = mesh(vec![route("r", &[], rules)]);
    let routes = Routes::new(&mesh);
    for (method, target, headers, want) in [
        ("GET", "/", &[][..], 0),
        (
            "GET",
            "/",
            &[("x-canary", "no"), ("x-canary", "yes")][..],
            1,
        ),
        ("GET", "/", &[("x-canary", "yes"), ("x-b", "1")][..], 2),
        // A method counts for more than any number of fields.
        ("POST", "/", &[("x-canary", "yes"), ("x-b", "1")][..], 3),
        ("GET", "/?v=a%20b", &[][..], 4),
        ("GET", "/?v=a+b&v=c", &[("x-canary", "yes")][..], 1),
        ("GET", "/?v=a", &[][..], 0),
    ] {
        let request = request(method, "a.test", target, headers);
        let found = label(routes.at_gateway(&mesh, 0, &request));
        let want = Some(format!("default/r/{want}"));
        assert_eq!(found, want, "{method} {target} {headers:?}");
    }
}

/// What a scan finds: all that match, and of those the best by the words of the specification.
fn scanned(mesh: &Mesh, request: &Request) -> Option<String> {
    let path = request.path.as_ref()?.path();
    let host = request.host.name();
    let mut found = Vec::new();
    for route in &mesh.routes {
        let rank = |name: &String| match name.strip_prefix('*') {
            Some(suffix) if host.len() > suffix.len() && host.ends_with(suffix) => Some(name.len()),
            Some(_) => None,
            None => (name == host).then_some(1000),
        };
        let hosts = if route.hostnames.is_empty() {
            Some(0)
        } else {
            route.hostnames.iter().filter_map(rank).max()
        };
        let Some(hosts) = hosts else { continue };
        for (nth, rule) in route.rules.iter().enumerate() {
            for (which, one) in rule.matches.iter().enumerate() {
                let Some(path) = scanned_path(&one.path, path) else {
                    continue;
                };
                let is = |field: &FieldMatch, value: &str| match &field.value {
                    ValueMatch::Exact(exact) => exact == value,
                    ValueMatch::Regex(pattern) => whole(pattern, value),
                };
                let header = |field: &FieldMatch| {
                    let mut all = request.headers.get_all(&field.name).iter();
                    all.any(|v| is(field, v.to_str().unwrap()))
                };
                let query = |field: &FieldMatch| {
                    let mut all = request.path.as_ref().unwrap().query_params();
                    all.any(|(n, v)| n == field.name && is(field, &v))
                };
                let matches = one.method.as_ref().is_none_or(|m| *m == request.method)
                    && one.headers.iter().all(header)
                    && one.query.iter().all(query);
                if matches {
                    let key = (
                        Reverse((hosts, path)),
                        Reverse((one.method.is_some(), one.headers.len(), one.query.len())),
                        (route.name.to_string(), nth, which),
                    );
                    found.push((key, rule.label.to_string()));
                }
            }
        }
    }
    found.sort();
    found.into_iter().next().map(|(_, label)| label)
}

/// Kind, then length, then what is written.
fn scanned_path(rule: &PathMatch, path: &str) -> Option<(u8, usize, Reverse<String>)> {
    let none = Reverse(String::new());
    match rule {
        PathMatch::Exact(exact) => (exact == path).then_some((2, 0, none)),
        PathMatch::Regex(pattern) => {
            let text = Reverse(pattern.clone());
            whole(pattern, path).then_some((1, pattern.len(), text))
        }
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.as_str())?;
            let whole = rest.is_empty() || rest.starts_with('/');
            whole.then_some((0, prefix.len(), none))
        }
    }
}

fn whole(pattern: &str, value: &str) -> bool {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<String, regex::Regex>> = const { RefCell::new(BTreeMap::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        let made = || regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let regex = known.entry(pattern.to_owned()).or_insert_with(made);
        regex.is_match(value)
    })
}

fn paths() -> impl Strategy<Value = String> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("")];
    proptest::collection::vec(segment, 0..4)
        .prop_map(|all| all.iter().map(|s| format!("/{s}")).collect())
}

fn hosts() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("a.test"),
        Just("b.a.test"),
        Just("c.b.a.test"),
        Just("*.a.test"),
        Just("*.b.a.test"),
        Just("*.test"),
    ]
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let regex = prop_oneof![Just("/[ab]+"), Just("/a.*"), Just("/b/.*"), Just(".*")];
    let path = prop_oneof![
        paths().prop_map(|p| PathMatch::Exact(if p.is_empty() { "/".to_owned() } else { p })),
        paths().prop_map(|p| PathMatch::Prefix(p.strip_suffix('/').unwrap_or(&p).to_owned())),
        regex.prop_map(|r| PathMatch::Regex(r.to_owned())),
    ];
    let fields = || {
        let field = (
            prop_oneof![Just("x"), Just("y")],
            prop_oneof![Just("1"), Just("2")],
        );
        let field = field.prop_map(|(name, value)| FieldMatch {
            name: name.to_owned(),
            value: ValueMatch::Exact(value.to_owned()),
        });
        proptest::collection::vec(field, 0..2)
    };
    let method = proptest::option::of(prop_oneof![Just(Method::GET), Just(Method::PUT)]);
    (path, method, fields(), fields()).prop_map(|(path, method, headers, query)| RouteMatch {
        path,
        method,
        headers,
        query,
    })
}

fn routes() -> impl Strategy<Value = Vec<HttpRoute>> {
    let rules = proptest::collection::vec(proptest::collection::vec(matches(), 1..3), 1..4);
    let one = (0..9_u8, proptest::collection::vec(hosts(), 0..3), rules);
    proptest::collection::vec(one, 1..8).prop_map(|all| {
        let mut routes: Vec<HttpRoute> = Vec::new();
        for (name, hosts, rules) in all {
            let name = format!("r{name}");
            if !routes.iter().any(|r| r.name.name == name) {
                routes.push(route(&name, &hosts, rules));
            }
        }
        routes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_index_finds_what_a_scan_finds(
        all in routes(),
        host in prop_oneof![
            Just("a.test"), Just("b.a.test"), Just("c.b.a.test"), Just("d.test"), Just("other"),
        ],
        path in paths(),
        query in prop_oneof![Just(""), Just("?x=1"), Just("?x=2&y=1"), Just("?x=1&x=2")],
        method in prop_oneof![Just("GET"), Just("PUT"), Just("POST")],
        fields in proptest::collection::vec(
            (prop_oneof![Just("x"), Just("y")], prop_oneof![Just("1"), Just("2")]), 0..3),
    ) {
        let mesh = mesh(all);
        let target = format!("{}{query}", if path.is_empty() { "/" } else { &path });
        let request = request(method, host, &target, &fields);
        let found = label(Routes::new(&mesh).at_gateway(&mesh, 0, &request));
        prop_assert_eq!(found, scanned(&mesh, &request));
    }
}

/// Regular expressions that are told apart by a segment, by how they begin or end, or not at all.
fn expressions() -> impl Strategy<Value = String> {
    let letter = || prop_oneof![Just("a"), Just("b"), Just("ab"), Just("[ab]+"), Just("a|b")];
    let form = prop_oneof![
        Just("/v[0-9]/1/2"),
        Just("/1/2"),
        Just("/v1/1[a-z]*"),
        Just("/[a-z]*1"),
        Just("/.*/1"),
        Just("/(?:1|x)/2"),
        Just(".*"),
    ];
    (form, letter(), letter()).prop_map(|(form, one, two)| {
        let parts = form.replace('1', &format!("(?:{one})"));
        parts.replace('2', &format!("(?:{two})"))
    })
}

/// Names and values of fields; a value that begins with `~` is an expression.
fn fields(most: usize) -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let name = prop_oneof![Just("x"), Just("y"), Just("z"), Just("w"), Just("v")];
    let value = prop_oneof![
        Just("1"),
        Just("2"),
        Just("3"),
        Just("4"),
        Just("~[12]"),
        Just("~3"),
    ];
    proptest::collection::vec((name, value), 0..most)
}

fn many_matches() -> impl Strategy<Value = Vec<RouteMatch>> {
    let written = |all: Vec<(&str, &str)>| {
        let mut out: Vec<FieldMatch> = Vec::new();
        for (name, value) in all {
            if !out.iter().any(|known| known.name == name) {
                let exact = || ValueMatch::Exact(value.to_owned());
                let regex = |text: &str| ValueMatch::Regex(text.to_owned());
                out.push(FieldMatch {
                    name: name.to_owned(),
                    value: value.strip_prefix('~').map_or_else(exact, regex),
                });
            }
        }
        out
    };
    let path = prop_oneof![
        Just(PathMatch::Exact("/a/b".to_owned())),
        Just(PathMatch::Prefix("/a".to_owned())),
        expressions().prop_map(PathMatch::Regex),
    ];
    let method = proptest::option::of(prop_oneof![Just(Method::GET), Just(Method::PUT)]);
    let one = (path, method, fields(3), fields(3));
    let one = one.prop_map(move |(path, method, headers, query)| RouteMatch {
        path,
        method,
        headers: written(headers),
        query: written(query),
    });
    proptest::collection::vec(one, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Many rules of one host and path, which the tree of their list tells apart.
    #[test]
    fn the_tree_finds_what_a_scan_finds(
        all in many_matches(),
        path in prop_oneof![
            Just("/a/b"), Just("/a"), Just("/v1/a/b"), Just("/v2/ab/a"), Just("/x/b"), Just("/q/a"),
        ],
        method in prop_oneof![Just("GET"), Just("PUT")],
        headers in fields(5),
        query in fields(5),
        // More values than are followed one by one.
        repeated in prop_oneof![Just(0), Just(0), Just(40)],
    ) {
        let rules = all.into_iter().map(|one| vec![one]).collect();
        let mesh = mesh(vec![route("r", &[], rules)]);
        let numbers: Vec<String> = (0..repeated).map(|n| (n % 20).to_string()).collect();
        let more = numbers.iter().map(|n| ("x", n.as_str()));
        let pairs = query.into_iter().chain(more.clone());
        let pairs: Vec<String> = pairs.map(|(n, v)| format!("{n}={v}")).collect();
        let headers: Vec<(&str, &str)> = headers.into_iter().chain(more).collect();
        let target = format!("{path}?{}", pairs.join("&"));
        let request = request(method, "a.test", &target, &headers);
        let found = label(Routes::new(&mesh).at_gateway(&mesh, 0, &request));
        prop_assert_eq!(found, scanned(&mesh, &request));
    }
}

/// Who brings values without end makes no more work than by the first ones that rules ask for.
#[test]
fn who_brings_many_values_is_routed_by_the_first_of_them() {
    let field = |value: usize| FieldMatch {
        name: "x".to_owned(),
        value: ValueMatch::Exact(value.to_string()),
    };
    let by_header = |n| RouteMatch {
        headers: vec![field(n)],
        ..prefix("/h")
    };
    let by_query = |n| RouteMatch {
        query: vec![field(n)],
        ..prefix("/q")
    };
    let rules = (0..200).map(by_header).chain((0..200).map(by_query));
    let mesh = mesh(vec![route("r", &[], rules.map(|one| vec![one]).collect())]);
    let routes = Routes::new(&mesh);
    for least in [0, 7, 150, 190, 199] {
        let values: Vec<String> = (least..260).rev().map(|n| n.to_string()).collect();
        let fields: Vec<(&str, &str)> = values.iter().map(|v| ("x", v.as_str())).collect();
        let pairs: Vec<String> = values.iter().map(|v| format!("x={v}")).collect();
        let by_header = request("GET", "a.test", "/h", &fields);
        let by_query = request("GET", "a.test", &format!("/q?{}", pairs.join("&")), &[]);
        let at = |request| label(routes.at_gateway(&mesh, 0, &request));
        let found = least.max(200 - 32);
        assert_eq!(at(by_header), Some(format!("default/r/{found}")));
        assert_eq!(at(by_query), Some(format!("default/r/{}", found + 200)));
    }
}

#[test]
fn backends_by_weight() {
    let mut rule = route("r", &[], vec![vec![prefix("")]]).rules.remove(0);
    let to = |service: usize, weight: u32| WeightedBackend {
        backend: Backend { service, port: 80 },
        weight,
    };
    rule.backends = vec![to(0, 9), to(1, 0), to(2, 1)];
    let mut seen = [0_u32; 3];
    for turn in 0..1000 {
        seen[backend(&rule, turn).unwrap().service] += 1;
    }
    assert!((890..=910).contains(&seen[0]) && seen[1] == 0, "{seen:?}");
    rule.backends = vec![to(0, 0)];
    assert_eq!(backend(&rule, 7), None);
}
