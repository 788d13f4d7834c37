//! Limits: what is too much is refused with a reason, recorded and counted, and what was there before goes on.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use ringgate::cli::os;
use ringgate::cli::target::{Mark, field};

use crate::pair::{Edit, LONG, Pair, Side, echo, echoes};

fn pair(edit: Edit<'_>) -> Pair {
    let pair = Pair::on_loopback(crate::PROGRAM, edit);
    echo(TcpListener::bind(pair.app()).unwrap());
    pair
}

fn is_reset(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// What is recorded of a refusal, by `detail`.
fn refused(pair: &Pair, side: Side, mark: &Mark, detail: &str) {
    let found = pair.records(side).await_some(mark, 1, |record| {
        field(record, "/close") == "limit" && field(record, "/reason").contains(detail)
    });
    assert!(!found.is_empty(), "{side:?} does not say `{detail}`");
    assert!(pair.metric(side, "ringgate_connections_refused_total") > 0.5);
}

#[test]
fn a_workload_takes_as_many_as_it_is_said_to() {
    let pair = pair(Edit {
        server_workload: "maxInboundConnections = 2",
        mode: "PERMISSIVE",
        ..Edit::default()
    });
    let mut held = [pair.open(), pair.open()];
    let mark = pair.records(Side::Server).mark();
    assert_ne!(pair.socks().unwrap().0, 0, "by a tunnel");
    refused(
        &pair,
        Side::Server,
        &mark,
        "`shop/server` has 2 connections from others (maxInboundConnections)",
    );
    let mark = pair.records(Side::Server).mark();
    let plain = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
    assert!(is_reset(plain), "in plaintext");
    refused(
        &pair,
        Side::Server,
        &mark,
        "`shop/server` has 2 connections from others (maxInboundConnections)",
    );
    let failed = "istio_tcp_connections_failed_total{";
    let text = pair.admin(Side::Server, "metrics").unwrap();
    let counted = text
        .lines()
        .any(|l| l.starts_with(failed) && l.contains("response_flags=\"UO\""));
    assert!(counted, "{text}");
    assert!(held.iter_mut().all(echoes));
    // Another service account's connections have places of their own, and a place that is free again is taken.
    let [first, _second] = held;
    drop(first);
    assert!(os::wait_until(LONG, || pair.serves()));
}

/// Connections and tunnels of one identity count together, and those of nobody, in plaintext, do not.
#[test]
fn a_peer_has_as_many_as_it_may() {
    let pair = pair(Edit {
        tables: "[limits]\nmaxConnectionsPerPeer = 2\n",
        mode: "PERMISSIVE",
        ..Edit::default()
    });
    let mut held = [pair.open(), pair.open()];
    let mark = pair.records(Side::Server).mark();
    assert_ne!(pair.socks().unwrap().0, 0, "a third");
    refused(
        &pair,
        Side::Server,
        &mark,
        "`spiffe://cluster.local/ns/shop/sa/client` has 2 connections here (limits.maxConnectionsPerPeer)",
    );
    let mut plain = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
    plain.set_read_timeout(Some(LONG)).unwrap();
    assert!(echoes(&mut plain), "who proves nothing is not counted");
    assert!(held.iter_mut().all(echoes));
    let [first, _second] = held;
    drop(first);
    assert!(os::wait_until(LONG, || pair.serves()));
}

/// Who is not allowed to call, or has not shown who it is, takes no place from those who are.
#[test]
fn who_may_not_call_takes_no_place() {
    let pair = pair(Edit {
        server_workload: "maxInboundConnections = 2",
        mode: "PERMISSIVE",
        tables: crate::pair::ONLY_THE_CLIENT,
        ..Edit::default()
    });
    let strangers: Vec<TcpStream> = (0..6)
        .map(|n| {
            let mut stream = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
            if n % 2 == 0 {
                // The beginning of a handshake that does not go on.
                stream.write_all(&[0x16, 3, 1]).unwrap();
            }
            stream
        })
        .collect();
    let entered = os::wait_until(LONG, || {
        pair.metric(Side::Server, "ringgate_connections ") > 2.5
    });
    assert!(entered, "the strangers are not there");
    let mut held = [pair.open(), pair.open()];
    assert!(held.iter_mut().all(echoes));
    assert_ne!(pair.socks().unwrap().0, 0, "a third");
    drop(strangers);
}

#[test]
fn a_workload_makes_as_many_as_it_is_said_to() {
    let pair = pair(Edit {
        client_workload: "maxOutboundConnections = 1",
        ..Edit::default()
    });
    let mut held = pair.open();
    let mark = pair.records(Side::Client).mark();
    assert_ne!(pair.socks().unwrap().0, 0);
    refused(
        &pair,
        Side::Client,
        &mark,
        "`shop/client` has 1 connections to others (maxOutboundConnections)",
    );
    assert!(echoes(&mut held));
    drop(held);
    assert!(os::wait_until(LONG, || pair.serves()));
}

#[test]
fn a_process_serves_as_many_as_it_is_said_to() {
    let pair = pair(Edit {
        tables: "[limits]\nmaxConnections = 3",
        ..Edit::default()
    });
    // At the server the connection of the tunnels counts, and each tunnel.
    let mut held = [pair.open(), pair.open()];
    let mark = pair.records(Side::Server).mark();
    assert_ne!(pair.socks().unwrap().0, 0, "a third tunnel");
    refused(
        &pair,
        Side::Server,
        &mark,
        "the process has 3 connections (limits.maxConnections)",
    );
    assert!(pair.metric(Side::Server, "ringgate_connections ") > 2.5);
    // At the client each connection counts, whatever becomes of it.
    let silent = TcpStream::connect((pair.ip(Side::Client), 15080)).unwrap();
    let mark = pair.records(Side::Client).mark();
    let full = os::wait_until(LONG, || {
        pair.metric(Side::Client, "ringgate_connections ") > 2.5
    });
    assert!(full, "it does not count");
    let fourth = TcpStream::connect((pair.ip(Side::Client), 15080)).unwrap();
    assert!(is_reset(fourth));
    refused(
        &pair,
        Side::Client,
        &mark,
        "the process has 3 connections (limits.maxConnections)",
    );
    assert!(held.iter_mut().all(echoes));
    drop(silent);
    drop(held);
    assert!(os::wait_until(LONG, || pair.serves()));
}
