//! Attributes of a connection or request that rules compare, each a list of values, perhaps empty.

use std::borrow::Cow;
use std::fmt;

use http::header::HeaderName;
use serde_json::Value;

use crate::policy::facts::{Connection, Request};
use crate::policy::matcher::Matcher;
use crate::vocab::claims::Claims;
use crate::vocab::field;
use crate::vocab::limits;
use crate::vocab::path::CanonicalPath;
use crate::vocab::spiffe::SpiffeId;

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) conn: &'a Connection,
    pub(super) request: Option<&'a Request>,
}

impl<'a> Facts<'a> {
    /// Claims of the verified token.
    pub(super) fn claims(self) -> Option<&'a Claims> {
        self.request?.claims.as_ref()
    }

    /// When the request arrived, or the connection if there is none: seconds since the Unix epoch. An open exchange that
    /// is judged again has the time of that judgement in its connection.
    pub(super) fn time(self) -> i64 {
        let request = self.request.map_or(i64::MIN, |r| r.time);
        request.max(self.conn.time)
    }
}

/// One attribute that a field or a `when` key names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    /// The peer's ID without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its `namespace/account`; exact values are compared as the ID's path, `/ns/<namespace>/sa/<account>`.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// Direct peer.
    SourceIp,
    /// Client address.
    RemoteIp,
    /// Original destination address.
    DestinationIp,
    /// Original destination port.
    DestinationPort,
    /// Server name of the client hello.
    Sni,
    /// Issuer and subject of the token.
    RequestPrincipal,
    /// A claim, by the names that lead to it.
    Claim(Box<[String]>),
    /// `:authority`, with its port if it has one.
    Host,
    /// Method.
    Method,
    /// Path without query.
    Path,
    /// Path with query (`request.headers[:path]`).
    Target,
    /// Header fields of one name.
    Header(Box<HeaderName>),
    /// Query parameters of one name.
    Query(Box<str>),
    /// When.
    Time,
}

impl Attribute {
    /// Reads a `when` key.
    ///
    /// # Errors
    /// Why the key cannot be used.
    pub(super) fn parse_key(key: &str) -> Result<Self, &'static str> {
        let attribute = match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.trustDomain" => Self::TrustDomain,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Claim(["aud".to_owned()].into()),
            "request.auth.presenter" => Self::Claim(["azp".to_owned()].into()),
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "time" => Self::Time,
            "destination.namespace" | "destination.name" | "destination.user" => {
                return Err("no longer supported; attach the policy to its destination instead");
            }
            key if key.starts_with("destination.labels") => {
                return Err("no longer supported; select the destination with `selector` instead");
            }
            key if key.starts_with("experimental.envoy.filters.") => {
                return Err("there is no dynamic metadata to evaluate it on");
            }
            key => return Self::parse_map_key(key),
        };
        Ok(attribute)
    }

    fn parse_map_key(key: &str) -> Result<Self, &'static str> {
        let (map, rest) = key.split_at(key.find('[').unwrap_or(key.len()));
        let inner = rest
            .strip_prefix('[')
            .and_then(|r| r.strip_suffix(']'))
            .filter(|i| !i.is_empty());
        match (map, inner) {
            ("request.headers", Some(name)) => match name.to_ascii_lowercase().as_str() {
                ":method" => Ok(Self::Method),
                ":path" => Ok(Self::Target),
                ":authority" | "host" => Ok(Self::Host),
                name if !field::is_judged(name) => {
                    Err("belongs to one hop: it is gone before a rule could see it")
                }
                name => name
                    .parse()
                    .map(|name| Self::Header(Box::new(name)))
                    .map_err(|_e| "not a header name"),
            },
            ("request.query", Some(name)) => Ok(Self::Query(name.into())),
            ("request.auth.claims", Some(names)) => {
                let names: Box<[String]> = names.split("][").map(str::to_owned).collect();
                let empty = names.iter().any(|n| n.is_empty() || n.contains(['[', ']']));
                if empty {
                    Err("needs a claim name in each pair of brackets")
                } else {
                    Ok(Self::Claim(names))
                }
            }
            ("request.headers" | "request.query" | "request.auth.claims", None) => {
                Err("needs a name in brackets, as in `request.headers[name]`")
            }
            _ => Err("unknown key"),
        }
    }

    /// Whether HTTP must be understood to know it.
    pub(super) fn needs_http(&self) -> bool {
        match self {
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::Sni
            | Self::Time => false,
            Self::RequestPrincipal
            | Self::Claim(_)
            | Self::Host
            | Self::Method
            | Self::Path
            | Self::Target
            | Self::Header(_)
            | Self::Query(_) => true,
        }
    }

    /// Whether it comes from the peer's certificate or an end user's token, which a CUSTOM policy may not use.
    pub(super) fn is_identity(&self) -> bool {
        match self {
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::RequestPrincipal
            | Self::Claim(_) => true,
            Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::Sni
            | Self::Host
            | Self::Method
            | Self::Path
            | Self::Target
            | Self::Header(_)
            | Self::Query(_)
            | Self::Time => false,
        }
    }

    /// Whether it comes from an end user's token.
    pub(super) fn is_of_token(&self) -> bool {
        matches!(self, Self::RequestPrincipal | Self::Claim(_))
    }

    /// Whether its values are strings, so that a regular expression can be compared with them.
    pub(super) fn is_text(&self) -> bool {
        !matches!(
            self,
            Self::SourceIp
                | Self::RemoteIp
                | Self::DestinationIp
                | Self::DestinationPort
                | Self::Time
        )
    }

    /// Whether any value of it matches.
    pub(super) fn any(&self, facts: Facts<'_>, matcher: &Matcher) -> bool {
        let conn = facts.conn;
        match (self, matcher) {
            (Self::SourceIp, _) => matcher.ip(conn.peer),
            (Self::RemoteIp, _) => matcher.ip(conn.remote),
            (Self::DestinationIp, _) => matcher.ip(conn.destination),
            (Self::DestinationPort, _) => matcher.port(conn.port),
            (Self::Time, _) => matcher.time(facts.time()),
            (Self::RequestPrincipal, _) => facts.claims().is_some_and(|c| matcher.token(c)),
            (Self::ServiceAccount, Matcher::Regexes(_)) => {
                let id = conn.principal.as_ref().and_then(SpiffeId::k8s);
                id.is_some_and(|(ns, sa)| joined(ns, sa, |text| matcher.text(text)))
            }
            _ => self.any_text(facts, |value| matcher.text(value)),
        }
    }

    /// Whether `each` says yes to any of its values as strings; addresses, ports, times and request principals are none.
    pub(super) fn any_text(&self, facts: Facts<'_>, mut each: impl FnMut(&[u8]) -> bool) -> bool {
        let conn = facts.conn;
        let id = conn.principal.as_ref();
        let request = facts.request;
        let path = request.and_then(|r| r.path.as_ref());
        match self {
            Self::Principal => id.is_some_and(|id| each(id.principal().as_bytes())),
            Self::Namespace => id
                .and_then(SpiffeId::k8s)
                .is_some_and(|(namespace, _)| each(namespace.as_bytes())),
            Self::ServiceAccount => id
                .filter(|id| id.k8s().is_some())
                .is_some_and(|id| each(id.path().as_bytes())),
            Self::TrustDomain => id.is_some_and(|id| each(id.trust_domain().as_bytes())),
            Self::Sni => conn.sni.as_ref().is_some_and(|sni| each(sni.as_bytes())),
            Self::Claim(names) => facts.claims().is_some_and(|c| claim_any(c, names, each)),
            Self::Host => request.is_some_and(|r| each(r.host.as_str().as_bytes())),
            Self::Method => request.is_some_and(|r| each(r.method.as_str().as_bytes())),
            Self::Path => path.is_some_and(|p| each(p.path().as_bytes())),
            Self::Target => path.is_some_and(|p| each(p.as_str().as_bytes())),
            Self::Header(name) => request.is_some_and(|r| {
                let mut values = r.headers.get_all(&**name).iter();
                values.any(|v| each(trim(v.as_bytes())))
            }),
            Self::Query(name) => path.is_some_and(|p| p.any_query_value(name.as_bytes(), each)),
            Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::RequestPrincipal
            | Self::Time => false,
        }
    }

    /// What was presented, for a reason. Values that may be secret are not shown.
    pub(super) fn presented<'f>(&self, facts: Facts<'f>) -> Cow<'f, str> {
        let conn = facts.conn;
        let id = conn.principal.as_ref();
        let request = facts.request;
        let claims = request.and_then(|r| r.claims.as_ref());
        let path = request.and_then(|r| r.path.as_ref());
        let text = match self {
            Self::Principal => id.map(|id| Cow::from(id.principal())),
            Self::Namespace => id.and_then(SpiffeId::k8s).map(|(ns, _)| ns.into()),
            Self::ServiceAccount => id
                .and_then(SpiffeId::k8s)
                .map(|(ns, sa)| format!("{ns}/{sa}").into()),
            Self::TrustDomain => id.map(|id| id.trust_domain().into()),
            Self::SourceIp => Some(conn.peer.to_string().into()),
            Self::RemoteIp => Some(conn.remote.to_string().into()),
            Self::DestinationIp => Some(conn.destination.to_string().into()),
            Self::DestinationPort => Some(conn.port.to_string().into()),
            Self::Sni => conn.sni.as_deref().map(Cow::from),
            Self::Time => jiff::Timestamp::from_second(facts.time())
                .ok()
                .map(|t| t.to_string().into()),
            Self::RequestPrincipal => claims.and_then(Claims::request_principal).map(Cow::from),
            Self::Claim(names) => return hidden(claims.is_some_and(|c| claim(c, names).is_some())),
            Self::Host => request.map(|r| r.host.as_str().into()),
            Self::Method => request.map(|r| r.method.as_str().into()),
            Self::Path | Self::Target => path.map(|p| p.path().into()),
            Self::Header(name) => {
                return hidden(request.is_some_and(|r| r.headers.contains_key(&**name)));
            }
            Self::Query(name) => {
                let value = |p: &CanonicalPath| p.any_query_value(name.as_bytes(), |_v| true);
                return hidden(path.is_some_and(value));
            }
        };
        text.map_or(Cow::Borrowed(NONE), shorten)
    }

    /// How a reason calls it, of several of a kind without which one.
    fn noun(&self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Namespace => "namespace",
            Self::ServiceAccount => "service account",
            Self::TrustDomain => "trust domain",
            Self::SourceIp => "source address",
            Self::RemoteIp => "client address",
            Self::DestinationIp => "destination address",
            Self::DestinationPort => "port",
            Self::Sni => "server name",
            Self::Time => "time",
            Self::RequestPrincipal => "request principal",
            Self::Host => "host",
            Self::Method => "method",
            Self::Path => "path",
            Self::Target => "path with query",
            Self::Claim(_) => "claim ",
            Self::Header(_) => "header ",
            Self::Query(_) => "query parameter ",
        }
    }
}

impl Attribute {
    /// Writes how a reason calls it.
    #[inline(always)]
    pub(super) fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(self.noun())?;
        if let Self::Query(name) = self {
            f.write_str(name)?;
        } else if let Self::Header(name) = self {
            f.write_str(name.as_str())?;
        } else if let Self::Claim(names) = self {
            for (nth, name) in names.iter().enumerate() {
                f.write_str(if nth > 0 { "." } else { "" })?;
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// What is told where nothing was presented.
const NONE: &str = "none";

/// What is told of a value that may be secret.
fn hidden(is_there: bool) -> Cow<'static, str> {
    Cow::Borrowed(if is_there { "another value" } else { NONE })
}

/// Longest text of a peer that a reason repeats, in characters.
const SHOWN: usize = 256;

/// Cuts and escapes what a peer sent, so that a record stays one readable line.
fn shorten(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= SHOWN && is_plain(&text) {
        return text;
    }
    let mut out: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out.into()
}

/// Whether nothing in a text has to be escaped.
pub(super) fn is_plain(text: &str) -> bool {
    let is_plain = |b: &u8| matches!(b, b' '..=b'~') & !matches!(b, b'"' | b'\'' | b'\\');
    // To its end whatever is found: so the compiler compares many at once.
    text.as_bytes()
        .iter()
        .fold(true, |plain, byte| plain & is_plain(byte))
}

/// A field value without the spaces and tabs around it (RFC 9110 section 5.5).
fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

fn claim<'c>(claims: &'c Claims, names: &[String]) -> Option<&'c Value> {
    let (first, rest) = names.split_first()?;
    rest.iter().try_fold(claims.claim(first)?, |value, name| {
        value.as_object()?.get(name)
    })
}

/// A string (split at spaces where the claim is such a list) or any string of a list; nothing else is a value.
fn claim_any(claims: &Claims, names: &[String], mut each: impl FnMut(&[u8]) -> bool) -> bool {
    let Some(value) = claim(claims, names) else {
        return false;
    };
    if let Some(list) = value.as_array() {
        let mut texts = list.iter().filter_map(Value::as_str);
        return texts.any(|s| each(s.as_bytes()));
    }
    let Some(text) = value.as_str() else {
        return false;
    };
    match names {
        [name] if claims.is_space_delimited(name) => text
            .split(' ')
            .filter(|part| !part.is_empty())
            .any(|part| each(part.as_bytes())),
        _ => each(text.as_bytes()),
    }
}

/// Up to this many bytes are joined in a small buffer, which costs less to clear.
const SHORT: usize = 512;
/// No ID and no pair of claims is longer: a token is not.
const LONG: usize = limits::TOKEN_BYTES;

/// Calls `each` with `a/b`, without a copy on the heap.
pub(super) fn joined(a: &str, b: &str, each: impl FnOnce(&[u8]) -> bool) -> bool {
    let len = a.len() + 1 + b.len();
    if len <= SHORT {
        each(joined_into(a, b, &mut [0; SHORT]))
    } else if len <= LONG {
        each(joined_into(a, b, &mut [0; LONG]))
    } else {
        each(format!("{a}/{b}").as_bytes())
    }
}

fn joined_into<'b>(a: &str, b: &str, buffer: &'b mut [u8]) -> &'b [u8] {
    let bytes = a.bytes().chain([b'/']).chain(b.bytes());
    buffer
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = from);
    buffer.get(..a.len() + 1 + b.len()).unwrap_or_default()
}
