//! Where the tokens of a request stand.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use smallvec::SmallVec;
use url::form_urlencoded;

use crate::jwt::rules::Place;
use crate::jwt::token::TokenError;

/// The tokens at one place: none, some, or a credential that cannot be one token.
pub(crate) type Found<'h> = Result<SmallVec<[Cow<'h, str>; 1]>, TokenError>;

/// Looks at one place. An empty parameter, cookie or custom header is no token; an empty bearer credential is a bad one.
pub(crate) fn tokens<'h>(
    place: &Place,
    headers: &'h HeaderMap,
    query: Option<&'h str>,
) -> Found<'h> {
    match place {
        Place::Bearer => bearer(headers),
        Place::Header(name, prefix) => {
            let values = headers.get_all(name).iter();
            let rests = values.filter_map(|value| value.as_bytes().strip_prefix(prefix.as_bytes()));
            rests
                .map(trim)
                .filter(|token| !token.is_empty())
                .map(token_text)
                .collect()
        }
        Place::Param(name) => {
            let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            Ok(pairs
                .filter(|(n, v)| n == name && !v.is_empty())
                .map(|(_, v)| v)
                .collect())
        }
        Place::Cookie(name) => cookies(headers)
            .filter(|(n, v)| *n == name.as_bytes() && !v.is_empty())
            .map(|(_, v)| token_text(v))
            .collect(),
    }
}

/// The bearer credential (RFC 6750 section 2.1). Two `authorization` fields of which one is a bearer credential are
/// refused: which of them the upstream would read is anybody's guess.
fn bearer(headers: &HeaderMap) -> Found<'_> {
    let mut fields = 0_usize;
    let mut tokens = SmallVec::new();
    for value in headers.get_all(AUTHORIZATION) {
        fields += 1;
        if let Some(token) = bearer_credential(value.as_bytes()) {
            tokens.push(token_text(token)?);
        }
    }
    if fields > 1 && !tokens.is_empty() {
        Err(TokenError::Form)
    } else {
        Ok(tokens)
    }
}

/// What follows the scheme `Bearer`, in any case; `None` for another scheme.
pub(crate) fn bearer_credential(value: &[u8]) -> Option<&[u8]> {
    let value = trim(value);
    let (scheme, rest) = value.split_at_checked(6)?;
    // A scheme ends where its token characters end, so `BearerX y` is another scheme and `Bearer\ty` a malformed one.
    let ended = rest
        .first()
        .is_none_or(|b| !b.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(b));
    if !scheme.eq_ignore_ascii_case(b"bearer") || !ended {
        return None;
    }
    let spaces = rest.iter().take_while(|b| **b == b' ').count();
    rest.get(spaces..)
}

fn token_text(token: &[u8]) -> Result<Cow<'_, str>, TokenError> {
    std::str::from_utf8(token)
        .map(Cow::Borrowed)
        .map_err(|_e| TokenError::Form)
}

/// Without the optional white space around a field value (RFC 9110 section 5.5).
fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// Name and value of every cookie (RFC 6265 section 4.2.1), over all `cookie` fields (RFC 9113 section 8.2.3).
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let fields = headers.get_all(COOKIE).iter();
    let pairs = fields.flat_map(|value| between_semicolons(value.as_bytes()));
    pairs.filter_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = pair.split_at_checked(at)?;
        Some((trim(name), trim(value.get(1..)?)))
    })
}

/// As `split` does, many bytes at a time: a session or a token is long.
fn between_semicolons(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let all = rest.take()?;
        let at = memchr::memchr(b';', all);
        let Some((piece, behind)) = at.and_then(|at| all.split_at_checked(at)) else {
            return Some(all);
        };
        rest = behind.get(1..);
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        let check = |value: &str, want: Option<&str>| {
            assert_eq!(
                bearer_credential(value.as_bytes()),
                want.map(str::as_bytes),
                "{value:?}"
            );
        };
        check("Bearer a", Some("a"));
        check("bEARER    a", Some("a"));
        check(" Bearer a \t", Some("a"));
        check("Bearer", Some(""));
        check("Bearer\ta", Some("\ta"));
        check("Bearer, a", Some(", a"));
        check("Bearerx a", None);
        check("Basic Bearer a", None);
        check("xBearer a", None);
        check("", None);
    }

    #[test]
    fn cookie_pairs() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; b=2;c = 3 ".parse().unwrap());
        headers.append(COOKIE, "d=4=4; junk; =5;".parse().unwrap());
        headers.append(COOKIE, ";;e=;".parse().unwrap());
        let pairs: Vec<_> = cookies(&headers).collect();
        let want: [(&[u8], &[u8]); 6] = [
            (b"a", b"1"),
            (b"b", b"2"),
            (b"c", b"3"),
            (b"d", b"4=4"),
            (b"", b"5"),
            (b"e", b""),
        ];
        assert_eq!(pairs, want);
    }
}
