//! Cases about where resources hold, and whether they are accepted at all.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::json::{Broken, flag_or, integer_or, list, member, text, text_or, texts};
use crate::cli::cases::resources::{self, labels};
use crate::cli::cases::words::normalization;
use crate::policy::{Decision, Point, PointKind, ServiceKind, attaches, mtls_mode};
use crate::vocab::path::PathNormalization;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::TrustDomain;

/// `mesh` of a case.
#[derive(Clone, Debug)]
pub(super) struct MeshSettings {
    /// Our own first, then the aliases.
    pub(super) trust_domains: Vec<TrustDomain>,
    pub(super) root_namespace: String,
    pub(super) normalization: PathNormalization,
    pub(super) trusted_proxies: usize,
    pub(super) gateway_selectors: bool,
    pub(super) allow_any: bool,
}

impl MeshSettings {
    pub(super) fn read(case: &Value) -> Broken<Self> {
        let none = Value::Object(Map::new());
        let mesh = member(case, "mesh").unwrap_or(&none);
        let mut names = vec![text_or(mesh, "trustDomain", "cluster.local")?.to_owned()];
        names.extend(texts(mesh, "trustDomainAliases")?);
        let domain = |name: &String| TrustDomain::parse(name).map_err(|e| format!("`{name}`: {e}"));
        let proxies = integer_or(mesh, "numTrustedProxies", 0)?;
        Ok(Self {
            trust_domains: names.iter().map(domain).collect::<Broken<_>>()?,
            root_namespace: text_or(mesh, "rootNamespace", "istio-system")?.to_owned(),
            normalization: normalization(text_or(mesh, "pathNormalization", "BASE")?)?,
            trusted_proxies: usize::try_from(proxies).map_err(|e| e.to_string())?,
            gateway_selectors: flag_or(mesh, "gatewaySelectorPolicies", true)?,
            allow_any: match text_or(mesh, "outboundTrafficPolicy", "REGISTRY_ONLY")? {
                "REGISTRY_ONLY" => false,
                "ALLOW_ANY" => true,
                other => return Err(format!("outboundTrafficPolicy `{other}`")),
            },
        })
    }
}

/// The enforcement point that `workload` of a case describes.
pub(super) fn point(workload: &Value) -> Broken<Point> {
    let gateway = member(workload, "gateway").map(|_| text(workload, "gateway"));
    let gateway = gateway.transpose()?.map(str::to_owned);
    let kind = match (flag_or(workload, "isWaypoint", false)?, &gateway) {
        (true, _) => PointKind::Waypoint,
        (false, Some(_)) => PointKind::Gateway,
        (false, None) => PointKind::Workload,
    };
    let namespace = text_or(workload, "namespace", "default")?;
    let service = |s: &Value| {
        let kind = match text_or(s, "kind", "Service")? {
            "Service" => ServiceKind::Service,
            "ServiceEntry" => ServiceKind::ServiceEntry,
            other => return Err(format!("`{other}` is no kind of service")),
        };
        let name = ResourceName::new(text_or(s, "namespace", namespace)?, text(s, "name")?);
        Ok((kind, name))
    };
    Ok(Point {
        kind,
        namespace: namespace.to_owned(),
        labels: labels(workload, "labels")?,
        gateway,
        services: list(workload, "services")?
            .iter()
            .map(service)
            .collect::<Broken<_>>()?,
        default: Decision::Allow,
    })
}

/// `attach`: whether a policy applies to a workload.
pub(super) fn attach(case: &Value) -> Judged {
    let judge = || {
        let mesh = MeshSettings::read(case)?;
        let none = Value::Object(Map::new());
        let point = point(member(case, "workload").unwrap_or(&none))?;
        let policy = case.get("policy").ok_or("`policy` is missing")?;
        let (applies, why) = match resources::target(policy) {
            Ok(target) => {
                let namespace = resources::name(policy)?.namespace;
                let applies = attaches(&target, &namespace, &point, &mesh.root_namespace, true);
                (applies, None)
            }
            Err(why) => (false, Some(why)),
        };
        Ok(Judged::compare(case, "expect", json!(applies), why))
    };
    judge().into()
}

/// `peerauthn`: the effective mTLS mode, and that of the ports that the case names.
pub(super) fn peerauthn(case: &Value) -> Judged {
    let judge = || {
        let mesh = MeshSettings::read(case)?;
        let none = Value::Object(Map::new());
        let workload = member(case, "workload").unwrap_or(&none);
        let point = point(workload)?;
        let policies = resources::read(list(case, "policies")?)?.peer;
        // A workload without labels stands for one that every selector of the case picks.
        let labels: BTreeMap<String, String> = match member(workload, "labels") {
            Some(_) => point.labels,
            None => policies.iter().filter_map(|p| p.selector.clone()).flatten().collect(),
        };
        let mode = |port| {
            let (root, namespace) = (&mesh.root_namespace, &point.namespace);
            let mode = mtls_mode(&policies, root, namespace, &labels, port);
            json!(format!("{mode:?}").to_uppercase())
        };
        let wanted = case.get("expect").and_then(|expect| expect.get("perPort"));
        let mut ports = Map::new();
        for port in wanted.and_then(Value::as_object).into_iter().flatten().map(|(p, _)| p) {
            let number = port.parse().map_err(|_e| format!("`{port}` is not a port"))?;
            ports.insert(port.clone(), mode(number));
        }
        let mut got = json!({ "mode": mode(0) });
        if let (Some(_), Some(map)) = (wanted, got.as_object_mut()) {
            map.insert("perPort".to_owned(), Value::Object(ports));
        }
        Ok(Judged::compare(case, "expect", got, None))
    };
    judge().into()
}

/// `validate`: whether a resource is accepted at load.
pub(super) fn validate(case: &Value) -> Judged {
    let judge = || {
        let policy = case.get("policy").ok_or("`policy` is missing")?;
        let refused = resources::read(std::slice::from_ref(policy)).err();
        let got = if refused.is_some() { "reject" } else { "accept" };
        Ok(Judged::compare(case, "expect", json!(got), refused))
    };
    judge().into()
}
