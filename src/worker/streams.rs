//! The streams of an HTTP/2 connection that a client opened, requests or tunnels, each in a task of its own.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;

use crate::io::mux::{self, Respond};
use crate::io::rt;
use crate::io::stream::Stream;
use crate::io::tunnel::{Lease, Tunnel};
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::relaying::{self, Setup};

/// An HTTP/2 server connection that takes requests.
pub type ServerConnection = h2::server::Connection<Stream, Bytes>;

/// Serves stream after stream with `each` until the connection ends. It is asked to end when it carried no stream for
/// long or the process ends; it is dropped when `silent` ends.
pub async fn serve<F: Future<Output = ()> + 'static>(
    core: &Rc<Core>,
    mut connection: ServerConnection,
    silent: impl Future<Output = ()>,
    each: impl Fn(Request<h2::RecvStream>, SendResponse<Bytes>) -> F,
) {
    let open = Rc::new(Cell::new(0));
    let (mut silent, mut draining) = (pin!(silent), pin!(core.draining()));
    let mut ending = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining, if !ending => {
                ending = true;
                connection.graceful_shutdown();
                continue;
            }
            () = &mut silent => return tracing::debug!("HTTP/2 peer does not answer"),
            accepted = connection.accept() => accepted,
            () = rt::sleep(limits::IDLE_MS), if !ending => {
                if open.get() == 0 {
                    ending = true;
                    connection.graceful_shutdown();
                }
                continue;
            }
        };
        let (request, respond) = match accepted {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => return tracing::debug!(%error, "HTTP/2 connection ended"),
        };
        if open.get() >= limits::H2_TASKS {
            tracing::debug!("HTTP/2 streams are reset faster than they wind down");
            connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            continue;
        }
        let stream = each(request, respond);
        // A stream may have work left when its connection has ended.
        let places = (Lease::take(&open), core.place());
        rt::spawn(async move {
            Box::pin(stream).await;
            drop(places);
        });
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
    let mut ending = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining, if !ending => {
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
