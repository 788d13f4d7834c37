//! What routes send elsewhere is judged for where it goes, as it is sent.

use super::*;
use crate::role::rewrite;
use crate::vocab::host::Host;

const ROUTED: &str = r#"
[authority]
stateDir = "state"

[mesh]
trustDomain = "cluster.local"

[[gateway]]
name = "g"
gatewayClassName = "istio-waypoint"
labels = { "istio.io/waypoint-for" = "all" }
address = "10.0.0.10"

[[gateway]]
name = "e"
gatewayClassName = "ringgate-egress"
address = "10.0.0.11"

[[workloadEntry]]
name = "v1"
serviceAccount = "shop"
address = "10.0.1.1"
labels = { app = "shop", version = "v1" }

[[workloadEntry]]
name = "v2"
serviceAccount = "shop"
address = "10.0.1.2"
labels = { app = "shop", version = "v2" }

[[serviceEntry]]
name = "shop"
labels = { "istio.io/use-waypoint" = "g" }
hosts = ["shop"]
ports = [
    { number = 80, name = "http", protocol = "HTTP", targetPort = 8080 },
    { number = 81, name = "http-more", protocol = "HTTP", targetPort = 8088 },
]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "shop", version = "v1" }

[[serviceEntry]]
name = "shop-v2"
labels = { "istio.io/use-waypoint" = "g" }
hosts = ["shop-v2"]
ports = [
    { number = 80, name = "http", protocol = "HTTP2", targetPort = 8081 },
    { number = 81, name = "http-more", protocol = "HTTP2", targetPort = 8089 },
]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { version = "v2" }

[[serviceEntry]]
name = "partner"
labels = { "istio.io/use-waypoint" = "e" }
hosts = ["partner.example"]
ports = [{ number = 443, name = "https", protocol = "HTTPS" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.1" }]

[[serviceEntry]]
name = "loose"
hosts = ["loose.example"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.2" }]
"#;

fn rules(more: &str) -> Enforcements {
    let files = [("mesh.toml".into(), format!("{ROUTED}\n{more}"))];
    let config = config::parse(&files, Path::new("")).unwrap_or_else(|e| panic!("{e}"));
    Enforcements::build(Arc::clone(&config.mesh)).unwrap()
}

fn route(rules: &str) -> String {
    format!(
        "[[httpRoute]]\nname = \"r\"\nparentRefs = [{{ kind = \"Service\", name = \"shop\" }}]\nrules = [{rules}]\n"
    )
}

fn denied(service: &str, path: &str) -> String {
    format!(
        "[[authorizationPolicy]]\nname = \"{service}\"\naction = \"DENY\"\n\
         targetRefs = [{{ kind = \"ServiceEntry\", group = \"networking.istio.io\", name = \"{service}\" }}]\n\
         rules = [{{ to = [{{ operation.paths = [\"{path}\"] }}] }}]\n"
    )
}

fn request(path: &str) -> Request {
    Request {
        method: Method::GET,
        host: Host::parse("shop").unwrap(),
        path: CanonicalPath::parse(PathNormalization::Base, path).ok(),
        headers: HeaderMap::new(),
        claims: None,
        time: NOON,
    }
}

fn web() -> Connection {
    Connection {
        principal: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web").ok(),
        peer: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 3].into(),
        port: 80,
        sni: None,
        time: NOON,
    }
}

fn waypoint() -> SitePoint {
    SitePoint::Waypoint {
        gateway: ResourceName::new("default", "g"),
        authority: Host::parse("shop:80").ok(),
    }
}

/// Where a request goes, and whether it may.
fn goes(rules: &Enforcements, path: &str) -> Option<(Next, bool)> {
    let request = request(path);
    let plan = plan(rules, &waypoint(), &web(), Some(&request), 0).ok()?;
    let sent = plan.rule.map(|rule| {
        let mode = PathNormalization::Base;
        rewrite::sent(rule, &request, mode).unwrap()
    });
    let sent = sent.flatten();
    let allowed = plan.judge_sent(&web(), Some(&request), sent.as_ref());
    Some((plan.next, allowed.is_ok()))
}

const V1: Next = Next::Workload(0, 8080);
const V2: Next = Next::Workload(1, 8081);
const TO_V2: &str = "backendRefs = [{ name = \"shop-v2\", port = 80 }]";

#[test]
fn backends_are_other_services_and_their_policies_judge_too() {
    let to_v2 = route(&format!(
        "{{ matches = [{{ path.value = \"/v2\" }}], {TO_V2} }}, {{ backendRefs = [{{ name = \"shop\", port = 80 }}] }}"
    ));
    let check = |more: &str, path: &str, want: (Next, bool)| {
        let rules = rules(&format!("{to_v2}{more}"));
        assert_eq!(goes(&rules, path), Some(want), "{path} {more}");
    };
    check("", "/", (V1, true));
    check("", "/v2/x", (V2, true));
    // Policies of the service that was called hold for what a route sends elsewhere.
    check(&denied("shop", "/v2/x"), "/v2/x", (V2, false));
    // A route is no way around the policies of its backend.
    check(&denied("shop-v2", "/v2/x"), "/v2/x", (V2, false));
    check(&denied("shop-v2", "/v2/x"), "/v2/y", (V2, true));
}

#[test]
fn what_is_judged_for_a_backend_is_what_is_sent() {
    let rewritten = |backend: &str| {
        route(&format!(
            "{{ matches = [{{ path.value = \"/open\" }}], filters = [{{ type = \"URLRewrite\", \
             urlRewrite.path = {{ type = \"ReplacePrefixMatch\", replacePrefixMatch = \"/admin\" }} }}], \
             backendRefs = [{{ name = \"{backend}\", port = 80 }}] }}"
        ))
    };
    let check = |backend: &str, denied: &str, want: bool| {
        let rules = rules(&format!("{}{denied}", rewritten(backend)));
        let (_, got) = goes(&rules, "/open/x").unwrap();
        assert_eq!(got, want, "{backend} {denied}");
    };
    check("shop", "", true);
    check("shop", &denied("shop", "/open/x"), false);
    check("shop", &denied("shop", "/admin/x"), false);
    check("shop-v2", &denied("shop-v2", "/admin/x"), false);
    // Nobody asked the backend for it.
    check("shop-v2", &denied("shop-v2", "/open/x"), true);
    check("shop-v2", &denied("shop", "/open/x"), false);
    check("shop-v2", &denied("shop", "/admin/x"), true);
}

#[test]
fn the_port_that_is_judged_for_a_backend_is_the_one_that_it_leads_to() {
    let denied = |service: &str, port: u16| {
        let path = denied(service, "/");
        let ports = format!("operation.ports = [\"{port}\"]");
        path.replace("operation.paths = [\"/\"]", &ports)
    };
    for backend in ["shop", "shop-v2"] {
        let to = route(&format!(
            "{{ backendRefs = [{{ name = \"{backend}\", port = 81 }}] }}"
        ));
        let allowed = |more: &str| goes(&rules(&format!("{to}{more}")), "/").unwrap().1;
        assert!(allowed(""));
        assert!(!allowed(&denied(backend, 81)), "{backend}");
        // That of the called service is asked about what was called.
        let called = backend == "shop";
        assert_eq!(allowed(&denied(backend, 80)), !called, "{backend}");
    }
}

#[test]
fn the_own_policies_of_a_backends_workload_judge_too() {
    let bare = r#"
[[workloadEntry]]
name = "w"
serviceAccount = "other"
address = "10.0.1.3"
labels = { app = "bare", "istio.io/use-waypoint" = "g" }

[[serviceEntry]]
name = "bare"
labels = { "istio.io/use-waypoint" = "none" }
hosts = ["bare"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "bare" }
"#;
    let rewritten = route(
        "{ filters = [{ type = \"URLRewrite\", urlRewrite.path = { type = \"ReplaceFullPath\", \
         replaceFullPath = \"/admin\" } }], backendRefs = [{ name = \"bare\", port = 80 }] }",
    );
    let gateway = denied("g", "/admin").replace(
        "kind = \"ServiceEntry\", group = \"networking.istio.io\"",
        "kind = \"Gateway\", group = \"gateway.networking.k8s.io\"",
    );
    let allowed = |more: &str| {
        let rules = rules(&format!("{bare}{rewritten}{more}"));
        goes(&rules, "/open").unwrap().1
    };
    assert!(allowed(""));
    assert!(!allowed(&gateway));
}

#[test]
fn routes_of_a_gateway_are_for_the_service_that_their_host_names() {
    let by_host = "[[httpRoute]]\nname = \"r\"\nparentRefs = [{ kind = \"Gateway\", name = \"g\" }]\n\
                   hostnames = [\"shop-v2\"]\n\
                   rules = [{ backendRefs = [{ name = \"shop-v2\", port = 81 }] }]\n";
    let rules = rules(by_host);
    let request = Request {
        host: Host::parse("shop-v2").unwrap(),
        ..request("/")
    };
    let next = |authority: &str| {
        let point = SitePoint::Waypoint {
            gateway: ResourceName::new("default", "g"),
            authority: Host::parse(authority).ok(),
        };
        plan(&rules, &point, &web(), Some(&request), 0)
            .unwrap()
            .next
    };
    assert_eq!(next("shop-v2:80"), Next::Workload(1, 8089));
    assert_eq!(next("shop:80"), V1, "judged as `shop`, and sent there");
}

#[test]
fn routes_that_match_nothing_lead_nowhere() {
    let only = route(&format!(
        "{{ matches = [{{ path.value = \"/v2\" }}], {TO_V2} }}"
    ));
    let with = rules(&only);
    assert_eq!(goes(&with, "/v2"), Some((V2, true)));
    assert_eq!(goes(&with, "/"), None);
    assert_eq!(goes(&rules(""), "/"), Some((V1, true)));
    // An outside service that no gateway judges.
    let loose = route("{ backendRefs = [{ name = \"loose\", port = 80 }] }");
    assert_eq!(goes(&rules(&loose), "/"), None);
}

#[test]
fn backends_behind_another_gateway_are_asked_for_there() {
    let out = rules(&route(
        "{ backendRefs = [{ name = \"partner\", port = 443 }] }",
    ));
    let next = Next::Gateway(1, "partner.example:443".to_owned());
    assert_eq!(goes(&out, "/"), Some((next, true)));
}

#[test]
fn weights_choose_once() {
    let rules = rules(&route(
        "{ backendRefs = [{ name = \"shop\", port = 80, weight = 3 }, { name = \"shop-v2\", port = 80 }] }",
    ));
    let request = request("/");
    let mut v2 = 0;
    for turn in 0..400 {
        let plan = plan(&rules, &waypoint(), &web(), Some(&request), turn).unwrap();
        v2 += u32::from(plan.next == V2);
        // Another attempt, or a newer snapshot, stays with the backend.
        for again in 0..8 {
            let pick = Pick {
                leg: plan.leg,
                ..Pick::from(again)
            };
            let next = super::plan(&rules, &waypoint(), &web(), Some(&request), pick);
            assert_eq!(next.unwrap().next, plan.next);
        }
    }
    assert!((90..=110).contains(&v2), "{v2}");
}

#[test]
fn what_is_open_without_a_route_takes_none_that_comes() {
    let request = request("/");
    let open = |more: &str| {
        let rules = rules(more);
        let towards = ResourceName::new("default", "v1");
        again(
            &rules,
            &waypoint(),
            &web(),
            Some(&request),
            (Some(&towards), None),
        )
        .is_some_and(|plan| plan.still_allows(&waypoint(), &web(), Some(&request)))
    };
    let redirect = route(
        "{ filters = [{ type = \"RequestRedirect\", requestRedirect.hostname = \"b.example\" }] }",
    );
    let away = route(&format!("{{ {TO_V2} }}"));
    let none = route(&format!(
        "{{ matches = [{{ path.value = \"/v2\" }}], {TO_V2} }}"
    ));
    // Of another service that leads to the same port of its workload.
    let other = r#"
[[serviceEntry]]
name = "other"
labels = { "istio.io/use-waypoint" = "g" }
hosts = ["other"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { version = "v1" }
"#;
    let denied = denied("other", "/");
    for routes in ["", &redirect, &away, &none] {
        assert!(open(&format!("{routes}{other}")), "{routes}");
        assert!(!open(&format!("{routes}{other}{denied}")), "{routes}");
    }
}

#[test]
fn what_is_open_stays_with_its_backend_when_routes_change() {
    let to_v2 = rules(&route(&format!("{{ {TO_V2} }}")));
    let request = request("/");
    let plan = plan(&to_v2, &waypoint(), &web(), Some(&request), 0).unwrap();
    let leg = (ResourceName::new("default", "shop-v2"), plan.leg.unwrap());
    let open = |rules: &Enforcements| {
        let towards = ResourceName::new("default", "v2");
        let goes = (Some(&towards), Some((&leg.0, leg.1)));
        again(rules, &waypoint(), &web(), Some(&request), goes)
            .is_some_and(|plan| plan.still_allows(&waypoint(), &web(), Some(&request)))
    };
    assert!(open(&to_v2));
    assert!(open(&rules("")), "the route is gone, no policy forbids it");
    assert!(!open(&rules(&denied("shop-v2", "/"))));
    assert!(!open(&rules(&denied("shop", "/"))));
}
