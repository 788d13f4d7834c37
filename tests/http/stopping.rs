//! The end of the process as clients of HTTP/1 see it: who is idle hears of it with its next answer.

use std::time::Duration;

use ringgate::cli::os;

use crate::answer;
use crate::system::{PLACES, Place, System, probe};

crate::on_both!(
    who_is_idle_is_answered_once_more,
    the_time_to_drain_ends_who_is_idle
);

fn with(io: &str, drain: &str) -> System {
    let line = format!("[process]\ndrain = \"{drain}\"\n");
    System::with(io, |config| config.replacen("[process]\n", &line, 1))
}

/// Whether the process ends by itself.
fn ends(system: &System) -> bool {
    let stat = format!("/proc/{}/stat", system.pid());
    system.within(Duration::from_secs(30), || {
        // Nobody has waited for it yet.
        os::read_text(stat.as_ref()).is_ok_and(|stat| stat.contains(") Z "))
    })
}

/// The ingress is closed: it drains.
fn stops(system: &System) {
    os::terminate(system.pid()).unwrap();
    let closed = system.within(Duration::from_secs(20), || {
        system.try_connect(Place::Ingress, "http/1.1").is_none()
    });
    assert!(closed, "{}", system.log());
}

fn who_is_idle_is_answered_once_more(io: &str) {
    let system = with(io, "40s");
    let mut idle: Vec<_> = PLACES
        .into_iter()
        .map(|place| (place, system.connect(place)))
        .collect();
    for (place, conn) in &mut idle {
        assert_eq!(probe(conn, *place), Some(200), "{place:?}");
    }
    stops(&system);
    for (place, conn) in &mut idle {
        let head = format!(
            "POST /api/probe HTTP/1.1\r\nhost: {}\r\ncontent-length: 2\r\n\r\nhi",
            place.host()
        );
        conn.send(head.as_bytes());
        let answer = answer::read(conn, "POST");
        let answer = answer.unwrap_or_else(|| panic!("{place:?}: no answer\n{}", system.log()));
        // The way on from a waypoint leads through listeners of this process, which are open while the ingress has anybody.
        let way_on = *place != Place::Waypoint;
        assert!(
            answer.status == 200 || !way_on && answer.status == 503,
            "{place:?}: {answer:?}"
        );
        assert_eq!(answer.one("connection"), Some("close"), "{place:?}");
        assert!(conn.is_over(), "{place:?}: goes on");
    }
    // Nothing is left to wait for, long before the time is over.
    assert!(ends(&system), "{}", system.log());
}

fn the_time_to_drain_ends_who_is_idle(io: &str) {
    let system = with(io, "1s");
    let mut conn = system.connect(Place::Ingress);
    assert_eq!(probe(&mut conn, Place::Ingress), Some(200));
    stops(&system);
    // In order, not by a reset.
    assert_eq!(conn.end(), None);
    assert!(ends(&system), "{}", system.log());
}
