//! What a closed socket still sends, and what a process cannot do to leave uncaptured: the node's mark set by a workload.

use std::path::Path;
use std::process::Output;

use ringgate::cli::os;
use ringgate::cli::target::{field, is_from};

use crate::machines::{
    CLIENT, CLIENT_UID, Machine, Machines, OTHER, STRANGER_UID, client_node, command,
};

const PYTHON: &str = "/usr/bin/python3";

/// Reads nothing until a file is there, then all of it.
const SLOW: &str = "
import os, socket, sys, time
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
listener.bind(('::', int(sys.argv[1])))
listener.listen()
print('listens', flush=True)
while True:
    connection, _ = listener.accept()
    name = connection.recv(1).decode()
    while not os.path.exists(sys.argv[2] + name):
        time.sleep(0.05)
    count = 1
    while True:
        some = connection.recv(65536)
        if not some:
            break
        count += len(some)
    print('received', name, count, flush=True)
";
/// Sends until nobody takes any more, and closes with the rest unsent; prints its port and how much it was.
const LEAVES: &str = "
import select, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
connection.sendall(sys.argv[3].encode())
connection.setblocking(False)
count = 1
while select.select([], [connection], [], 1)[1]:
    count += connection.send(b'x' * 10000)
print(connection.getsockname()[1], count)
connection.close()
";
/// Asks with the node's own mark.
const MARKED: &str = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
connection = socket.socket(family)
connection.settimeout(10)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
connection.connect((sys.argv[1], int(sys.argv[2])))
connection.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
print(connection.recv(12).decode())
";

/// The client's machine, whose workload is a user, or all in a control group but one user.
fn raised(owner: &str, capture: &str) -> Machines {
    let mut machines = Machines::new();
    machines.configure(CLIENT, &client_node(owner, capture, ""));
    machines.node_does(CLIENT, &["setup"]);
    machines.raise(CLIENT);
    machines
}

/// Runs a command in a control group as a user.
fn run_in(machines: &Machines, machine: Machine, group: &Path, uid: u32, words: &[&str]) -> Output {
    let prefix = machines.prefix(machine, Some(uid));
    let group = group.to_string_lossy();
    let mut all = vec![
        "sh",
        "-c",
        "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"",
        &group,
    ];
    all.extend(prefix.iter().map(String::as_str));
    all.extend(words);
    command(&all)
}

/// Starts the slow server, and has its machine remember from which ports it is sent to.
fn slow_server(machines: &mut Machines) {
    let go = machines.dir.path.join("go-").to_string_lossy().into_owned();
    let watch = "table inet seen {
  set ports { type inet_service; size 1024; flags dynamic; }
  chain input { type filter hook input priority 0; tcp dport 9300 update @ports { tcp sport }; }
}";
    let file = machines.dir.path.join("seen.nft");
    os::write(&file, watch.as_bytes(), 0o644).unwrap();
    machines.text(OTHER, &["nft", "-f", &file.to_string_lossy()]);
    let words = [PYTHON, "-u", "-c", SLOW, "9300", &go];
    machines.start(OTHER, "slow", None, &words);
    machines.until("the slow server listens", || {
        machines.log_text("slow").contains("listens")
    });
}

/// One stream whose sender has closed with its end unsent arrives whole; `direct`: whether its own packets did.
fn arrives(machines: &Machines, name: &str, direct: bool, send: impl Fn(&[&str]) -> Output) {
    let host = if name == "4" || name == "e" {
        OTHER.v4()
    } else {
        OTHER.v6()
    };
    let output = send(&[PYTHON, "-c", LEAVES, &host, "9300", name]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = said.split_whitespace();
    let (Some(port), Some(count)) = (words.next(), words.next()) else {
        panic!("{said} {}", String::from_utf8_lossy(&output.stderr));
    };
    os::write(&machines.dir.path.join(format!("go-{name}")), b"", 0o644).unwrap();
    machines.until("the whole stream arrives", || {
        let want = format!("received {name} {count}\n");
        machines.log_text("slow").contains(&want)
    });
    let seen = machines.text(OTHER, &["nft", "list", "set", "inet", "seen", "ports"]);
    let there = seen.split(|c: char| !c.is_ascii_digit()).any(|p| p == port);
    assert_eq!(there, direct, "port {port} of {name}: {seen}");
}

fn closed_streams_end_at_the_node(mode: &str) {
    let capture = format!("mode = \"{mode}\"\n");
    let mut machines = raised(&format!("uid = {CLIENT_UID}"), &capture);
    slow_server(&mut machines);
    for name in ["4", "6"] {
        arrives(&machines, name, false, |words| {
            machines.run(CLIENT, Some(CLIENT_UID), words)
        });
    }
}

#[test]
fn what_a_closed_socket_has_yet_to_send_goes_through_the_node() {
    closed_streams_end_at_the_node("TPROXY");
    closed_streams_end_at_the_node("REDIRECT");
}

#[test]
fn what_a_user_who_is_left_alone_has_yet_to_send_is_left_alone() {
    let name = format!("rgtest-{}", os::hex(&os::random::<3>().unwrap()));
    let capture = format!("excludeUids = [{STRANGER_UID}]\n");
    let mut machines = raised(&format!("cgroup = \"/{name}\""), &capture);
    let group = machines.cgroup(&name);
    machines.node_does(CLIENT, &["setup"]);
    slow_server(&mut machines);
    arrives(&machines, "e", true, |words| {
        run_in(&machines, CLIENT, &group, STRANGER_UID, words)
    });
    // Others in the group are captured.
    arrives(&machines, "4", false, |words| {
        run_in(&machines, CLIENT, &group, CLIENT_UID, words)
    });
}

/// `CAP_NET_RAW` is enough to set a mark.
fn marks_open_nothing(mode: &str) {
    let capture = format!("mode = \"{mode}\"\n");
    let mut machines = raised(&format!("uid = {CLIENT_UID}"), &capture);
    let web = [PYTHON, "-m", "http.server", "9001", "--bind", "::"];
    machines.start(OTHER, "outside", None, &web);
    machines.until("the server outside answers", || {
        let answer = machines.curl(OTHER, STRANGER_UID, "http://10.66.1.3:9001/");
        answer.status == 200
    });
    for host in [OTHER.v4(), OTHER.v6()] {
        let (records, mark) = (machines.records(CLIENT), machines.records(CLIENT).mark());
        let words = [
            "setpriv",
            &format!("--reuid={CLIENT_UID}"),
            "--clear-groups",
            "--inh-caps=+net_raw",
            "--ambient-caps=+net_raw",
            "--bounding-set=-all,+net_raw",
            PYTHON,
            "-c",
            MARKED,
            &host,
            "9001",
        ];
        let output = machines.run(CLIENT, None, &words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("200"), "{said} {error}");
        let found = records.await_some(&mark, 1, |r| {
            field(r, "/kind") == "outbound" && is_from(r, "client")
        });
        assert!(!found.is_empty(), "{mode}, {host}: it was not captured");
    }
}

#[test]
fn a_workload_does_not_leave_uncaptured_by_the_nodes_mark() {
    marks_open_nothing("TPROXY");
    marks_open_nothing("REDIRECT");
}
