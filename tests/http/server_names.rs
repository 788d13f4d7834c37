//! Several certificates at one listener of the ingress: which one a server name gets, whose requests may come on its
//! connections, and whose sessions go on.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use ringgate::cli::curl::Caller;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup};

use crate::answer;
use crate::client::tls_client::client_of;
use crate::client::{Conn, client};
use crate::frames::{self, END_HEADERS, END_STREAM, HEADERS, frame};
use crate::system::{Place, System};

crate::on_both!(
    each_name_has_its_certificate,
    names_of_none_are_refused,
    requests_for_another_certificate,
    sessions_are_of_one_name,
    real_clients,
);

const PORTAL: &str = "portal.example.test";
const SHOP: &str = "shop.example.test";
const API: &str = "api.example.test";

/// A directory with certificates for the shop and what is below it, and for the API.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, names) in [
        ("shop", &[SHOP, "*.shop.example.test"][..]),
        ("api", &[API, "spare.example.test"]),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(names).unwrap().self_signed(&key);
        std::fs::write(dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(
            dir.path().join(format!("{file}.pem")),
            signed.unwrap().pem(),
        )
        .unwrap();
    }
    dir
}

/// The system with three certificates: the portal's first; that of the API is not for all of its names.
fn start(io: &str, dir: &Path, more: &str) -> System {
    let dir = dir.display();
    let key = "key = \"file:state/ingress/key.pem\"\n";
    let certificates = format!(
        "{key}{more}\n\
         [[ingress.listener.certificates]]\ncertificate = \"{dir}/shop.pem\"\nkey = \"file:{dir}/shop.key\"\n\
         [[ingress.listener.certificates]]\ncertificate = \"{dir}/api.pem\"\nkey = \"file:{dir}/api.key\"\n\
         hostnames = [\"api.example.test\"]\n"
    );
    let hosts = format!("\"{SHOP}\", \"*.{SHOP}\", \"{API}\", \"other.example.test\"");
    System::with(io, |config| {
        assert!(config.contains(key), "{config}");
        config.replace(key, &certificates).replace(
            &format!("hostnames = [\"{PORTAL}\"]"),
            &format!("hostnames = [\"{PORTAL}\", {hosts}]"),
        )
    })
}

fn address(system: &System) -> String {
    system.layout.at(20, 8443)
}

/// A ClientHello of TLS 1.2 (RFC 5246 section 7.4.1.2), whose answer is not encrypted, with whatever server name.
fn hello(name: Option<&[u8]>) -> Vec<u8> {
    let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &vector(bytes)].concat();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let host = [&[0][..], &vector(name)].concat();
        extensions.extend(extension(0, &vector(&host)));
    }
    // secp256r1; uncompressed points; ecdsa_secp256r1_sha256; extended_master_secret.
    extensions.extend(extension(10, &vector(&[0, 23])));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(13, &vector(&[4, 3])));
    extensions.extend(extension(23, &[]));
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression.
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &vector(&[0xc0, 0x2b]),
        &[1, 0],
        &vector(&extensions),
    ]
    .concat();
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &vector(&message)].concat()
}

/// What a client is answered: an alert, or the leaf of the server.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Alert(u8),
    Leaf(Vec<u8>),
    Nothing,
}

fn ask(system: &System, name: Option<&[u8]>) -> Answered {
    let mut conn = Conn::plain(&address(system));
    conn.send(&hello(name));
    let mut messages = Vec::new();
    while let Some(head) = conn.exactly(5) {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let Some(record) = conn.exactly(length) else {
            break;
        };
        if head[0] == 21 {
            assert_eq!(record[0], 2, "a fatal one");
            return Answered::Alert(record[1]);
        }
        messages.extend(record);
        if let Some(leaf) = leaf(&messages) {
            return Answered::Leaf(leaf);
        }
    }
    Answered::Nothing
}

/// The first certificate of the Certificate message, once it is there.
fn leaf(mut messages: &[u8]) -> Option<Vec<u8>> {
    let length = |bytes: &[u8]| {
        let three = bytes.get(..3)?;
        Some(usize::from(three[0]) << 16 | usize::from(three[1]) << 8 | usize::from(three[2]))
    };
    loop {
        let (kind, body) = (*messages.first()?, messages.get(4..)?);
        let body = body.get(..length(&messages[1..])?)?;
        if kind == 11 {
            let first = body.get(3..)?;
            return first.get(3..3 + length(first)?).map(<[u8]>::to_vec);
        }
        messages = &messages[4 + body.len()..];
    }
}

fn der(path: &Path) -> Vec<u8> {
    let mut all = CertificateDer::pem_file_iter(path).unwrap();
    all.next().unwrap().unwrap().to_vec()
}

/// The certificates in their order.
fn leaves(system: &System, dir: &Path) -> [Answered; 3] {
    let portal = system.file("state/ingress/cert.pem");
    [portal, dir.join("shop.pem"), dir.join("api.pem")].map(|path| Answered::Leaf(der(&path)))
}

fn long(labels: usize) -> Vec<u8> {
    let mut name = format!("{}.", "a".repeat(60)).repeat(labels);
    name.push_str(SHOP);
    name.into_bytes()
}

/// Names, and which certificate they get of three; those that none is for get `None`.
fn names() -> Vec<(Option<Vec<u8>>, Option<usize>)> {
    let known: [(&[u8], Option<usize>); 16] = [
        (b"portal.example.test", Some(0)),
        (b"shop.example.test", Some(1)),
        (b"a.shop.example.test", Some(1)),
        (b"b.a.shop.example.test", Some(1)),
        (b"api.example.test", Some(2)),
        (b"SHOP.Example.TEST", Some(1)),
        (b"shop.example.test.", Some(1)),
        (b"API.example.test.", Some(2)),
        (b"spare.example.test", None),
        (b"other.example.test", None),
        (b"ashop.example.test", None),
        (b"example.test", None),
        (b"x.api.example.test", None),
        // An address is no server name (RFC 6066 section 3).
        (b"127.0.0.1", None),
        (b"xn--shop-7ta.example.test", None),
        (b"_shop.example.test", None),
    ];
    let mut all: Vec<_> = known.map(|(name, nth)| (Some(name.to_vec()), nth)).into();
    all.push((None, None));
    all.push((Some(long(3)), Some(1)));
    all
}

/// No names at all.
fn broken() -> Vec<Vec<u8>> {
    let odd: [&[u8]; 9] = [
        b"",
        b".",
        b"shop.example.test..",
        b"*.shop.example.test",
        b"shop.example.test\0",
        b"shop example.test",
        b"shop.example.test/",
        "sh\u{f6}p.example.test".as_bytes(),
        b"shop.example.test:443",
    ];
    let mut all: Vec<_> = odd.map(<[u8]>::to_vec).into();
    all.extend([long(5), long(200), [&[b'a'; 64][..], b".test"].concat()]);
    all
}

fn each_name_has_its_certificate(io: &str) {
    let dir = certificates();
    let system = start(io, dir.path(), "");
    let leaves = leaves(&system, dir.path());
    for (name, nth) in names() {
        let told = name.as_deref().map(String::from_utf8_lossy);
        let want = &leaves[nth.unwrap_or(0)];
        assert_eq!(&ask(&system, name.as_deref()), want, "{told:?}");
    }
    for name in broken() {
        let told = String::from_utf8_lossy(&name);
        let answered = ask(&system, Some(&name));
        assert!(
            matches!(answered, Answered::Alert(_)),
            "{told}: {answered:?}"
        );
    }
    system.healthy();
}

fn names_of_none_are_refused(io: &str) {
    let dir = certificates();
    let system = start(io, dir.path(), "unknownServerName = \"REFUSE\"");
    let leaves = leaves(&system, dir.path());
    for (name, nth) in names() {
        let told = name.as_deref().map(String::from_utf8_lossy);
        // An address counts as no name.
        let is_named = name.as_deref().is_some_and(|name| name != b"127.0.0.1");
        let refused = Answered::Alert(if is_named { 112 } else { 109 });
        let want = nth.map_or(&refused, |nth| &leaves[nth]);
        assert_eq!(&ask(&system, name.as_deref()), want, "{told:?}");
    }
    for why in [
        "no certificate is for the server name `other.example.test`",
        "the client tells no server name",
    ] {
        let record = system.record(|r| r["reason"] == why);
        assert_eq!(
            (&record["close"], &record["role"]),
            (&"handshake".into(), &"ingress".into()),
            "{record}"
        );
    }
    system.healthy();
}

/// A connection of a client that asks for a server name, or for none.
fn connect(system: &System, name: Option<&str>, alpn: &str) -> Conn {
    let config = match name {
        Some(_) => client(&[alpn], None),
        None => crate::client::tls_client::client(&[alpn], None, false),
    };
    let name = name.unwrap_or(PORTAL);
    Conn::plain(&address(system)).tls(config, name).unwrap()
}

fn h1(conn: &mut Conn, host: &str, path: &str) -> u16 {
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    answer::read(conn, "GET").map_or(0, |answer| answer.status)
}

/// Whether the next answer on a stream is 421; the static table has no such status, so that it is told as text.
fn h2_is_misdirected(conn: &mut Conn, stream: u32, host: &str, path: &str) -> bool {
    let block = frames::get(host, path);
    conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
    loop {
        let (kind, _, at, payload) = frames::read(conn).expect("an answer");
        if kind == frames::SETTINGS && at == 0 && !payload.is_empty() {
            conn.send(&frame(frames::SETTINGS, 1, 0, &[]));
        }
        assert_ne!(kind, frames::GOAWAY, "{payload:?}");
        if (kind, at) == (HEADERS, stream) {
            // `:status` 200 is indexed; 421 is a literal, perhaps by Huffman's code.
            let first = payload[0];
            return first != 0x88;
        }
    }
}

fn requests_for_another_certificate(io: &str) {
    let dir = certificates();
    let system = start(io, dir.path(), "");
    system.backend(Place::Ingress).says(&[]);
    let mut nth = 0;
    for (name, host, misdirected) in [
        (Some(PORTAL), PORTAL, false),
        (Some(PORTAL), SHOP, true),
        (Some(PORTAL), API, true),
        (Some(SHOP), SHOP, false),
        (Some(SHOP), "SHOP.example.test", false),
        (Some(SHOP), "shop.example.test.", false),
        (Some(SHOP), "shop.example.test:8443", false),
        // The same certificate is for both: a browser comes with either on one connection.
        (Some(SHOP), "a.shop.example.test", false),
        (Some("a.shop.example.test"), SHOP, false),
        (Some(SHOP), PORTAL, true),
        (Some(SHOP), "PORTAL.example.test.:443", true),
        (Some(SHOP), API, true),
        // No certificate is for it: nothing says that it belongs elsewhere.
        (Some(SHOP), "other.example.test", false),
        (Some("other.example.test"), "other.example.test", false),
        (Some("other.example.test"), PORTAL, false),
        (Some("other.example.test"), API, true),
        (None, PORTAL, false),
        (None, SHOP, true),
    ] {
        let mut conn = connect(&system, name, "http/1.1");
        for _ in 0..2 {
            nth += 1;
            let path = format!("/api/name/{nth}");
            let status = h1(&mut conn, host, &path);
            let want = if misdirected { 421 } else { 200 };
            assert_eq!(status, want, "{name:?} {host}");
            let record = system.record(|r| r["role"] == "ingress" && r["request"]["path"] == *path);
            if misdirected {
                let told = record["reason"].as_str().unwrap();
                let opened = match name {
                    Some(name) => format!("for the server name `{name}`"),
                    None => "without a server name".to_owned(),
                };
                assert!(
                    record["close"] == "misdirected"
                        && record["status"] == 421
                        && told.contains("another certificate is for")
                        && told.ends_with(&opened),
                    "{record}"
                );
            } else {
                assert_eq!(record["close"], "done", "{record}");
            }
        }
        // A call by gRPC-Web is told so as well, for its browser is to ask on another connection.
        if misdirected {
            conn.send(
                format!(
                    "POST /api/grpc HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 0\r\n\r\n"
                )
                .as_bytes(),
            );
            let status = answer::read(&mut conn, "POST").map(|answer| answer.status);
            assert_eq!(status, Some(421), "{name:?} {host}");
        }
        // It ends no connection: who asks for what it is for is answered.
        if let Some(name) = name {
            assert_eq!(h1(&mut conn, name, "/api/name/own"), 200, "{name}");
        }
    }
    // What came nowhere was heard by nobody.
    let seen = system.backend(Place::Ingress).seen();
    assert!(!seen.is_empty());
    let heard = |message: &crate::backend::Message| message.all("host").concat();
    assert!(seen.iter().all(|m| !heard(m).contains("api.")), "{seen:?}");

    let mut conn = connect(&system, Some(SHOP), "h2");
    conn.send(frames::PREFACE);
    for (nth, (host, misdirected)) in [
        (SHOP, false),
        (API, true),
        ("a.shop.example.test", false),
        (PORTAL, true),
        (SHOP, false),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 2 * nth as u32 + 1;
        let path = format!("/api/h2/{nth}");
        assert_eq!(
            h2_is_misdirected(&mut conn, stream, host, &path),
            misdirected,
            "{host}"
        );
        let record = system.record(|r| r["role"] == "ingress" && r["request"]["path"] == *path);
        let want = if misdirected { "misdirected" } else { "done" };
        assert_eq!(record["close"], want, "{record}");
    }
    system.healthy();
}

/// Keeps sessions whatever the server's name, as no client should.
#[derive(Debug, Default)]
struct AnyName {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tls13.lock().unwrap().push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().pop_back()
    }
}

/// One exchange on a connection of its own, and how its handshake went.
fn exchange(system: &System, config: &Arc<ClientConfig>, name: &str) -> HandshakeKind {
    use std::io::{Read as _, Write as _};
    let tcp = std::net::TcpStream::connect(address(system)).unwrap();
    tcp.set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let session = rustls::ClientConnection::new(Arc::clone(config), server).unwrap();
    let mut stream = rustls::StreamOwned::new(session, tcp);
    let request = format!("GET /api/session HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{name}");
    stream.conn.handshake_kind().unwrap()
}

/// A session is proved by the certificate of the name that it began under, so it goes on under no other (RFC 6066 section 3,
/// RFC 8446 section 4.6.1).
fn sessions_are_of_one_name(io: &str) {
    let dir = certificates();
    let system = start(io, dir.path(), "");
    system.backend(Place::Ingress).says(&[]);
    for version in [&TLS12, &TLS13] {
        for (first, second, goes_on) in [
            (SHOP, SHOP, true),
            (API, API, true),
            ("other.example.test", "other.example.test", true),
            // Another certificate.
            (SHOP, API, false),
            (API, PORTAL, false),
            (PORTAL, SHOP, false),
            // Another name of the same certificate, and another that gets the first one.
            (SHOP, "a.shop.example.test", false),
            ("a.shop.example.test", "b.shop.example.test", false),
            (PORTAL, "other.example.test", false),
        ] {
            let mut config = (*client_of(&[version], &["http/1.1"], None, true)).clone();
            config.resumption = Resumption::store(Arc::new(AnyName::default()));
            let config = Arc::new(config);
            let told = format!("{version:?}: {first}, {second}");
            assert_eq!(
                exchange(&system, &config, first),
                HandshakeKind::Full,
                "{told}"
            );
            let want = if goes_on {
                HandshakeKind::Resumed
            } else {
                HandshakeKind::Full
            };
            assert_eq!(exchange(&system, &config, second), want, "{told}");
        }
    }
    system.healthy();
}

/// `openssl s_client` with a request, and what it said.
fn openssl(system: &System, name: &str, args: &[&str]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(["s_client", "-ign_eof", "-connect", &address(system)])
        .args(["-servername", name])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let request = format!("GET /api/openssl HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(request.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    told + &String::from_utf8_lossy(&output.stderr)
}

fn real_clients(io: &str) {
    let dir = certificates();
    let system = start(io, dir.path(), "");
    system.backend(Place::Ingress).says(&[]);
    let address = address(&system);
    let (ip, port) = address.rsplit_once(':').unwrap();
    // Each believes one certificate alone, and looks at the name.
    let portal = system.file("state/ingress/ca.pem");
    for (believed, host) in [
        (portal, PORTAL),
        (dir.path().join("shop.pem"), SHOP),
        (dir.path().join("shop.pem"), "a.shop.example.test"),
        (dir.path().join("api.pem"), API),
    ] {
        for version in ["--http1.1", "--http2"] {
            let resolve = format!("{host}:{port}:{ip}");
            let believed = believed.to_str().unwrap();
            let caller =
                Caller::default().with(&[version, "--cacert", believed, "--resolve", &resolve]);
            let answer = caller.call(&format!("https://{host}:{port}/api/curl"));
            let answer = answer.unwrap();
            assert_eq!(answer.status, 200, "{host} {version}: {}", answer.seen());
            // The name of one, the host of another.
            let misdirected = if host == API { SHOP } else { API };
            let field = format!("host: {misdirected}");
            let caller = caller.with(&["--header", &field]);
            let answer = caller.call(&format!("https://{host}:{port}/api/curl"));
            let answer = answer.unwrap();
            assert_eq!(answer.status, 421, "{host} {version}: {}", answer.seen());
        }
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let session = dir.path().join("session").display().to_string();
        let first = openssl(&system, SHOP, &[version, "-sess_out", &session]);
        assert!(
            first.contains("New, ") && first.contains("200 OK"),
            "{first}"
        );
        assert!(first.contains("-----BEGIN CERTIFICATE-----"), "{first}");
        for (name, goes_on) in [(SHOP, true), (API, false), ("a.shop.example.test", false)] {
            let told = openssl(&system, name, &[version, "-sess_in", &session]);
            assert!(told.contains("200 OK"), "{name} {version}: {told}");
            assert_eq!(
                told.contains("Reused, "),
                goes_on,
                "{name} {version}: {told}"
            );
        }
    }
    system.healthy();
}
