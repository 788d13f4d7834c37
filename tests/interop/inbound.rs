//! Our node and waypoint as HBONE servers, fact by fact.

use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, StreamOwned};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::app::App;
use crate::frames::{
    DATA, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire,
};
use crate::mesh::Mesh;
use crate::tunnel::{Identity, ask, client, connect, identity, run};

crate::both!(
    handshakes,
    callers,
    settings_and_pings,
    authorities,
    what_is_told,
    streams_of_one_connection,
    drain
);

const SERVER: &str = "10.9.0.2:15008";

/// A finished handshake, or why there is none.
fn handshake(
    address: &str,
    config: Arc<ClientConfig>,
    name: &str,
) -> Result<StreamOwned<ClientConnection, TcpStream>, std::io::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(crate::app::PATIENCE)).unwrap();
    let session = ClientConnection::new(config, name).unwrap();
    let mut tls = StreamOwned::new(session, tcp);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// The alert that the server has ended the handshake with, also one that comes after the client's last flight.
fn alert(address: &str, config: Arc<ClientConfig>) -> Option<AlertDescription> {
    let ended = match handshake(address, config, "0.0.0.0") {
        Ok(mut tls) => std::io::Read::read(&mut tls, &mut [0]).err()?,
        Err(error) => error,
    };
    let error = ended.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::AlertReceived(alert) = error {
        Some(*alert)
    } else {
        panic!("{error}")
    }
}

fn wire(mesh: &Mesh, address: &str) -> Wire {
    let config = client(&["h2"], Some(identity(&mesh.identity("client"))), false);
    let mut wire = Wire::over(handshake(address, config, "0.0.0.0").unwrap());
    wire.send(PREFACE);
    wire.frame(SETTINGS, 0, 0, &[]);
    wire
}

/// No name, no ALPN, any name: the address decides whose certificate it is; TLS 1.3 with AES-GCM alone.
fn handshakes(mesh: &Mesh) {
    let me = || Some(identity(&mesh.identity("client")));
    for (address, who) in [
        (SERVER, "server"),
        ("10.9.0.4:15008", "web"),
        ("10.9.0.3:15008", "waypoint"),
        ("[fd09::2]:15008", "server6"),
    ] {
        for (alpn, sni, name) in [
            (&["h2"][..], false, "0.0.0.0"),
            (&["h2"], true, "web.default.svc.cluster.local"),
            (&["h2", "http/1.1"], false, "0.0.0.0"),
            (&[], false, "0.0.0.0"),
        ] {
            let tls = handshake(address, client(alpn, me(), sni), name).unwrap();
            let leaf = tls.conn.peer_certificates().unwrap()[0].clone();
            let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
            let names = leaf.subject_alternative_name().unwrap().unwrap();
            let want = format!("spiffe://cluster.local/ns/default/sa/{who}");
            let is_uri = |n: &GeneralName<'_>| matches!(n, GeneralName::URI(uri) if *uri == want);
            assert!(
                names.value.general_names.iter().any(is_uri),
                "{address}: {names:?}"
            );
            let agreed = (!alpn.is_empty()).then_some(&b"h2"[..]);
            assert_eq!(tls.conn.alpn_protocol(), agreed, "{address} {alpn:?}");
            assert_eq!(
                tls.conn.protocol_version(),
                Some(rustls::ProtocolVersion::TLSv1_3)
            );
        }
        let refused = alert(address, client(&["http/1.1"], me(), false));
        assert_eq!(
            refused,
            Some(AlertDescription::NoApplicationProtocol),
            "{address}"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert_eq!(
        alert(SERVER, Arc::new(old)),
        Some(AlertDescription::ProtocolVersion)
    );
}

/// A chain of this SPIFFE ID from a root that the mesh does not trust.
fn foreign(id: &str) -> Identity {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (vec![cert.der().clone(), ca_cert.der().clone()], key)
}

/// Who cannot prove an identity of a trusted domain does not get past the handshake.
fn callers(_mesh: &Mesh) {
    for address in [SERVER, "10.9.0.3:15008", "[fd09::2]:15008"] {
        for (who, want) in [
            (None, AlertDescription::CertificateRequired),
            (
                Some("spiffe://cluster.local/ns/default/sa/client"),
                AlertDescription::UnknownCA,
            ),
            (
                Some("spiffe://other.example/ns/default/sa/client"),
                AlertDescription::UnknownCA,
            ),
            (
                Some("https://cluster.local/ns/default/sa/client"),
                AlertDescription::CertificateUnknown,
            ),
            (
                Some("spiffe://cluster.local"),
                AlertDescription::CertificateUnknown,
            ),
        ] {
            let got = alert(address, client(&["h2"], who.map(foreign), false));
            assert_eq!(got, Some(want), "{who:?} at {address}");
        }
    }
}

/// What ztunnel announces, we announce; a ping is answered on an idle connection, and we ping of ourselves.
fn settings_and_pings(mesh: &Mesh) {
    let mut wire = wire(mesh, SERVER);
    let settings = wire.until(|f| f.kind == SETTINGS && f.flags == 0);
    let want = [(3, 200), (4, 4 << 20), (5, 1 << 20), (6, 64 << 10)];
    let got = settings.settings();
    assert!(want.iter().all(|pair| got.contains(pair)), "{got:?}");
    wire.frame(SETTINGS, 1, 0, &[]);
    let window = wire.until(|f| f.kind == WINDOW_UPDATE && f.stream == 0);
    assert_eq!(window.number(), (16 << 20) - 65_535);
    wire.frame(PING, 0, 0, b"12345678");
    let pong = wire.until(|f| f.kind == PING && f.flags == 1);
    assert_eq!(pong.payload, b"12345678");
    let ping = wire.until(|f| f.kind == PING && f.flags == 0);
    wire.frame(PING, 1, 0, &ping.payload);
    wire.frame(PING, 0, 0, b"87654321");
    wire.until(|f| f.kind == PING && f.flags == 1 && f.payload == b"87654321");
}

/// Which authority leads where, and the status of each refusal.
fn authorities(mesh: &Mesh) {
    let _app = App::start(&["10.9.0.2:7000", "[fd09::2]:7000", "10.9.0.4:7000"]);
    run(async {
        let node = connect(SERVER, &mesh.identity("client")).await;
        let node6 = connect("[fd09::2]:15008", &mesh.identity("client")).await;
        let waypoint = connect("10.9.0.3:15008", &mesh.identity("client")).await;
        let denied = connect(SERVER, &mesh.identity("denied")).await;
        for (send, authority, status) in [
            (&node, "10.9.0.2:7000", 200),
            (&node, "[::ffff:10.9.0.2]:7000", 200),
            (&node, "server.default.svc.cluster.local:80", 200),
            (&node, "SERVER.default.svc.cluster.local.:80", 200),
            (&node6, "[fd09::2]:7000", 200),
            (&node6, "[FD09:0::2]:7000", 200),
            (&node6, "server6.default.svc.cluster.local:80", 200),
            // To a waypoint goes the original destination.
            (&waypoint, "10.96.0.2:70", 200),
            (&waypoint, "web.default.svc.cluster.local:70", 200),
            // Policy.
            (&denied, "10.9.0.2:7000", 401),
            (&denied, "server.default.svc.cluster.local:80", 401),
            // Not the address that the connection was made to, or no port.
            (&node, "10.9.0.4:7000", 400),
            (&node, "[fd09::2]:7000", 400),
            (&node, "127.0.0.1:7000", 400),
            (&node6, "10.9.0.2:7000", 400),
            (&node, "10.9.0.2", 400),
            (&node, "server.default.svc.cluster.local", 400),
            // Nobody listens; no such name, or not here; no such port.
            (&node, "10.9.0.2:7999", 503),
            (&node6, "[fd09::2]:7999", 503),
            (&node, "nobody.example:80", 503),
            (&node, "web.default.svc.cluster.local:70", 503),
            (&node, "server.default.svc.cluster.local:7000", 503),
            (&waypoint, "server.default.svc.cluster.local:80", 503),
            (&waypoint, "10.9.0.2:7000", 503),
            // The data plane's own ports.
            (&node, "10.9.0.2:15001", 503),
            (&node, "10.9.0.2:15006", 503),
            (&node, "10.9.0.2:15008", 503),
            (&node, "10.9.0.2:15080", 503),
            (&node6, "[fd09::2]:15008", 503),
        ] {
            let mut answer = ask(send, authority, &[]).await;
            assert_eq!(answer.status, status, "{authority}");
            if status == 200 {
                let baggage = answer.headers.get("baggage").expect("baggage");
                let baggage = baggage.to_str().unwrap();
                assert!(
                    baggage.contains("k8s.namespace.name=default,k8s."),
                    "{baggage}"
                );
                answer.send.send_data("tail\nabc".into(), true).unwrap();
                assert_eq!(
                    answer.rest().await,
                    (b"tail 3".to_vec(), None),
                    "{authority}"
                );
            } else {
                assert!(answer.body.is_end_stream(), "{authority}: a body");
                assert_eq!(answer.headers.len(), 0, "{authority}: {:?}", answer.headers);
            }
        }
        for method in ["GET", "POST", "OPTIONS"] {
            let request = http::Request::builder()
                .method(method)
                .uri("http://10.9.0.2:7000/")
                .body(())
                .unwrap();
            let (response, _) = node
                .clone()
                .ready()
                .await
                .unwrap()
                .send_request(request, true)
                .unwrap();
            assert_eq!(response.await.unwrap().status(), 400, "{method}");
        }
    });
    let refused = mesh.record(|r| r["verdict"] == "deny" && r["policy"] == "default/server-denies");
    assert_eq!(refused["kind"], "connection");
}

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What a peer tells is recorded and decides nothing.
fn what_is_told(mesh: &Mesh) {
    let app = App::start(&["10.9.0.2:7000", "10.9.0.4:7000"]);
    let told = [
        ("traceparent", TRACE),
        (
            "forwarded",
            "for=\"10.1.2.3:4567\";host=server.default.svc.cluster.local",
        ),
        (
            "baggage",
            "k8s.cluster.name=c,k8s.namespace.name=elsewhere,k8s.deployment.name=d,service.name=s,service.version=v,cloud.region=r,cloud.availability_zone=z,other=o",
        ),
    ];
    run(async {
        let node = connect(SERVER, &mesh.identity("client")).await;
        let mut answer = ask(&node, "10.9.0.2:7000", &told).await;
        assert_eq!(answer.status, 200);
        answer.send.send_data("tail\n".into(), true).unwrap();
        answer.rest().await;
        // Whoever it says it is, the certificate speaks.
        let denied = connect(SERVER, &mesh.identity("denied")).await;
        let friendly = "k8s.namespace.name=default,k8s.pod.name=client,service.name=client";
        let answer = ask(
            &denied,
            "10.9.0.2:7000",
            &[("baggage", friendly), ("forwarded", "for=\"10.9.0.1:1\"")],
        )
        .await;
        assert_eq!(answer.status, 401);
        // What cannot be read is as if it were not there.
        for (name, value) in [
            ("traceparent", "00-zz"),
            ("forwarded", "for=\"unterminated"),
            ("baggage", ",,=;"),
        ] {
            assert_eq!(
                ask(&node, "10.9.0.2:7000", &[(name, value)]).await.status,
                200,
                "{name}"
            );
        }
    });
    let record = mesh
        .record(|r| r["traceId"] == "0af7651916cd43dd8448eb211c80319c" && r["event"] == "close");
    assert_eq!(record["verdict"], "allow");
    assert_eq!(record["source"]["forwardedFor"], "10.1.2.3:4567");
    let said = serde_json::json!({ "cluster": "c", "namespace": "elsewhere", "workload": "d", "service": "s", "version": "v", "region": "r", "zone": "z" });
    assert_eq!(record["source"]["baggage"], said);
    assert_eq!(
        record["source"]["principal"],
        "cluster.local/ns/default/sa/client"
    );
    // The service that the peer tells is believed where the workload belongs to it.
    run(async {
        let node = connect(SERVER, &mesh.identity("client")).await;
        for (n, host) in ["alias", "web", "nobody"].iter().enumerate() {
            let forwarded = format!("for=\"10.1.2.3:{n}\";host={host}.default.svc.cluster.local");
            let answer = ask(&node, "10.9.0.2:7000", &[("forwarded", &forwarded)]).await;
            assert_eq!(answer.status, 200);
        }
    });
    for (n, service) in ["alias", "server", "server"].iter().enumerate() {
        let client = format!("10.1.2.3:{n}");
        let record = mesh.record(|r| r["source"]["forwardedFor"] == client.as_str());
        assert_eq!(
            record["destination"]["service"],
            format!("default/{service}")
        );
    }
    // One trace through the waypoint to the node behind it.
    run(async {
        let waypoint = connect("10.9.0.3:15008", &mesh.identity("client")).await;
        let other = TRACE.replace("0af7", "1bf8");
        let mut answer = ask(&waypoint, "10.96.0.2:70", &[("traceparent", &other)]).await;
        assert_eq!(answer.status, 200);
        answer.send.send_data("head\n".into(), true).unwrap();
        answer.rest().await;
    });
    app.await_seen("head");
    for role in ["waypoint", "node"] {
        mesh.record(|r| r["traceId"] == "1bf8651916cd43dd8448eb211c80319c" && r["role"] == role);
    }
}

/// 200 streams at a time; one more is refused and may be tried again, and the others go on.
fn streams_of_one_connection(mesh: &Mesh) {
    let _app = App::start(&["10.9.0.2:7000"]);
    let mut wire = wire(mesh, SERVER);
    for n in 0..200 {
        wire.connect(2 * n + 1, "10.9.0.2:7000");
        wire.until(|f| f.kind == HEADERS && f.stream == 2 * n + 1);
    }
    wire.connect(401, "10.9.0.2:7000");
    let refused = wire.until(|f| f.stream == 401);
    assert_eq!(
        (refused.kind, refused.number()),
        (RST_STREAM, 7),
        "REFUSED_STREAM"
    );
    wire.frame(DATA, 1, 1, b"tail\nx");
    let answer = wire.until(|f| f.kind == DATA && f.stream == 1);
    assert_eq!(answer.payload, b"tail 1");
    wire.until(|f| f.kind == DATA && f.stream == 1 && f.flags & 1 == 1);
    wire.connect(403, "10.9.0.2:7000");
    wire.until(|f| f.kind == HEADERS && f.stream == 403);
}

/// The end of the process: GOAWAY without error; what is open goes on, and is served to its end.
fn drain(mesh: &Mesh) {
    let _app = App::start(&["10.9.0.2:7000"]);
    let mut wire = wire(mesh, SERVER);
    wire.connect(1, "10.9.0.2:7000");
    wire.until(|f| f.kind == HEADERS && f.stream == 1);
    mesh.terminate();
    let goaway = wire.until(|f| f.kind == GOAWAY);
    assert_eq!(goaway.goaway_code(), 0);
    wire.frame(DATA, 1, 1, b"tail\nabc");
    let answer = wire.until(|f| f.kind == DATA && f.stream == 1);
    assert_eq!(answer.payload, b"tail 3");
}
