//! What the operator sees from outside: metrics of connections, what is open now, readiness.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use ringgate::cli::curl::Caller;
use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::layout::{Layout, host};
use ringgate::cli::target::Target;
use ringgate::cli::{material, os};
use serde_json::Value;

use crate::demo::layout;
use crate::socks::socks;

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: frontend-service\r\n\r\n";

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

/// The demo mesh with endpoints for metrics and readiness.
struct Watched {
    _mesh: Mesh,
    target: Target,
    layout: Layout,
    metrics: String,
    readiness: String,
    _dir: Scratch,
}

impl Watched {
    fn start() -> Self {
        let dir = Scratch::new(false).unwrap();
        let layout = layout(&dir);
        material::write(&layout, "auto").unwrap();
        let (metrics, readiness) = (
            layout.at(host::CONTROL, 15020),
            layout.at(host::CONTROL, 15021),
        );
        let more = format!(
            "[metrics]\nlisten = \"{metrics}\"\n\n[readiness]\nlisten = \"{readiness}\"\n\n[authority]"
        );
        let text = os::read_text(&layout.config()).unwrap();
        let text = text.replace("[authority]", &more);
        os::write(&layout.config(), text.as_bytes(), 0o644).unwrap();
        let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
        let target = Target::loopback(&layout);
        target
            .await_ready(Duration::from_secs(30), || mesh.alive())
            .unwrap();
        Self {
            _mesh: mesh,
            target,
            metrics: format!("http://{metrics}"),
            readiness: format!("http://{readiness}"),
            layout,
            _dir: dir,
        }
    }

    fn scrape(&self) -> String {
        get(&format!("{}/stats/prometheus", self.metrics))
    }

    /// Kind and received bytes of what is open from reviews-service.
    fn open(&self) -> Vec<(String, u64)> {
        let (admin, base) = &self.target.admins[0];
        let open = admin.call(&format!("{base}/connections")).unwrap().body;
        let open: Value = serde_json::from_str(&open).unwrap();
        assert_eq!(open["complete"], true);
        let rows = open["connections"].as_array().unwrap().iter();
        let ours = rows.filter(|row| {
            row["source"]["principal"] == "cluster.local/ns/default/sa/reviews-service"
        });
        let mut kinds: Vec<_> = ours
            .map(|row| {
                let kind = row["kind"].as_str().unwrap().to_owned();
                (kind, row["bytes"]["received"].as_u64().unwrap())
            })
            .collect();
        kinds.sort_unstable();
        kinds
    }
}

const FROM_REVIEWS: &str =
    "source_principal=\"spiffe://cluster.local/ns/default/sa/reviews-service\"";

/// Reporter, and how it names the destination.
const BOTH: [(&str, &str); 2] = [
    (
        "reporter=\"source\"",
        "destination_service_name=\"frontend-service\"",
    ),
    (
        "reporter=\"destination\"",
        "destination_app=\"frontend-service\"",
    ),
];

#[test]
fn connections_are_counted_and_shown_while_they_are_open() {
    let watched = Watched::start();
    let at = watched.layout.at(host::REVIEWS, 15080);
    let mut stream = socks(&at, "frontend-service", 80).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut answer = [0; 512];
    let n = stream.read(&mut answer).unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 "));

    let asked = REQUEST.len() as u64;
    let text = watched.scrape();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (reporter, to) in BOTH {
        let labels = [
            reporter,
            to,
            FROM_REVIEWS,
            "response_flags=\"-\"",
            "connection_security_policy=\"mutual_tls\"",
        ];
        let value = |name: &str| sum(&text, name, &labels);
        assert_eq!(value("istio_tcp_connections_opened_total"), 1, "{text}");
        assert_eq!(value("istio_tcp_connections_closed_total"), 0, "{text}");
        assert_eq!(value("istio_tcp_received_bytes_total"), asked, "{text}");
        assert!(value("istio_tcp_sent_bytes_total") >= n as u64, "{text}");
        assert_eq!(sum(&text, "istio_tcp_sockets_open", &[reporter]), 1);
    }
    let open = ["connection", "outbound"].map(|kind| (kind.to_owned(), asked));
    assert_eq!(watched.open(), open);

    drop(stream);
    let closed = os::wait_until(Duration::from_secs(10), || {
        let text = watched.scrape();
        BOTH.iter().all(|(reporter, to)| {
            let labels = [*reporter, *to, FROM_REVIEWS];
            sum(&text, "istio_tcp_connections_closed_total", &labels) == 1
                && sum(&text, "istio_tcp_sockets_open", &[reporter]) == 0
        })
    });
    assert!(closed, "{}", watched.scrape());
    assert_eq!(watched.open(), []);
}

/// What policy refuses has failed, with the reason.
#[test]
fn what_is_refused_is_counted() {
    let watched = Watched::start();
    let plain = format!("http://{}/", watched.layout.at(host::CUSTOMER_API, 8080));
    assert_ne!(watched.target.attacker.call(&plain).unwrap().exit, 0);
    let denied = [
        "reporter=\"destination\"",
        "destination_workload=\"customer-api\"",
        "response_flags=\"DENY\"",
        "connection_security_policy=\"unknown\"",
    ];
    let counted = os::wait_until(Duration::from_secs(10), || {
        sum(
            &watched.scrape(),
            "istio_tcp_connections_failed_total",
            &denied,
        ) == 1
    });
    assert!(counted, "{}", watched.scrape());
}

/// The endpoints that others than the operator may reach tell nothing else.
#[test]
fn each_endpoint_serves_its_own_paths_alone() {
    let watched = Watched::start();
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
    let only = |at: usize| std::array::from_fn(|n| n == at);
    assert_eq!(served(&watched.target.admins[0].1), [true; 6]);
    assert_eq!(served(&watched.metrics), only(0));
    assert_eq!(served(&watched.readiness), only(1));
    assert_eq!(get(&format!("{}/readyz", watched.readiness)), "ready");
}
