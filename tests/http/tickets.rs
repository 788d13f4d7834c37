//! Sessions that go on at the ingress: a browser that comes again saves the certificate and its signature.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::client::tls_client::client_of;
use crate::system::{Place, System};

crate::both!(a_ticket_of_any_core_is_taken);

/// One exchange on a connection of its own, and what kind of handshake it took.
fn exchange(system: &System, config: &Arc<ClientConfig>) -> HandshakeKind {
    let place = Place::Ingress;
    let name = ServerName::try_from(place.host()).unwrap();
    let tcp = TcpStream::connect(system.layout.at(20, 8443)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    let request = format!(
        "GET /api/probe HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        place.host()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("GET /api/probe\n"),
        "{answer}"
    );
    stream.conn.handshake_kind().unwrap()
}

fn a_ticket_of_any_core_is_taken(system: &System) {
    for version in [&TLS12, &TLS13] {
        let config = client_of(&[version], &["http/1.1"], None, true);
        let resumed = (0..16)
            .filter(|_| exchange(system, &config) == HandshakeKind::Resumed)
            .count();
        assert_eq!(resumed, 15, "{version:?}: all but the first");
        // Another client has no part in it.
        let other = client_of(&[version], &["http/1.1"], None, true);
        assert_eq!(exchange(system, &other), HandshakeKind::Full, "{version:?}");
    }
}
