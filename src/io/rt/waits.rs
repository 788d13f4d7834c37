//! Waits for a socket by readiness: one wait after the other in the memory of the first.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::net::TcpStream;

/// A socket, and what waits for it came to.
pub(super) struct Waited {
    pub(super) stream: TcpStream,
    read: Cell<Option<io::Result<()>>>,
    written: Cell<Option<io::Result<()>>>,
}

impl Waited {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Cell::new(None),
            written: Cell::new(None),
        }
    }

    fn came(&self, read: bool) -> &Cell<Option<io::Result<()>>> {
        if read { &self.read } else { &self.written }
    }
}

/// Waits for one direction of a socket.
pub(super) struct Wait {
    /// Never ready itself: what a wait comes to, it leaves with the socket.
    waits: Pin<Box<dyn Future<Output = Infallible>>>,
    /// One is under way.
    is_on: bool,
}

/// Whether a wait is under way.
pub(super) fn is_on(wait: &RefCell<Option<Wait>>) -> bool {
    wait.borrow().as_ref().is_some_and(|wait| wait.is_on)
}

/// Begins a wait until `socket` can be read (else written), or goes on with the one that is under way.
pub(super) fn poll(
    wait: &RefCell<Option<Wait>>,
    socket: &Rc<Waited>,
    read: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut wait = wait.borrow_mut();
    let wait = wait.get_or_insert_with(|| Wait {
        waits: Box::pin(each_time(Rc::clone(socket), read)),
        is_on: false,
    });
    wait.is_on = true;
    let Poll::Pending = wait.waits.as_mut().poll(cx);
    match socket.came(read).take() {
        Some(ready) => {
            wait.is_on = false;
            Poll::Ready(ready)
        }
        None => Poll::Pending,
    }
}

/// Waits, and once more each time that it is polled after that.
async fn each_time(socket: Rc<Waited>, read: bool) -> Infallible {
    loop {
        let ready = if read {
            socket.stream.readable(false).await
        } else {
            socket.stream.writable(false).await
        };
        socket.came(read).set(Some(match ready {
            // A wait that was cancelled is only a reason to look again.
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
            other => other,
        }));
        let mut told = false;
        std::future::poll_fn(|_cx| {
            if std::mem::replace(&mut told, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
