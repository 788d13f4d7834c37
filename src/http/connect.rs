//! The head of HBONE's CONNECT, written and read: RFC 9113 section 8.5 and what ztunnel puts beside the authority.
//!
//! Only the authority says where a tunnel goes. `forwarded` (RFC 7239), `baggage` and `traceparent` are what the peer
//! tells, for records and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::{Authority, Parts};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};

use crate::http::baggage::{BAGGAGE, Baggage};
use crate::vocab::host::Host;
use crate::vocab::trace::{RANDOM_BYTES, TraceId, TraceParent};

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a CONNECT that we send says.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `:authority`: `IP:port` or `hostname:port`.
    pub authority: String,
    /// `forwarded`'s `for`: the client's address.
    pub client: Option<SocketAddr>,
    /// `forwarded`'s `host`: the service that was asked for.
    pub service: Option<Arc<str>>,
    /// `baggage` of the source workload.
    pub baggage: Option<HeaderValue>,
    /// Trace that it belongs to; a new one if there is none.
    pub trace: Option<TraceId>,
}

impl Head {
    /// The request. `random` makes its span, and its trace if it has none.
    ///
    /// # Errors
    /// `authority` is none.
    pub fn request(&self, random: [u8; RANDOM_BYTES]) -> Result<Request<()>, http::Error> {
        let mut parts = Parts::default();
        parts.authority = Some(self.authority.parse::<Authority>()?);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from_parts(parts)?;
        request.headers_mut().extend(self.fields(random));
        Ok(request)
    }

    /// The header fields.
    pub fn fields(
        &self,
        random: [u8; RANDOM_BYTES],
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let trace = TraceParent::new(self.trace, random).map(|t| t.to_string());
        let fields = [
            (header::FORWARDED, self.forwarded()),
            (BAGGAGE, self.baggage.clone()),
            (
                TRACEPARENT,
                trace.and_then(|t| HeaderValue::try_from(t).ok()),
            ),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    fn forwarded(&self) -> Option<HeaderValue> {
        let client = self.client?;
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let text = match self.service.as_deref().filter(|s| is_token(s)) {
            Some(service) => format!("for=\"{client}\";host={service}"),
            None => format!("for=\"{client}\""),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// What stands in `forwarded` without quotes (RFC 9110 section 5.6.2), of the characters that hosts have.
fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !text.is_empty() && text.bytes().all(token)
}

/// The answer that opens the tunnel; `baggage` is that of who serves here.
#[must_use]
pub fn opened(baggage: Option<&HeaderValue>) -> Response<()> {
    let mut response = Response::new(());
    if let Some(baggage) = baggage {
        response.headers_mut().insert(BAGGAGE, baggage.clone());
    }
    response
}

/// What the peer tells beside the authority. Nothing of it is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// `traceparent`'s trace.
    pub trace: Option<TraceId>,
    /// `forwarded`'s `for`.
    pub client: Option<SocketAddr>,
    /// `forwarded`'s `host`.
    pub service: Option<Host>,
    /// `baggage`.
    pub baggage: Option<Arc<Baggage>>,
}

/// What the last tunnel of a connection told of the peer. The next one most likely says the same, and shares it.
#[derive(Debug, Default)]
pub struct LastBaggage(Option<(HeaderValue, Option<Arc<Baggage>>)>);

impl LastBaggage {
    fn read(&mut self, headers: &HeaderMap) -> Option<Arc<Baggage>> {
        let mut fields = headers.get_all(&BAGGAGE).iter();
        let (Some(value), None) = (fields.next(), fields.next()) else {
            return Baggage::of(headers).map(Arc::new);
        };
        if let Some((last, baggage)) = &self.0
            && last == value
        {
            return baggage.clone();
        }
        let baggage = Baggage::of(headers).map(Arc::new);
        self.0 = Some((value.clone(), baggage.clone()));
        baggage
    }
}

impl Told {
    /// Reads the fields of a CONNECT; what is malformed is as if it were not there.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Self::after(&mut LastBaggage::default(), headers)
    }

    /// As [`Self::of`], on a connection whose last tunnel told `last`.
    #[must_use]
    pub fn after(last: &mut LastBaggage, headers: &HeaderMap) -> Self {
        let forwarded = headers.get(header::FORWARDED);
        Self {
            trace: trace(headers),
            baggage: last.read(headers),
            ..Self::default()
        }
        .forwarded(forwarded.and_then(|v| v.to_str().ok()).unwrap_or_default())
    }

    /// Adds what the value of `forwarded` says.
    #[must_use]
    pub fn forwarded(mut self, value: &str) -> Self {
        let this = &mut self;
        for (name, value) in pairs(value) {
            if name.eq_ignore_ascii_case("for") {
                this.client = value.parse().ok();
            } else if name.eq_ignore_ascii_case("host") {
                this.service = Host::parse(&value).ok();
            }
        }
        self
    }
}

/// The trace that a head belongs to.
#[must_use]
pub fn trace(headers: &HeaderMap) -> Option<TraceId> {
    let mut fields = headers.get_all(&TRACEPARENT).iter();
    let (Some(value), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let parsed = TraceParent::parse(value.to_str().ok()?)?;
    Some(parsed.trace)
}

/// The pairs of the first element of a `forwarded` list, unquoted.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut name, mut value, mut in_value) = (String::new(), String::new(), false);
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' if in_value => quoted = !quoted,
            _ if quoted => value.push(c),
            ',' => break,
            ';' => {
                found.push((std::mem::take(&mut name), std::mem::take(&mut value)));
                in_value = false;
            }
            '=' if !in_value => in_value = true,
            ' ' | '\t' => {}
            _ if in_value => value.push(c),
            _ => name.push(c),
        }
    }
    if !quoted {
        found.push((name, value));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn the_same_baggage_is_kept_once() {
        let mut last = LastBaggage::default();
        let mut told = |value: &str| {
            let fields = headers(&[("baggage", value)]);
            let told = Told::after(&mut last, &fields);
            assert_eq!(told, Told::of(&fields));
            told.baggage
        };
        let (a, again) = (told("service.name=a"), told("service.name=a"));
        assert!(Arc::ptr_eq(&a.unwrap(), &again.unwrap()));
        assert_eq!(
            told("service.name=b").unwrap().service.as_deref(),
            Some("b")
        );
        assert_eq!(told("nothing"), None);
        assert_eq!(
            told("service.name=a").unwrap().service.as_deref(),
            Some("a")
        );
    }

    #[test]
    fn what_is_sent_is_what_ztunnel_sends() {
        let head = Head {
            authority: "10.77.0.2:8080".into(),
            client: Some("[::ffff:10.77.0.1]:4000".parse().unwrap()),
            service: Some("server.default.svc.cluster.local".into()),
            baggage: Some(HeaderValue::from_static("service.name=a")),
            trace: None,
        };
        let request = head.request([0x11; RANDOM_BYTES]).unwrap();
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri().to_string(), "10.77.0.2:8080");
        assert_eq!(
            *request.headers(),
            headers(&[
                (
                    "forwarded",
                    "for=\"10.77.0.1:4000\";host=server.default.svc.cluster.local"
                ),
                ("baggage", "service.name=a"),
                (
                    "traceparent",
                    "00-11111111111111111111111111111111-1111111111111111-00"
                ),
            ])
        );
        let told = Told::of(request.headers());
        assert_eq!(told.client, Some("10.77.0.1:4000".parse().unwrap()));
        let service = told.service.as_ref().map(Host::as_str);
        assert_eq!(service, Some("server.default.svc.cluster.local"));
        let onward = Head {
            trace: told.trace,
            client: None,
            ..head
        };
        let request = onward.request([0x22; RANDOM_BYTES]).unwrap();
        let trace = "00-11111111111111111111111111111111-2222222222222222-00";
        assert_eq!(
            *request.headers(),
            headers(&[("baggage", "service.name=a"), ("traceparent", trace)])
        );
    }

    #[test]
    fn authorities() {
        for (authority, good) in [
            ("10.0.0.1:80", true),
            ("[fd00::1]:80", true),
            ("a.example:80", true),
            ("", false),
            ("a b", false),
        ] {
            let head = Head {
                authority: authority.into(),
                ..Head::default()
            };
            assert_eq!(head.request([1; RANDOM_BYTES]).is_ok(), good, "{authority}");
        }
        let six = Head {
            authority: "[fd00::1]:80".into(),
            client: Some("[fd00::2]:9".parse().unwrap()),
            service: Some("not a token".into()),
            ..Head::default()
        };
        let request = six.request([1; RANDOM_BYTES]).unwrap();
        assert_eq!(
            request.headers().get("forwarded").unwrap(),
            "for=\"[fd00::2]:9\""
        );
    }

    #[test]
    fn what_is_told() {
        let told = |fields: &[(&str, &str)]| Told::of(&headers(fields));
        assert_eq!(told(&[]), Told::default());
        let all = told(&[
            ("traceparent", TRACE),
            (
                "forwarded",
                "For=\"[fd00::2]:9\" ; proto=http;HOST=Web.Example, for=1.2.3.4:5",
            ),
            ("baggage", "service.name=a"),
        ]);
        assert_eq!(
            all.trace.unwrap().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(all.client, Some("[fd00::2]:9".parse().unwrap()));
        assert_eq!(all.service.unwrap().as_str(), "web.example");
        assert_eq!(all.baggage.unwrap().service.as_deref(), Some("a"));
        for nothing in [
            "for=unknown",
            "for=1.2.3.4",
            "for",
            "=",
            ";;",
            "for=\"1.2.3.4:5",
            "host=a/b",
            "host=\"a\\\" b\"",
        ] {
            assert_eq!(
                told(&[("forwarded", nothing)]),
                Told::default(),
                "{nothing}"
            );
        }
        // Two of them are of two traces.
        assert_eq!(
            told(&[("traceparent", TRACE), ("traceparent", TRACE)]).trace,
            None
        );
    }
}
