//! The README's configuration from zero, and what an operator does to a running process: certificates are replaced, a key
//! is broken, the file of records is moved away.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reports by panicking, and its backend is a thread"
)]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::curl::{Answer, Caller};
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use tempfile::TempDir;

#[path = "support/shop.rs"]
mod shop;

use shop::{HOST, backend, pair};

const WAIT: Duration = Duration::from_secs(60);

/// The block of a page between two marks.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("<!-- from-zero -->\n```toml\n").unwrap();
    let (block, _) = rest.split_once("```\n<!-- /from-zero -->").unwrap();
    block.to_owned()
}

struct Zero {
    dir: TempDir,
    net: String,
    child: Child,
}

impl Drop for Zero {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Zero {
    /// Writes the example with addresses of its own, and `more` after it, and starts it.
    fn start(more: &str) -> Self {
        Self::edited(more, |text| text)
    }

    /// As `start`, with what `edit` makes of the example.
    fn edited(more: &str, edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = free_subnet().unwrap();
        let text = example().replace("127.0.0.1", &format!("{net}.1"));
        let text = format!("{}{more}", edit(text)).replace("NET", &net);
        std::fs::write(dir.path().join("ringgate.toml"), text).unwrap();
        pair(dir.path(), "cert.pem", "key.pem");
        backend(&format!("{net}.1:9000"));
        let log = std::fs::File::create(dir.path().join("run.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "--config"])
            .arg(dir.path().join("ringgate.toml"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let this = Self { dir, net, child };
        let serves = os::wait_until(WAIT, || this.get("cert.pem", "/").status == 200);
        assert!(serves, "{}", this.log());
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("run.log")).unwrap()
    }

    /// A request of a client that believes this certificate alone.
    fn get(&self, believed: &str, path: &str) -> Answer {
        self.get_from(HOST, believed, path, &[])
    }

    /// As `get`, from another host, with more arguments of curl.
    fn get_from(&self, host: &str, believed: &str, path: &str, more: &[&str]) -> Answer {
        let net = &self.net;
        let believed = self.file(believed);
        let args = [
            "--cacert",
            believed.to_str().unwrap(),
            "--resolve",
            &format!("{host}:8443:{net}.1"),
        ];
        let url = format!("https://{host}:8443{path}");
        let caller = Caller::default().with(&args).with(more);
        caller.call(&url).unwrap()
    }

    fn admin(&self, path: &str) -> String {
        let url = format!("http://{}.2:15000{path}", self.net);
        Caller::default().call(&url).unwrap().body
    }

    /// Waits for it; the log says why it did not come.
    fn soon(&self, what: &str, mut is: impl FnMut() -> bool) {
        assert!(os::wait_until(WAIT, &mut is), "{what}\n{}", self.log());
    }
}

#[test]
fn the_example_of_the_readme_serves() {
    let text = example();
    assert!(text.lines().count() <= 30, "it is to be the least");
    let zero = Zero::start("");
    let answer = zero.get("cert.pem", "/hello");
    assert_eq!((answer.status, answer.body.trim()), (200, "ok"));
    let check = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["check", "--deny-warnings", "--config"])
        .arg(zero.file("ringgate.toml"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// The records so far.
fn records(zero: &Zero) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(zero.file("log/decisions.jsonl")).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.filter_map(Result::ok).collect()
}

/// Plain HTTP leads to https and to nothing else, whatever is asked for, and records hold of its query what they may.
#[test]
fn plain_http_is_redirected() {
    let zero = Zero::edited("", |text| {
        let gateway = "gateway = \"edge/public\"\n";
        let path = "path = \"log/decisions.jsonl\"\n";
        assert!(text.contains(gateway) && text.contains(path), "{text}");
        text.replace(gateway, &format!("{gateway}httpListen = \"NET.1:8080\"\n"))
            .replace(path, &format!("{path}query = \"names\"\n"))
    });
    let net = &zero.net;
    let curl = |args: &[&str], url: &str| {
        let at = |port: u16| format!("{HOST}:{port}:{net}.1");
        let told = "%{http_code} %{num_redirects} %{redirect_url}";
        let out = Command::new("curl")
            .args([
                "-sS",
                "-m",
                "60",
                "--resolve",
                &at(8080),
                "--resolve",
                &at(8443),
            ])
            .args(["--cacert", zero.file("cert.pem").to_str().unwrap()])
            .args(["-o", "/dev/null", "-w", told])
            .args(args)
            .arg(url)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let plain = format!("http://{HOST}:8080/a/b?token=secret&x=1");
    let there = format!("https://{HOST}:8443/a/b?token=secret&x=1");
    // Also for one whom policy or a token would have kept out, and with a body.
    assert_eq!(curl(&[], &plain), format!("308 0 {there}"));
    let bearer = ["-H", "authorization: Bearer x.y.z", "-d", "body"];
    assert_eq!(curl(&bearer, &plain), format!("308 0 {there}"));
    assert_eq!(curl(&["-L"], &plain), "200 1 ");
    // What has no path leads nowhere.
    let asterisk = ["-X", "OPTIONS", "--request-target", "*"];
    assert_eq!(curl(&asterisk, &plain), "400 0 ");
    zero.soon("the records", || {
        let all = records(&zero);
        let of = |close: &str| {
            let mut fits = all.iter().filter(|r| r["close"] == close);
            fits.rfind(|r| r["request"]["path"] == "/a/b?token=*&x=*")
                .cloned()
        };
        let (Some(plain), Some(_)) = (of("plaintext_refused"), of("done")) else {
            return false;
        };
        assert_eq!(plain["status"], 308, "{plain}");
        assert_eq!(plain["verdict"], "deny", "{plain}");
        assert_eq!(plain["reason"], "redirected to https", "{plain}");
        assert!(all.iter().all(|r| !r.to_string().contains("secret")));
        true
    });
}

/// The port that clients know, and what gets no redirect.
#[test]
fn what_is_redirected_and_where_to() {
    let zero = Zero::edited("", |text| {
        let gateway = "gateway = \"edge/public\"\n";
        assert!(text.contains(gateway), "{text}");
        let more = "httpListen = \"NET.1:8080\"\nhttpsPort = 443\n";
        text.replace(gateway, &format!("{gateway}{more}"))
    });
    let says = |request: &str| {
        let mut stream = TcpStream::connect(format!("{}.1:8080", zero.net)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // To its end: the connection is not kept.
        stream.read_to_string(&mut answer).unwrap();
        answer.to_ascii_lowercase()
    };
    let host = format!("host: {HOST}");
    let there = format!("\r\nlocation: https://{HOST}/b?x=%2e&y\r\n");
    let plain = says(&format!("GET /a/../b?x=%2e&y HTTP/1.1\r\n{host}\r\n\r\n"));
    assert!(
        plain.starts_with("http/1.1 308 ") && plain.contains(&there),
        "{plain}"
    );
    let grpc = "POST /a.B/C HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0";
    let grpc = says(&format!("{grpc}\r\n{host}\r\n\r\n"));
    assert!(
        grpc.starts_with("http/1.1 200 ") && grpc.contains("\r\ngrpc-status: 2\r\n"),
        "{grpc}"
    );
    for nowhere in [
        format!("CONNECT {HOST}:443 HTTP/1.1\r\n{host}:443\r\n\r\n"),
        format!("OPTIONS * HTTP/1.1\r\n{host}\r\n\r\n"),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        // HTTP/2 in the clear, with the settings that come after its preface.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".to_owned(),
    ] {
        let answer = says(&nowhere);
        assert!(answer.starts_with("http/1.1 400 "), "{nowhere}{answer}");
        assert!(!answer.contains("location"), "{answer}");
    }
}

#[test]
fn a_certificate_is_replaced_and_a_broken_one_is_not() {
    let zero = Zero::start("[admin]\nlisten = \"NET.2:15000\"\n");
    let problems = || zero.admin("/config/problems");
    assert_eq!(problems(), "[]");

    // Nothing but the files changes.
    pair(zero.dir.path(), "new.pem", "new.key");
    std::fs::copy(zero.file("new.pem"), zero.file("cert.pem")).unwrap();
    std::fs::copy(zero.file("new.key"), zero.file("key.pem")).unwrap();
    zero.soon("the new certificate", || {
        zero.get("new.pem", "/").status == 200
    });
    let metrics = zero.admin("/metrics");
    let sample = "ringgate_certificate_seconds_left{gateway=\"edge/public\",listener=";
    assert!(metrics.contains(sample), "{metrics}");

    std::fs::write(zero.file("key.pem"), "junk").unwrap();
    zero.soon("the problem", || {
        problems().contains("holds no private key")
    });
    let told = problems();
    assert!(
        told.contains("ingress[0].listener[0].key") && told.contains("key.pem"),
        "{told}"
    );
    assert_eq!(
        zero.get("new.pem", "/").status,
        200,
        "the last good one stays"
    );

    // Another edit is not held up by it.
    let config = zero.file("ringgate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("hostnames = [", "hostnames = [\"other.example.test\", ");
    std::fs::write(&config, text).unwrap();
    zero.soon("the reload", || zero.admin("/generation").trim() == "2");
    assert!(problems().contains("holds no private key"));
    assert_eq!(zero.get("new.pem", "/").status, 200);

    std::fs::copy(zero.file("new.key"), zero.file("key.pem")).unwrap();
    zero.soon("the end of the problem", || problems() == "[]");
}

/// Writes a certificate of another host, and its key.
fn pair_of(zero: &Zero, host: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    // The first name is what clients believe, the second what is served.
    for file in ["believed.pem", "other.pem"] {
        std::fs::write(zero.file(file), &certificate).unwrap();
    }
    std::fs::write(zero.file("other.key"), key.serialize_pem()).unwrap();
}

#[test]
fn certificates_come_and_go_by_a_reload() {
    const OTHER: &str = "other.example.test";
    let zero = Zero::start("[admin]\nlisten = \"NET.2:15000\"\n");
    let other = |more: &[&str]| zero.get_from(OTHER, "believed.pem", "/", more);
    pair_of(&zero, OTHER);
    let config = zero.file("ringgate.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let key = "key = \"file:key.pem\"\n";
    assert!(before.contains(key), "{before}");
    let more = "[[ingress.listener.certificates]]\ncertificate = \"other.pem\"\nkey = \"file:other.key\"\n";
    let text = before
        .replace(key, &format!("{key}{more}"))
        .replace("hostnames = [", &format!("hostnames = [\"{OTHER}\", "));
    std::fs::write(&config, text).unwrap();
    zero.soon("the reload", || zero.admin("/generation").trim() == "2");
    assert_eq!(other(&[]).status, 200, "{}", other(&[]).seen());
    assert_eq!(zero.get("cert.pem", "/").status, 200);
    let foreign = other(&["--header", &format!("host: {HOST}")]);
    assert_eq!(foreign.status, 421, "{}", foreign.seen());

    // Each tells of itself.
    let metrics = zero.admin("/metrics");
    for file in ["cert.pem", "other.pem"] {
        let sample = format!("certificate=\"{}\"", zero.file(file).display());
        let is_told = |line: &str| {
            line.starts_with("ringgate_certificate_seconds_left{") && line.contains(&sample)
        };
        assert!(metrics.lines().any(is_told), "{file}: {metrics}");
    }
    let status = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["status", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&status.stdout);
    for (file, names) in [
        ("cert.pem", format!("{HOST}, other names")),
        ("other.pem", OTHER.to_owned()),
    ] {
        let file = zero.file(file);
        let line = format!(
            "certificate  {} at {}.1:8443 for {names}, ",
            file.display(),
            zero.net
        );
        assert!(told.contains(&line), "{line}: {told}");
    }

    // Each is renewed by itself, and a broken one is told with its place.
    std::fs::write(zero.file("other.key"), "junk").unwrap();
    let problems = || zero.admin("/config/problems");
    let place = "ingress[0].listener[0].certificates[0].key";
    zero.soon("the problem", || problems().contains(place));
    assert_eq!(other(&[]).status, 200, "the last good one stays");
    pair_of(&zero, OTHER);
    zero.soon("the new certificate", || other(&[]).status == 200);
    zero.soon("the end of the problem", || problems() == "[]");
    assert_eq!(zero.get("cert.pem", "/").status, 200);

    std::fs::write(&config, &before).unwrap();
    zero.soon("the reload", || zero.admin("/generation").trim() == "3");
    // What is served is the first again, which this client does not believe.
    assert_eq!(other(&[]).exit, 60, "{}", other(&[]).seen());
    assert_eq!(zero.get("cert.pem", "/").status, 200);
}

#[test]
fn records_that_are_moved_away_lose_no_line() {
    let zero = Zero::start("");
    let (log, calls) = (zero.file("log/decisions.jsonl"), 40);
    let urls: Vec<String> = (0..calls).map(|n| format!("/call-{n}")).collect();
    for (n, path) in urls.iter().enumerate() {
        assert_eq!(zero.get("cert.pem", path).status, 200);
        if n % 10 == 9 {
            let moved = zero.file(&format!("log/decisions.jsonl.{n}"));
            let mv = Command::new("mv").arg(&log).arg(&moved).status();
            assert!(mv.unwrap().success());
            assert_eq!(zero.get("cert.pem", "/between").status, 200);
            zero.soon("a new file", || log.exists());
        }
    }
    let lines = || -> Vec<String> {
        let files = std::fs::read_dir(zero.file("log")).unwrap().flatten();
        let files = files.filter(|f| f.file_name().to_string_lossy().starts_with("decisions"));
        let texts = files.map(|f| std::fs::read_to_string(f.path()).unwrap());
        texts
            .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let found = || -> BTreeSet<String> {
        let records = lines();
        let wanted = urls.iter().filter(|url| {
            let path = format!("\"path\":\"{url}\"");
            records.iter().any(|line| line.contains(&path))
        });
        wanted.cloned().collect()
    };
    zero.soon("every record", || found().len() == calls);
    for line in lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(&line).is_ok(),
            "{line}"
        );
    }
}
