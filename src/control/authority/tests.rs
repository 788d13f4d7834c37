//! The authority's certificates, its state directory, its tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{CertificateParams, KeyPair, SanType};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::grant::JoinTokens;
use super::*;

mod life;

const NOW: u64 = 1_764_000_000;
const DAY: u64 = 24 * 3600;

fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn frontend() -> SpiffeId {
    id("spiffe://cluster.local/ns/default/sa/frontend-service")
}

fn open(dir: &Path, now: u64) -> Result<Authority, AuthorityError> {
    Authority::open(dir, domain("cluster.local"), at(now))
}

fn state(dir: &Path, name: &str) -> PathBuf {
    dir.join("ca").join(name)
}

#[test]
fn leaf_profile() {
    let authority = Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap();
    let names = [
        "customer-api".to_owned(),
        "customer-api.default.svc.cluster.local".to_owned(),
    ];
    let svid = authority
        .issue(&frontend(), &names, Duration::from_secs(3600), at(NOW))
        .unwrap();
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(
        (svid.not_before.as_secs(), svid.not_after.as_secs()),
        (NOW - 60, NOW + 3600)
    );
    for usage in [Usage::Client, Usage::Server] {
        assert_eq!(
            verify_svid(&svid.chain, &authority.bundles(), at(NOW), usage),
            Ok(frontend())
        );
    }
    for outside in [NOW + 3601, NOW - 61] {
        let verified = verify_svid(
            &svid.chain,
            &authority.bundles(),
            at(outside),
            Usage::Client,
        );
        assert!(verified.is_err(), "{outside}");
    }

    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags == 1);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    let sans: Vec<String> = san
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(sans.len(), 3, "{sans:?}");
    let (_, issuing) = X509Certificate::from_der(&svid.chain[1]).unwrap();
    assert_eq!(
        issuing
            .basic_constraints()
            .unwrap()
            .unwrap()
            .value
            .path_len_constraint,
        Some(0)
    );
    let roots = authority.roots();
    let (_, root) = X509Certificate::from_der(&roots[0]).unwrap();
    assert_eq!(
        root.basic_constraints()
            .unwrap()
            .unwrap()
            .value
            .path_len_constraint,
        Some(1)
    );
    assert!(root.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_ne!(leaf.raw_serial(), issuing.raw_serial());
    assert!(!format!("{svid:?}").contains("key"), "{svid:?}");
}

#[test]
fn refuses_to_issue() {
    let authority = Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap();
    let hour = Duration::from_secs(3600);
    let issue = |id: &SpiffeId, names: &[String], ttl| authority.issue(id, names, ttl, at(NOW));
    assert!(matches!(
        issue(&id("spiffe://other.org/ns/a/sa/b"), &[], hour),
        Err(IssueError::ForeignId(_))
    ));
    assert!(matches!(
        issue(&id("spiffe://cluster.local"), &[], hour),
        Err(IssueError::ForeignId(_))
    ));
    assert!(matches!(
        issue(&frontend(), &[], Duration::from_secs(DAY + 1)),
        Err(IssueError::Ttl)
    ));
    assert!(matches!(
        issue(&frontend(), &[], Duration::ZERO),
        Err(IssueError::Ttl)
    ));
    assert!(matches!(
        issue(&frontend(), &["a b".to_owned()], hour),
        Err(IssueError::Name(_))
    ));
    assert!(matches!(
        authority.issue_token(&id("spiffe://other.org/ns/a/sa/b"), "x", hour, at(NOW)),
        Err(IssueError::ForeignId(_))
    ));
}

fn csr(sans: Vec<SanType>, edit: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = sans;
    edit(&mut params);
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn signs_only_what_is_granted() {
    let authority = Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap();
    let tokens =
        JoinTokens::parse("0123456789abcdef spiffe://cluster.local/ns/default/* dns:api.test")
            .unwrap();
    let grant = tokens.grant("0123456789abcdef").unwrap();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let good = "spiffe://cluster.local/ns/default/sa/frontend-service";
    let sign = |pem: &str| authority.sign_csr(pem, grant, Duration::from_secs(60), at(NOW));

    let (got, chain) = sign(&csr(vec![uri(good), dns("api.test")], |_p| {})).unwrap();
    assert_eq!(got, frontend());
    assert_eq!(
        verify_svid(&chain, &authority.bundles(), at(NOW), Usage::Client),
        Ok(frontend())
    );

    let ca = csr(vec![uri(good)], |p| {
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let broken = csr(vec![uri(good)], |_p| {}).replace("MII", "MIJ");
    for (what, pem) in [
        (
            "other identity",
            csr(
                vec![uri("spiffe://cluster.local/ns/edge/sa/ingress")],
                |_p| {},
            ),
        ),
        (
            "other name",
            csr(vec![uri(good), dns("customer-api")], |_p| {}),
        ),
        ("two URIs", csr(vec![uri(good), uri(good)], |_p| {})),
        (
            "https URI",
            csr(vec![uri("https://cluster.local/ns/default/sa/x")], |_p| {}),
        ),
        ("no URI", csr(vec![dns("api.test")], |_p| {})),
        (
            "address",
            csr(
                vec![uri(good), SanType::IpAddress([127, 0, 0, 1].into())],
                |_p| {},
            ),
        ),
        ("authority", ca),
        ("broken", broken),
        ("empty", String::new()),
    ] {
        assert!(sign(&pem).is_err(), "{what}");
    }
}

#[test]
fn token_verifies_with_the_key_set() {
    let authority = Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap();
    let token = authority
        .issue_token(
            &frontend(),
            "customer-api",
            Duration::from_secs(600),
            at(NOW),
        )
        .unwrap();
    let keys: JwkSet = serde_json::from_str(&authority.jwks()).unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let key = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["customer-api"]);
    rules.validate_exp = false; // its clock is the system's
    let decode = |token: &str, keys: &DecodingKey| {
        jsonwebtoken::decode::<serde_json::Value>(token, keys, &rules).map(|decoded| decoded.claims)
    };
    let claims = decode(&token, &DecodingKey::from_jwk(key).unwrap()).unwrap();
    let expected = serde_json::json!({
        "iss": "https://cluster.local", "sub": frontend().as_str(), "aud": "customer-api",
        "iat": NOW, "exp": NOW + 600,
    });
    assert_eq!(claims, expected);
    let other = Authority::in_memory(domain("cluster.local"), at(NOW)).unwrap();
    let other: JwkSet = serde_json::from_str(&other.jwks()).unwrap();
    assert!(decode(&token, &DecodingKey::from_jwk(&other.keys[0]).unwrap()).is_err());
}

#[test]
fn state_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authority");
    let first = open(&path, NOW).unwrap();
    assert!(matches!(open(&path, NOW), Err(AuthorityError::Locked(_))));
    let (roots, jwks) = (first.roots(), first.jwks());
    let old = first
        .issue(&frontend(), &[], Duration::from_secs(DAY), at(NOW))
        .unwrap();
    drop(first);

    let again = open(&path, NOW + 100).unwrap();
    assert_eq!((again.roots(), again.jwks()), (roots, jwks));
    assert_eq!(
        verify_svid(&old.chain, &again.bundles(), at(NOW + 100), Usage::Client),
        Ok(frontend())
    );
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("ca")), 0o700);
    for entry in fs::read_dir(path.join("ca")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o400);
    }
}

#[test]
fn issuing_certificate_is_renewed_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), NOW).unwrap();
    let chain = |authority: &Authority, now| {
        authority
            .issue(&frontend(), &[], Duration::from_secs(60), at(now))
            .unwrap()
            .chain[1]
            .clone()
    };
    let before = chain(&first, NOW + 100 * DAY);
    assert_eq!(before, chain(&first, NOW));
    let after = chain(&first, NOW + 200 * DAY);
    assert_ne!(before, after);
    let roots = first.roots();
    drop(first);
    let again = open(dir.path(), NOW + 201 * DAY).unwrap();
    assert_eq!(again.roots(), roots);
    assert_eq!(chain(&again, NOW + 201 * DAY), after);
    drop(again);
    // Long after the issuing certificate has expired, but within the root's life.
    assert_ne!(
        chain(
            &open(dir.path(), NOW + 2000 * DAY).unwrap(),
            NOW + 2000 * DAY
        ),
        after
    );
    // A root that is over is refused, not replaced.
    assert!(open(dir.path(), NOW + 4000 * DAY).is_err());
}

#[test]
fn broken_state_is_refused() {
    for name in ["root.pem", "root-key.pem", "issuing.pem", "token-key.pem"] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), NOW).unwrap());
        let path = state(dir.path(), name);
        let text = File::open(&path).and_then(io_text).unwrap();
        put(&path, text.split_at(text.len() / 2).0);
        assert!(
            matches!(
                open(dir.path(), NOW),
                Err(AuthorityError::Unreadable { .. })
            ),
            "{name} half"
        );
        put(&path, "");
        assert!(
            matches!(
                open(dir.path(), NOW),
                Err(AuthorityError::Unreadable { .. })
            ),
            "{name} empty"
        );
        fs::remove_file(&path).unwrap();
        assert!(
            matches!(open(dir.path(), NOW), Err(AuthorityError::Incomplete(p)) if p == path),
            "{name} gone"
        );
    }
}

/// Replaces a file that its owner cannot write.
fn put(path: &Path, text: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

fn copy(from: PathBuf, to: PathBuf) {
    fs::remove_file(&to).unwrap();
    fs::copy(from, to).unwrap();
}

/// A state directory of an earlier version is narrowed where it was private, and nothing else of it changes.
#[test]
fn private_files_of_mode_600_are_narrowed() {
    let dir = tempfile::tempdir().unwrap();
    let roots = open(dir.path(), NOW).unwrap().roots();
    let path = state(dir.path(), "root-key.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(open(dir.path(), NOW).unwrap().roots(), roots);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o400);
}

fn io_text(mut file: File) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn foreign_state_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(dir.path(), NOW).unwrap());
    drop(open(other.path(), NOW).unwrap());
    assert!(matches!(
        Authority::open(dir.path(), domain("other.org"), at(NOW)),
        Err(AuthorityError::TrustDomain { .. })
    ));
    copy(
        state(other.path(), "issuing.pem"),
        state(dir.path(), "issuing.pem"),
    );
    assert!(matches!(
        open(dir.path(), NOW),
        Err(AuthorityError::Mismatch(_))
    ));
    copy(
        state(other.path(), "root-key.pem"),
        state(dir.path(), "root-key.pem"),
    );
    assert!(matches!(
        open(dir.path(), NOW),
        Err(AuthorityError::OtherKey { .. })
    ));
    copy(
        state(other.path(), "root.pem"),
        state(dir.path(), "root.pem"),
    );
    assert!(
        open(dir.path(), NOW).is_ok(),
        "all of the other's is a state that fits"
    );
    fs::set_permissions(
        state(dir.path(), "root-key.pem"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    assert!(matches!(
        open(dir.path(), NOW),
        Err(AuthorityError::Exposed { mode: 0o640, .. })
    ));
}

#[test]
fn crash_during_the_first_start_leaves_nothing_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".ca.new")).unwrap();
    fs::write(dir.path().join(".ca.new/root.pem"), "half").unwrap();
    drop(open(dir.path(), NOW).unwrap());
    assert!(!dir.path().join(".ca.new").exists());
    assert!(open(dir.path(), NOW).is_ok());
}
