//! Tests in TOML as people write them: `[[test]]` tables, read with the machinery of configurations.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map as JsonMap, Value as Json};

use crate::config::document::{Document, Entry, Kind, Value};
use crate::config::place::{At, Place, Problems};
use crate::config::problem::Problem;
use crate::config::read::{AnyText, Map, Port, Read, mismatch, open, table, words};

table! {
    /// One file.
    File {
        /// Configuration that the tests are about, from the directory of the file.
        config: Option<At<String>> = "config",
        /// The moment of tests that name none.
        time: Option<Moment> = "time",
        test: Vec<Test> = "test",
    }
}

table! {
    /// `[[test]]`
    Test {
        name: At<String> = "name",
        /// A principal, a workload as `namespace/name`, or `anonymous`.
        from: At<String> = "from",
        /// A host of a service, `namespace/name` of a service, or a host of the outside.
        to: Option<At<String>> = "to",
        /// `namespace/name`: called at its own address, past its service.
        workload: Option<At<String>> = "workload",
        /// `namespace/name`: called at its own listener.
        gateway: Option<At<String>> = "gateway",
        port: Option<Port> = "port",
        method: Option<String> = "method",
        path: Option<AnyText> = "path",
        host: Option<AnyText> = "host",
        headers: Option<Map<Values>> = "headers",
        /// Claims of a token that verifies, or the text of a token.
        token: Option<Token> = "token",
        /// `invalid`: the token's signature does not fit.
        signature: Option<Signature> = "signature",
        /// `false`: bytes that are not HTTP.
        http: Option<bool> = "http",
        source_ip: Option<IpAddr> = "sourceIp",
        sni: Option<String> = "sni",
        time: Option<Moment> = "time",
        /// What the providers of CUSTOM policies answer; they say yes where nothing is written.
        custom: Option<Map<Answer>> = "custom",
        expect: Expect = "expect",
        /// The policy that decides.
        policy: Option<String> = "policy",
        /// A part of the reason.
        reason: Option<String> = "reason",
        /// Whether an AUDIT policy matches.
        audit: Option<bool> = "audit",
    }
}

/// One value of a header, or several.
#[derive(Clone, Debug)]
pub(crate) struct Values(pub(crate) Vec<String>);

impl Read for Values {
    const EXPECTED: &'static str = "a string or a list of strings";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        if let Some(text) = value.text() {
            return Some(Self(vec![text.to_owned()]));
        }
        if !matches!(value.kind, Kind::List(_)) {
            mismatch::<Self>(value, place, out);
            return None;
        }
        let all = Vec::<AnyText>::read(value, place, out)?;
        Some(Self(all.into_iter().map(|text| text.0).collect()))
    }
}

/// `token`.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    /// Claims to sign.
    Claims(Json),
    /// Sent as it is.
    Raw(String),
}

impl Read for Token {
    const EXPECTED: &'static str = "a table of claims or the text of a token";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        match value.text() {
            Some(text) => Some(Self::Raw(text.to_owned())),
            None => {
                let entries = open::<Self>(value, place, out)?;
                claims(entries, place, out).map(Self::Claims)
            }
        }
    }
}

fn claims(entries: &[Entry], place: &Place, out: &mut Problems) -> Option<Json> {
    let claim = |entry: &Entry, out: &mut Problems| {
        let at = place.key(&entry.key, entry.value.offset);
        Some((entry.key.clone(), claim(&entry.value, &at, out)?))
    };
    let read: Vec<_> = entries.iter().map(|entry| claim(entry, out)).collect();
    let all: Option<JsonMap<String, Json>> = read.into_iter().collect();
    all.map(Json::Object)
}

fn claim(value: &Value, place: &Place, out: &mut Problems) -> Option<Json> {
    match &value.kind {
        Kind::Text(text) => Some(Json::String(text.clone())),
        Kind::Boolean(flag) => Some(Json::Bool(*flag)),
        Kind::Integer(Some(number)) => Some(Json::from(*number)),
        Kind::List(items) => {
            let item = |(at, item): (usize, &Value), out: &mut Problems| {
                claim(item, &place.index(at, item.offset), out)
            };
            let read: Vec<_> = items.iter().enumerate().map(|i| item(i, out)).collect();
            let all: Option<Vec<Json>> = read.into_iter().collect();
            all.map(Json::Array)
        }
        Kind::Table(entries) => claims(entries, place, out),
        Kind::Missing | Kind::Null | Kind::Integer(None) | Kind::Float | Kind::Datetime => {
            out.error(
                place,
                "a claim is a string, an integer, true or false, a list or a table",
            );
            None
        }
    }
}

/// `signature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    Valid,
    Invalid,
}

words!(Signature, "one of valid, invalid", "valid" => Self::Valid, "invalid" => Self::Invalid);

/// What a provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allow,
    Deny,
}

words!(Answer, "one of allow, deny", "allow" => Self::Allow, "deny" => Self::Deny);

/// A moment, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) i64);

impl Read for Moment {
    const EXPECTED: &'static str = "seconds since 1970, or a time such as \"2025-11-22T08:26:40Z\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        if let Kind::Integer(Some(seconds)) = value.kind {
            return Some(Self(seconds));
        }
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        let parsed = text.parse::<jiff::Timestamp>();
        if parsed.is_err() {
            let text = text.escape_debug();
            out.error(place, format!("`{text}` is not {}", Self::EXPECTED));
        }
        parsed.ok().map(|time| Self(time.as_second()))
    }
}

/// `expect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It is forwarded.
    Allow,
    /// A policy, a provider or peer authentication says no.
    Deny,
    /// It is answered so.
    Status(u16),
}

impl Read for Expect {
    const EXPECTED: &'static str = "allow, deny or a status from 300 to 599 such as 401 or 301";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        if let Kind::Integer(number) = value.kind {
            let status = number.and_then(|n| u16::try_from(n).ok());
            let status = status.filter(|s| (300..600).contains(s));
            if status.is_none() {
                out.error(
                    place,
                    format!(
                        "not a status that is answered here, expected {}",
                        Self::EXPECTED
                    ),
                );
            }
            return status.map(Self::Status);
        }
        let words = [("allow", Self::Allow), ("deny", Self::Deny)];
        crate::config::read::word(value, &words, place, out)
    }
}

/// A file of tests as read.
#[derive(Debug)]
pub(super) struct Tests {
    pub(super) file: File,
    /// Line of each test, from 1.
    pub(super) lines: Vec<usize>,
}

/// Reads a file.
///
/// # Errors
/// Every problem of it.
pub(super) fn read(path: &Path, text: &str) -> Result<Tests, Vec<Problem>> {
    let mut out = Problems::default();
    let document = Document::toml(0, text, &mut out);
    let file = File::read(&document.root, &Place::top(0), &mut out);
    if let Some(file) = &file {
        one_destination(file, &mut out);
    }
    let located = out.located(&[(PathBuf::from(path), text.to_owned())]);
    let errors = located.errors;
    match file {
        Some(file) if errors.is_empty() => {
            let line = |offset: usize| {
                let before = text.get(..offset).unwrap_or_default();
                before.matches('\n').count() + 1
            };
            let lines = file
                .test
                .iter()
                .map(|t| line(t.name.place.offset))
                .collect();
            Ok(Tests { file, lines })
        }
        Some(_) | None => Err(errors),
    }
}

fn one_destination(file: &File, out: &mut Problems) {
    for test in &file.test {
        let given = [&test.to, &test.workload, &test.gateway];
        if given.iter().filter(|key| key.is_some()).count() != 1 {
            let message = "expected one of `to`, `workload`, `gateway`";
            out.error(&test.name.place, message);
        }
        if test.signature.is_some() && !matches!(test.token, Some(Token::Claims(_))) {
            let message = "`signature` is about the claims of `token`";
            out.error(&test.name.place, message);
        }
        if test.http == Some(false) {
            let written = test.method.is_some()
                || test.path.is_some()
                || test.host.is_some()
                || test.headers.is_some()
                || test.token.is_some();
            if written {
                let message =
                    "`http = false` leaves no `method`, `path`, `host`, `headers` or `token`";
                out.error(&test.name.place, message);
            }
        }
    }
}
