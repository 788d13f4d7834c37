//! HTTP/1.1: connections that are kept, and connections for one request each.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::client::TlsStream;

use super::answer::{Answer, Expected};
use super::tls::Dialer;
use super::{Latencies, Shot, gather, nanoseconds, ready, within};

/// What one read takes at most, in bytes.
pub(super) const READ: usize = 32 * 1024;
/// A connection that has to be there already was opened with this many others at a time.
pub(super) const OPENING: usize = 32;

/// One connection and what it asks.
pub(super) struct Asker<S> {
    stream: S,
    request: Rc<[u8]>,
    expected: Expected,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asker<S> {
    /// A connection on which nothing was asked yet.
    pub(super) fn new(stream: S, shot: &Shot, request: &Rc<[u8]>) -> Self {
        Self {
            stream,
            request: Rc::clone(request),
            expected: shot.expected(),
            buffer: Vec::new(),
        }
    }

    /// One request and its whole answer.
    pub(super) async fn ask(&mut self) -> Result<()> {
        self.buffer.resize(READ, 0);
        self.stream.write_all(&self.request).await?;
        self.stream.flush().await?;
        let mut answer = Answer::default();
        loop {
            let got = self.stream.read(&mut self.buffer).await?;
            ensure!(got > 0, "the connection ended before its answer");
            let bytes = self.buffer.get(..got).unwrap_or_default();
            if answer.take(bytes, self.expected)? {
                return Ok(());
            }
        }
    }

    /// Gives back the buffer of a connection that will be idle.
    pub(super) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Until the other side has closed, too; how it does so is not of interest.
    async fn until_closed(mut self) {
        while matches!(self.stream.read(&mut self.buffer).await, Ok(got) if got > 0) {}
    }
}

impl Asker<TlsStream<TcpStream>> {
    /// A new connection, on which the first request has its answer.
    pub(super) async fn opened(dialer: &Dialer, shot: &Shot, request: &Rc<[u8]>) -> Result<Self> {
        let mut asker = Self::new(dialer.connect().await?, shot, request);
        asker.ask().await?;
        Ok(asker)
    }
}

impl Shot {
    /// What every answer has to be.
    pub(super) fn expected(&self) -> Expected {
        Expected {
            status: self.status,
            length: self.length,
        }
    }
}

/// Requests on connections that are kept.
pub(super) async fn keep_alive(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "http/1.1")?;
    let request: Rc<[u8]> = shot.http1(false).into();
    let mut askers = Vec::new();
    for _ in 0..shot.connections {
        askers.push(within(Asker::opened(&dialer, shot, &request)).await?);
    }
    ready()?;
    let began = Instant::now();
    let end = began + shot.span;
    let tasks = askers.into_iter().map(|mut asker| {
        spawn_local(async move {
            let mut latencies = Latencies::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok((latencies, asker));
                }
                asker.ask().await?;
                latencies.push(nanoseconds(start));
            }
        })
    });
    gather(tasks.collect(), began, shot.span).await
}

/// A connection for each request: TCP, full handshake, request, answer, close.
pub(super) async fn handshakes(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "http/1.1")?;
    let request: Rc<[u8]> = shot.http1(true).into();
    ready()?;
    let began = Instant::now();
    let end = began + shot.span;
    let tasks = (0..shot.connections).map(|_| {
        let (dialer, request, shot) = (dialer.clone(), Rc::clone(&request), shot.clone());
        spawn_local(async move {
            let mut latencies = Latencies::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok((latencies, ()));
                }
                let mut asker = Asker::new(dialer.connect().await?, &shot, &request);
                asker.ask().await?;
                latencies.push(nanoseconds(start));
                asker.until_closed().await;
            }
        })
    });
    gather(tasks.collect(), began, shot.span).await
}
