//! Idle connections by the thousand: `RINGGATE_IDLE=15000 cargo test --test it idle:: -- --nocapture` is by the ten
//! thousand, as far as the limit of open files goes.

#![expect(
    clippy::disallowed_types,
    reason = "the clients of these tests block on purpose"
)]

use std::net::TcpStream;
use std::process::{Child, Command};

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
