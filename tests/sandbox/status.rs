//! `ringgate status`, what it prints and how it ends.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use ringgate::cli::os;

use crate::PROGRAM;
use crate::namespaces::{ip, isolated};
use crate::system::{System, USER, WAIT, pair};

#[test]
fn it_tells_how_a_process_is() {
    let system = System::start("sandbox = \"off\"\n", "");
    let told = system.status();
    assert_eq!(told["name"], "boxed");
    assert_eq!(told["ready"], true);
    assert_eq!(told["generation"], 1);
    assert_eq!(told["roles"], serde_json::json!(["ingress", "authority"]));
    assert_eq!(told["sandbox"]["mode"], "off");
    let listeners = told["listeners"].to_string();
    assert!(
        listeners.contains(&format!("{}.1:443", system.net)),
        "{listeners}"
    );
    let identity = &told["identities"]["identities"][0];
    assert_eq!(identity["id"], "spiffe://cluster.local/ns/edge/sa/public");
    let output = system.ask("text");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "boxed serves",
        "ingress, authority",
        "generation   1",
        "seccomp      not active",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // By the configuration, too.
    let status = |config| {
        let mut command = Command::new(PROGRAM);
        command.args(["status", "--config"]).arg(config);
        command.output().unwrap().status.code()
    };
    assert_eq!(status(system.file("ringgate.toml")), Some(0));
    assert_eq!(status(system.file("not-there.toml")), Some(2));
    // A reload that is refused is a problem.
    system.add("[[nonsense]]\n");
    system.until("a problem", |status| !status["refusedAt"].is_null());
    assert_eq!(system.ask("text").status.code(), Some(1));
    // Its file is refused, and says all the same whom to ask.
    assert_eq!(status(system.file("ringgate.toml")), Some(1));
    system.add("not TOML\n");
    assert_eq!(status(system.file("ringgate.toml")), Some(1));
}

#[test]
fn a_listener_that_others_reach_is_asked() {
    isolated(|| {
        ip("address add 10.99.7.1/32 dev lo");
        let system = System::start_in("10.99.7".to_owned(), "sandbox = \"off\"\n", "");
        let mut command = Command::new(PROGRAM);
        command.args(["status", "--config"]);
        let output = command.arg(system.file("ringgate.toml")).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{error}");
        assert_eq!(system.status()["name"], "boxed");
    });
}

#[test]
fn where_nobody_answers_it_says_so() {
    let output = Command::new(PROGRAM)
        .args(["status", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("http://127.0.0.1:1/status"), "{error}");
}

fn reload(system: &System, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["reload", "--config"]);
    command.arg(system.file("ringgate.toml")).args(more);
    ended(&command.output().unwrap())
}

/// Exit code, and all that was said.
fn ended(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_reload_tells_what_became_of_it() {
    let system = System::start("", "");
    let same = (Some(0), "reloaded: generation 1\n".to_owned());
    assert_eq!(reload(&system, &[]), same);
    assert_eq!(system.status()["reload"]["answered"], 1);
    let workload =
        "[[workloadEntry]]\nname = \"a\"\nserviceAccount = \"a\"\naddress = \"10.9.9.9\"\n";
    system.add(workload);
    let pid = system.pid().unwrap().to_string();
    let new = (Some(0), "reloaded: generation 2\n".to_owned());
    assert_eq!(reload(&system, &["--pid", &pid]), new);
    assert!(
        system.log().contains("workloadEntry: 1 added"),
        "{}",
        system.log()
    );
    // What `check` takes, and this process does not.
    let good = system.text("ringgate.toml");
    system.add("[limits]\nmaxConnections = 5\n");
    let file = system.file("ringgate.toml");
    let check = Command::new(PROGRAM)
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let (code, said) = reload(&system, &[]);
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "[limits] has changed, which needs a restart",
        "the reload was refused, generation 2 goes on",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    system.add("[tcp]\nuserTimeout = \"90s\"\n");
    let (code, said) = reload(&system, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("[limits], [tcp] have changed"), "{said}");
    // Good again.
    std::fs::write(system.file("new"), &good).unwrap();
    std::fs::rename(system.file("new"), &file).unwrap();
    assert_eq!(reload(&system, &[]), new);
    // A certificate that cannot be used is no reload that was taken either.
    let certificate = std::fs::read(system.file("tls/cert.pem")).unwrap();
    std::fs::write(system.file("tls/cert.pem"), "nonsense").unwrap();
    let (code, said) = reload(&system, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cert.pem") && said.contains("held before"),
        "{said}"
    );
    std::fs::write(system.file("tls/cert.pem"), certificate).unwrap();
    assert_eq!(reload(&system, &[]), new);
    // A process of another number than the one that answers is sent nothing.
    let own = std::process::id().to_string();
    let (code, said) = reload(&system, &["--pid", &own]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("not {own}")), "{said}");
    // Nobody there.
    let none = Command::new(PROGRAM)
        .args(["reload", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(none.status.code(), Some(1), "{none:?}");
}

/// The first line that there is, of each thing an operator looks for.
#[test]
fn the_log_begins_with_what_runs_and_where() {
    let system = System::start("handover = \"run/handover.sock\"\n", "");
    let log = system.log();
    let first = log.lines().next().unwrap_or_default();
    let (net, file) = (&system.net, system.file("ringgate.toml"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(first.contains(&format!("ringgate {version} (")), "{log}");
    let serves = format!(
        "configuration {}: boxed serves as ingress, authority at ingress {net}.1:443, admin {net}.1:15000",
        file.display()
    );
    assert!(first.contains(&serves), "{serves}\n{log}");
    let issued = log.lines().find(|line| line.contains("SVID issued"));
    let (_, until) = issued.unwrap().split_once("not_after=").unwrap();
    let until = until.trim_matches('"');
    let date = [4, 7, 10, 13, 16].map(|at| until.as_bytes()[at]);
    assert!(date == *b"--T::" && until.ends_with('Z'), "{log}");
    // And `ps` tells the launcher from the process.
    let name = format!("/proc/{}/comm", system.launcher());
    let named = || std::fs::read_to_string(&name).unwrap();
    assert!(
        os::wait_until(WAIT, || named() == "ringgate-launch\n"),
        "{}",
        named()
    );
}

/// As the user of a container or service, whose files are somebody else's.
#[test]
fn who_may_not_read_is_told_as_whom_and_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    let below = dir.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let file = below.join("ringgate.toml");
    std::fs::write(&file, "[authority]\n").unwrap();
    chown(&file, Some(12), Some(34)).unwrap();
    mode(&file, 0o640);
    let check = || {
        let mut command = Command::new(PROGRAM);
        command
            .args(["check", "--config"])
            .arg(&file)
            .uid(USER)
            .gid(USER);
        ended(&command.output().unwrap())
    };
    let (code, said) = check();
    assert_eq!(code, Some(1));
    let told = format!("as uid {USER} and gid {USER}; it is of uid 12 and gid 34, mode 640");
    assert!(said.contains(&told), "{said}");
    mode(&below, 0o700);
    let (_, said) = check();
    let told = format!(
        "as uid {USER} and gid {USER}; `{}` is of uid 0 and gid 0, mode 700",
        below.display()
    );
    assert!(said.contains(&told), "{said}");
}

/// A join token of root alone: the authority has nothing to do with it, and is not waited for.
#[test]
fn a_join_token_that_cannot_be_read_is_told_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    let (file, token) = (
        dir.path().join("ringgate.toml"),
        dir.path().join("join-token"),
    );
    let text = "[identity]\naddress = \"https://127.0.0.1:1\"\nrootCa = \"cert.pem\"\ntoken = \"file:join-token\"\n\
                node = \"way\"\nstateDir = \"state\"\n\
                [[waypoint]]\ngateway = \"default/w\"\nhbone = \"127.0.0.1:15008\"\n\
                [[gateway]]\nname = \"w\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"127.0.0.1\"\n";
    std::fs::write(&file, text).unwrap();
    std::fs::write(&token, "a-token-of-somebody").unwrap();
    pair(dir.path());
    mode(&dir.path().join("cert.pem"), 0o644);
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(USER), Some(USER)).unwrap();
    mode(&token, 0o600);
    let run = |command: &str| {
        let mut ringgate = Command::new(PROGRAM);
        ringgate.args([command, "--config"]).arg(&file);
        ended(&ringgate.uid(USER).gid(USER).output().unwrap())
    };
    let told = format!(
        "ringgate.toml:4:9: identity.token: `{}` cannot be read: Permission denied (os error 13), as uid {USER} and gid {USER}; \
         it is of uid 0 and gid 0, mode 600",
        token.display()
    );
    let (code, said) = run("check");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&told), "{said}");
    let last = said.trim_end().lines().last().unwrap();
    let verdict = format!("no errors, but a start here, as uid {USER}, would fail");
    assert!(last.starts_with(&verdict), "{said}");
    let (code, said) = run("run");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot start: {}", dir.path().display())) && said.contains(&told),
        "{said}"
    );
    assert!(!said.contains("has issued no identities"), "{said}");
    // One that has joined needs none.
    std::fs::write(state.join("node.pem"), "").unwrap();
    let (_, said) = run("check");
    assert!(said.trim_end().ends_with("configuration is good"), "{said}");
}

/// Under a supervisor whose journal takes what is written to standard error.
#[test]
fn the_journal_is_told_priorities() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringgate.toml");
    let text = "[identity]\naddress = \"https://127.0.0.1:1\"\nrootCa = \"none.pem\"\ntoken = \"file:join-token\"\nnode = \"way\"\n\
                [[waypoint]]\ngateway = \"default/w\"\nhbone = \"127.0.0.1:15008\"\n\
                [[gateway]]\nname = \"w\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"127.0.0.1\"\n";
    std::fs::write(&file, text).unwrap();
    let lines = |of_other: u64| -> Vec<String> {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let own = log.metadata().unwrap();
        let stream = format!("{}:{}", own.dev(), own.ino() + of_other);
        let status = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(&file)
            .env("JOURNAL_STREAM", stream)
            .stderr(log)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1));
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let journal = lines(0);
    for (begins, has) in [
        ("<6> INFO ringgate ", "configuration "),
        ("<4> WARN ", "without `stateDir`"),
        ("<3>ringgate: cannot start", "none.pem"),
    ] {
        let found = journal
            .iter()
            .any(|line| line.starts_with(begins) && line.contains(has));
        assert!(found, "{begins}{has}: {journal:#?}");
    }
    assert!(
        journal.iter().all(|line| line.starts_with('<')),
        "{journal:#?}"
    );
    // The variable is of another stream: lines have their times, and no priority.
    let plain = lines(1);
    let time = plain[0].as_bytes();
    assert!(time[0].is_ascii_digit() && time[10] == b'T', "{plain:#?}");
    assert!(
        plain.iter().all(|line| !line.starts_with('<')),
        "{plain:#?}"
    );
}

#[test]
fn a_secret_that_everybody_may_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = dir.path().join("ringgate.toml");
    let token = dir.path().join("join-token");
    let text = "[identity]\naddress = \"https://127.0.0.1:1\"\nrootCa = \"none.pem\"\ntoken = \"file:join-token\"\n\
                [[waypoint]]\ngateway = \"default/w\"\nhbone = \"127.0.0.1:1\"\n\
                [[gateway]]\nname = \"w\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"127.0.0.1\"\n";
    std::fs::write(&file, text).unwrap();
    std::fs::write(&token, "a-token-of-somebody").unwrap();
    let told = format!(
        "ringgate.toml:4:9: identity.token: `{}` has mode 644, by which everybody on this machine may read the secret; \
         expected 640, or less",
        token.display()
    );
    for (of_dir, of_token, is_told) in [
        (0o755, 0o644, true),
        (0o755, 0o640, false),
        // Nobody else gets there.
        (0o700, 0o644, false),
    ] {
        mode(dir.path(), of_dir);
        mode(&token, of_token);
        // The start fails for want of a root, and has warned before.
        for command in ["check", "run"] {
            let output = Command::new(PROGRAM)
                .args([command, "--config"])
                .arg(&file)
                .output()
                .unwrap();
            let (_, said) = ended(&output);
            assert_eq!(
                said.contains(&told),
                is_told,
                "{command} {of_token:o}: {said}"
            );
        }
    }
}
