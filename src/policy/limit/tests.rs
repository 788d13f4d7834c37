//! What a limit tells apart, and which requests it counts.

use std::hash::RandomState;

use http::{HeaderMap, Method};
use serde_json::json;

use super::*;
use crate::policy::model::Operation;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};
use crate::vocab::spiffe::SpiffeId;

fn limit(by: &[&str], rules: Vec<Rule>) -> Limit {
    let rule = RateLimit {
        name: ResourceName::new("shop", "all"),
        target: Target::Namespace,
        rules,
        by: by.iter().map(|k| Key::parse(k).unwrap()).collect(),
        bucket: TokenBucket {
            max_tokens: 1,
            tokens_per_fill: 1,
            fill_interval_ms: 1000,
        },
    };
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let scope = Scope {
        root_namespace: "istio-system",
        gateway_name_selector: true,
        gateway_selectors: true,
    };
    Limit::compile(&rule, &[domain], scope).unwrap()
}

fn connection() -> Connection {
    Connection {
        principal: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").ok(),
        peer: "192.0.2.1".parse().unwrap(),
        remote: "2001:db8::1".parse().unwrap(),
        destination: "192.0.2.9".parse().unwrap(),
        port: 80,
        sni: None,
        time: 0,
    }
}

fn request(path: &str) -> Request {
    Request {
        method: Method::GET,
        host: Host::parse("reviews").unwrap(),
        path: CanonicalPath::parse(PathNormalization::Base, path).ok(),
        headers: HeaderMap::new(),
        claims: None,
        time: 0,
    }
}

#[test]
fn tells_apart_what_it_names_alone() {
    let keys = [RandomState::new(), RandomState::new()];
    let same = |by: &str, change: fn(&mut Connection, &mut Request)| {
        let limit = limit(&[by], Vec::new());
        let (mut conn, mut asked) = (connection(), request("/a?x=1"));
        let before = limit.key(&keys, &conn, &asked);
        change(&mut conn, &mut asked);
        before == limit.key(&keys, &conn, &asked)
    };
    let other_path: fn(&mut Connection, &mut Request) = |_, r| r.path = request("/b").path;
    assert!(!same("request.path", other_path));
    assert!(same("source.principal", other_path));
    assert!(same("request.path", |_, r| r.path = request("/a?x=2").path));
    assert!(!same("source.principal", |c, _| c.principal = None));
    assert!(!same("source.ip", |c, _| c.peer = "192.0.2.2".parse().unwrap()));
    assert!(same("source.ip", |c, _| c.peer =
        "::ffff:192.0.2.1".parse().unwrap()));
    assert!(same("remote.ip", |c, _| c.remote =
        "2001:db8::ffff".parse().unwrap()));
    assert!(!same("remote.ip", |c, _| c.remote =
        "2001:db8:0:1::1".parse().unwrap()));
    let tenant: fn(&mut Connection, &mut Request) = |_, r| {
        r.headers.append("x-tenant", "a".parse().unwrap());
    };
    assert!(!same("request.headers[x-tenant]", tenant));
    assert!(same("request.headers[x-other]", tenant));
    let token: fn(&mut Connection, &mut Request) = |_, r| {
        let map = json!({"iss": "i", "sub": "s", "tier": "gold"});
        r.claims = Some(Claims::new(map.as_object().unwrap().clone(), Vec::new()));
    };
    for by in ["request.auth.claims[tier]", "request.auth.principal"] {
        assert!(!same(by, token), "{by}");
    }
    assert!(same("request.auth.claims[other]", token));
}

#[test]
fn values_do_not_run_together() {
    let keys = [RandomState::new(), RandomState::new()];
    let limit = limit(&["request.headers[a]", "request.headers[b]"], Vec::new());
    let key = |a: &[&str], b: &[&str]| {
        let mut asked = request("/");
        for (name, values) in [("a", a), ("b", b)] {
            for value in values {
                asked.headers.append(name, value.parse().unwrap());
            }
        }
        limit.key(&keys, &connection(), &asked)
    };
    let all = [
        key(&["x"], &["y"]),
        key(&["xy"], &[]),
        key(&["x", "y"], &[]),
        key(&[], &["x", "y"]),
        key(&["", "x"], &["y"]),
    ];
    for (n, one) in all.iter().enumerate() {
        assert!(!all[n + 1..].contains(one), "{n}");
    }
}

#[test]
fn counts_what_its_rules_match() {
    let rule = Rule {
        to: vec![Operation {
            paths: vec!["/search*".to_owned()],
            ..Operation::default()
        }],
        ..Rule::default()
    };
    let some = limit(&[], vec![rule]);
    assert!(some.counts(&connection(), &request("/search?q=1")));
    assert!(!some.counts(&connection(), &request("/")));
    assert!(limit(&[], Vec::new()).counts(&connection(), &request("/")));
}

#[test]
fn what_tells_nobody_apart_is_refused() {
    for bad in ["time", "request.headers", "source.colour", ""] {
        assert!(Key::parse(bad).is_err(), "{bad}");
    }
}
