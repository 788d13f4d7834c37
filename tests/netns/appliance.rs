//! The appliance's network against the kernel and a real DHCP server, dnsmasq.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::appliance::address::{Address, Network, parse_network};
use ringgate::appliance::network::{self, Interface};
use ringgate::appliance::{dhcp, lease};

use crate::namespaces::{Machine, ip, isolated};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 99);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// How long a packet is waited for.
const LIMIT: Duration = Duration::from_secs(30);

struct Dnsmasq(Child);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Gives one address on the other end of the link, and refuses all others.
fn dnsmasq(machine: &Machine, leases: &std::path::Path) -> Dnsmasq {
    let mut words = machine.enter();
    let options = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --interface=there \
        --dhcp-authoritative --no-ping --dhcp-range=10.9.0.50,10.9.0.50,255.255.255.0,4m \
        --dhcp-option=option:router,10.9.0.1 --dhcp-option=option:dns-server,10.9.0.1 \
        --dhcp-option=option:mtu,1400 --pid-file=";
    words.extend(options.split_whitespace().map(str::to_owned));
    let child = Command::new(&words[0])
        .args(&words[1..])
        .arg(format!("--dhcp-leasefile={}", leases.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("dnsmasq starts");
    Dnsmasq(child)
}

fn shown(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Our end of the link.
fn here() -> Interface {
    let text = shown("-o link show here");
    let index = text.split(':').next().unwrap().parse().unwrap();
    let (_, rest) = text.split_once("link/ether ").unwrap();
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(rest.get(..17).unwrap().split(':')) {
        *byte = u8::from_str_radix(text, 16).unwrap();
    }
    let name = "here".to_owned();
    Interface { name, index, mac }
}

#[test]
fn a_dhcp_server_gives_renews_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let leases = dir.path().join("leases");
    isolated(move || {
        let machine = Machine::joined();
        machine.inside(|| ip("addr add 10.9.0.1/24 dev there"));
        let _server = dnsmasq(&machine, &leases);
        let interface = here();
        // It asks again until the server is up.
        let lease = lease::acquire(&interface).expect("a lease");
        assert_eq!(lease.address.ip, IpAddr::V4(OWN));
        assert_eq!((lease.address.prefix, lease.server), (24, SERVER));
        assert_eq!(lease.address.gateway, Some(IpAddr::V4(SERVER)));
        assert_eq!(lease.address.nameservers, [IpAddr::V4(SERVER)]);
        assert_eq!((lease.lease_s, lease.address.mtu), (240, Some(1400)));

        network::give(&interface, &lease.address).expect("the kernel takes it");
        assert!(shown("-4 -o addr show here").contains("10.9.0.50/24"));
        assert!(shown("-o link show here").contains("mtu 1400"));
        let route = shown("route show default");
        assert!(
            route.starts_with("default via 10.9.0.1 dev here"),
            "{route}"
        );
        // The same once more changes nothing.
        network::give(&interface, &lease.address).expect("it is there already");

        let more = lease::ask_more(&interface, OWN, SERVER, Some(SERVER)).unwrap();
        let more = more.expect("an answer").expect("more time");
        assert_eq!(more.address, lease.address);
        let more = lease::ask_more(&interface, OWN, Ipv4Addr::BROADCAST, None).unwrap();
        assert!(more.expect("an answer").is_some());

        ip("addr add 10.9.0.99/24 dev here");
        let refused = lease::ask_more(&interface, OTHER, SERVER, Some(SERVER)).unwrap();
        assert_eq!(refused.expect("an answer"), None);

        network::withdraw(&interface, &lease.address);
        assert!(!shown("-4 -o addr show here").contains("10.9.0.50"));
    });
}

#[test]
fn a_busy_machine_hears_the_answer() {
    isolated(|| {
        let machine = Machine::joined();
        machine.inside(|| ip("addr add 10.9.0.1/24 dev there"));
        ip("addr add 10.9.0.50/24 dev here");
        let wire = lease::Wire::open(&here(), OWN).expect("sockets");
        machine.inside(|| {
            // More than a socket keeps, before anybody reads: it was lost among these.
            let other = UdpSocket::bind((SERVER, 0)).unwrap();
            for _ in 0..4000 {
                other.send_to(&[7; 1200], (OWN, 9999)).unwrap();
            }
            // Not from a server's port; to another port; in fragments.
            other.send_to(b"another source", (OWN, 68)).unwrap();
            let server = UdpSocket::bind((SERVER, 67)).unwrap();
            server.send_to(b"another port", (OWN, 69)).unwrap();
            server.send_to(&[7; 4000], (OWN, 68)).unwrap();
            server.send_to(b"an answer", (OWN, 68)).unwrap();
        });
        let packet = wire.next(LIMIT).unwrap().expect("an answer");
        assert_eq!(dhcp::payload(&packet), Some(b"an answer".as_slice()));
        // One that is last shows that nothing else had been let through.
        machine.inside(|| {
            let server = UdpSocket::bind((SERVER, 67)).unwrap();
            server.send_to(b"the last", (OWN, 68)).unwrap();
        });
        let packet = wire.next(LIMIT).unwrap().expect("an answer");
        assert_eq!(dhcp::payload(&packet), Some(b"the last".as_slice()));
    });
}

#[test]
fn a_lease_without_a_gateway_takes_the_old_route_away() {
    isolated(|| {
        let machine = Machine::joined();
        machine.inside(|| ip("addr add 10.9.0.1/24 dev there"));
        let interface = here();
        let address = |text: &str| match parse_network(text) {
            Ok(Network::Static(address)) => address,
            other => panic!("{text}: {other:?}"),
        };
        let with = address("10.9.0.50/24,gw=10.9.0.1");
        let other = address("10.9.0.50/24,gw=10.9.0.2");
        let without = address("10.9.0.50/24");
        let next = |old: &Address, new: &Address| {
            network::leave(&interface, old, new);
            network::give(&interface, new).expect("the kernel takes it");
            shown("route show default")
        };
        network::give(&interface, &with).expect("the kernel takes it");
        let route = next(&with, &other);
        assert!(
            route.starts_with("default via 10.9.0.2 dev here"),
            "{route}"
        );
        assert_eq!(next(&other, &without), "");
        assert!(shown("-4 -o addr show here").contains("10.9.0.50/24"));
        let route = next(&without, &with);
        assert!(
            route.starts_with("default via 10.9.0.1 dev here"),
            "{route}"
        );
        // With another address that keeps the interface's routes alive.
        ip("addr add 10.9.0.77/24 dev here");
        let moved = address("10.9.0.51/24");
        assert_eq!(next(&with, &moved), "");
        let route = next(&moved, &address("10.9.1.7/32,gw=10.8.0.1")); // outside of its network
        assert!(route.contains("via 10.8.0.1"), "{route}");
        assert_eq!(
            next(&address("10.9.1.7/32,gw=10.8.0.1"), &address("10.9.1.7/32")),
            ""
        );
    });
}

#[test]
fn addresses_of_the_command_line_are_set_of_both_families() {
    isolated(|| {
        let _machine = Machine::joined();
        let interface = here();
        for text in [
            "10.9.0.7/32,gw=10.8.0.1,mtu=1300", // a gateway outside of its network
            "fd09::7/64,gw=fd09::1",
        ] {
            let Ok(Network::Static(address)) = parse_network(text) else {
                panic!("{text}");
            };
            network::give(&interface, &address).expect(text);
        }
        let addresses = shown("-o addr show here");
        assert!(addresses.contains("10.9.0.7/32"), "{addresses}");
        assert!(addresses.contains("fd09::7/64"), "{addresses}");
        // It can be bound to at once.
        assert!(
            !addresses
                .lines()
                .any(|l| l.contains("fd09::7") && l.contains("tentative")),
            "{addresses}"
        );
        let route = shown("route show default");
        assert!(
            route.contains("via 10.8.0.1 dev here") && route.contains("onlink"),
            "{route}"
        );
        let route = shown("-6 route show default");
        assert!(route.contains("via fd09::1 dev here"), "{route}");
    });
}
