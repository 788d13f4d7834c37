//! The canonical path: what policy judges, routes match and the upstream receives.

use std::borrow::Cow;

use thiserror::Error;

use crate::vocab::limits;

/// How much of a path is normalized (Istio's `pathNormalization.normalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathNormalization {
    /// Only the fragment is removed.
    None,
    /// Dot segments, backslashes, unreserved percent-encodings (RFC 3986 section 6.2.2).
    #[default]
    Base,
    /// `Base`, then runs of slashes become one.
    MergeSlashes,
    /// `%2f` and `%5c` are decoded first, then `MergeSlashes`.
    DecodeAndMergeSlashes,
}

/// A normalized path and the untouched query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    /// Path, then `?query` if there was a `?`.
    text: String,
    path_len: usize,
}

/// Why a request target is refused (answered 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("request target is not a valid path")]
pub struct PathError;

impl CanonicalPath {
    /// Normalizes a target in origin form, `path[?query][#fragment]` (RFC 9112 section 3.2.1). The fragment
    /// is dropped and the query is never touched. Idempotent: parsing `as_str()` again changes nothing.
    ///
    /// # Errors
    /// `PathError` if the target is too long, as it comes or normalized, does not begin with `/` or holds a byte outside 0x21..=0x7e;
    /// except in mode `None` also for `%00` and for a `%` without two hexadecimal digits.
    pub fn parse(mode: PathNormalization, target: &str) -> Result<Self, PathError> {
        let printable = |b: u8| (0x21..=0x7e).contains(&b);
        if target.len() > limits::TARGET_BYTES
            || !target.starts_with('/')
            || !target.bytes().all(printable)
        {
            return Err(PathError);
        }
        let target = target
            .split_once('#')
            .map_or(target, |(kept, _fragment)| kept);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut text = if is_normal(path) {
            path.to_owned()
        } else {
            normalized(mode, path)?
        };
        let path_len = text.len();
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        // Escaping makes a target longer, up to three times; the bound is that of what is sent.
        if text.len() > limits::TARGET_BYTES {
            return Err(PathError);
        }
        Ok(Self { text, path_len })
    }

    /// As [`Self::parse`], of a target that need not be copied where it is normal already: most are.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_target(mode: PathNormalization, target: String) -> Result<Self, PathError> {
        let path_len = target.find('?').unwrap_or(target.len());
        let is_printable = target
            .bytes()
            .all(|b| (0x21..=0x7e).contains(&b) && b != b'#');
        let path = target.get(..path_len).unwrap_or_default();
        if is_printable
            && path.starts_with('/')
            && target.len() <= limits::TARGET_BYTES
            && is_normal(path)
        {
            return Ok(Self {
                text: target,
                path_len,
            });
        }
        Self::parse(mode, &target)
    }

    /// Path and query, as sent upstream.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Path without query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_len).unwrap_or_default()
    }

    /// Query without `?`; `None` if the target has no `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text
            .get(self.path_len..)
            .and_then(|q| q.strip_prefix('?'))
    }

    /// Path and query with `*` for the value of each parameter of it; borrowed where there is no query.
    #[must_use]
    pub fn without_query_values(&self) -> Cow<'_, str> {
        let Some(query) = self.query() else {
            return self.as_str().into();
        };
        let mut whole = self.path().to_owned();
        for (nth, parameter) in query.split('&').enumerate() {
            whole.push(if nth == 0 { '?' } else { '&' });
            match parameter.split_once('=') {
                Some((name, _)) => {
                    whole.push_str(name);
                    whole.push_str("=*");
                }
                // A value without a name looks like a name without a value.
                None if parameter.is_empty() => {}
                None => whole.push('*'),
            }
        }
        whole.into()
    }

    /// Query parameters in order as (name, value), decoded once: `%HH` is a byte, `+` is a space, only `&`
    /// separates, a name without `=` has the empty value, a `%` without two hexadecimal digits stands for
    /// itself, empty pieces are skipped.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
        self.query()
            .unwrap_or_default()
            .split('&')
            .filter(|piece| !piece.is_empty())
            .map(|piece| {
                let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
                (decode_query(name), decode_query(value))
            })
    }

    /// Whether `each` says yes to the value of any query parameter of this name, as `query_pairs` reads them, without
    /// a copy on the heap.
    pub fn any_query_value(&self, name: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> bool {
        pieces(self.query().unwrap_or_default())
            .any(|(raw, value)| is_decoded_as(raw, name) && with_decoded(value, &mut each))
    }

    /// Whether `each` says yes to the name and value of any query parameter, as `query_pairs` reads them, without a copy on
    /// the heap.
    pub fn any_query_pair(&self, mut each: impl FnMut(&[u8], &[u8]) -> bool) -> bool {
        pieces(self.query().unwrap_or_default()).any(|(name, value)| {
            with_decoded(name, &mut |name| {
                with_decoded(value, &mut |value| each(name, value))
            })
        })
    }

    /// `query_pairs` as text; bytes that are not UTF-8 become U+FFFD.
    pub fn query_params(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.query_pairs()
            .map(|(name, value)| (lossy(name), lossy(value)))
    }
}

/// Whether no mode changes anything: nothing to decode or to escape, no empty segment and none that begins with a dot.
fn is_normal(path: &str) -> bool {
    let mut before = b'a';
    path.bytes().all(|byte| {
        let starts = std::mem::replace(&mut before, byte) == b'/';
        match byte {
            b'.' | b'/' => !starts,
            b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'|' | b'}' | b'^' => false,
            _ => true,
        }
    })
}

fn normalized(mode: PathNormalization, path: &str) -> Result<String, PathError> {
    Ok(match mode {
        PathNormalization::None => path.to_owned(),
        PathNormalization::Base => resolve_dots(&decode(path, false)?),
        PathNormalization::MergeSlashes => merge_slashes(&resolve_dots(&decode(path, false)?)),
        PathNormalization::DecodeAndMergeSlashes => {
            merge_slashes(&resolve_dots(&decode(path, true)?))
        }
    })
}

/// Splits a target in absolute form, `scheme://authority[/path][?query]` (RFC 9112 section 3.2.2), into
/// authority and origin form. `None` if the target is not in absolute form. Schemes are `http` and `https` in
/// any case.
#[must_use]
pub fn split_absolute(target: &str) -> Option<(&str, Cow<'_, str>)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, origin) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let origin = if origin.starts_with('/') {
        Cow::Borrowed(origin)
    } else {
        Cow::Owned(format!("/{origin}"))
    };
    Some((authority, origin))
}

/// Decodes unreserved characters, turns `\` into `/`, escapes what a path cannot hold. With `slashes`, `%2f`
/// and `%5c` become `/` too.
fn decode(path: &str, slashes: bool) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            push_escaped(&mut out, byte);
            continue;
        }
        let (high, low) = (
            bytes.next().ok_or(PathError)?,
            bytes.next().ok_or(PathError)?,
        );
        let value = hex(high)
            .zip(hex(low))
            .map(|(h, l)| h * 16 + l)
            .ok_or(PathError)?;
        if value == 0 {
            return Err(PathError);
        } else if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(value));
        } else if slashes && matches!(value, b'/' | b'\\') {
            out.push('/');
        } else {
            out.extend(['%', char::from(high), char::from(low)]);
        }
    }
    Ok(out)
}

fn push_escaped(out: &mut String, byte: u8) {
    match byte {
        b'\\' => out.push('/'),
        b'"' | b'<' | b'>' | b'`' | b'{' | b'|' | b'}' | b'^' => {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                let base = if digit < 10 { b'0' } else { b'A' - 10 };
                out.push(char::from(base + digit));
            }
        }
        plain => out.push(char::from(plain)),
    }
}

/// Removes `.` and `..` segments, also those with a path parameter (`..;x`), which some backends resolve.
fn resolve_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment
            .split_once(';')
            .map_or(segment, |(name, _parameter)| name);
        let dots = match name {
            "." => true,
            ".." => {
                kept.pop();
                true
            }
            _ => false,
        };
        if !dots {
            kept.push(segment);
        } else if segments.peek().is_none() {
            kept.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn decode_query(text: &str) -> Cow<'_, [u8]> {
    if text.contains(['%', '+']) {
        Cow::Owned(decoded(text.as_bytes()).collect())
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}

/// The parameters of a query as they are written: name and value. Split byte by byte: they are too short for a search to
/// pay off.
fn pieces(query: &str) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pieces = query.as_bytes().split(|byte| *byte == b'&');
    pieces.filter(|piece| !piece.is_empty()).map(|piece| {
        let end = piece.iter().position(|byte| *byte == b'=');
        let (name, value) = piece.split_at(end.unwrap_or(piece.len()));
        (name, value.get(1..).unwrap_or_default())
    })
}

/// Whether something in a name or value of a query stands for another byte.
fn is_coded(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'%' | b'+'))
}

fn is_decoded_as(text: &[u8], name: &[u8]) -> bool {
    if is_coded(text) {
        decoded(text).eq(name.iter().copied())
    } else {
        text == name
    }
}

/// The bytes of a name or value of the query, decoded once.
fn decoded(mut rest: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        Some(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match hex(*high).zip(hex(*low)) {
                Some((h, l)) => {
                    rest = after;
                    h * 16 + l
                }
                None => b'%',
            },
            (plain, _) => plain,
        })
    })
}

/// Up to this many bytes are decoded into a small buffer, which costs less to clear.
const SHORT: usize = 256;

fn with_decoded(text: &[u8], each: &mut impl FnMut(&[u8]) -> bool) -> bool {
    if !is_coded(text) {
        each(text)
    } else if text.len() <= SHORT {
        each(decoded_into(text, &mut [0; SHORT]))
    } else {
        each(decoded_into(text, &mut [0; limits::TARGET_BYTES]))
    }
}

/// A target is not longer than the greater buffer, and decoding makes nothing longer.
fn decoded_into<'b>(text: &[u8], buffer: &'b mut [u8]) -> &'b [u8] {
    let mut len = 0;
    for (slot, byte) in buffer.iter_mut().zip(decoded(text)) {
        *slot = byte;
        len += 1;
    }
    buffer.get(..len).unwrap_or_default()
}

fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Raw};

    const MODES: [PathNormalization; 4] = [Raw, Base, MergeSlashes, DecodeAndMergeSlashes];

    fn check(mode: PathNormalization, target: &str, want: Option<&str>) {
        let got = CanonicalPath::parse(mode, target);
        assert_eq!(
            got.as_ref().ok().map(CanonicalPath::as_str),
            want,
            "{mode:?} {target}"
        );
    }

    #[test]
    fn what_is_left_of_a_query_without_its_secrets() {
        for (target, names) in [
            ("/a?x=1&y=2", "/a?x=*&y=*"),
            ("/a?token", "/a?*"),
            ("/a?x=1=2&&=3", "/a?x=*&&=*"),
            ("/a?", "/a?"),
            ("/a", "/a"),
        ] {
            let path = CanonicalPath::parse(MergeSlashes, target).unwrap();
            assert_eq!(path.without_query_values(), names);
            assert_eq!(path.path(), "/a");
        }
    }

    #[test]
    fn what_is_normal_at_sight_is_what_all_of_it_makes() {
        let letters = ['/', '.', 'a', ';', '%', '2', '\\', '{'];
        let mut paths = vec![String::from("/")];
        for from in 0..letters.len().pow(5) {
            let mut rest = from;
            let mut path = String::from("/");
            for _ in 0..5 {
                path.push(letters[rest % letters.len()]);
                rest /= letters.len();
            }
            paths.push(path);
        }
        let normal = paths.iter().filter(|path| is_normal(path));
        let mut seen = 0;
        for path in normal {
            seen += 1;
            for mode in MODES {
                assert_eq!(normalized(mode, path).as_ref(), Ok(path), "{mode:?}");
            }
        }
        assert!(seen > 500, "{seen}");
    }

    #[test]
    fn normalizes() {
        for (target, want) in [
            ("/a/../b", ["/a/../b", "/b", "/b", "/b"]),
            ("/a//b", ["/a//b", "/a//b", "/a/b", "/a/b"]),
            ("/a%2fb", ["/a%2fb", "/a%2fb", "/a%2fb", "/a/b"]),
            (
                "/a%5c..%2fb",
                ["/a%5c..%2fb", "/a%5c..%2fb", "/a%5c..%2fb", "/b"],
            ),
            ("/%61dmin", ["/%61dmin", "/admin", "/admin", "/admin"]),
            (
                "/x/%2e%2e;/admin",
                ["/x/%2e%2e;/admin", "/admin", "/admin", "/admin"],
            ),
            ("/a#?x", ["/a", "/a", "/a", "/a"]),
            (
                "/a/b/..?q=../%zz",
                [
                    "/a/b/..?q=../%zz",
                    "/a/?q=../%zz",
                    "/a/?q=../%zz",
                    "/a/?q=../%zz",
                ],
            ),
            ("/../..", ["/../..", "/", "/", "/"]),
        ] {
            for (mode, want) in MODES.into_iter().zip(want) {
                check(mode, target, Some(want));
            }
        }
    }

    #[test]
    fn refuses() {
        for mode in MODES {
            for target in [
                "",
                "*",
                "a/b",
                "\\a",
                "%2fa",
                "?q",
                "/a b",
                "/a\u{e9}",
                "/a\n",
                "/a#\u{7f}",
            ] {
                check(mode, target, None);
            }
        }
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            for target in ["/%00", "/%", "/%2", "/%zz", "/%2%41"] {
                check(mode, target, None);
            }
        }
    }

    #[test]
    fn bounded() {
        let target = format!("/{}", "{".repeat(limits::TARGET_BYTES / 2));
        assert!(CanonicalPath::parse(Raw, &target).is_ok());
        assert_eq!(CanonicalPath::parse(Base, &target), Err(PathError));
    }

    #[test]
    fn query() {
        let path = CanonicalPath::parse(Base, "/p?a=1+2&b&%63=x%26y&&d=%zz&e=f=g;h").unwrap();
        let got: Vec<(String, String)> = path
            .query_params()
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect();
        let want = [
            ("a", "1 2"),
            ("b", ""),
            ("c", "x&y"),
            ("d", "%zz"),
            ("e", "f=g;h"),
        ];
        assert_eq!(got, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(
            CanonicalPath::parse(Base, "/p")
                .unwrap()
                .query_params()
                .count(),
            0
        );
    }

    /// Both ways to read the query agree, long values included.
    #[test]
    fn query_values() {
        let long = format!("x={}+%41", "a".repeat(SHORT));
        let target = format!("/p?a=1+2&b&%63=x%26y&&d=%zz&c=&c=%4&{long}");
        let path = CanonicalPath::parse(Base, &target).unwrap();
        for name in ["a", "b", "c", "d", "x", "e"] {
            let mut got = Vec::new();
            path.any_query_value(name.as_bytes(), |v| {
                got.push(v.to_vec());
                false
            });
            let pairs = path.query_pairs().filter(|(n, _)| **n == *name.as_bytes());
            let want: Vec<Vec<u8>> = pairs.map(|(_, v)| v.into_owned()).collect();
            assert_eq!(got, want, "{name}");
        }
        assert!(path.any_query_value(b"a", |v| v == b"1 2"));
        let mut got = Vec::new();
        path.any_query_pair(|name, value| {
            got.push((name.to_vec(), value.to_vec()));
            false
        });
        let want = path.query_pairs();
        let want = want.map(|(n, v)| (n.into_owned(), v.into_owned()));
        assert_eq!(got, want.collect::<Vec<_>>());
        assert!(path.any_query_pair(|n, v| n == b"a" && v == b"1 2"));
    }

    #[test]
    fn absolute() {
        assert_eq!(
            split_absolute("HTTP://h:80/x?y"),
            Some(("h:80", Cow::Borrowed("/x?y")))
        );
        assert_eq!(split_absolute("http://h?y").unwrap().1, "/?y");
        assert_eq!(split_absolute("http://h").unwrap().1, "/");
        assert_eq!(split_absolute("/x?u=http://h/"), None);
        assert_eq!(split_absolute("ftp://h/"), None);
    }

    /// Normalizing twice is normalizing once, and no dot segment is left; a target of its own is read as a borrowed one.
    #[test]
    fn idempotent() {
        const PIECES: [&str; 17] = [
            "/", "//", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%5C", "\\", ";x", "%25", "%41",
            "{", "?", "#",
        ];
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..50_000 {
            let mut target = String::from("/");
            for _ in 0..8 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                target.push_str(PIECES[usize::try_from(seed % 17).unwrap()]);
            }
            for mode in MODES {
                let once = CanonicalPath::parse(mode, &target).unwrap();
                let twice = CanonicalPath::parse(mode, once.as_str()).unwrap();
                assert_eq!(once, twice, "{mode:?} {target}");
                let owned = CanonicalPath::from_target(mode, target.clone());
                assert_eq!(owned.as_ref(), Ok(&once), "{mode:?} {target}");
                let dots = |s: &str| matches!(s.split(';').next(), Some("." | ".."));
                assert!(
                    mode == Raw || !once.path().split('/').any(dots),
                    "{mode:?} {target}"
                );
            }
        }
    }
}
