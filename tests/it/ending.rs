//! How things end: clients that vanish, the process that is told to stop, listeners that cannot be had, too few files.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ringgate::cli::apps::{self, Apps, Selection};
use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Scratch, last_lines};
use ringgate::cli::layout::{Layout, host};
use ringgate::cli::target::Target;
use ringgate::cli::{material, os};
use serde_json::Value;

use crate::demo::layout;

/// A mesh in one process, the outside, and no apps: the tests play them.
struct Bare {
    child: Child,
    _outside: Apps,
    target: Target,
    layout: Layout,
    _dir: Scratch,
}

impl Bare {
    fn start(io: Io, edit: impl Fn(String) -> String) -> Self {
        let dir = Scratch::new(false).unwrap();
        let layout = layout(&dir);
        material::write(&layout, io.word()).unwrap();
        let text = edit(os::read_text(&layout.config()).unwrap());
        os::write(&layout.config(), text.as_bytes(), 0o644).unwrap();
        let outside = apps::start(&layout, Selection::Outside).unwrap();
        let mut bare = Self {
            child: run(&layout, &[]),
            _outside: outside,
            target: Target::loopback(&layout),
            layout,
            _dir: dir,
        };
        let ready = os::wait_until(Duration::from_secs(30), || {
            assert_eq!(bare.child.try_wait().unwrap(), None, "{}", bare.log());
            bare.admin("readyz").is_some_and(|body| body == "ready")
        });
        assert!(ready, "{}", bare.log());
        bare
    }

    fn log(&self) -> String {
        last_lines(&self.layout.file("run.log"))
    }

    fn admin(&self, path: &str) -> Option<String> {
        let (caller, base) = &self.target.admins[0];
        let answer = caller.call(&format!("{base}/{path}")).ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    /// customer-api, played by the test.
    fn app(&self) -> TcpListener {
        TcpListener::bind(self.layout.at(host::CUSTOMER_API, 18080)).unwrap()
    }

    fn term(&mut self) -> (ExitStatus, Duration) {
        let begun = os::now();
        signal(&self.child);
        let mut status = None;
        os::wait_until(Duration::from_secs(15), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.expect("it does not end"), begun.elapsed())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        os::ignore(self.child.kill());
        os::ignore(self.child.wait());
    }
}

fn signal(child: &Child) {
    os::terminate(child.id()).unwrap();
}

fn run(layout: &Layout, before: &[&str]) -> Child {
    let log = std::fs::File::create(layout.file("run.log")).unwrap();
    let mut words = before
        .iter()
        .copied()
        .chain([crate::PROGRAM, "run", "--config"]);
    Command::new(words.next().unwrap())
        .args(words)
        .arg(layout.config())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The next connection of the app, its request head read, and no answer given.
fn asked(app: &TcpListener) -> TcpStream {
    let (mut stream, _peer) = app.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

/// Whether the other side has ended or broken off the connection within 5 s.
fn ends(mut stream: TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn is_gone(record: &Value) -> bool {
    record["kind"] == "request" && record["close"] == "downstream_reset"
}

/// HTTP/1 through node, waypoint and node; HTTP/2 at the ingress. The app never answers.
#[test]
fn a_client_that_vanishes_takes_its_request_with_it() {
    for io in [Io::Epoll, Io::IoUring] {
        let mesh = Bare::start(io, |text| text);
        let (app, body) = (mesh.app(), mesh.layout.file("body"));
        let mark = mesh.target.records.mark();
        let client = mesh
            .target
            .frontend
            .download("http://customer-api/api/v1/users/7", &body)
            .unwrap();
        let upstream = asked(&app);
        drop(client);
        assert!(ends(upstream), "{io:?}: the app still waits");
        let records = mesh.target.records.await_some(&mark, 1, is_gone);
        assert_eq!(records.len(), 1, "the waypoint's: {records:?}");
        assert_eq!(records[0]["status"], Value::Null, "nobody got an answer");

        let mark = mesh.target.records.mark();
        let url = format!("https://{}:8443/api/v1/users/7", material::PORTAL);
        let client = portal(&mesh).download(&url, &body).unwrap();
        let upstream = asked(&app);
        drop(client);
        assert!(ends(upstream), "{io:?}: the app still waits");
        let records = mesh.target.records.await_some(&mark, 2, is_gone);
        assert_eq!(records.len(), 2, "ingress and waypoint: {records:?}");
    }
}

/// A caller with an end user's token at the ingress, over HTTP/2.
fn portal(mesh: &Bare) -> ringgate::cli::curl::Caller {
    let token = ringgate::cli::drill::token::mint(
        &mesh.target.user_key,
        ringgate::cli::drill::token::Flaw::None,
    )
    .unwrap();
    let bearer = format!("Authorization: Bearer {token}");
    let at = format!("{}:8443:{}", material::PORTAL, mesh.target.ingress);
    let ca = mesh.target.edge_ca.to_string_lossy().into_owned();
    mesh.target
        .outsider
        .with(&["--http2", "-H", &bearer, "--resolve", &at, "--cacert", &ca])
}

/// An answer that is cut must not look like one that is complete, whatever its framing.
#[test]
fn a_cut_answer_does_not_look_complete() {
    let mesh = Bare::start(Io::Auto, |text| text);
    let app = mesh.app();
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let body = mesh.layout.file("body");
        let caller = mesh.target.frontend.with(&["--http1.0"]);
        let mut client = caller
            .download("http://customer-api/api/v1/users/7", &body)
            .unwrap();
        let mut upstream = asked(&app);
        upstream.write_all(head.as_bytes()).unwrap();
        drop(upstream);
        let (exit, text) = client.ended(Duration::from_secs(5)).expect("curl waits");
        assert_ne!(exit, 0, "{head:?} looked complete: {text}");
    }
}

/// What is idle ends at once, what is under way may end by itself, what does not is ended and recorded.
#[test]
fn stop_drains() {
    for io in [Io::Epoll, Io::IoUring] {
        let mut mesh = Bare::start(io, |text| text);
        let app = mesh.app();
        let body = mesh.layout.file("body");
        let call = || {
            mesh.target
                .frontend
                .download("http://customer-api/api/v1/users/7", &body)
                .unwrap()
        };
        // One that is answered after the signal.
        let mut answered = call();
        let mut upstream = asked(&app);
        let late = std::thread::scope(|scope| {
            let ending = scope.spawn(|| {
                std::thread::park_timeout(Duration::from_millis(700));
                upstream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .unwrap();
                upstream
            });
            signal(&mesh.child);
            ending.join().unwrap()
        });
        assert_eq!(
            answered.ended(Duration::from_secs(3)).map(|(exit, _)| exit),
            Some(0),
            "{io:?}: {}",
            mesh.log()
        );
        drop(late);
        let (status, _took) = mesh.term();
        assert!(status.success(), "{io:?}: {status}: {}", mesh.log());
    }
}

#[test]
fn stop_ends_what_does_not_end_by_itself() {
    let mut mesh = Bare::start(Io::Auto, |text| text);
    let app = mesh.app();
    let mark = mesh.target.records.mark();
    let body = mesh.layout.file("body");
    let mut client = mesh
        .target
        .frontend
        .download("http://customer-api/api/v1/users/7", &body)
        .unwrap();
    let _upstream = asked(&app);
    let (status, took) = mesh.term();
    assert!(status.success(), "{status}: {}", mesh.log());
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(30)).contains(&took),
        "{took:?}"
    );
    assert!(client.ended(Duration::from_secs(2)).is_some());
    let drained = mesh.target.records.await_some(&mark, 2, |r| {
        r["kind"] == "request" && r["close"] == "drain"
    });
    assert!(!drained.is_empty(), "no record says why it ended");
}

#[test]
fn an_idle_system_stops_at_once() {
    let mut mesh = Bare::start(Io::Auto, |text| text.replace("cores = 1", "cores = 2"));
    let app = mesh.app();
    // Leaves an idle connection in every pool on the way.
    let mut client = mesh
        .target
        .frontend
        .download(
            "http://customer-api/api/v1/users/7",
            &mesh.layout.file("body"),
        )
        .unwrap();
    let mut upstream = asked(&app);
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .unwrap();
    assert_eq!(
        client.ended(Duration::from_secs(5)).map(|(exit, _)| exit),
        Some(0)
    );
    let (status, took) = mesh.term();
    assert!(status.success(), "{status}: {}", mesh.log());
    assert!(took < Duration::from_secs(3), "{took:?}: {}", mesh.log());
}

/// One listener that cannot be had ends the whole process, with a message that names it.
#[test]
fn a_core_that_cannot_serve_ends_the_process() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let text = os::read_text(&layout.config()).unwrap();
    let two = text.replace("cores = 1", "cores = 2");
    os::write(&layout.config(), two.as_bytes(), 0o644).unwrap();
    let address = layout.at(host::EGRESS, 15081);
    let _taken = TcpListener::bind(&address).unwrap();
    let mut child = run(&layout, &[]);
    let mut status = None;
    os::wait_until(Duration::from_secs(30), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    os::ignore(child.kill());
    let status = status.expect("it goes on without a listener");
    assert_eq!(status.code(), Some(1));
    let log = last_lines(&layout.file("run.log"));
    assert!(log.contains(&address), "{log}");
}

/// Too many open files: accepting waits instead of spinning, and goes on when there is room.
#[test]
fn running_out_of_files_costs_no_cpu() {
    for io in [Io::Epoll, Io::IoUring] {
        let mesh = Bare::start(io, |text| text);
        let pid = mesh.child.id().to_string();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count();
        let limit = format!("--nofile={0}:{0}", open + 20);
        let limited = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(limited.unwrap().success());
        let socks = mesh.layout.at(host::FRONTEND, 15080);
        let held: Vec<TcpStream> = (0..60)
            .map(|_| TcpStream::connect(&socks).unwrap())
            .collect();
        std::thread::park_timeout(Duration::from_millis(300));
        let before = cpu_ticks(&pid);
        std::thread::park_timeout(Duration::from_secs(2));
        let spent = cpu_ticks(&pid) - before;
        assert!(spent < 40, "{io:?}: {spent} ticks of 10 ms in 2 s");
        drop(held);
        let app = mesh.app();
        let answered = std::thread::scope(|scope| {
            let answering = scope.spawn(|| {
                asked(&app)
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .unwrap();
            });
            let answer = mesh
                .target
                .frontend
                .call("http://customer-api/api/v1/users/7");
            answering.join().unwrap();
            answer.unwrap()
        });
        assert_eq!(answered.status, 200, "{io:?}: {}", answered.seen());
    }
}

/// User and system time of a process so far (`proc(5)`).
fn cpu_ticks(pid: &str) -> u64 {
    let stat = os::read_text(format!("/proc/{pid}/stat").as_ref()).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let field = |nth: usize| {
        after
            .split_whitespace()
            .nth(nth)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    field(11) + field(12)
}
