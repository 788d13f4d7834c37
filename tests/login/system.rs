//! What the login tests run: the provider, a backend, the program with `config/ingress-login.toml`, and curl as browser.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use ringgate::cli::curl::{Answer, Caller};
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use crate::idp::Idp;

pub const PORTAL: &str = "https://portal.example.com:8443";
pub const REPORTS: &str = "https://reports.example.com:8443";
/// What only the provider and the ingress know, with characters that form encoding changes.
const CLIENT_SECRET: &str = "an odd:secret/+%\n";
const START: Duration = Duration::from_secs(30);

/// A running system; ended with this value.
pub struct System {
    pub idp: Option<Idp>,
    pub issuer: String,
    dir: TempDir,
    subnet: String,
    io: &'static str,
    process: Option<Child>,
}

impl System {
    /// Starts everything. `edit` may change the configuration.
    pub fn start(io: &'static str, edit: impl FnOnce(&mut String)) -> Self {
        let subnet = free_subnet().unwrap();
        let callbacks = [PORTAL, REPORTS].map(|origin| format!("{origin}/oidc/callback"));
        let idp = Idp::start(&callbacks);
        let mut system = Self {
            issuer: idp.issuer.clone(),
            idp: Some(idp),
            dir: tempfile::tempdir().unwrap(),
            subnet,
            io,
            process: None,
        };
        certificate(system.dir.path());
        system.file("secrets/oidc-client", CLIENT_SECRET);
        let key = STANDARD.encode(os::random::<32>().unwrap());
        system.file("secrets/cookie-key", &format!("{key}\n"));
        backend(&format!("{}.3:18080", system.subnet));
        let mut config = system.example();
        edit(&mut config);
        system.file("ringgate.toml", &config);
        system.run();
        system
    }

    /// The example with this system's addresses.
    fn example(&self) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ingress-login.toml");
        let mut text = os::read_text(&path).unwrap();
        let subnet = &self.subnet;
        for (from, to) in [
            (
                "name = \"edge\"\n",
                format!("name = \"edge\"\nio = \"{}\"\ncores = 1\n", self.io),
            ),
            ("/var/log/ringgate/", String::new()),
            ("/var/lib/ringgate/", String::new()),
            ("127.0.0.1:15000", format!("{subnet}.9:15000")),
            ("\"127.0.0.1:8080\"", format!("\"{subnet}.3:18080\"")),
            ("10.1.0.20:443", "10.1.0.20:8443".to_owned()),
            ("10.1.0.", format!("{subnet}.")),
            ("https://auth.example.com", self.issuer.clone()),
            (
                "clientId = \"portal\"",
                "clientId = \"edge\"\ndangerous_allowHttpIssuerOnLoopback = true".to_owned(),
            ),
            (
                "audiences = [\"portal\"]",
                "audiences = [\"edge\"]".to_owned(),
            ),
        ] {
            assert!(text.contains(from), "the example lacks `{from}`");
            text = text.replace(from, &to);
        }
        text
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        os::make_dir(path.parent().unwrap(), 0o700).unwrap();
        os::write(&path, text.as_bytes(), 0o600).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("ringgate.log")
    }

    /// Starts the program and waits until it serves.
    fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "--config"])
            .arg(self.dir.path().join("ringgate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        let ready = format!("http://{}.9:15000/readyz", self.subnet);
        let serves = os::wait_until(START, || {
            Caller::default().call(&ready).unwrap().status == 200
        });
        assert!(serves, "{}", os::read_text(&self.log()).unwrap());
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Ends the program at once and starts it again.
    pub fn restart(&mut self) {
        self.end();
        self.run();
    }

    /// Changes the configuration while it runs.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.dir.path().join("ringgate.toml");
        let text = os::read_text(&path).unwrap();
        assert!(text.contains(from), "{from}");
        self.file("ringgate.toml", &text.replace(from, to));
    }

    /// Changes the configuration while it runs and waits until it holds.
    pub fn reload(&self, from: &str, to: &str) {
        let before = self.admin("/generation");
        self.edit(from, to);
        let reloaded = os::wait_until(START, || self.admin("/generation") != before);
        assert!(reloaded, "{}", self.admin("/config/problems"));
    }

    pub fn admin(&self, path: &str) -> String {
        let url = format!("http://{}.9:15000{path}", self.subnet);
        Caller::default().call(&url).unwrap().body
    }

    /// A browser or client with an empty cookie jar.
    pub fn browser(&self, name: &str) -> Browser<'_> {
        let mut args = vec!["--cacert".to_owned(), self.path("tls/ca.pem")];
        for host in ["portal.example.com", "reports.example.com"] {
            for port in [8443, 443] {
                let to = format!("{host}:{port}:{}.20:8443", self.subnet);
                args.extend(["--connect-to".to_owned(), to]);
            }
        }
        let caller = Caller {
            prefix: Vec::new(),
            args,
        };
        Browser {
            system: self,
            caller,
            jar: self.path(name),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn all_records(&self) -> String {
        os::read_text(&self.dir.path().join("decisions.jsonl")).unwrap_or_default()
    }

    /// The last record of a request for `path` once there is one with this status.
    pub fn record(&self, path: &str, status: u16) -> Value {
        let mut found = None;
        os::wait_until(Duration::from_secs(5), || {
            let all = self.all_records();
            let mut records = all
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            found = records.rfind(|r| {
                r["role"] == "ingress" && r["request"]["path"] == path && r["status"] == status
            });
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no record of {path} {status}: {}", self.all_records()))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = os::read_text(&self.log()).unwrap_or_default();
            let records = self.all_records();
            let tail: Vec<&str> = records.lines().rev().take(5).collect();
            eprintln!("log:\n{log}\nlast records:\n{}", tail.join("\n"));
        }
    }
}

/// A CA, the certificate of both hosts and one of each below `tls/`.
fn certificate(dir: &Path) {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "login test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let both = ["portal.example.com", "reports.example.com"];
    os::make_dir(&dir.join("tls"), 0o700).unwrap();
    let write = |name: &str, text: String| {
        os::write(&dir.join("tls").join(name), text.as_bytes(), 0o600).unwrap();
    };
    write("ca.pem", ca_pem);
    for (cert, key, names) in [
        ("cert.pem", "key.pem", &both[..]),
        ("portal.pem", "portal.key", &both[..1]),
        ("reports.pem", "reports.key", &both[1..]),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap();
        let pair = KeyPair::generate().unwrap();
        write(cert, leaf.signed_by(&pair, &issuer).unwrap().pem());
        write(key, pair.serialize_pem());
    }
}

/// Answers every request with its own head, and tries to set a cookie that belongs to the ingress.
fn backend(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // A connection that ends early is the client's affair.
                let _served = echo(&mut stream);
            });
        }
    });
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = text.split("\r\ncontent-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
    // A body that is not read would make the kernel reset the connection.
    std::io::copy(&mut stream.take(length.unwrap_or(0)), &mut std::io::sink())?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nset-cookie: app=1\r\nset-cookie: __Host-ringgate-s-x=1.planted; Path=/; Secure\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        head.len()
    );
    stream.write_all(answer.as_bytes())?;
    stream.write_all(&head)
}

/// curl with a cookie jar.
pub struct Browser<'s> {
    system: &'s System,
    caller: Caller,
    jar: String,
}

impl Browser<'_> {
    /// A request with the jar and these arguments alone.
    pub fn call(&self, url: &str, args: &[&str]) -> Answer {
        let jar = ["--cookie", &self.jar, "--cookie-jar", &self.jar];
        let answer = self.caller.with(&jar).with(args).call(url).unwrap();
        assert_eq!(answer.exit, 0, "{url}: {}", answer.stderr);
        self.forget(Url::parse(url).unwrap().host_str().unwrap(), &answer);
        answer
    }

    /// Takes cookies that the answer ended out of the jar: curl 7.88 reads the jar once more before it writes it, and so
    /// keeps what it was told to forget.
    fn forget(&self, host: &str, answer: &Answer) {
        let ended: Vec<&str> = all(answer, "set-cookie")
            .into_iter()
            .filter(|field| field.contains("; Max-Age=0;"))
            .filter_map(|field| field.split('=').next())
            .collect();
        if ended.is_empty() {
            return;
        }
        let jar = os::read_text(Path::new(&self.jar)).unwrap_or_default();
        let stays = |line: &&str| {
            let fields: Vec<&str> = line.split('\t').collect();
            fields.len() != 7
                || fields[0].trim_start_matches("#HttpOnly_") != host
                || !ended.contains(&fields[5])
        };
        let kept: Vec<&str> = jar.lines().filter(stays).collect();
        os::write(
            Path::new(&self.jar),
            (kept.join("\n") + "\n").as_bytes(),
            0o600,
        )
        .unwrap();
    }

    /// A person opens a page.
    pub fn open(&self, url: &str) -> Answer {
        self.call(
            url,
            &["-H", "accept: text/html,application/xhtml+xml;q=0.9"],
        )
    }

    /// Walks the provider's pages until it sends the browser back; gives the URL at the portal.
    pub fn authenticate(&self, user: &str, from: &str) -> String {
        let mut url = Url::parse(from).unwrap();
        for _ in 0..12 {
            let mut page = self.open(url.as_str());
            if page.status == 200 {
                let form = if page.body.contains("name=\"login\"") {
                    format!("prompt=login&login={user}&password=any")
                } else {
                    "prompt=consent".to_owned()
                };
                page = self.call(url.as_str(), &["-H", "accept: text/html", "--data", &form]);
            }
            assert!((302..=303).contains(&page.status), "{url}: {}", page.seen());
            url = url.join(page.header("location").unwrap()).unwrap();
            if !url.as_str().starts_with(&self.system.issuer) {
                return url.into();
            }
        }
        panic!("no way back to the portal, at {url}");
    }

    /// From a page to the way back from the login, which is not gone yet.
    pub fn come_back(&self, user: &str, page: &str) -> String {
        let sent = self.open(page);
        assert_eq!(sent.status, 302, "{}", sent.seen());
        self.authenticate(user, sent.header("location").unwrap())
    }

    /// A whole login; gives the answer of the callback.
    pub fn log_in(&self, user: &str, page: &str) -> Answer {
        let done = self.open(&self.come_back(user, page));
        assert_eq!(done.status, 303, "{}", done.seen());
        done
    }

    /// Cookies of the jar that the ingress set, `name=value`.
    pub fn session(&self) -> Vec<String> {
        let jar = os::read_text(Path::new(&self.jar)).unwrap_or_default();
        let fields = jar.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        fields
            .filter(|f| f.len() == 7 && f[5].starts_with("__Host-ringgate-s-"))
            .map(|f| format!("{}={}", f[5], f[6]))
            .collect()
    }

    /// Another jar with the same cookies.
    pub fn copy(&self, name: &str) -> Self {
        let jar = self.system.path(name);
        os::write(
            Path::new(&jar),
            &os::read(Path::new(&self.jar)).unwrap(),
            0o600,
        )
        .unwrap();
        Self {
            jar,
            caller: self.caller.clone(),
            ..*self
        }
    }
}

/// All values of a header field.
pub fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let fields = answer.headers.iter().filter(|(found, _)| found == name);
    fields.map(|(_, value)| value.as_str()).collect()
}

/// The parameters of a URL's query.
pub fn parameters(url: &str) -> std::collections::BTreeMap<String, String> {
    Url::parse(url)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect()
}
