//! The server's end of a connection of tunnels: requests, and answers to them.

use std::task::{Context, Poll};

use http::{Method, Request, Response};

use super::driver::Driver;
use super::{Mux, MuxError, put_fields};
use crate::hbone::head::Kept;
use crate::hbone::{Code, ConnectionError, ResponseHead, SERVER};
use crate::io::stream::Stream;
use crate::io::tunnel::Tunnel;

/// A request, the tunnel that it asks for in it, and what answers it.
type Taken = (Request<Tunnel>, Respond);

/// A server's end of a connection.
#[derive(Debug)]
pub struct ServerConnection {
    driver: Driver,
    mux: Mux,
}

impl ServerConnection {
    /// A connection over `stream`.
    #[must_use]
    pub fn new(mut stream: Stream) -> Self {
        let mux = Mux::new(SERVER, stream.tls().is_some());
        Self {
            driver: Driver::new(stream, mux.clone()),
            mux,
        }
    }

    /// What its tunnels hold of it.
    #[must_use]
    pub fn mux(&self) -> &Mux {
        &self.mux
    }

    /// Waits until the client has shown that it speaks HTTP/2.
    ///
    /// # Errors
    /// It does not.
    pub async fn handshake(&mut self) -> Result<(), MuxError> {
        std::future::poll_fn(|cx| {
            let polled = self.driver.poll(cx)?;
            if self.mux.0.borrow().session.is_settled() {
                return Poll::Ready(Ok(()));
            }
            polled.map(|()| Err(MuxError::Ended))
        })
        .await
    }

    /// The next request; the tunnel in it is one once it is answered with 200. Reads and writes the connection meanwhile.
    /// `None` at its end.
    ///
    /// # Errors
    /// It did not end in order.
    pub async fn accept(&mut self) -> Result<Option<Taken>, MuxError> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Taken>, MuxError>> {
        loop {
            if let Some(taken) = self.taken() {
                return Poll::Ready(Ok(Some(taken)));
            }
            let polled = self.driver.poll(cx)?;
            // Until what came is taken nothing more is read: also where all of it is no request.
            if !self.mux.has_incoming() {
                return polled.map(|()| Ok(None));
            }
        }
    }

    fn taken(&self) -> Option<Taken> {
        // What is no request is reset already.
        let (id, head) = loop {
            if let Ok(request) = self.mux.next_incoming()? {
                break request;
            }
        };
        let respond = Respond {
            mux: self.mux.clone(),
            id,
        };
        let mut request = Request::new(Tunnel::new(self.mux.clone(), id));
        if head.connect {
            *request.method_mut() = Method::CONNECT;
        }
        if let Ok(authority) = head.authority.parse::<http::uri::Authority>() {
            let mut parts = http::uri::Parts::default();
            parts.authority = Some(authority);
            *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
        }
        put_fields(&head.fields, request.headers_mut());
        Some((request, respond))
    }

    /// Ends the connection at once for what the peer does.
    pub fn abort(&mut self, what: &'static str) {
        self.mux.fail(ConnectionError {
            code: Code::ENHANCE_YOUR_CALM,
            what,
        });
    }
}

/// Answers one request.
#[derive(Debug)]
pub struct Respond {
    mux: Mux,
    id: u32,
}

impl Respond {
    /// Sends the answer; with `end` nothing follows.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send_response(&mut self, response: &Response<()>, end: bool) -> Result<(), MuxError> {
        let mut head = ResponseHead::new(response.status().as_u16());
        for kept in Kept::ALL {
            let value = response.headers().get(kept.name());
            if let Some(value) = value.and_then(|v| v.to_str().ok()) {
                head.fields = head.fields.with(kept, value);
            }
        }
        if self.mux.respond(self.id, &head, end) {
            Ok(())
        } else {
            Err(MuxError::Ended)
        }
    }
}
