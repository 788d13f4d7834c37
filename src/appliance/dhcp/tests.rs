//! Servers that mean well, and others.

use super::*;

pub(crate) const MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(crate) const XID: u32 = 0x1234_5678;

/// A server's message: `kind`, an address, and options as they are.
pub(crate) fn reply(kind: u8, ip: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 1, 6, 0];
    out.extend(XID.to_be_bytes());
    out.extend([0; 8]);
    out.extend(ip);
    out.resize(28, 0);
    out.extend(MAC);
    out.resize(FIXED, 0);
    out.extend(COOKIE);
    out.extend([53, 1, kind, 54, 4, 10, 0, 2, 2]);
    out.extend(options);
    out.push(255);
    out
}

const GOOD: &[u8] = &[
    1, 4, 255, 255, 255, 0, // mask
    0, 0, // padding
    3, 4, 10, 0, 2, 2, // router
    6, 8, 10, 0, 2, 3, 10, 0, 2, 4, // nameservers
    26, 2, 5, 180, // MTU 1460
    12, 6, b'e', b'd', b'g', b'e', b'-', b'1', // name
    51, 4, 0, 1, 81, 128, // a day
];

fn leased(bytes: &[u8]) -> Option<Lease> {
    match answer(bytes, XID, MAC)? {
        Answer::Offer(lease) | Answer::Ack(lease) => Some(lease),
        Answer::Nak(_) => None,
    }
}

#[test]
fn a_lease_is_read() {
    let lease = leased(&reply(5, [10, 0, 2, 15], GOOD)).unwrap();
    assert_eq!(lease.address.ip, IpAddr::from([10, 0, 2, 15]));
    assert_eq!(lease.address.prefix, 24);
    assert_eq!(lease.address.gateway, Some(IpAddr::from([10, 0, 2, 2])));
    assert_eq!(lease.address.nameservers.len(), 2);
    assert_eq!(lease.address.mtu, Some(1460));
    assert_eq!(lease.hostname.as_deref(), Some("edge-1"));
    assert_eq!(lease.server, Ipv4Addr::new(10, 0, 2, 2));
    let times = (lease.lease_s, lease.rebind_s, lease.renew_s);
    assert_eq!(times, (86_400, 75_600, 43_200));
    let offer = answer(&reply(2, [10, 0, 2, 15], GOOD), XID, MAC);
    assert_eq!(offer, Some(Answer::Offer(lease)));
    let refused = answer(&reply(6, [0; 4], &[]), XID, MAC);
    assert_eq!(refused, Some(Answer::Nak(Ipv4Addr::new(10, 0, 2, 2))));
}

#[test]
fn what_is_not_an_answer_to_us_is_none() {
    let good = reply(5, [10, 0, 2, 15], GOOD);
    assert!(answer(&good, XID + 1, MAC).is_none());
    assert!(answer(&good, XID, [0; 6]).is_none());
    for (offset, byte) in [(0, 1), (1, 6), (2, 8), (FIXED, 0), (FIXED + 6, 9)] {
        let mut other = good.clone();
        other[offset] = byte;
        assert!(
            answer(&other, XID, MAC).is_none(),
            "byte {offset} is {byte}"
        );
    }
    // Without its own options, and with addresses that no host has.
    assert!(leased(&reply(5, [10, 0, 2, 15], &[])).is_none());
    for ip in [
        [0; 4],
        [127, 0, 0, 1],
        [255; 4],
        [224, 0, 0, 1],
        [0, 1, 2, 3],
    ] {
        assert!(leased(&reply(5, ip, GOOD)).is_none(), "{ip:?}");
    }
    // A mask with a hole, none at all, and one that is too short.
    for mask in [[255, 0, 255, 0], [0; 4]] {
        let options = [&[1, 4][..], &mask, &[51, 4, 0, 1, 0, 0]].concat();
        assert!(leased(&reply(5, [10, 0, 2, 15], &options)).is_none());
    }
    assert!(
        leased(&reply(
            5,
            [10, 0, 2, 15],
            &[1, 3, 255, 0, 0, 51, 4, 0, 1, 0, 0]
        ))
        .is_none()
    );
}

#[test]
fn what_a_server_says_is_bounded() {
    let mut options = vec![1, 4, 255, 0, 0, 0, 51, 4, 0, 0, 0, 1];
    options.extend([6, 252]);
    options.extend([9; 252]); // 63 nameservers
    options.extend([
        26, 2, 0, 1, 58, 4, 255, 255, 255, 255, 59, 4, 255, 255, 255, 255,
    ]);
    options.extend([12, 3, b'a', b'\n', b'b']);
    options.extend([3, 4, 0, 0, 0, 0]);
    let lease = leased(&reply(5, [10, 0, 2, 15], &options)).unwrap();
    assert_eq!(lease.address.nameservers.len(), NAMESERVERS);
    assert_eq!((lease.address.mtu, lease.address.gateway), (None, None));
    assert_eq!(lease.hostname, None);
    assert_eq!(lease.lease_s, LEASE_MIN_S);
    assert!(lease.renew_s > 0 && lease.renew_s <= lease.rebind_s);
    assert!(lease.rebind_s < lease.lease_s);
}

#[test]
fn options_may_be_where_names_are() {
    let mut message = reply(5, [10, 0, 2, 15], &[52, 1, 3, 1, 4, 255, 0, 0, 0]);
    let file = [51, 4, 0, 1, 0, 0, 255];
    message[108..108 + file.len()].copy_from_slice(&file);
    let sname = [3, 4, 10, 0, 0, 1, 255];
    message[44..44 + sname.len()].copy_from_slice(&sname);
    let lease = leased(&message).unwrap();
    assert_eq!(lease.lease_s, 65_536);
    assert_eq!(lease.address.gateway, Some(IpAddr::from([10, 0, 0, 1])));
}

/// Cut anywhere, and with any one byte changed to any other: never a panic, and never an address that no host has.
#[test]
fn hostile_answers_end_as_none_or_as_a_lease_that_can_be_used() {
    let good = reply(5, [10, 0, 2, 15], GOOD);
    for cut in 0..good.len() {
        let read = answer(&good[..cut], XID, MAC);
        assert!(cut > FIXED + 40 || read.is_none(), "{cut} bytes: {read:?}");
    }
    for place in FIXED..good.len() {
        for byte in 0..=255 {
            let mut other = good.clone();
            other[place] = byte;
            if let Some(lease) = leased(&other) {
                assert!(is_host(lease.address.ip) && (1..=32).contains(&lease.address.prefix));
                assert!(lease.address.nameservers.iter().all(|ip| is_host(*ip)));
                assert!(lease.renew_s <= lease.rebind_s && lease.rebind_s <= lease.lease_s);
            }
        }
    }
}

/// A packet as a packet socket without Ethernet header gives it.
pub(crate) fn packet(payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(8 + payload.len()).unwrap();
    let mut out = vec![0x45, 0];
    out.extend((udp + 20).to_be_bytes());
    out.extend([0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 2, 2, 255, 255, 255, 255]);
    out.extend(SERVER.to_be_bytes());
    out.extend(CLIENT.to_be_bytes());
    out.extend(udp.to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

#[test]
fn packets_are_opened() {
    let whole = packet(b"abc");
    assert_eq!(payload(&whole), Some(b"abc".as_slice()));
    // Ethernet fills short frames up.
    let padded = [whole.as_slice(), &[0; 9]].concat();
    assert_eq!(payload(&padded), Some(b"abc".as_slice()));
    for cut in 0..whole.len() {
        assert_eq!(payload(&whole[..cut]), None, "{cut}");
    }
    for (offset, byte) in [
        (0, 0x65),
        (0, 0x44),
        (6, 0x20),
        (7, 1),
        (9, 6),
        (21, 68),
        (23, 67),
        (25, 7),
    ] {
        let mut other = whole.clone();
        other[offset] = byte;
        assert_eq!(payload(&other), None, "byte {offset} is {byte}");
    }
    for place in 0..whole.len() {
        for byte in 0..=255 {
            let mut other = whole.clone();
            other[place] = byte;
            assert!(payload(&other).is_none_or(|payload| payload.len() <= other.len()));
        }
    }
}

#[test]
fn questions_are_as_servers_read_them() {
    let first = discover(XID, MAC);
    assert_eq!(first.len(), MESSAGE_BYTES);
    assert_eq!(
        (&first[4..8], &first[28..34]),
        (&XID.to_be_bytes()[..], &MAC[..])
    );
    assert_eq!(first[10], 0x80, "the answer is to be broadcast");
    let options = Options::of(&first).unwrap();
    assert_eq!(options.exact(option::KIND), Some([1]));
    let offer = leased(&reply(2, [10, 0, 2, 15], GOOD)).unwrap();
    let second = request(XID, MAC, &offer);
    let options = Options::of(&second).unwrap();
    assert_eq!(options.exact(option::WANTED), Some([10, 0, 2, 15]));
    assert_eq!(options.exact(option::SERVER), Some([10, 0, 2, 2]));
    let more = renew(XID, MAC, Ipv4Addr::new(10, 0, 2, 15));
    assert_eq!((&more[12..16], more[10]), (&[10, 0, 2, 15][..], 0));
    let options = Options::of(&more).unwrap();
    assert_eq!(options.exact(option::KIND), Some([3]));
    assert_eq!(options.value(option::WANTED), None);
}
