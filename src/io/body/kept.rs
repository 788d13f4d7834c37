//! A body that others are to have as well: a copy is kept of what is read, up to a bound.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::sync::Notify;

use super::Source;

/// Why there is no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotKept {
    /// It is longer than what is kept.
    #[error("body is too long for a copy of it")]
    TooLong,
    /// It was not read to its end.
    #[error("body was not read to its end")]
    Cut,
}

#[derive(Debug)]
enum State {
    Open(BytesMut),
    Ended(Result<Bytes, NotKept>),
}

/// The copy.
#[derive(Debug)]
pub struct Kept {
    most: usize,
    state: RefCell<State>,
    ended: Notify,
}

impl Kept {
    /// Of a body of which at most `most` bytes are kept.
    #[must_use]
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self {
            most,
            state: RefCell::new(State::Open(BytesMut::new())),
            ended: Notify::new(),
        })
    }

    /// The copy, once the body was read to its end.
    ///
    /// # Errors
    /// `NotKept`.
    pub async fn whole(&self) -> Result<Bytes, NotKept> {
        loop {
            if let State::Ended(ended) = &*self.state.borrow() {
                return ended.clone();
            }
            self.ended.notified().await;
        }
    }

    /// Takes a piece. A piece is a part of the buffer that it came in, all of which it would hold.
    fn take(&self, piece: &[u8]) {
        let mut state = self.state.borrow_mut();
        if let State::Open(kept) = &mut *state {
            if kept.len().saturating_add(piece.len()) <= self.most {
                return kept.extend_from_slice(piece);
            }
            *state = State::Ended(Err(NotKept::TooLong));
            self.ended.notify_waiters();
        }
    }

    /// There is no more; the first word about that holds.
    fn end(&self, whole: bool) {
        let mut state = self.state.borrow_mut();
        if let State::Open(kept) = &mut *state {
            let kept = std::mem::take(kept).freeze();
            *state = State::Ended(whole.then_some(kept).ok_or(NotKept::Cut));
            self.ended.notify_waiters();
        }
    }
}

/// A body that is copied as it is read.
#[derive(Debug)]
pub struct Copied<'a> {
    kept: Until,
    pub(super) body: Source<'a>,
}

/// The copy ends with this, whole or not. By itself, so that what it is copied from may be let go of before.
#[derive(Debug)]
struct Until(Rc<Kept>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.end(false);
    }
}

impl<'a> Copied<'a> {
    /// `body`, of which `kept` gets a copy.
    pub(super) fn new(body: Source<'a>, kept: Rc<Kept>) -> Self {
        Self {
            kept: Until(kept),
            body,
        }
    }

    /// A piece was read, or there is none.
    pub(super) fn read(&self, piece: Option<&[u8]>) {
        if let Some(piece) = piece {
            self.kept.0.take(piece);
        }
        // Who sees the end in the last piece does not ask for what is behind it.
        if piece.is_none() || self.body.is_empty() {
            self.kept.0.end(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::http::h1::Chunk;

    fn body(pieces: &[&'static [u8]]) -> Source<'static> {
        let pieces = pieces.iter().map(|p| Chunk::Data(Bytes::from_static(p)));
        Source::Empty.with(pieces.collect::<VecDeque<_>>())
    }

    fn next(body: &mut Source<'_>) -> Option<Chunk> {
        let mut cx = Context::from_waker(Waker::noop());
        match body.poll_next(&mut cx) {
            Poll::Ready(next) => next.unwrap(),
            Poll::Pending => panic!("it is there"),
        }
    }

    fn ended(kept: &Kept) -> Option<Result<Bytes, NotKept>> {
        let mut cx = Context::from_waker(Waker::noop());
        match std::pin::pin!(kept.whole()).poll(&mut cx) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_copy_is_whole_or_none() {
        let kept = Kept::new(5);
        let mut read = body(&[b"abc", b"de"]).copied(Rc::clone(&kept));
        assert!(next(&mut read).is_some());
        assert_eq!(ended(&kept), None);
        // The end is seen with the last piece.
        assert!(next(&mut read).is_some() && read.is_empty());
        assert_eq!(ended(&kept), Some(Ok(Bytes::from_static(b"abcde"))));
        drop(read);
        assert!(ended(&kept).unwrap().is_ok());

        let kept = Kept::new(4);
        let mut read = body(&[b"abc", b"de", b"f"]).copied(Rc::clone(&kept));
        next(&mut read);
        next(&mut read);
        assert_eq!(ended(&kept), Some(Err(NotKept::TooLong)));
        // The body itself goes on.
        assert!(next(&mut read).is_some() && next(&mut read).is_none());
        assert_eq!(ended(&kept), Some(Err(NotKept::TooLong)));

        let kept = Kept::new(9);
        let mut read = body(&[b"abc", b"de"]).copied(Rc::clone(&kept));
        next(&mut read);
        drop(read);
        assert_eq!(ended(&kept), Some(Err(NotKept::Cut)));
    }
}
