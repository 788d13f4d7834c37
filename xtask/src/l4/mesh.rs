//! Configurations of ringgate and nginx for the bench.

use std::net::SocketAddr;
use std::path::Path;

use super::net::{AUTHORITY, CLIENT, MARK, NEIGHBOUR, SERVER, Side};

/// Service accounts, which are workloads and machines by the same name.
const ACCOUNTS: [&str; 3] = ["client", "server", "neighbour"];

/// SPIFFE ID of a service account.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// Join token of a machine. It opens nothing outside the bench's own namespaces.
pub(crate) fn token(machine: &str) -> String {
    format!("join-token-of-the-bench-{machine}")
}

/// The authority's file of join tokens.
pub(crate) fn join_tokens() -> String {
    let line = |account: &str| {
        // The server's machine carries the neighbour as well.
        let ids = match account {
            "server" => format!("{} {}", id("server"), id("neighbour")),
            other => id(other),
        };
        format!("{} {ids}\n", token(account))
    };
    ACCOUNTS.map(line).concat()
}

/// The mesh: workloads, mTLS alone, and one ALLOW policy with two rules for the server.
pub(crate) fn resources() -> String {
    let mut text = String::from(
        r#"[mesh]
trustDomain = "cluster.local"
rootNamespace = "istio-system"
outboundTrafficPolicy = "REGISTRY_ONLY"

[[peerAuthentication]]
name = "default"
namespace = "istio-system"
mtls.mode = "STRICT"

[[authorizationPolicy]]
name = "callers"
namespace = "default"
selector.matchLabels = { app = "server" }
action = "ALLOW"

[[authorizationPolicy.rules]]
from = [{ source.principals = ["cluster.local/ns/default/sa/client"] }]

[[authorizationPolicy.rules]]
from = [{ source.principals = ["cluster.local/ns/default/sa/neighbour"] }]
"#,
    );
    for (name, address) in [
        ("client", CLIENT),
        ("server", SERVER),
        ("neighbour", NEIGHBOUR),
    ] {
        text.push_str(&format!(
            r#"
[[workloadEntry]]
name = "{name}"
namespace = "default"
serviceAccount = "{name}"
address = "{address}"
labels = {{ app = "{name}" }}
"#
        ));
    }
    text
}

/// The authority's process; it writes identity files for peers that do not ask for certificates.
pub(crate) fn authority() -> String {
    let mut text = format!(
        r#"[process]
name = "authority"
cores = 1
meshDir = "../mesh.d"

[records]
path = "log/decisions.jsonl"

[authority]
stateDir = "state"
svidTtl = "24h"
listen = "{AUTHORITY}:15012"
joinTokens = "file:join-tokens"
"#
    );
    for name in ["client", "server"] {
        text.push_str(&format!(
            r#"
[[identityFiles]]
workload = "default/{name}"
dir = "../files/{name}"
audience = "bench"
"#
        ));
    }
    text
}

/// A node's process, with records, metrics and the admin listener; 0 cores are all.
pub(crate) fn node(side: Side, name: &str, cores: usize, sandbox: &str) -> String {
    let workloads: &[_] = match side {
        Side::Client => &[("client", CLIENT, 15001)],
        Side::Server => &[("server", SERVER, 15001), ("neighbour", NEIGHBOUR, 15101)],
    };
    let mut text = format!(
        r#"[process]
name = "{name}"
cores = {cores}
sandbox = "{sandbox}"
meshDir = "../mesh.d"

[records]
path = "log/decisions.jsonl"

[admin]
listen = "127.0.0.1:15000"

[metrics]
listen = "0.0.0.0:15020"

[readiness]
listen = "0.0.0.0:15021"

[identity]
address = "https://{AUTHORITY}:15012"
rootCa = "../authority/state/ca/root.pem"
token = "file:join-token"

[[node]]
name = "{name}"
inbound = ["0.0.0.0:15006"]
mark = {MARK}
"#
    );
    for (workload, address, capture) in workloads {
        text.push_str(&format!(
            r#"
[[node.workload]]
name = "default/{workload}"
hbone = "{address}:15008"
outbound = "127.0.0.1:{capture}"
"#
        ));
    }
    text
}

/// nginx with a body of 100 bytes, in the foreground and as one process, so that it ends with the bench.
pub(crate) fn nginx(listen: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    let body = ".".repeat(100);
    format!(
        r#"daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  server {{
    listen {listen};
    location / {{ return 200 "{body}"; }}
  }}
}}
"#
    )
}
