//! The load of the L4 bench: bulk, request and response, short connections, idle connections.
//!
//! One thread; all connections but the short ones are open before the clock starts. Whatever does not come back as it
//! was sent ends the run: what is lost or cut short is no throughput.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::serve::CHUNK;

/// Size of a small request and of its answer, in bytes.
const SMALL: usize = 100;

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Requests or connections; 0 in bulk.
    pub(crate) operations: u64,
    /// Bytes, where they are what counts.
    pub(crate) bytes: u64,
    /// From the start to the last answer.
    pub(crate) seconds: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
}

/// What one connection did.
#[derive(Debug, Default)]
struct Done {
    latencies_ns: Vec<u64>,
    bytes: u64,
}

/// `l4-load KIND ADDRESS CONNECTIONS SECONDS`; prints one line for [`Outcome::parse`]. `hold` prints `ready` and keeps
/// its connections until its input ends.
pub(crate) fn run(options: &[&str]) -> Result<bool> {
    let [kind, address, connections, seconds] = options else {
        bail!("l4-load KIND ADDRESS CONNECTIONS SECONDS");
    };
    let address: SocketAddr = address.parse().context("ADDRESS")?;
    let connections: usize = connections.parse().context("CONNECTIONS")?;
    let span = Duration::from_secs_f64(seconds.parse().context("SECONDS")?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match *kind {
        "hold" => runtime.block_on(hold(address, connections))?,
        kind => {
            let outcome = runtime.block_on(measure(kind, address, connections, span))?;
            println!("{}", outcome.line());
        }
    }
    Ok(true)
}

async fn measure(
    kind: &str,
    address: SocketAddr,
    connections: usize,
    span: Duration,
) -> Result<Outcome> {
    let mut opened = Vec::new();
    if kind != "connect" {
        for _ in 0..connections {
            opened.push(open(address).await?);
        }
    }
    let began = Instant::now();
    let end = began + span;
    let tasks: Vec<JoinHandle<Result<Done>>> = match kind {
        "up" => spawn(opened, |stream| up(stream, end)),
        "down" => spawn(opened, |stream| down(stream, end)),
        "echo" => spawn(opened, |stream| echo(stream, end)),
        "connect" => spawn(0..connections, |_| connect(address, end)),
        other => bail!("no load `{other}`"),
    };
    let mut latencies = Vec::new();
    let mut bytes = 0;
    for task in tasks {
        let done = task.await??;
        latencies.extend(done.latencies_ns);
        bytes += done.bytes;
    }
    Outcome::new(latencies, bytes, began.elapsed())
}

fn spawn<T, F>(
    over: impl IntoIterator<Item = T>,
    task: impl Fn(T) -> F,
) -> Vec<JoinHandle<Result<Done>>>
where
    F: Future<Output = Result<Done>> + Send + 'static,
{
    over.into_iter()
        .map(|one| tokio::spawn(task(one)))
        .collect()
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn up(mut stream: TcpStream, end: Instant) -> Result<Done> {
    let chunk = vec![b'.'; CHUNK];
    let mut bytes = 0;
    while Instant::now() < end {
        stream.write_all(&chunk).await?;
        bytes += u64::try_from(CHUNK)?;
    }
    stream.shutdown().await?;
    let got = stream.read_u64().await.context("no total from the sink")?;
    ensure!(got == bytes, "sent {bytes} bytes, the sink got {got}");
    Ok(Done {
        bytes,
        ..Done::default()
    })
}

async fn down(mut stream: TcpStream, end: Instant) -> Result<Done> {
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    while Instant::now() < end {
        let got = stream.read(&mut buffer).await?;
        ensure!(got > 0, "the source ended");
        bytes += u64::try_from(got)?;
    }
    Ok(Done {
        bytes,
        ..Done::default()
    })
}

async fn echo(mut stream: TcpStream, end: Instant) -> Result<Done> {
    let mut done = Done::default();
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(done);
        }
        ask(&mut stream).await?;
        done.latencies_ns
            .push(u64::try_from(start.elapsed().as_nanos())?);
    }
}

async fn connect(address: SocketAddr, end: Instant) -> Result<Done> {
    let mut done = Done::default();
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(done);
        }
        ask(&mut open(address).await?).await?;
        done.latencies_ns
            .push(u64::try_from(start.elapsed().as_nanos())?);
    }
}

/// One request and its answer.
async fn ask(stream: &mut TcpStream) -> Result<()> {
    let request = [b'q'; SMALL];
    stream.write_all(&request).await?;
    let mut answer = [0; SMALL];
    stream.read_exact(&mut answer).await.context("no answer")?;
    ensure!(answer == request, "the answer is not what was sent");
    Ok(())
}

async fn hold(address: SocketAddr, connections: usize) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut stream = open(address).await?;
        ask(&mut stream).await?;
        held.push(stream);
    }
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for stream in &mut held {
        ask(stream).await.context("a held connection is gone")?;
    }
    Ok(())
}

impl Outcome {
    fn new(mut latencies_ns: Vec<u64>, bytes: u64, took: Duration) -> Result<Self> {
        ensure!(bytes > 0 || !latencies_ns.is_empty(), "nothing came back");
        latencies_ns.sort_unstable();
        let at = |part: usize| {
            let index = latencies_ns.len() * part / 100;
            let nanoseconds = latencies_ns.get(index).copied().unwrap_or_default();
            Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
        };
        Ok(Self {
            operations: u64::try_from(latencies_ns.len())?,
            bytes,
            seconds: took.as_secs_f64(),
            p50_us: at(50),
            p99_us: at(99),
        })
    }

    fn line(&self) -> String {
        format!(
            "{} {} {} {} {}",
            self.operations, self.bytes, self.seconds, self.p50_us, self.p99_us
        )
    }

    /// What `line` printed.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [operations, bytes, seconds, p50_us, p99_us] = words.as_slice() else {
            bail!("the load printed `{line}`");
        };
        Ok(Self {
            operations: operations.parse()?,
            bytes: bytes.parse()?,
            seconds: seconds.parse()?,
            p50_us: p50_us.parse()?,
            p99_us: p99_us.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_survives_its_line() {
        let latencies = (1..=200).map(|n| n * 1000).collect();
        let outcome = Outcome::new(latencies, 0, Duration::from_millis(1500)).expect("latencies");
        assert_eq!(
            (outcome.operations, outcome.p50_us, outcome.p99_us),
            (200, 101.0, 199.0)
        );
        assert_eq!(Outcome::parse(&outcome.line()).expect("own line"), outcome);
        assert!(Outcome::new(Vec::new(), 0, Duration::ZERO).is_err());
    }

    fn against(kind: &str, serve: fn(std::net::TcpStream)) -> Result<Outcome> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(stream.expect("accept")));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(measure(kind, address, 2, Duration::from_millis(50)))
    }

    #[test]
    fn what_comes_back_otherwise_is_no_result() {
        let copy = |mut stream: std::net::TcpStream| {
            std::io::copy(&mut stream.try_clone().expect("clone"), &mut stream).ok();
        };
        let outcome = against("echo", copy).expect("echo");
        assert!(outcome.operations > 2, "{outcome:?}");
        let outcome = against("connect", copy).expect("echo");
        assert!(outcome.operations > 2, "{outcome:?}");
        let lie = |mut stream: std::net::TcpStream| {
            let mut bytes = [0; SMALL];
            while stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&[b'x'; SMALL]).ok();
            }
        };
        let error = against("echo", lie).expect_err("wrong bytes");
        assert!(
            format!("{error:#}").contains("not what was sent"),
            "{error:#}"
        );
        let short = |mut stream: std::net::TcpStream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).ok();
            let total = u64::try_from(all.len()).expect("fits") - 1;
            stream.write_all(&total.to_be_bytes()).ok();
        };
        let error = against("up", short).expect_err("a byte is missing");
        assert!(format!("{error:#}").contains("the sink got"), "{error:#}");
        let error = against("down", drop).expect_err("no bytes");
        assert!(format!("{error:#}").contains("source ended"), "{error:#}");
    }
}
