//! OpenSSL's `s_client` and `s_server` as peers, key updates in both directions included.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ringgate::record::{Handshake, Hello, Progress};
use rustls::pki_types::ServerName;

use crate::close;
use crate::pair::{Configs, NAME, Ours, configs, identity};

/// How long OpenSSL may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);

/// An OpenSSL program, ended with the test.
struct OpenSsl {
    child: Child,
    keyboard: ChildStdin,
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl OpenSsl {
    fn run(args: &[&str], dir: &Path) -> Self {
        // It ends in time whatever happens, and with it what waits for it.
        let mut child = Command::new("timeout")
            .args(["60", "openssl"])
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let keyboard = child.stdin.take().unwrap();
        Self { child, keyboard }
    }

    fn type_line(&mut self, line: &str) {
        // One write: a command is what one read of its input begins with.
        self.keyboard
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// Reads what it prints until `text` is there.
    fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let out = self.child.stdout.as_mut().unwrap();
        let mut buf = [0; 1024];
        loop {
            let n = out.read(&mut buf).unwrap();
            assert_ne!(n, 0, "openssl ended: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buf[..n]);
            let so_far = String::from_utf8_lossy(&seen);
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }
}

/// Our end over a socket.
struct Wire {
    socket: TcpStream,
    ours: Ours,
}

impl Wire {
    fn finish(mut socket: TcpStream, mut handshake: Handshake) -> Self {
        loop {
            let progress = handshake.advance().unwrap();
            socket.write_all(&handshake.take_output()).unwrap();
            if progress == Progress::Done {
                let (records, early) = handshake.finish().unwrap();
                let ours = Ours::new(records, early);
                return Self { socket, ours };
            }
            handshake.feed(&receive(&mut socket)).unwrap();
        }
    }

    fn send(&mut self, text: &str) {
        let wire = self.ours.send(text.as_bytes()).unwrap();
        self.socket.write_all(&wire).unwrap();
    }

    /// Reads data until it is `text`.
    fn expect(&mut self, text: &str) {
        let mut data = self.ours.take(&[]).unwrap();
        while data.len() < text.len() {
            let wire = receive(&mut self.socket);
            assert!(!wire.is_empty(), "openssl closed the connection");
            data.extend(self.ours.take(&wire).unwrap());
        }
        assert_eq!(String::from_utf8(data).unwrap(), text);
    }

    /// Reads until OpenSSL has asked for a key update.
    fn until_asked(&mut self) {
        while !self.ours.records.owes() {
            let wire = receive(&mut self.socket);
            assert_eq!(self.ours.take(&wire).unwrap(), b"");
        }
    }

    /// Each side changes its keys, alone and asked.
    fn talk(&mut self, openssl: &mut OpenSsl) {
        self.send("one from us\n");
        openssl.until("one from us");
        openssl.type_line("one from openssl");
        self.expect("one from openssl\n");
        for round in 0..3 {
            // It updates its own key and asks for ours.
            openssl.type_line("K");
            self.until_asked();
            self.send(&format!("after K {round}\n"));
            openssl.until(&format!("after K {round}"));
            // It updates its own key alone.
            openssl.type_line("k");
            let update = receive(&mut self.socket);
            assert_eq!(self.ours.take(&update).unwrap(), b"");
            openssl.type_line(&format!("after k {round}"));
            self.expect(&format!("after k {round}\n"));
            // We update ours alone.
            self.ours.records.update_after(0);
            let mut wire = Vec::new();
            self.ours.records.pay(&mut wire).unwrap();
            self.ours.records.update_after(u64::MAX);
            self.socket.write_all(&wire).unwrap();
            self.send(&format!("after ours {round}\n"));
            openssl.until(&format!("after ours {round}"));
        }
    }

    fn end(&mut self) {
        let wire = close(&mut self.ours);
        self.socket.write_all(&wire).unwrap();
    }
}

fn receive(socket: &mut TcpStream) -> Vec<u8> {
    let mut buf = vec![0; 32 * 1024];
    let n = socket
        .read(&mut buf)
        .expect("openssl says something in time");
    buf.truncate(n);
    buf
}

fn material() -> (tempfile::TempDir, Configs) {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity();
    std::fs::write(dir.path().join("cert.der"), &identity.certificate).unwrap();
    std::fs::write(dir.path().join("key.der"), &identity.key).unwrap();
    let configs = configs("TLS13_AES_256_GCM_SHA384", &rustls::version::TLS13, 2);
    (dir, configs)
}

#[test]
fn openssl_as_client() {
    let (dir, configs) = material();
    let listener = TcpListener::bind("127.83.41.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let args = ["s_client", "-connect", &to, "-servername", NAME, "-tls1_3"];
    let mut openssl = OpenSsl::run(&args, dir.path());
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = Hello::default();
    let wanted = loop {
        let bytes = receive(&mut socket);
        if let Some(wanted) = hello.feed(&bytes).unwrap() {
            break wanted;
        }
    };
    assert_eq!(wanted.sni.as_deref(), Some(NAME));
    let handshake = hello.answer(Arc::clone(&configs.server)).unwrap();
    let mut wire = Wire::finish(socket, handshake);
    wire.talk(&mut openssl);
    wire.end();
    // It answers our close_notify with its own.
    while !wire.ours.records.peer_closed() {
        let bytes = receive(&mut wire.socket);
        assert!(!bytes.is_empty(), "ended without close_notify");
        assert_eq!(wire.ours.take(&bytes).unwrap(), b"");
    }
}

#[test]
fn openssl_as_server() {
    let (dir, configs) = material();
    // A port that nobody has: the listener that found it is closed before OpenSSL takes it.
    let port = TcpListener::bind("127.83.41.2:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let accept = port.to_string();
    let args = [
        "s_server",
        "-accept",
        &accept,
        "-cert",
        "cert.der",
        "-certform",
        "DER",
        "-key",
        "key.der",
        "-keyform",
        "DER",
        "-tls1_3",
        "-naccept",
        "1",
    ];
    let mut openssl = OpenSsl::run(&args, dir.path());
    openssl.until("ACCEPT");
    let socket = TcpStream::connect(port).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let handshake = Handshake::client(Arc::clone(&configs.client), name).unwrap();
    let mut wire = Wire::finish(socket, handshake);
    wire.talk(&mut openssl);
    // `s_server` says close_notify only in answer to ours; its own commands just close the socket.
    wire.end();
    while !wire.ours.records.peer_closed() {
        let bytes = receive(&mut wire.socket);
        assert!(!bytes.is_empty(), "ended without close_notify");
        assert_eq!(wire.ours.take(&bytes).unwrap(), b"");
    }
}
