//! Loopback and the first network interface, by rtnetlink (`rtnetlink(7)`): up, address, default route, nameservers.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::appliance::address::{Address, Network};
use crate::appliance::arguments::Arguments;
use crate::appliance::dhcp::Mac;
use crate::appliance::{lease, os};
use crate::io::netlink::{self, Netlink};

/// Where the kernel shows interfaces.
const INTERFACES: &str = "/sys/class/net";
/// How often it is looked for one, and how long between two looks.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(50);
/// Largest file of an interface there.
const FACT_BYTES: u64 = 256;
/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";
/// Read by everything that resolves names; the image has `/etc/resolv.conf` as a link to it.
const RESOLV_CONF: &str = "/run/resolv.conf";

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
/// `NLM_F_CREATE | NLM_F_REPLACE`.
const CREATE_REPLACE: u16 = 0x400 | 0x100;
/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

/// Brings loopback and the interface up as the command line says, and keeps a lease; the name that DHCP has for the machine.
///
/// # Errors
/// There is no interface, it cannot be set up, or nobody gives it an address.
pub fn up(arguments: &Arguments) -> anyhow::Result<Option<String>> {
    let mut kernel = Netlink::open(libc::NETLINK_ROUTE).context("rtnetlink")?;
    link_up(&mut kernel, LOOPBACK, None).context("loopback cannot be brought up")?;
    if arguments.networks == [Network::Off] {
        tracing::info!("no network, as `ringgate.net=none` says");
        return Ok(None);
    }
    let interface = wait_for(Path::new(INTERFACES), arguments.nic.as_deref())?;
    let name = interface.name.clone();
    link_up(&mut kernel, interface.index, None)
        .with_context(|| format!("`{name}` cannot be brought up"))?;
    let mut hostname = None;
    let mut addresses = Vec::new();
    for network in &arguments.networks {
        match network {
            Network::Static(address) => addresses.push(address.clone()),
            Network::Dhcp | Network::Off => {}
        }
    }
    if addresses.is_empty() {
        let lease = lease::acquire(&interface)?;
        tracing::info!(server = %lease.server, seconds = lease.lease_s, "lease");
        hostname.clone_from(&lease.hostname);
        addresses.push(lease.address.clone());
        lease::keep(interface.clone(), lease)?;
    }
    for address in &addresses {
        set(&mut kernel, &interface, address)
            .with_context(|| format!("`{name}` cannot have {}/{}", address.ip, address.prefix))?;
        tracing::info!(
            interface = name,
            address = %format_args!("{}/{}", address.ip, address.prefix),
            gateway = %address.gateway.map_or_else(|| "none".to_owned(), |g| g.to_string()),
            "network"
        );
    }
    let servers = addresses.iter().flat_map(|a| &a.nameservers);
    os::write(Path::new(RESOLV_CONF), resolv_conf(servers).as_bytes())?;
    Ok(hostname)
}

/// Sets another address than before, after a renewal.
pub fn change(interface: &Interface, old: &Address, new: &Address) {
    tracing::warn!(old = %old.ip, new = %new.ip, "the DHCP server has changed the address or what goes with it");
    leave(interface, old, new);
    settle(interface, new);
}

/// Takes from the interface what the lease before gave it and this one does not; what fails is told.
pub fn leave(interface: &Interface, old: &Address, new: &Address) {
    if (old.ip, old.prefix) != (new.ip, new.prefix) {
        withdraw(interface, old);
    } else if new.gateway.is_none() {
        // One that is another is put in the place of this one.
        forget_route(interface, old);
    }
}

/// Sets what a new lease says; what fails is told.
pub fn settle(interface: &Interface, address: &Address) {
    if let Err(error) = give(interface, address) {
        tracing::error!(address = %address.ip, %error, "the address cannot be set");
    }
    let text = resolv_conf(address.nameservers.iter());
    if let Err(error) = os::write(Path::new(RESOLV_CONF), text.as_bytes()) {
        tracing::error!("{error:#}");
    }
}

/// Gives the interface, which is up, an address with its route and MTU.
///
/// # Errors
/// What the kernel refuses it with.
pub fn give(interface: &Interface, address: &Address) -> io::Result<()> {
    let mut kernel = Netlink::open(libc::NETLINK_ROUTE)?;
    set(&mut kernel, interface, address)
}

/// Takes the default route away that an address came with; what fails is told.
fn forget_route(interface: &Interface, address: &Address) {
    let Some(gateway) = address.gateway else {
        return;
    };
    let body = route_message(interface.index, gateway, false);
    let done = Netlink::open(libc::NETLINK_ROUTE)
        .and_then(|mut kernel| kernel.ask(DELROUTE, 0, &body).map(drop));
    match done {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {} // it went with an address
        Err(error) => tracing::error!(%gateway, %error, "the default route cannot be taken away"),
        Ok(()) => {}
    }
}

/// Takes an address from the interface, and the default route that it came with; what fails is told.
pub fn withdraw(interface: &Interface, address: &Address) {
    forget_route(interface, address);
    let body = address_message(interface.index, address);
    let done = Netlink::open(libc::NETLINK_ROUTE)
        .and_then(|mut kernel| kernel.ask(DELADDR, 0, &body).map(drop));
    if let Err(error) = done {
        tracing::error!(address = %address.ip, %error, "the address cannot be taken away");
    }
}

fn set(kernel: &mut Netlink, interface: &Interface, address: &Address) -> io::Result<()> {
    if address.mtu.is_some()
        && let Err(error) = link_up(kernel, interface.index, address.mtu)
    {
        // Of a server that does not know the card; it works with the MTU that it has.
        tracing::warn!(mtu = ?address.mtu, %error, "the MTU of the lease cannot be set");
    }
    let body = address_message(interface.index, address);
    kernel.ask(NEWADDR, CREATE_REPLACE, &body)?;
    if let Some(gateway) = address.gateway {
        let body = route_message(interface.index, gateway, !address.contains(gateway));
        kernel.ask(NEWROUTE, CREATE_REPLACE, &body)?;
    }
    Ok(())
}

/// `struct ifinfomsg` with `IFF_UP`.
fn link_up(kernel: &mut Netlink, index: u32, mtu: Option<u32>) -> io::Result<()> {
    const UP: u32 = 1;
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    body.extend(UP.to_ne_bytes()); // what of the flags is changed
    if let Some(mtu) = mtu {
        netlink::attribute(&mut body, 4, &mtu.to_ne_bytes()); // IFLA_MTU
    }
    kernel.ask(NEWLINK, 0, &body).map(drop)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).unwrap_or_default()
}

/// `struct ifaddrmsg`.
fn address_message(index: u32, address: &Address) -> Vec<u8> {
    // An IPv6 address that the operator gives serves at once; else nothing could be bound to it for a second.
    const NO_DUPLICATE_DETECTION: u8 = 2;
    let flags = if address.ip.is_ipv4() {
        0
    } else {
        NO_DUPLICATE_DETECTION
    };
    let mut body = vec![family(address.ip), address.prefix, flags, 0];
    body.extend(index.to_ne_bytes());
    netlink::attribute(&mut body, 2, &octets(address.ip)); // IFA_LOCAL
    netlink::attribute(&mut body, 1, &octets(address.ip)); // IFA_ADDRESS
    body
}

/// `struct rtmsg` of a default route.
fn route_message(index: u32, gateway: IpAddr, is_elsewhere: bool) -> Vec<u8> {
    const TABLE_MAIN: u8 = 254;
    const PROTOCOL_STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;
    let mut body = vec![
        family(gateway),
        0,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        0,
        UNICAST,
    ];
    // Some clouds give a network of one address, and a gateway outside of it.
    let flags = if is_elsewhere { ON_LINK } else { 0 };
    body.extend(flags.to_ne_bytes());
    netlink::attribute(&mut body, 5, &octets(gateway)); // RTA_GATEWAY
    netlink::attribute(&mut body, 4, &index.to_ne_bytes()); // RTA_OIF
    body
}

fn resolv_conf<'a>(servers: impl Iterator<Item = &'a IpAddr>) -> String {
    let mut text = String::new();
    for server in servers.take(crate::appliance::address::NAMESERVERS) {
        writeln!(text, "nameserver {server}").ok();
    }
    text
}

/// Drivers may take a moment to show their interface.
fn wait_for(class: &Path, wanted: Option<&str>) -> anyhow::Result<Interface> {
    for _ in 0..LOOKS {
        let all = interfaces(class)?;
        let found = all
            .into_iter()
            .find(|i| wanted.is_none_or(|wanted| i.name == wanted));
        if let Some(found) = found {
            return Ok(found);
        }
        os::pause(LOOK);
    }
    match wanted {
        Some(name) => bail!("there is no interface `{name}`, which `ringgate.nic` names"),
        None => bail!(
            "there is no network interface: no driver in the image fits one; `ringgate.net=none` does without"
        ),
    }
}

/// Ethernet interfaces, by index.
fn interfaces(class: &Path) -> anyhow::Result<Vec<Interface>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(class).with_context(|| format!("`{}`", class.display()))?;
    for entry in entries {
        let path = entry?.path();
        // One that goes meanwhile, or is of another kind, is not there.
        found.extend(interface(&path));
    }
    found.sort_by_key(|i: &Interface| i.index);
    Ok(found)
}

fn interface(path: &Path) -> Option<Interface> {
    let fact = |name: &str| {
        let text = os::read_text(&path.join(name), FACT_BYTES).ok()?;
        Some(text.trim().to_owned())
    };
    if fact("type")? != ETHERNET {
        return None;
    }
    let mut mac = Mac::default();
    let text = fact("address")?;
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    Some(Interface {
        name: path.file_name()?.to_str()?.to_owned(),
        index: fact("ifindex")?.parse().ok()?,
        mac,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(class: &Path, name: &str, facts: [&str; 3]) {
        let dir = class.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for (file, text) in ["type", "ifindex", "address"].into_iter().zip(facts) {
            std::fs::write(dir.join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn the_first_card_is_taken_or_the_one_that_is_named() {
        let class = tempfile::tempdir().unwrap();
        show(class.path(), "lo", ["772", "1", "00:00:00:00:00:00"]);
        show(class.path(), "ens4", ["1", "3", "52:54:00:12:34:57"]);
        show(class.path(), "ens3", ["1", "2", "52:54:00:12:34:56"]);
        let first = wait_for(class.path(), None).unwrap();
        assert_eq!(first.name, "ens3");
        assert_eq!(
            (first.index, first.mac),
            (2, [0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        assert_eq!(wait_for(class.path(), Some("ens4")).unwrap().index, 3);
    }

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let address = Address {
            ip: "10.0.2.15".parse().unwrap(),
            prefix: 24,
            gateway: None,
            nameservers: vec!["10.0.2.3".parse().unwrap()],
            mtu: None,
        };
        let body = address_message(2, &address);
        assert_eq!(body[..4], [2, 24, 0, 0]);
        let local = (2, [10, 0, 2, 15].as_slice());
        assert!(netlink::attributes(&body[8..]).contains(&local));
        let body = route_message(2, "fe80::1".parse().unwrap(), true);
        assert_eq!((body[0], body[8]), (10, 4));
        assert_eq!(netlink::attributes(&body[12..]).len(), 2);
        assert_eq!(
            resolv_conf(address.nameservers.iter()),
            "nameserver 10.0.2.3\n"
        );
    }
}
