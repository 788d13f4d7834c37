//! What a client sends in a case, and what the backend sees of it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use crate::cli::cases::harness::Harness;
use crate::cli::cases::json::{Broken, list, member, pairs, text_or};
use crate::http::forward::{self, ForwardClientCert};
use crate::policy::{Connection, Request};

/// A request as sent: nothing is canonical yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    headers: Vec<(String, String)>,
    /// The tokens in it.
    pub(super) tokens: Vec<String>,
}

impl Sent {
    /// Reads the request of a case and signs its tokens.
    pub(super) fn read(sent: &Value, harness: &Harness) -> Broken<Self> {
        let mut out = Self {
            method: text_or(sent, "method", "GET")?.to_owned(),
            host: text_or(sent, "host", "localhost")?.to_owned(),
            target: text_or(sent, "path", "/")?.to_owned(),
            ..Self::default()
        };
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        out.headers = pairs(sent, "headers")?.into_iter().map(owned).collect();
        if let Some(source) = member(sent, "source")
            && member(source, "xff").is_some()
        {
            out.header(forward::XFF.as_str(), text_or(source, "xff", "")?);
        }
        for token in list(sent, "tokens")? {
            out.token(token, harness)?;
        }
        Ok(out)
    }

    /// Header fields in order.
    pub(super) fn fields(&self) -> Vec<(&str, &str)> {
        let pairs = self.headers.iter();
        pairs
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    fn header(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn token(&mut self, token: &Value, harness: &Harness) -> Broken<()> {
        let text = match (token.get("claims"), member(token, "raw")) {
            (Some(_), Some(_)) => return Err("a token with both `claims` and `raw`".to_owned()),
            (Some(claims), None) => {
                let valid = match text_or(token, "signature", "valid")? {
                    "valid" => true,
                    "invalid" => false,
                    other => return Err(format!("`{}` is no signature", other.escape_debug())),
                };
                harness.sign(claims, valid)?
            }
            (None, Some(_)) => text_or(token, "raw", "")?.to_owned(),
            (None, None) => return Err("a token with neither `claims` nor `raw`".to_owned()),
        };
        self.place(token, &text)?;
        self.tokens.push(text);
        Ok(())
    }

    fn place(&mut self, token: &Value, text: &str) -> Broken<()> {
        let Some(place) = member(token, "in") else {
            self.header("authorization", &format!("Bearer {text}"));
            return Ok(());
        };
        let (header, query, cookie) = (
            text_or(place, "header", "")?,
            text_or(place, "query", "")?,
            text_or(place, "cookie", "")?,
        );
        match (header, query, cookie) {
            (header, "", "") if !header.is_empty() => {
                let prefix = text_or(place, "prefix", "")?;
                self.header(header, &format!("{prefix}{text}"));
            }
            ("", query, "") if !query.is_empty() => {
                // Before a fragment, which is not sent on.
                let at = self.target.find('#').unwrap_or(self.target.len());
                let (target, fragment) = self.target.split_at_checked(at).unwrap_or_default();
                let sign = if target.contains('?') { '&' } else { '?' };
                self.target = format!("{target}{sign}{query}={text}{fragment}");
            }
            ("", "", cookie) if !cookie.is_empty() => {
                self.header("cookie", &format!("{cookie}={text}"));
            }
            _ => return Err("`in` is none of `header`, `query`, `cookie`".to_owned()),
        }
        Ok(())
    }
}

/// X-Forwarded-For of a connection whose level has no request: what a proxy in front would say.
pub(super) fn forwarded(sent: &Value, headers: &mut HeaderMap) -> Broken<()> {
    let none = Value::Object(Map::new());
    let xff = text_or(member(sent, "source").unwrap_or(&none), "xff", "")?;
    if !xff.is_empty() {
        let value = HeaderValue::from_str(xff).map_err(|error| error.to_string())?;
        headers.append(forward::XFF, value);
    }
    Ok(())
}

/// The fields that go upstream with a permitted request.
pub(super) fn upstream(conn: &Connection, request: &Request) -> HeaderMap {
    let mut own = forward::Own::after(&request.headers);
    let peer: IpAddr = conn.peer;
    let principal = conn.principal.as_ref().map(|id| id.as_str());
    let (said, details) = (forward::Said::default(), ForwardClientCert::default());
    forward::set(
        &mut own,
        (peer, principal),
        "",
        "http",
        (&said, details, &[]),
    );
    let mut seen = HeaderMap::new();
    for (name, value) in forward::outgoing(&request.headers, &own) {
        seen.append(name.clone(), value.clone());
    }
    if let Ok(host) = HeaderValue::from_str(request.host.as_str()) {
        seen.insert(http::header::HOST, host);
    }
    seen
}
