//! One process after another is lost: what does not need it goes on, judged and recorded; nothing passes undecided.

use std::time::Duration;

use ringgate::cli::lab::Lab;
use ringgate::cli::os;
use ringgate::cli::target::{Target, field, is_from};

const EXPORT: &str = "http://customer-api/api/v1/users/export";
const DIRECT: &str = "http://10.77.0.3:8080/api/v1/users/export";
const RATES: &str = "http://partner.example.test/v1/rates?currency=eur";

/// frontend-service reaches customer-api, and it is recorded.
fn inside_works(target: &Target) {
    let mark = target.records.mark();
    let answer = target.frontend.call(EXPORT).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.seen());
    let found = target.records.await_some(&mark, 1, |record| {
        field(record, "/verdict") == "allow" && is_from(record, "frontend-service")
    });
    assert!(!found.is_empty(), "allowed, but not recorded");
}

/// reviews-service is denied at customer-api, and it is recorded.
fn inside_denies(target: &Target) {
    let mark = target.records.mark();
    let hits = target.customer_hits.read().unwrap();
    let answer = target.reviews.call(EXPORT).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.seen());
    assert_eq!(target.customer_hits.read().unwrap(), hits);
    let found = target.records.await_some(&mark, 1, |record| {
        field(record, "/verdict") == "deny" && is_from(record, "reviews-service")
    });
    assert!(!found.is_empty(), "denied, but not recorded");
}

/// frontend-service reaches the partner; reviews-service does not; both are recorded.
fn outside_works(target: &Target) {
    let mark = target.records.mark();
    let answer = target.frontend.call(RATES).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.seen());
    let hits = target.partner_hits.read().unwrap();
    let answer = target.reviews.call(RATES).unwrap();
    assert_ne!(answer.status, 200, "{}", answer.seen());
    assert_eq!(target.partner_hits.read().unwrap(), hits);
    for (verdict, account) in [("allow", "frontend-service"), ("deny", "reviews-service")] {
        let found = target.records.await_some(&mark, 1, |record| {
            field(record, "/verdict") == verdict && is_from(record, account)
        });
        assert!(!found.is_empty(), "{account}: no record says {verdict}");
    }
}

/// Plain connections are reset, as ever.
fn plain_is_reset(target: &Target) {
    let answer = target.attacker.call(DIRECT).unwrap();
    assert_eq!(answer.exit, 56, "{}", answer.seen());
}

/// Nobody reaches customer-api by these URLs.
fn inside_is_closed(target: &Target, urls: &[&str]) {
    let hits = target.customer_hits.read().unwrap();
    for caller in [
        &target.frontend,
        &target.reviews,
        &target.same_node,
        &target.attacker,
    ] {
        for url in urls {
            let answer = caller.with(&["--max-time", "4"]).call(url).unwrap();
            assert_ne!(answer.status, 200, "{url}: {}", answer.seen());
        }
    }
    assert_eq!(
        target.customer_hits.read().unwrap(),
        hits,
        "something was forwarded"
    );
}

/// Past the waypoint customer-api's own node judges by the waypoint's policies, and records it.
fn node_judges(target: &Target) {
    for (caller, account, verdict, status) in [
        (&target.frontend, "frontend-service", "allow", 200),
        (&target.reviews, "reviews-service", "deny", 403),
        (&target.same_node, "reviews-service", "deny", 403),
    ] {
        let mark = target.records.mark();
        let answer = caller.call(DIRECT).unwrap();
        assert_eq!(answer.status, status, "{account}: {}", answer.seen());
        let found = target.records.await_some(&mark, 1, |record| {
            field(record, "/verdict") == verdict
                && field(record, "/kind") == "request"
                && field(record, "/policy") == "default/customer-api-lockdown"
                && is_from(record, account)
        });
        assert!(!found.is_empty(), "{account}: no record says {verdict}");
    }
}

fn until_works(target: &Target) {
    let up = os::wait_until(Duration::from_secs(20), || {
        target
            .frontend
            .call(EXPORT)
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(up, "customer-api does not come back");
}

fn lose(lab: &mut Lab, name: &str, check: impl Fn(&Target)) {
    lab.kill(name).unwrap();
    check(&lab.target());
    lab.start(name).unwrap();
    until_works(&lab.target());
}

#[test]
fn the_loss_of_any_one_process_leaves_the_rest_judging() {
    let (mut lab, _dir) = crate::lab();
    lab.raise_mesh().unwrap();
    let target = lab.target();
    until_works(&target);
    inside_denies(&target);
    outside_works(&target);
    lose(&mut lab, "authority", |target| {
        inside_works(target);
        inside_denies(target);
        outside_works(target);
        plain_is_reset(target);
    });
    lose(&mut lab, "waypoint", |target| {
        inside_is_closed(target, &[EXPORT]);
        node_judges(target);
        plain_is_reset(target);
        outside_works(target);
    });
    lose(&mut lab, "customer-api", |target| {
        inside_is_closed(target, &[EXPORT, DIRECT]);
        outside_works(target);
    });
    lose(&mut lab, "frontend", |target| {
        let answer = target.frontend.call(EXPORT).unwrap();
        assert_eq!(answer.status, 0, "{}", answer.seen());
        inside_denies(target);
        plain_is_reset(target);
    });
    lose(&mut lab, "ingress", |target| {
        inside_works(target);
        inside_denies(target);
        outside_works(target);
    });
    lose(&mut lab, "egress", |target| {
        let hits = target.partner_hits.read().unwrap();
        let answer = target.frontend.call(RATES).unwrap();
        assert_ne!(answer.status, 200, "{}", answer.seen());
        assert_eq!(target.partner_hits.read().unwrap(), hits);
        inside_works(target);
        inside_denies(target);
    });
}
