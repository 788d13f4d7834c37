//! Lints are sound: what they say of rules holds in the engine, on random policies and requests.

use super::*;

/// A seeded xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }

    fn one<'p>(&mut self, pool: &[&'p str]) -> &'p str {
        pool[self.below(pool.len())]
    }
}

const FIELDS: [(&str, &[&str]); 27] = [
    (
        "principals",
        &[
            "td/ns/a/sa/x",
            "td/ns/b/sa/y",
            "td/ns/a/*",
            "*/sa/x",
            "*",
            "td/*",
            "td/ns/*/sa/x",
            "*/ns/a/sa/x",
            "cluster.local/ns/a/sa/y",
        ],
    ),
    (
        "notPrincipals",
        &["td/ns/a/sa/x", "td/ns/b/*", "*/sa/y", "*"],
    ),
    ("namespaces", &["a", "b", "a*", "*"]),
    ("notNamespaces", &["a", "*b"]),
    ("trustDomains", &["td", "t*", "other"]),
    (
        "requestPrincipals",
        &["i/s", "i/*", "*/s", "*", "j/s", "i/t*", "*/*", "*t", "j*"],
    ),
    ("notRequestPrincipals", &["i/s", "*", "j/*"]),
    (
        "ipBlocks",
        &[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.1.1",
            "11.0.0.0/8",
            "::/0",
        ],
    ),
    ("notIpBlocks", &["10.1.0.0/16", "11.0.0.0/8"]),
    ("hosts", &["a.com", "a.com:*", "*.com", "b.com", "*"]),
    ("notHosts", &["a.com", "b.*"]),
    ("ports", &["80", "81"]),
    ("notPorts", &["80"]),
    ("methods", &["GET", "PUT", "*", "P*", "CONNECT", "get"]),
    ("notMethods", &["GET", "*T", "CONNECT"]),
    (
        "paths",
        &[
            "/a",
            "/a/b",
            "/a*",
            "/a/*",
            "*/b",
            "/a/{*}",
            "/{**}",
            "/a/{**}/b",
            "/{*}/b",
            "*",
            "/a//b",
            "/c/../a",
        ],
    ),
    ("notPaths", &["/a", "/a/*", "*b", "/a/{*}"]),
    ("pathRegexes", &["/a.*", "/[ab]+", ".*"]),
    ("request.headers[x-a]", &["1", "2", "*", "1*"]),
    ("!request.headers[x-a]", &["1", "2", "*"]),
    ("request.auth.claims[g]", &["1", "2", "*"]),
    ("!request.auth.claims[g]", &["1", "2*"]),
    ("request.query[q]", &["1", "2", "*"]),
    ("!request.query[q]", &["1", "*"]),
    ("source.namespace", &["a", "b"]),
    ("connection.sni", &["a.com", "*.com"]),
    ("~request.query[q]", &["1|2", "1"]),
];

fn random_rule(random: &mut Random) -> Rule {
    let mut words: Vec<String> = Vec::new();
    for _ in 0..1 + random.below(3) {
        let (field, pool) = FIELDS[random.below(FIELDS.len())];
        if words.iter().any(|w| w.starts_with(&format!("{field}="))) {
            continue;
        }
        let values: Vec<&str> = (0..1 + random.below(2)).map(|_| random.one(pool)).collect();
        words.push(format!("{field}={}", values.join(",")));
    }
    if random.below(4) == 0 {
        words.push(format!("|principals={}", random.one(FIELDS[0].1)));
    }
    rule(&words.join(" "))
}

fn random_policies(random: &mut Random) -> Vec<AuthorizationPolicy> {
    let mut all = Vec::new();
    for at in 0..1 + random.below(3) {
        let action = if random.below(2) == 0 {
            Action::Allow
        } else {
            Action::Deny
        };
        let mut made = policy(&format!("p{at}"), action, &[]);
        made.dry_run = random.below(8) == 0;
        made.rules = (0..1 + random.below(4))
            .map(|_| random_rule(random))
            .collect();
        all.push(made);
    }
    all
}

/// A connection, a request on it unless it is bare, and whether it is a CONNECT.
fn random_request(random: &mut Random) -> (Connection, Option<Request>, bool) {
    let id = random.one(&[
        "td/ns/a/sa/x",
        "td/ns/b/sa/y",
        "td/ns/a/sa/y",
        "td/z",
        "",
        "other/ns/a/sa/x",
    ]);
    let peer: IpAddr = random
        .one(&["10.1.1.1", "10.2.0.1", "11.0.0.1", "::1"])
        .parse()
        .unwrap();
    let conn = Connection {
        principal: (!id.is_empty()).then(|| SpiffeId::parse(&format!("spiffe://{id}")).unwrap()),
        peer,
        remote: peer,
        destination: peer,
        port: random.one(&["80", "81", "82"]).parse().unwrap(),
        sni: [None, Some("a.com"), Some("b.org")][random.below(3)].map(Into::into),
        time: 0,
    };
    let connect = random.below(8) == 0;
    if !connect && random.below(6) == 0 {
        return (conn, None, false);
    }
    let path = random.one(&[
        "/a", "/a/b", "/a/c/b", "/b", "/ab", "/", "/a/", "/a/[x]", "/c",
    ]);
    let query = random.one(&["", "?q=1", "?q=2", "?q=1&q=2", "?q=3", "?q", "?p=1"]);
    let target = format!("{path}{query}");
    let mut headers = http::HeaderMap::new();
    for value in [&[][..], &["1"], &["2"], &["1", "2"], &[""], &["12"]][random.below(6)] {
        headers.append("x-a", value.parse().unwrap());
    }
    let claims = match random.below(4) {
        0 => None,
        _ => {
            let group = [
                serde_json::json!("1"),
                serde_json::json!(["1", "2"]),
                serde_json::json!(3),
                serde_json::json!(""),
            ];
            let map = serde_json::json!({
                "iss": random.one(&["i", "j", "k"]), "sub": random.one(&["s", "t", "t2"]), "g": group[random.below(4)],
            });
            Some(Claims::new(map.as_object().unwrap().clone(), Vec::new()))
        }
    };
    let method = if connect {
        "CONNECT"
    } else {
        random.one(&["GET", "PUT", "POST", "DELETE"])
    };
    let request = Request {
        method: method.parse().unwrap(),
        host: Host::parse(random.one(&["a.com", "a.com:80", "b.com", "x.org"])).unwrap(),
        path: (!connect)
            .then(|| CanonicalPath::parse(PathNormalization::MergeSlashes, &target).unwrap()),
        headers,
        claims,
        time: 0,
    };
    (conn, Some(request), connect)
}

fn judge(
    set: &crate::policy::PolicySet,
    (conn, request, connect): &(Connection, Option<Request>, bool),
) -> crate::policy::Verdict {
    match request {
        Some(request) if *connect => decide_connect(set, conn, request),
        request => decide(set, conn, request.as_ref()),
    }
}

fn random_mesh(random: &mut Random) -> Mesh {
    let mut mesh = mesh(&random_policies(random));
    mesh.domains = ["td", "cluster.local"]
        .map(|d| TrustDomain::parse(d).unwrap())
        .to_vec();
    mesh.domains.truncate(1 + random.below(2));
    mesh.identities = ids(&["td/ns/a/sa/x", "td/ns/b/sa/y"]);
    mesh.site.issuers = vec![String::new()];
    if random.below(3) == 0 {
        mesh.l4_deny = L4Deny::Ztunnel;
    }
    if random.below(4) == 0 {
        mesh.site.point.default = Decision::Deny;
    }
    mesh
}

/// The mesh without one rule; a DENY policy that has no other goes with it.
fn without(mesh: &Mesh, id: RuleId) -> Mesh {
    let mut left = mesh.clone();
    left.policies[id.policy].rules.remove(id.rule);
    if left.policies[id.policy].rules.is_empty() && left.policies[id.policy].action == Action::Deny
    {
        left.policies.remove(id.policy);
    }
    left
}

/// The rule that a finding is about, if it is about a whole one.
fn whole_rule(finding: &Finding) -> Option<RuleId> {
    let Subject::Policy(policy) = finding.spot.subject else {
        return None;
    };
    let rule = finding
        .spot
        .field
        .strip_prefix("rules[")?
        .strip_suffix(']')?
        .parse()
        .ok()?;
    Some(RuleId { policy, rule })
}

/// Rules that change nothing change nothing: without each of them, every verdict is the same.
#[test]
fn sound_without() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..1_500 {
        let mesh = random_mesh(&mut random);
        let set = mesh.set();
        for finding in together(&mesh.known(), PAIRS) {
            let changes_nothing = matches!(
                finding.code,
                Code::ShadowedRule | Code::AllowWithoutEffect | Code::DenyWithoutEffect
            );
            if !changes_nothing {
                continue;
            }
            *seen.entry(finding.code.name()).or_default() += 1;
            let id = whole_rule(&finding).unwrap();
            let less = without(&mesh, id);
            let smaller = less.set();
            let dry_run =
                mesh.policies[id.policy].dry_run && less.policies.len() == mesh.policies.len();
            for _ in 0..40 {
                let request = random_request(&mut random);
                let (before, after) = (judge(&set, &request), judge(&smaller, &request));
                // A dry run is judged by what decides, which is a bare connection for some CONNECTs.
                let same = before.decision == after.decision
                    && (!dry_run || before.shadow == after.shadow);
                assert!(
                    same,
                    "{finding:?}\n{:#?}\n{request:?}\n{before:?}\n{after:?}",
                    mesh.policies
                );
            }
        }
    }
    for code in [
        "shadowed-rule",
        "allow-without-effect",
        "deny-without-effect",
    ] {
        assert!(seen.get(code).is_some_and(|n| *n > 10), "{seen:?}");
    }
}

/// A rule that no request can match decides no request.
#[test]
fn sound_never() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut seen = 0;
    for _ in 0..3_000 {
        let mut mesh = random_mesh(&mut random);
        let mut never = single(&mesh.known())
            .into_iter()
            .filter(|f| f.code == Code::NeverMatches);
        let Some(id) = never.find_map(|f| whole_rule(&f)) else {
            continue;
        };
        seen += 1;
        let mut alone = mesh.policies[id.policy].clone();
        alone.rules = vec![alone.rules[id.rule].clone()];
        alone.dry_run = false;
        mesh.policies = vec![alone];
        let set = mesh.set();
        for _ in 0..40 {
            let (conn, request, _) = random_request(&mut random);
            let Some(request) = request else { continue };
            let verdict = decide(&set, &conn, Some(&request));
            let decided = matches!(verdict.reason, Reason::DenyRule | Reason::AllowRule);
            assert!(!decided, "{:#?}\n{conn:?}\n{request:?}", mesh.policies);
        }
    }
    assert!(seen > 50, "{seen}");
}

/// An example that two rules are said to meet in is matched by both.
#[test]
fn sound_examples() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut seen = 0;
    for _ in 0..2_000 {
        let mut mesh = random_mesh(&mut random);
        mesh.policies.truncate(1);
        mesh.policies[0].dry_run = false;
        mesh.policies[0].rules = vec![random_rule(&mut random), random_rule(&mut random)];
        let known = mesh.known();
        let work = Work::new(&known);
        let rules: Vec<&RuleForm> = (0..2)
            .filter_map(|rule| work.rule(RuleId { policy: 0, rule }))
            .collect();
        let (a, b) = (rules[0].clause(0, 0), rules[1].clause(0, 0));
        let Some(found) = example(&work, &a, &b) else {
            continue;
        };
        assert!(!a.apart(&b, false), "{:#?}\n{found}", mesh.policies);
        seen += 1;
        let (conn, request) = of_example(&found);
        for rule in 0..2 {
            let mut alone = mesh.clone();
            alone.policies[0].action = Action::Deny;
            alone.policies[0].rules = vec![mesh.policies[0].rules[rule].clone()];
            let verdict = decide(&alone.set(), &conn, Some(&request));
            assert_eq!(
                verdict.reason,
                Reason::DenyRule,
                "{:#?}\n{found}",
                alone.policies
            );
        }
    }
    assert!(seen > 100, "{seen}");
}

fn of_example(found: &Example) -> (Connection, Request) {
    let any: IpAddr = "192.0.2.7".parse().unwrap();
    let conn = Connection {
        principal: found.principal.clone(),
        peer: found.source.unwrap_or(any),
        remote: found.remote.unwrap_or(any),
        destination: found.destination.unwrap_or(any),
        port: found.port.unwrap_or(7),
        sni: found.sni.as_deref().map(Into::into),
        time: 0,
    };
    let mut target = found.path.clone();
    for (i, (name, value)) in found.query.iter().enumerate() {
        target.push_str(if i == 0 { "?" } else { "&" });
        target.push_str(&format!("{name}={value}"));
    }
    let mut headers = http::HeaderMap::new();
    for (name, value) in &found.headers {
        headers.append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    let claims = found.token.as_ref().map(|(issuer, subject)| {
        let mut map = serde_json::json!({ "iss": issuer, "sub": subject });
        for (names, value) in &found.claims {
            map[&names[0]] = serde_json::json!(value);
        }
        Claims::new(map.as_object().unwrap().clone(), Vec::new())
    });
    let request = Request {
        method: found.method.parse().unwrap(),
        host: Host::parse(found.host.as_deref().unwrap_or("any.example")).unwrap(),
        path: Some(CanonicalPath::parse(PathNormalization::MergeSlashes, &target).unwrap()),
        headers,
        claims,
        time: 0,
    };
    (conn, request)
}
