//! A mesh under attack: one `ringgate run` process, and backends that record every byte that reaches them.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringgate::cli::layout::Layout;

use crate::client::Conn;
use crate::mesh::{self, Mesh};

/// Policies beside the demo's: a denied path for all, and a path that reviews-service alone may call.
const POLICIES: &str = r#"
[[authorizationPolicy]]
name = "no-admin"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
action = "DENY"
rules = [{ to = [{ operation.paths = ["/admin", "/admin/*"] }] }]

[[authorizationPolicy]]
name = "reviews-public"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
action = "ALLOW"
rules = [{ from = [{ source.principals = ["cluster.local/ns/default/sa/reviews-service"] }], to = [{ operation.paths = ["/public/*"] }] }]

[[authorizationPolicy]]
name = "partner-tunnel"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [{ from = [{ source.principals = ["cluster.local/ns/default/sa/frontend-service"] }], to = [{ operation.methods = ["CONNECT"] }] }]

[[authorizationPolicy]]
name = "partner-no-admin"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
action = "DENY"
rules = [{ to = [{ operation.paths = ["/admin*"] }] }]
"#;

/// One request as it reached a backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .collect()
    }
}

/// What a backend writes for a request; the connection ends if it returns `false`.
pub(crate) type Script = fn(&Seen, &mut dyn Write) -> bool;

/// A server that records.
#[derive(Clone)]
pub(crate) struct Backend {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    fn start(address: &str, tls: Option<Arc<rustls::ServerConfig>>, script: Script) -> Self {
        let listener = TcpListener::bind(address).expect("the backend can listen");
        let this = Self {
            seen: Arc::default(),
        };
        let shared = this.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (this, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        let session = rustls::ServerConnection::new(config).unwrap();
                        this.serve(rustls::StreamOwned::new(session, tcp), script);
                    }
                    None => this.serve(tcp, script),
                });
            }
        });
        this
    }

    fn serve(&self, stream: impl Read + Write, script: Script) {
        let mut stream = BufReader::new(stream);
        while let Some(seen) = read_request(&mut stream) {
            self.seen.lock().unwrap().push(seen.clone());
            if !script(&seen, stream.get_mut()) {
                return;
            }
        }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests so far, which are forgotten.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Targets of the requests so far, which are forgotten.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.take().into_iter().map(|seen| seen.target).collect()
    }
}

/// Reads leniently, as a sloppy server would: it takes what it can get for a request.
fn read_request(stream: &mut impl std::io::BufRead) -> Option<Seen> {
    let mut line = String::new();
    while line.trim().is_empty() {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).ok()? == 0 {
            return Some(seen);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        seen.headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if seen.target == "/lie/early" {
        return Some(seen);
    }
    if seen
        .all("transfer-encoding")
        .iter()
        .any(|v| v.contains("chunked"))
    {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).ok()?;
            let n = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            if n == 0 {
                loop {
                    let mut trailer = String::new();
                    stream.read_line(&mut trailer).ok()?;
                    let Some((name, value)) = trailer.trim_end().split_once(':') else {
                        break;
                    };
                    seen.headers.push((
                        format!("trailer {name}").to_ascii_lowercase(),
                        value.trim().to_owned(),
                    ));
                }
                break;
            }
            let mut piece = vec![0; n + 2];
            stream.read_exact(&mut piece).ok()?;
            seen.body.extend_from_slice(&piece[..n]);
        }
    } else if let Some(n) = seen
        .all("content-length")
        .first()
        .and_then(|v| v.parse::<usize>().ok())
    {
        seen.body = vec![0; n];
        stream.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

/// A plain 200.
pub(crate) fn ok(seen: &Seen, out: &mut dyn Write) -> bool {
    let body = format!("{} {}\n", seen.method, seen.target);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if seen.method == "HEAD" { "" } else { &body };
    out.write_all(format!("{head}{body}").as_bytes()).is_ok()
}

/// What clients that do not read may let a mesh hold, of however many answers: the tunnels between its cores have windows of
/// 16 MiB, both ends of them are in this process, and the allocator gives back late (30 clients in `slow`, 4 in `limits`: 20 to 140 MB;
/// 120 were tried and hold no more).
pub(crate) const HELD_BYTES: usize = 256 << 20;

/// A running mesh.
pub(crate) struct System {
    pub(crate) customer: Backend,
    pub(crate) partner: Backend,
    mesh: Mesh,
}

impl System {
    /// Starts it on a subnet of its own, with `ok` backends and with `lies::script` below `/lie/`.
    pub(crate) fn start(io: &str) -> Self {
        Self::with(io, "")
    }

    /// As `start`, with more lines of configuration.
    pub(crate) fn with(io: &str, more: &str) -> Self {
        let prepared = mesh::prepare(|layout| config(layout, io) + more);
        let layout = &prepared.layout;
        let customer = Backend::start(&layout.at(3, 18080), None, crate::lies::script);
        let partner = Backend::start(&layout.at(40, 8443), Some(prepared.partner_tls()), ok);
        serve_keys(layout);
        let this = Self {
            customer,
            partner,
            mesh: prepared.start(),
        };
        let ready = this.within(Duration::from_secs(30), || {
            this.lives();
            this.admin("/readyz").is_some_and(|status| status.0 == 200)
                && this.file("stolen/frontend-service/istio/key.pem").exists()
                && this.file("stolen/reviews-service/istio/key.pem").exists()
                && this.call("frontend", "/warm").0 == 200
        });
        assert!(ready, "not ready: {}", this.log());
        this.customer.take();
        this
    }

    /// Status and body of an admin endpoint.
    pub(crate) fn admin(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let mut conn = Conn::try_plain(&self.layout.at(9, 15000))?;
        conn.send(
            format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes(),
        );
        let answer = conn.response()?;
        Some((answer.status, answer.body))
    }

    /// A connection to customer-api as a workload, through its node.
    pub(crate) fn via(&self, workload: &str) -> Conn {
        let host = if workload == "frontend" { 1 } else { 2 };
        Conn::socks(&self.layout.at(host, 15080), "customer-api", 80).expect("the node connects")
    }

    /// One GET as a workload: status and body.
    pub(crate) fn call(&self, workload: &str, target: &str) -> (u16, Vec<u8>) {
        let host = if workload == "frontend" { 1 } else { 2 };
        let Ok(mut conn) = Conn::socks(&self.layout.at(host, 15080), "customer-api", 80) else {
            return (0, Vec::new());
        };
        conn.send(
            format!("GET {target} HTTP/1.1\r\nhost: customer-api\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        );
        conn.response()
            .map_or((0, Vec::new()), |answer| (answer.status, answer.body))
    }

    /// The victim: an ordinary allowed call is answered, and not only after the attack has ended.
    pub(crate) fn victim_is_served(&self) {
        let started = Instant::now();
        let (status, _) = self.call("frontend", "/victim");
        let took = started.elapsed();
        assert_eq!(status, 200, "the victim is not served: {}", self.log());
        assert!(took < Duration::from_secs(10), "the victim waits {took:?}");
    }

    /// The process lives, has not panicked anywhere, and serves.
    pub(crate) fn healthy(&self) {
        self.lives();
        self.victim_is_served();
    }
}

impl Deref for System {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.mesh
    }
}

fn config(layout: &Layout, io: &str) -> String {
    let claim = "forwardOriginalToken = true\noutputClaimToHeaders = [{ header = \"x-jwt-sub\", claim = \"sub\" }]\n";
    layout
        .render(io)
        .replacen("forwardOriginalToken = true\n", claim, 1)
        + POLICIES
}

/// The identity provider's key set, for any request.
fn serve_keys(layout: &Layout) {
    let listener =
        TcpListener::bind(layout.at(41, 18081)).expect("the identity provider can listen");
    let set = std::fs::read(layout.file("state/idp/jwks.json")).unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            drop(serve_key_set(tcp, &set));
        }
    });
}

fn serve_key_set(tcp: TcpStream, set: &[u8]) -> std::io::Result<()> {
    let mut stream = BufReader::new(tcp);
    read_request(&mut stream);
    let head = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        set.len()
    );
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(set)
}
