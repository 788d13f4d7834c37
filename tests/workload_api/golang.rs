//! go-spiffe as a workload: it fetches, follows a rotation, validates tokens, and speaks mTLS with the mesh.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ringgate::cli::os;
use serde_json::{Value, json};

use crate::python::Client;
use crate::system::{OTHER_UID, RATINGS, REVIEWS, START, System, UID, entry};

/// The program, compiled of the source as it is now.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .ancestors()
            .nth(2)
            .unwrap();
        let directory = target.join("go");
        let unpacked = directory.join("root/usr");
        let goroot = unpacked.join("lib/go-1.24");
        assert!(
            directory.join("installed.txt").is_file(),
            "no go-spiffe in {}: cargo xtask ci --only tools",
            directory.display()
        );
        let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-client");
        let built = Command::new(goroot.join("bin/go"))
            .args(["build", "-o"])
            .arg(&program)
            .arg(Path::new(&root).join("tests/workload_api/go/client.go"))
            .env("GOROOT", goroot)
            .env("GOPATH", unpacked.join("share/gocode"))
            .env("GOCACHE", directory.join("cache"))
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .status()
            .unwrap();
        assert!(built.success(), "go build: {built}");
        program
    })
}

/// The program at the socket of `system`, as `user`.
fn start(user: u32, system: &System, arguments: &[&str]) -> Client {
    let mut command = Command::new(program());
    command
        .arg(user.to_string())
        .arg(system.socket())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Client::spawn(&mut command)
}

fn ask(user: u32, system: &System, arguments: &[&str]) -> Value {
    let answer = start(user, system, arguments).says();
    system.alive();
    answer
}

#[test]
fn svids_hints_and_refusals() {
    let mine = format!("uid = {UID}");
    let entries = entry("reviews", "main", &mine) + &entry("ratings", "other", &mine);
    let system = System::start("1h", &entries);
    let told = ask(UID, &system, &["all"]);
    let svids: Vec<_> = told["svids"].as_array().unwrap().iter().collect();
    let named = |one: &Value| (one["id"].clone(), one["hint"].clone(), one["chain"].clone());
    assert_eq!(
        svids.into_iter().map(named).collect::<Vec<_>>(),
        [
            (json!(REVIEWS), json!("main"), json!(2)),
            (json!(RATINGS), json!("other"), json!(2)),
        ]
    );
    let told = ask(OTHER_UID, &system, &["all"]);
    let refused = told["error"].as_str().unwrap();
    assert!(refused.contains("PermissionDenied"), "{refused}");
    let record = system.record(|r| r["verdict"] == "deny");
    assert_eq!(record["source"]["uid"], OTHER_UID);
}

#[test]
fn a_rotation_is_pushed_and_every_svid_verifies() {
    let system = System::start("4s", &entry("reviews", "", &format!("uid = {UID}")));
    let mut client = start(UID, &system, &["watch", "2"]);
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let told = client.says();
        assert_eq!(told["id"], REVIEWS);
        assert_eq!(told["roots"], 1);
        assert_eq!(
            told["verified"],
            Value::Null,
            "by the bundle that it came with"
        );
        serials.insert(told["serial"].as_str().unwrap().to_owned());
    }
    assert_eq!(serials.len(), 3, "{serials:?}");
}

/// The process that serves it is replaced by another one: nobody is refused, and who watches goes on watching.
#[test]
fn a_new_process_takes_the_socket_over() {
    const SOURCE: &str = "[authority]\nsvidTtl = \"1h\"\nstateDir = \"state\"\n";
    let entries = entry("reviews", "", &format!("uid = {UID}"));
    let system = System::with(SOURCE, &entries);
    let mut client = start(UID, &system, &["watch", "1"]);
    let before = client.says();
    let token = ask(UID, &system, &["token", "customer-api"]);
    assert_eq!(token["own"], REVIEWS);
    system.hand_over(SOURCE, &entries);
    let after = client.says();
    assert_ne!(after["serial"], before["serial"], "of the other process");
    assert_eq!(after["verified"], Value::Null);
    assert_eq!(after["roots"], 1, "the same root");
    assert!(system.socket().exists(), "the file is the other process's");
    let token = ask(UID, &system, &["token", "customer-api"]);
    assert_eq!(token["own"], REVIEWS);
    let told = ask(OTHER_UID, &system, &["all"]);
    assert!(told["error"].is_string());
    system.stop();
    assert!(!system.socket().exists(), "and goes with it");
}

#[test]
fn tokens_are_made_and_validated() {
    let system = System::start("1h", &entry("reviews", "", &format!("uid = {UID}")));
    let told = ask(UID, &system, &["token", "customer-api"]);
    assert_eq!(told["id"], REVIEWS);
    assert_eq!(told["audience"], json!(["customer-api", "second"]));
    assert_eq!(told["own"], REVIEWS, "by the bundle alone");
    assert_eq!(told["served"], REVIEWS);
    let seconds = told["seconds"].as_i64().unwrap();
    assert!((200..=300).contains(&seconds), "{seconds}");
    for refused in ["otherOwn", "otherServed", "noKeys"] {
        assert!(told[refused].is_string(), "{refused}: {told:#}");
    }
}

/// Echoes until the process ends.
fn echo(listener: TcpListener) {
    os::thread("echo", move || {
        for mut stream in listener.incoming().flatten() {
            let mut copy = stream.try_clone().unwrap();
            os::thread("echo", move || {
                let _ended = std::io::copy(&mut stream, &mut copy);
            })
            .unwrap();
        }
    })
    .unwrap();
}

/// A node with workload `ratings` at an address of its own: `reviews` may call, nobody else.
fn member() -> (System, String) {
    let [x, y] = ringgate::cli::layout::free_octets().unwrap();
    let ip = format!("127.{x}.{y}.7");
    let app = TcpListener::bind((ip.as_str(), 0)).unwrap();
    let node = format!(
        "[authority]\nsvidTtl = \"1h\"\n[[node]]\nname = \"node\"\ninbound = [\"{ip}:15006\"]\n\
         [[node.workload]]\nname = \"default/echo\"\nhbone = \"{ip}:15008\"\napp = {{ 15006 = \"{}\" }}\n\
         [[workloadEntry]]\nname = \"echo\"\nserviceAccount = \"echo\"\naddress = \"{ip}\"\n\
         [[authorizationPolicy]]\nname = \"callers\"\nnamespace = \"default\"\n\
         action = \"ALLOW\"\nrules = [{{ from = [{{ source.principals = [\"cluster.local/ns/default/sa/reviews\"] }}] }}]\n",
        app.local_addr().unwrap()
    );
    echo(app);
    let entries = entry("reviews", "", &format!("uid = {UID}"))
        + &entry("ratings", "", &format!("uid = {OTHER_UID}"));
    (System::with(&node, &entries), format!("{ip}:15006"))
}

#[test]
fn it_speaks_mtls_with_a_member_of_the_mesh() {
    const ECHO: &str = "spiffe://cluster.local/ns/default/sa/echo";
    let (system, address) = member();
    let told = ask(UID, &system, &["call", &address, ECHO]);
    assert_eq!(told["peer"], ECHO, "{told:#}\n{}", system.log());
    assert_eq!(told["echo"], Value::Null, "{told:#}");
    // The member is who it is, not who is expected.
    let told = ask(UID, &system, &["call", &address, RATINGS]);
    let refused = told["handshake"].as_str().unwrap();
    assert!(refused.contains(ECHO), "{refused}");
    // Who is proved and may not call is cut off.
    let told = ask(OTHER_UID, &system, &["call", &address, ECHO]);
    assert_eq!(told["peer"], ECHO);
    assert!(told["echo"].is_string(), "{told:#}");
    let decisions = || std::fs::read_to_string(system.path("decisions.jsonl")).unwrap_or_default();
    let recorded = |who: &str, verdict: &str| {
        let is = |line: &str| {
            line.contains(who) && line.contains(verdict) && line.contains("default/echo")
        };
        os::wait_until(START, || decisions().lines().any(is))
    };
    assert!(recorded("sa/reviews", "\"allow\""), "{}", decisions());
    assert!(recorded("sa/ratings", "\"deny\""), "{}", decisions());
}

#[test]
fn two_programs_speak_mtls_with_each_other() {
    let entries = entry("reviews", "", &format!("uid = {UID}"))
        + &entry("ratings", "", &format!("uid = {OTHER_UID}"));
    let system = System::start("1h", &entries);
    for (expected, fits) in [(REVIEWS, true), (RATINGS, false)] {
        let mut server = start(OTHER_UID, &system, &["serve", "127.0.0.1:0", expected]);
        let address = server.says()["address"].as_str().unwrap().to_owned();
        let told = ask(UID, &system, &["call", &address, RATINGS]);
        let heard = server.says();
        if fits {
            assert_eq!(told["echo"], Value::Null, "{told:#}");
            assert_eq!(heard["peer"], REVIEWS);
        } else {
            assert!(told["echo"].is_string(), "{told:#}");
            assert!(
                heard["error"].as_str().unwrap().contains(REVIEWS),
                "{heard:#}"
            );
        }
    }
}
