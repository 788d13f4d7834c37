//! A connection of HTTP/2: one task reads and writes, its streams are handles on its core. What the streams carry is a
//! parameter: tunnels here, requests in `io/h2`.
//!
//! What the tunnels send gathers in an outbox, so that the frames that came together in one turn of the loop go out in one
//! write. What comes is handed on in the pieces it was read in. While nothing moves, nothing is held.

mod driver;
mod ending;
mod outbox;
mod server;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use thiserror::Error;

use crate::h2::{
    Code, ConnectionError, Event, Heads, Malformed, OpenError, Requests, Session, Settings, Table,
};
use crate::hbone::head::{Fields, Kept};
use crate::hbone::{CLIENT, ConnectHead, ResponseHead, Tunnels};
use crate::io::early::Early;
use crate::io::pace::Unread;
use crate::io::rt;
use crate::io::slots::Slots;
use crate::io::stream::Stream;
use crate::io::tunnel::Tunnel;
use crate::vocab::limits;
pub use driver::Driver;
use outbox::{COPIED_BYTES, Outbox};
pub use server::{Respond, ServerConnection};

/// Payloads below this are gathered where the reader does not keep up, or each would hold its whole buffer.
const GATHERED_BYTES: usize = 4096;
/// So are all once a connection holds so many, which may hold a buffer of `buffers::Size::Large` each.
const HELD_CHUNKS: usize = 256;

/// Why an HTTP/2 connection, or a stream of it, ended.
#[derive(Debug, Error)]
pub enum MuxError {
    /// The carrier broke.
    #[error("connection broke")]
    Io(#[source] io::Error),
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(ConnectionError),
    /// No stream can be opened.
    #[error(transparent)]
    Open(OpenError),
    /// The stream was reset.
    #[error("stream was reset: {0}")]
    Reset(Code),
    /// The connection ended first.
    #[error("connection has ended")]
    Ended,
    /// It was ended because its peer took nothing.
    #[error(transparent)]
    Unread(Unread),
}

/// A piece of what a peer sends on a stream: payload, or trailers; `None` at its end.
type Piece<H> = Result<Option<Result<Bytes, <H as Heads>::Trailers>>, MuxError>;

/// One stream's side of it.
#[derive(Debug)]
struct Slot<H: Heads> {
    chunks: VecDeque<Bytes>,
    /// Small payloads behind the chunks.
    tail: BytesMut,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gone: Option<Waker>,
    interim: VecDeque<H::Response>,
    answer: Option<H::Response>,
    trailers: Option<H::Trailers>,
    ended: bool,
    reset: Option<Code>,
}

impl<H: Heads> Default for Slot<H> {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            reader: None,
            writer: None,
            gone: None,
            interim: VecDeque::new(),
            answer: None,
            trailers: None,
            ended: false,
            reset: None,
        }
    }
}

impl<H: Heads> Slot<H> {
    /// `held`: chunks of all slots of the connection. `copies`: see `State`.
    fn push(&mut self, payload: Bytes, held: &mut usize, copies: bool) {
        let waits = copies || !self.chunks.is_empty() || !self.tail.is_empty();
        if waits && (payload.len() < GATHERED_BYTES || *held >= HELD_CHUNKS) {
            self.tail.extend_from_slice(&payload);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
            *held = held.saturating_add(1);
        }
        self.chunks.push_back(payload);
        *held = held.saturating_add(1);
    }

    fn pop(&mut self, held: &mut usize) -> Option<Bytes> {
        let next = self.chunks.pop_front();
        if next.is_some() {
            *held = held.saturating_sub(1);
        }
        let next = next
            .or_else(|| (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze()));
        if self.chunks.is_empty() && self.chunks.capacity() > 8 {
            self.chunks = VecDeque::new();
        }
        next
    }

    /// An interim answer; nobody needs many.
    fn hear(&mut self, head: H::Response) {
        if self.interim.len() < limits::INTERIM_RESPONSES {
            self.interim.push_back(head);
        } else {
            self.reset = Some(Code::ENHANCE_YOUR_CALM);
        }
        wake(&mut self.reader);
    }

    /// Why nothing more comes and goes, if that is so. `over`: the connection's end.
    fn broken(&self, over: Option<MuxError>) -> Option<MuxError> {
        self.reset.map(MuxError::Reset).or(over)
    }

    fn wake(&mut self) {
        for waker in [&mut self.reader, &mut self.writer, &mut self.gone] {
            wake(waker);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Registers the task, without a clone if it is there already.
fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

#[derive(Debug)]
struct State<H: Heads> {
    session: Session<H>,
    outbox: Outbox,
    slots: Table<Slot<H>>,
    /// Chunks in them.
    held: usize,
    /// What nobody has taken up yet: requests, and what is none.
    incoming: VecDeque<Result<(u32, H::Request), Malformed>>,
    /// The task that reads and writes.
    driver: Option<Waker>,
    ponged: bool,
    pong: Option<Waker>,
    /// Who waits for the peer's settings.
    settling: Vec<Waker>,
    /// Streams wait for the outbox.
    crowded: bool,
    ended: bool,
    /// It ended because the peer takes nothing.
    unread: bool,
    /// The carrier sends frames from the slots that they were read into.
    takes_slots: bool,
    /// Short payloads are copied also where nothing waits: of streams of anybody many may wait each with a short one, and
    /// each would hold the buffer that it came in.
    copies: bool,
}

impl<H: Heads> State<H> {
    /// Takes what the session has to send, and has it sent.
    fn sent(&mut self) {
        self.outbox.take(&mut self.session);
        if !self.outbox.is_empty() {
            wake(&mut self.driver);
        }
    }

    /// The next piece that the peer has sent on a stream, which counts as read then.
    fn pop(&mut self, id: u32) -> Option<Bytes> {
        let chunk = self.slots.find_mut(id)?.pop(&mut self.held)?;
        let n = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        self.session.release(id, n);
        self.sent();
        Some(chunk)
    }

    /// Takes what was read.
    fn receive(&mut self, now_ms: u64, input: &Bytes) -> Result<(), ConnectionError> {
        let Self {
            session,
            slots,
            held,
            incoming,
            ponged,
            pong,
            copies,
            ..
        } = self;
        let taken = session.receive(now_ms, input, &mut |event| match event {
            Event::Request { id, head, end } => {
                let slot = Slot {
                    ended: end,
                    ..Slot::default()
                };
                slots.insert(id, slot);
                incoming.push_back(Ok((id, head)));
            }
            Event::Malformed { why, .. } => incoming.push_back(Err(why)),
            Event::Interim { id, head } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.hear(head);
                }
            }
            Event::Trailers { id, fields } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.trailers = Some(fields);
                }
            }
            Event::Response { id, head } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.answer = Some(head);
                    wake(&mut slot.reader);
                }
            }
            Event::Data { id, range } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.push(input.slice(range), held, *copies);
                    wake(&mut slot.reader);
                }
            }
            Event::End { id } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.ended = true;
                    wake(&mut slot.reader);
                }
            }
            Event::Reset { id, code, .. } => {
                if let Some(slot) = slots.find_mut(id) {
                    slot.reset = Some(code);
                    slot.wake();
                }
            }
            Event::Room { id: 0 } => slots.iter_mut().for_each(|(_, s)| wake(&mut s.writer)),
            Event::Room { id } => {
                if let Some(slot) = slots.find_mut(id) {
                    wake(&mut slot.writer);
                }
            }
            Event::Pong => {
                *ponged = true;
                wake(pong);
            }
            Event::GoAway { last, code } => tracing::debug!(last, %code, "HTTP/2 peer goes away"),
        });
        self.outbox.take(&mut self.session);
        self.settled();
        taken
    }

    /// How the connection ended, if it has.
    fn over(&self) -> Option<MuxError> {
        self.ended.then_some(if self.unread {
            MuxError::Unread(Unread)
        } else {
            MuxError::Ended
        })
    }

    /// Nothing moves any more.
    fn end(&mut self) {
        self.ended = true;
        self.slots.iter_mut().for_each(|(_, slot)| slot.wake());
        wake(&mut self.pong);
        wake(&mut self.driver);
        self.settling.drain(..).for_each(Waker::wake);
    }
}

/// A connection, as its tunnels and whoever opens or takes them hold it.
#[derive(Debug)]
pub struct Mux<H: Heads = Tunnels>(Rc<RefCell<State<H>>>);

impl<H: Heads> Clone for Mux<H> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<H: Heads> Mux<H> {
    pub(super) fn new(settings: Settings, takes_slots: bool) -> Self {
        let mut state = State {
            session: Session::new(settings),
            outbox: Outbox::default(),
            slots: Table::default(),
            held: 0,
            incoming: VecDeque::new(),
            driver: None,
            ponged: false,
            pong: None,
            settling: Vec::new(),
            crowded: false,
            ended: false,
            unread: false,
            takes_slots,
            copies: false,
        };
        state.outbox.take(&mut state.session);
        Self(Rc::new(RefCell::new(state)))
    }

    /// How many more streams may be opened now; 0 once it has ended or goes away.
    #[must_use]
    pub fn room_for_streams(&self) -> usize {
        let state = self.0.borrow();
        if state.ended {
            return 0;
        }
        usize::try_from(state.session.room_for_streams()).unwrap_or(usize::MAX)
    }

    /// Streams that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        usize::try_from(self.0.borrow().session.open_streams()).unwrap_or(usize::MAX)
    }

    /// Whether it takes new streams, now or when others have ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let state = self.0.borrow();
        !state.ended && !state.session.is_going()
    }

    /// Takes no new streams; those that are open go on to their end.
    pub fn drain(&self) {
        let mut state = self.0.borrow_mut();
        state.session.drain();
        state.sent();
        // With nothing open it ends at once.
        wake(&mut state.driver);
    }

    /// Asks the peer now and then whether it is there; ends when it does not answer. A connection that carries tunnels may
    /// be silent for hours, so nothing else tells.
    pub async fn silent(self) {
        self.silent_within(limits::PING_MS, limits::PONG_MS).await;
    }

    /// As `silent`, which asks every `ping_ms` and waits `pong_ms`.
    async fn silent_within(self, ping_ms: u64, pong_ms: u64) {
        loop {
            rt::sleep(ping_ms).await;
            {
                let mut state = self.0.borrow_mut();
                state.ponged = false;
                state.session.ping();
                state.sent();
            }
            let answer = std::future::poll_fn(|cx| {
                let mut state = self.0.borrow_mut();
                if state.ponged {
                    return Poll::Ready(());
                }
                register(&mut state.pong, cx);
                Poll::Pending
            });
            if rt::timeout(pong_ms, answer).await.is_err() {
                return;
            }
        }
    }

    /// The next piece of what the peer sends on a stream; `None` at its end.
    pub(super) fn poll_chunk(
        &self,
        id: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut state = self.0.borrow_mut();
        if let Some(chunk) = state.pop(id) {
            return Poll::Ready(Ok(Some(chunk)));
        }
        let ended = state.ended;
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(Ok(None));
        };
        match slot.reset {
            _ if slot.ended => return Poll::Ready(Ok(None)),
            // A peer that resets without error has only ended its side.
            Some(code) if code.is_plain_end() => return Poll::Ready(Ok(None)),
            Some(code) => return Poll::Ready(Err(io::Error::other(MuxError::Reset(code)))),
            None if ended => return Poll::Ready(Err(io::Error::other(MuxError::Ended))),
            None => register(&mut slot.reader, cx),
        }
        Poll::Pending
    }

    /// The next piece that is here already.
    pub(super) fn chunk_at_hand(&self, id: u32) -> Option<Bytes> {
        self.0.borrow_mut().pop(id)
    }

    /// Waits until a stream may send, `most` bytes at the most; how many, in one frame.
    pub(super) fn poll_room(
        &self,
        id: u32,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_sendable(id, most, cx, Session::room)
    }

    /// As `poll_room`, in any number of frames.
    pub(super) fn poll_window(
        &self,
        id: u32,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_sendable(id, most, cx, Session::window)
    }

    fn poll_sendable(
        &self,
        id: u32,
        most: usize,
        cx: &mut Context<'_>,
        room: impl Fn(&Session<H>, u32) -> Option<u32>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        let full = state.outbox.is_full();
        let Some(room) = room(&state.session, id).filter(|_room| !state.ended) else {
            return Poll::Ready(Err(if state.unread {
                io::Error::other(Unread)
            } else {
                io::ErrorKind::BrokenPipe.into()
            }));
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(most);
        if room > 0 && !full {
            return Poll::Ready(Ok(room));
        }
        state.crowded |= full;
        if let Some(slot) = state.slots.find_mut(id) {
            register(&mut slot.writer, cx);
        }
        Poll::Pending
    }

    /// Sends a payload for which there is room; with `end` our side ends. `false` if it cannot be sent any more.
    pub(super) fn send(&self, id: u32, payload: Payload<'_>, end: bool) -> bool {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        state.outbox.take(&mut state.session);
        let Some(head) = state.session.data_head(id, len, end) else {
            return false;
        };
        state.outbox.copy(&head);
        match payload {
            Payload::Copied(bytes) => state.outbox.copy_payload(bytes),
            Payload::Held(bytes) => state.outbox.push(bytes),
        }
        state.sent();
        true
    }

    /// Sends what was read into slots, `filled` bytes for which there is room. `false` if it cannot be sent any more.
    pub(super) fn send_slots(&self, id: u32, mut slots: Slots, filled: usize) -> bool {
        let takes_slots = self.0.borrow().takes_slots;
        // Few bytes go beside others' in one record.
        let few = slots.only(filled).filter(|_few| filled < COPIED_BYTES);
        if let Some(few) = few {
            let sent = self.send(id, Payload::Copied(few), false);
            slots.give();
            return sent;
        }
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        state.outbox.take(&mut state.session);
        let session = &mut state.session;
        let framed = slots.frame(filled, |place, len| {
            let head = session.data_head(id, u32::try_from(len).unwrap_or(u32::MAX), false);
            head.is_some_and(|head| {
                place.copy_from_slice(&head);
                true
            })
        });
        if !framed {
            slots.give();
            return false;
        }
        if takes_slots {
            state.outbox.push_slots(slots, filled);
        } else {
            let (block, frames) = slots.into_records(filled);
            let block = Bytes::from(block);
            frames.for_each(|frame| state.outbox.push(block.slice(frame)));
        }
        state.sent();
        true
    }

    /// Ready when the peer has reset a stream, or the connection has ended.
    pub(super) fn poll_gone(&self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        let ended = state.ended;
        match state.slots.find_mut(id) {
            Some(slot) if slot.reset.is_none() && !ended => {
                register(&mut slot.gone, cx);
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Resets a stream.
    pub(super) fn reset(&self, id: u32, code: Code) {
        let mut state = self.0.borrow_mut();
        state.session.reset(id, code);
        // Nothing is told of it any more, so whoever still waits is told here.
        if let Some(slot) = state.slots.find_mut(id) {
            slot.reset.get_or_insert(code);
            slot.wake();
        }
        state.sent();
    }

    /// The handle of a stream is gone.
    pub(super) fn forget(&self, id: u32) {
        let mut state = self.0.borrow_mut();
        state.session.forget(id);
        let left = state.slots.remove(id).map_or(0, |slot| slot.chunks.len());
        state.held = state.held.saturating_sub(left);
        state.sent();
        if state.session.is_finished() {
            wake(&mut state.driver);
        }
    }

    /// Takes up what the peer has sent next: a request, or what is none.
    pub(super) fn next_incoming(&self) -> Option<Result<(u32, H::Request), Malformed>> {
        let mut state = self.0.borrow_mut();
        let next = state.incoming.pop_front()?;
        if let Ok((id, _)) = &next {
            state.session.take(*id);
        }
        if state.incoming.is_empty() {
            // An idle connection holds no room for heads.
            state.incoming = VecDeque::new();
        }
        Some(next)
    }

    /// Whether anything waits to be taken up.
    pub(super) fn has_incoming(&self) -> bool {
        !self.0.borrow().incoming.is_empty()
    }

    /// Ends the connection at once for what the peer does.
    pub(super) fn fail(&self, error: ConnectionError) {
        let mut state = self.0.borrow_mut();
        state.session.fail(error);
        state.sent();
    }

    /// Has the session send something that is no payload.
    pub(super) fn say<R>(&self, what: impl FnOnce(&mut Session<H>) -> R) -> R {
        let mut state = self.0.borrow_mut();
        let said = what(&mut state.session);
        state.sent();
        said
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The connection takes no more.
    pub(super) fn open_stream(
        &self,
        open: impl FnOnce(&mut Session<H>) -> Result<u32, OpenError>,
    ) -> Result<u32, MuxError> {
        let mut state = self.0.borrow_mut();
        if state.ended {
            return Err(MuxError::Ended);
        }
        let id = open(&mut state.session).map_err(MuxError::Open)?;
        state.slots.insert(id, Slot::default());
        state.sent();
        Ok(id)
    }

    /// The next head that the server sends on a stream: interim ones, then the answer's.
    pub(super) fn poll_head(
        &self,
        id: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<H::Response, MuxError>> {
        let mut state = self.0.borrow_mut();
        let over = state.over();
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(Err(MuxError::Ended));
        };
        if let Some(head) = slot.interim.pop_front().or_else(|| slot.answer.take()) {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = slot.broken(over) {
            return Poll::Ready(Err(error));
        }
        register(&mut slot.reader, cx);
        Poll::Pending
    }

    /// The next piece of what the peer sends on a stream, trailers behind all data; `None` at its end. A reset is an error
    /// whatever its code, unless all had come.
    pub(super) fn poll_piece(&self, id: u32, cx: &mut Context<'_>) -> Poll<Piece<H>> {
        let mut state = self.0.borrow_mut();
        if let Some(chunk) = state.pop(id) {
            return Poll::Ready(Ok(Some(Ok(chunk))));
        }
        let over = state.over();
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(Err(MuxError::Ended));
        };
        if slot.ended {
            return Poll::Ready(Ok(slot.trailers.take().map(Err)));
        }
        if let Some(error) = slot.broken(over) {
            return Poll::Ready(Err(error));
        }
        register(&mut slot.reader, cx);
        Poll::Pending
    }

    /// Whether everything that the peer sends on a stream was read.
    pub(super) fn is_read(&self, id: u32) -> bool {
        let state = self.0.borrow();
        state.slots.find(id).is_none_or(|slot| {
            let empty = slot.chunks.is_empty() && slot.tail.is_empty();
            slot.ended && empty && slot.trailers.is_none()
        })
    }

    /// As `poll_gone`, with the reason.
    pub(super) fn poll_reset(&self, id: u32, cx: &mut Context<'_>) -> Poll<MuxError> {
        let mut state = self.0.borrow_mut();
        let over = state.over();
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(MuxError::Ended);
        };
        if let Some(error) = slot.broken(over) {
            return Poll::Ready(error);
        }
        register(&mut slot.gone, cx);
        Poll::Pending
    }
}

impl Mux<Requests> {
    /// As `new`, for streams that anybody may open.
    pub(super) fn of_requests(settings: Settings) -> Self {
        let mux = Self::new(settings, false);
        mux.0.borrow_mut().copies = true;
        mux
    }
}

impl Mux<Tunnels> {
    /// A client's end of a connection over `stream`, and what reads and writes it.
    #[must_use]
    pub fn client(mut stream: Stream) -> (Self, Driver) {
        let mux = Self::new(CLIENT, stream.tls().is_some());
        (mux.clone(), Driver::new(stream, mux))
    }

    /// Sends a CONNECT, and behind it what the client has to say meanwhile, and waits for the answer; the tunnel is open if
    /// that is 200.
    ///
    /// # Errors
    /// `MuxError`.
    pub async fn open(
        &self,
        request: &Request<()>,
        early: Option<&Early>,
    ) -> Result<(Response<()>, Tunnel), MuxError> {
        let mut fields = Fields::default();
        for kept in Kept::ALL {
            let value = request.headers().get(kept.name());
            if let Some(value) = value.and_then(|v| v.to_str().ok()) {
                fields = fields.with(kept, value);
            }
        }
        let authority = request.uri().authority().map_or("", |a| a.as_str());
        let head = ConnectHead {
            authority,
            fields: &fields,
        };
        let id = self.open_stream(|session| session.open(&head))?;
        let tunnel = Tunnel::new(self.clone(), id);
        early.into_iter().for_each(Early::begin);
        let answer = std::future::poll_fn(|cx| {
            let answer = self.poll_answer(id, cx);
            if let Some(early) = early.filter(|_| answer.is_pending()) {
                early.poll(self, id, cx);
            }
            answer
        });
        let head = answer.await?;
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        put_fields(&head.fields, response.headers_mut());
        Ok((response, tunnel))
    }

    /// Interim answers mean nothing to a tunnel.
    fn poll_answer(&self, id: u32, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, MuxError>> {
        loop {
            let head = ready!(self.poll_head(id, cx))?;
            if head.status >= 200 {
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn respond(&self, id: u32, head: &ResponseHead, end: bool) -> bool {
        let mut state = self.0.borrow_mut();
        let sent = !state.ended && state.session.respond(id, head, end);
        state.sent();
        sent
    }
}

fn put_fields(fields: &Fields, headers: &mut http::HeaderMap) {
    for kept in Kept::ALL {
        let value = fields.find(kept);
        if let Some(value) = value.and_then(|v| http::HeaderValue::from_str(v).ok()) {
            headers.insert(http::HeaderName::from_static(kept.name()), value);
        }
    }
}

/// What a frame carries.
pub(super) enum Payload<'b> {
    /// Bytes of somebody else.
    Copied(&'b [u8]),
    /// Bytes that can be kept.
    Held(Bytes),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Held(bytes) => bytes.len(),
        }
    }
}
