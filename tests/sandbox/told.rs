//! What an operator is told of what does not start, does not run or is not his.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::PROGRAM;
use crate::system::System;

/// Neither root nor the user that the process runs as.
const OTHER: u32 = 65_533;

/// What a command that fails says.
fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    text
}

fn run(config: &Path) -> String {
    fails(
        Command::new(PROGRAM).args(["run", "--config"]).arg(config),
        1,
    )
}

#[test]
fn an_address_that_cannot_be_had_is_told_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringgate.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let write = |admin: &str, authority: &str| {
        let text =
            format!("[admin]\nlisten = \"{admin}\"\n[authority]\nlisten = \"{authority}\"\n");
        std::fs::write(&file, text).unwrap();
    };
    let place = file.display();
    write(&address.to_string(), "127.0.0.1:1");
    let said = run(&file);
    let told = format!(
        "{place}:2:10: admin.listen: cannot start: cannot listen on `{address}` as admin listener: Address already in use \
         (os error 98); another process has it (`ss -ltnp 'sport = {}'` names it): stop that, or write another address",
        address.port()
    );
    assert!(said.contains(&told), "{said}");
    // Of a documentation network: no machine has it.
    write("127.0.0.1:1", "192.0.2.1:15012");
    let said = run(&file);
    let told = format!(
        "{place}:4:10: authority.listen: cannot start: cannot listen on `192.0.2.1:15012` as authority: "
    );
    assert!(said.contains(&told), "{said}");
    assert!(said.contains("this machine has no such address"), "{said}");
}

#[test]
fn who_runs_already_is_told() {
    let system = System::start("", "");
    let own = system.file("ringgate.toml");
    // One that has the state of another process, and one that does not.
    let other = system.file("other.toml");
    let text = system
        .text("ringgate.toml")
        .replace("stateDir = \"state\"", "");
    std::fs::write(&other, text).unwrap();
    for (config, why) in [
        (&own, "state"),
        (&other, "admin.listen: cannot start: cannot listen on"),
    ] {
        let said = run(config);
        let told = format!(
            "`boxed`, process {}, answers at http://{}.1:15000: it runs already (`ringgate status --config {}`), or has the same addresses",
            system.status()["pid"],
            system.net,
            config.display()
        );
        let line = said.lines().find(|line| line.contains(&told));
        let line = line.unwrap_or_else(|| panic!("{told}\n{said}"));
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn who_may_not_send_a_signal_is_told_who_may() {
    let system = System::start("", "");
    let mut reload = Command::new(PROGRAM);
    reload
        .args(["reload", "--admin", &format!("{}.1:15000", system.net)])
        .uid(OTHER)
        .gid(OTHER);
    let said = fails(&mut reload, 1);
    let told = format!("by uid {}: it is another user's, ask as root", OTHER);
    assert!(said.contains(&told), "{said}");
}

#[test]
fn who_asks_what_does_not_run_is_told_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringgate.toml");
    std::fs::write(&file, "[admin]\nlisten = \"127.0.0.1:1\"\n[authority]\n").unwrap();
    let mut status = Command::new(PROGRAM);
    let said = fails(status.args(["status", "--config"]).arg(&file), 2);
    let told = format!(
        "http://127.0.0.1:1/status does not answer: {}",
        said.split_once("does not answer: ").unwrap_or_default().1
    );
    assert!(said.contains(&told), "{said}");
    let told = format!(
        "if it does not run: `ringgate run --config {}`",
        file.display()
    );
    assert!(said.contains(&told), "{said}");
    // Whoever is asked by its address has a configuration that is not known.
    let mut status = Command::new(PROGRAM);
    let said = fails(status.args(["status", "--admin", "127.0.0.1:1"]), 2);
    assert!(!said.contains("if it does not run"), "{said}");
}

/// As process 1, with the configuration that an image brings along.
#[test]
fn an_image_without_a_configuration_says_how_to_give_it_one() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/ringgate.toml");
    let mut image = Command::new("unshare");
    image
        .args(["--pid", "--fork", PROGRAM, "run", "--config"])
        .arg(&config);
    let said = fails(&mut image, 1);
    assert!(said.contains("nothing to do"), "{said}");
    assert!(
        said.contains("mount a directory that has your ringgate.toml at /etc/ringgate"),
        "{said}"
    );
    assert!(said.contains("`demo`"), "{said}");
    let said = run(&config);
    assert!(
        said.contains("nothing to do") && !said.contains("mount"),
        "{said}"
    );
}
