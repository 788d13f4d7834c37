//! TLS records against rustls and OpenSSL as the peer, and against a peer that has the keys and breaks the rules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test stops at what it did not expect, and its peers are blocking"
)]

mod openssl;
#[path = "../support/tls_pair.rs"]
mod pair;
mod rules;

use std::io::{Read as _, Write as _};

use pair::{Ours, Random, Side, configs, shake};
use ringgate::record::{PAYLOAD_BYTES, RecordError};
use rustls::{Connection, SupportedProtocolVersion};

const SUITES: [(&str, &SupportedProtocolVersion); 6] = [
    ("TLS13_AES_128_GCM_SHA256", &rustls::version::TLS13),
    ("TLS13_AES_256_GCM_SHA384", &rustls::version::TLS13),
    ("TLS13_CHACHA20_POLY1305_SHA256", &rustls::version::TLS13),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        &rustls::version::TLS12,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        &rustls::version::TLS12,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        &rustls::version::TLS12,
    ),
];

/// Both ways, in pieces of any length, to the close_notify of each side.
fn exchange(ours: &mut Ours, peer: &mut Connection, random: &mut Random) {
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    let (mut peer_sent, mut peer_received) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let data = some(random, 3 * PAYLOAD_BYTES);
        let wire = ours.send(&data).unwrap();
        sent.extend(data);
        feed(peer, &wire, random, &mut peer_received);
        if random.below(3) == 0 && peer.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
        {
            peer.refresh_traffic_keys().unwrap();
        }
        let data = some(random, 3 * PAYLOAD_BYTES);
        peer.writer().write_all(&data).unwrap();
        peer_sent.extend(data);
        let mut wire = drain(peer);
        while !wire.is_empty() {
            let n = random.below(wire.len()) + 1;
            received.extend(ours.take(&wire[..n]).unwrap());
            wire.drain(..n);
        }
    }
    assert!(sent == peer_received && received == peer_sent);
    let wire = close(ours);
    feed(peer, &wire, random, &mut peer_received);
    assert!(ours.send(b"more").is_err(), "data after close_notify");
    // The other direction goes on.
    peer.writer().write_all(b"last").unwrap();
    peer.send_close_notify();
    assert_eq!(ours.take(&drain(peer)).unwrap(), b"last");
    assert!(ours.records.peer_closed());
    assert_eq!(ours.take(b"whatever follows").unwrap(), b"");
}

/// Up to `most` bytes, short ones as often as long ones.
fn some(random: &mut Random, most: usize) -> Vec<u8> {
    let most = if random.below(2) == 0 { 64 } else { most };
    let len = random.below(most) + 1;
    (0..=255)
        .cycle()
        .skip(random.below(256))
        .take(len)
        .collect()
}

/// Our close_notify.
fn close(ours: &mut Ours) -> Vec<u8> {
    let mut wire = Vec::new();
    ours.records.close(&mut wire).unwrap();
    wire
}

fn drain(peer: &mut Connection) -> Vec<u8> {
    let mut wire = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut wire).unwrap();
    }
    wire
}

/// Gives rustls bytes in pieces; it must take them for what we meant.
fn feed(peer: &mut Connection, wire: &[u8], random: &mut Random, plain: &mut Vec<u8>) {
    let mut rest = wire;
    while !rest.is_empty() {
        let n = random.below(rest.len()) + 1;
        let mut piece = &rest[..n];
        rest = &rest[n..];
        while !piece.is_empty() {
            peer.read_tls(&mut piece).unwrap();
            peer.process_new_packets().unwrap();
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = peer.reader().read(&mut buf) {
                plain.extend_from_slice(&buf[..n]);
            }
        }
    }
}

#[test]
fn every_suite_in_both_roles() {
    for (n, (suite, version)) in SUITES.into_iter().enumerate() {
        for side in [Side::Client, Side::Server] {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 + n as u64);
            let configs = configs(suite, version, 2);
            let (mut ours, mut peer) = shake(side, &configs, &mut random);
            let met = peer.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(format!("{met:?}"), suite);
            exchange(&mut ours, &mut peer, &mut random);
        }
    }
}

/// Our own key is changed at its limit, as often as that comes.
#[test]
fn keys_are_changed_at_their_limit() {
    for side in [Side::Client, Side::Server] {
        let mut random = Random(7);
        let configs = configs(SUITES[0].0, SUITES[0].1, 0);
        let (mut ours, mut peer) = shake(side, &configs, &mut random);
        ours.records.update_after(5);
        exchange(&mut ours, &mut peer, &mut random);
    }
}

/// Many requests for an update before anything is sent are answered once.
#[test]
fn one_answer_to_many_key_updates() {
    let mut random = Random(8);
    let configs = configs(SUITES[0].0, SUITES[0].1, 0);
    let (mut ours, mut peer) = shake(Side::Server, &configs, &mut random);
    for _ in 0..20 {
        peer.refresh_traffic_keys().unwrap();
        assert_eq!(ours.take(&drain(&mut peer)).unwrap(), b"");
    }
    assert!(ours.records.owes());
    let mut owed = Vec::new();
    ours.records.pay(&mut owed).unwrap();
    assert_eq!(owed.len(), 5 + 5 + 17);
    assert!(!ours.records.owes());
    let mut plain = Vec::new();
    feed(&mut peer, &owed, &mut random, &mut plain);
    feed(
        &mut peer,
        &ours.send(b"hello").unwrap(),
        &mut random,
        &mut plain,
    );
    assert_eq!(plain, b"hello");
}

/// A record that is cut gives nothing, whatever of it is there.
#[test]
fn a_cut_record_gives_nothing() {
    let mut random = Random(9);
    let configs = configs(SUITES[1].0, SUITES[1].1, 0);
    let (mut ours, mut peer) = shake(Side::Server, &configs, &mut random);
    peer.writer().write_all(b"complete or not at all").unwrap();
    let wire = drain(&mut peer);
    for byte in &wire[..wire.len() - 1] {
        assert_eq!(ours.take(&[*byte]).unwrap(), b"");
    }
    assert!(!ours.records.peer_closed());
    let last = &wire[wire.len() - 1..];
    assert_eq!(ours.take(last).unwrap(), b"complete or not at all");
}

/// What may not be read twice, changed or left out cannot be.
#[test]
fn records_are_opened_in_their_order_alone() {
    let mut random = Random(10);
    for (suite, version) in SUITES {
        let configs = configs(suite, version, 0);
        let mut next = || {
            let (ours, mut peer) = shake(Side::Server, &configs, &mut random);
            let mut record = |text: &str| {
                peer.writer().write_all(text.as_bytes()).unwrap();
                drain(&mut peer)
            };
            (ours, record("first"), record("second"))
        };
        let (mut ours, first, second) = next();
        assert!(matches!(ours.take(&second), Err(RecordError::Forged)));
        let (mut twice, again, _) = next();
        assert_eq!(twice.take(&again).unwrap(), b"first");
        assert!(matches!(twice.take(&again), Err(RecordError::Forged)));
        assert_ne!(first, again);
        for at in [1, 2, 5, 13, again.len() - 1] {
            let (mut changed, mut record, _) = next();
            record[at] ^= 1;
            let got = changed.take(&record);
            // TLS 1.2 does not take the version of the header into account, rustls neither.
            let version_alone = version == &rustls::version::TLS12 && at < 3;
            assert!(
                version_alone || matches!(got, Err(RecordError::Forged)),
                "{suite} {at}: {got:?}"
            );
        }
    }
}
