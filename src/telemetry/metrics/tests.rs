//! Series: what is one, what is summed, what is forgotten, what is bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

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

fn line<'t>(text: &'t str, name: &str, part: &str) -> Option<&'t str> {
    text.lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(part))
}

#[test]
fn labels_are_istios() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news), mesh());
    meters.series(&caller(1), 1, &mesh, now()).opened.add(1);
    let text = Registry::new(receiver).encode(Vec::new()).unwrap();
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

#[test]
fn cores_are_summed_and_a_sum_never_falls() {
    let (news, receiver) = mpsc::channel(8);
    let (one, two, mesh) = (Meters::new(news.clone()), Meters::new(news), mesh());
    let mut registry = Registry::new(receiver);
    let begun = now();
    let mut value = |want: Option<&str>| {
        let text = registry.encode(Vec::new()).unwrap();
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
    let (meters, mesh) = (Meters::new(news), mesh());
    let series = meters.series(&caller(1), 1, &mesh, now());
    assert!(Arc::ptr_eq(
        &series,
        &meters.flagged(&series, Flag::None, now())
    ));
    meters.flagged(&series, Flag::Deny, now()).failed.add(1);
    meters.flagged(&series, Flag::Deny, now()).failed.add(1);
    let text = Registry::new(receiver).encode(Vec::new()).unwrap();
    let line = line(&text, "istio_tcp_connections_failed_total", "DENY").unwrap();
    assert!(line.ends_with("} 2"), "{line}");
}

#[test]
fn more_series_than_a_core_keeps_are_counted_together() {
    let (news, receiver) = mpsc::channel(limits::SERIES_PER_CORE + 2);
    let (meters, mesh) = (Meters::new(news), mesh());
    for n in 0..limits::SERIES_PER_CORE + 10 {
        meters.series(&caller(n), 1, &mesh, now()).opened.add(1);
    }
    let text = Registry::new(receiver).encode(Vec::new()).unwrap();
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
    let (meters, mesh) = (Meters::new(news), mesh());
    let mut registry = Registry::new(receiver);
    for n in 0..3 {
        meters.series(&caller(n), 1, &mesh, now()).opened.add(1);
    }
    let mut seen = 0;
    for _ in 0..3 {
        let text = registry.encode(Vec::new()).unwrap();
        seen = text.matches("istio_tcp_connections_opened_total{").count();
        meters.sweep(now());
    }
    assert_eq!(seen, 3);
}

/// A reload takes nothing from the counters, whether somebody has read them before or not.
#[test]
fn a_reload_forgets_nothing_that_was_counted() {
    let (news, receiver) = mpsc::channel(8);
    let (meters, mesh) = (Meters::new(news), mesh());
    let mut registry = Registry::new(receiver);
    let mut value = || {
        let text = registry.encode(Vec::new()).unwrap();
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
    let (meters, mesh) = (Meters::new(news), mesh());
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
