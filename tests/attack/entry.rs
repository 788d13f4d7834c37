//! The ways in without HTTP: plaintext under STRICT in pieces, TLS that is none, SOCKS5 oddities.

use std::io::ErrorKind;
use std::time::Duration;

use crate::client::{Conn, client, stolen};
use crate::system::System;

crate::both!(
    plaintext_under_strict,
    broken_tls,
    socks_oddities,
    certificates
);

const PLAIN: &[u8] = b"GET /plain HTTP/1.1\r\nhost: customer-api\r\n\r\n";

fn plaintext_under_strict(system: &System) {
    let inbound = system.layout.at(3, 8080);
    for pieces in [
        vec![PLAIN],
        PLAIN.chunks(1).take(20).collect(),
        vec![b"\x00"],
        vec![b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        vec![b"\x15\x03\x01\x00\x02\x01\x00"],
    ] {
        let mut conn = Conn::plain(&inbound);
        for piece in pieces {
            conn.send(piece);
        }
        assert_eq!(conn.end(), Some(ErrorKind::ConnectionReset));
    }
    // A first byte that comes late, or never.
    for late in [true, false] {
        let mut conn = Conn::plain(&inbound);
        if late {
            std::thread::sleep(Duration::from_millis(600));
            conn.send(PLAIN);
        }
        assert!(conn.is_over(), "waits for ever");
    }
    assert!(system.customer.take().is_empty());
}

fn broken_tls(system: &System) {
    let inbound = system.layout.at(3, 8080);
    for address in [
        inbound,
        system.layout.at(3, 15008),
        system.layout.at(13, 15008),
        system.layout.at(13, 8443),
        system.layout.at(20, 8443),
    ] {
        for bytes in [
            [b"\x16", PLAIN].concat(),
            b"\x16\x03\x01\xff\xff".to_vec(),
            b"\x16\x03\x01\x00\x00".repeat(2000),
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
                vec![0; 600],
            ]
            .concat(),
            PLAIN.to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec(),
        ] {
            let mut conn = Conn::plain(&address);
            conn.send(&bytes);
            conn.half_close();
            assert!(conn.is_over(), "{address}: {:?} is waited for", &bytes[..5]);
        }
    }
    assert!(system.customer.take().is_empty());
    system.victim_is_served();
}

fn certificates(system: &System) {
    let foreign = crate::tunnels::foreign("spiffe://cluster.local/ns/default/sa/frontend-service");
    let other = crate::tunnels::foreign("spiffe://evil.example/ns/default/sa/frontend-service");
    for host in [3, 13] {
        let address = system.layout.at(host, 8443);
        for (identity, who) in [
            (None, "nobody"),
            (Some(foreign.clone_pair()), "self made"),
            (Some(other.clone_pair()), "other domain"),
        ] {
            let conn = Conn::plain(&address).tls(client(&["http/1.1"], identity), "customer-api");
            // With TLS 1.3 the client learns of the refusal after its own part.
            if let Ok(mut conn) = conn {
                conn.send(b"GET /cert HTTP/1.1\r\nhost: customer-api\r\n\r\n");
                let answer = conn.response();
                assert!(
                    answer.as_ref().is_none_or(|a| a.status == 403),
                    "{who} at {address}: {answer:?}"
                );
            }
        }
        // The right kind of certificate, and the wrong workload.
        let identity = stolen(system, "reviews-service");
        let mut conn = Conn::plain(&address)
            .tls(client(&["http/1.1"], Some(identity)), "customer-api")
            .unwrap();
        conn.send(b"GET /cert HTTP/1.1\r\nhost: customer-api\r\n\r\n");
        assert_eq!(conn.response().map(|a| a.status), Some(403), "{address}");
    }
    assert!(system.customer.take().is_empty());
}

fn socks_oddities(system: &System) {
    let proxy = system.layout.at(2, 15080);
    let [a, b, c]: [u8; 3] = {
        let octets: Vec<u8> = system
            .layout
            .subnet
            .split('.')
            .map(|o| o.parse().unwrap())
            .collect();
        octets.try_into().unwrap()
    };
    let name = |host: &str, port: u16| {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, host.len() as u8];
        bytes.extend_from_slice(host.as_bytes());
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    };
    let app = [a, b, c, 3];
    for (what, bytes) in [
        (
            "SOCKS4",
            vec![4, 1, 0, 80, app[0], app[1], app[2], app[3], 0],
        ),
        ("no method", vec![5, 0]),
        ("password only", vec![5, 1, 2]),
        ("BIND", vec![5, 1, 0, 5, 2, 0, 1, a, b, c, 3, 70, 144]),
        ("UDP", vec![5, 1, 0, 5, 3, 0, 1, a, b, c, 3, 70, 144]),
        (
            "address type 9",
            vec![5, 1, 0, 5, 1, 0, 9, 1, 2, 3, 4, 0, 80],
        ),
        (
            "second version",
            vec![5, 1, 0, 4, 1, 0, 1, a, b, c, 3, 70, 144],
        ),
        (
            "the app itself",
            vec![5, 1, 0, 5, 1, 0, 1, a, b, c, 3, 70, 160],
        ),
        (
            "the app, mapped",
            [
                &[
                    5, 1, 0, 5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff,
                ][..],
                &app,
                &[70, 160],
            ]
            .concat(),
        ),
        (
            "the HBONE port",
            vec![5, 1, 0, 5, 1, 0, 1, a, b, c, 3, 58, 160],
        ),
        (
            "the admin port",
            vec![5, 1, 0, 5, 1, 0, 1, a, b, c, 9, 58, 152],
        ),
        ("localhost", name("localhost", 18080)),
        ("decimal", name(&u32::from_be_bytes(app).to_string(), 18080)),
        ("hexadecimal", name("0x7f000001", 18080)),
        ("empty", name("", 80)),
        ("a zero byte", name("customer-api\0.evil", 80)),
        ("userinfo", name("x@customer-api", 80)),
        ("a port in the name", name("customer-api:80", 80)),
        ("a path", name("customer-api/x", 80)),
        ("other port", name("customer-api", 18080)),
        ("unknown", name("evil.example.test", 80)),
        ("port 0", name("customer-api", 0)),
    ] {
        let mut conn = Conn::plain(&proxy);
        conn.send(&bytes);
        conn.send(b"GET /socks HTTP/1.1\r\nhost: customer-api\r\n\r\n");
        conn.half_close();
        let all = conn.rest();
        let granted = all.starts_with(&[5, 0, 5, 0]);
        assert!(
            !granted,
            "{what}: granted: {}",
            String::from_utf8_lossy(&all)
        );
    }
    assert!(system.customer.take().is_empty());
    // One byte at a time is no crime.
    let mut conn = Conn::plain(&system.layout.at(1, 15080));
    for byte in name("customer-api", 80) {
        conn.send(&[byte]);
    }
    assert_eq!(conn.exactly(12).unwrap()[..4], [5, 0, 5, 0]);
    conn.send(b"GET /slowly HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    assert_eq!(conn.response().unwrap().status, 200);
}
