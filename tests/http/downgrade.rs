//! The cases of `tests/data/http/downgrade.toml`: HTTP/2 on our side, HTTP/1.1 behind, at each place.

use std::time::Duration;

use toml::{Table, Value};

use crate::backend;
use crate::cases::{bytes, normal};
use crate::stream::{Ended, Streams};
use crate::system::{PLACES, Place, System};

crate::both!(
    cases,
    crumbs_without_number,
    content_behind_its_length,
    no_upgrade_to_h2c
);

const KEYS: [&str; 11] = [
    "name",
    "method",
    "scheme",
    "authority",
    "path",
    "fields",
    "body",
    "answer",
    "reaches",
    "cut",
    "may_reach",
];

struct Keys<'t>(&'t Table, &'t Table);

impl Keys<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).or_else(|| self.1.get(key))
    }

    fn text(&self, key: &str, place: Place) -> Option<String> {
        let text = self.value(key)?.as_str().expect("a text");
        Some(text.replace("{host}", place.host()))
    }

    fn bytes(&self, key: &str, place: Place) -> Vec<u8> {
        bytes(&self.text(key, place).unwrap_or_default())
    }
}

/// Runs a case; what is wrong with it.
fn run(system: &System, place: Place, keys: &Keys<'_>) -> Result<(), String> {
    let backend = system.backend(place);
    backend.says(&[]);
    let pseudo = ["method", "scheme", "authority", "path"];
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = pseudo
        .iter()
        .map(|key| (format!(":{key}").into_bytes(), keys.bytes(key, place)))
        .collect();
    for field in keys
        .value("fields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |n: usize| {
            let text = field[n].as_str().expect("name and value");
            bytes(&text.replace("{host}", place.host()))
        };
        fields.push((text(0), text(1)));
    }
    let fields: Vec<(&[u8], &[u8])> = fields
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    let body = keys.bytes("body", place);
    let mut streams = Streams::open(system, place);
    if keys.value("may_reach").is_some() {
        // In two writes its head might be answered before the rest comes.
        streams.message(1, &fields, &body);
    } else {
        streams.head(1, &fields, body.is_empty());
        streams.data(1, &body, true);
    }
    let answer = streams.answer(1);
    let want = keys
        .value("answer")
        .and_then(Value::as_integer)
        .expect("an answer");
    let got = match answer.ended {
        // What has begun to reach the server may be answered before it is broken off.
        Ended::Reset(_) if answer.status == 0 || keys.value("cut").is_some() => 0,
        Ended::Open | Ended::Whole | Ended::Reset(_) | Ended::Connection(_) => {
            i64::from(answer.status)
        }
    };
    if got != want {
        return Err(format!("answered {got}, not {want}: {answer:?}"));
    }
    // One stream is one stream: the connection goes on.
    let mut ordinary: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", place.host().as_bytes()),
        (b":path", b"/api/probe"),
    ];
    streams.head(3, &ordinary, true);
    ordinary.clear();
    let next = streams.answer(3);
    if next.status != 200 {
        return Err(format!("the connection does not go on: {next:?}"));
    }
    reached(system, place, keys, body.len())
}

fn reached(system: &System, place: Place, keys: &Keys<'_>, size: usize) -> Result<(), String> {
    let want: Vec<String> = keys
        .text("reaches", place)
        .map(|text| normal(&text.replace("{size}", &format!("{size:x}"))))
        .into_iter()
        .collect();
    let cut = keys.value("cut").is_some();
    let may = keys.text("may_reach", place).map(|text| normal(&text));
    let mut seen = Vec::new();
    system.within(Duration::from_secs(5), || {
        seen = system.backend(place).seen();
        seen.retain(|m| m.target() != "/api/probe");
        seen.retain(|m| m.line == backend::NO_HEAD || !cut || m.whole);
        if let Some(at) = seen.iter().position(|m| Some(m.normal()) == may) {
            seen.remove(at);
        }
        seen.len() >= want.len()
    });
    let seen: Vec<String> = seen.iter().map(backend::Message::normal).collect();
    if seen == want {
        Ok(())
    } else {
        Err(format!("reached: {seen:#?}, not {want:#?}"))
    }
}

fn cases(system: &System) {
    let text = include_str!("../data/http/downgrade.toml");
    let table: Table = toml::from_str(text).unwrap();
    let default = table["default"].as_table().unwrap();
    let all = table["case"].as_array().unwrap();
    assert!(all.len() >= 70, "{}", all.len());
    let mut wrong = Vec::new();
    for case in all {
        let own = case.as_table().unwrap();
        for key in own.keys().chain(default.keys()) {
            assert!(KEYS.contains(&key.as_str()), "key `{key}`");
        }
        for place in PLACES {
            if let Err(why) = run(system, place, &Keys(own, default)) {
                wrong.push(format!("{place:?}, {}: {why}", own["name"]));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A cookie in ever so many fields is one field at the server, as long as a head may be; beyond that it is none.
fn crumbs_without_number(system: &System) {
    for place in PLACES {
        for (count, status) in [(90_usize, 200), (1500, 431)] {
            system.backend(place).says(&[]);
            let crumbs: Vec<String> = (0..count).map(|n| format!("crumb{n}=x")).collect();
            let mut fields: Vec<(&[u8], &[u8])> = vec![
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", place.host().as_bytes()),
                (b":path", b"/api/crumbs"),
            ];
            fields.extend(crumbs.iter().map(|c| (&b"cookie"[..], c.as_bytes())));
            let mut streams = Streams::open(system, place);
            streams.long_head(1, &fields);
            let answer = streams.answer(1);
            assert_eq!(answer.status, status, "{place:?}, {count}: {answer:?}");
            let seen = system.backend(place).seen();
            let cookies: Vec<_> = seen.iter().flat_map(|m| m.all("cookie")).collect();
            let want = (status == 200).then(|| crumbs.join("; "));
            assert_eq!(cookies, want.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

/// What comes behind the length that was announced, in a frame of its own and late, belongs to no request that was served.
fn content_behind_its_length(system: &System) {
    for place in PLACES {
        for (length, content) in [("0", &b""[..]), ("5", b"hello")] {
            for late in [&b""[..], b"x"] {
                system.backend(place).says(&[]);
                let path = format!("/api/late/{}/{length}/{}", place.role(), late.len());
                let fields: [(&[u8], &[u8]); 5] = [
                    (b":method", b"POST"),
                    (b":scheme", b"https"),
                    (b":authority", place.host().as_bytes()),
                    (b":path", path.as_bytes()),
                    (b"content-length", length.as_bytes()),
                ];
                let mut streams = Streams::open(system, place);
                streams.head(1, &fields, false);
                streams.data(1, content, false);
                std::thread::sleep(Duration::from_millis(300));
                let seen = || system.backend(place).seen();
                assert!(!seen().iter().any(|m| m.whole), "{place:?}: {:?}", seen());
                streams.data(1, late, false);
                streams.end(1);
                let answer = streams.answer(1);
                let of_path = |r: &serde_json::Value| {
                    r["role"] == place.role() && r["request"]["path"] == path.as_str()
                };
                if late.is_empty() {
                    assert_eq!(answer.status, 200, "{place:?}: {answer:?}");
                    let [message] = &seen()[..] else {
                        panic!("{place:?}: {:?}", seen());
                    };
                    assert!(message.whole && message.body == content);
                    assert_eq!(message.all("content-length"), [length]);
                    // The name of the request is the same on both sides of the record.
                    let record = system.record(of_path);
                    let id = message.all("x-request-id");
                    assert_eq!(record["request"]["id"].as_str(), id.first().copied());
                    assert_eq!(id.len(), usize::from(place != Place::Egress));
                } else {
                    assert_eq!(answer.ended, Ended::Reset(1), "{place:?}: {answer:?}");
                    let none = answer.status == 0;
                    assert!(none && !seen().iter().any(|m| m.whole), "{:?}", seen());
                }
            }
        }
    }
}

/// HTTP/1.1 that asks for h2c: the request goes on without it, and what follows is not HTTP/2.
fn no_upgrade_to_h2c(system: &System) {
    for place in PLACES {
        for fields in [
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            "connection: Upgrade\r\nupgrade: h2c\r\n",
            "upgrade: h2c\r\n",
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: websocket, h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        ] {
            system.backend(place).says(&[]);
            let mut conn = system.connect(place);
            let host = place.host();
            conn.send(format!("GET /api/h2c HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n").as_bytes());
            let answer = crate::answer::read(&mut conn, "GET").expect("an answer");
            assert_eq!(answer.status, 200, "{place:?}: {fields}");
            assert!(answer.all("upgrade").is_empty(), "{answer:?}");
            let seen = system.backend(place).seen();
            assert_eq!(seen.len(), 1, "{place:?}: {seen:?}");
            assert_eq!(
                seen[0].normal(),
                normal(&format!(
                    "GET /api/h2c HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n"
                ))
            );
            // The preface that would follow is no request.
            conn.send(crate::frames::PREFACE);
            let refused = crate::answer::read(&mut conn, "GET").map(|a| a.status);
            assert_eq!(refused, Some(400), "{place:?}: {fields}");
            assert!(conn.is_over());
            assert_eq!(system.backend(place).seen().len(), 1);
        }
    }
}
