//! HTTP/1.1 on a stream: heads read whole, bodies in pieces, writes gathered.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::h1::H1Error;
use crate::io::stream::{Half, Stream};

/// Room that a read asks for.
const READ_BYTES: usize = 16 * 1024;

/// Why a head could not be read.
#[derive(Debug, Error)]
pub enum HeadError {
    /// It is not one.
    #[error(transparent)]
    Http(#[from] H1Error),
    /// The stream broke.
    #[error("stream broke")]
    Io(#[source] io::Error),
    /// The stream ended within it.
    #[error("stream ended within a head")]
    Cut,
}

/// The reading half of an HTTP/1 connection.
#[derive(Debug)]
pub struct Reader {
    half: Half,
    buf: BytesMut,
}

/// The writing half of an HTTP/1 connection.
#[derive(Debug)]
pub struct Writer {
    half: Half,
    out: BytesMut,
}

/// Splits a stream for HTTP/1.
#[must_use]
pub fn split(stream: Stream) -> (Reader, Writer) {
    let (read, write) = stream.split();
    (
        Reader {
            half: read,
            buf: BytesMut::new(),
        },
        Writer {
            half: write,
            out: BytesMut::new(),
        },
    )
}

impl Reader {
    /// Reads more into the buffer; 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buf.reserve(READ_BYTES);
        pin!(self.half.read_buf(&mut self.buf)).poll(cx)
    }

    /// What was read and not used yet.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Waits for the first byte of a message; `false` at the end of the stream.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn started(&mut self) -> io::Result<bool> {
        while self.buf.is_empty() {
            if std::future::poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one head with `parse`; `None` if the stream ends before its first byte.
    ///
    /// # Errors
    /// `HeadError`.
    pub async fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, H1Error>,
    ) -> Result<Option<T>, HeadError> {
        loop {
            if !self.buf.is_empty()
                && let Some((head, len)) = parse(&self.buf)?
            {
                drop(self.buf.split_to(len));
                return Ok(Some(head));
            }
            let n = std::future::poll_fn(|cx| self.poll_fill(cx))
                .await
                .map_err(HeadError::Io)?;
            if n == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(HeadError::Cut)
                };
            }
        }
    }

    /// Whether an idle upstream connection can take another request: nothing came, it has not ended.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.buf.is_empty() && self.poll_fill(&mut cx).is_pending()
    }
}

impl Writer {
    /// What waits to be written.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.half.write_all(&self.out).await?;
            self.out.clear();
        }
        self.half.flush().await
    }

    /// Writes `data` after all that waits, without copying it.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn write_through(&mut self, data: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.half.write_all(data).await
    }

    /// Ends the writing direction.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.half.shutdown().await
    }
}
