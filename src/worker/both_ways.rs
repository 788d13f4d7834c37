//! Bytes both ways between a client, which may be a stream of HTTP/2, and a connection to an upstream, until both have
//! ended.

use crate::exchange::close::CloseReason;
use crate::http::h1::{BodyDecoder, Framing};
use crate::io::body::{Coding, PumpError, Sink, Source, Trailers, pump};
use crate::io::h1::{Reader, Writer};
use crate::io::relay::Meter;
use crate::worker::forward::{seen_received, seen_sent};

/// Moves them. What waits at `up` to be written goes first. Who is broken off, or drops this, aborts both sides: what either
/// has is not complete.
///
/// # Errors
/// Which side broke off, and how.
pub(super) async fn both_ways(
    (source, sink): (&mut Source<'_>, &mut Sink<'_>),
    (reader, writer): (&mut Reader, &mut Writer),
    passed: &Meter,
) -> Result<(), (CloseReason, String)> {
    let upward = async {
        let seen = seen_received(passed);
        let moved = async {
            writer.flush().await.map_err(PumpError::Sink)?;
            let mut up = Sink::H1(writer, Coding::Close);
            pump(source, &mut up, Trailers::Drop, seen).await?;
            writer.shutdown().await.map_err(PumpError::Sink)
        };
        moved.await.map_err(|error| match error {
            PumpError::Source(e) => (CloseReason::DownstreamReset, e.to_string()),
            PumpError::Sink(e) => (CloseReason::UpstreamReset, e.to_string()),
        })
    };
    let downward = async {
        let moved = async {
            let mut up = Source::H1(reader, BodyDecoder::new(Framing::UntilClose));
            pump(&mut up, sink, Trailers::Drop, seen_sent(passed)).await?;
            match sink {
                Sink::H1(writer, _) => writer.shutdown().await.map_err(PumpError::Sink),
                Sink::Nothing | Sink::H2(_) => Ok(()),
            }
        };
        moved.await.map_err(|error| match error {
            PumpError::Source(e) => (CloseReason::UpstreamReset, e.to_string()),
            PumpError::Sink(e) => (CloseReason::DownstreamReset, e.to_string()),
        })
    };
    let ((), ()) = tokio::try_join!(upward, downward)?;
    Ok(())
}
