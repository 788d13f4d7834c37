//! Turns of the tasks of a core: one that finds work without end lets the others run.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, Waker};

thread_local! {
    static TURN: RefCell<Turn> = const { RefCell::new(Turn { waiting: Vec::new(), bell: None }) };
}

struct Turn {
    waiting: Vec<Waker>,
    bell: Option<std::os::unix::net::UnixStream>,
}

/// Wakes the tasks that gave up their turn, after the driver has looked at its sockets.
///
/// A task that wakes itself goes to the front of monoio's queue and starves the others; so the wake
/// comes from a socket of our own, through the driver, like any other event.
pub(super) async fn turn_driver() {
    let pair = std::os::unix::net::UnixStream::pair().and_then(|(bell, ear)| {
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let drain = ear.try_clone()?;
        Ok((bell, monoio::net::UnixStream::from_std(ear)?, drain))
    });
    let (bell, ear, mut drain) = match pair {
        Ok(pair) => pair,
        Err(error) => {
            tracing::error!(%error, "no socket pair for taking turns");
            return;
        }
    };
    TURN.with_borrow_mut(|turn| turn.bell = Some(bell));
    let mut sink = [0_u8; 64];
    loop {
        if let Err(error) = ear.readable(false).await {
            // Without a bell nobody waits for it: `yield_turn` goes on at once then.
            tracing::error!(%error, "taking turns has ended");
            let left = TURN.with_borrow_mut(|turn| {
                turn.bell = None;
                std::mem::take(&mut turn.waiting)
            });
            return left.into_iter().for_each(Waker::wake);
        }
        while matches!(io::Read::read(&mut drain, &mut sink), Ok(n) if n == sink.len()) {}
        for waker in TURN.with_borrow_mut(|turn| std::mem::take(&mut turn.waiting)) {
            waker.wake();
        }
    }
}

/// Has the task woken when the others had their turn; `false` if that cannot be.
pub(super) fn wake_next_turn(cx: &Context<'_>) -> bool {
    TURN.with_borrow_mut(|turn| {
        let Some(bell) = &mut turn.bell else {
            return false;
        };
        let first = turn.waiting.is_empty();
        // A full pipe has a byte in it already, which rings as well.
        let rung = !first || io::Write::write(bell, &[1]).is_ok();
        if rung {
            turn.waiting.push(cx.waker().clone());
        }
        rung
    })
}

/// Lets the other tasks of this core run. For loops that find their sockets always ready.
pub async fn yield_turn() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if waited || !wake_next_turn(cx) {
            return Poll::Ready(());
        }
        waited = true;
        Poll::Pending
    })
    .await;
}
