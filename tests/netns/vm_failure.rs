//! What `onFailure = "OPEN"` means: while no node lives nothing is captured, in both directions; `CLOSED`, the default, is
//! part of the story in `vm_traffic`.

use ringgate::cli::target::field;

use crate::PROGRAM;
use crate::machines::{CLIENT, CLIENT_UID, Machines, OTHER, STRANGER_UID, client_node};

const OUT: &str = "http://10.66.1.3:9001/";
const IN: &str = "http://10.66.1.1:8088/";

/// Whether both directions are captured now; `None` while they differ or a node that has just died still counts.
fn captured(machines: &Machines) -> Option<bool> {
    let mark = machines.records(CLIENT).mark();
    let out = machines.curl(CLIENT, CLIENT_UID, OUT);
    let enters = machines.curl(OTHER, STRANGER_UID, IN);
    let records = machines.records(CLIENT);
    match (out.status, enters.status, enters.exit) {
        (200, 200, _) if records.since(&mark).is_empty() => Some(false),
        (200, 0, 56) => {
            let found = records.await_some(&mark, 1, |r| field(r, "/kind") == "outbound");
            (!found.is_empty()).then_some(true)
        }
        _ => None,
    }
}

fn open_while_nobody_lives(mode: &str) {
    let mut machines = Machines::new();
    let capture = format!("mode = \"{mode}\"\nonFailure = \"OPEN\"\n");
    machines.configure(
        CLIENT,
        &client_node(&format!("uid = {CLIENT_UID}"), &capture, ""),
    );
    let web = |port| {
        [
            "/usr/bin/python3",
            "-m",
            "http.server",
            port,
            "--bind",
            "::",
        ]
    };
    machines.start(OTHER, "outside", None, &web("9001"));
    machines.start(CLIENT, "inside", Some(CLIENT_UID), &web("8088"));
    machines.node_does(CLIENT, &["setup"]);
    machines.until("open before the first start", || {
        captured(&machines) == Some(false)
    });
    for _ in 0..2 {
        machines.raise(CLIENT);
        machines.until("captured", || captured(&machines) == Some(true));
        machines.node_does(CLIENT, &["status"]);
        machines.kill("client");
        machines.until("open after a crash", || captured(&machines) == Some(false));
    }
    machines.raise(CLIENT);
    machines.until("captured again", || captured(&machines) == Some(true));
    machines.stop("client");
    // A node that is told to stop says so: there is no gap.
    assert_eq!(captured(&machines), Some(false), "after a stop");
}

#[test]
fn nothing_is_captured_while_no_node_lives_if_so_configured() {
    open_while_nobody_lives("TPROXY");
    open_while_nobody_lives("REDIRECT");
}

/// `setup` in the way that units call it, and what is loaded then.
fn loaded_by_setup(machines: &Machines) -> String {
    let script = "\"$0\" node setup --config \"$1\" && nft list table inet ringgate";
    let config = machines.config(CLIENT);
    machines.text(CLIENT, &["sh", "-c", script, PROGRAM, &config])
}

#[test]
fn setup_beside_a_running_node_does_not_take_it_for_dead() {
    let machines = Machines::new();
    let capture = "outbound = \"ALL\"\nonFailure = \"OPEN\"\n";
    let owner = format!("uid = {CLIENT_UID}");
    machines.configure(CLIENT, &client_node(&owner, capture, ""));
    assert!(!loaded_by_setup(&machines).contains("timeout 3s"));
    // As a running node tells of itself, but for longer than a test takes.
    let signs = "add element inet ringgate alive { ipv4 timeout 1h, ipv6 timeout 1h }; \
                 add element inet ringgate own { 31900 timeout 1h }";
    machines.text(CLIENT, &["nft", signs]);
    let loaded = loaded_by_setup(&machines);
    for sign in ["ipv4 timeout 3s", "ipv6 timeout 3s", "31900 timeout 3s"] {
        assert!(loaded.contains(sign), "{sign}: {loaded}");
    }
    machines.node_does(CLIENT, &["teardown"]);
    assert!(!loaded_by_setup(&machines).contains("timeout 3s"));
}

/// Who may not change the rules keeps nobody waiting who may.
#[test]
fn the_turn_is_not_everybodys() {
    let waited = |machines: &Machines| {
        let output = machines.node(CLIENT, &["setup"]);
        assert!(output.status.success());
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).contains("somebody else has been loading")
    };
    let mut machines = Machines::new();
    let owner = format!("uid = {CLIENT_UID}");
    machines.configure(CLIENT, &client_node(&owner, "", ""));
    let holds = "exec 9</proc/self/ns/net && flock 9 && echo held && sleep 600";
    machines.start(CLIENT, "holder", Some(STRANGER_UID), &["sh", "-c", holds]);
    machines.until("a stranger holds the namespace", || {
        machines.log_text("holder").contains("held")
    });
    assert!(!waited(&machines));
    let takes = "(echo 'create table inet ringgate-turn { flags owner; }'; sleep 600) | nft -i";
    machines.start(CLIENT, "loader", None, &["sh", "-c", takes]);
    machines.until("the turn is taken", || {
        let tables = machines.text(CLIENT, &["nft", "list", "tables"]);
        tables.contains("ringgate-turn")
    });
    assert!(waited(&machines));
}
