//! Identity from outside: the standard's certificate chains, mTLS between two peers, the certificate service.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::panic_in_result_fn,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on stops"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use ringgate::config::checked::RecordSink;
use ringgate::control::authority::Authority;
use ringgate::control::authority::grant::JoinTokens;
use ringgate::control::grpc::{
    CertificateService, Parts, RemoteAuthority, RemoteError, RemoteSigner, TokenSource,
};
use ringgate::control::svid::{Source, SvidManager, system_clock};
use ringgate::identity::bundle::TrustBundles;
use ringgate::identity::leaf::LeafError;
use ringgate::identity::pem;
use ringgate::identity::svid::{Svid, WantedSvid};
use ringgate::identity::tls::{self, ClientAuth, Expected, mesh_client_config, mesh_server_config};
use ringgate::identity::verify::{SvidError, Usage, verify_svid};
use ringgate::telemetry::audit::Audit;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ClientConnection, NamedGroup, ProtocolVersion, ServerConnection,
};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

const HOUR: Duration = Duration::from_secs(3600);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

// ---- the standard's chains -------------------------------------------------------------------

fn data(name: &str) -> String {
    let dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    std::fs::read_to_string(Path::new(&dir).join("tests/data/conformance").join(name)).unwrap()
}

fn conformance_bundles() -> TrustBundles {
    let mut bundles = TrustBundles::new();
    let roots: Value = serde_json::from_str(&data("spiffe_bundle.json")).unwrap();
    for (name, pems) in roots.as_object().unwrap() {
        for text in pems.as_array().unwrap() {
            for root in pem::certificates(text.as_str().unwrap().as_bytes()).unwrap() {
                bundles.add(&domain(name), &root).unwrap();
            }
        }
    }
    bundles
}

#[test]
fn conformance_chains() {
    let bundles = conformance_bundles();
    let mut wrong = Vec::new();
    let (mut cases, mut open) = (0, 0);
    for line in data("spiffe_cert.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case["chain"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c.as_str().unwrap())
            .collect::<String>();
        let chain = pem::certificates(text.as_bytes()).unwrap();
        assert_eq!(case["role"], "client");
        let found = verify_svid(
            &chain,
            &bundles,
            at(case["now"].as_u64().unwrap()),
            Usage::Client,
        );
        let accept = case["accept"].as_bool().unwrap();
        let identity_right = found
            .as_ref()
            .is_ok_and(|id| case["identity"].as_str() == Some(id.as_str()));
        let same = if accept {
            identity_right
        } else {
            found.is_err()
        };
        if !same && case["also_ok"].as_bool() == Some(!accept) {
            open += 1;
        } else if !same {
            wrong.push(format!("{}: {found:?}", case["name"]));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((cases, open), (30, 0));
}

// ---- chains of our own: what the data does not hold --------------------------------------------

struct TestCa {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A CA named after `name`, below `parent` or self-signed.
fn test_ca(
    name: &str,
    parent: Option<&TestCa>,
    edit: impl FnOnce(&mut CertificateParams),
) -> TestCa {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    edit(&mut params);
    let certificate = match parent {
        Some(parent) => params.signed_by(&key, &parent.issuer),
        None => params.self_signed(&key),
    };
    TestCa {
        der: certificate.unwrap().into(),
        issuer: Issuer::new(params, key),
    }
}

/// An SVID for `id` below the last of `path`, whose CAs (leaf's issuer last) go into the chain.
fn test_svid(uri: &str, path: &[&TestCa], edit: impl FnOnce(&mut CertificateParams)) -> Svid {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    edit(&mut params);
    let leaf = params
        .signed_by(&key, &path.last().unwrap().issuer)
        .unwrap();
    let mut chain = vec![CertificateDer::from(leaf)];
    chain.extend(path.iter().skip(1).rev().map(|ca| ca.der.clone()));
    Svid {
        id: id("spiffe://example.org/ns/foo/sa/bar"),
        chain,
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        not_before: at(0),
        not_after: at(u64::from(u32::MAX)),
    }
}

const BAR: &str = "spiffe://example.org/ns/foo/sa/bar";

fn check(svid: &Svid, bundles: &TrustBundles) -> Result<SpiffeId, SvidError> {
    verify_svid(&svid.chain, bundles, at(1_764_000_000), Usage::Client)
}

fn leaf_error(edit: impl FnOnce(&mut CertificateParams)) -> Option<LeafError> {
    let root = test_ca("root", None, |_p| {});
    let bundles =
        TrustBundles::of(&domain("example.org"), std::slice::from_ref(&root.der)).unwrap();
    match check(&test_svid(BAR, &[&root], edit), &bundles) {
        Ok(found) => {
            assert_eq!(found, id(BAR));
            None
        }
        Err(SvidError::Leaf(error)) => Some(error),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of certificates")]
fn leaf_rules() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert_eq!(leaf_error(|_p| {}), None);
    assert_eq!(leaf_error(|p| p.extended_key_usages.clear()), None);
    assert_eq!(
        leaf_error(|p| p
            .subject_alt_names
            .push(SanType::DnsName("a.test".try_into().unwrap()))),
        None
    );
    assert_eq!(
        leaf_error(|p| p.extended_key_usages.push(CodeSigning)),
        None
    );
    for usages in [
        vec![ClientAuth],
        vec![ServerAuth],
        vec![CodeSigning],
        vec![Any],
    ] {
        let found = leaf_error(|p| p.extended_key_usages.clone_from(&usages));
        assert_eq!(found, Some(LeafError::ExtendedKeyUsage), "{usages:?}");
    }
    for extra in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_eq!(
            leaf_error(|p| p.key_usages.push(extra)),
            Some(LeafError::KeyUsage)
        );
    }
    assert_eq!(
        leaf_error(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        Some(LeafError::KeyUsage)
    );
    assert_eq!(
        leaf_error(|p| p.key_usages.clear()),
        Some(LeafError::KeyUsage)
    );
    assert_eq!(
        leaf_error(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Some(LeafError::Authority)
    );
    assert_eq!(
        leaf_error(|p| p.subject_alt_names.push(uri("https://a.test/"))),
        Some(LeafError::SeveralUris)
    );
    assert_eq!(
        leaf_error(|p| p.subject_alt_names.insert(0, uri("https://a.test/"))),
        Some(LeafError::SeveralUris)
    );
    assert_eq!(
        leaf_error(|p| p.subject_alt_names.clear()),
        Some(LeafError::NoUri)
    );
    assert_eq!(
        leaf_error(|p| p.subject_alt_names = vec![uri("spiffe://example.org")]),
        Some(LeafError::NoPath)
    );
    for bad in [
        "",
        "/ns/../sa/b",
        "//ns",
        "/ns?",
        "/ns#",
        "/%61",
        "/a*",
        "/a b",
        "/a\0",
        "/a\n",
        ":80/a",
        "@b/c",
    ] {
        let text = format!("spiffe://example.org{bad}");
        let found = leaf_error(|p| p.subject_alt_names = vec![uri(&text)]);
        assert!(
            matches!(found, Some(LeafError::Id(_) | LeafError::NoPath)),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn roots_speak_for_their_own_domain_only() {
    let (ours, theirs) = (
        test_ca("ours", None, |_p| {}),
        test_ca("theirs", None, |_p| {}),
    );
    let mut bundles =
        TrustBundles::of(&domain("example.org"), std::slice::from_ref(&ours.der)).unwrap();
    bundles.add(&domain("other.org"), &theirs.der).unwrap();
    assert_eq!(
        check(&test_svid(BAR, &[&ours], |_p| {}), &bundles),
        Ok(id(BAR))
    );
    let foreign = "spiffe://other.org/ns/foo/sa/bar";
    assert_eq!(
        check(&test_svid(foreign, &[&theirs], |_p| {}), &bundles),
        Ok(id(foreign))
    );
    for (uri, ca) in [(BAR, &theirs), (foreign, &ours)] {
        assert!(
            matches!(
                check(&test_svid(uri, &[ca], |_p| {}), &bundles),
                Err(SvidError::Chain { .. })
            ),
            "{uri}"
        );
    }
    let sub = "spiffe://a.example.org/ns/foo/sa/bar";
    assert!(matches!(
        check(&test_svid(sub, &[&ours], |_p| {}), &bundles),
        Err(SvidError::UnknownTrustDomain(_))
    ));
    // While the root changes, both are trusted.
    let next = test_ca("next", None, |_p| {});
    assert!(check(&test_svid(BAR, &[&next], |_p| {}), &bundles).is_err());
    bundles.add(&domain("example.org"), &next.der).unwrap();
    assert_eq!(
        check(&test_svid(BAR, &[&next], |_p| {}), &bundles),
        Ok(id(BAR))
    );
    assert_eq!(
        check(&test_svid(BAR, &[&ours], |_p| {}), &bundles),
        Ok(id(BAR))
    );
    assert_eq!(bundles.bundle("example.org").unwrap().roots().len(), 2);
    // A leaf is no root.
    let leaf = test_svid(BAR, &[&ours], |_p| {}).chain.remove(0);
    assert!(bundles.add(&domain("example.org"), &leaf).is_err());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of certificates")]
fn path_rules() {
    let date = |secs| OffsetDateTime::from_unix_timestamp(secs).unwrap();
    let root = test_ca("root", None, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    });
    let bundles =
        TrustBundles::of(&domain("example.org"), std::slice::from_ref(&root.der)).unwrap();
    let svid = |path: &[&TestCa]| check(&test_svid(BAR, path, |_p| {}), &bundles);
    let (one, plain) = (
        test_ca("one", Some(&root), |_p| {}),
        |_p: &mut CertificateParams| {},
    );
    assert_eq!(svid(&[&root, &one]), Ok(id(BAR)));
    // The root allows one authority below it, webpki does not see that.
    assert_eq!(
        svid(&[&root, &one, &test_ca("two", Some(&one), plain)]),
        Err(SvidError::RootPathLen)
    );
    let zero = test_ca("zero", Some(&root), |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    assert!(matches!(
        svid(&[&root, &zero, &test_ca("three", Some(&zero), plain)]),
        Err(SvidError::Chain { .. })
    ));
    let no_sign = test_ca("four", Some(&root), |p| {
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    assert_eq!(svid(&[&root, &no_sign]), Err(SvidError::IssuerKeyUsage));
    let no_ca = test_ca("five", Some(&root), |p| p.is_ca = IsCa::NoCa);
    assert!(matches!(
        svid(&[&root, &no_ca]),
        Err(SvidError::Chain { .. })
    ));
    let over = test_ca("six", Some(&root), |p| p.not_after = date(1_763_999_999));
    assert!(matches!(
        svid(&[&root, &over]),
        Err(SvidError::Chain { .. })
    ));
    let early = test_svid(BAR, &[&root], |p| p.not_before = date(1_764_000_001));
    assert!(matches!(
        check(&early, &bundles),
        Err(SvidError::Chain { .. })
    ));

    let constrained = test_ca("seven", Some(&root), |p| {
        let excluded_subtrees = vec![GeneralSubtree::DnsName("a.test".to_owned())];
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees,
        });
    });
    let named = |name: &str| {
        test_svid(BAR, &[&root, &constrained], |p| {
            p.subject_alt_names
                .push(SanType::DnsName(name.try_into().unwrap()));
        })
    };
    assert_eq!(check(&named("b.test"), &bundles), Ok(id(BAR)));
    assert!(check(&named("x.a.test"), &bundles).is_err());

    let old = test_ca("old", None, |p| p.not_after = date(1_763_999_999));
    let old_bundles =
        TrustBundles::of(&domain("example.org"), std::slice::from_ref(&old.der)).unwrap();
    assert_eq!(
        check(&test_svid(BAR, &[&old], |_p| {}), &old_bundles),
        Err(SvidError::RootTime)
    );
    assert_eq!(
        verify_svid(&[], &bundles, at(0), Usage::Client),
        Err(SvidError::Empty)
    );
    let mut long = test_svid(BAR, &[&root, &one], |_p| {});
    long.chain.extend(vec![one.der; 9]);
    assert_eq!(check(&long, &bundles), Err(SvidError::TooLong));
}

// ---- mTLS ------------------------------------------------------------------------------------

struct Met {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs the handshake in memory; the error is the one of the side that refused.
fn meet(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> Result<Met, rustls::Error> {
    let mut client = ClientConnection::new(client, tls::server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Met { client, server })
}

/// Two authorities, `cluster.local` and `other.org`, and an SVID for each side.
struct Mesh {
    ours: Authority,
    theirs: Authority,
    now: UnixTime,
}

const H2: &[&[u8]] = &[b"h2"];
const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend-service";
const API: &str = "spiffe://cluster.local/ns/default/sa/customer-api";

impl Mesh {
    fn new() -> Self {
        // Made some hours ago, so that SVIDs can have expired since.
        let (now, then) = (UnixTime::now(), at(UnixTime::now().as_secs() - 10 * 3600));
        let authority = |name| Authority::in_memory(domain(name), then).unwrap();
        Self {
            ours: authority("cluster.local"),
            theirs: authority("other.org"),
            now,
        }
    }

    fn svid(&self, uri: &str) -> Svid {
        self.ours.issue(&id(uri), &[], HOUR, self.now).unwrap()
    }

    fn foreign(&self) -> Svid {
        self.theirs
            .issue(
                &id("spiffe://other.org/ns/default/sa/x"),
                &[],
                HOUR,
                self.now,
            )
            .unwrap()
    }

    fn expired(&self, uri: &str) -> Svid {
        self.ours
            .issue(&id(uri), &[], HOUR, at(self.now.as_secs() - 2 * 3600))
            .unwrap()
    }

    /// `client` and `server` meet, both with our bundle only.
    fn meet(&self, client: &Svid, server: &Svid, expected: Expected) -> Result<Met, rustls::Error> {
        meet(
            mesh_client_config(client, self.ours.bundles(), H2, expected).unwrap(),
            mesh_server_config(server, self.ours.bundles(), H2, ClientAuth::Required).unwrap(),
        )
    }
}

#[test]
fn mutual_tls() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.svid(FRONTEND), mesh.svid(API));
    let mut met = mesh
        .meet(&client, &server, Expected::only(id(API)))
        .unwrap();
    assert_eq!(
        tls::peer_id(met.server.peer_certificates().unwrap()),
        Some(id(FRONTEND))
    );
    assert_eq!(
        tls::peer_id(met.client.peer_certificates().unwrap()),
        Some(id(API))
    );
    assert_eq!(
        met.client.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        met.client.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
    let suite = met.client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(met.server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(met.server.server_name(), None);
    assert_eq!(
        met.client
            .process_new_packets()
            .unwrap()
            .plaintext_bytes_to_read(),
        0
    );
    assert_eq!(met.client.tls13_tickets_received(), 0);

    let any = Expected::OneOf(BTreeSet::from([id(FRONTEND), id(API)]));
    assert!(mesh.meet(&client, &server, any).is_ok());
    assert!(mesh.meet(&client, &server, Expected::AnyOfBundles).is_ok());
}

#[test]
fn the_server_chooses_among_the_suites_of_a_client() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.svid(FRONTEND), mesh.svid(API));
    let server =
        mesh_server_config(&server, mesh.ours.bundles(), H2, ClientAuth::Required).unwrap();
    let with = |offer: &[rustls::SupportedCipherSuite]| {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: offer.to_vec(),
            ..CryptoProvider::clone(&tls::provider())
        });
        let bundles = mesh.ours.bundles();
        let ours = mesh_client_config(&client, bundles, H2, Expected::AnyOfBundles).unwrap();
        let mut theirs = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_no_client_auth();
        theirs.client_auth_cert_resolver = Arc::clone(&ours.client_auth_cert_resolver);
        let met = meet(Arc::new(theirs), Arc::clone(&server)).unwrap();
        met.server.negotiated_cipher_suite().unwrap()
    };
    let (short, long) = (TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384);
    assert_eq!(with(&[long, short]), short);
    assert_eq!(with(&[TLS13_CHACHA20_POLY1305_SHA256, long]), long);
}

/// Looks at no certificate: the server is the one under test.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[test]
fn alpn() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.svid(FRONTEND), mesh.svid(API));
    let with = |offer: &[&[u8]]| {
        meet(
            mesh_client_config(&client, mesh.ours.bundles(), offer, Expected::AnyOfBundles)
                .unwrap(),
            mesh_server_config(&server, mesh.ours.bundles(), H2, ClientAuth::Required).unwrap(),
        )
    };
    assert!(with(&[]).is_ok_and(|met| met.server.alpn_protocol().is_none()));
    assert!(matches!(
        with(&[b"http/1.1"]),
        Err(rustls::Error::NoApplicationProtocol)
    ));
}

fn reason<T>(result: Result<T, rustls::Error>) -> CertificateError {
    match result {
        Err(rustls::Error::InvalidCertificate(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn refused_peers() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.svid(FRONTEND), mesh.svid(API));
    let any = || Expected::AnyOfBundles;
    // Another trust domain, either way.
    assert_eq!(
        reason(mesh.meet(&mesh.foreign(), &server, any())),
        CertificateError::UnknownIssuer
    );
    assert_eq!(
        reason(mesh.meet(&client, &mesh.foreign(), any())),
        CertificateError::UnknownIssuer
    );
    // Our trust domain's name, but not our root.
    let impostor = Authority::in_memory(domain("cluster.local"), mesh.now).unwrap();
    let impostor = impostor.issue(&id(FRONTEND), &[], HOUR, mesh.now).unwrap();
    assert_eq!(
        reason(mesh.meet(&impostor, &server, any())),
        CertificateError::UnknownIssuer
    );
    // Expired.
    assert_eq!(
        reason(mesh.meet(&mesh.expired(FRONTEND), &server, any())),
        CertificateError::Expired
    );
    assert_eq!(
        reason(mesh.meet(&client, &mesh.expired(API), any())),
        CertificateError::Expired
    );
    // Not whom the client wants.
    let wrong = reason(mesh.meet(&client, &server, Expected::only(id(FRONTEND))));
    assert!(wrong.to_string().contains(API), "{wrong}");
    assert!(matches!(
        reason(mesh.meet(&client, &server, Expected::OneOf(BTreeSet::new()))),
        CertificateError::Other(_)
    ));
}

#[test]
fn two_uri_sans_are_refused() {
    let root = test_ca("root", None, |_p| {});
    let bundles = Arc::new(
        TrustBundles::of(&domain("example.org"), std::slice::from_ref(&root.der)).unwrap(),
    );
    let good = test_svid(BAR, &[&root], |_p| {});
    let two = test_svid(BAR, &[&root], |p| {
        p.subject_alt_names
            .push(SanType::URI(BAR.try_into().unwrap()));
    });
    let with = |client: &Svid, server: &Svid| {
        meet(
            mesh_client_config(client, Arc::clone(&bundles), H2, Expected::only(id(BAR))).unwrap(),
            mesh_server_config(server, Arc::clone(&bundles), H2, ClientAuth::Required).unwrap(),
        )
    };
    assert!(with(&good, &good).is_ok());
    assert!(matches!(
        reason(with(&two, &good)),
        CertificateError::Other(_)
    ));
    assert!(matches!(
        reason(with(&good, &two)),
        CertificateError::Other(_)
    ));
    let met = with(&good, &good).unwrap();
    assert_eq!(
        tls::peer_id(met.client.peer_certificates().unwrap()),
        Some(id(BAR))
    );
    assert_eq!(tls::peer_id(&two.chain), None);
    assert_eq!(tls::peer_id(&[]), None);
}

#[test]
fn client_without_certificate() {
    let mesh = Mesh::new();
    let server = mesh.svid(API);
    let naked = |auth| {
        let verifier =
            mesh_client_config(&server, mesh.ours.bundles(), H2, Expected::only(id(API))).unwrap();
        let mut client = rustls::ClientConfig::clone(&verifier);
        client.client_auth_cert_resolver = Arc::new(NoCertificate);
        meet(
            Arc::new(client),
            mesh_server_config(&server, mesh.ours.bundles(), H2, auth).unwrap(),
        )
    };
    assert!(matches!(
        naked(ClientAuth::Required),
        Err(rustls::Error::NoCertificatesPresented)
    ));
    assert!(naked(ClientAuth::Optional).is_ok_and(|met| met.server.peer_certificates().is_none()));
    // Optional does not mean that a bad one will do.
    let optional =
        mesh_server_config(&server, mesh.ours.bundles(), H2, ClientAuth::Optional).unwrap();
    let foreign = mesh_client_config(
        &mesh.foreign(),
        mesh.ours.bundles(),
        H2,
        Expected::AnyOfBundles,
    )
    .unwrap();
    assert_eq!(
        reason(meet(foreign, optional)),
        CertificateError::UnknownIssuer
    );
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_stolen_certificate_without_its_key_is_no_use() {
    let mesh = Mesh::new();
    let mut thief = mesh.svid(FRONTEND);
    thief.key = mesh.svid(API).key.clone_key();
    assert!(mesh_client_config(&thief, mesh.ours.bundles(), H2, Expected::AnyOfBundles).is_err());
}

/// Shows a chain without having its key.
#[derive(Debug)]
struct Thief(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_chain_that_is_remembered_proves_nothing_without_its_key() {
    let mesh = Mesh::new();
    let bundles = Arc::new(mesh.ours.bundles().with_revocations(Arc::default()));
    let (owner, other) = (mesh.svid(FRONTEND), mesh.svid(FRONTEND));
    let client = |svid: &Svid| {
        mesh_client_config(svid, Arc::clone(&bundles), H2, Expected::only(id(API))).unwrap()
    };
    let server = mesh_server_config(
        &mesh.svid(API),
        Arc::clone(&bundles),
        H2,
        ClientAuth::Required,
    )
    .unwrap();
    let mut thief = rustls::ClientConfig::clone(&client(&owner));
    let key = tls::certified_key(&other).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(owner.chain.clone(), Arc::clone(&key.key));
    thief.client_auth_cert_resolver = Arc::new(Thief(Arc::new(stolen)));
    let thief = Arc::new(thief);
    for _ in 0..2 {
        // Before the chain is known, and when it is.
        let met = meet(Arc::clone(&thief), Arc::clone(&server));
        assert_eq!(reason(met), CertificateError::BadSignature);
        assert!(meet(client(&owner), Arc::clone(&server)).is_ok());
    }
}

// ---- the certificate service ------------------------------------------------------------------

const TOKEN: &str = "token-of-the-frontend";

/// A service on loopback that lives as long as the set of tasks.
async fn serve(authority: &Arc<Authority>) -> (SocketAddr, JoinSet<()>) {
    let tokens = JoinTokens::parse(&format!(
        "{TOKEN} {FRONTEND} dns:frontend.test\n\
         token-of-a-namespace spiffe://cluster.local/ns/edge/*\n\
         token-without-any-identity\n"
    ))
    .unwrap();
    let service = CertificateService::new(Arc::clone(authority), tokens, HOUR, system_clock());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let ended = service.serve(listener, Vec::new()).await;
        panic!("{ended:?}");
    });
    (address, tasks)
}

fn token(text: &'static str) -> TokenSource {
    Arc::new(move || Ok(format!("{text}\n")))
}

fn remote(url: &str, roots: &[CertificateDer<'static>], text: &'static str) -> RemoteAuthority {
    RemoteAuthority::new(
        url,
        roots,
        &domain("cluster.local"),
        token(text),
        Duration::from_secs(600),
    )
    .unwrap()
}

fn want(uri: &str, dns_names: &[&str]) -> WantedSvid {
    WantedSvid {
        id: id(uri),
        dns_names: dns_names.iter().map(|&n| n.to_owned()).collect(),
    }
}

#[tokio::test]
async fn joins_with_the_right_token() {
    let authority =
        Arc::new(Authority::in_memory(domain("cluster.local"), UnixTime::now()).unwrap());
    let (address, _tasks) = serve(&authority).await;
    let now = UnixTime::now();
    for url in [
        format!("https://{address}"),
        format!("https://localhost:{}", address.port()),
    ] {
        let source = remote(&url, &authority.roots(), TOKEN);
        let issued = source
            .issue(&want(FRONTEND, &["frontend.test"]), now)
            .await
            .unwrap();
        assert_eq!(issued.svid.id, id(FRONTEND));
        let life = issued.svid.not_after.as_secs() - issued.svid.not_before.as_secs();
        assert!(
            (655..=670).contains(&life),
            "as long as asked for, not as long as allowed: {life}"
        );
        // Its key fits, and a peer of the embedded authority accepts it.
        let peer = authority.issue(&id(API), &[], HOUR, now).unwrap();
        let met = meet(
            mesh_client_config(&issued.svid, issued.bundles, H2, Expected::only(id(API))).unwrap(),
            mesh_server_config(&peer, authority.bundles(), H2, ClientAuth::Required).unwrap(),
        );
        assert_eq!(
            tls::peer_id(met.unwrap().server.peer_certificates().unwrap()),
            Some(id(FRONTEND))
        );
    }
    let edge = remote(
        &format!("https://{address}"),
        &authority.roots(),
        "token-of-a-namespace",
    );
    assert!(
        edge.issue(&want("spiffe://cluster.local/ns/edge/sa/ingress", &[]), now)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn refuses_other_tokens_and_identities() {
    let authority =
        Arc::new(Authority::in_memory(domain("cluster.local"), UnixTime::now()).unwrap());
    let (address, _tasks) = serve(&authority).await;
    let url = format!("https://{address}");
    for (token, wanted, code) in [
        (
            "not-a-token-at-all",
            want(FRONTEND, &[]),
            Code::Unauthenticated,
        ),
        ("", want(FRONTEND, &[]), Code::Unauthenticated),
        (TOKEN, want(API, &[]), Code::PermissionDenied),
        (
            TOKEN,
            want("spiffe://other.org/ns/default/sa/frontend-service", &[]),
            Code::PermissionDenied,
        ),
        (
            TOKEN,
            want(FRONTEND, &["customer-api"]),
            Code::PermissionDenied,
        ),
        (
            "token-of-a-namespace",
            want(FRONTEND, &[]),
            Code::PermissionDenied,
        ),
        (
            "token-without-any-identity",
            want(FRONTEND, &[]),
            Code::PermissionDenied,
        ),
    ] {
        match remote(&url, &authority.roots(), token)
            .issue(&wanted, UnixTime::now())
            .await
        {
            Err(RemoteError::Refused(status)) => {
                assert_eq!(status.code(), code, "{token} {wanted:?}");
            }
            other => panic!("{token} {wanted:?}: {other:?}"),
        }
    }
}

/// A token that is taken out of its file is good for nothing from then on, and what was answered is recorded.
#[tokio::test]
async fn tokens_can_be_withdrawn_and_answers_are_recorded() {
    let now = UnixTime::now();
    let authority = Arc::new(Authority::in_memory(domain("cluster.local"), now).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.jsonl");
    let audit = Audit::start(&RecordSink::File(path.clone()), || ()).unwrap();
    let held = JoinTokens::parse(&format!("{TOKEN} {FRONTEND}")).unwrap();
    let tokens = watch::Sender::new(Arc::new(held));
    let service = CertificateService::of(Parts {
        authority: Arc::clone(&authority),
        tokens: tokens.subscribe(),
        lives: (HOUR, HOUR),
        clock: system_clock(),
        audit: Some(audit),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let ended = service.serve(listener, Vec::new()).await;
        panic!("{ended:?}");
    });
    let source = Arc::new(remote(&url, &authority.roots(), TOKEN));
    let wanted = want(FRONTEND, &[]);
    assert!(source.issue(&wanted, now).await.is_ok());
    let signer = RemoteSigner::new(Arc::clone(&source));
    let audience = ["a".to_owned()];
    let signed = signer.sign(&id(FRONTEND), &audience, HOUR, now).await;
    assert!(signed.is_ok(), "{signed:?}");
    let other = source.issue(&want(API, &[]), now).await;
    assert!(matches!(other, Err(RemoteError::Refused(_))), "{other:?}");
    tokens.send_replace(Arc::default());
    match source.issue(&wanted, now).await {
        Err(RemoteError::Refused(status)) => assert_eq!(status.code(), Code::Unauthenticated),
        other => panic!("{other:?}"),
    }
    // The writer ends with the service.
    tasks.shutdown().await;
    let mut records = Vec::new();
    let all = || {
        let text = std::fs::read_to_string(&path).unwrap();
        records = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect();
        records.len() >= 4
    };
    assert!(ringgate::cli::os::wait_until(Duration::from_secs(20), all));
    let said = |n: usize, key: &str| records[n][key].as_str().unwrap().to_owned();
    let told: Vec<_> = (0..4)
        .map(|n| (said(n, "request"), said(n, "verdict")))
        .collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        told,
        [
            pair("CreateCertificate", "allow"),
            pair("SignToken", "allow"),
            pair("CreateCertificate", "deny"),
            pair("CreateCertificate", "deny"),
        ]
    );
    assert_eq!(records[0]["identities"], serde_json::json!([FRONTEND]));
    assert_eq!(records[0]["role"], "authority");
    assert!(said(2, "reason").contains(API), "{}", records[2]);
    assert_eq!(said(3, "reason"), "no known join token");
    assert!(
        records[3]["source"]["address"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
}

#[tokio::test]
async fn trusts_only_the_configured_root() {
    let now = UnixTime::now();
    let authority = Arc::new(Authority::in_memory(domain("cluster.local"), now).unwrap());
    let other = Authority::in_memory(domain("cluster.local"), now).unwrap();
    let (address, tasks) = serve(&authority).await;
    let url = format!("https://{address}");
    let wanted = want(FRONTEND, &[]);
    let wrong = remote(&url, &other.roots(), TOKEN)
        .issue(&wanted, now)
        .await;
    assert!(matches!(wrong, Err(RemoteError::Connect(_))), "{wrong:?}");
    // Another name than the certificate's.
    let lost = remote(
        &format!("https://127.0.0.2:{}", address.port()),
        &authority.roots(),
        TOKEN,
    );
    assert!(matches!(
        lost.issue(&wanted, now).await,
        Err(RemoteError::Connect(_))
    ));
    drop(tasks);
    let gone = remote(&url, &authority.roots(), TOKEN)
        .issue(&wanted, now)
        .await;
    assert!(gone.is_err(), "{gone:?}");
    for bad in [
        "http://127.0.0.1:1",
        "https://",
        "127.0.0.1:1",
        "https://a/b",
        "https://a b",
    ] {
        let made = RemoteAuthority::new(
            bad,
            &authority.roots(),
            &domain("cluster.local"),
            token(TOKEN),
            HOUR,
        );
        assert!(matches!(made, Err(RemoteError::Address(_))), "{bad}");
    }
}

#[tokio::test]
async fn manager_fills_its_set_from_a_remote_authority() {
    let authority =
        Arc::new(Authority::in_memory(domain("cluster.local"), UnixTime::now()).unwrap());
    let (address, _tasks) = serve(&authority).await;
    let source = Source::Remote(Arc::new(remote(
        &format!("https://{address}"),
        &authority.roots(),
        TOKEN,
    )));
    let wanted = vec![want(FRONTEND, &[])];
    let manager = SvidManager::new(source, wanted.clone());
    let mut set = manager.subscribe();
    let mut tasks = JoinSet::new();
    tasks.spawn(manager.run());
    let waited = tokio::time::timeout(
        Duration::from_secs(20),
        set.wait_for(|set| set.covers(&wanted)),
    )
    .await;
    let found = waited.expect("issued in time").unwrap();
    assert_eq!(found.by_id[&id(FRONTEND)].id, id(FRONTEND));
    assert_eq!(
        found.bundles.bundle("cluster.local").unwrap().roots(),
        authority.roots()
    );
}
