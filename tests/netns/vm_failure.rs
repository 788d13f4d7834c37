//! What `onFailure = "OPEN"` means: while no node lives nothing is captured, in both directions; `CLOSED`, the default, is
//! part of the story in `vm_traffic`.

use ringgate::cli::target::field;

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
