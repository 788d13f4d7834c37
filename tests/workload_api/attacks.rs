//! What a local process tries that is not what it says.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringgate::cli::os;
use serde_json::{Value, json};

use crate::python::{Client, ask, command, interpreter};
use crate::system::{OTHER_UID, RATINGS, REVIEWS, System, UID, entry};

fn refused(answer: &Value, words: &str) {
    assert_eq!(answer["ids"], Value::Null, "{answer}");
    let text = answer["error"][1].as_str().unwrap();
    assert!(text.contains(words), "{answer}");
}

fn for_user() -> System {
    System::start("1h", &entry("reviews", "", &format!("uid = {UID}")))
}

/// A copy of another program has another file, whatever it calls itself; here the name is even the same, in a mount
/// namespace of the attacker's.
#[test]
fn a_program_that_only_looks_like_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    os::make_dir(dir.path(), 0o755).unwrap();
    let right = dir.path().join("right");
    std::fs::copy(interpreter(), &right).unwrap();
    let own = interpreter();
    let system = System::start(
        "1h",
        &entry(
            "reviews",
            "",
            &format!("uid = {UID}, exe = \"{}\"", right.display()),
        ),
    );
    // Over the right file, seen by the attacker alone, he mounts his own.
    let script = format!("mount --bind '{own}' '{}' && exec \"$@\"", right.display());
    let real = command(UID, &system.socket(), &["denied"]);
    let mut lie = Command::new("unshare");
    lie.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ])
    .arg(&right)
    .args(real.get_args())
    .envs(real.get_envs().filter_map(|(k, v)| Some((k, v?))))
    .env("PYTHONHOME", prefix())
    .stdin(Stdio::piped())
    .stdout(Stdio::piped());
    let told = Client::spawn(&mut lie).says();
    assert_eq!(told["codes"], json!(vec!["PERMISSION_DENIED"; 5]));
    let record = system.record(|r| r["verdict"] == "deny");
    assert_eq!(record["source"]["exe"], right.to_str().unwrap(), "the lie");
    // The right file itself is served.
    let real = command(UID, &system.socket(), &["fetch"]);
    let mut honest = Command::new(&right);
    honest
        .args(real.get_args())
        .envs(real.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env("PYTHONHOME", prefix())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    assert_eq!(Client::spawn(&mut honest).says()["ids"], json!([REVIEWS]));
}

/// Where the interpreter has its library: a copy elsewhere does not find it.
fn prefix() -> String {
    let asked = ["-c", "import sys; print(sys.base_prefix)"];
    let output = Command::new("python3").args(asked).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_connection_that_was_passed_on_speaks_for_its_maker_and_ends_with_him() {
    let system = for_user();
    let path = format!("/tmp/ringgate-wapi-pass-{}.sock", std::process::id());
    let mut maker = Client::start(UID, &system.socket(), &["pass_on", &path]);
    maker.says();
    let mut taker = Client::start(OTHER_UID, &system.socket(), &["take", &path]);
    assert_eq!(taker.says()["ids"], json!([REVIEWS]), "as documented");
    let record = system.record(|r| r["verdict"] == "allow");
    assert_eq!(record["source"]["pid"], maker.pid());
    maker.go_on();
    maker.wait();
    taker.go_on();
    // The connection is gone. gRPC says so, or tries to make another one until its time is over.
    let told = taker.says();
    assert_eq!(told["ids"], Value::Null, "the maker has ended");
    let code = told["error"][0].as_str().unwrap();
    assert!(
        ["UNAVAILABLE", "DEADLINE_EXCEEDED"].contains(&code),
        "{code}"
    );
    let _gone = std::fs::remove_file(path);

    // The other way round: who is nobody makes nobody of others.
    let mut maker = Client::start(
        OTHER_UID,
        &system.socket(),
        &[
            "pass_on",
            &format!("/tmp/ringgate-wapi-pass2-{}.sock", std::process::id()),
        ],
    );
    maker.says();
    let path = format!("/tmp/ringgate-wapi-pass2-{}.sock", std::process::id());
    let mut taker = Client::start(UID, &system.socket(), &["take", &path]);
    refused(&taker.says(), "no entry matches");
    let _gone = std::fs::remove_file(path);
}

#[test]
fn a_process_that_becomes_another_program_loses_its_connection() {
    let sleep: PathBuf = std::fs::canonicalize("/bin/sleep").unwrap();
    // The victim's program is sleep; the attacker connects and becomes it.
    let conditions = format!("uid = {UID}, exe = \"{}\"", sleep.display());
    let system = System::start("1h", &entry("reviews", "", &conditions));
    let mut client = Client::start(
        UID,
        &system.socket(),
        &["change_program", sleep.to_str().unwrap(), "60"],
    );
    let pid = client.says()["pid"].as_u64().unwrap();
    let exe = format!("/proc/{pid}/exe");
    assert!(os::wait_until(Duration::from_secs(10), || {
        std::fs::read_link(&exe).is_ok_and(|exe| exe == sleep)
    }));
    client.go_on();
    refused(&client.says(), "changed its program");
}

#[test]
fn a_process_that_changes_its_user_loses_its_connection() {
    let entries = entry("reviews", "", "uid = 0") + &entry("ratings", "", &format!("uid = {UID}"));
    let system = System::start("1h", &entries);
    let mut client = Client::start(0, &system.socket(), &["change_user", &UID.to_string()]);
    assert_eq!(client.says()["ids"], json!([REVIEWS]));
    refused(&client.says(), "its user since it connected");
    // Whoever connects as the user is that user.
    assert_eq!(ask(UID, &system, &["fetch"])["ids"], json!([RATINGS]));
}

/// The maker of a connection ends before anybody has looked at it, and his number is given to a process that has an
/// identity.
#[test]
fn a_number_that_was_given_away_is_not_mistaken() {
    let system = System::start("1h", &entry("reviews", "", "uid = 0"));
    signal(system.pid(), "STOP");
    let mut client = Client::start(OTHER_UID, &system.socket(), &["outlive"]);
    let pid = u32::try_from(client.says()["pid"].as_u64().unwrap()).unwrap();
    client.wait();
    let mut victim = reuse(pid);
    signal(system.pid(), "CONT");
    client.go_on();
    let answer = client.says();
    assert_eq!(answer["ids"], Value::Null, "{answer}");
    assert_eq!(answer["error"][0], "UNAVAILABLE", "{answer}");
    let record = system.record(|r| r["request"] == "connect");
    assert_eq!(record["verdict"], "deny");
    assert_eq!(record["source"]["uid"], OTHER_UID);
    assert!(
        victim.try_wait().unwrap().is_none(),
        "it had the number all the time"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
}

fn signal(pid: u32, name: &str) {
    let script = format!("kill -{name} {pid}");
    let sent = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(sent.success());
}

/// A process of root's with this number. Others begin meanwhile, so that it takes several attempts.
pub(crate) fn reuse(pid: u32) -> std::process::Child {
    for _ in 0..2000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        if child.id() == pid {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("number {pid} is not to be had");
}

#[test]
fn units_and_control_groups() {
    let group = ControlGroup::make();
    let conditions = format!("cgroup = \"{}\"", group.path);
    let system = System::start("1h", &entry("reviews", "", &conditions));
    assert_eq!(
        ask(UID, &system, &["denied"])["codes"],
        json!(vec!["PERMISSION_DENIED"; 5]),
        "outside"
    );
    let inside = |arguments: &[&str]| {
        let real = command(UID, &system.socket(), arguments);
        let script = format!(
            "echo $$ > '{}/cgroup.procs' && exec \"$@\"",
            group.dir.display()
        );
        let mut started = Command::new("sh");
        started
            .args(["-c", &script, "sh", "python3"])
            .args(real.get_args())
            .envs(real.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut client = Client::spawn(&mut started);
        let said = client.says();
        drop(client);
        said
    };
    assert_eq!(inside(&["fetch"])["ids"], json!([REVIEWS]));
    let by_unit = |unit: &str| entry("ratings", "", &format!("unit = \"{unit}\""));
    system.reload("[authority]\nsvidTtl = \"1h\"\n", &by_unit(&group.unit));
    assert_eq!(inside(&["fetch"])["ids"], json!([RATINGS]));
    let record = system.record(|r| r["identities"] == json!([RATINGS]));
    assert_eq!(record["source"]["unit"], group.unit);
    system.reload("[authority]\nsvidTtl = \"1h\"\n", &by_unit("other.service"));
    assert_eq!(
        inside(&["denied"])["codes"],
        json!(vec!["PERMISSION_DENIED"; 5])
    );
}

/// A control group as systemd makes them, in the hierarchy by which processes are known.
struct ControlGroup {
    dir: PathBuf,
    path: String,
    unit: String,
}

impl ControlGroup {
    fn make() -> Self {
        let unit = format!("ringgate-wapi-{}.service", std::process::id());
        let path = format!("/ringgatewapi.slice/{unit}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let named = std::fs::read_to_string("/proc/self/cgroup")
            .unwrap()
            .contains(":name=systemd:");
        let fits = |line: &&str| {
            if named {
                line.contains(" - cgroup ") && line.contains("name=systemd")
            } else {
                line.contains(" - cgroup2 ")
            }
        };
        let line = mounts.lines().find(fits).unwrap();
        let root = PathBuf::from(line.split(' ').nth(4).unwrap());
        let dir = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, path, unit }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let slice = self.dir.parent().unwrap().to_owned();
        // Its last process may be on its way out.
        os::wait_until(Duration::from_secs(5), || {
            std::fs::remove_dir(&self.dir).is_ok()
        });
        let _used = std::fs::remove_dir(slice);
    }
}

#[test]
fn floods_are_bounded_and_others_are_served() {
    let entries = entry("reviews", "", &format!("uid = {UID}"))
        + &entry("ratings", "", &format!("uid = {OTHER_UID}"));
    let system = System::start("1h", &entries);

    let mut crowd = Client::start(OTHER_UID, &system.socket(), &["connections", "300"]);
    assert_eq!(crowd.says()["open"], 128, "as many as one user may have");
    let told = ask(OTHER_UID, &system, &["denied"]);
    assert_eq!(told["codes"], json!(vec!["UNAVAILABLE"; 5]));
    assert_eq!(ask(UID, &system, &["fetch"])["ids"], json!([REVIEWS]));
    drop(crowd);
    let record = system.record(|r| r["request"] == "connect");
    assert_eq!(record["reason"], "too many connections of this user");
    assert!(os::wait_until(Duration::from_secs(10), || {
        ask(OTHER_UID, &system, &["hints"])["error"] == Value::Null
    }));

    let told = ask(UID, &system, &["streams", "100"]);
    assert_eq!(
        told["answered"], 32,
        "{told}: as many as one connection may have"
    );

    let told = ask(UID, &system, &["requests", "3000"]);
    let count = |code: &str| told["codes"][code].as_u64().unwrap_or(0);
    assert_eq!(count("OK") + count("RESOURCE_EXHAUSTED"), 3000, "{told}");
    assert!(count("RESOURCE_EXHAUSTED") > 0, "{told}");
    assert!(count("OK") >= 200, "{told}");
    let over = |r: &Value| r["reason"] == "too many requests of this user";
    system.record(over);
    let recorded = system.records().into_iter().filter(over).count();
    assert!(recorded < 60, "one a second, not {recorded}");
}

/// The same without `SO_PEERPIDFD`, as before Linux 6.5: by number and age.
#[test]
fn a_number_that_was_given_away_is_too_young() {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use ringgate::io::peer::{BootTime, Peer, PeerError};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    // Older than the next moment by more than a tick of the kernel's clock.
    let began = os::now();
    assert!(os::wait_until(Duration::from_secs(5), || began
        .elapsed()
        .as_millis()
        > 50));
    let quiet = BootTime::now().unwrap();
    let _own = UnixStream::connect(&path).unwrap();
    let (own, _) = listener.accept().unwrap();
    let known = Peer::by_age(own.as_fd(), quiet).unwrap();
    assert_eq!(known.pid, std::process::id());
    known.check_alive().unwrap();

    let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
    let mut maker = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    maker.wait().unwrap();
    let ended = Peer::by_kernel(stream.as_fd());
    assert!(matches!(ended, Err(PeerError::Ended)), "{ended:?}");
    let ended = Peer::by_age(stream.as_fd(), quiet);
    assert!(matches!(ended, Err(PeerError::Ended)), "{ended:?}");
    let mut victim = reuse(maker.id());
    let young = Peer::by_age(stream.as_fd(), quiet);
    assert!(matches!(young, Err(PeerError::Young)), "{young:?}");
    let ended = Peer::by_kernel(stream.as_fd());
    assert!(matches!(ended, Err(PeerError::Ended)), "{ended:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
}
