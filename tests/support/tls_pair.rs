//! Two ends of a TLS connection in memory: ours, and rustls's buffered one.

use std::sync::{Arc, OnceLock};

use ringgate::record::{Handshake, Hello, Progress, Received, RecordError, Records};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

/// Which end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We are the client.
    Client,
    /// We are the server.
    Server,
}

/// A seeded xorshift generator.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n.max(1)).expect("a length")).expect("below n")
    }
}

/// Certificate and key of the server.
#[derive(Debug)]
pub struct Identity {
    /// Signed by itself.
    pub certificate: CertificateDer<'static>,
    /// In DER.
    pub key: Vec<u8>,
}

/// Name in the certificate.
pub const NAME: &str = "peer.example";

/// The one of this process.
pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate is made");
        Identity {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    })
}

/// Configurations of both ends.
#[derive(Clone, Debug)]
pub struct Configs {
    /// Of the client.
    pub client: Arc<ClientConfig>,
    /// Of the server.
    pub server: Arc<ServerConfig>,
}

/// For one suite, by rustls's name of it.
pub fn configs(suite: &str, version: &'static SupportedProtocolVersion, tickets: usize) -> Configs {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .copied()
            .filter(|s| format!("{:?}", s.suite()) == suite)
            .collect(),
        ..aws_lc_rs::default_provider()
    });
    let identity = identity();
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).expect("a root");
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let key = PrivateKeyDer::try_from(identity.key.clone()).expect("a key");
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)
        .expect("a certificate and its key");
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = tickets;
    Configs {
        client: Arc::new(client),
        server: Arc::new(server),
    }
}

/// Our end.
#[derive(Debug)]
pub struct Ours {
    /// The records.
    pub records: Records,
    inbox: Vec<u8>,
}

impl Ours {
    /// From the end of a handshake.
    pub fn new(records: Records, early: Vec<u8>) -> Self {
        Self {
            records,
            inbox: early,
        }
    }

    /// Takes bytes from the wire; the data that they complete.
    pub fn take(&mut self, wire: &[u8]) -> Result<Vec<u8>, RecordError> {
        self.inbox.extend_from_slice(wire);
        let mut data = Vec::new();
        while !self.records.peer_closed()
            && let Some(length) = self.records.length(&self.inbox)?
            && length <= self.inbox.len()
        {
            let mut record: Vec<u8> = self.inbox.drain(..length).collect();
            if let Received::Data(at) = self.records.open(&mut record)? {
                data.extend_from_slice(&record[at]);
            }
        }
        Ok(data)
    }

    /// Seals data, and before it what is owed.
    pub fn send(&mut self, data: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut wire = Vec::new();
        for (n, piece) in data.chunks(ringgate::record::PAYLOAD_BYTES).enumerate() {
            self.records.pay(&mut wire)?;
            let (head, tail) = self.records.room();
            let start = wire.len() + head;
            let end = start + piece.len();
            wire.resize(end + tail, 0);
            // Both ways of sealing, by turns.
            if n % 2 == 0 {
                self.records.seal_from(&mut wire, start, piece)?;
            } else {
                wire[start..end].copy_from_slice(piece);
                self.records.seal(&mut wire, start..end)?;
            }
        }
        Ok(wire)
    }
}

/// Our end of a handshake under way.
enum Start {
    Hello(Option<Hello>),
    Handshake(Handshake),
}

/// Makes a handshake in pieces of any length.
pub fn shake(side: Side, configs: &Configs, random: &mut Random) -> (Ours, Connection) {
    let name = ServerName::try_from(NAME).expect("a name");
    let (mut start, mut peer) = match side {
        Side::Client => {
            let ours = Handshake::client(Arc::clone(&configs.client), name).expect("a client");
            let peer = ServerConnection::new(Arc::clone(&configs.server)).expect("a server");
            (Start::Handshake(ours), Connection::from(peer))
        }
        Side::Server => {
            let peer = ClientConnection::new(Arc::clone(&configs.client), name).expect("a client");
            (Start::Hello(Some(Hello::default())), Connection::from(peer))
        }
    };
    let mut wire: Vec<u8> = Vec::new();
    for _ in 0..100_000 {
        let mut done = false;
        let mut out = Vec::new();
        if let Start::Handshake(ours) = &mut start {
            done = ours.advance().expect("a handshake") == Progress::Done;
            out = ours.take_output();
        }
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            peer.read_tls(&mut rest).expect("room");
            peer.process_new_packets().expect("a handshake");
        }
        while peer.wants_write() {
            peer.write_tls(&mut wire).expect("room");
        }
        if done {
            let Start::Handshake(ours) = start else {
                panic!("done before it began");
            };
            assert!(!peer.is_handshaking());
            let (records, early) = ours.finish().expect("traffic keys");
            let mut ours = Ours::new(records, early);
            assert_eq!(ours.take(&wire).expect("tickets at most"), b"");
            return (ours, peer);
        }
        let n = random.below(wire.len() + 1);
        let piece: Vec<u8> = wire.drain(..n).collect();
        match &mut start {
            Start::Hello(hello) => {
                let mut taken = hello.take().expect("it is put back");
                start = match taken.feed(&piece).expect("a hello") {
                    Some(wanted) => {
                        assert_eq!(wanted.sni.as_deref(), Some(NAME));
                        let config = Arc::clone(&configs.server);
                        Start::Handshake(taken.answer(config).expect("a server"))
                    }
                    None => Start::Hello(Some(taken)),
                };
            }
            Start::Handshake(ours) => ours.feed(&piece).expect("room"),
        }
    }
    panic!("the handshake does not end");
}
