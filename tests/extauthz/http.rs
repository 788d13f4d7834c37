//! The HTTP contract: what is asked, yes, no, and what an authorizer may change.

use crate::system::System;

crate::both!(
    question,
    yes_is_not_final,
    no,
    changes,
    tokens_come_after,
    smuggling,
    connections_are_kept
);

fn question(system: &System) {
    let args = [
        "-X",
        "POST",
        "--data",
        "abc",
        "-H",
        "x-ask-a: 1",
        "-H",
        "x-ask-a: 2",
        "-H",
        "x-ask-fixed: theirs",
        "-H",
        "x-tail: 3",
        "-H",
        "x-other: 4",
        "-H",
        "cookie: c=1",
        "-H",
        "authorization: Basic xyz",
        "-H",
        "x-envoy-original-path: /x",
        "-H",
        "te: trailers",
        "-H",
        "connection: x-ask-hop",
        "-H",
        "x-ask-hop: 1",
    ];
    let (_, seen) = system.passes("//http/../http//%61/./b?q=/../1", &args);
    let asked = System::asked(&system.http);
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("POST", "/check/http/a/b?q=/../1")
    );
    let mut fields: Vec<String> = asked
        .headers
        .iter()
        .map(|(n, v)| format!("{n}: {v}"))
        .collect();
    fields.sort();
    let want = [
        "authorization: Basic xyz",
        "content-length: 0",
        "cookie: c=1",
        "host: customer-api",
        "x-ask-a: 1",
        "x-ask-a: 2",
        "x-ask-fixed: ours",
        "x-tail: 3",
    ];
    assert_eq!(fields, want);
    // The same request goes on, with all that the authorizer did not see.
    assert_eq!(
        (seen.target.as_str(), &*seen.body),
        ("/http/a/b?q=/../1", &b"abc"[..])
    );
    assert_eq!(
        (seen.all("x-ask-fixed"), seen.all("x-other")),
        (vec!["theirs"], vec!["4"])
    );
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let args: &[&str] = if method == "HEAD" {
            &["--head"]
        } else {
            &["-X", method]
        };
        let (_, seen) = system.passes("/http/m", args);
        assert_eq!(
            (System::asked(&system.http).method, seen.method),
            (method.to_owned(), method.to_owned())
        );
    }
    let record = system.record("waypoint", "/http/m");
    assert_eq!(record["custom"][0]["provider"], "http");
    assert_eq!(record["custom"][0]["result"], "allow");
    assert!(record["custom"][0]["duration_us"].as_u64().unwrap() > 0);
    // Who is matched by no CUSTOM policy is not asked about.
    let before = system.http.lock().unwrap().len();
    system.passes("/elsewhere", &[]);
    assert_eq!(system.http.lock().unwrap().len(), before);
    assert!(system.record("waypoint", "/elsewhere")["custom"].is_null());
}

fn yes_is_not_final(system: &System) {
    let answer = system.call_as(2, "http://customer-api", "/http/a", &[]);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "RBAC: access denied")
    );
    let record = system.record("waypoint", "/http/a");
    assert_eq!(
        (&record["custom"][0]["result"], &record["verdict"]),
        (&"allow".into(), &"deny".into())
    );
    assert_eq!(record["policy"], "default/customer-api-lockdown");
}

fn no(system: &System) {
    let answer = system.stopped("/http/deny", &[], 418);
    assert_eq!(
        (answer.body.as_str(), answer.header("content-type")),
        ("<p>no</p>", Some("text/html"))
    );
    let all = |name: &str| -> Vec<String> {
        answer
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect()
    };
    assert_eq!(
        (all("x-why"), all("set-cookie")),
        (
            vec!["pot".to_owned()],
            vec!["a=1".to_owned(), "b=2".to_owned()]
        )
    );
    assert_eq!(
        (
            all("x-other").len(),
            all("x-envoy-x").len(),
            all("content-length").len()
        ),
        (0, 0, 1)
    );
    assert_eq!(answer.header("server"), Some("ringgate"));
    let record = system.record("waypoint", "/http/deny");
    assert_eq!(record["verdict"], "deny");
    assert_eq!(
        (&record["policy"], &record["rule"]),
        (&"default/custom-http".into(), &0.into())
    );
    assert_eq!(record["reason"], "provider `http` said no");
    assert_eq!(
        (&record["status"], &record["custom"][0]["result"]),
        (&418.into(), &"deny".into())
    );

    let answer = system.stopped("/http/redirect", &[], 302);
    assert_eq!(answer.header("location"), Some("https://login.example/"));
    system.stopped("/http/created", &[], 201);
    // To a client of gRPC it is said as gRPC says it.
    let answer = system.stopped("/http/deny", &["-H", "content-type: application/grpc"], 200);
    assert_eq!(
        (answer.header("grpc-status"), answer.body.as_str()),
        (Some("2"), "")
    );
    // HEAD has no body, and the connection goes on.
    let answer = system.stopped("/http/deny", &["--head"], 418);
    assert_eq!(answer.body, "");
}

fn changes(system: &System) {
    let args = [
        "-H",
        "x-user: mallory",
        "-H",
        "x_user: mallory",
        "-H",
        "X-User: eve",
        "-H",
        "x-secret: 1",
        "-H",
        "x-keep: 1",
    ];
    let (answer, seen) = system.passes("/http/change", &args);
    assert_eq!(seen.all("x-user"), ["alice", "also"]);
    assert_eq!(
        (
            seen.all("x_user").len(),
            seen.all("x-secret").len(),
            seen.all("x-unlisted").len()
        ),
        (0, 0, 0)
    );
    assert_eq!(seen.all("x-keep"), ["1"]);
    assert_eq!(
        (answer.header("x-checked"), answer.header("x-app")),
        (Some("yes"), Some("1"))
    );
    assert_eq!(answer.header("x-user"), None);
    // Over HTTP/2 the same.
    let (answer, seen) = system.passes(
        "/http/change",
        &["--http2-prior-knowledge", "-H", "x-user: mallory"],
    );
    assert_eq!(
        (seen.all("x-user"), answer.header("x-checked")),
        (vec!["alice", "also"], Some("yes"))
    );
}

fn tokens_come_after(system: &System) {
    system.stopped("/plain", &["-H", "authorization: Bearer not.a.token"], 401);
    let answer = system.stopped("/http/token", &[], 401);
    assert!(
        answer
            .header("www-authenticate")
            .unwrap()
            .contains("invalid_token")
    );
    let (_, seen) = system.passes(
        "/http/untoken",
        &["-H", "authorization: Bearer not.a.token"],
    );
    assert!(seen.all("authorization").is_empty());
    assert_eq!(
        System::asked(&system.http).all("authorization"),
        ["Bearer not.a.token"]
    );
    // A request that is denied by its provider is not looked at any further.
    system.stopped(
        "/http/deny",
        &["-H", "authorization: Bearer not.a.token"],
        418,
    );
}

fn smuggling(system: &System) {
    let (_, seen) = system.passes("/http/smuggle", &["--data", "abc", "-H", "x-user: u"]);
    assert_eq!(seen.all("x-all-a"), ["1"]);
    for gone in [
        "x-all-b",
        "upgrade",
        "te",
        "connection",
        "transfer-encoding2",
        "x-envoy-original-path",
    ] {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert_eq!(
        (seen.all("host"), seen.all("content-length")),
        (vec!["customer-api"], vec!["3"])
    );
    assert!(
        !seen.all("x-forwarded-for").contains(&"9.9.9.9")
            && !seen.all("x-forwarded-for").is_empty()
    );
    assert!(
        seen.all("x-forwarded-client-cert")
            .iter()
            .all(|v| v.contains("/sa/frontend-service")),
        "{seen:?}"
    );
    let answer = system.stopped("/http/split", &[], 403);
    assert_eq!(answer.body, "");
}

fn connections_are_kept(system: &System) {
    // A connection that the authorizer ends is not used again, one that it keeps is.
    for path in [
        "/http/once",
        "/http/a",
        "/http/drop-not",
        "/http/once",
        "/http/b",
    ] {
        system.passes(path, &[]);
    }
    let asked: Vec<String> = system
        .http
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.target.clone())
        .collect();
    let want = [
        "/check/http/once",
        "/check/http/a",
        "/check/http/drop-not",
        "/check/http/once",
        "/check/http/b",
    ];
    assert_eq!(asked, want);
}
