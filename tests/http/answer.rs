//! Answers, read as RFC 9112 has them and no other way.

use crate::client::Conn;

/// One answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The body is as long as the head says.
    pub(crate) complete: bool,
}

impl Answer {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} twice: {all:?}");
        all.first().copied()
    }

    /// Body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn line(conn: &mut Conn) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(conn.exactly(1)?);
        assert!(line.len() < 1 << 20, "a line without an end");
    }
    line.truncate(line.len() - 2);
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "{line:?}");
    Some(String::from_utf8_lossy(&line).into_owned())
}

fn fields(conn: &mut Conn) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(conn)?;
        if line.is_empty() {
            return Some(fields);
        }
        let (name, value) = line.split_once(':').expect("a field has a colon");
        assert!(
            !name.is_empty() && !name.contains([' ', '\t']),
            "field name `{name}`"
        );
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads the head of an answer; `None` at the end of the connection before its first byte, or within it.
pub(crate) fn head(conn: &mut Conn) -> Option<Answer> {
    let start = line(conn)?;
    let (version, rest) = start.split_once(' ').expect("a status line has words");
    assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{start}");
    let (status, _reason) = rest.split_once(' ').expect("a status line has a reason");
    let fields = fields(conn)?;
    let answer = Answer {
        status: status.parse().expect("a status is a number"),
        fields,
        ..Answer::default()
    };
    let framings = answer.all("content-length").len() + answer.all("transfer-encoding").len();
    assert!(framings <= 1, "framed twice: {answer:?}");
    Some(answer)
}

fn chunked(conn: &mut Conn, answer: &mut Answer) -> Option<()> {
    loop {
        let size = line(conn)?;
        let n = usize::from_str_radix(&size, 16).expect("a chunk has a size");
        if n == 0 {
            answer.trailers = fields(conn)?;
            return Some(());
        }
        answer.body.extend(conn.exactly(n)?);
        assert_eq!(conn.exactly(2)?, b"\r\n", "end of a chunk");
    }
}

/// Reads an answer to `method`.
pub(crate) fn read(conn: &mut Conn, method: &str) -> Option<Answer> {
    let mut answer = head(conn)?;
    let bodiless = method == "HEAD" || answer.status < 200 || matches!(answer.status, 204 | 304);
    if bodiless {
        answer.complete = true;
        return Some(answer);
    }
    if let Some(length) = answer.one("content-length") {
        let n: usize = length.parse().expect("a length is a number");
        match conn.exactly(n) {
            Some(body) => (answer.body, answer.complete) = (body, true),
            None => answer.body = conn.rest(),
        }
    } else if let Some(coding) = answer.one("transfer-encoding") {
        assert_eq!(coding, "chunked");
        answer.complete = chunked(conn, &mut answer).is_some();
    } else {
        answer.body = conn.rest();
        // Whether a body that ends with the connection is whole, its end says: a reset is none.
        answer.complete = conn.end().is_none();
    }
    Some(answer)
}
