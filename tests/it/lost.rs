//! What is lost when a process is killed, when there are no descriptors left, when the clock jumps: nothing that was
//! promised.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use ringgate::cli::os;
use ringgate::cli::target::field;

use crate::pair::{Edit, LONG, Pair, Side, echo, echoes};

fn pair() -> Pair {
    let pair = Pair::on_loopback(crate::PROGRAM, Edit::default());
    echo(TcpListener::bind(pair.app()).unwrap());
    pair
}

/// How a connection ends that nobody writes to.
fn end(mut stream: TcpStream) -> Result<usize, ErrorKind> {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.read(&mut [0; 16]).map_err(|error| error.kind())
}

/// Whether every line of a side's records is whole.
fn records_are_whole(pair: &Pair, side: Side) -> bool {
    let text = os::read_text(&pair.home(side).join("decisions.jsonl")).unwrap();
    text.lines()
        .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
}

/// The node of the server is killed: what ran through it breaks off at the client, none of it looks complete, the client's
/// node hears of it at once and makes a new connection as soon as the peer is back.
#[test]
fn a_killed_peer_breaks_off_and_is_found_again() {
    let mut pair = pair();
    let mark = pair.records(Side::Client).mark();
    let streams: Vec<TcpStream> = (0..3).map(|_| pair.open()).collect();
    pair.kill(Side::Server);
    for stream in streams {
        assert_eq!(end(stream), Err(ErrorKind::ConnectionReset));
    }
    let broken = |record: &serde_json::Value| {
        field(record, "/event") == "close" && field(record, "/close") == "upstream_reset"
    };
    let found = pair.records(Side::Client).await_some(&mark, 3, broken);
    assert_eq!(found.len(), 3, "each is recorded: {found:?}");
    // While it is away new ones are refused by SOCKS, with a reason.
    let (code, _) = pair.socks().unwrap();
    assert!(code == 4 || code == 5, "reply {code}");
    pair.raise(Side::Server);
    assert!(pair.serves(), "{}", pair.log(Side::Client));
    assert!(records_are_whole(&pair, Side::Server));
}

/// The client's own node is killed: its connections are reset at both apps, what it wrote is whole, and after a restart it
/// serves as before.
#[test]
fn a_killed_node_resets_and_serves_again() {
    let mut pair = Pair::on_loopback(crate::PROGRAM, Edit::default());
    let app = TcpListener::bind(pair.app()).unwrap();
    let (code, mut client) = pair.socks().unwrap();
    assert_eq!(code, 0);
    let (mut upstream, _) = app.accept().unwrap();
    client.write_all(b"half of a").unwrap();
    upstream.set_read_timeout(Some(LONG)).unwrap();
    upstream.read_exact(&mut [0; 9]).unwrap();
    pair.kill(Side::Client);
    // The kernel ends the sockets of a killed process in order, but the far node knows that the tunnel did not.
    assert_eq!(
        end(upstream),
        Err(ErrorKind::ConnectionReset),
        "it looks complete"
    );
    drop(client);
    assert!(records_are_whole(&pair, Side::Client));
    echo(app);
    pair.raise(Side::Client);
    assert!(pair.serves(), "{}", pair.log(Side::Client));
    assert!(records_are_whole(&pair, Side::Client));
}

/// Lets a process open no more files, or as many as ever.
fn limit_files(pid: u32, limited: bool) {
    if !limited {
        return set_limit(pid, 4096);
    }
    // A connection that has just ended may give a number back: none is to be free below the limit.
    let (mut limit, mut looks) = (None, 0);
    let none_is_free = os::wait_until(LONG, || {
        let free = lowest_free(pid);
        if limit == Some(free) {
            looks += 1;
        } else {
            set_limit(pid, free);
            (limit, looks) = (Some(free), 0);
        }
        looks >= 20
    });
    assert!(none_is_free, "descriptors come and go");
}

/// The number that the next file of a process gets.
fn lowest_free(pid: u32) -> u32 {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let taken: std::collections::BTreeSet<u32> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    (0..).find(|number| !taken.contains(number)).unwrap()
}

fn set_limit(pid: u32, files: u32) {
    let output = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={files}:")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// No descriptors at the node that dials the app: new connections are refused with that reason, those that are open go on,
/// and new ones are served as soon as there is room.
#[test]
fn no_descriptors_to_dial_with() {
    let mut pair = pair();
    let mut stream = pair.open();
    let mark = pair.records(Side::Server).mark();
    let pid = pair.pid(Side::Server);
    limit_files(pid, true);
    for _ in 0..5 {
        let (code, _) = pair.socks().unwrap();
        assert_ne!(code, 0, "what was dialled?");
    }
    assert!(echoes(&mut stream), "an open connection goes on");
    let refused = pair.records(Side::Server).await_some(&mark, 5, |record| {
        field(record, "/close") == "upstream_connect"
            && field(record, "/reason").contains("Too many open files")
    });
    assert_eq!(refused.len(), 5, "{refused:?}");
    limit_files(pid, false);
    assert!(pair.serves(), "{}", pair.log(Side::Server));
    assert!(echoes(&mut stream));
}

/// No descriptors at a reload: it is refused with that reason, the last good state serves, and the same reload succeeds
/// once there is room.
#[test]
fn no_descriptors_to_reload_with() {
    let mut pair = pair();
    let mut stream = pair.open();
    let pid = pair.pid(Side::Client);
    let generation = |pair: &Pair| pair.metric(Side::Client, "ringgate_config_generation");
    assert!((generation(&pair) - 1.0).abs() < 0.5);
    limit_files(pid, true);
    let denied = "[[authorizationPolicy]]\nname = \"nobody\"\nnamespace = \"shop\"\naction = \"DENY\"\nrules = [{}]\n";
    pair.configure(
        Side::Client,
        Edit {
            tables: denied,
            ..Edit::default()
        },
    );
    let told = os::wait_until(LONG, || {
        pair.log(Side::Client).contains("reload refused")
            && pair.log(Side::Client).contains("Too many open files")
    });
    assert!(told, "{}", pair.log(Side::Client));
    assert!(echoes(&mut stream), "an open connection goes on");
    limit_files(pid, false);
    assert!((generation(&pair) - 1.0).abs() < 0.5, "it has half of it");
    hang_up(pid);
    let reloaded = os::wait_until(LONG, || (generation(&pair) - 2.0).abs() < 0.5);
    assert!(reloaded, "{}", pair.log(Side::Client));
    assert!(echoes(&mut stream), "the policy is the server's");
}

fn hang_up(pid: u32) {
    // By the shell, which has it built in: the program `kill` may not be there.
    let done = Command::new("sh")
        .args(["-c", "kill -HUP \"$0\"", &pid.to_string()])
        .status();
    assert!(done.unwrap().success());
}

/// Where Debian puts it.
const FAKE_TIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The wall clock jumps over the end of every certificate, and back: what is open goes on, and new connections are made
/// once the certificates are new.
#[test]
fn a_clock_that_jumps_ends_nothing() {
    assert!(
        std::path::Path::new(FAKE_TIME).exists(),
        "`{FAKE_TIME}` is missing: apt-get install faketime"
    );
    let [x, y] = ringgate::cli::layout::free_octets().unwrap();
    let at = |host: u8| std::net::IpAddr::from([127, x, y, host]);
    let pair = Pair::new(crate::PROGRAM, (at(1), at(2)), Vec::new(), Edit::default());
    let clock = pair.dir.path.join("clock");
    os::write(&clock, b"+0s\n", 0o644).unwrap();
    let mut pair = pair.with_environment(
        [
            ("LD_PRELOAD", FAKE_TIME),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            // Timers go by a clock that nobody sets.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    );
    pair.raise(Side::Client);
    pair.raise(Side::Server);
    echo(TcpListener::bind(pair.app()).unwrap());
    let mut stream = pair.open();
    let serial = |pair: &Pair| pair.admin(Side::Server, "identities").unwrap();
    let before = serial(&pair);
    // Certificates live for a day, and the clock of both nodes jumps by two.
    os::write(&clock, b"+48h\n", 0o644).unwrap();
    let renewed = os::wait_until(LONG, || serial(&pair) != before);
    assert!(renewed, "{}", pair.log(Side::Server));
    assert!(echoes(&mut stream), "an open connection goes on");
    let served = os::wait_until(LONG, || pair.serves());
    assert!(
        served,
        "{}{}",
        pair.log(Side::Client),
        pair.log(Side::Server)
    );
    // Set back by an hour: the newest certificates begin in the future now.
    let ahead = serial(&pair);
    os::write(&clock, b"+47h\n", 0o644).unwrap();
    let renewed = os::wait_until(LONG, || serial(&pair) != ahead);
    assert!(renewed, "{}", pair.log(Side::Server));
    assert!(echoes(&mut stream), "an open connection goes on");
    let served = os::wait_until(LONG, || pair.serves());
    assert!(
        served,
        "{}{}",
        pair.log(Side::Client),
        pair.log(Side::Server)
    );
}
