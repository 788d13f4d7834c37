//! `[mesh]`, `[[gateway]]`, `[[workloadEntry]]`, and the order in which the rest of the mesh is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::check::names::{dns_label, dns_subdomain};
use crate::config::check::waypoint::{Bindings, waypoint_for};
use crate::config::check::{
    Context, address, authn, destination, labels, policy, provider, rate_limit, revocation, route,
    service,
};
use crate::config::checked::{Gateway, Mesh, Workload};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::mesh::{Labels, MeshSettings, OutboundTrafficPolicy};
use crate::config::read::{AnyText, Port, Table};
use crate::identity::revocation::Revocations;
use crate::vocab::locality::Locality;
use crate::vocab::path::PathNormalization;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// HBONE.
const HBONE_PORT: u16 = 15008;
/// `mesh.trustDomain` where it is not written.
const TRUST_DOMAIN: &str = "cluster.local";
/// `mesh.rootNamespace` where it is not written.
const ROOT_NAMESPACE: &str = "istio-system";

/// Everything that is reloaded while running.
pub(crate) fn mesh(files: &[File], cx: &mut Context<'_>) -> Option<Mesh> {
    let mut mesh = settings(files, cx)?;
    labels::misspelt(files, cx);
    gateways(files, &mut mesh, cx);
    let bindings = Bindings::new(files, &mesh, cx);
    workloads(files, &mut mesh, &bindings, cx);
    service::services(files, &mut mesh, &bindings, cx);
    address::allocate(&mut mesh);
    destination::destination_rules(files, &mut mesh, cx);
    provider::providers(files, &mut mesh, cx);
    policy::policies(files, &mut mesh, cx);
    authn::peer_authentications(files, &mut mesh, cx);
    authn::request_authentications(files, &mut mesh, cx);
    route::routes(files, &mut mesh, cx);
    rate_limit::rate_limits(files, &mut mesh, cx);
    labels::unbound(files, &mesh, cx);
    mesh.revocations = revocation::revocations(files, cx);
    Some(mesh)
}

/// `[mesh]` with its defaults, and no resources yet.
fn settings(files: &[File], cx: &mut Context<'_>) -> Option<Mesh> {
    let mut tables = files.iter().filter_map(|f| f.mesh.as_ref());
    let table = tables.next();
    for second in tables {
        cx.out.error(
            second.place(),
            "a second [mesh]; there is one for all files",
        );
    }
    let domain = |cx: &mut Context<'_>, at: &At<String>| {
        let parsed = TrustDomain::parse(at);
        if let Err(error) = &parsed {
            cx.out
                .error(&at.place, format!("`{}`: {error}", at.escape_debug()));
        }
        parsed.ok()
    };
    let own = table
        .and_then(|t| t.trust_domain.as_ref())
        .and_then(|at| domain(cx, at));
    let written = table.and_then(|t| t.trust_domain_aliases.as_ref());
    let aliases: Vec<_> = written
        .iter()
        .flat_map(|list| &list.0)
        .filter_map(|at| domain(cx, at))
        .collect();
    let root = table.and_then(|t| t.root_namespace.as_ref());
    if let Some(root) = root.filter(|root| !dns_label(root)) {
        cx.out.error(
            &root.place,
            format!(
                "`{}` is not a namespace: lower case letters, digits and `-`",
                root.escape_debug()
            ),
        );
    }
    let compat = table.and_then(|t| t.compat.as_ref());
    let (allow_any, dry_run) = weakened(table, cx);
    Some(Mesh {
        trust_domain: own.or_else(|| TrustDomain::parse(TRUST_DOMAIN).ok())?,
        trust_domain_aliases: aliases,
        root_namespace: root.map_or(ROOT_NAMESPACE, |root| &root.value).to_owned(),
        path_normalization: path_normalization(table),
        outbound_allow_any: allow_any,
        num_trusted_proxies: table.and_then(|t| t.num_trusted_proxies).map_or(0, |n| n.0),
        forward_client_cert: table
            .and_then(|t| t.forward_client_cert)
            .unwrap_or_default(),
        gateway_name_selector: compat.and_then(|c| c.gateway_name_selector).unwrap_or(true),
        gateway_selectors: compat.and_then(|c| c.gateway_selectors).unwrap_or(true),
        audience_stripping: compat.and_then(|c| c.audience_stripping).unwrap_or(false),
        l4_deny: compat.and_then(|c| c.l4_deny).unwrap_or_default(),
        dry_run,
        gateways: Vec::new(),
        workloads: Vec::new(),
        services: Vec::new(),
        destination_rules: Vec::new(),
        routes: Vec::new(),
        rate_limits: Vec::new(),
        authorization_policies: Vec::new(),
        peer_authentications: Vec::new(),
        request_authentications: Vec::new(),
        oidc_providers: Vec::new(),
        authorizers: Vec::new(),
        revocations: Revocations::default(),
    })
}

/// Whether unknown destinations are let out, and whether the whole mesh is in dry run.
fn weakened(table: Option<&MeshSettings>, cx: &mut Context<'_>) -> (bool, bool) {
    let outbound = table.and_then(|t| t.outbound_traffic_policy.as_ref());
    let allow_any = outbound.filter(|at| at.value == OutboundTrafficPolicy::AllowAny);
    if let Some(at) = allow_any {
        cx.out.warn(
            &at.place,
            "every unknown destination is let out, without a policy of its own",
        );
    }
    let dry_run = table.and_then(|t| t.dry_run.as_ref()).filter(|at| at.value);
    if let Some(at) = dry_run {
        cx.out.warn(
            &at.place,
            "the whole mesh is in dry run: what policies deny is recorded and let through",
        );
    }
    (allow_any.is_some(), dry_run.is_some())
}

fn path_normalization(table: Option<&MeshSettings>) -> PathNormalization {
    table.and_then(|t| t.path_normalization).unwrap_or_default()
}

/// Labels; a key is never empty.
pub(crate) fn labels(labels: Option<&Labels>) -> BTreeMap<String, String> {
    let pair = |(key, value): &(At<String>, At<AnyText>)| (key.value.clone(), value.0.clone());
    labels.iter().flat_map(|l| &l.0).map(pair).collect()
}

/// The identity of a service account; a name that cannot be part of a SPIFFE ID is a problem.
fn identity(
    mesh: &Mesh,
    name: &ResourceName,
    account: &At<String>,
    cx: &mut Context<'_>,
) -> Option<SpiffeId> {
    if !dns_subdomain(account) {
        let text = account.escape_debug();
        cx.out.error(
            &account.place,
            format!("`{text}` is not a service account: lower case letters, digits, `-`, `.`"),
        );
        return None;
    }
    match SpiffeId::service_account(&mesh.trust_domain, &name.namespace, account) {
        Ok(id) => Some(id),
        Err(error) => {
            cx.out.error(
                &account.place,
                format!("no SPIFFE ID can be made of it: {error}"),
            );
            None
        }
    }
}

fn gateways(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    let mut places: BTreeSet<SocketAddr> = BTreeSet::new();
    for raw in files.iter().flat_map(|f| f.gateway.iter().flatten()) {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let account = raw.service_account.as_ref().unwrap_or(&raw.name);
        let id = identity(mesh, &name, account, cx);
        let port = raw.hbone_port.map_or(HBONE_PORT, |Port(port)| port);
        let hbone = SocketAddr::new(raw.address.value, port);
        concrete(&raw.address, cx);
        if !places.insert(hbone) {
            cx.out.error(
                &raw.address.place,
                format!("another gateway already stands at `{hbone}`"),
            );
        }
        let waypoint_for = waypoint_for(raw.labels.as_ref(), raw.gateway_class_name, cx);
        let labels = labels(raw.labels.as_ref());
        mesh.gateways.extend(id.map(|id| Gateway {
            name,
            class: raw.gateway_class_name,
            id,
            hbone,
            waypoint_for,
            locality: topology(&labels),
            labels,
        }));
    }
}

fn workloads(files: &[File], mesh: &mut Mesh, bindings: &Bindings, cx: &mut Context<'_>) {
    let mut addresses: BTreeMap<IpAddr, ResourceName> = BTreeMap::new();
    for raw in files.iter().flat_map(|f| f.workload_entry.iter().flatten()) {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let id = identity(mesh, &name, &raw.service_account, cx);
        let address = raw.address.value;
        concrete(&raw.address, cx);
        match addresses.get(&address) {
            // A connection's workload is found by its address alone.
            Some(first) => {
                cx.out.error(
                    &raw.address.place,
                    format!("workloadEntry `{first}` already has address `{address}`"),
                );
            }
            None => {
                addresses.insert(address, name.clone());
            }
        }
        let hbone_port = raw.hbone_port.map_or(HBONE_PORT, |Port(port)| port);
        let account = raw.service_account.as_str();
        let waypoint = bindings.workload(raw.labels.as_ref(), (&name, account), mesh, cx);
        let labels = labels(raw.labels.as_ref());
        let weight = weight(raw.weight.as_ref(), cx);
        let locality = locality(raw.locality.as_ref(), Some(&labels), cx);
        mesh.workloads.extend(id.map(|id| Workload {
            name,
            id,
            address,
            hbone_port,
            labels,
            weight,
            locality,
            waypoint,
        }));
    }
}

/// `weight`; 1 if absent. Istio's 0 is the same as absent, which an operator who drains something does not expect.
pub(crate) fn weight(raw: Option<&At<u32>>, cx: &mut Context<'_>) -> u32 {
    let Some(at) = raw else {
        return 1;
    };
    if at.value == 0 {
        cx.out.error(
            &at.place,
            "0 means the same as no weight to Istio, expected 1 or more",
        );
    }
    at.value.max(1)
}

/// `locality`, else that of the topology labels.
pub(crate) fn locality(
    raw: Option<&At<String>>,
    labels: Option<&BTreeMap<String, String>>,
    cx: &mut Context<'_>,
) -> Locality {
    let Some(at) = raw else {
        return labels.map(topology).unwrap_or_default();
    };
    match Locality::parse(at) {
        Ok(locality) => locality,
        Err(error) => {
            let text = at.escape_debug();
            cx.out.error(&at.place, format!("`{text}` is {error}"));
            Locality::default()
        }
    }
}

fn topology(labels: &BTreeMap<String, String>) -> Locality {
    let level = |key: &str| labels.get(key).map_or("", String::as_str);
    Locality::new(
        level("topology.kubernetes.io/region"),
        level("topology.kubernetes.io/zone"),
        level("topology.istio.io/subzone"),
    )
}

/// An address that one host can have.
fn concrete(address: &At<IpAddr>, cx: &mut Context<'_>) {
    if address.is_unspecified() || address.is_multicast() {
        cx.out.error(
            &address.place,
            format!("`{}` is not the address of one host", address.value),
        );
    }
}
