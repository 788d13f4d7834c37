//! Protocols in which the server speaks first, on every way into a workload.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use ringgate::cli::os;

use crate::pair::{Edit, LONG, Pair, Side};

const GREETING: &[u8] = b"220 at your service\r\n";

/// Greets, reads a line, and says goodbye. How many connections came is told by the listener's own count.
fn greeter(listener: TcpListener) {
    os::thread("greeter", move || {
        for mut stream in listener.incoming().flatten() {
            os::ignore(os::thread("greeter", move || {
                os::ignore(stream.write_all(GREETING));
                let mut line = Vec::new();
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    line.push(byte[0]);
                    if byte[0] == b'\n' {
                        os::ignore(stream.write_all(&line));
                    }
                }
            }));
        }
    })
    .unwrap();
}

fn pair(mode: &str) -> Pair {
    Pair::on_loopback(
        crate::PROGRAM,
        Edit {
            mode,
            client_tables: "[[identityFiles]]\nworkload = \"shop/client\"\ndir = \"files\"\naudience = \"x\"\n",
            ..Edit::default()
        },
    )
}

/// Reads the greeting, and how long it took; then whether the client is heard.
fn greeted(stream: &mut TcpStream) -> Duration {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let begun = os::now();
    let mut heard = vec![0; GREETING.len()];
    stream.read_exact(&mut heard).unwrap();
    let took = begun.elapsed();
    assert_eq!(heard, GREETING);
    stream.write_all(b"quit\n").unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"quit\n");
    took
}

#[test]
fn the_server_speaks_first_on_every_way_in() {
    for mode in ["PERMISSIVE", "STRICT"] {
        let pair = pair(mode);
        greeter(TcpListener::bind(pair.app()).unwrap());
        let (code, mut stream) = pair.socks().unwrap();
        assert_eq!(code, 0);
        let took = greeted(&mut stream);
        os::say(&format!("{mode}: by HBONE after {took:?}"));
        by_mutual_tls(&pair);
        let mut plain = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
        if mode == "PERMISSIVE" {
            let took = greeted(&mut plain);
            os::say(&format!("{mode}: in plaintext after {took:?}"));
        } else {
            plain.set_read_timeout(Some(LONG)).unwrap();
            let refused = plain.read(&mut [0]).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

/// A client of the workload's identity makes the TLS connection itself.
fn by_mutual_tls(pair: &Pair) {
    let files = pair.home(Side::Client).join("files/istio");
    let there = os::wait_until(LONG, || files.join("cert-chain.pem").exists());
    let listed =
        std::fs::read_dir(&files).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>());
    assert!(there, "{listed:?}");
    let file = |name: &str| files.join(name).to_string_lossy().into_owned();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect"])
        .arg(format!("{}:15006", pair.ip(Side::Server)))
        .args(["-cert", &file("cert-chain.pem"), "-key", &file("key.pem")])
        .args(["-cert_chain", &file("cert-chain.pem")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = client.stdout.take().unwrap();
    let mut heard = vec![0; GREETING.len()];
    out.read_exact(&mut heard).unwrap();
    assert_eq!(heard, GREETING, "by mutual TLS");
    client.stdin.take().unwrap().write_all(b"quit\n").unwrap();
    let mut heard = [0; 5];
    out.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"quit\n");
    os::ignore(client.kill());
    os::ignore(client.wait());
}

/// A ClientHello that comes late is still known as one, though the server was dialled meanwhile.
#[test]
fn a_slow_client_of_tls_is_known() {
    let pair = pair("PERMISSIVE");
    let _silent = TcpListener::bind(pair.app()).unwrap();
    let mark = pair.records(Side::Server).mark();
    let mut slow = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
    // Not before the node has dialled: the app is there and silent.
    let records = pair.records(Side::Server);
    let dialled = os::wait_until(LONG, || {
        let live = pair.admin(Side::Server, "connections").unwrap_or_default();
        live.contains("shop/server")
    });
    assert!(dialled, "nobody is dialled");
    // The head of a handshake record and of a ClientHello of nothing.
    slow.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    let found = records.await_some(&mark, 1, |r| r["close"] == "handshake");
    assert_eq!(found.len(), 1, "{:?}", records.since(&mark));
}

/// Where plaintext would be denied a client has the time that STRICT gives it to show that it speaks TLS.
#[test]
fn a_slow_client_of_tls_is_not_denied_as_nobody() {
    let pair = Pair::on_loopback(
        crate::PROGRAM,
        Edit {
            mode: "PERMISSIVE",
            tables: crate::pair::ONLY_THE_CLIENT,
            ..Edit::default()
        },
    );
    let _silent = TcpListener::bind(pair.app()).unwrap();
    let records = pair.records(Side::Server);
    let mark = records.mark();
    let mut slow = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
    // Longer than whoever may come in plaintext has.
    std::thread::sleep(Duration::from_millis(200));
    slow.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    let found = records.await_some(&mark, 1, |r| r["close"] == "handshake");
    assert_eq!(found.len(), 1, "{:?}", records.since(&mark));
    // One that stays silent is denied.
    let mark = records.mark();
    let mut silent = TcpStream::connect((pair.ip(Side::Server), 15006)).unwrap();
    silent.set_read_timeout(Some(LONG)).unwrap();
    assert!(silent.read(&mut [0]).is_err());
    let found = records.await_some(&mark, 1, |r| r["close"] == "denied");
    assert_eq!(found.len(), 1, "{:?}", records.since(&mark));
}
