//! What holds for any policies, whoever judges them (policy semantics, section 16).

use proptest::strategy::Strategy;
use ringgate::policy::model::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use ringgate::policy::{Decision, PolicySet, custom_providers, decide};
use ringgate::vocab::resource::ResourceName;

use crate::asked::Asked;
use crate::compare::compile;
use crate::run;
use crate::world::{World, fitting, legal, rule, world};

const WORLDS: u32 = 150;
const REQUESTS: usize = 30;

/// A world and one more rule.
fn world_and_rule() -> impl Strategy<Value = (World, Rule)> {
    (world(REQUESTS), rule())
}

/// A policy that applies at the world's point.
fn applying(world: &World, action: Action, rule: &Rule) -> AuthorizationPolicy {
    legal(AuthorizationPolicy {
        name: ResourceName::new(&world.point.namespace, "a-new-one"),
        target: fitting(&world.point),
        action,
        provider: None,
        dry_run: false,
        rules: vec![rule.clone()],
    })
}

fn decision(set: &PolicySet, asked: &Asked) -> (Decision, &'static str) {
    let verdict = decide(set, &asked.conn, asked.request.as_ref());
    let denied = verdict.decision == Decision::Deny || verdict.would_deny;
    (
        if denied {
            Decision::Deny
        } else {
            Decision::Allow
        },
        verdict.reason.label(),
    )
}

fn allows(set: &PolicySet, asked: &Asked) -> bool {
    decision(set, asked).0 == Decision::Allow
}

/// Judges every question of a world by two sets; `holds` gets what each allows.
fn compare(
    world: &World,
    (before, after): (&[AuthorizationPolicy], &[AuthorizationPolicy]),
    holds: impl Fn(bool, bool) -> bool,
) -> Result<(), String> {
    let (before, after) = (compile(world, before)?, compile(world, after)?);
    for asked in &world.asked {
        let (was, is) = (allows(&before, asked), allows(&after, asked));
        if !holds(was, is) {
            return Err(format!("allowed: {was}, then {is}, asked {asked:?}"));
        }
    }
    Ok(())
}

#[test]
fn one_more_deny_never_allows_more() {
    run(2, WORLDS, &world_and_rule(), |(world, rule)| {
        let mut more = world.policies.clone();
        more.push(applying(world, Action::Deny, rule));
        compare(world, (&world.policies, &more), |was, is| was || !is)
    });
}

/// Beside an ALLOW policy that is there already: the first one brings the implicit denial.
#[test]
fn one_more_allow_beside_another_never_denies_more() {
    run(3, WORLDS, &world_and_rule(), |(world, rule)| {
        let mut some = world.policies.clone();
        let mut first = applying(world, Action::Allow, rule);
        first.rules.clear();
        first.name.name = "another".to_owned();
        some.push(first);
        let mut more = some.clone();
        more.push(applying(world, Action::Allow, rule));
        compare(world, (&some, &more), |was, is| is || !was)
    });
}

#[test]
fn order_changes_nothing() {
    run(4, WORLDS, &world(REQUESTS), |world| {
        let mut turned = world.policies.clone();
        turned.reverse();
        for rule in turned.iter_mut().flat_map(|policy| &mut policy.rules) {
            rule.from.reverse();
            rule.to.reverse();
            rule.when.reverse();
            rule.from
                .iter_mut()
                .flat_map(source_lists)
                .for_each(|l| l.reverse());
            rule.to
                .iter_mut()
                .flat_map(operation_lists)
                .for_each(|l| l.reverse());
            rule.when
                .iter_mut()
                .flat_map(condition_lists)
                .for_each(|l| l.reverse());
        }
        let before = compile(world, &world.policies)?;
        let after = compile(world, &turned)?;
        for rule in turned.iter_mut() {
            rule.rules.reverse();
        }
        let rules_turned = compile(world, &turned)?;
        for Asked { conn, request } in &world.asked {
            let request = request.as_ref();
            let (was, is) = (
                decide(&before, conn, request),
                decide(&after, conn, request),
            );
            let last = decide(&rules_turned, conn, request);
            if (was.decision, was.audit, was.shadow) != (last.decision, last.audit, last.shadow) {
                return Err(format!(
                    "{was:?}, rules turned {last:?}: {conn:?} {request:?}"
                ));
            }
            let same = (was.decision, was.audit, was.shadow, was.reason.label())
                == (is.decision, is.audit, is.shadow, is.reason.label())
                && (&was.policy, was.rule) == (&is.policy, is.rule);
            let asked = custom_providers(&before, conn, request);
            if !same || asked != custom_providers(&after, conn, request) {
                return Err(format!("{was:?}, turned {is:?}: {conn:?} {request:?}"));
            }
        }
        Ok(())
    });
}

/// On a request: what a rule with one more `not` value matches, the rule without it matches too.
#[test]
fn one_more_not_value_never_matches_more() {
    run(5, WORLDS, &world_and_rule(), |(world, rule)| {
        let mut world = world.clone();
        world.asked.retain(|asked| asked.request.is_some());
        let wide = applying(&world, Action::Allow, rule);
        let mut narrow = wide.clone();
        for source in narrow.rules.iter_mut().flat_map(|rule| &mut rule.from) {
            if source.service_accounts.is_empty() && source.not_service_accounts.is_empty() {
                source.not_principals.push("*s".to_owned());
            }
            source.not_ip_blocks.push("10.0.0.0/8".to_owned());
        }
        for operation in narrow.rules.iter_mut().flat_map(|rule| &mut rule.to) {
            operation.not_paths.push("/api/*".to_owned());
            operation.not_methods.push("POST".to_owned());
        }
        let conditions = narrow.rules.iter_mut().flat_map(|rule| &mut rule.when);
        for condition in conditions.filter(|c| c.key.starts_with("request.")) {
            condition.not_values.push("good".to_owned());
        }
        compare(&world, (&[wide], &[narrow]), |was, is| was || !is)
    });
}

/// AUDIT and dry-run policies mark and report; they decide nothing.
#[test]
fn what_is_not_enforced_decides_nothing() {
    run(6, WORLDS, &world(REQUESTS), |world| {
        let mut enforced = world.policies.clone();
        enforced.retain(|policy| !policy.dry_run && policy.action != Action::Audit);
        let (all, enforced) = (compile(world, &world.policies)?, compile(world, &enforced)?);
        for asked in &world.asked {
            let (with, without) = (decision(&all, asked), decision(&enforced, asked));
            if with != without {
                return Err(format!("{with:?}, without {without:?}: {asked:?}"));
            }
        }
        Ok(())
    });
}

/// `compat.l4Deny = "api"`: without HTTP never more is allowed than with any request, and what a DENY rule denies as a
/// request it denies as a connection.
#[test]
fn a_bare_connection_is_judged_no_less_strictly() {
    run(7, WORLDS, &world(REQUESTS), |world| {
        let mut world = world.clone();
        world.settings.ztunnel = false;
        let set = compile(&world, &world.policies)?;
        for asked in world.asked.iter().filter(|asked| asked.request.is_some()) {
            let mut bare = Asked {
                conn: asked.conn.clone(),
                request: None,
            };
            // At the same time: windows of time count for connections too.
            let time = asked.request.as_ref().map_or(0, |request| request.time);
            bare.conn.time = bare.conn.time.max(time);
            let (http, bare) = (decision(&set, asked), decision(&set, &bare));
            let denied = http.1 != "deny_rule" || bare.1 == "deny_rule";
            if !denied || (bare.0 == Decision::Allow && http.0 == Decision::Deny) {
                return Err(format!("{http:?}, bare {bare:?}: {asked:?}"));
            }
        }
        Ok(())
    });
}

fn source_lists(s: &mut Source) -> [&mut Vec<String>; 14] {
    [
        &mut s.principals,
        &mut s.not_principals,
        &mut s.request_principals,
        &mut s.not_request_principals,
        &mut s.namespaces,
        &mut s.not_namespaces,
        &mut s.service_accounts,
        &mut s.not_service_accounts,
        &mut s.trust_domains,
        &mut s.not_trust_domains,
        &mut s.ip_blocks,
        &mut s.not_ip_blocks,
        &mut s.remote_ip_blocks,
        &mut s.not_remote_ip_blocks,
    ]
}

fn operation_lists(o: &mut Operation) -> [&mut Vec<String>; 10] {
    [
        &mut o.hosts,
        &mut o.not_hosts,
        &mut o.ports,
        &mut o.not_ports,
        &mut o.methods,
        &mut o.not_methods,
        &mut o.paths,
        &mut o.not_paths,
        &mut o.path_regexes,
        &mut o.not_path_regexes,
    ]
}

fn condition_lists(c: &mut Condition) -> [&mut Vec<String>; 4] {
    [
        &mut c.values,
        &mut c.not_values,
        &mut c.regexes,
        &mut c.not_regexes,
    ]
}
