//! Namespaces, links, names and capture rules of the laboratory.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{SUBNET, VIRTUAL};
use crate::cli::layout::host;
use crate::cli::os;

/// `SO_MARK` of a node's own connections to apps: capture lets them pass.
pub const MARK: u32 = 1337;

/// A workload of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Workload entry in namespace `default`.
    pub name: &'static str,
    /// Application.
    pub app: &'static str,
    /// Last octet of its address.
    pub host: u8,
    /// Port of its outbound capture listener.
    pub capture_port: u16,
    /// User of its application.
    pub app_uid: u32,
}

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// Name, and name of its directory.
    pub name: &'static str,
    /// Name in the namespace's and links' names.
    pub short: &'static str,
    /// Last octets of its addresses.
    pub hosts: &'static [u8],
    /// Workloads.
    pub workloads: &'static [Workload],
    /// Whether a `ringgate` process runs there.
    pub mesh: bool,
}

const fn workload(name: &'static str, app: &'static str, host: u8, capture_port: u16) -> Workload {
    Workload {
        name,
        app,
        host,
        capture_port,
        app_uid: 21_000 + host as u32,
    }
}

const fn vm(
    name: &'static str,
    short: &'static str,
    hosts: &'static [u8],
    workloads: &'static [Workload],
    mesh: bool,
) -> Vm {
    Vm {
        name,
        short,
        hosts,
        workloads,
        mesh,
    }
}

/// User of plain clients beside the workload with this last octet.
#[must_use]
pub fn client_uid(host: u8) -> u32 {
    22_000 + u32::from(host)
}

/// All machines.
pub const VMS: [Vm; 8] = [
    vm("authority", "au", &[host::CONTROL], &[], true),
    vm(
        "frontend",
        "fe",
        &[host::FRONTEND],
        &[workload(
            "frontend-service",
            "frontend-service",
            host::FRONTEND,
            15001,
        )],
        true,
    ),
    vm(
        "reviews",
        "rv",
        &[host::REVIEWS],
        &[workload(
            "reviews-service",
            "reviews-service",
            host::REVIEWS,
            15001,
        )],
        true,
    ),
    vm(
        "customer-api",
        "cu",
        &[host::CUSTOMER_API, host::REVIEWS_2],
        &[
            workload("customer-api", "customer-api", host::CUSTOMER_API, 15001),
            workload(
                "reviews-service-2",
                "reviews-service",
                host::REVIEWS_2,
                15101,
            ),
        ],
        true,
    ),
    vm("waypoint", "gw", &[host::WAYPOINT], &[], true),
    vm("ingress", "ed", &[host::INGRESS], &[], true),
    vm("egress", "eg", &[host::EGRESS], &[], true),
    vm("outside", "ou", &[host::PARTNER, host::IDP], &[], false),
];

impl Vm {
    /// The machine of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> anyhow::Result<&'static Self> {
        VMS.iter()
            .find(|vm| vm.name == name)
            .with_context(|| format!("no machine `{name}`"))
    }
}

/// Fails with what to do where something that the laboratory needs is missing.
pub fn check_tools() -> anyhow::Result<()> {
    let uid = output(&["id", "-u"])?;
    anyhow::ensure!(uid.trim() == "0", "the netns laboratory needs root");
    for (tool, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("setpriv", "util-linux"),
        ("curl", "curl"),
        ("/usr/bin/python3", "python3"),
    ] {
        let found = Command::new(tool)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        anyhow::ensure!(
            found.is_ok(),
            "`{tool}` is not installed (Debian package `{package}`)"
        );
    }
    Ok(())
}

/// The namespaces of one run; deleted when dropped.
#[derive(Debug)]
pub struct Net {
    run: String,
}

impl Net {
    /// Makes the namespaces, the bridge, the links and the hosts files.
    ///
    /// # Errors
    /// If the kernel or `ip` refuses; what was made is taken down again.
    pub fn set_up() -> anyhow::Result<Self> {
        let net = Self {
            run: format!("rg{}", os::hex(&os::random::<3>()?)),
        };
        let bridge = net.bridge();
        ip(&["netns", "add", &bridge])?;
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for vm in &VMS {
            net.add(vm)?;
        }
        Ok(net)
    }

    fn add(&self, vm: &Vm) -> anyhow::Result<()> {
        let (name, bridge) = (self.name(vm), self.bridge());
        ip(&["netns", "add", &name])?;
        let hosts = Self::hosts_file(&name);
        os::make_dir(
            hosts.parent().unwrap_or_else(|| Path::new("/etc/netns")),
            0o755,
        )?;
        os::write(&hosts, hosts_text().as_bytes(), 0o644)?;
        ip(&[
            "link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name", vm.short,
            "netns", &bridge,
        ])?;
        ip(&[
            "-n", &bridge, "link", "set", vm.short, "master", "br0", "up",
        ])?;
        for host in vm.hosts {
            ip(&[
                "-n",
                &name,
                "addr",
                "add",
                &format!("{SUBNET}.{host}/24"),
                "dev",
                "eth0",
            ])?;
        }
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        // A service address must have a route for a connection to come as far as the capture rule.
        ip(&[
            "-n",
            &name,
            "route",
            "add",
            &format!("{VIRTUAL}.0/24"),
            "dev",
            "eth0",
        ])
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.run)
    }

    /// Name of a machine's namespace.
    #[must_use]
    pub fn name(&self, vm: &Vm) -> String {
        format!("{}-{}", self.run, vm.short)
    }

    fn hosts_file(name: &str) -> PathBuf {
        Path::new("/etc/netns").join(name).join("hosts")
    }

    /// Command that runs another on a machine, as root or as an unprivileged user; `bound` ends it with its parent.
    #[must_use]
    pub fn prefix(&self, vm: &Vm, uid: Option<u32>, bound: bool) -> Vec<String> {
        let mut words: Vec<String> = ["ip", "netns", "exec"].map(String::from).into();
        words.push(self.name(vm));
        if uid.is_some() || bound {
            words.push("setpriv".into());
        }
        if let Some(uid) = uid {
            let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            words.extend([user, group, "--clear-groups".into()]);
        }
        if bound {
            words.push("--pdeathsig=KILL".into());
        }
        words
    }

    /// Loads a machine's capture rules.
    ///
    /// # Errors
    /// If `nft` refuses them.
    pub fn capture(&self, vm: &Vm) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name(vm), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("`nft` cannot be started")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(rules(vm).as_bytes())
                .context("`nft` does not read its rules")?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "nft on {}: {said}", vm.name);
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let names = VMS.iter().map(|vm| self.name(vm)).chain([self.bridge()]);
        for name in names {
            os::ignore(ip(&["netns", "del", &name]));
            if let Some(dir) = Self::hosts_file(&name).parent() {
                os::ignore(std::fs::remove_dir_all(dir));
            }
        }
        // Only if no other namespace has files there.
        os::ignore(std::fs::remove_dir("/etc/netns"));
    }
}

fn hosts_text() -> String {
    format!(
        "127.0.0.1 localhost
{VIRTUAL}.{} frontend-service
{VIRTUAL}.{} reviews-service
{VIRTUAL}.{} customer-api
{VIRTUAL}.{} partner.example.test
{VIRTUAL}.99 other.example.test
",
        host::FRONTEND,
        host::REVIEWS,
        host::CUSTOMER_API,
        host::PARTNER,
    )
}

/// Capture rules of a machine with a node, as one atomic replacement of the node's own table.
///
/// Outbound: connections of the workloads' users go to the workload's capture listener, those to a workload of
/// the same machine as well. Inbound: everything but HBONE goes to the node. Guard: nobody on the machine but
/// the node reaches an app past it, and what is not TCP does not leave as a workload.
#[must_use]
pub fn rules(vm: &Vm) -> String {
    let mut outbound = String::new();
    let mut all = Vec::new();
    for workload in vm.workloads {
        let users = format!("{}, {}", workload.app_uid, client_uid(workload.host));
        let port = workload.capture_port;
        outbound.push_str(&format!(
            "    meta l4proto tcp meta skuid {{ {users} }} counter redirect to :{port}\n"
        ));
        all.push(users);
    }
    let all = all.join(", ");
    format!(
        "table inet ringgate
delete table inet ringgate
table inet ringgate {{
  chain outbound {{
    type nat hook output priority -100; policy accept;
    meta mark {MARK} return
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
{outbound}  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    iifname \"lo\" return
    tcp dport 15008 return
    meta l4proto tcp fib daddr type local counter redirect to :15006
  }}
  chain guard {{
    type filter hook output priority 0; policy accept;
    meta mark {MARK} accept
    oifname \"lo\" tcp dport 8080 ct state new counter reject with tcp reset
    meta skuid {{ {all} }} oifname != \"lo\" meta l4proto != tcp counter reject
  }}
}}
"
    )
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let words: Vec<&str> = ["ip"].iter().chain(args).copied().collect();
    output(&words).map(drop)
}

fn output(words: &[&str]) -> anyhow::Result<String> {
    let mut rest = words.iter();
    let output = Command::new(rest.next().context("no command")?)
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` cannot be started", words.join(" ")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "`{}`: {}",
        words.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
