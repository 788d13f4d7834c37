//! Answers that come before the end of their request: the connection goes on, or its client is told that it does not.

use crate::answer;
use crate::backend::DRAIN;
use crate::system::{PLACES, System, probe};

crate::both!(a_small_body_follows, a_long_body_is_not_waited_for);

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
