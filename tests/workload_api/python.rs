//! py-spiffe as a workload: it fetches, follows a rotation, has tokens made and validated.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::system::{OTHER_UID, RATINGS, REVIEWS, System, UID, entry};

/// A Python program at a socket.
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

fn packages() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    let packages = target.join("python");
    assert!(
        packages.join("spiffe").is_dir(),
        "no py-spiffe in {}: cargo xtask ci --only tools",
        packages.display()
    );
    packages
}

fn script() -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    Path::new(&root).join("tests/workload_api/client.py")
}

/// The file that such a program runs.
pub(crate) fn interpreter() -> String {
    let asked = "import os, sys; print(os.path.realpath(sys.executable))";
    let output = Command::new("python3")
        .args(["-c", asked])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The command that `Client::start` runs.
pub(crate) fn command(user: u32, socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(script())
        .arg(user.to_string())
        .arg(socket)
        .args(arguments)
        .env("PYTHONPATH", packages())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

impl Client {
    pub(crate) fn start(user: u32, socket: &Path, arguments: &[&str]) -> Self {
        Self::spawn(&mut command(user, socket, arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            lines,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that it says.
    pub(crate) fn says(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// One question with one answer.
pub(crate) fn ask(user: u32, system: &System, arguments: &[&str]) -> Value {
    let answer = Client::start(user, &system.socket(), arguments).says();
    system.alive();
    answer
}

#[test]
fn svids_bundles_and_hints() {
    let interpreter = interpreter();
    let entries = [
        entry(
            "reviews",
            "main",
            &format!("uid = {UID}, exe = \"{interpreter}\""),
        ),
        entry("ratings", "other", &format!("uid = {UID}, gid = {UID}")),
        entry("ratings", "again", &format!("gid = {UID}")),
    ];
    let system = System::start("1h", &entries.concat());
    let fetched = ask(UID, &system, &["fetch"]);
    assert_eq!(
        fetched["ids"],
        json!([REVIEWS, RATINGS]),
        "in the order of the entries"
    );
    assert_eq!(fetched["chains"], json!([2, 2]));
    assert_eq!(fetched["domains"], json!(["cluster.local"]));
    let hints = ask(UID, &system, &["hints"]);
    assert_eq!(
        hints["svids"],
        json!([[REVIEWS, "main"], [RATINGS, "other"]])
    );
    let record = system.record(|r| r["request"] == "FetchX509SVID");
    assert_eq!(record["verdict"], "allow");
    assert_eq!(record["identities"], json!([REVIEWS, RATINGS]));
    assert_eq!(record["source"]["uid"], UID);
    assert_eq!(record["source"]["exe"], interpreter);
}

#[test]
fn a_rotation_is_pushed() {
    let system = System::start("4s", &entry("reviews", "", &format!("uid = {UID}")));
    let mut client = Client::start(UID, &system.socket(), &["watch", "3"]);
    let serials: std::collections::BTreeSet<String> = (0..3)
        .map(|_| client.says()["serial"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(serials.len(), 3, "{serials:?}");
}

#[test]
fn tokens_are_made_and_validated() {
    let system = System::start("1h", &entry("reviews", "", &format!("uid = {UID}")));
    let mut client = Client::start(UID, &system.socket(), &["jwt", "customer-api"]);
    let told = client.says();
    assert_eq!(told["id"], REVIEWS);
    assert_eq!(told["audience"], json!(["customer-api", "second"]));
    assert_eq!(told["valid"], REVIEWS);
    assert_eq!(told["domains"], json!(["cluster.local"]));
    let expiry = told["expiry"].as_i64().unwrap();
    assert!((240..=300).contains(&expiry), "{expiry}");
    let other = told["other"].as_str().unwrap();
    assert!(
        other.contains("claim aud does not hold this audience"),
        "{other}"
    );
    // By the bundle alone, without the server.
    assert_eq!(client.says()["offline"], REVIEWS);
}

#[test]
fn refusals_have_their_codes() {
    let system = System::start("1h", &entry("reviews", "", &format!("uid = {UID}")));
    let told = ask(UID, &system, &["raw"]);
    for (what, code) in [
        ("no header", "INVALID_ARGUMENT"),
        ("false header", "INVALID_ARGUMENT"),
        ("two headers", "INVALID_ARGUMENT"),
        ("no header, unary", "INVALID_ARGUMENT"),
        ("no audience", "INVALID_ARGUMENT"),
        ("empty audience", "INVALID_ARGUMENT"),
        ("many audiences", "INVALID_ARGUMENT"),
        ("long audience", "OUT_OF_RANGE"),
        ("foreign id", "PERMISSION_DENIED"),
        ("no id", "INVALID_ARGUMENT"),
        ("validate nothing", "INVALID_ARGUMENT"),
        ("validate for nobody", "INVALID_ARGUMENT"),
        ("validate for another", "INVALID_ARGUMENT"),
        ("validate forged", "INVALID_ARGUMENT"),
        ("validate noise", "INVALID_ARGUMENT"),
        ("unknown method", "UNIMPLEMENTED"),
    ] {
        assert_eq!(
            told["refused"][what][0], code,
            "{what}: {:#}",
            told["refused"]
        );
    }
    assert_eq!(told["error"], Value::Null);
    assert_eq!(told["claims"]["sub"], REVIEWS);
    assert!(told["claims"]["exp"].as_f64().unwrap() > 1.7e9);
    let record = system.record(|r| r["reason"].as_str().unwrap().contains("security header"));
    assert_eq!(record["verdict"], "deny");
}

#[test]
fn nobody_gets_nothing_and_it_is_recorded() {
    let system = System::start("1h", &entry("reviews", "", &format!("uid = {UID}")));
    let told = ask(OTHER_UID, &system, &["denied"]);
    assert_eq!(told["codes"], json!(vec!["PERMISSION_DENIED"; 5]));
    for method in [
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
    ] {
        let record = system.record(|r| r["request"] == method);
        assert_eq!(record["verdict"], "deny");
        assert_eq!(record["source"]["uid"], OTHER_UID);
        assert_eq!(record["source"]["pid"], told["pid"]);
        assert_eq!(record["reason"], "no entry matches this process");
    }
}

#[test]
fn entries_change_without_a_restart() {
    const SOURCE: &str = "[authority]\nsvidTtl = \"1h\"\n";
    let before = entry("reviews", "", &format!("uid = {UID}"));
    let system = System::with(SOURCE, &before);
    let serial = ask(UID, &system, &["fetch"])["serials"][0].clone();
    let after = entry("ratings", "", &format!("uid = {OTHER_UID}"));
    system.reload(SOURCE, &(before + &after));
    assert_eq!(ask(OTHER_UID, &system, &["fetch"])["ids"], json!([RATINGS]));
    assert_eq!(
        ask(UID, &system, &["fetch"])["serials"][0],
        serial,
        "as it was"
    );
    system.reload(SOURCE, &after);
    let codes = ask(UID, &system, &["denied"])["codes"].clone();
    assert_eq!(codes, json!(vec!["PERMISSION_DENIED"; 5]));
}

/// A key of what is revoked is given to nobody, and who follows it is told that it is over.
#[test]
fn a_revoked_identity_is_not_handed_out() {
    const SOURCE: &str = "[authority]\nsvidTtl = \"1h\"\n";
    let mine = entry("reviews", "", &format!("uid = {UID}"));
    let both = format!("{mine}{}", entry("ratings", "", &format!("uid = {UID}")));
    let system = System::with(SOURCE, &both);
    assert_eq!(
        ask(UID, &system, &["fetch"])["ids"],
        json!([REVIEWS, RATINGS])
    );
    let revoked = format!("[[revocation]]\nid = \"{REVIEWS}\"\n");
    system.reload(SOURCE, &format!("{both}{revoked}"));
    assert_eq!(ask(UID, &system, &["fetch"])["ids"], json!([RATINGS]));
    system.reload(SOURCE, &format!("{mine}{revoked}"));
    let codes = ask(UID, &system, &["denied"])["codes"].clone();
    assert_eq!(codes, json!(vec!["PERMISSION_DENIED"; 5]));
    let record = system.record(|r| r["request"] == "FetchX509SVID" && r["verdict"] == "deny");
    assert_eq!(record["reason"], "the identity is revoked");
    system.reload(SOURCE, &mine);
    assert_eq!(ask(UID, &system, &["fetch"])["ids"], json!([REVIEWS]));
}

#[test]
fn a_crash_leaves_a_socket_that_is_replaced_and_an_end_takes_it_away() {
    const SOURCE: &str = "[authority]\n";
    let entries = entry("reviews", "", &format!("uid = {UID}"));
    let system = System::with(SOURCE, &entries);
    ask(UID, &system, &["fetch"]);
    system.crash();
    system.restart(SOURCE, &entries);
    assert!(ringgate::cli::os::wait_until(crate::system::START, || {
        system.alive();
        std::os::unix::net::UnixStream::connect(system.socket()).is_ok()
    }));
    assert_eq!(ask(UID, &system, &["fetch"])["ids"], json!([REVIEWS]));
    system.stop();
    assert!(!system.socket().exists());
}
