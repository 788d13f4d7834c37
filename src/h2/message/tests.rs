//! Heads of messages.

use super::*;

const MOST: usize = 16 << 10;

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        hpack::put(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

fn request(fields: &[(&str, &str)]) -> Result<RequestHead, Malformed> {
    Requests::request(&mut Decoder::default(), &block(fields), MOST, false).map_or_else(
        |_| Err(Malformed::Name),
        |read| read.map(|asked| asked.head),
    )
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "a.b:80"),
    (":path", "/x?y"),
];

#[test]
fn what_is_a_request() {
    let head = request(&[&GET[..], &[("x", ""), ("accept", "*/*"), ("x", "2")]].concat()).unwrap();
    assert_eq!((head.method, head.https), (Method::GET, Some(true)));
    assert_eq!(head.authority.unwrap(), "a.b:80");
    assert_eq!(head.path.unwrap(), "/x?y");
    let all: Vec<_> = head.headers.get_all("x").iter().collect();
    assert_eq!(all, ["", "2"]);
    assert_eq!(head.headers.len(), 3);
    assert!(request(&[(":method", "CONNECT"), (":authority", "a:1")]).is_ok());
    // Without an authority a host may say it (RFC 9113 section 8.3.1); that is judged elsewhere.
    assert!(request(&[GET[0], GET[1], GET[3]]).is_ok());
}

#[test]
fn what_is_no_request() {
    use Malformed::{Connection, Length, Name, Pseudo, Value};
    let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
    let instead = |name: &str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        let swap = |(n, v)| if n == name { (n, value) } else { (n, v) };
        GET.into_iter().map(swap).collect()
    };
    let without = |name: &str| -> Vec<_> { GET.into_iter().filter(|f| f.0 != name).collect() };
    for (fields, why) in [
        (with(&[("X", "y")]), Name),
        (with(&[("", "y")]), Name),
        (with(&[("a b", "y")]), Name),
        (with(&[("a:b", "y")]), Name),
        (with(&[("a\r\nb", "y")]), Name),
        (with(&[("a", "y\r\nb: c")]), Value),
        (with(&[("a", "y\0")]), Value),
        (with(&[("a", "y\u{7f}")]), Value),
        (with(&[("a", " y")]), Value),
        (with(&[("a", "y\t")]), Value),
        (with(&[("connection", "close")]), Connection),
        (with(&[("proxy-connection", "close")]), Connection),
        (with(&[("keep-alive", "1")]), Connection),
        (with(&[("transfer-encoding", "chunked")]), Connection),
        (with(&[("upgrade", "h2c")]), Connection),
        (with(&[("te", "gzip")]), Connection),
        (with(&[("x", "y"), (":path", "/")]), Pseudo),
        (with(&[(":path", "/")]), Pseudo),
        (with(&[(":authority", "c")]), Pseudo),
        (with(&[(":status", "200")]), Pseudo),
        (with(&[(":evil", "1")]), Pseudo),
        (with(&[(":protocol", "websocket")]), Pseudo),
        (instead(":method", "CONNECT"), Pseudo),
        (instead(":method", "GE T"), Pseudo),
        (instead(":method", ""), Pseudo),
        (instead(":scheme", "ftp"), Pseudo),
        (instead(":path", ""), Pseudo),
        (instead(":path", "/\r\n"), Value),
        (instead(":authority", "a\nb"), Value),
        (without(":method"), Pseudo),
        (without(":scheme"), Pseudo),
        (without(":path"), Pseudo),
        (with(&[("content-length", "+5")]), Length),
        (with(&[("content-length", "")]), Length),
        (with(&[("content-length", "5, 5")]), Length),
        (with(&[("content-length", "99999999999999999999")]), Length),
        (
            with(&[("content-length", "5"), ("content-length", "5")]),
            Length,
        ),
    ] {
        assert_eq!(request(&fields), Err(why), "{fields:?}");
    }
}

#[test]
fn more_than_is_taken_is_told_as_such() {
    let many: Vec<_> = GET
        .into_iter()
        .chain(std::iter::repeat_n(("x", "y"), limits::HEADERS + 1))
        .collect();
    assert!(request(&many).unwrap().oversized);
    let long = "y".repeat(MOST);
    let fields = [&GET[..], &[("x", &*long)]].concat();
    assert!(request(&fields).unwrap().oversized);
    assert!(!request(&GET).unwrap().oversized);
}

#[test]
fn crumbs_are_one_cookie() {
    let crumbs = [
        ("cookie", "a=1"),
        ("x", "y"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
    ];
    let head = request(&[&GET[..], &crumbs].concat()).unwrap();
    let all: Vec<_> = head.headers.get_all("cookie").iter().collect();
    assert_eq!(all, ["a=1; b=2; c=3"]);
    // However many there are; only their bytes count.
    let many: Vec<_> = GET
        .into_iter()
        .chain(std::iter::repeat_n(("cookie", "a=1"), 200))
        .collect();
    assert_eq!(request(&many).unwrap().headers.len(), 1);
}

#[test]
fn extended_connect_is_one_where_it_is_offered() {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/chat"),
    ];
    let read = |extended, fields: &[(&str, &str)]| {
        Requests::request(&mut Decoder::default(), &block(fields), MOST, extended).unwrap()
    };
    assert_eq!(read(false, &fields), Err(Malformed::Pseudo));
    let asked = read(true, &fields).unwrap();
    assert!(asked.shape.connect);
    assert_eq!(asked.head.protocol.unwrap(), "websocket");
    for missing in [":scheme", ":authority", ":path", ":method"] {
        let less: Vec<_> = fields.into_iter().filter(|f| f.0 != missing).collect();
        assert_eq!(read(true, &less), Err(Malformed::Pseudo), "{missing}");
    }
}

#[test]
fn a_field_of_the_table_is_read_once_and_kept_without_a_copy() {
    let mut decoder = Decoder::default();
    let mut first = block(&GET);
    // A literal with indexing: `x-a: one`.
    first.extend_from_slice(b"\x40\x03x-a\x03one");
    let mut again = block(&GET);
    again.push(0x80 | 62);
    let mut value = |block: &[u8]| {
        let asked = Requests::request(&mut decoder, block, MOST, false).unwrap();
        asked.unwrap().head.headers.remove("x-a").unwrap()
    };
    value(&first);
    let (one, two) = (value(&again), value(&again));
    assert_eq!(one, "one");
    assert_eq!(one.as_bytes().as_ptr(), two.as_bytes().as_ptr());
}

#[test]
fn what_came_as_a_secret_leaves_as_one() {
    let mut sent = block(&GET);
    sent.extend_from_slice(b"\x10\x03x-a\x03one");
    let asked = Requests::request(&mut Decoder::default(), &sent, MOST, false).unwrap();
    let headers = asked.unwrap().head.headers;
    let mut out = Vec::new();
    put_fields(&mut out, &headers);
    assert_eq!(out, b"\x10\x03x-a\x03one");
}

#[test]
fn what_is_written_is_read_back() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/plain"),
        ("set-cookie", "a=1"),
        ("date", "now"),
        ("x-own", "v"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
    ] {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    for status in [200, 204, 304, 404, 503, 103] {
        let status = StatusCode::from_u16(status).unwrap();
        let mut out = Vec::new();
        put_status(&mut out, status);
        put_fields(&mut out, &headers);
        let read = Requests::response(&mut Decoder::default(), &out, MOST)
            .unwrap()
            .unwrap();
        assert_eq!(read.head.status, status);
        assert_eq!(
            read.head.headers.len(),
            4,
            "those of the connection stay behind"
        );
        assert_eq!(read.head.headers["set-cookie"], "a=1");
    }
    for (method, path) in [
        (Method::GET, "/"),
        (Method::PATCH, "/a?b"),
        (Method::POST, "/c"),
    ] {
        let mut out = Vec::new();
        put_request(
            &mut out,
            Request {
                method: &method,
                scheme: "https",
                authority: "a.b",
                path,
                protocol: None,
                fields: headers.iter(),
                length: Some(7),
            },
        );
        let read = Requests::request(&mut Decoder::default(), &out, MOST, false)
            .unwrap()
            .unwrap();
        assert_eq!((read.head.method, read.shape.length), (method, Some(7)));
        assert_eq!(read.head.path.unwrap(), path);
        assert_eq!(read.head.headers["content-length"], "7");
    }
}
