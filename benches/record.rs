//! What TLS records cost: CPU time per GB of the own layer and of rustls's buffered connection, by turns in one run, and
//! the memory of an idle connection.
//!
//! `cargo bench --bench record` prints both tables; a word after `--` picks `cost` or `idle`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    unreachable_pub,
    reason = "a bench stops at what it did not expect, prints, reads the clock, and has a blocking peer"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringgate::io::rt::{self, Core, Want};
use ringgate::io::{listener, tls};
use ringgate::record::{Handshake, PAYLOAD_BYTES, Progress, Received};
use ringgate::vocab::addr::ListenAddr;
use rustls::Connection;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[path = "../tests/support/tls_pair.rs"]
mod pair;

use pair::{Configs, NAME, Ours, Random, Side, configs, shake};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUITES: [&str; 3] = [
    "TLS13_AES_128_GCM_SHA256",
    "TLS13_AES_256_GCM_SHA384",
    "TLS13_CHACHA20_POLY1305_SHA256",
];
/// Bytes of one round.
const BATCH: usize = 16 * PAYLOAD_BYTES;
/// Rounds of one measurement, and measurements of which the least counts.
const ROUNDS: usize = 2_000;
const TRIES: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let picked = |name: &str| {
        let words = args.iter().filter(|a| !a.starts_with("--"));
        let mut words = words.peekable();
        words.peek().is_none() || words.any(|word| word == name)
    };
    if picked("cost") {
        cost();
    }
    if picked("idle") {
        idle();
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let on_cpu = stat.split_whitespace().next().expect("a first number");
    Duration::from_nanos(on_cpu.parse().expect("nanoseconds"))
}

/// Seconds per GB, the least of `TRIES` for each, by turns.
fn measure<const N: usize>(mut works: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut least = [f64::MAX; N];
    for _ in 0..TRIES {
        for (work, least) in works.iter_mut().zip(&mut least) {
            let before = cpu();
            for _ in 0..ROUNDS {
                work();
            }
            let bytes = (BATCH * ROUNDS) as f64;
            *least = least.min((cpu() - before).as_secs_f64() / bytes * 1e9);
        }
    }
    least
}

/// Seals a batch in place, as a relay does: records end to end.
fn seal(ours: &mut Ours, block: &mut [u8]) {
    let (head, tail) = ours.records.room();
    let each = head + PAYLOAD_BYTES + tail;
    ours.records.pay(&mut Vec::new()).unwrap();
    for slot in 0..BATCH / PAYLOAD_BYTES {
        let start = slot * each + head;
        let record = ours.records.seal(block, start..start + PAYLOAD_BYTES);
        assert_eq!(record.unwrap().len(), each);
    }
}

/// Opens a batch in place.
fn open(ours: &mut Ours, mut wire: &mut [u8]) {
    let mut data = 0;
    while let Some(length) = ours.records.length(wire).unwrap() {
        let (record, rest) = wire.split_at_mut(length);
        wire = rest;
        if let Received::Data(at) = ours.records.open(record).unwrap() {
            data += at.len();
        }
    }
    assert_eq!(data, BATCH);
}

fn rustls_seal(peer: &mut Connection, plain: &[u8], wire: &mut Vec<u8>) {
    wire.clear();
    peer.writer().write_all(plain).unwrap();
    while peer.wants_write() {
        peer.write_tls(wire).unwrap();
    }
}

fn rustls_open(peer: &mut Connection, mut wire: &[u8], plain: &mut [u8]) {
    let mut data = 0;
    while !wire.is_empty() {
        peer.read_tls(&mut wire).unwrap();
        peer.process_new_packets().unwrap();
        while let Ok(n @ 1..) = peer.reader().read(plain) {
            data += n;
        }
    }
    assert_eq!(data, BATCH);
}

fn cost() {
    println!(
        "CPU seconds per GB, batches of {} KiB, one core",
        BATCH / 1024
    );
    println!("suite                            seal: own  rustls   open: own  rustls");
    for suite in SUITES {
        let configs = configs(suite, &TLS13, 0);
        let (mut ours, mut peer) = shake(Side::Server, &configs, &mut Random(1));
        peer.set_buffer_limit(None);
        let plain = vec![7; BATCH];
        let mut block = vec![7; BATCH + 64 * 1024];
        let (mut wire, mut taken) = (Vec::new(), vec![0; BATCH]);
        // Only one end works at a time; the other end's sequence numbers do not matter for what sealing costs.
        let mut rustls_wire = Vec::new();
        let [own_seal, rustls_seal_cost] =
            measure([&mut || seal(&mut ours, &mut block), &mut || {
                rustls_seal(&mut peer, &plain, &mut rustls_wire);
            }]);
        // Opening needs what the peer sealed in its order, so that is made beside the clock.
        let (mut ours, mut sender) = shake(Side::Server, &configs, &mut Random(2));
        let (mut own_sender, mut peer) = shake(Side::Client, &configs, &mut Random(3));
        sender.set_buffer_limit(None);
        let (mut own_open, mut rustls_open_cost) = (f64::MAX, f64::MAX);
        for _ in 0..TRIES {
            let (mut own, mut theirs) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..ROUNDS / 2 {
                rustls_seal(&mut sender, &plain, &mut wire);
                let before = cpu();
                open(&mut ours, &mut wire);
                own += cpu() - before;
                let wire = own_sender.send(&plain).unwrap();
                let before = cpu();
                rustls_open(&mut peer, &wire, &mut taken);
                theirs += cpu() - before;
            }
            let bytes = (BATCH * (ROUNDS / 2)) as f64;
            own_open = own_open.min(own.as_secs_f64() / bytes * 1e9);
            rustls_open_cost = rustls_open_cost.min(theirs.as_secs_f64() / bytes * 1e9);
        }
        println!(
            "{suite:32} {own_seal:9.3} {rustls_seal_cost:7.3} {own_open:11.3} {rustls_open_cost:7.3}"
        );
    }
}

/// Connections of the memory table.
const IDLE: usize = 2_000;

/// Resident memory of this process in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.expect("a number").parse().expect("KiB")
}

/// The client end of a connection, of which only the socket stays: what grows is the server's.
fn client(to: SocketAddr, configs: &Configs) -> (TcpStream, Ours) {
    let mut socket = TcpStream::connect(to).unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut handshake = Handshake::client(Arc::clone(&configs.client), name).unwrap();
    let mut buf = [0; 8192];
    while handshake.advance().unwrap() == Progress::More {
        socket.write_all(&handshake.take_output()).unwrap();
        let n = socket.read(&mut buf).unwrap();
        assert_ne!(n, 0, "the server closed");
        handshake.feed(&buf[..n]).unwrap();
    }
    socket.write_all(&handshake.take_output()).unwrap();
    let (records, early) = handshake.finish().unwrap();
    (socket, Ours::new(records, early))
}

fn idle() {
    println!("memory of an idle TLS 1.3 connection, server side, {IDLE} connections");
    let configs = configs(SUITES[1], &TLS13, 0);
    let server = Arc::clone(&configs.server);
    let addr = SocketAddr::from(([127, 83, 43, 1], 24_843));
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut core = Core::build(Want::Auto).unwrap();
        core.run(async move {
            let acceptor = listener::bind(ListenAddr(addr)).unwrap();
            ready.send(()).unwrap();
            loop {
                let tcp = acceptor.accept().await.unwrap();
                let server = Arc::clone(&server);
                rt::spawn(async move {
                    let accepted = tls::accept(tcp.into(), |_sni| Some(server)).await;
                    let (mut stream, _proof) = accepted.unwrap();
                    let mut buf = [0; 1];
                    while let Ok(1) = stream.read(&mut buf).await {
                        stream.write_all(&buf).await.unwrap();
                    }
                });
            }
        });
    });
    is_ready.recv().unwrap();
    let mut first: Vec<_> = (0..100).map(|_| client(addr, &configs)).collect();
    echo(&mut first[0]);
    let before = resident();
    let mut sockets = Vec::new();
    for _ in 0..IDLE {
        let (socket, ours) = client(addr, &configs);
        sockets.push(socket);
        drop(ours);
    }
    let mut last = client(addr, &configs);
    echo(&mut last);
    let each = (resident() - before) / IDLE as f64;
    println!(
        "base {:.1} MiB, {each:.2} KiB per connection",
        before / 1024.0
    );
}

/// One byte there and back: everything before it is done.
fn echo((socket, ours): &mut (TcpStream, Ours)) {
    socket.write_all(&ours.send(b"x").unwrap()).unwrap();
    let mut got = Vec::new();
    let mut buf = [0; 1024];
    while got.is_empty() {
        let n = socket.read(&mut buf).unwrap();
        assert_ne!(n, 0, "the server closed");
        got = ours.take(&buf[..n]).unwrap();
    }
    assert_eq!(got, b"x");
}
