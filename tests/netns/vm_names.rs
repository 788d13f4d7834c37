//! Names of the mesh: whichever nameserver a captured process asks, the node answers; others ask whom they ask.

use crate::machines::{CLIENT, CLIENT_UID, Machines, SERVER_UID, STRANGER_UID, client_node};

/// Asks for the IPv4 address of a name, by UDP or TCP, and prints it.
const ASK: &str = "
import socket, struct, sys
way, server, name = sys.argv[1:4]
server, port = server.split(':') if server.count(':') == 1 else (server, 53)
labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\\0'
question = struct.pack('!HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + struct.pack('!HH', 1, 1)
family = socket.AF_INET6 if ':' in server else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if way == 'tcp' else socket.SOCK_DGRAM)
s.settimeout(3)
s.connect((server, int(port)))
s.sendall(question if way == 'udp' else struct.pack('!H', len(question)) + question)
whole = s.makefile('rb')
answer = s.recv(4096) if way == 'udp' else whole.read(struct.unpack('!H', whole.read(2))[0])
print(socket.inet_ntoa(answer[-4:]))
";

const SERVICE: &str = "
[[serviceEntry]]
name = \"shop\"
namespace = \"default\"
hosts = [\"shop.mesh.test\"]
addresses = [\"10.99.0.7\"]
ports = [{ number = 80, name = \"http\", protocol = \"TCP\", targetPort = 8080 }]
location = \"MESH_INTERNAL\"
resolution = \"STATIC\"
workloadSelector.labels = { app = \"server\" }
";

/// A second workload on the machine, of another namespace, and a short name that means another service in each.
const TWO_NAMESPACES: &str = "
[[node.workload]]
name = \"other/batch\"
match = { uid = 31002 }

[[workloadEntry]]
name = \"batch\"
namespace = \"other\"
serviceAccount = \"batch\"
address = \"10.66.1.202\"
labels = { app = \"batch\" }

[[serviceEntry]]
name = \"api\"
namespace = \"default\"
hosts = [\"api.default.svc.cluster.local\"]
addresses = [\"10.99.0.8\"]
ports = [{ number = 80, name = \"http\", protocol = \"TCP\" }]
location = \"MESH_INTERNAL\"
resolution = \"STATIC\"
workloadSelector.labels = { app = \"server\" }

[[serviceEntry]]
name = \"api\"
namespace = \"other\"
hosts = [\"api.other.svc.cluster.local\"]
addresses = [\"10.99.0.9\"]
ports = [{ number = 80, name = \"http\", protocol = \"TCP\" }]
location = \"MESH_INTERNAL\"
resolution = \"STATIC\"
workloadSelector.labels = { app = \"batch\" }
";

/// The client's machine with its node in `mode` and `more` of configuration.
fn raised(mode: &str, more: &str) -> Machines {
    let mut machines = Machines::new();
    let owner = format!("uid = {CLIENT_UID}");
    let node = client_node(
        &owner,
        &format!("mode = \"{mode}\"\n"),
        "dns = \"[::]:15053\"\n",
    );
    machines.configure(CLIENT, &(node + more));
    machines.node_does(CLIENT, &["setup"]);
    machines.raise(CLIENT);
    machines.node_does(CLIENT, &["status"]);
    machines
}

fn ask(machines: &Machines, uid: u32, way: &str, server: &str, name: &str) -> String {
    let words = ["/usr/bin/python3", "-c", ASK, way, server, name];
    let output = machines.run(CLIENT, Some(uid), &words);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn asks(mode: &str) {
    let machines = raised(mode, SERVICE);
    let ask = |uid, way: &str, server: &str| ask(&machines, uid, way, server, "shop.mesh.test");
    for way in ["udp", "tcp"] {
        for server in ["10.66.1.3", "fd66::3", "127.0.0.53"] {
            machines.until(&format!("{server} by {way} is the node"), || {
                ask(CLIENT_UID, way, server) == "10.99.0.7"
            });
            assert_eq!(ask(STRANGER_UID, way, server), "", "{server} by {way}");
        }
    }
}

#[test]
fn names_of_the_mesh_are_answered_by_the_node() {
    asks("TPROXY");
    asks("REDIRECT");
}

#[test]
fn a_short_name_means_what_the_workload_that_asks_means() {
    let machines = raised("TPROXY", TWO_NAMESPACES);
    for way in ["udp", "tcp"] {
        for server in ["10.66.1.3", "fd66::3", "127.0.0.53"] {
            for (uid, address) in [(CLIENT_UID, "10.99.0.8"), (SERVER_UID, "10.99.0.9")] {
                machines.until(&format!("user {uid} asks {server} by {way}"), || {
                    ask(&machines, uid, way, server, "api") == address
                });
            }
        }
        // Past the capture: a stranger who asks the node itself is of no namespace.
        let whole = "api.other.svc.cluster.local";
        assert_eq!(own(&machines, STRANGER_UID, way, whole), "10.99.0.9");
        assert_ne!(own(&machines, STRANGER_UID, way, "api"), "10.99.0.9");
        assert_eq!(own(&machines, SERVER_UID, way, "api"), "10.99.0.9");
    }
}

/// Asks the node's own port, at another address than the one that the kernel would answer from.
fn own(machines: &Machines, uid: u32, way: &str, name: &str) -> String {
    ask(machines, uid, way, "127.0.0.9:15053", name)
}
