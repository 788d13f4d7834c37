//! The evaluator: policies and facts to what must come out, word for word by the policy semantics and as slow as it
//! likes. It shares the model and the facts with the engine, and no code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringgate::policy::model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, Rule, Source,
    Target, TargetKind, TargetRef,
};
use ringgate::policy::{Connection, Point, PointKind, Request, ServiceKind};
use ringgate::vocab::resource::ResourceName;

use crate::tally::Tally;
use crate::values::{
    in_block, in_window, namespace_and_account, principal_values, query, regex, request_principal,
    template, text, trust_domain_values,
};

/// The mesh settings that policies are read by.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Own trust domain first.
    pub(crate) trust_domains: Vec<String>,
    pub(crate) root_namespace: String,
    pub(crate) gateway_name_selector: bool,
    /// `compat.gatewaySelectors`.
    pub(crate) gateway_selectors: bool,
    /// `compat.l4Deny = "ztunnel"`.
    pub(crate) ztunnel: bool,
    /// `dangerous_dryRun` of the mesh.
    pub(crate) dry_run: bool,
}

/// A rule of a policy, in the order in which a verdict names one of several: of policies by name, then of rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Match {
    pub(crate) policy: ResourceName,
    pub(crate) rule: usize,
}

/// What must come out.
#[derive(Debug, Default)]
pub(crate) struct Opinion {
    /// Every rule that matches of the enforced policies of these actions.
    pub(crate) deny: BTreeSet<Match>,
    pub(crate) allow: BTreeSet<Match>,
    /// Names of the ALLOW policies that are enforced here.
    pub(crate) allow_policies: BTreeSet<ResourceName>,
    /// Their rules, each with twice the number of its fields that fail; a token that is missing is one, whatever asks for it.
    pub(crate) allow_rules: BTreeMap<Match, usize>,
    pub(crate) audit: bool,
    pub(crate) providers: BTreeSet<String>,
    /// Whether a dry-run DENY matched; `None` if there is none.
    pub(crate) shadow_deny: Option<bool>,
    /// Whether a dry-run ALLOW matched; `None` if there is none.
    pub(crate) shadow_allow: Option<bool>,
}

impl Opinion {
    /// Section 1: DENY, then ALLOW, then what holds without an ALLOW policy.
    pub(crate) fn allowed(&self, default: bool) -> bool {
        self.deny.is_empty()
            && if self.allow_policies.is_empty() {
                default
            } else {
                !self.allow.is_empty()
            }
    }
}

/// Whether one value matches.
type Compare<'t> = Box<dyn Fn(&str) -> bool + 't>;

/// One field that is present: whether it needs HTTP, whether it is one of the token, and whether it holds.
struct Field {
    http: bool,
    token: bool,
    holds: bool,
}

/// The fields of one source, operation or condition.
struct Clause<'a> {
    tally: &'a Tally,
    fields: Vec<Field>,
    /// It is a condition on the token.
    token: bool,
}

impl Clause<'_> {
    /// A field and its `not` twin, each unless absent (section 2.1).
    fn pair(
        &mut self,
        name: &'static str,
        http: bool,
        (values, not_values): (&[String], &[String]),
        matches: impl Fn(&str) -> bool,
    ) {
        for (values, not) in [(values, false), (not_values, true)] {
            if !values.is_empty() {
                let holds = values.iter().any(|v| matches(v)) != not;
                self.tally.field(name, not, holds);
                let token = self.token || name == "requestPrincipals";
                self.fields.push(Field { http, token, holds });
            }
        }
    }
}

/// One question: the facts, and how they are judged.
pub(crate) struct Oracle<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) conn: &'a Connection,
    /// `None` on a bare connection.
    pub(crate) request: Option<&'a Request>,
    pub(crate) tally: &'a Tally,
}

impl Oracle<'_> {
    /// Judges by the policies that apply at `point`.
    pub(crate) fn opinion(&self, policies: &[AuthorizationPolicy], point: &Point) -> Opinion {
        let mut out = Opinion::default();
        for policy in policies {
            if !applies(&policy.target, &policy.name.namespace, point, self.settings) {
                continue;
            }
            let named = |rule| Match {
                policy: policy.name.clone(),
                rule,
            };
            let rules = policy.rules.iter().enumerate();
            let rules: Vec<_> = rules
                .map(|(at, rule)| (named(at), self.rule(policy, rule)))
                .collect();
            let matching = rules.iter().filter(|(_, failing)| *failing == 0);
            let found: BTreeSet<Match> = matching.map(|(rule, _)| rule.clone()).collect();
            match (policy.action, policy.dry_run) {
                (Action::Deny, false) => out.deny.extend(found),
                (Action::Allow, false) => {
                    out.allow_policies.insert(policy.name.clone());
                    out.allow.extend(found);
                    out.allow_rules.extend(rules);
                }
                (Action::Deny, true) => *out.shadow_deny.get_or_insert(false) |= !found.is_empty(),
                (Action::Allow, true) => {
                    *out.shadow_allow.get_or_insert(false) |= !found.is_empty();
                }
                (Action::Audit, _) => out.audit |= !found.is_empty(),
                (Action::Custom, _) if !found.is_empty() => {
                    out.providers.extend(policy.provider.clone());
                }
                (Action::Custom, _) => {}
            }
        }
        out
    }

    fn clause(&self) -> Clause<'_> {
        Clause {
            tally: self.tally,
            fields: Vec::new(),
            token: false,
        }
    }

    /// By how much it fails at least, nothing if the rule matches (sections 2.1 and 5).
    fn rule(&self, policy: &AuthorizationPolicy, rule: &Rule) -> usize {
        let namespace = &policy.name.namespace;
        let every = policy.action == Action::Allow;
        let from: Vec<Clause<'_>> = rule
            .from
            .iter()
            .map(|s| self.source(s, namespace))
            .collect();
        let to: Vec<Clause<'_>> = rule.to.iter().map(|o| self.operation(o)).collect();
        let when: Vec<Clause<'_>> = rule
            .when
            .iter()
            .map(|c| self.condition(c, namespace, every))
            .collect();
        let bare = self.request.is_none();
        let mut all = from.iter().chain(&to).chain(&when).flat_map(|c| &c.fields);
        if bare && policy.action == Action::Allow && all.any(|f| f.http) {
            return usize::MAX;
        }
        let no_effect = bare && policy.action == Action::Deny && self.settings.ztunnel;
        let anonymous = self.request.is_some_and(|r| r.claims.is_none());
        // Failing fields that want no token, and whether some other one fails for there is none.
        let failing = |clause: &Clause<'_>| {
            if no_effect && clause.fields.iter().all(|f| f.http) {
                return (usize::MAX, false);
            }
            let holds = |f: &Field| f.holds || (bare && f.http);
            let failing: Vec<&Field> = clause.fields.iter().filter(|f| !holds(f)).collect();
            let of_token = failing.iter().filter(|f| f.token && anonymous).count();
            (failing.len() - of_token, of_token > 0)
        };
        let ways = |clauses: &[Clause<'_>]| match clauses {
            [] => vec![(0, false)],
            some => some.iter().map(failing).collect::<Vec<_>>(),
        };
        let mut least = usize::MAX;
        for from in ways(&from) {
            for to in ways(&to) {
                let all = [from, to].into_iter().chain(when.iter().map(failing));
                let all = all.fold((0, false), |(n, token): (usize, bool), one| {
                    (n.saturating_add(one.0), token || one.1)
                });
                let short = all.0.saturating_mul(2).saturating_add(usize::from(all.1));
                least = least.min(short);
            }
        }
        least
    }

    /// Section 2.3.
    fn source(&self, s: &Source, namespace: &str) -> Clause<'_> {
        let mut c = self.clause();
        let ztunnel = self.settings.ztunnel;
        let remote = (&*s.remote_ip_blocks, &*s.not_remote_ip_blocks);
        c.pair(
            "principals",
            false,
            (&s.principals, &s.not_principals),
            |v| self.principal(v),
        );
        c.pair(
            "namespaces",
            false,
            (&s.namespaces, &s.not_namespaces),
            |v| self.namespace(v),
        );
        c.pair(
            "serviceAccounts",
            false,
            (&s.service_accounts, &s.not_service_accounts),
            |v| self.account(v, namespace),
        );
        c.pair(
            "trustDomains",
            false,
            (&s.trust_domains, &s.not_trust_domains),
            |v| self.trust_domain(v),
        );
        c.pair("ipBlocks", false, (&s.ip_blocks, &s.not_ip_blocks), |v| {
            in_block(v, self.conn.peer)
        });
        c.pair("remoteIpBlocks", ztunnel, remote, |v| {
            in_block(v, self.conn.remote)
        });
        c.pair(
            "requestPrincipals",
            true,
            (&s.request_principals, &s.not_request_principals),
            |v| self.request_principal(v),
        );
        c
    }

    /// Sections 2.4, 2.5 and 14.1.
    fn operation(&self, o: &Operation) -> Clause<'_> {
        let mut c = self.clause();
        let path = |r: &Request| r.path.as_ref().map(|p| p.path().to_owned());
        let path = self.request.and_then(path);
        c.pair("hosts", true, (&o.hosts, &o.not_hosts), |v| self.host(v));
        c.pair("ports", false, (&o.ports, &o.not_ports), |v| {
            v.parse() == Ok(self.conn.port)
        });
        c.pair("methods", true, (&o.methods, &o.not_methods), |v| {
            self.request
                .is_some_and(|r| text(v, r.method.as_str().as_bytes(), false))
        });
        c.pair("paths", true, (&o.paths, &o.not_paths), |v| {
            path.as_ref().is_some_and(|p| {
                if v.contains('{') {
                    template(v.as_bytes(), p.as_bytes())
                } else {
                    text(v, p.as_bytes(), false)
                }
            })
        });
        c.pair(
            "pathRegexes",
            true,
            (&o.path_regexes, &o.not_path_regexes),
            |v| path.as_ref().is_some_and(|p| regex(v, p.as_bytes())),
        );
        c
    }

    /// Sections 2.6 and 14.1; `every` occurrence of a query parameter must hold in an ALLOW policy.
    fn condition(&self, when: &Condition, namespace: &str, every: bool) -> Clause<'_> {
        let mut c = self.clause();
        let (name, inner) = split_key(&when.key);
        c.token = name.starts_with("request.auth.");
        let ztunnel = self.settings.ztunnel;
        if name == "request.query" {
            let holds = self.query(when, inner, every);
            self.tally.field("when request.query", false, holds);
            let token = false;
            c.fields.push(Field {
                http: true,
                token,
                holds,
            });
            return c;
        }
        let texts = self.texts(name, inner);
        let http = name.starts_with("request.")
            || (ztunnel
                && matches!(
                    name,
                    "remote.ip" | "connection.sni" | "source.serviceAccount" | "source.trustDomain"
                ));
        let (field, matches) = self.compared(name, inner, namespace, &texts);
        c.pair(field, http, (&when.values, &when.not_values), matches);
        c.pair(
            "when regexes",
            http,
            (&when.regexes, &when.not_regexes),
            |v| texts.iter().any(|t| regex(v, t)),
        );
        c
    }

    /// How a value of a condition is compared, and what the field is called in the tally.
    fn compared<'t>(
        &'t self,
        name: &str,
        inner: &str,
        namespace: &'t str,
        texts: &'t [Vec<u8>],
    ) -> (&'static str, Compare<'t>) {
        let plain = |v: &str| texts.iter().any(|t| text(v, t, false));
        let present = |v: &str| texts.iter().any(|t| text(v, t, true));
        let block = |ip: IpAddr| Box::new(move |v: &str| in_block(v, ip));
        let conn = self.conn;
        match (name, inner) {
            ("source.ip", _) => ("when source.ip", block(conn.peer)),
            ("remote.ip", _) => ("when remote.ip", block(conn.remote)),
            ("destination.ip", _) => ("when destination.ip", block(conn.destination)),
            ("destination.port", _) => (
                "when destination.port",
                Box::new(|v| v.parse() == Ok(conn.port)),
            ),
            ("time", _) => ("when time", Box::new(|v| in_window(v, self.time()))),
            ("source.namespace", _) => ("when source.namespace", Box::new(plain)),
            ("source.principal", _) => ("when source.principal", Box::new(|v| self.principal(v))),
            ("source.serviceAccount", _) => (
                "when source.serviceAccount",
                Box::new(|v| self.account(v, namespace)),
            ),
            ("source.trustDomain", _) => (
                "when source.trustDomain",
                Box::new(|v| self.trust_domain(v)),
            ),
            ("connection.sni", _) => (
                "when connection.sni",
                Box::new(move |v| plain(&v.to_ascii_lowercase())),
            ),
            ("request.auth.principal", _) => (
                "when request.auth.principal",
                Box::new(|v| self.request_principal(v)),
            ),
            ("request.auth.audiences", _) => ("when request.auth.audiences", Box::new(plain)),
            ("request.auth.presenter", _) => ("when request.auth.presenter", Box::new(plain)),
            ("request.auth.claims", _) => ("when request.auth.claims", Box::new(plain)),
            ("request.headers", ":authority") => (
                "when request.headers[:authority]",
                Box::new(|v| self.host(v)),
            ),
            ("request.headers", ":path") => ("when request.headers[:path]", Box::new(present)),
            ("request.headers", _) => ("when request.headers", Box::new(present)),
            (unknown, _) => panic!("no key {unknown}"),
        }
    }

    /// When the request came; an open exchange that is judged again has a later time in its connection.
    fn time(&self) -> i64 {
        let request = self.request.map_or(self.conn.time, |r| r.time);
        request.max(self.conn.time)
    }

    fn query(&self, c: &Condition, name: &str, every: bool) -> bool {
        let path = self.request.and_then(|r| r.path.as_ref());
        let pairs = query(path.and_then(|p| p.query()).unwrap_or_default());
        let occurrences: Vec<_> = pairs
            .into_iter()
            .filter(|(n, _)| n == name.as_bytes())
            .collect();
        let one = |value: &[u8]| {
            (c.values.is_empty() || c.values.iter().any(|v| text(v, value, true)))
                && !c.not_values.iter().any(|v| text(v, value, true))
                && (c.regexes.is_empty() || c.regexes.iter().any(|r| regex(r, value)))
                && !c.not_regexes.iter().any(|r| regex(r, value))
        };
        if occurrences.is_empty() {
            c.values.is_empty() && c.regexes.is_empty()
        } else if every {
            occurrences.iter().all(|(_, v)| one(v))
        } else {
            occurrences.iter().any(|(_, v)| one(v))
        }
    }

    /// The string values of a condition's attribute.
    fn texts(&self, name: &str, inner: &str) -> Vec<Vec<u8>> {
        let own = |text: &str| vec![text.as_bytes().to_owned()];
        let id = self.conn.principal.as_ref().map(|id| id.principal());
        let account = id.and_then(namespace_and_account);
        let request = self.request;
        let path = request.and_then(|r| r.path.as_ref());
        let found = match (name, inner) {
            ("source.principal", _) => id.map(own),
            ("source.namespace", _) => account.map(|(ns, _)| own(ns)),
            ("source.serviceAccount", _) => account.map(|(ns, sa)| own(&format!("{ns}/{sa}"))),
            ("source.trustDomain", _) => id.and_then(|id| id.split('/').next()).map(own),
            ("connection.sni", _) => self.conn.sni.as_deref().map(own),
            ("request.headers", ":path") => path.map(|p| own(p.as_str())),
            ("request.headers", ":method") => request.map(|r| own(r.method.as_str())),
            ("request.headers", ":authority") => request.map(|r| own(r.host.as_str())),
            ("request.headers", header) => request.map(|r| {
                let named = r
                    .headers
                    .iter()
                    .filter(|(n, _)| n.as_str().eq_ignore_ascii_case(header));
                named.map(|(_, v)| trimmed(v.as_bytes())).collect()
            }),
            ("request.auth.principal", _) => self
                .issuer_and_subject()
                .map(|(iss, sub)| own(&format!("{iss}/{sub}"))),
            ("request.auth.audiences", _) => Some(self.claim("aud")),
            ("request.auth.presenter", _) => Some(self.claim("azp")),
            ("request.auth.claims", names) => Some(self.claim(names)),
            _ => None,
        };
        found.unwrap_or_default()
    }

    /// Section 2.7; `names` is `a`, or `a][b][c` for a nested claim.
    fn claim(&self, names: &str) -> Vec<Vec<u8>> {
        let Some(claims) = self.request.and_then(|r| r.claims.as_ref()) else {
            return Vec::new();
        };
        let mut value = serde_json::Value::Object(claims.map().clone());
        for name in names.split("][") {
            value = value.get(name).cloned().unwrap_or_default();
        }
        let split = !names.contains("][") && claims.is_space_delimited(names);
        let texts: Vec<&str> = match &value {
            serde_json::Value::String(s) if split => s.split_whitespace().collect(),
            serde_json::Value::String(s) => vec![s],
            serde_json::Value::Array(list) => list.iter().filter_map(|v| v.as_str()).collect(),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Object(_) => Vec::new(),
        };
        texts.iter().map(|t| t.as_bytes().to_owned()).collect()
    }

    fn issuer_and_subject(&self) -> Option<(String, String)> {
        let claims = self.request?.claims.as_ref()?.map();
        let text = |name: &str| claims.get(name)?.as_str().filter(|s| !s.is_empty());
        Some((text("iss")?.to_owned(), text("sub")?.to_owned()))
    }

    fn id(&self) -> Option<&str> {
        self.conn.principal.as_ref().map(|id| id.principal())
    }

    fn principal(&self, value: &str) -> bool {
        let expanded = principal_values(value, &self.settings.trust_domains);
        self.id()
            .is_some_and(|id| expanded.iter().any(|v| text(v, id.as_bytes(), false)))
    }

    fn namespace(&self, value: &str) -> bool {
        let namespace = self.id().and_then(namespace_and_account);
        namespace.is_some_and(|(ns, _)| text(value, ns.as_bytes(), false))
    }

    fn account(&self, value: &str, policy_namespace: &str) -> bool {
        let (namespace, account) = value.split_once('/').unwrap_or((policy_namespace, value));
        self.id().and_then(namespace_and_account) == Some((namespace, account))
    }

    fn trust_domain(&self, value: &str) -> bool {
        let own = self.id().and_then(|id| id.split('/').next());
        let meant = trust_domain_values(value, &self.settings.trust_domains);
        own.is_some_and(|td| meant.iter().any(|v| text(v, td.as_bytes(), false)))
    }

    fn request_principal(&self, value: &str) -> bool {
        self.issuer_and_subject()
            .is_some_and(|(iss, sub)| request_principal(value, &iss, &sub))
    }

    /// Section 2.4: without case, one trailing dot of the name ignored, the port kept.
    fn host(&self, value: &str) -> bool {
        let folded = value.to_ascii_lowercase();
        let folded = match folded.split_once(':') {
            Some((name, port)) => format!("{}:{port}", name.strip_suffix('.').unwrap_or(name)),
            None => folded.strip_suffix('.').unwrap_or(&folded).to_owned(),
        };
        self.request
            .is_some_and(|r| text(&folded, r.host.as_str().as_bytes(), false))
    }
}

/// `request.headers[x]` to its two parts, the name of a header in lower case.
fn split_key(key: &str) -> (&str, &str) {
    let (name, rest) = key.split_once('[').unwrap_or((key, ""));
    (name, rest.strip_suffix(']').unwrap_or(rest))
}

/// Section 2.6: values are trimmed of spaces and tabs.
fn trimmed(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_owned();
    while value.last().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        value.pop();
    }
    while value.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        value.remove(0);
    }
    value
}

/// Section 4.
pub(crate) fn applies(target: &Target, namespace: &str, at: &Point, settings: &Settings) -> bool {
    let near = namespace == at.namespace || namespace == settings.root_namespace;
    let selectors = at.kind != PointKind::Waypoint;
    match target {
        Target::Namespace => selectors && near,
        Target::Refs(refs) => refs.iter().any(|r| refers(r, namespace, at, settings)),
        Target::Selector(labels) => {
            let only = (labels.len() == 1).then(|| labels.get("istio.io/gateway-name"));
            match only.flatten() {
                Some(name) if settings.gateway_name_selector && at.gateway.is_some() => {
                    let gateway = TargetRef {
                        kind: TargetKind::Gateway,
                        name: name.clone(),
                    };
                    refers(&gateway, namespace, at, settings)
                }
                _ => {
                    let here = at.kind == PointKind::Workload || settings.gateway_selectors;
                    selectors && here && near && carries(&at.labels, labels)
                }
            }
        }
    }
}

fn carries(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn refers(target: &TargetRef, namespace: &str, at: &Point, settings: &Settings) -> bool {
    let serves = |kind: ServiceKind| {
        matches!(at.kind, PointKind::Waypoint | PointKind::Egress)
            && at
                .services
                .contains(&(kind, ResourceName::new(namespace, &target.name)))
    };
    match target.kind {
        TargetKind::Gateway => {
            at.kind != PointKind::Workload
                && namespace == at.namespace
                && at.gateway.as_ref() == Some(&target.name)
        }
        TargetKind::GatewayClass => {
            let class = match at.kind {
                PointKind::Workload => "",
                PointKind::Gateway => "ringgate-ingress",
                PointKind::Waypoint => "istio-waypoint",
                PointKind::Egress => "ringgate-egress",
            };
            namespace == settings.root_namespace && target.name == class
        }
        TargetKind::ServiceAccount => at
            .accounts
            .contains(&ResourceName::new(namespace, &target.name)),
        TargetKind::Service => serves(ServiceKind::Service),
        TargetKind::ServiceEntry => serves(ServiceKind::ServiceEntry),
    }
}

/// Section 6.
pub(crate) fn mtls_mode(
    policies: &[PeerAuthentication],
    settings: &Settings,
    at: &Point,
    port: u16,
) -> MtlsMode {
    let root = &settings.root_namespace;
    let selects = |p: &PeerAuthentication| match &p.selector {
        Some(labels) if !labels.is_empty() => Some(carries(&at.labels, labels)),
        _ => None,
    };
    let mut mode = MtlsMode::Permissive;
    let mut of_port = MtlsMode::Unset;
    let scopes: [&dyn Fn(&PeerAuthentication) -> bool; 3] = [
        &|p| p.name.namespace == *root && selects(p).is_none(),
        &|p| p.name.namespace == at.namespace && selects(p).is_none(),
        &|p| p.name.namespace == at.namespace && at.namespace != *root && selects(p) == Some(true),
    ];
    for (scope, in_scope) in scopes.iter().enumerate() {
        let Some(policy) = policies.iter().find(|p| in_scope(p)) else {
            continue;
        };
        if policy.mode != MtlsMode::Unset {
            mode = policy.mode;
        }
        if scope == 2 {
            of_port = policy.ports.get(&port).copied().unwrap_or_default();
        }
    }
    if of_port == MtlsMode::Unset {
        mode
    } else {
        of_port
    }
}
