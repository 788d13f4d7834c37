//! From the request of a case to the canonical request, through the very head parser of the data path.

use crate::http::canonical::{self, BadRequest};
use crate::http::h1::{self, H1Error};
use crate::policy::Request;
use crate::vocab::path::PathNormalization;

/// A request that gets no further than its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Status of the answer.
    pub(super) status: &'static str,
    /// Why.
    pub(super) why: String,
}

impl Refused {
    fn new(status: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            status,
            why: why.to_string(),
        }
    }
}

/// Writes the head as a client would, reads it as a core does, and makes it canonical.
pub(super) fn canonical(
    method: &str,
    host: Option<&str>,
    target: &str,
    headers: &[(&str, &str)],
    mode: PathNormalization,
    now_unix_s: i64,
) -> Result<Request, Refused> {
    let mut fields: Vec<(&str, &str)> = host.map(|host| ("host", host)).into_iter().collect();
    fields.extend_from_slice(headers);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in fields {
        // What would be two lines on HTTP/1 is one invalid field on HTTP/2.
        if [name, value]
            .iter()
            .any(|part| part.contains(['\r', '\n', '\0']))
        {
            return Err(Refused::new(
                "400",
                "a header field with a line break or NUL",
            ));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if [method, target]
        .iter()
        .any(|part| part.contains(['\r', '\n', '\0', ' ']))
    {
        return Err(Refused::new(
            "400",
            "a request line with a break or blank in it",
        ));
    }
    head.push_str("\r\n");
    let raw = match h1::parse_request(head.as_bytes()) {
        Ok(Some((raw, _))) => raw,
        Ok(None) => return Err(Refused::new("400", "incomplete head")),
        Err(error) => return Err(Refused::new(status(error), error)),
    };
    let (request, _form) = canonical::from_h1(raw, mode, now_unix_s)
        .map_err(|error: BadRequest| Refused::new("400", error))?;
    Ok(request)
}

fn status(error: H1Error) -> &'static str {
    match error {
        H1Error::TooLarge => "431",
        H1Error::TargetTooLong => "414",
        H1Error::Coding => "501",
        H1Error::Malformed | H1Error::LineEnd | H1Error::Framing | H1Error::Chunk => "400",
    }
}
