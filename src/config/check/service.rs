//! `[[serviceEntry]]` (policy semantics 9.1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::check::Context;
use crate::config::check::mesh::{labels, locality, weight};
use crate::config::check::names::dns_label;
use crate::config::check::waypoint::Bindings;
use crate::config::checked::{
    Balance, Location, Mesh, Preference, Service, ServiceEndpoint, ServicePort,
};
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::mesh::{Resolution, ServiceEntry};
use crate::config::read::{Read as _, Table};
use crate::vocab::cidr::Cidr;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// Istio's form of `trafficDistribution`.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// `"false"`: no address is allocated, so that the name stands for the addresses of the endpoints.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

/// What only one service may have.
#[derive(Default)]
struct Taken {
    hosts: BTreeMap<String, Vec<Holder>>,
    addresses: Vec<(Cidr, ResourceName)>,
}

/// A service that has a host already.
struct Holder {
    name: ResourceName,
    export_to: Option<Vec<String>>,
    waypoint: Option<usize>,
}

/// Every `[[serviceEntry]]`.
pub(crate) fn services(files: &[File], mesh: &mut Mesh, bindings: &Bindings, cx: &mut Context<'_>) {
    let mut taken = Taken::default();
    for raw in files.iter().flat_map(|f| f.service_entry.iter().flatten()) {
        let service = service(raw, (mesh, bindings), &mut taken, cx);
        mesh.services.push(service);
    }
}

fn service(
    raw: &ServiceEntry,
    (mesh, bindings): (&Mesh, &Bindings),
    taken: &mut Taken,
    cx: &mut Context<'_>,
) -> Service {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let location = raw.location.unwrap_or(Location::External);
    let holder = Holder {
        export_to: export_to(raw, &name, cx),
        waypoint: bindings.service(raw.labels.as_ref(), location, &name, mesh, cx),
        name,
    };
    let hosts = hosts(raw, &holder, taken, cx);
    let Holder {
        name,
        export_to,
        waypoint,
    } = holder;
    let (addresses, blocks) = addresses(raw, location, &name, taken, cx);
    let workloads = workloads(raw, location, &name, mesh, cx);
    let endpoints = endpoints(raw, location, &hosts, cx);
    Service {
        allow_private: allow_private(raw, &endpoints, cx),
        forward_client: forward_client(raw, location, cx),
        endpoints,
        waypoint,
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
        balance: Balance {
            preference: preference(raw, cx),
            ..Balance::default()
        },
        passthrough: raw.resolution.value == Resolution::None,
        allocated: Vec::new(),
        name,
        hosts,
        addresses,
        blocks,
        export_to,
        location,
        workloads,
    }
}

/// `exportTo`; `None` for all namespaces.
fn export_to(raw: &ServiceEntry, name: &ResourceName, cx: &mut Context<'_>) -> Option<Vec<String>> {
    let written = raw.export_to.as_ref()?;
    let mut namespaces = vec![name.namespace.clone()];
    for at in written {
        match at.as_str() {
            "." => {}
            "*" if written.len() == 1 => return None,
            "~" if written.len() == 1 => return Some(Vec::new()),
            "*" | "~" => cx.out.error(&at.place, "stands alone or not at all"),
            other if dns_label(other) => namespaces.push(other.to_owned()),
            other => cx.out.error(
                &at.place,
                format!(
                    "`{}` is not a namespace, expected `.`, `*`, `~` or the name of one",
                    other.escape_debug()
                ),
            ),
        }
    }
    // `exportTo` without the own namespace takes it away from there too.
    if !written
        .iter()
        .any(|at| at.value == "." || at.value == name.namespace)
    {
        namespaces.swap_remove(0);
    }
    Some(namespaces)
}

/// `trafficDistribution`, or Istio's annotation.
fn preference(raw: &ServiceEntry, cx: &mut Context<'_>) -> Preference {
    let annotations = raw.annotations.iter().flat_map(|a| &a.0);
    let annotation = annotations
        .filter(|(key, _)| key.value == TRAFFIC_DISTRIBUTION)
        .map(|(_, value)| value)
        .next();
    match (&raw.traffic_distribution, annotation) {
        (Some(at), None) => at.value,
        (Some(at), Some(_)) => {
            cx.out.error(
                &at.place,
                format!(
                    "the annotation `{TRAFFIC_DISTRIBUTION}` says the same; expected one of them"
                ),
            );
            at.value
        }
        (None, Some(at)) => match at.0.as_str() {
            "Any" => Preference::Any,
            "PreferClose" | "PreferSameZone" => Preference::Zone,
            "PreferSameNode" => Preference::Node,
            other => {
                let expected = Preference::EXPECTED;
                let text = other.escape_debug();
                cx.out
                    .error(&at.place, format!("`{text}` is not {expected}"));
                Preference::Any
            }
        },
        (None, None) => Preference::Any,
    }
}

/// `addresses`: single ones and blocks.
fn addresses(
    raw: &ServiceEntry,
    location: Location,
    name: &ResourceName,
    taken: &mut Taken,
    cx: &mut Context<'_>,
) -> (Vec<IpAddr>, Vec<Cidr>) {
    let (mut single, mut blocks) = (Vec::new(), Vec::new());
    for at in raw.addresses.iter().flatten() {
        let (first, prefix) = at.value.parts();
        let known = taken.addresses.iter().find(|(block, _)| *block == at.value);
        if let Some((_, other)) = known {
            let written = written(at.value);
            cx.out.error(
                &at.place,
                format!("serviceEntry `{other}` already has address `{written}`"),
            );
        }
        taken.addresses.push((at.value, name.clone()));
        if is_single(at.value) {
            single.push(first);
            continue;
        }
        if location == Location::Internal {
            cx.out.error(
                &at.place,
                "a block stands for addresses outside; a MESH_INTERNAL service has single ones",
            );
        } else if raw.resolution.value != Resolution::None {
            cx.out.error(
                &at.place,
                "a block needs `resolution = \"NONE\"`: the address that was asked for is dialled",
            );
        } else if prefix == 0 {
            cx.out.error(
                &at.place,
                "every address there is; `outboundTrafficPolicy = \"ALLOW_ANY\"` says that",
            );
        }
        blocks.push(at.value);
    }
    (single, blocks)
}

fn is_single(block: Cidr) -> bool {
    block.first() == block.last()
}

fn written(block: Cidr) -> String {
    let (first, prefix) = block.parts();
    if is_single(block) {
        first.to_string()
    } else {
        format!("{first}/{prefix}")
    }
}

/// Whether an address may be allocated for the service, by its label.
pub(crate) fn may_allocate(service: &Service) -> bool {
    let label = service.labels.get(AUTO_ALLOCATE).map(String::as_str);
    !service.passthrough && label != Some("false")
}

fn hosts(raw: &ServiceEntry, own: &Holder, taken: &mut Taken, cx: &mut Context<'_>) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for at in &raw.hosts {
        let Some(host) = cx.host(at, true) else {
            continue;
        };
        let holders = taken.hosts.entry(host.clone()).or_default();
        for other in holders.iter() {
            if let Some(clash) = clash(other, own) {
                let other = &other.name;
                cx.out.error(
                    &at.place,
                    format!("serviceEntry `{other}` already has host `{host}`{clash}"),
                );
                break;
            }
        }
        holders.push(Holder {
            name: own.name.clone(),
            export_to: own.export_to.clone(),
            waypoint: own.waypoint,
        });
        hosts.push(host);
    }
    hosts
}

/// Why two services cannot have one host. Which of them a client means must not depend on their order, for the policy that
/// holds does: a client means its own namespace's, else the one that its namespace sees.
fn clash(a: &Holder, b: &Holder) -> Option<String> {
    if a.name.namespace == b.name.namespace {
        return Some(String::new());
    }
    if a.waypoint.is_some() && a.waypoint == b.waypoint {
        return Some(", and both are behind one gateway".to_owned());
    }
    // Either one's own namespace is settled: it means its own.
    let settled = |n: &String| *n == a.name.namespace || *n == b.name.namespace;
    let seen = match (&a.export_to, &b.export_to) {
        (None, None) => Some("other namespaces see both".to_owned()),
        (Some(some), None) | (None, Some(some)) => {
            let other = some.iter().find(|n| !settled(n));
            other.map(|n| format!("namespace `{n}` sees both"))
        }
        (Some(a), Some(b)) => {
            let both = a.iter().find(|n| b.contains(n) && !settled(n));
            both.map(|n| format!("namespace `{n}` sees both"))
        }
    };
    seen.map(|seen| format!(", and {seen}; expected `exportTo` to keep them apart"))
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
) -> Vec<ServiceEndpoint> {
    let written = raw.endpoints.iter().flatten().map(|e| &e.address);
    let dns = match raw.resolution.value {
        Resolution::Static => false,
        Resolution::Dns | Resolution::DnsRoundRobin => true,
        Resolution::None => {
            passthrough(raw, location, cx);
            return Vec::new();
        }
        Resolution::DynamicDns => {
            cx.out.error(
                &raw.resolution.place,
                "DYNAMIC_DNS is not supported yet, expected STATIC, DNS or NONE",
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
    for raw in raw.endpoints.iter().flatten() {
        let at = &raw.address;
        let address = match at.parse::<IpAddr>() {
            Ok(ip) => Some(ip.to_canonical().to_string()),
            Err(_) if dns => cx.host(at, false),
            Err(_) => {
                let text = at.escape_debug();
                cx.out.error(
                    &at.place,
                    format!("`{text}` is not an IP address, which STATIC needs"),
                );
                None
            }
        };
        let endpoint = ServiceEndpoint {
            address: address.unwrap_or_default(),
            weight: weight(raw.weight.as_ref(), cx),
            locality: locality(raw.locality.as_ref(), None, cx),
        };
        endpoints.extend((!endpoint.address.is_empty()).then_some(endpoint));
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
        let implied = implied(raw, dns, hosts, cx);
        endpoints = implied.into_iter().map(ServiceEndpoint::new).collect();
    }
    endpoints
}

/// `resolution = "NONE"`: the address that the client asked for is dialled, so it must be one of the service's.
fn passthrough(raw: &ServiceEntry, location: Location, cx: &mut Context<'_>) {
    let place: &Place = &raw.resolution.place;
    if location == Location::Internal {
        cx.out.error(place, "a MESH_INTERNAL service is `STATIC`");
    } else if raw.endpoints.is_some() {
        cx.out.error(
            place,
            "NONE leaves no use for `endpoints`: the address that was asked for is dialled",
        );
    } else if raw.addresses.is_none() && raw.whole() {
        cx.out.error(
            place,
            "NONE needs `addresses`: single ones or blocks, of which the one that was asked for is dialled",
        );
    }
}

/// Whether who calls is told outside; members of the mesh are told in any case.
fn forward_client(raw: &ServiceEntry, location: Location, cx: &mut Context<'_>) -> bool {
    let Some(at) = &raw.forward_client else {
        return false;
    };
    if location == Location::Internal {
        let why = "is for services of location `MESH_EXTERNAL`: those inside are told who calls in any case";
        cx.out.error(&at.place, why);
    }
    at.value
}

/// Whether DNS may answer with addresses of the inside; of use only where DNS is asked.
fn allow_private(raw: &ServiceEntry, endpoints: &[ServiceEndpoint], cx: &mut Context<'_>) -> bool {
    let Some(at) = &raw.allow_private else {
        return false;
    };
    let named = endpoints
        .iter()
        .any(|e| e.address.parse::<IpAddr>().is_err());
    if !named && raw.whole() {
        cx.out.error(
            &at.place,
            "nothing of this service is asked of DNS; addresses in `endpoints` are dialled as they stand",
        );
    }
    at.value
}

/// Names that a server's certificate may hold: exact, no wildcards.
pub(crate) fn subject_alt_names(
    raw: Option<&Vec<At<String>>>,
    cx: &mut Context<'_>,
) -> Vec<String> {
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
            .map(|at| at.value.first().to_string())
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
