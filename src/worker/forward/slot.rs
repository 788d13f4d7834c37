//! Whom an answer goes to, shared by the two directions of an exchange: one of them at a time writes.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll};

use tokio::sync::Notify;

use crate::worker::respond::Responder;

/// The responder of an exchange. It is out of its place while interim answers are written, which others wait for.
pub(super) struct Slot<'a> {
    responder: RefCell<Option<Responder<'a>>>,
    /// It is back in its place, or will not come back.
    back: Notify,
    /// Its answer has begun, or it was left in the middle of a message: it does not come back.
    gone: Cell<bool>,
}

impl<'a> Slot<'a> {
    pub(super) fn new(responder: Responder<'a>) -> Self {
        Self {
            responder: RefCell::new(Some(responder)),
            back: Notify::new(),
            gone: Cell::new(false),
        }
    }

    /// Takes it out once nobody else has it; `None` if it does not come back.
    async fn take(&self) -> Option<Responder<'a>> {
        loop {
            let here = self.responder.borrow_mut().take();
            if here.is_some() || self.gone.get() {
                return here;
            }
            self.back.notified().await;
        }
    }

    /// Takes it for the answer, of which there is one; `None` if that has begun.
    pub(super) async fn for_answer(&self) -> Option<Responder<'a>> {
        let responder = self.take().await?;
        self.goes();
        Some(responder)
    }

    /// Lets `work` write before the answer; `None` if that has begun.
    pub(super) async fn before_answer<T>(
        &self,
        work: impl AsyncFnOnce(&mut Responder<'a>) -> T,
    ) -> Option<T> {
        let mut out = Out {
            responder: Some(self.take().await?),
            slot: self,
        };
        let done = work(out.responder.as_mut()?).await;
        *self.responder.borrow_mut() = out.responder.take();
        self.back.notify_one();
        Some(done)
    }

    fn goes(&self) {
        self.gone.set(true);
        self.back.notify_one();
    }

    /// Whether no answer has begun.
    pub(super) fn is_waiting(&self) -> bool {
        !self.gone.get()
    }

    /// As `Responder::poll_gone`, while nobody writes.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut *self.responder.borrow_mut() {
            Some(responder) => responder.poll_gone(cx),
            None => Poll::Pending,
        }
    }

    /// What is still to be answered.
    pub(super) fn into_unanswered(self) -> Option<Responder<'a>> {
        self.responder.into_inner()
    }
}

/// A responder that is out of its place. What is dropped with it in here was left in the middle of a message.
struct Out<'s, 'a> {
    responder: Option<Responder<'a>>,
    slot: &'s Slot<'a>,
}

impl Drop for Out<'_, '_> {
    fn drop(&mut self) {
        if let Some(responder) = self.responder.take() {
            responder.break_off();
            self.slot.goes();
        }
    }
}
