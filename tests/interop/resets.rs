//! What becomes of a connection that is broken off: a reset stays a reset through a tunnel, an end stays an end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use h2::Reason;

use crate::app::{App, rest};
use crate::far::{Far, Manner};
use crate::mesh::Mesh;
use crate::tunnel::{ask, connect, run};

crate::both!(of_the_app, of_the_peer, from_end_to_end, of_the_far_end);

const SERVER: &str = "10.9.0.2:15008";
const CLIENT: &str = "10.9.0.1:15080";

/// The app's reset is a RST_STREAM with an error, after all that it had sent.
fn of_the_app(mesh: &Mesh) {
    let _app = App::start(&["10.9.0.2:7000"]);
    run(async {
        let node = connect(SERVER, &mesh.identity("client")).await;
        let mut answer = ask(&node, "10.9.0.2:7000", &[]).await;
        answer.send.send_data("reset\n".into(), false).unwrap();
        assert_eq!(&answer.piece().await[..], b"so far");
        answer.send.send_data("!".into(), false).unwrap();
        let (more, reason) = answer.rest().await;
        assert_eq!((&more[..], reason), (&b""[..], Some(Reason::CONNECT_ERROR)));
        // The connection and its other streams have nothing to do with it.
        let mut answer = ask(&node, "10.9.0.2:7000", &[]).await;
        answer.send.send_data("tail\n1".into(), true).unwrap();
        assert_eq!(answer.rest().await, (b"tail 1".to_vec(), None));
    });
    mesh.record(|r| r["close"] == "upstream_reset");
}

/// RST_STREAM of the peer: with an error the app is reset, with CANCEL or NO_ERROR it sees an end.
fn of_the_peer(mesh: &Mesh) {
    let app = App::start(&["10.9.0.2:7000"]);
    for (reason, want) in [
        (Reason::CONNECT_ERROR, "watch: ConnectionReset"),
        (Reason::INTERNAL_ERROR, "watch: ConnectionReset"),
        (Reason::CANCEL, "watch: end after 2"),
        (Reason::NO_ERROR, "watch: end after 2"),
    ] {
        run(async {
            let node = connect(SERVER, &mesh.identity("client")).await;
            let mut answer = ask(&node, "10.9.0.2:7000", &[]).await;
            answer.send.send_data("watch\nab".into(), false).unwrap();
            assert_eq!(&answer.piece().await[..], b"watching");
            // What was sent before must have been relayed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer.send.send_reset(reason);
            let (_, end) = answer.rest().await;
            assert!(
                end.is_none_or(|end| end == reason || end == Reason::CANCEL),
                "{end:?}"
            );
            tokio::task::spawn_blocking({
                let app = app.clone();
                move || assert_eq!(app.await_seen("watch"), want, "{reason:?}")
            })
            .await
            .unwrap();
        });
    }
    // A connection that goes altogether.
    run(async {
        let node = connect(SERVER, &mesh.identity("client")).await;
        let mut answer = ask(&node, "10.9.0.2:7000", &[]).await;
        answer.send.send_data("watch\nab".into(), false).unwrap();
        assert_eq!(&answer.piece().await[..], b"watching");
    });
    assert_eq!(app.await_seen("watch"), "watch: ConnectionReset");
}

/// Node to node: each app sees of the other what it would see without a mesh.
fn from_end_to_end(mesh: &Mesh) {
    let app = App::start(&["10.9.0.2:7000", "[fd09::2]:7000"]);
    for to in ["10.96.0.1:80", "10.9.0.2:7000", "[fd09::2]:7000"] {
        let open = || mesh.leave(CLIENT, to).unwrap();
        let mut conn = open();
        conn.write_all(b"reset\n").unwrap();
        let mut got = [0; 6];
        conn.read_exact(&mut got).unwrap();
        conn.write_all(b"!").unwrap();
        assert_eq!(
            rest(&mut conn),
            (Vec::new(), Some(ErrorKind::ConnectionReset)),
            "{to}"
        );
        let mut conn = open();
        conn.write_all(b"watch\nabc").unwrap();
        conn.read_exact(&mut [0; 8]).unwrap();
        socket2::SockRef::from(&conn)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(conn);
        assert_eq!(app.await_seen("watch"), "watch: ConnectionReset", "{to}");
        crate::app::bytes_pass(&app, &open, crate::app::Ends::Apart);
    }
}

/// RST_STREAM of the far end: as `of_the_peer`, for the client of our node.
fn of_the_far_end(mesh: &Mesh) {
    let _far = Far::start(
        "10.9.0.101:15008",
        &mesh.identity("peer"),
        Manner::default(),
    );
    for (word, want) in [
        ("reset\n", Some(ErrorKind::ConnectionReset)),
        ("cancel\n", None),
    ] {
        let mut conn = mesh.leave(CLIENT, "10.9.0.101:7000").unwrap();
        conn.write_all(word.as_bytes()).unwrap();
        assert_eq!(rest(&mut conn), (Vec::new(), want), "{word}");
    }
}
