//! In its sandbox a process does all that it did without.

use ringgate::cli::os;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::system::{System, USER, WAIT, pair};

/// Lines of `/proc/<pid>/status` of every thread.
fn threads(pid: u64) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let statuses = tasks
        .flatten()
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
    // A thread that ends meanwhile has none.
    statuses.filter(|status| !status.is_empty()).collect()
}

fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim()
}

/// Whether every thread is the user's, without capabilities, with filtered calls.
fn is_boxed(pid: u64) -> bool {
    let threads = threads(pid);
    let user = format!("{USER}\t{USER}\t{USER}\t{USER}");
    let none = "0000000000000000";
    threads.len() > 3
        && threads.iter().all(|status| {
            let of = |name| field(status, name);
            of("Uid:") == user
                && of("Gid:") == user
                && of("Groups:").is_empty()
                && of("NoNewPrivs:") == "1"
                && of("Seccomp:") == "2"
                && ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"].map(of) == [none; 4]
        })
}

fn pid_of(status: &Value) -> u64 {
    status["pid"].as_u64().unwrap_or_default()
}

fn all_active(status: &Value) -> bool {
    let measures = status["sandbox"]["measures"].as_array();
    measures.is_some_and(|all| all.len() == 5 && all.iter().all(|m| m["active"] == true))
}

fn it_goes_on(driver: &str) {
    let lines = format!(
        "io = \"{driver}\"\ncores = 2\nuser = \"{USER}\"\nsandbox = \"required\"\nhandover = \"run/handover.sock\"\n"
    );
    let system = System::start(&lines, "");
    system.until("all measures", |status| {
        all_active(status) && status["driver"] == driver && is_boxed(pid_of(status))
    });

    // A reload.
    system.add(
        "[[serviceEntry]]\nname = \"more\"\nnamespace = \"edge\"\nhosts = [\"more.test\"]\n\
         ports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]\nresolution = \"STATIC\"\n\
         endpoints = [{ address = \"NET.1\" }]\n",
    );
    system.until("a reload", |status| status["generation"] == 2);

    // Records are moved away.
    std::fs::rename(system.file("log/decisions.jsonl"), system.file("log/old")).unwrap();
    let new = os::wait_until(WAIT, || {
        system.get() == Some(200) && system.text("log/decisions.jsonl").contains("allow")
    });
    assert!(new, "{}", system.log());

    // A certificate is renewed: only the new one is believed.
    pair(&system.file("tls"));
    let renewed = os::wait_until(WAIT, || system.get() == Some(200));
    assert!(renewed, "{}", system.log());

    // A file where nothing was named at the start.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(system.file("tls/cert.pem"), elsewhere.path().join("ca.pem")).unwrap();
    let before = system.text("ringgate.toml");
    system.add(&format!(
        "[[destinationRule]]\nname = \"more\"\nnamespace = \"edge\"\nhost = \"more.test\"\n\
         trafficPolicy.tls = {{ mode = \"SIMPLE\", sni = \"more.test\", caCertificates = \"{}/ca.pem\" }}\n",
        elsewhere.path().display()
    ));
    system.until("a refusal", |status| {
        let problems = status["problems"].to_string();
        problems.contains("a restart takes it in") && problems.contains("ringgate.toml:")
    });
    assert_eq!(system.ask("text").status.code(), Some(1));
    std::fs::write(system.file("ringgate.toml"), before).unwrap();
    system.until("good again", |status| {
        status["problems"] == Value::Array(Vec::new())
    });

    // An upgrade: it is root again that starts the new process, which becomes the user in turn.
    let old = pid_of(&system.status());
    let pid = Pid::from_raw(i32::try_from(old).unwrap()).unwrap();
    kill_process(pid, Signal::USR2).unwrap();
    system.until("an upgrade", |status| {
        let new = pid_of(status);
        new != old && all_active(status) && is_boxed(new)
    });
    assert_eq!(system.get(), Some(200), "{}", system.log());
}

#[test]
fn on_io_uring() {
    it_goes_on("io_uring");
}

#[test]
fn on_epoll() {
    it_goes_on("epoll");
}

#[test]
fn a_user_that_is_not_there_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringgate.toml");
    let text = "[process]\nuser = \"nobody-of-this-name\"\n[authority]\n";
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(crate::PROGRAM)
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no user `nobody-of-this-name`"), "{error}");
}
