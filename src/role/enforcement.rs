//! What judges where: the policies and token rules of every enforcement point of the mesh, from its resources alone.

use std::sync::Arc;

use thiserror::Error;

use crate::config::checked::{Gateway, GatewayClass, Mesh, Service, Workload};
use crate::jwt::model::JwtRule;
use crate::jwt::{TokenRules, TokenRulesError};
use crate::policy::limit::Limit;
use crate::policy::{
    Compiled, Decision, MeshPolicies, Point, PointKind, PolicyProblem, PolicySet, ServiceKind,
    attaches, compile,
};
use crate::role::directory::{Directory, waypointed_services};
use crate::role::metadata::Metadata;
use crate::role::routes::Routes;
use crate::vocab::spiffe::TrustDomain;

/// What judges at one enforcement point.
#[derive(Debug)]
pub struct Enforcement {
    /// Whose rules they are.
    pub of: Of,
    /// Authorization; points where the same policies apply share it.
    pub set: Arc<PolicySet>,
    /// Request authentication.
    pub tokens: TokenRules,
    /// Local rate limits, as indices into `Mesh::rate_limits` and `Enforcements::limits`.
    pub limits: Vec<usize>,
}

/// Whose rules an enforcement point judges by; indices into `Mesh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A workload's own, judged by its node.
    Workload(usize),
    /// A service's, judged at its waypoint or egress gateway, and at the nodes of its workloads.
    Service(usize),
    /// A gateway's, for everything that passes it.
    Gateway(usize),
}

/// The rules of a whole mesh, compiled. No identities, keys or addresses of outside names: those come and go without the
/// rules changing.
#[derive(Debug)]
pub struct Enforcements {
    /// Mesh resources.
    pub mesh: Arc<Mesh>,
    /// The mesh by name and address.
    pub directory: Directory,
    /// By workload: its own (selector and namespace) policies.
    pub workloads: Vec<Enforcement>,
    /// By workload: services whose waypoint's policies hold for every way in, each with the waypoint; as indices.
    pub waypointed: Vec<Vec<(usize, usize)>>,
    /// By workload: the waypoint of what is addressed to it itself, as an index, and what that enforces for it. It holds
    /// for every way in, too.
    pub own_waypoints: Vec<Option<(usize, Enforcement)>>,
    /// By service: what its waypoint or egress gateway enforces for it.
    pub services: Vec<Option<Enforcement>>,
    /// By gateway: what it enforces for everything (ingress).
    pub gateways: Vec<Enforcement>,
    /// Local rate limits.
    pub limits: Vec<Arc<Limit>>,
    /// Which way requests take at gateways.
    pub routes: Routes,
    /// What the ends of a tunnel tell each other about themselves.
    pub metadata: Metadata,
    /// Some policy has a time window: what is open is judged again as time goes on.
    pub timed: bool,
}

/// Why the rules of a mesh cannot be enforced.
#[derive(Debug, Error)]
pub enum EnforcementError {
    /// Policies that do not compile.
    #[error("{}", problems.iter().map(|p| format!("{}: {}: {}", p.policy, p.field, p.message)).collect::<Vec<_>>().join("; "))]
    Policy {
        /// All of them.
        problems: Vec<PolicyProblem>,
    },
    /// Token rules that do not compile.
    #[error("request authentication")]
    Tokens(#[source] TokenRulesError),
}

impl Enforcement {
    /// Compiles what holds at a point, whether or not it is one of the mesh's own.
    ///
    /// # Errors
    /// `EnforcementError`.
    pub fn at(mesh: &Mesh, of: Of, point: &Point) -> Result<Self, EnforcementError> {
        let domains = domains(mesh);
        let set = compile(&policies(mesh, &domains), point)
            .map_err(|problems| EnforcementError::Policy { problems })?;
        enforcement(mesh, Arc::new(set), of, point)
    }
}

impl Enforcements {
    /// Compiles what holds at every enforcement point.
    ///
    /// # Errors
    /// `EnforcementError`: with one bad value there are no rules at all.
    pub fn build(mesh: Arc<Mesh>) -> Result<Self, EnforcementError> {
        let domains = domains(&mesh);
        let compiled = Compiled::new(&policies(&mesh, &domains))
            .map_err(|problems| EnforcementError::Policy { problems })?;
        let made = |of, point: &Point| enforcement(&mesh, compiled.at(point), of, point);
        let mut workloads = Vec::with_capacity(mesh.workloads.len());
        let mut own_waypoints = Vec::with_capacity(mesh.workloads.len());
        for (at, workload) in mesh.workloads.iter().enumerate() {
            workloads.push(made(Of::Workload(at), &workload_point(workload))?);
            let waypoint = workload.waypoint.map(|at| (at, mesh.gateways.get(at)));
            let own = match waypoint {
                Some((at, Some(gateway))) => {
                    let point = gateway_workload_point(&mesh, gateway, workload);
                    Some((at, made(Of::Gateway(at), &point)?))
                }
                Some((_, None)) | None => None,
            };
            own_waypoints.push(own);
        }
        let mut gateways = Vec::with_capacity(mesh.gateways.len());
        for (at, gateway) in mesh.gateways.iter().enumerate() {
            let point = gateway_point(&mesh, gateway, None);
            gateways.push(made(Of::Gateway(at), &point)?);
        }
        let mut services = Vec::with_capacity(mesh.services.len());
        for (at, service) in mesh.services.iter().enumerate() {
            let gateway = service.waypoint.and_then(|at| mesh.gateways.get(at));
            let point = gateway.map(|g| gateway_point(&mesh, g, Some(service)));
            let service = point.map(|point| made(Of::Service(at), &point));
            services.push(service.transpose()?);
        }
        let timed = {
            let services = services.iter().flatten();
            let own = own_waypoints.iter().flatten().map(|(_, e)| e);
            let mut all = workloads.iter().chain(&gateways).chain(services).chain(own);
            all.any(|e| e.set.needs_time())
        };
        Ok(Self {
            timed,
            limits: rate_limits(&mesh, &domains)?,
            routes: Routes::new(&mesh),
            metadata: Metadata::new(&mesh),
            directory: Directory::new(&mesh),
            waypointed: (0..mesh.workloads.len())
                .map(|w| waypointed_services(&mesh, w))
                .collect(),
            workloads,
            own_waypoints,
            services,
            gateways,
            mesh,
        })
    }
}

fn domains(mesh: &Mesh) -> Vec<TrustDomain> {
    std::iter::once(mesh.trust_domain.clone())
        .chain(mesh.trust_domain_aliases.iter().cloned())
        .collect()
}

fn policies<'a>(mesh: &'a Mesh, domains: &'a [TrustDomain]) -> MeshPolicies<'a> {
    MeshPolicies {
        policies: &mesh.authorization_policies,
        trust_domains: domains,
        scope: mesh.scope(),
        l4_deny: mesh.l4_deny,
        dry_run: mesh.dry_run,
    }
}

/// What judges at a point, with the policies that hold there.
fn enforcement(
    mesh: &Mesh,
    set: Arc<PolicySet>,
    of: Of,
    point: &Point,
) -> Result<Enforcement, EnforcementError> {
    let mut rules: Vec<JwtRule> = Vec::new();
    for resource in &mesh.request_authentications {
        let namespace = &resource.name.namespace;
        if attaches(&resource.target, namespace, point, mesh.scope()) {
            rules.extend(resource.rules.iter().cloned());
        }
    }
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let tokens = TokenRules::compile(&rules)
        .map_err(EnforcementError::Tokens)?
        .with_audience_stripping(mesh.audience_stripping);
    let limits = mesh.rate_limits.iter().enumerate();
    let limits = limits.filter(|(_, limit)| {
        let namespace = &limit.name.namespace;
        attaches(&limit.target, namespace, point, mesh.scope())
    });
    Ok(Enforcement {
        of,
        set,
        tokens,
        limits: limits.map(|(at, _)| at).collect(),
    })
}

fn rate_limits(mesh: &Mesh, domains: &[TrustDomain]) -> Result<Vec<Arc<Limit>>, EnforcementError> {
    let limits = mesh.rate_limits.iter().map(|limit| {
        Limit::compile(limit, domains, mesh.scope())
            .map(Arc::new)
            .map_err(|problems| EnforcementError::Policy { problems })
    });
    limits.collect()
}

/// The point at which a workload's node judges for it.
#[must_use]
pub fn workload_point(workload: &Workload) -> Point {
    Point {
        kind: PointKind::Workload,
        namespace: workload.name.namespace.clone(),
        labels: workload.labels.clone(),
        gateway: None,
        services: Vec::new(),
        accounts: workload.account().into_iter().collect(),
        default: Decision::Allow,
    }
}

/// The point at which a gateway judges, for everything or for one service.
#[must_use]
pub fn gateway_point(mesh: &Mesh, gateway: &Gateway, service: Option<&Service>) -> Point {
    let (kind, default) = match gateway.class {
        GatewayClass::Waypoint => (PointKind::Waypoint, Decision::Allow),
        GatewayClass::Ingress => (PointKind::Gateway, Decision::Allow),
        GatewayClass::Egress => (PointKind::Egress, Decision::Deny),
    };
    Point {
        kind,
        namespace: gateway.name.namespace.clone(),
        labels: gateway.labels.clone(),
        gateway: Some(gateway.name.name.clone()),
        services: service
            .map(|s| (ServiceKind::ServiceEntry, s.name.clone()))
            .into_iter()
            .collect(),
        accounts: service
            .into_iter()
            .flat_map(|s| &s.workloads)
            .filter_map(|at| mesh.workloads.get(*at)?.account())
            .collect(),
        default,
    }
}

/// The point at which a waypoint judges for what is addressed to a workload itself.
#[must_use]
pub fn gateway_workload_point(mesh: &Mesh, gateway: &Gateway, workload: &Workload) -> Point {
    Point {
        accounts: workload.account().into_iter().collect(),
        ..gateway_point(mesh, gateway, None)
    }
}
