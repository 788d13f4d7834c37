//! TLS records: whatever a peer that has the keys sends, in whatever pieces, nothing is read that it has not sealed.

use std::sync::OnceLock;

use ringgate::record::protect::{Key, Version};
use rustls::Connection;

#[path = "../../support/tls_pair.rs"]
mod pair;

use pair::{Configs, Ours, Random, Side, configs, shake};

fn of(version: Version) -> &'static Configs {
    static CONFIGS: OnceLock<[Configs; 2]> = OnceLock::new();
    let [tls13, tls12] = CONFIGS.get_or_init(|| {
        [
            configs("TLS13_AES_128_GCM_SHA256", &rustls::version::TLS13, 0),
            configs(
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                &rustls::version::TLS12,
                0,
            ),
        ]
    });
    match version {
        Version::Tls13 => tls13,
        Version::Tls12 => tls12,
    }
}

/// The peer: its key, what it has sealed as data, and whether something that was sent may end that.
struct Peer {
    key: Key,
    sealed: Vec<u8>,
    /// All records so far are data, so all of it must be read.
    honest: bool,
}

impl Peer {
    fn new(connection: Connection, version: Version) -> Self {
        let secrets = connection.dangerous_extract_secrets().expect("secrets");
        Self {
            key: Key::new(version, secrets.tx).expect("a known suite"),
            sealed: Vec::new(),
            honest: true,
        }
    }

    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let start = self.key.head_bytes();
        let end = start + payload.len();
        let mut record = vec![0; end + self.key.tail_bytes()];
        record[start..end].copy_from_slice(payload);
        let sealed = self.key.seal(&mut record, start..end, kind);
        assert_eq!(sealed.expect("room"), 0..record.len());
        record
    }
}

/// Two bytes choose version, side and the pieces; then steps: an operation, a length, so many bytes.
pub fn run(data: &[u8]) {
    let Some(([first, seed], mut steps)) = data.split_first_chunk::<2>() else {
        return;
    };
    let version = if first & 1 == 0 {
        Version::Tls13
    } else {
        Version::Tls12
    };
    let side = if first & 2 == 0 {
        Side::Server
    } else {
        Side::Client
    };
    let (mut ours, connection) = shake(side, of(version), &mut Random(1));
    let mut peer = Peer::new(connection, version);
    let mut pieces = Random(u64::from(*seed) + 1);
    let mut read = Vec::new();
    let mut failed = false;
    while let Some(([op, len], rest)) = steps.split_first_chunk::<2>() {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        steps = rest;
        let wire = wire(&mut peer, *op, payload);
        let outcome = take(&mut ours, &wire, &mut pieces, &mut read);
        failed = outcome.is_err();
        assert!(peer.sealed.starts_with(&read), "read what nobody sealed");
        if failed {
            break;
        }
    }
    if peer.honest {
        assert!(!failed, "refused what is right");
        assert_eq!(read, peer.sealed, "data is missing");
    }
    answer(&mut ours);
}

/// One step of the peer, on the wire.
fn wire(peer: &mut Peer, op: u8, payload: &[u8]) -> Vec<u8> {
    let data = |peer: &mut Peer| {
        peer.sealed.extend_from_slice(payload);
        // So many records without data are an error of their own.
        peer.honest &= !payload.is_empty();
        peer.seal(23, payload)
    };
    match op % 8 {
        0..=3 => data(peer),
        4 => {
            peer.honest = false;
            peer.seal(22, payload)
        }
        5 => {
            peer.honest = false;
            peer.seal(21, payload)
        }
        6 => {
            peer.honest = false;
            payload.to_vec()
        }
        _ => {
            // Sealed, and changed on its way.
            let mut record = data(peer);
            peer.honest = false;
            let at = usize::from(op >> 3) % record.len();
            record[at] ^= 1;
            record
        }
    }
}

fn take(
    ours: &mut Ours,
    wire: &[u8],
    pieces: &mut Random,
    read: &mut Vec<u8>,
) -> Result<(), ringgate::record::RecordError> {
    let mut rest = wire;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.below(rest.len()) + 1);
        rest = later;
        read.extend(ours.take(piece)?);
    }
    Ok(())
}

/// What is owed can be paid, and data follows.
fn answer(ours: &mut Ours) {
    let wire = ours.send(b"answer").expect("it can be sealed");
    assert!(wire.len() >= b"answer".len() + 16);
    assert!(!ours.records.owes());
}
