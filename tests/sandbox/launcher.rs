//! The launcher of a process that somebody has taken over: whatever is asked on the socket that the process has, only that is
//! done which rules of capture and an upgrade need. And what is told once it is gone.

use std::fs;
use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use ringgate::cli::os;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};

use crate::PROGRAM;
use crate::namespaces::{ip, isolated};
use crate::system::{System, USER, WAIT};

/// A node that captures one user's traffic.
const NODE: &str = r#"
[[node]]
name = "here"
inbound = ["[::]:15006"]
outbound = "[::]:15001"
hbone = "[::]:15008"
[node.capture]
[[node.workload]]
name = "edge/app"
match = { uid = 12345 }
[[workloadEntry]]
name = "app"
namespace = "edge"
serviceAccount = "app"
address = "NET.2"
"#;

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// The process's end of the line to its launcher, as somebody has it who has taken the process over.
fn line(system: &System) -> UnixStream {
    let process = system.pid().unwrap();
    let inode = |path: String| {
        let link = fs::read_link(path).ok()?;
        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        text.parse::<u64>().ok()
    };
    let theirs = inode(format!("/proc/{}/fd/0", system.launcher())).unwrap();
    // ss(8) tells both ends of a pair.
    let told = Command::new("ss").args(["-xaH"]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let ends = told.lines().find_map(|line| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        let [.., own, peer] = numbers.as_slice() else {
            return None;
        };
        (*peer == theirs).then_some(*own)
    });
    let own = ends.unwrap_or_else(|| panic!("{theirs}: {told}"));
    let mut descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let number = descriptors.find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        (inode(format!("/proc/{process}/fd/{name}"))? == own).then(|| name.parse::<i32>().unwrap())
    });
    let handle = pidfd_open(pid(process), PidfdFlags::empty()).unwrap();
    pidfd_getfd(handle, number.unwrap(), PidfdGetfdFlags::empty())
        .unwrap()
        .into()
}

fn pass(line: &UnixStream, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(
        line,
        &[IoSlice::new(b"F")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

/// Asks in these bytes; the first line of the answer, empty if there is none.
fn ask(line: &UnixStream, question: &[u8]) -> String {
    let (mut own, theirs) = UnixStream::pair().unwrap();
    own.set_read_timeout(Some(WAIT)).unwrap();
    pass(line, &[theirs.as_fd()]);
    drop(theirs);
    // It need not read all of it.
    drop(own.write_all(question));
    drop(own.shutdown(Shutdown::Write));
    let mut answer = String::new();
    drop(BufReader::new(own).read_line(&mut answer));
    answer
}

fn run(tool: &str, words: &[&str], input: &str) -> Vec<u8> {
    let question = serde_json::json!({ "Run": { "tool": tool, "words": words, "input": input } });
    format!("{question}\n").into_bytes()
}

fn is_refused(line: &UnixStream, what: &str, question: &[u8]) {
    let answer = ask(line, question);
    assert!(answer.starts_with("{\"Failed\":[null,"), "{what}: {answer}");
}

/// What is told of a question is neither all of it nor another line.
fn told_in_short(system: &System, line: &UnixStream) {
    let mut forged = b"{\"".to_vec();
    forged.extend(vec![b'A'; 8 << 20]);
    forged.extend(b"\":1}\n");
    is_refused(line, "a long word", &forged);
    is_refused(line, "lines", b"{\"\\nERROR forged\":1}\n");
    assert!(os::wait_until(WAIT, || system
        .log()
        .contains("ERROR forged")));
    let log = system.log();
    assert!(log.len() < 1 << 20, "{}", log.len());
    assert!(!log.contains("\nERROR forged"), "{log}");
}

fn abused(system: &System) {
    let launcher = system.launcher();
    let line = line(system);
    let secret = system.file("secret");
    fs::write(&secret, "of root alone").unwrap();
    let path = secret.to_str().unwrap();
    for (what, question) in [
        ("another program", run("sh", &["-c", "id"], "")),
        ("a program by its path", run("/bin/sh", &["-c", "id"], "")),
        (
            "another namespace",
            run("ip", &["netns", "exec", "x", "sh"], ""),
        ),
        ("a batch", run("ip", &["-batch", path], "")),
        (
            "a batch after a family",
            run("ip", &["-4", "-batch", path], ""),
        ),
        ("a file of rules", run("nft", &["-f", path], "")),
        ("files beside", run("nft", &["-I", "/etc", "-f", "-"], "")),
        (
            "an included file",
            run("nft", &["-f", "-"], &format!("include \"{path}\"")),
        ),
        (
            "another table",
            run("nft", &["-s", "list", "table", "inet", "other"], ""),
        ),
        ("no words", run("nft", &[], "")),
        (
            "another question",
            b"{\"Start\":{\"program\":\"/bin/sh\"}}\n".to_vec(),
        ),
        (
            "an upgrade to something",
            b"{\"Renew\":{\"program\":\"/bin/sh\"}}\n".to_vec(),
        ),
        ("no JSON", b"sh -c id\n".to_vec()),
        ("bytes", vec![0xff; 4096]),
        ("half a question", b"{\"Run\":".to_vec()),
        ("nothing", Vec::new()),
    ] {
        is_refused(&line, what, &question);
    }
    let mut long = vec![b' '; (16 << 20) + 4096];
    long.push(b'\n');
    assert!(!ask(&line, &long).contains("Ran"));
    // What is no question at all, on the line itself.
    (&line).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let log = |part: &str| os::wait_until(WAIT, || system.log().contains(part));
    // What is no socket; and too many at a time.
    let file = fs::File::open(&secret).unwrap();
    pass(&line, &[file.as_fd()]);
    // It tells of so many refusals alone, and those to come are as many.
    assert!(log("it is no socket"), "{}", system.log());
    let pairs: Vec<_> = (0..60).map(|_n| UnixStream::pair().unwrap()).collect();
    let theirs: Vec<BorrowedFd<'_>> = pairs.iter().map(|(_, theirs)| theirs.as_fd()).collect();
    pass(&line, &theirs);
    for part in [
        "`ip netns exec x sh` is not run here",
        "no question: unknown variant",
        "what came on the line of questions is none",
        "it is no socket",
        "it is longer than",
        "there are 16 questions already",
    ] {
        assert!(log(part), "{part}: {}", system.log());
    }
    assert!(!system.log().contains("of root alone"));
    drop(pairs);
    // It lives on, and serves what is real.
    assert_eq!(system.launcher(), launcher);
    let threads = format!("/proc/{launcher}/task");
    let idle = || fs::read_dir(&threads).unwrap().count() == 1;
    assert!(os::wait_until(WAIT, idle), "questions stay open");
}

/// What `systemctl kill` sends to all processes of a service waits in the launcher, and harms neither it nor the process.
fn signalled(system: &System) {
    let (process, launcher) = (system.pid().unwrap(), system.launcher());
    let all = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TERM,
    ];
    let mut sent = 0_u64;
    for signal in all {
        sent |= 1 << (signal.as_raw() - 1);
        kill_process(pid(launcher), signal).unwrap();
    }
    for signal in [Signal::HUP, Signal::USR1] {
        kill_process(pid(process), signal).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{launcher}/status")).unwrap();
    let waits = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let waits = u64::from_str_radix(waits.unwrap().trim(), 16).unwrap();
    assert_eq!(waits & sent, sent, "{waits:x}");
}

/// Its end is told; what it goes on with is there.
fn killed(system: &System, captures: bool) {
    let (process, launcher) = (system.pid().unwrap(), system.launcher());
    kill_process(pid(launcher), Signal::KILL).unwrap();
    system.until("the end of the launcher", |status| {
        let problems = status["problems"].to_string();
        problems.contains("the launcher of this process has ended") && problems.contains("restart")
    });
    let status = system.status();
    assert_eq!(status["ready"], !captures, "{status:#}");
    assert_eq!(system.ask("text").status.code(), Some(1));
    assert!(
        system
            .log()
            .contains("the launcher of this process has ended")
    );
    kill_process(pid(process), Signal::USR2).unwrap();
    let told = os::wait_until(WAIT, || system.log().contains("no new process"));
    assert!(told, "{}", system.log());
    assert_eq!(system.get(), Some(200), "{}", system.log());
}

const PROCESS: &str = "handover = \"run/handover.sock\"\nsandbox = \"required\"\n";

#[test]
fn what_captures_starts_nothing_else() {
    isolated(|| {
        ip("address add 10.99.8.1/32 dev lo");
        let process = format!("{PROCESS}user = \"{USER}\"\n");
        let more = NODE.replace("NET", "10.99.8");
        let system = System::start_in("10.99.8".to_owned(), &process, &more);
        signalled(&system);
        abused(&system);
        let asked = line(&system);
        let mut tables = String::new();
        let loaded = os::wait_until(WAIT, || {
            tables = ask(&asked, &run("nft", &["list", "tables"], ""));
            tables.contains("\"success\":true") && tables.contains("ringgate")
        });
        assert!(loaded, "{tables} {}", system.log());
        killed(&system, true);
    });
}

#[test]
fn without_a_sandbox_a_signal_that_nobody_takes_waits() {
    isolated(|| {
        ip("address add 10.99.9.1/32 dev lo");
        let more = NODE.replace("NET", "10.99.9");
        let system = System::start_in("10.99.9".to_owned(), "sandbox = \"off\"\n", &more);
        let process = system.pid().unwrap();
        let setup = Command::new(PROGRAM)
            .args(["node", "setup", "--config"])
            .arg(system.file("ringgate.toml"))
            .output()
            .unwrap();
        assert!(setup.status.success(), "{setup:?}");
        kill_process(pid(process), Signal::USR1).unwrap();
        // It starts programs itself, now that there are rules.
        let loaded = || system.log().contains("capture rules are loaded");
        assert!(os::wait_until(WAIT, loaded), "{}", system.log());
        assert_eq!(system.pid(), Some(process), "{}", system.log());
    });
}

#[test]
fn what_hands_over_starts_its_own_program_once() {
    let process = format!("{PROCESS}user = \"{USER}\"\n");
    let system = System::start(&process, "");
    signalled(&system);
    let line = line(&system);
    is_refused(
        &line,
        "a program of capture",
        &run("nft", &["list", "tables"], ""),
    );
    told_in_short(&system, &line);
    // Two upgrades at a time: the second is refused, the first is the real one.
    let old = system.pid().unwrap();
    let asked: Vec<(UnixStream, OwnedFd)> = (0..2)
        .map(|_n| {
            let (mut own, theirs) = UnixStream::pair().unwrap();
            own.set_read_timeout(Some(WAIT)).unwrap();
            pass(&line, &[theirs.as_fd()]);
            own.write_all(b"\"Renew\"\n").unwrap();
            (own, theirs.into())
        })
        .collect();
    let mut answers: Vec<String> = asked
        .into_iter()
        .map(|(own, _theirs)| {
            let mut answer = String::new();
            BufReader::new(own).read_line(&mut answer).unwrap();
            answer
        })
        .collect();
    answers.sort();
    assert!(
        answers[0].contains("a new process runs already"),
        "{answers:?}"
    );
    assert!(answers[1].starts_with("{\"Started\""), "{answers:?}");
    system.until("an upgrade", |status| {
        status["pid"]
            .as_u64()
            .is_some_and(|pid| pid != u64::from(old))
    });
    assert_eq!(system.get(), Some(200), "{}", system.log());
}

#[test]
fn one_that_is_killed_is_told() {
    let process = format!("{PROCESS}user = \"{USER}\"\n");
    killed(&System::start(&process, ""), false);
}
