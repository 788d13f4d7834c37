//! The authority as a process of its own, two nodes that join it, and what is revoked, rotated, killed and restarted.

#![expect(
    clippy::disallowed_types,
    clippy::unwrap_in_result,
    reason = "clients and apps of these tests block on purpose"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::curl::Caller;
use ringgate::cli::drill::Scratch;
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use serde_json::Value;

use crate::socks::socks;

/// Port of the app as peers name it.
const PORT: u16 = 7000;
const READY: Duration = Duration::from_secs(40);

/// A running `ringgate`; killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// As a crash would: nothing is said or saved.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn log(&self) -> String {
        os::read_text(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        os::ignore(self.child.kill());
        os::ignore(self.child.wait());
    }
}

/// Files and addresses of one authority and its nodes.
struct World {
    dir: Scratch,
    subnet: String,
}

impl World {
    fn new(lives: &str) -> Self {
        let world = Self {
            dir: Scratch::new(false).unwrap(),
            subnet: free_subnet().unwrap(),
        };
        let authority = format!(
            "{}[authority]\nstateDir = \"authority\"\nlisten = \"{}\"\n{lives}\n{}",
            world.head("authority", 9),
            world.at(9, 15012),
            world.mesh()
        );
        world.write("authority.toml", &authority);
        world.app();
        world
    }

    fn at(&self, host: u8, port: u16) -> String {
        format!("{}.{host}:{port}", self.subnet)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        os::write(&self.path(name), text.as_bytes(), 0o600).unwrap();
    }

    fn head(&self, name: &str, host: u8) -> String {
        format!(
            "[process]\nname = \"{name}\"\ncores = 1\n[records]\npath = \"{name}.jsonl\"\n[admin]\nlisten = \"{}\"\n",
            self.at(host, 15000)
        )
    }

    fn mesh(&self) -> String {
        ["client", "server"]
            .iter()
            .zip([1, 2])
            .map(|(name, host)| {
                format!(
                    "[[workloadEntry]]\nname = \"{name}\"\nnamespace = \"default\"\n\
                     serviceAccount = \"{name}\"\naddress = \"{}.{host}\"\n",
                    self.subnet
                )
            })
            .collect()
    }

    /// Writes the configuration of node `name` with the workload of that name, and has a token made for it.
    fn node(&self, name: &str, host: u8) {
        let workload = format!("default/{name}");
        let token = self.authority(&["token", "create", "--node", name, "--workload", &workload]);
        self.write(&format!("{name}.token"), &token);
        self.write("root.pem", &self.authority(&["roots"]));
        let config = self.node_config(name, host, &format!("{name}-state"));
        self.write(&format!("{name}.toml"), &config);
    }

    fn node_config(&self, name: &str, host: u8, state: &str) -> String {
        let identity = format!(
            "address = \"https://{}\"\nrootCa = \"root.pem\"\ntoken = \"file:{name}.token\"\n\
             node = \"{name}\"\nstateDir = \"{state}\"\n",
            self.at(9, 15012)
        );
        self.role_config(name, host, &identity)
    }

    fn role_config(&self, name: &str, host: u8, identity: &str) -> String {
        format!(
            "{}[identity]\n{identity}[[node]]\nname = \"{name}\"\n[[node.workload]]\n\
             name = \"default/{name}\"\nhbone = \"{}\"\nsocks = \"{}\"\napp = {{ \"{PORT}\" = \"{}\" }}\n{}",
            self.head(name, host),
            self.at(host, 15008),
            self.at(host, 15080),
            self.at(host, 17000),
            self.mesh()
        )
    }

    /// An app that sends back what it gets, behind the server's node.
    fn app(&self) {
        let listener = TcpListener::bind(self.at(2, 17000)).unwrap();
        os::thread("echo", move || {
            for stream in listener.incoming().flatten() {
                let echo = move || {
                    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                    os::ignore(std::io::copy(&mut from, &mut to));
                };
                drop(os::thread("echo", echo).unwrap());
            }
        })
        .unwrap();
    }

    fn start(&self, name: &str) -> Process {
        self.start_by(Command::new(crate::PROGRAM), name)
    }

    fn start_by(&self, mut program: Command, name: &str) -> Process {
        let log = self.path(&format!("{name}.log"));
        let child = program
            .args(["run", "--config"])
            .arg(self.path(&format!("{name}.toml")))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// `ringgate authority ...`: what it prints, or what it complains of.
    fn try_authority(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(crate::PROGRAM)
            .arg("authority")
            .arg("--config")
            .arg(self.path("authority.toml"))
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }

    fn authority(&self, args: &[&str]) -> String {
        self.try_authority(args).unwrap()
    }

    fn ready(&self, host: u8, process: &Process) {
        let url = format!("http://{}/readyz", self.at(host, 15000));
        let ready = || Caller::default().call(&url).unwrap().status == 200;
        assert!(os::wait_until(READY, ready), "{}", process.log());
    }

    /// Both nodes, joined and serving.
    fn nodes(&self) -> (Process, Process) {
        let (client, server) = (self.start("client"), self.start("server"));
        self.ready(1, &client);
        self.ready(2, &server);
        (client, server)
    }

    /// A connection of the client workload to the server workload.
    fn dial(&self) -> std::io::Result<TcpStream> {
        socks(&self.at(1, 15080), &format!("{}.2", self.subnet), PORT)
    }

    fn identities(&self, host: u8) -> Value {
        let url = format!("http://{}/identities", self.at(host, 15000));
        serde_json::from_str(&Caller::default().call(&url).unwrap().body).unwrap()
    }

    /// How many records of the process have this reason of their end.
    fn recorded(&self, name: &str, close: &str) -> usize {
        let text = os::read_text(&self.path(&format!("{name}.jsonl"))).unwrap_or_default();
        text.matches(&format!("\"close\":\"{close}\"")).count()
    }

    fn await_call(&self) {
        let works = || self.dial().is_ok_and(|mut s| echoes(&mut s));
        assert!(os::wait_until(READY, works), "no call passes");
    }
}

/// Whether a byte comes back.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok()
}

/// Whether the far end has closed or reset an open connection before the read limit.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn world(lives: &str) -> (World, Process) {
    let world = World::new(lives);
    // The first one is made before there is a process: the state directory is all that it needs.
    world.node("client", 1);
    let authority = world.start("authority");
    world.ready(9, &authority);
    world.node("server", 2);
    (world, authority)
}

#[test]
fn revoked_peers_are_cut_off_and_come_back() {
    let (world, _authority) = world("");
    let _nodes = world.nodes();
    let client = &world.identities(1)["identities"][0];
    let server = &world.identities(2)["identities"][0];
    assert_eq!(client["node"], "client");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // The caller at the server's node, the server at the caller's node, and either by each of its names.
    let targets = [
        ("--id", text(&client["id"]), "server"),
        ("--node", "client".to_owned(), "server"),
        ("--id", text(&server["id"]), "client"),
        ("--node", "server".to_owned(), "client"),
        ("--serial", text(&client["serial"]), "server"),
    ];
    for (flag, value, recorder) in targets {
        let mut open = world.dial().unwrap();
        assert!(echoes(&mut open), "{flag} {value}: the relay does not work");
        let before = world.recorded(recorder, "revoked");
        let told = os::now();
        world.authority(&["revoke", flag, &value, "--reason", "test"]);
        assert!(is_ended(&mut open), "{flag} {value}: the relay is open");
        println!(
            "revoke {flag}: ended {} ms after the command was given",
            told.elapsed().as_millis()
        );
        assert!(
            os::wait_until(READY, || world.recorded(recorder, "revoked") > before),
            "{flag} {value}: {recorder} does not record why"
        );
        let listed = world.authority(&["revocations"]);
        assert!(
            listed.contains(&value) && listed.contains("test"),
            "{listed}"
        );
        if flag == "--serial" {
            // That certificate alone is revoked, and the node asks for another at once.
            let renewed = || world.identities(1)["identities"][0]["serial"] != value;
            assert!(os::wait_until(READY, renewed), "no new certificate");
        } else {
            let refused = world.dial().map(|mut stream| echoes(&mut stream));
            assert!(
                !matches!(refused, Ok(true)),
                "{flag} {value}: a new call passes"
            );
        }
        world.authority(&["unrevoke", flag, &value]);
        world.await_call();
    }
    let error = world.try_authority(&["unrevoke", "--node", "client"]);
    assert!(error.unwrap_err().contains("is not revoked"));
}

#[test]
fn a_token_joins_once_and_a_restart_needs_none() {
    let (world, mut authority) = world("svidTtl = \"1h\"");
    let (mut client, _server) = world.nodes();
    world.await_call();
    // Somebody else with the same token, and another state.
    let thief = world.node_config("client", 3, "thief-state");
    world.write("thief.toml", &thief);
    let thief = world.start("thief");
    assert!(
        os::wait_until(READY, || thief.log().contains("join token is used up")),
        "{}",
        thief.log()
    );
    drop(thief);
    let listed = world.authority(&["token", "list"]);
    assert!(
        listed.contains("used")
            && !listed.contains("refused=0  spiffe://cluster.local/ns/default/sa/client"),
        "{listed}"
    );

    client.kill();
    std::fs::remove_file(world.path("client.token")).unwrap();
    let client = world.start("client");
    world.ready(1, &client);
    world.await_call();
    // Without the authority all goes on, and a node that starts anew keeps what it knows of it.
    authority.kill();
    let mut open = world.dial().unwrap();
    assert!(echoes(&mut open));
    let left = world.identities(1)["secondsLeft"].as_u64().unwrap();
    assert!((1..=3600).contains(&left), "{left}");
    let authority = world.start("authority");
    world.ready(9, &authority);
    let nodes = world.authority(&["node", "list"]);
    assert!(
        nodes.contains("client") && nodes.contains("server"),
        "{nodes}"
    );
}

#[test]
fn a_lost_ledger_stops_the_authority_until_the_operator_says_so() {
    let world = World::new("");
    let roots = world.authority(&["roots"]);
    // What nothing here names may be misspelt.
    let id = "spiffe://cluster.local/ns/default/sa/nobody";
    for unknown in [["--node", "vm-9"], ["--id", id]] {
        let why = world.try_authority(&[&["revoke"][..], &unknown].concat());
        let why = why.unwrap_err();
        assert!(why.contains("nothing is revoked"), "{why}");
    }
    assert_eq!(world.authority(&["revocations"]), "");
    let did = world.authority(&["revoke", "--node", "vm-9", "--reason", "stolen", "--force"]);
    assert!(did.contains("node vm-9 is revoked"), "{did}");
    let serial = world.authority(&["revoke", "--serial", "0a"]);
    assert!(serial.contains("--serial"), "{serial}");
    world.authority(&["unrevoke", "--serial", "0a"]);
    let there = world.try_authority(&["new-ledger"]).unwrap_err();
    assert!(there.contains("has a ledger, which stays"), "{there}");
    assert!(world.authority(&["revocations"]).contains("vm-9"));
    std::fs::remove_file(world.path("authority/ca/ledger.json")).unwrap();
    let lost = world.try_authority(&["status"]).unwrap_err();
    assert!(lost.contains("ledger.json` is missing"), "{lost}");
    let mut authority = world.start("authority");
    let ended = os::wait_until(READY, || authority.child.try_wait().unwrap().is_some());
    assert!(
        ended && authority.log().contains("new-ledger"),
        "{}",
        authority.log()
    );
    world.authority(&["new-ledger"]);
    assert_eq!(world.authority(&["roots"]), roots);
    let authority = world.start("authority");
    world.ready(9, &authority);
    assert_eq!(world.authority(&["revocations"]), "");
}

/// A node serves what it is given; one identity that is refused does not keep the others from being served.
#[test]
fn one_refused_identity_does_not_stop_a_node() {
    let (world, _authority) = world("");
    let config = os::read_text(&world.path("client.toml")).unwrap();
    let other = format!(
        "[[workloadEntry]]\nname = \"other\"\nnamespace = \"default\"\nserviceAccount = \"other\"\n\
         address = \"{0}.4\"\n[[node.workload]]\nname = \"default/other\"\nhbone = \"{0}.4:15008\"\n\
         socks = \"{0}.4:15080\"\n",
        world.subnet
    );
    world.write("client.toml", &format!("{config}{other}"));
    let (client, _server) = world.nodes();
    let log = client.log();
    assert!(
        log.contains("the rest starts without it") && log.contains("sa/other"),
        "{log}"
    );
    world.await_call();
    // What needs the missing one is refused, and it is taken as soon as it is there.
    let id = "spiffe://cluster.local/ns/default/sa/other";
    let count = || world.identities(1)["identities"].as_array().unwrap().len();
    assert_eq!(count(), 1);
    let own = "spiffe://cluster.local/ns/default/sa/client";
    world.authority(&["node", "grant", "client", "--id", id, "--id", own]);
    assert!(os::wait_until(READY, || count() == 2), "{}", client.log());
    // A restart with one of two revoked.
    world.authority(&["revoke", "--id", id, "--reason", "test"]);
    drop(client);
    let client = world.start("client");
    world.ready(1, &client);
    world.await_call();
    assert!(
        client.log().contains("the rest starts without it"),
        "{}",
        client.log()
    );
}

#[test]
fn nodes_join_through_an_authority_that_is_killed_again_and_again() {
    let (world, mut authority) = world("");
    let (client, server) = (world.start("client"), world.start("server"));
    for _ in 0..6 {
        authority.kill();
        authority = world.start("authority");
        // Each time it is killed at another point of its start and of the joining.
        let started = || world.try_authority(&["status"]).is_ok();
        assert!(os::wait_until(READY, started), "{}", authority.log());
    }
    world.ready(1, &client);
    world.ready(2, &server);
    world.await_call();
    assert_eq!(world.authority(&["node", "list"]).lines().count(), 2);
}

#[test]
fn traffic_goes_on_while_the_root_is_rotated() {
    let (world, _authority) = world("svidTtl = \"5s\"\nnodeTtl = \"5s\"");
    let _nodes = world.nodes();
    let mut open = world.dial().unwrap();
    let old = world.authority(&["roots"]);
    let error = world.try_authority(&["rotate-root", "--overlap", "4s"]);
    assert!(error.unwrap_err().contains("at least 5 s"));
    world.authority(&["rotate-root", "--overlap", "6s"]);
    let both = world.authority(&["roots"]);
    assert!(both.starts_with(&old) && both.len() > old.len());
    let mut calls = 0;
    let over = os::wait_until(READY, || {
        let mut fresh = world.dial().unwrap();
        assert!(echoes(&mut fresh), "call {calls} fails");
        assert!(echoes(&mut open), "the open relay ends after {calls} calls");
        calls += 1;
        !world.authority(&["roots"]).starts_with(&old)
    });
    assert!(over && calls > 20, "{calls} calls");
    let new = world.authority(&["roots"]);
    assert!(both.ends_with(&new) && new.len() < both.len());
    // Every certificate in use is below the new root now, and was not verified by any other.
    world.await_call();
    assert!(echoes(&mut open), "the open relay ends with the old root");
    let told = || {
        world
            .authority(&["status"])
            .contains("not told of the last change: \n")
    };
    assert!(
        os::wait_until(READY, told),
        "{}",
        world.authority(&["status"])
    );
}

#[test]
fn a_revocation_in_the_configuration_needs_no_authority() {
    let (world, mut authority) = world("");
    let (_client, server) = world.nodes();
    world.await_call();
    authority.kill();
    let mut open = world.dial().unwrap();
    assert!(echoes(&mut open));
    let config = os::read_text(&world.path("server.toml")).unwrap();
    let revocation = "[[revocation]]\nid = \"spiffe://cluster.local/ns/default/sa/client\"\n";
    world.write("server.toml", &format!("{config}{revocation}"));
    assert!(is_ended(&mut open), "the relay is open: {}", server.log());
    let recorded = || world.recorded("server", "revoked") > 0;
    assert!(os::wait_until(READY, recorded));
    let refused = world.dial().map(|mut stream| echoes(&mut stream));
    assert!(!matches!(refused, Ok(true)), "a new call passes");
    world.write("server.toml", &config);
    world.await_call();
}

#[test]
fn identities_from_files_follow_them() {
    let world = World::new("svidTtl = \"4s\"");
    let mut config = os::read_text(&world.path("authority.toml")).unwrap();
    for (name, host) in [("client", 1), ("server", 2)] {
        config.push_str(&format!(
            "[[identityFiles]]\nworkload = \"default/{name}\"\ndir = \"{name}-files\"\naudience = \"x\"\n"
        ));
        let identity = format!("files = [\"{name}-files/istio\"]\n");
        world.write(
            &format!("{name}.toml"),
            &world.role_config(name, host, &identity),
        );
    }
    world.write("authority.toml", &config);
    let mut authority = world.start("authority");
    world.ready(9, &authority);
    let written = || {
        ["client", "server"]
            .iter()
            .all(|n| world.path(&format!("{n}-files/istio/root-ca.crt")).exists())
    };
    assert!(os::wait_until(READY, written));
    let (client, _server) = world.nodes();
    let serial = || world.identities(1)["identities"][0]["serial"].clone();
    let first = serial();
    assert_eq!(world.identities(1)["identities"][0]["source"], "files");
    let mut calls = 0;
    let changed = os::wait_until(READY, || {
        assert!(
            echoes(&mut world.dial().unwrap()),
            "call {calls} fails: {}",
            client.log()
        );
        calls += 1;
        serial() != first
    });
    assert!(changed, "{}", client.log());
    // Nobody writes new ones: the last good one is used until it is over, and nothing after that.
    authority.kill();
    let over = || !world.dial().is_ok_and(|mut s| echoes(&mut s));
    assert!(os::wait_until(READY, over), "an SVID is used after its end");
    let none = || {
        world.identities(1)["identities"]
            .as_array()
            .is_some_and(Vec::is_empty)
    };
    assert!(os::wait_until(READY, none), "{}", client.log());
}

/// Root is who calls `ringgate authority`, the service has a user of its own: what the one writes the other reads.
#[test]
fn a_service_starts_after_root_has_changed_its_state() {
    const SERVICE: u32 = 31_078;
    let world = World::new("");
    for path in [world.path(""), world.path("authority.toml")] {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    // The first state of all, and then that of a service that does not run.
    for node in ["before", "between"] {
        let workload = ["--workload", "default/client"];
        world.authority(&[&["token", "create", "--node", node][..], &workload].concat());
        let mut program = Command::new(crate::PROGRAM);
        program.uid(SERVICE).gid(SERVICE);
        let mut service = world.start_by(program, "authority");
        world.ready(9, &service);
        assert!(world.authority(&["token", "list"]).contains(node));
        service.kill();
        world.authority(&["revoke", "--node", node]);
        if node == "before" {
            world.authority(&["rotate-root"]);
        }
    }
    let mut below = vec![world.path("authority")];
    let mut files = 0;
    while let Some(next) = below.pop() {
        let found = std::fs::symlink_metadata(&next).unwrap();
        assert_eq!(found.uid(), SERVICE, "{}", next.display());
        if found.is_dir() {
            below.extend(std::fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert!(files > 5, "{files}");
}
