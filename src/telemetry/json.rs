//! JSON objects written straight into text: a record is written for every connection and request, and a tree of values
//! made first costs more than all else about it.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A value of a member.
#[derive(Clone, Copy)]
pub(super) enum Member<'a> {
    /// A text, escaped.
    Text(&'a str),
    /// A text without anything to escape.
    Plain(&'a str),
    /// Address and port.
    Socket(SocketAddr),
    /// Address.
    Ip(IpAddr),
    /// Two texts and what is between them, escaped.
    Pair(&'a str, char, &'a str),
    /// The `id` of a record: generation, milliseconds, number.
    Id(u64, u64, u64),
    /// What is shown as text, escaped.
    Shown(&'a dyn Display),
    /// A number.
    Number(u64),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl<'a> Member<'a> {
    /// The text, or `null`.
    pub(super) fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }

    /// The number, or `null`.
    pub(super) fn number(number: Option<u64>) -> Self {
        number.map_or(Self::Null, Self::Number)
    }
}

/// An object that is being written; `end` closes it.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    /// Opens an object at the end of `out`.
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn key(&mut self, key: &'static str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Writes a member.
    pub(super) fn put(&mut self, key: &'static str, value: Member<'_>) {
        self.key(key);
        put(self.out, value);
    }

    /// Writes a member that is an array of texts.
    pub(super) fn texts<T: Display>(&mut self, key: &'static str, texts: &[T]) {
        self.key(key);
        self.out.push(b'[');
        for (at, item) in texts.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            put(self.out, Member::Shown(item));
        }
        self.out.push(b']');
    }

    /// Writes a member that is an array of objects.
    pub(super) fn objects<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        fill: impl Fn(&mut Object<'_>, &T),
    ) {
        self.key(key);
        self.out.push(b'[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            let mut object = Object::new(self.out);
            fill(&mut object, item);
            object.end();
        }
        self.out.push(b']');
    }

    /// Writes a member that is an object.
    pub(super) fn object(&mut self, key: &'static str, fill: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut object = Object::new(self.out);
        fill(&mut object);
        object.end();
    }

    /// Closes it.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

fn put(out: &mut Vec<u8>, value: Member<'_>) {
    match value {
        Member::Text(value) => text(out, value),
        Member::Shown(value) => {
            out.push(b'"');
            let mut escaped = Escaped(&mut *out);
            if write!(escaped, "{value}").is_err() {
                tracing::error!("a value of a record cannot be shown");
            }
            out.push(b'"');
        }
        Member::Plain(plain) => {
            out.push(b'"');
            out.extend_from_slice(plain.as_bytes());
            out.push(b'"');
        }
        Member::Socket(socket) => {
            out.push(b'"');
            put_socket(out, socket);
            out.push(b'"');
        }
        Member::Ip(ip) => {
            out.push(b'"');
            put_ip(out, ip);
            out.push(b'"');
        }
        Member::Pair(one, between, two) => {
            out.push(b'"');
            escape(out, one);
            escape(out, between.encode_utf8(&mut [0; 4]));
            escape(out, two);
            out.push(b'"');
        }
        Member::Id(generation, millis, number) => {
            out.push(b'"');
            put_number(out, generation);
            out.push(b'/');
            put_digits(out, millis, 16);
            out.push(b'-');
            put_number(out, number);
            out.push(b'"');
        }
        Member::Number(number) => put_number(out, number),
        Member::Bool(true) => out.extend_from_slice(b"true"),
        Member::Bool(false) => out.extend_from_slice(b"false"),
        Member::Null => out.extend_from_slice(b"null"),
    }
}

/// The digits of a number.
fn put_number(out: &mut Vec<u8>, number: u64) {
    put_digits(out, number, 10);
}

/// The digits of a number to a base of at most 16.
#[inline]
fn put_digits(out: &mut Vec<u8>, number: u64, base: u64) {
    let mut digits = [b'0'; 20];
    let (mut rest, mut from) = (number, digits.len());
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(rest % base).unwrap_or(0);
        *digit = DIGITS.get(value).copied().unwrap_or(b'0');
        rest /= base;
        from = from.saturating_sub(1);
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// As `Display`, which takes several times as long for what stands in every record.
fn put_socket(out: &mut Vec<u8>, socket: SocketAddr) {
    if socket.is_ipv4() {
        put_ip(out, socket.ip());
        out.push(b':');
        put_number(out, socket.port().into());
    } else if write!(out, "{socket}").is_err() {
        tracing::error!("an address of a record cannot be written");
    }
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        if write!(out, "{ip}").is_err() {
            tracing::error!("an address of a record cannot be written");
        }
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        put_number(out, octet.into());
    }
}

/// A text in quotes.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Takes pieces of a text.
struct Escaped<'o>(&'o mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        escape(self.0, piece);
        Ok(())
    }
}

/// Bytes of `text` before the first that has to be escaped.
fn plain_len(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at once: in each lane the high bit of what is zero, or below a bound, and was not set before.
    let below =
        |lanes: u64, bound: u64| lanes.wrapping_sub(ONES.wrapping_mul(bound)) & !lanes & HIGHS;
    let is = |lanes: u64, byte: u8| below(lanes ^ ONES.wrapping_mul(byte.into()), 1);
    let (words, _rest) = text.as_chunks::<8>();
    let clean = words.iter().take_while(|word| {
        let lanes = u64::from_le_bytes(**word);
        below(lanes, 0x20) | is(lanes, b'"') | is(lanes, b'\\') == 0
    });
    let skipped = clean.count().saturating_mul(8);
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    let rest = text.get(skipped..).unwrap_or_default();
    let more = rest.iter().position(special).unwrap_or(rest.len());
    skipped.saturating_add(more)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// RFC 8259 section 7.
fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, from) = rest.split_at_checked(plain_len(rest)).unwrap_or_default();
        out.extend_from_slice(plain);
        let Some((byte, behind)) = from.split_first() else {
            return;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                out.extend_from_slice(b"\\u00");
                for nibble in [other >> 4, other & 15] {
                    out.extend(DIGITS.get(usize::from(nibble)));
                }
            }
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_written_by_hand_is_what_std_writes() {
        for number in [0, 9, 10, 123, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
            out.clear();
            put_digits(&mut out, number, 16);
            assert_eq!(out, format!("{number:x}").as_bytes());
        }
        for socket in ["1.2.3.4:5", "255.0.10.100:65535", "[::1]:80"] {
            let socket: SocketAddr = socket.parse().unwrap();
            let mut out = Vec::new();
            put_socket(&mut out, socket);
            assert_eq!(out, socket.to_string().as_bytes());
        }
    }

    #[test]
    fn what_is_special_is_found_at_every_place() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    let special = byte < 0x20 || matches!(byte, b'"' | b'\\');
                    assert_eq!(plain_len(&text), if special { at } else { len });
                }
            }
        }
    }

    #[test]
    fn objects_are_those_that_serde_json_reads() {
        let odd: String = (0..0x100).filter_map(char::from_u32).collect();
        let odd = format!("{odd}\u{2028}\u{1f980}\\\"");
        let mut out = Vec::new();
        let mut object = Object::new(&mut out);
        object.object("empty", |_object| ());
        object.put("text", Member::Text(&odd));
        object.put("shown", Member::Shown(&odd));
        object.put("number", Member::number(Some(u64::MAX)));
        object.put("none", Member::number(None));
        object.put("no", Member::text(None));
        object.texts("texts", &[odd.clone(), String::new()]);
        object.texts::<String>("no texts", &[]);
        object.objects("objects", &[true, false], |o, b| {
            o.put("b", Member::Bool(*b));
        });
        object.end();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let want = json!({
            "empty": {}, "text": odd, "shown": odd, "number": u64::MAX, "none": null, "no": null,
            "texts": [odd, ""], "no texts": [], "objects": [{ "b": true }, { "b": false }],
        });
        assert_eq!(value, want);
        assert!(!out.contains(&b'\n'));
    }
}
