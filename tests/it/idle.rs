//! Idle connections by the thousand: `RINGGATE_IDLE=15000 cargo test --test it idle:: -- --nocapture` is by the ten
//! thousand, as far as the limit of open files goes.

#![expect(
    clippy::disallowed_types,
    reason = "the clients of these tests block on purpose"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use ringgate::cli::os;

use crate::pair::{APP, Edit, LONG, Pair, Side, echoes};

/// How many where nothing else is said: the test takes seconds.
const COUNT: usize = 2000;
/// A connection may take this much of a node; a debug build measures about a third of it.
const MOST_BYTES: usize = 48 * 1024;

/// The app is a process of its own: it has its own limit of open files.
const ECHO: &str = "
import asyncio, resource, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
async def echo(reader, writer):
    while data := await reader.read(64):
        writer.write(data)
async def main():
    server = await asyncio.start_server(echo, sys.argv[1], int(sys.argv[2]), backlog=4096)
    await server.serve_forever()
asyncio.run(main())
";

struct App(Child);

impl Drop for App {
    fn drop(&mut self) {
        os::ignore(self.0.kill());
        os::ignore(self.0.wait());
    }
}

/// Memory of a process that is resident, in bytes.
fn resident(pid: u32) -> usize {
    let status = os::read_text(format!("/proc/{pid}/status").as_ref()).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    1024 * kib.parse::<usize>().unwrap()
}

#[test]
fn idle_tunnels_cost_little_and_all_answer() {
    let asked = std::env::var_os("RINGGATE_IDLE");
    let count = asked.map_or(COUNT, |n| n.to_str().unwrap().parse().unwrap());
    let most = ringgate::io::listener::raise_open_files().unwrap();
    assert!(
        u64::try_from(count).unwrap() + 500 < most,
        "the limit of open files is {most}"
    );
    let mut pair = Pair::on_loopback(crate::PROGRAM, Edit::default());
    let app = Command::new("python3")
        .args([
            "-c",
            ECHO,
            &pair.ip(Side::Server).to_string(),
            &APP.to_string(),
        ])
        .spawn();
    let _app = App(app.unwrap());
    assert!(
        os::wait_until(LONG, || pair.serves()),
        "{}",
        pair.log(Side::Server)
    );
    let pids = [pair.pid(Side::Client), pair.pid(Side::Server)];
    let before = pids.map(resident);
    let mut streams: Vec<TcpStream> = (0..count).map(|_| pair.open()).collect();
    let open = pair.metric(Side::Client, "ringgate_connections ");
    assert!(
        open + 0.5 > f64::from(u32::try_from(count).unwrap()),
        "{open}"
    );
    let after = pids.map(resident);
    for (side, (before, after)) in ["client", "server"]
        .iter()
        .zip(before.into_iter().zip(after))
    {
        let each = after.saturating_sub(before) / count;
        os::say(&format!(
            "{count} idle tunnels, {side}'s node: {each} bytes each, {after} in all"
        ));
        assert!(each < MOST_BYTES, "{each} bytes each");
    }
    let answer = streams.iter_mut().map(echoes).filter(|echoes| *echoes);
    assert_eq!(answer.count(), count, "all answer");
}

/// A client of one pair, in a process of its own for the same reason: opens tunnels by SOCKS5, says when they are there, and
/// asks each of them once more when told to.
const CLIENT: &str = "
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def whole(sock, n):
    got = b''
    while len(got) < n:
        more = sock.recv(n - len(got))
        if not more:
            raise EOFError(got)
        got += more
    return got
def ask(sock):
    sock.sendall(b'there?')
    return whole(sock, 6) == b'there?'
def one():
    sock = socket.create_connection((sys.argv[1], 15080))
    sock.sendall(b'\\5\\1\\0')
    whole(sock, 2)
    sock.sendall(b'\\5\\1\\0\\1' + socket.inet_aton(sys.argv[2]) + int(sys.argv[3]).to_bytes(2, 'big'))
    assert whole(sock, 10)[1] == 0
    assert ask(sock)
    return sock
held = [one() for _ in range(int(sys.argv[4]))]
print(len(held), flush=True)
sys.stdin.readline()
print(sum(map(ask, held)), flush=True)
";

/// Several pairs of nodes hold their tunnels at the same time. `RINGGATE_IDLE_PAIRS=4 RINGGATE_IDLE=12000` is as many as the
/// limit of open files, which is a process's, lets each of them have.
#[test]
fn pairs_hold_their_tunnels_beside_each_other() {
    let number = |name: &str, otherwise: usize| {
        let asked = std::env::var_os(name);
        asked.map_or(otherwise, |n| n.to_str().unwrap().parse().unwrap())
    };
    let (pairs, count) = (
        number("RINGGATE_IDLE_PAIRS", 2),
        number("RINGGATE_IDLE", 500),
    );
    let program = |script: &str, words: &[String]| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).args(words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut all: Vec<(Pair, App)> = (0..pairs)
        .map(|_| {
            let pair = Pair::on_loopback(crate::PROGRAM, Edit::default());
            let server = [pair.ip(Side::Server).to_string(), APP.to_string()];
            let app = App(program(ECHO, &server));
            assert!(
                os::wait_until(LONG, || pair.serves()),
                "{}",
                pair.log(Side::Server)
            );
            (pair, app)
        })
        .collect();
    let pids = |all: &mut [(Pair, App)]| -> Vec<u32> {
        let sides = |(pair, _): &mut (Pair, App)| [pair.pid(Side::Client), pair.pid(Side::Server)];
        all.iter_mut().flat_map(sides).collect()
    };
    let sum = |pids: &[u32]| pids.iter().map(|pid| resident(*pid)).sum::<usize>();
    let pids = pids(&mut all);
    let before = sum(&pids);
    let mut clients: Vec<(App, BufReader<ChildStdout>)> = all
        .iter()
        .map(|(pair, _)| {
            let words = [
                pair.ip(Side::Client).to_string(),
                pair.ip(Side::Server).to_string(),
                APP.to_string(),
                count.to_string(),
            ];
            let mut child = program(CLIENT, &words);
            let lines = BufReader::new(child.stdout.take().unwrap());
            (App(child), lines)
        })
        .collect();
    // All of them say so.
    let said = |clients: &mut [(App, BufReader<ChildStdout>)], what: &str| {
        for (_, lines) in clients {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), count.to_string(), "{what}");
        }
    };
    said(&mut clients, "are open");
    let after = sum(&pids);
    let each = after.saturating_sub(before) / (pairs * count * 2);
    os::say(&format!(
        "{pairs} pairs with {count} idle tunnels each: {each} bytes for each tunnel and node, {after} in all"
    ));
    assert!(each < MOST_BYTES, "{each} bytes each");
    for (client, _) in &mut clients {
        client.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
    said(&mut clients, "answer");
}
