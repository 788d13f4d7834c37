//! What the operator sees from outside: metrics of connections, what is open now, readiness.

#![expect(
    clippy::disallowed_types,
    reason = "the client of these tests blocks on purpose"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use ringgate::cli::curl::Caller;
use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::layout::host;
use ringgate::cli::target::Target;
use ringgate::cli::{material, os};
use serde_json::Value;

use crate::demo::layout;

/// Sum of the samples of `name` whose labels hold all of `labels`.
fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let samples = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let matching = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    matching
        .map(|line| {
            let value = line.rsplit(' ').next().unwrap();
            value.parse::<u64>().unwrap()
        })
        .sum()
}

fn get(url: &str) -> String {
    let answer = Caller::default().call(url).unwrap();
    assert_eq!(answer.status, 200, "{url}: {}", answer.seen());
    answer.body
}

/// A SOCKS5 connection to a name.
fn socks(at: &str, name: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    let length = u8::try_from(name.len()).unwrap();
    let request = [&[5, 1, 0, 3, length], name.as_bytes(), &port.to_be_bytes()].concat();
    stream.write_all(&request).unwrap();
    let mut granted = [0; 10];
    stream.read_exact(&mut granted).unwrap();
    assert_eq!(granted[1], 0);
    stream
}

#[test]
fn connections_are_counted_and_shown_while_they_are_open() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let (metrics, readiness) = (
        layout.at(host::CONTROL, 15020),
        layout.at(host::CONTROL, 15021),
    );
    let text = os::read_text(&layout.config()).unwrap().replace(
        "[authority]",
        &format!("[metrics]\nlisten = \"{metrics}\"\n\n[readiness]\nlisten = \"{readiness}\"\n\n[authority]"),
    );
    os::write(&layout.config(), text.as_bytes(), 0o644).unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    assert_eq!(get(&format!("http://{readiness}/healthz/ready")), "ready");

    let scrape = || get(&format!("http://{metrics}/stats/prometheus"));
    let from_reviews = "source_principal=\"spiffe://cluster.local/ns/default/sa/reviews-service\"";
    let both = [
        (
            "reporter=\"source\"",
            "destination_service_name=\"frontend-service\"",
        ),
        (
            "reporter=\"destination\"",
            "destination_app=\"frontend-service\"",
        ),
    ];
    let mut stream = socks(
        &layout.at(host::REVIEWS, 15080).to_string(),
        "frontend-service",
        80,
    );
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: frontend-service\r\n\r\n")
        .unwrap();
    let mut answer = [0; 512];
    let n = stream.read(&mut answer).unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 "));

    // Bytes and connections are seen while it is open.
    let text = scrape();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (reporter, to) in both {
        let labels = [
            reporter,
            to,
            from_reviews,
            "response_flags=\"-\"",
            "connection_security_policy=\"mutual_tls\"",
        ];
        assert_eq!(
            sum(&text, "istio_tcp_connections_opened_total", &labels),
            1,
            "{text}"
        );
        assert_eq!(
            sum(&text, "istio_tcp_connections_closed_total", &labels),
            0,
            "{text}"
        );
        assert_eq!(
            sum(&text, "istio_tcp_received_bytes_total", &labels),
            50,
            "{text}"
        );
        assert!(
            sum(&text, "istio_tcp_sent_bytes_total", &labels) >= n as u64,
            "{text}"
        );
        assert_eq!(
            sum(&text, "istio_tcp_sockets_open", &[reporter]),
            1,
            "{text}"
        );
    }
    let (admin, base) = &target.admins[0];
    let open = admin.call(&format!("{base}/connections")).unwrap().body;
    let open: Value = serde_json::from_str(&open).unwrap();
    assert_eq!(open["complete"], true);
    let rows = open["connections"].as_array().unwrap();
    let mut kinds: Vec<_> = rows
        .iter()
        .filter(|row| row["source"]["principal"] == "cluster.local/ns/default/sa/reviews-service")
        .map(|row| {
            (
                row["kind"].as_str().unwrap(),
                row["bytes"]["received"].as_u64().unwrap(),
            )
        })
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [("connection", 50), ("outbound", 50)], "{open:#}");

    drop(stream);
    let closed = os::wait_until(Duration::from_secs(10), || {
        let text = scrape();
        both.iter().all(|(reporter, to)| {
            let labels = [*reporter, *to, from_reviews];
            sum(&text, "istio_tcp_connections_closed_total", &labels) == 1
                && sum(&text, "istio_tcp_sockets_open", &[reporter]) == 0
        })
    });
    assert!(closed, "{}", scrape());

    // What policy refuses has failed, with the reason.
    let plain = format!("http://{}/", layout.at(host::CUSTOMER_API, 8080));
    assert_ne!(target.attacker.call(&plain).unwrap().exit, 0);
    let denied = [
        "reporter=\"destination\"",
        "destination_workload=\"customer-api\"",
        "response_flags=\"DENY\"",
        "connection_security_policy=\"unknown\"",
    ];
    let counted = os::wait_until(Duration::from_secs(10), || {
        sum(&scrape(), "istio_tcp_connections_failed_total", &denied) == 1
    });
    assert!(counted, "{}", scrape());
}

/// The endpoints that others than the operator may reach tell nothing else.
#[test]
fn each_endpoint_serves_its_own_paths_alone() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let (metrics, readiness) = (
        layout.at(host::CONTROL, 15020),
        layout.at(host::CONTROL, 15021),
    );
    let text = os::read_text(&layout.config()).unwrap().replace(
        "[authority]",
        &format!("[metrics]\nlisten = \"{metrics}\"\n\n[readiness]\nlisten = \"{readiness}\"\n\n[authority]"),
    );
    os::write(&layout.config(), text.as_bytes(), 0o644).unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    let paths = [
        "metrics",
        "healthz/ready",
        "connections",
        "jwks.json",
        "generation",
        "config/problems",
    ];
    let served = |base: &str| {
        paths.map(|path| {
            let answer = Caller::default().call(&format!("{base}/{path}")).unwrap();
            answer.status == 200
        })
    };
    assert_eq!(served(&target.admins[0].1), [true; 6]);
    assert_eq!(
        served(&format!("http://{metrics}")),
        [true, false, false, false, false, false]
    );
    assert_eq!(
        served(&format!("http://{readiness}")),
        [false, true, false, false, false, false]
    );
}
