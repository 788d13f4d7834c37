//! The gRPC contract, and two providers at once.

use crate::system::System;

crate::both!(question, no, changes, refused_answers, both_must_say_yes);

fn question(system: &System) {
    let args = [
        "-X",
        "PUT",
        "--data",
        "a\u{e9}c",
        "-H",
        "x-rep: 1",
        "-H",
        "x-rep: 2",
        "-H",
        "x-envoy-x: 1",
    ];
    let (_, seen) = system.passes("//grpc/./%61?q=%2f", &args);
    assert_eq!(
        (seen.method.as_str(), &*seen.body),
        ("PUT", "a\u{e9}c".as_bytes())
    );
    let attributes = System::asked(&system.grpc).attributes.unwrap();
    assert_eq!(
        attributes.source.clone().unwrap().principal,
        "spiffe://cluster.local/ns/default/sa/frontend-service"
    );
    let destination = attributes.destination.unwrap();
    assert_eq!(
        destination.principal,
        "spiffe://cluster.local/ns/default/sa/customer-api-waypoint"
    );
    assert_eq!(
        destination
            .address
            .unwrap()
            .socket_address
            .unwrap()
            .port_value,
        80
    );
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str()),
        ("PUT", "/grpc/a?q=%2f")
    );
    assert_eq!(
        (http.host.as_str(), http.scheme.as_str()),
        ("customer-api", "http")
    );
    assert_eq!((http.protocol.as_str(), http.size), ("HTTP/1.1", 4));
    assert_eq!(
        (
            http.headers["x-rep"].as_str(),
            http.headers[":method"].as_str()
        ),
        ("1,2", "PUT")
    );
    assert!(!http.headers.contains_key("x-envoy-x"));
    assert_eq!(&*http.raw_body, "a\u{e9}c".as_bytes());
    let (_, _) = system.passes("/grpc/h2", &["--http2-prior-knowledge"]);
    let http = System::asked(&system.grpc)
        .attributes
        .unwrap()
        .request
        .unwrap()
        .http
        .unwrap();
    assert_eq!(
        (http.protocol.as_str(), http.path.as_str()),
        ("HTTP/2", "/grpc/h2")
    );
}

fn no(system: &System) {
    let answer = system.stopped("/grpc/a", &["-H", "x-do: deny"], 429);
    assert_eq!(
        (answer.body.as_str(), answer.header("x-why")),
        ("slower", Some("often"))
    );
    assert_eq!(
        answer
            .headers
            .iter()
            .filter(|(n, _)| n == "set-cookie")
            .count(),
        2
    );
    let answer = system.stopped("/grpc/a", &["-H", "x-do: bare"], 403);
    assert_eq!(answer.body, "");
    let args = [
        "-H",
        "x-do: bare",
        "-H",
        "content-type: application/grpc+proto",
    ];
    let answer = system.stopped("/grpc/Service/Method", &args, 200);
    assert_eq!(answer.header("grpc-status"), Some("7"));
    let record = system.record("waypoint", "/grpc/Service/Method");
    assert_eq!(record["reason"], "provider `grpc` said no");
}

fn changes(system: &System) {
    let args = [
        "-H",
        "x-do: change",
        "-H",
        "x-user: mallory",
        "-H",
        "x_user: m",
        "-H",
        "x-list: first",
        "-H",
        "x-secret: 1",
    ];
    let (answer, seen) = system.passes("/grpc/a", &args);
    assert_eq!(
        (seen.all("x-user"), seen.all("x-list")),
        (vec!["alice"], vec!["first", "second"])
    );
    assert!(seen.all("x-secret").is_empty() && seen.all("x_user").is_empty());
    assert_eq!(answer.header("x-checked"), Some("yes"));
}

fn refused_answers(system: &System) {
    for (what, want) in [
        (
            "smuggle",
            "provider `grpc`: authorizer sets `host`, which is not its to set",
        ),
        (
            "split",
            "provider `grpc`: authorizer sets `x-user` to what is no value of a header field",
        ),
        (
            "status",
            "provider `grpc`: authorizer answered grpc-status 14 busy",
        ),
        (
            "empty",
            "provider `grpc`: authorizer's answer has no status",
        ),
    ] {
        let path = format!("/grpc/{what}");
        let answer = system.stopped(&path, &["-H", &format!("x-do: {what}")], 403);
        assert_eq!(answer.body, "");
        let record = system.record("waypoint", &path);
        assert_eq!(
            (&record["reason"], &record["verdict"]),
            (&want.into(), &"deny".into())
        );
        assert_eq!(record["custom"][0]["result"], "error");
    }
}

fn both_must_say_yes(system: &System) {
    system.passes("/both/a", &[]);
    let names = |path: &str| -> Vec<String> {
        let record = system.record("waypoint", path);
        let all = record["custom"].as_array().unwrap();
        all.iter()
            .map(|c| {
                format!(
                    "{} {}",
                    c["provider"].as_str().unwrap(),
                    c["result"].as_str().unwrap()
                )
            })
            .collect()
    };
    assert_eq!(names("/both/a"), ["grpc allow", "http allow"]);
    system.stopped("/both/deny", &[], 418);
    assert_eq!(names("/both/deny"), ["grpc allow", "http deny"]);
    let asked = system.http.lock().unwrap().len();
    system.stopped("/both/b", &["-H", "x-do: deny"], 429);
    assert_eq!(names("/both/b"), ["grpc deny"]);
    assert_eq!(
        system.http.lock().unwrap().len(),
        asked,
        "the second was asked after the first had said no"
    );
    // The second sees what the first has changed.
    system.passes("/both/c", &["-H", "x-do: change", "-H", "x-secret: 1"]);
    assert!(System::asked(&system.http).all("x-secret").is_empty());
}
