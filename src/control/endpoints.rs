//! What is told of the endpoints of services: by the admin endpoint, and in the metrics.

use serde_json::{Value, json};

use crate::config::checked::Mesh;
use crate::role::endpoints::{Ejected, Endpoint, Endpoints, Place};
use crate::telemetry::metrics::registry::Own;

/// All endpoints, by service and port.
#[must_use]
pub fn to_json(mesh: &Mesh, endpoints: &Endpoints, now_ms: u64) -> Value {
    let services = mesh.services.iter().enumerate();
    let ports = services.flat_map(|(at, service)| {
        let ports = service.ports.iter().enumerate();
        ports.map(move |(nth, port)| {
            let all = endpoints.of(at).iter();
            let one = |endpoint: &Endpoint| {
                let health = endpoint.health.get(nth);
                json!({
                    "endpoint": place(mesh, endpoint.place),
                    "weight": endpoint.weight,
                    "ejectedForMs": health.map_or(0, |h| h.ejected_for_ms(now_ms)),
                    "ejections": health.map_or(0, |h| h.ejections(now_ms, &service.balance.outlier)),
                    "healthy": health.and_then(|h| h.checked.is_well()),
                    "active": health.map_or(0, |h| h.active()),
                })
            };
            let load = endpoints.load(at, nth);
            json!({
                "connections": load.map(|(connections, _)| connections),
                "requests": load.map(|(_, requests)| requests),
                "service": service.name.to_string(),
                "port": port.number,
                "endpoints": all.map(one).collect::<Vec<_>>(),
            })
        })
    });
    Value::Array(ports.collect())
}

fn place(mesh: &Mesh, place: Place) -> String {
    match place {
        Place::Outside(ip) => ip.to_string(),
        Place::Workload(at) => {
            let workload = mesh.workloads.get(at);
            workload.map(|w| w.name.to_string()).unwrap_or_default()
        }
    }
}

/// What the checks of endpoints have shown of each, and how many there were.
fn checks(mesh: &Mesh, endpoints: &Endpoints) -> [Own; 2] {
    let mut values = Vec::new();
    for (at, service) in mesh.services.iter().enumerate() {
        for endpoint in endpoints.of(at) {
            for (port, health) in service.ports.iter().zip(&endpoint.health) {
                let Some(well) = health.checked.is_well() else {
                    continue;
                };
                let labels = vec![
                    ("service", service.name.to_string()),
                    ("port", port.number.to_string()),
                    ("endpoint", place(mesh, endpoint.place)),
                ];
                values.push((labels, u64::from(well)));
            }
        }
    }
    let (passed, failed) = endpoints.checks();
    let count = |result: &str, count| (vec![("result", result.to_owned())], count);
    [
        Own {
            name: "ringgate_endpoint_healthy",
            help: "Whether health checks hold an endpoint to be well",
            counts: false,
            values,
        },
        Own {
            name: "ringgate_health_checks",
            help: "Health checks of endpoints",
            counts: true,
            values: vec![count("success", passed), count("failure", failed)],
        },
    ]
}

/// Ejections so far, what is left out now, and what health checks have shown.
#[must_use]
pub fn metrics(mesh: &Mesh, endpoints: &Endpoints, now_ms: u64) -> Vec<Own> {
    let services = (0..mesh.services.len()).flat_map(|at| endpoints.of(at));
    let ports = services.flat_map(|endpoint| &endpoint.health);
    let out = ports.filter(|health| health.is_ejected(now_ms)).count();
    let reasons = [Ejected::Connect, Ejected::Answers];
    let value = |reason: Ejected| {
        let labels = vec![("reason", reason.label().to_owned())];
        (labels, endpoints.ejections(reason))
    };
    let mut all = vec![
        Own {
            name: "ringgate_endpoint_ejections",
            help: "Ejections of endpoints by outlier detection",
            counts: true,
            values: reasons.map(value).to_vec(),
        },
        Own {
            name: "ringgate_upstream_overflows",
            help: "Requests and connections that a connectionPool has refused",
            counts: true,
            values: vec![(Vec::new(), endpoints.overflows())],
        },
        Own::gauge(
            "ringgate_endpoints_ejected",
            "Ports of endpoints that outlier detection leaves out now",
            u64::try_from(out).unwrap_or(u64::MAX),
        ),
    ];
    all.extend(checks(mesh, endpoints));
    all
}
