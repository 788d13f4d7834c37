//! A peer that has the keys and breaks the rules: each breach has its error and its alert.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ringgate::record::protect::{Key, Version};
use ringgate::record::{PAYLOAD_BYTES, RecordError};
use rustls::ConnectionTrafficSecrets;

use crate::pair::{Configs, Ours, Random, Side, configs, shake};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CLOSE: &[u8] = &[1, 0];
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// Our end, and the peer's key in other hands.
struct Wrong {
    ours: Ours,
    key: Key,
    aead: LessSafeKey,
    iv: [u8; 12],
}

fn suite(version: Version) -> Configs {
    match version {
        Version::Tls13 => configs("TLS13_AES_128_GCM_SHA256", &rustls::version::TLS13, 0),
        Version::Tls12 => configs(
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            &rustls::version::TLS12,
            0,
        ),
    }
}

impl Wrong {
    fn new(side: Side, version: Version) -> Self {
        let (ours, peer) = shake(side, &suite(version), &mut Random(3));
        let (sequence, secret) = peer.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = &secret else {
            panic!("another suite");
        };
        let aead = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        let key = Key::new(version, (sequence, secret)).unwrap();
        Self {
            ours,
            key,
            aead,
            iv,
        }
    }

    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let head = self.key.head_bytes();
        let mut record = vec![0; head + payload.len() + self.key.tail_bytes()];
        record[head..head + payload.len()].copy_from_slice(payload);
        self.key
            .seal(&mut record, head..head + payload.len(), kind)
            .unwrap();
        record
    }

    /// A first record of TLS 1.3 with exactly this inside.
    fn seal_raw(&mut self, inner: &[u8]) -> Vec<u8> {
        assert_eq!(self.key.sequence(), 0);
        let [high, low] = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let mut body = inner.to_vec();
        let nonce = Nonce::assume_unique_for_key(self.iv);
        self.aead
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut body)
            .unwrap();
        [&header, body.as_slice()].concat()
    }
}

/// Sealed records one after the other; the data that was read, or the alert of the error.
fn check(side: Side, version: Version, records: &[(u8, &[u8])]) -> Result<Vec<u8>, Option<u8>> {
    let mut wrong = Wrong::new(side, version);
    let mut data = Vec::new();
    for (kind, payload) in records {
        let wire = wrong.seal(*kind, payload);
        data.extend(wrong.ours.take(&wire).map_err(|e| e.alert())?);
    }
    Ok(data)
}

const UNEXPECTED: Result<Vec<u8>, Option<u8>> = Err(Some(10));
const ILLEGAL: Result<Vec<u8>, Option<u8>> = Err(Some(47));
const MALFORMED: Result<Vec<u8>, Option<u8>> = Err(Some(50));
const PEERS_OWN: Result<Vec<u8>, Option<u8>> = Err(None);

fn data(text: &str) -> Result<Vec<u8>, Option<u8>> {
    Ok(text.as_bytes().to_vec())
}

#[test]
fn messages_after_the_handshake() {
    use Side::{Client, Server};
    let check = |side, records: &[(u8, &[u8])]| check(side, Version::Tls13, records);
    // RFC 8446 section 5.1: no empty fragments of messages, no other records between them, none of unknown type.
    assert_eq!(check(Server, &[(HANDSHAKE, b"")]), UNEXPECTED);
    assert_eq!(check(Server, &[(ALERT, b"")]), MALFORMED);
    assert_eq!(
        check(Server, &[(HANDSHAKE, &[24, 0]), (DATA, b"x")]),
        UNEXPECTED
    );
    assert_eq!(check(Server, &[(20, &[1])]), UNEXPECTED);
    assert_eq!(check(Server, &[(24, b"heartbeat")]), UNEXPECTED);
    // Section 4.6.3: a value of 0 or 1, and nothing behind it in its record.
    let fragments: [(u8, &[u8]); 3] = [
        (HANDSHAKE, &[24, 0]),
        (HANDSHAKE, &[0, 1]),
        (HANDSHAKE, &[1]),
    ];
    assert_eq!(check(Server, &fragments), data(""));
    assert_eq!(check(Server, &[(HANDSHAKE, &[24, 0, 0, 1, 2])]), ILLEGAL);
    assert_eq!(
        check(Server, &[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])]),
        MALFORMED
    );
    let two = [KEY_UPDATE, KEY_UPDATE].concat();
    assert_eq!(check(Server, &[(HANDSHAKE, &two)]), UNEXPECTED);
    // A ticket is for clients, a certificate request for nobody: post-handshake authentication is not offered.
    let ticket = [4, 0, 0, 3, 0, 0, 0];
    assert_eq!(check(Server, &[(HANDSHAKE, &ticket)]), UNEXPECTED);
    assert_eq!(check(Client, &[(HANDSHAKE, &ticket)]), Err(Some(80)));
    assert_eq!(check(Client, &[(HANDSHAKE, &[13, 0, 0, 0])]), UNEXPECTED);
    assert_eq!(check(Server, &[(HANDSHAKE, &[1, 0, 0, 0])]), UNEXPECTED);
    // Longer than any ticket.
    assert_eq!(check(Client, &[(HANDSHAKE, &[4, 1, 0, 1])]), MALFORMED);
}

#[test]
fn alerts() {
    let check = |records: &[(u8, &[u8])]| check(Side::Server, Version::Tls13, records);
    assert_eq!(check(&[(ALERT, &[1])]), MALFORMED);
    assert_eq!(check(&[(ALERT, &[1, 0, 0])]), MALFORMED);
    assert_eq!(check(&[(ALERT, &[2, 40])]), PEERS_OWN);
    // The level says nothing.
    assert_eq!(check(&[(ALERT, &[1, 40])]), PEERS_OWN);
    assert_eq!(check(&[(ALERT, &[1, 90]), (DATA, b"x")]), data("x"));
    assert_eq!(
        check(&[(DATA, b"x"), (ALERT, CLOSE), (DATA, b"y")]),
        data("x")
    );
}

#[test]
fn records_without_data_are_bounded() {
    let empty: (u8, &[u8]) = (DATA, b"");
    let full: (u8, &[u8]) = (DATA, b"x");
    for version in [Version::Tls13, Version::Tls12] {
        let check = |records: &[(u8, &[u8])]| check(Side::Server, version, records);
        assert_eq!(check(&[empty; 33]), UNEXPECTED);
        let some = [[empty; 32].as_slice(), &[full], &[empty; 32]].concat();
        assert_eq!(check(&some), data("x"));
    }
    let (mut ours, mut peer) = shake(Side::Server, &suite(Version::Tls13), &mut Random(4));
    let mut outcome = Ok(Vec::new());
    for _ in 0..33 {
        assert!(matches!(&outcome, Ok(data) if data.is_empty()));
        peer.refresh_traffic_keys().unwrap();
        let mut wire = Vec::new();
        peer.write_tls(&mut wire).unwrap();
        outcome = ours.take(&wire);
    }
    assert!(matches!(outcome, Err(RecordError::Flood)));
}

#[test]
fn lengths_and_padding() {
    let new = || Wrong::new(Side::Server, Version::Tls13);
    let mut wrong = new();
    let padded = wrong.seal_raw(b"data\x17\0\0\0\0");
    assert_eq!(wrong.ours.take(&padded).unwrap(), b"data");
    let mut wrong = new();
    let nothing = wrong.seal_raw(&[0; 100]);
    let got = wrong.ours.take(&nothing);
    assert!(matches!(got, Err(RecordError::Unexpected(0))));
    // The longest plaintext, with its type; padding beyond it is too long (RFC 8446 section 5.4).
    let mut wrong = new();
    let mut most = vec![1; PAYLOAD_BYTES];
    most.push(DATA);
    let record = wrong.seal_raw(&most);
    assert_eq!(wrong.ours.take(&record).unwrap().len(), PAYLOAD_BYTES);
    let mut wrong = new();
    most.push(0);
    let record = wrong.seal_raw(&most);
    let got = wrong.ours.take(&record);
    assert!(matches!(got, Err(RecordError::TooLong)));
    // The header tells already.
    let mut wrong = new();
    let [high, low] = u16::try_from(PAYLOAD_BYTES + 257).unwrap().to_be_bytes();
    let got = wrong.ours.take(&[DATA, 3, 3, high, low]);
    assert!(matches!(got, Err(RecordError::TooLong)));
    // Shorter than its tag.
    for len in 0..17 {
        let got = new()
            .ours
            .take(&[&[DATA, 3, 3, 0, len], vec![0; usize::from(len)].as_slice()].concat());
        assert!(matches!(got, Err(RecordError::Forged)), "{len}: {got:?}");
    }
}

#[test]
fn nothing_unsealed_is_taken() {
    for first in [0, 20, 21, 22, 24, b'G'] {
        let got = Wrong::new(Side::Client, Version::Tls13).ours.take(&[first]);
        assert!(matches!(got, Err(RecordError::Unexpected(n)) if n == first));
    }
    let got = Wrong::new(Side::Client, Version::Tls12).ours.take(&[20]);
    assert!(matches!(got, Err(RecordError::Unexpected(20))));
}

#[test]
fn tls12_does_not_begin_anew() {
    let check = |side, records: &[(u8, &[u8])]| check(side, Version::Tls12, records);
    let request: &[(u8, &[u8])] = &[(HANDSHAKE, &[0, 0, 0, 0]), (DATA, b"x")];
    assert_eq!(check(Side::Client, request), data("x"));
    assert_eq!(check(Side::Server, request), Err(Some(100)));
    assert_eq!(
        check(Side::Server, &[(HANDSHAKE, &[1, 0, 0, 0])]),
        Err(Some(100))
    );
    // Warnings are only warnings there.
    assert_eq!(
        check(Side::Server, &[(ALERT, &[1, 100]), (DATA, b"x")]),
        data("x")
    );
    assert_eq!(check(Side::Server, &[(ALERT, &[2, 20])]), PEERS_OWN);
}

/// What cannot be sealed is an error before it is one for the peer.
#[test]
fn sealing_keeps_the_rules() {
    let mut wrong = Wrong::new(Side::Server, Version::Tls13);
    let records = &mut wrong.ours.records;
    let (head, tail) = records.room();
    let mut block = vec![0; head + 10 + tail];
    let misused =
        |got: Result<std::ops::Range<usize>, RecordError>| matches!(got, Err(RecordError::Misused));
    assert!(misused(records.seal(&mut block, head - 1..head + 10)));
    assert!(misused(records.seal(&mut block, head..head + 11)));
    let mut long = vec![0; head + PAYLOAD_BYTES + 1 + tail];
    assert!(misused(
        records.seal(&mut long, head..head + PAYLOAD_BYTES + 1)
    ));
    assert_eq!(
        records.seal(&mut block, head..head + 10).unwrap(),
        0..block.len()
    );
    // An answer that is owed comes first.
    let update = wrong.seal(HANDSHAKE, &[24, 0, 0, 1, 1]);
    assert_eq!(wrong.ours.take(&update).unwrap(), b"");
    let records = &mut wrong.ours.records;
    assert!(misused(records.seal(&mut block, head..head + 10)));
    records.pay(&mut Vec::new()).unwrap();
    records.seal(&mut block, head..head + 10).unwrap();
}
