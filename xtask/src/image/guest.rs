//! What the machine of the check is configured for: an ingress with TLS, a policy, and a server on this host behind it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};

use super::quiet;
use crate::ci;

/// Name of the service for clients.
const HOST: &str = "shop.example.test";
/// Port of the listener in the guest.
pub(crate) const PORT: u16 = 8443;
/// What the server behind answers.
const ANSWER: &str = "from the server behind";
/// This host, as QEMU's user network shows it to a guest.
const OUTSIDE: &str = "10.0.2.2";
/// What policy allows, and what it does not.
pub(crate) const ALLOWED: &str = "/open";
pub(crate) const DENIED: &str = "/closed";

/// A configuration on this host.
pub(crate) struct Guest {
    /// Directory with `ringgate.toml`, certificate and key.
    directory: PathBuf,
    /// The same as one archive.
    pub(crate) archive: PathBuf,
}

impl Guest {
    /// Writes one below `work`, and starts the server that it names. The server ends with this program.
    pub(crate) fn new(work: &Path) -> Result<Self> {
        let directory = work.join("config");
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
        let put = |name: &str, text: &str| std::fs::write(directory.join(name), text);
        put("cert.pem", &certificate.pem())?;
        put("key.pem", &key.serialize_pem())?;
        put("ringgate.toml", &config(serve()?))?;
        let archive = work.join("config.tar");
        let (from, to) = (directory.to_string_lossy(), archive.to_string_lossy());
        quiet(&["tar", "-C", &from, "-cf", &to, "."])?;
        Ok(Self { directory, archive })
    }

    /// A configuration that is refused: the key, and the command line that gives it.
    pub(crate) fn broken() -> (&'static str, String) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode("[process]\ncoers = 1\n");
        ("coers", format!("ringgate.config=base64:{text}"))
    }

    /// Status and body of a request through the forwarded port; `None` if there is no answer.
    pub(crate) fn get(&self, port: u16, path: &str) -> Result<Option<(u16, String)>> {
        let certificate = self.directory.join("cert.pem");
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--max-time", "20", "--cacert"])
            .arg(certificate)
            .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
            .args([
                "-w",
                "\n%{http_code}",
                &format!("https://{HOST}:{port}{path}"),
            ])
            .output()
            .context("curl")?;
        if !output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl says no status")?;
        Ok(Some((status.parse()?, body.to_owned())))
    }

    /// Fails unless policy lets the one through and stops the other.
    pub(crate) fn try_policy(&self, port: u16) -> Result<()> {
        match self.get(port, ALLOWED)? {
            Some((200, body)) if body == ANSWER => {}
            other => bail!("{ALLOWED}: 200 of the server behind expected, got {other:?}"),
        }
        let denied = self.get(port, DENIED)?;
        let status = denied.as_ref().map(|(status, _)| *status);
        ensure!(
            status == Some(403),
            "{DENIED}: 403 expected, got {denied:?}"
        );
        Ok(())
    }
}

fn config(port: u16) -> String {
    format!(
        r#"[process]
io = "io_uring"
[authority]
[records]
path = "stdout"
[[ingress]]
gateway = "edge/public"
[[ingress.listener]]
address = "0.0.0.0:{PORT}"
certificate = "cert.pem"
key = "file:key.pem"
[[gateway]]
name = "public"
namespace = "edge"
gatewayClassName = "ringgate-ingress"
address = "127.0.0.1"
[[serviceEntry]]
name = "web"
namespace = "edge"
hosts = ["web.test"]
ports = [{{ number = 80, name = "http", protocol = "HTTP", targetPort = {port} }}]
resolution = "STATIC"
endpoints = [{{ address = "{OUTSIDE}" }}]
[[httpRoute]]
name = "web"
namespace = "edge"
parentRefs = [{{ name = "public" }}]
hostnames = ["{HOST}"]
rules = [{{ backendRefs = [{{ name = "web", port = 80 }}] }}]
[[authorizationPolicy]]
name = "open"
namespace = "edge"
targetRefs = [{{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }}]
action = "ALLOW"
rules = [{{ to = [{{ operation = {{ methods = ["GET"], paths = ["{ALLOWED}"] }} }}] }}]
"#
    )
}

/// Answers every request, on a port of loopback.
fn serve() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away in the middle is no matter.
            let each = std::thread::Builder::new().spawn(move || answer(stream).ok());
            drop(each);
        }
    })?;
    Ok(port)
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            let length = ANSWER.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{ANSWER}");
            stream.get_mut().write_all(head.as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}

/// A port of loopback that nothing has at the moment.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// What is needed to boot it.
pub(crate) fn tools(root: &Path) -> Result<()> {
    ci::have(
        root,
        &[
            ("qemu-system-x86_64", "qemu-system-x86"),
            (super::boot::FIRMWARE, "ovmf"),
            ("curl", "curl"),
            ("tar", "tar"),
        ],
    )
}
