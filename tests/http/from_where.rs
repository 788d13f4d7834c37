//! What a record says of where a request came from, behind an ingress whose tunnel carries the requests of many.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::answer;
use crate::client::{Conn, client};
use crate::stream::Streams;
use crate::system::{Place, System};

crate::both!(each_request_has_its_own_client_and_trace);
crate::on_both!(what_a_client_tells_hides_no_address_behind_it);

/// A connection to the ingress from an address.
fn from(system: &System, ip: IpAddr) -> Conn {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    let ingress: SocketAddr = system.layout.at(20, 8443).parse().unwrap();
    socket.connect(&ingress.into()).unwrap();
    Conn::over(socket.into())
        .tls(client(&["http/1.1"], None), Place::Ingress.host())
        .unwrap()
}

fn each_request_has_its_own_client_and_trace(system: &System) {
    system.backend(Place::Ingress).says(&[]);
    let traces = [
        "0af7651916cd43dd8448eb211c80319c",
        "1af7651916cd43dd8448eb211c80319c",
    ];
    for nth in 1..=4_u8 {
        let ip = IpAddr::from([127, 77, 9, nth]);
        let mut conn = from(system, ip);
        let trace = traces.get(usize::from(nth) - 1);
        let field = trace.map_or_else(String::new, |trace| {
            format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\n")
        });
        let path = format!("/api/from/{nth}");
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\n{field}\r\n",
            Place::Ingress.host()
        );
        conn.send(head.as_bytes());
        assert_eq!(answer::read(&mut conn, "GET").map(|a| a.status), Some(200));
        for role in ["ingress", "waypoint"] {
            let record = system.record(|r| r["role"] == role && r["request"]["path"] == *path);
            let want = trace.map_or(serde_json::Value::Null, |trace| (*trace).into());
            assert_eq!(record["traceId"], want, "{record}");
            let client = match role {
                "ingress" => serde_json::Value::Null,
                _ => ip.to_string().into(),
            };
            assert_eq!(record["source"]["forwardedFor"], client, "{record}");
        }
    }
}

/// Members of the proxy's own network may see what is inside.
const INSIDE: &str = r#"
[[authorizationPolicy]]
name = "insiders"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
action = "DENY"
rules = [{ from = [{ source.notRemoteIpBlocks = ["127.0.0.0/8"] }], to = [{ operation.paths = ["/api/inside"] }] }]
"#;

/// A proxy before us writes its client behind what that client has told in the same field, whatever bytes those are.
fn what_a_client_tells_hides_no_address_behind_it(io: &str) {
    let system = System::with(io, |config| {
        let trusted = "[mesh]\nnumTrustedProxies = 1\n";
        config.replacen("[mesh]\n", trusted, 1) + INSIDE
    });
    system.backend(Place::Ingress).says(&[]);
    let host = Place::Ingress.host();
    let told = [
        &b""[..],
        b"10.0.0.1",
        b"\xe9",
        b"\xff\xfe, 127.0.0.1",
        b"unknown",
        b",",
        b"\t",
    ];
    for told in told {
        let field = |client: &str| {
            let between: &[u8] = if told.is_empty() { b"" } else { b", " };
            [told, between, client.as_bytes()].concat()
        };
        for (client, status) in [("127.0.0.1", 200), ("203.0.113.9", 403)] {
            let field = field(client);
            let mut conn = system.connect(Place::Ingress);
            let head = format!("GET /api/inside HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: ");
            conn.send(&[head.as_bytes(), &field, b"\r\n\r\n"].concat());
            let answer = answer::read(&mut conn, "GET").expect("an answer");
            assert_eq!(
                answer.status, status,
                "{client} behind {told:?}: {answer:?}"
            );
            let mut streams = Streams::open(&system, Place::Ingress);
            let head = [
                (&b":method"[..], &b"GET"[..]),
                (b":scheme", b"https"),
                (b":authority", host.as_bytes()),
                (b":path", b"/api/inside"),
                (b"x-forwarded-for", field.trim_ascii()),
            ];
            streams.head(1, &head, true);
            let answer = streams.answer(1);
            assert_eq!(
                answer.status, status,
                "{client} behind {told:?}: {answer:?}"
            );
        }
    }
    // Nor does it hide one from who comes after us.
    let all = system.backend(Place::Ingress).seen();
    assert_eq!(all.len(), told.len() * 2);
    for seen in all {
        let chain = seen.all("x-forwarded-for").join(", ");
        let entries: Vec<&str> = chain.split(", ").collect();
        assert!(
            entries.len() >= 2 && entries.iter().rev().any(|e| *e == "127.0.0.1"),
            "{chain}"
        );
    }
    system.healthy();
}
