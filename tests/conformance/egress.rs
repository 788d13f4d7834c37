//! Which service of the registry a host and port belong to (policy semantics 9.1 and 9.3).

use ringgate::config::checked::{Location, Protocol, Service, ServicePort};
use ringgate::policy::{Decision, OutboundTarget, decide_outbound};
use ringgate::role::directory::Directory;
use ringgate::vocab::host::Host;
use ringgate::vocab::resource::ResourceName;
use serde_json::Value;

use crate::{Outcome, strings, text};

pub(crate) fn run(case: &Value) -> Outcome {
    let services: Vec<Service> = case["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(service)
        .collect();
    let request = &case["request"];
    let host = Host::parse(text(request, "host")).unwrap();
    let port = u16::try_from(request["port"].as_u64().unwrap()).unwrap();
    let found = Directory::of(&services).registered(&services, host.name(), port);
    if let Some(service) = found {
        return Ok(services[service].name.name.as_str().into());
    }
    let allow_any = match text(&case["mesh"], "outboundTrafficPolicy") {
        "ALLOW_ANY" => true,
        "REGISTRY_ONLY" | "" => false,
        other => return Err(format!("outboundTrafficPolicy {other}")),
    };
    let asked = format!("{}:{port}", host.name());
    let verdict = decide_outbound(OutboundTarget::Unknown(&asked), allow_any);
    Ok(match verdict.decision {
        Decision::Allow => "passthrough".into(),
        Decision::Deny => "blocked".into(),
    })
}

fn service(value: &Value) -> Service {
    let port = |p: &Value| {
        let number = u16::try_from(p["number"].as_u64().unwrap()).unwrap();
        ServicePort {
            number,
            name: format!("port-{number}"),
            protocol: match text(p, "protocol") {
                "HTTP" => Protocol::Http,
                "TLS" => Protocol::Tls,
                other => panic!("protocol {other}"),
            },
            target_port: number,
        }
    };
    Service {
        name: ResourceName::new("default", text(value, "name")),
        hosts: strings(&value["hosts"]),
        addresses: Vec::new(),
        ports: value["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(port)
            .collect(),
        location: Location::External,
        workloads: Vec::new(),
        endpoints: Vec::new(),
        subject_alt_names: Vec::new(),
        allow_private: false,
        waypoint: None,
        labels: std::collections::BTreeMap::new(),
    }
}
