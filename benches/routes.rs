//! What it costs to find the rule of a route among 10 to 10,000, and a service among as many; and what they cost to index.
//!
//! `cargo bench --bench routes` prints the tables of `docs/policy-cost.md` first, then runs criterion. A word after `--` picks
//! groups by name, as ever.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench stops at what it did not expect, prints, and reads the clock"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ringgate::config;
use ringgate::config::checked::Mesh;
use ringgate::config::checked::route::{
    FieldMatch, HeaderChange, HttpRoute, PathMatch, Rewrite, RouteMatch, RouteParent, RouteRule,
    Timeouts, ValueMatch,
};
use ringgate::policy::Request;
use ringgate::role::directory::Directory;
use ringgate::role::names;
use ringgate::role::routes::{Found, Routes};
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::resource::ResourceName;

#[path = "../tests/support/allocations.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "others use the rest of it"
)]
mod allocations;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const COUNTS: [usize; 4] = [10, 100, 1_000, 10_000];
/// Runs of a cell of the table, and look-ups of a run.
const RUNS: usize = 3;
const LOOKUPS: u32 = 200_000;

/// What tells the routes of the gateway apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Each its host, with a prefix and an exact path.
    Hosts,
    /// One host, each its exact path.
    Exact,
    /// One host, each its prefix of three segments.
    Prefixes,
    /// One host, one path; each its value of one header.
    Headers,
    /// One host, one path; each asks for a header of its own.
    HeaderNames,
    /// One host, each its regular expression, with a segment of its own.
    Regexes,
    /// One host, each its regular expression, which differ by how they end.
    RegexEnds,
}

const SHAPES: [(&str, Shape); 7] = [
    ("hosts", Shape::Hosts),
    ("one host, exact paths", Shape::Exact),
    ("one host, prefixes", Shape::Prefixes),
    ("one host, one path, a header each", Shape::Headers),
    ("one host, one path, a header name each", Shape::HeaderNames),
    ("one host, regular expressions", Shape::Regexes),
    (
        "one host, regular expressions, by their ends",
        Shape::RegexEnds,
    ),
];

const HEADER: HeaderName = HeaderName::from_static("x-tenant");

impl Shape {
    fn matches(self, n: usize) -> Vec<RouteMatch> {
        let at = |path: PathMatch| RouteMatch {
            path,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        let exact = |text: String| at(PathMatch::Exact(text));
        let prefix = |text: &str| at(PathMatch::Prefix(text.to_owned()));
        match self {
            Self::Hosts => vec![prefix("/api"), exact("/healthz".to_owned())],
            Self::Exact => vec![exact(format!("/api/v1/resource-{n}/items"))],
            Self::Prefixes => vec![prefix(&format!("/api/v1/resource-{n}"))],
            Self::Headers => vec![RouteMatch {
                headers: vec![FieldMatch {
                    name: HEADER.as_str().to_owned(),
                    value: ValueMatch::Exact(format!("tenant-{n}")),
                }],
                ..prefix("/api")
            }],
            Self::HeaderNames => vec![RouteMatch {
                headers: vec![FieldMatch {
                    name: format!("x-tenant-{n}"),
                    value: ValueMatch::Regex(".+".to_owned()),
                }],
                ..prefix("/api")
            }],
            Self::RegexEnds => vec![at(PathMatch::Regex(format!("/api/.*/item-{n}")))],
            Self::Regexes => vec![at(PathMatch::Regex(format!(
                "/api/v[0-9]+/resource-{n}/[a-z]+"
            )))],
        }
    }

    fn host(self, n: usize) -> String {
        match self {
            Self::Hosts => format!("service-{n}.example.test"),
            Self::Exact
            | Self::Prefixes
            | Self::Headers
            | Self::HeaderNames
            | Self::Regexes
            | Self::RegexEnds => "api.example.test".to_owned(),
        }
    }

    fn route(self, n: usize) -> HttpRoute {
        let name = ResourceName::new("default", &format!("route-{n}"));
        HttpRoute {
            rules: vec![RouteRule {
                label: format!("{name}/0").into(),
                matches: self.matches(n),
                redirect: None,
                rewrite: Rewrite::default(),
                request_headers: HeaderChange::default(),
                response_headers: HeaderChange::default(),
                mirrors: Vec::new(),
                backends: Vec::new(),
                timeouts: Timeouts::default(),
                retry: None,
            }],
            parents: vec![RouteParent::Gateway(0)],
            hostnames: vec![self.host(n)],
            name,
        }
    }

    /// What route `n` is for.
    fn request(self, n: usize) -> Request {
        let target = match self {
            Self::RegexEnds => format!("/api/v1/resource-{n}/item-{n}?page=7"),
            Self::Hosts
            | Self::Exact
            | Self::Prefixes
            | Self::Headers
            | Self::HeaderNames
            | Self::Regexes => format!("/api/v1/resource-{n}/items?page=7"),
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            HEADER,
            HeaderValue::try_from(format!("tenant-{n}")).unwrap(),
        );
        if self == Self::HeaderNames {
            let name = HeaderName::try_from(format!("x-tenant-{n}")).unwrap();
            headers.insert(name, HeaderValue::from_static("yes"));
        }
        Request {
            method: Method::GET,
            host: Host::parse(&self.host(n)).unwrap(),
            path: Some(CanonicalPath::parse(PathNormalization::Base, &target).unwrap()),
            headers,
            claims: None,
            time: 0,
        }
    }
}

/// A mesh of a gateway with so many routes of a shape.
fn routed(shape: Shape, count: usize) -> Mesh {
    let text = "[authority]\nstateDir = \"state\"\n\n[[gateway]]\nname = \"in\"\n\
                gatewayClassName = \"ringgate-ingress\"\naddress = \"10.0.0.9\"\n";
    let mut mesh = parsed(text.to_owned());
    mesh.routes = (0..count).map(|n| shape.route(n)).collect();
    mesh
}

/// A mesh of so many services.
fn served(count: usize) -> Mesh {
    let services = (0..count).map(|n| {
        format!(
            "\n[[serviceEntry]]\nname = \"service-{n}\"\nhosts = [\"service-{n}.shop.svc.cluster.local\"]\n\
             ports = [{{ number = 80, name = \"http\", protocol = \"HTTP\" }}]\nlocation = \"MESH_INTERNAL\"\n\
             resolution = \"STATIC\"\nworkloadSelector.labels = {{ app = \"a\" }}\n"
        )
    });
    parsed("[authority]\nstateDir = \"state\"\n".to_owned() + &services.collect::<String>())
}

fn parsed(text: String) -> Mesh {
    let files = [("mesh.toml".into(), text)];
    let config = config::parse(&files, Path::new("")).unwrap();
    (*config.mesh).clone()
}

fn found(routes: &Routes, mesh: &Mesh, request: &Request) -> bool {
    matches!(routes.at_gateway(mesh, 0, request), Found::Rule(_))
}

/// The service of a name as a client writes it.
fn named(mesh: &Mesh, directory: &Directory, name: &str) -> bool {
    names::find(mesh, directory, name, Some("shop"), &[]).is_some()
}

/// Nanoseconds of one look-up: median, least and most of the runs.
fn times(mut look: impl FnMut() -> bool) -> String {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let (begun, mut looked) = (Instant::now(), 0_u32);
            // What is not flat does not get to the end of it.
            while looked < LOOKUPS && begun.elapsed() < Duration::from_millis(500) {
                for _ in 0..100 {
                    assert!(black_box(look()));
                }
                looked += 100;
            }
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(looked)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    match runs.as_slice() {
        [least, middle, most] => format!("{middle:.0} ({least:.0}-{most:.0})"),
        _ => String::new(),
    }
}

fn row(name: &str, mut cell: impl FnMut(usize) -> String) {
    let cells: Vec<String> = COUNTS.iter().map(|count| cell(*count)).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

/// What route 2n/3 takes.
const fn asked(count: usize) -> usize {
    count * 2 / 3
}

fn table() {
    println!("| ns for one look-up | 10 | 100 | 1,000 | 10,000 |\n|---|---|---|---|---|");
    for (name, shape) in SHAPES {
        row(name, |count| {
            let mesh = routed(shape, count);
            let (routes, request) = (Routes::new(&mesh), shape.request(asked(count)));
            let (hit, allocations) = allocations::asked_by(|| found(&routes, &mesh, &request));
            assert!(hit && allocations == 0, "{name}: {allocations}");
            times(|| found(black_box(&routes), &mesh, black_box(&request)))
        });
    }
    for (name, short) in [
        ("a service by its full name", false),
        ("by its short name", true),
    ] {
        row(name, |count| {
            let mesh = served(count);
            let directory = Directory::new(&mesh);
            let domain = if short { "" } else { ".shop.svc.cluster.local" };
            let host = format!("service-{}{domain}", asked(count));
            times(|| named(&mesh, black_box(&directory), black_box(&host)))
        });
    }
    println!("\n| ms to index | 10 | 100 | 1,000 | 10,000 |\n|---|---|---|---|---|");
    for (name, shape) in SHAPES {
        row(name, |count| {
            let mesh = routed(shape, count);
            let begun = Instant::now();
            let routes = Routes::new(&mesh);
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            assert!(found(&routes, &mesh, &shape.request(asked(count))));
            format!("{ms:.2}")
        });
    }
    println!();
}

fn look_ups(criterion: &mut Criterion) {
    for (name, shape) in SHAPES {
        for count in COUNTS {
            let mesh = routed(shape, count);
            let (routes, request) = (Routes::new(&mesh), shape.request(asked(count)));
            criterion.benchmark_group("route").bench_function(
                BenchmarkId::new(name, count),
                |bencher| {
                    bencher.iter(|| found(black_box(&routes), &mesh, black_box(&request)));
                },
            );
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    // `cargo test --benches` only wants to see that it starts.
    if !words.iter().any(|word| word == "--test") {
        table();
    }
    if words.iter().any(|word| word == "--table") {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    look_ups(&mut criterion);
    criterion.final_summary();
}
