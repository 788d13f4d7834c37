//! What is open is judged again: by newer rules, and as time goes on.

use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::*;
use crate::config;
use crate::config::checked::capture::OriginalSource;
use crate::jwt::{HeaderEdits, TokenError, TokenOutcome};
use crate::role::authenticate::{self, TokenRefused};
use crate::vocab::claims::Claims;
use crate::vocab::path::{CanonicalPath, PathNormalization};

mod routed;
mod ways;

const MESH: &str = r#"
[authority]
stateDir = "state"

[mesh]
trustDomain = "cluster.local"

[[workloadEntry]]
name = "api"
namespace = "default"
serviceAccount = "api"
address = "10.0.0.3"
labels = { app = "api" }

[[serviceEntry]]
name = "api"
namespace = "default"
hosts = ["api"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }
"#;

/// 2026-11-25 12:00 UTC, a Wednesday.
const NOON: i64 = 1_795_608_000;

fn rules(more: &str) -> Enforcements {
    let files = [("mesh.toml".into(), format!("{MESH}\n{more}"))];
    let config = config::parse(&files, Path::new("")).unwrap();
    Enforcements::build(Arc::clone(&config.mesh)).unwrap()
}

fn policy(action: &str, rule: &str) -> String {
    format!(
        "[[authorizationPolicy]]\nname = \"p\"\nnamespace = \"default\"\naction = \"{action}\"\nrules = [{rule}]\n"
    )
}

/// A byte stream that is open at the workload.
fn check(more: &str, at: i64, want: bool) {
    let point = SitePoint::Workload {
        workload: ResourceName::new("default", "api"),
        app: SocketAddr::from(([127, 0, 0, 1], 8080)),
        mark: None,
        source: OriginalSource::Drop,
    };
    let connection = Connection {
        principal: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web").ok(),
        peer: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 3].into(),
        port: 8080,
        sni: None,
        time: at,
    };
    let rules = rules(more);
    let got = again(&rules, &point, &connection, None, (None, None))
        .is_some_and(|plan| plan.still_allows(&point, &connection, None));
    assert_eq!(got, want, "{more} at {at}");
}

#[test]
fn byte_streams_end_when_requests_must_be_read() {
    check("", NOON, true);
    let web = "{ from = [{ source.principals = [\"cluster.local/ns/default/sa/web\"] }] }";
    check(&policy("ALLOW", web), NOON, true);
    check(&policy("DENY", web), NOON, false);
    let methods =
        "{ from = [{ source.principals = [\"*\"] }], to = [{ operation.methods = [\"GET\"] }] }";
    check(&policy("ALLOW", methods), NOON, false);
    // A token rule alone is enough.
    let tokens = "[[requestAuthentication]]\nname = \"t\"\nnamespace = \"default\"\n\
                  jwtRules = [{ issuer = \"https://auth.example.test\", jwks = '{\"keys\":[]}' }]\n";
    check(tokens, NOON, false);
}

#[test]
fn what_is_open_ends_with_its_window() {
    let hours = policy(
        "ALLOW",
        "{ when = [{ key = \"time\", values = [\"Wed 08:00-18:00\"] }] }",
    );
    assert!(rules(&hours).timed && !rules("").timed);
    check(&hours, NOON, true);
    check(&hours, NOON + 6 * 3600 - 1, true);
    check(&hours, NOON + 6 * 3600, false);
    let night = policy(
        "DENY",
        "{ when = [{ key = \"time\", values = [\"22:00-06:00\"] }] }",
    );
    check(&night, NOON, true);
    check(&night, NOON + 10 * 3600, false);
}

const WAYPOINT: &str = r#"
[[gateway]]
name = "w"
namespace = "default"
gatewayClassName = "istio-waypoint"
address = "10.0.0.10"

[[serviceEntry]]
name = "shop"
namespace = "default"
labels = { "istio.io/use-waypoint" = "w" }
hosts = ["shop"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }

[[requestAuthentication]]
name = "workload"
namespace = "default"
jwtRules = [{ issuer = "https://a.example.test", jwks = '{"keys":[]}' }]

[[requestAuthentication]]
name = "service"
namespace = "default"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "shop" }]
jwtRules = [{ issuer = "https://b.example.test", jwks = '{"keys":[]}' }]
"#;

/// A token that the first token rules accept and take out is still seen by the next, which do not know its issuer.
#[test]
fn every_enforcement_point_sees_the_token() {
    let rules = rules(WAYPOINT);
    let workload = ResourceName::new("default", "api");
    let connection = Connection {
        principal: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web").ok(),
        peer: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 3].into(),
        port: 8080,
        sni: None,
        time: NOON,
    };
    let app = SocketAddr::from(([127, 0, 0, 1], 8080));
    let plan = at_workload(
        &rules,
        &workload,
        &connection,
        (app, None, OriginalSource::Drop),
    )
    .unwrap();
    assert_eq!(plan.enforcements.len(), 2);
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    let mode = PathNormalization::Base;
    let mut request = Request {
        method: Method::GET,
        host: Host::parse("shop").unwrap(),
        path: CanonicalPath::parse(mode, "/").ok(),
        headers,
        claims: None,
        time: NOON,
    };
    let first = &plan.enforcements[0].tokens;
    let outcome = authenticate::tokens(&plan, &mut request, mode, |rules, request| {
        if !request.headers.contains_key(header::AUTHORIZATION) {
            let edits = HeaderEdits::default();
            return TokenOutcome::Anonymous { edits };
        }
        if !std::ptr::eq(rules, first) {
            return TokenOutcome::Invalid {
                status: 401,
                text: "Jwt issuer is not configured",
                error: TokenError::Issuer,
                unknown_kid: None,
            };
        }
        TokenOutcome::Valid {
            claims: Claims::new(serde_json::Map::new(), Vec::new()),
            edits: HeaderEdits {
                remove: vec![header::AUTHORIZATION],
                ..HeaderEdits::default()
            },
        }
    });
    let refused = outcome.unwrap_err();
    assert!(
        matches!(&refused, TokenRefused::Invalid(i) if i.status == StatusCode::UNAUTHORIZED),
        "{refused:?}"
    );
}

/// Claims that a workload's own token rules took do not open what a service's policies guard, and the other way round.
#[test]
fn claims_count_where_they_are_taken() {
    let admins = |name: &str, target: &str| {
        format!(
            "[[authorizationPolicy]]\nname = \"{name}\"\nnamespace = \"default\"\n{target}\n\
             rules = [{{ when = [{{ key = \"request.auth.claims[group]\", values = [\"admin\"] }}] }}]\n"
        )
    };
    let service = "targetRefs = [{ group = \"networking.istio.io\", kind = \"ServiceEntry\", name = \"shop\" }]";
    let app = SocketAddr::from(([127, 0, 0, 1], 8080));
    let connection = Connection {
        principal: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web").ok(),
        peer: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 3].into(),
        port: 8080,
        sni: None,
        time: NOON,
    };
    for (policy, issuer, want) in [
        (admins("s", service), "https://a.example.test", false),
        (admins("s", service), "https://b.example.test", true),
        (admins("w", ""), "https://a.example.test", true),
        (admins("w", ""), "https://b.example.test", false),
    ] {
        let rules = rules(&format!("{WAYPOINT}{policy}"));
        let workload = ResourceName::new("default", "api");
        let plan = at_workload(
            &rules,
            &workload,
            &connection,
            (app, None, OriginalSource::Drop),
        )
        .unwrap();
        let claims = serde_json::json!({ "iss": issuer, "sub": "x", "group": "admin" });
        let request = Request {
            method: Method::GET,
            host: Host::parse("shop").unwrap(),
            path: CanonicalPath::parse(PathNormalization::Base, "/").ok(),
            headers: HeaderMap::new(),
            claims: Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new())),
            time: NOON,
        };
        let got = plan.judge(&connection, Some(&request)).is_ok();
        assert_eq!(got, want, "{issuer}: {policy}");
    }
}

/// Whether an ingress leads to the service `legacy` outside of the mesh by itself.
fn ingress_leads_outside(labels: &str) -> Option<Next> {
    let more = format!(
        r#"
[[gateway]]
name = "public"
namespace = "edge"
gatewayClassName = "ringgate-ingress"
address = "10.0.0.20"

[[gateway]]
name = "egress"
namespace = "edge"
gatewayClassName = "ringgate-egress"
address = "10.0.0.30"

[[serviceEntry]]
name = "legacy"
namespace = "edge"
{labels}
hosts = ["legacy.example.test"]
ports = [{{ number = 80, name = "http", protocol = "HTTP", targetPort = 8081 }}]
location = "MESH_EXTERNAL"
resolution = "STATIC"
endpoints = [{{ address = "192.0.2.1" }}]

[[httpRoute]]
name = "legacy"
namespace = "edge"
parentRefs = [{{ name = "public" }}]
rules = [{{ backendRefs = [{{ name = "legacy", port = 80 }}] }}]
"#
    );
    let rules = rules(&more);
    let gateway = ResourceName::new("edge", "public");
    let request = Request {
        method: Method::GET,
        host: Host::parse("portal.example.test").unwrap(),
        path: Some(CanonicalPath::parse(PathNormalization::Base, "/").unwrap()),
        headers: HeaderMap::new(),
        claims: None,
        time: NOON,
    };
    let connection = Connection {
        principal: None,
        peer: [198, 51, 100, 1].into(),
        remote: [198, 51, 100, 1].into(),
        destination: [10, 0, 0, 20].into(),
        port: 443,
        sni: None,
        time: NOON,
    };
    let point = SitePoint::Ingress { gateway };
    let found = plan(&rules, &point, &connection, Some(&request), 0);
    found.ok().map(|plan| plan.next)
}

#[test]
fn an_ingress_leads_to_services_outside_by_their_gateway_if_they_have_one() {
    let itself = ingress_leads_outside("");
    assert!(
        matches!(itself, Some(Next::Outside(1, 8081, None))),
        "{itself:?}"
    );
    let bound = ingress_leads_outside(r#"labels = { "istio.io/use-waypoint" = "egress" }"#);
    assert!(matches!(bound, Some(Next::Gateway(..))), "{bound:?}");
}

/// What a request is for is what the connection is for, but where only the request says it.
#[test]
fn the_destination_of_a_request() {
    let gateway = ResourceName::new("edge", "g");
    let tunnel = Host::parse("a.example:443").ok();
    let egress = |authority| SitePoint::Egress {
        gateway: gateway.clone(),
        authority,
    };
    let waypoint = |authority| SitePoint::Waypoint {
        gateway: gateway.clone(),
        authority,
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let here = ip("10.0.0.9");
    let connection = Connection {
        principal: None,
        peer: here,
        remote: here,
        destination: here,
        port: 15081,
        sni: None,
        time: NOON,
    };
    let ingress = SitePoint::Ingress {
        gateway: gateway.clone(),
    };
    for (point, host, want) in [
        (egress(None), "a.example", (here, 80)),
        (egress(None), "a.example:8080", (here, 8080)),
        (egress(None), "192.0.2.7:8080", (ip("192.0.2.7"), 8080)),
        (waypoint(None), "a", (here, 15081)),
        (waypoint(None), "a:8080", (here, 8080)),
        (egress(tunnel.clone()), "a.example:8080", (here, 15081)),
        (waypoint(tunnel), "a.example:8080", (here, 15081)),
        (ingress, "a.example:8080", (here, 15081)),
    ] {
        let host = Host::parse(host).unwrap();
        let got = point.destination(&connection, &host, HTTP_PORT);
        assert_eq!(got, want, "{point:?} {host}");
    }
}
