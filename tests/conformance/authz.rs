//! `authz` cases: a mesh, an enforcement point, policies and one connection or request.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ringgate::policy::model::Target;
use ringgate::policy::{
    Connection, Decision, L4Deny, Request, Verdict, custom_providers, decide, decide_plaintext,
    mtls_mode,
};
use ringgate::vocab::claims::Claims;
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, split_absolute};
use ringgate::vocab::spiffe::SpiffeId;
use serde_json::Value;

use crate::istio::{self, Mesh};
use crate::{Outcome, compile_for, has_mtls_mode, text, tokens};

pub(crate) fn run(case: &Value) -> Outcome {
    if case.get("expect_upstream").is_some() {
        return Err("headers towards the upstream are not the policy engine's".to_owned());
    }
    let mesh = Mesh::read(case);
    let mut policies = istio::of_kind(&case["policies"], "AuthorizationPolicy")
        .map(istio::authorization_policy)
        .collect::<Result<Vec<_>, _>>()?;
    let mut point = istio::point(&case["workload"]);
    if case.get("workload").is_none() {
        // Without a workload every policy applies.
        for policy in &mut policies {
            policy.target = Target::Namespace;
        }
        let namespaces = case["policies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| text(&p["metadata"], "namespace"));
        let mut namespaces = namespaces.filter(|ns| *ns != mesh.root_namespace);
        namespaces
            .next()
            .unwrap_or(&mesh.root_namespace)
            .clone_into(&mut point.namespace);
        if namespaces.any(|ns| ns != point.namespace) {
            return Err("policies of several namespaces and no workload".to_owned());
        }
    }
    let dialect = if text(case, "dialect") == "ztunnel" {
        L4Deny::Ztunnel
    } else {
        L4Deny::Api
    };
    let set = compile_for(&mesh, &point, &policies, dialect)?;
    let conn = connection(&case["request"], &mesh)?;
    if has_mtls_mode(&point) {
        let peers = istio::peer_authentications(&case["policies"]);
        let mode = mtls_mode(
            &peers,
            &mesh.root_namespace,
            &point.namespace,
            &point.labels,
            conn.port,
        );
        if decide_plaintext(mode, &conn).is_some() {
            return Ok("deny".into());
        }
    }
    let mut parsed = None;
    if text(case, "level") == "l7" {
        match request(&case["request"], &mesh) {
            Ok(request) => parsed = Some(request),
            Err(status) => return Ok(status.into()),
        }
    }
    let custom = &case["request"]["custom"];
    if custom_providers(&set, &conn, parsed.as_ref())
        .iter()
        .any(|p| text(custom, p) != "allow")
    {
        return Ok("deny".into());
    }
    if let Some(request) = &mut parsed {
        let attached_at = case.get("workload").map(|_| &point);
        match tokens::claims(case, &mesh, attached_at) {
            Ok(claims) => request.claims = claims,
            Err(status) => return Ok(status.into()),
        }
    }
    let verdict = decide(&set, &conn, parsed.as_ref());
    side_results(case, &verdict)?;
    Ok(answer(verdict.decision, "allow", "deny").into())
}

fn answer<'a>(decision: Decision, allow: &'a str, deny: &'a str) -> &'a str {
    match decision {
        Decision::Allow => allow,
        Decision::Deny => deny,
    }
}

/// Compares audit mark and dry-run results where the case states them.
fn side_results(case: &Value, verdict: &Verdict) -> Result<(), String> {
    if case
        .get("expect_audit")
        .is_some_and(|want| *want != verdict.audit)
    {
        return Err(format!("audit is {}", verdict.audit));
    }
    let shadows = [
        ("deny", verdict.shadow.deny),
        ("allow", verdict.shadow.allow),
    ];
    for (action, got) in shadows {
        let want = case["expect_shadow"].get(action).and_then(Value::as_str);
        let got = got.map(|d| answer(d, "allowed", "denied"));
        if want.is_some() && want != got {
            return Err(format!("shadow {action} is {got:?}"));
        }
    }
    Ok(())
}

fn connection(request: &Value, mesh: &Mesh) -> Result<Connection, String> {
    let source = &request["source"];
    let principal = match source["principal"].as_str() {
        Some(principal) => {
            let uri = format!("spiffe://{principal}");
            Some(SpiffeId::parse(&uri).map_err(|e| format!("no certificate has `{uri}`: {e}"))?)
        }
        None => None,
    };
    let ip = |value: &Value, default: &str| {
        value
            .as_str()
            .unwrap_or(default)
            .parse::<IpAddr>()
            .unwrap()
            .to_canonical()
    };
    let peer = ip(&source["ip"], "127.0.0.1");
    let forwarded = source["xff"]
        .as_str()
        .and_then(|xff| client_address(xff, mesh.trusted_proxies));
    Ok(Connection {
        principal,
        peer,
        remote: forwarded.unwrap_or(peer),
        destination: ip(&request["dest"]["ip"], "127.0.0.1"),
        port: u16::try_from(request["dest"]["port"].as_u64().unwrap_or(18080)).unwrap(),
        sni: request["tls"]["sni"].as_str().map(str::to_ascii_lowercase),
        time: 0,
    })
}

/// The entry of X-Forwarded-For that `numTrustedProxies` trusts.
fn client_address(xff: &str, trusted: usize) -> Option<IpAddr> {
    xff.rsplit(',')
        .nth(trusted.checked_sub(1)?)?
        .trim()
        .parse()
        .ok()
}

fn request(request: &Value, mesh: &Mesh) -> Result<Request, &'static str> {
    let or = |key: &str, default: &str| {
        request
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or(default)
            .to_owned()
    };
    let host = Host::parse(&or("host", "localhost")).map_err(|_e| "400")?;
    let target = or("path", "/");
    let origin =
        split_absolute(&target).map_or_else(|| target.as_str().into(), |(_, origin)| origin);
    let path = CanonicalPath::parse(mesh.normalization, &origin).map_err(|_e| "400")?;
    let mut headers = HeaderMap::new();
    for pair in request["headers"].as_array().into_iter().flatten() {
        let name: HeaderName = pair[0].as_str().unwrap().parse().map_err(|_e| "400")?;
        headers.append(
            name,
            HeaderValue::from_str(pair[1].as_str().unwrap()).map_err(|_e| "400")?,
        );
    }
    Ok(Request {
        method: Method::from_bytes(or("method", "GET").as_bytes()).map_err(|_e| "400")?,
        host,
        path: Some(path),
        headers,
        claims: None::<Claims>,
        time: 0,
    })
}
