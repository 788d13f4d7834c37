//! Answers that come before the end of their request: the connection goes on, or its client is told that it does not. And
//! answers that say for how long a connection is kept.

use std::collections::BTreeSet;

use crate::answer;
use crate::backend::DRAIN;
use crate::system::{PLACES, System, probe};

crate::both!(
    a_small_body_follows,
    a_long_body_is_not_waited_for,
    a_server_about_to_end_a_connection_is_not_asked_on_it
);

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";

fn a_small_body_follows(system: &System) {
    for place in PLACES {
        system.backend(place).says(&[ANSWER, DRAIN]);
        let mut conn = system.connect(place);
        // More than once, on one connection: nobody closes it unannounced.
        for nth in 0..3 {
            let head = format!(
                "POST /api/early HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\n\r\n",
                place.host()
            );
            conn.send(head.as_bytes());
            let answer = answer::read(&mut conn, "POST").expect("an answer before the body");
            assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
            assert_eq!(answer.one("connection"), None, "{place:?} {nth}");
            conn.send(b"12345");
        }
        assert_eq!(probe(&mut conn, place), Some(200), "{place:?}");
        // Who never sends the rest keeps nothing for ever, and who ends is not waited for.
        let mut conn = system.connect(place);
        conn.send(
            format!(
                "POST /api/early HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\n\r\n123",
                place.host()
            )
            .as_bytes(),
        );
        assert!(answer::read(&mut conn, "POST").is_some());
        conn.half_close();
        assert!(conn.is_over(), "{place:?}: held");
    }
    system.healthy();
}

fn a_long_body_is_not_waited_for(system: &System) {
    for place in PLACES {
        for framing in ["transfer-encoding: chunked", "content-length: 100000"] {
            system.backend(place).says(&[ANSWER, DRAIN]);
            let mut conn = system.connect(place);
            let head = format!(
                "POST /api/early HTTP/1.1\r\nhost: {}\r\n{framing}\r\n\r\n",
                place.host()
            );
            conn.send(head.as_bytes());
            let answer = answer::read(&mut conn, "POST").expect("an answer before the body");
            assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
            assert_eq!(
                answer.one("connection"),
                Some("close"),
                "{place:?} {framing}"
            );
            assert!(conn.is_over(), "{place:?} {framing}: goes on");
        }
    }
    system.healthy();
}

fn a_server_about_to_end_a_connection_is_not_asked_on_it(system: &System) {
    const REQUESTS: usize = 4;
    for place in PLACES {
        // A second is too short for another request to come in time.
        for (seconds, kept) in [(1, false), (60, true)] {
            let keeps = format!("keep-alive: timeout={seconds}\r\n\r\n");
            let answer = ANSWER.replace("\r\n\r\n", &format!("\r\n{keeps}"));
            system.backend(place).says(&[&answer]);
            let mut conn = system.connect(place);
            for _ in 0..REQUESTS {
                let head = format!("GET /api/kept HTTP/1.1\r\nhost: {}\r\n\r\n", place.host());
                conn.send(head.as_bytes());
                let answer = answer::read(&mut conn, "GET").expect("an answer");
                assert_eq!(answer.status, 200, "{place:?}");
                // It is of the one hop.
                assert_eq!(answer.one("keep-alive"), None, "{place:?}");
            }
            let seen = system.backend(place).seen();
            let on: BTreeSet<usize> = seen.iter().map(|message| message.connection).collect();
            assert_eq!(seen.len(), REQUESTS, "{place:?}");
            assert_eq!(on.len() < REQUESTS, kept, "{place:?} {seconds}: {on:?}");
        }
    }
    system.healthy();
}
