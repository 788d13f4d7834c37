//! One of our HTTP/2 connections against the `h2` crate, in memory: bytes are cut anywhere, frames have any size.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use ringgate::h2::{Event, Heads, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// A seeded xorshift generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.below(most);
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// Streams at a time.
pub(crate) const STREAMS: usize = 12;
/// Bytes of content of each, at most.
pub(crate) const MOST: usize = 300_000;

/// Runs what spawns local tasks.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limit = Duration::from_secs(60);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(limit, work)
            .await
            .expect("ends in time")
    })
}

/// Our end of a connection: a session and what becomes of its streams.
pub(crate) trait End {
    /// Heads that its streams have.
    type Heads: Heads;

    /// The session.
    fn session(&mut self) -> &mut Session<Self::Heads>;

    /// Takes an event of what was received in `input`.
    fn event(&mut self, event: Event<Self::Heads>, input: &[u8]);

    /// Frames of random sizes into `out`, as far as the windows allow.
    fn pump(&mut self, random: &mut Random, out: &mut Vec<u8>);

    /// Takes what has arrived.
    fn receive(&mut self, input: &[u8]) {
        let mut events = Vec::new();
        let taken = self.session().receive(1, input, &mut |e| events.push(e));
        taken.unwrap();
        for event in events {
            self.event(event, input);
        }
    }
}

/// Runs an end until `done` or the peer has ended the connection.
pub(crate) async fn drive<E: End>(
    end: &mut E,
    io: DuplexStream,
    random: &mut Random,
    mut done: impl FnMut(&E) -> bool,
) {
    let (mut read, mut write) = tokio::io::split(io);
    let (mut out, mut input) = (Vec::new(), vec![0; 70_000]);
    while !done(end) {
        end.pump(random, &mut out);
        let piece = out.len().min(1 + random.below(50_000));
        let most = 1 + random.below(input.len());
        tokio::select! {
            n = read.read(&mut input[..most]) => {
                let n = n.unwrap();
                if n == 0 {
                    return;
                }
                let mut rest = &input[..n];
                while !rest.is_empty() {
                    let cut = rest.len().min(1 + random.below(20_000));
                    end.receive(&rest[..cut]);
                    rest = &rest[cut..];
                }
            }
            n = write.write(&out[..piece]), if piece > 0 => drop(out.drain(..n.unwrap())),
        }
    }
    end.pump(random, &mut out);
    write.write_all(&out).await.unwrap();
}

/// All of a body of the `h2` crate, with the window released, and its trailers.
pub(crate) async fn all(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut got = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
    }
    (got, body.trailers().await.unwrap())
}

/// Sends a body by the `h2` crate, as the window allows.
pub(crate) async fn send_all(mut send: h2::SendStream<Bytes>, bytes: Vec<u8>, trailers: HeaderMap) {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let n = n.unwrap().unwrap().min(bytes.len());
        send.send_data(bytes.split_to(n), false).unwrap();
    }
    if trailers.is_empty() {
        send.send_data(Bytes::new(), true).unwrap();
    } else {
        send.send_trailers(trailers).unwrap();
    }
}
