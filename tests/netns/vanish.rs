//! A machine that vanishes without a word: what runs to it ends within the times of `[tcp]`, whether data was under way or
//! not, on either side; and what comes back is found again.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use ringgate::cli::os;

use crate::namespaces::{Machine, ip, isolated, run};
use crate::pair::{Edit, LONG, Pair, Side, echo, echoes};

const HERE: [u8; 4] = [10, 77, 9, 1];
const THERE: [u8; 4] = [10, 77, 9, 2];
/// Its other address is no workload's.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 9, 3)), 9000);

const TIMES: &str = "[tcp]\ntcpKeepalive = { time = \"1s\", interval = \"1s\", probes = 2 }\nuserTimeout = \"3s\"\n";

/// Lets nothing in from the other machine.
fn cut() {
    run("nft", &["add table inet cut"]);
    run(
        "nft",
        &["add chain inet cut in { type filter hook input priority 0; iifname != \"lo\" drop; }"],
    );
}

fn mend() {
    run("nft", &["delete table inet cut"]);
}

fn ends(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_vanished_machine_is_noticed_on_both_sides() {
    isolated(|| {
        let machine = Machine::joined();
        ip("addr add 10.77.9.1/24 dev here");
        machine.inside(|| {
            ip("addr add 10.77.9.2/24 dev there");
            ip("addr add 10.77.9.3/24 dev there");
        });
        let edit = Edit {
            tables: TIMES,
            client_node: "outboundTrafficPolicy = \"ALLOW_ANY\"",
            mode: "PERMISSIVE",
            ..Edit::default()
        };
        let addresses = (IpAddr::from(HERE), IpAddr::from(THERE));
        let mut pair = Pair::new(crate::PROGRAM, addresses, machine.enter(), edit);
        pair.raise(Side::Client);
        pair.raise(Side::Server);
        let (app, outside) = machine.inside(|| {
            let app = TcpListener::bind(pair.app()).unwrap();
            (app, TcpListener::bind(OUTSIDE).unwrap())
        });
        // Without a node at its end.
        echo(outside);
        let (code, mut idle) = pair.socks_to(OUTSIDE).unwrap();
        assert_eq!(code, 0);
        assert!(echoes(&mut idle));
        let (_, mut busy) = pair.socks_to(OUTSIDE).unwrap();
        assert!(echoes(&mut busy));
        // From here to the node there, and on to its app.
        let mut plain = TcpStream::connect((addresses.1, 15006)).unwrap();
        plain.write_all(b"hello").unwrap();
        let (mut upstream, _) = app.accept().unwrap();
        upstream.read_exact(&mut [0; 5]).unwrap();
        echo(app);
        let mut tunnel = pair.open();

        cut();
        machine.inside(cut);
        busy.write_all(b"nobody hears this").unwrap();
        assert!(ends(&mut busy), "data under way");
        assert!(ends(&mut idle), "idle");
        assert!(ends(&mut upstream), "the client of a workload there");
        assert!(ends(&mut tunnel), "a tunnel");
        mend();
        machine.inside(mend);
        let served = os::wait_until(LONG, || pair.serves());
        assert!(served, "{}", pair.log(Side::Client));
    });
}
