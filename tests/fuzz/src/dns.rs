//! DNS messages: whatever comes, an answer belongs to its question, fits its transport, and names nothing that the mesh
//! does not have.

use std::path::Path;
use std::sync::LazyLock;

use hickory_resolver::proto::op::{Message, MessageType};
use ringgate::config;
use ringgate::config::checked::{Config, DnsUnknown};
use ringgate::control::dns_server::message::{
    Outcome, Transport, belongs, cut, failure, outcome, takes,
};
use ringgate::role::directory::Directory;
use ringgate::role::endpoints::Endpoints;
use ringgate::role::lookup::View;
use ringgate::upstream::resolved::Resolved;
use ringgate::vocab::limits;

const MESH: &str = r#"
[authority]
[mesh]

[[workloadEntry]]
name = "w"
serviceAccount = "w"
address = "10.0.0.1"
labels = { app = "w" }

[[serviceEntry]]
name = "api"
hosts = ["api.default.svc.cluster.local", "*.wild.example"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "w" }

[[serviceEntry]]
name = "partner"
hosts = ["partner.example"]
addresses = ["192.0.2.7", "2001:db8::7"]
ports = [{ number = 443, name = "tls", protocol = "TLS" }]
resolution = "DNS"
"#;

struct World {
    config: Config,
    directory: Directory,
    endpoints: Endpoints,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let files = [("mesh.toml".into(), MESH.to_owned())];
    let config = match config::parse(&files, Path::new("")) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    };
    World {
        directory: Directory::new(&config.mesh),
        endpoints: Endpoints::new(&config.mesh, &Resolved::default(), None),
        config,
    }
});

/// A message as a client or a nameserver sends it.
pub fn run(data: &[u8]) {
    let World {
        config,
        directory,
        endpoints,
    } = &*WORLD;
    let search = ["corp.example".to_owned()];
    let view = View {
        mesh: &config.mesh,
        directory,
        endpoints,
        namespace: Some("default"),
        search: &search,
        now_ms: 0,
        turn: 0,
    };
    for (transport, most) in [
        (Transport::Udp, 1232),
        (Transport::Tcp, limits::DNS_MESSAGE_BYTES),
    ] {
        for unknown in [DnsUnknown::Forward, DnsUnknown::Refuse] {
            let Outcome::Answer(answer) = outcome(&view, unknown, data, transport) else {
                continue;
            };
            assert!(answer.len() <= most, "longer than its transport takes");
            assert_eq!(answer.get(..2), data.get(..2), "the id of another question");
            let read = Message::from_vec(&answer).unwrap_or_else(|e| panic!("unreadable: {e}"));
            assert_eq!(read.metadata.message_type, MessageType::Response);
            assert!(read.answers.len() <= limits::DNS_ADDRESSES);
        }
    }
    if let Some(failed) = failure(data) {
        assert!(Message::from_vec(&failed).is_ok());
    }
    assert!(takes(data) >= 512);
    if let Some(shorter) = cut(data) {
        assert!(Message::from_vec(&shorter).is_ok_and(|m| m.metadata.truncation));
    }
    // No message that is a question is taken for its own answer.
    let is_question = data.get(2).is_some_and(|flags| flags & 0x80 == 0);
    assert!(!(is_question && belongs(data, data)));
}
