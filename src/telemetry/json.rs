//! JSON objects written straight into text: a record is written for every connection and request, and a tree of values
//! made first costs more than all else about it.
//!
//! Every value is written with the comma behind it, which the end of its object turns into the closing bracket: what
//! stands between two values is then known when the program is compiled.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// The name of a member as it is written; [`key!`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// Name and colon.
    pub(super) bare: &'static str,
    /// The same, and the quote that opens a text.
    pub(super) quoted: &'static str,
}

/// The [`Key`] of a literal that needs no escape.
macro_rules! key {
    ($name:literal) => {
        $crate::telemetry::json::Key {
            bare: concat!("\"", $name, "\":"),
            quoted: concat!("\"", $name, "\":\""),
        }
    };
}
pub(super) use key;

/// An object that is being written; `end` closes it.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Object<'o> {
    /// Opens an object at the end of `out`.
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    // The names are known here and their copies are a few stores, if that is no call.
    #[inline(always)]
    fn write(&mut self, text: &'static str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Writes a text, escaped.
    #[inline(always)]
    pub(super) fn text(&mut self, key: Key, value: &str) {
        self.write(key.quoted);
        put_text(self.out, value);
    }

    /// Writes a text, or `null`.
    #[inline(always)]
    pub(super) fn maybe_text(&mut self, key: Key, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    /// Writes a text without anything to escape.
    #[inline(always)]
    pub(super) fn plain(&mut self, key: Key, value: &str) {
        self.write(key.quoted);
        put_plain(self.out, value);
    }

    /// Writes a text of two parts with something between them, escaped.
    #[inline(always)]
    pub(super) fn pair(&mut self, key: Key, (one, between, two): (&str, u8, &str)) {
        self.write(key.quoted);
        escape(self.out, one);
        self.out.push(between);
        put_text(self.out, two);
    }

    /// Writes what is shown as text, escaped.
    pub(super) fn shown(&mut self, key: Key, value: &dyn Display) {
        self.write(key.bare);
        put_shown(self.out, value);
    }

    /// Writes an address and a port.
    #[inline(always)]
    pub(super) fn socket(&mut self, key: Key, value: SocketAddr) {
        self.write(key.quoted);
        put_socket(self.out, value);
        self.write("\",");
    }

    /// Writes an address.
    #[inline(always)]
    pub(super) fn ip(&mut self, key: Key, value: IpAddr) {
        self.write(key.quoted);
        put_ip(self.out, value);
        self.write("\",");
    }

    /// Writes the `id` of a record: generation, milliseconds, number.
    pub(super) fn id(&mut self, key: Key, (generation, millis, number): (u64, u64, u64)) {
        self.write(key.quoted);
        put_number(self.out, generation);
        self.out.push(b'/');
        put_hex(self.out, millis);
        self.out.push(b'-');
        put_number(self.out, number);
        self.write("\",");
    }

    /// Writes a number.
    #[inline(always)]
    pub(super) fn number(&mut self, key: Key, value: u64) {
        self.write(key.bare);
        put_number(self.out, value);
        self.out.push(b',');
    }

    /// Writes a number, or `null`.
    #[inline(always)]
    pub(super) fn maybe_number(&mut self, key: Key, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.null(key),
        }
    }

    /// Writes `true` or `false`.
    #[inline(always)]
    pub(super) fn bool(&mut self, key: Key, value: bool) {
        self.write(key.bare);
        self.write(if value { "true," } else { "false," });
    }

    /// Writes `null`.
    #[inline(always)]
    pub(super) fn null(&mut self, key: Key) {
        self.write(key.bare);
        self.write("null,");
    }

    /// Writes a text that `put` writes, escaped.
    #[inline(always)]
    pub(super) fn written(&mut self, key: Key, put: impl FnOnce(&mut Pieces<'_>) -> fmt::Result) {
        self.write(key.bare);
        put_written(self.out, false, put);
    }

    /// Writes a member that is an array of `N` texts, each of which `put` writes. `plain`: those without anything to escape.
    #[inline(always)]
    pub(super) fn texts<const N: usize>(
        &mut self,
        key: Key,
        plain: [bool; N],
        put: impl Fn(usize, &mut Pieces<'_>) -> fmt::Result,
    ) {
        self.write(key.bare);
        self.out.push(b'[');
        for (nth, plain) in plain.into_iter().enumerate() {
            put_written(self.out, plain, |out| put(nth, out));
        }
        close(self.out, b']');
        self.out.push(b',');
    }

    /// Writes a member that is an array of objects.
    pub(super) fn objects<T>(&mut self, key: Key, items: &[T], fill: impl Fn(&mut Object<'_>, &T)) {
        self.write(key.bare);
        self.out.push(b'[');
        for item in items {
            let mut object = Object::new(self.out);
            fill(&mut object, item);
            object.end();
            self.out.push(b',');
        }
        close(self.out, b']');
        self.out.push(b',');
    }

    /// Writes a member that is an object.
    #[inline(always)]
    pub(super) fn object(&mut self, key: Key, fill: impl FnOnce(&mut Object<'_>)) {
        self.write(key.bare);
        let mut object = Object::new(self.out);
        fill(&mut object);
        object.end();
        self.out.push(b',');
    }

    /// Closes it.
    pub(super) fn end(self) {
        close(self.out, b'}');
    }
}

/// Closes what has its values, and a comma if there are any.
fn close(out: &mut Vec<u8>, bracket: u8) {
    match out.last_mut() {
        Some(last) if *last == b',' => *last = bracket,
        Some(_) | None => out.push(bracket),
    }
}

/// The rest of a text whose quote is open.
fn put_text(out: &mut Vec<u8>, text: &str) {
    escape(out, text);
    out.extend_from_slice(b"\",");
}

/// As `put_text`, without anything to escape.
fn put_plain(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\",");
}

fn put_shown(out: &mut Vec<u8>, value: &dyn Display) {
    put_written(out, false, |pieces| write!(pieces, "{value}"));
}

#[inline(always)]
fn put_written(out: &mut Vec<u8>, plain: bool, put: impl FnOnce(&mut Pieces<'_>) -> fmt::Result) {
    out.push(b'"');
    let from = out.len();
    if put(&mut Pieces(&mut *out)).is_err() {
        tracing::error!("a value of a record cannot be shown");
    }
    // All at once: it comes in many small pieces, and next to none has anything to escape.
    if !plain && !is_clean(out.get(from..).unwrap_or_default()) {
        let text = out.split_off(from);
        escape_some(out, &text);
    }
    out.extend_from_slice(b"\",");
}

/// The digits of a number.
fn put_number(out: &mut Vec<u8>, number: u64) {
    // As many are: a store in place of a call.
    if let Some(digit) = usize::try_from(number)
        .ok()
        .and_then(|at| DIGITS.get(..10)?.get(at))
    {
        return out.push(*digit);
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The digits of a number to the base 16.
fn put_hex(out: &mut Vec<u8>, number: u64) {
    // A zero has one digit.
    let digits = 64_u32
        .saturating_sub(number.leading_zeros())
        .div_ceil(4)
        .max(1);
    for nth in (0..digits).rev() {
        let digit = usize::try_from((number >> nth.saturating_mul(4)) & 0xf).unwrap_or(0);
        out.push(DIGITS.get(digit).copied().unwrap_or(b'0'));
    }
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
    out.reserve(LONGEST_IPV4);
    for octet in ip.octets() {
        // There is one for each.
        let digits = OCTETS.get(usize::from(octet)).copied();
        let Digits { text, len } = digits.unwrap_or(NO_DIGITS);
        let end = out.len().saturating_add(usize::from(len));
        out.extend_from_slice(&text);
        out.truncate(end);
    }
    out.pop();
}

/// Room for the longest IPv4 address, and the dot behind its last part.
const LONGEST_IPV4: usize = 16;

/// A part of an address as text: its digits and a dot. It is written by one store, and what is too much is cut off.
#[derive(Clone, Copy)]
struct Digits {
    text: [u8; 4],
    len: u8,
}

const NO_DIGITS: Digits = Digits {
    text: [0; 4],
    len: 0,
};

/// Those of all numbers that a part can be.
const OCTETS: [Digits; 256] = {
    let mut octets = [NO_DIGITS; 256];
    let mut left: &mut [Digits] = &mut octets;
    let mut number = 0_u8;
    while let [first, rest @ ..] = left {
        let (hundreds, tens, ones) = (
            b'0' + number / 100,
            b'0' + number / 10 % 10,
            b'0' + number % 10,
        );
        *first = match number {
            0..10 => Digits {
                text: [ones, b'.', 0, 0],
                len: 2,
            },
            10..100 => Digits {
                text: [tens, ones, b'.', 0],
                len: 3,
            },
            100.. => Digits {
                text: [hundreds, tens, ones, b'.'],
                len: 4,
            },
        };
        number = number.wrapping_add(1);
        left = rest;
    }
    octets
};

/// Takes pieces of a text as they are.
pub(super) struct Pieces<'o>(&'o mut Vec<u8>);

impl fmt::Write for Pieces<'_> {
    #[inline(always)]
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.extend_from_slice(piece.as_bytes());
        Ok(())
    }
}

/// RFC 8259 section 7.
const fn is_special(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'"' | b'\\')
}

/// Whether eight bytes hold one that has to be escaped.
fn any_special(word: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // In each lane the high bit of what is zero, or below a bound, and was not set before.
    let below =
        |lanes: u64, bound: u64| lanes.wrapping_sub(ONES.wrapping_mul(bound)) & !lanes & HIGHS;
    let is = |lanes: u64, byte: u8| below(lanes ^ ONES.wrapping_mul(byte.into()), 1);
    let lanes = u64::from_le_bytes(word);
    below(lanes, 0x20) | is(lanes, b'"') | is(lanes, b'\\') != 0
}

/// Whether so many bytes do; the compiler compares them all at once.
fn any_special_of<const N: usize>(bytes: &[u8; N]) -> bool {
    let special = |found: u8, byte: &u8| {
        found | u8::from(*byte < 0x20) | u8::from(*byte == b'"') | u8::from(*byte == b'\\')
    };
    bytes.iter().fold(0, special) != 0
}

/// Whether nothing of `text` has to be escaped.
fn is_clean(text: &[u8]) -> bool {
    // Blocks of about its length, so that it takes few; what is left of the last one is looked at in a block that ends
    // with it.
    if let Some(last) = text.last_chunk::<64>() {
        !any_special_of(last) && !text.as_chunks::<64>().0.iter().any(any_special_of)
    } else if let (Some(first), Some(last)) = (text.first_chunk::<32>(), text.last_chunk::<32>()) {
        !any_special_of(first) && !any_special_of(last)
    } else if let (Some(first), Some(last)) = (text.first_chunk::<16>(), text.last_chunk::<16>()) {
        !any_special_of(first) && !any_special_of(last)
    } else if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        !any_special(*first) && !any_special(*last)
    } else {
        !text.iter().any(|byte| is_special(*byte))
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn escape(out: &mut Vec<u8>, text: &str) {
    if is_clean(text.as_bytes()) {
        return out.extend_from_slice(text.as_bytes());
    }
    escape_some(out, text.as_bytes());
}

#[cold]
fn escape_some(out: &mut Vec<u8>, mut rest: &[u8]) {
    loop {
        let at = rest.iter().position(|byte| is_special(*byte));
        let (plain, from) = rest
            .split_at_checked(at.unwrap_or(rest.len()))
            .unwrap_or_default();
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
    use crate::vocab::host::Host;
    use crate::vocab::spiffe::SpiffeId;
    use http::Method;
    use serde_json::{Value, json};

    #[test]
    fn what_is_written_by_hand_is_what_std_writes() {
        let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
        let numbers = powers.flat_map(|ten| [ten - 1, ten, ten + 1, ten.saturating_mul(7)]);
        for number in numbers.chain(0..11_000).chain([15, 16, 1 << 60, u64::MAX]) {
            let mut out = Vec::from(*b"x");
            put_number(&mut out, number);
            assert_eq!(out, format!("x{number}").as_bytes());
            out.clear();
            put_hex(&mut out, number);
            assert_eq!(out, format!("{number:x}").as_bytes());
        }
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 255 - octet, octet / 2, octet]);
            let mut out = Vec::new();
            put_ip(&mut out, ip);
            assert_eq!(out, ip.to_string().as_bytes());
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
        for len in (0..40).chain([47, 63, 64, 65, 80, 97, 128, 130]) {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    let special = byte < 0x20 || matches!(byte, b'"' | b'\\');
                    assert_eq!(is_clean(&text), !special, "{byte} at {at} of {len}");
                    if let Ok(text) = str::from_utf8(&text) {
                        let mut out = Vec::from(*b"[\"");
                        put_text(&mut out, text);
                        close(&mut out, b']');
                        let read: Vec<String> = serde_json::from_slice(&out).unwrap();
                        assert_eq!(read, [text]);
                    }
                }
            }
        }
    }

    /// They are written as they are.
    #[test]
    fn neither_identities_nor_hosts_nor_methods_have_to_be_escaped() {
        let mut taken = [0; 3];
        for character in (0..0x300).filter_map(char::from_u32) {
            for text in [
                format!("{character}"),
                format!("a{character}"),
                format!("a{character}a"),
            ] {
                let id = SpiffeId::parse(&format!("spiffe://td/ns/{text}/sa/x"));
                let domain = SpiffeId::parse(&format!("spiffe://{text}/ns/x/sa/x"));
                let ids = [id, domain].into_iter().flatten();
                let ids: Vec<_> = ids.map(|id| id.principal().to_owned()).collect();
                let hosts = [
                    text.clone(),
                    format!("{text}:80"),
                    format!("[{text}]"),
                    format!("[::1%{text}]"),
                ];
                let hosts = hosts.iter().filter_map(|host| Host::parse(host).ok());
                let hosts: Vec<_> = hosts.map(|host| host.as_str().to_owned()).collect();
                let methods = Method::from_bytes(text.as_bytes()).into_iter();
                let methods: Vec<_> = methods.map(|m| m.as_str().to_owned()).collect();
                for (all, taken) in [ids, hosts, methods].iter().zip(&mut taken) {
                    *taken += all.len();
                    assert!(all.iter().all(|text| is_clean(text.as_bytes())), "{all:?}");
                }
            }
        }
        assert!(taken.iter().all(|taken| *taken > 150), "{taken:?}");
    }

    #[test]
    fn objects_are_those_that_serde_json_reads() {
        let odd: String = (0..0x100).filter_map(char::from_u32).collect();
        let odd = format!("{odd}\u{2028}\u{1f980}\\\"");
        let mut out = Vec::new();
        let mut object = Object::new(&mut out);
        object.object(key!("empty"), |_object| ());
        object.text(key!("text"), &odd);
        object.plain(key!("plain"), "a,");
        object.pair(key!("pair"), (&odd, b'/', &odd));
        object.shown(key!("shown"), &odd);
        object.ip(key!("ip"), [10, 0, 200, 3].into());
        object.socket(key!("socket"), ([0, 99, 100, 255], 80).into());
        object.id(key!("id"), (1, 255, 3));
        object.maybe_number(key!("number"), Some(u64::MAX));
        object.maybe_number(key!("none"), None);
        object.maybe_text(key!("no"), None);
        object.maybe_text(key!("some"), Some(","));
        object.texts(key!("texts"), [false, true], |nth, out| {
            out.write_str(if nth == 0 { &odd } else { "" })
        });
        object.texts(key!("no texts"), [], |_nth, out| out.write_str(","));
        object.written(key!("written"), |out| {
            out.write_str("a")?;
            out.write_str(&odd)
        });
        object.objects(key!("objects"), &[true, false], |o, b| {
            o.bool(key!("b"), *b);
        });
        object.objects(key!("no objects"), &[], |_o, _b: &bool| ());
        object.end();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let want = json!({
            "empty": {}, "text": odd, "plain": "a,", "pair": format!("{odd}/{odd}"), "shown": odd, "ip": "10.0.200.3",
            "socket": "0.99.100.255:80", "id": "1/ff-3", "number": u64::MAX, "none": null, "no": null, "some": ",",
            "texts": [odd, ""], "no texts": [], "written": format!("a{odd}"), "objects": [{ "b": true }, { "b": false }], "no objects": [],
        });
        assert_eq!(value, want);
        assert!(!out.contains(&b'\n'));
    }
}
