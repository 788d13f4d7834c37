//! Closed-loop HTTP/1.1 load: each connection sends its next GET when the last answer is complete.
//!
//! One thread, keep-alive, optionally through SOCKS5 (RFC 1928, no authentication, name resolved by
//! the proxy). Any answer that is not 200, or has no content-length, ends the run: a fast error page
//! is no throughput.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Head of an answer, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// What to send where.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Address that is connected to: the app, or the SOCKS5 proxy.
    pub(crate) address: SocketAddr,
    /// `host:port` asked of the SOCKS5 proxy; `None` for a direct connection.
    pub(crate) through_socks: Option<(String, u16)>,
    /// `Host` header.
    pub(crate) host: String,
    /// Request target.
    pub(crate) path: String,
}

/// What one run did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Complete answers.
    pub(crate) requests: u64,
    /// Seconds from the first request to the last answer.
    pub(crate) seconds: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: u64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: u64,
}

/// `load SECONDS CONNECTIONS ADDRESS HOST PATH [SOCKS_HOST SOCKS_PORT]`; prints one line for `Outcome::parse`.
pub(crate) fn run(options: &[&str]) -> Result<bool> {
    let [seconds, connections, address, host, path, socks @ ..] = options else {
        bail!("load SECONDS CONNECTIONS ADDRESS HOST PATH [SOCKS_HOST SOCKS_PORT]");
    };
    let target = Target {
        address: address.parse().context("ADDRESS")?,
        through_socks: match socks {
            [] => None,
            [host, port] => Some(((*host).to_owned(), port.parse().context("SOCKS_PORT")?)),
            _ => bail!("SOCKS_HOST and SOCKS_PORT"),
        },
        host: (*host).to_owned(),
        path: (*path).to_owned(),
    };
    let span = Duration::from_secs(seconds.parse().context("SECONDS")?);
    let outcome = measure(target, connections.parse().context("CONNECTIONS")?, span)?;
    println!("{}", outcome.line());
    Ok(true)
}

/// Runs the load on this thread.
pub(crate) fn measure(target: Target, connections: usize, span: Duration) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let target = Rc::new(target);
        // Connections are opened before the clock starts: this measures requests, not handshakes.
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(open(&target).await?);
        }
        let began = Instant::now();
        let end = began + span;
        let tasks: Vec<_> = opened
            .into_iter()
            .map(|connection| tokio::task::spawn_local(drive(connection, Rc::clone(&target), end)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.append(&mut task.await??);
        }
        Outcome::new(latencies, began.elapsed())
    })
}

async fn open(target: &Target) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(target.address)
        .await
        .with_context(|| format!("connect to {}", target.address))?;
    stream.set_nodelay(true)?;
    if let Some((host, port)) = &target.through_socks {
        socks5(&mut stream, host, *port).await?;
    }
    Ok(stream)
}

/// RFC 1928 sections 3, 4 and 6, address type 3 (domain name).
async fn socks5(stream: &mut TcpStream, host: &str, port: u16) -> Result<()> {
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0_u8; 2];
    stream
        .read_exact(&mut method)
        .await
        .context("SOCKS5 greeting")?;
    ensure!(
        method == [5, 0],
        "SOCKS5 proxy wants authentication: {method:?}"
    );
    let mut request = vec![
        5,
        1,
        0,
        3,
        u8::try_from(host.len()).context("SOCKS5 host name")?,
    ];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0_u8; 4];
    stream
        .read_exact(&mut reply)
        .await
        .context("SOCKS5 reply")?;
    let [version, code, _, kind] = reply;
    ensure!(
        version == 5 && code == 0,
        "SOCKS5 proxy refused: reply {code}"
    );
    let address_length = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        other => bail!("SOCKS5 address type {other}"),
    };
    let mut bound = vec![0_u8; address_length + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

/// Latencies in microseconds of the requests of one connection.
async fn drive(mut stream: TcpStream, target: Rc<Target>, end: Instant) -> Result<Vec<u64>> {
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\naccept: */*\r\n\r\n",
        target.path, target.host
    );
    let mut buffer = Vec::with_capacity(HEAD_MAX);
    let mut latencies = Vec::new();
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(latencies);
        }
        stream.write_all(request.as_bytes()).await?;
        answer(&mut stream, &mut buffer).await?;
        latencies.push(u64::try_from(start.elapsed().as_micros())?);
    }
}

/// Reads one whole answer; `buffer` is empty before and after.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    let whole = loop {
        let got = stream.read_buf(buffer).await?;
        ensure!(
            got > 0,
            "connection closed in an answer after {} bytes",
            buffer.len()
        );
        if let Some(length) = answer_length(buffer)? {
            break length;
        }
        ensure!(buffer.len() < HEAD_MAX, "answer head over {HEAD_MAX} bytes");
    };
    while buffer.len() < whole {
        let got = stream.read_buf(buffer).await?;
        ensure!(got > 0, "connection closed in a body");
    }
    ensure!(
        buffer.len() == whole,
        "{} bytes after an answer",
        buffer.len() - whole
    );
    buffer.clear();
    Ok(())
}

/// Head and body of the answer that `bytes` begin with, in bytes; `None` until the head is complete.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(bytes.get(..head_end).unwrap_or_default());
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "answer is `{status}`");
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            let body: usize = value.trim().parse().context("content-length")?;
            return Ok(Some(head_end + 4 + body));
        }
    }
    bail!("answer without content-length")
}

impl Outcome {
    fn new(mut latencies: Vec<u64>, took: Duration) -> Result<Self> {
        latencies.sort_unstable();
        let at = |part: usize| latencies.get(latencies.len() * part / 100).copied();
        Ok(Self {
            requests: u64::try_from(latencies.len())?,
            seconds: took.as_secs_f64(),
            p50_us: at(50).context("no request was answered")?,
            p99_us: at(99).context("no request was answered")?,
        })
    }

    /// One line for `parse`.
    fn line(&self) -> String {
        format!(
            "{} {} {} {}",
            self.requests, self.seconds, self.p50_us, self.p99_us
        )
    }

    /// What `line` printed.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [requests, seconds, p50_us, p99_us] = words.as_slice() else {
            bail!("load printed `{line}`");
        };
        Ok(Self {
            requests: requests.parse()?,
            seconds: seconds.parse()?,
            p50_us: p50_us.parse()?,
            p99_us: p99_us.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_measured_whole() {
        let length = |text: &str| answer_length(text.as_bytes());
        assert_eq!(
            length("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").expect("partial"),
            None
        );
        assert_eq!(
            length("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").expect("whole head"),
            Some(43)
        );
        assert!(length("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(length("HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn outcome_survives_its_line() {
        let outcome =
            Outcome::new((1..=200).collect(), Duration::from_millis(1500)).expect("latencies");
        assert_eq!(
            (outcome.requests, outcome.p50_us, outcome.p99_us),
            (200, 101, 199)
        );
        assert_eq!(Outcome::parse(&outcome.line()).expect("own line"), outcome);
        assert!(Outcome::new(Vec::new(), Duration::ZERO).is_err());
    }

    /// A server that speaks SOCKS5 and then answers `status` once per request.
    fn serve(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut greeting = [0; 3];
                    stream.read_exact(&mut greeting).expect("greeting");
                    stream.write_all(&[5, 0]).expect("method");
                    let mut request = [0; 4 + 1 + 3 + 2];
                    stream.read_exact(&mut request).expect("request");
                    assert_eq!(&request, b"\x05\x01\x00\x03\x03api\x00\x50");
                    stream
                        .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                        .expect("reply");
                    let mut bytes = [0; 1024];
                    while let Ok(got) = stream.read(&mut bytes)
                        && got > 0
                    {
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn target(address: SocketAddr) -> Target {
        Target {
            address,
            through_socks: Some(("api".to_owned(), 80)),
            host: "api".to_owned(),
            path: "/".to_owned(),
        }
    }

    #[test]
    fn load_goes_through_socks() {
        let outcome = measure(target(serve("200 OK")), 2, Duration::from_millis(100)).expect("run");
        assert!(outcome.requests > 2, "{outcome:?}");
    }

    #[test]
    fn a_denied_run_is_no_result() {
        let error = measure(
            target(serve("403 Forbidden")),
            2,
            Duration::from_millis(100),
        )
        .expect_err("403");
        assert!(format!("{error:#}").contains("403"), "{error:#}");
    }
}
