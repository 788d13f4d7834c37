//! Each lint on an example and on the example's nearest harmless neighbour; and, for what is said of requests, random
//! policies and requests judged by the engine itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;
use crate::policy::attach::{PointKind, Scope};
use crate::policy::facts::{Connection, Request};
use crate::policy::lint::witness::{Example, example};
use crate::policy::model::{Action, Condition, MtlsMode, Rule, Source, Target};
use crate::policy::verdict::{Decision, Reason};
use crate::policy::{MeshPolicies, compile, decide, decide_connect, validate};
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;
use crate::vocab::resource::ResourceName;

mod sound;

/// A rule from words `field=value,value`: fields of one source and one operation, `|` before a further source,
/// and `when` keys, with `!` before those of `notValues` and `~` before those of `regexes`.
fn rule(text: &str) -> Rule {
    let mut rule = Rule::default();
    for word in text.split_ascii_whitespace() {
        let (key, values) = word.rsplit_once('=').unwrap();
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        let key = match key.strip_prefix('|') {
            Some(key) => {
                rule.from.push(Source::default());
                key
            }
            None => key,
        };
        if let Some(key) = key.strip_prefix('!') {
            rule.when.push(Condition {
                key: key.to_owned(),
                not_values: values,
                ..Condition::default()
            });
        } else if let Some(key) = key.strip_prefix('~') {
            rule.when.push(Condition {
                key: key.to_owned(),
                regexes: values,
                ..Condition::default()
            });
        } else if key.contains(['.', '[']) || key == "time" {
            rule.when.push(Condition {
                key: key.to_owned(),
                values,
                ..Condition::default()
            });
        } else if !source(&mut rule, key, &values) {
            operation(&mut rule, key, values);
        }
    }
    rule
}

fn source(rule: &mut Rule, key: &str, values: &[String]) -> bool {
    let mut own = rule.from.pop().unwrap_or_default();
    let field = match key {
        "principals" => &mut own.principals,
        "notPrincipals" => &mut own.not_principals,
        "requestPrincipals" => &mut own.request_principals,
        "notRequestPrincipals" => &mut own.not_request_principals,
        "namespaces" => &mut own.namespaces,
        "notNamespaces" => &mut own.not_namespaces,
        "serviceAccounts" => &mut own.service_accounts,
        "trustDomains" => &mut own.trust_domains,
        "ipBlocks" => &mut own.ip_blocks,
        "notIpBlocks" => &mut own.not_ip_blocks,
        _ => {
            if own != Source::default() {
                rule.from.push(own);
            }
            return false;
        }
    };
    field.extend_from_slice(values);
    rule.from.push(own);
    true
}

fn operation(rule: &mut Rule, key: &str, values: Vec<String>) {
    let mut own = rule.to.pop().unwrap_or_default();
    let field = match key {
        "hosts" => &mut own.hosts,
        "notHosts" => &mut own.not_hosts,
        "ports" => &mut own.ports,
        "notPorts" => &mut own.not_ports,
        "methods" => &mut own.methods,
        "notMethods" => &mut own.not_methods,
        "paths" => &mut own.paths,
        "notPaths" => &mut own.not_paths,
        "pathRegexes" => &mut own.path_regexes,
        other => panic!("{other}"),
    };
    *field = values;
    rule.to.push(own);
}

fn policy(name: &str, action: Action, rules: &[&str]) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ResourceName::new("default", name),
        target: Target::Namespace,
        action,
        provider: None,
        dry_run: false,
        rules: rules.iter().map(|r| rule(r)).collect(),
    }
}

fn allow(rules: &[&str]) -> AuthorizationPolicy {
    policy("allow", Action::Allow, rules)
}

fn deny(rules: &[&str]) -> AuthorizationPolicy {
    policy("deny", Action::Deny, rules)
}

/// One workload, at which all policies apply.
#[derive(Clone)]
struct Mesh {
    policies: Vec<AuthorizationPolicy>,
    domains: Vec<TrustDomain>,
    identities: Vec<SpiffeId>,
    paths: PathNormalization,
    l4_deny: L4Deny,
    site: Site,
}

fn ids(names: &[&str]) -> Vec<SpiffeId> {
    let id = |n: &&str| SpiffeId::parse(&format!("spiffe://{n}")).unwrap();
    names.iter().map(id).collect()
}

fn mesh(policies: &[AuthorizationPolicy]) -> Mesh {
    let point = Point {
        kind: PointKind::Workload,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: None,
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    };
    Mesh {
        policies: policies.to_vec(),
        domains: vec![TrustDomain::parse("cluster.local").unwrap()],
        identities: ids(&[
            "cluster.local/ns/default/sa/frontend",
            "cluster.local/ns/prod/sa/batch",
        ]),
        paths: PathNormalization::MergeSlashes,
        l4_deny: L4Deny::Api,
        site: Site {
            name: "workload default/a".to_owned(),
            point,
            policies: (0..policies.len()).collect(),
            ports: Some(vec![80, 8080]),
            addresses: Some(vec!["10.0.0.1".parse().unwrap()]),
            bare: false,
            issuers: vec!["https://a.example".to_owned()],
            exempt: Vec::new(),
            workload: Some(0),
            waypoints: Vec::new(),
        },
    }
}

impl Mesh {
    fn known(&self) -> Known<'_> {
        Known {
            policies: &self.policies,
            peers: &[],
            trust_domains: &self.domains,
            root_namespace: "istio-system",
            paths: self.paths,
            l4_deny: self.l4_deny,
            identities: &self.identities,
            sites: vec![self.site.clone()],
            nearest: |_, names| format!(" near {}", names.join(" ")),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let known = self.known();
        let mut all = single(&known);
        all.extend(together(&known, PAIRS));
        all
    }

    fn codes(&self) -> BTreeSet<&'static str> {
        self.findings().iter().map(|f| f.code.name()).collect()
    }

    fn set(&self) -> crate::policy::PolicySet {
        let mesh = MeshPolicies {
            policies: &self.policies,
            trust_domains: &self.domains,
            scope: Scope {
                root_namespace: "istio-system",
                gateway_name_selector: true,
                gateway_selectors: true,
            },
            l4_deny: self.l4_deny,
            dry_run: false,
        };
        compile(&mesh, &self.site.point).unwrap()
    }
}

const FRONTEND: &str = "principals=cluster.local/ns/default/sa/frontend";

/// Policies that a code is given for, and their neighbours that it is not given for.
#[track_caller]
fn check(code: Code, bad: &[AuthorizationPolicy], good: &[AuthorizationPolicy]) {
    for policies in [bad, good] {
        for policy in policies {
            assert_eq!(validate(policy), [], "{policy:?}");
        }
    }
    let found = mesh(bad).findings();
    assert!(found.iter().any(|f| f.code == code), "{code}: {found:?}");
    let found = mesh(good).findings();
    assert!(found.iter().all(|f| f.code != code), "{code}: {found:?}");
}

#[test]
fn shadowed() {
    let shadowed =
        |own: &str, wide: &str| check(Code::ShadowedRule, &[allow(&[own, wide])], &[allow(&[own])]);
    let apart = |own: &str, wide: &str| {
        let found = mesh(&[allow(&[own, wide])]).findings();
        let told = |f: &Finding| f.code == Code::ShadowedRule && f.spot.field == "rules[0]";
        assert!(!found.iter().any(told), "{own} in {wide}: {found:?}");
    };
    shadowed("methods=GET paths=/a", "methods=GET");
    shadowed("paths=/a/b,/a/c", "paths=/a/*");
    shadowed("paths=/a/{*} methods=GET", "paths=/a/{**}");
    shadowed(FRONTEND, "namespaces=default");
    shadowed(FRONTEND, "namespaces=def*,prod");
    shadowed("serviceAccounts=prod/batch", "namespaces=prod");
    shadowed("ipBlocks=10.1.0.0/16", "ipBlocks=10.0.0.0/8");
    shadowed(
        "requestPrincipals=https://a.example/joe",
        "requestPrincipals=https://a.example/*",
    );
    shadowed("paths=/a notMethods=GET,PUT", "notMethods=GET");
    shadowed("paths=/a methods=PUT", "notMethods=GET");
    shadowed("request.headers[x-a]=a paths=/a", "request.headers[x-a]=*");
    shadowed("request.query[q]=a paths=/a", "request.query[q]=a,b");
    shadowed(FRONTEND, FRONTEND);
    shadowed("time=10:00-11:00 paths=/a", "time=10:00-11:00");
    apart("methods=GET", "methods=GET paths=/a");
    apart("paths=/a/*", "paths=/a/{**}");
    apart("namespaces=default", FRONTEND);
    apart("request.headers[x-a]=a", "!request.headers[x-a]=b");
    apart("request.auth.claims[g]=a", "!request.auth.claims[g]=b");
    // On a bare connection the second rule never matches, and the first does.
    apart("ports=80", "|ipBlocks=0.0.0.0/0 methods=* ports=80");
    let two = |action| {
        let mut wide = policy("wide", action, &["paths=/a*"]);
        wide.dry_run = true;
        vec![policy("own", action, &["paths=/a"]), wide]
    };
    let found = mesh(&two(Action::Deny)).codes();
    assert!(
        !found.contains("shadowed-rule"),
        "a dry run decides nothing: {found:?}"
    );
}

#[test]
fn shadowed_names_the_other() {
    let found = mesh(&[
        allow(&["paths=/a"]),
        policy("more", Action::Allow, &["paths=/x", "paths=/a*"]),
    ])
    .findings();
    let shadowed: Vec<&Finding> = found
        .iter()
        .filter(|f| f.code == Code::ShadowedRule)
        .collect();
    assert_eq!(shadowed.len(), 1, "{shadowed:?}");
    assert_eq!(shadowed[0].spot, RuleId { policy: 0, rule: 0 }.spot());
    assert_eq!(
        shadowed[0].other,
        Some(RuleId { policy: 1, rule: 1 }.spot())
    );
    assert!(shadowed[0].message.contains("rule 1 of `default/more`"));
    // Two that say the same: the later one.
    let found = mesh(&[allow(&["paths=/a", "paths=/a"])]).findings();
    let shadowed: Vec<&Finding> = found
        .iter()
        .filter(|f| f.code == Code::ShadowedRule)
        .collect();
    assert_eq!(shadowed.len(), 1, "{shadowed:?}");
    assert_eq!(shadowed[0].spot.field, "rules[1]");
}

#[test]
fn a_policy_elsewhere_shadows_nothing() {
    let mut here = mesh(&[
        allow(&["paths=/a"]),
        policy("wide", Action::Allow, &["paths=/a*"]),
    ]);
    let mut there = here.site.clone();
    there.policies = vec![0];
    let known = Known {
        sites: vec![here.site.clone(), there],
        ..here.known()
    };
    assert!(
        together(&known, PAIRS)
            .iter()
            .all(|f| f.code != Code::ShadowedRule)
    );
    // Without any point, policies of one target are compared.
    here.site.policies.clear();
    let known = Known {
        sites: Vec::new(),
        ..here.known()
    };
    assert!(
        together(&known, PAIRS)
            .iter()
            .any(|f| f.code == Code::ShadowedRule)
    );
}

#[test]
fn never() {
    for (bad, good) in [
        ("paths=/a notPaths=/a*", "paths=/a* notPaths=/a"),
        (
            "principals=cluster.local/ns/default/sa/frontend namespaces=prod",
            "principals=cluster.local/ns/prod/sa/batch namespaces=prod",
        ),
        (
            "principals=cluster.local/ns/default/* namespaces=prod",
            "principals=cluster.local/ns/* namespaces=prod",
        ),
        (
            "principals=*/ns/default/sa/frontend namespaces=prod",
            "principals=*/sa/frontend namespaces=prod",
        ),
        (
            "ipBlocks=10.0.0.0/8 source.ip=11.0.0.0/8",
            "ipBlocks=10.0.0.0/8 source.ip=10.1.0.0/16",
        ),
        (
            "ports=80 destination.port=8080",
            "ports=80,8080 destination.port=8080",
        ),
        (
            "methods=GET request.headers[:method]=PUT",
            "methods=GET request.headers[:method]=*",
        ),
        (
            "request.headers[x-a]=a !request.headers[x-a]=a*",
            "request.headers[x-a]=a !request.headers[x-a]=b",
        ),
        (
            "requestPrincipals=https://a.example/joe request.auth.principal=https://a.example/ann",
            "requestPrincipals=https://a.example/joe request.auth.principal=*",
        ),
        (
            "paths=/ab pathRegexes=/a.+ !request.headers[x]=* request.headers[x]=*",
            "paths=/ab pathRegexes=/a.+",
        ),
        ("paths=/b pathRegexes=/a.+", "paths=/ab pathRegexes=/a.+"),
    ] {
        check(Code::NeverMatches, &[allow(&[bad])], &[allow(&[good])]);
    }
    // One source of two.
    let found = mesh(&[allow(&[
        "principals=cluster.local/ns/default/sa/frontend namespaces=prod |principals=*",
    ])])
    .findings();
    let never: Vec<&str> = found
        .iter()
        .filter(|f| f.code == Code::NeverMatches)
        .map(|f| f.spot.field.as_str())
        .collect();
    assert_eq!(never, ["rules[0].from[0].source"]);
}

#[test]
fn values() {
    let bad = |text: &str| check(Code::ValueNeverMatches, &[allow(&[text])], &[]);
    let good = |text: &str| check(Code::WideOpen, &[allow(&["", text])], &[allow(&[text])]);
    for text in [
        "methods=get",
        "paths=a",
        "paths=/a/../b",
        "paths=/a//b",
        "paths=/%61",
        "hosts=https://a.com",
        "requestPrincipals=*/*",
        "requestPrincipals=https://acc*",
        "requestPrincipals=iss*/sub",
        "request.auth.claims[scope]=a",
    ] {
        if text.ends_with("scope]=a") {
            let mut two = allow(&[text]);
            two.rules[0].when[0].values = vec!["a b".to_owned()];
            check(Code::ValueNeverMatches, &[two], &[allow(&[text])]);
        } else {
            bad(text);
        }
    }
    for text in [
        "methods=GET",
        "paths=/a/*",
        "hosts=a.com,a.com:*",
        "requestPrincipals=https://a.example/*",
    ] {
        good(text);
        let found = mesh(&[allow(&[text])]).codes();
        assert!(!found.contains("value-never-matches"), "{text}: {found:?}");
    }
    check(
        Code::LiteralStar,
        &[allow(&["principals=cluster.local/ns/*/sa/x"])],
        &[allow(&["principals=cluster.local/ns/* paths=/a/{*}/b"])],
    );
}

#[test]
fn mesh_knowledge() {
    check(
        Code::UnknownPort,
        &[allow(&["ports=81"])],
        &[allow(&["ports=80"])],
    );
    check(
        Code::UnknownAddress,
        &[allow(&["destination.ip=10.0.1.0/24,10.0.0.2"])],
        &[allow(&["destination.ip=10.0.0.1,10.0.0.0/24"])],
    );
    check(
        Code::UnknownIssuer,
        &[allow(&["requestPrincipals=https://b.example/*"])],
        &[allow(&["requestPrincipals=https://a.example/*,*/joe"])],
    );
    for (bad, good) in [
        ("principals=cluster.local/ns/default/sa/frontent", FRONTEND),
        (
            "principals=other.example/ns/default/sa/frontend",
            "principals=cluster.local/*",
        ),
        (
            "principals=cluster.local/ns/dev/*",
            "principals=cluster.local/ns/prod/*",
        ),
        ("namespaces=dev", "namespaces=prod"),
        (
            "serviceAccounts=batch",
            "serviceAccounts=frontend,prod/batch",
        ),
        ("trustDomains=other.example", "trustDomains=cluster.local"),
        (
            "notPrincipals=cluster.local/ns/default/sa/x",
            "notPrincipals=*/sa/frontend",
        ),
        ("source.namespace=dev", "source.namespace=*"),
    ] {
        check(Code::UnknownPrincipal, &[allow(&[bad])], &[allow(&[good])]);
    }
    let found = mesh(&[allow(&["principals=cluster.local/ns/default/sa/frontent"])]).findings();
    assert!(
        found.iter().any(|f| f.message.ends_with(" near frontend")),
        "{found:?}"
    );
    // An alias is another name of our own.
    let mut aliased = mesh(&[allow(&["principals=old.example/ns/default/sa/frontend"])]);
    assert!(aliased.codes().contains("unknown-principal"));
    aliased
        .domains
        .push(TrustDomain::parse("old.example").unwrap());
    assert!(!aliased.codes().contains("unknown-principal"));
    aliased.identities.clear();
    aliased.domains.pop();
    assert!(
        !aliased.codes().contains("unknown-principal"),
        "nothing is known"
    );

    let mut tokens = mesh(&[allow(&["request.auth.claims[g]=a", "requestPrincipals=*"])]);
    assert!(!tokens.codes().contains("no-request-authentication"));
    tokens.site.issuers.clear();
    assert!(tokens.codes().contains("no-request-authentication"));
    tokens.site.issuers.push(String::new());
    assert!(
        !tokens.codes().contains("no-request-authentication"),
        "any issuer"
    );

    let mut bytes = mesh(&[allow(&["paths=/a"])]);
    assert!(!bytes.codes().contains("http-at-l4"));
    bytes.site.bare = true;
    assert!(bytes.codes().contains("http-at-l4"));
    bytes.policies = vec![allow(&[FRONTEND])];
    assert!(!bytes.codes().contains("http-at-l4"));
}

#[test]
fn traps() {
    check(Code::WideOpen, &[allow(&[""])], &[deny(&["paths=/a"])]);
    check(
        Code::WideOpen,
        &[allow(&["principals=*"])],
        &[allow(&["principals=* paths=/a", "namespaces=prod"])],
    );
    check(
        Code::NegativeOnly,
        &[allow(&["notNamespaces=prod paths=/a"])],
        &[
            allow(&["principals=* notNamespaces=prod"]),
            deny(&["notNamespaces=prod"]),
        ],
    );
    check(
        Code::DenyAnonymous,
        &[deny(&["requestPrincipals=*"])],
        &[deny(&["notRequestPrincipals=*"])],
    );
    check(
        Code::DenyAnonymous,
        &[deny(&["request.auth.claims[g]=a"])],
        &[allow(&["request.auth.claims[g]=a"])],
    );
    check(
        Code::HostWithoutPort,
        &[allow(&["hosts=a.com"])],
        &[allow(&["hosts=a.com,a.com:*"])],
    );
    check(
        Code::HeaderRepeats,
        &[deny(&["!request.headers[x]=a"])],
        &[deny(&["request.headers[x]=a"])],
    );
    check(
        Code::HeaderRepeats,
        &[allow(&["request.headers[x]=a"])],
        &[allow(&["request.headers[x]=*"])],
    );
    let mut base = mesh(&[deny(&["paths=/a"])]);
    assert!(!base.codes().contains("deny-path-spelling"));
    base.paths = PathNormalization::Base;
    assert!(base.codes().contains("deny-path-spelling"));
}

#[test]
fn overlaps() {
    check(
        Code::AllowWithoutEffect,
        &[allow(&["methods=PUT paths=/a"]), deny(&["paths=/a*"])],
        &[allow(&["methods=PUT paths=/*"]), deny(&["paths=/a*"])],
    );
    check(
        Code::DenyInsideAllow,
        &[allow(&[FRONTEND]), deny(&["paths=/admin*"])],
        &[
            allow(&["principals=cluster.local/ns/prod/sa/batch"]),
            deny(&[FRONTEND]),
        ],
    );
    check(
        Code::Overlap,
        &[allow(&["paths=/a/*"]), deny(&["paths=*/b"])],
        &[allow(&["paths=/a/*"]), deny(&["paths=/a/b"])],
    );
    let found = mesh(&[allow(&["paths=/a/*"]), deny(&["paths=*/b"])]).findings();
    let overlap = found.iter().find(|f| f.code == Code::Overlap).unwrap();
    assert!(overlap.message.contains("such as `GET /a/"), "{overlap:?}");
    check(
        Code::DenyWithoutEffect,
        &[allow(&["paths=/a/*"]), deny(&["paths=/b"])],
        &[allow(&["paths=/*"]), deny(&["paths=/b"])],
    );
    // What is left of the DENY rule denies a bare connection that the ALLOW rule lets in.
    let found = mesh(&[allow(&["ports=80"]), deny(&["paths=/b ports=8080"])]).codes();
    assert!(found.contains("deny-without-effect"), "{found:?}");
    let found = mesh(&[allow(&["hosts=a,a:*"]), deny(&["hosts=b,b:*"])]).codes();
    assert!(
        !found.contains("deny-without-effect"),
        "a CONNECT loses its host: {found:?}"
    );
    let found = mesh(&[deny(&["paths=/b"])]).codes();
    assert!(
        !found.contains("deny-without-effect"),
        "all is allowed: {found:?}"
    );
    // ALLOW policies need not name the workload's waypoint.
    let mut via = mesh(&[
        allow(&[FRONTEND]),
        deny(&["principals=cluster.local/ns/prod/sa/batch"]),
    ]);
    assert!(via.codes().contains("deny-without-effect"));
    via.site.exempt = ids(&["cluster.local/ns/prod/sa/batch"]);
    assert!(!via.codes().contains("deny-without-effect"));
}

#[test]
fn coverage() {
    let covered = mesh(&[allow(&["paths=/a"])]);
    let mut open = covered.site.clone();
    open.policies.clear();
    open.name = "workload default/b".to_owned();
    open.workload = Some(1);
    let with = |sites: Vec<Site>| Known {
        sites,
        ..covered.known()
    };
    let codes = |known: &Known<'_>| -> Vec<Code> {
        together(known, PAIRS).iter().map(|f| f.code).collect()
    };
    assert_eq!(
        codes(&with(vec![covered.site.clone(), open.clone()])),
        [Code::Uncovered]
    );
    assert_eq!(codes(&with(vec![covered.site.clone()])), []);
    assert_eq!(
        codes(&with(vec![open.clone()])),
        [],
        "no policy at all is no oversight"
    );
    // Its waypoint's policies cover it.
    let mut waypoint = covered.site.clone();
    waypoint.workload = None;
    open.waypoints = vec![1];
    assert_eq!(codes(&with(vec![open, waypoint, covered.site.clone()])), []);

    let peer = |name: &str, app: Option<&str>, mode, port: Option<MtlsMode>| PeerAuthentication {
        name: ResourceName::parse(name).unwrap(),
        selector: app.map(|a| BTreeMap::from([("app".to_owned(), a.to_owned())])),
        mode,
        ports: port.map(|mode| (80, mode)).into_iter().collect(),
    };
    use MtlsMode::{Permissive, Strict, Unset};
    let strict = peer("istio-system/default", None, Strict, None);
    let of = |peers: &[PeerAuthentication]| {
        codes(&Known {
            peers,
            ..with(Vec::new())
        })
    };
    assert_eq!(of(std::slice::from_ref(&strict)), []);
    assert_eq!(
        of(&[
            strict.clone(),
            peer("default/a", Some("a"), Permissive, None)
        ]),
        [Code::PlaintextException]
    );
    assert_eq!(
        of(&[
            strict.clone(),
            peer("default/a", Some("a"), Unset, Some(Permissive))
        ]),
        [Code::PlaintextException]
    );
    assert_eq!(
        of(&[strict, peer("default/a", Some("a"), Unset, Some(Strict))]),
        []
    );
    assert_eq!(of(&[peer("default/a", Some("a"), Permissive, None)]), []);
}

#[test]
fn bounded() {
    let rules: Vec<String> = (0..60).map(|i| format!("paths=*/{i}")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let many = mesh(&[allow(&rules)]);
    let found = together(&many.known(), 100);
    assert!(found.iter().any(|f| f.code == Code::NotAllCompared));
    let found = together(&many.known(), PAIRS);
    assert!(found.iter().all(|f| f.code != Code::NotAllCompared));
}

/// Ten thousand policies for as many workloads, and all of them at one: few pairs, as no two ask for the same.
#[test]
fn many_policies_are_few_pairs() {
    let own = |i: usize| {
        let rules = [
            format!("principals=cluster.local/ns/default/sa/s{i} paths=/s{i}"),
            format!("paths=/x{i}/*"),
        ];
        policy(
            &format!("p{i}"),
            Action::Allow,
            &rules.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let policies: Vec<AuthorizationPolicy> = (0..2_000).map(own).collect();
    let many = mesh(&policies);
    let found = together(&many.known(), 10_000_000);
    assert_eq!(found, [], "{:?}", found.first());
}
