//! This process: its roles, its listeners and where its identities come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::config::check::listeners::Listeners;
use crate::config::check::{Context, capture, identity, life, serving, workload_api};
use crate::config::checked::life::Limits;
use crate::config::checked::serving::Ingress;
use crate::config::checked::{
    Egress, GatewayClass, IdentityFiles, IdentitySource, Mesh, Node, NodeWorkload, Process,
    RecordSink, RecordedQuery, Waypoint,
};
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::mesh::OutboundTrafficPolicy;
use crate::config::raw::process as raw;
use crate::config::read::Table;
use crate::vocab::capture::OWN_MARK;
use crate::vocab::resource::ResourceName;

const NAME: &str = "ringgate";

/// What more than one table may not name.
#[derive(Default)]
struct Seen {
    listeners: Listeners,
    /// Workloads and gateways that this process serves.
    served: BTreeSet<(&'static str, ResourceName)>,
    /// Nodes that capture.
    captures: usize,
    /// `[limits]`.
    limits: Limits,
}

/// From the main file. `None` after a problem that leaves nothing to return.
pub(crate) fn process(file: &File, mesh: &Mesh, cx: &mut Context<'_>) -> Option<Process> {
    let mut seen = Seen {
        limits: life::of_process(file, cx),
        ..Seen::default()
    };
    let settings = file.process.as_ref();
    let admin = file.admin.as_ref();
    let admin = admin.map(|a| seen.listeners.add(&a.listen, cx));
    let metrics = file.metrics.as_ref();
    let requests = metrics.and_then(|m| m.requests).unwrap_or(true);
    let metrics = metrics.map(|m| seen.listeners.add(&m.listen, cx));
    let readiness = file.readiness.as_ref();
    let readiness = readiness.map(|r| seen.listeners.add(&r.listen, cx));
    let identity = identity_source(file, mesh, &mut seen, cx);
    let nodes: Vec<Node> = file
        .node
        .iter()
        .flatten()
        .map(|n| node(n, mesh, &mut seen, cx))
        .collect();
    node_names(file, cx);
    let waypoints = file
        .waypoint
        .iter()
        .flatten()
        .filter_map(|w| waypoint(w, mesh, &mut seen, cx))
        .collect();
    let ingresses = file
        .ingress
        .iter()
        .flatten()
        .filter_map(|i| ingress(i, mesh, &mut seen, cx))
        .collect();
    let egresses = file
        .egress
        .iter()
        .flatten()
        .filter_map(|e| egress(e, mesh, &mut seen, cx))
        .collect();
    let files = file.identity_files.iter().flatten();
    let identity_files = files
        .filter_map(|f| identity_file(f, file.authority.is_some(), &mut seen, cx))
        .collect();
    has_work(file, cx);
    Some(Process {
        name: settings
            .and_then(|s| s.name.clone())
            .unwrap_or_else(|| NAME.to_owned()),
        io: settings.and_then(|s| s.io).unwrap_or_default(),
        cores: settings.and_then(|s| s.cores).map_or(0, |n| n.0),
        nameservers: nameservers(settings, cx),
        drain_ms: life::drain(settings, cx),
        handover: life::handover(file, cx),
        sandbox: settings.and_then(|s| s.sandbox).unwrap_or_default(),
        user: life::user(settings, cx),
        limits: seen.limits,
        tcp: life::tcp(file, cx),
        records: records(file, cx),
        recorded_query: recorded_query(file),
        admin,
        metrics,
        request_metrics: requests,
        readiness,
        workload_api: workload_api::serve(file, cx),
        identity: identity?,
        identity_files,
        nodes,
        waypoints,
        ingresses,
        egresses,
    })
}

fn has_work(file: &File, cx: &mut Context<'_>) {
    let roles = file.node.is_some()
        || file.waypoint.is_some()
        || file.ingress.is_some()
        || file.egress.is_some();
    if !roles && file.authority.is_none() && file.workload_api.is_none() && file.whole() {
        let place = Place::top(0);
        cx.out.error(&place, "nothing to do: expected a [[node]], [[waypoint]], [[ingress]], [[egress]], [workloadApi] or [authority]");
    }
}

/// A node's name stands in records and metrics for one node.
fn node_names(file: &File, cx: &mut Context<'_>) {
    let mut names = BTreeSet::new();
    for raw in file.node.iter().flatten() {
        if !names.insert(raw.name.value.as_str()) {
            cx.out.error(
                &raw.name.place,
                format!("a second node named `{}`", raw.name.escape_debug()),
            );
        }
    }
}

fn nameservers(settings: Option<&raw::ProcessSettings>, cx: &mut Context<'_>) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for at in settings.iter().flat_map(|s| s.nameservers.iter().flatten()) {
        if at.ip().is_unspecified() || at.ip().is_multicast() {
            cx.out.error(
                &at.place,
                format!("`{}` is no address of a nameserver", at.value),
            );
        }
        if all.contains(&at.value) {
            cx.out
                .error(&at.place, format!("a second nameserver `{}`", at.value));
        }
        all.push(at.value);
    }
    all
}

/// Names of standard output.
const STDOUT: [&str; 4] = ["stdout", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

fn recorded_query(file: &File) -> RecordedQuery {
    let records = file.records.as_ref();
    records.and_then(|r| r.query).unwrap_or_default()
}

fn records(file: &File, cx: &Context<'_>) -> RecordSink {
    match file.records.as_ref().map(|r| &r.path) {
        // What is open already: by their paths they would be opened anew, which a process that becomes another user, or
        // opens no files but those it has named, may not.
        Some(path) if !STDOUT.contains(&path.value.as_str()) => RecordSink::File(cx.path(path)),
        Some(_) | None => RecordSink::Stdout,
    }
}

fn identity_source(
    file: &File,
    mesh: &Mesh,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<IdentitySource> {
    match (&file.authority, &file.identity) {
        (Some(_), Some(identity)) => {
            cx.out.error(
                identity.place(),
                "[authority] and [identity] exclude each other",
            );
            None
        }
        (Some(raw), None) => Some(IdentitySource::Embedded(identity::authority(
            raw,
            &mut seen.listeners,
            cx,
        ))),
        (None, Some(raw)) => identity::elsewhere(raw, mesh, cx),
        (None, None) => {
            if file.whole() {
                cx.out.error(
                    &Place::top(0),
                    "no source of identities, expected [authority] or [identity]",
                );
            }
            None
        }
    }
}

/// A gateway or workload that this process serves, once.
fn serve(
    kind: &'static str,
    at: &At<String>,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<ResourceName> {
    let name = cx.reference(kind, at)?;
    if !seen.served.insert((kind, name.clone())) {
        cx.out.error(
            &at.place,
            format!("this process already serves {kind} `{name}`"),
        );
    }
    Some(name)
}

fn node(raw: &raw::Node, mesh: &Mesh, seen: &mut Seen, cx: &mut Context<'_>) -> Node {
    let inbound = raw
        .inbound
        .iter()
        .flatten()
        .map(|at| seen.listeners.add(at, cx))
        .collect();
    let outbound = raw.outbound.as_ref().map(|at| seen.listeners.add(at, cx));
    let hbone = raw.hbone.as_ref().map(|at| seen.listeners.add(at, cx));
    let workloads = raw
        .workload
        .iter()
        .filter_map(|w| node_workload(w, raw.hbone.as_ref(), mesh, seen, cx))
        .collect();
    let policy = raw.outbound_policy.as_ref();
    if let Some(at) = policy.filter(|at| at.value == OutboundTrafficPolicy::AllowAny) {
        cx.out.warn(
            &at.place,
            "every unknown destination is let out, without a policy of its own",
        );
    }
    let search = raw.dns_search.iter().flatten();
    let captures = raw.capture.as_ref().map(|c| capture::capture(c, cx));
    let node = Node {
        name: raw.name.value.clone(),
        inbound,
        outbound,
        hbone,
        workloads,
        // Without it the rules would turn the node's connections back to the node.
        mark: raw
            .mark
            .as_ref()
            .map(|at| at.value)
            .or_else(|| captures.as_ref().map(|_| OWN_MARK)),
        original_source: raw.original_source.unwrap_or_default(),
        unowned: raw.unowned.unwrap_or_default(),
        capture: captures,
        outbound_allow_any: policy.map(|at| at.value == OutboundTrafficPolicy::AllowAny),
        dns: raw.dns.as_ref().map(|at| seen.listeners.add(at, cx)),
        dns_search: search.filter_map(|at| cx.host(at, false)).collect(),
        dns_unknown: raw.dns_unknown.unwrap_or_default(),
    };
    capture::node(raw, &node, &mut seen.captures, cx);
    node
}

fn node_workload(
    raw: &raw::NodeWorkload,
    shared: Option<&At<SocketAddr>>,
    mesh: &Mesh,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<NodeWorkload> {
    let hbone = raw.hbone.as_ref().map(|at| seen.listeners.add(at, cx));
    let outbound = raw.outbound.as_ref().map(|at| seen.listeners.add(at, cx));
    let owner = raw.owner.as_ref().map(|o| capture::owner(o, cx));
    let socks = raw.socks.as_ref().map(|at| seen.listeners.add(at, cx));
    let dns = raw.dns.as_ref().map(|at| seen.listeners.add(at, cx));
    let limits = life::of_workload(raw, seen.limits, cx);
    let mut app = BTreeMap::new();
    for (key, address) in raw.app.iter().flat_map(|m| &m.0) {
        app.extend(cx.port_key(key).map(|port| (port, *address)));
    }
    let workload = serve("workloadEntry", &raw.name, seen, cx)?;
    let entry = mesh.workloads.iter().find(|w| w.name == workload);
    match (raw.hbone.as_ref().or(shared), entry) {
        (Some(at), Some(entry)) => {
            reachable(at, SocketAddr::new(entry.address, entry.hbone_port), cx);
        }
        (None, _) if raw.whole() => cx.out.error(
            &raw.name.place,
            "nobody can reach this workload: expected `hbone` here or at the node",
        ),
        // A listener that cannot be read was told of.
        (None, _) | (Some(_), None) => {}
    }
    Some(NodeWorkload {
        workload,
        hbone,
        owner,
        outbound,
        socks,
        dns,
        app,
        limits,
    })
}

/// Whether peers, who go by the mesh's address, arrive at the listener. Behind address translation they may.
fn reachable(listen: &At<SocketAddr>, mesh: SocketAddr, cx: &mut Context<'_>) {
    let same = listen.ip().is_unspecified() || listen.ip().to_canonical() == mesh.ip();
    if !same || listen.port() != mesh.port() {
        cx.out.warn(
            &listen.place,
            format!(
                "the mesh reaches this at `{mesh}`, not at `{}`",
                listen.value
            ),
        );
    }
}

/// The gateway that a role stands for; its class must fit the role.
fn gateway(
    at: &At<String>,
    class: (GatewayClass, &str),
    mesh: &Mesh,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<(ResourceName, SocketAddr)> {
    let name = serve("gateway", at, seen, cx)?;
    let gateway = mesh.gateways.iter().find(|g| g.name == name)?;
    if gateway.class != class.0 {
        cx.out.error(
            &at.place,
            format!("gateway `{name}` is not of class `{}`", class.1),
        );
    }
    Some((name, gateway.hbone))
}

fn waypoint(
    raw: &raw::Waypoint,
    mesh: &Mesh,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<Waypoint> {
    let hbone = seen.listeners.add(&raw.hbone, cx);
    let mtls = raw.mtls.as_ref().map(|at| seen.listeners.add(at, cx));
    let (gateway, address) = gateway(
        &raw.gateway,
        (GatewayClass::Waypoint, "istio-waypoint"),
        mesh,
        seen,
        cx,
    )?;
    reachable(&raw.hbone, address, cx);
    Some(Waypoint {
        gateway,
        hbone,
        mtls,
    })
}

fn ingress(
    raw: &raw::Ingress,
    mesh: &Mesh,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<Ingress> {
    let http = raw.http.as_ref().map(|at| seen.listeners.add(at, cx));
    let https_port = raw.https_port.as_ref();
    if let Some(port) = https_port.filter(|_| http.is_none()) {
        let why = "says where `httpListen` redirects to, and there is none";
        cx.out.error(&port.place, why);
    }
    let mut listeners = Vec::new();
    for listener in &raw.listener {
        let address = seen.listeners.add(&listener.address, cx);
        listeners.extend(serving::listener(listener, address, cx));
    }
    let (gateway, _) = gateway(
        &raw.gateway,
        (GatewayClass::Ingress, "ringgate-ingress"),
        mesh,
        seen,
        cx,
    )?;
    Some(Ingress {
        gateway,
        http,
        https_port: https_port.map(|port| port.value.0),
        listeners,
    })
}

fn egress(raw: &raw::Egress, mesh: &Mesh, seen: &mut Seen, cx: &mut Context<'_>) -> Option<Egress> {
    let hbone = seen.listeners.add(&raw.hbone, cx);
    let proxy = raw.proxy.as_ref().map(|at| seen.listeners.add(at, cx));
    let (gateway, address) = gateway(
        &raw.gateway,
        (GatewayClass::Egress, "ringgate-egress"),
        mesh,
        seen,
        cx,
    )?;
    reachable(&raw.hbone, address, cx);
    Some(Egress {
        gateway,
        hbone,
        proxy,
    })
}

/// Files hold the identity of a workload that this process serves, or of any where it is the authority: it has no
/// other.
fn identity_file(
    raw: &raw::IdentityFiles,
    authority: bool,
    seen: &mut Seen,
    cx: &mut Context<'_>,
) -> Option<IdentityFiles> {
    let workload = cx.reference("workloadEntry", &raw.workload)?;
    if !authority && !seen.served.contains(&("workloadEntry", workload.clone())) {
        cx.out.error(
            &raw.workload.place,
            format!("no node of this process serves workload `{workload}`"),
        );
    }
    Some(IdentityFiles {
        workload,
        dir: cx.path(&raw.dir),
        audience: raw.audience.clone(),
    })
}
