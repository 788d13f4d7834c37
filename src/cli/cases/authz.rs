//! `authz` cases: a mesh, an enforcement point, policies, and one connection or request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::cli::cases::attached::point;
use crate::cli::cases::expect::{Judged, show};
use crate::cli::cases::harness::{Harness, NOW_UNIX_S};
use crate::cli::cases::json::{Broken, integer_or, list, member, object, text, text_or};
use crate::cli::cases::present::{self, Sent};
use crate::cli::cases::trial::{Outcome, Trial};
use crate::cli::cases::{request, resources};
use crate::config::checked::{Mesh, Protocol};
use crate::http::forward;
use crate::jwt::KeySets;
use crate::jwt::model::KeySource;
use crate::policy::model::{Target, TargetKind, TargetRef};
use crate::policy::{
    Connection, Decision, Denied, Point, PointKind, Request, ServiceKind, decide_plaintext,
    mtls_mode,
};
use crate::role::enforcement::{Enforcement, Of};
use crate::role::plan::{Judges, Next, Plan};
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// The service that stands for all traffic where a case names no workload.
const ANY: &str = "any";

pub(super) fn judge(case: &Value, harness: &Harness) -> Judged {
    run(&with_possible_principal(case), harness).into()
}

/// What judges, and what is judged.
struct Scene {
    mesh: Mesh,
    point: Point,
    /// PeerAuthentication concerns the point: not a gateway's own listeners.
    mtls: bool,
    /// Rules without a key set of their own, by their place: what they trust.
    keys: KeySets,
}

fn run(case: &Value, harness: &Harness) -> Broken<Judged> {
    let scene = Scene::read(case, harness)?;
    let none = Value::Object(Map::new());
    let sent = member(case, "request").unwrap_or(&none);
    let enforcement = scene.enforcement()?;
    let now_unix_s = integer_or(sent, "now", integer_or(case, "now", NOW_UNIX_S)?)?;
    let conn = connection(sent, now_unix_s)?;
    if let Some(denied) = scene.refuses_plaintext(&conn) {
        let why = denied.judged.reason.to_string();
        return Ok(Judged::compare(case, "expect", "deny", Some(why)));
    }
    let custom = object(sent, "custom")?;
    let answer = |provider: &str| {
        let answer = custom.and_then(|c| c.get(provider));
        answer.and_then(Value::as_str) == Some("allow")
    };
    let trial = Trial {
        plan: Plan {
            enforcements: Judges::one(&enforcement),
            asked: 1,
            rule: None,
            leg: None,
            via: None,
            own: None,
            service: None,
            workload: None,
            protocol: Protocol::Http,
            // Nothing is dialled.
            next: Next::Workload(0, conn.port),
        },
        keys: &scene.keys,
        now_unix_s,
        normalization: scene.mesh.path_normalization,
        custom: &answer,
    };
    match text_or(case, "level", "l7")? {
        "l4" => bytes(case, &scene, sent, conn, &trial),
        "l7" => request(case, &scene, &Sent::read(sent, harness)?, conn, &trial),
        other => Err(format!("`{}` is no level", other.escape_debug())),
    }
}

/// A connection that nobody reads.
fn bytes(
    case: &Value,
    scene: &Scene,
    sent: &Value,
    mut conn: Connection,
    trial: &Trial<'_>,
) -> Broken<Judged> {
    let mut xff = HeaderMap::new();
    present::forwarded(sent, &mut xff)?;
    conn.remote = forward::client_address(&xff, conn.peer, scene.mesh.num_trusted_proxies);
    compare(case, &trial.judge(&conn, None), &[], None)
}

/// A request, as a core takes it from its head to its verdict.
fn request(
    case: &Value,
    scene: &Scene,
    sent: &Sent,
    mut conn: Connection,
    trial: &Trial<'_>,
) -> Broken<Judged> {
    let canonical = request::canonical(
        &sent.method,
        Some(&sent.host),
        &sent.target,
        &sent.fields(),
        scene.mesh.path_normalization,
        conn.time,
    );
    let mut request = match canonical {
        Ok(request) => request,
        Err(refused) => {
            let why = Some(refused.why);
            return Ok(Judged::compare(case, "expect", refused.status, why));
        }
    };
    let outside = scene.point.kind == PointKind::Gateway;
    let trusted = scene.mesh.num_trusted_proxies;
    forward::strip(&mut request.headers, outside, trusted);
    conn.remote = forward::client_address(&request.headers, conn.peer, trusted);
    let outcome = trial.judge(&conn, Some(&mut request));
    compare(case, &outcome, &sent.tokens, Some((&conn, &request)))
}

/// Compares the answer, then what the case states beside it.
fn compare(
    case: &Value,
    outcome: &Outcome,
    tokens: &[String],
    request: Option<(&Connection, &Request)>,
) -> Broken<Judged> {
    let judged = Judged::compare(
        case,
        "expect",
        json!(outcome.answer()),
        Some(outcome.reason()),
    );
    let wrong = wrong_sides(case, outcome);
    let upstream = match (object(case, "expect_upstream")?, request) {
        (Some(wanted), Some((conn, request))) if outcome.is_allowed() => {
            let seen = present::upstream(conn, request);
            wrong_upstream(wanted, &seen, tokens)
        }
        _ => None,
    };
    Ok(judged.and(upstream).and(wrong))
}

/// What an AUDIT policy or a dry run gave, where it is not as stated.
fn wrong_sides(case: &Value, outcome: &Outcome) -> Option<String> {
    let (audit, shadow) = outcome.sides();
    if let Some(want) = member(case, "expect_audit")
        && *want != json!(audit)
    {
        return Some(format!("audit is {audit}, expected {}", show(want)));
    }
    let wanted = member(case, "expect_shadow")?;
    let word = |decision: Option<Decision>| match decision {
        Some(Decision::Allow) => "allowed",
        Some(Decision::Deny) => "denied",
        None => "none",
    };
    [("deny", word(shadow.deny)), ("allow", word(shadow.allow))]
        .into_iter()
        .find_map(|(action, got)| {
            let want = member(wanted, action)?;
            (*want != json!(got))
                .then(|| format!("shadow {action} is {got}, expected {}", show(want)))
        })
}

/// The first header that the backend sees otherwise than stated.
fn wrong_upstream(
    wanted: &Map<String, Value>,
    seen: &HeaderMap,
    tokens: &[String],
) -> Option<String> {
    let token = tokens.first().map_or("", String::as_str);
    let payload = token.split('.').nth(1).unwrap_or_default();
    wanted.iter().find_map(|(name, want)| {
        let values = seen.get_all(name.as_str()).iter();
        let values: Vec<Cow<'_, str>> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let got = (!values.is_empty()).then(|| values.join(", "));
        let want = want
            .as_str()
            .map(|text| text.replace("<token>", token).replace("<payload>", payload));
        (got != want).then(|| format!("the backend sees {name} {got:?}, expected {want:?}"))
    })
}

impl Scene {
    fn read(case: &Value, harness: &Harness) -> Broken<Self> {
        let (mut policies, keys) = trusting(list(case, "policies")?, harness)?;
        let bare = with_rules(&mut policies);
        let mut mesh = resources::read(case, &policies)?;
        for (at, policy) in mesh.authorization_policies.iter_mut().enumerate() {
            if bare.contains(&at) {
                policy.rules.clear();
            }
        }
        let (point, mtls) = match member(case, "workload") {
            Some(workload) => {
                let point = point(workload)?;
                let mtls = point.kind == PointKind::Workload;
                (point, mtls)
            }
            None => (everywhere(&mut mesh), true),
        };
        Ok(Self {
            mesh,
            point,
            mtls,
            keys,
        })
    }

    /// Peer authentication, where it concerns the point.
    fn refuses_plaintext(&self, conn: &Connection) -> Option<Denied> {
        if !self.mtls {
            return None;
        }
        let (mesh, point) = (&self.mesh, &self.point);
        let (root, namespace) = (&mesh.root_namespace, &point.namespace);
        let (policies, labels) = (&mesh.peer_authentications, &point.labels);
        let mode = mtls_mode(policies, root, namespace, labels, conn.port);
        decide_plaintext(mode, conn)
    }

    /// What is compiled for the point, tokens included.
    fn enforcement(&self) -> Broken<Enforcement> {
        Enforcement::at(&self.mesh, Of::Workload(0), &self.point).map_err(|e| told(&e))
    }
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}

/// A DENY or CUSTOM policy without rules is refused at load. The cases that have one ask what it would match if it were
/// there all the same: it is read with a rule, which is then taken away. Gives their places among the authorization
/// policies.
fn with_rules(policies: &mut [Value]) -> Vec<usize> {
    let kind = |p: &&mut Value| p.get("kind") == Some(&json!("AuthorizationPolicy"));
    let mut bare = Vec::new();
    for (at, policy) in policies.iter_mut().filter(kind).enumerate() {
        let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) else {
            continue;
        };
        let action = spec.get("action").and_then(Value::as_str);
        let none = |rules: &Value| rules.as_array().is_some_and(Vec::is_empty);
        if matches!(action, Some("DENY" | "CUSTOM")) && spec.get("rules").is_none_or(none) {
            spec.insert("rules".to_owned(), json!([{}]));
            bare.push(at);
        }
    }
    bare
}

/// Without a workload every policy applies: all of them are about one service in each of their namespaces.
fn everywhere(mesh: &mut Mesh) -> Point {
    let mut namespaces: Vec<String> = Vec::new();
    let mut met = |name: &ResourceName| {
        if !namespaces.contains(&name.namespace) {
            namespaces.push(name.namespace.clone());
        }
    };
    let any = || {
        Target::Refs(vec![TargetRef {
            kind: TargetKind::Service,
            name: ANY.to_owned(),
        }])
    };
    for policy in &mut mesh.authorization_policies {
        met(&policy.name);
        policy.target = any();
    }
    for policy in &mut mesh.request_authentications {
        met(&policy.name);
        policy.target = any();
    }
    let peers = &mesh.peer_authentications;
    let own = peers
        .iter()
        .map(|p| &p.name.namespace)
        .find(|ns| **ns != mesh.root_namespace);
    let labels: BTreeMap<String, String> = peers
        .iter()
        .filter_map(|p| p.selector.clone())
        .flatten()
        .collect();
    Point {
        kind: PointKind::Waypoint,
        namespace: own.unwrap_or(&mesh.root_namespace).clone(),
        labels,
        gateway: None,
        accounts: Vec::new(),
        services: namespaces
            .iter()
            .map(|ns| (ServiceKind::Service, ResourceName::new(ns, ANY)))
            .collect(),
        default: Decision::Allow,
    }
}

/// The resources with a key set for every token rule: one without keys of its own trusts the harness, `INVALID` stands
/// for keys that could not be obtained.
fn trusting(policies: &[Value], harness: &Harness) -> Broken<(Vec<Value>, KeySets)> {
    let mut keys = KeySets::default();
    let mut out = policies.to_vec();
    let rules = out
        .iter_mut()
        .filter_map(|resource| resource.pointer_mut("/spec/jwtRules")?.as_array_mut())
        .flatten()
        .filter_map(Value::as_object_mut);
    for (at, rule) in rules.enumerate() {
        let uri = match rule.get("jwks").and_then(Value::as_str) {
            Some("INVALID") => format!("https://unavailable.test/{at}"),
            Some(_) => continue,
            None => {
                let uri = format!("https://keys.test/{at}");
                let source = KeySource::Uri(uri.clone());
                keys.map.insert(source, harness.trusted().clone().into());
                uri
            }
        };
        rule.remove("jwks");
        rule.insert("jwksUri".to_owned(), json!(uri));
    }
    Ok((out, keys))
}

fn connection(sent: &Value, time: i64) -> Broken<Connection> {
    let none = Value::Object(Map::new());
    let source = member(sent, "source").unwrap_or(&none);
    let dest = member(sent, "dest").unwrap_or(&none);
    let tls = member(sent, "tls").unwrap_or(&none);
    let principal = match member(source, "principal") {
        Some(_) => {
            let uri = format!("spiffe://{}", text(source, "principal")?);
            Some(SpiffeId::parse(&uri).map_err(|e| format!("no certificate has `{uri}`: {e}"))?)
        }
        None => None,
    };
    let ip = |value: &Value| {
        let text = text_or(value, "ip", "127.0.0.1")?;
        let ip: IpAddr = text
            .parse()
            .map_err(|_e| format!("`{text}` is not an address"))?;
        Ok::<_, String>(ip.to_canonical())
    };
    let peer = ip(source)?;
    let port = integer_or(dest, "port", 18080)?;
    Ok(Connection {
        principal,
        peer,
        remote: peer,
        destination: ip(dest)?,
        port: u16::try_from(port).map_err(|_e| format!("{port} is not a port"))?,
        sni: member(tls, "sni")
            .map(|_| text(tls, "sni"))
            .transpose()?
            .map(|name| name.to_ascii_lowercase().into()),
        time,
    })
}

/// Some cases name accounts by characters that no certificate can hold, and mean just another account: those
/// characters are replaced in all of the case.
fn with_possible_principal(case: &Value) -> Cow<'_, Value> {
    let principal = case
        .pointer("/request/source/principal")
        .and_then(Value::as_str);
    let Some(principal) = principal else {
        return Cow::Borrowed(case);
    };
    let possible = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut text = case.to_string();
    let mut changed = false;
    for segment in principal.split('/').skip(1) {
        if !segment.chars().all(possible) && segment.chars().all(|c| c.is_ascii_graphic()) {
            let other: String = segment
                .chars()
                .map(|c| if possible(c) { c } else { '-' })
                .collect();
            text = text.replace(segment, &other);
            changed = true;
        }
    }
    match serde_json::from_str(&text) {
        Ok(replaced) if changed => Cow::Owned(replaced),
        Ok(_) | Err(_) => Cow::Borrowed(case),
    }
}
