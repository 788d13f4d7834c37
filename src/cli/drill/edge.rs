//! Step 7: the end user at the ingress.

use super::report::Step;
use super::steps::{Attempt, attempt, is_allowance, is_denial};
use super::token::{Flaw, SUBJECT, mint};
use crate::cli::curl::Caller;
use crate::cli::material::{PORTAL, USER_ISSUER};
use crate::cli::target::{Target, field};

const PATH: &str = "/api/v1/users/7";

/// Valid token 200; flawed tokens 401; none, where policy demands a request principal, 403.
pub(super) fn end_user(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let tried = call(target, &[], Some(&mint(&target.user_key, Flaw::None)?))?;
    step.check(
        "valid token",
        "200 and the user",
        format!("{}; {} hits", tried.answer.seen(), tried.hits),
        tried.answer.status == 200 && tried.answer.body.contains("Ada") && tried.hits == 1,
    );
    let user = format!("{USER_ISSUER}/{SUBJECT}");
    for role in ["ingress", "waypoint"] {
        let found = target.records.await_some(&tried.mark, 1, |record| {
            is_allowance(record)
                && field(record, "/role") == role
                && field(record, "/user/principal") == user
        });
        step.check(
            format!("the {role}'s record"),
            format!("allowed, end user {user}"),
            if found.is_empty() {
                "none"
            } else {
                "names the end user"
            },
            !found.is_empty(),
        );
    }
    for (name, flaw) in [
        ("expired token", Flaw::Expired),
        ("wrong issuer", Flaw::Issuer),
        ("wrong key", Flaw::Key),
        ("alg none", Flaw::AlgNone),
    ] {
        let tried = call(target, &[], Some(&mint(&target.user_key, flaw)?))?;
        refused(target, step, name, &tried, 401);
    }
    let tried = call(target, &[], None)?;
    refused(target, step, "no token", &tried, 403);
    let good = mint(&target.user_key, Flaw::None)?;
    let tried = call(target, &["--request", "DELETE"], Some(&good))?;
    refused(
        target,
        step,
        "valid token, method that policy does not allow",
        &tried,
        403,
    );
    Ok(())
}

fn call(target: &Target, args: &[&str], token: Option<&str>) -> anyhow::Result<Attempt> {
    let mut caller: Caller = target.outsider.with(&[
        "--cacert",
        &target.edge_ca.to_string_lossy(),
        "--resolve",
        &format!("{PORTAL}:8443:{}", target.ingress),
    ]);
    if let Some(token) = token {
        caller = caller.with(&["-H", &format!("Authorization: Bearer {token}")]);
    }
    attempt(
        target,
        &caller.with(args),
        &format!("https://{PORTAL}:8443{PATH}"),
    )
}

fn refused(target: &Target, step: &mut Step, name: &str, tried: &Attempt, status: u16) {
    let found = target.records.await_some(&tried.mark, 1, |record| {
        is_denial(record) && field(record, "/role") == "ingress"
    });
    let reason = found
        .first()
        .map_or("no denial recorded", |record| field(record, "/reason"));
    step.check(
        name,
        format!("{status}, the app not reached, a denial recorded with its reason"),
        format!("{}; {} hits; {reason}", tried.answer.seen(), tried.hits),
        tried.answer.status == status && tried.hits == 0 && !found.is_empty(),
    );
}
