//! What the lints of policies need to know of the mesh, and the places of what they find.

use std::collections::BTreeMap;

use crate::config::check::DEFAULT_NAMESPACE;
use crate::config::checked::{Gateway, GatewayClass, Mesh, Protocol, Service, Workload};
use crate::config::document::{Document, Value};
use crate::config::nearest::hint;
use crate::config::place::{Place, PlacedLint, Problems};
use crate::policy::lint::{self, Code, Finding, IGNORE_ANNOTATION, Known, Site, Spot, Subject};
use crate::policy::verdict::Decision;
use crate::policy::{Point, PointKind, ServiceKind, attaches};
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// How much is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Nothing: a reload has no time for it, and nobody at the screen.
    None,
    /// Each policy by itself, in one pass.
    #[default]
    Single,
    /// Policies together too: pairs of rules.
    Full,
}

const POLICY: &str = "authorizationPolicy";
const PEER: &str = "peerAuthentication";
const WORKLOAD: &str = "workloadEntry";

/// Refuses annotations that silence what does not exist: a misspelt code silences nothing.
fn codes(documents: &[Document], out: &mut Problems) {
    for (place, item) in documents.iter().flat_map(|d| items(d, POLICY)) {
        let Some((place, text)) = ignored(&place, item) else {
            continue;
        };
        for name in text.split(',').map(str::trim) {
            if Code::parse(name).is_none() {
                let near = hint(name, Code::ALL.iter().map(|code| code.name()));
                let text = name.escape_debug();
                out.error(&place, format!("there is no lint `{text}`{near}"));
            }
        }
    }
}

/// Lints the policies of a mesh; one that has a problem is left alone.
pub(crate) fn mesh(mesh: &Mesh, documents: &[Document], depth: Depth, out: &mut Problems) {
    codes(documents, out);
    if !out.is_good() || depth == Depth::None {
        return;
    }
    let domains: Vec<TrustDomain> = std::iter::once(&mesh.trust_domain)
        .chain(&mesh.trust_domain_aliases)
        .cloned()
        .collect();
    let mut identities: Vec<SpiffeId> = mesh.workloads.iter().map(|w| w.id.clone()).collect();
    // Without any workload this is the file of a gateway alone, and its callers stand elsewhere.
    if !identities.is_empty() {
        identities.extend(mesh.gateways.iter().map(|g| g.id.clone()));
    }
    identities.sort();
    identities.dedup();
    let known = Known {
        policies: &mesh.authorization_policies,
        peers: &mesh.peer_authentications,
        trust_domains: &domains,
        root_namespace: &mesh.root_namespace,
        paths: mesh.path_normalization,
        l4_deny: mesh.l4_deny,
        identities: &identities,
        sites: sites(mesh),
        nearest: |written, names| hint(written, names.iter().copied()),
    };
    let mut found = lint::single(&known);
    if depth == Depth::Full {
        found.extend(lint::together(&known, lint::PAIRS));
    }
    let places = Places::new(mesh, documents);
    for finding in found {
        place(finding, &places, out);
    }
}

fn place(finding: Finding, places: &Places<'_>, out: &mut Problems) {
    let silenced = places.item(finding.spot.subject).and_then(|(place, item)| {
        let (_, text) = ignored(place, item)?;
        text.split(',')
            .find(|name| name.trim() == finding.code.name())
    });
    if silenced.is_none() {
        out.lint(PlacedLint {
            code: finding.code,
            severity: finding.severity,
            place: places.find(&finding.spot),
            other: finding.other.map(|spot| places.find(&spot)),
            message: finding.message,
        });
    }
}

/// The annotation that silences lints.
fn ignored<'d>(place: &Place, item: &'d Value) -> Option<(Place, &'d str)> {
    let annotations = item.entry("annotations")?;
    let entry = annotations.value.entry(IGNORE_ANNOTATION)?;
    let place = place
        .entry(annotations, annotations.value.offset)
        .entry(entry, entry.value.offset);
    Some((place, entry.value.text()?))
}

/// The tables of one kind in a file.
fn items<'d>(document: &'d Document, kind: &str) -> Vec<(Place, &'d Value)> {
    let Some(entry) = document.root.entry(kind) else {
        return Vec::new();
    };
    let list = Place::top(document.file).entry(entry, entry.offset);
    let items = entry.value.items().iter().enumerate();
    items.map(|(i, item)| (list.item(i, item), item)).collect()
}

/// The resources as they are written.
struct Places<'d> {
    mesh: &'d Mesh,
    items: BTreeMap<(&'static str, ResourceName), (Place, &'d Value)>,
}

impl<'d> Places<'d> {
    fn new(mesh: &'d Mesh, documents: &'d [Document]) -> Self {
        let mut all = BTreeMap::new();
        for kind in [POLICY, PEER, WORKLOAD] {
            for (place, item) in documents.iter().flat_map(|d| items(d, kind)) {
                let text = |key: &str| item.entry(key).and_then(|e| e.value.text());
                let namespace = text("namespace").unwrap_or(DEFAULT_NAMESPACE);
                let name = ResourceName::new(namespace, text("name").unwrap_or_default());
                all.insert((kind, name), (place, item));
            }
        }
        Self { mesh, items: all }
    }

    fn item(&self, subject: Subject) -> Option<&(Place, &'d Value)> {
        let mesh = self.mesh;
        let (kind, name) = match subject {
            Subject::Policy(at) => (POLICY, &mesh.authorization_policies.get(at)?.name),
            Subject::Peer(at) => (PEER, &mesh.peer_authentications.get(at)?.name),
            Subject::Workload(at) => (WORKLOAD, &mesh.workloads.get(at)?.name),
            Subject::Mesh => return None,
        };
        self.items.get(&(kind, name.clone()))
    }

    /// The place of a field, or of what is written nearest around it; of the name for a resource as a whole.
    fn find(&self, spot: &Spot) -> Place {
        let Some((place, item)) = self.item(spot.subject) else {
            return Place::top(0);
        };
        let field = if spot.field.is_empty() {
            "name"
        } else {
            &spot.field
        };
        let (mut place, mut item) = (place.clone(), *item);
        for step in field.split(['.', '[']) {
            let next = match step.strip_suffix(']') {
                Some(index) => index.parse().ok().and_then(|index: usize| {
                    let value = item.items().get(index)?;
                    Some((place.item(index, value), value))
                }),
                None => item
                    .entry(step)
                    .map(|e| (place.entry(e, e.value.offset), &e.value)),
            };
            let Some(found) = next else { break };
            (place, item) = found;
        }
        place
    }
}

/// Every enforcement point: workloads, gateways, and services behind a waypoint or egress gateway, in this order.
fn sites(mesh: &Mesh) -> Vec<Site> {
    let attach = Attach::new(mesh);
    let mut out = Vec::new();
    for (at, workload) in mesh.workloads.iter().enumerate() {
        out.push(attach.workload(at, workload));
    }
    for (at, gateway) in mesh.gateways.iter().enumerate() {
        let name = format!("gateway {}", gateway.name);
        let mut site = attach.site(name, point(mesh, gateway, None));
        let bound = mesh.services.iter().filter(|s| s.waypoint == Some(at));
        leaves(&mut site, gateway, bound);
        out.push(site);
    }
    for service in &mesh.services {
        let Some(gateway) = service.waypoint.and_then(|at| mesh.gateways.get(at)) else {
            continue;
        };
        let at = out.len();
        let name = format!("service {}", service.name);
        let mut site = attach.site(name, point(mesh, gateway, Some(service)));
        site.bare = bytes_only(std::iter::once(service));
        leaves(&mut site, gateway, std::iter::once(service));
        out.push(site);
        if gateway.class == GatewayClass::Waypoint {
            for workload in &service.workloads {
                if let Some(site) = out.get_mut(*workload) {
                    site.waypoints.push(at);
                    site.exempt.push(gateway.id.clone());
                }
            }
        }
    }
    for (nth, workload) in mesh.workloads.iter().enumerate() {
        let Some(gateway) = workload.waypoint.and_then(|at| mesh.gateways.get(at)) else {
            continue;
        };
        let at = out.len();
        let name = format!("workload {} at its waypoint", workload.name);
        let accounts = workload.account().into_iter().collect();
        let of_gateway = point(mesh, gateway, None);
        out.push(attach.site(
            name,
            Point {
                accounts,
                ..of_gateway
            },
        ));
        if let Some(site) = out.get_mut(nth) {
            site.waypoints.push(at);
            site.exempt.push(gateway.id.clone());
        }
    }
    out
}

/// What is asked for at an egress gateway: ports of the services there, and their addresses or, by name, its own.
fn leaves<'m>(site: &mut Site, gateway: &Gateway, services: impl Iterator<Item = &'m Service>) {
    if gateway.class != GatewayClass::Egress {
        return;
    }
    let (mut ports, mut addresses) = (Vec::new(), Some(vec![gateway.hbone.ip()]));
    for service in services {
        ports.extend(service.ports.iter().map(|p| p.number));
        match &mut addresses {
            Some(known) if service.blocks.is_empty() => known.extend(service.virtual_addresses()),
            Some(_) | None => addresses = None,
        }
    }
    (site.ports, site.addresses) = (Some(ports), addresses);
}

/// Whether none of the services has a port that carries HTTP, and there is a port.
fn bytes_only<'m>(services: impl Iterator<Item = &'m Service>) -> bool {
    let mut ports = services.flat_map(|s| &s.ports).peekable();
    let bytes = |p: Protocol| match p {
        Protocol::Tls | Protocol::Tcp => true,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Https => false,
    };
    ports.peek().is_some() && ports.all(|p| bytes(p.protocol))
}

fn point(mesh: &Mesh, gateway: &Gateway, service: Option<&Service>) -> Point {
    let (kind, default) = match gateway.class {
        GatewayClass::Waypoint => (PointKind::Waypoint, Decision::Allow),
        GatewayClass::Ingress => (PointKind::Gateway, Decision::Allow),
        GatewayClass::Egress => (PointKind::Egress, Decision::Deny),
    };
    let services = service.map(|s| (ServiceKind::ServiceEntry, s.name.clone()));
    Point {
        kind,
        namespace: gateway.name.namespace.clone(),
        labels: gateway.labels.clone(),
        gateway: Some(gateway.name.name.clone()),
        services: services.into_iter().collect(),
        accounts: service
            .into_iter()
            .flat_map(|s| &s.workloads)
            .filter_map(|at| mesh.workloads.get(*at)?.account())
            .collect(),
        default,
    }
}

/// Policies by namespace, so that a point is not compared with those of all others.
struct Attach<'m> {
    mesh: &'m Mesh,
    policies: BTreeMap<&'m str, Vec<usize>>,
}

impl<'m> Attach<'m> {
    fn new(mesh: &'m Mesh) -> Self {
        let mut policies: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, policy) in mesh.authorization_policies.iter().enumerate() {
            policies.entry(&policy.name.namespace).or_default().push(at);
        }
        Self { mesh, policies }
    }

    fn site(&self, name: String, point: Point) -> Site {
        let mesh = self.mesh;
        let (root, scope) = (mesh.root_namespace.as_str(), mesh.scope());
        let services = point.services.iter().map(|(_, s)| s.namespace.as_str());
        let accounts = point.accounts.iter().map(|a| a.namespace.as_str());
        let mut namespaces: Vec<&str> = services
            .chain(accounts)
            .chain([root, point.namespace.as_str()])
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        let near = namespaces
            .iter()
            .filter_map(|ns| self.policies.get(ns))
            .flatten();
        let applies = |at: &usize| {
            let policy = mesh.authorization_policies.get(*at);
            policy.is_some_and(|p| attaches(&p.target, &p.name.namespace, &point, scope))
        };
        let mut policies: Vec<usize> = near.copied().filter(applies).collect();
        policies.sort_unstable();
        let tokens = mesh.request_authentications.iter();
        let tokens = tokens.filter(|r| attaches(&r.target, &r.name.namespace, &point, scope));
        let issuers = tokens
            .flat_map(|r| &r.rules)
            .map(|r| r.issuer.clone())
            .collect();
        Site {
            name,
            policies,
            ports: None,
            addresses: None,
            bare: false,
            issuers,
            exempt: Vec::new(),
            workload: None,
            waypoints: Vec::new(),
            point,
        }
    }

    fn workload(&self, at: usize, workload: &Workload) -> Site {
        let services = || {
            self.mesh
                .services
                .iter()
                .filter(|s| s.workloads.contains(&at))
        };
        let ports = services()
            .flat_map(|s| &s.ports)
            .flat_map(|p| [p.number, p.target_port]);
        let ports: Vec<u16> = ports.collect();
        let point = Point {
            kind: PointKind::Workload,
            namespace: workload.name.namespace.clone(),
            labels: workload.labels.clone(),
            gateway: None,
            services: Vec::new(),
            accounts: workload.account().into_iter().collect(),
            default: Decision::Allow,
        };
        let mut site = self.site(format!("workload {}", workload.name), point);
        site.workload = Some(at);
        site.ports = (!ports.is_empty()).then_some(ports);
        site.bare = bytes_only(services());
        site
    }
}
