//! Metrics of requests: what clients sent, what the records tell of it, and what is counted are the same, at every place,
//! over both versions, whatever became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::answer;
use crate::backend::{BODY, Backend, WAIT};
use crate::client::Conn;
use crate::stream::Streams;
use crate::system::{PLACES, Place, System};
use crate::{peers, websocket};

crate::on_both!(
    what_is_counted_is_what_was_recorded,
    none_where_they_are_left_out
);

/// A limit, a time, an authorizer that is not there, a workload whose own node reads HTTP, and a replica of it that nobody serves.
const MORE: &str = r#"
[[rateLimit]]
name = "few"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
rules = [{ to = [{ operation.paths = ["/api/limited*"] }] }]
tokenBucket = { maxTokens = 2, fillInterval = "1h" }

[[httpRoute]]
name = "slow"
namespace = "edge"
parentRefs = [{ name = "public" }]
hostnames = ["portal.example.test"]

[[httpRoute.rules]]
matches = [{ path = { type = "PathPrefix", value = "/api/slow/" } }]
timeouts = { request = "300ms" }
backendRefs = [{ name = "customer-api", namespace = "default", port = 80 }]

[[httpRoute]]
name = "reviews"
namespace = "edge"
parentRefs = [{ name = "public" }]
hostnames = ["portal.example.test"]

[[httpRoute.rules]]
matches = [{ path = { type = "PathPrefix", value = "/api/reviews/" } }]
backendRefs = [{ name = "spread", namespace = "default", port = 80 }]

[[serviceEntry]]
name = "spread"
namespace = "default"
hosts = ["spread"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { spread = "yes" }

[[workloadEntry]]
name = "reviews-service-3"
namespace = "default"
serviceAccount = "reviews-service"
address = "{subnet}.5"
labels = { spread = "yes" }

[[extensionProvider]]
name = "nobody"
envoyExtAuthzHttp = { service = "reviews-service", port = 80, timeout = "20s" }

[[authorizationPolicy]]
name = "asked-at-the-edge"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
action = "CUSTOM"
provider.name = "nobody"
rules = [{ to = [{ operation.paths = ["/api/asked*"] }] }]

[[authorizationPolicy]]
name = "all-to-reviews"
namespace = "default"
selector.matchLabels = { app = "reviews-service" }
rules = [{ to = [{ operation.paths = ["/api/*"] }] }]
"#;

fn system(io: &str, metrics: &str) -> System {
    System::with(io, |config| {
        let config = config.replace("cores = 1", "cores = 2").replace(
            "\nlabels = { app = \"reviews-service\" }\n",
            "\nlabels = { app = \"reviews-service\", spread = \"yes\" }\n",
        );
        let (_, admin) = config.split_once("[admin]\nlisten = \"").unwrap();
        let ip = admin.split(':').next().unwrap();
        let metrics = format!("\n[metrics]\nlisten = \"{ip}:15020\"\n{metrics}\n");
        let (subnet, _) = ip.rsplit_once('.').unwrap();
        let more = MORE.replace("{subnet}", subnet);
        format!("{config}{more}{metrics}")
    })
}

fn scrape(system: &System) -> String {
    let mut conn = Conn::plain(&system.layout.at(9, 15020));
    conn.send(b"GET /stats/prometheus HTTP/1.1\r\nhost: metrics\r\n\r\n");
    answer::read(&mut conn, "GET").expect("metrics").text()
}

/// One line with a value.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("a label has a value");
        let end = after.find('"').expect("a value ends");
        let before = labels.insert(name.to_owned(), after[..end].to_owned());
        assert_eq!(before, None, "{name} twice in {text}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// All samples of requests. What makes no sense is a failure.
fn samples(text: &str) -> Vec<Sample> {
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut families = BTreeSet::new();
    let lines = text.lines().filter(|line| {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let name = head.split(' ').next().unwrap().to_owned();
            assert!(families.insert(name), "twice: {line}");
        }
        line.starts_with("istio_request") || line.starts_with("istio_response")
    });
    lines
        .map(|line| {
            let (name, rest) = line.split_once('{').expect("labels");
            let (inner, value) = rest.rsplit_once("} ").expect("a value");
            Sample {
                name: name.to_owned(),
                labels: labels(inner),
                value: value.parse().expect("a number"),
            }
        })
        .collect()
}

/// Histograms are whole: buckets in order and never falling, the last of them the count, which is that of the requests.
fn consistent(samples: &[Sample]) {
    let of = |name: String| samples.iter().filter(move |s| s.name == name);
    let counted: BTreeMap<_, _> = of("istio_requests_total".to_owned())
        .map(|s| (s.labels.clone(), s.value))
        .collect();
    assert!(!counted.is_empty());
    for name in [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ] {
        let mut buckets: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for bucket in of(format!("{name}_bucket")) {
            let mut labels = bucket.labels.clone();
            let le = labels.remove("le").expect("a bound").replace("+Inf", "inf");
            let bucket = (le.parse().unwrap(), bucket.value);
            buckets.entry(labels).or_default().push(bucket);
        }
        let counts: BTreeMap<_, _> = of(format!("{name}_count"))
            .map(|s| (s.labels.clone(), s.value))
            .collect();
        assert_eq!(counts, counted, "{name}");
        assert_eq!(buckets.len(), counted.len(), "{name}");
        for (labels, buckets) in buckets {
            let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            assert!(buckets.windows(2).all(rises), "{name}: {buckets:?}");
            let last = (f64::INFINITY, counted[&labels]);
            assert_eq!(buckets.last(), Some(&last), "{name}");
        }
    }
}

/// What tells requests apart, as records and metrics both know it: who counts, the workload, code, gRPC status, flag.
type Kind = [String; 5];

/// The flag of a record, by its reason.
fn flag(record: &Value) -> &'static str {
    let (close, status) = (record["close"].as_str().unwrap(), &record["status"]);
    let asked = record["custom"].as_array().and_then(|all| all.last());
    match close {
        "denied" if asked.is_some_and(|a| a["result"] == "error") => "UAEX",
        "done" | "denied" => "-",
        "no_route" => "NR",
        "bad_request" => "DPE",
        "limit" if status == 429 || record["grpcStatus"] == 8 => "RL",
        "upstream_connect" => "UF",
        "upstream_timeout" => "UT",
        "upstream_reset" => "UC",
        "downstream_reset" => "DC",
        other => panic!("{other} is not tried here: {record}"),
    }
}

/// The waypoint of customer-api, by its own name.
const WAYPOINT: &str = "customer-api";

/// How often, how long in microseconds, bytes from and to the client.
type Amount = [u64; 4];

fn add(all: &mut BTreeMap<Kind, Amount>, kind: Kind, amount: Amount) {
    let sum = all.entry(kind).or_default();
    sum.iter_mut().zip(amount).for_each(|(sum, n)| *sum += n);
}

fn recorded(system: &System) -> BTreeMap<Kind, Amount> {
    let mut all = BTreeMap::new();
    for record in system.records() {
        if record["kind"] != "request" || record["event"] != "close" {
            continue;
        }
        let reporter = match record["role"].as_str().unwrap() {
            "ingress" => "source",
            "node" => "destination",
            _ => "waypoint",
        };
        let workload = record["destination"]["workload"].as_str();
        let workload = workload.and_then(|name| name.split('/').nth(1));
        // The ingress hands over to the waypoint, which records do not call a workload.
        let to_waypoint = reporter == "source" && !record["destination"]["service"].is_null();
        let workload = match workload {
            None if to_waypoint => WAYPOINT,
            known => known.unwrap_or("unknown"),
        };
        let number = |value: &Value| value.as_u64().map(|n| n.to_string());
        let is_grpc = record["grpcStatus"].is_u64();
        let kind = [
            reporter.to_owned(),
            workload.to_owned(),
            number(&record["status"]).unwrap_or_else(|| "0".to_owned()),
            number(&record["grpcStatus"])
                .filter(|_| is_grpc)
                .unwrap_or_default(),
            flag(&record).to_owned(),
        ];
        let bytes = &record["bytes"];
        let amount = [
            1,
            record["duration_us"].as_u64().unwrap(),
            bytes["received"].as_u64().unwrap(),
            bytes["sent"].as_u64().unwrap(),
        ];
        add(&mut all, kind, amount);
    }
    all
}

#[expect(clippy::cast_sign_loss, reason = "none is below zero")]
fn counted(samples: &[Sample]) -> BTreeMap<Kind, Amount> {
    let mut all = BTreeMap::new();
    for sample in samples {
        let whole = |n: f64| n.round() as u64;
        let amount = match sample.name.as_str() {
            "istio_requests_total" => [whole(sample.value), 0, 0, 0],
            "istio_request_duration_milliseconds_sum" => [0, whole(sample.value * 1000.0), 0, 0],
            "istio_request_bytes_sum" => [0, 0, whole(sample.value), 0],
            "istio_response_bytes_sum" => [0, 0, 0, whole(sample.value)],
            _ => continue,
        };
        let kind = [
            sample.label("reporter"),
            sample.label("destination_workload"),
            sample.label("response_code"),
            sample.label("grpc_response_status"),
            sample.label("response_flags"),
        ];
        add(&mut all, kind.map(str::to_owned), amount);
    }
    all
}

/// Waits until what is counted is what was recorded.
fn agree(system: &System) -> BTreeMap<Kind, Amount> {
    let mut both = Default::default();
    let same = system.within(Duration::from_secs(30), || {
        let samples = samples(&scrape(system));
        consistent(&samples);
        both = (recorded(system), counted(&samples));
        both.0 == both.1
    });
    assert!(same, "recorded {:#?}\ncounted {:#?}", both.0, both.1);
    both.1
}

/// How many requests of a kind were counted.
fn times(all: &BTreeMap<Kind, Amount>, kind: [&str; 5]) -> u64 {
    all.get(&kind.map(str::to_owned))
        .map_or(0, |amount| amount[0])
}

fn call(conn: &mut Conn, place: Place, path: &str, more: &str) -> u16 {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\n{more}content-length: 5\r\n\r\n\0\0\0\0\0",
        place.host()
    );
    conn.send(head.as_bytes());
    answer::read(conn, "POST").expect("an answer").status
}

fn one(system: &System, place: Place, path: &str) -> u16 {
    call(&mut system.connect(place), place, path, "")
}

fn over_http2(system: &System, place: Place, path: &str, want: u16) {
    let mut streams = Streams::open(system, place);
    for stream in [1, 3] {
        let head: [(&[u8], &[u8]); 4] = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", place.host().as_bytes()),
            (b":path", path.as_bytes()),
        ];
        streams.head(stream, &head, true);
        assert_eq!(streams.answer(stream).status, want, "{place:?}");
    }
}

/// The client goes while the backend has its request.
fn left(system: &System, place: Place, path: &str) {
    let backend = system.backend(place);
    backend.says(&[BODY, WAIT]);
    let mut conn = system.connect(place);
    let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", place.host());
    conn.send(head.as_bytes());
    assert!(system.within(Duration::from_secs(20), || !backend.seen().is_empty()));
    drop(conn);
    system.record(|r| r["request"]["path"] == path && r["close"] == "downstream_reset");
    backend.go();
}

/// What is the same at every place.
fn everywhere(system: &System, place: Place) {
    let backend = system.backend(place);
    backend.says(&[]);
    for _connection in 0..8 {
        let mut conn = system.connect(place);
        for _request in 0..3 {
            assert_eq!(call(&mut conn, place, "/api/a", ""), 200, "{place:?}");
        }
    }
    over_http2(system, place, "/api/b", 200);
    over_http2(system, place, "/api/denied", 403);
    assert_eq!(one(system, place, "/api/denied"), 403);
    // gRPC is answered 200, and why stands in its own status.
    let grpc = "content-type: application/grpc\r\n";
    assert_eq!(
        call(&mut system.connect(place), place, "/api/denied", grpc),
        200
    );
    backend.says(&[BODY, "this is not HTTP\r\n\r\n"]);
    assert_eq!(one(system, place, "/api/broken"), 502, "{place:?}");
    left(system, place, "/api/left");
    let mut conn = system.connect(place);
    conn.send(b"GET /api/a HTTP/1.1\r\nhost: one\r\nhost: two\r\n\r\n");
    assert_eq!(
        answer::read(&mut conn, "GET").expect("an answer").status,
        400
    );
    backend.says(&[]);
}

/// Requests to a workload whose own node reads HTTP.
fn to_reviews(system: &System, path: &str) -> u16 {
    let mut conn = Conn::socks(&system.layout.at(1, 15080), "reviews-service", 80).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: reviews-service\r\n\r\n");
    conn.send(head.as_bytes());
    answer::read(&mut conn, "GET").expect("an answer").status
}

fn at_the_node(system: &System) {
    // Nobody listens behind it yet.
    assert_eq!(to_reviews(system, "/api/a"), 503);
    let _apps = [2, 4].map(|host| Backend::start(&system.layout.at(host, 18080), None));
    for _ in 0..4 {
        assert_eq!(to_reviews(system, "/api/a"), 200);
    }
    assert_eq!(to_reviews(system, "/other"), 403);
    // From the ingress by turns, one of which is nobody's: another replica has it.
    for _ in 0..12 {
        assert_eq!(one(system, Place::Ingress, "/api/reviews/a"), 200);
    }
}

/// How many of its requests a rate limit refused.
fn at_the_ingress(system: &System) -> u64 {
    let place = Place::Ingress;
    let statuses = [(); 8].map(|()| one(system, place, "/api/limited"));
    let limited = statuses.iter().filter(|status| **status == 429).count();
    assert!(limited > 0, "{statuses:?}");
    // Calls are answered 200, and limited all the same.
    for _ in 0..4 {
        let grpc = "content-type: application/grpc\r\n";
        let status = call(&mut system.connect(place), place, "/api/limited", grpc);
        assert_eq!(status, 200);
    }
    // The app of the authorizer does not run yet.
    assert_eq!(one(system, place, "/api/asked"), 403);
    system.backend(place).says(&[BODY, WAIT]);
    assert_eq!(one(system, place, "/api/slow/a"), 504);
    system.backend(place).go();
    system.backend(place).says(&[]);
    let mut conn = system.connect(place);
    conn.send(b"GET /api/a HTTP/1.1\r\nhost: nobody.example.test\r\n\r\n");
    assert_eq!(
        answer::read(&mut conn, "GET").expect("an answer").status,
        404
    );
    system.record(|r| r["grpcStatus"] == 8 && r["close"] == "limit");
    limited as u64
}

/// What Prometheus's own client makes of it.
fn prometheus_reads_it(text: &str) {
    let mut child = peers::command("openmetrics.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout and python3 are needed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"all is well\n", "{error}\n{text}");
}

fn what_is_counted_is_what_was_recorded(io: &str) {
    let system = system(io, "");
    for place in PLACES {
        everywhere(&system, place);
    }
    let limited = at_the_ingress(&system);
    at_the_node(&system);
    let mut socket = websocket::open(&system, Place::Waypoint, "/api/socket");
    assert!(websocket::echoes(&mut socket, b"hello"));
    let open = agree(&system);
    assert_eq!(
        times(&open, ["waypoint", "customer-api", "101", "", "-"]),
        0
    );
    drop(socket);
    system.record(|r| r["request"]["path"] == "/api/socket" && r["event"] == "close");
    let all = agree(&system);
    for (kind, want) in [
        // Denied there over HTTP/1 once and over HTTP/2 twice.
        (["source", WAYPOINT, "403", "", "-"], 3),
        (["source", WAYPOINT, "403", "", "UAEX"], 1),
        (["source", WAYPOINT, "200", "7", "-"], 1),
        (["source", WAYPOINT, "429", "", "RL"], limited),
        (["source", "unknown", "404", "", "NR"], 1),
        (["source", "unknown", "400", "", "DPE"], 1),
        (["source", WAYPOINT, "504", "", "UT"], 1),
        // To the ingress it is an answer of its upstream as any other.
        (["source", WAYPOINT, "502", "", "-"], 1),
        (["source", WAYPOINT, "0", "", "DC"], 1),
        // Once the waypoint speaks HTTP with the app itself, once the app's node does.
        (["waypoint", "customer-api", "502", "", "UC"], 1),
        (["waypoint", "customer-api", "502", "", "-"], 1),
        (["destination", "customer-api", "502", "", "UC"], 1),
        (["waypoint", "unknown", "502", "", "UC"], 1),
        (["waypoint", "customer-api", "403", "", "-"], 3),
        (["waypoint", "unknown", "403", "", "-"], 3),
    ] {
        assert_eq!(times(&all, kind), want, "{kind:?} in {all:#?}");
    }
    let ok = |reporter: &str, workload: &str| times(&all, [reporter, workload, "200", "", "-"]);
    let sent = 8 * 3 + 2;
    // And probes, with which the start was waited for.
    assert!(ok("source", WAYPOINT) >= sent + 2, "{all:#?}");
    assert!(ok("waypoint", "customer-api") >= 2 * sent, "{all:#?}");
    assert!(ok("waypoint", "unknown") >= sent, "{all:#?}");
    let reviews = ["reviews-service", "reviews-service-2"];
    let sum = |code, flag| {
        let of = |workload| times(&all, ["destination", workload, code, "", flag]);
        reviews.map(of).iter().sum::<u64>()
    };
    // One of those that were not connected was the question to the authorizer.
    assert_eq!(
        [sum("200", "-"), sum("503", "UF"), sum("403", "-")],
        [4 + 12, 2, 1]
    );
    let from_outside = |workload| ok("source", workload);
    let replicas = ["reviews-service", "reviews-service-2", "reviews-service-3"].map(from_outside);
    assert_eq!((replicas[0] + replicas[1], replicas[2]), (12, 0));
    ends(&samples(&scrape(&system)));
    prometheus_reads_it(&scrape(&system));
    // A reload takes nothing away, and what follows is counted in the same series.
    let before = samples(&scrape(&system)).len();
    system.reload(|config| config.replace("\"none-at-the-edge\"", "\"none-anew-at-the-edge\""));
    assert_eq!(one(&system, Place::Ingress, "/api/denied"), 403);
    let after = agree(&system);
    assert_eq!(times(&after, ["source", WAYPOINT, "403", "", "-"]), 4);
    assert_eq!(samples(&scrape(&system)).len(), before);
    system.healthy();
}

/// Who calls whom, in the labels.
fn ends(samples: &[Sample]) {
    let of = |reporter: &str, source: &str, service: &str, code: &str| {
        let found = samples.iter().find(|s| {
            s.name == "istio_requests_total"
                && s.label("reporter") == reporter
                && s.label("source_workload") == source
                && s.label("destination_service_name") == service
                && s.label("response_code") == code
        });
        found.unwrap_or_else(|| panic!("nothing from {reporter} to {service}"))
    };
    let ns = "spiffe://cluster.local/ns";
    for (sample, labels) in [
        (
            of("source", "public", "customer-api", "200"),
            [
                ("source_workload", "public"),
                ("source_principal", &*format!("{ns}/edge/sa/ingress")),
                ("destination_workload", "customer-api"),
                (
                    "destination_principal",
                    &format!("{ns}/default/sa/customer-api-waypoint"),
                ),
                ("connection_security_policy", "unknown"),
            ],
        ),
        (
            of("waypoint", "unknown", "customer-api", "200"),
            [
                ("source_workload_namespace", "default"),
                (
                    "source_principal",
                    &format!("{ns}/default/sa/frontend-service"),
                ),
                ("destination_workload", "customer-api"),
                (
                    "destination_principal",
                    &format!("{ns}/default/sa/customer-api"),
                ),
                ("connection_security_policy", "mutual_tls"),
            ],
        ),
        (
            of("waypoint", "unknown", "partner", "200"),
            [
                ("source_app", "unknown"),
                (
                    "source_principal",
                    &format!("{ns}/default/sa/frontend-service"),
                ),
                ("destination_workload", "unknown"),
                ("destination_principal", "unknown"),
                ("connection_security_policy", "mutual_tls"),
            ],
        ),
        (
            of("destination", "unknown", "reviews-service", "403"),
            [
                ("source_app", "unknown"),
                ("source_workload_namespace", "default"),
                ("destination_app", "reviews-service"),
                (
                    "destination_principal",
                    &format!("{ns}/default/sa/reviews-service"),
                ),
                ("connection_security_policy", "mutual_tls"),
            ],
        ),
    ] {
        for (name, want) in labels {
            assert_eq!(sample.label(name), want, "{name} of {sample:?}");
        }
    }
}

fn none_where_they_are_left_out(io: &str) {
    let system = system(io, "requests = false");
    for place in PLACES {
        assert_eq!(one(&system, place, "/api/a"), 200);
        assert_eq!(one(&system, place, "/api/denied"), 403);
    }
    let recorded = recorded(&system);
    assert!(!recorded.is_empty());
    let text = scrape(&system);
    assert_eq!(samples(&text).len(), 0, "{text}");
    assert!(
        text.contains("istio_tcp_connections_opened_total{"),
        "{text}"
    );
    system.healthy();
}
