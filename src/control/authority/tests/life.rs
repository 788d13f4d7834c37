//! Join tokens, nodes, revocations and the rotation of the root, by a clock of the test's own.

use super::*;
use crate::control::authority::control::{Command, perform};
use crate::control::authority::join::JoinError;
use crate::identity::leaf;
use crate::identity::revocation::Serial;

const HOUR: Duration = Duration::from_secs(3600);
const LIVES: (Duration, Duration) = (HOUR, HOUR);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn memory() -> Authority {
    Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap()
}

fn grant() -> Vec<String> {
    vec![frontend().to_string(), "dns:api.test".to_owned()]
}

fn token(authority: &Authority) -> String {
    authority
        .create_token(&node("vm-1"), grant(), HOUR, at(NOW))
        .unwrap()
        .1
}

/// A request for `uri` by `key`.
fn request(uri: &str, key: &KeyPair, dns: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    for name in dns {
        let name = (*name).try_into().unwrap();
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.serialize_request(key).unwrap().pem().unwrap()
}

const OWN: &str = "spiffe://cluster.local/ringgate/node/vm-1";
const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend-service";

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// What was signed is good, and says for which node.
fn is_good(authority: &Authority, (id, chain): &join::Signed, now: u64) {
    let verified = verify_svid(chain, &authority.bundles(), at(now), Usage::Client);
    assert_eq!(verified.as_ref(), Ok(id));
    assert_eq!(leaf::peer(&chain[0]).unwrap().node, Some(node("vm-1")));
}

fn join(authority: &Authority, token: &str, csr: &str, now: u64) -> Result<SpiffeId, JoinError> {
    let signed = authority.join(token, csr, HOUR, at(now))?;
    is_good(authority, &signed, now);
    Ok(signed.0)
}

#[test]
fn a_token_is_used_once() {
    let authority = memory();
    let (text, first) = (token(&authority), key());
    let csr = request(OWN, &first, &[]);
    assert_eq!(join(&authority, &text, &csr, NOW).unwrap().as_str(), OWN);
    // The answer was lost: the same key gets it again, any other does not.
    assert!(join(&authority, &text, &csr, NOW + 5).is_ok());
    let other = request(OWN, &key(), &[]);
    let again = join(&authority, &text, &other, NOW + 5);
    assert!(matches!(again, Err(JoinError::Used)), "{again:?}");
    let refused = authority
        .ledger
        .data()
        .tokens
        .values()
        .next()
        .unwrap()
        .refused;
    assert_eq!(refused, 1, "the second use is not recorded");
    let late = join(&authority, &text, &csr, NOW + 3600);
    assert!(matches!(late, Err(JoinError::Expired)), "{late:?}");
}

/// A node that was removed is not one again by the token that made it one.
#[test]
fn a_removed_node_needs_a_new_token() {
    let authority = memory();
    let (text, first) = (token(&authority), key());
    let csr = request(OWN, &first, &[]);
    join(&authority, &text, &csr, NOW).unwrap();
    authority.remove_node(&node("vm-1")).unwrap();
    let again = join(&authority, &text, &csr, NOW + 5);
    assert!(matches!(again, Err(JoinError::Used)), "{again:?}");
    let other = token(&authority);
    join(&authority, &other, &csr, NOW + 6).unwrap();
    // The first token is not the one that it joined by.
    let again = join(&authority, &text, &csr, NOW + 7);
    assert!(matches!(again, Err(JoinError::Used)), "{again:?}");
    assert!(join(&authority, &other, &csr, NOW + 7).is_ok());
}

#[test]
fn a_token_is_good_for_its_node_alone() {
    let authority = memory();
    let text = token(&authority);
    let wrong = [
        request(FRONTEND, &key(), &[]),
        request("spiffe://cluster.local/ringgate/node/vm-2", &key(), &[]),
        request(OWN, &key(), &["api.test"]),
    ];
    for csr in &wrong {
        let refused = join(&authority, &text, csr, NOW);
        assert!(matches!(refused, Err(JoinError::OtherId(_))), "{refused:?}");
    }
    let refused = join(&authority, "0123456789abcdef", &wrong[0], NOW);
    assert!(matches!(refused, Err(JoinError::Unknown)), "{refused:?}");
    // None of that has used it up.
    assert!(join(&authority, &text, &request(OWN, &key(), &[]), NOW).is_ok());
}

#[test]
fn a_revoked_or_expired_token_is_refused() {
    let authority = memory();
    let (name, text) = authority
        .create_token(&node("vm-1"), grant(), HOUR, at(NOW))
        .unwrap();
    let csr = request(OWN, &key(), &[]);
    let late = join(&authority, &text, &csr, NOW + 3600);
    assert!(matches!(late, Err(JoinError::Expired)), "{late:?}");
    authority.revoke_token(&name, at(NOW)).unwrap();
    let revoked = join(&authority, &text, &csr, NOW);
    assert!(matches!(revoked, Err(JoinError::Revoked)), "{revoked:?}");
    assert!(matches!(
        authority.revoke_token("none", at(NOW)),
        Err(LedgerError::NoToken(_))
    ));
}

#[test]
fn a_node_gets_what_it_was_granted() {
    let authority = memory();
    let text = token(&authority);
    let sign = |node_name: &str, csr: &str| {
        authority
            .sign_for_node(&node(node_name), csr, LIVES, at(NOW))
            .map(|(id, _chain)| id)
    };
    let wanted = request(FRONTEND, &key(), &["api.test"]);
    assert!(matches!(sign("vm-1", &wanted), Err(JoinError::NoNode(_))));
    join(&authority, &text, &request(OWN, &key(), &[]), NOW).unwrap();
    assert_eq!(sign("vm-1", &wanted).unwrap(), frontend());
    assert_eq!(
        sign("vm-1", &request(OWN, &key(), &[])).unwrap().as_str(),
        OWN
    );
    for (uri, names) in [
        ("spiffe://cluster.local/ns/default/sa/other", [].as_slice()),
        (OWN, &["api.test"]),
        ("spiffe://cluster.local/ringgate/node/vm-2", &[]),
    ] {
        let refused = sign("vm-1", &request(uri, &key(), names));
        let not_granted = matches!(refused, Err(JoinError::Issue(IssueError::NotGranted(_))));
        assert!(not_granted, "{uri}: {refused:?}");
    }
    // A name beyond the grant is left out, so that it costs no identity.
    let more = request(FRONTEND, &key(), &["api.test", "other.test"]);
    let signed = authority.sign_for_node(&node("vm-1"), &more, LIVES, at(NOW));
    let (_, leaf) = X509Certificate::from_der(&signed.as_ref().unwrap().1[0]).unwrap();
    let names = format!(
        "{:?}",
        leaf.subject_alternative_name().unwrap().unwrap().value
    );
    assert!(
        names.contains("api.test") && !names.contains("other.test"),
        "{names}"
    );
    authority.remove_node(&node("vm-1")).unwrap();
    assert!(matches!(sign("vm-1", &wanted), Err(JoinError::NoNode(_))));
}

#[test]
fn grants_are_named() {
    let authority = memory();
    let create = |words: &[&str]| {
        let words = words.iter().map(|&w| w.to_owned()).collect();
        authority.create_token(&node("vm-1"), words, HOUR, at(NOW))
    };
    assert!(matches!(create(&[]), Err(LedgerError::NoGrant)));
    assert!(matches!(create(&["dns:a.test"]), Err(LedgerError::NoGrant)));
    for word in [
        "spiffe://cluster.local/ns/*",
        "*",
        OWN,
        "spiffe://cluster.local",
        "dns:",
    ] {
        let refused = create(&[FRONTEND, word]);
        assert!(matches!(refused, Err(LedgerError::Grant(_))), "{word}");
    }
    // A token of the file that may ask for everything may not ask for what a node is.
    let all = JoinTokens::parse("0123456789abcdef spiffe://cluster.local/*").unwrap();
    let held = all.grant("0123456789abcdef").unwrap();
    let refused = authority.sign_csr(&request(OWN, &key(), &[]), held, HOUR, at(NOW));
    assert!(matches!(refused, Err(IssueError::NotGranted(_))));
}

#[test]
fn what_is_revoked_is_not_issued_and_can_be_undone() {
    let authority = memory();
    join(
        &authority,
        &token(&authority),
        &request(OWN, &key(), &[]),
        NOW,
    )
    .unwrap();
    let news = authority.subscribe();
    let (_, chain) = authority
        .sign_for_node(
            &node("vm-1"),
            &request(FRONTEND, &key(), &[]),
            LIVES,
            at(NOW),
        )
        .unwrap();
    let peer = leaf::peer(&chain[0]).unwrap();
    let targets = [
        (Target::Serial(peer.serial.clone()), false),
        (Target::Id(frontend()), true),
        (Target::Node(node("vm-1")), true),
    ];
    for (target, barred) in targets {
        let before = news.borrow().version.clone();
        authority.revoke(&target, "leaked", at(NOW)).unwrap();
        assert_ne!(news.borrow().version, before, "{target} is not told");
        assert_eq!(authority.revocations().of(&peer), Some(target.clone()));
        let signed = authority.sign_for_node(
            &node("vm-1"),
            &request(FRONTEND, &key(), &[]),
            LIVES,
            at(NOW),
        );
        assert_eq!(signed.is_err(), barred, "{target}");
        authority.unrevoke(&target).unwrap();
        assert_eq!(news.borrow().version, before);
        assert!(matches!(
            authority.unrevoke(&target),
            Err(LedgerError::NotRevoked(_))
        ));
    }
    authority
        .revoke(&Target::Id(frontend()), "", at(NOW))
        .unwrap();
    let refused = authority.issue(&frontend(), &[], HOUR, at(NOW));
    assert!(matches!(refused, Err(IssueError::Barred(_))));
    // It would be listed, and match nobody.
    let whole = authority.revoke(&Target::Id(id("spiffe://cluster.local")), "", at(NOW));
    assert!(matches!(whole, Err(LedgerError::Domain(_))), "{whole:?}");
    let long = "x".repeat(crate::vocab::limits::REASON_BYTES + 1);
    assert!(matches!(
        authority.revoke(&Target::Serial(Serial::of_bytes(&[1])), &long, at(NOW)),
        Err(LedgerError::Reason)
    ));
}

/// The SVID that `authority` issues at `now`.
fn issued(authority: &Authority, now: u64) -> Svid {
    authority
        .issue(&frontend(), &[], Duration::from_secs(DAY), at(now))
        .unwrap()
}

fn verifies(svid: &Svid, authority: &Authority, now: u64) -> bool {
    verify_svid(&svid.chain, &authority.bundles(), at(now), Usage::Server).is_ok()
}

#[test]
fn a_root_is_trusted_before_it_signs_and_leaves_after_what_it_signed() {
    let dir = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(DAY);
    let mut authority = open(dir.path(), NOW).unwrap();
    let first = issued(&authority, NOW);
    assert!(matches!(
        authority.rotate_root(HOUR, at(NOW)),
        Err(RotateError::Overlap(_))
    ));
    let rotation = authority.rotate_root(day, at(NOW)).unwrap();
    assert_eq!(
        (rotation.activates, rotation.retires),
        (NOW + DAY, NOW + 2 * DAY)
    );
    assert!(matches!(
        authority.rotate_root(day, at(NOW)),
        Err(RotateError::UnderWay(_))
    ));
    let both = authority.roots();
    assert_eq!(both.len(), 2);
    let known = |roots: &[CertificateDer<'static>], svid: &Svid, now: u64| {
        let bundles = TrustBundles::of(&domain("cluster.local"), roots).unwrap();
        verify_svid(&svid.chain, &bundles, at(now), Usage::Client).is_ok()
    };
    // Until the hour has come the old root signs, over a restart too.
    let last = issued(&authority, NOW + DAY - 1);
    assert!(known(&both[..1], &last, NOW + DAY - 1));
    drop(authority);
    authority = open(dir.path(), NOW + DAY - 1).unwrap();
    assert_eq!(authority.roots(), both);
    assert_eq!(
        authority.step_rotation(at(NOW + DAY - 1)).unwrap(),
        Some(at(NOW + DAY))
    );
    assert_eq!(authority.signing_root(), 1);
    // Then the new one does, and both are trusted.
    assert_eq!(
        authority.step_rotation(at(NOW + DAY)).unwrap(),
        Some(at(NOW + 2 * DAY))
    );
    assert_eq!(authority.signing_root(), 2);
    let second = issued(&authority, NOW + DAY);
    assert!(known(&both[1..], &second, NOW + DAY) && !known(&both[..1], &second, NOW + DAY));
    assert!(verifies(&last, &authority, NOW + DAY) && verifies(&second, &authority, NOW + DAY));
    drop(authority);
    authority = open(dir.path(), NOW + DAY).unwrap();
    assert_eq!(authority.signing_root(), 2);
    // At the end nothing of the old one is left, and nothing that it signed is still valid.
    assert_eq!(authority.step_rotation(at(NOW + 2 * DAY)).unwrap(), None);
    assert_eq!(authority.roots(), both[1..]);
    assert!(last.not_after.as_secs() < NOW + 2 * DAY && first.not_after < last.not_after);
    for name in ["root.pem", "root-key.pem", "issuing.pem"] {
        assert!(!state(dir.path(), name).exists(), "{name}");
    }
    drop(authority);
    authority = open(dir.path(), NOW + 2 * DAY).unwrap();
    assert_eq!(authority.roots(), both[1..]);
    assert!(authority.rotate_root(day, at(NOW + 2 * DAY)).is_ok());
}

#[test]
fn a_rotation_that_slept_over_its_end_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), NOW).unwrap();
    let day = Duration::from_secs(DAY);
    authority.rotate_root(day, at(NOW)).unwrap();
    drop(authority);
    let authority = open(dir.path(), NOW + 10 * DAY).unwrap();
    assert_eq!(authority.step_rotation(at(NOW + 10 * DAY)).unwrap(), None);
    assert_eq!((authority.signing_root(), authority.roots().len()), (2, 1));
}

#[test]
fn the_ledger_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), NOW).unwrap();
    let text = token(&authority);
    let first = key();
    join(&authority, &text, &request(OWN, &first, &[]), NOW).unwrap();
    let target = Target::Node(node("vm-2"));
    authority.revoke(&target, "lost", at(NOW)).unwrap();
    drop(authority);
    let again = open(dir.path(), NOW + 1).unwrap();
    assert!(again.revocations().has(&target));
    let other = join(&again, &text, &request(OWN, &key(), &[]), NOW + 1);
    assert!(matches!(other, Err(JoinError::Used)), "{other:?}");
    let same = join(&again, &text, &request(OWN, &first, &[]), NOW + 1);
    assert!(same.is_ok(), "{same:?}");
    let kept = durable_text(&state(dir.path(), "ledger.json"));
    assert!(!kept.contains(&text), "the token itself is on disk");
    drop(again);
    fs::remove_file(state(dir.path(), "ledger.json")).unwrap();
    fs::write(state(dir.path(), "ledger.json"), "{").unwrap();
    assert!(matches!(
        open(dir.path(), NOW),
        Err(AuthorityError::Ledger(_))
    ));
}

/// A ledger that is gone says nothing of what was revoked: it is not taken for an empty one.
#[test]
fn a_lost_ledger_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), NOW).unwrap();
    let roots = authority.roots();
    drop(authority);
    let path = state(dir.path(), "ledger.json");
    let lost = |now| {
        fs::remove_file(&path).unwrap();
        let opened = open(dir.path(), now).map(|_authority| ());
        assert!(
            matches!(opened, Err(AuthorityError::NoLedger(_))),
            "{opened:?}"
        );
    };
    lost(NOW);
    let anew = |now| ledger::make_anew(dir.path(), Duration::from_secs(DAY), at(now));
    anew(NOW).unwrap();
    let there = anew(NOW);
    assert!(
        matches!(there, Err(AuthorityError::LedgerThere(_))),
        "{there:?}"
    );
    let authority = open(dir.path(), NOW).unwrap();
    assert_eq!(authority.roots(), roots);
    // In the middle of a rotation: neither root is forgotten, and the rotation goes on.
    authority
        .rotate_root(Duration::from_secs(DAY), at(NOW))
        .unwrap();
    authority.step_rotation(at(NOW + DAY)).unwrap();
    let both = authority.roots();
    drop(authority);
    let now = NOW + DAY + 10;
    lost(now);
    anew(now).unwrap();
    let authority = open(dir.path(), now).unwrap();
    assert_eq!(authority.roots(), both);
    assert_eq!(
        authority.step_rotation(at(now)).unwrap(),
        Some(at(now + DAY))
    );
    assert_eq!(authority.step_rotation(at(now + 2 * DAY)).unwrap(), None);
    assert_eq!(
        (authority.signing_root(), authority.roots()),
        (2, both[1..].to_vec())
    );
    drop(authority);
    // Afterwards the root that is left has another number.
    lost(now + 2 * DAY);
    anew(now + 2 * DAY).unwrap();
    let authority = open(dir.path(), now + 2 * DAY).unwrap();
    assert_eq!(
        (authority.signing_root(), authority.roots()),
        (2, both[1..].to_vec())
    );
}

/// What could not be loaded again is refused while it can be.
#[test]
fn a_ledger_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), NOW).unwrap();
    let most = usize::try_from(crate::vocab::limits::LEDGER_BYTES).unwrap();
    let entry = ledger::NodeEntry {
        grant: vec!["x".repeat(most / 2); 3],
        joined: NOW,
        token: String::new(),
    };
    let kept = authority.ledger.change(|data| {
        data.nodes.insert("vm-1".to_owned(), entry);
        Ok(())
    });
    assert!(matches!(kept, Err(LedgerError::Store(_))), "{kept:?}");
    assert!(authority.ledger.data().nodes.is_empty());
}

#[test]
fn revocations_fit_into_one_answer() {
    // IDs of 2 KiB each: fewer than the number that is allowed are as much as an answer carries.
    let memory = memory();
    let long = |n: usize| {
        let end = "x".repeat(crate::vocab::limits::SPIFFE_ID_BYTES - 30);
        Target::Id(id(&format!("spiffe://cluster.local/{n:05}/{end}")))
    };
    let entries = (0..1500).map(|n| {
        let (kind, value) = ledger::words(&long(n));
        ledger::RevocationEntry {
            kind: kind.to_owned(),
            value,
            reason: String::new(),
            time: NOW,
        }
    });
    let filled = memory.ledger.change(|data| {
        data.revocations.extend(entries);
        Ok(())
    });
    filled.unwrap();
    let mut next = 1500..1540;
    let refused = next.find_map(|n| memory.revoke(&long(n), "", at(NOW)).err());
    assert!(matches!(refused, Some(LedgerError::Long)), "{refused:?}");
    let bytes = memory.ledger.data().revocation_bytes();
    assert!(bytes <= crate::vocab::limits::REVOCATIONS_BYTES, "{bytes}");
    memory.unrevoke(&long(0)).unwrap();
    memory.revoke(&long(2999), "", at(NOW)).unwrap();
}

fn durable_text(path: &Path) -> String {
    File::open(path).and_then(io_text).unwrap()
}

#[test]
fn what_cannot_be_kept_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), NOW).unwrap();
    let text = token(&authority);
    // Where the new ledger would be written stands a directory that cannot be removed as a file.
    let obstacle = state(dir.path(), ".ledger.json.new");
    fs::create_dir(&obstacle).unwrap();
    let csr = request(OWN, &key(), &[]);
    let refused = join(&authority, &text, &csr, NOW);
    assert!(matches!(refused, Err(JoinError::Ledger(_))), "{refused:?}");
    let revoked = authority.revoke(&Target::Id(frontend()), "", at(NOW));
    assert!(matches!(revoked, Err(LedgerError::Store(_))));
    assert!(authority.revocations().is_empty());
    assert!(
        authority
            .rotate_root(Duration::from_secs(DAY), at(NOW))
            .is_err()
    );
    assert_eq!(authority.roots().len(), 1);
    assert!(
        authority.issue(&frontend(), &[], HOUR, at(NOW)).is_ok(),
        "issuing goes on"
    );
    fs::remove_dir(&obstacle).unwrap();
    assert!(join(&authority, &text, &csr, NOW).is_ok());
}

#[test]
fn an_issuing_ca_can_be_given() {
    let elsewhere = memory();
    let roots = elsewhere.roots();
    let active = Arc::clone(&elsewhere.roots.load().active);
    let files = active.files().unwrap();
    // In Latin-1, as other programs write around the blocks.
    let noted = |pem: &str| [b"friendlyName: Schl\xfcssel\n", pem.as_bytes()].concat();
    let given = |key: &str| GivenCa {
        chain: noted(&files.issuing),
        key: noted(key).into(),
        roots: roots.clone(),
    };
    let start =
        |given: GivenCa| Authority::start(None, Some(&given), domain("cluster.local"), at(NOW));
    let authority = start(given(&files.issuing)).unwrap();
    let svid = issued(&authority, NOW);
    assert!(verifies(&svid, &elsewhere, NOW));
    assert!(matches!(
        authority.rotate_root(Duration::from_secs(DAY), at(NOW)),
        Err(RotateError::NotHere)
    ));
    assert!(matches!(
        start(given(&files.root_key)),
        Err(AuthorityError::Given(_))
    ));
    assert!(matches!(start(given("")), Err(AuthorityError::Given(_))));
}

#[test]
fn commands_say_what_is_wrong() {
    let authority = memory();
    let text = |command| match perform(&authority, &command, at(NOW)) {
        Ok(done) => done.to_string(),
        Err(error) => error.to_string(),
    };
    let revoke = |kind: &str, value: &str| Command::Revoke {
        kind: kind.to_owned(),
        value: value.to_owned(),
        reason: String::new(),
    };
    assert_eq!(
        text(revoke("id", "frontend")),
        "`frontend` is not a SPIFFE ID"
    );
    assert_eq!(
        text(revoke("serial", "xyz")),
        "a serial number is hexadecimal, at most 20 bytes"
    );
    assert_eq!(text(revoke("node", "vm-1")), "null");
    let command = Command::NodeGrant {
        node: "vm-1".to_owned(),
        grant: grant(),
    };
    assert_eq!(text(command), "there is no node `vm-1`");
    assert_eq!(text(Command::TokenList), "{}");
}
