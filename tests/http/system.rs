//! The demo's mesh as one `ringgate run` process, with policies that let the cases through, and recording backends.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringgate::cli::drill::Scratch;
use ringgate::cli::layout::{Layout, free_subnet};
use ringgate::cli::{material, os};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::answer;
use crate::backend::Backend;
use crate::client::{Conn, client, stolen};

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

/// All may pass but `/api/denied`, which no place lets through.
const POLICIES: &str = r#"
[[authorizationPolicy]]
name = "all-at-the-edge"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
rules = [{ to = [{ operation.paths = ["/api/*"] }] }]

[[authorizationPolicy]]
name = "none-at-the-edge"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
action = "DENY"
rules = [{ to = [{ operation.paths = ["/api/denied*"] }] }]

[[authorizationPolicy]]
name = "all-from-the-edge"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
rules = [{ from = [{ source.principals = ["cluster.local/ns/edge/sa/ingress"] }] }]

[[authorizationPolicy]]
name = "none"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
action = "DENY"
rules = [{ to = [{ operation.paths = ["/api/denied*"] }] }]

[[authorizationPolicy]]
name = "all-to-the-partner"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [{ from = [{ source.principals = ["cluster.local/ns/default/sa/frontend-service"] }] }]

[[authorizationPolicy]]
name = "none-to-the-partner"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
action = "DENY"
rules = [{ to = [{ operation.paths = ["/api/denied*"] }] }]
"#;

/// Where a client speaks HTTP to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// TLS without a client certificate; two hops of ours before the backend.
    Ingress,
    /// Mutual TLS at a waypoint.
    Waypoint,
    /// Through a tunnel to the egress gateway, TLS behind it.
    Egress,
}

/// All of them.
pub(crate) const PLACES: [Place; 3] = [Place::Ingress, Place::Waypoint, Place::Egress];

impl Place {
    /// The host that is asked for there.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Ingress => "portal.example.test",
            Self::Waypoint => "customer-api",
            Self::Egress => "partner.example.test",
        }
    }

    /// Role in records.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Waypoint => "waypoint",
            Self::Egress => "egress",
        }
    }
}

/// A running mesh.
pub(crate) struct System {
    pub(crate) layout: Layout,
    customer: Backend,
    partner: Backend,
    child: Mutex<Child>,
    _dir: Scratch,
}

impl System {
    /// Starts it on a subnet of its own.
    pub(crate) fn start(io: &str) -> Self {
        Self::with(io, |config| config)
    }

    /// As `start`, with a configuration that `edit` makes of the usual one.
    pub(crate) fn with(io: &str, edit: impl FnOnce(String) -> String) -> Self {
        let dir = Scratch::new(false).unwrap();
        // Backends listen until the process ends, so no subnet is used twice.
        let layout = Layout::new(&dir.path, &free_subnet().unwrap()).unwrap();
        material::write_keys(&layout).unwrap();
        os::make_dir(&layout.file("log"), 0o755).unwrap();
        let token = format!("{}\n", "0".repeat(64));
        os::write(&layout.file("state/join-tokens"), token.as_bytes(), 0o600).unwrap();
        let config = edit(layout.render(io) + POLICIES);
        os::write(&layout.config(), config.as_bytes(), 0o644).unwrap();
        let customer = Backend::start(&layout.at(3, 18080), None);
        let partner = Backend::start(&layout.at(40, 8443), Some(partner_tls(&layout)));
        let log = std::fs::File::create(layout.file("run.log")).unwrap();
        let child = Command::new(crate::PROGRAM)
            .args(["run", "--config"])
            .arg(layout.config())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("ringgate starts");
        let this = Self {
            layout,
            customer,
            partner,
            child: Mutex::new(child),
            _dir: dir,
        };
        let ready = this.within(START, || {
            let ended = this.child.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", this.log());
            this.file("stolen/frontend-service/istio/key.pem").exists()
                && PLACES.iter().all(|place| this.serves(*place))
        });
        assert!(ready, "not ready: {}", this.log());
        this
    }

    /// A file of the system.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.layout.file(name)
    }

    /// What the process said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file("run.log")).unwrap_or_default()
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// The backend behind a place.
    pub(crate) fn backend(&self, place: Place) -> &Backend {
        match place {
            Place::Ingress | Place::Waypoint => &self.customer,
            Place::Egress => &self.partner,
        }
    }

    /// A connection, as long as it can be had.
    pub(crate) fn try_connect(&self, place: Place, alpn: &str) -> Option<Conn> {
        let conn = match place {
            Place::Ingress => Conn::try_plain(&self.layout.at(20, 8443))?
                .tls(client(&[alpn], None), place.host())
                .ok()?,
            Place::Waypoint => Conn::try_plain(&self.layout.at(13, 8443))?
                .tls(
                    client(&[alpn], Some(stolen(self, "frontend-service"))),
                    place.host(),
                )
                .ok()?,
            Place::Egress => Conn::socks(&self.layout.at(1, 15080), place.host(), 80).ok()?,
        };
        conn.patience(Duration::from_secs(30));
        Some(conn)
    }

    /// A connection for HTTP/1.
    pub(crate) fn connect(&self, place: Place) -> Conn {
        self.try_connect(place, "http/1.1").expect("connects")
    }

    /// Whether an ordinary call is answered.
    pub(crate) fn serves(&self, place: Place) -> bool {
        let Some(mut conn) = self.try_connect(place, "http/1.1") else {
            return false;
        };
        probe(&mut conn, place) == Some(200)
    }

    /// Decision records so far.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.file("log/decisions.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The first record that is `wanted`, once there is one.
    pub(crate) fn record(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut found = None;
        self.within(Duration::from_secs(20), || {
            found = self.records().into_iter().find(&wanted);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no such record: {:#?}", self.records().last()))
    }

    /// Waits until `ready` or the limit.
    pub(crate) fn within(&self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if ready() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ready()
    }

    /// Changes the configuration and waits until it holds.
    pub(crate) fn reload(&self, edit: impl FnOnce(String) -> String) {
        let generation = || {
            let mut conn = Conn::try_plain(&self.layout.at(9, 15000))?;
            conn.send(b"GET /generation HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
            Some(answer::read(&mut conn, "GET")?.body)
        };
        let before = generation();
        let text = os::read_text(&self.layout.config()).unwrap();
        let new = edit(text.clone());
        assert_ne!(text, new, "nothing changes");
        os::write(&self.layout.config(), new.as_bytes(), 0o644).unwrap();
        assert!(
            self.within(START, || generation() != before),
            "{}",
            self.log()
        );
    }

    /// Open descriptors of the process.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let text =
            std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap_or_default();
        let pages: usize = text
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        pages * 4096
    }

    /// The process lives, has not panicked anywhere, and serves.
    pub(crate) fn healthy(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", self.log());
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        for place in PLACES {
            assert!(self.serves(place), "{place:?} does not serve: {log}");
        }
    }
}

/// An ordinary call on a connection; its status if it is answered as it should be.
pub(crate) fn probe(conn: &mut Conn, place: Place) -> Option<u16> {
    let head = format!("GET /api/probe HTTP/1.1\r\nhost: {}\r\n\r\n", place.host());
    conn.send(head.as_bytes());
    let answer = answer::read(conn, "GET")?;
    (answer.status != 200 || answer.body == b"GET /api/probe\n").then_some(answer.status)
}

impl Drop for System {
    fn drop(&mut self) {
        ringgate::cli::lab::end(self.child.get_mut().unwrap());
    }
}

fn partner_tls(layout: &Layout) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(layout.file("state/partner/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(layout.file("state/partner/key.pem")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.flatten().collect(), key)
        .unwrap();
    Arc::new(config)
}
