//! The client's end: requests, and what is answered.

use std::rc::Rc;

use http::{HeaderName, HeaderValue};

use super::pool::Kept;
use super::{Handle, Incoming, Outgoing, announced};
use crate::h2::message::Request;
use crate::h2::{Code, OpenError, Requests, ResponseHead, Settings, Side};
use crate::io::mux::{Driver, Mux, MuxError};
use crate::io::stream::Stream;
use crate::io::tunnel::Lease;
use crate::vocab::limits;

/// Our settings towards upstreams. Nothing is pushed, and streams are ours alone.
const SETTINGS: Settings = Settings {
    side: Side::Client,
    window: limits::H2_STREAM_WINDOW_BYTES,
    connection_window: limits::H2_CONNECTION_WINDOW_BYTES,
    max_frame: limits::H2_FRAME_BYTES,
    header_list: limits::H2_ANSWER_LIST_BYTES,
    max_streams: 0,
    charged: limits::H2_CHARGED_BYTES,
    advance: limits::H2_ADVANCE_BYTES,
    extended_connect: false,
    early_reset_ms: 0,
};

/// A client's end of a connection over `stream`, and what reads and writes it.
pub(super) fn begin(stream: Stream) -> (Mux<Requests>, Driver<Requests>) {
    let mux = Mux::of_requests(SETTINGS);
    (mux.clone(), Driver::new(stream, mux))
}

/// The right to one stream of a connection.
#[derive(Debug)]
pub struct Client {
    kept: Rc<Kept>,
    place: Lease,
    /// It has carried streams before, so that the far end may have closed it meanwhile.
    reused: bool,
}

/// A request that was sent.
#[derive(Debug)]
pub struct Answering {
    /// What is answered.
    pub answer: Answer,
    /// Where its content goes.
    pub content: Outgoing,
}

impl Client {
    pub(super) fn new(kept: Rc<Kept>, place: Lease, reused: bool) -> Self {
        Self {
            kept,
            place,
            reused,
        }
    }

    /// Whether the connection has carried streams before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether the far end takes extended CONNECT (RFC 8441); not before its settings have come.
    #[must_use]
    pub fn takes_extended_connect(&self) -> bool {
        self.kept.0.takes_extended_connect()
    }

    /// Waits until the far end has said its settings.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn settled(&self) -> Result<(), MuxError> {
        std::future::poll_fn(|cx| self.kept.0.poll_settled(cx)).await
    }

    /// Sends a request; with `end` it has no content.
    ///
    /// # Errors
    /// The connection takes no streams any more; nothing was sent.
    pub fn request<'h>(
        self,
        request: Request<'_, impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>>,
        end: bool,
    ) -> Result<Answering, MuxError> {
        let Self { kept, place, .. } = self;
        let mux = kept.0.clone();
        let opened = mux.open_stream(|session| session.open(request, end));
        let id = opened.map_err(|error| match error {
            MuxError::Ended => MuxError::Open(OpenError::GoingAway),
            other @ (MuxError::Io(_)
            | MuxError::Protocol(_)
            | MuxError::Open(_)
            | MuxError::Reset(_)
            | MuxError::Unread(_)) => other,
        })?;
        let handle = Rc::new(Handle {
            mux,
            id,
            patience_ms: Some(limits::H2_ZERO_WINDOW_MS),
        });
        Ok(Answering {
            answer: Answer {
                handle: Rc::clone(&handle),
                length: None,
                place,
            },
            content: Outgoing::new(handle),
        })
    }
}

/// What is answered to a request.
#[derive(Debug)]
pub struct Answer {
    handle: Rc<Handle>,
    /// Announced by the last head.
    length: Option<u64>,
    place: Lease,
}

impl Answer {
    /// The next head: interim ones, then the answer's.
    ///
    /// # Errors
    /// The stream was reset, or its connection ended.
    pub async fn head(&mut self) -> Result<ResponseHead, MuxError> {
        let Handle { mux, id, .. } = &*self.handle;
        let head = std::future::poll_fn(|cx| mux.poll_head(*id, cx)).await?;
        self.length = announced(&head.headers);
        Ok(head)
    }

    /// What follows the head.
    #[must_use]
    pub fn body(&self) -> Incoming {
        Incoming::new(Rc::clone(&self.handle), self.length)
    }
}

impl Answering {
    /// Both directions of a stream that carries another protocol from here on (RFC 8441 section 5), and its place among the
    /// streams of the connection.
    #[must_use]
    pub fn both_ways(self) -> (Incoming, Outgoing, Lease) {
        let Self { answer, content } = self;
        (answer.body(), content, answer.place)
    }
}

/// Whether the far end has surely not looked at a request (RFC 9113 section 8.7).
#[must_use]
pub fn is_unprocessed(error: &MuxError) -> bool {
    matches!(
        error,
        MuxError::Reset(Code::REFUSED_STREAM) | MuxError::Open(_)
    )
}

/// Whether nothing is known of what became of a request: its connection ended before an answer came.
#[must_use]
pub fn is_silent(error: &MuxError) -> bool {
    matches!(error, MuxError::Ended)
}
