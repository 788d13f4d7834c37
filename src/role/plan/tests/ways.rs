//! Several ways to one workload: its services, their waypoints, its own, its own address, plaintext.

use super::*;
use crate::role::endpoints::Caller;
use crate::role::outbound::{Route, Wanted, route};

const WAYS: &str = r#"
[authority]
stateDir = "state"

[mesh]
trustDomain = "cluster.local"

[[gateway]]
name = "g"
namespace = "default"
gatewayClassName = "istio-waypoint"
address = "10.0.1.1"

[[gateway]]
name = "h"
namespace = "default"
gatewayClassName = "istio-waypoint"
address = "10.0.1.2"

[[gateway]]
name = "x"
namespace = "default"
gatewayClassName = "istio-waypoint"
address = "10.0.1.3"
labels = { "istio.io/waypoint-for" = "workload" }

[[workloadEntry]]
name = "w0"
namespace = "default"
serviceAccount = "w"
address = "10.0.0.3"
labels = { app = "w" }

[[workloadEntry]]
name = "w1"
namespace = "default"
serviceAccount = "w"
address = "10.0.0.4"
labels = { app = "w", "istio.io/use-waypoint" = "x" }

[[workloadEntry]]
name = "w2"
namespace = "default"
serviceAccount = "w"
address = "10.0.0.5"
labels = { app = "w", "istio.io/use-waypoint" = "x" }

[[workloadEntry]]
name = "other"
namespace = "default"
serviceAccount = "other"
address = "10.0.0.6"
labels = { app = "other" }

[[serviceEntry]]
name = "s"
namespace = "default"
labels = { "istio.io/use-waypoint" = "g" }
hosts = ["s"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "w" }

[[serviceEntry]]
name = "block"
namespace = "default"
hosts = ["block"]
addresses = ["10.0.0.0/16"]
ports = [{ number = 8080, name = "tcp", protocol = "TCP" }]
resolution = "NONE"
"#;

/// Another service of the same workloads, behind a waypoint of its own.
fn second(port: u16) -> String {
    format!(
        "[[serviceEntry]]\nname = \"t\"\nnamespace = \"default\"\nlabels = {{ \"istio.io/use-waypoint\" = \"h\" }}\n\
         hosts = [\"t\"]\nports = [{{ number = 81, name = \"http\", protocol = \"HTTP\", targetPort = {port} }}]\n\
         location = \"MESH_INTERNAL\"\nresolution = \"STATIC\"\nworkloadSelector.labels = {{ app = \"w\" }}\n"
    )
}

fn denied_at(kind: &str, name: &str) -> String {
    let group = match kind {
        "Gateway" => "gateway.networking.k8s.io",
        _ => "networking.istio.io",
    };
    format!(
        "[[authorizationPolicy]]\nname = \"no-web\"\nnamespace = \"default\"\naction = \"DENY\"\n\
         targetRefs = [{{ group = \"{group}\", kind = \"{kind}\", name = \"{name}\" }}]\n\
         rules = [{{ from = [{{ source.principals = [\"cluster.local/ns/default/sa/web\"] }}] }}]\n"
    )
}

fn mesh(more: &str) -> Enforcements {
    let files = [("mesh.toml".into(), format!("{WAYS}\n{more}"))];
    let config = config::parse(&files, Path::new("")).unwrap();
    Enforcements::build(Arc::clone(&config.mesh)).unwrap()
}

fn connection(principal: Option<&str>, port: u16) -> Connection {
    Connection {
        principal: principal.map(|id| SpiffeId::parse(id).unwrap()),
        peer: [10, 0, 2, 1].into(),
        remote: [10, 0, 2, 1].into(),
        destination: [10, 0, 0, 3].into(),
        port,
        sni: None,
        time: NOON,
    }
}

fn web(port: u16) -> Connection {
    connection(Some("spiffe://cluster.local/ns/default/sa/web"), port)
}

fn get() -> Request {
    Request {
        method: Method::GET,
        host: Host::parse("s").unwrap(),
        path: CanonicalPath::parse(PathNormalization::Base, "/").ok(),
        headers: HeaderMap::new(),
        claims: None,
        time: NOON,
    }
}

fn at_g() -> SitePoint {
    SitePoint::Waypoint {
        gateway: ResourceName::new("default", "g"),
        authority: Some(Host::parse("s:80").unwrap()),
    }
}

fn at_w(name: &str, port: u16) -> SitePoint {
    SitePoint::Workload {
        workload: ResourceName::new("default", name),
        app: SocketAddr::from(([127, 0, 0, 1], port)),
        mark: None,
        source: OriginalSource::Drop,
    }
}

/// What is open through a waypoint is judged by the workload that it goes to, and by no other of the service.
#[test]
fn what_is_open_is_judged_by_where_it_goes() {
    let (point, request) = (at_g(), get());
    let still = |rules: &Enforcements, towards: &str| {
        let towards = ResourceName::new("default", towards);
        again(
            rules,
            &point,
            &web(80),
            Some(&request),
            (Some(&towards), None),
        )
        .is_some_and(|plan| plan.still_allows(&point, &web(80), Some(&request)))
    };
    let before = mesh("");
    assert!(still(&before, "w0") && still(&before, "w1"));
    let after = mesh(&denied_at("Gateway", "x"));
    assert!(still(&after, "w0"), "no policy there");
    assert!(!still(&after, "w1") && !still(&after, "w2"));
    for gone in ["other", "nobody"] {
        assert!(!still(&before, gone), "{gone} is no workload of it");
    }
}

/// A provider that was asked, and a token that was verified, count where the same ones hold.
#[test]
fn another_endpoint_with_other_rules_is_not_the_same_call() {
    let rules = mesh(&denied_at("Gateway", "x"));
    let planned = |turn: usize| plan(&rules, &at_g(), &web(80), Some(&get()), turn).unwrap();
    let (first, second, third) = (planned(0), planned(1), planned(2));
    let workloads = [&first, &second, &third].map(|p| p.workload.unwrap());
    assert_eq!(workloads, [0, 1, 2]);
    assert!(first.is_judged_as(&first.enforcements));
    assert!(!second.is_judged_as(&first.enforcements));
    assert!(!first.is_judged_as(&second.enforcements));
    assert!(third.is_judged_as(&second.enforcements), "the same rules");
    let tokens = "[[requestAuthentication]]\nname = \"x\"\nnamespace = \"default\"\n\
         targetRefs = [{ group = \"gateway.networking.k8s.io\", kind = \"Gateway\", name = \"x\" }]\n\
         jwtRules = [{ issuer = \"https://a.example.test\", jwks = '{\"keys\":[]}' }]\n";
    let rules = mesh(tokens);
    let planned = |turn: usize| plan(&rules, &at_g(), &web(80), Some(&get()), turn).unwrap();
    assert!(!planned(1).is_judged_as(&planned(0).enforcements));
}

/// Two services of one workload are no way around each other's policies, where they lead to the same port.
#[test]
fn a_second_service_is_no_way_around_the_first() {
    for (port, allowed) in [(8080, false), (9090, true)] {
        let rules = mesh(&(second(port) + &denied_at("ServiceEntry", "t")));
        let plan = plan(&rules, &at_g(), &web(80), Some(&get()), 0).unwrap();
        let got = plan.judge(&web(80), Some(&get())).is_ok();
        assert_eq!(got, allowed, "port {port}");
    }
}

/// A waypoint's word counts at the ports of its services.
#[test]
fn a_waypoint_is_believed_where_it_leads() {
    let rules = mesh(&second(9090));
    let via = |gateway: &str, port: u16| {
        let id = format!("spiffe://cluster.local/ns/default/sa/{gateway}");
        let caller = connection(Some(&id), port);
        let plan = plan(&rules, &at_w("w0", port), &caller, None, 0).unwrap();
        (plan.via.is_some(), plan.enforcements.len())
    };
    assert_eq!(via("g", 8080), (true, 1));
    assert_eq!(via("g", 9090), (false, 3));
    assert_eq!(via("h", 9090), (true, 1));
    assert_eq!(via("h", 8080), (false, 3));
    assert_eq!(via("web", 8080), (false, 3));
}

/// STRICT ends what is open in plaintext, and whatever comes on it.
#[test]
fn strict_holds_for_what_is_open() {
    let mode = |mode: &str| {
        format!(
            "[[peerAuthentication]]\nname = \"default\"\nnamespace = \"default\"\nmtls.mode = \"{mode}\"\n"
        )
    };
    let (point, plain) = (at_w("other", 8080), connection(None, 8080));
    let open = |rules: &Enforcements, connection: &Connection| {
        again(rules, &point, connection, None, (None, None))
            .is_some_and(|plan| plan.still_allows(&point, connection, None))
    };
    for (rules, want) in [
        (mesh(""), true),
        (mesh(&mode("PERMISSIVE")), true),
        (mesh(&mode("STRICT")), false),
    ] {
        assert_eq!(open(&rules, &plain), want);
        assert!(open(&rules, &web(8080)));
    }
    let strict = mesh(&mode("STRICT"));
    let refused = plan(&strict, &point, &plain, Some(&get()), 0);
    assert!(matches!(refused, Err(NoPlan::Plaintext(_))), "{refused:?}");
    let text = WAYS.replace("[mesh]\n", "[mesh]\ndangerous_dryRun = true\n");
    let files = [("mesh.toml".into(), text + &mode("STRICT"))];
    let config = config::parse(&files, Path::new("")).unwrap();
    let dry = Enforcements::build(Arc::clone(&config.mesh)).unwrap();
    assert!(open(&dry, &plain), "a dry run ends nothing");
}

/// A workload in an outside service's block is called as a workload.
#[test]
fn a_block_does_not_take_workloads_in() {
    let rules = mesh("");
    let to = |ip: [u8; 4]| {
        let wanted = Wanted::Address(ip.into());
        let from = Caller::default();
        route(&rules.mesh, &rules.directory, &from, (&wanted, 8080), 0)
    };
    assert!(matches!(
        to([10, 0, 0, 3]),
        Route::Workload { workload: 0, .. }
    ));
    assert!(matches!(to([10, 0, 0, 4]), Route::Gateway { .. }));
    assert!(matches!(to([10, 0, 9, 9]), Route::Outside { .. }));
}
