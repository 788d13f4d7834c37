//! Two machines with a node each and one without, joined by a bridge: the namespaces, processes and configuration of the
//! tests of `ringgate node`. Addresses are those of IPv4 and IPv6; everything ends with the value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ringgate::cli::curl::{Answer, Caller};
use ringgate::cli::drill::Scratch;
use ringgate::cli::os;
use ringgate::cli::target::Records;

use crate::PROGRAM;

/// Machines: name and last octet of its addresses.
pub(crate) const CLIENT: Machine = Machine("client", 1);
pub(crate) const SERVER: Machine = Machine("server", 2);
/// It has no node.
pub(crate) const OTHER: Machine = Machine("other", 3);
const ALL: [Machine; 3] = [CLIENT, SERVER, OTHER];

/// User of the workload on the client's machine.
pub(crate) const CLIENT_UID: u32 = 31_001;
/// User of the workload on the server's machine.
pub(crate) const SERVER_UID: u32 = 31_002;
/// User that is no workload.
pub(crate) const STRANGER_UID: u32 = 31_009;
/// How long anything may take to come up.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A machine of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine(pub(crate) &'static str, u8);

impl Machine {
    pub(crate) fn v4(self) -> String {
        format!("10.66.1.{}", self.1)
    }

    pub(crate) fn v6(self) -> String {
        format!("fd66::{}", self.1)
    }
}

/// The machines of one test.
#[derive(Debug)]
pub(crate) struct Machines {
    run: String,
    pub(crate) dir: Scratch,
    running: Vec<(String, Child)>,
    cgroups: Vec<PathBuf>,
}

pub(crate) fn command(words: &[&str]) -> Output {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("`{}`: {e}", words.join(" ")))
}

pub(crate) fn done(words: &[&str]) -> String {
    let output = command(words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{}`: {said}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Machines {
    pub(crate) fn new() -> Self {
        let machines = Self {
            run: format!("rm{}", os::hex(&os::random::<3>().unwrap())),
            dir: Scratch::new(false).unwrap(),
            running: Vec::new(),
            cgroups: Vec::new(),
        };
        let bridge = machines.bridge();
        done(&["ip", "netns", "add", &bridge]);
        done(&["ip", "-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        done(&["ip", "-n", &bridge, "link", "set", "br0", "up"]);
        for machine in ALL {
            let name = machines.name(machine);
            let (v4, v6) = (
                format!("{}/24", machine.v4()),
                format!("{}/64", machine.v6()),
            );
            done(&["ip", "netns", "add", &name]);
            done(&[
                "ip", "link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name",
                machine.0, "netns", &bridge,
            ]);
            done(&[
                "ip", "-n", &bridge, "link", "set", machine.0, "master", "br0", "up",
            ]);
            done(&["ip", "-n", &name, "link", "set", "lo", "up"]);
            done(&["ip", "-n", &name, "link", "set", "eth0", "up"]);
            done(&["ip", "-n", &name, "addr", "add", &v4, "dev", "eth0"]);
            done(&[
                "ip", "-n", &name, "addr", "add", &v6, "dev", "eth0", "nodad",
            ]);
        }
        machines
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.run)
    }

    fn name(&self, machine: Machine) -> String {
        format!("{}-{}", self.run, machine.0)
    }

    /// What runs a command on a machine, with the file systems of this one.
    pub(crate) fn prefix(&self, machine: Machine, uid: Option<u32>) -> Vec<String> {
        let mut words = vec![
            "nsenter".to_owned(),
            format!("--net=/run/netns/{}", self.name(machine)),
            "setpriv".to_owned(),
            "--pdeathsig=KILL".to_owned(),
        ];
        if let Some(uid) = uid {
            words.extend([format!("--reuid={uid}"), format!("--regid={uid}")]);
            words.push("--clear-groups".to_owned());
        }
        words
    }

    /// Runs a command on a machine to its end.
    pub(crate) fn run(&self, machine: Machine, uid: Option<u32>, words: &[&str]) -> Output {
        let prefix = self.prefix(machine, uid);
        let all: Vec<&str> = prefix
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
            .collect();
        command(&all)
    }

    /// As `run`; its output, and it must succeed.
    pub(crate) fn text(&self, machine: Machine, words: &[&str]) -> String {
        let output = self.run(machine, None, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{}`: {said}", words.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command on a machine; its output goes to a log file.
    pub(crate) fn start(&mut self, machine: Machine, name: &str, uid: Option<u32>, words: &[&str]) {
        let prefix = self.prefix(machine, uid);
        let all: Vec<&str> = prefix
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
            .collect();
        self.launch(name, &all);
    }

    pub(crate) fn launch(&mut self, name: &str, words: &[&str]) {
        let out = File::options()
            .create(true)
            .append(true)
            .open(self.log(name))
            .unwrap();
        let child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        self.running.push((name.to_owned(), child));
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path.join(format!("{name}.log"))
    }

    pub(crate) fn log_text(&self, name: &str) -> String {
        os::read_text(&self.log(name)).unwrap_or_default()
    }

    /// Ends a process at once, as a crash would.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.running.iter().position(|(n, _)| n == name).unwrap();
        let (_, mut child) = self.running.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks a process to end, and waits until it has.
    pub(crate) fn stop(&mut self, name: &str) {
        let at = self.running.iter().position(|(n, _)| n == name).unwrap();
        let (_, mut child) = self.running.remove(at);
        os::terminate(child.id()).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log_text(name));
    }

    /// curl on a machine.
    pub(crate) fn curl(&self, machine: Machine, uid: u32, url: &str) -> Answer {
        let caller = Caller {
            prefix: self.prefix(machine, Some(uid)),
            args: vec!["--max-time".into(), "10".into()],
        };
        caller.call(url).unwrap()
    }

    /// curl until the answer is as wanted.
    pub(crate) fn until(&self, what: &str, mut wanted: impl FnMut() -> bool) {
        if !os::wait_until(LONG, &mut wanted) {
            let mut told = String::new();
            for entry in std::fs::read_dir(&self.dir.path).unwrap().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "log") {
                    told.push_str(&format!(
                        "--- {}\n{}\n",
                        path.display(),
                        os::read_text(&path).unwrap()
                    ));
                }
            }
            for machine in [CLIENT, SERVER] {
                let table = self.run(machine, None, &["nft", "list", "ruleset"]);
                told.push_str(&String::from_utf8_lossy(&table.stdout));
                let file = self.dir.path.join(machine.0).join("decisions.jsonl");
                told.push_str(&os::read_text(&file).unwrap_or_default());
            }
            panic!("{what}: not within {LONG:?}\n{told}");
        }
    }

    /// Writes a machine's configuration.
    pub(crate) fn configure(&self, machine: Machine, node: &str) -> PathBuf {
        let dir = self.dir.path.join(machine.0);
        os::make_dir(&dir, 0o777).unwrap();
        let identity = if machine == CLIENT {
            os::write(&dir.join("join-tokens"), JOIN.as_bytes(), 0o644).unwrap();
            format!(
                "[authority]\nstateDir = \"state\"\nlisten = \"{}:15012\"\njoinTokens = \"file:join-tokens\"\n",
                CLIENT.v4()
            )
        } else {
            os::write(&dir.join("join-token"), TOKEN.as_bytes(), 0o644).unwrap();
            format!(
                "[identity]\naddress = \"https://{}:15012\"\nrootCa = \"../client/state/ca/root.pem\"\ntoken = \"file:join-token\"\n",
                CLIENT.v4()
            )
        };
        let text = format!(
            "[process]\nname = \"{}\"\ncores = 1\n\n[records]\npath = \"decisions.jsonl\"\n\n\
             [admin]\nlisten = \"127.0.0.1:15000\"\n\n{identity}\n{node}\n{}",
            machine.0,
            mesh()
        );
        let path = dir.join("ringgate.toml");
        os::write(&path, text.as_bytes(), 0o644).unwrap();
        path
    }

    /// `ringgate node WORDS` on a machine.
    pub(crate) fn node(&self, machine: Machine, words: &[&str]) -> Output {
        let config = self.config(machine);
        let all = [&[PROGRAM, "node"], words, &["--config", &config]].concat();
        self.run(machine, None, &all)
    }

    /// As `node`; it must succeed.
    pub(crate) fn node_does(&self, machine: Machine, words: &[&str]) {
        let output = self.node(machine, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
    }

    pub(crate) fn config(&self, machine: Machine) -> String {
        let path = self.dir.path.join(machine.0).join("ringgate.toml");
        path.to_string_lossy().into_owned()
    }

    /// Starts a machine's ringgate and waits until it serves.
    pub(crate) fn raise(&mut self, machine: Machine) {
        let config = self.config(machine);
        self.start(
            machine,
            machine.0,
            None,
            &[PROGRAM, "run", "--config", &config],
        );
        self.await_ready(machine);
    }

    pub(crate) fn await_ready(&self, machine: Machine) {
        let caller = Caller {
            prefix: self.prefix(machine, None),
            args: Vec::new(),
        };
        self.until("the node serves", || {
            let ready = caller.call("http://127.0.0.1:15000/readyz");
            ready.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Decision records of a machine.
    pub(crate) fn records(&self, machine: Machine) -> Records {
        Records(vec![self.dir.path.join(machine.0).join("decisions.jsonl")])
    }

    /// A control group (version 2) of this test, removed at its end.
    pub(crate) fn cgroup(&mut self, name: &str) -> PathBuf {
        let mounts = os::read_text(Path::new("/proc/self/mounts")).unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next()?;
            (words.next()? == "cgroup2").then_some(at)
        });
        let path = Path::new(root.expect("control groups version 2 are mounted")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        if !self.cgroups.contains(&path) {
            self.cgroups.push(path.clone());
        }
        path
    }

    /// curl within a control group.
    pub(crate) fn curl_in(&self, machine: Machine, group: &Path, url: &str) -> Answer {
        let mut prefix: Vec<String> = ["sh", "-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]
            .map(String::from)
            .into();
        prefix.push(group.to_string_lossy().into_owned());
        prefix.extend(self.prefix(machine, Some(STRANGER_UID)));
        let caller = Caller {
            prefix,
            args: vec!["--max-time".into(), "10".into()],
        };
        caller.call(url).unwrap()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            os::ignore(child.kill());
            os::ignore(child.wait());
        }
        // What the processes above have started ends with its machine: nothing else is in these namespaces.
        for machine in ALL {
            let output = Command::new("ip")
                .args(["netns", "pids", &self.name(machine)])
                .output();
            let pids = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            for pid in pids.unwrap_or_default().split_whitespace() {
                os::ignore(
                    Command::new("sh")
                        .args(["-c", "kill -KILL \"$0\"", pid])
                        .output(),
                );
            }
        }
        let names = ALL.iter().map(|machine| self.name(*machine));
        for name in names.chain([self.bridge()]) {
            os::ignore(Command::new("ip").args(["netns", "del", &name]).output());
        }
        for path in &self.cgroups {
            os::wait_until(Duration::from_secs(5), || {
                std::fs::remove_dir(path).is_ok() || !path.exists()
            });
            // A group above it that this test made is empty now.
            if let Some(above) = path
                .parent()
                .filter(|p| p.to_string_lossy().contains("rgtest"))
            {
                os::ignore(std::fs::remove_dir(above));
            }
        }
    }
}

const TOKEN: &str = "capture-test-token-0001";
const JOIN: &str = "capture-test-token-0001 spiffe://cluster.local/ns/default/sa/server\n";

fn mesh() -> String {
    let mut text = "[mesh]
trustDomain = \"cluster.local\"
rootNamespace = \"istio-system\"
outboundTrafficPolicy = \"ALLOW_ANY\"

[[peerAuthentication]]
name = \"default\"
namespace = \"istio-system\"
mtls.mode = \"STRICT\"

[[authorizationPolicy]]
name = \"server\"
namespace = \"default\"
action = \"ALLOW\"
selector.matchLabels = { app = \"server\" }
rules = [{ from = [{ source.principals = [\"cluster.local/ns/default/sa/client\"] }] }]
"
    .to_owned();
    for (name, account, app, address) in [
        ("client", "client", "client", CLIENT.v4()),
        ("second", "second", "second", "10.66.1.201".to_owned()),
        ("server", "server", "server", SERVER.v4()),
        ("server6", "server", "server", SERVER.v6()),
    ] {
        text.push_str(&format!(
            "
[[workloadEntry]]
name = \"{name}\"
namespace = \"default\"
serviceAccount = \"{account}\"
address = \"{address}\"
labels = {{ app = \"{app}\" }}
"
        ));
    }
    text
}

/// `[[node]]` of the client's machine. `owner` is the workload's `match`, `capture` lines of `[node.capture]`.
pub(crate) fn client_node(owner: &str, capture: &str, more: &str) -> String {
    format!(
        "[[node]]
name = \"client\"
inbound = [\"[::]:15006\"]
outbound = \"[::]:15001\"
hbone = \"[::]:15008\"
{more}
[node.capture]
{capture}

[[node.workload]]
name = \"default/client\"
match = {{ {owner} }}
"
    )
}

/// `[[node]]` of the server's machine.
pub(crate) fn server_node(capture: &str) -> String {
    format!(
        "[[node]]
name = \"server\"
inbound = [\"[::]:15006\"]
outbound = \"[::]:15001\"
hbone = \"[::]:15008\"

[node.capture]
{capture}

[[node.workload]]
name = \"default/server\"
match = {{ uid = {SERVER_UID} }}

[[node.workload]]
name = \"default/server6\"
"
    )
}
