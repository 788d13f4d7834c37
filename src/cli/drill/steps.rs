//! The steps of the story. Each looks at three witnesses: what curl got, whether the app was reached, and what
//! the decision records say.

use std::time::Duration;

use serde_json::Value;

use super::report::Step;
use super::{edge, outside, reload, token};
use crate::cli::curl::{Answer, Caller};
use crate::cli::os;
use crate::cli::target::{Mark, Target, field, is_from};

/// How long a record may take to be written.
const RECORDED: Duration = Duration::from_secs(3);

/// One step: number, title, what it does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number in the story, from 1.
    pub number: u8,
    /// What it shows.
    pub title: &'static str,
    body: fn(&Target, &mut Step) -> anyhow::Result<()>,
}

/// The nine steps in order. The first needs the apps alone.
pub const STORY: [Plan; 9] = [
    Plan {
        number: 1,
        title: "the moat: without ringgate the export succeeds",
        body: moat,
    },
    Plan {
        number: 2,
        title: "plain curl under STRICT is reset, every time",
        body: plain,
    },
    Plan {
        number: 3,
        title: "recon: identity files are there to steal where the operator asked for them",
        body: recon,
    },
    Plan {
        number: 4,
        title: "stolen certificate, key and token: 403 at L7",
        body: stolen,
    },
    Plan {
        number: 5,
        title: "frontend-service reaches customer-api",
        body: allowed,
    },
    Plan {
        number: 6,
        title: "every way in meets the same policy",
        body: ways_in,
    },
    Plan {
        number: 7,
        title: "the end user at the ingress",
        body: edge::end_user,
    },
    Plan {
        number: 8,
        title: "egress: who may call what outside",
        body: outside::egress,
    },
    Plan {
        number: 9,
        title: "policy edited while running",
        body: reload::reload,
    },
];

impl Plan {
    /// Carries the step out. What cannot be tried is a failed check.
    #[must_use]
    pub fn run(&self, target: &Target) -> Step {
        let mut step = Step::new(self.number, self.title);
        let start = os::now();
        if let Err(error) = (self.body)(target, &mut step) {
            step.check(
                "carried out",
                "the step runs to its end",
                format!("{error:#}"),
                false,
            );
        }
        step.duration_ms = start.elapsed().as_millis();
        step
    }

    /// The step, failed because it could not be tried.
    #[must_use]
    pub fn not_run(&self, why: &str) -> Step {
        let mut step = Step::new(self.number, self.title);
        step.check("carried out", "the step runs to its end", why, false);
        step
    }
}

/// The prize of the breach.
pub const EXPORT: &str = "/api/v1/users/export";
const RBAC_BODY: &str = "RBAC: access denied";
const PLAIN_CALLS: usize = 20;
/// What each of a denial's five steps names.
const FIVE: [&[&str]; 5] = [
    &["cluster.local/ns/default/sa/reviews-service"],
    &["default/customer-api", "GET", EXPORT],
    &["default/customer-api-lockdown"],
    &["sa/frontend-service", "sa/reviews-service", "mismatch"],
    &["DENY", "403"],
];

/// One attempt on customer-api with its witnesses.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) answer: Answer,
    /// Requests that reached the app meanwhile.
    pub(super) hits: usize,
    /// Where the records stood before.
    pub(super) mark: Mark,
}

/// Calls `url` and looks at customer-api's counter before and after.
pub(super) fn attempt(target: &Target, caller: &Caller, url: &str) -> anyhow::Result<Attempt> {
    let mark = target.records.mark();
    let before = target.customer_hits.read()?;
    let answer = caller.call(url)?;
    let hits = target.customer_hits.read()?.saturating_sub(before);
    Ok(Attempt { answer, hits, mark })
}

pub(super) fn is_denial(record: &Value) -> bool {
    field(record, "/verdict") == "deny" && !field(record, "/reason").is_empty()
}

pub(super) fn is_allowance(record: &Value) -> bool {
    field(record, "/verdict") == "allow"
}

/// Notes that the attempt was answered 403 by policy: curl, app and records agree.
pub(super) fn check_denied(
    target: &Target,
    step: &mut Step,
    name: &str,
    attempt: &Attempt,
    account: &str,
) {
    let found = target.records.await_some(&attempt.mark, 1, |record| {
        is_denial(record) && is_from(record, account)
    });
    let reason = found.first().map_or_else(
        || format!("no denial of {account} recorded"),
        |record| {
            format!(
                "{} denies: {}",
                field(record, "/role"),
                field(record, "/reason")
            )
        },
    );
    let answer = &attempt.answer;
    // A denial at L4 ends the connection, one at L7 is a 403; which it was is in what was seen.
    let refused = (answer.status == 403 && answer.body == RBAC_BODY)
        || answer.status == 0 && answer.exit != 0;
    step.check(
        name,
        "403 `RBAC: access denied` or a closed connection, the app not reached, a denial recorded with its reason",
        format!("{}; {} hits; {reason}", answer.seen(), attempt.hits),
        refused && attempt.hits == 0 && !found.is_empty(),
    );
}

fn moat(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    for (name, caller, url) in &target.moat {
        let answer = caller.call(url)?;
        let complete = !url.ends_with(EXPORT) || answer.body.contains("\"users\"");
        step.check(
            format!("{name} answers anybody at {url}"),
            "200",
            answer.seen(),
            answer.status == 200 && complete,
        );
    }
    Ok(())
}

fn plain(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let caller = target.attacker.with(&[
        "--connect-to",
        &format!("customer-api:80:{}", target.workload),
    ]);
    let mark = target.records.mark();
    let before = target.customer_hits.read()?;
    let mut odd = Vec::new();
    let mut last = String::new();
    for _ in 0..PLAIN_CALLS {
        let answer = caller.call(&format!("http://customer-api{EXPORT}"))?;
        last = answer.seen();
        if answer.exit != 56
            || !answer
                .stderr
                .contains("Recv failure: Connection reset by peer")
        {
            odd.push(format!("exit {}: {}", answer.exit, answer.seen()));
        }
    }
    step.check(
        format!("{PLAIN_CALLS} calls of http://customer-api{EXPORT} from reviews-service"),
        "curl: (56) Recv failure: Connection reset by peer, every time",
        odd.first().map_or(last, |first| {
            format!("{} of {PLAIN_CALLS} differ: {first}", odd.len())
        }),
        odd.is_empty(),
    );
    let hits = target.customer_hits.read()?.saturating_sub(before);
    step.check(
        "customer-api's own counter",
        "does not move",
        format!("{hits} hits"),
        hits == 0,
    );
    let found = target.records.await_some(&mark, PLAIN_CALLS, |record| {
        is_denial(record) && field(record, "/source/principal").is_empty()
    });
    step.check(
        "decision records",
        format!("{PLAIN_CALLS} denials without a principal"),
        format!(
            "{}; {}",
            found.len(),
            found.first().map_or("", |record| field(record, "/reason"))
        ),
        found.len() == PLAIN_CALLS,
    );
    Ok(())
}

fn recon(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let dir = target.stolen.join("reviews-service");
    for name in [
        "istio/cert-chain.pem",
        "istio/key.pem",
        "istio/root-ca.crt",
        "tokens/istio-token",
    ] {
        let path = dir.join(name);
        let link = std::fs::read_link(&path).unwrap_or_default();
        step.check(
            name,
            "a link through `..data`",
            format!("{} -> {}", path.display(), link.display()),
            link.starts_with("..data") && path.is_file(),
        );
    }
    let owners = std::fs::read_dir(&target.stolen)?;
    let mut names: Vec<_> = owners
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    step.check(
        "workloads with identity files",
        "the two that the configuration names; off by default",
        names.join(", "),
        names == ["frontend-service", "reviews-service"],
    );
    let text = os::read_text(&dir.join("tokens/istio-token"))?;
    let claims = token::claims(text.trim())?;
    let subject = field(&claims, "/sub");
    step.check(
        "whom the stolen token names",
        "the workload reviews-service",
        format!("iss {}, sub {subject}", field(&claims, "/iss")),
        subject.ends_with("/sa/reviews-service"),
    );
    Ok(())
}

/// The attacker with the identity files of reviews-service and its token, aimed at one direct mTLS listener.
fn thief(target: &Target, address: &str) -> anyhow::Result<Caller> {
    let token = os::read_text(&target.stolen.join("reviews-service/tokens/istio-token"))?;
    let mut caller = target.attacker.with(&[
        "--connect-to",
        &format!("customer-api:443:{address}"),
        "-H",
        &format!("Authorization: Bearer {}", token.trim()),
    ]);
    caller.args.extend(target.identity_args("reviews-service"));
    Ok(caller)
}

fn stolen(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let url = format!("https://customer-api{EXPORT}");
    let caller = thief(target, &target.waypoint_tls)?;
    let tried = attempt(target, &caller.with(&["--http1.1"]), &url)?;
    let answer = &tried.answer;
    step.check(
        "status line",
        "HTTP/1.1 403 Forbidden",
        answer.seen(),
        answer.status_line == "HTTP/1.1 403 Forbidden",
    );
    for (name, value) in [("content-length", "19"), ("content-type", "text/plain")] {
        let seen = answer.header(name).unwrap_or("absent");
        step.check(name, value, seen, seen == value);
    }
    step.check(
        "body",
        RBAC_BODY,
        answer.body.clone(),
        answer.body == RBAC_BODY,
    );
    step.check(
        "customer-api's own counter",
        "does not move",
        format!("{} hits", tried.hits),
        tried.hits == 0,
    );
    let found = target.records.await_some(&tried.mark, 1, |record| {
        is_denial(record)
            && is_from(record, "reviews-service")
            && field(record, "/request/path") == EXPORT
    });
    let steps: Vec<&str> = found
        .first()
        .and_then(|record| record.pointer("/steps"))
        .and_then(Value::as_array)
        .map(|steps| steps.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    step.check(
        "the decision in five steps",
        "who called, what for, which policy, what it requires, the decision",
        if steps.is_empty() {
            "no record with steps".to_owned()
        } else {
            steps.join(" | ")
        },
        steps.len() == 5
            && FIVE
                .iter()
                .zip(&steps)
                .all(|(words, step)| words.iter().all(|word| step.contains(word))),
    );
    let tried = attempt(target, &caller, &url)?;
    check_denied(
        target,
        step,
        "the same with curl's own choice of HTTP version",
        &tried,
        "reviews-service",
    );
    Ok(())
}

fn allowed(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let tried = attempt(
        target,
        &target.frontend,
        &format!("http://customer-api{EXPORT}"),
    )?;
    let answer = &tried.answer;
    step.check(
        format!("http://customer-api{EXPORT} as frontend-service"),
        "200 and the users",
        format!("{}; {} hits", answer.seen(), tried.hits),
        answer.status == 200 && answer.body.contains("\"users\"") && tried.hits == 1,
    );
    for (role, account) in [
        ("waypoint", "frontend-service"),
        ("node", "customer-api-waypoint"),
    ] {
        let wanted = |record: &Value| {
            is_allowance(record) && field(record, "/role") == role && is_from(record, account)
        };
        let mut found: Vec<Value> = Vec::new();
        // The node judges the waypoint's tunnel, which may be open from an earlier call.
        os::wait_until(RECORDED, || {
            found = target.records.since(&tried.mark);
            found.retain(wanted);
            found.extend(target.records.open(wanted).filter(|_| role == "node"));
            !found.is_empty()
        });
        step.check(
            format!("the {role}'s record"),
            format!("allowed, from {account}"),
            found.first().map_or_else(
                || "none".to_owned(),
                |record| {
                    format!(
                        "{} {}",
                        field(record, "/source/principal"),
                        field(record, "/reason")
                    )
                },
            ),
            !found.is_empty(),
        );
    }
    Ok(())
}

fn ways_in(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let service = format!("http://customer-api{EXPORT}");
    let direct = format!("http://{}{EXPORT}", target.workload);
    let tls = format!("https://customer-api{EXPORT}");
    let ways = [
        ("service address", target.reviews.clone(), &service),
        ("direct workload address", target.reviews.clone(), &direct),
        (
            "same node, service address",
            target.same_node.clone(),
            &service,
        ),
        (
            "same node, direct workload address",
            target.same_node.clone(),
            &direct,
        ),
        (
            "direct mTLS at the waypoint",
            thief(target, &target.waypoint_tls)?,
            &tls,
        ),
        (
            "direct mTLS at the node",
            thief(target, &target.workload_tls)?,
            &tls,
        ),
    ];
    for (name, caller, url) in ways {
        let tried = attempt(target, &caller, url)?;
        check_denied(target, step, name, &tried, "reviews-service");
    }
    Ok(())
}
