//! Series: what is one, what is summed, what is forgotten, what is bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::outcome::{Protocol, ResponseFlag};
use super::requests::{Amounts, Destination};
use super::*;
use crate::config;
use crate::config::checked::Mesh;
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

const MESH: &str = r#"
[authority]
stateDir = "state"

[mesh]
trustDomain = "cluster.local"

[[workloadEntry]]
name = "api-7"
namespace = "default"
serviceAccount = "api"
address = "10.0.0.3"
labels = { app = "api", version = "v2" }

[[serviceEntry]]
name = "api"
namespace = "default"
hosts = ["api.default.svc.cluster.local"]
ports = [{ number = 80, name = "tcp", protocol = "TCP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }
"#;

fn mesh() -> Arc<Mesh> {
    let files = [("mesh.toml".into(), MESH.to_owned())];
    config::parse(&files, Path::new("")).unwrap().mesh
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a starting point, to add to")]
    Instant::now()
}

fn caller(n: usize) -> Key {
    let uri = format!("spiffe://cluster.local/ns/default/sa/caller-{n}");
    Key {
        reporter: Reporter::Destination,
        ends: Ends {
            principal: Some(SpiffeId::parse(&uri).unwrap()),
            destination: Some(0),
            service: Some(0),
            ..Ends::default()
        },
        mutual_tls: true,
    }
}

fn read(registry: &mut Registry) -> String {
    registry.encode(Vec::new()).unwrap().collect()
}

fn line<'t>(text: &'t str, name: &str, part: &str) -> Option<&'t str> {
    text.lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(part))
}

#[test]
fn labels_are_istios() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    meters.series(&caller(1), 1, &mesh, now()).opened.add(1);
    let text = read(&mut Registry::new(receiver));
    let line = line(&text, "istio_tcp_connections_opened_total", "").unwrap();
    for part in [
        "reporter=\"destination\"",
        "source_workload=\"unknown\"",
        "source_workload_namespace=\"default\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/caller-1\"",
        "destination_service=\"api.default.svc.cluster.local\"",
        "destination_service_name=\"api\"",
        "destination_service_namespace=\"default\"",
        "destination_workload=\"api-7\"",
        "destination_app=\"api\"",
        "destination_version=\"v2\"",
        "destination_canonical_service=\"api\"",
        "destination_canonical_revision=\"v2\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/api\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(line.ends_with("} 1"), "{line}");
}

/// A value that is not plain breaks no line, in whichever metric it stands.
#[test]
fn values_of_labels_are_escaped() {
    const ODD: &str = "a\"} 1\n\\b";
    let written = MESH.replace("app = \"api\"", r#"app = "a\"} 1\n\\b""#);
    let files = [("mesh.toml".into(), written)];
    let mesh = config::parse(&files, Path::new("")).unwrap().mesh;
    let (news, receiver) = mpsc::channel(8);
    let meters = Meters::new(news, true);
    meters.series(&caller(1), 1, &mesh, now()).opened.add(1);
    count(meters.requests().unwrap(), 1, 1, &mesh, answered(200));
    let own = registry::Own {
        name: "own",
        help: "of us",
        counts: false,
        values: vec![(vec![("file", ODD.to_owned())], 7)],
    };
    let text: String = Registry::new(receiver).encode(vec![own]).unwrap().collect();
    let value = r#""a\"} 1\n\\b""#;
    for (name, label) in [
        ("istio_tcp_connections_opened_total", "destination_app"),
        ("istio_requests_total", "destination_app"),
        ("own", "file"),
    ] {
        let part = format!("{label}={value}");
        assert!(line(&text, name, &part).is_some(), "{name} in {text}");
    }
    let is_whole = |line: &str| line.starts_with("# ") || line.contains("{") && line.contains("} ");
    assert!(text.lines().all(is_whole), "{text}");
}

#[test]
fn cores_are_summed_and_a_sum_never_falls() {
    let (news, receiver) = mpsc::channel(8);
    let (one, two, mesh) = (
        Meters::new(news.clone(), false),
        Meters::new(news, false),
        mesh(),
    );
    let mut registry = Registry::new(receiver);
    let begun = now();
    let mut value = |want: Option<&str>| {
        let text = read(&mut registry);
        let line = line(&text, "istio_tcp_connections_opened_total", "caller-1");
        assert_eq!(
            line.map(|line| line.rsplit(' ').next().unwrap()),
            want,
            "{text}"
        );
    };
    one.series(&caller(1), 1, &mesh, begun).opened.add(2);
    let held = two.series(&caller(1), 1, &mesh, begun);
    held.opened.add(3);
    value(Some("5"));
    // A reload: the same names are the same series, and what is open goes on counting.
    one.series(&caller(1), 2, &mesh, begun).opened.add(1);
    value(Some("6"));
    let later = begun + Duration::from_millis(limits::SERIES_IDLE_MS);
    one.sweep(later);
    two.sweep(later);
    value(Some("6"));
    held.opened.add(1);
    value(Some("7"));
    // Nothing is open and nobody has counted for long: it is forgotten.
    drop(held);
    two.sweep(later);
    value(None);
}

#[test]
fn how_it_ended_is_a_series_of_its_own() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    let series = meters.series(&caller(1), 1, &mesh, now());
    assert!(Arc::ptr_eq(
        &series,
        &meters.flagged(&series, Flag::None, now())
    ));
    meters.flagged(&series, Flag::Deny, now()).failed.add(1);
    meters.flagged(&series, Flag::Deny, now()).failed.add(1);
    let text = read(&mut Registry::new(receiver));
    let line = line(&text, "istio_tcp_connections_failed_total", "DENY").unwrap();
    assert!(line.ends_with("} 2"), "{line}");
}

#[test]
fn more_series_than_a_core_keeps_are_counted_together() {
    let (news, receiver) = mpsc::channel(limits::SERIES_PER_CORE + 2);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    for n in 0..limits::SERIES_PER_CORE + 10 {
        meters.series(&caller(n), 1, &mesh, now()).opened.add(1);
    }
    let text = read(&mut Registry::new(receiver));
    let line = line(
        &text,
        "istio_tcp_connections_opened_total",
        "source_principal=\"unknown\"",
    );
    assert!(line.unwrap().ends_with("} 10"), "{line:?}");
    assert!(!text.contains(&format!("caller-{}\"", limits::SERIES_PER_CORE)));
}

/// A registry that is busy loses nothing.
#[test]
fn what_cannot_be_announced_is_announced_later() {
    let (news, receiver) = mpsc::channel(1);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    let mut registry = Registry::new(receiver);
    for n in 0..3 {
        meters.series(&caller(n), 1, &mesh, now()).opened.add(1);
    }
    let mut seen = 0;
    for _ in 0..3 {
        let text = read(&mut registry);
        seen = text.matches("istio_tcp_connections_opened_total{").count();
        meters.sweep(now());
    }
    assert_eq!(seen, 3);
}

/// A reload takes nothing from the counters, whether somebody has read them before or not.
#[test]
fn a_reload_forgets_nothing_that_was_counted() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    let mut registry = Registry::new(receiver);
    let mut value = || {
        let text = read(&mut registry);
        let line = line(&text, "istio_tcp_connections_opened_total", "caller-1");
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    let begun = now();
    meters.series(&caller(1), 1, &mesh, begun).opened.add(2);
    assert_eq!(value().as_deref(), Some("2"));
    meters.series(&caller(1), 1, &mesh, begun).opened.add(3);
    // Somebody else is the first to connect after the reload.
    meters.series(&caller(2), 2, &mesh, begun);
    assert_eq!(value().as_deref(), Some("5"));
    meters.series(&caller(2), 3, &mesh, begun);
    meters.series(&caller(1), 3, &mesh, begun).opened.add(1);
    assert_eq!(value().as_deref(), Some("6"));
    // And it is forgotten like any other.
    meters.series(&caller(2), 4, &mesh, begun);
    let idle = Duration::from_millis(limits::SERIES_IDLE_MS);
    meters.sweep(begun + idle);
    assert_eq!(value(), None);
}

/// Nobody reads: what is kept is bounded, however often the mesh is reloaded.
#[test]
fn reloads_without_a_reader_keep_no_more() {
    let (news, receiver) = mpsc::channel(1);
    let (meters, mesh) = (Meters::new(news, false), mesh());
    for generation in 0..50 {
        for n in 0..1000 {
            // Other callers each time, so that nothing is found again.
            let caller = caller(1000 * usize::try_from(generation).unwrap() + n);
            meters.series(&caller, generation, &mesh, now());
        }
    }
    assert!(
        meters.kept() <= 2 * limits::SERIES_PER_CORE,
        "{}",
        meters.kept()
    );
    drop(receiver);
    let idle = Duration::from_millis(limits::SERIES_IDLE_MS);
    meters.sweep(now() + idle);
    assert_eq!(meters.kept(), 0);
}

/// A caller as requests know it.
fn source(n: usize) -> Key {
    let Key {
        reporter,
        ends,
        mutual_tls,
    } = caller(n);
    Key {
        reporter,
        ends: Ends {
            destination: None,
            service: None,
            ..ends
        },
        mutual_tls,
    }
}

const API: Destination = Destination {
    service: Some(0),
    workload: Some(0),
    gateway: None,
};

fn answered(status: u16) -> Outcome {
    Outcome::new(Some(status), Protocol::Http, ResponseFlag::None)
}

fn amounts(us: u64, received: u64, sent: u64) -> Amounts {
    Amounts {
        duration: Duration::from_micros(us),
        received,
        sent,
    }
}

/// Counts one request of caller `n` for the API.
fn count(requests: &Requests, n: usize, generation: u64, mesh: &Mesh, outcome: Outcome) {
    let source = requests.source(&source(n), generation, mesh);
    let pair = requests.pair(&source, API, mesh);
    requests.count(&pair, outcome, amounts(1500, 10, 300), now);
}

/// The value of `name` where the labels hold `part`.
fn value(text: &str, name: &str, part: &str) -> Option<String> {
    let line = line(text, name, part)?;
    Some(line.rsplit(' ').next()?.to_owned())
}

#[test]
fn labels_of_requests_are_istios() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news, true), mesh());
    let requests = meters.requests().unwrap();
    let source = requests.source(&source(1), 1, &mesh);
    let pair = requests.pair(&source, API, &mesh);
    let grpc = Outcome::new(Some(200), Protocol::of(true, Some(7)), ResponseFlag::None);
    requests.count(&pair, grpc, amounts(2_500_001, 257, 0), now);
    requests.count(&pair, grpc, amounts(499, 1 << 40, 0), now);
    let text = read(&mut Registry::new(receiver));
    let labels = concat!(
        "reporter=\"destination\",source_workload=\"unknown\",source_canonical_service=\"unknown\",",
        "source_canonical_revision=\"latest\",source_workload_namespace=\"default\",",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/caller-1\",source_app=\"unknown\",",
        "source_version=\"unknown\",source_cluster=\"unknown\",",
        "destination_service=\"api.default.svc.cluster.local\",",
        "destination_service_namespace=\"default\",destination_service_name=\"api\",",
        "destination_workload=\"api-7\",destination_canonical_service=\"api\",",
        "destination_canonical_revision=\"v2\",destination_workload_namespace=\"default\",",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/api\",destination_app=\"api\",",
        "destination_version=\"v2\",destination_cluster=\"unknown\",request_protocol=\"grpc\",",
        "response_code=\"200\",grpc_response_status=\"7\",response_flags=\"-\",",
        "connection_security_policy=\"mutual_tls\"",
    );
    for line in [
        format!("# TYPE istio_requests counter\nistio_requests_total{{{labels}}} 2\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"0.5\"}} 1\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"2500.0\"}} 1\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"5000.0\"}} 2\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"+Inf\"}} 2\n"),
        format!("istio_request_duration_milliseconds_count{{{labels}}} 2\n"),
        format!("istio_request_duration_milliseconds_sum{{{labels}}} 2500.500\n"),
        format!("istio_request_bytes_bucket{{{labels},le=\"256.0\"}} 0\n"),
        format!("istio_request_bytes_bucket{{{labels},le=\"1024.0\"}} 1\n"),
        format!("istio_request_bytes_bucket{{{labels},le=\"6.7108864e+07\"}} 1\n"),
        format!("istio_request_bytes_bucket{{{labels},le=\"+Inf\"}} 2\n"),
        format!(
            "istio_request_bytes_sum{{{labels}}} {}\n",
            (1_u64 << 40) + 257
        ),
        format!("istio_response_bytes_bucket{{{labels},le=\"256.0\"}} 2\n"),
        format!("istio_response_bytes_sum{{{labels}}} 0\n"),
    ] {
        assert!(text.contains(&line), "no {line} in {text}");
    }
    assert!(text.ends_with("\n# EOF\n"));
}

/// `connection_security_policy` is the server's to say.
#[test]
fn whether_a_request_came_by_mutual_tls() {
    for (reporter, mutual_tls, want, destination) in [
        (Reporter::Destination, true, "mutual_tls", "sa/api"),
        (Reporter::Destination, false, "none", "=\"unknown"),
        (Reporter::Waypoint, true, "mutual_tls", "sa/api"),
        (Reporter::Waypoint, false, "none", "sa/api"),
        (Reporter::Source, false, "unknown", "sa/api"),
    ] {
        let key = Key {
            reporter,
            ends: Ends {
                destination: Some(0),
                ..Ends::default()
            },
            mutual_tls,
        };
        let pairs = Labels::of_requests(&key, &mesh()).pairs_of(answered(200));
        let label = |wanted: &str| {
            let found = pairs.iter().find(|(name, _)| *name == wanted);
            format!("=\"{}", found.unwrap().1)
        };
        let told = label("connection_security_policy");
        assert_eq!(told, format!("=\"{want}"), "{reporter:?}");
        let principal = label("destination_principal");
        assert!(
            principal.ends_with(destination),
            "{reporter:?}: {principal}"
        );
    }
}

#[test]
fn requests_of_all_cores_are_summed_and_survive_reloads() {
    let (news, receiver) = mpsc::channel(8);
    let mesh = mesh();
    let (one, two) = (Requests::new(news.clone()), Requests::new(news));
    let mut registry = Registry::new(receiver);
    let mut total = || {
        let text = read(&mut registry);
        let codes = ["200", "403"].map(|code| {
            let part = format!("response_code=\"{code}\"");
            value(&text, "istio_requests_total", &part)
        });
        codes.map(|value| value.map_or(0, |value| value.parse::<u64>().unwrap()))
    };
    count(&one, 1, 1, &mesh, answered(200));
    count(&one, 1, 1, &mesh, answered(403));
    count(&two, 1, 1, &mesh, answered(200));
    assert_eq!(total(), [2, 1]);
    // One that was planned before a reload ends behind it.
    let before = one.source(&source(1), 1, &mesh);
    let planned = one.pair(&before, API, &mesh);
    count(&one, 1, 2, &mesh, answered(200));
    assert_eq!(total(), [3, 1]);
    one.count(&planned, answered(200), amounts(1, 0, 0), now);
    one.count(&planned, answered(403), amounts(1, 0, 0), now);
    assert_eq!(total(), [4, 2]);
    assert_eq!(one.kept(), (2, 2, 1), "a reload makes nothing twice");
    // One core forgets, and the sum does not fall while the other one counts.
    let idle = Duration::from_millis(limits::SERIES_IDLE_MS);
    drop((before, planned));
    one.sweep(now());
    one.sweep(now() + idle);
    assert_eq!(one.kept(), (0, 0, 0));
    assert_eq!(total(), [4, 0]);
    count(&two, 1, 1, &mesh, answered(200));
    assert_eq!(total(), [5, 0]);
}

/// What has counted something since it was looked at last stays.
#[test]
fn requests_keep_their_series() {
    let (news, _receiver) = mpsc::channel(8);
    let (requests, mesh) = (Requests::new(news), mesh());
    let idle = Duration::from_millis(limits::SERIES_IDLE_MS);
    let mut at = now();
    for _ in 0..3 {
        count(&requests, 1, 1, &mesh, answered(200));
        at += idle;
        requests.sweep(at);
        assert_eq!(requests.kept().0, 1);
    }
    // A connection that is idle has its source, and the source nothing else.
    let held = requests.source(&source(1), 1, &mesh);
    requests.sweep(at + idle);
    assert_eq!(requests.kept(), (0, 1, 1));
    drop(held);
    requests.sweep(at + idle);
    requests.sweep(at + idle);
    assert_eq!(requests.kept(), (0, 0, 0));
}

/// Whoever makes many outcomes of a workload takes no series from others.
#[test]
fn outcomes_of_two_ends_are_bounded() {
    let (news, receiver) = mpsc::channel(1000);
    let (requests, mesh) = (Requests::new(news), mesh());
    for code in 100..600 {
        count(&requests, 1, 1, &mesh, answered(code));
    }
    count(&requests, 2, 1, &mesh, answered(200));
    assert_eq!(requests.kept().0, limits::SERIES_PER_PAIR + 2);
    let text = read(&mut Registry::new(receiver));
    let value = |part: &str| value(&text, "istio_requests_total", part);
    let rest = 500 - limits::SERIES_PER_PAIR;
    let other = "response_code=\"unknown\",grpc_response_status=\"\",response_flags=\"unknown\"";
    assert_eq!(value(other), Some(rest.to_string()));
    assert!(
        line(&text, "istio_requests_total", other)
            .unwrap()
            .contains("caller-1")
    );
    assert!(text.contains("caller-2"));
}

#[test]
fn more_requests_than_a_core_keeps_series_for_are_counted_together() {
    let (news, receiver) = mpsc::channel(limits::SERIES_PER_CORE + 100);
    let (requests, mesh) = (Requests::new(news), mesh());
    // Two pairs of each, so that it is the series of which there are too many.
    let callers = limits::SERIES_PER_CORE * 2 / 5;
    for n in 0..callers {
        for code in [200, 403, 503] {
            count(&requests, n, 1, &mesh, answered(code));
        }
    }
    let (series, pairs, sources) = requests.kept();
    assert_eq!(series, limits::SERIES_PER_CORE + 1);
    assert!(pairs <= limits::SERIES_PER_CORE, "{pairs}");
    assert!(sources <= limits::SERIES_PER_CORE, "{sources}");
    let text = read(&mut Registry::new(receiver));
    let lines = text
        .lines()
        .filter(|l| l.starts_with("istio_requests_total{"));
    let counted: usize = lines
        .map(|l| l.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(counted, 3 * callers, "none is lost");
}

/// What there was no room for has its own names once there is room.
#[test]
fn room_that_was_taken_is_found_again() {
    let (news, _receiver) = mpsc::channel(4 * limits::SERIES_PER_CORE);
    let (requests, mesh) = (Requests::new(news), mesh());
    // Pairs of all there may be; those of the last source find no room, where it goes as where it does not.
    let late = limits::SERIES_PER_CORE / 2;
    for n in 0..late {
        count(&requests, n, 1, &mesh, answered(200));
    }
    for _ in 0..2 {
        count(&requests, late, 1, &mesh, answered(200));
    }
    let before = requests.kept();
    assert_eq!(before, (late + 1, 2 * late, late + 1));
    // All others have counted nothing for long.
    let idle = Duration::from_millis(limits::SERIES_IDLE_MS);
    requests.sweep(now());
    count(&requests, late, 1, &mesh, answered(200));
    requests.sweep(now() + idle);
    requests.sweep(now() + idle);
    assert_eq!(requests.kept(), (1, 0, 0), "what counted last is of nobody");
    count(&requests, late, 1, &mesh, answered(200));
    assert_eq!(requests.kept(), (2, 2, 1));
}

/// A registry that is busy gets them later, and one that nobody reads gets none.
#[test]
fn requests_are_announced_until_they_are_known() {
    let (news, receiver) = mpsc::channel(1);
    let (requests, mesh) = (Requests::new(news), mesh());
    let mut registry = Registry::new(receiver);
    for n in 0..3 {
        count(&requests, n, 1, &mesh, answered(200));
    }
    let mut seen = 0;
    for _ in 0..3 {
        seen = read(&mut registry).matches("istio_requests_total{").count();
        requests.sweep(now());
    }
    assert_eq!(seen, 3);
    drop(registry);
    requests.sweep(now() + Duration::from_millis(limits::SERIES_IDLE_MS));
    assert_eq!(requests.kept().0, 0);
}

#[test]
fn a_core_that_counts_no_requests_has_nothing_to_count_with() {
    let (news, _receiver) = mpsc::channel(1);
    assert!(Meters::new(news, false).requests().is_none());
}

/// The text comes in pieces, and is the same.
#[test]
fn text_of_many_series_is_made_piece_by_piece() {
    let (news, receiver) = mpsc::channel(200);
    let (requests, mesh) = (Requests::new(news), mesh());
    for n in 0..100 {
        count(&requests, n, 1, &mesh, answered(200));
    }
    let mut registry = Registry::new(receiver);
    let pieces: Vec<_> = registry.encode(Vec::new()).unwrap().collect();
    assert!(pieces.len() > 10, "{}", pieces.len());
    assert!(
        pieces
            .iter()
            .all(|p| p.len() < 128 << 10 && p.ends_with('\n'))
    );
    let text = pieces.concat();
    assert_eq!(
        text.matches("# TYPE istio_response_bytes histogram\n")
            .count(),
        1
    );
    assert_eq!(text.matches("istio_response_bytes_sum{").count(), 100);
    assert_eq!(text.matches("# EOF\n").count(), 1);
}
