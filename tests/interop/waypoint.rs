//! HTTP through our waypoint, whoever brings it there.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::app::PATIENCE;

/// The app behind it: answers 200 with the path, connection after connection, request after request.
pub(crate) fn web(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            std::thread::spawn(move || serve(tcp));
        }
    });
}

fn serve(tcp: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(tcp.try_clone().ok()?);
    let mut writer = tcp;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).ok()? == 0 {
            return None;
        }
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let path = first.split(' ').nth(1)?;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}",
            path.len()
        );
        writer.write_all(head.as_bytes()).ok()?;
    }
}

/// Status and body of one GET on a connection that stays.
fn get(conn: &mut TcpStream, path: &str) -> (u16, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: web.default.svc.cluster.local\r\n\r\n");
    conn.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(conn);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        assert_ne!(
            reader.read_line(&mut line).unwrap(),
            0,
            "{path}: the connection has ended"
        );
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some(rest) = line.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (status, body)
}

/// Requests of one connection, each judged by itself.
pub(crate) fn judges_requests(connect: &dyn Fn() -> TcpStream) {
    let mut conn = connect();
    conn.set_read_timeout(Some(PATIENCE)).unwrap();
    for (path, status, body) in [
        ("/open", 200, &b"/open"[..]),
        ("/secret", 403, b"RBAC: access denied"),
        ("/open/2", 200, b"/open/2"),
        ("/open/../secret", 403, b"RBAC: access denied"),
    ] {
        assert_eq!(get(&mut conn, path), (status, body.to_vec()), "{path}");
    }
}
