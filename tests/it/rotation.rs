//! SVIDs are rotated while connections live: nothing fails, nothing that is open ends.

use std::time::Duration;

use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::target::Target;
use ringgate::cli::{material, os};

use crate::demo::layout;

/// Lifetime of an SVID in this test: all of the first ones have expired when it ends.
const TTL_S: u64 = 6;

#[test]
fn identities_rotate_under_open_connections() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let text = os::read_text(&layout.config()).unwrap();
    let short = text.replace("svidTtl = \"24h\"", &format!("svidTtl = \"{TTL_S}s\""));
    assert_ne!(text, short, "the demo sets no svidTtl");
    os::write(&layout.config(), short.as_bytes(), 0o644).unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    let chain = layout.file("stolen/frontend-service/istio/cert-chain.pem");
    let first = os::read_text(&chain).unwrap();
    let body = dir.path.join("stream");
    let mut stream = target
        .frontend
        .download("http://customer-api/stream", &body)
        .unwrap();
    let received = || std::fs::metadata(&body).map_or(0, |m| m.len());
    assert!(os::wait_until(Duration::from_secs(5), || received() > 0));

    let mut calls = 0;
    let over = os::wait_until(Duration::from_secs(2 * TTL_S), || {
        let answer = target
            .frontend
            .call("http://customer-api/api/v1/users/7")
            .unwrap();
        assert_eq!(answer.status, 200, "{} after {calls} calls", answer.seen());
        calls += 1;
        false
    });
    assert!(!over && calls > 20, "{calls} calls");

    assert_ne!(
        os::read_text(&chain).unwrap(),
        first,
        "the SVID was not rotated"
    );
    let before = received();
    assert!(
        os::wait_until(Duration::from_secs(5), || received() > before),
        "the open download stands still"
    );
    assert_eq!(
        stream.ended(Duration::ZERO),
        None,
        "the open download ended"
    );
}
