//! Resources that a call lacks: its destination in the registry, a first policy, a port that takes plaintext.

use std::collections::BTreeMap;

use crate::config::checked::{
    Balance, GatewayClass, Location, Mesh, Protocol, Service, ServiceEndpoint, ServicePort,
};
use crate::policy::Reason;
use crate::policy::model::{
    Action, AuthorizationPolicy, MtlsMode, PeerAuthentication, Target, TargetKind, TargetRef,
};
use crate::role::enforcement::Of;
use crate::role::remedy::written::text;
use crate::role::remedy::{Change, Edit, probe, rules, written};
use crate::role::walk::{Hop, Place};
use crate::vocab::host::Host;
use crate::vocab::resource::ResourceName;

/// Label of a service that passes a gateway.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// Registers an outside host, behind the egress gateway if the mesh has one.
pub(super) fn register(mesh: &mut Mesh, hop: &Hop) -> Option<Edit> {
    let reason = &hop.deciding()?.judged.reason;
    let Reason::UnknownDestination(destination) = reason else {
        return None;
    };
    let host = Host::parse(destination).ok().filter(|h| h.ip().is_none())?;
    // A host that is there lacks a port: whether anything listens there is no matter of policy.
    if mesh
        .services
        .iter()
        .any(|s| s.hosts.iter().any(|h| h == host.name()))
    {
        return None;
    }
    let port = host.port().unwrap_or(80);
    let egress = |at: &usize| {
        let gateway = mesh.gateways.get(*at);
        gateway.is_some_and(|g| g.class == GatewayClass::Egress)
    };
    let gateway = match hop.place {
        Place::Gateway(at) => Some(at).filter(egress),
        Place::Registry | Place::Node(_) => (0..mesh.gateways.len()).find(egress),
    };
    let through = gateway.and_then(|at| mesh.gateways.get(at));
    let caller = hop.connection.principal.as_ref().and_then(|id| id.k8s());
    let namespace = match (through, caller) {
        (Some(gateway), _) => gateway.name.namespace.clone(),
        (None, Some((namespace, _))) => namespace.to_owned(),
        (None, None) => return None,
    };
    let name = ResourceName::new(&namespace, &free_name(mesh, &host.name().replace('.', "-")));
    let behind = through.map(|gateway| gateway.name.clone());
    let service = outside(name, &host, port, hop.http, (gateway, behind.as_ref()));
    let allows = match &behind {
        Some(gateway) => {
            let text = format!(
                "registers {} behind egress gateway {gateway}, which lets nobody there without a policy",
                host.name()
            );
            (text, false)
        }
        None => {
            let text = format!(
                "every workload of the mesh then reaches {}, by any method and path: no egress gateway judges it",
                host.name()
            );
            (text, true)
        }
    };
    let edit = Edit {
        kind: "serviceEntry",
        name: service.name.clone(),
        change: Change::New,
        toml: entry(&service),
        allows,
    };
    mesh.services.push(service);
    Some(edit)
}

/// An outside service of one host and port.
fn outside(
    name: ResourceName,
    host: &Host,
    port: u16,
    http: bool,
    (waypoint, behind): (Option<usize>, Option<&ResourceName>),
) -> Service {
    let (protocol, word) = if http {
        (Protocol::Http, "http")
    } else {
        (Protocol::Tcp, "tcp")
    };
    let label = |gateway: &ResourceName| (USE_WAYPOINT.to_owned(), gateway.name.clone());
    Service {
        name,
        hosts: vec![host.name().to_owned()],
        addresses: Vec::new(),
        blocks: Vec::new(),
        allocated: Vec::new(),
        passthrough: false,
        export_to: None,
        balance: Balance::default(),
        ports: vec![ServicePort {
            number: port,
            name: word.to_owned(),
            protocol,
            target_port: port,
        }],
        location: Location::External,
        workloads: Vec::new(),
        endpoints: vec![ServiceEndpoint::new(host.name().to_owned())],
        subject_alt_names: Vec::new(),
        spiffe_names: None,
        allow_private: false,
        forward_client: false,
        waypoint,
        labels: behind.map(label).into_iter().collect(),
    }
}

/// The same as the configuration writes it.
fn entry(service: &Service) -> String {
    let mut toml = format!(
        "[[serviceEntry]]\nname = {}\nnamespace = {}\n",
        text(&service.name.name),
        text(&service.name.namespace)
    );
    if let Some(gateway) = service.labels.get(USE_WAYPOINT) {
        let gateway = text(gateway);
        toml.push_str(&format!("labels = {{ \"{USE_WAYPOINT}\" = {gateway} }}\n"));
    }
    let ports = service.ports.iter().map(|port| {
        let protocol = port.name.to_ascii_uppercase();
        format!(
            "{{ number = {}, name = {}, protocol = \"{protocol}\" }}",
            port.number,
            text(&port.name)
        )
    });
    toml.push_str(&format!(
        "hosts = {}\nports = [{}]\nlocation = \"MESH_EXTERNAL\"\nresolution = \"DNS\"\n",
        written::list(&service.hosts),
        ports.collect::<Vec<_>>().join(", ")
    ));
    toml
}

fn free_name(mesh: &Mesh, wanted: &str) -> String {
    let taken = |name: &str| mesh.services.iter().any(|s| s.name.name == name);
    let mut name = wanted.to_owned();
    while taken(&name) {
        name.push_str("-outside");
    }
    name
}

/// The first ALLOW policy of a point that denies by default.
pub(super) fn first_policy(mesh: &mut Mesh, hop: &Hop, of: Of) -> Option<Edit> {
    let (namespace, named, target, written_target) = match of {
        Of::Service(at) => {
            let service = &mesh.services.get(at)?.name;
            let target = TargetRef {
                kind: TargetKind::ServiceEntry,
                name: service.name.clone(),
            };
            let written = format!(
                "targetRefs = [{{ group = \"networking.istio.io\", kind = \"ServiceEntry\", name = {} }}]\n",
                text(&service.name)
            );
            (
                service.namespace.clone(),
                service.name.clone(),
                target,
                written,
            )
        }
        Of::Gateway(at) => {
            let gateway = &mesh.gateways.get(at)?.name;
            let target = TargetRef {
                kind: TargetKind::Gateway,
                name: gateway.name.clone(),
            };
            let written = format!(
                "targetRefs = [{{ group = \"gateway.networking.k8s.io\", kind = \"Gateway\", name = {} }}]\n",
                text(&gateway.name)
            );
            (
                gateway.namespace.clone(),
                gateway.name.clone(),
                target,
                written,
            )
        }
        Of::Workload(_) => return None,
    };
    let mut name = ResourceName::new(&namespace, &named);
    while mesh.authorization_policies.iter().any(|p| p.name == name) {
        name.name.push_str("-callers");
    }
    let mut policy = AuthorizationPolicy {
        name: name.clone(),
        target: Target::Refs(vec![target]),
        action: Action::Allow,
        provider: None,
        dry_run: false,
        rules: Vec::new(),
    };
    let probe = probe(mesh, hop);
    let (rule, dropped) = rules::exact(&probe, &policy, None);
    if !probe.holds(&policy, rule.clone()) {
        return None;
    }
    let toml = format!(
        "[[authorizationPolicy]]\nname = {}\nnamespace = {}\n{written_target}\n[[authorizationPolicy.rules]]\n{}",
        text(&name.name),
        text(&namespace),
        written::rule(&rule)
    );
    let allows = rules::narrow_scope(&rule, &dropped);
    policy.rules.push(rule);
    mesh.authorization_policies.push(policy);
    Some(Edit {
        kind: rules::KIND,
        name,
        change: Change::New,
        toml,
        allows,
    })
}

/// Lets a port of a workload take plaintext.
pub(super) fn accept_plaintext(mesh: &mut Mesh, hop: &Hop) -> Option<Edit> {
    let Place::Node(at) = hop.place else {
        return None;
    };
    let workload = mesh.workloads.get(at)?;
    let (namespace, port) = (workload.name.namespace.clone(), hop.connection.port);
    if namespace == mesh.root_namespace || workload.labels.is_empty() {
        return None;
    }
    let allows = (
        format!(
            "everything that reaches the address may then call port {port} in plaintext, without an identity"
        ),
        true,
    );
    let own = |p: &PeerAuthentication| {
        let labels = p.selector.iter().flatten();
        let mut missing = labels.filter(|(k, v)| workload.labels.get(*k) != Some(*v));
        p.name.namespace == namespace
            && p.selector.as_ref().is_some_and(|s| !s.is_empty())
            && missing.next().is_none()
    };
    let ports = |ports: &BTreeMap<u16, MtlsMode>| {
        let one =
            |(port, mode): (&u16, &MtlsMode)| format!("{port} = {{ mode = \"{}\" }}", word(*mode));
        let all: Vec<String> = ports.iter().map(one).collect();
        format!("portLevelMtls = {{ {} }}\n", all.join(", "))
    };
    let labels = workload.labels.clone();
    let new = ResourceName::new(&namespace, &format!("{}-plaintext", workload.name.name));
    let known = mesh.peer_authentications.iter().position(own);
    if let Some(policy) = known.and_then(|at| mesh.peer_authentications.get_mut(at)) {
        policy.ports.insert(port, MtlsMode::Permissive);
        return Some(Edit {
            kind: "peerAuthentication",
            name: policy.name.clone(),
            change: Change::Set,
            toml: ports(&policy.ports),
            allows,
        });
    }
    let policy = PeerAuthentication {
        name: new,
        selector: Some(labels),
        mode: MtlsMode::Unset,
        ports: BTreeMap::from([(port, MtlsMode::Permissive)]),
    };
    let selected = policy.selector.iter().flatten();
    let selected: Vec<String> = selected
        .map(|(key, value)| format!("{} = {}", text(key), text(value)))
        .collect();
    let toml = format!(
        "[[peerAuthentication]]\nname = {}\nnamespace = {}\nselector.matchLabels = {{ {} }}\n{}",
        text(&policy.name.name),
        text(&namespace),
        selected.join(", "),
        ports(&policy.ports)
    );
    let name = policy.name.clone();
    mesh.peer_authentications.push(policy);
    Some(Edit {
        kind: "peerAuthentication",
        name,
        change: Change::New,
        toml,
        allows,
    })
}

fn word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Unset => "UNSET",
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    }
}
