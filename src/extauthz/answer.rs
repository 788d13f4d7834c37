//! What an authorizer's answer means. What cannot be read or done is an error, never a yes.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prost::Message as _;

use crate::extauthz::edits::{Edits, How, is_protected};
use crate::extauthz::message::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse,
};
use crate::extauthz::model::{HttpSettings, Names};
use crate::http::canonical;
use crate::vocab::limits;

/// Fields that an HTTP authorizer names to have them removed from the request.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// An answer.
#[derive(Clone, Debug)]
pub enum Said {
    /// Yes.
    Allow(Box<Allowed>),
    /// No.
    Deny(Box<Refused>),
    /// Neither: the reason, for the record.
    Error(String),
}

/// What a yes brings with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// For the request.
    pub upstream: Edits,
    /// Added to the answer that the client gets.
    pub downstream: Vec<(HeaderName, HeaderValue)>,
}

/// What the client gets after a no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Status.
    pub status: StatusCode,
    /// Header fields without those that say how the message is read.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Reads an answer in the HTTP contract: 200 allows, 5xx is an error, everything else denies.
#[must_use]
pub fn http_answer(
    settings: &HttpSettings,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> Said {
    if status.is_server_error() {
        return Said::Error(format!("authorizer answered {}", status.as_u16()));
    }
    let mut headers = headers.clone();
    canonical::clean_response(&mut headers);
    if status != StatusCode::OK {
        let sent = settings.to_downstream_on_deny.as_ref();
        let headers = pick(&headers, |name| {
            sent.is_none_or(|names| is_sent(names, name))
        });
        return deny(status, headers, body);
    }
    let mut upstream = Edits::default();
    for value in headers.get_all(TO_REMOVE) {
        let Ok(text) = value.to_str() else {
            return Said::Error(format!("`{TO_REMOVE}` is not text"));
        };
        upstream
            .remove
            .extend(text.split(',').filter_map(removable));
    }
    for (name, value) in &headers {
        if settings.to_upstream.contains(name.as_str()) && !is_protected(name.as_str()) {
            upstream
                .set
                .push((name.clone(), value.clone(), How::Replace));
        }
    }
    let added = pick(&headers, |name| {
        settings.to_downstream_on_allow.contains(name)
    });
    Said::Allow(Box::new(Allowed {
        upstream,
        downstream: added.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
    }))
}

/// Beside those that are configured, the client always gets what it needs to do better.
fn is_sent(names: &Names, name: &str) -> bool {
    names.contains(name) || ["www-authenticate", "location"].contains(&name)
}

/// A name that may be removed; what is none, or says how the message is read, is passed over as Envoy does.
fn removable(name: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    (!is_protected(name.as_str())).then_some(name)
}

/// Fields that the client may get from an authorizer.
fn pick(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        if wanted(name.as_str()) {
            out.append(name.clone(), value.clone());
        }
    }
    canonical::clean_response(&mut out);
    for ours in ["content-length", "date", "server", "trailer"] {
        out.remove(ours);
    }
    let envoys: Vec<HeaderName> = out
        .keys()
        .filter(|name| name.as_str().starts_with("x-envoy-"))
        .cloned()
        .collect();
    for name in envoys {
        out.remove(name);
    }
    out
}

fn deny(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Said {
    // An interim answer, or one that takes the connection over, is no answer to a denied request.
    let status = if status.is_informational() {
        StatusCode::FORBIDDEN
    } else {
        status
    };
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let body = if bodiless { Bytes::new() } else { body };
    if body.is_empty() {
        headers.remove(header::CONTENT_ENCODING);
    } else if !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Said::Deny(Box::new(Refused {
        status,
        headers,
        body,
    }))
}

/// Reads an answer in the gRPC contract.
#[must_use]
pub fn grpc_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Said {
    match check_response(status, headers, body, trailers) {
        Ok(response) => judge(response).unwrap_or_else(Said::Error),
        Err(why) => Said::Error(why),
    }
}

/// The one message of the answer.
fn check_response(
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Result<CheckResponse, String> {
    if status != StatusCode::OK {
        return Err(format!("authorizer answered {}", status.as_u16()));
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Err("authorizer does not speak gRPC".to_owned());
    }
    let field = |name| {
        trailers
            .and_then(|t| t.get(name))
            .or_else(|| headers.get(name))
    };
    let code = field("grpc-status").and_then(|v| v.to_str().ok());
    if code != Some("0") {
        let message = field("grpc-message")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let code = code.unwrap_or("none");
        return Err(format!("authorizer answered grpc-status {code} {message}")
            .trim_end()
            .to_owned());
    }
    let mut message = body.clone();
    if message.len() < 5 {
        return Err("authorizer answered no message".to_owned());
    }
    let (flags, length) = (message.get_u8(), message.get_u32());
    if flags != 0 {
        return Err("authorizer compresses its answer".to_owned());
    }
    if usize::try_from(length) != Ok(message.len()) {
        return Err("authorizer answered more or less than one message".to_owned());
    }
    CheckResponse::decode(message)
        .map_err(|error| format!("authorizer's answer cannot be read: {error}"))
}

fn judge(response: CheckResponse) -> Result<Said, String> {
    let CheckResponse {
        status,
        denied_response,
        ok_response,
    } = response;
    match (status.map(|s| s.code), denied_response, ok_response) {
        // Envoy reads an answer without a status as a yes; here something in it has to say so.
        (None, _, None) => Err("authorizer's answer has no status".to_owned()),
        (Some(0), Some(_), _) | (None, Some(_), Some(_)) => {
            Err("authorizer's answer says both yes and no".to_owned())
        }
        (None | Some(0), None, Some(ok)) => allow(&ok),
        (Some(0), None, None) => Ok(Said::Allow(Box::default())),
        (Some(_code), None, _) => Ok(deny(StatusCode::FORBIDDEN, HeaderMap::new(), Bytes::new())),
        (Some(_code), Some(denied), _) => refuse(denied),
    }
}

fn allow(ok: &OkHttpResponse) -> Result<Said, String> {
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err("authorizer wants to change the query, which is not supported".to_owned());
    }
    let mut upstream = Edits {
        remove: ok
            .headers_to_remove
            .iter()
            .filter_map(|name| removable(name))
            .collect(),
        set: Vec::new(),
    };
    for (name, value, how) in fields(&ok.headers)? {
        if is_protected(name.as_str()) {
            return Err(format!("authorizer sets `{name}`, which is not its to set"));
        }
        upstream.set.push((name, value, how));
    }
    let mut added = HeaderMap::new();
    for (name, value, _how) in fields(&ok.response_headers_to_add)? {
        added.append(name, value);
    }
    let added = pick(&added, |_name| true);
    Ok(Said::Allow(Box::new(Allowed {
        upstream,
        downstream: added.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
    })))
}

fn refuse(denied: DeniedHttpResponse) -> Result<Said, String> {
    let code = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| status.as_u16() < 600);
    let mut headers = HeaderMap::new();
    for (name, value, _how) in fields(&denied.headers)? {
        headers.append(name, value);
    }
    let headers = pick(&headers, |_name| true);
    Ok(deny(
        status.unwrap_or(StatusCode::FORBIDDEN),
        headers,
        denied.body.into(),
    ))
}

/// Fields as HTTP can carry them. One that it cannot (a name that is none, CR or LF in a value) spoils all of the answer.
fn fields(options: &[HeaderValueOption]) -> Result<Vec<(HeaderName, HeaderValue, How)>, String> {
    if options.len() > limits::HEADERS {
        return Err("authorizer sets too many header fields".to_owned());
    }
    let mut out = Vec::with_capacity(options.len());
    for option in options {
        let Some(field) = &option.header else {
            return Err("authorizer sets a header field without a name".to_owned());
        };
        let name = HeaderName::from_bytes(field.key.as_bytes()).map_err(|_e| {
            format!(
                "authorizer sets `{}`, which is no header field",
                field.key.escape_debug()
            )
        })?;
        let bytes = if field.value.is_empty() {
            &field.raw_value
        } else {
            &Bytes::copy_from_slice(field.value.as_bytes())
        };
        let value = HeaderValue::from_bytes(bytes).map_err(|_e| {
            format!("authorizer sets `{name}` to what is no value of a header field")
        })?;
        // 0 is also what an authorizer sends that says nothing, and then the client's own value must not stay.
        let how = match (
            option.append.as_ref().map(|b| b.value),
            option.append_action,
        ) {
            (Some(true), _) => How::Append,
            (Some(false), _) | (None, 0 | 2) => How::Replace,
            (None, 1) => How::IfAbsent,
            (None, 3) => How::IfPresent,
            (None, _) => return Err(format!("authorizer sets `{name}` in an unknown way")),
        };
        out.push((name, value, how));
    }
    Ok(out)
}
