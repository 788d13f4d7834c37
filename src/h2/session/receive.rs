//! What the peer sends: frame by frame, with the errors of RFC 9113 and their scope.

use crate::h2::frame::{self, Code, FrameHead, HEAD_BYTES, PREFACE, flag, kind};
use crate::h2::heads::{self, Answered, Asked, Heads, Malformed, Shape};
use crate::h2::hpack::HpackError;
use crate::h2::session::stream::Entry;
use crate::h2::session::{ConnectionError, Event, Going, Session, Side};
use crate::vocab::limits;

/// Where in the peer's bytes we are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    /// In the client's preface, so many bytes of it seen.
    Preface(usize),
    /// In the head of a frame, so many bytes of it seen.
    Head([u8; HEAD_BYTES], usize),
    /// In a payload that is wanted whole; after it so many bytes are skipped.
    Payload(FrameHead, u32),
    /// Before the padding's length of a DATA frame.
    Pad(FrameHead),
    /// In DATA.
    Data(Data),
    /// In bytes that nobody wants.
    Skip(u32),
}

impl Default for Read {
    fn default() -> Self {
        Self::Head([0; HEAD_BYTES], 0)
    }
}

/// What is left of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    id: u32,
    left: u32,
    /// Padding behind it.
    pad: u32,
    end: bool,
}

/// A header block whose CONTINUATION frames are awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    id: u32,
    end: bool,
    frames: u32,
}

pub(super) type Outcome<T = ()> = Result<T, ConnectionError>;

pub(super) fn error<T>(code: Code, what: &'static str) -> Outcome<T> {
    Err(ConnectionError { code, what })
}

pub(super) fn protocol<T>(what: &'static str) -> Outcome<T> {
    error(Code::PROTOCOL_ERROR, what)
}

fn size<T>(what: &'static str) -> Outcome<T> {
    error(Code::FRAME_SIZE_ERROR, what)
}

fn compression(_why: HpackError) -> ConnectionError {
    ConnectionError {
        code: Code::COMPRESSION_ERROR,
        what: "header block cannot be decompressed",
    }
}

/// Length as it is in a frame; a slice of one is never longer.
fn wire(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl<H: Heads> Session<H> {
    /// Takes the peer's bytes, in any pieces, and tells what they mean. `now_ms` is monotonic.
    ///
    /// # Errors
    /// The connection is lost; what the peer is told of it is in the output.
    pub fn receive(
        &mut self,
        now_ms: u64,
        input: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Result<(), ConnectionError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.flood.pass(now_ms);
        self.premature.pass(now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        let mut at = 0;
        loop {
            match self.step(input, &mut at, sink) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    self.fail(error);
                    return Err(error);
                }
            }
        }
    }

    /// One piece of a frame; `false` if more input is needed.
    fn step(
        &mut self,
        input: &[u8],
        at: &mut usize,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome<bool> {
        let rest = input.get(*at..).unwrap_or_default();
        match self.read {
            Read::Preface(seen) => self.preface(seen, rest, at),
            Read::Head(mut bytes, have) => {
                let want = bytes.get_mut(have..).unwrap_or_default();
                let n = want.len().min(rest.len());
                let (into, from) = (want.get_mut(..n), rest.get(..n));
                into.unwrap_or_default()
                    .copy_from_slice(from.unwrap_or_default());
                *at = at.saturating_add(n);
                let have = have.saturating_add(n);
                if have < HEAD_BYTES {
                    self.read = Read::Head(bytes, have);
                    return Ok(false);
                }
                self.read = self.begin(FrameHead::parse(bytes), sink)?;
                Ok(true)
            }
            Read::Payload(head, skip) => {
                let want = usize::try_from(head.len).unwrap_or(usize::MAX);
                let missing = want.saturating_sub(self.frame.len());
                let Some(piece) = rest.get(..missing) else {
                    self.frame.extend_from_slice(rest);
                    *at = input.len();
                    return Ok(false);
                };
                *at = at.saturating_add(missing);
                self.read = Read::Skip(skip);
                if self.frame.is_empty() {
                    self.whole(head, piece, sink)?;
                } else {
                    let mut payload = std::mem::take(&mut self.frame);
                    payload.extend_from_slice(piece);
                    self.whole(head, &payload, sink)?;
                }
                Ok(true)
            }
            Read::Pad(head) => {
                let Some(pad) = rest.first() else {
                    return Ok(false);
                };
                *at = at.saturating_add(1);
                self.read = self.padded(head, *pad, sink)?;
                Ok(true)
            }
            Read::Data(data) => self.data(data, rest.len(), at, sink),
            Read::Skip(left) => {
                let n = left.min(wire(rest.len()));
                *at = at.saturating_add(usize::try_from(n).unwrap_or_default());
                let left = left.saturating_sub(n);
                self.read = if left == 0 {
                    Read::default()
                } else {
                    Read::Skip(left)
                };
                Ok(left == 0)
            }
        }
    }

    fn preface(&mut self, seen: usize, rest: &[u8], at: &mut usize) -> Outcome<bool> {
        let want = PREFACE.get(seen..).unwrap_or_default();
        let n = want.len().min(rest.len());
        if rest.get(..n) != want.get(..n) {
            return protocol("not the preface of HTTP/2");
        }
        *at = at.saturating_add(n);
        self.read = if n == want.len() {
            Read::default()
        } else {
            Read::Preface(seen.saturating_add(n))
        };
        Ok(n == want.len())
    }

    /// What a head says of the frame that follows.
    fn begin(&mut self, head: FrameHead, sink: &mut impl FnMut(Event<H>)) -> Outcome<Read> {
        if head.len > self.own.max_frame {
            return size("frame is longer than allowed");
        }
        if !self.settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return protocol("first frame is not SETTINGS");
        }
        if let Some(block) = self.block_of
            && (head.kind != kind::CONTINUATION || head.stream != block.id)
        {
            return protocol("header block is interrupted");
        }
        let connection = head.stream == 0;
        match head.kind {
            kind::DATA => return self.begin_data(head, sink),
            kind::HEADERS if connection => return protocol("HEADERS on the connection"),
            kind::CONTINUATION if self.block_of.is_none() => {
                return protocol("CONTINUATION without a header block");
            }
            kind::HEADERS | kind::CONTINUATION => {
                let len = usize::try_from(head.len).unwrap_or(usize::MAX);
                if self.block.len().saturating_add(len) > limits::H2_BLOCK_BYTES {
                    return error(Code::ENHANCE_YOUR_CALM, "header block is too long");
                }
            }
            kind::PRIORITY if connection => return protocol("PRIORITY on the connection"),
            kind::PRIORITY if head.len != 5 => return size("PRIORITY is not 5 bytes"),
            kind::RST_STREAM if connection => return protocol("RST_STREAM on the connection"),
            kind::RST_STREAM if head.len != 4 => return size("RST_STREAM is not 4 bytes"),
            kind::SETTINGS if !connection => return protocol("SETTINGS on a stream"),
            kind::SETTINGS if head.has(flag::ACK) && head.len != 0 => {
                return size("SETTINGS with ACK is not empty");
            }
            kind::SETTINGS if !head.len.is_multiple_of(6) => {
                return size("SETTINGS is not made of settings");
            }
            kind::SETTINGS if head.len > limits::H2_SETTINGS_BYTES => {
                return error(Code::ENHANCE_YOUR_CALM, "SETTINGS is too long");
            }
            kind::PUSH_PROMISE => return protocol("PUSH_PROMISE is not allowed"),
            kind::PING if !connection => return protocol("PING on a stream"),
            kind::PING if head.len != 8 => return size("PING is not 8 bytes"),
            kind::GOAWAY if !connection => return protocol("GOAWAY on a stream"),
            kind::GOAWAY if head.len < 8 => return size("GOAWAY is below 8 bytes"),
            // What is said beyond the code is not read.
            kind::GOAWAY => {
                let read = FrameHead { len: 8, ..head };
                return Ok(Read::Payload(read, head.len.saturating_sub(8)));
            }
            kind::WINDOW_UPDATE if head.len != 4 => return size("WINDOW_UPDATE is not 4 bytes"),
            kind::PRIORITY
            | kind::RST_STREAM
            | kind::SETTINGS
            | kind::PING
            | kind::WINDOW_UPDATE => {}
            // A type that we do not know is ignored (section 4.1).
            _ => {
                self.spend(1)?;
                return Ok(Read::Skip(head.len));
            }
        }
        Ok(Read::Payload(head, 0))
    }

    /// Takes from what the peer may do that moves nothing.
    pub(super) fn spend(&mut self, cost: u32) -> Outcome {
        if self.flood.spend(cost) {
            Ok(())
        } else {
            error(Code::ENHANCE_YOUR_CALM, "too many frames that move nothing")
        }
    }

    /// Pays for a stream of which nothing came. What is sent on other streams does not earn it: a byte is cheap.
    fn spend_reset(&mut self) -> Outcome {
        if self.premature.spend(limits::H2_RESET_COST) {
            Ok(())
        } else {
            error(
                Code::ENHANCE_YOUR_CALM,
                "too many streams that are reset at once",
            )
        }
    }

    /// Whether no one has used the identifier yet.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let odd = id % 2 == 1;
        !odd || match self.own.side {
            Side::Client => id >= self.next,
            Side::Server => id > self.last_peer,
        }
    }

    /// Whether frames of a stream that we do not hold may be under way still.
    pub(super) fn is_late(&self, id: u32) -> bool {
        let refused = matches!(self.going, Going::Final(last) if id > last);
        refused || self.resets.contains(&id)
    }

    fn begin_data(&mut self, head: FrameHead, sink: &mut impl FnMut(Event<H>)) -> Outcome<Read> {
        let FrameHead {
            len, stream: id, ..
        } = head;
        if id == 0 {
            return protocol("DATA on the connection");
        }
        if !self.receive.take(len) {
            return error(
                Code::FLOW_CONTROL_ERROR,
                "more DATA than the connection's window",
            );
        }
        let end = head.has(flag::END_STREAM);
        let padded = head.has(flag::PADDED);
        let Some(entry) = self.streams.find_mut(id) else {
            let late = self.is_late(id);
            if self.is_idle(id) && !late {
                return protocol("DATA on a stream that is not open");
            }
            if late {
                self.spend(1)?;
            } else {
                self.spend_reset()?;
                self.put_reset(id, Code::STREAM_CLOSED);
            }
            return Ok(self.discard(len));
        };
        let wrong = if entry.is_reset() {
            self.spend(1)?;
            return Ok(self.discard(len));
        } else if entry.remote_closed() {
            Some(Code::STREAM_CLOSED)
        } else if self.own.side == Side::Client && !entry.headed() {
            Some(Code::PROTOCOL_ERROR)
        } else if !entry.receive(len) {
            Some(Code::FLOW_CONTROL_ERROR)
        } else if !padded && entry.count(len).is_err() {
            // Before any of it is told: what fits would look whole.
            Some(Code::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(code) = wrong {
            self.stream_error(id, code, sink)?;
            return Ok(self.discard(len));
        }
        if padded {
            if len == 0 {
                return size("padded DATA without the padding's length");
            }
            return Ok(Read::Pad(head));
        }
        self.moved(len, end)?;
        Ok(Read::Data(Data {
            id,
            left: len,
            pad: 0,
            end,
        }))
    }

    /// Counts a DATA frame: it moves something or ends something, or it costs.
    fn moved(&mut self, len: u32, end: bool) -> Outcome {
        if len > 0 {
            self.flood.useful();
        } else if !end {
            self.spend(1)?;
        }
        Ok(())
    }

    /// Passes over a payload that nobody reads.
    fn discard(&mut self, len: u32) -> Read {
        self.credit(len);
        Read::Skip(len)
    }

    fn padded(
        &mut self,
        head: FrameHead,
        pad: u8,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome<Read> {
        let pad = u32::from(pad);
        let left = head.len.checked_sub(pad.saturating_add(1));
        let Some(left) = left else {
            return protocol("padding is longer than its frame");
        };
        let entry = self.streams.find_mut(head.stream);
        if entry.is_some_and(|entry| !entry.is_reset() && entry.count(left).is_err()) {
            self.stream_error(head.stream, Code::PROTOCOL_ERROR, sink)?;
            self.credit(1);
            return Ok(self.discard(left.saturating_add(pad)));
        }
        self.moved(left, head.has(flag::END_STREAM))?;
        // Padding counts to the windows (section 6.1), and nobody will read it.
        let padding = pad.saturating_add(1);
        let update = self
            .streams
            .find_mut(head.stream)
            .and_then(|entry| entry.free(padding));
        if let Some(more) = update {
            let stream = head.stream;
            frame::put(
                &mut self.out,
                kind::WINDOW_UPDATE,
                0,
                stream,
                &more.to_be_bytes(),
            );
        }
        self.credit(padding);
        Ok(Read::Data(Data {
            id: head.stream,
            left,
            pad,
            end: head.has(flag::END_STREAM),
        }))
    }

    /// Tells a piece of DATA and, with the last, the end of the stream.
    fn data(
        &mut self,
        mut data: Data,
        have: usize,
        at: &mut usize,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome<bool> {
        let n = data.left.min(wire(have));
        if n > 0 {
            let from = *at;
            *at = at.saturating_add(usize::try_from(n).unwrap_or_default());
            data.left = data.left.saturating_sub(n);
            match self.streams.find_mut(data.id) {
                Some(entry) if !entry.is_reset() => {
                    let back = entry.hold(n, &mut self.advance);
                    self.credit(back);
                    let (id, range) = (data.id, from..*at);
                    sink(Event::Data { id, range });
                }
                // It has been given up within the frame.
                Some(_) | None => self.credit(n),
            }
        }
        if data.left > 0 {
            self.read = Read::Data(data);
            return Ok(false);
        }
        self.read = Read::Skip(data.pad);
        if data.end {
            self.end(data.id, sink)?;
        }
        Ok(true)
    }

    /// The peer's side of a stream has ended.
    fn end(&mut self, id: u32, sink: &mut impl FnMut(Event<H>)) -> Outcome {
        let Some(entry) = self.streams.find_mut(id).filter(|e| !e.remote_closed()) else {
            return Ok(());
        };
        if !entry.is_complete() {
            // Less content than was announced makes a message malformed (section 8.1.1).
            return self.stream_error(id, Code::PROTOCOL_ERROR, sink);
        }
        if entry.close_remote() {
            self.open = self.open.saturating_sub(1);
        }
        sink(Event::End { id });
        Ok(())
    }

    /// An error of one stream (RFC 9113 section 5.4.2).
    pub(super) fn stream_error(
        &mut self,
        id: u32,
        code: Code,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        self.spend_reset()?;
        match self.streams.find_mut(id) {
            Some(entry) if entry.is_reset() => {}
            Some(entry) => {
                if entry.is_open() {
                    self.open = self.open.saturating_sub(1);
                }
                entry.reset();
                self.put_reset(id, code);
                sink(Event::Reset {
                    id,
                    code,
                    ours: true,
                });
            }
            None => self.put_reset(id, code),
        }
        Ok(())
    }

    /// A frame whose payload is there.
    fn whole(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, sink),
            kind::CONTINUATION => self.continuation(head, payload, sink),
            // Priorities are of the past (section 5.3.2).
            kind::PRIORITY => self.spend(1),
            kind::RST_STREAM => self.peer_reset(head.stream, word(payload), sink),
            kind::SETTINGS => self.settings(head, payload, sink),
            kind::PING => self.pinged(head, payload, sink),
            kind::GOAWAY => self.peer_goes(payload, sink),
            kind::WINDOW_UPDATE => self.update(head.stream, word(payload), sink),
            _ => Ok(()),
        }
    }

    fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        let (mut fragment, mut pad) = (payload, 0);
        if head.has(flag::PADDED) {
            let Some((len, rest)) = fragment.split_first() else {
                return size("padded HEADERS without the padding's length");
            };
            (pad, fragment) = (usize::from(*len), rest);
        }
        if head.has(flag::PRIORITY) {
            let Some(rest) = fragment.get(5..) else {
                return size("HEADERS with a priority is too short");
            };
            fragment = rest;
        }
        let Some(len) = fragment.len().checked_sub(pad) else {
            return protocol("padding is longer than its frame");
        };
        let fragment = fragment.get(..len).unwrap_or_default();
        let (id, end) = (head.stream, head.has(flag::END_STREAM));
        if head.has(flag::END_HEADERS) {
            return self.block(id, end, fragment, sink);
        }
        self.block.extend_from_slice(fragment);
        self.block_of = Some(Block { id, end, frames: 0 });
        Ok(())
    }

    fn continuation(
        &mut self,
        head: FrameHead,
        fragment: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        let Some(Block { id, end, frames }) = self.block_of else {
            return protocol("CONTINUATION without a header block");
        };
        if frames >= limits::H2_CONTINUATIONS {
            return error(
                Code::ENHANCE_YOUR_CALM,
                "header block is in too many pieces",
            );
        }
        self.block.extend_from_slice(fragment);
        if !head.has(flag::END_HEADERS) {
            let frames = frames.saturating_add(1);
            self.block_of = Some(Block { id, end, frames });
            return Ok(());
        }
        self.block_of = None;
        let block = std::mem::take(&mut self.block);
        self.block(id, end, &block, sink)
    }

    /// A whole header block.
    fn block(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        match self.own.side {
            Side::Server => self.request(id, end, block, sink),
            Side::Client => self.response(id, end, block, sink),
        }
    }

    fn request(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        if id.is_multiple_of(2) {
            return protocol("stream of a client has an even identifier");
        }
        if let Some(entry) = self.streams.find(id) {
            let (closed, reset, shape) = (entry.remote_closed(), entry.is_reset(), entry.shape());
            if !closed && end && !shape.connect {
                return self.trailers(id, block, sink);
            }
            heads::skip(&mut self.decoder, block).map_err(compression)?;
            if reset {
                return self.spend(1);
            }
            // A second head that does not end the stream, or one on a CONNECT stream (section 8.5).
            let code = if closed {
                Code::STREAM_CLOSED
            } else {
                Code::PROTOCOL_ERROR
            };
            return self.stream_error(id, code, sink);
        }
        if !self.is_idle(id) {
            heads::skip(&mut self.decoder, block).map_err(compression)?;
            if !self.is_late(id) {
                return error(Code::STREAM_CLOSED, "HEADERS on a closed stream");
            }
            return self.spend(1);
        }
        let (most, extended) = (self.most(), self.own.extended_connect);
        let read = H::request(&mut self.decoder, block, most, extended).map_err(compression)?;
        if matches!(self.going, Going::Final(_)) {
            return self.spend(1);
        }
        self.last_peer = id;
        match read {
            _ if self.open >= self.own.max_streams => {
                self.stream_error(id, Code::REFUSED_STREAM, sink)
            }
            Err(why) => self.malformed(id, why, sink),
            Ok(asked) if end && asked.shape.length.is_some_and(|length| length > 0) => {
                self.malformed(id, Malformed::Length, sink)
            }
            Ok(asked) => {
                self.requested(id, asked, end, sink);
                Ok(())
            }
        }
    }

    /// Longest header list that is taken.
    fn most(&self) -> usize {
        usize::try_from(self.own.header_list).unwrap_or(usize::MAX)
    }

    fn malformed(&mut self, id: u32, why: Malformed, sink: &mut impl FnMut(Event<H>)) -> Outcome {
        let code = match why {
            Malformed::Large => Code::ENHANCE_YOUR_CALM,
            Malformed::Name
            | Malformed::Value
            | Malformed::Pseudo
            | Malformed::Connection
            | Malformed::Length => Code::PROTOCOL_ERROR,
        };
        sink(Event::Malformed { id, why });
        self.stream_error(id, code, sink)
    }

    fn requested(
        &mut self,
        id: u32,
        asked: Asked<H::Request>,
        end: bool,
        sink: &mut impl FnMut(Event<H>),
    ) {
        let Asked { head, shape } = asked;
        let mut entry = Entry::new(self, shape);
        if end {
            entry.close_remote();
        }
        self.streams.insert(id, entry);
        self.open = self.open.saturating_add(1);
        sink(Event::Request { id, head, end });
    }

    fn trailers(&mut self, id: u32, block: &[u8], sink: &mut impl FnMut(Event<H>)) -> Outcome {
        let most = self.most();
        let read = H::trailers(&mut self.decoder, block, most).map_err(compression)?;
        let complete = self.streams.find(id).is_some_and(Entry::is_complete);
        match read {
            Ok(fields) if complete => {
                sink(Event::Trailers { id, fields });
                self.end(id, sink)
            }
            Ok(_) | Err(_) => self.stream_error(id, Code::PROTOCOL_ERROR, sink),
        }
    }

    fn response(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        if self.is_idle(id) {
            return protocol("HEADERS on a stream that is not open");
        }
        let Some(entry) = self.streams.find(id) else {
            heads::skip(&mut self.decoder, block).map_err(compression)?;
            return self.spend(1);
        };
        if entry.is_reset() {
            return heads::skip(&mut self.decoder, block).map_err(compression);
        }
        let (closed, headed, tunnel) = (entry.remote_closed(), entry.headed(), entry.tunnel);
        if headed && end && !closed && !tunnel {
            return self.trailers(id, block, sink);
        }
        if closed || headed {
            heads::skip(&mut self.decoder, block).map_err(compression)?;
            let code = if closed {
                Code::STREAM_CLOSED
            } else {
                Code::PROTOCOL_ERROR
            };
            return self.stream_error(id, code, sink);
        }
        let most = self.most();
        let read = H::response(&mut self.decoder, block, most).map_err(compression)?;
        match read {
            // 101 does not exist in HTTP/2 (section 8.6).
            Ok(answered) if answered.status < 200 && answered.status != 101 && !end => {
                let head = answered.head;
                sink(Event::Interim { id, head });
                self.spend(1)
            }
            Ok(answered) if answered.status >= 200 => self.responded(id, answered, end, sink),
            Ok(_) | Err(_) => self.stream_error(id, Code::PROTOCOL_ERROR, sink),
        }
    }

    fn responded(
        &mut self,
        id: u32,
        answered: Answered<H::Response>,
        end: bool,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        let Answered {
            head,
            status,
            length,
        } = answered;
        if let Some(entry) = self.streams.find_mut(id) {
            let Shape {
                connect, is_head, ..
            } = entry.shape();
            entry.head();
            entry.tunnel = connect && (200..300).contains(&status);
            // What has no content says by `content-length` how much another answer would have (RFC 9110 section 8.6).
            let bodiless = is_head || matches!(status, 204 | 304);
            entry.expect(match length {
                _ if bodiless => Some(0),
                _ if entry.tunnel => None,
                length => length,
            });
        }
        let complete = self.streams.find(id).is_some_and(Entry::is_complete);
        if end && !complete {
            return self.stream_error(id, Code::PROTOCOL_ERROR, sink);
        }
        self.premature.answered();
        sink(Event::Response { id, head });
        if end { self.end(id, sink) } else { Ok(()) }
    }

    fn peer_reset(&mut self, id: u32, code: u32, sink: &mut impl FnMut(Event<H>)) -> Outcome {
        if self.is_idle(id) && !self.is_late(id) {
            return protocol("RST_STREAM on a stream that is not open");
        }
        let Some(entry) = self.streams.find_mut(id) else {
            return self.spend(1);
        };
        let (reset, open, taken) = (entry.is_reset(), entry.is_open(), entry.taken());
        // Work for nothing: a stream that is given up as soon as it has caused some.
        let age_ms = self.now_ms.saturating_sub(entry.began_ms());
        let early =
            self.own.side == Side::Server && !entry.headed() && age_ms < self.own.early_reset_ms;
        entry.reset();
        if open {
            self.open = self.open.saturating_sub(1);
        }
        if !reset {
            let code = Code(code);
            sink(Event::Reset {
                id,
                code,
                ours: false,
            });
        }
        if taken && !early {
            self.spend(1)
        } else {
            self.spend_reset()
        }
    }
}

/// The first four bytes as a number.
pub(super) fn word(payload: &[u8]) -> u32 {
    let bytes = payload.first_chunk::<4>();
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
