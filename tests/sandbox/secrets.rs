//! Keys and secrets that were in use, and then were replaced, are nowhere in the memory of the process: neither what it has
//! made of them itself nor what its libraries have.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PublicKeyData as _};
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use ringgate::control::authority::Authority;
use ringgate::identity::pem;
use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::UnixTime;

use crate::memory::holds;
use crate::system::{System, WAIT, pair};

const ID: &str = "spiffe://cluster.local/ns/edge/sa/public";
const CLIENT: &str = "portal";
const SHOP: &str = "https://shop.example.test";

const LOGIN: &str = r#"
[[extensionProvider]]
name = "login"
[extensionProvider.oidc]
issuer = "http://NET.1:9100"
clientId = "portal"
clientSecret = "file:SECRETS/client"
cookieKey = "file:SECRETS/cookie"
dangerous_allowHttpIssuerOnLoopback = true
[[authorizationPolicy]]
name = "login"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
action = "CUSTOM"
provider.name = "login"
rules = [{ to = [{ operation.paths = ["/private*"] }] }]
"#;

/// The number that a P-256 key in PKCS#8 is (RFC 5915 section 3), as it is written and as a little-endian processor computes
/// with it.
fn scalars(der: &[u8]) -> [Vec<u8>; 2] {
    let mark = [2, 1, 1, 4, 32];
    let at = memchr::memmem::find(der, &mark).unwrap() + mark.len();
    let written = der[at..at + 32].to_vec();
    let computed = written.iter().rev().copied().collect();
    [written, computed]
}

fn scalars_of(pem: &str) -> [Vec<u8>; 2] {
    scalars(pem::private_key(pem.as_bytes()).unwrap().secret_der())
}

/// A provider that gives nobody a token; the head and the body of each request to its token endpoint.
fn provider(address: &str) -> Receiver<String> {
    let (told, heard) = channel();
    let listener = TcpListener::bind(address).unwrap();
    let issuer = format!("http://{address}");
    let key = KeyPair::generate().unwrap();
    let (x, y) = key.der_bytes()[1..].split_at(32);
    let [x, y] = [x, y].map(|n| URL_SAFE_NO_PAD.encode(n));
    let keys = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"1","use":"sig","x":"{x}","y":"{y}"}}]}}"#
    );
    let discovery = format!(
        r#"{{"issuer":"{issuer}","authorization_endpoint":"{issuer}/authorize","token_endpoint":"{issuer}/token",
        "jwks_uri":"{issuer}/keys","response_types_supported":["code"],"subject_types_supported":["public"],
        "id_token_signing_alg_values_supported":["ES256"]}}"#
    );
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while stream.read_line(&mut head).is_ok_and(|n| n > 2) {}
            let lower = head.to_lowercase();
            let length = lower
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |n| n.trim().parse().unwrap())];
            drop(stream.read_exact(&mut body));
            let (status, answer) = match head.split(' ').nth(1) {
                Some("/.well-known/openid-configuration") => ("200 OK", discovery.as_str()),
                Some("/keys") => ("200 OK", keys.as_str()),
                _ => {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    drop(told.send(head + &body));
                    ("400 Bad Request", r#"{"error":"invalid_grant"}"#)
                }
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            );
            drop(stream.get_mut().write_all(answer.as_bytes()));
        }
    });
    heard
}

/// A new identity in a directory, in the names of Istio: its key's numbers.
fn identity(dir: &Path, authority: &Authority) -> [Vec<u8>; 2] {
    let (id, now) = (SpiffeId::parse(ID).unwrap(), UnixTime::now());
    let lifetime = Duration::from_secs(3600);
    let svid = authority.issue(&id, &[], lifetime, now).unwrap();
    // The certificate last: it is what is looked for.
    for (name, text) in [
        (
            "root-cert.pem",
            pem::encode_certificates(&authority.roots()),
        ),
        ("key.pem", pem::encode("PRIVATE KEY", svid.key.secret_der())),
        ("cert-chain.pem", pem::encode_certificates(&svid.chain)),
    ] {
        std::fs::write(dir.join("new"), text).unwrap();
        std::fs::rename(dir.join("new"), dir.join(name)).unwrap();
    }
    scalars(svid.key.secret_der())
}

/// A browser of the shop, with its cookies in a file.
fn browse(system: &System, jar: &Path, url: &str) -> String {
    let output = Command::new("curl")
        .args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
        ])
        .args(["-H", "accept: text/html", "--resolve"])
        .arg(format!("shop.example.test:443:{}.1", system.net))
        .arg("--cacert")
        .arg(system.file("tls/cert.pem"))
        .arg("--cookie")
        .arg(jar)
        .arg("--cookie-jar")
        .arg(jar)
        .arg(url)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Begins a login and comes back with a code, by which the client secret is sent to the provider.
fn log_in(system: &System, asked: &Receiver<String>) -> String {
    let jar = system.file("jar");
    std::fs::write(&jar, "").unwrap();
    let sent = browse(system, &jar, &format!("{SHOP}/private"));
    let state = sent.split(['?', '&']).find(|p| p.starts_with("state="));
    let state = state.unwrap_or_else(|| panic!("{sent}: {}", system.log()));
    let back = format!("{SHOP}/oidc/callback?code=one&{state}");
    let answer = browse(system, &jar, &back);
    let told = asked.recv_timeout(WAIT);
    told.unwrap_or_else(|_e| panic!("{answer}: {}", system.log()))
}

#[test]
fn what_was_replaced_is_gone() {
    let net = free_subnet().unwrap();
    let asked = provider(&format!("{net}.1:9100"));
    let secrets = tempfile::tempdir().unwrap();
    let svids = tempfile::tempdir().unwrap();
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let authority = Authority::in_memory(domain, UnixTime::now()).unwrap();
    let svid_key = identity(svids.path(), &authority);
    let mut random = [0; 64];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    let (secret, cookie_key) = random.split_at(32);
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(secrets.path().join("client"), &secret).unwrap();
    std::fs::write(secrets.path().join("cookie"), cookie_key).unwrap();
    let login = LOGIN.replace("NET", &net);
    let login = login.replace("SECRETS", secrets.path().to_str().unwrap());
    let identities = format!("[identity]\nfiles = [\"{}\"]", svids.path().display());
    let system = System::start_of(net, ("cores = 1\n", &identities), &login);
    let tls_key = scalars_of(&system.text("tls/key.pem"));
    let pid = system.status()["pid"].as_u64().unwrap();

    let header = STANDARD.encode(format!("{CLIENT}:{secret}"));
    let told = log_in(&system, &asked);
    assert!(told.contains(&format!("Basic {header}")), "{told}");

    // What is in use is there, each in one form at least: so a look for it can find it.
    let texts = [secret.as_bytes(), &header.as_bytes()[16..64], cookie_key];
    let numbers = svid_key.iter().chain(&tls_key).map(Vec::as_slice);
    let all: Vec<&[u8]> = texts.into_iter().chain(numbers).collect();
    let found = holds(pid, &all);
    let is_there = |any: &[usize]| any.iter().any(|at| found[*at]);
    for (what, any) in [
        ("the client secret", &[0][..]),
        ("the cookie key", &[2]),
        ("the key of the SVID", &[3, 4]),
        ("the key of the listener", &[5, 6]),
    ] {
        assert!(is_there(any), "{what} is not found while it is in use");
    }

    // All of it is replaced; the login is taken out.
    identity(svids.path(), &authority);
    pair(&system.file("tls"));
    let without = system.text("ringgate.toml").replace(&login, "");
    std::fs::write(system.file("new"), without).unwrap();
    std::fs::rename(system.file("new"), system.file("ringgate.toml")).unwrap();
    system.until("a reload", |status| status["generation"] == 2);
    let mut left = Vec::new();
    let gone = os::wait_until(WAIT, || {
        // What a core has of the snapshot before it drops with its next turn.
        let served = system.get() == Some(200);
        left = holds(pid, &all);
        served && !left.contains(&true)
    });
    assert!(gone, "{left:?}\n{}", system.log());
}
