//! A server that records each message that reaches it, strictly read, and answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Fields that proxies on the way set; what they say has tests of its own.
const OWN: [&str; 4] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "x-request-id",
];

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) line: String,
    /// Names as they came.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// It came whole.
    pub(crate) whole: bool,
    /// Which connection it came over.
    pub(crate) connection: usize,
}

impl Message {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Target.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// One text for each meaning: fields in order of their names without those that proxies set, the body without its
    /// chunks.
    pub(crate) fn normal(&self) -> String {
        let sorted = |fields: &[(String, String)]| {
            let mut lines: Vec<String> = fields
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .filter(|(name, _)| !OWN.contains(&name.as_str()))
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect();
            lines.sort();
            lines.concat()
        };
        let body = self.body.escape_ascii();
        let (fields, trailers) = (sorted(&self.fields), sorted(&self.trailers));
        format!("{}\n{fields}\n{body}\n{trailers}", self.line)
    }
}

/// Line of what came instead of a head, or is half of one.
pub(crate) const NO_HEAD: &str = "no head";

/// What stands between its steps.
pub(crate) const PAUSE: &str = "@pause";
/// Reads the body of the request, which is read before the first step otherwise.
pub(crate) const BODY: &str = "@body";
/// Ends the connection.
pub(crate) const CLOSE: &str = "@close";
/// Sends back what comes, until the end.
pub(crate) const ECHO: &str = "@echo";
/// Waits until `Backend::go` is called.
pub(crate) const WAIT: &str = "@wait";

/// Agrees to a WebSocket, with the key's own answer.
pub(crate) const SWITCH: &str = "@switch";
/// Sends `FLOOD_BYTES`.
pub(crate) const FLOOD: &str = "@flood";
/// Takes the body of the request and forgets it.
pub(crate) const DRAIN: &str = "@drain";
/// One GiB.
pub(crate) const FLOOD_BYTES: usize = 1 << 30;

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<(usize, Message)>>,
    script: Mutex<Vec<Vec<u8>>>,
    /// Messages belong to the case in whose time their head came.
    generation: AtomicUsize,
    connections: AtomicUsize,
    gone: AtomicUsize,
}

/// What a connection is carried by.
trait Wire: Read + Write {
    /// Ends our direction as the protocol has it.
    fn end(&mut self);
}

impl Wire for TcpStream {
    fn end(&mut self) {
        drop(self.shutdown(Shutdown::Write));
    }
}

impl Wire for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn end(&mut self) {
        self.conn.send_close_notify();
        drop(self.conn.complete_io(&mut self.sock));
        self.sock.end();
    }
}

/// The server.
#[derive(Clone, Default)]
pub(crate) struct Backend(Arc<Shared>);

impl Backend {
    pub(crate) fn start(address: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).expect("the backend can listen");
        let this = Self::default();
        let shared = this.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (this, tls) = (shared.clone(), tls.clone());
                tcp.set_nodelay(true).unwrap();
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        let session = rustls::ServerConnection::new(config).unwrap();
                        this.serve(rustls::StreamOwned::new(session, tcp));
                    }
                    None => this.serve(tcp),
                });
            }
        });
        this
    }

    /// What it answers from now on, step by step; nothing: a plain 200. What came before is forgotten.
    pub(crate) fn will(&self, script: &[Vec<u8>]) {
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        *self.0.script.lock().unwrap() = script.to_vec();
    }

    /// As `will`, of text.
    pub(crate) fn says(&self, script: &[&str]) {
        let script: Vec<Vec<u8>> = script.iter().map(|s| s.as_bytes().to_vec()).collect();
        self.will(&script);
    }

    /// Lets one `WAIT` of those so far and to come go on.
    pub(crate) fn go(&self) {
        self.0.gone.fetch_add(1, Ordering::SeqCst);
    }

    /// Messages since `will`.
    pub(crate) fn seen(&self) -> Vec<Message> {
        let now = self.0.generation.load(Ordering::SeqCst);
        let log = self.0.log.lock().unwrap();
        let of_now = log.iter().filter(|(at, _)| *at == now);
        of_now.map(|(_, message)| message.clone()).collect()
    }

    fn serve(&self, stream: impl Wire) {
        let connection = self.0.connections.fetch_add(1, Ordering::SeqCst);
        let mut stream = BufReader::new(stream);
        while self.one(&mut stream, connection).is_some() {}
    }

    fn one(&self, stream: &mut BufReader<impl Wire>, connection: usize) -> Option<()> {
        // A clean end; whatever else comes is a message, or something that may not have come.
        if stream.fill_buf().ok()?.is_empty() {
            return None;
        }
        let head = head(stream);
        let at = self.0.generation.load(Ordering::SeqCst);
        let Some(mut message) = head else {
            let line = NO_HEAD.to_owned();
            let message = Message {
                line,
                connection,
                ..Message::default()
            };
            return self.note(at, message, false);
        };
        message.connection = connection;
        let mut script = self.0.script.lock().unwrap().clone();
        if script.is_empty() || message.target().starts_with("/api/probe") {
            script = vec![BODY.into(), plain(&message)];
        } else if !script
            .iter()
            .any(|step| step == BODY.as_bytes() || step == DRAIN.as_bytes())
        {
            script.insert(0, BODY.into());
        }
        let mut noted = false;
        for step in script {
            match step.as_slice() {
                step if step == PAUSE.as_bytes() => {
                    std::thread::sleep(Duration::from_millis(150));
                }
                step if step == CLOSE.as_bytes() => {
                    stream.get_mut().end();
                    return self.note(at, message, noted);
                }
                step if step == WAIT.as_bytes() => self.wait(),
                step if step == SWITCH.as_bytes() => {
                    let head = switch(&message);
                    stream.get_mut().write_all(head.as_bytes()).ok()?;
                    stream.get_mut().flush().ok()?;
                }
                step if step == BODY.as_bytes() => {
                    message.whole = body(stream, &mut message).is_some();
                    let whole = message.whole;
                    self.note(at, message.clone(), noted);
                    noted = true;
                    if !whole {
                        return None;
                    }
                }
                step if step == FLOOD.as_bytes() => {
                    let piece = vec![b'x'; 1 << 16];
                    for _ in 0..FLOOD_BYTES / piece.len() {
                        stream.get_mut().write_all(&piece).ok()?;
                    }
                }
                step if step == DRAIN.as_bytes() => {
                    let length = message.all("content-length").first()?.parse().ok()?;
                    let mut rest = stream.by_ref().take(length);
                    std::io::copy(&mut rest, &mut std::io::sink()).ok()?;
                }
                step if step == ECHO.as_bytes() => {
                    let mut piece = [0; 4096];
                    loop {
                        let n = stream.read(&mut piece).ok()?;
                        if n == 0 {
                            stream.get_mut().end();
                            return None;
                        }
                        stream.get_mut().write_all(&piece[..n]).ok()?;
                        stream.get_mut().flush().ok()?;
                    }
                }
                bytes => {
                    let out = stream.get_mut();
                    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
                        return self.note(at, message, noted);
                    }
                }
            }
        }
        Some(())
    }

    /// Waits for its turn to go on.
    fn wait(&self) {
        for _ in 0..3000 {
            let gone = self.0.gone.load(Ordering::SeqCst);
            if gone > 0
                && self
                    .0
                    .gone
                    .compare_exchange(gone, gone - 1, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody lets the backend go on");
    }

    fn note(&self, at: usize, message: Message, noted: bool) -> Option<()> {
        if !noted {
            self.0.log.lock().unwrap().push((at, message));
        }
        None
    }
}

/// The answer to a request for a WebSocket (RFC 6455 section 4.2.2).
fn switch(message: &Message) -> String {
    let key = message.all("sec-websocket-key").concat();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = STANDARD.encode(hash);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
    )
}

fn plain(message: &Message) -> Vec<u8> {
    let mut words = message.line.split(' ');
    let method = words.next().unwrap_or_default();
    let body = format!("{method} {}\n", message.target());
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { "" } else { &body };
    format!("{head}{body}").into_bytes()
}

/// A line that ends as it must; `None` at the end of the stream.
fn line(stream: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).ok()? == 0 {
        return None;
    }
    let line = line.strip_suffix(b"\r\n")?;
    // One character a byte, so that none is lost.
    Some(line.iter().map(|b| char::from(*b)).collect())
}

fn fields(stream: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            return Some(fields);
        }
        let (name, value) = line.split_once(':')?;
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

pub(crate) fn head(stream: &mut impl BufRead) -> Option<Message> {
    let line = line(stream)?;
    Some(Message {
        line,
        fields: fields(stream)?,
        ..Message::default()
    })
}

/// Reads the body by the framing that the head says, which must be one.
pub(crate) fn body(stream: &mut impl BufRead, message: &mut Message) -> Option<()> {
    let codings = message.all("transfer-encoding");
    let lengths = message.all("content-length");
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Some(()),
        ([], [length]) => {
            let n: u64 = length.parse().ok()?;
            let read = stream.take(n).read_to_end(&mut message.body).ok()?;
            (read as u64 == n).then_some(())
        }
        (["chunked"], []) => loop {
            let size = line(stream)?;
            let n = u64::from_str_radix(&size, 16).ok()?;
            if n == 0 {
                message.trailers = fields(stream)?;
                return Some(());
            }
            let read = stream.take(n).read_to_end(&mut message.body).ok()?;
            if read as u64 != n || !line(stream)?.is_empty() {
                return None;
            }
        },
        // Of two meanings.
        _ => None,
    }
}

/// What is no head, and half of one, is seen; who comes and goes is not.
#[test]
fn what_is_no_head_is_noted() {
    let address = "127.87.61.1:18080";
    let backend = Backend::start(address, None);
    for bytes in ["", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET / HT"] {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.write_all(bytes.as_bytes()).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        // It has noted it before it closes.
        assert_eq!(tcp.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
    let seen = backend.seen();
    let told: Vec<_> = seen.iter().map(|m| (m.line.as_str(), m.whole)).collect();
    assert_eq!(told, [(NO_HEAD, false); 2]);
}
