//! `[[destinationRule]]` (policy semantics 9.2): TLS towards outside services, and how an endpoint is chosen.

use std::sync::Arc;

use crate::config::check::Context;
use crate::config::check::service::subject_alt_names;
use crate::config::check::traffic::{choice, failover, health_check, outlier, pool};
use crate::config::checked::{
    DestinationRule, Location, Mesh, Preference, Process, Protocol, Service, ServicePort,
    UpstreamTls,
};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::mesh::{ClientTls, TlsMode};
use crate::config::raw::traffic as raw;
use crate::config::read::Table as _;
use crate::upstream::check::HealthCheck;
use crate::vocab::limits;

/// Every `[[destinationRule]]`.
pub(crate) fn destination_rules(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.destination_rule.iter().flatten())
    {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let policy = &raw.traffic_policy;
        let tls = policy
            .tls
            .as_ref()
            .map(|tls| (client_tls(tls, cx), tls.place()));
        if policy.tls.is_none()
            && policy.load_balancer.is_none()
            && policy.outlier_detection.is_none()
            && policy.connection_pool.is_none()
            && policy.health_check.is_none()
            && policy.whole()
        {
            cx.out.error(
                policy.place(),
                "says nothing, expected `tls`, `loadBalancer`, `outlierDetection`, `connectionPool` or `healthCheck`",
            );
        }
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
                if let Some((_, place)) = &tls {
                    cx.out.error(
                        place,
                        "a host inside the mesh is reached by mTLS; `tls` does not apply",
                    );
                }
            }
            Some(_) => {}
            None => unknown_host(&raw.host, files, mesh, cx),
        }
        let shares = sharing(mesh, &host);
        let check = policy.health_check.as_ref();
        let check = check.and_then(|raw| checked(raw, (mesh, &host), cx));
        let rule = DestinationRule {
            name,
            host,
            tls: tls.and_then(|(tls, _)| tls),
            outlier: policy.outlier_detection.as_ref().map(|o| outlier(o, cx)),
            pool: policy.connection_pool.as_ref().map(|p| pool(p, shares, cx)),
            check,
            choice: policy.load_balancer.as_ref().and_then(|l| choice(l, cx)),
            locality: policy
                .load_balancer
                .as_ref()
                .and_then(|l| failover(l.locality.as_ref()?, cx)),
        };
        mesh.destination_rules.push(rule);
    }
    apply(mesh);
}

/// Gives every service what the rule of one of its hosts says: an exact one, else the longest wildcard.
fn apply(mesh: &mut Mesh) {
    let rules = &mesh.destination_rules;
    for service in &mut mesh.services {
        let fits = |rule: &&DestinationRule| service.hosts.iter().any(|h| covers(&rule.host, h));
        let rule = |has: fn(&DestinationRule) -> bool| {
            let fitting = rules.iter().filter(fits).filter(move |r| has(r));
            fitting.max_by_key(|r| (!r.host.starts_with('*'), r.host.len()))
        };
        let outlier = rule(|r| r.outlier.is_some()).and_then(|r| r.outlier);
        let locality = rule(|r| r.locality.is_some()).and_then(|r| r.locality.clone());
        let pool = rule(|r| r.pool.is_some()).and_then(|r| r.pool);
        service.balance.pool = pool.unwrap_or_default();
        service.balance.check = rule(|r| r.check.is_some()).and_then(|r| r.check.clone());
        let choice = rule(|r| r.choice.is_some()).and_then(|r| r.choice.clone());
        if let Some(outlier) = outlier {
            service.balance.outlier = outlier;
        }
        if let Some((simple, hash)) = choice {
            (service.balance.simple, service.balance.hash) = (simple, hash);
        }
        if let Some(failover) = locality {
            // What the service itself prefers is the more specific word.
            if service.balance.preference == Preference::Any {
                service.balance.preference = Preference::Locality;
            }
            service.balance.failover = failover;
        }
    }
}

/// `healthCheck` of a host, which has to have a port that it is for.
fn checked(
    raw: &raw::HealthCheck,
    (mesh, host): (&Mesh, &str),
    cx: &mut Context<'_>,
) -> Option<Arc<HealthCheck>> {
    let check = health_check(raw, cx)?;
    if !any_port(mesh, host, |port| port.protocol.takes(&check)) {
        let why = "no port of the service speaks that, so nothing would be checked";
        cx.out.error(raw.place(), why);
    }
    Some(Arc::new(check))
}

/// What this process would have to check is at most `limits::CHECKED`: told at the rule that is one too many.
pub(crate) fn too_many_checks(
    files: &[File],
    process: &Process,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) {
    let waypoints = process.waypoints.iter().map(|w| &w.gateway);
    let egresses = process.egresses.iter().map(|e| &e.gateway);
    let ingresses = process.ingresses.iter().map(|i| &i.gateway);
    let names: Vec<_> = waypoints.chain(egresses).chain(ingresses).collect();
    let gateways = mesh.gateways.iter().enumerate();
    let own = gateways.filter(|(_, g)| names.contains(&&g.name));
    let own: Vec<usize> = own.map(|(at, _)| at).collect();
    let mut all = 0_usize;
    for (at, service) in mesh.services.iter().enumerate() {
        let ports = mesh.checked_ports(at);
        if ports == 0 || mesh.asker(at, &own).is_none() {
            continue;
        }
        all = all.saturating_add(ports);
        if all <= limits::CHECKED {
            continue;
        }
        let (name, most) = (&service.name, limits::CHECKED);
        let why = format!(
            "with the ports of `{name}` this process would check {all} ports of endpoints, at most {most} can be"
        );
        let rules = files
            .iter()
            .flat_map(|f| f.destination_rule.iter().flatten());
        let mut checks =
            rules.filter_map(|r| Some((&r.host.value, r.traffic_policy.health_check.as_ref()?)));
        // As the rule is applied: a host has no case.
        let fits = |host: &str| {
            let host = host.to_ascii_lowercase();
            service.hosts.iter().any(|h| covers(&host, h))
        };
        if let Some((_, check)) = checks.find(|(host, _)| fits(host)) {
            cx.out.error(check.place(), why);
        }
        return;
    }
}

/// The services of a rule.
fn meant<'m>(mesh: &'m Mesh, rule: &str) -> impl Iterator<Item = &'m Service> {
    let meant = move |host: &String| covers(host, rule) || covers(rule, host);
    let services = mesh.services.iter();
    services.filter(move |s| s.hosts.iter().any(meant))
}

/// A port of the services of a rule where requests share connections.
fn sharing(mesh: &Mesh, rule: &str) -> Option<u16> {
    let shares = |p: &&ServicePort| matches!(p.protocol, Protocol::Http2 | Protocol::Grpc);
    let port = meant(mesh, rule).flat_map(|s| &s.ports).find(shares);
    port.map(|port| port.number)
}

/// Whether a port of the services of a rule is such a one; also where there is no service, which is an error by itself.
fn any_port(mesh: &Mesh, rule: &str, is: impl Fn(&ServicePort) -> bool) -> bool {
    let mut services = meant(mesh, rule).peekable();
    services.peek().is_none() || services.flat_map(|s| &s.ports).any(is)
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
            ca_certificates: raw.ca_certificates.as_ref().map(|at| cx.file(at)),
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
