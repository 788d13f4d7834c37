//! Which endpoints a process checks, and as which of its gateways: those that it dials itself.

use std::net::IpAddr;

use crate::config::checked::Mesh;
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
        let Some(gateway) = mesh.asker(service, own) else {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;
    use crate::config::checked::GatewayClass;
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

    const OUT: &str = "[[egress]]\ngateway = \"default/out\"\nhbone = \"10.0.1.2:15008\"\n";
    const WP: &str = "[[waypoint]]\ngateway = \"default/wp\"\nhbone = \"10.0.1.1:15008\"\n";

    /// Ten times a thousand ports are checked, and one more is an error at the rule that is too much. What no gateway of this
    /// process dials does not count.
    #[test]
    fn more_than_can_be_checked_is_an_error() {
        let problems = |more: &str, gateway: &str| {
            let ports: Vec<String> = (1..=1000)
                .map(|n| format!("{{ number = {n}, name = \"http-{n}\", protocol = \"HTTP\" }}"))
                .collect();
            let at: Vec<String> = (1..=10)
                .map(|n| format!("{{ address = \"192.0.2.{n}\" }}"))
                .collect();
            let service = format!(
                "[[serviceEntry]]\nname = \"many\"\nhosts = [\"many.example\"]\nlabels = {{ \"istio.io/use-waypoint\" = \"out\" }}\nports = [{}]\nresolution = \"STATIC\"\nendpoints = [{}]\n",
                ports.join(", "),
                at.join(", ")
            );
            let rule = |host: &str| {
                // Hosts have no case.
                format!(
                    "[[destinationRule]]\nname = \"{host}\"\nhost = \"{host}.Example\"\ntrafficPolicy.healthCheck = {{ tcpHealthCheck = {{}} }}\n"
                )
            };
            let process = format!("[records]\npath = \"r.jsonl\"\n{gateway}");
            let text = [&*process, MESH, &service, &rule("many"), more].concat();
            let files = [("f.toml".into(), text)];
            let read = config::parse_with(&files, Path::new("/"), config::Options::default());
            read.err().map(|errors| errors.to_string())
        };
        assert_eq!(problems("", OUT), None);
        let one_more = "[[destinationRule]]\nname = \"one\"\nhost = \"outside.example\"\ntrafficPolicy.healthCheck = { tcpHealthCheck = {} }\n";
        let told = problems(one_more, OUT).unwrap();
        let want = "destinationRule[0].trafficPolicy.healthCheck: with the ports of `default/many` this process would check 10002 ports of endpoints, at most 10000 can be";
        assert!(told.contains(want), "{told}");
        assert_eq!(problems(one_more, WP), None);
    }
}
