//! Our cookies: what they are called, how they are written, and how a session is cut into several.

use http::HeaderMap;
use http::header::{HeaderValue, SET_COOKIE};

use crate::jwt::edits::drop_cookies;
use crate::jwt::extract;
use crate::vocab::limits;

/// Every cookie of ours begins so. `__Host-` makes browsers insist on Secure, `Path=/` and no Domain (RFC 6265bis section
/// 4.1.3.2), so no other host and no plaintext page can plant one.
pub(crate) const PREFIX: &str = "__Host-ringgate-";

/// The value of a cookie, if it is one of ours by its characters.
pub(crate) fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let found = extract::cookies(headers).find(|(n, _)| *n == name.as_bytes())?;
    std::str::from_utf8(found.1).ok()
}

/// Name and value of the request's cookies whose names begin with `prefix`, each name once, as its first cookie has it. No more
/// than `limits::LOGIN_COOKIES` are looked at: a browser has few, and whoever sends more of them means to keep us busy.
pub(crate) fn named<'h>(headers: &'h HeaderMap, prefix: &str) -> Vec<(&'h str, &'h str)> {
    let ours = extract::cookies(headers).filter(|(name, _)| name.starts_with(prefix.as_bytes()));
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (name, value) in ours.take(limits::LOGIN_COOKIES) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, std::str::from_utf8(value).unwrap_or_default()));
        }
    }
    found
}

/// Takes our cookies out of a request: the session is for the ingress alone, whatever the policies say about the page.
pub fn strip_request(headers: &mut HeaderMap) {
    drop_cookies(headers, |name| name.starts_with(PREFIX.as_bytes()));
}

/// Takes `set-cookie` fields that set a cookie of ours out of an upstream's response: it could end a session, or begin one
/// in another user's name.
pub fn strip_response(headers: &mut HeaderMap) {
    // A cookie without a name is its value to the server, so what is before the name may be blank or `=` (RFC 6265bis
    // section 5.6).
    let ours = |value: &HeaderValue| {
        let mut text = value.as_bytes();
        while let Some((b' ' | b'\t' | b'=', rest)) = text.split_first() {
            text = rest;
        }
        text.get(..PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
    };
    if !headers.get_all(SET_COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|value| !ours(value))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// Appends a `set-cookie` field.
pub(crate) fn set(headers: &mut HeaderMap, name: &str, value: &str, max_age_s: i64) {
    let text =
        format!("{name}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Lax");
    // Names come from us or from a parsed cookie header and values are base64url, so this always holds.
    if let Ok(field) = HeaderValue::from_str(&text) {
        headers.append(SET_COOKIE, field);
    }
}

/// Makes the browser forget a cookie.
pub(crate) fn clear(headers: &mut HeaderMap, name: &str) {
    set(headers, name, "", 0);
}

/// Name of part `index` of a cookie.
pub(crate) fn part_name(name: &str, index: usize) -> String {
    if index == 0 {
        name.to_owned()
    } else {
        format!("{name}-{index}")
    }
}

/// Writes sealed text as up to `limits::SESSION_COOKIES` cookies and clears the rest; `None` if it is too long. The first
/// part begins with the number of parts and a dot.
pub(crate) fn set_parts(
    headers: &mut HeaderMap,
    name: &str,
    sealed: &str,
    max_age_s: i64,
) -> Option<()> {
    let room = limits::COOKIE_BYTES - 2;
    let parts: Vec<&[u8]> = sealed.as_bytes().chunks(room).collect();
    if parts.len() > limits::SESSION_COOKIES {
        return None;
    }
    for index in 0..limits::SESSION_COOKIES {
        let name = part_name(name, index);
        match parts.get(index) {
            Some(part) => {
                let text = std::str::from_utf8(part).ok()?;
                let head = if index == 0 {
                    format!("{}.", parts.len())
                } else {
                    String::new()
                };
                set(headers, &name, &format!("{head}{text}"), max_age_s);
            }
            None => clear(headers, &name),
        }
    }
    Some(())
}

/// Puts the parts together again.
pub(crate) fn parts(headers: &HeaderMap, name: &str) -> Option<String> {
    let (count, first) = value(headers, name)?.split_once('.')?;
    let count: usize = count
        .parse()
        .ok()
        .filter(|n| (1..=limits::SESSION_COOKIES).contains(n))?;
    let mut sealed = first.to_owned();
    for index in 1..count {
        sealed.push_str(value(headers, &part_name(name, index))?);
    }
    Some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `cookie` header that a browser sends after these `set-cookie` fields.
    fn echoed(set: &HeaderMap) -> HeaderMap {
        let pairs: Vec<String> = set
            .get_all(SET_COOKIE)
            .iter()
            .map(|field| field.to_str().unwrap())
            .filter(|field| !field.contains("Max-Age=0"))
            .map(|field| field.split(';').next().unwrap().to_owned())
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert("cookie", pairs.join("; ").parse().unwrap());
        headers
    }

    #[test]
    fn a_session_is_cut_and_joined() {
        let largest = (limits::COOKIE_BYTES - 2) * limits::SESSION_COOKIES;
        for length in [
            1,
            limits::COOKIE_BYTES - 2,
            limits::COOKIE_BYTES - 1,
            largest,
        ] {
            let sealed = "x".repeat(length);
            let mut headers = HeaderMap::new();
            set_parts(&mut headers, "c", &sealed, 60).unwrap();
            assert_eq!(
                headers.get_all(SET_COOKIE).iter().count(),
                limits::SESSION_COOKIES
            );
            assert_eq!(parts(&echoed(&headers), "c"), Some(sealed));
        }
        assert_eq!(
            set_parts(&mut HeaderMap::new(), "c", &"x".repeat(largest + 1), 60),
            None
        );
    }

    #[test]
    fn ours_stay_between_browser_and_ingress() {
        let mut request = HeaderMap::new();
        request.append(
            "cookie",
            "a=1; __Host-ringgate-s-x=1.secret".parse().unwrap(),
        );
        request.append("cookie", "__Host-ringgate-f-x-y=secret".parse().unwrap());
        strip_request(&mut request);
        assert_eq!(
            request.get_all("cookie").iter().collect::<Vec<_>>(),
            ["a=1"]
        );
        let mut response = HeaderMap::new();
        for field in [
            "a=1",
            "__Host-ringgate-s-x=1.other",
            " __host-Ringgate-s-x=; Max-Age=0",
            "=__Host-ringgate-s-x=1.other",
            "__Host-other=2",
        ] {
            response.append(SET_COOKIE, field.parse().unwrap());
        }
        strip_response(&mut response);
        let kept: Vec<_> = response.get_all(SET_COOKIE).iter().collect();
        assert_eq!(kept, ["a=1", "__Host-other=2"]);
    }

    #[test]
    fn a_missing_part_is_no_session() {
        for text in [
            "c=2.abc", "c=0.abc", "c=5.abc", "c=abc", "c-1=abc", "c=-1.abc",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", text.parse().unwrap());
            assert_eq!(parts(&headers, "c"), None, "{text}");
        }
    }
}
