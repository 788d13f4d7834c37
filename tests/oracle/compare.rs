//! One world, judged by the engine and by the oracle.

use ringgate::policy::model::{AuthorizationPolicy, MtlsMode};
use ringgate::policy::{
    self, Decision, Judged, L4Deny, MeshPolicies, PolicySet, Scope, custom_providers, decide,
    decide_connect, decide_plaintext, decide_via_waypoint,
};
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};

use crate::asked::Asked;
use crate::naive::{Match, Opinion, Oracle, applies, mtls_mode};
use crate::tally::Tally;
use crate::world::World;

/// The identity that stands for the workload's own waypoint.
const WAYPOINT: &str = "spiffe://cluster.local/ns/edge/sa/ingress";

/// As many rules as the engine always looks at for the one that comes nearest.
const LOOKED_AT: usize = 16;

/// Compiles `policies` for the world's point.
pub(crate) fn compile(
    world: &World,
    policies: &[AuthorizationPolicy],
) -> Result<PolicySet, String> {
    let settings = &world.settings;
    let domains = settings.trust_domains.iter();
    let domains: Vec<TrustDomain> = domains.map(|td| TrustDomain::parse(td).unwrap()).collect();
    let mesh = MeshPolicies {
        policies,
        trust_domains: &domains,
        scope: scope(world),
        dry_run: settings.dry_run,
        l4_deny: if settings.ztunnel {
            L4Deny::Ztunnel
        } else {
            L4Deny::Api
        },
    };
    policy::compile(&mesh, &world.point).map_err(|problems| format!("refused: {problems:?}"))
}

fn scope(world: &World) -> Scope<'_> {
    Scope {
        root_namespace: &world.settings.root_namespace,
        gateway_name_selector: world.settings.gateway_name_selector,
        gateway_selectors: world.settings.gateway_selectors,
    }
}

/// Compares every answer about a world.
pub(crate) fn agree(world: &World, tally: &Tally) -> Result<(), String> {
    let set = compile(world, &world.policies)?;
    for policy in &world.policies {
        let settings = &world.settings;
        let engine = policy::attaches(
            &policy.target,
            &policy.name.namespace,
            &world.point,
            scope(world),
        );
        let oracle = applies(
            &policy.target,
            &policy.name.namespace,
            &world.point,
            settings,
        );
        same("policy attaches", &engine, &oracle)?;
    }
    for asked in &world.asked {
        ask(world, &set, asked, tally).map_err(|why| format!("{why}, asked {asked:?}"))?;
    }
    Ok(())
}

fn ask(world: &World, set: &PolicySet, asked: &Asked, tally: &Tally) -> Result<(), String> {
    tally.outcome("cases");
    plaintext(world, asked, tally)?;
    let conn = &asked.conn;
    let request = asked.request.as_ref();
    let oracle = Oracle {
        settings: &world.settings,
        conn,
        request,
        tally,
    };
    let opinion = oracle.opinion(&world.policies, &world.point);
    let default = world.point.default == Decision::Allow;

    let asks = custom_providers(set, conn, request);
    same(
        "providers",
        &asks,
        &opinion.providers.iter().collect::<Vec<_>>(),
    )?;
    if !asks.is_empty() {
        tally.outcome("a provider is asked");
    }
    let verdict = decide(set, conn, request);
    count(&verdict, request.is_none(), tally);
    same("allowed", &allows(&verdict), &opinion.allowed(default))?;
    judged(world, &verdict, &opinion)?;

    let waypoint = SpiffeId::parse(WAYPOINT).unwrap();
    if conn.principal.as_ref() == Some(&waypoint) {
        tally.outcome("via the waypoint");
        let verdict = decide_via_waypoint(set, conn, request, &waypoint);
        same("via waypoint", &allows(&verdict), &opinion.deny.is_empty())?;
        judged(world, &verdict, &opinion)?;
    }
    match request {
        Some(request) if request.path.is_none() => {
            tally.outcome("CONNECT");
            let bare = Oracle {
                request: None,
                ..oracle
            };
            let bare = bare.opinion(&world.policies, &world.point);
            let verdict = decide_connect(set, conn, request);
            let want = bare.deny.is_empty() && opinion.allowed(default);
            same("CONNECT", &allows(&verdict), &want)
        }
        _ => Ok(()),
    }
}

/// Whether the rule that a denial names falls short by least, the first of several. Among many rules the
/// engine looks at some of them alone.
fn nearest(judged: &Judged, named: Option<Match>, opinion: &Opinion) -> bool {
    let rules = &opinion.allow_rules;
    let best = rules.iter().min_by_key(|(_, failing)| **failing);
    match named {
        None => {
            let first = opinion.allow_policies.first();
            rules.is_empty() && judged.policy.as_deref() == first
        }
        Some(named) if rules.len() > LOOKED_AT => rules.contains_key(&named),
        Some(named) => best.is_some_and(|(rule, _)| *rule == named),
    }
}

/// Peer authentication: the mode of the port, and what it does to plaintext.
fn plaintext(world: &World, asked: &Asked, tally: &Tally) -> Result<(), String> {
    let (settings, point) = (&world.settings, &world.point);
    let port = asked.conn.port;
    let engine = policy::mtls_mode(
        &world.peers,
        &settings.root_namespace,
        &point.namespace,
        &point.labels,
        port,
    );
    let oracle = mtls_mode(&world.peers, settings, point, port);
    same("mTLS mode", &engine, &oracle)?;
    let closed = oracle == MtlsMode::Strict && asked.conn.principal.is_none();
    if closed {
        tally.outcome("closed by STRICT");
    }
    let denied = decide_plaintext(engine, &asked.conn).is_some();
    same("plaintext is closed", &denied, &closed)
}

/// Whether it would be allowed if the mesh were not in dry run.
fn allows(judged: &Judged) -> bool {
    judged.decision == Decision::Allow && !judged.would_deny
}

/// Marks, dry-run results, and that the policy and rule which are named are ones that decide.
fn judged(world: &World, judged: &Judged, opinion: &Opinion) -> Result<(), String> {
    same("audit", &judged.audit, &opinion.audit)?;
    let denied = !allows(judged);
    let dry = world.settings.dry_run;
    same("would be denied", &judged.would_deny, &(denied && dry))?;
    same(
        "is denied",
        &(judged.decision == Decision::Deny),
        &(denied && !dry),
    )?;
    let denied = judged.shadow.deny.map(|d| d == Decision::Deny);
    let allowed = judged.shadow.allow.map(|d| d == Decision::Allow);
    same("dry-run DENY", &denied, &opinion.shadow_deny)?;
    same("dry-run ALLOW", &allowed, &opinion.shadow_allow)?;
    let named = judged
        .policy
        .as_ref()
        .zip(judged.rule)
        .map(|(policy, rule)| Match {
            policy: (**policy).clone(),
            rule,
        });
    let truthful = match judged.reason.label() {
        "deny_rule" => named.is_some() && named.as_ref() == opinion.deny.first(),
        "allow_rule" => {
            opinion.deny.is_empty() && named.is_some() && named.as_ref() == opinion.allow.first()
        }
        "no_policy" | "no_policy_default_deny" => {
            opinion.deny.is_empty() && opinion.allow_policies.is_empty() && judged.policy.is_none()
        }
        "via_waypoint" => opinion.deny.is_empty(),
        "no_rule_matched" => {
            opinion.deny.is_empty() && opinion.allow.is_empty() && nearest(judged, named, opinion)
        }
        _ => false,
    };
    if truthful {
        Ok(())
    } else {
        Err(format!(
            "the reason is not true: {judged:?}, oracle {opinion:?}"
        ))
    }
}

fn count(judged: &Judged, bare: bool, tally: &Tally) {
    let by = match judged.reason.label() {
        "deny_rule" => "denied by a DENY rule",
        "allow_rule" => "allowed by an ALLOW rule",
        "no_rule_matched" => "denied by no ALLOW rule",
        _ => "no ALLOW policy",
    };
    let marks = [
        (true, by),
        (allows(judged), "allowed"),
        (!allows(judged), "denied"),
        (bare, "bare connection"),
        (judged.audit, "audit"),
        (judged.would_deny, "dry run of the mesh: would be denied"),
        (
            judged.shadow.deny == Some(Decision::Deny),
            "dry-run DENY matched",
        ),
        (
            judged.shadow.allow == Some(Decision::Allow),
            "dry-run ALLOW matched",
        ),
    ];
    for (_, outcome) in marks.into_iter().filter(|(is, _)| *is) {
        tally.outcome(outcome);
    }
}

fn same<E, O>(what: &str, engine: &E, oracle: &O) -> Result<(), String>
where
    E: PartialEq<O> + std::fmt::Debug,
    O: std::fmt::Debug,
{
    if engine == oracle {
        Ok(())
    } else {
        Err(format!("{what}: engine {engine:?}, oracle {oracle:?}"))
    }
}
