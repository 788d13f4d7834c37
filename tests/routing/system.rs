//! One process with a node, a waypoint and apps, in a subnet of its own on loopback.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::layout::free_octets;
use ringgate::cli::os;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "../support/socks.rs"]
mod wire;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
const CONFIG_FILE: &str = "ringgate.toml";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// What all configurations begin with; the table of the process goes on in them.
const HEAD: &str = r#"
[records]
path = "decisions.jsonl"

[authority]

[mesh]

[process]
cores = 1
"#;

/// A running process; its files end with it.
pub(crate) struct System {
    pub(crate) subnet: Subnet,
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for System {
    fn drop(&mut self) {
        os::ignore(self.child.kill());
        os::ignore(self.child.wait());
    }
}

/// 127.x.y.0/24.
#[derive(Clone, Copy)]
pub(crate) struct Subnet([u8; 2]);

impl Subnet {
    pub(crate) fn free() -> Self {
        Self(free_octets().unwrap())
    }

    pub(crate) fn ip(self, host: u8) -> IpAddr {
        let Self([x, y]) = self;
        [127, x, y, host].into()
    }

    pub(crate) fn at(self, host: u8, port: u16) -> SocketAddr {
        (self.ip(host), port).into()
    }
}

impl System {
    /// Starts a process with a configuration in which `@N` stands for host N of the subnet.
    pub(crate) async fn start(subnet: Subnet, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        write(subnet, &path, config);
        let child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let this = Self { subnet, dir, child };
        let socks = subnet.at(1, 15080);
        wait_for(async || TcpStream::connect(socks).await.ok()).await;
        this
    }

    /// Changes the configuration, which the process reloads.
    pub(crate) fn reload(&self, config: &str) {
        write(self.subnet, &self.dir.path().join(CONFIG_FILE), config);
    }

    /// Asks the SOCKS5 listener of host 1 for a name or an address: its reply code, and the stream.
    pub(crate) async fn socks(&self, host: &str, port: u16) -> (u8, TcpStream) {
        self.socks_at(1, host, port).await
    }

    /// As `socks`, at another host's listener.
    pub(crate) async fn socks_at(&self, at: u8, host: &str, port: u16) -> (u8, TcpStream) {
        let mut stream = TcpStream::connect(self.subnet.at(at, 15080)).await.unwrap();
        stream.write_all(&wire::GREETING).await.unwrap();
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting, [5, 0]);
        let request = wire::connect(host, port);
        stream.write_all(&request).await.unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.unwrap();
        (reply[1], stream)
    }

    /// Status and body of a GET through SOCKS5; the reply code where there is no connection.
    pub(crate) async fn get(&self, host: &str, port: u16, path: &str) -> Result<(u16, String), u8> {
        match self.socks(host, port).await {
            (0, stream) => Ok(get(stream, host, path).await),
            (refused, _) => Err(refused),
        }
    }

    /// The last record that fits.
    pub(crate) async fn record(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let path = self.dir.path().join("decisions.jsonl");
        wait_for(async || {
            let text = os::read_text(&path).unwrap_or_default();
            let mut records = text.lines().filter_map(|l| serde_json::from_str(l).ok());
            records.rfind(|r: &Value| fits(r))
        })
        .await
    }
}

fn write(subnet: Subnet, path: &Path, config: &str) {
    let mut text = [HEAD, config].concat();
    // The longest first: `@12` is not `@1` and a 2.
    for host in (0..=255_u8).rev() {
        text = text.replace(&format!("@{host}"), &subnet.ip(host).to_string());
    }
    os::write(path, text.as_bytes(), 0o644).unwrap();
}

/// A GET on an open stream.
pub(crate) async fn get(mut stream: TcpStream, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The head of a message, up to its empty line; `None` if it does not come whole.
pub(crate) async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// An app that answers every request with its name.
pub(crate) async fn app(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if head(&mut stream).await.is_none() {
                    return;
                }
                let len = name.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{name}"
                );
                os::ignore(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
}

/// Tries until there is something.
pub(crate) async fn wait_for<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let all = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("in time")
}
