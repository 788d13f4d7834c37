//! The engine as a whole: order, reasons, dialects, problems, and properties over random policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method};

use super::model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, Rule, Source, Target, TargetKind,
    TargetRef,
};
use super::*;
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

mod nearest;

const FRONTEND: &str = "cluster.local/ns/default/sa/frontend-service";
const REVIEWS: &str = "cluster.local/ns/default/sa/reviews-service";
const INGRESS: &str = "cluster.local/ns/edge/sa/ingress";

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ResourceName::new("default", name),
        target: Target::Namespace,
        action,
        provider: (action == Action::Custom).then(|| name.to_owned()),
        dry_run: false,
        rules,
    }
}

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn from(principals: &[&str]) -> Rule {
    let source = Source {
        principals: list(principals),
        ..Source::default()
    };
    Rule {
        from: vec![source],
        ..Rule::default()
    }
}

fn to(operation: Operation) -> Rule {
    Rule {
        to: vec![operation],
        ..Rule::default()
    }
}

fn when(key: &str, values: &[&str]) -> Rule {
    let condition = Condition {
        key: key.to_owned(),
        values: list(values),
        ..Condition::default()
    };
    Rule {
        when: vec![condition],
        ..Rule::default()
    }
}

fn methods(methods: &[&str]) -> Operation {
    Operation {
        methods: list(methods),
        ..Operation::default()
    }
}

fn point(kind: PointKind) -> Point {
    Point {
        kind,
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        gateway: (kind != PointKind::Workload).then(|| "customer-api".to_owned()),
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Allow,
    }
}

fn scope(gateway_name_selector: bool) -> Scope<'static> {
    Scope {
        root_namespace: "istio-system",
        gateway_name_selector,
        gateway_selectors: true,
    }
}

fn compiled(
    policies: &[AuthorizationPolicy],
    l4_deny: L4Deny,
) -> Result<PolicySet, Vec<PolicyProblem>> {
    let own: Vec<TrustDomain> = TrustDomain::parse("cluster.local").into_iter().collect();
    let mesh = MeshPolicies {
        policies,
        trust_domains: &own,
        scope: scope(true),
        l4_deny,
        dry_run: false,
    };
    compile(&mesh, &point(PointKind::Workload))
}

fn connection(principal: Option<&str>, port: u16) -> Connection {
    let local: IpAddr = "127.0.0.1".parse().unwrap();
    Connection {
        principal: principal.map(|p| SpiffeId::parse(&format!("spiffe://{p}")).unwrap()),
        peer: local,
        remote: local,
        destination: local,
        port,
        sni: None,
        time: 0,
    }
}

fn request(method: &str, target: &str) -> Request {
    Request {
        method: method.parse::<Method>().unwrap(),
        host: Host::parse("customer-api").unwrap(),
        path: Some(CanonicalPath::parse(PathNormalization::Base, target).unwrap()),
        headers: HeaderMap::new(),
        claims: None,
        time: 0,
    }
}

/// Judges `GET target` on port 80 and compares decision and reason.
fn check(
    policies: &[AuthorizationPolicy],
    principal: Option<&str>,
    target: &str,
    want: Decision,
    reason: &str,
) {
    let set = compiled(policies, L4Deny::Api).unwrap();
    let (conn, asked) = (connection(principal, 80), request("GET", target));
    let verdict = decide(&set, &conn, Some(&asked));
    let text = verdict.reason.text(&conn, Some(&asked));
    assert_eq!(
        (verdict.decision, text.as_str()),
        (want, reason),
        "{principal:?} {target}"
    );
}

#[test]
fn order() {
    use Decision::{Allow, Deny};
    let allow = policy(
        "allow",
        Action::Allow,
        vec![from(&[FRONTEND]), from(&[INGRESS])],
    );
    let deny = policy(
        "deny",
        Action::Deny,
        vec![to(Operation {
            paths: list(&["/admin*"]),
            ..Operation::default()
        })],
    );
    let both = [allow.clone(), deny];
    check(&[], None, "/", Allow, "no ALLOW policy applies");
    check(&both, Some(FRONTEND), "/", Allow, "matched an ALLOW rule");
    check(
        &both,
        Some(FRONTEND),
        "/admin/x",
        Deny,
        "matched a DENY rule",
    );
    let reason = format!("needs principal {FRONTEND}, got {REVIEWS}");
    check(&both, Some(REVIEWS), "/", Deny, &reason);
    check(
        &both,
        None,
        "/",
        Deny,
        &format!("needs principal {FRONTEND}, got none"),
    );
    check(
        &[policy("none", Action::Allow, vec![])],
        Some(FRONTEND),
        "/",
        Deny,
        "no ALLOW policy has a rule",
    );
    let audit = policy("audit", Action::Audit, vec![Rule::default()]);
    let set = compiled(&[allow, audit], L4Deny::Api).unwrap();
    assert!(decide(&set, &connection(Some(FRONTEND), 80), None).audit);
}

#[test]
fn query_occurrences() {
    use Decision::{Allow, Deny};
    let currency = |action| {
        [policy(
            "p",
            action,
            vec![when("request.query[currency]", &["eur"])],
        )]
    };
    let allow = currency(Action::Allow);
    check(
        &allow,
        None,
        "/r?currency=eur",
        Allow,
        "matched an ALLOW rule",
    );
    check(
        &allow,
        None,
        "/r?currency=eur&%63urrency=eur",
        Allow,
        "matched an ALLOW rule",
    );
    let another = "needs query parameter currency eur, got another value";
    check(&allow, None, "/r?currency=eur&currency=usd", Deny, another);
    check(
        &allow,
        None,
        "/r?Currency=eur",
        Deny,
        "needs query parameter currency eur, got none",
    );
    let deny = currency(Action::Deny);
    check(
        &deny,
        None,
        "/r?currency=usd&currency=%65ur",
        Deny,
        "matched a DENY rule",
    );
    check(&deny, None, "/r", Allow, "no ALLOW policy applies");
}

/// DENY `POST` on port 8080: what is left of it on a bare connection.
#[test]
fn bare_connections() {
    let mixed = Operation {
        ports: list(&["8080"]),
        ..methods(&["POST"])
    };
    for (operation, dialect, denied_8080, denied_9090) in [
        (mixed.clone(), L4Deny::Api, true, false),
        (mixed, L4Deny::Ztunnel, true, false),
        (methods(&["POST"]), L4Deny::Api, true, true),
        (methods(&["POST"]), L4Deny::Ztunnel, false, false),
    ] {
        let set = compiled(&[policy("p", Action::Deny, vec![to(operation)])], dialect).unwrap();
        assert!(set.needs_http());
        for (port, denied) in [(8080, denied_8080), (9090, denied_9090)] {
            let verdict = decide(&set, &connection(None, port), None);
            assert_eq!(
                verdict.decision == Decision::Deny,
                denied,
                "{dialect:?} {port}"
            );
        }
    }
}

#[test]
fn custom_and_dry_run() {
    let custom = |name: &str| policy(name, Action::Custom, vec![to(methods(&["GET"]))]);
    let mut dry = policy("dry", Action::Deny, vec![Rule::default()]);
    dry.dry_run = true;
    let set = compiled(&[custom("b"), custom("a"), dry], L4Deny::Api).unwrap();
    let conn = connection(None, 80);
    assert_eq!(
        custom_providers(&set, &conn, Some(&request("GET", "/"))),
        ["a", "b"]
    );
    assert!(custom_providers(&set, &conn, Some(&request("PUT", "/"))).is_empty());
    let verdict = decide(&set, &conn, Some(&request("GET", "/")));
    assert_eq!(verdict.decision, Decision::Allow);
    assert_eq!(
        verdict.shadow,
        Shadow {
            deny: Some(Decision::Deny),
            allow: None
        }
    );
}

#[test]
fn waypoint_outbound_plaintext() {
    let waypoint = SpiffeId::parse(&format!("spiffe://{INGRESS}")).unwrap();
    let policies = [policy("allow", Action::Allow, vec![from(&[FRONTEND])])];
    let set = compiled(&policies, L4Deny::Api).unwrap();
    let from_it = connection(Some(INGRESS), 80);
    let verdict = decide_via_waypoint(&set, &from_it, None, &waypoint);
    assert_eq!(
        (verdict.decision, verdict.reason.label()),
        (Decision::Allow, "via_waypoint")
    );
    assert!(
        decide_via_waypoint(&set, &connection(Some(REVIEWS), 80), None, &waypoint)
            .permit()
            .is_err()
    );
    let set = compiled(
        &[policy("deny", Action::Deny, vec![from(&[INGRESS])])],
        L4Deny::Api,
    )
    .unwrap();
    assert!(
        decide_via_waypoint(&set, &from_it, None, &waypoint)
            .permit()
            .is_err()
    );

    assert!(
        decide_outbound(OutboundTarget::Known, false)
            .permit()
            .is_ok()
    );
    assert!(
        decide_outbound(OutboundTarget::Unknown("x:1"), true)
            .permit()
            .is_ok()
    );
    let denied = decide_outbound(OutboundTarget::Unknown("x:1"), false)
        .permit()
        .unwrap_err();
    assert!(denied.to_string().contains("`x:1` is not in the registry"));

    assert!(decide_plaintext(MtlsMode::Strict, &connection(None, 80)).is_some());
    assert!(decide_plaintext(MtlsMode::Strict, &from_it).is_none());
    assert!(decide_plaintext(MtlsMode::Permissive, &connection(None, 80)).is_none());
}

#[test]
fn explained() {
    let policies = [policy(
        "customer-api-lockdown",
        Action::Allow,
        vec![from(&[FRONTEND])],
    )];
    let set = compiled(&policies, L4Deny::Api).unwrap();
    let (conn, asked) = (
        connection(Some(REVIEWS), 80),
        request("GET", "/api/v1/users/export?x=1"),
    );
    let verdict = decide(&set, &conn, Some(&asked));
    let told = explain::Explained::new(&verdict, &conn, Some(&asked), "customer-api");
    assert_eq!(
        told.steps(),
        [
            format!("identity from the client certificate: spiffe://{REVIEWS}"),
            "destination: customer-api, request GET /api/v1/users/export".to_owned(),
            "policy checked: default/customer-api-lockdown (ALLOW), rule 0".to_owned(),
            format!("required: principal {FRONTEND}, presented: {REVIEWS}: mismatch"),
            "decision: DENY, 403 RBAC: access denied".to_owned(),
        ]
    );
}

#[test]
fn problems() {
    let operation = Operation {
        hosts: list(&["a", "", "*."]),
        ports: list(&["80", "65536"]),
        paths: list(&["/{*}/x{"]),
        path_regexes: list(&["/a", "("]),
        ..Operation::default()
    };
    let source = Source {
        service_accounts: list(&["a/*"]),
        namespaces: list(&["x"]),
        ip_blocks: list(&["10.0.0.0/40"]),
        ..Source::default()
    };
    let mut conditions = when("request.header[x]", &["y"]);
    conditions.when.push(Condition {
        key: "source.ip".to_owned(),
        regexes: list(&["1"]),
        ..Condition::default()
    });
    let rule = Rule {
        from: vec![source, Source::default()],
        to: vec![operation],
        when: conditions.when,
    };
    let bad = policy("bad", Action::Allow, vec![rule]);
    let fields: Vec<String> = validate(&bad).into_iter().map(|p| p.field).collect();
    assert_eq!(
        fields,
        [
            "rules[0].from[0].source.serviceAccounts[0]",
            "rules[0].from[0].source.ipBlocks[0]",
            "rules[0].from[0].source",
            "rules[0].from[1].source",
            "rules[0].to[0].operation.hosts[1]",
            "rules[0].to[0].operation.hosts[2]",
            "rules[0].to[0].operation.ports[1]",
            "rules[0].to[0].operation.paths[0]",
            "rules[0].to[0].operation.pathRegexes[1]",
            "rules[0].when[0].key",
            "rules[0].when[1].regexes",
            "rules[0].when[1]",
        ]
    );
    assert_eq!(
        compiled(&[bad], L4Deny::Api).unwrap_err().len(),
        fields.len()
    );
    let identity = policy("custom", Action::Custom, vec![from(&["*"])]);
    assert_eq!(
        validate(&identity)[0].field,
        "rules[0].from[0].source.principals"
    );
    let nothing = policy("deny", Action::Deny, vec![]);
    assert_eq!(validate(&nothing)[0].field, "rules");
    check(
        &[nothing],
        None,
        "/",
        Decision::Allow,
        "no ALLOW policy applies",
    );
}

/// A mesh in dry run allows what it would deny, and the verdict tells of the denial.
#[test]
fn dry_run_of_the_mesh() {
    let policies = [
        policy("allow", Action::Allow, vec![from(&[FRONTEND])]),
        policy("deny", Action::Deny, vec![to(methods(&["PUT"]))]),
    ];
    let own: Vec<TrustDomain> = TrustDomain::parse("cluster.local").into_iter().collect();
    let mesh = MeshPolicies {
        policies: &policies,
        trust_domains: &own,
        scope: scope(true),
        l4_deny: L4Deny::Api,
        dry_run: true,
    };
    let set = compile(&mesh, &point(PointKind::Workload)).unwrap();
    for (who, method, would_deny, label) in [
        (FRONTEND, "GET", false, "allow_rule"),
        (FRONTEND, "PUT", true, "deny_rule"),
        (REVIEWS, "GET", true, "no_rule_matched"),
    ] {
        let request = request(method, "/");
        let verdict = decide(&set, &connection(Some(who), 80), Some(&request));
        let told = (verdict.would_deny, verdict.reason.label());
        assert_eq!(told, (would_deny, label), "{who} {method}");
        assert!(verdict.permit().is_ok(), "{who} {method}");
    }
}

/// Time windows hold at L4 too, and by the later of connection and request.
#[test]
fn time_windows() {
    // 2026-11-25 12:00 UTC, a Wednesday.
    let noon = 1_795_608_000;
    let window = when("time", &["Wed 11:00-13:00", "2030-01-01T00:00:00Z/.."]);
    let set = compiled(&[policy("hours", Action::Allow, vec![window])], L4Deny::Api).unwrap();
    assert!(set.needs_time() && !set.needs_http());
    for (opened, asked, want) in [
        (noon, None, Decision::Allow),
        (noon - 7200, None, Decision::Deny),
        (noon - 7200, Some(noon), Decision::Allow),
        (noon, Some(noon + 3600), Decision::Deny),
    ] {
        let connection = Connection {
            time: opened,
            ..connection(None, 80)
        };
        let request = asked.map(|time| Request {
            time,
            ..request("GET", "/")
        });
        let verdict = decide(&set, &connection, request.as_ref());
        assert_eq!(verdict.decision, want, "{opened} {asked:?}");
    }
    for (action, needs) in [(Action::Custom, true), (Action::Audit, false)] {
        let timed = policy("timed", action, vec![when("time", &["Wed 11:00-13:00"])]);
        let set = compiled(&[timed], L4Deny::Api).unwrap();
        assert_eq!(set.needs_time(), needs, "{action:?}");
    }
    let bad = policy("bad", Action::Allow, vec![when("time", &["25:00-26:00"])]);
    assert_eq!(validate(&bad)[0].field, "rules[0].when[0].values[0]");
}

#[test]
fn attachment() {
    let selector = Target::Selector(BTreeMap::from([(
        "istio.io/gateway-name".to_owned(),
        "customer-api".to_owned(),
    )]));
    let entry = |kind| {
        Target::Refs(vec![TargetRef {
            kind,
            name: "partner".to_owned(),
        }])
    };
    let mut egress = point(PointKind::Egress);
    egress.services = vec![(
        ServiceKind::ServiceEntry,
        ResourceName::new("default", "partner"),
    )];
    let waypoint = point(PointKind::Waypoint);
    let account = |name: &str| {
        Target::Refs(vec![TargetRef {
            kind: TargetKind::ServiceAccount,
            name: name.to_owned(),
        }])
    };
    let runs_as_api = Point {
        accounts: vec![ResourceName::new("default", "api")],
        ..point(PointKind::Workload)
    };
    for (target, namespace, at, switch, want) in [
        (&selector, "default", &waypoint, true, true),
        (&selector, "default", &waypoint, false, false),
        (&selector, "other", &waypoint, true, false),
        (
            &selector,
            "default",
            &point(PointKind::Workload),
            true,
            false,
        ),
        (&Target::Namespace, "default", &waypoint, true, false),
        (&Target::Namespace, "istio-system", &egress, true, true),
        (
            &entry(TargetKind::ServiceEntry),
            "default",
            &egress,
            true,
            true,
        ),
        (
            &entry(TargetKind::ServiceEntry),
            "other",
            &egress,
            true,
            false,
        ),
        (&entry(TargetKind::Service), "default", &egress, true, false),
        (&account("api"), "default", &runs_as_api, true, true),
        (&account("api"), "other", &runs_as_api, true, false),
        (&account("other"), "default", &runs_as_api, true, false),
        (&account("api"), "default", &waypoint, true, false),
    ] {
        let got = attaches(target, namespace, at, scope(switch));
        assert_eq!(got, want, "{target:?} {namespace} {:?}", at.kind);
    }
}

/// `mesh.compat.gatewaySelectors` concerns gateways alone.
#[test]
fn selectors_at_gateways() {
    let without = Scope {
        gateway_selectors: false,
        ..scope(true)
    };
    let labelled = Target::Selector(BTreeMap::from([("app".to_owned(), "x".to_owned())]));
    for (kind, want) in [(PointKind::Gateway, false), (PointKind::Workload, true)] {
        let at = Point {
            labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
            ..point(kind)
        };
        assert!(attaches(&labelled, "default", &at, scope(true)));
        assert_eq!(attaches(&labelled, "default", &at, without), want);
    }
}

/// A seeded xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }

    fn some(&mut self, pool: &[&str]) -> Vec<String> {
        let n = self.below(3);
        (0..n)
            .map(|_| pool[self.below(pool.len())].to_owned())
            .collect()
    }

    fn rule(&mut self) -> Rule {
        let mut rule = Rule::default();
        for _ in 0..self.below(3) {
            let source = Source {
                principals: self.some(&[FRONTEND, REVIEWS, "*", "*ingress", "cluster.local/*"]),
                not_principals: self.some(&[FRONTEND, "*"]),
                request_principals: self.some(&["*", "iss/*"]),
                ..Source::default()
            };
            if source != Source::default() {
                rule.from.push(source);
            }
        }
        for _ in 0..self.below(3) {
            let operation = Operation {
                ports: self.some(&["80", "8080"]),
                methods: self.some(&["GET", "P*"]),
                not_paths: self.some(&["/a", "/b*"]),
                path_regexes: self.some(&["/[ab]", "/.*"]),
                ..Operation::default()
            };
            if operation != Operation::default() {
                rule.to.push(operation);
            }
        }
        if self.below(3) == 0 {
            rule.when.extend(when("request.query[q]", &["1"]).when);
        }
        rule
    }

    fn policy(&mut self, name: &str) -> AuthorizationPolicy {
        let action = [Action::Allow, Action::Deny][self.below(2)];
        let rules = (0..=self.below(2)).map(|_| self.rule()).collect();
        policy(name, action, rules)
    }

    fn case(&mut self) -> (Connection, Option<Request>) {
        let principal = [None, Some(FRONTEND), Some(REVIEWS), Some(INGRESS)][self.below(4)];
        let conn = connection(principal, [80, 8080][self.below(2)]);
        let target = ["/a", "/b/c", "/a?q=1", "/d?q=1&q=2"][self.below(4)];
        let mut asked = request(["GET", "POST"][self.below(2)], target);
        if self.below(2) == 0 {
            let claims = serde_json::json!({ "iss": "iss", "sub": "sub" });
            asked.claims = Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new()));
        }
        (conn, (self.below(4) > 0).then_some(asked))
    }
}

/// One more DENY never allows more; order of policies, rules and values changes nothing; without HTTP nothing
/// more is allowed than with any request.
#[test]
fn properties() {
    let mut random = Random(0x0dd_ba11);
    let mut decisions = [0_usize; 2];
    for _ in 0..400 {
        let policies: Vec<_> = (0..=random.below(3))
            .map(|i| random.policy(&format!("p{i}")))
            .collect();
        let deny = policy("z", Action::Deny, vec![random.rule()]);
        let mut turned = policies.clone();
        turned.reverse();
        for rule in turned.iter_mut().flat_map(|p| &mut p.rules) {
            rule.from.reverse();
            rule.to.reverse();
            rule.from.iter_mut().for_each(|s| s.principals.reverse());
        }
        let more = [policies.as_slice(), &[deny]].concat();
        let [set, turned, more] =
            [&policies, &turned, &more].map(|p| compiled(p, L4Deny::Api).unwrap());
        for _ in 0..20 {
            let (conn, asked) = random.case();
            let verdict = decide(&set, &conn, asked.as_ref());
            let allowed = verdict.decision == Decision::Allow;
            decisions[usize::from(allowed)] += 1;
            let again = decide(&turned, &conn, asked.as_ref());
            assert_eq!(
                (again.decision, again.rule),
                (verdict.decision, verdict.rule),
                "{policies:?} {conn:?} {asked:?}"
            );
            let with_more = decide(&more, &conn, asked.as_ref()).decision == Decision::Allow;
            assert!(allowed || !with_more, "{policies:?} {conn:?} {asked:?}");
            let bare = decide(&set, &conn, None).decision == Decision::Allow;
            assert!(allowed || !bare, "{policies:?} {conn:?} {asked:?}");
        }
    }
    assert!(
        decisions.iter().all(|n| *n > 1_000),
        "both decisions must be common: {decisions:?}"
    );
}
