//! Bytes both ways between a client and an upstream, either of which may be a stream of HTTP/2, until both have ended.

use std::io;

use crate::exchange::close::CloseReason;
use crate::http::h1::{BodyDecoder, Framing};
use crate::io::body::{Coding, PumpError, Sink, Source, Trailers, pump};
use crate::io::h1::{Reader, Writer};
use crate::io::relay::Meter;
use crate::worker::forward::{seen_received, seen_sent};

/// Moves them, to and from a connection. What waits at `up` to be written goes first. Who is broken off, or drops this, aborts
/// both sides: what either has is not complete.
///
/// # Errors
/// Which side broke off, and how.
pub(super) async fn both_ways(
    down: (&mut Source<'_>, &mut Sink<'_>),
    (reader, writer): (&mut Reader, &mut Writer),
    passed: &Meter,
) -> Result<(), (CloseReason, String)> {
    let mut source = Source::H1(reader, BodyDecoder::new(Framing::UntilClose));
    let mut sink = Sink::H1(writer, Coding::Close);
    between(down, (&mut source, &mut sink), passed).await
}

/// As `both_ways`, to and from what may be a stream as well.
///
/// # Errors
/// Which side broke off, and how.
pub(super) async fn between(
    (source, sink): (&mut Source<'_>, &mut Sink<'_>),
    (up_source, up_sink): (&mut Source<'_>, &mut Sink<'_>),
    passed: &Meter,
) -> Result<(), (CloseReason, String)> {
    let upward = async {
        let seen = seen_received(passed);
        let moved = async {
            up_sink.flush().await.map_err(PumpError::Sink)?;
            pump(source, up_sink, Trailers::Drop, seen).await?;
            ended(up_sink).await.map_err(PumpError::Sink)
        };
        moved.await.map_err(|error| match error {
            PumpError::Source(e) => (CloseReason::DownstreamReset, e.to_string()),
            PumpError::Sink(e) => (CloseReason::UpstreamReset, e.to_string()),
        })
    };
    let downward = async {
        let moved = async {
            pump(up_source, sink, Trailers::Drop, seen_sent(passed)).await?;
            ended(sink).await.map_err(PumpError::Sink)
        };
        moved.await.map_err(|error| match error {
            PumpError::Source(e) => (CloseReason::UpstreamReset, e.to_string()),
            PumpError::Sink(e) => (CloseReason::DownstreamReset, e.to_string()),
        })
    };
    let ((), ()) = tokio::try_join!(upward, downward)?;
    Ok(())
}

/// Ends a connection behind what was moved; a stream has its end already.
async fn ended(sink: &mut Sink<'_>) -> io::Result<()> {
    match sink {
        Sink::H1(writer, _) => writer.shutdown().await,
        Sink::Nothing | Sink::H2(_) => Ok(()),
    }
}
