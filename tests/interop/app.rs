//! An app that does what the first line of a connection asks of it, and writes down what it saw.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a read may wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Listens until the process ends, in the namespace of the thread that started it.
#[derive(Clone, Debug, Default)]
pub(crate) struct App {
    seen: Arc<Mutex<Vec<String>>>,
}

impl App {
    /// Scripted connections at each of `addresses`.
    pub(crate) fn start(addresses: &[&str]) -> Self {
        let this = Self::default();
        for address in addresses {
            let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            let this = this.clone();
            std::thread::spawn(move || {
                for tcp in listener.incoming().flatten() {
                    let this = this.clone();
                    std::thread::spawn(move || drop(this.serve(tcp)));
                }
            });
        }
        this
    }

    fn serve(&self, tcp: TcpStream) -> std::io::Result<()> {
        tcp.set_nodelay(true)?;
        let mut reader = BufReader::new(tcp.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut tcp = tcp;
        match line.trim() {
            "echo" => {
                std::io::copy(&mut reader, &mut tcp)?;
            }
            // Speaks when the client has ended its side.
            "tail" => {
                let n = std::io::copy(&mut reader, &mut std::io::sink())?;
                tcp.write_all(format!("tail {n}").as_bytes())?;
            }
            // Ends its side first and goes on reading.
            "head" => {
                tcp.write_all(b"head")?;
                tcp.shutdown(Shutdown::Write)?;
                let n = std::io::copy(&mut reader, &mut std::io::sink())?;
                self.saw(format!("head {n}"));
            }
            // Breaks off in the middle.
            "reset" => {
                tcp.write_all(b"so far")?;
                let mut go = [0];
                reader.read_exact(&mut go)?;
                socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
            }
            // How the client ends.
            "watch" => {
                tcp.write_all(b"watching")?;
                let end = std::io::copy(&mut reader, &mut std::io::sink());
                self.saw(match end {
                    Ok(n) => format!("watch: end after {n}"),
                    Err(error) => format!("watch: {:?}", error.kind()),
                });
            }
            other => self.saw(format!("asked for `{other}`")),
        }
        Ok(())
    }

    fn saw(&self, what: String) {
        self.seen.lock().unwrap().push(what);
    }

    /// Waits until it saw something that begins so, takes it out and gives it.
    pub(crate) fn await_seen(&self, begin: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            {
                let mut seen = self.seen.lock().unwrap();
                if let Some(at) = seen.iter().position(|s| s.starts_with(begin)) {
                    return seen.remove(at);
                }
                assert!(Instant::now() < until, "no `{begin}` among {seen:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A server that speaks first and then echoes, as databases do.
pub(crate) fn speaks_first(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            std::thread::spawn(move || {
                tcp.write_all(b"ready\n")?;
                let mut reader = tcp.try_clone()?;
                std::io::copy(&mut reader, &mut tcp)
            });
        }
    });
}

/// Everything to the end, and how it ended.
pub(crate) fn rest(tcp: &mut TcpStream) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match tcp.read(&mut piece) {
            Ok(0) => return (all, None),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

/// Whether the two directions of a connection end apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// As they do in TCP.
    Apart,
    /// Envoy as a server takes a CONNECT stream whose app has ended for answered, and drops what the client still sends.
    OfTheServerIsTheEnd,
}

/// Bytes go both ways whatever carries them: much, nothing, ends in either order, more at a time than one HTTP/2
/// connection takes.
pub(crate) fn bytes_pass(app: &App, connect: &dyn Fn() -> TcpStream, ends: Ends) {
    // Much, both ways at once.
    let mut conn = connect();
    conn.write_all(b"echo\n").unwrap();
    let sent: Vec<u8> = (0..6_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let mut writer = conn.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (got, end) = rest(&mut conn);
    writing.join().unwrap();
    assert_eq!(end, None, "after {} bytes", got.len());
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    // The client ends its side first.
    let mut conn = connect();
    conn.write_all(b"tail\n12345").unwrap();
    conn.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut conn), (b"tail 5".to_vec(), None));
    // The server does, and reads on.
    let mut conn = connect();
    conn.write_all(b"head\n").unwrap();
    assert_eq!(rest(&mut conn), (b"head".to_vec(), None));
    if ends == Ends::Apart {
        conn.write_all(&[7; 100_000]).unwrap();
        conn.shutdown(Shutdown::Write).unwrap();
        assert_eq!(app.await_seen("head"), "head 100000");
    }
    // More at a time than one connection has streams.
    let mut all: Vec<TcpStream> = (0..230).map(|_| connect()).collect();
    for (n, conn) in all.iter_mut().enumerate() {
        conn.write_all(format!("echo\n{n};").as_bytes()).unwrap();
    }
    for (n, conn) in all.iter_mut().enumerate() {
        let want = format!("{n};");
        let mut got = vec![0; want.len()];
        conn.set_read_timeout(Some(PATIENCE)).unwrap();
        conn.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), want);
    }
}
