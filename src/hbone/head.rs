//! Heads of CONNECT streams (RFC 9113 sections 8.1 to 8.5): what is well formed, and what we keep of them.

use crate::h2::heads::{self, Answered, Asked, Heads, Malformed, Read, Shape, is_token, is_value};
use crate::h2::hpack::{self, Decoder, FIELD_OVERHEAD, HpackError};
use crate::h2::session::{OpenError, Session};
use crate::vocab::limits;

/// A field that tunnels carry and we keep (what ztunnel sends).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// `forwarded`: the client's address and the service's host name.
    Forwarded,
    /// `baggage`: names of the workload, for telemetry.
    Baggage,
    /// `traceparent` (W3C Trace Context).
    Traceparent,
    /// `x-forwarded-network`: the network of the client.
    Network,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Forwarded,
        Self::Baggage,
        Self::Traceparent,
        Self::Network,
    ];

    /// Name of the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Baggage => "baggage",
            Self::Traceparent => "traceparent",
            Self::Network => "x-forwarded-network",
        }
    }
}

/// The fields that are kept of a head, or that are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    kept: Vec<(Kept, Box<str>)>,
}

impl Fields {
    /// The value; the first, where a peer has sent several.
    #[must_use]
    pub fn find(&self, field: Kept) -> Option<&str> {
        let found = self.kept.iter().find(|(kept, _)| *kept == field);
        found.map(|(_, value)| &**value)
    }

    /// Adds a value. One that no field may hold (RFC 9110 section 5.5) is left out.
    #[must_use]
    pub fn with(mut self, field: Kept, value: impl Into<Box<str>>) -> Self {
        let value = value.into();
        if is_value(value.as_bytes()) && self.find(field).is_none() {
            self.kept.push((field, value));
        }
        self
    }

    fn put(&self, out: &mut Vec<u8>) {
        for (field, value) in &self.kept {
            hpack::put(out, field.name().as_bytes(), value.as_bytes());
        }
    }
}

/// A request of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// `:authority`, as it came; empty if there was none.
    pub authority: Box<str>,
    /// Whether the method is CONNECT: nothing else is a tunnel.
    pub connect: bool,
    /// What else is kept.
    pub fields: Fields,
}

/// A CONNECT that we send.
#[derive(Clone, Copy, Debug)]
pub struct ConnectHead<'h> {
    /// `:authority`.
    pub authority: &'h str,
    /// What else is sent.
    pub fields: &'h Fields,
}

impl ConnectHead<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        hpack::put_named(out, hpack::METHOD, b"CONNECT");
        hpack::put_named(out, hpack::AUTHORITY, self.authority.as_bytes());
        self.fields.put(out);
    }
}

/// The answer to a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// `:status`.
    pub status: u16,
    /// What else is kept.
    pub fields: Fields,
}

impl ResponseHead {
    /// An answer without fields.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            fields: Fields::default(),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.status == 200 {
            out.push(hpack::STATUS_200);
        } else {
            let mut digits = [b'0'; 3];
            let mut left = self.status;
            for digit in digits.iter_mut().rev() {
                *digit = b'0'.saturating_add(u8::try_from(left % 10).unwrap_or_default());
                left /= 10;
            }
            hpack::put_named(out, hpack::STATUS, &digits);
        }
        self.fields.put(out);
    }
}

/// Pseudo-header fields of one head.
#[derive(Debug, Default)]
struct Pseudo {
    method: Option<bool>,
    authority: Option<Box<str>>,
    status: Option<u16>,
    scheme: bool,
    path: bool,
}

/// Reads the fields of one block.
#[derive(Debug, Default)]
struct Reader {
    pseudo: Pseudo,
    fields: Fields,
    count: usize,
    bytes: usize,
    regular: bool,
    wrong: Option<Malformed>,
}

impl Reader {
    fn read(decoder: &mut Decoder, block: &[u8], most: usize) -> Result<Self, HpackError> {
        let mut reader = Self::default();
        decoder.decode(block, |name, value| {
            if reader.wrong.is_none() {
                // What follows is decoded for the table's sake alone.
                reader.wrong = reader.field(name, value, most).err();
            }
        })?;
        Ok(reader)
    }

    fn field(&mut self, name: &[u8], value: &[u8], most: usize) -> Result<(), Malformed> {
        let size = name.len().saturating_add(value.len());
        self.bytes = self
            .bytes
            .saturating_add(size.saturating_add(FIELD_OVERHEAD));
        self.count = self.count.saturating_add(1);
        if self.bytes > most || self.count > limits::HEADERS {
            return Err(Malformed::Large);
        }
        if !is_value(value) {
            return Err(Malformed::Value);
        }
        if let Some(name) = name.strip_prefix(b":") {
            return self.pseudo(name, value);
        }
        self.regular = true;
        if !heads::is_name(name) {
            return Err(Malformed::Name);
        }
        if heads::is_of_connection(name, value) {
            return Err(Malformed::Connection);
        }
        let kept = Kept::ALL.into_iter().find(|k| k.name().as_bytes() == name);
        if let Some(field) = kept
            && self.fields.find(field).is_none()
            && let Ok(value) = std::str::from_utf8(value)
        {
            self.fields.kept.push((field, value.into()));
        }
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if self.regular {
            return Err(Malformed::Pseudo);
        }
        let seen = match name {
            b"method" => {
                let token = !value.is_empty() && value.iter().all(|b| is_token(*b));
                let method = token.then_some(value == b"CONNECT");
                self.pseudo
                    .method
                    .replace(method.ok_or(Malformed::Pseudo)?)
                    .is_some()
            }
            b"authority" => {
                let text = std::str::from_utf8(value).map_err(|_bytes| Malformed::Value)?;
                self.pseudo.authority.replace(text.into()).is_some()
            }
            b"status" => {
                let status = heads::status(value).ok_or(Malformed::Pseudo)?;
                self.pseudo.status.replace(status).is_some()
            }
            b"scheme" => std::mem::replace(&mut self.pseudo.scheme, true),
            b"path" => std::mem::replace(&mut self.pseudo.path, true),
            // `:protocol` as well: extended CONNECT (RFC 8441) is not offered.
            _ => true,
        };
        if seen {
            return Err(Malformed::Pseudo);
        }
        Ok(())
    }
}

/// Streams that carry tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnels;

impl Heads for Tunnels {
    type Request = RequestHead;
    type Response = ResponseHead;
    type Trailers = ();

    fn request(
        decoder: &mut Decoder,
        block: &[u8],
        most: usize,
        _extended: bool,
    ) -> Read<Asked<RequestHead>> {
        Ok(request(decoder, block, most)?.map(|head| {
            let shape = Shape {
                connect: head.connect,
                ..Shape::default()
            };
            Asked { head, shape }
        }))
    }

    fn response(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<Answered<ResponseHead>> {
        Ok(response(decoder, block, most)?.map(|head| Answered {
            status: head.status,
            length: None,
            head,
        }))
    }

    /// Those of answers that made no tunnel.
    fn trailers(decoder: &mut Decoder, block: &[u8], _most: usize) -> Read<()> {
        heads::skip(decoder, block)?;
        Ok(Ok(()))
    }
}

impl Session<Tunnels> {
    /// Opens a stream with a CONNECT.
    ///
    /// # Errors
    /// `OpenError`.
    pub fn open(&mut self, head: &ConnectHead<'_>) -> Result<u32, OpenError> {
        let shape = Shape {
            connect: true,
            ..Shape::default()
        };
        self.open_with(shape, false, |out| head.encode(out))
    }

    /// Answers a request. `false` if the stream is gone.
    pub fn respond(&mut self, id: u32, head: &ResponseHead, end: bool) -> bool {
        self.respond_with(id, end, |out| head.encode(out))
    }
}

fn request(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<RequestHead> {
    let Reader {
        pseudo,
        fields,
        wrong,
        ..
    } = Reader::read(decoder, block, most)?;
    if let Some(wrong) = wrong {
        return Ok(Err(wrong));
    }
    let Some(connect) = pseudo.method.filter(|_| pseudo.status.is_none()) else {
        return Ok(Err(Malformed::Pseudo));
    };
    // CONNECT has an authority, no scheme and no path (section 8.5); anything else has both (section 8.3.1).
    let whole = if connect {
        pseudo.authority.is_some() && !pseudo.scheme && !pseudo.path
    } else {
        pseudo.scheme && pseudo.path
    };
    if !whole {
        return Ok(Err(Malformed::Pseudo));
    }
    Ok(Ok(RequestHead {
        authority: pseudo.authority.unwrap_or_default(),
        connect,
        fields,
    }))
}

fn response(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<ResponseHead> {
    let Reader {
        pseudo,
        fields,
        wrong,
        ..
    } = Reader::read(decoder, block, most)?;
    let of_request =
        pseudo.method.is_some() || pseudo.authority.is_some() || pseudo.scheme || pseudo.path;
    Ok(match (wrong, pseudo.status) {
        (Some(wrong), _) => Err(wrong),
        (None, Some(status)) if !of_request => Ok(ResponseHead { status, fields }),
        (None, Some(_) | None) => Err(Malformed::Pseudo),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 16 << 10;

    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            hpack::put(&mut out, name.as_bytes(), value.as_bytes());
        }
        out
    }

    fn check(fields: &[(&str, &str)], want: Result<(bool, &str), Malformed>) {
        let got = request(&mut Decoder::default(), &block(fields), MOST).unwrap();
        let got = got.as_ref().map(|h| (h.connect, &*h.authority));
        assert_eq!(got, want.as_ref().map(|w| *w), "{fields:?}");
    }

    #[test]
    fn requests() {
        let connect = (":method", "CONNECT");
        let to = (":authority", "10.0.0.1:80");
        check(&[connect, to], Ok((true, "10.0.0.1:80")));
        check(&[to, connect, ("x", "")], Ok((true, "10.0.0.1:80")));
        let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        check(&get, Ok((false, "")));
        use Malformed::{Connection, Large, Name, Pseudo, Value};
        for (fields, why) in [
            (&[connect][..], Pseudo),
            (&[to], Pseudo),
            (&[connect, connect, to], Pseudo),
            (&[connect, to, to], Pseudo),
            (&[connect, to, (":scheme", "http")], Pseudo),
            (&[connect, to, (":path", "/")], Pseudo),
            (&[connect, to, (":protocol", "websocket")], Pseudo),
            (&[connect, to, (":status", "200")], Pseudo),
            (&[connect, to, (":evil", "1")], Pseudo),
            (&[connect, ("x", "y"), to], Pseudo),
            (&[(":method", ""), to], Pseudo),
            (&[(":method", "CON NECT"), to], Pseudo),
            (&[(":method", "GET"), to, (":path", "/")], Pseudo),
            (&[connect, to, ("X", "y")], Name),
            (&[connect, to, ("", "y")], Name),
            (&[connect, to, ("a b", "y")], Name),
            (&[connect, to, ("a:b", "y")], Name),
            (&[connect, to, ("a\r\nb", "y")], Name),
            (&[connect, to, ("a", "y\r\nb: c")], Value),
            (&[connect, to, ("a", "y\0")], Value),
            (&[connect, to, ("a", " y")], Value),
            (&[connect, to, ("a", "y\t")], Value),
            (&[connect, (":authority", "a\n:80")], Value),
            (&[connect, to, ("connection", "close")], Connection),
            (&[connect, to, ("transfer-encoding", "chunked")], Connection),
            (&[connect, to, ("upgrade", "h2c")], Connection),
            (&[connect, to, ("te", "gzip")], Connection),
        ] {
            check(fields, Err(why));
        }
        let many: Vec<_> = [connect, to]
            .into_iter()
            .chain(std::iter::repeat_n(("x", "y"), 200))
            .collect();
        check(&many, Err(Large));
        let long = "y".repeat(MOST);
        check(&[connect, to, ("x", &long)], Err(Large));
    }

    #[test]
    fn what_is_kept() {
        let fields = Fields::default()
            .with(Kept::Forwarded, "for=\"10.0.0.1:5\";host=a")
            .with(Kept::Baggage, "service.name=a")
            .with(Kept::Baggage, "second")
            .with(Kept::Traceparent, "00-1-2-00\r\nevil: yes")
            .with(Kept::Network, "n1");
        let head = ConnectHead {
            authority: "a.b:80",
            fields: &fields,
        };
        let mut out = Vec::new();
        head.encode(&mut out);
        hpack::put(&mut out, b"baggage", b"third");
        hpack::put(&mut out, b"x-other", b"dropped");
        let got = request(&mut Decoder::default(), &out, MOST)
            .unwrap()
            .unwrap();
        assert_eq!(got.fields, fields);
        assert_eq!(got.fields.find(Kept::Baggage), Some("service.name=a"));
        assert_eq!(got.fields.find(Kept::Traceparent), None);
    }

    #[test]
    fn responses() {
        for status in [200, 100, 401, 503, 999] {
            let mut head = ResponseHead::new(status);
            head.fields = head.fields.with(Kept::Baggage, "b");
            let mut out = Vec::new();
            head.encode(&mut out);
            let got = response(&mut Decoder::default(), &out, MOST).unwrap();
            assert_eq!(got, Ok(head));
        }
        for fields in [
            &[][..],
            &[(":status", "20")],
            &[(":status", "+20")],
            &[(":status", "099")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":authority", "a")],
            &[("x", "y")],
        ] {
            let got = response(&mut Decoder::default(), &block(fields), MOST).unwrap();
            assert_eq!(got, Err(Malformed::Pseudo), "{fields:?}");
        }
    }

    #[test]
    fn a_malformed_head_still_feeds_the_table() {
        let mut decoder = Decoder::default();
        // `X: y` is no name; what follows is indexed all the same.
        let mut first = block(&[("X", "y")]);
        first.extend_from_slice(&[0x40, 1, b'a', 1, b'b']);
        let got = request(&mut decoder, &first, MOST).unwrap();
        assert_eq!(got, Err(Malformed::Name));
        heads::skip(&mut decoder, &[0xbe]).unwrap();
    }
}
