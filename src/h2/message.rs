//! Heads of requests and their answers, and trailers (RFC 9113 section 8): read into header maps without a copy of what a
//! table has, and written.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::h2::heads::{self, Answered, Asked, Heads, Malformed, Read, Shape};
use crate::h2::hpack::{self, Decoder, FIELD_OVERHEAD, Field, HpackError};
use crate::h2::session::{OpenError, Session};
use crate::vocab::limits;

/// Streams that carry requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests;

/// Head of a request. Fields are well formed; what the pseudo-header fields mean is not judged yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// `:method`, a token.
    pub method: Method,
    /// Whether `:scheme` is `https`, not `http`; `None` with CONNECT alone.
    pub https: Option<bool>,
    /// `:authority`.
    pub authority: Option<HeaderValue>,
    /// `:path`; `None` with CONNECT alone.
    pub path: Option<HeaderValue>,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<HeaderValue>,
    /// Fields, in order of arrival within a name; those of `cookie` are one (RFC 9113 section 8.2.3).
    pub headers: HeaderMap,
    /// There was more than we take, and all the rest is missing: to be answered with 431.
    pub oversized: bool,
}

/// Head of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// `:status`.
    pub status: StatusCode,
    /// Fields, in order of arrival within a name.
    pub headers: HeaderMap,
}

/// A request to be sent.
#[derive(Debug)]
pub struct Request<'a, F> {
    /// `:method`.
    pub method: &'a Method,
    /// `:scheme`, `http` or `https`.
    pub scheme: &'static str,
    /// `:authority`.
    pub authority: &'a str,
    /// `:path`.
    pub path: &'a str,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<&'a str>,
    /// Fields besides `content-length`.
    pub fields: F,
    /// `content-length`.
    pub length: Option<u64>,
}

impl Heads for Requests {
    type Request = RequestHead;
    type Response = ResponseHead;
    type Trailers = HeaderMap;

    fn request(
        decoder: &mut Decoder,
        block: &[u8],
        most: usize,
        extended: bool,
    ) -> Read<Asked<RequestHead>> {
        let reader = Reader::read(decoder, block, most)?;
        Ok(reader.request(extended))
    }

    fn response(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<Answered<ResponseHead>> {
        let reader = Reader::read(decoder, block, most)?;
        Ok(reader.response())
    }

    fn trailers(decoder: &mut Decoder, block: &[u8], most: usize) -> Read<HeaderMap> {
        let reader = Reader::read(decoder, block, most)?;
        Ok(match reader.wrong {
            Some(wrong) => Err(wrong),
            None if reader.pseudo.any => Err(Malformed::Pseudo),
            None => Ok(reader.headers),
        })
    }
}

/// Pseudo-header fields of one head.
#[derive(Debug, Default)]
struct Pseudo {
    method: Option<Method>,
    https: Option<bool>,
    authority: Option<HeaderValue>,
    path: Option<HeaderValue>,
    protocol: Option<HeaderValue>,
    status: Option<u16>,
    any: bool,
}

/// Reads the fields of one block.
#[derive(Debug, Default)]
struct Reader {
    pseudo: Pseudo,
    headers: HeaderMap,
    /// Crumbs of `cookie` beyond the first.
    crumbs: Vec<u8>,
    length: Option<u64>,
    count: usize,
    bytes: usize,
    regular: bool,
    wrong: Option<Malformed>,
}

impl Reader {
    fn read(decoder: &mut Decoder, block: &[u8], most: usize) -> Result<Self, HpackError> {
        let mut reader = Self::default();
        reader.headers.reserve(16);
        decoder.fields(block, |field| {
            if reader.wrong.is_none() {
                // What follows is decoded for the table's sake alone.
                reader.wrong = reader.field(field, most).err();
            }
        })?;
        reader.join_crumbs();
        Ok(reader)
    }

    fn field(&mut self, field: &Field<'_>, most: usize) -> Result<(), Malformed> {
        let (name, value) = field.parts();
        let size = name.len().saturating_add(value.len());
        self.bytes = self
            .bytes
            .saturating_add(size.saturating_add(FIELD_OVERHEAD));
        if self.bytes > most {
            return Err(Malformed::Large);
        }
        if !heads::is_trimmed(value) {
            return Err(Malformed::Value);
        }
        if let Some(name) = name.strip_prefix(b":") {
            return self.pseudo(name, field);
        }
        self.regular = true;
        let Some((known, parsed)) = field.parsed() else {
            return Err(if heads::is_name(name) {
                Malformed::Value
            } else {
                Malformed::Name
            });
        };
        if heads::is_of_connection(name, value) {
            return Err(Malformed::Connection);
        }
        if known == header::COOKIE && !self.crumb(value) {
            return Ok(());
        }
        if known == header::CONTENT_LENGTH {
            return self.length(value, known, parsed);
        }
        self.count = self.count.saturating_add(1);
        if self.count > limits::HEADERS {
            return Err(Malformed::Large);
        }
        self.headers.append(known, parsed);
        Ok(())
    }

    /// Takes a cookie; `true` if it is the first. One without content adds nothing: joined, it would leave a space at the
    /// end of the value, which an HTTP/1 peer reads without it (RFC 9112 section 5.1).
    fn crumb(&mut self, value: &[u8]) -> bool {
        let Some(first) = self.headers.get(header::COOKIE) else {
            return true;
        };
        if value.is_empty() {
            return false;
        }
        if self.crumbs.is_empty() {
            self.crumbs.extend_from_slice(first.as_bytes());
        }
        if !self.crumbs.is_empty() {
            self.crumbs.extend_from_slice(b"; ");
        }
        self.crumbs.extend_from_slice(value);
        false
    }

    fn join_crumbs(&mut self) {
        if !self.crumbs.is_empty()
            && let Ok(mut value) = HeaderValue::from_bytes(&self.crumbs)
        {
            value.set_sensitive(true);
            self.headers.insert(header::COOKIE, value);
        }
    }

    fn length(
        &mut self,
        value: &[u8],
        name: HeaderName,
        parsed: HeaderValue,
    ) -> Result<(), Malformed> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).ok().filter(|_text| digits);
        let length: Option<u64> = text.and_then(|text| text.parse().ok());
        let length = length.ok_or(Malformed::Length)?;
        if self.length.replace(length).is_some() {
            return Err(Malformed::Length);
        }
        self.headers.insert(name, parsed);
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], field: &Field<'_>) -> Result<(), Malformed> {
        if self.regular {
            return Err(Malformed::Pseudo);
        }
        self.pseudo.any = true;
        let (_, value) = field.parts();
        let text = || field.value().ok_or(Malformed::Value);
        let of = &mut self.pseudo;
        let seen = match name {
            b"method" => {
                let method = Method::from_bytes(value).map_err(|_bytes| Malformed::Pseudo)?;
                of.method.replace(method).is_some()
            }
            b"scheme" => {
                let https = match value {
                    _ if value.eq_ignore_ascii_case(b"https") => true,
                    _ if value.eq_ignore_ascii_case(b"http") => false,
                    _ => return Err(Malformed::Pseudo),
                };
                of.https.replace(https).is_some()
            }
            b"authority" => of.authority.replace(text()?).is_some(),
            b"path" if value.is_empty() => return Err(Malformed::Pseudo),
            b"path" => of.path.replace(text()?).is_some(),
            b"protocol" => of.protocol.replace(text()?).is_some(),
            b"status" => {
                let status = heads::status(value).ok_or(Malformed::Pseudo)?;
                of.status.replace(status).is_some()
            }
            _ => true,
        };
        if seen {
            return Err(Malformed::Pseudo);
        }
        Ok(())
    }

    fn request(self, extended: bool) -> Result<Asked<RequestHead>, Malformed> {
        let Self {
            pseudo,
            headers,
            length,
            wrong,
            ..
        } = self;
        match wrong {
            Some(Malformed::Large) => {
                let head = RequestHead {
                    // Its pseudo-header fields came first; the answer to a HEAD has no content, whatever it says.
                    method: pseudo.method.unwrap_or_default(),
                    oversized: true,
                    ..RequestHead::default()
                };
                let shape = Shape {
                    is_head: head.method == Method::HEAD,
                    ..Shape::default()
                };
                return Ok(Asked { head, shape });
            }
            Some(wrong) => return Err(wrong),
            None => {}
        }
        let Pseudo {
            method: Some(method),
            https,
            authority,
            path,
            protocol,
            status: None,
            ..
        } = pseudo
        else {
            return Err(Malformed::Pseudo);
        };
        let is_connect = method == Method::CONNECT;
        // CONNECT has an authority, no scheme and no path (section 8.5), unless it is an extended one (RFC 8441 section
        // 4); anything else has both (section 8.3.1).
        let whole = match &protocol {
            Some(_) => {
                extended && is_connect && authority.is_some() && https.is_some() && path.is_some()
            }
            None if is_connect => authority.is_some() && https.is_none() && path.is_none(),
            None => https.is_some() && path.is_some(),
        };
        if !whole {
            return Err(Malformed::Pseudo);
        }
        let shape = Shape {
            connect: is_connect,
            is_head: method == Method::HEAD,
            length: length.filter(|_length| !is_connect),
        };
        let head = RequestHead {
            method,
            https,
            authority,
            path,
            protocol,
            headers,
            oversized: false,
        };
        Ok(Asked { head, shape })
    }

    fn response(self) -> Result<Answered<ResponseHead>, Malformed> {
        let Self {
            pseudo,
            headers,
            length,
            wrong,
            ..
        } = self;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let Pseudo {
            method: None,
            https: None,
            authority: None,
            path: None,
            protocol: None,
            status: Some(status),
            ..
        } = pseudo
        else {
            return Err(Malformed::Pseudo);
        };
        let known = StatusCode::from_u16(status).map_err(|_status| Malformed::Pseudo)?;
        Ok(Answered {
            head: ResponseHead {
                status: known,
                headers,
            },
            status,
            length,
        })
    }
}

/// Writes a field, unless it is one of the connection or belongs into no message (RFC 9113 section 8.2.2).
fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let bytes = value.as_bytes();
    if !heads::is_of_connection(name.as_str().as_bytes(), bytes) && *name != header::HOST {
        if heads::is_trimmed(bytes) {
            hpack::put_field(out, name, value);
        } else if let Ok(trimmed) = HeaderValue::from_bytes(bytes.trim_ascii()) {
            hpack::put_field(out, name, &trimmed);
        }
    }
}

fn put_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    headers
        .iter()
        .for_each(|(name, value)| put_field(out, name, value));
}

fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    match status.as_u16() {
        200 => hpack::put_whole(out, 8),
        204 => hpack::put_whole(out, 9),
        304 => hpack::put_whole(out, 11),
        404 => hpack::put_whole(out, 13),
        _ => hpack::put_named(out, hpack::STATUS, status.as_str().as_bytes()),
    }
}

fn put_request<'h>(
    out: &mut Vec<u8>,
    request: Request<'_, impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>>,
) {
    match *request.method {
        Method::GET => hpack::put_whole(out, 2),
        Method::POST => hpack::put_whole(out, 3),
        ref other => hpack::put_named(out, hpack::METHOD, other.as_str().as_bytes()),
    }
    let plain_connect = *request.method == Method::CONNECT && request.protocol.is_none();
    if !plain_connect {
        hpack::put_whole(out, if request.scheme == "https" { 7 } else { 6 });
        hpack::put_named(out, hpack::PATH, request.path.as_bytes());
    }
    hpack::put_named(out, hpack::AUTHORITY, request.authority.as_bytes());
    if let Some(protocol) = request.protocol {
        hpack::put(out, b":protocol", protocol.as_bytes());
    }
    request
        .fields
        .for_each(|(name, value)| put_field(out, name, value));
    if let Some(length) = request.length {
        hpack::put_field(out, &header::CONTENT_LENGTH, &HeaderValue::from(length));
    }
}

impl Session<Requests> {
    /// Sends a request; with `end` it has no content.
    ///
    /// # Errors
    /// `OpenError`.
    pub fn open<'h>(
        &mut self,
        request: Request<'_, impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>>,
        end: bool,
    ) -> Result<u32, OpenError> {
        let shape = Shape {
            connect: *request.method == Method::CONNECT,
            is_head: *request.method == Method::HEAD,
            length: None,
        };
        self.open_with(shape, end, |out| put_request(out, request))
    }

    /// Answers a request; with `end` the answer has no content. `false` if the stream is gone.
    pub fn respond(&mut self, id: u32, status: StatusCode, headers: &HeaderMap, end: bool) -> bool {
        self.respond_with(id, end, |out| {
            put_status(out, status);
            put_fields(out, headers);
        })
    }

    /// Sends an interim answer, before the answer itself. `false` if that is not possible.
    pub fn respond_interim(&mut self, id: u32, status: StatusCode, headers: &HeaderMap) -> bool {
        status.is_informational()
            && status != StatusCode::SWITCHING_PROTOCOLS
            && self.interim_with(id, |out| {
                put_status(out, status);
                put_fields(out, headers);
            })
    }

    /// Sends trailer fields, which end our side of the stream. `false` if that is not possible.
    pub fn send_trailers(&mut self, id: u32, trailers: &HeaderMap) -> bool {
        self.trailers_with(id, |out| put_fields(out, trailers))
    }
}

#[cfg(test)]
mod tests;
