//! Cases about where resources hold, and whether they are accepted at all.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::json::{Broken, flag_or, list, member, object, text, text_or};
use crate::cli::cases::resources;
use crate::config::checked::Mesh;
use crate::policy::model::Target;
use crate::policy::{Decision, Point, PointKind, ServiceKind, attaches, mtls_mode};
use crate::vocab::resource::ResourceName;

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
    let account = text_or(workload, "serviceAccount", "")?;
    let accounts = (!account.is_empty()).then(|| ResourceName::new(namespace, account));
    Ok(Point {
        kind,
        namespace: namespace.to_owned(),
        labels: labels(workload)?,
        gateway,
        services: list(workload, "services")?
            .iter()
            .map(service)
            .collect::<Broken<_>>()?,
        accounts: accounts.into_iter().collect(),
        default: Decision::Allow,
    })
}

fn labels(workload: &Value) -> Broken<BTreeMap<String, String>> {
    let label = |(key, value): (&String, &Value)| {
        let text = value
            .as_str()
            .ok_or("`labels` holds something that is not a string")?;
        Ok((key.clone(), text.to_owned()))
    };
    let labels = object(workload, "labels")?.into_iter().flatten();
    labels.map(label).collect()
}

/// `attach`: whether a policy applies to a workload.
pub(super) fn attach(case: &Value) -> Judged {
    let judge = || {
        let none = Value::Object(Map::new());
        let point = point(member(case, "workload").unwrap_or(&none))?;
        let policy = attachment(case.get("policy").ok_or("`policy` is missing")?);
        let (applies, why) = match resources::read(case, &[policy]) {
            Ok(mesh) => {
                let targets = targets(&mesh);
                let applies = |(target, name): &(&Target, &ResourceName)| {
                    attaches(target, &name.namespace, &point, mesh.scope())
                };
                (targets.iter().any(applies), None)
            }
            // What is refused at load applies to nothing.
            Err(why) => (false, Some(why)),
        };
        Ok(Judged::compare(case, "expect", json!(applies), why))
    };
    judge().into()
}

/// A policy with both a selector and a reference is refused at load; these cases ask what Istio's matcher makes of it,
/// which reads the reference.
fn attachment(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let spec = policy.get_mut("spec").and_then(Value::as_object_mut);
    if let Some(spec) = spec
        && (spec.contains_key("targetRef") || spec.contains_key("targetRefs"))
    {
        spec.remove("selector");
    }
    policy
}

fn targets(mesh: &Mesh) -> Vec<(&Target, &ResourceName)> {
    let policies = mesh
        .authorization_policies
        .iter()
        .map(|p| (&p.target, &p.name));
    let tokens = mesh
        .request_authentications
        .iter()
        .map(|p| (&p.target, &p.name));
    policies.chain(tokens).collect()
}

/// `peerauthn`: the effective mTLS mode, and that of the ports that the case names.
pub(super) fn peerauthn(case: &Value) -> Judged {
    let judge = || {
        let none = Value::Object(Map::new());
        let workload = member(case, "workload").unwrap_or(&none);
        let point = point(workload)?;
        let mesh = resources::read(case, list(case, "policies")?)?;
        let policies = &mesh.peer_authentications;
        // A workload without labels stands for one that every selector of the case picks.
        let labels: BTreeMap<String, String> = match member(workload, "labels") {
            Some(_) => point.labels,
            None => policies
                .iter()
                .filter_map(|p| p.selector.clone())
                .flatten()
                .collect(),
        };
        let mode = |port| {
            let (root, namespace) = (&mesh.root_namespace, &point.namespace);
            let mode = mtls_mode(policies, root, namespace, &labels, port);
            json!(format!("{mode:?}").to_uppercase())
        };
        let wanted = case.get("expect").and_then(|expect| expect.get("perPort"));
        let mut ports = Map::new();
        for port in wanted
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(p, _)| p)
        {
            let number = port
                .parse()
                .map_err(|_e| format!("`{port}` is not a port"))?;
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
        let refused = resources::read(case, std::slice::from_ref(policy)).err();
        let got = if refused.is_some() {
            "reject"
        } else {
            "accept"
        };
        Ok(Judged::compare(case, "expect", json!(got), refused))
    };
    judge().into()
}
