//! What a record says of where a request came from, behind an ingress whose tunnel carries the requests of many.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::answer;
use crate::client::{Conn, client};
use crate::system::{Place, System};

crate::both!(each_request_has_its_own_client_and_trace);

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
