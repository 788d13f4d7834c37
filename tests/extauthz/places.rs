//! Where CUSTOM policies hold besides the waypoint: bare connections, ingress, egress; and an authorizer inside the mesh.

use crate::system::System;

crate::both!(inside_the_mesh, bytes, ingress, egress);

fn inside_the_mesh(system: &System) {
    system.passes("/inside/a", &[]);
    system.stopped("/inside/deny", &[], 418);
    let asked = System::asked(&system.inside);
    assert_eq!(
        (asked.target.as_str(), asked.all("host")),
        ("/inside/deny", vec!["customer-api"])
    );
    // It is reached as any service is: over mTLS, as the waypoint.
    let node = system.find(|r| {
        r["role"] == "node"
            && r["destination"]["service"] == "default/reviews-service"
            && r["source"]["principal"] == "cluster.local/ns/default/sa/customer-api-waypoint"
    });
    assert_eq!(node["verdict"], "allow");
}

fn bytes(system: &System) {
    let answer = system.call_as(1, "http://customer-api:81", "/bytes", &[]);
    assert_eq!(answer.status, 200, "{}", answer.seen());
    let asked = system.grpc.lock().unwrap().clone();
    let who: Vec<(String, u32)> = asked
        .iter()
        .map(|request| {
            let attributes = request.attributes.clone().unwrap();
            assert!(attributes.request.is_none());
            let port = attributes
                .destination
                .unwrap()
                .address
                .unwrap()
                .socket_address
                .unwrap()
                .port_value;
            (attributes.source.unwrap().principal, port)
        })
        .collect();
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    assert_eq!(
        who,
        [
            (id("frontend-service"), 81),
            (id("customer-api-waypoint"), 8081)
        ]
    );
    system.app.lock().unwrap().clear();
    let answer = system.call_as(2, "http://customer-api:81", "/bytes", &[]);
    assert_ne!(answer.exit, 0, "{}", answer.seen());
    assert!(system.app.lock().unwrap().is_empty());
    let denied = |generation: u64| {
        system.find(|r| {
            r["role"] == "waypoint" && r["verdict"] == "deny" && r["generation"] == generation
        })
    };
    let record = denied(1);
    assert_eq!(
        (&record["policy"], &record["reason"]),
        (
            &"default/custom-bytes".into(),
            &"provider `grpc` said no".into()
        )
    );
    // An HTTP authorizer cannot be asked about bytes: whatever it fails, it does not fail open.
    system.reload(
        "provider.name = \"grpc\"\nrules = [{ to = [{ operation.ports = [\"81\"] }] }]",
        "provider.name = \"open\"\nrules = [{ to = [{ operation.ports = [\"81\"] }] }]",
    );
    let answer = system.call_as(1, "http://customer-api:81", "/bytes", &[]);
    assert_ne!(answer.exit, 0, "{}", answer.seen());
    let record = denied(2);
    assert_eq!(
        record["reason"],
        "provider `open`: an HTTP authorizer cannot be asked about a bare connection"
    );
}

fn ingress(system: &System) {
    let ca = system.layout.file("state/ingress/ca.pem");
    let to = format!("portal.example.test:8443:{}:8443", system.layout.ip(20));
    let call = |path: &str| {
        let caller = ringgate::cli::curl::Caller::default();
        let args = ["--cacert", ca.to_str().unwrap(), "--connect-to", &to];
        caller
            .with(&args)
            .call(&format!("https://portal.example.test:8443{path}"))
            .unwrap()
    };
    // CUSTOM comes first: who has no token either is told the authorizer's answer.
    let answer = call("/api/edge/deny");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (418, "<p>no</p>"),
        "{}",
        answer.stderr
    );
    let answer = call("/api/edge/a");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "RBAC: access denied")
    );
    let asked = System::asked(&system.http);
    assert_eq!(
        (asked.target.as_str(), asked.all("host")),
        ("/check/api/edge/a", vec!["portal.example.test:8443"])
    );
    assert_eq!(call("/api/edge/error").status, 403);
    let record = system.record("ingress", "/api/edge/deny");
    assert_eq!(
        (&record["custom"][0]["provider"], &record["status"]),
        (&"http".into(), &418.into())
    );
}

fn egress(system: &System) {
    let call =
        |path: &str, args: &[&str]| system.call_as(1, "http://partner.example.test", path, args);
    let answer = call("/v1/rates?currency=eur", &["-H", "x-do: deny"]);
    assert_eq!((answer.status, answer.body.as_str()), (429, "slower"));
    // No partner listens in this system; what is let through finds nobody.
    let answer = call("/v1/rates?currency=eur", &[]);
    assert_eq!(answer.status, 503, "{}", answer.seen());
    let record = system.find(|r| {
        r["role"] == "egress"
            && r["request"]["path"] == "/v1/rates?currency=eur"
            && r["verdict"] == "allow"
    });
    assert_eq!(
        (&record["custom"][0]["result"], &record["close"]),
        (&"allow".into(), &"upstream_connect".into())
    );
    let answer = call("/v1/rates?currency=usd", &[]);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "RBAC: access denied")
    );
}
