//! The cases of `tests/data/http`, at each place and in pieces of any size.
//!
//! A file has a table `[default]` and any number of `[[case]]`, whose keys go before the default's:
//!
//! * `send`: what the client sends. `\r \n \t \\ \xHH` stand for bytes, `{host}` for the place's host, `{name*n}` for a
//!   text n times, and `{key}` for the case's own key of that name.
//! * `answers`: statuses of all answers, in order.
//! * `reaches`: the messages that reach the backend, in any order of fields and chunks; `cut = true`: parts of others may.
//! * `ends`: whether the connection ends then; if so another request was sent behind, which nobody may see.
//! * `says`: what the backend answers, in steps (see `backend.rs`).
//! * `body`, `has`, `lacks`, `trailers`: of the last answer; `whole = false`: it must not look complete.
//! * `settles`: what the backend says unasked has arrived before the next request is sent.
//! * `at`: the places, if it is not all of them.

use std::time::Duration;

use toml::{Table, Value};

use crate::answer;
use crate::backend;
use crate::system::{PLACES, Place, System, probe};

const FILES: &[(&str, &str)] = &[
    ("framing", include_str!("../data/http/framing.toml")),
    ("chunks", include_str!("../data/http/chunks.toml")),
    ("lines", include_str!("../data/http/lines.toml")),
    ("fields", include_str!("../data/http/fields.toml")),
    ("hosts", include_str!("../data/http/hosts.toml")),
    ("hops", include_str!("../data/http/hops.toml")),
    ("persistence", include_str!("../data/http/persistence.toml")),
    ("upgrades", include_str!("../data/http/upgrades.toml")),
    ("answers", include_str!("../data/http/answers.toml")),
];

const SMUGGLED: &str = "GET /api/smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n";

/// Bytes of a text with escapes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.chars());
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.extend(c.to_string().as_bytes());
            continue;
        }
        out.push(match rest.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('\\') => b'\\',
            Some('x') => {
                let hex: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&hex, 16).expect("two digits after \\x")
            }
            other => panic!("no escape: \\{other:?} in {text}"),
        });
    }
    out
}

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) send: Vec<u8>,
    pub(crate) answers: Vec<u16>,
    reaches: Vec<String>,
    cut: bool,
    pub(crate) ends: bool,
    pub(crate) says: Vec<Vec<u8>>,
    body: Option<String>,
    has: Vec<String>,
    lacks: Vec<String>,
    trailers: Vec<String>,
    whole: bool,
    /// What the backend says unasked arrives before the next request.
    settles: bool,
}

impl Case {
    fn method(&self) -> &str {
        if self.send.starts_with(b"HEAD ") {
            "HEAD"
        } else {
            "GET"
        }
    }
}

struct Keys<'t> {
    own: &'t Table,
    default: &'t Table,
    host: &'static str,
}

impl Keys<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.own.get(key).or_else(|| self.default.get(key))
    }

    /// A text with what stands in braces put in, still with its escapes.
    fn filled(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let end = at + rest[at..].find('}').expect("a brace is closed");
            out.push_str(&rest[..at]);
            let inner = &rest[at + 1..end];
            if let Some((piece, n)) = inner.rsplit_once('*') {
                out.push_str(&piece.repeat(n.parse().expect("how many times")));
            } else if inner == "host" {
                out.push_str(self.host);
            } else {
                let text = self.value(inner).and_then(Value::as_str);
                out.push_str(&self.filled(text.unwrap_or_default()));
            }
            rest = &rest[end + 1..];
        }
        out + rest
    }

    fn text(&self, key: &str) -> Option<String> {
        Some(self.filled(self.value(key)?.as_str().expect("a text")))
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let all = self.value(key).and_then(Value::as_array);
        let all = all.into_iter().flatten();
        all.map(|v| self.filled(v.as_str().expect("a text")))
            .collect()
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.value(key)
            .map_or(default, |v| v.as_bool().expect("true or false"))
    }
}

const KEYS: [&str; 17] = [
    "name", "send", "answers", "reaches", "cut", "ends", "says", "body", "has", "lacks",
    "trailers", "whole", "settles", "at", "fields", "content", "line",
];

/// All cases for a place.
pub(crate) fn cases(place: Place) -> Vec<Case> {
    let mut all = Vec::new();
    for (file, text) in FILES {
        let table: Table = toml::from_str(text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let empty = Table::new();
        let default = table
            .get("default")
            .and_then(Value::as_table)
            .unwrap_or(&empty);
        let cases = table["case"].as_array().expect("cases");
        for (n, case) in cases.iter().enumerate() {
            let own = case.as_table().unwrap();
            for key in own.keys().chain(default.keys()) {
                assert!(KEYS.contains(&key.as_str()), "{file}: key `{key}`");
            }
            let keys = Keys {
                own,
                default,
                host: place.host(),
            };
            let at = keys.texts("at");
            if !at.is_empty() && !at.iter().any(|p| p == place.role()) {
                continue;
            }
            let label = keys.text("name").unwrap_or_else(|| {
                let hint = ["fields", "line", "content"]
                    .iter()
                    .find_map(|k| own.get(*k).and_then(Value::as_str));
                hint.unwrap_or_default().chars().take(80).collect()
            });
            let answers = keys
                .value("answers")
                .and_then(Value::as_array)
                .expect("answers");
            all.push(Case {
                name: format!("{file} {n} `{label}`"),
                send: bytes(&keys.text("send").expect("what to send")),
                answers: answers
                    .iter()
                    .map(|v| u16::try_from(v.as_integer().unwrap()).unwrap())
                    .collect(),
                reaches: keys.texts("reaches"),
                cut: keys.flag("cut", false),
                ends: keys.flag("ends", true),
                says: keys.texts("says").iter().map(|t| bytes(t)).collect(),
                body: keys.text("body"),
                has: keys.texts("has"),
                lacks: keys.texts("lacks"),
                trailers: keys.texts("trailers"),
                whole: keys.flag("whole", true),
                settles: keys.flag("settles", false),
            });
        }
    }
    all
}

/// The meaning of a message with escapes.
pub(crate) fn normal(text: &str) -> String {
    let raw = bytes(text);
    let mut stream = raw.as_slice();
    let mut message = backend::head(&mut stream).expect("a message is expected");
    backend::body(&mut stream, &mut message).expect("a whole message is expected");
    assert!(stream.is_empty(), "more than a message is expected: {text}");
    message.normal()
}

/// Runs a case; what is wrong with it.
fn run(system: &System, place: Place, case: &Case, step: usize) -> Result<(), String> {
    let backend = system.backend(place);
    backend.will(&case.says);
    let mut conn = system.connect(place);
    for piece in case.send.chunks(step) {
        conn.send(piece);
    }
    if case.ends {
        conn.send(SMUGGLED.replace("{host}", place.host()).as_bytes());
        if case.answers.iter().all(|status| *status >= 400) {
            // What still waits for more is told that there is none.
            conn.half_close();
        }
    }
    let mut got = Vec::new();
    let mut last = answer::Answer::default();
    while got.len() < case.answers.len() {
        match answer::read(&mut conn, case.method()) {
            Some(answer) => {
                got.push(answer.status);
                last = answer;
            }
            None => break,
        }
    }
    if got != case.answers {
        return Err(format!(
            "answered {got:?}, not {:?}: {last:?}",
            case.answers
        ));
    }
    if !got.is_empty() && last.complete != case.whole {
        return Err(format!("complete: {}, {last:?}", last.complete));
    }
    look(case, &last)?;
    if case.settles {
        std::thread::sleep(Duration::from_millis(600));
    }
    if case.ends {
        if case.whole && answer::head(&mut conn).is_some() {
            return Err("another answer".to_owned());
        }
        if !conn.is_over() {
            return Err("the connection goes on".to_owned());
        }
        // That it ends says little where we have ended our direction: the answer has to say so.
        if last.status >= 400 && last.all("connection") != ["close"] {
            return Err(format!("it does not say that it closes: {last:?}"));
        }
    } else if probe(&mut conn, place) != Some(200) {
        return Err("the connection does not go on as it should".to_owned());
    }
    reached(system, place, case)
}

fn look(case: &Case, last: &answer::Answer) -> Result<(), String> {
    if let Some(body) = &case.body
        && last.body != bytes(body)
    {
        return Err(format!("body {:?}", last.text()));
    }
    for line in &case.has {
        let (name, value) = line.split_once(": ").unwrap();
        if !last.all(name).contains(&value) {
            return Err(format!("lacks `{line}`: {last:?}"));
        }
    }
    let trailers: Vec<String> = last
        .trailers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    if trailers != case.trailers {
        return Err(format!("trailers {trailers:?}"));
    }
    for name in &case.lacks {
        if !last.all(name).is_empty() {
            return Err(format!("has `{name}`: {last:?}"));
        }
    }
    Ok(())
}

fn reached(system: &System, place: Place, case: &Case) -> Result<(), String> {
    let backend = system.backend(place);
    let want: Vec<String> = case.reaches.iter().map(|text| normal(text)).collect();
    let (mut seen, mut cut) = (Vec::new(), Vec::new());
    let look = |seen: &mut Vec<String>, cut: &mut Vec<String>| {
        seen.clear();
        cut.clear();
        for message in backend.seen() {
            if message.target().starts_with("/api/probe") {
                continue;
            }
            // What is no head is wanted nowhere, whatever else may be cut.
            let counts = message.whole || message.line == backend::NO_HEAD;
            if counts { &mut *seen } else { &mut *cut }.push(message.normal());
        }
    };
    // The last byte of a message may come after the answer to it.
    system.within(Duration::from_secs(5), || {
        look(&mut seen, &mut cut);
        seen.len() >= want.len()
    });
    if seen != want {
        return Err(format!("reached: {seen:#?}, not {want:#?}"));
    }
    if !case.cut && !cut.is_empty() {
        return Err(format!("reached in part: {cut:#?}"));
    }
    Ok(())
}

fn run_all(io: &str, place: Place, step: usize) {
    let system = System::start(io);
    let all = cases(place);
    let mut wrong = Vec::new();
    for case in &all {
        if let Err(why) = run(&system, place, case, step) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    let wrong_ones = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {} cases at {place:?}:\n{wrong_ones}",
        wrong.len(),
        all.len()
    );
    system.healthy();
}

macro_rules! at_each_place {
    ($($io:ident),+) => {
        $(mod $io {
            use super::{Place, run_all};
            #[test] fn ingress() { run_all(stringify!($io), Place::Ingress, usize::MAX); }
            #[test] fn waypoint() { run_all(stringify!($io), Place::Waypoint, usize::MAX); }
            #[test] fn egress() { run_all(stringify!($io), Place::Egress, usize::MAX); }
            #[test] fn in_pieces() { run_all(stringify!($io), Place::Waypoint, 7); }
        })+
    };
}
at_each_place!(epoll, io_uring);

/// The set is what the page about it says it is.
#[test]
fn there_are_as_many_as_are_told() {
    for place in PLACES {
        let all = cases(place);
        assert!(all.len() >= 600, "{}", all.len());
        let refused = all
            .iter()
            .filter(|case| case.reaches.is_empty() && case.ends);
        assert!(refused.count() >= 200);
    }
}
