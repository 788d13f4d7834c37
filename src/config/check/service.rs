//! `[[serviceEntry]]` and `[[destinationRule]]` (policy semantics 9.1 and 9.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::check::Context;
use crate::config::check::mesh::labels;
use crate::config::checked::{
    DestinationRule, GatewayClass, Location, Mesh, Service, ServicePort, UpstreamTls,
};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::mesh::{ClientTls, Resolution, ServiceEntry, TlsMode};
use crate::config::read::Table;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";

/// What only one service may have.
#[derive(Default)]
struct Taken {
    hosts: BTreeMap<String, ResourceName>,
    addresses: BTreeMap<IpAddr, ResourceName>,
}

/// Every `[[serviceEntry]]`.
pub(crate) fn services(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    let mut taken = Taken::default();
    for raw in files.iter().flat_map(|f| f.service_entry.iter().flatten()) {
        let service = service(raw, mesh, &mut taken, cx);
        mesh.services.push(service);
    }
}

fn service(raw: &ServiceEntry, mesh: &Mesh, taken: &mut Taken, cx: &mut Context<'_>) -> Service {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let location = raw.location.unwrap_or(Location::External);
    let hosts = hosts(raw, &name, taken, cx);
    let addresses: Vec<IpAddr> = raw.addresses.iter().flatten().map(|at| at.value).collect();
    for at in raw.addresses.iter().flatten() {
        if let Some(other) = taken.addresses.insert(at.value, name.clone()) {
            cx.out.error(
                &at.place,
                format!("serviceEntry `{other}` already has address `{}`", at.value),
            );
        }
    }
    let workloads = workloads(raw, location, &name, mesh, cx);
    let endpoints = endpoints(raw, location, &hosts, cx);
    Service {
        allow_private: allow_private(raw, &endpoints, cx),
        endpoints,
        waypoint: waypoint(raw, location, &name, mesh, cx),
        ports: ports(raw, cx),
        subject_alt_names: match location {
            Location::External => subject_alt_names(raw.subject_alt_names.as_ref(), cx),
            Location::Internal => Vec::new(),
        },
        spiffe_names: match location {
            Location::External => None,
            Location::Internal => spiffe_names(raw.subject_alt_names.as_ref(), cx),
        },
        labels: labels(raw.labels.as_ref()),
        name,
        hosts,
        addresses,
        location,
        workloads,
    }
}

fn hosts(
    raw: &ServiceEntry,
    name: &ResourceName,
    taken: &mut Taken,
    cx: &mut Context<'_>,
) -> Vec<String> {
    let mut hosts = Vec::new();
    for at in &raw.hosts {
        let Some(host) = cx.host(at, true) else {
            continue;
        };
        // One host in two services would make the policy that holds depend on their order.
        if let Some(other) = taken.hosts.insert(host.clone(), name.clone()) {
            cx.out.error(
                &at.place,
                format!("serviceEntry `{other}` already has host `{host}`"),
            );
        }
        hosts.push(host);
    }
    hosts
}

fn ports(raw: &ServiceEntry, cx: &mut Context<'_>) -> Vec<ServicePort> {
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for port in &raw.ports {
        if !numbers.insert(port.number.0) {
            cx.out.error(
                &port.number.place,
                format!("a second port `{}`", port.number.0),
            );
        }
        if !names.insert(port.name.value.as_str()) {
            cx.out.error(
                &port.name.place,
                format!("a second port named `{}`", port.name.value),
            );
        }
    }
    let port = |p: &crate::config::raw::mesh::ServicePort| ServicePort {
        number: p.number.0,
        name: p.name.value.clone(),
        protocol: p.protocol,
        target_port: p.target_port.map_or(p.number.0, |t| t.0),
    };
    raw.ports.iter().map(port).collect()
}

/// Indices of the workloads that the selector takes, in the service's namespace.
fn workloads(
    raw: &ServiceEntry,
    location: Location,
    name: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Vec<usize> {
    let Some(selector) = &raw.workload_selector else {
        if location == Location::Internal && raw.whole() {
            cx.out.error(
                raw.place(),
                "a MESH_INTERNAL service needs `workloadSelector`",
            );
        }
        return Vec::new();
    };
    if location == Location::External {
        cx.out.error(
            selector.place(),
            "workloads are inside the mesh, expected `location = \"MESH_INTERNAL\"`",
        );
    }
    if raw.endpoints.is_some() {
        cx.out.error(
            selector.place(),
            "`endpoints` and `workloadSelector` exclude each other",
        );
    }
    let wanted = labels(Some(&selector.labels));
    if wanted.is_empty() && selector.whole() {
        cx.out
            .error(selector.place(), "expected at least one label");
    }
    let matches = |w: &crate::config::checked::Workload| {
        w.name.namespace == name.namespace && wanted.iter().all(|(k, v)| w.labels.get(k) == Some(v))
    };
    let found: Vec<usize> = mesh
        .workloads
        .iter()
        .enumerate()
        .filter(|(_, w)| matches(w))
        .map(|(i, _)| i)
        .collect();
    if found.is_empty() {
        cx.out.warn(
            selector.place(),
            format!(
                "no workloadEntry of namespace `{}` has these labels",
                name.namespace
            ),
        );
    }
    found
}

/// Where an external service is reached.
fn endpoints(
    raw: &ServiceEntry,
    location: Location,
    hosts: &[String],
    cx: &mut Context<'_>,
) -> Vec<String> {
    let written = raw.endpoints.iter().flatten().map(|e| &e.address);
    let dns = match raw.resolution.value {
        Resolution::Static => false,
        Resolution::Dns | Resolution::DnsRoundRobin => true,
        Resolution::None | Resolution::DynamicDns => {
            cx.out.error(
                &raw.resolution.place,
                "NONE and DYNAMIC_DNS are not supported yet, expected STATIC or DNS",
            );
            return Vec::new();
        }
    };
    if location == Location::Internal {
        for at in written {
            cx.out.error(
                &at.place,
                "a MESH_INTERNAL service takes its workloads from `workloadSelector`",
            );
        }
        if dns {
            cx.out
                .error(&raw.resolution.place, "a MESH_INTERNAL service is `STATIC`");
        }
        return Vec::new();
    }
    let mut endpoints = Vec::new();
    for at in written {
        match at.parse::<IpAddr>() {
            Ok(ip) => endpoints.push(ip.to_canonical().to_string()),
            Err(_) if dns => endpoints.extend(cx.host(at, false)),
            Err(_) => {
                let text = at.escape_debug();
                cx.out.error(
                    &at.place,
                    format!("`{text}` is not an IP address, which STATIC needs"),
                );
            }
        }
    }
    if raw.resolution.value == Resolution::DnsRoundRobin
        && raw.endpoints.as_ref().is_some_and(|e| e.len() > 1)
    {
        cx.out.error(
            &raw.resolution.place,
            "DNS_ROUND_ROBIN takes one endpoint at most",
        );
    }
    if raw.endpoints.is_none() {
        endpoints = implied(raw, dns, hosts, cx);
    }
    endpoints
}

/// Whether DNS may answer with addresses of the inside; of use only where DNS is asked.
fn allow_private(raw: &ServiceEntry, endpoints: &[String], cx: &mut Context<'_>) -> bool {
    let Some(at) = &raw.allow_private else {
        return false;
    };
    let named = endpoints.iter().any(|e| e.parse::<IpAddr>().is_err());
    if !named && raw.whole() {
        cx.out.error(
            &at.place,
            "nothing of this service is asked of DNS; addresses in `endpoints` are dialled as they stand",
        );
    }
    at.value
}

/// Names that a server's certificate may hold: exact, no wildcards.
fn subject_alt_names(raw: Option<&Vec<At<String>>>, cx: &mut Context<'_>) -> Vec<String> {
    let name = |at: &At<String>| match at.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_string()),
        Err(_) if at.contains("://") => {
            let text = at.escape_debug();
            cx.out.error(
                &at.place,
                format!("`{text}` is a URI, expected a DNS name or an IP address"),
            );
            None
        }
        Err(_) => cx.host(at, false),
    };
    raw.into_iter().flatten().filter_map(name).collect()
}

/// Identities that may answer for the workloads of a service inside, beside the workloads' own.
fn spiffe_names(
    raw: Option<&Vec<At<String>>>,
    cx: &mut Context<'_>,
) -> Option<std::sync::Arc<[SpiffeId]>> {
    let mut ids = Vec::new();
    for at in raw.into_iter().flatten() {
        match SpiffeId::parse(at) {
            Ok(id) if !id.path().is_empty() => ids.push(id),
            Ok(_) | Err(_) => cx.out.error(
                &at.place,
                format!(
                    "`{}` is no SPIFFE ID such as `spiffe://cluster.local/ns/default/sa/web`, by which workloads inside \
                     the mesh are known",
                    at.escape_debug()
                ),
            ),
        }
    }
    (!ids.is_empty()).then(|| ids.into())
}

/// Without `endpoints`: the hosts themselves by DNS, the addresses where STATIC.
fn implied(raw: &ServiceEntry, dns: bool, hosts: &[String], cx: &mut Context<'_>) -> Vec<String> {
    if !dns {
        if raw.addresses.is_none() && raw.workload_selector.is_none() && raw.whole() {
            cx.out.error(
                &raw.resolution.place,
                "STATIC needs `endpoints` or `addresses`",
            );
        }
        return raw
            .addresses
            .iter()
            .flatten()
            .map(|at| at.value.to_string())
            .collect();
    }
    if let Some(at) = raw.hosts.iter().find(|at| at.starts_with("*.")) {
        cx.out.error(
            &at.place,
            "a wildcard has no address in DNS; give `endpoints`",
        );
    }
    hosts
        .iter()
        .filter(|h| !h.starts_with('*'))
        .cloned()
        .collect()
}

/// Index of the gateway that traffic to the service passes.
fn waypoint(
    raw: &ServiceEntry,
    location: Location,
    name: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<usize> {
    let label = |key: &str| {
        raw.labels
            .iter()
            .flat_map(|l| &l.0)
            .find(|(k, _)| k.value == key)
            .map(|(_, v)| v)
    };
    let Some(written) = label(USE_WAYPOINT) else {
        if let Some(at) = label(USE_WAYPOINT_NAMESPACE) {
            cx.out.error(
                &at.place,
                format!("means nothing without the label `{USE_WAYPOINT}`"),
            );
        }
        return None;
    };
    if written.0 == "none" {
        return None;
    }
    let namespace = label(USE_WAYPOINT_NAMESPACE).map_or(name.namespace.as_str(), |at| &at.0);
    let gateway = ResourceName::new(namespace, &written.0);
    if !cx.exists("gateway", &gateway, &written.place) {
        return None;
    }
    let index = mesh.gateways.iter().position(|g| g.name == gateway)?;
    let (class, wanted) = match location {
        Location::External => (GatewayClass::Egress, "ringgate-egress"),
        Location::Internal => (GatewayClass::Waypoint, "istio-waypoint"),
    };
    if mesh.gateways.get(index).is_some_and(|g| g.class != class) {
        cx.out.error(
            &written.place,
            format!("gateway `{gateway}` is not of class `{wanted}`"),
        );
    }
    Some(index)
}

/// Every `[[destinationRule]]`.
pub(crate) fn destination_rules(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.destination_rule.iter().flatten())
    {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let tls = client_tls(&raw.traffic_policy.tls, cx);
        let Some(host) = cx.host(&raw.host, true) else {
            continue;
        };
        if mesh.destination_rules.iter().any(|d| d.host == host) {
            cx.out.error(
                &raw.host.place,
                format!("a second destinationRule for host `{host}`"),
            );
        }
        match mesh
            .services
            .iter()
            .find(|s| s.hosts.iter().any(|h| covers(h, &host)))
        {
            Some(service) if service.location == Location::Internal => {
                cx.out.error(
                    &raw.host.place,
                    "a host inside the mesh is reached by mTLS; no destinationRule applies",
                );
            }
            Some(_) => {}
            None => unknown_host(&raw.host, files, mesh, cx),
        }
        mesh.destination_rules
            .extend(tls.map(|tls| DestinationRule { name, host, tls }));
    }
}

/// Whether the host of a service takes in the host of a rule.
fn covers(service: &str, rule: &str) -> bool {
    service == rule
        || service
            .strip_prefix('*')
            .is_some_and(|suffix| rule.len() > suffix.len() && rule.ends_with(suffix))
}

fn unknown_host(host: &At<String>, files: &[File], mesh: &Mesh, cx: &mut Context<'_>) {
    let written: usize = files
        .iter()
        .filter_map(|f| f.service_entry.as_ref())
        .map(Vec::len)
        .sum();
    if cx.known.unsure() || written > mesh.services.len() {
        return;
    }
    let hosts = mesh
        .services
        .iter()
        .flat_map(|s| s.hosts.iter().map(String::as_str));
    let near = crate::config::nearest::hint(host, hosts);
    cx.out.error(
        &host.place,
        format!("no serviceEntry has the host `{}`{near}", host.value),
    );
}

fn client_tls(raw: &ClientTls, cx: &mut Context<'_>) -> Option<UpstreamTls> {
    match raw.mode.value {
        TlsMode::Disable => {
            let set = raw.sni.is_some()
                || raw.subject_alt_names.is_some()
                || raw.ca_certificates.is_some();
            if set {
                cx.out.error(
                    &raw.mode.place,
                    "DISABLE leaves no use for the other keys of `tls`",
                );
            }
            Some(UpstreamTls::Disable)
        }
        TlsMode::Simple => Some(UpstreamTls::Simple {
            sni: raw.sni.as_ref().and_then(|at| cx.host(at, false)),
            subject_alt_names: subject_alt_names(raw.subject_alt_names.as_ref(), cx),
            ca_certificates: raw.ca_certificates.as_ref().map(|at| cx.path(at)),
        }),
        TlsMode::Mutual | TlsMode::IstioMutual => {
            cx.out.error(
                &raw.mode.place,
                "MUTUAL and ISTIO_MUTUAL are not supported yet, expected SIMPLE or DISABLE",
            );
            None
        }
    }
}
