//! Which endpoints a process checks, and as which of its gateways: those that it dials itself.

use std::net::IpAddr;

use crate::config::checked::route::RouteParent;
use crate::config::checked::{GatewayClass, Location, Mesh};
use crate::role::endpoints::{Chosen, Endpoints, Place};
use crate::vocab::resource::ResourceName;

/// One port of an endpoint, in whatever snapshot it is found: its service, its address, and the port that is dialled.
pub type Subject = (ResourceName, IpAddr, u16);

/// An endpoint that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it is.
    pub subject: Subject,
    /// Where it stands in its mesh.
    pub at: Chosen,
    /// Who asks, as an index into `Mesh::gateways`: a gateway of this process.
    pub gateway: usize,
}

/// All endpoints with a `healthCheck` that one of the gateways `own` dials. Where several do, the first one asks: what is
/// known of an endpoint is the whole process's.
#[must_use]
pub fn wanted(mesh: &Mesh, endpoints: &Endpoints, own: &[usize]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (service, declared) in mesh.services.iter().enumerate() {
        let Some(check) = &declared.balance.check else {
            continue;
        };
        let Some(gateway) = asker(mesh, service, own) else {
            continue;
        };
        let ports = || declared.ports.iter().enumerate();
        for (endpoint, known) in endpoints.of(service).iter().enumerate() {
            let Some(address) = address(mesh, known.place) else {
                continue;
            };
            for (port, spoken) in ports().filter(|(_, p)| p.protocol.takes(check)) {
                all.push(Wanted {
                    subject: (declared.name.clone(), address, spoken.target_port),
                    at: Chosen {
                        service,
                        endpoint,
                        port,
                    },
                    gateway,
                });
            }
        }
    }
    all
}

fn address(mesh: &Mesh, place: Place) -> Option<IpAddr> {
    match place {
        Place::Workload(at) => mesh.workloads.get(at).map(|w| w.address),
        Place::Outside(ip) => Some(ip),
    }
}

/// The gateway of `own` that dials the endpoints of a service: the one that stands before it, and before one without such a
/// gateway those that a route leads there from.
fn asker(mesh: &Mesh, service: usize, own: &[usize]) -> Option<usize> {
    let declared = mesh.services.get(service)?;
    if let Some(gateway) = declared.waypoint {
        return own.contains(&gateway).then_some(gateway);
    }
    let leads = |gateway: &usize| {
        let outside = declared.location == Location::External;
        let class = mesh.gateways.get(*gateway).map(|g| g.class);
        // What no egress gateway stands before is reached from an edge alone.
        if outside && class != Some(GatewayClass::Ingress) {
            return false;
        }
        let here = |parent: &RouteParent| match parent {
            RouteParent::Gateway(at) => at == gateway,
            RouteParent::Service(at, _) => {
                mesh.services.get(*at).and_then(|s| s.waypoint) == Some(*gateway)
            }
        };
        let routes = mesh.routes.iter().filter(|r| r.parents.iter().any(here));
        routes.flat_map(|route| &route.rules).any(|rule| {
            let backends = rule.backends.iter().map(|b| b.backend);
            let copies = rule.mirrors.iter().map(|m| m.backend);
            backends.chain(copies).any(|b| b.service == service)
        })
    };
    own.iter().copied().find(leads)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;
    use crate::upstream::resolved::Resolved;

    const MESH: &str = r#"
[authority]
[mesh]

[[gateway]]
name = "wp"
gatewayClassName = "istio-waypoint"
address = "10.0.1.1"

[[gateway]]
name = "out"
gatewayClassName = "ringgate-egress"
address = "10.0.1.2"

[[gateway]]
name = "edge"
gatewayClassName = "ringgate-ingress"
address = "10.0.1.3"

[[workloadEntry]]
name = "a"
serviceAccount = "api"
address = "10.0.0.1"
labels = { app = "api" }

[[serviceEntry]]
name = "behind"
hosts = ["behind.example"]
labels = { "istio.io/use-waypoint" = "wp" }
ports = [{ number = 80, name = "http", protocol = "HTTP" }, { number = 90, name = "tcp", protocol = "TCP" }, { number = 91, name = "grpc", protocol = "GRPC" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }

[[serviceEntry]]
name = "bare"
hosts = ["bare.example"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }

[[serviceEntry]]
name = "outside"
hosts = ["outside.example"]
labels = { "istio.io/use-waypoint" = "out" }
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.1" }, { address = "192.0.2.2" }]

[[serviceEntry]]
name = "beside"
hosts = ["beside.example"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.3" }]
"#;

    const ROUTES: &str = r#"
[[httpRoute]]
name = "edge"
parentRefs = [{ name = "edge" }]
hostnames = ["shop.example"]
rules = [{ backendRefs = [{ name = "bare", port = 80 }, { name = "beside", port = 80 }] }]
"#;

    /// What each gateway checks, by the name of the service and the port, where every service has this rule.
    fn checked(rule: &str, more: &str) -> [String; 3] {
        let rules = ["behind", "bare", "outside", "beside"].map(|host| {
            format!(
                "[[destinationRule]]\nname = \"{host}\"\nhost = \"{host}.example\"\ntrafficPolicy.healthCheck = {{ {rule} }}\n"
            )
        });
        let text = [MESH, more, &rules.concat()].concat();
        let files = [("f.toml".into(), text)];
        let config = config::parse_with(&files, Path::new("/"), config::Options::default());
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let endpoints = Endpoints::new(&config.mesh, &Resolved::default(), None);
        let own = |class| {
            let mut gateways = config.mesh.gateways.iter();
            let own = gateways.position(|g| g.class == class).unwrap();
            let all = wanted(&config.mesh, &endpoints, &[own]);
            let told = all.iter().map(|w| {
                assert_eq!(w.gateway, own);
                format!("{}@{}:{}", w.subject.0.name, w.subject.1, w.subject.2)
            });
            told.collect::<Vec<_>>().join(" ")
        };
        [
            own(GatewayClass::Waypoint),
            own(GatewayClass::Egress),
            own(GatewayClass::Ingress),
        ]
    }

    #[test]
    fn each_gateway_checks_what_it_dials() {
        let tcp = "tcpHealthCheck = {}";
        let behind = "behind@10.0.0.1:80 behind@10.0.0.1:90 behind@10.0.0.1:91";
        let outside = "outside@192.0.2.1:80 outside@192.0.2.2:80";
        assert_eq!(checked(tcp, ""), [behind, outside, ""]);
        // Who has a route to it dials it, where no other gateway does.
        assert_eq!(
            checked(tcp, ROUTES),
            [behind, outside, "bare@10.0.0.1:80 beside@192.0.2.3:80"]
        );
        // A waypoint reaches nothing outside by itself.
        let from_waypoint = ROUTES
            .replace(
                "{ name = \"edge\" }",
                "{ kind = \"Service\", name = \"behind\" }",
            )
            .replace("hostnames = [\"shop.example\"]\n", "");
        assert_eq!(
            checked(tcp, &from_waypoint)[0],
            format!("{behind} bare@10.0.0.1:80")
        );
        let http = "httpHealthCheck.path = \"/\"";
        assert_eq!(
            checked(http, "")[0],
            "behind@10.0.0.1:80 behind@10.0.0.1:91"
        );
    }
}
