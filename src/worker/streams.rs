//! The streams of an HTTP/2 connection that a client opened, requests or tunnels, each in a task of its own.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use http::Request;

use crate::io::h2::{MuxError, Server, Taken};
use crate::io::mux::{self, Respond};
use crate::io::rt;
use crate::io::tunnel::{Lease, Tunnel};
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::relaying::{self, Setup};

/// Serves stream after stream with `each` until the connection ends. It is asked to end when it carried no stream for
/// long or the process ends.
///
/// # Errors
/// It did not end in order.
pub async fn serve<F: Future<Output = ()> + 'static>(
    core: &Rc<Core>,
    mut server: Server,
    each: impl Fn(Taken) -> F,
) -> Result<(), MuxError> {
    let open = Rc::new(Cell::new(0));
    let mut draining = pin!(core.draining());
    let mut idle = pin!(rt::sleep(limits::IDLE_MS));
    let (mut ending, mut busy) = (false, false);
    let mut expected = pin!(expected(core));
    let mut is_due = !core.is_draining();
    loop {
        let mut next = tokio::select! {
            biased;
            () = &mut expected, if !is_due => {
                is_due = true;
                continue;
            }
            () = &mut draining, if is_due && !ending => {
                ending = true;
                server.drain();
                continue;
            }
            accepted = server.accept() => match accepted? {
                None => return Ok(()),
                Some(taken) => Some(taken),
            },
            () = &mut idle => {
                // It was idle for one to two of them.
                if !std::mem::take(&mut busy) && open.get() == 0 {
                    if ending {
                        // Nor did it say that it has heard of the end.
                        return Ok(());
                    }
                    ending = true;
                    server.drain();
                }
                idle.set(rt::sleep(limits::IDLE_MS));
                continue;
            }
        };
        (busy, is_due) = (true, true);
        while let Some(taken) = next {
            if open.get() >= limits::H2_TASKS {
                let error = server.abort("streams are reset faster than they wind down");
                // The peer learns why if it takes it at once.
                drop(server.flush().await);
                return Err(MuxError::Protocol(error));
            }
            let stream = each(taken);
            // A stream may have work left when its connection has ended.
            let places = (Lease::take(&open), core.place());
            rt::spawn(async move {
                stream.await;
                drop(places);
            });
            next = server.at_hand();
        }
    }
}

/// How long a connection that begins while the process ends may take to its first stream, before it is told that there will
/// be no more: whoever was accepted has one under way, and would lose it.
async fn expected(core: &Core) {
    if core.is_draining() {
        rt::sleep(limits::DRAIN_FIRST_MS).await;
    }
}

/// As `serve`, for a connection whose streams are tunnels.
pub async fn serve_tunnels(
    core: &Rc<Core>,
    mut connection: mux::ServerConnection,
    each: impl Fn(Request<Tunnel>, Respond) -> Setup,
) {
    let open = Rc::new(Cell::new(0));
    let silent = connection.mux().clone().silent();
    let (mut silent, mut draining) = (pin!(silent), pin!(core.draining()));
    let mut expected = pin!(expected(core));
    let (mut ending, mut is_due) = (false, !core.is_draining());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut expected, if !is_due => {
                is_due = true;
                continue;
            }
            () = &mut draining, if is_due && !ending => {
                ending = true;
                connection.mux().drain();
                continue;
            }
            () = &mut silent => return tracing::debug!("HBONE peer does not answer"),
            accepted = connection.accept() => accepted,
            () = rt::sleep(limits::IDLE_MS), if !ending => {
                if open.get() == 0 {
                    ending = true;
                    connection.mux().drain();
                }
                continue;
            }
        };
        is_due = true;
        let (request, respond) = match accepted {
            Ok(None) => return,
            Ok(Some(accepted)) => accepted,
            Err(error) => return tracing::debug!(%error, "HBONE connection ended"),
        };
        if open.get() >= limits::H2_TASKS {
            tracing::debug!("HBONE streams are reset faster than they wind down");
            connection.abort("streams are reset faster than they wind down");
            continue;
        }
        let stream = each(request, respond);
        // A stream may have work left when its connection has ended.
        let places = (Lease::take(&open), core.place());
        rt::spawn(async move {
            relaying::run(stream).await;
            drop(places);
        });
    }
}
