//! The apps of the bench, as one process: echo, sink and source.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers what it gets.
pub(crate) const ECHO: u16 = 7000;
/// Reads to the end, then tells how many bytes it got: eight bytes, big-endian.
pub(crate) const SINK: u16 = 7001;
/// Writes without end.
pub(crate) const SOURCE: u16 = 7002;
/// nginx.
pub(crate) const HTTP: u16 = 8080;
/// All of them.
pub(crate) const PORTS: [u16; 4] = [ECHO, SINK, SOURCE, HTTP];

/// What one read or write moves, in bytes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// `l4-serve ADDRESS`; ends when it is killed.
pub(crate) fn run(options: &[&str]) -> Result<bool> {
    let [address] = options else {
        bail!("l4-serve ADDRESS");
    };
    let address: IpAddr = address.parse().context("ADDRESS")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bind = async |port| TcpListener::bind(SocketAddr::new(address, port)).await;
        let echoes = accept(bind(ECHO).await?, echo);
        let sinks = accept(bind(SINK).await?, sink);
        tokio::spawn(echoes);
        tokio::spawn(sinks);
        accept(bind(SOURCE).await?, source).await
    })
}

async fn accept<F>(listener: TcpListener, serve: fn(TcpStream) -> F) -> Result<bool>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    loop {
        // A connection that breaks off is the load's to report.
        if let Ok((stream, _)) = listener.accept().await
            && stream.set_nodelay(true).is_ok()
        {
            tokio::spawn(serve(stream));
        }
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 512]; // small: ten thousand of them wait at a time
    loop {
        let got = stream.read(&mut bytes).await?;
        if got == 0 {
            return Ok(());
        }
        stream
            .write_all(bytes.get(..got).unwrap_or_default())
            .await?;
    }
}

async fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut bytes).await? {
            0 => break,
            got => total += u64::try_from(got).unwrap_or(u64::MAX),
        }
    }
    stream.write_all(&total.to_be_bytes()).await
}

async fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let bytes = vec![b'.'; CHUNK];
    loop {
        stream.write_all(&bytes).await?;
    }
}
