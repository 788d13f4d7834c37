//! Connections that carry tunnels are spread over the cores, whichever core accepts them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::app::App;
use crate::mesh::{Mesh, addresses};
use crate::netns;
use crate::tunnel::{ask, connect, run};

const CORES: usize = 3;
const PER_CORE: usize = 3;

#[test]
fn epoll() {
    check("epoll");
}

#[test]
fn io_uring() {
    check("io_uring");
}

fn check(io: &'static str) {
    netns::isolated(move || {
        addresses("lo", true);
        addresses("lo", false);
        let more = format!("cores = {CORES}");
        let mesh = Mesh::start(io, &|text| {
            assert!(text.contains("\ncores = 1\n"), "the cores of {text}");
            text.replacen("cores = 1", &more, 1)
        });
        spread(&mesh);
        mesh.healthy();
    });
}

fn spread(mesh: &Mesh) {
    let _app = App::start(&["10.9.0.2:7000"]);
    run(async {
        let mut held = Vec::new();
        for _ in 0..CORES * PER_CORE {
            let node = connect("10.9.0.2:15008", &mesh.identity("client")).await;
            let mut answer = ask(&node, "10.9.0.2:7000", &[]).await;
            answer.send.send_data("watch\nab".into(), false).unwrap();
            assert_eq!(&answer.piece().await[..], b"watching");
            held.push((node, answer));
        }
        let each = BTreeMap::from_iter((0..CORES as u64).map(|core| (core, PER_CORE)));
        assert_eq!(open_by_core(), each);
        drop(held);
    });
}

/// Tunnels that are open, by core.
fn open_by_core() -> BTreeMap<u64, usize> {
    let mut admin = TcpStream::connect("10.9.0.9:15000").unwrap();
    let ask = b"GET /connections HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    admin.write_all(ask).unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).unwrap();
    let (_head, body) = text.split_once("\r\n\r\n").unwrap();
    let open: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {text}"));
    let rows = open["connections"].as_array().unwrap();
    let mut cores = BTreeMap::new();
    for row in rows.iter().filter(|row| row["destination"]["port"] == 7000) {
        *cores.entry(row["core"].as_u64().unwrap()).or_default() += 1;
    }
    cores
}
