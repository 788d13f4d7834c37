//! Our node as HBONE client, fact by fact.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::app::rest;
use crate::far::{Far, Manner, Seen, raw};
use crate::frames::{GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use crate::mesh::{Mesh, at};

crate::both!(
    heads,
    settings_and_pings,
    identities,
    refusals,
    pools,
    peers_limits,
    goaway,
    unprocessed
);

const CLIENT: &str = "10.9.0.1:15080";
const CLIENT6: &str = "[fd09::1]:15080";
const PEER: &str = "10.9.0.101:15008";

fn field<'s>(seen: &'s Seen, name: &str) -> &'s str {
    let mut all = seen.headers.get_all(name).iter();
    let value = all
        .next()
        .unwrap_or_else(|| panic!("no {name}: {:?}", seen.headers));
    assert!(all.next().is_none(), "{name} comes twice");
    value.to_str().unwrap()
}

fn spiffe_id(der: &[u8]) -> String {
    let (_, leaf) = X509Certificate::from_der(der).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let uri = |name: &GeneralName<'_>| {
        if let GeneralName::URI(uri) = name {
            Some((*uri).to_owned())
        } else {
            None
        }
    };
    names.value.general_names.iter().find_map(uri).unwrap()
}

/// What stands in the head of a CONNECT, by IPv4 and IPv6, for a workload's address and for a service.
fn heads(mesh: &Mesh) {
    let far = Far::start(PEER, &mesh.identity("peer"), Manner::default());
    let far6 = Far::start(
        "[fd09::101]:15008",
        &mesh.identity("peer6"),
        Manner::default(),
    );
    let peer = "10.9.0.101:7000";
    let service = Some("peer.default.svc.cluster.local");
    for (proxy, to, far, authority, host) in [
        (CLIENT, "10.9.0.101:7000", &far, peer, None),
        (CLIENT, "10.96.0.3:80", &far, peer, service),
        (
            CLIENT,
            "peer.default.svc.cluster.local:80",
            &far,
            peer,
            service,
        ),
        (CLIENT, "a.peer.example:80", &far, peer, service),
        (CLIENT6, "10.96.0.3:80", &far, peer, service),
        (CLIENT6, "[fd09::101]:9", &far6, "[fd09::101]:9", None),
        (
            CLIENT,
            "peer6.default.svc.cluster.local:80",
            &far6,
            "[fd09::101]:7000",
            Some("peer6.default.svc.cluster.local"),
        ),
    ] {
        let mut conn = mesh
            .leave(proxy, to)
            .unwrap_or_else(|code| panic!("{to}: {code}"));
        let [seen] = far.await_seen(1).try_into().unwrap();
        assert_eq!(seen.method, "CONNECT");
        // Of the authority alone: no scheme, no path.
        assert_eq!(seen.uri, authority, "{to}");
        let local = conn.local_addr().unwrap();
        let want = host.map_or_else(
            || format!("for=\"{local}\""),
            |host| format!("for=\"{local}\";host={host}"),
        );
        assert_eq!(field(&seen, "forwarded"), want, "{to}");
        let baggage = if proxy == CLIENT {
            "k8s.cluster.name=ours,k8s.namespace.name=default,k8s.pod.name=client,service.name=client,service.version=v3,\
             cloud.region=eu,cloud.availability_zone=eu-1"
        } else {
            "k8s.namespace.name=default,k8s.pod.name=client6,service.name=client6,service.version=latest"
        };
        assert_eq!(field(&seen, "baggage"), baggage, "{to}");
        let trace = field(&seen, "traceparent").to_owned();
        assert!(
            ringgate::vocab::trace::TraceParent::parse(&trace).is_some(),
            "{trace}"
        );
        assert_eq!(seen.headers.len(), 3, "{:?}", seen.headers);
        assert_eq!(seen.sni, None, "a server name");
        let account = if proxy == CLIENT { "client" } else { "client6" };
        assert_eq!(
            spiffe_id(&seen.client),
            format!("spiffe://cluster.local/ns/default/sa/{account}")
        );
        conn.write_all(b"hello").unwrap();
        conn.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut conn), (b"hello".to_vec(), None), "{to}");
        // The record has the trace that the peer was told.
        let record = mesh.record(|r| r["kind"] == "outbound" && r["traceId"] == trace[3..35]);
        assert_eq!(record["verdict"], "allow");
    }
}

/// What ztunnel announces as a client, we announce; pings are answered while idle, and sent.
fn settings_and_pings(mesh: &Mesh) {
    let listener = TcpListener::bind(PEER).unwrap();
    let dir = mesh.identity("peer");
    let serving = std::thread::spawn(move || {
        let (mut wire, _) = raw(&listener, &dir);
        assert_eq!(wire.exactly(PREFACE.len()), PREFACE);
        wire.frame(SETTINGS, 0, 0, &[]);
        let settings = wire
            .until(|f| f.kind == SETTINGS && f.flags == 0)
            .settings();
        let want = [(2, 0), (4, 4 << 20), (5, 1 << 20), (6, 16 << 10)];
        assert!(
            want.iter().all(|pair| settings.contains(pair)),
            "{settings:?}"
        );
        // RFC 8441 is not used.
        assert!(settings.iter().all(|(id, _)| *id != 8), "{settings:?}");
        wire.frame(SETTINGS, 1, 0, &[]);
        let window = wire.until(|f| f.kind == WINDOW_UPDATE && f.stream == 0);
        assert_eq!(window.number(), (16 << 20) - 65_535);
        wire.until(|f| f.kind == HEADERS && f.stream == 1);
        // `:status: 200` of the static table.
        wire.frame(HEADERS, 4, 1, &[0x88]);
        wire.frame(PING, 0, 0, b"12345678");
        wire.until(|f| f.kind == PING && f.flags == 1 && f.payload == b"12345678");
        let ping = wire.until(|f| f.kind == PING && f.flags == 0);
        wire.frame(PING, 1, 0, &ping.payload);
        wire.frame(PING, 0, 0, b"87654321");
        wire.until(|f| f.kind == PING && f.flags == 1 && f.payload == b"87654321");
    });
    let _conn = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
    serving.join().unwrap();
}

/// Exactly the workload's identity may answer, and what the service's `subjectAltNames` name besides.
fn identities(mesh: &Mesh) {
    let far = Far::start(PEER, &mesh.identity("denied"), Manner::default());
    assert!(mesh.leave(CLIENT, "10.9.0.101:7000").is_err());
    assert!(mesh.leave(CLIENT, "10.96.0.3:80").is_err());
    let record = mesh.record(|r| r["close"] == "upstream_connect");
    let reason = record["reason"].as_str().unwrap();
    assert!(
        reason.contains("sa/denied`, expected `spiffe://cluster.local/ns/default/sa/peer`"),
        "{reason}"
    );
    mesh.reload(
        "hosts = [\"peer.default.svc.cluster.local\", \"*.peer.example\"]",
        "hosts = [\"peer.default.svc.cluster.local\"]\nsubjectAltNames = [\"spiffe://cluster.local/ns/default/sa/denied\"]",
    );
    let asked = || mesh.leave(CLIENT, "10.96.0.3:80").is_ok();
    assert!(ringgate::cli::os::wait_until(crate::app::PATIENCE, asked));
    // Whoever may answer for the service may not answer for the workload, not even on a connection that is there.
    assert!(mesh.leave(CLIENT, "10.9.0.101:7000").is_err());
    assert!(
        far.await_seen(1)
            .iter()
            .all(|seen| field(seen, "forwarded").contains(";host="))
    );
}

/// Another status than 200 is a refusal: the client's connection ends, and the record says which status.
fn refusals(mesh: &Mesh) {
    for (address, workload, to, status) in [
        (PEER, "peer", "10.9.0.101:7000", 401),
        ("[fd09::101]:15008", "peer6", "[fd09::101]:7000", 503),
    ] {
        let manner = Manner {
            status,
            ..Manner::default()
        };
        let _far = Far::start(address, &mesh.identity(workload), manner);
        assert!(mesh.leave(CLIENT, to).is_err(), "{status}");
        let text = format!("far end answered {status}");
        mesh.record(|r| {
            r["kind"] == "outbound" && r["reason"].as_str().is_some_and(|t| t.contains(&text))
        });
    }
}

/// Tunnels of one source to one destination share a connection, of another source they do not.
fn pools(mesh: &Mesh) {
    let far = Far::start(PEER, &mesh.identity("peer"), Manner::default());
    let mut open: Vec<TcpStream> = Vec::new();
    for proxy in [CLIENT, CLIENT6, CLIENT, CLIENT6] {
        open.push(mesh.leave(proxy, "10.9.0.101:7000").unwrap());
    }
    let by_client = |seen: &[Seen]| {
        let mut all: Vec<_> = seen
            .iter()
            .map(|s| (spiffe_id(&s.client), s.connection))
            .collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    assert_eq!(
        by_client(&far.await_seen(4)),
        2,
        "two sources, two connections"
    );
    // A hundred streams on one, as ztunnel has it, then another one.
    for _ in open.len()..202 {
        open.push(mesh.leave(CLIENT, "10.9.0.101:7000").unwrap());
    }
    let seen = far.await_seen(198);
    let mut per_connection = std::collections::BTreeMap::<usize, usize>::new();
    for seen in &seen {
        *per_connection.entry(seen.connection).or_default() += 1;
    }
    assert_eq!(
        per_connection.values().copied().collect::<Vec<_>>(),
        [98, 100]
    );
}

/// The peer's own limit of streams counts, too.
fn peers_limits(mesh: &Mesh) {
    let manner = Manner {
        streams: 2,
        ..Manner::default()
    };
    let far = Far::start(PEER, &mesh.identity("peer"), manner);
    let mut open: Vec<TcpStream> = (0..5)
        .map(|_| mesh.leave(CLIENT, "10.9.0.101:7000").unwrap())
        .collect();
    let mut connections: Vec<usize> = far.await_seen(5).iter().map(|s| s.connection).collect();
    connections.sort_unstable();
    assert_eq!(connections, [0, 0, 1, 1, 2]);
    for (n, conn) in open.iter_mut().enumerate() {
        conn.write_all(&[n as u8]).unwrap();
        let mut got = [0];
        conn.read_exact(&mut got).unwrap();
        assert_eq!(usize::from(got[0]), n);
    }
}

/// After GOAWAY new tunnels take a new connection, and what is open goes on.
fn goaway(mesh: &Mesh) {
    let manner = Manner {
        goaway: true,
        ..Manner::default()
    };
    let far = Far::start(PEER, &mesh.identity("peer"), manner);
    let mut first = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut conn = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
        conn.write_all(b"x").unwrap();
        conn.read_exact(&mut [0]).unwrap();
        first.write_all(b"y").unwrap();
        first.read_exact(&mut [0]).unwrap();
    }
    connections.extend(far.await_seen(4).iter().map(|s| s.connection));
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() >= 2, "{connections:?}");
}

/// A CONNECT that the peer refuses unseen, or leaves out of what it serves before it goes, is sent once more.
fn unprocessed(mesh: &Mesh) {
    let listener = TcpListener::bind(PEER).unwrap();
    let dir = mesh.identity("peer");
    let serving = std::thread::spawn(move || {
        let (mut wire, peer) = raw(&listener, &dir);
        assert_eq!(peer.ip(), at("10.9.0.1:0").ip());
        wire.exactly(PREFACE.len());
        wire.frame(SETTINGS, 0, 0, &[]);
        wire.until(|f| f.kind == HEADERS && f.stream == 1);
        // REFUSED_STREAM.
        wire.frame(RST_STREAM, 0, 1, &7_u32.to_be_bytes());
        wire.until(|f| f.kind == HEADERS && f.stream == 3);
        wire.frame(HEADERS, 4, 3, &[0x88]);
        // The next one crosses a GOAWAY whose last stream was before it, and finds another connection.
        wire.until(|f| f.kind == HEADERS && f.stream == 5);
        wire.frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]);
        let (mut other, _) = raw(&listener, &dir);
        other.exactly(PREFACE.len());
        other.frame(SETTINGS, 0, 0, &[]);
        other.until(|f| f.kind == HEADERS && f.stream == 1);
        other.frame(HEADERS, 4, 1, &[0x88]);
        (wire, other)
    });
    let _first = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
    let _second = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
    drop(serving.join().unwrap());
}
