//! Configuration from files: the demo in detail, broken files with their exact messages, and what is always refused.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "helpers of a test"
)]

use std::path::{Path, PathBuf};

use ringgate::config::checked::capture::{
    Capture, CaptureMode, CaptureScope, OnFailure, OriginalSource, OwnerMatch, UdpMode, Unowned,
};
use ringgate::config::checked::route::{PathMatch, RouteParent};
use ringgate::config::checked::{
    DnsUnknown, GatewayClass, IdentitySource, IoDriver, Location, Preference, Protocol, RecordSink,
    Secret, ServiceEndpoint, UpstreamTls,
};
use ringgate::config::{self, Config, ConfigErrors};
use ringgate::control::dns;
use ringgate::jwt::model::KeySource;
use ringgate::policy::L4Deny;
use ringgate::policy::limit::Key;
use ringgate::policy::model::{Action, MtlsMode, Target, TargetKind};
use ringgate::upstream::balance::Simple;
use ringgate::upstream::hash::{ConsistentHash, Cookie, HashKey, Shape};
use ringgate::upstream::resolved::Name;
use ringgate::vocab::path::PathNormalization;
use ringgate::vocab::resource::ResourceName;

const BASE: &str = "/etc/ringgate";

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn parse(name: &str, text: &str) -> Result<Config, ConfigErrors> {
    config::parse(&[(name.into(), text.to_owned())], Path::new(BASE))
}

fn demo() -> Config {
    parse("demo.toml", &read("config/demo.toml")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of what the demo says")]
fn demo_process() {
    let config = demo();
    assert_eq!(config.warnings, []);
    assert_eq!(config.lints, []);
    assert_eq!(config.sources, [PathBuf::from("demo.toml")]);
    let p = config.process;
    assert_eq!(
        (p.name.as_str(), p.io, p.cores),
        ("demo", IoDriver::Auto, 1)
    );
    assert_eq!(
        p.records,
        RecordSink::File("/etc/ringgate/log/decisions.jsonl".into())
    );
    assert_eq!(p.admin, Some("127.0.10.9:15000".parse().unwrap()));
    let IdentitySource::Embedded(authority) = p.identity else {
        panic!("embedded")
    };
    assert_eq!(
        authority.state_dir,
        Some("/etc/ringgate/state/authority".into())
    );
    assert_eq!(authority.svid_ttl_s, 86_400);
    assert_eq!(authority.listen, Some("127.0.10.9:15012".parse().unwrap()));
    assert_eq!(
        authority.join_tokens,
        Some(Secret::File("/etc/ringgate/state/join-tokens".into()))
    );

    assert_eq!(
        p.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        ["frontend", "reviews", "customer-api"]
    );
    let node = &p.nodes[2];
    assert_eq!(node.inbound.len(), 3);
    assert_eq!(node.mark, None);
    let workload = &node.workloads[0];
    assert_eq!(
        workload.workload,
        ResourceName::new("default", "customer-api")
    );
    assert_eq!(workload.hbone, Some("127.0.10.3:15008".parse().unwrap()));
    assert_eq!((workload.outbound, workload.socks), (None, None));
    assert_eq!(
        workload.app.get(&8443),
        Some(&"127.0.10.3:18080".parse().unwrap())
    );
    assert_eq!(
        node.workloads[1].socks,
        Some("127.0.10.4:15080".parse().unwrap())
    );

    assert_eq!(
        p.waypoints[0].gateway,
        ResourceName::new("default", "customer-api")
    );
    assert_eq!(
        p.waypoints[0].mtls,
        Some("127.0.10.13:8443".parse().unwrap())
    );
    let listener = &p.ingresses[0].listeners[0];
    assert_eq!(
        listener.certificates[0].certificate,
        PathBuf::from("/etc/ringgate/state/ingress/cert.pem")
    );
    assert_eq!(
        listener.certificates[0].key,
        Secret::File("/etc/ringgate/state/ingress/key.pem".into())
    );
    assert_eq!(
        p.egresses[0].proxy,
        Some("127.0.10.30:15081".parse().unwrap())
    );
    assert_eq!(p.identity_files.len(), 2);
    assert_eq!(
        p.identity_files[0].dir,
        PathBuf::from("/etc/ringgate/stolen/reviews-service")
    );
    assert_eq!(p.identity_files[0].audience, "customer-api");
}

/// A mesh with one outside service, whose table has `more` in it.
fn outside(process: &str, more: &str) -> Config {
    let service = "name = \"x\"\nhosts = [\"x.example.test\"]\nports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]";
    let text = format!(
        "[process]\n{process}\n[authority]\n[[serviceEntry]]\n{service}\nresolution = \"DNS\"\n{more}\n"
    );
    parse("outside.toml", &text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn where_keys_come_from() {
    let keys = "jwksUri = \"http://idp.corp.test/keys\"\ndangerous_allowInsecure = true\n";
    let text = format!(
        "[authority]\n[mesh]\ncompat.audienceStripping = true\n[[requestAuthentication]]\nname = \"r\"\n\
         [[requestAuthentication.jwtRules]]\nissuer = \"https://127.0.0.1:8443\"\ntimeout = \"2s\"\n\
         dangerous_allowPrivateAddresses = true\n[[requestAuthentication.jwtRules]]\n{keys}"
    );
    let mesh = parse("keys.toml", &text)
        .unwrap_or_else(|e| panic!("{e}"))
        .mesh;
    assert!(mesh.audience_stripping);
    let rules = &mesh.request_authentications[0].rules;
    let found: Vec<_> = rules
        .iter()
        .map(|r| (&r.keys, r.timeout_ms, r.reach.http, r.reach.private))
        .collect();
    let (issuer, uri) = (
        KeySource::Discovery("https://127.0.0.1:8443".to_owned()),
        KeySource::Uri("http://idp.corp.test/keys".to_owned()),
    );
    assert_eq!(
        found,
        [(&issuer, 2000, false, true), (&uri, 5000, true, false)]
    );
    let plain = outside("", "").mesh;
    assert!(!plain.audience_stripping);
}

fn addresses_of(endpoints: &[ServiceEndpoint]) -> Vec<&str> {
    endpoints.iter().map(|e| e.address.as_str()).collect()
}

#[test]
fn outside_names() {
    let plain = outside("", "");
    assert_eq!(plain.process.nameservers, []);
    let service = &plain.mesh.services[0];
    assert_eq!(addresses_of(&service.endpoints), ["x.example.test"]);
    assert!(!service.allow_private);

    let more = "endpoints = [{ address = \"Y.example.test\" }, { address = \"10.0.0.1\" }]\nsubjectAltNames = [\"Z.example.test\", \"::ffff\"]\ndangerous_allowPrivateAddresses = true";
    let full = outside("nameservers = [\"127.0.0.1:5353\", \"[::1]:53\"]", more);
    let servers: Vec<String> = full
        .process
        .nameservers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["127.0.0.1:5353", "[::1]:53"]);
    let service = &full.mesh.services[0];
    assert_eq!(
        addresses_of(&service.endpoints),
        ["y.example.test", "10.0.0.1"]
    );
    assert_eq!(service.subject_alt_names, ["z.example.test", "::ffff"]);
    assert!(service.allow_private);

    // What is asked of DNS depends on who dials: without a node or an egress gateway nothing is.
    assert!(dns::wanted(&full).is_empty());
    let egress =
        parse("egress.toml", &read("config/egress.toml")).unwrap_or_else(|e| panic!("{e}"));
    let wanted: Vec<_> = dns::wanted(&egress).into_iter().collect();
    let name = Name {
        host: "api.code.example.com".to_owned(),
        allow_private: false,
    };
    assert_eq!(wanted, [name]);
    let mut elsewhere = egress;
    elsewhere.process.egresses.clear();
    assert!(dns::wanted(&elsewhere).is_empty());
}

#[test]
fn identities_that_may_answer_for_a_service_inside() {
    let demo = read("config/demo.toml");
    let ids = "subjectAltNames = [\"spiffe://cluster.local/ns/default/sa/old\", \"spiffe://b.example/ns/x/sa/y\"]\n";
    let service = "[[serviceEntry]]\nname = \"reviews-service\"\n";
    assert!(demo.contains(service));
    let text = demo.replace(service, &format!("{service}{ids}"));
    let mesh = parse("ids.toml", &text)
        .unwrap_or_else(|e| panic!("{e}"))
        .mesh;
    let named = |name: &str| {
        let found = mesh.services.iter().find(|s| s.name.name == name);
        let names = found.expect("the service").spiffe_names.as_deref();
        let names = names.unwrap_or_default().iter();
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        named("reviews-service"),
        [
            "spiffe://cluster.local/ns/default/sa/old",
            "spiffe://b.example/ns/x/sa/y"
        ]
    );
    assert_eq!(named("customer-api"), [""; 0]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of what the demo says")]
fn demo_mesh() {
    let m = demo().mesh;
    assert_eq!(m.trust_domain.as_str(), "cluster.local");
    assert_eq!(m.root_namespace, "istio-system");
    assert_eq!(m.path_normalization, PathNormalization::MergeSlashes);
    assert!(!m.outbound_allow_any);
    let gateways: Vec<_> = m
        .gateways
        .iter()
        .map(|g| (g.class, g.id.as_str(), g.hbone.to_string()))
        .collect();
    assert_eq!(
        gateways,
        [
            (
                GatewayClass::Waypoint,
                "spiffe://cluster.local/ns/default/sa/customer-api-waypoint",
                "127.0.10.13:15008".to_owned()
            ),
            (
                GatewayClass::Ingress,
                "spiffe://cluster.local/ns/edge/sa/ingress",
                "127.0.10.20:15008".to_owned()
            ),
            (
                GatewayClass::Egress,
                "spiffe://cluster.local/ns/egress/sa/egress",
                "127.0.10.30:15008".to_owned()
            ),
        ]
    );
    assert_eq!(m.workloads.len(), 4);
    assert_eq!(
        m.workloads[2].id.as_str(),
        "spiffe://cluster.local/ns/default/sa/reviews-service"
    );
    assert_eq!(m.workloads[2].hbone_port, 15008);

    let [frontend, reviews, customer, partner] = m.services.as_slice() else {
        panic!("four services")
    };
    assert_eq!(
        (frontend.workloads.as_slice(), frontend.waypoint),
        ([0].as_slice(), None)
    );
    assert_eq!(reviews.workloads, [1, 2]);
    assert_eq!(
        (customer.workloads.as_slice(), customer.waypoint),
        ([3].as_slice(), Some(0))
    );
    assert_eq!(
        customer.hosts,
        ["customer-api", "customer-api.default.svc.cluster.local"]
    );
    assert_eq!(
        (
            customer.ports[1].number,
            customer.ports[1].protocol,
            customer.ports[1].target_port
        ),
        (443, Protocol::Https, 8443)
    );
    assert_eq!(
        (partner.location, partner.waypoint),
        (Location::External, Some(2))
    );
    assert_eq!(addresses_of(&partner.endpoints), ["127.0.10.40"]);
    let Some(UpstreamTls::Simple {
        sni,
        subject_alt_names,
        ca_certificates,
    }) = &m.destination_rules[0].tls
    else {
        panic!("simple")
    };
    assert_eq!(sni.as_deref(), Some("partner.example.test"));
    assert_eq!(subject_alt_names, &["partner.example.test"]);
    assert_eq!(
        ca_certificates.as_deref(),
        Some(Path::new("/etc/ringgate/state/partner/ca.pem"))
    );

    let route = &m.routes[0];
    let [RouteParent::Gateway(gateway)] = route.parents[..] else {
        panic!("one gateway")
    };
    assert_eq!(m.gateways[gateway].name.name, "public");
    assert_eq!(route.hostnames, ["portal.example.test"]);
    assert_eq!(
        route.rules[0].matches[0].path,
        PathMatch::Prefix("/api".to_owned())
    );
    let [to] = route.rules[0].backends[..] else {
        panic!("one backend")
    };
    assert_eq!((to.backend.service, to.backend.port, to.weight), (2, 80, 1));
}

#[test]
fn demo_policies() {
    let m = demo().mesh;
    assert_eq!(
        (
            m.peer_authentications[0].mode,
            &m.peer_authentications[0].selector
        ),
        (MtlsMode::Strict, &None)
    );
    let tokens = &m.request_authentications[0];
    let Target::Selector(labels) = &tokens.target else {
        panic!("selector")
    };
    assert_eq!(
        labels.get("istio.io/gateway-name").map(String::as_str),
        Some("customer-api")
    );
    assert_eq!(
        tokens.rules[1].keys,
        KeySource::Uri("http://127.0.10.9:15000/jwks.json".to_owned())
    );
    assert!(tokens.rules[1].forward_original_token);
    assert_eq!(tokens.rules[0].timeout_ms, 5000);

    let [lockdown, edge, partner] = m.authorization_policies.as_slice() else {
        panic!("three policies")
    };
    assert_eq!(
        (lockdown.action, lockdown.rules.len(), lockdown.dry_run),
        (Action::Allow, 2, false)
    );
    assert_eq!(
        lockdown.rules[0].from[0].principals,
        ["cluster.local/ns/default/sa/frontend-service"]
    );
    assert_eq!(
        lockdown.rules[1].from[0].request_principals,
        ["https://auth.example.test/*"]
    );
    assert_eq!(
        edge.rules[0].to[0].hosts,
        ["portal.example.test", "portal.example.test:*"]
    );
    let Target::Refs(refs) = &partner.target else {
        panic!("refs")
    };
    assert_eq!(
        (refs[0].kind, refs[0].name.as_str()),
        (TargetKind::ServiceEntry, "partner")
    );
    assert_eq!(partner.rules[0].when[0].key, "request.query[currency]");
    assert_eq!(partner.rules[0].when[0].values, ["eur"]);
}

#[test]
fn examples_load() {
    for name in ["egress", "ingress"] {
        let config = parse(name, &read(&format!("config/{name}.toml")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!config.mesh.authorization_policies.is_empty(), "{name}");
        assert_eq!(config.warnings, [], "{name}");
        assert_eq!(config.lints, [], "{name}");
    }
    let workload = "[[workloadEntry]]\nname = 'customer-api'\nserviceAccount = 'customer-api'\naddress = '10.1.0.3'\n";
    let files = [
        ("node.toml".into(), read("config/node.toml")),
        (
            "mesh.d/customer-api.toml".into(),
            read("config/customer-api.toml"),
        ),
        ("mesh.d/workloads.toml".into(), workload.to_owned()),
    ];
    let config = config::parse(&files, Path::new(BASE)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.warnings, []);
    let node = &config.process.nodes[0];
    assert_eq!(node.mark, Some(1337));
    let capture = node.capture.as_ref().expect("the example captures");
    assert_eq!(
        (capture.mode, capture.on_failure),
        (CaptureMode::Tproxy, OnFailure::Closed)
    );
    assert_eq!(
        (capture.route_table, &capture.exclude_inbound_ports),
        (100, &vec![22])
    );
    let owner = node.workloads[0]
        .owner
        .as_ref()
        .expect("it is known by its unit");
    assert_eq!(owner.unit.as_deref(), Some("customer-api.service"));
    assert_eq!(config.mesh.authorization_policies.len(), 1);
    assert_eq!(config.sources.len(), 3);
}

#[test]
fn rate_limit_keys() {
    let config =
        parse("routing.toml", &read("config/routing.toml")).unwrap_or_else(|e| panic!("{e}"));
    let [ledger, exports] = config.mesh.rate_limits.as_slice() else {
        panic!("{:?}", config.mesh.rate_limits);
    };
    assert_eq!(ledger.name.to_string(), "shop/ledger");
    assert_eq!(ledger.by, [Key::parse("source.principal").unwrap()]);
    assert!(ledger.rules.is_empty() && exports.by.is_empty());
    assert_eq!(exports.rules[0].to[0].paths, ["/export*"]);
    let buckets = [ledger, exports].map(|l| {
        let bucket = l.bucket;
        (
            bucket.max_tokens,
            bucket.tokens_per_fill,
            bucket.fill_interval_ms,
        )
    });
    assert_eq!(buckets, [(200, 100, 1000), (4, 1, 900_000)]);
}

#[test]
fn routing_keys() {
    let config =
        parse("routing.toml", &read("config/routing.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.lints, []);
    let node = &config.process.nodes[0];
    assert_eq!(node.outbound_allow_any, Some(false));
    assert_eq!(node.dns_unknown, DnsUnknown::Forward);
    assert_eq!(node.dns_search, ["corp.example"]);
    let listeners: Vec<String> = node
        .dns_listeners()
        .map(|(address, namespace)| format!("{address} {namespace:?}"))
        .collect();
    assert_eq!(
        listeners,
        [
            "127.0.0.1:15053 Some(\"shop\")",
            "127.0.0.1:15054 Some(\"shop\")"
        ]
    );
    assert!(
        config
            .process
            .listens_on("127.0.0.1:15054".parse().unwrap())
    );
    let m = &config.mesh;
    assert_eq!(m.gateways[0].locality.to_string(), "eu/eu-1");
    let workloads: Vec<_> = m
        .workloads
        .iter()
        .map(|w| (w.weight, w.locality.to_string(), w.waypoint))
        .collect();
    assert_eq!(
        workloads,
        [
            (1, "eu/eu-1".to_owned(), None),
            (3, "eu/eu-1".to_owned(), Some(1)),
            (1, "eu/eu-2".to_owned(), Some(1)),
        ]
    );
    let [ledger, orders, _, plant] = m.services.as_slice() else {
        panic!("{:?}", m.services);
    };
    assert_eq!(ledger.waypoint, Some(0));
    assert_eq!(ledger.allocated, [] as [std::net::IpAddr; 0]);
    assert_eq!(orders.export_to.as_deref(), Some(&["shop".to_owned()][..]));
    assert_eq!(orders.endpoints[0].weight, 9);
    assert_eq!(orders.endpoints[1].locality.to_string(), "us/us-1");
    let [four, six] = orders.allocated.as_slice() else {
        panic!("{:?}", orders.allocated);
    };
    assert!(four.to_string().starts_with("240.240."), "{four}");
    assert!(six.to_string().starts_with("2001:2::"), "{six}");
    assert!(plant.passthrough && plant.waypoint.is_none() && plant.allocated.is_empty());
    assert_eq!(plant.blocks[0].parts().1, 16);
}

#[test]
fn traffic_policy_keys() {
    let config =
        parse("routing.toml", &read("config/routing.toml")).unwrap_or_else(|e| panic!("{e}"));
    let [ledger, orders, _, _] = config.mesh.services.as_slice() else {
        panic!("{:?}", config.mesh.services);
    };
    assert_eq!(ledger.balance.preference, Preference::Zone);
    assert_eq!(orders.balance.preference, Preference::Locality);
    assert_eq!(
        orders.balance.failover,
        [("eu".to_owned(), "us".to_owned())]
    );
    let outlier = &ledger.balance.outlier;
    assert_eq!(
        (
            outlier.consecutive_failures,
            outlier.base_ejection_ms,
            outlier.max_ejection_percent,
            outlier.min_health_percent
        ),
        (5, 30_000, 50, 20)
    );
}

#[test]
fn traffic_keys() {
    let config =
        parse("routing.toml", &read("config/routing.toml")).unwrap_or_else(|e| panic!("{e}"));
    let [ledger, _, carts, _] = config.mesh.services.as_slice() else {
        panic!("{:?}", config.mesh.services);
    };
    let outlier = &ledger.balance.outlier;
    assert_eq!(
        (
            outlier.consecutive_5xx,
            outlier.consecutive_gateway,
            outlier.interval_ms
        ),
        (5, 3, 10_000)
    );
    assert_eq!(
        (ledger.balance.simple, &ledger.balance.hash),
        (Simple::LeastRequest, &None)
    );
    let cookie = Cookie {
        name: "cart".to_owned(),
        path: Some("/".to_owned()),
        ttl_s: Some(3600),
    };
    let hash = ConsistentHash {
        key: HashKey::Cookie(cookie),
        shape: Shape::Maglev(65_537),
    };
    assert_eq!(carts.balance.hash, Some(hash));
    let limits = &ledger.balance.pool;
    assert_eq!(
        (limits.max_connections, limits.max_requests),
        (Some(1000), Some(1000))
    );
}

#[test]
fn one_host_in_two_namespaces() {
    let service = |namespace: &str, more: &str| {
        format!(
            "[[serviceEntry]]\nname = 's'\nnamespace = '{namespace}'\nhosts = ['db.example.test']\n\
             ports = [{{ number = 80, name = 'http', protocol = 'HTTP' }}]\nresolution = 'STATIC'\n\
             endpoints = [{{ address = '192.0.2.1' }}]\n{more}\n"
        )
    };
    for (a, b, want) in [
        ("", "", "other namespaces see both"),
        ("exportTo = ['.']", "", ""),
        ("exportTo = ['.']", "exportTo = ['.']", ""),
        ("exportTo = ['c']", "exportTo = ['.', 'd']", ""),
        (
            "exportTo = ['c']",
            "exportTo = ['.', 'c']",
            "namespace `c` sees both",
        ),
        ("exportTo = ['c']", "", "namespace `c` sees both"),
        ("exportTo = ['b']", "exportTo = ['*']", ""),
        ("exportTo = ['~']", "", ""),
    ] {
        let text = format!("[authority]\n{}{}", service("a", a), service("b", b));
        match parse("x", &text) {
            Ok(_) => assert_eq!(want, "", "{a} {b}"),
            Err(errors) => {
                let errors = errors.to_string();
                assert!(
                    !want.is_empty() && errors.contains(want),
                    "{a} {b}: {errors}"
                );
            }
        }
    }
}

#[test]
fn defaults() {
    let config = parse("x", "[authority]\n").unwrap_or_else(|e| panic!("{e}"));
    let (p, m) = (config.process, config.mesh);
    assert_eq!(
        (p.name.as_str(), p.io, p.cores, p.records, p.admin),
        ("ringgate", IoDriver::Auto, 0, RecordSink::Stdout, None)
    );
    let IdentitySource::Embedded(authority) = p.identity else {
        panic!("embedded")
    };
    assert_eq!((authority.svid_ttl_s, authority.state_dir), (86_400, None));
    assert_eq!(
        (m.trust_domain.as_str(), m.root_namespace.as_str()),
        ("cluster.local", "istio-system")
    );
    assert_eq!(
        (
            m.path_normalization,
            m.outbound_allow_any,
            m.num_trusted_proxies
        ),
        (PathNormalization::Base, false, 0)
    );
    assert_eq!((m.gateway_name_selector, m.l4_deny), (true, L4Deny::Api));
}

#[test]
fn capture_by_every_key() {
    let text = read("tests/data/config/capture.toml");
    let config = parse("x", &text).unwrap_or_else(|e| panic!("{e}"));
    let node = &config.process.nodes[0];
    assert_eq!(
        (node.original_source, node.unowned),
        (OriginalSource::Keep, Unowned::Pass)
    );
    let wanted = Capture {
        mode: CaptureMode::Redirect,
        on_failure: OnFailure::Open,
        outbound: CaptureScope::All,
        udp: UdpMode::Pass,
        udp_destinations: vec!["10.0.0.53:53".parse().unwrap()],
        exclude_outbound_ports: vec![25],
        exclude_outbound_ranges: ["169.254.169.254/32", "fd00:1::/32"]
            .map(|c| c.parse().unwrap())
            .into(),
        exclude_inbound_ports: vec![],
        exclude_inbound_ranges: vec!["10.9.0.0/16".parse().unwrap()],
        exclude_uids: vec![0, 108],
        route_table: 133,
    };
    assert_eq!(node.capture.as_ref(), Some(&wanted));
    let owners: Vec<_> = node
        .workloads
        .iter()
        .filter_map(|w| w.owner.clone())
        .collect();
    let wanted = [
        OwnerMatch {
            unit: Some("a.service".into()),
            uid: Some(1001),
            ..OwnerMatch::default()
        },
        OwnerMatch {
            cgroup: Some("/apps.slice/b".into()),
            mark: Some(7),
            class_id: Some(0x1_0005),
            ..OwnerMatch::default()
        },
    ];
    assert_eq!(owners, wanted);
}

#[test]
fn dry_run_by_either_name() {
    for (text, want) in [
        ("dryRun = true", true),
        ("dryRun = false", false),
        ("annotations = { 'istio.io/dry-run' = 'T' }", true),
        ("annotations = { 'istio.io/dry-run' = '0' }", false),
        ("", false),
    ] {
        let file = format!("[authority]\n[[authorizationPolicy]]\nname = 'a'\n{text}\n");
        let config = parse("x", &file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            config.mesh.authorization_policies[0].dry_run, want,
            "{text}"
        );
    }
}

/// Reads a data file as the main file if its first line says so, or as a mesh file beside base.toml.
fn parse_data(text: &str) -> Result<Config, ConfigErrors> {
    let file = (PathBuf::from("FILE"), text.to_owned());
    let base = (
        PathBuf::from("base.toml"),
        read("tests/data/config/base.toml"),
    );
    let files = if text.starts_with("# main\n") {
        vec![file]
    } else {
        vec![base, file]
    };
    config::parse(&files, Path::new(BASE))
}

/// Every file of a directory with the `# error: ..` or `# warning: ..` lines at its end.
fn data(dir: &str, mark: &str) -> Vec<(String, String, Vec<String>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join(dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{dir} is empty");
    let mut files = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted: Vec<String> = text
            .lines()
            .filter_map(|l| l.strip_prefix(mark))
            .map(|l| format!("FILE:{l}"))
            .collect();
        assert!(!wanted.is_empty(), "{} expects nothing", path.display());
        files.push((path.display().to_string(), text, wanted));
    }
    files
}

#[test]
fn broken_files_say_everything() {
    for (path, text, wanted) in data("tests/data/config/broken", "# error: ") {
        let errors = parse_data(&text).expect_err(&path).to_string();
        assert_eq!(errors.lines().collect::<Vec<_>>(), wanted, "{path}");
    }
}

#[test]
fn traps_are_warned_of() {
    for (path, text, wanted) in data("tests/data/config/warned", "# warning: ") {
        let config = parse_data(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let warnings = config.warnings.iter().map(ToString::to_string);
        let lints = config.lints.iter().map(ToString::to_string);
        let found: Vec<String> = warnings.chain(lints).collect();
        assert_eq!(found, wanted, "{path}");
    }
}

#[test]
fn problems_of_all_files_come_together() {
    let files = [
        (
            "main.toml".into(),
            "[authority]\nsvidTTL = '1h'\n".to_owned(),
        ),
        (
            "mesh.d/a.toml".into(),
            "[[gateway]]\nname = 'a'\n".to_owned(),
        ),
        ("mesh.d/b.toml".into(), "x = = 1\n".to_owned()),
    ];
    let errors = config::parse(&files, Path::new(BASE))
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 4, "{errors}");
    assert_eq!(
        lines[0],
        "main.toml:2:1: authority.svidTTL: unknown key, did you mean `svidTtl`?"
    );
    assert!(
        lines[1].starts_with("mesh.d/a.toml:1:1: gateway[0].gatewayClassName: missing"),
        "{errors}"
    );
    assert!(
        lines[2].starts_with("mesh.d/a.toml:1:1: gateway[0].address: missing"),
        "{errors}"
    );
    assert!(
        lines[3].starts_with("mesh.d/b.toml:1:5: not valid TOML: "),
        "{errors}"
    );
}

#[test]
fn inline_secrets_are_refused_and_not_repeated() {
    let text = "[authority]\nlisten = '127.0.0.1:1'\njoinTokens = 'hunter2'\n\
        [[extensionProvider]]\nname = 'a'\noidc = { issuer = 'https://a.example', clientId = 'a', cookieKey = 'file-hunter2', clientSecret = 'vault:hunter2' }\n";
    let errors = parse("x", text).unwrap_err();
    assert_eq!(errors.problems().len(), 3, "{errors}");
    assert!(
        !format!("{errors} {errors:?}").contains("hunter2"),
        "{errors}"
    );
    let config = parse(
        "x",
        &text
            .replace("'hunter2'", "'cred:t'")
            .replace("'file-hunter2'", "'env:K'")
            .replace("'vault:hunter2'", "'file:s'"),
    );
    let provider = &config.unwrap_or_else(|e| panic!("{e}")).mesh.oidc_providers[0];
    assert_eq!(provider.cookie_key, Some(Secret::Env("K".to_owned())));
    assert_eq!(
        provider.client_secret,
        Some(Secret::File("/etc/ringgate/s".into()))
    );
}

/// Files that use every kind of table.
fn whole_files() -> Vec<(&'static str, String)> {
    [
        "config/demo.toml",
        "config/ingress.toml",
        "config/egress.toml",
        "tests/data/config/capture.toml",
        "config/routing.toml",
    ]
    .map(|name| (name, read(name)))
    .into()
}

/// Whether the table opened at this line has keys of the operator's own choice.
fn free(line: &str, at: usize) -> bool {
    let before = line[..at].trim_end();
    ["labels =", "app =", "matchLabels =", "annotations ="]
        .iter()
        .any(|key| before.ends_with(key))
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let mut tried = 0;
    for (name, text) in whole_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, l)| !l.starts_with('#'))
        {
            let inline = line.match_indices("{ ").filter(|(at, _)| !free(line, *at));
            let mut variants: Vec<(usize, String)> = inline
                .map(|(at, _)| {
                    (
                        i + 1,
                        format!("{}{{ bogusKey = 1, {}", &line[..at], &line[at + 2..]),
                    )
                })
                .collect();
            if line.starts_with('[') && !line.contains("{ ") {
                variants.push((i + 2, format!("{line}\nbogusKey = 1")));
            }
            for (at, variant) in variants {
                let mut changed = lines.clone();
                changed[i] = &variant;
                let errors = parse("x", &changed.join("\n"))
                    .expect_err(&variant)
                    .to_string();
                let own = |l: &&str| {
                    l.starts_with(&format!("x:{at}:")) && l.contains("bogusKey: unknown key")
                };
                assert_eq!(
                    errors.lines().filter(own).count(),
                    1,
                    "{name}: {variant}\n{errors}"
                );
                assert_eq!(errors.lines().count(), 1, "{name}: {variant}\n{errors}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} tables");
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one() {
    let mut tried = 0;
    for (name, text) in whole_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let Some((key, rest)) = line.split_once(" =") else {
                continue;
            };
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphabetic()) {
                continue;
            }
            let variant = format!("{key}x ={rest}");
            let mut changed = lines.clone();
            changed[i] = &variant;
            let errors = parse("x", &changed.join("\n"))
                .expect_err(&variant)
                .to_string();
            let own = format!("{key}x: unknown key, did you mean `{key}`?");
            assert!(
                errors
                    .lines()
                    .any(|l| l.starts_with(&format!("x:{}:1: ", i + 1)) && l.ends_with(&own)),
                "{name}: {variant}\n{errors}"
            );
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} keys");
}

#[test]
fn an_emptied_list_is_refused_wherever_it_stands() {
    let mut tried = 0;
    for (name, text) in whole_files() {
        for (at, _) in text.match_indices(" = [\"") {
            let Some(end) = text[at..].find(']') else {
                continue;
            };
            let changed = format!("{} = []{}", &text[..at], &text[at + end + 1..]);
            if text[..at].ends_with("trustDomainAliases") {
                continue; // empty is the default and says the same
            }
            let errors = parse("x", &changed)
                .expect_err(&text[at..at + end])
                .to_string();
            assert!(
                errors.contains("an empty list"),
                "{name}: {}\n{errors}",
                &text[at..at + end]
            );
            tried += 1;
        }
    }
    assert!(tried > 20, "only {tried} lists");
}

#[test]
fn a_cut_file_is_never_a_panic() {
    let text = read("config/demo.toml");
    for end in (0..text.len()).step_by(7) {
        if let Some(cut) = text.get(..end)
            && let Err(errors) = parse("x", cut)
        {
            assert!(!errors.problems().is_empty());
        }
    }
}

mod disk {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn mesh_dir() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("ringgate.toml");
        write(
            &main,
            "[process]\nmeshDir = 'mesh.d'\n[authority]\nstateDir = 'state'\n",
        );
        write(
            &dir.path().join("mesh.d/b.toml"),
            &read("config/customer-api.toml"),
        );
        write(
            &dir.path().join("mesh.d/a.toml"),
            "[mesh]\ntrustDomain = 'example.org'\n",
        );
        write(&dir.path().join("mesh.d/notes.txt"), "not read");
        write(&dir.path().join("mesh.d/.b.toml.swp.toml"), "not = read");
        let config = config::load(&main).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            config.mesh.gateways[0].id.as_str(),
            "spiffe://example.org/ns/default/sa/customer-api"
        );
        let files = [
            main.clone(),
            dir.path().join("mesh.d/a.toml"),
            dir.path().join("mesh.d/b.toml"),
        ];
        assert_eq!(config.sources, files);
        let IdentitySource::Embedded(authority) = config.process.identity else {
            panic!("embedded")
        };
        assert_eq!(authority.state_dir, Some(dir.path().join("state")));
        let mut watched = config::load_files(&main);
        assert_eq!(watched.pop(), Some(dir.path().join("mesh.d")));
        assert_eq!(watched, files);

        for name in ["c.yaml", "d.yml", "e.json"] {
            let text = format!(
                r#"{{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {{"name": "{}"}}}}"#,
                &name[..1]
            );
            write(&dir.path().join("mesh.d").join(name), &text);
        }
        let config = config::load(&main).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<String> = config.mesh.authorization_policies[1..]
            .iter()
            .map(|p| p.name.to_string())
            .collect();
        assert_eq!(names, ["default/c", "default/d", "default/e"]);
        for name in ["c.yaml", "d.yml", "e.json"] {
            let path = dir.path().join("mesh.d").join(name);
            assert!(config::load_files(&main).contains(&path), "{name}");
        }
    }

    #[test]
    fn unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("ringgate.toml");
        assert!(
            config::load(&main)
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        std::fs::write(&main, b"[authority]\n# \xff\n").unwrap();
        assert!(
            config::load(&main)
                .unwrap_err()
                .to_string()
                .contains("not UTF-8 at byte 14")
        );
        write(
            &main,
            "[process]\nmeshDir = 'none'\n[authority]\nbogus = 1\n",
        );
        let errors = config::load(&main).unwrap_err().to_string();
        assert!(
            errors.contains(":2:1: process.meshDir: `") && errors.contains("none` cannot be read"),
            "{errors}"
        );
        assert!(errors.contains("bogus: unknown key"), "{errors}");
        write(&main, "[process]\ncores = 1\ncores = 2\n[authority]\n");
        let errors = config::load(&main).unwrap_err().to_string();
        assert!(
            errors.contains(":3:1: cores: is written already"),
            "{errors}"
        );
    }
}

#[test]
fn the_workload_api_and_its_entries() {
    use ringgate::config::checked::workload_api::{Endpoint, PeerSelector, WorkloadApiEntry};

    let text = |uid: u32, mode: &str| {
        format!(
            "[identity]\nworkloadApi = 'unix:///run/spire/sockets/agent.sock'\nfederatesWith = ['partner.org']\n\
             [mesh]\ntrustDomainAliases = ['old.local']\n\
             [workloadApi]\nsocket = 'run/w.sock'\nsocketMode = '{mode}'\nsocketGid = 7\n\
             [[workloadApi.entry]]\nworkload = 'default/a'\nhint = 'h'\n\
             match = {{ uid = {uid}, exe = '/usr/bin/x', unit = 'x.service', cgroup = '/a.slice/' }}\n\
             [[workloadEntry]]\nname = 'a'\nserviceAccount = 'a'\naddress = '10.0.0.1'\n"
        )
    };
    let read = |text: &str| {
        parse("x.toml", text)
            .unwrap_or_else(|e| panic!("{e}"))
            .process
    };
    let process = read(&text(1000, "0660"));
    let IdentitySource::WorkloadApi(source) = &process.identity else {
        panic!("{:?}", process.identity)
    };
    let socket = PathBuf::from("/run/spire/sockets/agent.sock");
    assert_eq!(source.endpoint, Endpoint::Socket(socket));
    let federated: Vec<_> = source.federated.iter().map(|d| d.as_str()).collect();
    assert_eq!(federated, ["old.local", "partner.org"]);
    let served = process.workload_api.clone().unwrap();
    assert_eq!(served.socket, Path::new(BASE).join("run/w.sock"));
    assert_eq!((served.socket_mode, served.jwt_svid_ttl_s), (0o660, 300));
    assert_eq!((served.socket_uid, served.socket_gid), (None, Some(7)));
    let entry = WorkloadApiEntry {
        workload: ResourceName::new("default", "a"),
        hint: "h".to_owned(),
        selector: PeerSelector {
            uid: Some(1000),
            gid: None,
            exe: Some("/usr/bin/x".into()),
            unit: Some("x.service".to_owned()),
            cgroup: Some("/a.slice".to_owned()),
        },
    };
    assert_eq!(served.entries, [entry]);
    // Entries change by a reload, the socket does not.
    assert_eq!(process.differences(&read(&text(1001, "0660"))), [""; 0]);
    let other = process.differences(&read(&text(1001, "0600")));
    assert_eq!(other, ["[workloadApi]"]);
}

/// An ingress with this listener.
fn listener(lines: &str) -> Result<Config, ConfigErrors> {
    let gateway = "name = \"g\"\ngatewayClassName = \"ringgate-ingress\"\naddress = \"10.0.0.1\"";
    let text = format!(
        "[authority]\n[[gateway]]\n{gateway}\n[[ingress]]\ngateway = \"default/g\"\n[[ingress.listener]]\naddress = \"10.0.0.1:443\"\n{lines}"
    );
    config::parse(&[("main.toml".into(), text)], Path::new("/"))
}

const OWN: &str = "certificate = \"a.pem\"\nkey = \"file:a.key\"\n";

/// A certificate more.
fn more(file: &str, names: &str) -> String {
    format!(
        "[[ingress.listener.certificates]]\ncertificate = \"{file}.pem\"\nkey = \"file:{file}.key\"\n{names}\n"
    )
}

#[test]
fn certificates_of_a_listener() {
    let own = OWN;
    let good = format!(
        "{own}hostnames = [\"A.test\"]\nunknownServerName = \"REFUSE\"\n{}{}",
        more("b", "hostnames = [\"*.a.test\"]"),
        more("c", "")
    );
    let config = listener(&good).unwrap();
    let found = &config.process.ingresses[0].listeners[0];
    let names: Vec<_> = found
        .certificates
        .iter()
        .map(|one| one.hostnames.clone())
        .collect();
    let name = |name: &str| Some(vec![name.to_owned()]);
    assert_eq!(names, [name("a.test"), name("*.a.test"), None]);
    // The first need not stand apart.
    let config = listener(&more("b", "")).unwrap();
    let found = &config.process.ingresses[0].listeners[0];
    assert_eq!(
        found.certificates[0].certificate,
        PathBuf::from("/b.pem"),
        "{found:?}"
    );
}

#[test]
fn certificates_of_a_listener_that_are_refused() {
    let own = OWN;
    let place = "ingress[0].listener[0].";
    for (lines, wants) in [
        (
            String::new(),
            &[
                "certificate: missing, expected a string",
                "key: missing, expected a string",
            ][..],
        ),
        (
            "certificate = \"a.pem\"\n".to_owned(),
            &["key: missing, expected a string"],
        ),
        (
            format!("key = \"file:a.key\"\n{}", more("b", "")),
            &["certificate: missing, expected a string"],
        ),
        (
            format!("hostnames = [\"a.test\"]\n{}", more("b", "")),
            &["hostnames[0]: is for the `certificate` of the listener, and there is none"],
        ),
        (
            format!("{own}hostnames = [\"a.test\", \"a.*\"]\n"),
            &["hostnames[1]: `a.*` is not a host"],
        ),
        (
            format!(
                "{own}hostnames = [\"a.test\"]\n{}",
                more("b", "hostnames = [\"b.test\", \"A.TEST\"]")
            ),
            &[
                "certificates[0].hostnames[1]: a second certificate for `A.TEST` at this listener; the first is at main.toml:",
            ],
        ),
        (
            format!("{own}hostnames = [\"a.test\", \"A.test\", \"10.0.0.1\"]\n"),
            &[
                "hostnames[1]: `A.test` is written twice; the first is at main.toml:",
                "hostnames[2]: is an address, which no client tells as a server name",
            ],
        ),
        (
            format!("{own}{}", more("./a", "")),
            &[
                "certificates[0].certificate: `./a.pem` is served at this listener already; the first is at main.toml:",
            ],
        ),
        (
            format!("{own}unknownServerName = \"REJECT\"\n"),
            &["unknownServerName: `REJECT` is not one of SERVE_FIRST, REFUSE"],
        ),
        (
            format!("{own}[[ingress.listener.certificates]]\ncertificate = \"b.pem\"\n"),
            &["certificates[0].key: missing, expected a string"],
        ),
    ] {
        let errors = listener(&lines).unwrap_err();
        let told: Vec<String> = errors.problems().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), wants.len(), "{lines}: {told:#?}");
        for (told, want) in told.iter().zip(wants) {
            assert!(told.contains(&format!("{place}{want}")), "{told}");
        }
    }
}

#[test]
fn as_many_certificates_as_a_listener_may_have() {
    let many: String = (0..1024).map(|n| more(&n.to_string(), "")).collect();
    assert!(listener(&many).is_ok());
    let errors = listener(&format!("{OWN}{many}")).unwrap_err();
    assert!(
        errors.to_string().contains("more than 1024 certificates"),
        "{errors}"
    );
}

#[test]
fn who_calls_is_told_outside_alone() {
    let config = outside("", "forwardClientAddress = true");
    assert!(config.mesh.services[0].forward_client);
    assert!(!outside("", "").mesh.services[0].forward_client);
    let text = "[authority]\n[[serviceEntry]]\nname = \"x\"\nhosts = [\"x.example.test\"]\nlocation = \"MESH_INTERNAL\"\n\
        resolution = \"STATIC\"\nports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]\nforwardClientAddress = false\n";
    let files = [("main.toml".into(), text.to_owned())];
    let errors = config::parse(&files, Path::new("/")).unwrap_err();
    let told = errors.to_string();
    assert!(
        told.contains(
            "main.toml:8:24: serviceEntry[0].forwardClientAddress: is for services of location"
        ),
        "{told}"
    );
}
