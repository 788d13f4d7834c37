//! Ten thousand policies come by a reload, under load: no request is lost, and the new generation judges.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::target::{Target, field};
use ringgate::cli::{material, os};

use crate::demo::layout;

const COUNT: usize = 10_000;
const GOOD: &str = "http://customer-api/api/v1/users/7";
const LATER: &str = "http://customer-api/exact/9999";
/// A debug build on a busy machine reads ten thousand policies in this time.
const LIMIT: Duration = Duration::from_secs(120);

/// DENY policies at the waypoint, each for a path of its own.
fn policies() -> String {
    let mut text = String::new();
    for n in 0..COUNT {
        write!(
            text,
            "[[authorizationPolicy]]\nname = \"p-{n}\"\nnamespace = \"default\"\n\
             targetRefs = [{{ group = \"gateway.networking.k8s.io\", kind = \"Gateway\", name = \"customer-api\" }}]\n\
             action = \"DENY\"\n\
             rules = [{{ to = [{{ operation.paths = [\"/exact/{n}\", \"/under/{n}/*\", \"/any/{{*}}/{n}\"] }}] }}]\n\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_policies_under_load() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let text = os::read_text(&layout.config()).unwrap();
    let edited = text.replace("[process]\n", "[process]\nmeshDir = \"mesh.d\"\n");
    assert_ne!(edited, text);
    os::write(&layout.config(), edited.as_bytes(), 0o644).unwrap();
    std::fs::create_dir(layout.file("mesh.d")).unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    // The app has no such page: the request came through.
    assert_eq!(target.frontend.call(LATER).unwrap().status, 404);
    let before = target.generations().unwrap();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mark = target.records.mark();
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let answer = target.frontend.call(GOOD).unwrap();
                        if answer.status != 200 {
                            failed.push(answer.seen());
                        }
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
            .collect();
        // Written elsewhere and moved, as operators do.
        os::write(&layout.file("new.toml"), policies().as_bytes(), 0o644).unwrap();
        std::fs::rename(layout.file("new.toml"), layout.file("mesh.d/many.toml")).unwrap();
        let moved = os::now();
        let judged = os::wait_until(LIMIT, || {
            target
                .frontend
                .call(LATER)
                .is_ok_and(|answer| answer.status == 403)
        });
        // A number to read, not to test: `cargo test --release --test it ten_thousand -- --nocapture`.
        let took = moved.elapsed().as_millis();
        os::say(&format!(
            "{COUNT} policies judge {took} ms after their file is there"
        ));
        assert!(
            judged,
            "the new policies do not judge: {:?}",
            target.problems()
        );
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            let failed = load.join().unwrap();
            assert!(failed.is_empty(), "{failed:?}");
        }
    });
    assert!(served.load(Ordering::Relaxed) > 10, "no load");
    assert_ne!(target.generations().unwrap(), before);
    // Records of the load may have been lost, which is counted; this one comes alone.
    assert_eq!(target.frontend.call(LATER).unwrap().status, 403);
    let denied = |r: &serde_json::Value| field(r, "/policy") == "default/p-9999";
    let found = target.records.await_some(&mark, 1, denied);
    assert!(
        !found.is_empty(),
        "{:#?}",
        target.records.since(&mark).last()
    );
}
