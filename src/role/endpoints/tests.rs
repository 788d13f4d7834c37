//! Choices among the endpoints of a configured mesh.

use std::path::Path;

use super::*;
use crate::config;
use crate::config::checked::Config;
use crate::upstream::resolved::{Known, Name};

const MESH: &str = r#"
[authority]
stateDir = "state"
[mesh]

[[workloadEntry]]
name = "a"
serviceAccount = "api"
address = "10.0.0.1"
labels = { app = "api", "kubernetes.io/hostname" = "n1" }
locality = "eu/1"
weight = 3

[[workloadEntry]]
name = "b"
serviceAccount = "api"
address = "10.0.0.2"
labels = { app = "api" }
locality = "eu/2"

[[workloadEntry]]
name = "c"
serviceAccount = "api"
address = "10.0.0.3"
labels = { app = "api" }
locality = "us/1"

[[workloadEntry]]
name = "d"
serviceAccount = "api"
address = "10.0.0.4"
labels = { app = "api" }
locality = "ap/1"

[[serviceEntry]]
name = "api"
hosts = ["api"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }, { number = 81, name = "other", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }
"#;

const PARTNER: &str = r#"
[[serviceEntry]]
name = "partner"
hosts = ["partner.example"]
ports = [{ number = 443, name = "tls", protocol = "TLS" }]
resolution = "DNS"
endpoints = [{ address = "one.example", weight = 5 }, { address = "192.0.2.9" }]
"#;

fn config(more: &str) -> Config {
    config::parse(&[("m.toml".into(), format!("{MESH}{more}"))], Path::new("")).unwrap()
}

/// Names of the workloads that are chosen from a place.
fn chosen(config: &Config, endpoints: &Endpoints, from: &Caller<'_>, now_ms: u64) -> String {
    let name = |turn| {
        let pick = Pick {
            turn,
            now_ms,
            endpoints: Some(endpoints),
            ..Pick::default()
        };
        let at = pick.workload(&config.mesh, 0, 0, from).unwrap();
        config.mesh.workloads[at].name.name.clone()
    };
    let mut all: Vec<String> = (0..200).map(name).collect();
    all.sort();
    all.dedup();
    all.concat()
}

fn plain() -> Config {
    config("")
}

fn service(more: &str) -> String {
    format!("[[destinationRule]]\nname = \"api\"\nhost = \"api\"\n{more}\n")
}

fn check(more: &str, node: Option<&str>, place: &str, want: &str) {
    let config = config(more);
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let locality = Locality::parse(place).unwrap_or_default();
    let from = Caller {
        locality: Some(&locality),
        node,
        ..Caller::default()
    };
    assert_eq!(
        chosen(&config, &endpoints, &from, 0),
        want,
        "{place} {more}"
    );
}

#[test]
fn the_near_ones_are_preferred_where_that_is_asked_for() {
    check("", None, "eu/1", "abcd");
    let lb = service("trafficPolicy.loadBalancer.localityLbSetting = { enabled = true }");
    check(&lb, None, "eu/1", "a");
    check(&lb, None, "eu/3", "ab");
    check(&lb, None, "sa/1", "abcd");
    check(&lb, None, "", "abcd");
    let failover =
        "trafficPolicy.loadBalancer.localityLbSetting.failover = [{ from = \"sa\", to = \"us\" }]";
    check(&service(failover), None, "sa/1", "c");
    let off = service("trafficPolicy.loadBalancer.localityLbSetting = { enabled = false }");
    check(&off, None, "eu/1", "abcd");
}

#[test]
fn traffic_distribution_is_the_services_own_word() {
    for (word, node, place, want) in [
        ("PreferClose", None, "eu/2/x", "b"),
        ("PreferSameZone", None, "us/7", "c"),
        ("PreferSameNode", Some("n1"), "us/1", "a"),
        ("PreferSameNode", Some("n2"), "us/1", "c"),
        ("Any", Some("n1"), "us/1", "abcd"),
    ] {
        let key = format!("resolution = \"STATIC\"\ntrafficDistribution = \"{word}\"");
        let annotation = format!(
            "resolution = \"STATIC\"\nannotations = {{ \"networking.istio.io/traffic-distribution\" = \"{word}\" }}"
        );
        for written in [key, annotation] {
            let text = MESH.replace("resolution = \"STATIC\"", &written);
            let config = config::parse(&[("m.toml".into(), text)], Path::new("")).unwrap();
            let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
            let locality = Locality::parse(place).unwrap();
            let from = Caller {
                locality: Some(&locality),
                node,
                ..Caller::default()
            };
            assert_eq!(
                chosen(&config, &endpoints, &from, 0),
                want,
                "{written} {place}"
            );
        }
    }
}

#[test]
fn failed_connects_eject_for_a_time_and_survive_a_reload() {
    let near = service("trafficPolicy.loadBalancer.localityLbSetting = { enabled = true }");
    let config = config(&near);
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let locality = Locality::parse("eu/1").unwrap();
    let from = Caller {
        locality: Some(&locality),
        ..Caller::default()
    };
    let a = Chosen {
        service: 0,
        endpoint: 0,
        port: 0,
    };
    for _ in 0..3 {
        assert_eq!(chosen(&config, &endpoints, &from, 0), "a");
        endpoints.failed(&config.mesh, a, 0);
    }
    // The next zone takes over.
    assert_eq!(chosen(&config, &endpoints, &from, 0), "b");
    let reloaded = Endpoints::new(&config.mesh, &Resolved::default(), Some(&endpoints));
    assert_eq!(chosen(&config, &reloaded, &from, 4999), "b");
    assert_eq!(chosen(&config, &reloaded, &from, 5000), "a");
    // Another port of the same workload has a health of its own.
    let other = Pick {
        endpoints: Some(&endpoints),
        ..Pick::default()
    };
    assert_eq!(other.workload(&config.mesh, 0, 1, &from), Some(0));
    let fresh = Endpoints::new(&config.mesh, &Resolved::default(), None);
    assert_eq!(chosen(&config, &fresh, &from, 0), "a");
}

#[test]
fn an_endpoint_is_tried_once() {
    let config = config("");
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let cell = Cell::new(None);
    let mut tried = Vec::new();
    for _ in 0..4 {
        let pick = Pick {
            endpoints: Some(&endpoints),
            tried: &tried,
            chosen: Some(&cell),
            ..Pick::default()
        };
        assert!(
            pick.workload(&config.mesh, 0, 0, &Caller::default())
                .is_some()
        );
        let chosen = cell.get().unwrap();
        assert_eq!((chosen.service, chosen.port), (0, 0));
        assert!(!tried.contains(&chosen.endpoint));
        tried.push(chosen.endpoint);
    }
    let pick = Pick {
        endpoints: Some(&endpoints),
        tried: &tried,
        ..Pick::default()
    };
    assert_eq!(pick.workload(&config.mesh, 0, 0, &Caller::default()), None);
}

#[test]
fn names_of_outside_services_stand_for_their_addresses() {
    let config = config(PARTNER);
    let mut resolved = Resolved::default();
    let address = |resolved: &Resolved, turn| {
        let endpoints = Endpoints::new(&config.mesh, resolved, None);
        let pick = Pick {
            turn,
            endpoints: Some(&endpoints),
            ..Pick::default()
        };
        pick.outside(&config.mesh, (1, 443), resolved, &Caller::default())
    };
    // A name that is not resolved takes nothing from the others.
    assert_eq!(address(&resolved, 0).unwrap().to_string(), "192.0.2.9:443");
    let name = Name {
        host: "one.example".to_owned(),
        allow_private: false,
    };
    let known = Known::judge(
        vec!["203.0.113.7".parse().unwrap(), "8.8.8.8".parse().unwrap()],
        false,
    );
    resolved.by_name.insert(name, known.clone());
    let mut seen: Vec<String> = (0..100)
        .map(|turn| address(&resolved, turn).unwrap().to_string())
        .collect();
    let heavy = seen.iter().filter(|a| !a.starts_with("192.0.2.9")).count();
    assert!(heavy > 75, "{heavy}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), known.addresses.len() + 1, "{seen:?}");
}

#[test]
fn a_key_comes_to_the_same_endpoint_after_a_reload() {
    let rule = "trafficPolicy.loadBalancer.consistentHash.useSourceIp = true";
    let config = config(&service(rule));
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let goes = |endpoints: &Endpoints, client: u8, turn| {
        let pick = Pick {
            turn,
            endpoints: Some(endpoints),
            ..Pick::default()
        };
        let pick = pick.of(None, [192, 0, 2, client].into());
        pick.workload(&config.mesh, 0, 0, &Caller::default())
    };
    let reloaded = Endpoints::new(&config.mesh, &Resolved::default(), Some(&endpoints));
    let mut seen = std::collections::BTreeSet::new();
    for client in 0..100 {
        let first = goes(&endpoints, client, 0);
        assert!((1..5).all(|turn| goes(&endpoints, client, turn) == first));
        assert_eq!(goes(&reloaded, client, 7), first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 4);
    // Nobody knows who calls where nothing is said of it.
    let pick = Pick {
        endpoints: Some(&endpoints),
        ..Pick::default()
    };
    let by_turns = |turn| Pick { turn, ..pick }.workload(&config.mesh, 0, 0, &Caller::default());
    assert!((1..9).any(|turn| by_turns(turn) != by_turns(0)));
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let rule = "trafficPolicy.outlierDetection = { consecutiveLocalOriginFailures = 1, consecutive5xxErrors = 1, \
                baseEjectionTime = \"600s\", maxEjectionPercent = 50 }";
    let config = config(&service(rule));
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let at = |endpoint| Chosen {
        service: 0,
        endpoint,
        port: 0,
    };
    assert!(endpoints.failed(&config.mesh, at(0), 0));
    assert!(endpoints.answered(&config.mesh, at(1), 500, 0));
    assert!(!endpoints.answered(&config.mesh, at(2), 500, 0));
    assert!(!endpoints.failed(&config.mesh, at(3), 0));
    assert_eq!(chosen(&config, &endpoints, &Caller::default(), 0), "cd");
    let told = [Ejected::Connect, Ejected::Answers].map(|reason| endpoints.ejections(reason));
    assert_eq!(told, [1, 1]);
    // What was counted stays after a reload.
    let reloaded = Endpoints::new(&config.mesh, &Resolved::default(), Some(&endpoints));
    assert_eq!(reloaded.ejections(Ejected::Connect), 1);
    // Once those are back, others may go.
    assert!(endpoints.answered(&config.mesh, at(2), 500, 600_000));
}

#[test]
fn who_is_busy_is_told_where_it_is_asked_for() {
    let rule = "trafficPolicy.loadBalancer.simple = \"LEAST_REQUEST\"";
    let config = config(&service(rule));
    let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
    let at = Chosen {
        service: 0,
        endpoint: 1,
        port: 0,
    };
    let busy = endpoints.begins(&config.mesh, at).unwrap();
    assert_eq!(endpoints.of(0)[1].health[0].active(), 1);
    assert_eq!(endpoints.of(0)[1].health[1].active(), 0);
    drop(busy);
    assert_eq!(endpoints.of(0)[1].health[0].active(), 0);
    let plain = plain();
    assert!(endpoints.begins(&plain.mesh, at).is_none());
}
