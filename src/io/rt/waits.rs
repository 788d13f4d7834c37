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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    use crate::io::rt::testing::{on_both, sockets};
    use crate::io::rt::{Elapsed, Tcp, spawn, timeout};

    use super::*;

    /// Polls once, for nobody.
    fn once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A byte that comes in time.
    async fn byte(from: &mut Tcp) -> u8 {
        from.read_u8().await.unwrap()
    }

    #[test]
    fn a_dropped_wait_is_gone_on_with() {
        on_both(async || {
            let (mut up, mut down) = sockets().await;
            for sent in 0..3 {
                let waits = timeout(2, down.readable()).await;
                assert!(matches!(waits, Err(Elapsed)));
                assert!(is_on(&down.inner.readable));
                up.write_u8(sent).await.unwrap();
                assert_eq!(byte(&mut down).await, sent);
                assert!(!is_on(&down.inner.readable));
            }
            // A socket whose wait nobody goes on with is closed.
            assert!(once(pin!(down.readable())).is_pending());
            drop(down);
            assert_eq!(up.read(&mut [0]).await.unwrap(), 0);
        });
    }

    #[test]
    fn who_waits_last_is_woken() {
        on_both(async || {
            let (mut up, mut down) = sockets().await;
            for sent in 0..3 {
                // The wait is under way, and the one who has begun it does not care any more.
                assert!(once(pin!(down.read_u8())).is_pending());
                let (tell, told) = oneshot::channel();
                spawn(async move {
                    let read = byte(&mut down).await;
                    assert!(tell.send((read, down)).is_ok());
                });
                // So that it waits before there is something.
                crate::io::rt::sleep(2).await;
                up.write_u8(sent).await.unwrap();
                let read;
                (read, down) = told.await.unwrap();
                assert_eq!(read, sent);
            }
        });
    }

    #[test]
    fn what_a_clone_has_taken_is_waited_for_again() {
        on_both(async || {
            let (mut up, mut down) = sockets().await;
            let mut clone = down.clone();
            for sent in [1, 3, 5] {
                assert!(once(pin!(down.read_u8())).is_pending());
                up.write_u8(sent).await.unwrap();
                assert_eq!(byte(&mut clone).await, sent);
                // That it was ready is no end and no error.
                let mut read = pin!(down.read_u8());
                assert!(once(read.as_mut()).is_pending());
                up.write_u8(sent + 1).await.unwrap();
                assert_eq!(read.await.unwrap(), sent + 1);
            }
        });
    }

    #[test]
    fn a_write_waits_until_there_is_room() {
        on_both(async || {
            let (mut up, mut down) = sockets().await;
            let text: Vec<u8> = (0..16_u32 << 20)
                .map(|n| u8::try_from(n % 251).unwrap())
                .collect();
            // Nobody reads, so that there is no more room, and the waits for it are dropped.
            let mut sent = 0;
            while let Poll::Ready(n) = once(pin!(up.write(&text[sent..]))) {
                sent += n.unwrap();
                assert!(sent < text.len(), "it never waits");
            }
            assert!(is_on(&up.inner.writable));
            let waits = timeout(2, up.write(&text[sent..])).await;
            assert!(matches!(waits, Err(Elapsed)), "there is no room");
            let mut came = vec![0; text.len()];
            let write = async { up.write_all(&text[sent..]).await.unwrap() };
            let read = async { down.read_exact(&mut came).await.unwrap() };
            tokio::join!(write, read);
            assert!(came == text, "another text has come");
        });
    }
}
