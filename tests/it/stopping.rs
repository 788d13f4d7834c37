//! A process that is told to stop: once, with the time that it is given, and twice.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};

use ringgate::cli::os;
use ringgate::cli::target::field;

use crate::pair::{Edit, LONG, Pair, Side, echo, echoes};

fn pair(drain: &str) -> Pair {
    let line = format!("drain = \"{drain}\"");
    let pair = Pair::on_loopback(
        crate::PROGRAM,
        Edit {
            process: &line,
            ..Edit::default()
        },
    );
    echo(TcpListener::bind(pair.app()).unwrap());
    pair
}

/// Whether a process ends, and well.
fn ends(pair: &mut Pair, side: Side) -> bool {
    let mut status = None;
    os::wait_until(LONG, || {
        status = pair.child(side).try_wait().unwrap();
        status.is_some()
    });
    status.is_some_and(|status| status.success())
}

fn broken(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// What is open ends with the time that it was given, as a reset, and says so.
#[test]
fn drain_takes_as_long_as_it_is_said_to() {
    let mut pair = pair("500ms");
    let stream = pair.open();
    let mark = pair.records(Side::Server).mark();
    os::terminate(pair.pid(Side::Server)).unwrap();
    assert!(ends(&mut pair, Side::Server), "{}", pair.log(Side::Server));
    assert!(broken(stream), "it looks complete");
    let drained = pair
        .records(Side::Server)
        .await_some(&mark, 1, |record| field(record, "/close") == "drain");
    assert_eq!(drained.len(), 1, "{drained:?}");
}

/// Within an hour's drain what is open goes on, new streams are not taken, and a second signal ends it at once.
#[test]
fn the_second_signal_ends_it_at_once() {
    let mut pair = pair("1h");
    let mut stream = pair.open();
    os::terminate(pair.pid(Side::Server)).unwrap();
    let refuses = os::wait_until(LONG, || !pair.serves());
    assert!(refuses, "it takes new streams");
    assert!(echoes(&mut stream), "what is open goes on");
    assert!(pair.child(Side::Server).try_wait().unwrap().is_none());
    os::terminate(pair.pid(Side::Server)).unwrap();
    assert!(ends(&mut pair, Side::Server), "{}", pair.log(Side::Server));
    assert!(broken(stream), "it looks complete");
}

/// A listener that is not to be had ends the start with a word, also where names are to be served.
#[test]
fn a_start_that_fails_ends() {
    let [x, y] = ringgate::cli::layout::free_octets().unwrap();
    let at = |host: u8| std::net::IpAddr::from([127, x, y, host]);
    let dns = format!("dns = \"{}:15053\"", at(2));
    let edit = Edit {
        server_node: &dns,
        ..Edit::default()
    };
    let mut pair = Pair::new(crate::PROGRAM, (at(1), at(2)), Vec::new(), edit);
    pair.raise(Side::Client);
    let _there = TcpListener::bind((at(2), 15006)).unwrap();
    pair.launch(Side::Server, &pair.config(Side::Server));
    let ended = os::wait_until(LONG, || {
        pair.child(Side::Server).try_wait().unwrap().is_some()
    });
    let log = pair.log(Side::Server);
    assert!(ended, "{log}");
    assert!(log.contains("cannot listen on"), "{log}");
}
