//! Who owns a captured connection is what the kernel says of its socket: user, control group, unit, class; and a unit
//! that is restarted does not lose its capture.

use std::path::{Path, PathBuf};

use ringgate::cli::os;
use ringgate::cli::target::{Mark, field, is_from};
use serde_json::Value;

use crate::PROGRAM;
use crate::machines::{
    CLIENT, CLIENT_UID, Machines, OTHER, STRANGER_UID, client_node, command, done,
};

const SECOND_UID: u32 = 31_003;
const NODE_UID: u32 = 31_900;
const URL: &str = "http://10.66.1.3:9001/";

struct Vm {
    machines: Machines,
    mark: Mark,
}

impl Vm {
    /// The client's machine with this node, not yet running, and a server outside.
    fn new(node: &str) -> Self {
        let mut machines = Machines::new();
        machines.configure(CLIENT, node);
        let web = [
            "/usr/bin/python3",
            "-m",
            "http.server",
            "9001",
            "--bind",
            "::",
        ];
        machines.start(OTHER, "outside", None, &web);
        machines.until("the server outside answers", || {
            machines.curl(OTHER, STRANGER_UID, URL).status == 200
        });
        let mark = machines.records(CLIENT).mark();
        Self { machines, mark }
    }

    fn up(&mut self) {
        self.machines.node_does(CLIENT, &["setup"]);
        self.machines.raise(CLIENT);
    }

    /// Outbound connections since the last look.
    fn recorded(&mut self, count: usize) -> Vec<Value> {
        let records = self.machines.records(CLIENT);
        let closed = |r: &Value| field(r, "/kind") == "outbound" && field(r, "/event") == "close";
        let found = records.await_some(&self.mark, count, closed);
        self.mark = records.mark();
        found
    }

    /// One call with a record, as this account.
    fn is_known_as(&mut self, account: &str, call: impl FnOnce(&Machines) -> u16) {
        assert_eq!(call(&self.machines), 200, "as {account}");
        let found = self.recorded(1);
        let all_are = found.iter().all(|r| is_from(r, account));
        assert!(found.len() == 1 && all_are, "as {account}: {found:?}");
    }

    /// One call that nobody captures.
    fn is_not_captured(&mut self, uid: u32) {
        assert_eq!(self.machines.curl(CLIENT, uid, URL).status, 200);
        // A later call that is recorded shows that an earlier one was not.
        let records = self.machines.records(CLIENT);
        assert!(
            records.since(&self.mark).is_empty(),
            "{:?}",
            records.since(&self.mark)
        );
    }
}

fn second(owner: &str) -> String {
    format!("\n[[node.workload]]\nname = \"default/second\"\nmatch = {{ {owner} }}\n")
}

fn remove(group: &Path) {
    assert!(
        os::wait_until(std::time::Duration::from_secs(10), || {
            std::fs::remove_dir(group).is_ok()
        }),
        "{} is not empty",
        group.display()
    );
}

/// Control group or unit: made, removed, made again, while the node runs and while it starts anew.
fn follows(owner: &str, name: &str) {
    let mut vm = Vm::new(&(client_node(owner, "", "") + &second(&format!("uid = {SECOND_UID}"))));
    let printed = vm.machines.node(CLIENT, &["setup", "--print"]);
    let warned = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(
        warned.contains("nothing is captured of workload `default/client`"),
        "{warned}"
    );
    vm.up();
    vm.is_not_captured(STRANGER_UID);
    vm.is_known_as("second", |m| m.curl(CLIENT, SECOND_UID, URL).status);
    for _ in 0..2 {
        // What a unit's own ExecStartPre does closes the gap before the node sees the new group.
        let group: PathBuf = vm.machines.cgroup(name);
        vm.machines.node_does(CLIENT, &["setup"]);
        vm.is_known_as("client", |m| m.curl_in(CLIENT, &group, URL).status);
        vm.is_known_as("second", |m| m.curl(CLIENT, SECOND_UID, URL).status);
        vm.machines.node_does(CLIENT, &["status"]);
        remove(&group);
    }
    // And without it the node follows by itself.
    let group = vm.machines.cgroup(name);
    let machines = &vm.machines;
    machines.until("the rules follow the group", || {
        machines.node(CLIENT, &["status"]).status.success()
    });
    vm.is_known_as("client", |m| m.curl_in(CLIENT, &group, URL).status);
    // A group below it is the same workload; one beside it is not.
    let below = vm.machines.cgroup(&format!("{name}/below"));
    vm.is_known_as("client", |m| m.curl_in(CLIENT, &below, URL).status);
    remove(&below);
    let beside = vm.machines.cgroup(&format!("{name}-beside"));
    assert_eq!(vm.machines.curl_in(CLIENT, &beside, URL).status, 200);
    assert!(vm.machines.records(CLIENT).since(&vm.mark).is_empty());
}

#[test]
fn a_control_group_keeps_its_capture_when_it_is_made_anew() {
    let name = format!("rgtest-{}", os::hex(&os::random::<3>().unwrap()));
    follows(&format!("cgroup = \"/{name}/app\""), &format!("{name}/app"));
}

#[test]
fn a_unit_keeps_its_capture_when_it_is_restarted() {
    let run = os::hex(&os::random::<3>().unwrap());
    let unit = format!("app-{run}.service");
    follows(
        &format!("unit = \"{unit}\""),
        &format!("rgtest{run}.slice/{unit}"),
    );
}

/// The controller of version 1: where the kernel has it, it captures; where it is not mounted, setup says so.
#[test]
fn a_class_of_net_cls_is_captured_or_refused() {
    let mut vm = Vm::new(&client_node("classId = \"1:5\"", "", ""));
    let mounted = os::read_text(Path::new("/proc/self/mounts"))
        .unwrap()
        .contains("net_cls");
    let refused = vm.machines.node(CLIENT, &["setup"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        mounted || said.contains("`match.classId` needs the controller net_cls"),
        "{said}"
    );
    let mount = vm.machines.dir.path.join("net_cls");
    os::make_dir(&mount, 0o755).unwrap();
    let at = mount.to_string_lossy().into_owned();
    if !command(&["mount", "-t", "cgroup", "-o", "net_cls", "none", &at])
        .status
        .success()
    {
        let controllers = os::read_text(Path::new("/proc/cgroups")).unwrap();
        assert!(
            !controllers.contains("net_cls"),
            "net_cls is there and cannot be mounted"
        );
        return;
    }
    let _mounted = Unmount(at);
    let group = mount.join("app");
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("net_cls.classid"), "0x10005").unwrap();
    vm.up();
    vm.is_not_captured(STRANGER_UID);
    vm.is_known_as("client", |m| m.curl_in(CLIENT, &group, URL).status);
    remove(&group);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        os::ignore(std::fs::remove_dir(Path::new(&self.0).join("app")));
        command(&["umount", &self.0]);
    }
}

/// Everything of the machine is captured but the node itself, which runs as a user with two capabilities.
#[test]
fn a_whole_machine_is_captured_and_strangers_are_refused() {
    let owner = format!("uid = {CLIENT_UID}");
    let mut vm = Vm::new(&client_node(&owner, "outbound = \"ALL\"\n", ""));
    vm.machines.node_does(CLIENT, &["setup"]);
    let config = vm.machines.config(CLIENT);
    let as_root = vm
        .machines
        .run(CLIENT, None, &[PROGRAM, "run", "--config", &config]);
    let said = String::from_utf8_lossy(&as_root.stderr).into_owned();
    assert!(
        !as_root.status.success() && said.contains("runs as user 0"),
        "{said}"
    );
    raise_as_user(&mut vm.machines);
    let machines = &vm.machines;
    machines.until("the node tells its user", || {
        machines.curl(CLIENT, NODE_UID, URL).status == 200
    });
    vm.recorded(0);
    vm.is_not_captured(NODE_UID);
    vm.is_known_as("client", |m| m.curl(CLIENT, CLIENT_UID, URL).status);
    let stranger = vm.machines.curl(CLIENT, STRANGER_UID, URL);
    assert_eq!(stranger.status, 0, "{}", stranger.seen());
    let found = vm.recorded(1);
    let told = |r: &Value| {
        r.to_string()
            .contains("no workload of this node: uid 31009")
    };
    assert!(found.iter().all(told) && !found.is_empty(), "{found:?}");
    assert_eq!(field(&found[0], "/verdict"), "deny");

    // As configured they pass, and are recorded.
    vm.machines.stop("client");
    let passing = client_node(&owner, "outbound = \"ALL\"\n", "unowned = \"PASS\"\n");
    vm.machines.configure(CLIENT, &passing);
    raise_as_user(&mut vm.machines);
    let stranger = vm.machines.curl(CLIENT, STRANGER_UID, URL);
    assert_eq!(stranger.status, 200, "{}", stranger.seen());
    let found = vm.recorded(1);
    assert!(found.iter().all(told) && !found.is_empty(), "{found:?}");
    assert_eq!(field(&found[0], "/verdict"), "allow");
    // To a workload of the machine he comes in like anybody: by its policies, not by the node's mark.
    let web = ["/usr/bin/python3", "-m", "http.server", "9400"];
    vm.machines.start(CLIENT, "app", Some(CLIENT_UID), &web);
    let machines = &vm.machines;
    machines.until("the app answers", || {
        let loopback = machines.curl(CLIENT, STRANGER_UID, "http://127.0.0.1:9400/");
        loopback.status == 200
    });
    let (records, mark) = (machines.records(CLIENT), machines.records(CLIENT).mark());
    let own = machines.curl(CLIENT, STRANGER_UID, "http://10.66.1.1:9400/");
    assert_eq!(own.exit, 56, "{}", own.seen());
    let found = records.await_some(&mark, 1, |r| field(r, "/close") == "plaintext_refused");
    assert!(!found.is_empty(), "{:?}", records.since(&mark));
}

fn raise_as_user(machines: &mut Machines) {
    let state = machines.dir.path.join(CLIENT.0);
    done(&[
        "chown",
        "-R",
        &NODE_UID.to_string(),
        &state.to_string_lossy(),
    ]);
    let config = machines.config(CLIENT);
    let words = [
        "setpriv",
        &format!("--reuid={NODE_UID}"),
        &format!("--regid={NODE_UID}"),
        "--clear-groups",
        "--inh-caps=+net_admin,+net_bind_service",
        "--ambient-caps=+net_admin,+net_bind_service",
        "--bounding-set=-all,+net_admin,+net_bind_service",
        "--no-new-privs",
        PROGRAM,
        "run",
        "--config",
        &config,
    ];
    machines.start(CLIENT, CLIENT.0, None, &words);
    machines.await_ready(CLIENT);
}
