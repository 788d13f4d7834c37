//! From a tree to typed tables: every key and type is checked, and every problem is kept, not only the first.
//!
//! A derived deserializer stops at the first problem of a table; an operator with five typing errors would need five
//! runs. `table!` gives each table its keys once, and from them come the reader, the refusal of all other keys and the
//! nearest valid word.

use std::net::{IpAddr, SocketAddr};

use crate::config::document::{Entry, Kind, Value};
use crate::config::nearest::hint;
use crate::config::place::{At, Place, Problems};
use crate::config::shape::{KeyShape, Shape};
use crate::vocab::cidr::Cidr;

/// A type that can be read from a value.
pub(crate) trait Read: Sized {
    /// For messages: "expected {EXPECTED}".
    const EXPECTED: &'static str;

    /// Reads the value at `place`; `None` after a problem was recorded.
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self>;

    /// What may be written, for the reference and the schema.
    fn shape() -> Shape {
        Shape::Any
    }
}

/// A type that can stand for a key of a table: required, or `Option`.
pub(crate) trait Field: Sized {
    /// Whether the table is refused without the key.
    const REQUIRED: bool;
    /// What the value is, as `Read::EXPECTED`.
    const VALUE: &'static str;

    /// What may be written.
    fn shape() -> Shape;

    /// Reads `key` of `table`; `None` after a problem that leaves nothing to go on with was recorded.
    fn field(table: &Value, key: &str, place: &Place, out: &mut Problems) -> Option<Self>;
}

impl<T: Read> Field for T {
    const REQUIRED: bool = true;
    const VALUE: &'static str = T::EXPECTED;

    fn shape() -> Shape {
        T::shape()
    }

    fn field(table: &Value, key: &str, place: &Place, out: &mut Problems) -> Option<Self> {
        match table.entry(key) {
            Some(entry) => Self::read(&entry.value, &place.entry(entry, entry.value.offset), out),
            None => {
                out.error(
                    &place.key(key, place.offset),
                    format!("missing, expected {}", Self::EXPECTED),
                );
                None
            }
        }
    }
}

impl<T: Read> Field for Option<T> {
    const REQUIRED: bool = false;
    const VALUE: &'static str = T::EXPECTED;

    fn shape() -> Shape {
        T::shape()
    }

    fn field(table: &Value, key: &str, place: &Place, out: &mut Problems) -> Option<Self> {
        let entry = table.entry(key);
        Some(
            entry.and_then(|entry| {
                T::read(&entry.value, &place.entry(entry, entry.value.offset), out)
            }),
        )
    }
}

impl<T: Read> Read for At<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        Some(Self {
            value: T::read(value, place, out)?,
            place: place.clone(),
        })
    }
    fn shape() -> Shape {
        T::shape()
    }
}

/// Records that a value has the wrong type.
pub(crate) fn mismatch<T: Read>(value: &Value, place: &Place, out: &mut Problems) {
    let message = match value.kind {
        Kind::Missing => format!("missing, expected {}", T::EXPECTED),
        Kind::Null => format!(
            "expected {}, found nothing; leave the key out if that is meant",
            T::EXPECTED
        ),
        Kind::Text(_)
        | Kind::Integer(_)
        | Kind::Float
        | Kind::Boolean(_)
        | Kind::Datetime
        | Kind::List(_)
        | Kind::Table(_) => format!("expected {}, found {}", T::EXPECTED, value.kind.name()),
    };
    out.error(place, message);
}

/// A string that is not empty.
impl Read for String {
    const EXPECTED: &'static str = "a string";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        match value.text() {
            Some("") => out.error(place, "must not be empty"),
            Some(text) if text.chars().any(char::is_control) => {
                out.error(place, "must not hold control characters");
            }
            Some(text) => return Some(text.to_owned()),
            None => mismatch::<Self>(value, place, out),
        }
        None
    }
    fn shape() -> Shape {
        Shape::text()
    }
}

/// A string that may be empty, of any characters.
#[derive(Clone, Debug)]
pub(crate) struct AnyText(pub(crate) String);

impl Read for AnyText {
    const EXPECTED: &'static str = "a string";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let text = value.text();
        if text.is_none() {
            mismatch::<Self>(value, place, out);
        }
        text.map(|t| Self(t.to_owned()))
    }
    fn shape() -> Shape {
        Shape::Text {
            pattern: None,
            sample: "",
        }
    }
}

impl Read for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        if let Kind::Boolean(b) = value.kind {
            return Some(b);
        }
        mismatch::<Self>(value, place, out);
        None
    }
    fn shape() -> Shape {
        Shape::Boolean
    }
}

/// Reads an integer into a type that may be narrower.
fn integer<T: Read + TryFrom<i64>>(value: &Value, place: &Place, out: &mut Problems) -> Option<T> {
    let Kind::Integer(n) = value.kind else {
        mismatch::<T>(value, place, out);
        return None;
    };
    let fits = n.and_then(|n| T::try_from(n).ok());
    if fits.is_none() {
        out.error(place, format!("out of range, expected {}", T::EXPECTED));
    }
    fits
}

impl Read for u32 {
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        integer(value, place, out)
    }
    fn shape() -> Shape {
        Shape::Integer {
            min: 0,
            max: Self::MAX.into(),
        }
    }
}

/// A number of a few: cores, proxies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) usize);

impl TryFrom<i64> for Count {
    type Error = ();
    fn try_from(n: i64) -> Result<Self, ()> {
        usize::try_from(n)
            .ok()
            .filter(|n| *n <= 1024)
            .map(Self)
            .ok_or(())
    }
}

impl Read for Count {
    const EXPECTED: &'static str = "an integer from 0 to 1024";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        integer(value, place, out)
    }
    fn shape() -> Shape {
        Shape::Integer { min: 0, max: 1024 }
    }
}

/// A TCP port, not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl TryFrom<i64> for Port {
    type Error = ();
    fn try_from(n: i64) -> Result<Self, ()> {
        u16::try_from(n)
            .ok()
            .filter(|n| *n != 0)
            .map(Self)
            .ok_or(())
    }
}

impl Read for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        integer(value, place, out)
    }
    fn shape() -> Shape {
        Shape::Integer {
            min: 1,
            max: u16::MAX.into(),
        }
    }
}

/// A port of a policy: Istio's decimal string, or an integer.
#[derive(Clone, Debug)]
pub(crate) struct PolicyPort(pub(crate) String);

impl Read for PolicyPort {
    const EXPECTED: &'static str = "a port from 0 to 65535 as a string";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let text = match &value.kind {
            Kind::Text(text) => text.clone(),
            Kind::Integer(Some(n)) => {
                if out.is_istio(place) {
                    out.warn(
                        place,
                        format!("Istio takes ports as strings, write \"{n}\""),
                    );
                }
                n.to_string()
            }
            Kind::Integer(None) => String::new(),
            Kind::Missing
            | Kind::Null
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::List(_)
            | Kind::Table(_) => {
                mismatch::<Self>(value, place, out);
                return None;
            }
        };
        let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        if digits && text.parse::<u16>().is_ok() {
            return Some(Self(text));
        }
        out.error(
            place,
            format!(
                "`{}` is not a port, expected 0 to 65535",
                text.escape_default()
            ),
        );
        None
    }
    fn shape() -> Shape {
        Shape::Either(vec![
            Shape::Text {
                pattern: Some("^[0-9]{1,5}$"),
                sample: "80",
            },
            Shape::Integer {
                min: 0,
                max: u16::MAX.into(),
            },
        ])
    }
}

/// A status of HTTP that tells an error: Istio's string, or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Read for Status {
    const EXPECTED: &'static str = "an HTTP status from 400 to 599 such as \"503\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let status = match &value.kind {
            Kind::Text(text) if text.len() == 3 => text.parse().ok(),
            Kind::Integer(Some(n)) => u16::try_from(*n).ok(),
            Kind::Text(_) | Kind::Integer(None) => None,
            Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::Missing
            | Kind::Null
            | Kind::List(_)
            | Kind::Table(_) => {
                mismatch::<Self>(value, place, out);
                return None;
            }
        };
        let status = status
            .filter(|status| (400..600).contains(status))
            .map(Self);
        if status.is_none() {
            out.error(place, format!("out of range, expected {}", Self::EXPECTED));
        }
        status
    }
    fn shape() -> Shape {
        Shape::Either(vec![
            Shape::Text {
                pattern: Some("^[45][0-9]{2}$"),
                sample: "503",
            },
            Shape::Integer { min: 400, max: 599 },
        ])
    }
}

impl Read for SocketAddr {
    const EXPECTED: &'static str =
        "an address with a port such as \"10.0.0.1:15008\" or \"[::1]:15008\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        match text.parse::<Self>() {
            Ok(addr) if addr.port() == 0 => {
                out.error(place, format!("port 0 in `{addr}`, expected 1 to 65535"));
            }
            Ok(addr) => return Some(addr),
            Err(_) => out.error(
                place,
                format!("`{}` is not {}", text.escape_debug(), Self::EXPECTED),
            ),
        }
        None
    }
    fn shape() -> Shape {
        Shape::Text {
            pattern: Some(r"^(\[[0-9A-Fa-f:.%]+\]|[0-9.]+):[0-9]{1,5}$"),
            sample: "10.1.0.1:15008",
        }
    }
}

impl Read for IpAddr {
    const EXPECTED: &'static str = "an IP address";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        let parsed = text.parse::<Self>().ok();
        if parsed.is_none() {
            out.error(
                place,
                format!("`{}` is not an IP address", text.escape_debug()),
            );
        }
        parsed.map(|ip| ip.to_canonical())
    }
    fn shape() -> Shape {
        Shape::Text {
            pattern: Some("^[0-9A-Fa-f:.]+$"),
            sample: "10.1.0.1",
        }
    }
}

impl Read for Cidr {
    const EXPECTED: &'static str = "an IP address or a block such as \"10.1.0.0/16\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        let parsed = Self::parse(text).ok();
        if parsed.is_none() {
            let message = if text.contains('/') {
                format!("`{}` is not {}", text.escape_debug(), Self::EXPECTED)
            } else {
                format!("`{}` is not an IP address", text.escape_debug())
            };
            out.error(place, message);
        }
        parsed
    }
    fn shape() -> Shape {
        Shape::Text {
            pattern: Some("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"),
            sample: "10.1.0.0/16",
        }
    }
}

/// A duration as Istio writes it (`24h`, `1h30m`, `500ms`), in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) u64);

impl Read for Millis {
    const EXPECTED: &'static str =
        "a duration of whole milliseconds such as \"24h\", \"1h30m\", \"5s\" or \"500ms\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        let parsed = millis(text);
        if parsed.is_none() {
            out.error(
                place,
                format!("`{}` is not {}", text.escape_debug(), Self::EXPECTED),
            );
        }
        parsed.map(Self)
    }
    fn shape() -> Shape {
        Shape::Text {
            pattern: Some(r"^([0-9]+(\.[0-9]+)?(h|ms|m|s))+$"),
            sample: "10s",
        }
    }
}

/// Sum of `<number><unit>` parts; a fraction is accepted where it comes to whole milliseconds.
fn millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) =
            rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?)?;
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let factor: u64 = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let parts = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let fraction = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
        if fraction.checked_rem(parts)? != 0 {
            return None;
        }
        let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
        total = total
            .checked_add(whole)?
            .checked_add(fraction.checked_div(parts)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Reads the elements of a list; broken ones are left out, after a problem each.
fn list<T: Read>(items: &[Value], place: &Place, out: &mut Problems) -> Vec<T> {
    let item = |(i, item): (usize, &Value)| T::read(item, &place.item(i, item), out);
    items.iter().enumerate().filter_map(item).collect()
}

/// A list that holds something: an empty list that is written is never the same as none.
impl<T: Read> Read for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Kind::List(items) = &value.kind else {
            let found = value.kind.name();
            let mut message = format!(
                "expected a list, each element {}, found {found}",
                T::EXPECTED
            );
            if matches!(value.kind, Kind::Table(_)) && T::EXPECTED == TABLE {
                let key = place.key.rsplit('.').next().unwrap_or_default();
                let way = if out.is_istio(place) {
                    "begin it with `- `".to_owned()
                } else {
                    format!("write `[[{key}]]` or `[{{ .. }}]`")
                };
                message = format!("expected a list of tables, found one table; {way}");
            }
            out.error(place, message);
            return None;
        };
        if items.is_empty() {
            out.error(
                place,
                "an empty list; write at least one element or leave the key out",
            );
        }
        Some(list(items, place, out))
    }
    fn shape() -> Shape {
        Shape::List {
            item: Box::new(T::shape()),
            may_be_empty: false,
        }
    }
}

/// A list where empty has a meaning of its own.
#[derive(Clone, Debug)]
pub(crate) struct MaybeEmpty<T>(pub(crate) Vec<T>);

impl<T: Read> Read for MaybeEmpty<T> {
    const EXPECTED: &'static str = "a list";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        match &value.kind {
            Kind::List(items) if items.is_empty() => Some(Self(Vec::new())),
            Kind::List(_)
            | Kind::Missing
            | Kind::Null
            | Kind::Text(_)
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::Table(_) => Vec::read(value, place, out).map(Self),
        }
    }
    fn shape() -> Shape {
        Shape::List {
            item: Box::new(T::shape()),
            may_be_empty: true,
        }
    }
}

/// A table whose keys are the operator's own.
#[derive(Clone, Debug)]
pub(crate) struct Map<T>(pub(crate) Vec<(At<String>, T)>);

impl<T: Read> Read for Map<T> {
    const EXPECTED: &'static str = "a table";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let entries = open::<Self>(value, place, out)?;
        let entry = |e: &Entry| {
            let value_place = place.entry(e, e.value.offset);
            if e.key.is_empty() {
                out.error(&place.entry(e, e.offset), "an empty key");
            }
            let key = At {
                value: e.key.clone(),
                place: place.entry(e, e.offset),
            };
            Some((key, T::read(&e.value, &value_place, out)?))
        };
        Some(Self(entries.iter().filter_map(entry).collect()))
    }
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

/// The entries of a table.
pub(crate) fn open<'v, T: Read>(
    value: &'v Value,
    place: &Place,
    out: &mut Problems,
) -> Option<&'v [Entry]> {
    if let Kind::Table(entries) = &value.kind {
        return Some(entries);
    }
    mismatch::<T>(value, place, out);
    None
}

/// Refuses every key that is not in `keys`; those in `later` with a message of their own.
pub(crate) fn refuse_unknown(
    entries: &[Entry],
    keys: &[&str],
    later: &[&str],
    place: &Place,
    out: &mut Problems,
) {
    for entry in entries.iter().filter(|e| !keys.contains(&e.key.as_str())) {
        let at = place.entry(entry, entry.offset);
        if later.contains(&entry.key.as_str()) {
            out.error(&at, "not supported yet");
        } else {
            let near = hint(&entry.key, keys.iter().copied());
            let told = if near.is_empty() && !keys.is_empty() {
                format!(", expected one of {}", keys.join(", "))
            } else {
                near
            };
            out.error(&at, format!("unknown key{told}"));
        }
    }
}

/// Finds the word that a string stands for.
pub(crate) fn word<T: Read + Clone>(
    value: &Value,
    words: &[(&'static str, T)],
    place: &Place,
    out: &mut Problems,
) -> Option<T> {
    let Some(text) = value.text() else {
        mismatch::<T>(value, place, out);
        return None;
    };
    if let Some((_, found)) = words.iter().find(|(w, _)| *w == text) {
        return Some(found.clone());
    }
    let near = hint(text, words.iter().map(|(w, _)| *w));
    out.error(
        place,
        format!("`{}` is not {}{near}", text.escape_debug(), T::EXPECTED),
    );
    None
}

/// A key of a table, as `table!` describes it.
pub(crate) fn key<T: Field>(key: &'static str, comment: &'static str) -> KeyShape {
    KeyShape {
        key,
        comment,
        required: T::REQUIRED,
        expected: T::VALUE,
        shape: T::shape(),
    }
}

/// `EXPECTED` of every table.
pub(crate) const TABLE: &str = "a table";

/// A table that was read.
pub(crate) trait Table {
    /// Where it stands.
    fn place(&self) -> &Place;
    /// Nothing in it was refused, so that an absent field is really absent.
    fn whole(&self) -> bool;
}

/// A table with a fixed set of keys. `unused` are keys whose type is checked and whose value no check looks at; `later` are Istio's keys that this version refuses as not supported.
macro_rules! table {
    (
        $(#[$meta:meta])* $name:ident {
            $($(#[doc = $comment:literal])* $field:ident: $ty:ty = $key:literal),* $(,)?
        }
        $(unused { $($(#[doc = $unused_comment:literal])* $unused:literal: $unused_ty:ty),* $(,)? })?
        $(later [$($later:literal),* $(,)?])?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            $($(#[doc = $comment])* pub(crate) $field: $ty,)*
            place: $crate::config::place::Place,
            whole: bool,
        }

        impl $crate::config::read::Table for $name {
            fn place(&self) -> &$crate::config::place::Place {
                &self.place
            }
            fn whole(&self) -> bool {
                self.whole
            }
        }

        impl $crate::config::read::Read for $name {
            const EXPECTED: &'static str = $crate::config::read::TABLE;
            fn read(
                value: &$crate::config::document::Value,
                place: &$crate::config::place::Place,
                out: &mut $crate::config::place::Problems,
            ) -> Option<Self> {
                let before = out.count();
                let entries = $crate::config::read::open::<Self>(value, place, out)?;
                $crate::config::read::refuse_unknown(
                    entries,
                    &[$($key,)* $($($unused),*)?],
                    &[$($($later),*)?],
                    place,
                    out,
                );
                $($(drop(<Option<$unused_ty> as $crate::config::read::Field>::field(value, $unused, place, out));)*)?
                $(let $field = <$ty as $crate::config::read::Field>::field(value, $key, place, out);)*
                Some(Self { $($field: $field?,)* place: place.clone(), whole: out.count() == before })
            }
            fn shape() -> $crate::config::shape::Shape {
                $crate::config::shape::Shape::Table(Box::new($crate::config::shape::TableShape {
                    name: stringify!($name),
                    keys: vec![
                        $($crate::config::read::key::<$ty>($key, concat!($($comment, "\n"),*)),)*
                        $($($crate::config::read::key::<Option<$unused_ty>>(
                            $unused, concat!($($unused_comment, "\n"),*))),*)?
                    ],
                }))
            }
        }
    };
}

/// The words of an enum.
macro_rules! words {
    ($ty:ty, $expected:literal, $($word:literal => $value:expr),+ $(,)?) => {
        impl $crate::config::read::Read for $ty {
            const EXPECTED: &'static str = $expected;
            fn read(
                value: &$crate::config::document::Value,
                place: &$crate::config::place::Place,
                out: &mut $crate::config::place::Problems,
            ) -> Option<Self> {
                $crate::config::read::word(value, &[$(($word, $value)),+], place, out)
            }
            fn shape() -> $crate::config::shape::Shape {
                $crate::config::shape::Shape::words($expected, &[$($word),+])
            }
        }
    };
}

pub(crate) use {table, words};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("24h", Some(86_400_000)),
            ("1h30m", Some(5_400_000)),
            ("5s", Some(5000)),
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5us", None),
            ("1.5s", Some(1500)),
            ("0.001s", Some(1)),
            ("0.0005s", None),
            ("0.5ms", None),
            (".5s", None),
            ("1.s", None),
            ("1..5s", None),
            ("-1s", None),
            ("5 s", None),
            ("99999999999999999999h", None),
            ("9999999999999999h", None),
        ] {
            assert_eq!(millis(text), want, "{text}");
        }
    }
}
