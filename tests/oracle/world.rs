//! Random meshes, policies and requests, drawn from alphabets so small that rules match often.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, Rule, Source,
    Target, TargetKind, TargetRef,
};
use ringgate::policy::{Decision, Point, PointKind, ServiceKind};
use ringgate::vocab::resource::ResourceName;

use crate::asked::{Asked, asked};
use crate::naive::Settings;
use crate::pools;

/// A mesh, a point in it, and what is asked there.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) point: Point,
    pub(crate) policies: Vec<AuthorizationPolicy>,
    pub(crate) peers: Vec<PeerAuthentication>,
    pub(crate) asked: Vec<Asked>,
}

/// A field or key by number, and its values by number.
type Drawn = (u8, Vec<u8>);

/// `bytes` as entries of `pool`.
pub(crate) fn pick(pool: &[&str], bytes: &[u8]) -> Vec<String> {
    let at = |b: &u8| pool[usize::from(*b) % pool.len()].to_owned();
    bytes.iter().map(at).collect()
}

/// A world with `requests` requests.
pub(crate) fn world(requests: usize) -> impl Strategy<Value = World> {
    let policies = prop_oneof![
        19 => vec(policy(), 0..=6),
        1 => vec(policy(), 20..=60),
    ];
    let mesh = (
        settings(),
        point(),
        policies,
        vec(peer_authentication(), 0..=3),
    );
    (mesh, vec(asked(), 1..=requests)).prop_map(|((settings, point, drawn, peers), asked)| {
        let policies = drawn.into_iter().enumerate();
        let policies = policies.map(|(i, (fits, policy))| named(i, fits, policy, &point));
        World {
            policies: policies.collect(),
            settings,
            point,
            peers,
            asked,
        }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let domains = select(vec![
        &["cluster.local"][..],
        &["td1"],
        &["td1", "td2"],
        &["cluster.local", "old-td.local", "td2"],
        &["td2", "cluster.local"],
    ]);
    let ours = (domains, 0..8_u8, any::<bool>(), 0..8_u8);
    ours.prop_map(|(domains, selectors, ztunnel, dry_run)| Settings {
        trust_domains: domains.iter().map(|td| (*td).to_owned()).collect(),
        root_namespace: "istio-system".to_owned(),
        gateway_name_selector: selectors % 4 != 3,
        gateway_selectors: selectors < 6,
        ztunnel,
        dry_run: dry_run == 7,
    })
}

fn point() -> impl Strategy<Value = Point> {
    let kind = select(vec![
        PointKind::Workload,
        PointKind::Waypoint,
        PointKind::Gateway,
        PointKind::Egress,
    ]);
    (kind, 0..8_u8, any::<bool>(), 0..4_u8).prop_map(|(kind, place, default_deny, serves)| {
        let services = [
            (ServiceKind::Service, ResourceName::new("default", "api")),
            (
                ServiceKind::ServiceEntry,
                ResourceName::new("default", "partner"),
            ),
        ];
        Point {
            kind,
            namespace: if place == 7 {
                "istio-system"
            } else {
                "default"
            }
            .to_owned(),
            labels: labels(&[("app", "api"), ("istio.io/gateway-name", "gw")]),
            gateway: (kind != PointKind::Workload).then(|| "gw".to_owned()),
            accounts: [ResourceName::new("default", "backend")][usize::from(serves % 2)..].to_vec(),
            services: services[usize::from(serves / 3)..usize::from(serves).min(2)].to_vec(),
            default: if default_deny {
                Decision::Deny
            } else {
                Decision::Allow
            },
        }
    })
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(owned).collect()
}

/// A policy without a name, and whether its target is to be one that fits the point.
fn policy() -> impl Strategy<Value = (bool, AuthorizationPolicy)> {
    let action = prop_oneof![
        6 => Just(Action::Allow),
        3 => Just(Action::Deny),
        1 => Just(Action::Audit),
        2 => Just(Action::Custom),
    ];
    let rules = prop_oneof![9 => vec(rule(), 0..=3), 1 => vec(rule(), 4..=12)];
    let namespace = select(vec![
        "default",
        "default",
        "default",
        "default",
        "istio-system",
        "other",
    ]);
    let provider = select(vec!["authz-a", "authz-b", "login"]);
    (
        0..4_u8,
        target(),
        namespace,
        action,
        0..5_u8,
        provider,
        rules,
    )
        .prop_map(|(fits, target, namespace, action, dry, provider, rules)| {
            let dry_run = dry == 4 && matches!(action, Action::Allow | Action::Deny);
            let custom = action == Action::Custom;
            let policy = AuthorizationPolicy {
                name: ResourceName::new(namespace, ""),
                target,
                action,
                provider: custom.then(|| provider.to_owned()),
                dry_run,
                rules,
            };
            (fits != 3, legal(policy))
        })
}

fn target() -> impl Strategy<Value = Target> {
    let entry = |kind, name: &str| TargetRef {
        kind,
        name: name.to_owned(),
    };
    let gateway = entry(TargetKind::Gateway, "gw");
    let class = |name: &str| entry(TargetKind::GatewayClass, name);
    let selectors = [
        &[("app", "api")][..],
        &[("istio.io/gateway-name", "gw")],
        &[("app", "api"), ("istio.io/gateway-name", "gw")],
        &[("app", "other")],
        &[("istio.io/gateway-name", "other")],
        &[],
    ];
    let refs = [
        vec![gateway.clone()],
        vec![entry(TargetKind::Service, "api")],
        vec![entry(TargetKind::ServiceEntry, "partner")],
        vec![entry(TargetKind::Service, "partner"), gateway],
        vec![entry(TargetKind::Gateway, "other")],
        vec![class("istio-waypoint"), class("ringgate-egress")],
        vec![class("ringgate-ingress")],
        vec![entry(TargetKind::ServiceAccount, "backend")],
    ];
    let selectors = selectors.map(|pairs| Target::Selector(labels(pairs)));
    let all = std::iter::once(Target::Namespace)
        .chain(selectors)
        .chain(refs.map(Target::Refs));
    select(all.collect::<Vec<_>>())
}

/// Gives the policy its name and, if `fits`, a target that takes it to the point.
fn named(
    index: usize,
    fits: bool,
    mut policy: AuthorizationPolicy,
    point: &Point,
) -> AuthorizationPolicy {
    if fits {
        policy.target = fitting(point);
        if point.kind == PointKind::Waypoint {
            policy.name.namespace.clone_from(&point.namespace);
        }
    }
    policy.name.name = format!("p{index}");
    policy
}

/// A target by which a policy of the point's namespace applies there.
pub(crate) fn fitting(point: &Point) -> Target {
    if point.kind == PointKind::Waypoint {
        Target::Refs(vec![TargetRef {
            kind: TargetKind::Gateway,
            name: "gw".to_owned(),
        }])
    } else {
        Target::Namespace
    }
}

/// Takes out what the engine refuses at load, so that every random policy is one that an operator can have.
pub(crate) fn legal(mut policy: AuthorizationPolicy) -> AuthorizationPolicy {
    let custom = policy.action == Action::Custom;
    for rule in &mut policy.rules {
        for source in &mut rule.from {
            if !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty() {
                for list in [
                    &mut source.principals,
                    &mut source.not_principals,
                    &mut source.namespaces,
                    &mut source.not_namespaces,
                ] {
                    list.clear();
                }
            }
            if custom {
                *source = Source {
                    ip_blocks: std::mem::take(&mut source.ip_blocks),
                    not_ip_blocks: std::mem::take(&mut source.not_ip_blocks),
                    remote_ip_blocks: std::mem::take(&mut source.remote_ip_blocks),
                    not_remote_ip_blocks: std::mem::take(&mut source.not_remote_ip_blocks),
                    ..Source::default()
                };
            }
        }
        rule.from.retain(|s| *s != Source::default());
        let identity = |c: &Condition| {
            let source = c.key.starts_with("source.") && c.key != "source.ip";
            source || c.key.starts_with("request.auth.")
        };
        rule.when.retain(|c| !(custom && identity(c)));
    }
    if policy.rules.is_empty() && matches!(policy.action, Action::Deny | Action::Custom) {
        policy.rules.push(Rule::default());
    }
    policy
}

pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let values = || prop_oneof![12 => vec(any::<u8>(), 1..=3), 1 => vec(any::<u8>(), 4..=9)];
    let drawn = move || (any::<u8>(), values());
    let clauses = move || vec(vec(drawn(), 1..=2), 0..=2);
    let condition =
        (any::<u8>(), vec(drawn(), 1..=2)).prop_map(|(key, lists)| condition(key, &lists));
    let when = prop_oneof![2 => Just(Vec::new()), 1 => vec(condition, 1..=2)];
    (clauses(), clauses(), when).prop_map(|(from, to, when)| Rule {
        from: from.iter().map(|fields| source(fields)).collect(),
        to: to.iter().map(|fields| operation(fields)).collect(),
        when,
    })
}

fn source(fields: &[Drawn]) -> Source {
    let mut s = Source::default();
    for (field, values) in fields {
        let (list, pool) = match field % 16 {
            0 | 14 => (&mut s.principals, pools::PRINCIPALS),
            1 => (&mut s.not_principals, pools::PRINCIPALS),
            2 => (&mut s.request_principals, pools::REQUEST_PRINCIPALS),
            3 => (&mut s.not_request_principals, pools::REQUEST_PRINCIPALS),
            4 | 15 => (&mut s.namespaces, pools::NAMESPACES),
            5 => (&mut s.not_namespaces, pools::NAMESPACES),
            6 => (&mut s.service_accounts, pools::ACCOUNTS),
            7 => (&mut s.not_service_accounts, pools::ACCOUNTS),
            8 => (&mut s.trust_domains, pools::TRUST_DOMAINS),
            9 => (&mut s.not_trust_domains, pools::TRUST_DOMAINS),
            10 => (&mut s.ip_blocks, pools::BLOCKS),
            11 => (&mut s.not_ip_blocks, pools::BLOCKS),
            12 => (&mut s.remote_ip_blocks, pools::BLOCKS),
            _ => (&mut s.not_remote_ip_blocks, pools::BLOCKS),
        };
        *list = pick(pool, values);
    }
    s
}

fn operation(fields: &[Drawn]) -> Operation {
    let mut o = Operation::default();
    for (field, values) in fields {
        let (list, pool) = match field % 12 {
            0 => (&mut o.hosts, pools::HOSTS),
            1 => (&mut o.not_hosts, pools::HOSTS),
            2 => (&mut o.ports, pools::PORTS),
            3 => (&mut o.not_ports, pools::PORTS),
            4 | 10 => (&mut o.methods, pools::METHODS),
            5 => (&mut o.not_methods, pools::METHODS),
            6 | 11 => (&mut o.paths, pools::PATHS),
            7 => (&mut o.not_paths, pools::PATHS),
            8 => (&mut o.path_regexes, pools::PATH_REGEXES),
            _ => (&mut o.not_path_regexes, pools::PATH_REGEXES),
        };
        *list = pick(pool, values);
    }
    o
}

fn condition(key: u8, lists: &[Drawn]) -> Condition {
    let (key, pool, regexes) = pools::KEYS[usize::from(key) % pools::KEYS.len()];
    let mut c = Condition {
        key: key.to_owned(),
        ..Condition::default()
    };
    for (list, values) in lists {
        match list % 4 {
            2 if !regexes.is_empty() => c.regexes = pick(regexes, values),
            3 if !regexes.is_empty() => c.not_regexes = pick(regexes, values),
            0 | 2 => c.values = pick(pool, values),
            _ => c.not_values = pick(pool, values),
        }
    }
    c
}

fn peer_authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || {
        select(vec![
            MtlsMode::Permissive,
            MtlsMode::Strict,
            MtlsMode::Unset,
            MtlsMode::Disable,
        ])
    };
    let namespace = select(vec!["istio-system", "default", "other"]);
    let selector = select(vec![
        None,
        Some("api"),
        Some("api"),
        Some("other"),
        Some(""),
    ]);
    let ports = vec((select(vec![80_u16, 443, 8080]), mode()), 0..=2);
    (namespace, selector, mode(), ports).prop_map(|(namespace, app, mode, ports)| {
        let selector = app.map(|app| match app {
            "" => BTreeMap::new(),
            app => labels(&[("app", app)]),
        });
        PeerAuthentication {
            name: ResourceName::new(namespace, "peer"),
            ports: if app.is_none_or(str::is_empty) {
                BTreeMap::new()
            } else {
                ports.into_iter().collect()
            },
            selector,
            mode,
        }
    })
}
