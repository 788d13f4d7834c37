//! Slow, silent and greedy peers: what they hold comes back, and nobody else notices.

use std::time::Duration;

use crate::client::{Conn, client};
use crate::system::{HELD_BYTES, System};

crate::both!(
    slow_heads,
    half_open,
    client_that_does_not_read,
    upstream_that_does_not_end,
    byte_by_byte
);

fn slow_heads(system: &System) {
    // At the edge over TLS, at the waypoint within a tunnel; stopped in a head, or before the first full line.
    let mut slow: Vec<(&str, Conn)> = Vec::new();
    for (what, bytes) in [
        (
            "in the head",
            &b"GET /slow HTTP/1.1\r\nhost: customer-api\r\nx: "[..],
        ),
        ("in the first word", b"GE"),
    ] {
        let edge = Conn::plain(&system.layout.at(20, 8443))
            .tls(client(&["http/1.1"], None), "portal.example.test")
            .unwrap();
        for mut conn in [system.via("frontend"), edge] {
            conn.send(bytes);
            conn.patience(Duration::from_secs(40));
            slow.push((what, conn));
        }
    }
    let raw = Conn::plain(&system.layout.at(20, 8443));
    raw.patience(Duration::from_secs(40));
    slow.push(("before the handshake", raw));
    system.victim_is_served();
    for (what, mut conn) in slow {
        assert!(conn.is_over(), "{what}: held");
    }
    assert!(system.customer.take().iter().all(|s| s.target == "/victim"));
}

fn half_open(system: &System) {
    let before = system.descriptors();
    let mut all = Vec::new();
    for host_port in [
        (1, 15080),
        (3, 8080),
        (3, 15008),
        (13, 15008),
        (13, 8443),
        (20, 8443),
        (30, 15081),
    ] {
        for _ in 0..60 {
            let address = system.layout.at(host_port.0, host_port.1);
            all.push(Conn::plain(&address));
        }
    }
    system.victim_is_served();
    drop(all);
    let back = system.within(Duration::from_secs(10), || {
        system.descriptors() <= before + 10
    });
    assert!(
        back,
        "{} descriptors, {before} before",
        system.descriptors()
    );
    // And those that stay, once the time for the handshake is over.
    let address = system.layout.at(13, 15008);
    let mut all: Vec<Conn> = (0..100).map(|_| Conn::plain(&address)).collect();
    for conn in &mut all {
        conn.patience(Duration::from_secs(30));
        assert!(conn.is_over(), "a connection without a handshake is held");
    }
    let back = system.within(Duration::from_secs(10), || {
        system.descriptors() <= before + 10
    });
    assert!(
        back,
        "{} descriptors, {before} before",
        system.descriptors()
    );
}

fn client_that_does_not_read(system: &System) {
    system.victim_is_served();
    let before = system.resident();
    let descriptors = system.descriptors();
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut conn = system.via("frontend");
        conn.send(b"GET /lie/endless-body HTTP/1.1\r\nhost: customer-api\r\n\r\n");
        all.push(conn);
    }
    std::thread::sleep(Duration::from_secs(4));
    system.victim_is_served();
    let grown = system.resident().saturating_sub(before);
    assert!(grown < HELD_BYTES, "grew by {grown} bytes");
    drop(all);
    let back = system.within(Duration::from_secs(10), || {
        system.descriptors() <= descriptors + 10
    });
    assert!(
        back,
        "{} descriptors, {descriptors} before",
        system.descriptors()
    );
}

/// A client that goes while its upstream has not answered.
fn upstream_that_does_not_end(system: &System) {
    system.victim_is_served();
    let before = system.descriptors();
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut conn = system.via("frontend");
        conn.send(b"GET /lie/slow HTTP/1.1\r\nhost: customer-api\r\n\r\n");
        all.push(conn);
    }
    let reached = system.within(Duration::from_secs(5), || {
        system
            .customer
            .seen()
            .iter()
            .filter(|s| s.target == "/lie/slow")
            .count()
            == 20
    });
    assert!(reached);
    drop(all);
    let back = system.within(Duration::from_secs(15), || {
        system.descriptors() <= before + 10
    });
    assert!(
        back,
        "{} descriptors, {before} before: the upstream is kept for nobody",
        system.descriptors()
    );
}

/// A head of the largest size in the smallest pieces costs no more than its bytes.
fn byte_by_byte(system: &System) {
    let cpu = || {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", system.pid())).unwrap();
        let fields: Vec<u64> = text
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        fields[11]
    };
    let before = cpu();
    let mut conn = system.via("frontend");
    conn.send(b"GET /bytes HTTP/1.1\r\nhost: customer-api\r\nx: ");
    for _ in 0..6000 {
        conn.send(b"yyyyyyyyyy");
    }
    conn.send(b"\r\n\r\n");
    assert_eq!(conn.response().unwrap().status, 200);
    let spent = cpu() - before;
    assert!(spent < 300, "{spent} ticks of user time");
}
