//! A new process takes over from the one that runs: no connection is refused or reset, and what is open may end by itself.

#![expect(
    clippy::disallowed_types,
    reason = "the app and the clients of these tests block on purpose"
)]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringgate::cli::os;

use crate::pair::{Edit, LONG, Pair, Side, echo, echoes};

const LINES: &str = "handover = \"run/handover.sock\"\ndrain = \"4s\"";

fn edit() -> Edit<'static> {
    Edit {
        server_process: LINES,
        mode: "PERMISSIVE",
        ..Edit::default()
    }
}

fn pair() -> Pair {
    let pair = Pair::on_loopback(crate::PROGRAM, edit());
    echo(TcpListener::bind(pair.app()).unwrap());
    // Only a process that has the socket can be taken over.
    let socket = pair.home(Side::Server).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    pair
}

/// A new connection straight to a listener of the server.
fn plain(pair: &Pair) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect((pair.ip(Side::Server), 15006))?;
    stream.set_read_timeout(Some(LONG))?;
    if echoes(&mut stream) {
        return Ok(stream);
    }
    // What it was that came instead.
    match stream.read(&mut [0]) {
        Ok(n) => Err(std::io::Error::other(format!("{n} bytes"))),
        Err(error) => Err(error),
    }
}

/// Lets the threads of a test end, also if it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Ask = fn(&Pair) -> Result<(), String>;

/// What is asked again and again: of the listeners, of tunnels, of readiness.
const ASKS: [Ask; 3] = [
    |pair| match plain(pair) {
        Ok(_stream) => Ok(()),
        Err(error) => Err(format!("in plaintext: {error}")),
    },
    |pair| match pair.socks() {
        Ok((0, mut stream)) => match echoes(&mut stream) {
            true => Ok(()),
            false => Err("by a tunnel: no echo".to_owned()),
        },
        Ok((code, _)) => Err(format!("by a tunnel: reply {code}")),
        Err(error) => Err(format!("by a tunnel: {error}")),
    },
    |pair| match pair.admin(Side::Server, "readyz") {
        Some(body) if body == "ready" => Ok(()),
        other => Err(format!("readiness: {other:?}")),
    },
];

/// What goes wrong with new connections and with readiness while `work` runs, and for a while after it.
fn under_load(pair: &mut Pair, work: impl FnOnce(&mut Pair)) -> Vec<String> {
    let (stop, served) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
    // The threads ask; the pair itself is changed by `work` alone.
    let eyes = pair.eyes();
    let again = |ask: Ask, served: &AtomicUsize| {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            failed.extend(ask(&eyes).err());
            served.fetch_add(1, Ordering::Relaxed);
        }
        failed
    };
    std::thread::scope(|scope| {
        let again = &again;
        let stopping = Stop(&stop);
        let loads: Vec<_> = ASKS
            .into_iter()
            .zip(&served)
            .map(|(ask, served)| scope.spawn(move || again(ask, served)))
            .collect();
        work(pair);
        let counts = || served.each_ref().map(|n| n.load(Ordering::Relaxed));
        let then = counts();
        os::wait_until(LONG, || {
            counts().iter().zip(then).all(|(now, then)| now - then > 3)
        });
        drop(stopping);
        let failed = loads.into_iter().flat_map(|load| load.join().unwrap());
        failed.collect()
    })
}

/// Whether a connection ends by a reset.
fn is_broken(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// Starts a new process of the server and waits until it has taken over.
fn replace(pair: &mut Pair, cores: u8) {
    let edit = Edit {
        server_cores: cores,
        ..edit()
    };
    replace_with(pair, Side::Server, edit);
}

fn replace_with(pair: &mut Pair, side: Side, edit: Edit<'_>) {
    let taken = |pair: &Pair| pair.log(side).matches("has taken over, this one").count();
    let before = taken(pair);
    pair.configure(side, edit);
    pair.launch(side, &pair.config(side));
    let done = os::wait_until(LONG, || {
        let ended = pair.child(side).try_wait().unwrap();
        assert_eq!(ended, None, "{}", pair.log(side));
        taken(pair) > before
    });
    assert!(done, "{}", pair.log(side));
}

#[test]
fn a_process_is_replaced_twice_and_no_connection_is_lost() {
    let mut pair = pair();
    let failed = under_load(&mut pair, |pair| {
        // More cores than before, and fewer: every socket is served all the same.
        for (nth, cores) in [3, 1].into_iter().enumerate() {
            let mut relay = plain(pair).unwrap();
            let mut tunnel = pair.open();
            replace(pair, cores);
            assert!(echoes(&mut relay), "the old process has dropped it");
            assert!(echoes(&mut tunnel), "the old process has dropped it");
            // The time to drain is over sometime.
            assert!(is_broken(relay));
            assert!(is_broken(tunnel));
            let old = &mut pair.children(Side::Server)[nth];
            assert!(old.wait().unwrap().success());
        }
    });
    assert!(failed.is_empty(), "{failed:?}\n{}", pair.log(Side::Server));
}

#[test]
fn a_new_process_that_fails_changes_nothing() {
    let mut pair = pair();
    let mut relay = plain(&pair).unwrap();
    let taken = TcpListener::bind((pair.ip(Side::Server), 15016)).unwrap();
    let failed = under_load(&mut pair, |pair| {
        let line = format!("outbound = \"{}\"", taken.local_addr().unwrap());
        pair.configure(
            Side::Server,
            Edit {
                server_workload: &line,
                ..edit()
            },
        );
        let config = pair.config(Side::Server);
        pair.launch(Side::Server, &config);
        let mut new = pair.children(Side::Server).pop().unwrap();
        assert_eq!(new.wait().unwrap().code(), Some(1));
        let told = os::wait_until(LONG, || {
            pair.log(Side::Server)
                .contains("was not finished, this process goes on")
        });
        assert!(told, "{}", pair.log(Side::Server));
    });
    assert!(failed.is_empty(), "{failed:?}\n{}", pair.log(Side::Server));
    assert!(echoes(&mut relay));
    replace(&mut pair, 1);
}

/// What asks to take over and is never ready; says what it hears in the end.
fn stalls(socket: &std::path::Path) -> std::process::Child {
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  s.sendall(b'ringgate handover 1\\n')\nprint(len(s.recv(4)), flush=True)\n\
                  last = b''\nwhile data := s.recv(100):\n    last = data\nprint(last.decode()[-1:], flush=True)";
    Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_new_process_that_stalls_makes_room_for_another_one() {
    let mut pair = pair();
    let mut stalled = stalls(&pair.home(Side::Server).join("run/handover.sock"));
    let mut lines = BufReader::new(stalled.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "4", "it has been heard");
    let failed = under_load(&mut pair, |pair| replace(pair, 1));
    assert!(failed.is_empty(), "{failed:?}\n{}", pair.log(Side::Server));
    // Were it to go on, it would not serve.
    assert_eq!(lines.next().unwrap().unwrap(), "N");
    assert!(stalled.wait().unwrap().success());
    let log = pair.log(Side::Server);
    assert!(log.contains("another new process has come"), "{log}");
    replace(&mut pair, 1);
}

/// What is written beside `[authority]` in the tests of its hand-over.
const AUTHORITY: &str = "svidTtl = \"6s\"";

fn with_authority() -> Edit<'static> {
    Edit {
        process: "handover = \"run/handover.sock\"\ndrain = \"40s\"",
        client_tables: AUTHORITY,
        mode: "PERMISSIVE",
        ..Edit::default()
    }
}

/// Tells the authority something by the command line.
fn command(pair: &Pair, words: &[&str]) -> Result<String, String> {
    let output = Command::new(crate::PROGRAM)
        .args(["authority", "--config"])
        .arg(pair.config(Side::Client))
        .args(words)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

fn make_token(pair: &Pair) -> Result<(), String> {
    let id = "spiffe://cluster.local/ns/shop/sa/server";
    command(pair, &["token", "create", "--node", "some", "--id", id]).map(drop)
}

fn issued(pair: &Pair) -> usize {
    pair.log(Side::Client).matches("certificate issued").count()
}

#[test]
fn an_authority_is_replaced_and_loses_nothing() {
    let mut pair = Pair::on_loopback(crate::PROGRAM, with_authority());
    echo(TcpListener::bind(pair.app()).unwrap());
    let socket = pair.home(Side::Client).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    let tunnel = pair.open();
    let eyes = pair.eyes();
    let stop = AtomicBool::new(false);
    let told = std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let told = scope.spawn(|| {
            let mut told = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                told.push(make_token(&eyes));
            }
            told
        });
        let failed = under_load(&mut pair, |pair| {
            replace_with(pair, Side::Client, with_authority());
        });
        drop(stopping);
        assert!(failed.is_empty(), "{failed:?}\n{}", pair.log(Side::Client));
        told.join().unwrap()
    });
    // Each command was done by one of the two, and is known to the second one.
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    let listed = command(&pair, &["token", "list"]).unwrap();
    assert_eq!(listed.lines().count(), told.len(), "{listed}");
    // What the second one revokes ends what the first one still carries.
    let old = &mut pair.children(Side::Client)[0];
    assert_eq!(old.try_wait().unwrap(), None, "it drains");
    let peer = "spiffe://cluster.local/ns/shop/sa/server";
    command(&pair, &["revoke", "--id", peer]).unwrap();
    assert!(is_broken(tunnel), "{}", pair.log(Side::Client));
    assert!(!pair.serves());
    command(&pair, &["unrevoke", "--id", peer]).unwrap();
    let old = &mut pair.children(Side::Client)[0];
    assert!(old.wait().unwrap().success());
    // Nodes ask the second one.
    let before = issued(&pair);
    assert!(os::wait_until(LONG, || issued(&pair) > before + 1));
    assert!(os::wait_until(LONG, || pair.serves()));
    // In turn.
    replace_with(&mut pair, Side::Client, with_authority());
    make_token(&pair).unwrap();
    let listed = command(&pair, &["token", "list"]).unwrap();
    assert_eq!(listed.lines().count(), told.len() + 1, "{listed}");
}

/// The first process has accepted it: nobody else can serve it.
#[test]
fn a_connection_that_has_said_nothing_yet_is_not_lost() {
    let mut pair = Pair::on_loopback(crate::PROGRAM, with_authority());
    echo(TcpListener::bind(pair.app()).unwrap());
    let socket = pair.home(Side::Client).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    // The next one is accepted after it.
    let silent = TcpStream::connect((pair.ip(Side::Client), 15080)).unwrap();
    pair.open();
    replace_with(&mut pair, Side::Client, with_authority());
    let (code, mut stream) = Pair::socks_on(silent, pair.app()).unwrap();
    assert_eq!(code, 0, "{}", pair.log(Side::Client));
    assert!(echoes(&mut stream));
}

/// The second process crashes while the first one drains: a third one begins with nothing but the files.
#[test]
fn a_third_process_serves_when_the_second_one_crashes() {
    let mut pair = Pair::on_loopback(crate::PROGRAM, with_authority());
    echo(TcpListener::bind(pair.app()).unwrap());
    let socket = pair.home(Side::Client).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    make_token(&pair).unwrap();
    let mut tunnel = pair.open();
    replace_with(&mut pair, Side::Client, with_authority());
    make_token(&pair).unwrap();
    pair.kill(Side::Client);
    let old = &mut pair.children(Side::Client)[0];
    assert_eq!(old.try_wait().unwrap(), None, "it drains");
    let before = issued(&pair);
    pair.raise(Side::Client);
    assert!(pair.serves(), "{}", pair.log(Side::Client));
    make_token(&pair).unwrap();
    let listed = command(&pair, &["token", "list"]).unwrap();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    // The certificate service is the third one's, too, and what it revokes ends what the first one still carries.
    assert!(os::wait_until(LONG, || issued(&pair) > before + 1));
    assert!(echoes(&mut tunnel));
    let old = &mut pair.children(Side::Client)[0];
    assert_eq!(old.try_wait().unwrap(), None, "it drains");
    let peer = "spiffe://cluster.local/ns/shop/sa/server";
    command(&pair, &["revoke", "--id", peer]).unwrap();
    assert!(is_broken(tunnel), "{}", pair.log(Side::Client));
}

#[test]
fn a_new_authority_that_fails_changes_nothing() {
    let mut pair = Pair::on_loopback(crate::PROGRAM, with_authority());
    echo(TcpListener::bind(pair.app()).unwrap());
    let socket = pair.home(Side::Client).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    make_token(&pair).unwrap();
    let taken = TcpListener::bind((pair.ip(Side::Client), 15016)).unwrap();
    let line = format!("outbound = \"{}\"", taken.local_addr().unwrap());
    let edit = Edit {
        client_workload: &line,
        ..with_authority()
    };
    pair.configure(Side::Client, edit);
    pair.launch(Side::Client, &pair.config(Side::Client));
    let mut new = pair.children(Side::Client).pop().unwrap();
    assert_eq!(new.wait().unwrap().code(), Some(1));
    make_token(&pair).unwrap();
    let before = issued(&pair);
    assert!(os::wait_until(LONG, || issued(&pair) > before + 1));
    assert!(pair.serves());
    replace_with(&mut pair, Side::Client, with_authority());
    let listed = command(&pair, &["token", "list"]).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

/// A client of the unix socket that runs as another user: what it says, or what it hears.
fn as_nobody(script: &str, path: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ])
        .arg(path);
    command
}

#[test]
fn strangers_take_over_nothing() {
    let mut pair = pair();
    let socket = pair.home(Side::Server).join("run/handover.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Even where the file and its directories would let it.
    for path in [&pair.dir.path, &pair.home(Side::Server), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(
        socket.parent().unwrap(),
        std::fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
               try:\n    s.sendall(b'ringgate handover 1\\n')\n    print(len(s.recv(100)))\nexcept OSError:\n    print(0)";
    let output = as_nobody(ask, &socket).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "0",
        "{said}"
    );
    let told = os::wait_until(LONG, || {
        pair.log(Side::Server).contains("uid 65534 is another user")
    });
    assert!(told, "{}", pair.log(Side::Server));
    let file = || std::fs::metadata(&socket).ok();
    let of = |file: std::fs::Metadata| (file.ino(), file.ctime(), file.ctime_nsec());
    let before = file().map(of);
    replace(&mut pair, 1);
    // Whoever has taken over offers its own sockets a little later.
    let offers = os::wait_until(LONG, || {
        let now = file().map(of);
        now.is_some() && now != before
    });
    assert!(offers, "{}", pair.log(Side::Server));
    // What a crash leaves is replaced.
    for child in pair.children(Side::Server) {
        os::ignore(child.kill());
        os::ignore(child.wait());
    }
    assert!(socket.exists(), "as a crash leaves it");
    pair.raise(Side::Server);
    assert!(pair.serves());
    pair.kill(Side::Server);
    // A process of another user serves the socket: nothing is taken of it.
    std::fs::remove_file(&socket).unwrap();
    let serve = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n\
                 s.accept()[0].recv(100)";
    let mut stranger = as_nobody(serve, &socket).spawn().unwrap();
    assert!(os::wait_until(LONG, || socket.exists()));
    pair.launch(Side::Server, &pair.config(Side::Server));
    let refused = pair.child(Side::Server).wait().unwrap();
    assert_eq!(refused.code(), Some(1));
    assert!(
        pair.log(Side::Server).contains("runs as uid 65534"),
        "{}",
        pair.log(Side::Server)
    );
    os::ignore(stranger.kill());
    os::ignore(stranger.wait());
}

/// A supervisor's end of `NOTIFY_SOCKET`: all that it is told, in order.
fn supervised(path: &std::path::Path) -> Arc<Mutex<Vec<String>>> {
    let socket = UnixDatagram::bind(path).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    os::thread("supervisor", move || {
        let mut text = [0; 4096];
        while let Ok(n) = socket.recv(&mut text) {
            let text = String::from_utf8_lossy(&text[..n]).into_owned();
            heard.lock().unwrap().push(text);
        }
    })
    .unwrap();
    told
}

/// Who is taken over from takes its sockets back from the supervisor, where the other one leaves its own: one that listens at
/// fewer addresses must not find the rest there at its next start.
#[test]
fn who_is_replaced_takes_its_sockets_back() {
    let [x, y] = ringgate::cli::layout::free_octets().unwrap();
    let at = |host: u8| IpAddr::from([127, x, y, host]);
    let pair = Pair::new(crate::PROGRAM, (at(1), at(2)), Vec::new(), edit());
    let path = pair.dir.path.join("notify");
    let told = supervised(&path);
    let environment = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
    let mut pair = pair.with_environment(environment);
    pair.raise(Side::Client);
    pair.raise(Side::Server);
    let socket = pair.home(Side::Server).join("run/handover.sock");
    assert!(os::wait_until(LONG, || socket.exists()));
    // Of this side, with what is said of them.
    let ours = |what: &str| -> Vec<String> {
        let told = told.lock().unwrap();
        let said = told.iter().filter(|text| text.lines().any(|l| l == what));
        let names = said.flat_map(|text| text.lines().filter_map(|l| l.strip_prefix("FDNAME=")));
        let ours = names.filter(|name| name.contains(&format!("{}_", at(2))));
        ours.map(str::to_owned).collect()
    };
    let wanted = |name: &str| ours("FDSTORE=1").iter().any(|n| n.ends_with(name));
    assert!(
        os::wait_until(LONG, || wanted("_15006") && wanted("_15008")),
        "{:?}",
        told.lock().unwrap()
    );
    let mut before = ours("FDSTORE=1");
    assert!(ours("FDSTOREREMOVE=1").is_empty());
    replace(&mut pair, 1);
    before.sort();
    before.dedup();
    let removed = || {
        let mut removed = ours("FDSTOREREMOVE=1");
        removed.sort();
        removed
    };
    assert!(
        os::wait_until(LONG, || removed() == before),
        "{before:?}: {:?}",
        told.lock().unwrap()
    );
    // The other one's are there.
    assert!(
        os::wait_until(LONG, || {
            let told = told.lock().unwrap();
            before.iter().all(|name| {
                let line = format!("FDNAME={name}");
                let about = |text: &&String| text.lines().any(|l| l == line);
                let last = told.iter().rfind(about).unwrap();
                last.lines().any(|l| l == "FDSTORE=1")
            })
        }),
        "{:?}",
        told.lock().unwrap()
    );
}
