//! HTTP/2: streams of requests, and tunnels with HTTP/1.1 inside (HBONE).

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::task::spawn_local;

use super::answer::{Answer, Expected};
use super::tls::Dialer;
use super::{Latencies, Shot, gather, nanoseconds, ready, within};

/// Window of a stream, in bytes: no answer waits for it.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A connection of which requests can be made; it is driven until the last of them is gone.
async fn open(dialer: &Dialer) -> Result<SendRequest<Bytes>> {
    let tls = dialer.connect().await?;
    ensure!(
        tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        "the proxy did not choose h2"
    );
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false);
    let (requests, connection) = builder.handshake(tls).await?;
    spawn_local(async move {
        // Whoever waits for an answer hears of its end.
        if let Err(error) = connection.await {
            eprintln!("l7-load: {error}");
        }
    });
    Ok(requests)
}

/// Requests, `streams` at a time on each of `connections`.
pub(super) async fn streams(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "h2")?;
    let request = shot.http2()?;
    let mut opened = Vec::new();
    for _ in 0..shot.connections {
        let one = async {
            let mut requests = open(&dialer).await?;
            ask(&mut requests, &request, shot.expected()).await?;
            Ok(requests)
        };
        opened.push(within(one).await?);
    }
    ready()?;
    let began = Instant::now();
    let end = began + shot.span;
    let all = opened
        .iter()
        .flat_map(|requests| std::iter::repeat_n(requests, shot.streams));
    let tasks = all.map(|requests| {
        let (mut requests, request, expected) =
            (requests.clone(), request.clone(), shot.expected());
        spawn_local(async move {
            let mut latencies = Latencies::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok((latencies, requests));
                }
                ask(&mut requests, &request, expected).await?;
                latencies.push(nanoseconds(start));
            }
        })
    });
    gather(tasks.collect(), began, shot.span).await
}

async fn ask(
    requests: &mut SendRequest<Bytes>,
    request: &Request<()>,
    expected: Expected,
) -> Result<()> {
    std::future::poll_fn(|cx| requests.poll_ready(cx)).await?;
    let (answer, _) = requests.send_request(request.clone(), true)?;
    let answer = answer.await?;
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        length += bytes.len();
        body.flow_control().release_capacity(bytes.len())?;
    }
    Ok(expected.check(status, length)?)
}

/// One tunnel with HTTP/1.1 inside.
struct Inner {
    send: SendStream<Bytes>,
    receive: RecvStream,
    request: Bytes,
    expected: Expected,
}

impl Inner {
    async fn open(requests: &mut SendRequest<Bytes>, shot: &Shot) -> Result<Self> {
        let connect = Request::builder()
            .method(Method::CONNECT)
            .uri(&shot.authority)
            .body(())?;
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await?;
        let (answer, send) = requests.send_request(connect, false)?;
        let answer = answer.await.context("CONNECT")?;
        ensure!(answer.status().is_success(), "CONNECT: {}", answer.status());
        Ok(Self {
            send,
            receive: answer.into_body(),
            request: shot.http1(false).into(),
            expected: shot.expected(),
        })
    }

    async fn ask(&mut self) -> Result<()> {
        self.send.send_data(self.request.clone(), false)?;
        let mut answer = Answer::default();
        loop {
            let bytes = self.receive.data().await.context("the tunnel ended")??;
            let windows = self.receive.flow_control();
            windows.release_capacity(bytes.len())?;
            if answer.take(&bytes, self.expected)? {
                return Ok(());
            }
        }
    }
}

/// Requests in `connections` tunnels that `streams` connections carry.
pub(super) async fn tunnels(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "h2")?;
    let mut carriers = Vec::new();
    for _ in 0..shot.streams {
        carriers.push(within(open(&dialer)).await?);
    }
    let carriers = Rc::new(carriers);
    let mut tunnels = Vec::new();
    for number in 0..shot.connections {
        let carrier = carriers.get(number % carriers.len());
        let mut carrier = carrier.cloned().context("no connection")?;
        let one = async {
            let mut inner = Inner::open(&mut carrier, shot).await?;
            inner.ask().await?;
            Ok(inner)
        };
        tunnels.push(within(one).await?);
    }
    ready()?;
    let began = Instant::now();
    let end = began + shot.span;
    let tasks = tunnels.into_iter().map(|mut inner| {
        spawn_local(async move {
            let mut latencies = Latencies::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok((latencies, inner));
                }
                inner.ask().await?;
                latencies.push(nanoseconds(start));
            }
        })
    });
    gather(tasks.collect(), began, shot.span).await
}
