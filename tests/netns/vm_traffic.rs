//! Capture by `ringgate node setup`: unmodified clients and servers over both families, in both modes, and what is left
//! alone.

use ringgate::cli::os;
use ringgate::cli::target::{field, is_from};

use crate::machines::{
    CLIENT, CLIENT_UID, Machine, Machines, OTHER, SERVER, SERVER_UID, STRANGER_UID, client_node,
    done, server_node,
};

/// A server that speaks before its client does.
const BANNER: &str = "
import socket, sys
listener = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = listener.accept()
    connection.sendall(b'220 ready for ' + peer[0].encode() + b'\\r\\n')
    connection.recv(100)
    connection.close()
";
/// A client that waits for the server's first words.
const LISTEN: &str = "
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
print(connection.recv(100).decode().strip())
connection.sendall(b'QUIT\\r\\n')
";
/// Counts datagrams.
const DATAGRAMS: &str = "
import socket, sys
receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
receiver.bind(('::', int(sys.argv[1])))
while True:
    print('got', receiver.recvfrom(100)[0].decode(), flush=True)
";
const SEND: &str = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
";
const PYTHON: &str = "/usr/bin/python3";

struct Vm {
    machines: Machines,
}

impl Vm {
    fn new(mode: &str) -> Self {
        let machines = Machines::new();
        let mode = format!("mode = \"{mode}\"\n");
        let client = format!(
            "{mode}excludeOutboundPorts = [9000]\nexcludeOutboundIPRanges = [\"fd66::3\"]\nudpDestinations = [\"10.66.1.3:5353\"]\n"
        );
        machines.configure(
            CLIENT,
            &client_node(&format!("uid = {CLIENT_UID}"), &client, ""),
        );
        // What may leave to these opens nothing here.
        let server = format!(
            "{mode}excludeInboundPorts = [22, 9100]\nexcludeOutboundPorts = [8080]\nexcludeOutboundIPRanges = [\"fd66::2\"]\n"
        );
        machines.configure(SERVER, &server_node(&server));
        let mut vm = Self { machines };
        vm.serve();
        for machine in [CLIENT, SERVER] {
            vm.loads(machine);
            vm.machines.raise(machine);
        }
        vm
    }

    /// `setup` is done twice, and `status` tells the truth before, between and after.
    fn loads(&self, machine: Machine) {
        let machines = &self.machines;
        let before = machines.text(machine, &["nft", "list", "ruleset"]);
        machines.node_does(machine, &["setup", "--print"]);
        assert_eq!(
            machines.text(machine, &["nft", "list", "ruleset"]),
            before,
            "--print has loaded"
        );
        assert!(!machines.node(machine, &["status"]).status.success());
        for _ in 0..2 {
            machines.node_does(machine, &["setup"]);
            machines.node_does(machine, &["status"]);
        }
        for family in ["-4", "-6"] {
            let rules = machines.text(machine, &["ip", family, "rule", "show", "pref", "15001"]);
            assert_eq!(rules.lines().count(), 1, "{rules}");
        }
    }

    fn serve(&mut self) {
        let www = self.machines.dir.path.join("www");
        os::make_dir(&www, 0o755).unwrap();
        os::write(&www.join("who"), b"python", 0o644).unwrap();
        let www = www.to_string_lossy().into_owned();
        let web = |port| {
            [
                PYTHON,
                "-u",
                "-m",
                "http.server",
                port,
                "--bind",
                "::",
                "--directory",
                &www,
            ]
        };
        let (own, uid) = (&mut self.machines, Some(SERVER_UID));
        own.start(SERVER, "python", uid, &web("8080"));
        own.start(SERVER, "python-left", uid, &web("9100"));
        own.start(SERVER, "banner", uid, &[PYTHON, "-c", BANNER, "2525"]);
        own.start(OTHER, "outside-left", None, &web("9000"));
        own.start(OTHER, "outside", None, &web("9001"));
        own.start(OTHER, "datagrams", None, &[PYTHON, "-c", DATAGRAMS, "5000"]);
        own.start(
            OTHER,
            "datagrams-left",
            None,
            &[PYTHON, "-c", DATAGRAMS, "5353"],
        );
        self.nginx();
        self.postgres();
    }

    fn nginx(&mut self) {
        let dir = self.machines.dir.path.join("nginx");
        os::make_dir(&dir, 0o777).unwrap();
        let shown = dir.to_string_lossy().into_owned();
        let text = format!(
            "daemon off; master_process off; pid {shown}/pid; error_log stderr;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {shown}/a; proxy_temp_path {shown}/b; fastcgi_temp_path {shown}/c;
  uwsgi_temp_path {shown}/d; scgi_temp_path {shown}/e;
  server {{ listen [::]:8081 ipv6only=off; return 200 \"nginx for $remote_addr\"; }}
}}
"
        );
        let config = dir.join("nginx.conf");
        os::write(&config, text.as_bytes(), 0o644).unwrap();
        let config = config.to_string_lossy().into_owned();
        let words = ["nginx", "-e", "stderr", "-c", &config];
        self.machines
            .start(SERVER, "nginx", Some(SERVER_UID), &words);
    }

    fn postgres(&mut self) {
        let dir = self.machines.dir.path.join("postgres");
        os::make_dir(&dir, 0o755).unwrap();
        done(&["chown", &SERVER_UID.to_string(), &dir.to_string_lossy()]);
        let data = dir.join("data").to_string_lossy().into_owned();
        let bin = done(&["sh", "-c", "ls -d /usr/lib/postgresql/*/bin | tail -1"]);
        let bin = bin.trim();
        // initdb wants a user with a name; it becomes the server's by its number afterwards.
        let (uid, gid) = (SERVER_UID, SERVER_UID);
        let passwd = self.machines.dir.path.join("passwd");
        os::write(
            &passwd,
            format!("root:x:0:0::/:/bin/sh\napp:x:{uid}:{gid}::/:/bin/sh\n").as_bytes(),
            0o644,
        )
        .unwrap();
        let script = format!(
            "mount --bind '{}' /etc/passwd && exec setpriv --reuid={uid} --regid={gid} --clear-groups sh -c \"\
             '{bin}/initdb' -D '{data}' -A trust -U app --no-sync >/dev/null && \
             printf 'host all all all trust\\n' > '{data}/pg_hba.conf' && \
             exec '{bin}/postgres' -D '{data}' -c listen_addresses='*' -c unix_socket_directories= -c fsync=off\"",
            passwd.display()
        );
        let prefix = self.machines.prefix(SERVER, None);
        let mut words: Vec<&str> = prefix.iter().map(String::as_str).collect();
        words.extend(["unshare", "--mount", "sh", "-c", &script]);
        self.machines.launch("postgres", &words);
    }

    fn python(&self, machine: Machine, uid: u32, words: &[&str]) -> String {
        let output = self
            .machines
            .run(machine, Some(uid), &[&[PYTHON, "-c"], words].concat());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn url(host: &str, port: u16, path: &str) -> String {
    match host.contains(':') {
        true => format!("http://[{host}]:{port}/{path}"),
        false => format!("http://{host}:{port}/{path}"),
    }
}

/// Everything that speaks over the mesh, as it always does, and sees who calls.
fn speaks(vm: &Vm) {
    let machines = &vm.machines;
    for (server, client) in [(SERVER.v4(), CLIENT.v4()), (SERVER.v6(), CLIENT.v6())] {
        let (records, mark) = (machines.records(SERVER), machines.records(SERVER).mark());
        machines.until("curl reaches Python's server", || {
            machines
                .curl(CLIENT, CLIENT_UID, &url(&server, 8080, "who"))
                .body
                == "python"
        });
        let found = records.await_some(&mark, 1, |r| {
            is_from(r, "client") && field(r, "/verdict") == "allow"
        });
        assert!(
            !found.is_empty(),
            "no record at the server: {:?}",
            records.since(&mark)
        );
        assert!(
            machines.log_text("python").contains(&client),
            "{}",
            machines.log_text("python")
        );
        let want = format!("nginx for {client}");
        machines.until("curl reaches nginx", || {
            let answer = machines.curl(CLIENT, CLIENT_UID, &url(&server, 8081, ""));
            // nginx listens to both families at one socket and shows an IPv4 client mapped.
            answer.body.replace("::ffff:", "") == want
        });
        let said = vm.python(CLIENT, CLIENT_UID, &[LISTEN, &server, "2525"]);
        assert_eq!(
            said.replace("::ffff:", ""),
            format!("220 ready for {client}")
        );
        let psql = [
            "psql",
            "-h",
            &server,
            "-U",
            "app",
            "-At",
            "-c",
            "select host(inet_client_addr())",
            "postgres",
        ];
        machines.until("psql reaches PostgreSQL", || {
            let output = machines.run(CLIENT, Some(CLIENT_UID), &psql);
            String::from_utf8_lossy(&output.stdout).trim() == client
        });
    }
}

/// Who is not captured is refused where he goes; what is left alone goes as it is.
fn is_left_alone(vm: &Vm) {
    let machines = &vm.machines;
    for server in [SERVER.v4(), SERVER.v6()] {
        let stranger = machines.curl(CLIENT, STRANGER_UID, &url(&server, 8080, "who"));
        assert_eq!(stranger.exit, 56, "{}", stranger.seen());
        // The same from the server's own machine: nobody gets to an app past its node.
        for uid in [STRANGER_UID, SERVER_UID] {
            let neighbour = machines.curl(SERVER, uid, &url(&server, 8080, "who"));
            assert_eq!(neighbour.exit, 56, "{uid}: {}", neighbour.seen());
        }
        let left = machines.curl(OTHER, STRANGER_UID, &url(&server, 9100, "who"));
        assert_eq!(left.body, "python", "{}", left.seen());
    }
    let loopback = machines.curl(SERVER, STRANGER_UID, "http://127.0.0.1:8080/who");
    assert_eq!(loopback.body, "python", "{}", loopback.seen());
    let (records, mark) = (machines.records(CLIENT), machines.records(CLIENT).mark());
    for (address, port, captured) in [
        (OTHER.v4(), 9001, true),
        (OTHER.v4(), 9000, false),
        (OTHER.v6(), 9001, false),
    ] {
        let answer = machines.curl(CLIENT, CLIENT_UID, &url(&address, port, "who"));
        assert_eq!(answer.body, "python", "{address} {port}: {}", answer.seen());
        if captured {
            let found = records.await_some(&mark, 1, |r| field(r, "/kind") == "outbound");
            assert!(!found.is_empty(), "{:?}", records.since(&mark));
        }
    }
    let outbound = records.await_some(&mark, 3, |r| field(r, "/kind") == "outbound");
    let to_9001 = |r: &serde_json::Value| r.to_string().contains("10.66.1.3:9001");
    assert!(outbound.iter().all(to_9001), "{outbound:?}");
}

fn datagrams(vm: &Vm) {
    let machines = &vm.machines;
    for address in [OTHER.v4(), OTHER.v6()] {
        vm.python(CLIENT, CLIENT_UID, &[SEND, &address, "5000", "captured"]);
        vm.python(
            CLIENT,
            STRANGER_UID,
            &[SEND, &address, "5000", &format!("stranger-{address}")],
        );
        machines.until("another user's datagram arrives", || {
            machines
                .log_text("datagrams")
                .contains(&format!("stranger-{address}"))
        });
    }
    vm.python(CLIENT, CLIENT_UID, &[SEND, &OTHER.v4(), "5353", "resolver"]);
    machines.until("what may pass arrives", || {
        machines.log_text("datagrams-left").contains("got resolver")
    });
    assert!(
        !machines.log_text("datagrams").contains("captured"),
        "a datagram slipped past"
    );
}

/// Nothing is left on either machine.
fn tears_down(vm: &Vm) {
    for machine in [CLIENT, SERVER] {
        for _ in 0..2 {
            vm.machines.node_does(machine, &["teardown"]);
        }
        let text = |words: &[&str]| vm.machines.text(machine, words);
        assert_eq!(text(&["nft", "list", "ruleset"]), "");
        for family in ["-4", "-6"] {
            assert_eq!(text(&["ip", family, "rule", "show", "pref", "15001"]), "");
            let table = vm.machines.run(
                machine,
                None,
                &["ip", family, "route", "show", "table", "100"],
            );
            assert!(
                table.stdout.is_empty(),
                "{:?}",
                String::from_utf8_lossy(&table.stdout)
            );
        }
        assert!(!vm.machines.node(machine, &["status"]).status.success());
    }
}

/// Connections of the workload while no node runs there: refused, in both directions.
fn stays_closed(vm: &mut Vm) {
    vm.machines.kill("client");
    for server in [SERVER.v4(), SERVER.v6()] {
        let answer = vm
            .machines
            .curl(CLIENT, CLIENT_UID, &url(&server, 8080, "who"));
        assert_eq!(answer.exit, 7, "{}", answer.seen());
    }
    let outside = vm
        .machines
        .curl(CLIENT, CLIENT_UID, &url(&OTHER.v4(), 9001, "who"));
    assert_eq!(outside.exit, 7, "{}", outside.seen());
    let stranger = vm
        .machines
        .curl(CLIENT, STRANGER_UID, &url(&OTHER.v4(), 9001, "who"));
    assert_eq!(stranger.body, "python", "{}", stranger.seen());
    vm.machines.kill("server");
    for server in [SERVER.v4(), SERVER.v6()] {
        for (machine, uid) in [(OTHER, STRANGER_UID), (SERVER, STRANGER_UID), (SERVER, 0)] {
            let answer = vm.machines.curl(machine, uid, &url(&server, 8080, "who"));
            assert_eq!(answer.exit, 7, "{} {uid}: {}", machine.0, answer.seen());
        }
    }
    for machine in [CLIENT, SERVER] {
        vm.machines.raise(machine);
    }
    vm.machines.until("the mesh is back", || {
        vm.machines
            .curl(CLIENT, CLIENT_UID, &url(&SERVER.v4(), 8080, "who"))
            .body
            == "python"
    });
}

fn whole_story(mode: &str) {
    let mut vm = Vm::new(mode);
    speaks(&vm);
    is_left_alone(&vm);
    datagrams(&vm);
    for machine in [CLIENT, SERVER] {
        // The nodes have loaded the rules again, the same ones.
        vm.machines.node_does(machine, &["status"]);
    }
    stays_closed(&mut vm);
    tears_down(&vm);
    let direct = vm
        .machines
        .curl(OTHER, STRANGER_UID, &url(&SERVER.v4(), 8080, "who"));
    assert_eq!(direct.body, "python", "{}", direct.seen());
}

#[test]
fn unmodified_programs_speak_over_tproxy() {
    whole_story("TPROXY");
}

#[test]
fn unmodified_programs_speak_over_redirect() {
    whole_story("REDIRECT");
}
