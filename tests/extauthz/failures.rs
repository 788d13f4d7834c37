//! Authorizers that do not answer: `statusOnError`, `failOpen`, and clients that do not wait.

use std::time::Duration;

use ringgate::cli::os;

use crate::system::System;

crate::both!(
    no_answer,
    fail_open,
    dry_run_of_the_mesh,
    clients_that_leave,
    itself,
    a_policy_that_comes_later
);

fn no_answer(system: &System) {
    for (path, status, why) in [
        (
            "/slow/hang",
            503,
            "provider `slow`: no answer within 300 ms",
        ),
        (
            "/slow/error",
            503,
            "provider `slow`: authorizer answered 500",
        ),
        (
            "/gone/a",
            403,
            "provider `gone`: cannot reach upstream: Connection refused",
        ),
        (
            "/http/drop",
            403,
            "provider `http`: closed without an answer",
        ),
        (
            "/http/garbage",
            403,
            "provider `http`: answered what is not HTTP",
        ),
        ("/http/huge", 403, "provider `http`: answer is too long"),
        (
            "/http/split",
            403,
            "provider `http`: answered what is not HTTP",
        ),
    ] {
        let answer = system.stopped(path, &[], status);
        assert_eq!(answer.body, "", "{path}");
        let record = system.record("waypoint", path);
        assert!(
            record["reason"].as_str().unwrap().starts_with(why),
            "{record}"
        );
        assert_eq!(
            (&record["custom"][0]["result"], &record["verdict"]),
            (&"error".into(), &"deny".into())
        );
    }
    system.stopped("/slow-grpc/a", &["-H", "x-do: hang"], 403);
    let answer = system.stopped("/slow/hang", &["-H", "content-type: application/grpc"], 200);
    assert_eq!(answer.header("grpc-status"), Some("14"));
}

fn fail_open(system: &System) {
    for (path, provider) in [
        ("/open/hang", "open"),
        ("/open/error", "open"),
        ("/open/drop", "open"),
        ("/gone-open/a", "gone-open"),
    ] {
        system.passes(path, &[]);
        let record = system.record("waypoint", path);
        assert_eq!(record["custom"][0]["provider"], provider);
        assert_eq!(
            (&record["custom"][0]["result"], &record["verdict"]),
            (&"failed_open".into(), &"allow".into())
        );
    }
    // It opens for failures, not for a no.
    system.stopped("/open/deny", &[], 418);
    // And the other policies still count.
    assert_eq!(
        system
            .call_as(2, "http://customer-api", "/open/error", &[])
            .status,
        403
    );
}

fn dry_run_of_the_mesh(system: &System) {
    system.reload("[mesh]\n", "[mesh]\ndangerous_dryRun = true\n");
    for (path, why) in [
        ("/open/deny", "provider `open` denies"),
        ("/slow/error", "provider `slow`: authorizer answered 500"),
    ] {
        system.passes(path, &[]);
        let record = system.record("waypoint", path);
        assert_eq!(
            (
                &record["verdict"],
                &record["wouldDeny"],
                &record["unenforced"]
            ),
            (&"allow".into(), &true.into(), &why.into()),
            "{record}"
        );
    }
    // More than an authorizer may be shown is sent on all the same.
    for more in [&[][..], &["-H", "transfer-encoding: chunked"]] {
        let args = [&["--data", "123456789"], more].concat();
        let (_, seen) = system.passes("/http-body/a", &args);
        assert_eq!(seen.body.len(), 9, "{args:?}");
    }
    let record = system.record("waypoint", "/http-body/a");
    assert_eq!(
        (&record["wouldDeny"], &record["unenforced"]),
        (
            &true.into(),
            &"body is longer than its authorizer's maxRequestBytes".into()
        ),
        "{record}"
    );
}

fn clients_that_leave(system: &System) {
    for more in [&[][..], &["--http2-prior-knowledge"]] {
        system.http.lock().unwrap().clear();
        let args = [&["--max-time", "1"], more].concat();
        let answer = system.call("/http/hang", &args);
        assert_eq!((answer.status, answer.exit), (0, 28));
        let closed = || {
            let records = system.records();
            let mut hung = records
                .iter()
                .filter(|r| r["role"] == "waypoint" && r["request"]["path"] == "/http/hang");
            hung.any(|r| r["close"] == "downstream_reset")
        };
        // Had it waited for the provider, the record would tell of a provider that did not answer.
        assert!(
            os::wait_until(Duration::from_secs(20), closed),
            "{:?}",
            system.records()
        );
    }
    assert!(
        system
            .app
            .lock()
            .unwrap()
            .iter()
            .all(|seen| seen.target != "/http/hang")
    );
}

fn itself(system: &System) {
    system.stopped("/itself/a", &[], 403);
    let record = system.record("waypoint", "/itself/a");
    assert_eq!(
        record["reason"],
        "provider `itself`: would be asked about a call to itself"
    );
}

/// What is on its way when a CUSTOM policy comes was asked about by nobody, and ends.
fn a_policy_that_comes_later(system: &System) {
    let before = "[[authorizationPolicy]]\nname = \"custom-slow\"";
    let policy = "[[authorizationPolicy]]\nname = \"later\"\nnamespace = \"default\"\n\
        targetRefs = [{ group = \"gateway.networking.k8s.io\", kind = \"Gateway\", name = \"customer-api\" }]\n\
        action = \"CUSTOM\"\nprovider.name = \"grpc\"\n\
        rules = [{ to = [{ operation = { paths = [\"/http/wait\", \"/later/*\"], ports = [\"80\"] } }] }]\n\n";
    let file = system.layout.file("go");
    let field = format!("x-ask-file: {}", file.display());
    // The provider of the old policy is still thinking when the new policy comes, and then says yes.
    std::thread::scope(|scope| {
        let call = scope.spawn(|| system.call("/http/wait", &["-H", &field]));
        assert!(os::wait_until(Duration::from_secs(5), || !system
            .http
            .lock()
            .unwrap()
            .is_empty()));
        system.reload(before, &format!("{policy}{before}"));
        std::fs::write(&file, "").unwrap();
        let answer = call.join().unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (403, "RBAC: access denied")
        );
    });
    assert!(system.app.lock().unwrap().is_empty());
    let record = system.record("waypoint", "/http/wait");
    assert_eq!(
        (&record["close"], &record["custom"][0]["result"]),
        (&"policy_changed".into(), &"allow".into())
    );
    system.passes("/later/a", &[]);
    assert_eq!(
        system.record("waypoint", "/later/a")["custom"][0]["provider"],
        "grpc"
    );
    system.stopped("/later/a", &["-H", "x-do: deny"], 429);
    // Nor does one that changes nothing for it end a request that is on its way.
    std::fs::remove_file(&file).unwrap();
    std::thread::scope(|scope| {
        let asked = system.http.lock().unwrap().len();
        let call = scope.spawn(|| system.call("/http/x/wait", &["-H", &field]));
        assert!(os::wait_until(Duration::from_secs(5), || system
            .http
            .lock()
            .unwrap()
            .len()
            > asked));
        system.reload(policy, "");
        std::fs::write(&file, "").unwrap();
        assert_eq!(call.join().unwrap().status, 200);
    });
}
