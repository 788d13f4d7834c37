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

/// Ejections so far, and what is left out now.
#[must_use]
pub fn metrics(mesh: &Mesh, endpoints: &Endpoints, now_ms: u64) -> [Own; 3] {
    let services = (0..mesh.services.len()).flat_map(|at| endpoints.of(at));
    let ports = services.flat_map(|endpoint| &endpoint.health);
    let out = ports.filter(|health| health.is_ejected(now_ms)).count();
    let reasons = [Ejected::Connect, Ejected::Answers];
    let value = |reason: Ejected| {
        let labels = vec![("reason", reason.label().to_owned())];
        (labels, endpoints.ejections(reason))
    };
    [
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
    ]
}
