//! A shop behind an ingress: the server, and the certificate that clients see.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

/// Its name.
pub(crate) const HOST: &str = "shop.example.test";

/// Answers every request with 200, on connections that stay.
pub(crate) fn backend(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                    if line == "\r\n" {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.get_mut().write_all(answer).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
}

/// Writes a new certificate and key.
pub(crate) fn pair(dir: &Path, certificate: &str, key: &str) {
    let made = KeyPair::generate().unwrap();
    let params = CertificateParams::new([HOST.to_owned()]).unwrap();
    let signed = params.self_signed(&made).unwrap();
    std::fs::write(dir.join(key), made.serialize_pem()).unwrap();
    std::fs::write(dir.join(certificate), signed.pem()).unwrap();
    // A key that everybody may read is warned of.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join(key), private).unwrap();
}
