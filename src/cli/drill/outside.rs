//! Step 8: egress. Through the node (plain `http://` that the gateway turns into TLS) and through the gateway's
//! explicit forward proxy with the workload's own certificate.

use serde_json::Value;

use super::report::Step;
use super::steps::{is_allowance, is_denial};
use crate::cli::curl::{Answer, Caller};
use crate::cli::material::PARTNER;
use crate::cli::target::{Mark, Target, field, is_from};

const RATES: &str = "/v1/rates?currency=eur";
const FRONTEND: &str = "frontend-service";
const REVIEWS: &str = "reviews-service";

struct Call {
    name: &'static str,
    account: &'static str,
    caller: Caller,
    url: String,
}

/// frontend-service may `GET` the partner's rates in euro and nothing else; reviews-service nothing.
pub(super) fn egress(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    for (name, caller) in [
        ("through the node", target.frontend.clone()),
        (
            "through the forward proxy",
            proxy(target, &target.frontend_host, FRONTEND),
        ),
    ] {
        let (answer, hits, mark) = attempt(target, &caller, &partner(RATES))?;
        let found = target.records.await_some(&mark, 1, |record| {
            is_allowance(record) && field(record, "/role") == "egress" && is_from(record, FRONTEND)
        });
        step.check(
            format!("GET {RATES} as frontend-service {name}"),
            "200 from the partner, which speaks TLS only; the call in the audit log",
            format!("{}; {hits} hits; {}", answer.seen(), told(&found)),
            answer.status == 200
                && answer.body.contains("\"transport\":\"tls\"")
                && hits == 1
                && !found.is_empty(),
        );
    }
    for call in forbidden(target) {
        let (answer, hits, mark) = attempt(target, &call.caller, &call.url)?;
        let found = target.records.await_some(&mark, 1, |record| {
            let outward =
                field(record, "/role") == "egress" || field(record, "/kind") == "outbound";
            outward && is_denial(record) && is_from(record, call.account)
        });
        step.check(
            call.name,
            "denied, the partner not reached, the denial in the audit log with its reason",
            format!("{}; {hits} hits; {}", answer.seen(), told(&found)),
            (answer.status == 403 || answer.exit != 0 && answer.status == 0)
                && hits == 0
                && !found.is_empty(),
        );
    }
    Ok(())
}

fn forbidden(target: &Target) -> Vec<Call> {
    let mut calls = through_node(target);
    calls.extend(through_gateway(target));
    calls
}

fn call(name: &'static str, account: &'static str, caller: Caller, url: String) -> Call {
    Call {
        name,
        account,
        caller,
        url,
    }
}

fn through_node(target: &Target) -> Vec<Call> {
    let node = &target.frontend;
    vec![
        call(
            "other path",
            FRONTEND,
            node.clone(),
            partner("/v1/accounts?currency=eur"),
        ),
        call(
            "other method",
            FRONTEND,
            node.with(&["--request", "POST"]),
            partner(RATES),
        ),
        call(
            "other query value",
            FRONTEND,
            node.clone(),
            partner("/v1/rates?currency=usd"),
        ),
        call(
            "second query value",
            FRONTEND,
            node.clone(),
            partner("/v1/rates?currency=eur&currency=usd"),
        ),
        call("no query", FRONTEND, node.clone(), partner("/v1/rates")),
        call(
            "path that is written another way",
            FRONTEND,
            node.with(&["--path-as-is"]),
            partner("/v1/rates/../accounts?currency=eur"),
        ),
        call("other host", FRONTEND, node.clone(), other()),
        call(
            "other caller",
            REVIEWS,
            target.reviews.clone(),
            partner(RATES),
        ),
    ]
}

fn through_gateway(target: &Target) -> Vec<Call> {
    let gateway = proxy(target, &target.frontend_host, FRONTEND);
    vec![
        call(
            "other path, forward proxy",
            FRONTEND,
            gateway.clone(),
            partner("/v1/accounts?currency=eur"),
        ),
        call(
            "other host, forward proxy",
            FRONTEND,
            gateway.clone(),
            other(),
        ),
        call(
            "tunnel that would hide the path, forward proxy",
            FRONTEND,
            gateway.with(&["--proxytunnel"]),
            partner(RATES),
        ),
        call(
            "other caller, forward proxy",
            REVIEWS,
            proxy(target, &target.attacker, REVIEWS),
            partner(RATES),
        ),
    ]
}

fn other() -> String {
    format!("http://other.example.test{RATES}")
}

fn partner(path: &str) -> String {
    format!("http://{PARTNER}{path}")
}

/// The caller with the identity files of `workload`, through the gateway's forward proxy over mTLS.
fn proxy(target: &Target, from: &Caller, workload: &str) -> Caller {
    let mut caller = from.with(&[
        "--proxy",
        "https://egress:15081",
        "--resolve",
        &format!("egress:15081:{}", target.egress),
    ]);
    let proxied = target.identity_args(workload).into_iter().map(|arg| {
        arg.strip_prefix("--")
            .map_or_else(|| arg.clone(), |name| format!("--proxy-{name}"))
    });
    caller.args.extend(proxied);
    caller
}

fn attempt(target: &Target, caller: &Caller, url: &str) -> anyhow::Result<(Answer, usize, Mark)> {
    let mark = target.records.mark();
    let before = target.partner_hits.read()?;
    let answer = caller.call(url)?;
    let hits = target.partner_hits.read()?.saturating_sub(before);
    Ok((answer, hits, mark))
}

fn told(records: &[Value]) -> String {
    records.last().map_or_else(
        || "nothing recorded".to_owned(),
        |record| format!("{}: {}", field(record, "/role"), field(record, "/reason")),
    )
}
