//! The demo's mesh as one `ringgate run` process, with policies that let the cases through, and recording backends.

use std::ops::Deref;
use std::time::Duration;

use ringgate::cli::os;

use crate::answer;
use crate::backend::Backend;
use crate::client::{Conn, client, stolen};
use crate::mesh::{self, Mesh};

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
    customer: Backend,
    partner: Backend,
    mesh: Mesh,
}

impl System {
    /// Starts it on a subnet of its own.
    pub(crate) fn start(io: &str) -> Self {
        Self::with(io, |config| config)
    }

    /// As `start`, with a configuration that `edit` makes of the usual one.
    pub(crate) fn with(io: &str, edit: impl FnOnce(String) -> String) -> Self {
        let prepared = mesh::prepare(|layout| edit(layout.render(io) + POLICIES));
        let layout = &prepared.layout;
        let customer = Backend::start(&layout.at(3, 18080), None);
        let partner = Backend::start(&layout.at(40, 8443), Some(prepared.partner_tls()));
        let this = Self {
            customer,
            partner,
            mesh: prepared.start(),
        };
        let ready = this.within(START, || {
            this.lives();
            this.file("stolen/frontend-service/istio/key.pem").exists()
                && PLACES.iter().all(|place| this.serves(*place))
        });
        assert!(ready, "not ready: {}", this.log());
        this
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

    /// The first record that is `wanted`, once there is one.
    pub(crate) fn record(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut found = None;
        self.within(Duration::from_secs(20), || {
            found = self.records().into_iter().find(&wanted);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no such record: {:#?}", self.records().last()))
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

    /// Waits until descriptors are as few as `before`, but for connections that are kept.
    pub(crate) fn gives_back(&self, before: usize) {
        let back = self.within(Duration::from_secs(10), || {
            self.descriptors() <= before + 12
        });
        let now = self.descriptors();
        assert!(back, "{now} descriptors, {before} before");
    }

    /// The process lives, has not panicked anywhere, and serves.
    pub(crate) fn healthy(&self) {
        self.lives();
        for place in PLACES {
            assert!(
                self.serves(place),
                "{place:?} does not serve: {}",
                self.log()
            );
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

impl Deref for System {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.mesh
    }
}
