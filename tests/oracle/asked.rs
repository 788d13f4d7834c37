//! Random connections and requests: a row of numbers, each of which picks one thing, so that they are made fast and
//! shrink to the plainest of everything.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::vec;
use proptest::prelude::*;
use ringgate::policy::{Connection, Request};
use ringgate::vocab::claims::Claims;
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::spiffe::SpiffeId;
use serde_json::{Map, Value, json};

use crate::pools;

/// A connection, and a request on it unless it is bare.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) conn: Connection,
    pub(crate) request: Option<Request>,
}

/// As many as a request with everything takes.
const NUMBERS: usize = 38;

pub(crate) fn asked() -> impl Strategy<Value = Asked> {
    vec(any::<u8>(), NUMBERS..=NUMBERS).prop_map(|numbers| {
        let mut row = Row { numbers, next: 0 };
        let conn = connection(&mut row);
        let request = (row.below(6) != 5).then(|| request(&mut row));
        Asked { conn, request }
    })
}

/// The numbers, taken one by one.
struct Row {
    numbers: Vec<u8>,
    next: usize,
}

impl Row {
    fn below(&mut self, n: usize) -> usize {
        let number = self.numbers[self.next];
        self.next += 1;
        usize::from(number) % n
    }

    fn of<T: Copy>(&mut self, pool: &[T]) -> T {
        pool[self.below(pool.len())]
    }

    fn address(&mut self) -> IpAddr {
        self.of(pools::ADDRESSES).parse().unwrap()
    }
}

fn connection(row: &mut Row) -> Connection {
    let id = row.of(pools::IDS);
    let plaintext = row.below(7) == 6;
    let time = row.of(pools::TIMES);
    let peer = row.address();
    let remote = row.address();
    Connection {
        principal: (!plaintext).then(|| SpiffeId::parse(&format!("spiffe://{id}")).unwrap()),
        peer,
        remote: if row.below(2) == 0 { peer } else { remote },
        destination: row.address(),
        port: row.of(pools::PORT_NUMBERS),
        sni: row
            .of(&[None, Some("a.com"), Some("b.example"), Some("api")])
            .map(Into::into),
        time,
    }
}

fn request(row: &mut Row) -> Request {
    let method = row.of(pools::VERBS);
    let time = row.of(pools::TIMES);
    let host = Host::parse(row.of(pools::AUTHORITIES)).unwrap();
    let mut headers = HeaderMap::new();
    for name in ["x-a", "x-b"] {
        for _ in 0..row.of(&[0, 1, 1, 2]) {
            let value = HeaderValue::from_bytes(row.of(pools::FIELDS)).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let connect = row.below(16) == 15;
    Request {
        method: if connect {
            Method::CONNECT
        } else {
            method.parse().unwrap()
        },
        host,
        path: (!connect).then(|| path(row)),
        headers,
        time,
        claims: (row.below(4) != 0).then(|| claims(row)),
    }
}

fn path(row: &mut Row) -> CanonicalPath {
    let mode = row.of(&[
        PathNormalization::Base,
        PathNormalization::None,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ]);
    let mut target = row.of(pools::TARGETS).to_owned();
    for i in 0..row.below(5) {
        target.push(if i == 0 { '?' } else { '&' });
        target.push_str(row.of(pools::QUERY_PIECES));
    }
    CanonicalPath::parse(mode, &target).unwrap()
}

fn claims(row: &mut Row) -> Claims {
    let group = row.of(&["staff", "admin", "read write", "guests"]);
    let mixed = row.below(8);
    let shape = |n: usize| match n {
        0 => json!(group),
        1 => json!([group, "read"]),
        2 => json!([7, true, null, { "x": "staff" }, ["staff"], group]),
        3 => json!(7),
        4 => json!({ "staff": "staff" }),
        5 => Value::Null,
        6 => json!("read  write staff"),
        _ => json!([]),
    };
    let mut map = Map::new();
    let issuers = [
        json!("https://a.com"),
        json!("issuer-2"),
        json!(""),
        json!(1),
    ];
    let subjects = [json!("user-1"), json!("user-2"), json!("a/b"), Value::Null];
    let issuer = row.below(10);
    let subject = row.below(10);
    map.insert("iss".to_owned(), issuers[issuer.saturating_sub(6)].clone());
    map.insert(
        "sub".to_owned(),
        subjects[subject.saturating_sub(6)].clone(),
    );
    let audiences = [
        json!("bookstore"),
        json!(["other", "bookstore"]),
        json!("store"),
        json!([]),
    ];
    map.insert("aud".to_owned(), audiences[row.below(4)].clone());
    if row.below(2) == 0 {
        map.insert("azp".to_owned(), json!("bookstore"));
    }
    map.insert("groups".to_owned(), shape(mixed));
    map.insert("scope".to_owned(), shape(7 - mixed));
    map.insert("teams".to_owned(), shape(row.below(8)));
    map.insert("a.b".to_owned(), json!(group));
    let roles = shape((mixed + 3) % 8);
    let realm = [
        json!({ "roles": roles, "deep": { "name": group } }),
        json!("staff"),
        json!([{ "roles": "staff" }]),
        json!({ "roles": { "roles": "staff" }, "deep": "x" }),
    ];
    map.insert("realm".to_owned(), realm[row.below(6) % 4].clone());
    Claims::new(map, vec!["teams".to_owned()])
}
