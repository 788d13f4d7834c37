//! One connection, either side of it, whatever its streams carry.
//!
//! Bytes of the peer go into [`Session::receive`], which tells [`Event`]s; what we do to streams are the other methods.
//! Whatever is to be sent gathers in an output that the caller takes in order ([`Session::take_output`]), except payloads:
//! for those it gets the head of a frame ([`Session::data_head`]) and sends its own bytes behind it. Payloads of the peer
//! are told as ranges of the input. Every stream that was told or opened stays until [`Session::forget`].

mod control;
mod receive;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;

use thiserror::Error;

use crate::h2::flow::{Flood, ReceiveWindow, SendWindow};
use crate::h2::frame::{
    self, Code, FrameHead, INITIAL_WINDOW, MAX_MAX_FRAME, MAX_STREAM, MIN_MAX_FRAME, PREFACE, flag,
    kind, setting,
};
use crate::h2::heads::{Heads, Malformed, Shape};
use crate::h2::hpack::{self, Decoder};
use crate::h2::table::Table;
use crate::vocab::limits;
use receive::{Block, Read};
use stream::Entry;

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We open streams.
    Client,
    /// The peer opens streams.
    Server,
}

/// Our side's settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which side we are.
    pub side: Side,
    /// Receive window of a stream, in bytes.
    pub window: u32,
    /// Receive window of the connection, in bytes.
    pub connection_window: u32,
    /// Longest frame, in bytes.
    pub max_frame: u32,
    /// Longest header list, in bytes.
    pub header_list: u32,
    /// Streams that the peer may have open.
    pub max_streams: u32,
    /// What a stream whose reader is slow takes of the connection's window, in bytes; what it holds beyond that is on
    /// account of `advance`.
    pub charged: u32,
    /// What slow streams may hold together without narrowing the connection's window, in bytes.
    pub advance: u32,
    /// Extended CONNECT is taken (RFC 8441); a server's.
    pub extended_connect: bool,
    /// A stream that the peer resets before it is answered costs it as much as one that nobody had looked at, if it is
    /// younger than this, in milliseconds.
    pub early_reset_ms: u64,
}

impl Settings {
    /// The frame that tells them.
    fn put(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(36);
        let mut set = |id: u16, value: u32| {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        };
        match self.side {
            Side::Client => set(setting::ENABLE_PUSH, 0),
            Side::Server => set(setting::MAX_CONCURRENT_STREAMS, self.max_streams),
        }
        set(setting::INITIAL_WINDOW_SIZE, self.window);
        set(setting::MAX_FRAME_SIZE, self.max_frame);
        set(setting::MAX_HEADER_LIST_SIZE, self.header_list);
        if self.extended_connect && self.side == Side::Server {
            set(setting::ENABLE_CONNECT_PROTOCOL, 1);
        }
        frame::put(out, kind::SETTINGS, 0, 0, &payload);
    }
}

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<H: Heads> {
    /// A client has sent a request; `end` says that it sends nothing more.
    Request {
        /// Stream.
        id: u32,
        /// What it asks.
        head: H::Request,
        /// Half closed already.
        end: bool,
    },
    /// A client has sent what is no request; its stream is reset.
    Malformed {
        /// Stream.
        id: u32,
        /// Why.
        why: Malformed,
    },
    /// A server has answered for the time being (1xx).
    Interim {
        /// Stream.
        id: u32,
        /// Its answer.
        head: H::Response,
    },
    /// A server has answered.
    Response {
        /// Stream.
        id: u32,
        /// Its answer; never an interim one.
        head: H::Response,
    },
    /// Trailer fields; the end of the stream follows.
    Trailers {
        /// Stream.
        id: u32,
        /// Fields.
        fields: H::Trailers,
    },
    /// Payload.
    Data {
        /// Stream.
        id: u32,
        /// Where it stands in the input of this call.
        range: Range<usize>,
    },
    /// The peer sends nothing more on the stream.
    End {
        /// Stream.
        id: u32,
    },
    /// The stream is reset.
    Reset {
        /// Stream.
        id: u32,
        /// Why.
        code: Code,
        /// Whether we did it, for an error of the peer.
        ours: bool,
    },
    /// More may be sent, on a stream or, with 0, on the connection.
    Room {
        /// Stream or 0.
        id: u32,
    },
    /// The peer has answered our ping.
    Pong,
    /// The peer takes no new streams.
    GoAway {
        /// The last stream that it has looked at or will.
        last: u32,
        /// Why.
        code: Code,
    },
}

/// The connection is lost (RFC 9113 section 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} ({code})")]
pub struct ConnectionError {
    /// Told to the peer.
    pub code: Code,
    /// What it did.
    pub what: &'static str,
}

/// Why no stream can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The peer takes no more at a time.
    #[error("connection has as many streams as the peer allows")]
    Full,
    /// One side has said that it ends.
    #[error("connection is going away")]
    GoingAway,
    /// All identifiers are used up.
    #[error("connection has no stream identifiers left")]
    Exhausted,
}

/// How far we are with our GOAWAY (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    No,
    /// Said, but streams that are under way are still taken.
    Announced,
    /// Streams after this one are not taken.
    Final(u32),
}

/// Payload of the ping that asks whether GOAWAY has arrived.
const DRAIN_PING: [u8; 8] = *b"goneaway";
/// Payload of the ping that asks whether the peer is there.
const ALIVE_PING: [u8; 8] = *b"keepaliv";
/// Output that is kept allocated while nothing is to be sent.
const OUTPUT_KEPT: usize = 1024;

/// State of a connection.
#[derive(Debug)]
pub struct Session<H: Heads> {
    own: Settings,
    out: Vec<u8>,
    pub(crate) streams: Table<Entry>,
    /// Streams that are not closed.
    pub(crate) open: u32,
    /// The identifier of our next stream; a client's.
    pub(crate) next: u32,
    /// The highest identifier that the peer has used; a server's.
    last_peer: u32,
    peer_window: u32,
    peer_max_frame: u32,
    peer_max_streams: u32,
    /// The peer takes extended CONNECT.
    peer_extended: bool,
    /// Time of the last input, in milliseconds.
    now_ms: u64,
    send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    /// What slow streams may hold yet without narrowing the connection's window.
    pub(crate) advance: u32,
    decoder: Decoder,
    /// The peer has shrunk its table, which the next block must answer (RFC 7541 section 4.2).
    shrink: bool,
    read: Read,
    /// A payload that comes in pieces.
    frame: Vec<u8>,
    /// A header block that comes in pieces.
    block: Vec<u8>,
    block_of: Option<Block>,
    settled: bool,
    pub(crate) flood: Flood,
    /// Streams that it may have reset before anything came of them.
    pub(crate) premature: Flood,
    resets: VecDeque<u32>,
    going: Going,
    peer_going: Option<u32>,
    pinged: bool,
    failed: Option<ConnectionError>,
    heads: PhantomData<H>,
}

impl<H: Heads> Session<H> {
    /// A connection at its beginning; its preface and settings are in the output.
    #[must_use]
    pub fn new(own: Settings) -> Self {
        let mut out = Vec::new();
        let read = match own.side {
            Side::Client => {
                out.extend_from_slice(PREFACE);
                Read::default()
            }
            Side::Server => Read::Preface(0),
        };
        own.put(&mut out);
        let more = own.connection_window.saturating_sub(INITIAL_WINDOW);
        if more > 0 {
            frame::put(&mut out, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        Self {
            own,
            out,
            streams: Table::default(),
            open: 0,
            next: 1,
            last_peer: 0,
            peer_window: INITIAL_WINDOW,
            peer_max_frame: MIN_MAX_FRAME,
            peer_max_streams: limits::H2_STREAMS_AT_FIRST,
            peer_extended: false,
            now_ms: 0,
            send: SendWindow::new(INITIAL_WINDOW),
            receive: ReceiveWindow::new(own.connection_window.max(INITIAL_WINDOW)),
            advance: own.advance,
            decoder: Decoder::default(),
            shrink: false,
            read,
            frame: Vec::new(),
            block: Vec::new(),
            block_of: None,
            settled: false,
            flood: Flood::default(),
            premature: Flood::default(),
            resets: VecDeque::new(),
            going: Going::No,
            peer_going: None,
            pinged: false,
            failed: None,
            heads: PhantomData,
        }
    }

    /// Moves what is to be sent to the end of `into`. It must be sent in order with the frames of
    /// [`Session::data_head`], so take it before each of those.
    pub fn take_output(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.out);
        self.sent();
    }

    /// The caller has taken [`Session::output`].
    pub fn sent(&mut self) {
        self.out.clear();
        if self.out.capacity() > OUTPUT_KEPT {
            self.out = Vec::new();
        }
    }

    /// What is to be sent.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// Streams that are not closed.
    #[must_use]
    pub fn open_streams(&self) -> u32 {
        self.open
    }

    /// Whether the peer's settings have come: it speaks HTTP/2.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether nothing is left to do but to close: one side has said that it ends, and every stream has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let going = matches!(self.going, Going::Final(_)) || self.peer_going.is_some();
        // A server that never says its settings must not hold a client that gives up.
        let begun = self.settled || self.own.side == Side::Client;
        self.failed.is_some() || (going && self.open == 0 && begun)
    }

    /// Whether one side has said that it takes no new streams, or the connection is lost.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.going != Going::No || self.peer_going.is_some() || self.failed.is_some()
    }

    /// How many more streams may be opened now; a client's.
    #[must_use]
    pub fn room_for_streams(&self) -> u32 {
        if self.is_going() || self.next > MAX_STREAM {
            return 0;
        }
        self.peer_max_streams.saturating_sub(self.open)
    }

    /// How many streams the peer takes at a time; before its settings have come, a number that every server takes.
    #[must_use]
    pub fn peer_max_streams(&self) -> u32 {
        self.peer_max_streams
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    #[must_use]
    pub fn takes_extended_connect(&self) -> bool {
        self.peer_extended
    }

    /// Opens a stream with the head that `encode` writes; with `end` nothing follows it.
    ///
    /// # Errors
    /// `OpenError`.
    pub(crate) fn open_with(
        &mut self,
        shape: Shape,
        end: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u32, OpenError> {
        let server = self.own.side == Side::Server;
        if server || self.is_going() {
            return Err(OpenError::GoingAway);
        }
        if self.next > MAX_STREAM {
            return Err(OpenError::Exhausted);
        }
        if self.open >= self.peer_max_streams {
            return Err(OpenError::Full);
        }
        let id = self.next;
        self.next = self.next.saturating_add(2);
        self.streams.insert(id, Entry::new(self, shape));
        self.open = self.open.saturating_add(1);
        self.put_head(id, end, encode);
        if end {
            self.close_local(id);
        }
        Ok(id)
    }

    /// Answers a request with the head that `encode` writes. `false` if the stream is gone.
    pub(crate) fn respond_with(
        &mut self,
        id: u32,
        end: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let Some(entry) = self.streams.find_mut(id) else {
            return false;
        };
        if entry.local_closed() || entry.headed() {
            return false;
        }
        entry.head();
        self.flood.useful();
        if self.own.side == Side::Server {
            self.premature.answered();
        }
        self.put_head(id, end, encode);
        if end {
            self.close_local(id);
        }
        true
    }

    /// Sends an interim head, before the answer. `false` if the stream is gone or answered.
    pub(crate) fn interim_with(&mut self, id: u32, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let found = self.streams.find(id);
        let waits = found.is_some_and(|entry| !entry.local_closed() && !entry.headed());
        if waits {
            self.put_head(id, false, encode);
        }
        waits
    }

    /// Sends trailers, which end our side. `false` if nothing can be sent any more, or not yet.
    pub(crate) fn trailers_with(&mut self, id: u32, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let may = self.streams.find(id).is_some_and(Entry::may_send);
        if may {
            self.put_head(id, true, encode);
            self.close_local(id);
        }
        may
    }

    /// Bytes that the stream may send now, in any number of frames; `None` if nothing can be sent on it any more.
    #[must_use]
    pub fn window(&self, id: u32) -> Option<u32> {
        let entry = self.streams.find(id)?;
        if entry.local_closed() || self.failed.is_some() {
            return None;
        }
        Some(entry.room().min(self.send.room()))
    }

    /// As `window`, in one frame. The peer takes at least 16,384 bytes in one (RFC 9113 section 6.5.2).
    #[must_use]
    pub fn room(&self, id: u32) -> Option<u32> {
        self.window(id).map(|room| room.min(self.peer_max_frame))
    }

    /// Head of a DATA frame of `len` bytes, which the caller sends behind it; with `end` our side of the stream ends. `None`
    /// if that is more than [`Session::room`].
    pub fn data_head(&mut self, id: u32, len: u32, end: bool) -> Option<[u8; frame::HEAD_BYTES]> {
        if len > self.room(id)? || (len == 0 && !end) {
            return None;
        }
        let entry = self.streams.find_mut(id)?;
        if !entry.may_send() {
            return None;
        }
        entry.sent(len);
        self.send.take(len);
        self.flood.useful();
        if end {
            self.close_local(id);
        }
        let flags = if end { flag::END_STREAM } else { 0 };
        let head = FrameHead {
            len,
            kind: kind::DATA,
            flags,
            stream: id,
        };
        Some(head.bytes())
    }

    /// The reader has done with `bytes` of the stream's payload; the peer may send as many again.
    pub fn release(&mut self, id: u32, bytes: u32) {
        let Some(entry) = self.streams.find_mut(id) else {
            return;
        };
        let (freed, update) = entry.release(bytes, &mut self.advance);
        if let Some(more) = update {
            frame::put(
                &mut self.out,
                kind::WINDOW_UPDATE,
                0,
                id,
                &more.to_be_bytes(),
            );
        }
        self.credit(freed);
    }

    /// Counts bytes that wait for no reader any more to the connection's window.
    fn credit(&mut self, bytes: u32) {
        if let Some(more) = self.receive.free(bytes) {
            frame::put(
                &mut self.out,
                kind::WINDOW_UPDATE,
                0,
                0,
                &more.to_be_bytes(),
            );
        }
    }

    /// Resets a stream. Nothing is told of it afterwards.
    pub fn reset(&mut self, id: u32, code: Code) {
        let was_open = match self.streams.find_mut(id) {
            Some(entry) if !entry.is_reset() => {
                let open = entry.is_open();
                entry.reset();
                open
            }
            _ => return,
        };
        // A closed stream knows no reset (RFC 9113 section 5.1).
        if was_open {
            self.put_reset(id, code);
            self.open = self.open.saturating_sub(1);
        }
    }

    /// The caller is done with a stream: one that is still open is reset, and what it has not read counts as read.
    pub fn forget(&mut self, id: u32) {
        let Some(entry) = self.streams.find(id) else {
            return;
        };
        let code = if entry.local_closed() {
            Code::NO_ERROR
        } else {
            Code::CANCEL
        };
        self.reset(id, code);
        if let Some(mut entry) = self.streams.remove(id) {
            let back = entry.let_go(u32::MAX, &mut self.advance);
            self.credit(back);
        }
    }

    /// Whether our side of a stream has ended in order; the peer's may go on.
    #[must_use]
    pub fn is_sent(&self, id: u32) -> bool {
        let found = self.streams.find(id);
        found.is_some_and(|entry| entry.local_closed() && !entry.is_reset())
    }

    /// What a stream holds counts as read, without leave for more of it.
    pub fn pass_over(&mut self, id: u32) {
        if let Some(entry) = self.streams.find_mut(id) {
            let back = entry.let_go(u32::MAX, &mut self.advance);
            self.credit(back);
        }
    }

    /// The caller has taken a request up: a reset from now on is no abuse.
    pub fn take(&mut self, id: u32) {
        if let Some(entry) = self.streams.find_mut(id) {
            entry.take();
        }
    }

    /// Asks whether the peer is there; `Event::Pong` is its answer.
    pub fn ping(&mut self) {
        if !self.pinged {
            self.pinged = true;
            frame::put(&mut self.out, kind::PING, 0, 0, &ALIVE_PING);
        }
    }

    /// Says that no new streams are taken; those that are open go on. A server first says so, and after a round trip how
    /// far it has come (RFC 9113 section 6.8).
    pub fn drain(&mut self) {
        if self.going != Going::No || self.failed.is_some() {
            return;
        }
        match self.own.side {
            Side::Client => self.put_go_away(Going::Final(0), 0, Code::NO_ERROR),
            Side::Server => {
                self.put_go_away(Going::Announced, MAX_STREAM, Code::NO_ERROR);
                frame::put(&mut self.out, kind::PING, 0, 0, &DRAIN_PING);
            }
        }
    }

    /// Ends the connection at once.
    pub fn fail(&mut self, error: ConnectionError) {
        if self.failed.is_none() {
            self.failed = Some(error);
            let last = self.last_peer;
            self.put_go_away(Going::Final(last), last, error.code);
        }
    }

    fn put_go_away(&mut self, going: Going, last: u32, code: Code) {
        self.going = going;
        let mut payload = [0; 8];
        let (at, why) = payload.split_at_mut(4);
        at.copy_from_slice(&last.to_be_bytes());
        why.copy_from_slice(&code.0.to_be_bytes());
        frame::put(&mut self.out, kind::GOAWAY, 0, 0, &payload);
    }

    fn put_reset(&mut self, id: u32, code: Code) {
        frame::put(
            &mut self.out,
            kind::RST_STREAM,
            0,
            id,
            &code.0.to_be_bytes(),
        );
        if self.resets.len() >= limits::H2_RESETS_KEPT {
            self.resets.pop_front();
        }
        self.resets.push_back(id);
    }

    /// Sends a header block, in as many frames as the peer's longest frame asks for.
    fn put_head(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let at = self.out.len();
        let begin = at.saturating_add(frame::HEAD_BYTES);
        self.out.resize(begin, 0);
        if std::mem::take(&mut self.shrink) {
            self.out.push(hpack::NO_TABLE);
        }
        encode(&mut self.out);
        let len = self.out.len().saturating_sub(begin);
        let most = usize::try_from(self.peer_max_frame).unwrap_or(usize::MAX);
        let flags = if end { flag::END_STREAM } else { 0 };
        if len > most {
            let block = self.out.split_off(begin);
            self.out.truncate(at);
            return self.put_pieces(id, flags, &block, most);
        }
        let head = FrameHead {
            len: u32::try_from(len).unwrap_or(MAX_MAX_FRAME),
            kind: kind::HEADERS,
            flags: flags | flag::END_HEADERS,
            stream: id,
        };
        if let Some(place) = self.out.get_mut(at..begin) {
            place.copy_from_slice(&head.bytes());
        }
    }

    fn put_pieces(&mut self, id: u32, mut flags: u8, block: &[u8], most: usize) {
        let mut frames = block.chunks(most.max(1)).peekable();
        let mut kind = kind::HEADERS;
        while let Some(piece) = frames.next() {
            if frames.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            frame::put(&mut self.out, kind, flags, id, piece);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Our side of the stream has ended.
    fn close_local(&mut self, id: u32) {
        if let Some(entry) = self.streams.find_mut(id)
            && entry.close_local()
        {
            self.open = self.open.saturating_sub(1);
        }
    }
}
