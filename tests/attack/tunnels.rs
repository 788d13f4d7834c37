//! HBONE: who may open a tunnel, where to, and what may be inside.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

use crate::client::{Identity, client, stolen};
use crate::system::System;

crate::both!(callers, authorities, not_connect, inside_tunnels);

/// An identity that a stranger has made for itself.
pub(crate) struct Foreign(Identity);

impl Foreign {
    pub(crate) fn clone_pair(&self) -> Identity {
        (self.0.0.clone(), self.0.1.clone_key())
    }
}

/// A chain from a root that nobody trusts, with this SPIFFE ID.
pub(crate) fn foreign(id: &str) -> Foreign {
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
    Foreign((vec![cert.der().clone(), ca_cert.der().clone()], key))
}

/// Runs `work` to its end, for at most 20 seconds.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    let limit = std::time::Duration::from_secs(20);
    local.block_on(&runtime, async {
        tokio::time::timeout(limit, work)
            .await
            .expect("ends in time")
    })
}

/// An HTTP/2 connection over TLS as `identity`, whatever the ALPN says.
pub(crate) async fn connect(
    address: &str,
    identity: Option<Identity>,
) -> Result<SendRequest<Bytes>, String> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from("x.example.test").unwrap();
    let connector = tokio_rustls::TlsConnector::from(client(&["h2"], identity));
    let tls = connector
        .connect(name, tcp)
        .await
        .map_err(|e| e.to_string())?;
    let (send, connection) = h2::client::handshake(tls)
        .await
        .map_err(|e| e.to_string())?;
    tokio::task::spawn_local(async move { drop(connection.await) });
    send.ready().await.map_err(|e| e.to_string())
}

/// Status of one CONNECT, and what comes back of what is sent into it.
pub(crate) async fn connect_to(
    send: &SendRequest<Bytes>,
    authority: &str,
    inside: &'static [u8],
) -> (u16, Vec<u8>) {
    let Ok(mut send) = send.clone().ready().await else {
        return (0, Vec::new());
    };
    let mut parts = http::uri::Parts::default();
    let Ok(named) = http::uri::Authority::try_from(authority) else {
        return (0, Vec::new());
    };
    parts.authority = Some(named);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
    let Ok((response, mut stream)) = send.send_request(request, false) else {
        return (0, Vec::new());
    };
    // Who ends its side before the answer has begun is taken for gone, so this side stays open.
    drop(stream.send_data(Bytes::from_static(inside), false));
    let Ok(response) = response.await else {
        return (0, Vec::new());
    };
    let (status, mut body, mut all) =
        (response.status().as_u16(), response.into_body(), Vec::new());
    let patience = std::time::Duration::from_secs(3);
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(patience, body.data()).await {
        drop(body.flow_control().release_capacity(piece.len()));
        all.extend_from_slice(&piece);
    }
    (status, all)
}

const GET: &[u8] = b"GET /tunnel HTTP/1.1\r\nhost: customer-api\r\nconnection: close\r\n\r\n";

fn callers(system: &System) {
    let workload = system.layout.at(3, 8080);
    for host in [3, 13, 30] {
        let address = system.layout.at(host, 15008);
        for (identity, who) in [
            (None, "nobody"),
            (
                Some(foreign("spiffe://cluster.local/ns/default/sa/frontend-service").clone_pair()),
                "self made",
            ),
            (
                Some(foreign("spiffe://evil.example/ns/default/sa/frontend-service").clone_pair()),
                "other domain",
            ),
        ] {
            let status = run(async {
                match connect(&address, identity).await {
                    Ok(send) => connect_to(&send, &workload, GET).await.0,
                    Err(_) => 0,
                }
            });
            assert_eq!(status, 0, "{who} at {address}");
        }
    }
    assert!(system.customer.take().is_empty());
}

fn authorities(system: &System) {
    let at = |host, port| system.layout.at(host, port);
    let text =
        |answer: &(u16, Vec<u8>)| format!("{} {}", answer.0, String::from_utf8_lossy(&answer.1));
    run(async {
        // Into the node, as reviews-service: no authority leads past the policy.
        let send = connect(&at(3, 15008), Some(stolen(system, "reviews-service")))
            .await
            .unwrap();
        for authority in [
            at(3, 8080),
            at(3, 8443),
            at(3, 18080),
            at(3, 15008),
            at(3, 15006),
            at(3, 15001),
            at(3, 15080),
            at(3, 15000),
            at(3, 1),
            at(4, 8080),
            at(4, 18080),
            at(1, 8080),
            at(9, 15000),
            at(40, 8443),
            "127.0.0.1:18080".to_owned(),
            "0.0.0.0:18080".to_owned(),
            "[::1]:18080".to_owned(),
            format!("[::ffff:{}]:8080", system.layout.ip(3)),
            format!("[::ffff:{}]:18080", system.layout.ip(3)),
            "customer-api:80".to_owned(),
            "customer-api:443".to_owned(),
            "customer-api:8080".to_owned(),
            "CUSTOMER-API.:80".to_owned(),
            "reviews-service:80".to_owned(),
            "partner.example.test:80".to_owned(),
            "evil:80".to_owned(),
            "customer-api".to_owned(),
            "user@customer-api:80".to_owned(),
        ] {
            let answer = connect_to(&send, &authority, GET).await;
            assert!(
                answer.0 != 200
                    || answer.1.starts_with(b"HTTP/1.1 403")
                    || answer.1.starts_with(b"HTTP/1.1 40"),
                "node, {authority}: {}",
                text(&answer)
            );
        }
        // Into the waypoint, as frontend-service: only services that are bound to it, only their ports.
        let send = connect(&at(13, 15008), Some(stolen(system, "frontend-service")))
            .await
            .unwrap();
        for (authority, allowed) in [
            ("customer-api:80".to_owned(), true),
            ("customer-api.default.svc.cluster.local:80".to_owned(), true),
            ("customer-api:443".to_owned(), true),
            ("customer-api:8080".to_owned(), false),
            ("customer-api:8443".to_owned(), false),
            ("customer-api:18080".to_owned(), false),
            ("customer-api:9999".to_owned(), false),
            ("customer-api:0".to_owned(), false),
            ("reviews-service:80".to_owned(), false),
            ("frontend-service:80".to_owned(), false),
            ("partner.example.test:80".to_owned(), false),
            (at(3, 18080), false),
            (at(2, 8080), false),
            (at(9, 15000), false),
            (at(13, 15008), false),
            (at(13, 8443), false),
        ] {
            let answer = connect_to(&send, &authority, GET).await;
            let reached = answer.0 == 200 && answer.1.starts_with(b"HTTP/1.1 200");
            assert_eq!(reached, allowed, "waypoint, {authority}: {}", text(&answer));
        }
        // Into the egress gateway, as reviews-service.
        let send = connect(&at(30, 15008), Some(stolen(system, "reviews-service")))
            .await
            .unwrap();
        for authority in [
            "partner.example.test:80".to_owned(),
            "partner.example.test:8443".to_owned(),
            at(40, 8443),
            at(30, 15081),
            "customer-api:80".to_owned(),
        ] {
            let answer = connect_to(&send, &authority, b"GET http://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\nconnection: close\r\n\r\n").await;
            assert!(
                answer.0 != 200 || !answer.1.starts_with(b"HTTP/1.1 200"),
                "egress, {authority}: {}",
                text(&answer)
            );
        }
    });
    let targets = system.customer.targets();
    assert!(
        targets.iter().all(|t| t == "/tunnel") && targets.len() == 3,
        "{targets:?}"
    );
    assert!(system.partner.take().is_empty());
}

/// HTTP/2 requests on an HBONE port that are no CONNECT.
fn not_connect(system: &System) {
    run(async {
        for host in [3, 13, 30] {
            let send = connect(
                &system.layout.at(host, 15008),
                Some(stolen(system, "frontend-service")),
            )
            .await
            .unwrap();
            for (method, uri) in [
                ("GET", "http://customer-api/x"),
                ("POST", "https://customer-api/x"),
                ("OPTIONS", "http://customer-api/"),
            ] {
                let request = Request::builder().method(method).uri(uri).body(()).unwrap();
                let (response, _) = send
                    .clone()
                    .ready()
                    .await
                    .unwrap()
                    .send_request(request, true)
                    .unwrap();
                let status = response.await.map_or(0, |r| r.status().as_u16());
                assert!(matches!(status, 0 | 400), "{method} at {host}: {status}");
            }
        }
    });
    assert!(system.customer.take().is_empty());
}

/// The inside of a tunnel is judged like anything else: h2c, TLS with another certificate.
fn inside_tunnels(system: &System) {
    let run_inside = |host: u8, who: &'static str, authority: String, inside: &'static [u8]| {
        run(async {
            let send = connect(&system.layout.at(host, 15008), Some(stolen(system, who)))
                .await
                .unwrap();
            connect_to(&send, &authority, inside).await
        })
    };
    // HTTP/2 with prior knowledge: SETTINGS, then HEADERS for GET http /denied of authority customer-api.
    const H2C: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x18\x01\x05\x00\x00\x00\x01\x82\x86\x44\x06/admin\x41\x0ccustomer-api";
    for (host, who) in [
        (13, "frontend-service"),
        (13, "reviews-service"),
        (3, "reviews-service"),
    ] {
        let authority = if host == 3 {
            system.layout.at(3, 8080)
        } else {
            "customer-api:80".to_owned()
        };
        drop(run_inside(host, who, authority, H2C));
        assert!(system.customer.take().is_empty(), "{who} at {host}");
    }
    // A stolen certificate inside somebody else's tunnel.
    let thief = run(async {
        let send = connect(
            &system.layout.at(13, 15008),
            Some(stolen(system, "reviews-service")),
        )
        .await
        .unwrap();
        let mut send = send.ready().await.unwrap();
        let mut parts = http::uri::Parts::default();
        parts.authority = Some("customer-api:443".parse().unwrap());
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
        let (response, stream) = send.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        if response.status() != 200 {
            return response.status().as_u16();
        }
        let tunnel = Duplex(stream, response.into_body(), Bytes::new());
        let name = ServerName::try_from("customer-api").unwrap();
        let connector = tokio_rustls::TlsConnector::from(client(
            &["http/1.1"],
            Some(stolen(system, "frontend-service")),
        ));
        let Ok(mut tls) = connector.connect(name, tunnel).await else {
            return 0;
        };
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        drop(tls.write_all(GET).await);
        drop(tls.flush().await);
        let mut all = Vec::new();
        drop(tls.read_to_end(&mut all).await);
        if all.starts_with(b"HTTP/1.1 200") {
            200
        } else {
            1
        }
    });
    assert_ne!(thief, 200, "the certificate inside counted");
    assert!(system.customer.take().is_empty());
}

/// A CONNECT stream as a byte stream.
struct Duplex(h2::SendStream<Bytes>, h2::RecvStream, Bytes);

impl tokio::io::AsyncRead for Duplex {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        while self.2.is_empty() {
            match std::task::ready!(self.1.poll_data(cx)) {
                Some(Ok(data)) => self.2 = data,
                Some(Err(e)) => return std::task::Poll::Ready(Err(std::io::Error::other(e))),
                None => return std::task::Poll::Ready(Ok(())),
            }
        }
        let n = self.2.len().min(buf.remaining());
        buf.put_slice(&self.2.split_to(n));
        drop(self.1.flow_control().release_capacity(n));
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Duplex {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let sent = self.0.send_data(Bytes::copy_from_slice(buf), false);
        std::task::Poll::Ready(sent.map(|()| buf.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(
            self.0
                .send_data(Bytes::new(), true)
                .map_err(std::io::Error::other),
        )
    }
}
