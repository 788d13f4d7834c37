//! Two network namespaces joined by a veth pair: the client's machine and the server's.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The client's machine.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The server's machine.
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// The authority, on the server's machine.
pub(crate) const AUTHORITY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
/// A second workload on the server's machine.
pub(crate) const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 4));

/// User of the client's load: capture knows the workload by it.
pub(crate) const CLIENT_UID: u32 = 21_001;
/// User of the load of the second workload on the server's machine.
pub(crate) const NEIGHBOUR_UID: u32 = 21_004;
/// `SO_MARK` of the proxies' own connections.
pub(crate) const MARK: u32 = 1337;

/// As many open files as may be, for everything that runs there.
const FILES: &str = "ulimit -n \"$(ulimit -Hn)\"; exec \"$@\"";

/// One of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the load runs, unless it is same-node traffic.
    Client,
    /// Where the apps run.
    Server,
}

/// Both namespaces; deleted when dropped.
#[derive(Debug)]
pub(crate) struct Pair {
    client: String,
    server: String,
}

impl Pair {
    /// Makes the namespaces, named after this process and `label`.
    pub(crate) fn new(label: &str) -> Result<Self> {
        let name = |side| format!("rgl4-{}-{label}-{side}", std::process::id());
        let pair = Self {
            client: name('c'),
            server: name('s'),
        };
        ip(&["netns", "add", &pair.client])?;
        ip(&["netns", "add", &pair.server])?;
        ip(&[
            "link",
            "add",
            "eth0",
            "netns",
            &pair.client,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &pair.server,
        ])?;
        for (name, addresses) in [
            (&pair.client, &[CLIENT][..]),
            (&pair.server, &[SERVER, AUTHORITY, NEIGHBOUR]),
        ] {
            for address in addresses {
                let address = format!("{address}/24");
                ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
            }
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        for side in [Side::Client, Side::Server] {
            // Tens of thousands of short connections a second must not run out of ports.
            pair.set(side, "net/ipv4/ip_local_port_range", "20000 65535")?;
            pair.set(side, "net/ipv4/tcp_tw_reuse", "1")?;
        }
        Ok(pair)
    }

    fn name(&self, side: Side) -> &str {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    fn set(&self, side: Side, key: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/{key}");
        ip(&["netns", "exec", self.name(side), "sh", "-c", &script])
    }

    /// A command on one of the machines, as root or as another user. It ends with this process.
    pub(crate) fn command(&self, side: Side, uid: Option<u32>, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(side)]);
        command.args(["sh", "-c", FILES, "sh", "setpriv", "--pdeathsig=KILL"]);
        if let Some(uid) = uid {
            command.arg(format!("--reuid={uid}"));
            command.args([&format!("--regid={uid}"), "--clear-groups"]);
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Loads nftables rules on one of the machines.
    pub(crate) fn capture(&self, side: Side, rules: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", self.name(side), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start nft")?;
        let mut stdin = child.stdin.take().context("nft has no stdin")?;
        stdin.write_all(rules.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft: {said}");
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            if let Err(error) = ip(&["netns", "del", name]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Deletes the namespaces of benches that were killed.
pub(crate) fn sweep() -> Result<()> {
    let output = Command::new("ip").args(["netns", "list"]).output()?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some(name) = line.split_whitespace().next() else {
            continue;
        };
        let owner = name
            .strip_prefix("rgl4-")
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

/// Rules of the client's machine: `redirects` are statements of a chain at the output hook.
pub(crate) fn outbound(redirects: &str) -> String {
    format!(
        "table inet bench {{
  chain outbound {{
    type nat hook output priority -100; policy accept;
    meta mark {MARK} return
    {redirects}
  }}
}}
"
    )
}

/// Rules of the server's machine: with `capture` what comes in goes to the node, but for tunnels and the authority;
/// nothing reaches an app of `ports` in plaintext from another machine.
pub(crate) fn inbound(ports: &str, redirects: &str, capture: bool) -> String {
    let inbound = if capture {
        "iifname \"lo\" return
    tcp dport { 15008, 15012 } return
    meta l4proto tcp fib daddr type local redirect to :15006"
    } else {
        ""
    };
    format!(
        "{}table inet inbound {{
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    {inbound}
  }}
  chain guard {{
    type filter hook input priority 0; policy accept;
    iifname \"eth0\" tcp dport {{ {ports} }} reject with tcp reset
  }}
}}
",
        outbound(redirects)
    )
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip (Debian package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}
