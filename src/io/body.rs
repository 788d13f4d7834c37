//! Bodies in pieces, from either protocol to either protocol, never held whole.

mod kept;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::http::canonical::clean_trailers;
use crate::http::grpc;
use crate::http::h1::{self, BodyDecoder, Chunk, Decoded};
use crate::io::h1::{Reader, Writer};
use crate::io::h2::{Incoming, Outgoing};
use crate::io::pace::BodyPace;
use crate::io::rt;

pub use kept::{Copied, Kept, NotKept};

/// Data up to this size is gathered with what was written before it.
const GATHER_BYTES: usize = 4 * 1024;
/// Pieces in a row after which the other tasks of the core get their turn.
const TURNS: u32 = 64;

/// Where a body comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// Nowhere.
    Empty,
    /// An HTTP/1 connection.
    H1(&'a mut Reader, BodyDecoder),
    /// An HTTP/2 stream.
    H2(Incoming),
    /// Pieces that were read before, and the rest of the body behind them.
    Held(Box<(VecDeque<Chunk>, Self)>),
    /// A body of which no more than so many bytes are taken.
    Limited(Box<(u64, Self)>),
    /// A body that must not keep us waiting.
    Paced(Box<(BodyPace<'a>, Self)>),
    /// A body of which others get a copy.
    Copied(Box<Copied<'a>>),
}

/// A body is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("body is longer than the limit (limits.maxRequestBodyBytes)")]
pub struct TooLong;

impl<'a> Source<'a> {
    /// The body, of which `kept` gets a copy as it is read.
    #[must_use]
    pub fn copied(self, kept: Rc<Kept>) -> Self {
        Self::Copied(Box::new(Copied::new(self, kept)))
    }

    /// Puts pieces that were read before the rest.
    #[must_use]
    pub fn with(self, pieces: VecDeque<Chunk>) -> Self {
        if pieces.is_empty() {
            return self;
        }
        Self::Held(Box::new((pieces, self)))
    }

    /// The body, of which at most `most` bytes are taken; one that has more breaks off with `TooLong`.
    #[must_use]
    pub fn limited(self, most: u64) -> Self {
        Self::Limited(Box::new((most, self)))
    }

    /// Puts pieces that were read before in the place of those that are left of them: they are all read once more.
    pub fn again(&mut self, pieces: &VecDeque<Chunk>) {
        match self {
            Self::Held(held) => held.0.clone_from(pieces),
            Self::Empty
            | Self::H1(..)
            | Self::H2(_)
            | Self::Limited(_)
            | Self::Paced(_)
            | Self::Copied(_) => {
                let rest = std::mem::replace(self, Self::Empty);
                *self = rest.with(pieces.clone());
            }
        }
    }

    /// The body, which breaks off with `TooSlow` where it keeps its reader waiting for longer than `pace` allows.
    #[must_use]
    pub fn paced(self, pace: BodyPace<'a>) -> Self {
        Self::Paced(Box::new((pace, self)))
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The peer broke off or its framing is wrong.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        match self {
            Self::Empty => Poll::Ready(Ok(None)),
            Self::H1(reader, decoder) => loop {
                match decoder.decode(reader.buffer()).map_err(io::Error::other)? {
                    Decoded::Chunk(chunk) => return Poll::Ready(Ok(Some(chunk))),
                    Decoded::End => return Poll::Ready(Ok(None)),
                    Decoded::More => {}
                }
                let piece = match decoder.takes_pieces() {
                    true => reader.poll_piece(cx),
                    false => None,
                };
                let ended = match piece {
                    Some(piece) => match ready!(piece)? {
                        Some(mut piece) => {
                            let data = decoder.take_piece(&mut piece);
                            reader.keep(&piece);
                            return Poll::Ready(Ok(Some(Chunk::Data(data))));
                        }
                        None => true,
                    },
                    None => ready!(reader.poll_fill(cx))? == 0,
                };
                if ended {
                    let end = if decoder.may_end_here() {
                        Ok(None)
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    };
                    return Poll::Ready(end);
                }
            },
            Self::H2(stream) => stream.poll_next(cx),
            Self::Held(held) => match held.0.pop_front() {
                Some(piece) => Poll::Ready(Ok(Some(piece))),
                None => held.1.poll_next(cx),
            },
            Self::Limited(limited) => {
                let (left, body) = &mut **limited;
                let next = ready!(body.poll_next(cx))?;
                if let Some(Chunk::Data(data)) = &next {
                    let taken = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    *left = left
                        .checked_sub(taken)
                        .ok_or_else(|| io::Error::other(TooLong))?;
                }
                Poll::Ready(Ok(next))
            }
            Self::Paced(paced) => {
                let (pace, body) = &mut **paced;
                let next = body.poll_next(cx);
                let size = |next: &io::Result<Option<Chunk>>| match next {
                    Ok(Some(Chunk::Data(data))) => data.len(),
                    Ok(Some(Chunk::Trailers(_)) | None) | Err(_) => 0,
                };
                let next = ready!(pace.poll(next, cx, size));
                Poll::Ready(next.unwrap_or_else(|slow| Err(io::Error::other(slow))))
            }
            Self::Copied(copied) => {
                let next = ready!(copied.body.poll_next(cx))?;
                match &next {
                    Some(Chunk::Data(data)) => copied.read(Some(data)),
                    Some(Chunk::Trailers(_)) | None => copied.read(None),
                }
                Poll::Ready(Ok(next))
            }
        }
    }

    /// Reads what is left and forgets it. The caller bounds it.
    pub async fn skip(&mut self) {
        // A body that breaks off is at its end as well.
        while let Ok(Some(_)) = std::future::poll_fn(|cx| self.poll_next(cx)).await {}
    }

    /// Ready when the client of an HTTP/1 connection breaks off while it waits for the answer. Of an HTTP/2 stream the
    /// sending side tells.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Empty | Self::H2(_) => Poll::Pending,
            Self::H1(reader, _) => reader.poll_gone(cx),
            Self::Held(held) => held.1.poll_gone(cx),
            Self::Limited(limited) => limited.1.poll_gone(cx),
            Self::Paced(paced) => paced.1.poll_gone(cx),
            Self::Copied(copied) => copied.body.poll_gone(cx),
        }
    }

    /// Whether all of an HTTP/1 body was read, so that the connection can go on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Empty | Self::H2(_) => true,
            Self::H1(_, decoder) => decoder.is_done(),
            Self::Held(held) => held.0.is_empty() && held.1.is_done(),
            Self::Limited(limited) => limited.1.is_done(),
            Self::Paced(paced) => paced.1.is_done(),
            Self::Copied(copied) => copied.body.is_done(),
        }
    }

    /// Whether there is surely no body.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(_, decoder) => decoder.is_done(),
            Self::H2(stream) => stream.is_end(),
            Self::Held(held) => held.0.is_empty() && held.1.is_empty(),
            Self::Limited(limited) => limited.1.is_empty(),
            Self::Paced(paced) => paced.1.is_empty(),
            Self::Copied(copied) => copied.body.is_empty(),
        }
    }
}

/// How an HTTP/1 body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// So many bytes are still due.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// Where a body goes.
#[derive(Debug)]
pub enum Sink<'a> {
    /// Nowhere: the message has no body.
    Nothing,
    /// An HTTP/1 connection.
    H1(&'a mut Writer, Coding),
    /// An HTTP/2 stream.
    H2(Outgoing),
}

impl Sink<'_> {
    /// Takes one piece.
    ///
    /// # Errors
    /// The peer broke off, or more came than the length that was announced.
    pub async fn send(&mut self, chunk: Chunk) -> io::Result<()> {
        match (self, chunk) {
            (Self::Nothing, _)
            | (Self::H1(_, Coding::Length(_) | Coding::Close), Chunk::Trailers(_)) => Ok(()),
            (Self::H1(writer, coding), Chunk::Data(data)) => h1_data(writer, coding, &data).await,
            (Self::H1(writer, Coding::Chunked), Chunk::Trailers(trailers)) => {
                writer.out().extend_from_slice(b"0\r\n");
                h1::write_fields(writer.out(), &trailers);
                writer.flush().await
            }
            (Self::H2(stream), Chunk::Data(data)) => stream.send(data).await,
            (Self::H2(stream), Chunk::Trailers(trailers)) => stream.trailers(&trailers),
        }
    }

    /// Ends the body; `trailers`: the last piece was trailers, which end it by themselves.
    ///
    /// # Errors
    /// The peer broke off, or less came than the length that was announced.
    pub async fn finish(&mut self, trailers: bool) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::H1(_, Coding::Length(left)) if *left > 0 => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Self::H1(writer, coding) => {
                if *coding == Coding::Chunked && !trailers {
                    writer.out().extend_from_slice(b"0\r\n\r\n");
                }
                writer.flush().await?;
                writer.complete();
                Ok(())
            }
            Self::H2(_) if trailers => Ok(()),
            Self::H2(stream) => stream.finish(),
        }
    }

    /// Writes what was gathered, because nothing follows soon.
    ///
    /// # Errors
    /// The peer broke off.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nothing | Self::H2(_) => Ok(()),
            Self::H1(writer, _) => writer.flush().await,
        }
    }

    /// Ready when the peer of an HTTP/2 stream takes no more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Nothing | Self::H1(..) => Poll::Pending,
            Self::H2(stream) => stream.poll_gone(cx),
        }
    }

    /// Breaks the message off so that the peer cannot take it for complete.
    pub fn abort(&mut self) {
        match self {
            Self::Nothing => {}
            Self::H1(writer, _) => writer.abort(),
            Self::H2(stream) => stream.abort(),
        }
    }
}

async fn h1_data(writer: &mut Writer, coding: &mut Coding, data: &Bytes) -> io::Result<()> {
    let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
    match coding {
        Coding::Chunked if data.is_empty() => return Ok(()),
        Coding::Chunked if data.len() <= GATHER_BYTES => h1::write_chunk(writer.out(), data),
        Coding::Chunked => {
            h1::write_chunk_line(writer.out(), data.len());
            writer.write_through(data).await?;
            writer.out().extend_from_slice(b"\r\n");
        }
        Coding::Length(left) => {
            *left = left.checked_sub(len).ok_or(io::ErrorKind::InvalidData)?;
            gather(writer, data).await?;
        }
        Coding::Close => gather(writer, data).await?,
    }
    if writer.waiting() > GATHER_BYTES {
        writer.flush().await
    } else {
        Ok(())
    }
}

async fn gather(writer: &mut Writer, data: &Bytes) -> io::Result<()> {
    if data.len() <= GATHER_BYTES {
        writer.out().extend_from_slice(data);
        Ok(())
    } else {
        writer.write_through(data).await
    }
}

/// Which side of a body broke.
#[derive(Debug)]
pub enum PumpError {
    /// The one that sends it.
    Source(io::Error),
    /// The one that takes it.
    Sink(io::Error),
}

/// What becomes of trailer fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailers {
    /// Nobody judged them, so they are not sent: those of a request.
    Drop,
    /// They are sent, but for those that say how a message is to be read: those of an answer, which gRPC lives on.
    Clean,
}

/// Moves a body; `seen` gets the length of each piece. What comes back is the code of a gRPC call that its trailers say.
///
/// # Errors
/// Which side broke.
pub async fn pump(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    trailers: Trailers,
    mut seen: impl FnMut(u64),
) -> Result<Option<u16>, PumpError> {
    let (mut trailed, mut code) = (false, None);
    let mut turns = 0_u32;
    loop {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS) {
            rt::yield_turn().await;
        }
        // A head that waits for its first piece of body goes out with it; but it does not wait for a slow one.
        let mut first = true;
        let next = std::future::poll_fn(|cx| match source.poll_next(cx) {
            Poll::Pending if first => {
                first = false;
                Poll::Ready(None)
            }
            other @ (Poll::Pending | Poll::Ready(_)) => other.map(Some),
        })
        .await;
        let next = match next {
            Some(next) => next,
            None => {
                sink.flush().await.map_err(PumpError::Sink)?;
                std::future::poll_fn(|cx| match sink.poll_gone(cx) {
                    Poll::Ready(error) => Poll::Ready(Err(PumpError::Sink(error))),
                    Poll::Pending => source.poll_next(cx).map(Ok),
                })
                .await?
            }
        };
        match next.map_err(PumpError::Source)? {
            Some(Chunk::Data(data)) => {
                seen(u64::try_from(data.len()).unwrap_or(u64::MAX));
                if let Sink::H2(stream) = sink
                    && source.is_empty()
                {
                    // The end goes with it, instead of in a frame of its own.
                    let last = stream.send_last(data).await;
                    return last.map(|()| None).map_err(PumpError::Sink);
                }
                sink.send(Chunk::Data(data))
                    .await
                    .map_err(PumpError::Sink)?;
            }
            Some(Chunk::Trailers(mut fields)) => {
                code = grpc::code(&fields);
                clean_trailers(&mut fields);
                if trailers == Trailers::Clean && !fields.is_empty() {
                    trailed = true;
                    sink.send(Chunk::Trailers(fields))
                        .await
                        .map_err(PumpError::Sink)?;
                }
                break;
            }
            None => break,
        }
    }
    sink.finish(trailed).await.map_err(PumpError::Sink)?;
    Ok(code)
}

/// Framing that a body of unknown provenance gets on an HTTP/1 connection, from its head.
#[must_use]
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
